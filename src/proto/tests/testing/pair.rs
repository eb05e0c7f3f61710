//! The real hub and real agents on one virtual clock, with applications and upstreams whose bytes the test
//! writes and reads.

mod raw;
mod setup;

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

use raw::RawEnd;
pub(crate) use setup::{Setup, UNIX, sealed, token, token_key};

use super::driver::Driver;
use super::wires::{Ended, WireEnd, Wires};
use crate::proto::agent::Agent;
use crate::proto::hub::Hub;
use crate::proto::info::Info;
use crate::proto::seam::{Core, Target, Unreachable};
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::trust::agent_token::AgentToken;
use crate::proto::tunnel::{Hello, Light, Trouble};

/// Hub, agents, and the ends of the world around them.
pub(crate) struct Pair {
    pub(crate) now: Now,
    pub(crate) wires: Wires,
    pub(crate) hub: Driver<Hub>,
    pub(crate) agents: Vec<Driver<Agent>>,
    raws: Vec<RawEnd>,
    setup: Setup,
    pub(crate) to_hub: Reach,
    pub(crate) to_upstream: Reach,
    /// Connections that were made to a [`Reach::Raw`] target and were not taken by the test yet.
    arrivals: Vec<(Target, WireEnd)>,
    /// All attempts to connect so far.
    pub(crate) dials: Vec<(Target, Mono)>,
}

/// What becomes of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the hub of the pair.
    Hub,
    /// To a [`Raw`] end.
    Raw,
    /// It fails at once.
    Fails(Unreachable),
    /// Nothing is ever heard of it.
    Silent,
    /// It is told this and ended before it stands.
    Ends(&'static str),
}

/// An end of a connection that the test plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw(usize);

/// Heads without the fields whose values are others in each message: the name of a request, and its times.
pub(crate) fn without_names(text: &str) -> String {
    const NAMES: [&str; 2] = ["X-Request-Id: ", "Server-Timing: queue"];
    text.split_inclusive('\n').filter(|line| !NAMES.iter().any(|name| line.starts_with(name))).collect()
}

