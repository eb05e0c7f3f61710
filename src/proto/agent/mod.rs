//! The agent: keeps a tunnel to the hub open for each worker, and serves what comes through from its
//! upstream.
//!
//! ```text
//!   worker    Resting -> Dialling (-> Passing) -> Joining -> Joined <-> Serving
//!                ^                                             |           |
//!                +-------------------- Leaving <---------------+-----------+
//!
//!   With `--on-cancel drain` also Serving -> Finishing -> Leaving.
//! ```
//!
//! One process serves several upstreams; each is an agent of its own with its own id and its own workers.
//! This module owns the tables and hands events to its parts: `join` dials and joins, `link` keeps the idle
//! tunnel, `backoff` knows when to try again; `serve` brings a request to the upstream, `respond` its
//! response back, `conclude` ends what does not end that way, `lend` finds another worker for one whose
//! exchange stays, and `leftover` is what remains; `sending` is what waits to be sent to an upstream;
//! `health` knows whether an upstream can be reached. What is said on the tunnel is known to
//! [`super::tunnel`].
//!
//! # Who has to act, and what ends the waiting for it
//!
//! | State | Who has to act | Limit |
//! |---|---|---|
//! | `Resting` | this agent | the back-off, 30 s at most; at the start the first probe, which has `--connect-timeout` |
//! | `Dialling`, `Passing`, `Joining` | the hub, or the proxy before it | `--connect-timeout` for all three |
//! | `Joined` | the hub | four and a half heartbeats; from a response to the next word of the hub the kernel's keep-alive |
//! | `Joined`, a head has begun | the hub | `--head-timeout` |
//! | `Serving`, `Gathering` | this agent | what has come is taken in at once |
//! | `Serving`, `Waiting` | the probe | `--connect-timeout` |
//! | `Serving`, `Dialling` | the upstream | `--connect-timeout` |
//! | `Serving`, request not taken | the upstream | `--stall-timeout` once it has begun to read or has answered; before that as for its answer |
//! | `Serving`, no answer | the upstream | the application's patience, or `--response-timeout` at the hub; the hub gets a sign of life each heartbeat |
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
mod endings;
mod health;
mod join;
mod leftover;
mod lend;
mod link;
mod respond;
mod sending;
mod serve;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use log::{info, warn};

use self::backoff::Backoff;
use self::endings::{Failure, LinkEnd, describe};
use self::health::Health;
use self::leftover::{Discarding, Finishing};
use self::sending::Sending;
use self::serve::{Serving, SpareServings};
use super::http1::head::HeadScan;
use super::notice::{Count, Notices};
use super::random::Random;
use super::seam::{Close, Closed, Command, Core, Shown, Step};
use super::tables::key::{Key, Kind, TableKey, TunnelKey, UpstreamKey, WorkerKey};
use super::tables::table::Table;
use super::tables::timer::{Armed, Mono, Now, TimerTable};
use super::tunnel::{IN_BETWEEN, Trouble};
use super::websocket::Nonce;
use crate::config::AgentConfig;

/// Why an agent that ends takes no work.
const DRAINING: Trouble<'_> = Trouble::new("draining");

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
    /// What is before the hub passes no upgrade but WebSocket's: the last handshake was one of those, and
    /// came through.
    websocket: bool,
    draining: Option<Draining>,
    notices: Notices,
    /// By index of the configured upstreams: with how many workers its agent has joined, as the log has it.
    told_joined: Vec<usize>,
    /// Whether the hub knows light paths. Tunnels for these are no workers to it then.
    hub_knows_light: bool,
    /// By index of the configured upstreams: until then the hub is taken to have no room for one more worker.
    full_until: Vec<Mono>,
}

/// The process is ending.
#[derive(Clone, Copy)]
struct Draining {
    /// What is still served then is cut off.
    until: Mono,
    /// Upgraded connections are cut off then; [`Mono::NEVER`] once they were, until there is another one.
    upgraded_until: Mono,
    /// The end of a response may not have come to its application.
    is_short: bool,
    /// The shell has been told to end.
    is_over: bool,
}

