//! The agent: keeps a tunnel to the hub open for each worker, and serves what comes through from its upstream.
//!
//! ```text
//!   worker    Resting -> Dialling (-> Passing) -> Joining -> Joined <-> Serving
//!                ^                                             |           |
//!                +-------------------- Leaving <---------------+-----------+   (and Finishing, with --on-cancel drain)
//! ```
//!
//! One process serves several upstreams; each is an agent of its own with its own id and its own workers. This module owns the
//! tables and hands events to its parts: `join` dials and joins, `link` keeps the idle tunnel, `backoff` knows when to try again;
//! `serve` brings a request to the upstream, `respond` its response back, `conclude` ends what does not end that way, and `leftover`
//! is what remains; `health` knows whether an upstream can be reached. What is said on the tunnel is known to [`super::tunnel`].

mod audit;
mod backoff;
mod conclude;
mod health;
mod join;
mod leftover;
mod link;
mod respond;
mod serve;

use core::net::SocketAddr;

use log::{info, warn};

use self::backoff::Backoff;
use self::health::Health;
use self::leftover::{Discarding, Finishing};
use self::serve::{Serving, SpareServings};
use super::http1::head::HeadScan;
use super::key::{Key, Kind, TableKey, TunnelKey, UpstreamKey, WorkerKey};
use super::notice::{Count, Notices};
use super::seam::{Close, Closed, Command, Core, End, Step};
use super::table::Table;
use super::timer::{Armed, Mono, Now, TimerTable};
use super::tunnel::IN_BETWEEN;
use crate::config::AgentConfig;

/// The agent's half of the core.
pub struct Agent {
    config: AgentConfig,
    workers: Table<WorkerKey, Worker>,
    tunnels: Table<TunnelKey, Tunnel>,
    upstreams: Table<UpstreamKey, Upstream>,
    /// By index of the configured upstreams.
    health: Vec<Health>,
    spare_servings: SpareServings,
    timers: TimerTable,
    commands: Vec<Command>,
    random: Random,
    /// Whether the hub has ever taken the token. Before that, a refusal of it is fatal.
    accepted: bool,
    draining: Option<Mono>,
    notices: Notices,
    /// By index of the configured upstreams: whether the log knows its agent as one that has joined.
    told_joined: Vec<bool>,
}

struct Worker {
    /// Index of the configured upstream.
    upstream: u16,
    number: u32,
    backoff: Backoff,
    armed: Armed,
    /// An upstream connection between two requests.
    kept: Option<Kept>,
    state: WorkerState,
}

#[derive(Clone, Copy)]
struct Kept {
    connection: UpstreamKey,
    last_used: Mono,
}

/// An idle worker is small: there are many of them, and what only a busy one has is elsewhere.
enum WorkerState {
    /// Until the next attempt.
    Resting { until: Mono },
    /// The connection to the hub is being made.
    Dialling { tunnel: TunnelKey, until: Mono },
    /// The proxy on the way to the hub was asked to connect to it.
    Passing { tunnel: TunnelKey, until: Mono, scan: HeadScan },
    /// The handshake is under way.
    Joining { tunnel: TunnelKey, until: Mono, scan: HeadScan, ready: bool },
    /// The tunnel is idle. The hub must be heard of by then.
    Joined { tunnel: TunnelKey, heard_by: Mono, since: Mono, scan: HeadScan, ready: bool },
    /// A request is being served.
    Serving(Box<Serving>),
    /// The worker has withdrawn, and waits for the hub to close the tunnel.
    Leaving { tunnel: TunnelKey, until: Mono },
    /// The application has left, and the upstream's answer is read to its end.
    Finishing(Box<Finishing>),
    /// The response is complete, and the rest of the request is dropped as it comes.
    Discarding(Box<Discarding>),
    /// It stands aside, until another one's connection is upgraded.
    Spare,
    /// The process is ending.
    Stopped,
}

struct Tunnel {
    armed: Armed,
    /// It takes no bytes though some wait; by then it must have taken one.
    send_by: Mono,
    of: TunnelOf,
}

#[derive(Clone, Copy)]
enum TunnelOf {
    Worker {
        key: WorkerKey,
        /// The hub has closed its direction, though a request that it sent before may be unread.
        left: bool,
    },
    /// What waits is being sent, then FIN. No worker's any more.
    Nobody { until: Mono },
}

struct Upstream {
    armed: Armed,
    send_by: Mono,
    of: UpstreamOf,
}

#[derive(Clone, Copy)]
enum UpstreamOf {
    Worker(WorkerKey),
    /// It finds out whether the upstream with this index can be reached.
    Probe(u16),
    /// What waits is being sent, then FIN.
    Nobody {
        until: Mono,
    },
}