impl Pair {
    /// Goes on until nothing happens any more without time passing.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let before = self.wires.moves;
            self.dial();
            self.hub.wake(&mut self.wires, self.now);
            for agent in &mut self.agents {
                agent.wake(&mut self.wires, self.now);
            }
            self.hub.turn(&mut self.wires, self.now);
            for agent in &mut self.agents {
                agent.turn(&mut self.wires, self.now);
            }
            for raw in &mut self.raws {
                raw.turn(&mut self.wires);
            }
            if self.wires.moves == before {
                return self.audit();
            }
        }
        panic!("it never comes to rest");
    }

    /// At rest all tables hold what they should.
    fn audit(&self) {
        if self.hub.exit.is_none() {
            assert_eq!(self.hub.core.audit(), None);
        }
        for agent in self.agents.iter().filter(|agent| agent.exit.is_none()) {
            assert_eq!(agent.core.audit(), None);
        }
    }

    /// Lets time pass. Everything that is due meanwhile happens at its time.
    pub(crate) fn advance(&mut self, by: Duration) {
        let until = self.now.mono.after(by);
        for _ in 0..1_000_000 {
            self.settle();
            let own = self.hub.core.next_timeout().filter(|_| self.hub.exit.is_none());
            let of_agents = self.agents.iter().filter(|agent| agent.exit.is_none());
            let next = of_agents.filter_map(|agent| agent.core.next_timeout()).chain(own).min();
            let at = next.map_or(until, |next| next.min(until));
            let passed = at.since(self.now.mono);
            assert!(next.is_none_or(|next| next > self.now.mono), "a deadline passed and nobody looked");
            self.now.unix += at.0 / 1000 - self.now.mono.0 / 1000;
            self.now.mono = self.now.mono.after(passed);
            if at == until && next.is_none_or(|next| next > until) {
                self.settle();
                return;
            }
        }
        panic!("too much happens");
    }

    /// An application connects to the hub.
    pub(crate) fn client(&mut self) -> Raw {
        let (own, other) = self.wires.connect();
        self.accept_at_hub(other);
        let raw = self.raw(own);
        self.settle();
        raw
    }

    /// An agent that the test plays joins the hub with this token, as the agent `a`.
    pub(crate) fn raw_agent(&mut self, token: &AgentToken, worker: u32) -> Raw {
        self.raw_agent_called(token, "a", worker, None)
    }

    pub(crate) fn raw_agent_called(
        &mut self,
        token: &AgentToken,
        agent_id: &str,
        worker: u32,
        withdrawn: Option<&str>,
    ) -> Raw {
        self.raw_agent_in_trouble(token, agent_id, worker, withdrawn.map(Trouble::new))
    }

    pub(crate) fn raw_agent_in_trouble(
        &mut self,
        token: &AgentToken,
        agent_id: &str,
        worker: u32,
        withdrawn: Option<Trouble<'_>>,
    ) -> Raw {
        let raw = self.client();
        let mut hello = Vec::new();
        Hello {
            token: &sealed(token),
            agent_id,
            worker,
            withdrawn,
            websocket: None,
            light: Light::None,
            info: Info::default(),
        }
        .write("hub.test", "", None, &mut hello);
        self.send(raw, hello);
        raw
    }

    /// Takes the next connection that was made to an upstream.
    pub(crate) fn upstream(&mut self) -> Raw {
        self.arrival(|target| matches!(target, Target::Upstream(_)))
    }

    /// Takes the next connection that was made to a hub that the test plays.
    pub(crate) fn raw_hub(&mut self) -> Raw {
        self.arrival(|target| matches!(target, Target::Hub))
    }

    /// How many connections wait to be taken.
    pub(crate) fn arrivals(&self) -> usize {
        self.arrivals.len()
    }

    pub(crate) fn arrivals_of(&self, target: Target) -> usize {
        self.arrivals.iter().filter(|(other, _)| *other == target).count()
    }

    /// How many attempts to connect to the hub there were.
    pub(crate) fn hub_dials(&self) -> usize {
        self.dials.iter().filter(|(target, _)| *target == Target::Hub).count()
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, raw: Raw, bytes: impl AsRef<[u8]>) {
        self.raws[raw.0].to_send.extend(bytes.as_ref());
        self.settle();
    }

    /// Sends bytes that arrive together with what is done next.
    pub(crate) fn send_quietly(&mut self, raw: Raw, bytes: impl AsRef<[u8]>) {
        let wire = self.raws[raw.0].wire;
        assert_eq!(self.wires.write(wire, bytes.as_ref()), Ok(bytes.as_ref().len()));
    }

    /// Takes what was received since the last time, without what is another one in each message.
    pub(crate) fn got(&mut self, raw: Raw) -> String {
        without_names(&self.got_whole(raw))
    }

    /// Takes what was received since the last time.
    pub(crate) fn got_whole(&mut self, raw: Raw) -> String {
        String::from_utf8(self.got_bytes(raw)).unwrap()
    }

    pub(crate) fn got_bytes(&mut self, raw: Raw) -> Vec<u8> {
        core::mem::take(&mut self.raws[raw.0].received)
    }

    /// How the other side ended the connection, if it has.
    pub(crate) fn ended(&self, raw: Raw) -> Option<Ended> {
        self.raws[raw.0].ended
    }

    /// The connection of this end.
    pub(crate) fn wire(&self, raw: Raw) -> WireEnd {
        self.raws[raw.0].wire
    }

    /// FIN, once everything is sent.
    pub(crate) fn finish(&mut self, raw: Raw) {
        self.raws[raw.0].finish = true;
        self.settle();
    }

    /// The process behind this end goes.
    pub(crate) fn close(&mut self, raw: Raw) {
        let end = &mut self.raws[raw.0];
        if !core::mem::replace(&mut end.closed, true) {
            self.wires.close(end.wire);
        }
        self.settle();
    }

    /// As [`Pair::close`], together with what is done next.
    pub(crate) fn close_quietly(&mut self, raw: Raw) {
        self.raws[raw.0].closed = true;
        self.wires.close(self.raws[raw.0].wire);
    }

    pub(crate) fn reset(&mut self, raw: Raw) {
        self.raws[raw.0].closed = true;
        self.wires.reset(self.raws[raw.0].wire);
        self.settle();
    }

    /// As [`Pair::reset`], but it arrives only when the other side writes next: that write is told of it, and
    /// nobody was before.
    pub(crate) fn reset_at_write(&mut self, raw: Raw) {
        self.raws[raw.0].closed = true;
        self.wires.reset_at_write(self.raws[raw.0].wire);
    }

    /// Reads this many bytes more and no others.
    pub(crate) fn reads_only(&mut self, raw: Raw, bytes: usize) {
        self.raws[raw.0].appetite = bytes;
        self.settle();
    }

    /// The hub's process is killed. Nobody listens until [`Pair::start_hub`].
    pub(crate) fn kill_hub(&mut self) {
        self.hub.exit = Some(137);
        self.hub.end_process(&mut self.wires);
        self.to_hub = Reach::Fails(Unreachable::Refused);
        self.settle();
    }

    pub(crate) fn start_hub(&mut self) {
        self.hub = Driver::new(setup::counting(self.setup.hub.clone(), 2, self.now));
        self.to_hub = Reach::Hub;
        self.settle();
    }

    /// An agent's process is killed, and another one is started in its place.
    pub(crate) fn kill_agent(&mut self, index: usize) {
        self.agents[index].end_process(&mut self.wires);
        let config = self.setup.agents[index].1.clone();
        self.agents[index] = Driver::new(Agent::new(config, self.now.mono.0, self.now));
        self.settle();
    }

    /// Does something to the hub's core that is not an event of a connection.
    pub(crate) fn at_hub(&mut self, act: impl FnOnce(&mut Hub, Now)) {
        act(&mut self.hub.core, self.now);
        self.hub.obey(&mut self.wires, self.now);
        self.settle();
    }

    pub(crate) fn drain_hub(&mut self) {
        self.at_hub(|hub, now| hub.handle_drain(now));
    }

    pub(crate) fn drain_agent(&mut self) {
        self.agents[0].core.handle_drain(self.now);
        self.agents[0].obey(&mut self.wires, self.now);
        self.settle();
    }

    /// All applications leave. Then nothing is left at the hub but `tunnels`, and nothing is held anywhere.
    pub(crate) fn assert_quiet(&mut self, tunnels: usize) {
        for index in 0..self.raws.len() {
            self.close(Raw(index));
        }
        self.advance(Duration::from_secs(12));
        let census = self.hub.core.census();
        let rest = crate::proto::hub::Census { tunnels, ..Default::default() };
        assert_eq!(census, rest, "something is left at the hub");
        assert_eq!(self.hub.census(), (tunnels, 0), "left at the hub:\n{}", self.describe());
        for agent in self.agents.iter().filter(|agent| agent.exit.is_none()) {
            let crate::proto::agent::Census { tunnels, upstreams, serving, .. } = agent.core.census();
            assert_eq!(serving, 0, "a worker still serves");
            if self.arrivals() > 0 {
                // A probe of the upstream is under way.
                continue;
            }
            assert_eq!(agent.census(), (tunnels + upstreams, 0), "left at an agent:\n{}", self.describe());
        }
    }

    /// All connections, in words.
    pub(crate) fn describe(&self) -> String {
        let agents =
            self.agents.iter().map(|agent| format!("agent {:?}:\n{}", agent.core.census(), agent.describe()));
        let agents: Vec<_> = agents.collect();
        format!("hub {:?}:\n{}\n{}", self.hub.core.census(), self.hub.describe(), agents.join("\n"))
    }

    fn arrival(&mut self, is_meant: impl Fn(Target) -> bool) -> Raw {
        let at = self.arrivals.iter().position(|(target, _)| is_meant(*target));
        let (_, wire) = self.arrivals.remove(at.expect("nobody has connected"));
        let raw = self.raw(wire);
        self.settle();
        raw
    }

    fn raw(&mut self, wire: WireEnd) -> Raw {
        self.raws.push(RawEnd {
            wire,
            to_send: Vec::new(),
            finish: false,
            received: Vec::new(),
            ended: None,
            is_reset: false,
            appetite: usize::MAX,
            closed: false,
        });
        Raw(self.raws.len() - 1)
    }

    fn accept_at_hub(&mut self, wire: WireEnd) {
        if self.hub.exit.is_some() {
            return self.wires.reset(wire);
        }
        let peer = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 40_000));
        let key = self.hub.core.handle_accepted(peer, false, self.now);
        self.hub.obey(&mut self.wires, self.now);
        match key {
            Some(key) => self.hub.open(key, wire),
            None => self.wires.close(wire),
        }
    }

    fn dial(&mut self) {
        for index in 0..self.agents.len() {
            for (key, target) in core::mem::take(&mut self.agents[index].dials) {
                self.wires.moves += 1;
                self.dials.push((target, self.now.mono));
                let reach = match (target, self.to_hub) {
                    (Target::Hub, Reach::Hub) if self.hub.exit.is_some() => {
                        Reach::Fails(Unreachable::Refused)
                    }
                    (Target::Hub, to_hub) => to_hub,
                    (Target::Upstream(_), _) => self.to_upstream,
                };
                match reach {
                    Reach::Hub | Reach::Raw => {
                        let (own, other) = self.wires.connect();
                        if reach == Reach::Hub {
                            self.accept_at_hub(other);
                        } else {
                            self.arrivals.push((target, other));
                        }
                        self.agents[index].connected(key, own, &mut self.wires, self.now);
                    }
                    Reach::Fails(why) => {
                        self.agents[index].unreachable(key, why, &mut self.wires, self.now);
                    }
                    Reach::Silent => {}
                    Reach::Ends(bytes) => {
                        let (own, other) = self.wires.connect();
                        if !bytes.is_empty() {
                            assert_eq!(self.wires.write(other, bytes.as_bytes()), Ok(bytes.len()));
                        }
                        self.wires.close(other);
                        self.agents[index].connected(key, own, &mut self.wires, self.now);
                    }
                }
            }
        }
    }
}
