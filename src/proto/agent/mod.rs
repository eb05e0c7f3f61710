//! The agent: keeps a tunnel to the hub open for each worker, and serves what comes through from its
//! upstream.
//!
//! One process serves several upstreams; each is an agent of its own with its own id and its own workers.
//! What a worker may be doing is drawn in `worker`. The parts know each other in one direction only: each
//! calls those that stand below it, and none above.
//!
//! | Part | What it does |
//! |---|---|
//! | this module | hands each event to the part that it is for |
//! | `tunnel`, `probe` | read what the hub sends, and what a probed upstream answers |
//! | `join` | opens a link: the connection, the proxy on the way, the handshake |
//! | `respond` | brings a response back |
//! | `serve` | brings a request to the upstream |
//! | `lend` | finds another worker for one whose exchange stays |
//! | `conclude` | ends an exchange that does not come to its regular end |
//! | `leftover` | reads what remains of one to its end |
//! | `health` | knows the upstreams, and who is there |
//! | `link` | dials, rests, stands aside, withdraws |
//! | `worker`, `serving`, `connections`, `sending`, `backoff`, `endings` | data with its own rules, which call nobody |
//!
//! What is said on the tunnel is known to [`super::tunnel`].
//!
//! # Who has to act, and what ends the waiting for it
//!
//! | State | Who has to act | Limit |
//! |---|---|---|
//! | `Resting` | this agent | the back-off, 30 s at most |
//! | `Starting` | the first probe | `--connect-timeout` |
//! | `Dialling`, `Passing`, `Joining` | the hub, or the proxy before it | `--connect-timeout` for all three |
//! | `Idle` | the hub | four and a half heartbeats; after a response TCP keep-alive, until the hub is heard of again |
//! | `Idle`, a head has begun | the hub | `--head-timeout` |
//! | `Serving`, `Gathering` | this agent | what has come is taken in at once |
//! | `Serving`, `Waiting` | the probe | `--connect-timeout` |
//! | `Serving`, `Dialling` | the upstream | `--connect-timeout` |
//! | `Serving`, request not taken | the upstream | `--stall-timeout` once it has begun to read or has answered; before that as for its answer |
//! | `Serving`, no answer | the upstream | the application's patience, or `--response-timeout` at the hub; the hub gets heartbeats meanwhile |
//! | `Serving`, 100 is expected | the upstream | the hub says it after a few seconds |
//! | `Serving`, a head has begun | the upstream | `--head-timeout` |
//! | `Serving`, in a body or upgraded | either side | the kernel's keep-alive; for an end that takes nothing `--stall-timeout`, at the hub ten times that |
//! | `Serving`, one half of an upgraded connection has ended | the other side | `--stall-timeout` from byte to byte; at an end of the process `--upgrade-drain` |
//! | `Leaving` | the hub | `linger`; with a response on its way ten times `--stall-timeout` |
//! | `Finishing` | the upstream | `--drain-timeout` from byte to byte |
//! | `Discarding` | the hub | `--stall-timeout` |
//! | `Spare`, `Stopped` | nobody | none: they have no connection |
//! | a kept connection | nobody | five seconds |
//! | a connection of nobody | its remote side | `linger` from byte to byte |
//! | a probe | the upstream | `--connect-timeout` |
//! | the process, once it is told to end | all of these | `--drain-timeout` |
//!
//! `audit` holds that each state has its limit.

mod audit;
mod backoff;
mod conclude;
mod connections;
mod drain;
mod endings;
mod health;
mod join;
mod leftover;
mod lend;
mod link;
mod probe;
mod report;
mod respond;
mod sending;
mod serve;
mod serving;
mod tunnel;
mod worker;

use alloc::vec::Vec;
use core::net::SocketAddr;

use log::{info, warn};

use self::connections::{Connections, Stalled, UpstreamUser};
use self::drain::Process;
use self::endings::{LinkEnd, describe};
use self::health::Upstreams;
use self::serving::{Leg, Serving, SpareServings};
use self::worker::{Closed, Stage, Worker};
use super::notice::{Count, Notices};
use super::random::Random;
use super::seam::{self, Command, Core, Shown, Step};
use super::tables::key::{Key, Kind, TableKey, TunnelKey, UpstreamKey, WorkerKey};
use super::tables::timed::TimedTable;
use super::tables::timer::{Mono, Now};
use super::tunnel::Trouble;
use crate::config::AgentConfig;