/// A small generator for jitter (SplitMix64, Steele, Lea and Flood 2014), seeded by the shell.
struct Random(u64);

impl Random {
    /// A number below `bound`, or 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(bound).unwrap_or(0)
    }
}

impl Worker {
    /// When something is to be done about it, though nothing happens.
    fn deadline(&self) -> Mono {
        match &self.state {
            WorkerState::Resting { until }
            | WorkerState::Dialling { until, .. }
            | WorkerState::Passing { until, .. }
            | WorkerState::Joining { until, .. }
            | WorkerState::Joined { heard_by: until, .. }
            | WorkerState::Leaving { until, .. } => *until,
            WorkerState::Serving(serving) => serving.deadline(),
            WorkerState::Discarding(discarding) => discarding.until,
            WorkerState::Finishing(_) | WorkerState::Spare | WorkerState::Stopped => Mono::NEVER,
        }
    }
}

impl Agent {
    /// An agent that begins now. `seed` makes its jitter.
    pub fn new(config: AgentConfig, seed: u64, now: Now) -> Self {
        let health: Vec<_> = config.upstreams.iter().map(|_| Health::unknown(now.mono)).collect();
        let mut agent = Self {
            workers: Table::new(),
            tunnels: Table::new(),
            upstreams: Table::new(),
            spare_servings: SpareServings::default(),
            notices: Notices::default(),
            told_joined: vec![false; health.len()],
            health,
            timers: TimerTable::default(),
            commands: Vec::new(),
            random: Random(seed),
            accepted: false,
            draining: None,
            config,
        };
        for upstream in 0..u16::try_from(agent.config.upstreams.len()).unwrap_or(u16::MAX) {
            for number in 0..agent.config.workers.saturating_add(agent.config.extra_upgrades) {
                // The first ones dial as soon as it is known whether their upstream can be reached.
                let takes_part = number < agent.config.workers;
                let state =
                    if takes_part { WorkerState::Resting { until: Mono::NEVER } } else { WorkerState::Spare };
                agent.workers.insert(Worker {
                    upstream,
                    number,
                    backoff: Backoff::default(),
                    armed: Armed::default(),
                    kept: None,
                    state,
                });
            }
        }
        agent
    }

    /// What there is, for tests.
    pub fn census(&self) -> Census {
        let count = |is_meant: fn(&WorkerState) -> bool| {
            self.workers.iter().filter(|(_, worker)| is_meant(&worker.state)).count()
        };
        Census {
            tunnels: self.tunnels.len(),
            upstreams: self.upstreams.len(),
            idle: count(|state| matches!(state, WorkerState::Joined { .. })),
            serving: count(|state| matches!(state, WorkerState::Serving(_) | WorkerState::Finishing(_))),
        }
    }

    fn arm_worker(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get_mut(key) else { return };
        let deadline = worker.deadline();
        self.timers.arm(&mut worker.armed, key.into(), deadline);
    }

    fn arm_tunnel(&mut self, key: TunnelKey) {
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        let until = match tunnel.of {
            TunnelOf::Nobody { until } => until.min(tunnel.send_by),
            TunnelOf::Worker { .. } => tunnel.send_by,
        };
        self.timers.arm(&mut tunnel.armed, key.into(), until);
    }

    fn arm_upstream(&mut self, key: UpstreamKey) {
        let Some(upstream) = self.upstreams.get_mut(key) else { return };
        let until = match upstream.of {
            UpstreamOf::Nobody { until } => until.min(upstream.send_by),
            UpstreamOf::Worker(_) | UpstreamOf::Probe(_) => upstream.send_by,
        };
        self.timers.arm(&mut upstream.armed, key.into(), until);
    }

    fn worker_of(&self, tunnel: TunnelKey) -> Option<WorkerKey> {
        match self.tunnels.get(tunnel)?.of {
            TunnelOf::Worker { key, .. } => Some(key),
            TunnelOf::Nobody { .. } => None,
        }
    }

    /// Lets a tunnel have what is on its way to it, then FIN. Its worker has nothing to do with it any more.
    fn retire_tunnel(&mut self, key: TunnelKey, now: Now) {
        let until = now.mono.after(self.config.limits.linger);
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        tunnel.of = TunnelOf::Nobody { until };
        self.commands.push(Command::Close(key.into(), Close::Linger));
        self.arm_tunnel(key);
    }

    fn drop_tunnel(&mut self, key: TunnelKey) {
        if self.tunnels.remove(key).is_some() {
            self.commands.push(Command::Close(key.into(), Close::Now));
        }
    }

