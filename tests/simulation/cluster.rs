//! The real hub and real agents between the scripts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::{ClientConfig, ServerConfig};
use slime::net::Event;
use slime::net::shell::{DialTls, Endpoint, Entrance, LISTENER_TOKENS, Shell, Targets};
use slime::net::tls::{Trust, client_config, server_config};
use slime::proto::agent::{Agent, Census};
use slime::proto::hub::Hub;
use slime::proto::light::TUNNELS;
use slime::proto::seam::{Core, Target};
use slime::proto::tables::timer::Mono;
use slime::proto::trust::agent_token::TokenKey;
use slime::proto::trust::revocation::Revocations;

use crate::calls::SimNet;
use crate::client::Client;
use crate::for_each_seed;
use crate::hostile::{Guise, Hostile};
use crate::memory::{PLAIN, Promise, TLS};
use crate::model::{Model, Outcome, Rules, Shared};
use crate::plan::{Mood, draw_sessions};
use crate::quirk::{Quirk, Quirks};
use crate::rng::Rng;
use crate::scheduler::{Process, Simulation};
use crate::setting::{HUB_NAME, Setting, plain_token, token_key};
use crate::theme::Theme;
use crate::upstream::{PORT, Upstream};
use crate::world::{Delivery, Micros, SECOND, Weather};

mod change;
mod phase;
mod silence;

use change::draw_restarts;

const HUB_PORT: u16 = 80;
const HUB_TLS_PORT: u16 = 443;
/// Blocks that a connection may own: of its input, its output, what is held of its request, and TLS both
/// ways.
const MOST_BLOCKS: usize = 6;
/// The number of the token that hostile agents have.
const HOSTILE: usize = 99;

/// The shell as a process. What it is about can be looked into from outside.
struct Node<C: Core> {
    shell: Handle<C>,
    /// Says what must not be, if it is, between two turns.
    check: Check<C>,
    model: Shared,
}

type Check<C> = Box<dyn Fn(&Shell<C, SimNet>) -> Option<String>>;
type Handle<C> = Rc<RefCell<Shell<C, SimNet>>>;

impl<C: Core> Process for Node<C> {
    fn turn(&mut self) -> Option<u8> {
        let exit = self.shell.borrow_mut().turn().unwrap();
        if let Some(violation) = (self.check)(&self.shell.borrow()) {
            let violations = &mut self.model.borrow_mut().violations;
            if !violations.contains(&violation) {
                violations.push(violation);
            }
        }
        exit
    }

    fn next_timeout(&self) -> Option<Mono> {
        self.shell.borrow().next_timeout()
    }
}

/// An agent's place, and where it dials to from there.
struct AgentPlace {
    net: SimNet,
    /// Whose setting it has.
    number: usize,
    targets: Targets,
    /// Which of its upstreams speak TLS.
    upstreams_tls: Vec<bool>,
}

/// What came of a run.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    violations: Vec<String>,
    outcomes: Vec<Option<Outcome>>,
    trace: u64,
}

/// Everything that a run consists of.
struct Cluster {
    simulation: Simulation,
    model: Shared,
    mood: Mood,
    quirks: Quirks,
    rng: Rng,
    /// For what the quirks draw.
    odd: Rng,
    setting: Setting,
    /// The file of `--revoked`.
    revoked: Rc<RefCell<String>>,
    hub_net: SimNet,
    hub: Handle<Hub>,
    /// When the present hub was started.
    hub_began: Micros,
    agents: Vec<(AgentPlace, Handle<Agent>)>,
    /// All processes that are or were agents, with the numbers of their settings.
    agents_ever: Vec<(usize, usize)>,
    /// Those that others replaced, and that end by and by.
    retired: Vec<usize>,
    clients: Vec<usize>,
    hostile: Vec<usize>,
    hostile_agents: bool,
}