struct Worker {
    /// Index of the configured upstream.
    upstream: u16,
    number: u32,
    /// It takes requests for light paths and no others, and is no worker to anybody but this agent.
    is_light: bool,
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

/// An upstream connection between two requests lasts this long: enough for requests that follow each other,
/// and no more, because some servers serve nobody else meanwhile.
const KEPT: Duration = Duration::from_secs(5);

impl Kept {
    fn until(&self) -> Mono {
        self.last_used.after_coarse(KEPT)
    }
}

/// An idle worker is small: there are many of them, and what only a busy one has is elsewhere.
enum WorkerState {
    /// Until the next attempt.
    Resting { until: Mono },
    /// The connection to the hub is being made, for a handshake of WebSocket if there is a nonce.
    Dialling { tunnel: TunnelKey, until: Mono, nonce: Option<Nonce> },
    /// The proxy on the way to the hub was asked to connect to it.
    Passing { tunnel: TunnelKey, until: Mono, nonce: Option<Nonce>, scan: HeadScan },
    /// The handshake is under way.
    Joining { tunnel: TunnelKey, until: Mono, nonce: Option<Nonce>, scan: HeadScan, said: Said },
    /// The tunnel is idle. The hub must be heard of by then.
    Joined { tunnel: TunnelKey, heard_by: Mono, since: Mono, scan: HeadScan, said: Said },
    /// A request is being served.
    Serving(Box<Serving>),
    /// The worker has withdrawn, and waits for the hub to close the tunnel. A response before that may be on
    /// its way.
    Leaving { tunnel: TunnelKey, until: Mono, served: bool },
    /// The application has left, and the upstream's answer is read to its end.
    Finishing(Box<Finishing>),
    /// The response is complete, and the rest of the request is dropped as it comes.
    Discarding(Box<Discarding>),
    /// It stands aside, until another one is lent to an upgraded connection or a stream, or until the hub is
    /// known to know light paths.
    Spare,
    /// The process is ending.
    Stopped,
}

/// What a worker has told the hub of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// It takes requests.
    Ready,
    /// It takes none, and answers.
    Loading,
    /// It takes none.
    Down,
}

