//! What the scripts saw, and what must be true of it whatever happened.

use std::cell::RefCell;
use std::rc::Rc;

use slime::config::AgentConfig;
use slime::proto::light::TUNNELS;

use crate::history::{History, Moment, Sighting};
use crate::http::{Way, body_byte};
use crate::plan::{Exchange, Fault, Framing, Mood};
use crate::setting::Setting;
use crate::world::{Micros, SECOND, World};

mod connections;
mod promises;

pub(crate) type Shared = Rc<RefCell<Model>>;

/// The plan of a run, and what came of it.
pub(crate) struct Model {
    pub(crate) mood: Mood,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) records: Vec<Record>,
    /// What must not have happened.
    pub(crate) violations: Vec<String>,
    /// No process was killed so far: a FIN was said by whom it seems to come from.
    pub(crate) is_honest: bool,
    /// Windows are of a few bytes, each of which becomes a record if somebody speaks TLS: nothing is quick
    /// then.
    pub(crate) is_slow: bool,
    /// Requests of no script that reached upstreams: probes.
    pub(crate) probes: Vec<Attempt>,
    /// What upstreams do may make exchanges fail in calm weather, too: those are judged in the end.
    pub(crate) upstreams_restart: bool,
    /// Connections may be refused in calm weather, too.
    pub(crate) is_crowded: bool,
    /// What of tokens was taken back, and when the hub heard of it.
    pub(crate) revocations: Vec<(String, Moment)>,
    failed: Vec<(usize, Outcome)>,
}

/// What became of an exchange.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The endpoint of the client's connection.
    pub(crate) client: Option<usize>,
    pub(crate) is_tls: bool,
    /// Where in that connection's stream its request's head ends; zero until it was written.
    pub(crate) head_ends: u64,
    pub(crate) sent: bool,
    pub(crate) left: bool,
    pub(crate) left_at: Option<Micros>,
    pub(crate) outcome: Option<Outcome>,
    /// Body bytes that the client got.
    pub(crate) length: usize,
    pub(crate) attempts: Vec<Attempt>,
    /// When each side of an upgraded connection said its FIN, by way.
    pub(crate) fins: [Option<Micros>; 2],
}

impl Record {
    /// When its client last took some of what it is sent, before this time.
    pub(crate) fn taken(&self, world: &World, before: Micros) -> Micros {
        let read = self.client.map_or(&[][..], |client| &world.ends[client].history.read);
        read.iter().map(|(_, at)| at.at).rfind(|at| *at < before).unwrap_or(0)
    }
}

/// How an exchange ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The upstream's response, from beginning to end.
    Complete,
    /// A response of somebody between.
    Own(u16),
    /// A response whose end is visibly missing.
    Cut,
    /// The connection ended before any response.
    Nothing,
    /// Not asked any more: the connection had to be closed after an earlier response.
    Dropped,
    /// The client left.
    Left,
}

/// A request that reached an upstream.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The upstream's endpoint; the agent's is the other one.
    pub(crate) end: usize,
    /// Where in the stream the request begins and ends, and where the response ends.
    pub(crate) begins: u64,
    pub(crate) request_ends: Option<u64>,
    pub(crate) response_ends: Option<u64>,
}

impl Model {
    pub(crate) fn new(mood: Mood, exchanges: Vec<Exchange>) -> Shared {
        let records = vec![Record::default(); exchanges.len()];
        let violations = Vec::new();
        Rc::new(RefCell::new(Self {
            mood,
            exchanges,
            records,
            violations,
            is_honest: true,
            is_slow: false,
            probes: Vec::new(),
            upstreams_restart: false,
            is_crowded: false,
            revocations: Vec::new(),
            failed: Vec::new(),
        }))
    }

    pub(crate) fn violate(&mut self, exchange: usize, what: impl AsRef<str>) {
        let prefix = format!("exchange {exchange}:");
        if self.violations.iter().filter(|it| it.starts_with(&prefix)).count() >= 3 {
            // The first ones say enough.
            return;
        }
        self.violations.push(format!("exchange {exchange}: {}", what.as_ref()));
    }