impl Cluster {
    fn new(seed: u64, mood: Mood) -> Self {
        let mut rng = Rng::new(seed, "scenario");
        let weather = Weather::draw(&mut rng);
        let mut weather = if mood == Mood::Calm { weather.harmless() } else { weather };
        let theme = Theme::draw(&mut rng);
        theme.change_weather(mood, &mut weather, &mut rng);
        weather.interrupted = Rng::new(seed, "signals").pick(&[0, 0, 20, 200]);
        let (quirks, mut odd) = (Quirks::draw(seed, mood), Rng::new(seed, "odd"));
        quirks.change_weather(mood, &mut weather, &mut odd);
        // Now and then enough that it goes through pipes.
        let most = if weather.narrow { 3000 } else { rng.pick(&[10_000, 10_000, 10_000, 400_000]) };
        let is_narrow = weather.narrow;
        let mut simulation = Simulation::new(seed, weather);
        simulation.interrupts = quirks.has(Quirk::Stops);

        let count = rng.length(1, 3);
        // Enough that a request which goes from one to the next shows.
        let count = if quirks.has(Quirk::Crashes) { 6 } else { count };
        // So few that connections are used again, and that there are more requests than workers.
        let is_crowded = quirks.has(Quirk::Collapses) || quirks.has(Quirk::Untimely);
        let count = if is_crowded && !quirks.has(Quirk::Crashes) { 1 } else { count };
        let upstreams: Vec<_> = (0..count).map(|n| simulation.net(&format!("upstream{n}"))).collect();
        let mut endpoints: Vec<Endpoint> = upstreams
            .iter()
            .map(|net| Endpoint { host: net.address(0).ip().to_string(), port: PORT })
            .collect();
        if quirks.has(Quirk::Names) {
            for (endpoint, net) in endpoints.iter_mut().zip(&upstreams) {
                let name = format!("{}.example", simulation.world.borrow().hosts[net.process].name);
                simulation.give_name(&name, net, &mut odd);
                endpoint.host = name;
            }
        }
        let agents = rng.length(1, 3);
        let agents = if quirks.has(Quirk::Untimely) { agents.max(2) } else { agents };
        let mut setting = Setting::draw(mood, agents, &endpoints, &mut rng);
        theme.change_setting(mood, &mut setting, &mut rng);
        quirks.change_setting(mood, &mut setting, &mut odd);

        let (mut exchanges, mut sessions) = (Vec::new(), Vec::new());
        let (applications, requests) = theme.crowd(&mut rng);
        let (applications, requests) = if is_crowded { (10, 3) } else { (applications, requests) };
        for _ in 0..applications {
            let first = exchanges.len();
            let ids = first..first + rng.length(1, requests);
            let (more, these) = draw_sessions(ids, mood, theme, most, &mut rng, |exchange| {
                quirks.change(mood, exchange, &mut odd);
            });
            exchanges.extend(more);
            sessions.push(these);
        }
        setting.adapt(mood, &mut exchanges, &mut rng);
        if theme == Theme::Bulk && mood == Mood::Stormy && odd.chance(300) {
            // Some are longer, and go through pipes.
            setting.hub.max_body = Some(300_000);
        }
        if quirks.has(Quirk::Waiters) && mood == Mood::Calm {
            setting.hub.max_clients = sessions.len();
            setting.hub.startup_grace = Duration::from_secs(300);
        }
        let model = Model::new(mood, exchanges);

        let hub_net = simulation.net("hub");
        if quirks.has(Quirk::Names) {
            simulation.give_name(HUB_NAME, &hub_net, &mut odd);
        } else {
            let address = hub_net.address(0).ip();
            simulation.world.borrow_mut().names.insert(HUB_NAME.into(), vec![address]);
        }
        // Those of the agents to the hub are part of the setting.
        let mut legs = Rng::new(seed, "legs with TLS");
        let legs_have_tls = legs.chance(600);
        setting.hub_has_tls |= legs_have_tls;
        {
            let mut model = model.borrow_mut();
            model.is_slow = setting.hub_has_tls || is_narrow || quirks.has(Quirk::Stops);
            model.upstreams_restart = quirks.has(Quirk::Restarts);
            model.is_crowded = quirks.has(Quirk::Waiters);
        }
        if legs_have_tls && mood == Mood::Calm {
            // Handshakes on a long way: until an agent has found its upstream well, and has joined.
            setting.hub.startup_grace = setting.hub.startup_grace.max(Duration::from_secs(15));
        }
        let mut endpoints_tls = Vec::new();
        for net in upstreams {
            let outages = if mood == Mood::Stormy && rng.chance(200) {
                let from = simulation.now() + rng.within(0, 10 * SECOND);
                vec![(from, from + rng.within(1, 20 * SECOND))]
            } else {
                Vec::new()
            };
            // In calm weather, long enough that a request which cannot be repeated never meets a closing
            // connection.
            let idle = match mood {
                Mood::Calm => rng.pick(&[5 * SECOND, 60 * SECOND, 100_000 * SECOND]),
                Mood::Stormy => rng.pick(&[SECOND, 5 * SECOND, 100_000 * SECOND]),
            };
            // An agent that goes on finds connections that nothing has come on since.
            let idle = if quirks.has(Quirk::Stops) { idle.max(1000 * SECOND) } else { idle };
            let rng = Rng::new(rng.next(), "upstream");
            let has_tls = legs.pick(&[false, legs_have_tls]);
            let restarts = quirks.has(Quirk::Restarts) && mood == Mood::Calm;
            let outages = if restarts { draw_restarts(simulation.now(), &mut odd) } else { outages };
            // What goes there under TLS could not be told from what does not.
            let tls = (has_tls && !restarts).then(|| Arc::clone(&tls().0));
            endpoints_tls.push(tls.is_some());
            let process = net.process;
            let mut upstream = Upstream::new(net, &model, tls, idle, outages, rng);
            if quirks.has(Quirk::Loads) {
                upstream.loads_until = simulation.now() + odd.within(0, 40 * SECOND);
            }
            simulation.start(process, upstream);
        }
        let revoked = Rc::default();
        let hub = start_hub(&mut simulation, &hub_net, &setting, &revoked, &model);
        let hub_began = simulation.now();
        let mut agents: Vec<_> = (0..agents)
            .map(|number| {
                let port = if setting.agents[number].is_tls { HUB_TLS_PORT } else { HUB_PORT };
                let hub = Endpoint { host: HUB_NAME.into(), port };
                let place = AgentPlace {
                    net: simulation.net(&format!("agent{number}")),
                    number,
                    targets: Targets { hub: Some(hub), upstreams: endpoints.clone() },
                    upstreams_tls: endpoints_tls.clone(),
                };
                let shell = start_agent(&mut simulation, &place, &setting, &model, rng.next());
                (place, shell)
            })
            .collect();
        if quirks.has(Quirk::Twins) {
            for index in 0..odd.length(1, agents.len()) {
                let place = agents[index].0.twin(&simulation);
                let shell = start_agent(&mut simulation, &place, &setting, &model, odd.next());
                agents.push((place, shell));
            }
        }
        let agents_ever = agents.iter().map(|(place, _)| (place.net.process, place.number)).collect();
        let (to, to_tls) = (hub_net.address(HUB_PORT), hub_net.address(HUB_TLS_PORT));
        let mut clients = Vec::new();
        for (number, sessions) in sessions.into_iter().enumerate() {
            let net = simulation.net(&format!("client{number}"));
            clients.push(net.process);
            let rng = Rng::new(rng.next(), "client");
            let tls = legs.pick(&[false, legs_have_tls]).then(|| Arc::clone(&tls().1));
            let to = if tls.is_some() { to_tls } else { to };
            simulation.start(net.process, Client::new(net, &model, to, tls, sessions, rng));
        }
        if quirks.has(Quirk::Waiters) && mood == Mood::Calm {
            let late = odd.within(5, 40) * SECOND;
            agents.iter().for_each(|(place, _)| simulation.freeze(place.net.process, late));
        }
        let mut hostile = Vec::new();
        let mut hostile_agents = false;
        if rng.chance(400) && !quirks.has(Quirk::Waiters) {
            for number in 0..rng.length(1, 3) {
                let is_agent = mood == Mood::Stormy && rng.chance(300);
                let guise = if is_agent {
                    hostile_agents = true;
                    Guise::Agent(plain_token(HOSTILE).seal(token_key(), [9; 12]).unwrap())
                } else {
                    Guise::Client
                };
                let name = if is_agent { "agent" } else { "client" };
                let net = simulation.net(&format!("{name}-hostile{number}"));
                hostile.push(net.process);
                let rng = Rng::new(rng.next(), "hostile");
                // There their bytes are no ClientHello, as a rule.
                let to = if legs.chance(200) { to_tls } else { to };
                simulation.start(net.process, Hostile::new(net, guise, to, rng));
            }
        }
        Self {
            simulation,
            model,
            mood,
            quirks,
            rng,
            odd,
            setting,
            revoked,
            hub_net,
            hub,
            hub_began,
            agents,
            agents_ever,
            retired: Vec::new(),
            clients,
            hostile,
            hostile_agents,
        }
    }