    fn drop_upstream(&mut self, key: UpstreamKey) {
        if self.upstreams.remove(key).is_some() {
            self.commands.push(Command::Close(key.into(), Close::Now));
        }
    }

    fn check_drained(&mut self, now: Now) {
        let Some(until) = self.draining else { return };
        let done = self.workers.iter().all(|(_, worker)| matches!(worker.state, WorkerState::Stopped))
            && self.tunnels.is_empty();
        if done || now.mono >= until {
            self.draining = None;
            if !done {
                warn!("the drain timeout is over: {} cut off", Count(self.census().serving, "request"));
            }
            self.notices.handle_end(now.mono);
            self.commands.push(Command::Exit(u8::from(!done)));
        }
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

    fn handle_connected(&mut self, key: Key, now: Now) {
        if let Some(key) = TunnelKey::from_key(key) {
            self.tunnel_connected(key);
        } else if let Some(key) = UpstreamKey::from_key(key) {
            match self.upstreams.get(key).map(|upstream| upstream.of) {
                Some(UpstreamOf::Worker(worker)) => self.upstream_connected(worker, key, now),
                Some(UpstreamOf::Probe(index)) => self.probe_connected(index, now),
                Some(UpstreamOf::Nobody { .. }) | None => {}
            }
        }
    }

    fn handle_input(
        &mut self,
        key: Key,
        input: &[u8],
        end: Option<End>,
        out: &mut Vec<u8>,
        now: Now,
    ) -> Step {
        if let Some(key) = TunnelKey::from_key(key) {
            self.handle_tunnel_input(key, input, end, out, now)
        } else if let Some(key) = UpstreamKey::from_key(key) {
            match self.upstreams.get(key).map(|upstream| upstream.of) {
                Some(UpstreamOf::Worker(worker)) => self.read_upstream(worker, key, input, end, out, now),
                Some(UpstreamOf::Probe(index)) => self.read_probe(index, input, end, now),
                Some(UpstreamOf::Nobody { .. }) | None => Step::Wait,
            }
        } else {
            Step::Wait
        }
    }

    fn wants_input(&self, key: Key) -> bool {
        if let Some(key) = TunnelKey::from_key(key) {
            self.wants_tunnel_input(key)
        } else if let Some(key) = UpstreamKey::from_key(key) {
            self.wants_upstream_input(key)
        } else {
            false
        }
    }

    fn unseen(&self, key: Key) -> u64 {
        let Some((serving, is_tunnel)) = self.serving_over(key) else { return 0 };
        if is_tunnel { serving.messages.unseen_request() } else { serving.messages.unseen_response() }
    }

    fn handle_unseen(&mut self, key: Key, n: u64, before: &mut Vec<u8>, now: Now) -> &'static [u8] {
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let Some(worker) = self.worker_over(key) else { return b"" };
        let is_tunnel = key.kind() == Kind::Tunnel;
        let Some(serving) = self.serving(worker) else { return b"" };
        serving.pass_unseen(is_tunnel, n, before, stalled_by)
    }

    fn handle_hangup(&mut self, key: Key, now: Now) {
        if let Some(key) = TunnelKey::from_key(key) {
            self.tunnel_hung_up(key, now);
        } else if let Some(key) = UpstreamKey::from_key(key) {
            self.upstream_hung_up(key);
        }
    }

    fn handle_send_progress(&mut self, key: Key, waiting: bool, now: Now) {
        let stall = self.config.limits.stall;
        let send_by = |limit| if waiting { now.mono.after_coarse(limit) } else { Mono::NEVER };
        if let Some(key) = TunnelKey::from_key(key) {
            if let Some(tunnel) = self.tunnels.get_mut(key) {
                tunnel.send_by = send_by(stall * IN_BETWEEN);
                self.arm_tunnel(key);
            }
        } else if let Some(key) = UpstreamKey::from_key(key)
            && let Some(upstream) = self.upstreams.get_mut(key)
        {
            upstream.send_by = send_by(stall);
            self.arm_upstream(key);
        }
    }