/// Why an agent that ends takes no work.
const DRAINING: Trouble<'_> = Trouble::new("draining");
/// Why an upstream gets nothing that no connection to it can be made for: the table of them is full.
const NO_KEY_LEFT: Trouble<'_> = Trouble::new("the agent can keep no more connections");

/// The agent's half of the core.
pub struct Agent {
    config: AgentConfig,
    workers: TimedTable<WorkerKey, Worker>,
    connections: Connections,
    upstreams: Upstreams,
    hub: Hub,
    process: Process,
    spare_servings: SpareServings,
    notices: Notices,
    random: Random,
}

/// What is known of the hub, and of proxies in front of it.
#[derive(Default)]
struct Hub {
    /// It has accepted the token before. Until it has, a rejected token is fatal.
    has_accepted: bool,
    /// A proxy in front of it passes only WebSocket upgrades: the last handshake was one of WebSocket, and
    /// succeeded.
    passes_websocket_only: bool,
    /// It knows light paths, so that it does not count the tunnels for them as workers.
    knows_light: bool,
}

impl Agent {
    /// An agent that begins now. `seed` makes its jitter.
    pub fn new(config: AgentConfig, seed: u64, now: Now) -> Self {
        let count = config.upstreams.len();
        let mut agent = Self {
            workers: TimedTable::default(),
            connections: Connections::new(config.limits),
            upstreams: Upstreams::unknown(count, now.mono),
            hub: Hub::default(),
            process: Process::Running,
            spare_servings: SpareServings::default(),
            notices: Notices::default(),
            random: Random(seed),
            config,
        };
        for upstream in agent.upstreams.indices() {
            for number in 0..agent.config.tunnels() {
                // The first ones dial as soon as it is known whether their upstream can be reached.
                let takes_part = number < agent.config.workers;
                let waits_for = if takes_part { Closed::Starting } else { Closed::Spare };
                let is_light = number >= agent.config.workers.saturating_add(agent.config.extras());
                agent.workers.insert(Worker::new(upstream, number, is_light, waits_for));
            }
        }
        agent
    }

    /// Counts what there is, for tests.
    pub fn census(&self) -> Census {
        let count =
            |is_meant: fn(&Worker) -> bool| self.workers.iter().filter(|(_, it)| is_meant(it)).count();
        let (tunnels, upstreams) = self.connections.count();
        Census {
            tunnels,
            upstreams,
            idle: count(|worker| worker.idle().is_some()),
            serving: count(|worker| worker.serving().is_some() || worker.finishing().is_some()),
        }
    }

    /// The request that a worker serves, and the tunnel that it came through.
    fn serving(&self, key: WorkerKey) -> Option<(TunnelKey, &Serving)> {
        let worker = self.workers.get(key)?;
        Some((worker.tunnel()?, worker.serving()?))
    }

    /// The worker that a connection belongs to.
    fn worker_of(&self, key: Key) -> Option<WorkerKey> {
        if let Some(tunnel) = TunnelKey::from_key(key) {
            return self.connections.worker_of(tunnel);
        }
        match self.connections.user_of(UpstreamKey::from_key(key)?)? {
            UpstreamUser::Worker(worker) => Some(worker),
            UpstreamUser::Probe(_) | UpstreamUser::Kept { .. } | UpstreamUser::Nobody { .. } => None,
        }
    }

    /// The lookup of a name is over. The time limit for connecting begins now.
    fn begin_to_connect(&mut self, key: Key, now: Now) {
        let by = now.mono.after(self.config.limits.connect);
        let worker = self.worker_of(key).and_then(|worker| self.workers.get_mut(worker));
        if key.kind() == Kind::Tunnel {
            if let Some(opening) = worker.and_then(Worker::opening_mut)
                && matches!(opening.stage, Stage::Dialling)
            {
                opening.until = by;
            }
        } else if let Some((_, serving)) = worker.and_then(Worker::serving_mut) {
            if let Leg::Dialling { until, .. } = &mut serving.leg {
                *until = by;
            }
        } else if let Some(UpstreamUser::Probe(index)) =
            UpstreamKey::from_key(key).and_then(|key| self.connections.user_of(key))
        {
            self.probe_connects(index, by);
        }
    }

    /// The next wake-up: when it is due, and whose it is.
    fn next_wake_up(&self) -> Option<(Mono, Key)> {
        self.workers.next().into_iter().chain(self.connections.next()).min()
    }