    fn run(mut self) -> Report {
        if self.mood == Mood::Stormy {
            for _ in 0..self.rng.pick(&[0, 1, 3]) {
                let at = self.simulation.now() + self.rng.within(0, 15 * SECOND);
                self.simulation.run_until(at, |_| false);
                self.disturb();
            }
        }
        self.change();
        let end = self.simulation.now() + 100_000 * SECOND;
        let clients: Vec<usize> = self.clients.iter().chain(&self.hostile).copied().collect();
        let done = |it: &Simulation| clients.iter().all(|client| it.exit_code(*client).is_some());
        if !self.simulation.run_until(end, done) {
            self.model.borrow_mut().violations.push("the clients never came to an end".into());
        }
        // Whatever the weather did to a connection, the kernels give it up at last.
        let end = self.simulation.now() + 2000 * SECOND;
        {
            let mut world = self.simulation.world.borrow_mut();
            world.weather = Weather::default();
            world.names.values_mut().for_each(|addresses| addresses.truncate(1));
        }
        self.simulation.run_until(end, |_| false);
        self.settle();
        self.check_rest();
        self.fall_silent();
        self.settle();
        self.check_rest();
        let world = self.simulation.world.borrow();
        let mut model = self.model.borrow_mut();
        let workers = self.setting.agents.first().map(|agent| agent.config.workers as usize);
        let rules = Rules {
            hub: Some(self.hub_net.process),
            workers,
            setting: Some(&self.setting),
            agents: &self.agents_ever,
            hostile_agents: self.hostile_agents,
        };
        model.check_end(&world, &rules);
        if !model.violations.is_empty() {
            model.describe();
        }
        let outcomes = model.records.iter().map(|record| record.outcome).collect();
        Report { violations: std::mem::take(&mut model.violations), outcomes, trace: world.trace() }
    }

