//! The real hub and real agents between the scripts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use slime::config::{AgentConfig, HubConfig, Limits, OnCancel, Upstream as UpstreamConfig};
use slime::net::shell::{Endpoint, LISTENER_TOKENS, Shell, Targets};
use slime::proto::agent::Agent;
use slime::proto::agent_token::{AgentToken, TokenId, TokenKey};
use slime::proto::hub::Hub;
use slime::proto::seam::Core;
use slime::proto::timer::Mono;

use crate::calls::SimNet;
use crate::client::Client;
use crate::for_each_seed;
use crate::model::{Model, Outcome, Rules, Shared};
use crate::plan::{Mood, draw_sessions};
use crate::rng::Rng;
use crate::scheduler::{Process, Simulation};
use crate::upstream::{PORT, Upstream};
use crate::world::{Delivery, MILLI, SECOND, Weather};

const HUB_PORT: u16 = 80;
const HUB_NAME: &str = "hub.example";

/// The shell as a process. What it is about can be looked into from outside.
struct Node<C: Core>(Handle<C>);

type Handle<C> = Rc<RefCell<Shell<C, SimNet>>>;

impl<C: Core> Process for Node<C> {
    fn turn(&mut self) -> Option<u8> {
        self.0.borrow_mut().turn().unwrap()
    }

    fn next_timeout(&self) -> Option<Mono> {
        self.0.borrow().next_timeout()
    }
}

/// An agent's place, and how it is started there.
struct AgentPlace {
    net: SimNet,
    config: AgentConfig,
    upstreams: Vec<Endpoint>,
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
    rng: Rng,
    hub_net: SimNet,
    hub: Handle<Hub>,
    agents: Vec<(AgentPlace, Handle<Agent>)>,
    clients: Vec<usize>,
}

/// Deriving it is slow on purpose; its value does not matter.
fn token_key() -> &'static TokenKey {
    static KEY: OnceLock<TokenKey> = OnceLock::new();
    KEY.get_or_init(|| TokenKey::derive("secret"))
}

fn token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| {
        let token = AgentToken {
            id: TokenId::new([1; 8]),
            name: "simulated".into(),
            issued: 0,
            expires: None,
            scopes: Vec::new(),
            scope_paths: Vec::new(),
            max_workers: None,
        };
        token.seal(token_key(), [7; 12]).unwrap()
    })
}

impl Cluster {
    fn new(seed: u64, mood: Mood) -> Self {
        let mut rng = Rng::new(seed, "scenario");
        let weather = Weather::draw(&mut rng);
        let weather = if mood == Mood::Calm { weather.harmless() } else { weather };
        // Now and then enough that it goes through pipes.
        let most = if weather.narrow { 3000 } else { rng.pick(&[10_000, 10_000, 10_000, 400_000]) };
        let mut simulation = Simulation::new(seed, weather);

        let (mut exchanges, mut sessions) = (Vec::new(), Vec::new());
        for _ in 0..rng.length(1, 6) {
            let first = exchanges.len();
            let (more, these) = draw_sessions(first..first + rng.length(1, 5), mood, most, &mut rng);
            exchanges.extend(more);
            sessions.push(these);
        }
        let model = Model::new(mood, exchanges);

        let upstreams: Vec<_> =
            (0..rng.length(1, 3)).map(|n| simulation.net(&format!("upstream{n}"))).collect();
        let hub_net = simulation.net("hub");
        let address = hub_net.address(0).ip();
        simulation.world.borrow_mut().names.insert(HUB_NAME.into(), vec![address]);
        let mut endpoints = Vec::new();
        for net in upstreams {
            let outages = if mood == Mood::Stormy && rng.chance(200) {
                let from = simulation.now() + rng.within(0, 10 * SECOND);
                vec![(from, from + rng.within(1, 20 * SECOND))]
            } else {
                Vec::new()
            };
            // In calm weather, long enough that a request which cannot be repeated never meets a closing connection.
            let idle = match mood {
                Mood::Calm => rng.pick(&[5 * SECOND, 60 * SECOND, 100_000 * SECOND]),
                Mood::Stormy => rng.pick(&[300 * MILLI, 5 * SECOND, 100_000 * SECOND]),
            };
            endpoints.push(Endpoint { host: net.address(0).ip().to_string(), port: PORT });
            let rng = Rng::new(rng.next(), "upstream");
            simulation.start(net.process, Upstream::new(net, &model, idle, outages, rng));
        }
        let hub = start_hub(&mut simulation, &hub_net);
        let workers = u32::try_from(rng.within(1, 3)).unwrap();
        let mut agents = Vec::new();
        for number in 0..rng.length(1, 3) {
            let place = AgentPlace {
                net: simulation.net(&format!("agent{number}")),
                config: agent_config(number, workers, endpoints.len()),
                upstreams: endpoints.clone(),
            };
            let shell = start_agent(&mut simulation, &place, rng.next());
            agents.push((place, shell));
        }
        let mut clients = Vec::new();
        for (number, sessions) in sessions.into_iter().enumerate() {
            let net = simulation.net(&format!("client{number}"));
            clients.push(net.process);
            let rng = Rng::new(rng.next(), "client");
            let to = hub_net.address(HUB_PORT);
            simulation.start(net.process, Client::new(net, &model, to, sessions, rng));
        }
        Self { simulation, model, mood, rng, hub_net, hub, agents, clients }
    }