    /// The next wake-up of a table of this kind is due.
    fn wake_up(&mut self, kind: Kind, now: Now) {
        match kind {
            Kind::Worker => {
                if let Some(worker) = self.workers.pop_due(now.mono) {
                    self.expire_worker(worker, now);
                }
            }
            Kind::Tunnel => {
                if let Some(worker) = self.connections.expire_tunnel(now) {
                    self.process.note_short();
                    self.tunnel_lost(worker, LinkEnd::StoppedReading, now);
                }
            }
            Kind::Upstream => match self.connections.expire_upstream(now) {
                Some(Stalled::Worker(worker)) => self.upstream_stalled(worker, now),
                Some(Stalled::Probe(index)) => {
                    self.probe_failed(index, Trouble::new("it stopped reading"), now);
                }
                None => {}
            },
            Kind::Client | Kind::Exchange | Kind::Admin => {}
        }
    }

    fn check_drained(&mut self, now: Now) {
        let Some((until, is_short)) = self.process.drains_until() else { return };
        let is_done =
            self.workers.iter().all(|(_, worker)| worker.has_stopped()) && self.connections.are_done();
        if is_done || now.mono >= until {
            if !is_done {
                warn!("the drain timeout is over: {} cut off", Count(self.census().serving, "request"));
                self.reset_upgraded(now);
            }
            self.notices.handle_end(now.mono);
            self.exit(u8::from(!is_done || is_short));
        }
    }

    /// Nothing more is to be done.
    fn exit(&mut self, code: u8) {
        self.process = Process::Over;
        self.connections.tell(Command::Exit(code));
    }
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Connections to the hub.
    pub tunnels: usize,
    /// Connections to upstreams.
    pub upstreams: usize,
    /// Workers whose tunnel has joined and carries nothing.
    pub idle: usize,
    /// Workers that are busy with a request.
    pub serving: usize,
}

impl Core for Agent {
    fn handle_accepted(&mut self, _peer: SocketAddr, _is_tls: bool, _now: Now) -> Option<Key> {
        debug_assert!(false, "an agent accepts nobody");
        None
    }

    fn handle_insecure(&mut self, _key: Key) {}

    fn handle_exhausted(&mut self, _now: Now) -> bool {
        false
    }

    fn handle_resolved(&mut self, key: Key, now: Now) {
        self.begin_to_connect(key, now);
    }

    fn handle_connected(&mut self, key: Key, now: Now) {
        if let Some(key) = TunnelKey::from_key(key) {
            self.tunnel_connected(key);
        } else if let Some(key) = UpstreamKey::from_key(key) {
            match self.connections.user_of(key) {
                Some(UpstreamUser::Worker(worker)) => self.upstream_connected(worker, key, now),
                Some(UpstreamUser::Probe(index)) => self.probe_connected(index, now),
                Some(UpstreamUser::Kept { .. } | UpstreamUser::Nobody { .. }) | None => {}
            }
        }
    }

    fn handle_input(&mut self, key: Key, shown: Shown<'_>, now: Now) -> Step {
        if let Some(key) = TunnelKey::from_key(key) {
            return self.read_tunnel(key, shown, now);
        }
        let Some(key) = UpstreamKey::from_key(key) else { return Step::Wait };
        match self.connections.user_of(key) {
            Some(UpstreamUser::Worker(worker)) => self.read_upstream(worker, key, shown, now),
            Some(UpstreamUser::Probe(index)) => self.read_probe(index, shown, now),
            Some(UpstreamUser::Kept { .. }) => {
                // Its end, or a response to no request (RFC 9112 section 9.3).
                if shown.is_news() {
                    self.connections.drop_upstream(key);
                }
                Step::Wait
            }
            Some(UpstreamUser::Nobody { .. }) | None => Step::Wait,
        }
    }

    fn wants_input(&self, key: Key) -> bool {
        if let Some(key) = TunnelKey::from_key(key) {
            return self.wants_tunnel_input(key);
        }
        match UpstreamKey::from_key(key).and_then(|key| self.connections.user_of(key)) {
            Some(UpstreamUser::Worker(worker)) => self.wants_response(worker),
            // A kept connection is read to notice its end.
            Some(UpstreamUser::Probe(_) | UpstreamUser::Kept { .. }) => true,
            Some(UpstreamUser::Nobody { .. }) | None => false,
        }
    }