    /// Waits until nothing is under way.
    fn settle(&mut self) {
        // Signs of life own blocks while they are on their way, agents that are not let in try again, and
        // what lets them in is on its way for a while. Who withdrew, because its upstream did not answer a
        // probe, is about to come back.
        let (hub, agents, setting) = (Rc::clone(&self.hub), &self.agents, &self.setting);
        let is_quiet = |it: &Simulation| {
            let running = agents.iter().filter(|(place, _)| it.exit_code(place.net.process).is_none());
            let (mut blocks, mut joined) = (hub.borrow().census().1, 0);
            for (_, agent) in running {
                blocks += agent.borrow().census().1;
                joined += agent.borrow().core().census().idle;
            }
            let census = hub.borrow().core().census();
            census.clients + blocks == 0
                && census.tunnels == joined
                && incomplete(agents, setting, it).is_empty()
        };
        let end = self.simulation.now() + 60 * SECOND;
        self.simulation.run_until(end, is_quiet);
    }

    /// Something happens to a process.
    fn disturb(&mut self) {
        self.model.borrow_mut().is_honest = false;
        let index = self.rng.length(0, self.agents.len() - 1);
        let agent = self.agents[index].0.net.process;
        match self.rng.within(0, 6) {
            0 => {
                self.simulation.kill(self.hub_net.process);
                self.restart_hub();
            }
            1 => {
                self.simulation.kill(agent);
                self.restart(index);
            }
            2 => {
                let time = self.rng.within(0, 100 * SECOND);
                self.simulation.freeze(agent, time);
            }
            3 => {
                let time = self.rng.within(0, 100 * SECOND);
                self.simulation.freeze(self.hub_net.process, time);
            }
            4 => {
                self.drain(agent, "an agent");
                self.restart(index);
            }
            5 => {
                self.drain(self.hub_net.process, "the hub");
                self.restart_hub();
            }
            _ => {
                let name = self.setting.agents[self.agents[index].0.number].token.name.clone();
                self.revoke(name);
                self.pass_some_time();
                self.revoke(String::new());
            }
        }
    }

