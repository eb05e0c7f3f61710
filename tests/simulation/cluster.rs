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
mod check;
mod phase;
mod silence;
mod start;

use change::draw_restarts;
use start::{start_agent, start_hub};

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
        let crowds = [Quirk::Collapses, Quirk::Untimely, Quirk::Nods, Quirk::Hangs];
        let is_crowded = crowds.into_iter().any(|quirk| quirks.has(quirk));
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
        if theme == Theme::Bulk && mood == Mood::Stormy && odd.chance(700) {
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
        // A reader of records takes much at once, and then nothing for minutes; nobody is turned away there.
        let are_plain = quirks.has(Quirk::Trickles) || quirks.has(Quirk::TurnsAway);
        let legs_have_tls = legs.chance(600) && !are_plain;
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