    fn handle_closed(&mut self, key: Key, reason: Closed, now: Now) {
        if let Some(key) = TunnelKey::from_key(key) {
            let worker = self.worker_of(key);
            self.tunnels.remove(key);
            if let Some(worker) = worker {
                self.tunnel_lost(worker, health::describe(reason), now);
            }
        } else if let Some(key) = UpstreamKey::from_key(key) {
            match self.upstreams.remove(key).map(|upstream| upstream.of) {
                Some(UpstreamOf::Worker(worker)) => self.upstream_lost(worker, key, reason, now),
                Some(UpstreamOf::Probe(index)) => self.probe_failed(index, health::describe(reason), now),
                Some(UpstreamOf::Nobody { .. }) | None => {}
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        while let Some((at, key)) = self.timers.pop_due(now.mono) {
            match key.kind() {
                Kind::Worker => self.expire_worker(key, at, now),
                Kind::Tunnel => self.expire_tunnel(key, at, now),
                Kind::Upstream => self.expire_upstream(key, at, now),
                Kind::Client | Kind::Exchange => {}
            }
        }
        self.check_health(now);
        self.notices.handle_timeout(now.mono);
    }

    fn next_timeout(&self) -> Option<Mono> {
        let mut next = self.timers.next().unwrap_or(Mono::NEVER).min(self.draining.unwrap_or(Mono::NEVER));
        next = next.min(self.notices.next_timeout());
        for health in &self.health {
            next = next.min(health.deadline());
        }
        (next != Mono::NEVER).then_some(next)
    }

    fn handle_drain(&mut self, now: Now) {
        if self.draining.is_some() {
            warn!("second signal: {} cut off", Count(self.census().serving, "request"));
            self.commands.push(Command::Exit(1));
            return;
        }
        info!("draining: taking no new requests");
        self.draining = Some(now.mono.after(self.config.drain_timeout));
        let workers: Vec<WorkerKey> = self.workers.iter().map(|(key, _)| key).collect();
        for worker in workers {
            self.withdraw(worker, "draining", now);
        }
    }

    fn handle_batch_end(&mut self, now: Now) {
        self.check_drained(now);
        let entries = self.workers.len() + self.tunnels.len() + self.upstreams.len();
        self.timers.prune(entries, |key| match key.kind() {
            Kind::Worker => Some(self.workers.get(WorkerKey::from_key(key)?)?.armed),
            Kind::Tunnel => Some(self.tunnels.get(TunnelKey::from_key(key)?)?.armed),
            Kind::Upstream => Some(self.upstreams.get(UpstreamKey::from_key(key)?)?.armed),
            Kind::Client | Kind::Exchange => None,
        });
        self.workers.end_batch();
        self.tunnels.end_batch();
        self.upstreams.end_batch();
    }

    fn commands(&mut self) -> &mut Vec<Command> {
        &mut self.commands
    }
}

impl Agent {
    fn expire_tunnel(&mut self, key: Key, at: Mono, now: Now) {
        let Some(key) = TunnelKey::from_key(key) else { return };
        let Some(tunnel) = self.tunnels.get_mut(key) else { return };
        if !TimerTable::disarm(&mut tunnel.armed, at) {
            return;
        }
        let send_by = tunnel.send_by;
        match &mut tunnel.of {
            // What it is still being sent counts as long as it takes any of it.
            TunnelOf::Nobody { until }
                if *until <= now.mono && send_by > now.mono && send_by != Mono::NEVER =>
            {
                *until = now.mono.after(self.config.limits.linger);
                self.arm_tunnel(key);
            }
            TunnelOf::Nobody { until } if (*until).min(send_by) <= now.mono => self.drop_tunnel(key),
            TunnelOf::Worker { key: worker, .. } if send_by <= now.mono => {
                let worker = *worker;
                self.drop_tunnel(key);
                self.tunnel_lost(worker, "the hub stopped reading", now);
            }
            TunnelOf::Nobody { .. } | TunnelOf::Worker { .. } => self.arm_tunnel(key),
        }
    }

    fn expire_upstream(&mut self, key: Key, at: Mono, now: Now) {
        let Some(key) = UpstreamKey::from_key(key) else { return };
        let Some(upstream) = self.upstreams.get_mut(key) else { return };
        if !TimerTable::disarm(&mut upstream.armed, at) {
            return;
        }
        let is_late = upstream.send_by <= now.mono;
        let is_sending = !is_late && upstream.send_by != Mono::NEVER;
        match &mut upstream.of {
            UpstreamOf::Worker(worker) if is_late => {
                let worker = *worker;
                self.drop_upstream(key);
                self.upstream_stalled(worker, now);
            }
            UpstreamOf::Probe(index) if is_late => {
                let index = *index;
                self.drop_upstream(key);
                self.probe_failed(index, "it stopped reading", now);
            }
            // What it is still being sent counts as long as it takes any of it.
            UpstreamOf::Nobody { until } if *until <= now.mono && is_sending => {
                *until = now.mono.after(self.config.limits.linger);
                self.arm_upstream(key);
            }
            UpstreamOf::Nobody { until } if is_late || *until <= now.mono => self.drop_upstream(key),
            UpstreamOf::Worker(_) | UpstreamOf::Probe(_) | UpstreamOf::Nobody { .. } => {
                self.arm_upstream(key)
            }
        }
    }
}

#[cfg(test)]
mod tests;