    /// Body bytes arrived at an offset.
    pub(crate) fn check_bytes(&mut self, exchange: usize, way: Way, offset: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            if *byte != body_byte(exchange, way, offset + index) {
                self.violate(exchange, format!("{way:?} body differs at {}", offset + index));
                return;
            }
        }
    }

    /// The other side of an upgraded connection has heard of a FIN, which nothing holds up in calm weather:
    /// long before anybody's time limit.
    pub(crate) fn check_fin(&mut self, exchange: usize, way: Way, now: Micros) {
        let said = self.records[exchange].fins[way as usize];
        let is_meant = self.mood == Mood::Calm && !self.is_slow && !self.exchanges[exchange].is_troubled();
        if is_meant && said.is_none_or(|said| now > said + 30 * SECOND) {
            self.violate(exchange, format!("{way:?} FIN of {said:?} came at {now}"));
        }
    }

    /// An upstream has got a whole request.
    pub(crate) fn check_request_end(&mut self, exchange: usize, length: usize) {
        let (plan, record) = (&self.exchanges[exchange], &self.records[exchange]);
        // There FIN is a FIN, whatever it was meant to say.
        if plan.request == Framing::Upgrade && (record.left || !self.is_honest) {
            return;
        }
        let expected = plan.request_length;
        if length != expected {
            self.violate(
                exchange,
                format!("the request ended cleanly with {length} of {expected} body bytes"),
            );
        }
        if !self.records[exchange].sent {
            self.violate(exchange, "the request ended cleanly before its client had sent it");
        }
    }

    /// A client is done with an exchange; `length` body bytes came.
    pub(crate) fn conclude(&mut self, exchange: usize, outcome: Outcome, length: usize) {
        let fine = matches!(outcome, Outcome::Complete | Outcome::Dropped);
        let is_bad = self.mood == Mood::Calm && !fine && !self.exchanges[exchange].is_troubled();
        let record = &self.records[exchange];
        let may_be_unheard = self.is_slow && record.attempts.is_empty();
        let is_refused = outcome == Outcome::Own(503) && record.attempts.is_empty();
        let may_be_unheard_of = may_be_unheard && outcome == Outcome::Own(502);
        if is_bad && (self.upstreams_restart || may_be_unheard_of || is_refused && !self.may_wait_too_long())
        {
            self.failed.push((exchange, outcome));
        } else if may_be_unheard && record.is_tls && outcome == Outcome::Nothing {
            // A hub that is stopped in the middle of the handshake finds its limit passed, and the request is
            // not sent before the handshake is over.
        } else if outcome == Outcome::Own(502)
            && record.attempts.is_empty()
            && self.exchanges[exchange].expect
        {
            // A body that is sent without being asked for, or because nobody says 100 for long, goes on as it
            // comes. It cannot be sent again when the agent refuses it.
        } else if outcome == Outcome::Own(503) && self.may_wait_too_long() {
            // One worker, and jobs that take longer together than a request waits.
        } else if is_bad && !(self.is_crowded && outcome == Outcome::Nothing) {
            self.violate(exchange, format!("{outcome:?} though nothing went wrong"));
        }
        let record = &mut self.records[exchange];
        record.length = length;
        if record.outcome.replace(outcome).is_some() {
            self.violate(exchange, "concluded twice");
        }
    }

    /// Whether all jobs together take about as long as a request waits for a worker, if there is one worker.
    fn may_wait_too_long(&self) -> bool {
        self.exchanges.iter().map(|it| it.think).sum::<Micros>() > 500 * SECOND
    }

    /// Prints what is known of the exchanges that something is wrong with, for whoever looks into a failure.
    pub(crate) fn describe(&self) {
        for (plan, record) in self.exchanges.iter().zip(&self.records) {
            let concerns = |it: &String| it.starts_with(&format!("exchange {}:", plan.id));
            if self.violations.iter().any(concerns) {
                println!("{plan:?}\n    {record:?}");
            }
        }
    }

    /// The invariants over a run that has ended.
    pub(crate) fn check_end(&mut self, world: &World, rules: &Rules<'_>) {
        for exchange in 0..self.records.len() {
            let (record, plan) = (self.records[exchange].clone(), self.exchanges[exchange].clone());
            if record.outcome.is_none() {
                self.violate(exchange, "its client never came to an end");
            }
            if record.outcome == Some(Outcome::Complete) && self.shows_truncation(world, &plan, &record) {
                let (length, expected) = (record.length, plan.expected_length());
                if length != expected {
                    self.violate(
                        exchange,
                        format!("the response ended cleanly with {length} of {expected} body bytes"),
                    );
                }
                if !record.attempts.iter().any(|it| it.response_ends.is_some()) {
                    self.violate(exchange, "complete, though no upstream has sent all of it");
                }
            }
            if record.attempts.len() > 1 && !plan.may_repeat() {
                self.violate(exchange, "not repeatable, but reached an upstream twice");
            }
            // Others may come while the request is being served: when its body is malformed, too long or too
            // slow. A request that lost its tunnel may be refused when it is to be repeated.
            if let Some(Outcome::Own(status @ (401 | 404 | 414 | 417 | 431 | 501 | 503 | 505))) =
                record.outcome
                && !record.attempts.is_empty()
                && !(status == 503 && plan.may_repeat())
                // These say what they like.
                && !matches!(plan.fault, Some(Fault::Garbage))
                && !rules.hostile_agents
            {
                self.violate(exchange, format!("refused with {status}, but reached an upstream"));
            }
        }
        self.check_workers(world, rules);
        self.check_scopes(world, rules);
        self.check_fleet(world);
        self.check_failed(world, rules);
        if let Some(hub) = rules.hub {
            self.check_left(world, rules, hub);
            self.check_agents_left(world, rules, hub);
            self.check_revoked(world, rules, hub);
            self.check_limits(world, rules, hub);
            self.check_connections(world, rules, hub);
            // What goes into a TLS tunnel cannot be read on the network: a request that an agent refused
            // there would seem to have been dispatched only when another one took it.
            if rules.setting.is_none_or(|setting| setting.agents.iter().all(|agent| !agent.is_tls)) {
                self.check_order(world, hub, rules);
            }
        }
    }

    /// Whether a client could tell that something of its response is missing. It cannot after an upgrade,
    /// where FIN is a FIN whatever it was meant to say, nor in HTTP/1.0 if the sender was killed and its
    /// kernel ended the connection for it, unless they spoke TLS.
    fn shows_truncation(&self, world: &World, plan: &Exchange, record: &Record) -> bool {
        let was_killed = record.client.is_some_and(|client| world.ends[client ^ 1].history.killed);
        match (plan.request, plan.response) {
            (Framing::Upgrade, _) => {
                let is_cut = plan.fault.is_some() || plan.leave.is_some();
                self.mood == Mood::Calm || self.is_honest && !is_cut
            }
            (_, Framing::Length) => true,
            _ => !plan.http10 || !was_killed || record.is_tls,
        }
    }

    /// Whether this is a small question to these agents, which all have the same light paths.
    fn is_light(&self, exchange: usize, rules: &Rules<'_>) -> bool {
        let agents = rules.setting.map_or(&[][..], |setting| &setting.agents);
        exchange < self.exchanges.len()
            && agents.iter().any(|it| it.config.light_paths.contains(&format!("/e/{exchange}")))
    }

    /// No upstream has more requests in flight than it has workers, or with small questions beside them than
    /// it has tunnels.
    fn check_workers(&mut self, world: &World, rules: &Rules<'_>) {
        let Some(workers) = rules.workers else { return };
        let mut changes: Vec<(usize, usize, Moment, bool, usize)> = Vec::new();
        for (exchange, record) in self.records.iter().enumerate() {
            for attempt in &record.attempts {
                let plan = &self.exchanges[exchange];
                let is_lent = rules.agent(world, attempt).is_some_and(|(_, agent)| {
                    plan.request == Framing::Upgrade && agent.extras() > 0
                        || plan.is_stream && agent.extra_streams > 0
                });
                if is_lent {
                    continue;
                }
                let (upstream, agent) = (&world.ends[attempt.end], &world.ends[attempt.end ^ 1]);
                let Some(begins) = reached(&agent.history.written, attempt.begins + 1) else { continue };
                let ends = flight_end(&agent.history, attempt);
                if let Some(ends) = ends {
                    changes.push((upstream.process, agent.process, ends, false, exchange));
                }
                changes.push((upstream.process, agent.process, begins, true, exchange));
            }
        }
        for (number, probe) in self.probes().filter(|_| promises::PROBES_ARE_JOBS) {
            let (upstream, agent) = (&world.ends[probe.end], &world.ends[probe.end ^ 1]);
            let Some(begins) = reached(&agent.history.written, probe.begins + 1) else { continue };
            let ends = flight_end(&agent.history, probe);
            changes.extend(ends.map(|ends| (upstream.process, agent.process, ends, false, number)));
            changes.push((upstream.process, agent.process, begins, true, number));
        }
        // Ends before beginnings in the same call.
        changes.sort_by_key(|(upstream, agent, at, begins, exchange)| {
            (*upstream, *agent, *at, *begins, *exchange)
        });
        let mut in_flight: Vec<usize> = Vec::new();
        let mut of = None;
        for (upstream, agent, _, begins, exchange) in changes {
            if of != Some((upstream, agent)) {
                of = Some((upstream, agent));
                in_flight.clear();
            }
            if begins {
                in_flight.push(exchange);
            } else if let Some(index) = in_flight.iter().position(|other| *other == exchange) {
                in_flight.remove(index);
            }
            let jobs = in_flight.iter().filter(|it| !self.is_light(**it, rules)).count();
            if jobs > workers || in_flight.len() - jobs > workers + TUNNELS as usize {
                let name = &world.hosts[upstream].name;
                self.violations
                    .push(format!("{in_flight:?} in flight at {name}, which has {workers} workers"));
            }
        }
    }

    /// Requests go to agents whose tokens permit it.
    fn check_scopes(&mut self, world: &World, rules: &Rules<'_>) {
        let Some(setting) = rules.setting else { return };
        for exchange in 0..self.records.len() {
            let record = &self.records[exchange];
            let agents = record.attempts.iter().filter_map(|attempt| rules.agent(world, attempt));
            if agents.into_iter().any(|(number, _)| !setting.permits(number, &self.exchanges[exchange])) {
                self.violate(exchange, "served by an agent whose token does not permit it");
            }
        }
    }

    /// Requests are sent on in the order in which they were read. Those that were read in one turn have no
    /// order, nor has a request that waited for something else: for its body, for its turn on its connection,
    /// or not at all. One that may have been on a tunnel which was lost, before all of its head had gone
    /// there, was dispatched earlier than it seems.
    fn check_order(&mut self, world: &World, hub: usize, rules: &Rules<'_>) {
        let mut order: Vec<(u64, u64, usize)> = Vec::new();
        let of_agents = |end: usize| world.hosts[world.ends[end].process].name.starts_with("agent");
        let lost: Vec<u64> = (0..world.ends.len())
            .filter(|end| world.ends[*end].process == hub && of_agents(end ^ 1))
            .filter_map(|end| world.ends[end].history.closed.map(|at| at.turn))
            .collect();
        for (exchange, record) in self.records.iter().enumerate() {
            let plan = &self.exchanges[exchange];
            let first_of_connection = |client: usize| {
                self.records.iter().position(|other| other.client == Some(client)) == Some(exchange)
            };
            let (Some(client), Framing::None, "", None) =
                (record.client, plan.request, plan.field, plan.scope)
            else {
                continue;
            };
            // When a head is there is not to be seen under TLS: its record may wait, as that of a handshake
            // does. A small question need not wait.
            if !first_of_connection(client) || record.is_tls || self.is_light(exchange, rules) {
                continue;
            }
            let by_hub = |it: &&Sighting| it.exchange == exchange && world.ends[it.end].process == hub;
            let dispatched = world
                .sightings
                .iter()
                .find(by_hub)
                .filter(|it| !it.held_up)
                .and_then(|it| reached(&world.ends[it.end].history.written, it.begins + 1))
                .map(|at| at.turn);
            let arrived = (record.head_ends > 0)
                .then(|| reached(&world.ends[client ^ 1].history.read, record.head_ends))
                .flatten()
                .map(|at| at.turn);
            if let (Some(arrived), Some(dispatched)) = (arrived, dispatched)
                && !lost.iter().any(|lost| (arrived..=dispatched).contains(lost))
            {
                order.push((arrived, dispatched, exchange));
            }
        }
        order.sort_unstable();
        for (index, (arrived, dispatched, exchange)) in order.iter().enumerate() {
            let overtaken = order[index..].iter().find(|later| later.0 > *arrived && later.1 < *dispatched);
            if let Some((_, _, other)) = overtaken {
                self.violate(*exchange, format!("overtaken by {other}, which came later"));
            }
        }
    }
}