impl Said {
    fn of(trouble: Option<Trouble<'_>>) -> Self {
        match trouble {
            None => Self::Ready,
            Some(Trouble { is_loading: true, .. }) => Self::Loading,
            Some(Trouble { is_loading: false, .. }) => Self::Down,
        }
    }
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
    sending: Sending,
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

impl Worker {
    /// When something is to be done about it, though nothing happens.
    fn deadline(&self) -> Mono {
        let kept_until = self.kept.map_or(Mono::NEVER, |kept| kept.until());
        let until = match &self.state {
            WorkerState::Resting { until }
            | WorkerState::Dialling { until, .. }
            | WorkerState::Passing { until, .. }
            | WorkerState::Joining { until, .. }
            | WorkerState::Joined { heard_by: until, .. }
            | WorkerState::Leaving { until, .. } => *until,
            WorkerState::Serving(serving) => serving.deadline(),
            WorkerState::Discarding(discarding) => discarding.until,
            WorkerState::Finishing(finishing) => finishing.deadline(),
            WorkerState::Spare | WorkerState::Stopped => Mono::NEVER,
        };
        until.min(kept_until)
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
            told_joined: vec![0; health.len()],
            hub_knows_light: false,
            full_until: vec![Mono::default(); health.len()],
            health,
            timers: TimerTable::default(),
            commands: Vec::new(),
            random: Random(seed),
            accepted: false,
            websocket: false,
            draining: None,
            config,
        };
        for upstream in 0..u16::try_from(agent.config.upstreams.len()).unwrap_or(u16::MAX) {
            for number in 0..agent.config.tunnels() {
                // The first ones dial as soon as it is known whether their upstream can be reached.
                let takes_part = number < agent.config.workers;
                let state =
                    if takes_part { WorkerState::Resting { until: Mono::NEVER } } else { WorkerState::Spare };
                agent.workers.insert(Worker {
                    upstream,
                    number,
                    is_light: number >= agent.config.workers.saturating_add(agent.config.extras()),
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
            UpstreamOf::Nobody { until } => until.min(upstream.sending.by()),
            UpstreamOf::Worker(_) | UpstreamOf::Probe(_) => upstream.sending.by(),
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

    /// Closes the connections that are kept between two requests at an upstream.
    fn drop_kept(&mut self, index: u16) {
        let of_it = self.workers.iter().filter(|(_, worker)| worker.upstream == index);
        let kept: Vec<WorkerKey> =
            of_it.filter(|(_, worker)| worker.kept.is_some()).map(|(key, _)| key).collect();
        for key in kept {
            if let Some(kept) = self.workers.get_mut(key).and_then(|worker| worker.kept.take()) {
                self.drop_upstream(kept.connection);
            }
        }
    }

    fn check_drained(&mut self, now: Now) {
        let Some(draining) = self.draining.filter(|draining| !draining.is_over) else { return };
        let is_sending = |upstream: &Upstream| {
            matches!(upstream.of, UpstreamOf::Nobody { .. }) && upstream.sending.waits()
        };
        let done = self.workers.iter().all(|(_, worker)| matches!(worker.state, WorkerState::Stopped))
            && self.tunnels.is_empty()
            && !self.upstreams.iter().any(|(_, upstream)| is_sending(upstream));
        if done || now.mono >= draining.until {
            if !done {
                warn!("the drain timeout is over: {} cut off", Count(self.census().serving, "request"));
                self.reset_upgraded(now);
            }
            self.notices.handle_end(now.mono);
            self.exit(u8::from(!done || draining.is_short));
        }
    }

    /// Nothing more is to be done.
    fn exit(&mut self, code: u8) {
        if let Some(draining) = &mut self.draining {
            draining.is_over = true;
            draining.until = Mono::NEVER;
            draining.upgraded_until = Mono::NEVER;
        }
        self.commands.push(Command::Exit(code));
    }

    /// Ends upgraded connections: a process that ends would close each with FIN, which is the regular end of
    /// a direction.
    fn reset_upgraded(&mut self, now: Now) {
        let upgraded: Vec<WorkerKey> = self
            .workers
            .iter()
            .filter(|(_, worker)| {
                matches!(&worker.state, WorkerState::Serving(serving) if serving.messages.is_upgraded())
            })
            .map(|(key, _)| key)
            .collect();
        for key in upgraded {
            self.cut(key, Failure::AgentEnds, now);
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

    fn handle_resolved(&mut self, key: Key, now: Now) {
        self.begin_to_connect(key, now);
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

    fn handle_input(&mut self, key: Key, shown: Shown<'_>, now: Now) -> Step {
        if let Some(key) = TunnelKey::from_key(key) {
            self.handle_tunnel_input(key, shown, now)
        } else if let Some(key) = UpstreamKey::from_key(key) {
            match self.upstreams.get(key).map(|upstream| upstream.of) {
                Some(UpstreamOf::Worker(worker)) => self.read_upstream(worker, key, shown, now),
                Some(UpstreamOf::Probe(index)) => self.read_probe(index, shown, now),
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

    fn opaque(&self, key: Key) -> u64 {
        let Some((serving, is_tunnel)) = self.serving_over(key) else { return 0 };
        if is_tunnel { serving.messages.opaque_request() } else { serving.messages.opaque_response() }
    }

    fn handle_opaque(&mut self, key: Key, n: u64, before: &mut Vec<u8>, now: Now) -> &'static [u8] {
        let stalled_by = now.mono.after_coarse(self.config.limits.stall);
        let Some(worker) = self.worker_over(key) else { return b"" };
        let is_tunnel = key.kind() == Kind::Tunnel;
        let Some(serving) = self.serving(worker) else { return b"" };
        serving.pass_opaque(is_tunnel, n, before, stalled_by)
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
        if let Some(key) = TunnelKey::from_key(key) {
            if let Some(tunnel) = self.tunnels.get_mut(key) {
                tunnel.send_by =
                    if waiting { now.mono.after_coarse(stall * IN_BETWEEN) } else { Mono::NEVER };
                self.arm_tunnel(key);
            }
        } else if let Some(key) = UpstreamKey::from_key(key)
            && let Some(upstream) = self.upstreams.get(key)
        {
            let may_be_busy = match upstream.of {
                UpstreamOf::Worker(worker) => {
                    self.serving(worker).is_some_and(|serving| !serving.messages.is_answered())
                }
                UpstreamOf::Probe(_) | UpstreamOf::Nobody { .. } => false,
            };
            let Some(upstream) = self.upstreams.get_mut(key) else { return };
            upstream.sending.note(waiting, may_be_busy, now.mono, stall);
            self.arm_upstream(key);
        }
    }

    fn handle_closed(&mut self, key: Key, reason: Closed, now: Now) {
        if let Some(key) = TunnelKey::from_key(key) {
            let worker = self.worker_of(key);
            self.tunnels.remove(key);
            if let Some(worker) = worker {
                self.tunnel_lost(worker, LinkEnd::Connection(reason), now);
            }
        } else if let Some(key) = UpstreamKey::from_key(key) {
            match self.upstreams.remove(key).map(|upstream| upstream.of) {
                Some(UpstreamOf::Worker(worker)) => self.upstream_lost(worker, key, reason, now),
                Some(UpstreamOf::Probe(index)) => {
                    self.probe_failed(index, Trouble::new(describe(reason)), now)
                }
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
        if let Some(draining) = &mut self.draining
            && draining.upgraded_until <= now.mono
        {
            draining.upgraded_until = Mono::NEVER;
            self.reset_upgraded(now);
        }
        self.notices.handle_timeout(now.mono);
    }

    fn next_timeout(&self) -> Option<Mono> {
        let mut next = self.timers.next().unwrap_or(Mono::NEVER).min(self.notices.next_timeout());
        if let Some(draining) = self.draining {
            next = next.min(draining.until).min(draining.upgraded_until);
        }
        for health in &self.health {
            next = next.min(health.deadline());
        }
        (next != Mono::NEVER).then_some(next)
    }

    fn handle_drain(&mut self, now: Now) {
        if self.draining.is_some() {
            warn!("second signal: {} cut off", Count(self.census().serving, "request"));
            self.reset_upgraded(now);
            self.exit(1);
            return;
        }
        info!("draining: taking no new requests");
        self.draining = Some(Draining {
            until: now.mono.after(self.config.drain_timeout),
            upgraded_until: now.mono.after(self.config.upgrade_drain),
            is_short: false,
            is_over: false,
        });
        let workers: Vec<WorkerKey> = self.workers.iter().map(|(key, _)| key).collect();
        for worker in workers {
            self.withdraw(worker, DRAINING, now);
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
                self.note_short();
                self.tunnel_lost(worker, LinkEnd::StoppedReading, now);
            }
            TunnelOf::Nobody { .. } | TunnelOf::Worker { .. } => self.arm_tunnel(key),
        }
    }

    /// The end of a response may not have come to its application, which counts only if the process is
    /// ending.
    fn note_short(&mut self) {
        if let Some(draining) = &mut self.draining {
            draining.is_short = true;
        }
    }

    fn expire_upstream(&mut self, key: Key, at: Mono, now: Now) {
        let Some(key) = UpstreamKey::from_key(key) else { return };
        let Some(upstream) = self.upstreams.get_mut(key) else { return };
        if !TimerTable::disarm(&mut upstream.armed, at) {
            return;
        }
        let is_late = upstream.sending.by() <= now.mono;
        let is_sending = !is_late && upstream.sending.waits();
        match &mut upstream.of {
            UpstreamOf::Worker(worker) if is_late => {
                let worker = *worker;
                self.drop_upstream(key);
                self.upstream_stalled(worker, now);
            }
            UpstreamOf::Probe(index) if is_late => {
                let index = *index;
                self.drop_upstream(key);
                self.probe_failed(index, Trouble::new("it stopped reading"), now);
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
#[path = "../tests/agent/mod.rs"]
mod tests;