    fn opaque(&self, key: Key) -> u64 {
        let serving = self.worker_of(key).and_then(|worker| self.workers.get(worker)?.serving());
        let Some(serving) = serving.filter(|it| matches!(it.leg, Leg::Paired { .. })) else { return 0 };
        match key.kind() {
            Kind::Tunnel => serving.messages.opaque_request(),
            Kind::Upstream | Kind::Client | Kind::Exchange | Kind::Worker | Kind::Admin => {
                serving.messages.opaque_response()
            }
        }
    }

    fn handle_opaque(&mut self, key: Key, n: u64, before: &mut Vec<u8>, now: Now) -> &'static [u8] {
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let worker = self.worker_of(key).and_then(|worker| self.workers.get_mut(worker));
        let Some((_, serving)) = worker.and_then(Worker::serving_mut) else { return b"" };
        serving.pass_opaque(key.kind() == Kind::Tunnel, n, before, stalled_by)
    }

    fn handle_hangup(&mut self, key: Key, now: Now) {
        if let Some(key) = TunnelKey::from_key(key) {
            self.tunnel_hung_up(key, now);
        } else if let Some(key) = UpstreamKey::from_key(key) {
            match self.connections.user_of(key) {
                Some(UpstreamUser::Kept { .. }) => self.connections.drop_upstream(key),
                Some(UpstreamUser::Worker(worker)) => self.upstream_hung_up(worker, key, now),
                // A probe without a path only asks whether a connection can be made. One with a path reads
                // the answer, and finds the end behind it.
                Some(UpstreamUser::Probe(_) | UpstreamUser::Nobody { .. }) | None => {}
            }
        }
    }

    fn handle_send_progress(&mut self, key: Key, waiting: bool, now: Now) {
        if let Some(key) = TunnelKey::from_key(key) {
            self.connections.note_tunnel_progress(key, waiting, now);
        } else if let Some(upstream) = UpstreamKey::from_key(key) {
            let serving = self.worker_of(key).and_then(|worker| self.workers.get(worker)?.serving());
            let may_be_busy = serving.is_some_and(|serving| !serving.messages.is_answered());
            self.connections.note_upstream_progress(upstream, waiting, may_be_busy, now);
        }
    }

    fn handle_closed(&mut self, key: Key, reason: seam::Closed, now: Now) {
        if let Some(key) = TunnelKey::from_key(key) {
            if let Some(worker) = self.connections.forget_tunnel(key) {
                self.tunnel_lost(worker, LinkEnd::Connection(reason), now);
            }
        } else if let Some(key) = UpstreamKey::from_key(key) {
            match self.connections.forget_upstream(key) {
                Some(UpstreamUser::Worker(worker)) => self.upstream_lost(worker, reason, now),
                Some(UpstreamUser::Probe(index)) => {
                    self.probe_failed(index, Trouble::new(describe(reason)), now);
                }
                Some(UpstreamUser::Kept { .. } | UpstreamUser::Nobody { .. }) | None => {}
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        while let Some((at, key)) = self.next_wake_up()
            && at <= now.mono
        {
            self.wake_up(key.kind(), now);
        }
        self.check_probes(now);
        if self.process.cuts_upgraded(now) {
            self.reset_upgraded(now);
        }
        self.notices.handle_timeout(now.mono);
    }

    fn next_timeout(&self) -> Option<Mono> {
        let in_tables = self.next_wake_up().map(|(at, _)| at);
        let others = [self.process.next_timeout(), self.notices.next_timeout()];
        let next = others.into_iter().chain(in_tables).chain(self.upstreams.next_timeout()).min();
        next.filter(|next| *next != Mono::NEVER)
    }

    fn handle_drain(&mut self, now: Now) {
        if self.process.is_draining() {
            warn!("second signal: {} cut off", Count(self.census().serving, "request"));
            self.reset_upgraded(now);
            self.exit(1);
            return;
        }
        info!("draining: taking no new requests");
        let (until, upgraded_until) =
            (now.mono.after(self.config.drain_timeout), now.mono.after(self.config.upgrade_drain));
        self.process = Process::draining(until, upgraded_until);
        let workers: Vec<WorkerKey> = self.workers.iter().map(|(key, _)| key).collect();
        for worker in workers {
            self.withdraw(worker, DRAINING, now);
        }
    }

    fn handle_batch_end(&mut self, now: Now) {
        self.check_drained(now);
        self.workers.end_batch();
        self.connections.end_batch();
    }

    fn commands(&mut self) -> &mut Vec<Command> {
        self.connections.commands()
    }
}

#[cfg(test)]
#[path = "../tests/agent/mod.rs"]
mod tests;