    /// SIGTERM, and what follows from it.
    fn drain(&mut self, process: usize, name: &str) {
        let now = self.simulation.now();
        let told = Delivery::Told(process, Event::Terminate);
        self.simulation.world.borrow_mut().deliver_at(now, told);
        let ended = |it: &Simulation| it.exit_code(process).is_some();
        if !self.simulation.run_until(now + 5000 * SECOND, ended) {
            self.model.borrow_mut().violations.push(format!("{name} never ended its drain"));
        }
        self.simulation.kill(process);
    }

    /// The hub reads the file of tokens that were taken back, which says this now.
    fn revoke(&mut self, rules: String) {
        *self.revoked.borrow_mut() = rules;
        let now = self.simulation.now();
        let told = Delivery::Told(self.hub_net.process, Event::Reload);
        self.simulation.world.borrow_mut().deliver_at(now, told);
    }

    fn restart_hub(&mut self) {
        self.pass_some_time();
        self.hub_began = self.simulation.now();
        let Self { simulation, hub_net, setting, revoked, model, .. } = self;
        self.hub = start_hub(simulation, hub_net, setting, revoked, model);
    }

    fn restart(&mut self, index: usize) {
        self.pass_some_time();
        let seed = self.rng.next();
        let (place, shell) = &mut self.agents[index];
        *shell = start_agent(&mut self.simulation, place, &self.setting, &self.model, seed);
    }

    fn pass_some_time(&mut self) {
        let until = self.simulation.now() + self.rng.within(0, 10 * SECOND);
        self.simulation.run_until(until, |_| false);
    }

    /// All clients are gone: what is left are idle tunnels and kept upstream connections.
    fn check_rest(&mut self) {
        let mut violations = Vec::new();
        let hub = self.hub.borrow();
        let census = hub.core().census();
        if census.clients + census.exchanges + census.active + census.gathering + census.queued > 0 {
            violations.push(format!("left at the hub: {census:?}"));
        }
        let mut tunnels = 0;
        let mut blocks = vec![("hub".to_owned(), hub.census().1)];
        for (place, agent) in &self.agents {
            // Who finds its token rejected at once does not go on.
            if self.simulation.exit_code(place.net.process).is_some() {
                continue;
            }
            let agent = agent.borrow();
            let Census { idle: joined, upstreams, serving, .. } = agent.core().census();
            tunnels += joined;
            if serving > 0 || upstreams > place.targets.upstreams.len() * (5 + TUNNELS as usize) {
                violations
                    .push(format!("left at an agent: {serving} serving, {upstreams} upstream connections"));
            }
            blocks.push((place.net.world.borrow().hosts[place.net.process].name.clone(), agent.census().1));
        }
        for (joined, expected) in incomplete(&self.agents, &self.setting, &self.simulation) {
            violations.push(format!("an agent has {joined} tunnels, not {expected}"));
        }
        let retired = self.retired.iter().filter(|process| self.simulation.exit_code(**process).is_none());
        if retired.count() > 0 {
            violations.push("an agent never ended its drain".to_owned());
        }
        if census.tunnels != tunnels {
            violations.push(format!("{} tunnels at the hub, {tunnels} at the agents", census.tunnels));
        }
        for (name, blocks) in blocks.into_iter().filter(|(_, blocks)| *blocks > 0) {
            violations.push(format!("{blocks} blocks owned by buffers of {name} though nothing happens"));
        }
        let pipes = self.simulation.world.borrow().pipes.len();
        if pipes > 0 {
            violations.push(format!("{pipes} pipes taken though nothing happens"));
        }
        self.model.borrow_mut().violations.append(&mut violations);
    }
}