/// What holds for what stands between clients and upstreams.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rules<'a> {
    /// The process of the hub, if it is one.
    pub(crate) hub: Option<usize>,
    /// Requests that one agent may have in flight at one upstream.
    pub(crate) workers: Option<usize>,
    /// How hub and agents are set up, if these they are.
    pub(crate) setting: Option<&'a Setting>,
    /// The processes that are or were agents, with the numbers of their settings.
    pub(crate) agents: &'a [(usize, usize)],
    /// Whether there are agents that answer what they like.
    pub(crate) hostile_agents: bool,
}

impl<'a> Rules<'a> {
    /// Whether this process is or was an agent.
    fn is_agent(&self, process: usize) -> bool {
        self.agents.iter().any(|(agent, _)| *agent == process)
    }

    /// The agent that made an attempt: its number, and its configuration.
    fn agent(&self, world: &World, attempt: &Attempt) -> Option<(usize, &'a AgentConfig)> {
        let process = world.ends[attempt.end ^ 1].process;
        let (_, number) = *self.agents.iter().find(|(agent, _)| *agent == process)?;
        Some((number, &self.setting?.agents.get(number)?.config))
    }
}

/// When a total was reached.
fn reached(history: &[(u64, Moment)], total: u64) -> Option<Moment> {
    history.iter().find(|(reached, _)| *reached >= total).map(|(_, at)| *at)
}

/// When a request was no longer in flight for the agent that sent it.
fn flight_end(agent: &History, attempt: &Attempt) -> Option<Moment> {
    let over = match (attempt.request_ends, attempt.response_ends) {
        (Some(request), Some(response)) => {
            reached(&agent.written, request).zip(reached(&agent.read, response)).map(|(a, b)| a.max(b))
        }
        _ => None,
    };
    [over, agent.closed, agent.told_end].into_iter().flatten().min()
}