    fn run(mut self) -> Report {
        if self.mood == Mood::Stormy {
            for _ in 0..self.rng.pick(&[0, 1, 3]) {
                let at = self.simulation.now() + self.rng.within(0, 15 * SECOND);
                self.simulation.run_until(at, |_| false);
                self.disturb();
            }
        }
        let end = self.simulation.now() + 100_000 * SECOND;
        let clients = self.clients.clone();
        let done = |it: &Simulation| clients.iter().all(|client| it.exit_code(*client).is_some());
        if !self.simulation.run_until(end, done) {
            self.model.borrow_mut().violations.push("the clients never came to an end".into());
        }
        // Whatever the weather did to a connection, the kernels give it up at last.
        let end = self.simulation.now() + 2000 * SECOND;
        self.simulation.world.borrow_mut().weather = Weather::default();
        self.simulation.run_until(end, |_| false);
        // Signs of life own blocks while they are on their way.
        let (hub, agents) = (Rc::clone(&self.hub), &self.agents);
        let is_quiet = |_: &Simulation| {
            hub.borrow().census().1 + agents.iter().map(|(_, agent)| agent.borrow().census().1).sum::<usize>()
                == 0
        };
        self.simulation.run_until(end + 60 * SECOND, is_quiet);
        self.check_rest();
        let world = self.simulation.world.borrow();
        let mut model = self.model.borrow_mut();
        let workers = self.agents.first().map(|(place, _)| place.config.workers as usize);
        model.check_end(&world, &Rules { hub: Some(self.hub_net.process), workers, extra_upgrades: false });
        if !model.violations.is_empty() {
            model.describe();
        }
        let outcomes = model.records.iter().map(|record| record.outcome).collect();
        Report { violations: std::mem::take(&mut model.violations), outcomes, trace: world.trace() }
    }

    /// Something happens to a process.
    fn disturb(&mut self) {
        let index = self.rng.length(0, self.agents.len() - 1);
        let agent = self.agents[index].0.net.process;
        match self.rng.within(0, 4) {
            0 => {
                self.simulation.kill(self.hub_net.process);
                self.pass_some_time();
                self.hub = start_hub(&mut self.simulation, &self.hub_net);
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
            _ => {
                let now = self.simulation.now();
                let told = Delivery::Told(agent, slime::net::Event::Terminate);
                self.simulation.world.borrow_mut().deliver_at(now, told);
                let ended = |it: &Simulation| it.exit_code(agent).is_some();
                if !self.simulation.run_until(now + 5000 * SECOND, ended) {
                    self.model.borrow_mut().violations.push("an agent never ended its drain".into());
                }
                self.simulation.kill(agent);
                self.restart(index);
            }
        }
    }

    fn restart(&mut self, index: usize) {
        self.pass_some_time();
        let seed = self.rng.next();
        let (place, shell) = &mut self.agents[index];
        *shell = start_agent(&mut self.simulation, place, seed);
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
            let agent = agent.borrow();
            let (joined, upstreams, serving) = agent.core().census();
            tunnels += joined;
            let workers = place.config.workers as usize * place.upstreams.len();
            if serving > 0 || upstreams > workers {
                violations
                    .push(format!("left at an agent: {serving} serving, {upstreams} upstream connections"));
            }
            if joined != workers {
                violations.push(format!("an agent has {joined} tunnels for {workers} workers"));
            }
            blocks.push((place.net.world.borrow().hosts[place.net.process].name.clone(), agent.census().1));
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

fn start_hub(simulation: &mut Simulation, net: &SimNet) -> Handle<Hub> {
    let config = HubConfig::default();
    let now = net.world.borrow().now();
    let core = Hub::new(config, TokenKey::clone(token_key()), now);
    let listener = net.listen(net.address(HUB_PORT), LISTENER_TOKENS);
    let shell = Shell::new(core, net.clone(), vec![listener], Targets::default());
    let shell = Rc::new(RefCell::new(shell));
    simulation.start(net.process, Node(Rc::clone(&shell)));
    shell
}

fn start_agent(simulation: &mut Simulation, place: &AgentPlace, seed: u64) -> Handle<Agent> {
    let now = place.net.world.borrow().now();
    let core = Agent::new(place.config.clone(), seed, now);
    let hub = Endpoint { host: HUB_NAME.into(), port: HUB_PORT };
    let targets = Targets { hub: Some(hub), upstreams: place.upstreams.clone() };
    let shell = Rc::new(RefCell::new(Shell::new(core, place.net.clone(), Vec::new(), targets)));
    simulation.start(place.net.process, Node(Rc::clone(&shell)));
    shell
}

fn agent_config(number: usize, workers: u32, upstreams: usize) -> AgentConfig {
    let upstream = |index| UpstreamConfig {
        agent_id: format!("agent{number}-{index}"),
        authority: "upstream.example".into(),
        base_path: String::new(),
        authorization: None,
    };
    AgentConfig {
        token: token().into(),
        hub_authority: HUB_NAME.into(),
        hub_path: String::new(),
        hub_authorization: None,
        proxy: None,
        upstreams: (0..upstreams).map(upstream).collect(),
        workers,
        extra_upgrades: 0,
        preserve_host: false,
        on_cancel: OnCancel::Close,
        health_path: None,
        drain_timeout: Duration::from_secs(600),
        limits: Limits::default(),
    }
}

fn check(seed: u64, mood: Mood) {
    let report = Cluster::new(seed, mood).run();
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

#[test]
fn calm() {
    for_each_seed(60, |seed| check(seed, Mood::Calm));
}

#[test]
fn storm() {
    for_each_seed(150, |seed| check(seed, Mood::Stormy));
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in 0..8 {
        assert_eq!(Cluster::new(seed, Mood::Stormy).run(), Cluster::new(seed, Mood::Stormy).run());
    }
}