/// How many tunnels agents have that should have another number of them, and that number. None, where the hub
/// has no room for all.
fn incomplete(
    agents: &[(AgentPlace, Handle<Agent>)],
    setting: &Setting,
    simulation: &Simulation,
) -> Vec<(usize, usize)> {
    // Of agents of one name, which may be several, each tunnel replaces that of another one, if both stand
    // for the same worker: one may have lent its first worker, and have another one in its stead since.
    let mut of_names: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    // Who finds its token rejected at once does not go on.
    for (place, agent) in agents.iter().filter(|(it, _)| simulation.exit_code(it.net.process).is_none()) {
        let (processes, joined) = of_names.entry(place.number).or_default();
        *processes += 1;
        *joined += agent.borrow().core().census().idle;
    }
    let expected = |number| setting.tunnels(number, simulation.now());
    let has_room = of_names.keys().map(|it| expected(*it)).sum::<usize>() <= setting.hub.max_tunnels;
    let is_wrong = |number: usize, processes, joined| {
        let config = &setting.agents[number].config;
        let stand_in = if processes > 1 { config.extras() as usize * config.upstreams.len() } else { 0 };
        has_room && !(expected(number)..=expected(number) + stand_in).contains(&joined)
    };
    let wrong =
        of_names.into_iter().filter(|(number, (processes, joined))| is_wrong(*number, *processes, *joined));
    wrong.map(|(number, (_, joined))| (joined, expected(number))).collect()
}

/// What the hub shows, and what agents trust. The key is an Ed25519 one: its signatures are all of one
/// length, and so are all messages of a handshake, so that a seed gives the same trace twice though the bytes
/// differ.
pub(crate) fn tls() -> &'static (Arc<ServerConfig>, Arc<ClientConfig>) {
    static TLS: OnceLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = OnceLock::new();
    TLS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulation/tls");
        let offer = server_config(&folder.join("cert.pem"), &folder.join("key.pem"), 1_800_000_000).unwrap();
        let mut client = client_config(&Trust::Pins(vec![offer.pin])).unwrap();
        // Sessions would be shared by runs.
        client.resumption = Resumption::disabled();
        (offer.config, Arc::new(client))
    })
}

fn start_hub(
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

fn check_hub(shell: &Shell<Hub, SimNet>, promise: &Promise) -> Option<String> {
    let census = shell.core().census();
    let (conns, blocks) = shell.census();
    // What is held of requests beyond the first block of each is counted by itself.
    check_buffers("the hub", (conns, blocks.saturating_sub(census.held)), census.clients + census.tunnels)
        .or(shell.core().audit())
        .or(promise.exceeded(shell.buffer_bytes(), census))
}

/// Connections and blocks of a process: those of its tables, and as many as these may have.
fn check_buffers(whose: &str, (conns, blocks): (usize, usize), entries: usize) -> Option<String> {
    let is_within = conns == entries && blocks <= entries * MOST_BLOCKS;
    (!is_within)
        .then(|| format!("{whose} has {conns} connections and {blocks} blocks for {entries} of its tables"))
}

fn start_agent(
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

fn check(seed: u64, mood: Mood) {
    let report = Cluster::new(seed, mood).run();
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

#[test]
fn calm() {
    for_each_seed(40, |seed| check(seed, Mood::Calm));
}

#[test]
fn storm() {
    for_each_seed(60, |seed| check(seed, Mood::Stormy));
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in 0..8 {
        assert_eq!(Cluster::new(seed, Mood::Stormy).run(), Cluster::new(seed, Mood::Stormy).run());
    }
}
