//! How the processes of a cluster are started.

use super::check::{check_buffers, check_hub};
use super::*;

pub(super) fn start_hub(
    simulation: &mut Simulation,
    net: &SimNet,
    setting: &Setting,
    revoked: &Rc<RefCell<String>>,
    model: &Shared,
) -> Handle<Hub> {
    let config = setting.hub.clone();
    let now = net.world.borrow().now();
    let mut core = Hub::new(config, TokenKey::clone(token_key()), 1, now);
    core.set_revocations(Revocations::parse(&revoked.borrow()).unwrap(), now);
    let moment = net.world.borrow().moment;
    model.borrow_mut().revocations.push((revoked.borrow().clone(), moment));
    let listener = net.listen(net.address(HUB_PORT), LISTENER_TOKENS);
    let mut shell = Shell::new(core, net.clone(), Targets::default());
    shell.add_listener(listener, Entrance::Plain);
    let secure = net.listen(net.address(HUB_TLS_PORT), LISTENER_TOKENS + 1);
    shell.add_listener(secure, Entrance::Tls);
    shell.offer_tls(Arc::clone(&tls().0));
    let (file, world, of_model) = (Rc::clone(revoked), Rc::clone(&net.world), Rc::clone(model));
    shell.on_reload(Box::new(move |hub, _, now| {
        hub.set_revocations(Revocations::parse(&file.borrow()).unwrap(), now);
        let moment = world.borrow().moment;
        of_model.borrow_mut().revocations.push((file.borrow().clone(), moment));
    }));
    let promise = if setting.hub_has_tls { TLS } else { PLAIN };
    let is_framed = setting.is_framed || setting.agents.iter().any(|agent| agent.config.websocket);
    let promise = if is_framed { promise.framed() } else { promise };
    let check = move |shell: &Shell<Hub, SimNet>| check_hub(shell, &promise);
    let shell = Rc::new(RefCell::new(shell));
    let node = Node { shell: Rc::clone(&shell), check: Box::new(check), model: Rc::clone(model) };
    simulation.start(net.process, node);
    shell
}

pub(super) fn start_agent(
    simulation: &mut Simulation,
    place: &AgentPlace,
    setting: &Setting,
    model: &Shared,
    seed: u64,
) -> Handle<Agent> {
    let number = place.number;
    let now = place.net.world.borrow().now();
    let config = setting.agents[number].config.clone();
    let most = config.tunnels() as usize * config.upstreams.len();
    let core = Agent::new(config, seed, now);
    let mut shell = Shell::new(core, place.net.clone(), place.targets.clone());
    let upstreams = (0..).map(Target::Upstream).zip(place.upstreams_tls.iter().copied());
    let all = std::iter::once((Target::Hub, setting.agents[number].is_tls)).chain(upstreams);
    for (target, _) in all.filter(|(_, is_tls)| *is_tls) {
        let name = HUB_NAME.try_into().unwrap();
        let config = Arc::clone(&tls().1);
        shell.dial_by_tls(target, DialTls { config, name, whom: HUB_NAME.to_owned(), is_later: false });
    }
    let shell = Rc::new(RefCell::new(shell));
    let check = move |shell: &Shell<Agent, SimNet>| {
        let serving = shell.core().census().serving;
        if serving > most {
            return Some(format!("an agent of {most} workers serves {serving} requests"));
        }
        let census = shell.core().census();
        check_buffers("an agent", shell.census(), census.tunnels + census.upstreams).or(shell.core().audit())
    };
    let node = Node { shell: Rc::clone(&shell), check: Box::new(check), model: Rc::clone(model) };
    simulation.start(place.net.process, node);
    shell
}
