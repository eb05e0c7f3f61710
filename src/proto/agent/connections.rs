//! The connections of an agent: its tunnels, and those to its upstreams, with what the shell is told about
//! them.
//!
//! A connection belongs to a worker or a probe, is kept between two requests, or belongs to nobody any more:
//! it is sent what waits for it, and FIN after that. This module does not know what the bytes mean.

use alloc::vec::Vec;
use core::time::Duration;

use super::sending::Sending;
use crate::config::Limits;
use crate::proto::deadline::{Limit, SendLimit};
use crate::proto::seam::{Close, Command, Target};
use crate::proto::tables::key::{Key, TunnelKey, UpstreamKey, WorkerKey};
use crate::proto::tables::timed::{Timed, TimedTable};
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::tunnel::IN_BETWEEN;

/// How long an upstream connection is kept between two requests: long enough for requests that follow each
/// other. Some servers serve nobody else meanwhile.
const KEPT_CONNECTION_AGE: Duration = Duration::from_secs(5);

/// All connections, and what the shell is told to do.
pub(super) struct Connections {
    limits: Limits,
    tunnels: TimedTable<TunnelKey, Tunnel>,
    upstreams: TimedTable<UpstreamKey, ToUpstream>,
    /// By slot of the worker: the connection that is kept for its next request.
    kept: Vec<Option<UpstreamKey>>,
    commands: Vec<Command>,
}

/// A connection to the hub.
pub(super) struct Tunnel {
    sending: SendLimit,
    user: TunnelUser,
}

#[derive(Clone, Copy)]
enum TunnelUser {
    Worker {
        key: WorkerKey,
        /// The hub has closed its direction, though a request that it sent before may be unread.
        left: bool,
    },
    Nobody {
        until: Mono,
    },
}

/// A connection to an upstream.
struct ToUpstream {
    sending: Sending,
    user: UpstreamUser,
}

/// Whose an upstream connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamUser {
    /// It carries a request, or an answer that is read to its end.
    Worker(WorkerKey),
    /// It finds out whether the upstream with this index can be reached.
    Probe(u16),
    /// It is kept for the next request of this worker.
    Kept { worker: WorkerKey, last_used: Mono },
    /// It is being ended.
    Nobody { until: Mono },
}

impl Timed for Tunnel {
    fn deadline(&self) -> Mono {
        match self.user {
            TunnelUser::Worker { .. } => self.sending.deadline(),
            TunnelUser::Nobody { until } => until.min(self.sending.deadline()),
        }
    }
}

impl Timed for ToUpstream {
    fn deadline(&self) -> Mono {
        let until = match self.user {
            UpstreamUser::Worker(_) | UpstreamUser::Probe(_) => Limit::NONE.deadline(),
            UpstreamUser::Kept { last_used, .. } => last_used.after_coarse(KEPT_CONNECTION_AGE),
            UpstreamUser::Nobody { until } => until,
        };
        until.min(self.sending.limit().deadline())
    }
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            tunnels: TimedTable::default(),
            upstreams: TimedTable::default(),
            kept: Vec::new(),
            commands: Vec::new(),
        }
    }

    pub(super) fn commands(&mut self) -> &mut Vec<Command> {
        &mut self.commands
    }

    pub(super) fn tell(&mut self, command: Command) {
        self.commands.push(command);
    }

    pub(super) fn send(&mut self, key: impl Into<Key>, bytes: Vec<u8>) {
        self.commands.push(Command::Send { key: key.into(), bytes });
    }

    /// How many tunnels and upstream connections there are.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.tunnels.len(), self.upstreams.len())
    }

    /// Whether nothing is left that an ending process has to wait for.
    pub(super) fn are_done(&self) -> bool {
        let is_sending =
            |it: &ToUpstream| matches!(it.user, UpstreamUser::Nobody { .. }) && it.sending.waits();
        self.tunnels.is_empty() && !self.upstreams.iter().any(|(_, it)| is_sending(it))
    }

    /// The next wake-up: when it is due, and whose it is.
    pub(super) fn next(&self) -> Option<(Mono, Key)> {
        self.tunnels.next().into_iter().chain(self.upstreams.next()).min()
    }

    pub(super) fn end_batch(&mut self) {
        self.tunnels.end_batch();
        self.upstreams.end_batch();
    }
}

/// Tunnels.
impl Connections {
    pub(super) fn dial_hub(&mut self, worker: WorkerKey) -> Option<TunnelKey> {
        let user = TunnelUser::Worker { key: worker, left: false };
        let key = self.tunnels.insert(Tunnel { sending: SendLimit::IDLE, user })?;
        self.tell(Command::Dial { key: key.into(), target: Target::Hub });
        Some(key)
    }

    pub(super) fn worker_of(&self, key: TunnelKey) -> Option<WorkerKey> {
        match self.tunnels.get(key)?.user {
            TunnelUser::Worker { key, .. } => Some(key),
            TunnelUser::Nobody { .. } => None,
        }
    }

    /// The hub has closed its direction of a tunnel. Returns whose tunnel it is.
    pub(super) fn note_left(&mut self, key: TunnelKey) -> Option<WorkerKey> {
        let TunnelUser::Worker { key, left } = &mut self.tunnels.get_mut(key)?.user else { return None };
        *left = true;
        Some(*key)
    }

    /// Whether the hub has closed its direction of a tunnel.
    pub(super) fn has_left(&self, key: TunnelKey) -> bool {
        let tunnel = self.tunnels.get(key);
        tunnel.is_none_or(|tunnel| matches!(tunnel.user, TunnelUser::Worker { left: true, .. }))
    }

    /// Whether something waits until a tunnel takes it.
    pub(super) fn is_sending(&self, key: TunnelKey) -> bool {
        self.tunnels.get(key).is_some_and(|tunnel| tunnel.sending.is_sending())
    }

    pub(super) fn note_tunnel_progress(&mut self, key: TunnelKey, waiting: bool, now: Now) {
        let stall = self.limits.stall * IN_BETWEEN;
        self.tunnels.change(key, |tunnel| tunnel.sending = SendLimit::of(waiting, stall, now));
    }

    /// Sends a tunnel what waits for it, then FIN. The tunnel belongs to nobody from now on.
    pub(super) fn retire_tunnel(&mut self, key: TunnelKey, now: Now) {
        let until = now.mono.after(self.limits.linger);
        if self.tunnels.change(key, |tunnel| tunnel.user = TunnelUser::Nobody { until }).is_some() {
            self.tell(Command::Close(key.into(), Close::Linger));
        }
    }

    pub(super) fn drop_tunnel(&mut self, key: TunnelKey) {
        self.end_tunnel(key, Close::Now);
    }

    pub(super) fn end_tunnel(&mut self, key: TunnelKey, how: Close) {
        if self.tunnels.remove(key).is_some() {
            self.tell(Command::Close(key.into(), how));
        }
    }

    /// The shell has closed a tunnel. Returns whose tunnel it was.
    pub(super) fn forget_tunnel(&mut self, key: TunnelKey) -> Option<WorkerKey> {
        let worker = self.worker_of(key);
        self.tunnels.remove(key);
        worker
    }

    /// Closes the tunnel that is due, if it takes nothing. Returns whose tunnel it was.
    pub(super) fn expire_tunnel(&mut self, now: Now) -> Option<WorkerKey> {
        let key = self.tunnels.pop_due(now.mono)?;
        let linger = self.limits.linger;
        let tunnel = self.tunnels.get_mut(key)?;
        let is_late = tunnel.sending.has_passed(now);
        let (is_over, worker) = match &mut tunnel.user {
            TunnelUser::Worker { key, .. } => (is_late, Some(*key)),
            TunnelUser::Nobody { until } if *until > now.mono => (is_late, None),
            // A peer that still takes some of what waits for it gets more time.
            TunnelUser::Nobody { until } if !is_late && tunnel.sending.is_sending() => {
                *until = now.mono.after(linger);
                (false, None)
            }
            TunnelUser::Nobody { .. } => (true, None),
        };
        if is_over {
            self.drop_tunnel(key);
            return worker;
        }
        self.tunnels.rearm(key);
        None
    }
}

/// What is wrong with an upstream connection that takes nothing of what waits for it: it stalls a request, or
/// a probe.
pub(super) enum Stalled {
    Worker(WorkerKey),
    Probe(u16),
}

/// Upstream connections.
impl Connections {
    pub(super) fn dial_upstream(&mut self, index: u16, user: UpstreamUser) -> Option<UpstreamKey> {
        let key = self.upstreams.insert(ToUpstream { sending: Sending::Nothing, user })?;
        self.tell(Command::Dial { key: key.into(), target: Target::Upstream(index) });
        Some(key)
    }

    pub(super) fn user_of(&self, key: UpstreamKey) -> Option<UpstreamUser> {
        Some(self.upstreams.get(key)?.user)
    }

    /// Whether something waits until an upstream takes it.
    pub(super) fn upstream_waits(&self, key: UpstreamKey) -> bool {
        self.upstreams.get(key).is_some_and(|it| it.sending.waits())
    }

    /// Whether an upstream has taken everything that was sent to it.
    pub(super) fn has_taken_all(&self, key: UpstreamKey) -> bool {
        self.upstreams.get(key).is_some_and(|it| !it.sending.waits())
    }

    /// `may_be_busy`: it may serve somebody else, and read nothing of what is sent to it before that is done.
    pub(super) fn note_upstream_progress(
        &mut self,
        key: UpstreamKey,
        waiting: bool,
        may_be_busy: bool,
        now: Now,
    ) {
        let stall = self.limits.stall;
        self.upstreams.change(key, |it| it.sending.note(waiting, may_be_busy, now.mono, stall));
    }

    /// An upstream has answered, and is not busy with something else: it is expected to read.
    pub(super) fn expect_reading(&mut self, key: UpstreamKey, now: Now) {
        if self.upstream_waits(key) {
            let stall = self.limits.stall;
            self.upstreams.change(key, |it| it.sending.expect_reading(now.mono, stall));
        }
    }

    /// Keeps a connection for the next request of its worker, unless bytes of the last request still wait:
    /// they will never be sent, and the upstream would take what followed for them. Returns whether the
    /// connection is kept.
    pub(super) fn keep(&mut self, key: UpstreamKey, worker: WorkerKey, now: Now) -> bool {
        if self.upstream_waits(key) {
            return false;
        }
        let user = UpstreamUser::Kept { worker, last_used: now.mono };
        let idle = ToUpstream { sending: Sending::Nothing, user };
        if self.upstreams.change(key, |it| *it = idle).is_none() {
            return false;
        }
        let slot = Key::from(worker).slot();
        if slot >= self.kept.len() {
            self.kept.resize(slot + 1, None);
        }
        self.kept[slot] = Some(key);
        true
    }

    /// Takes the connection that is kept for a worker, and when it was used last.
    pub(super) fn take_kept(&mut self, worker: WorkerKey) -> Option<(UpstreamKey, Mono)> {
        let key = self.kept.get_mut(Key::from(worker).slot())?.take()?;
        let it = self.upstreams.get_mut(key)?;
        let UpstreamUser::Kept { last_used, .. } = it.user else { return None };
        it.user = UpstreamUser::Worker(worker);
        Some((key, last_used))
    }

    /// Closes the connection that is kept for a worker.
    pub(super) fn drop_kept(&mut self, worker: WorkerKey) {
        if let Some(key) = self.kept.get_mut(Key::from(worker).slot()).and_then(Option::take) {
            self.drop_upstream(key);
        }
    }

    /// Sends an upstream what waits for it, then FIN. The connection belongs to nobody from now on.
    pub(super) fn retire_upstream(&mut self, key: UpstreamKey, now: Now) {
        let Limits { linger, stall, .. } = self.limits;
        let is_there = self.upstreams.change(key, |it| {
            it.user = UpstreamUser::Nobody { until: now.mono.after(linger) };
            it.sending.expect_reading(now.mono, stall);
        });
        if is_there.is_some() {
            self.tell(Command::Close(key.into(), Close::Linger));
        }
    }

    pub(super) fn drop_upstream(&mut self, key: UpstreamKey) {
        self.end_upstream(key, Close::Now);
    }

    pub(super) fn end_upstream(&mut self, key: UpstreamKey, how: Close) {
        if self.forget_upstream(key).is_some() {
            self.tell(Command::Close(key.into(), how));
        }
    }

    /// The shell has closed an upstream connection. Returns whose connection it was.
    pub(super) fn forget_upstream(&mut self, key: UpstreamKey) -> Option<UpstreamUser> {
        let user = self.upstreams.remove(key)?.user;
        if let UpstreamUser::Kept { worker, .. } = user
            && let Some(kept) = self.kept.get_mut(Key::from(worker).slot())
        {
            *kept = None;
        }
        Some(user)
    }

    /// Closes the upstream connection that is due, if it takes nothing. Returns whom it stalled.
    pub(super) fn expire_upstream(&mut self, now: Now) -> Option<Stalled> {
        let key = self.upstreams.pop_due(now.mono)?;
        let linger = self.limits.linger;
        let it = self.upstreams.get_mut(key)?;
        let is_late = it.sending.limit().has_passed(now);
        let (is_over, stalled) = match &mut it.user {
            UpstreamUser::Worker(worker) => (is_late, Some(Stalled::Worker(*worker))),
            UpstreamUser::Probe(index) => (is_late, Some(Stalled::Probe(*index))),
            UpstreamUser::Kept { last_used, .. } => {
                (last_used.after_coarse(KEPT_CONNECTION_AGE) <= now.mono, None)
            }
            UpstreamUser::Nobody { until } if *until > now.mono => (is_late, None),
            // A peer that still takes some of what waits for it gets more time.
            UpstreamUser::Nobody { until } if !is_late && it.sending.waits() => {
                *until = now.mono.after(linger);
                (false, None)
            }
            UpstreamUser::Nobody { .. } => (true, None),
        };
        if is_over {
            self.drop_upstream(key);
            return stalled;
        }
        self.upstreams.rearm(key);
        None
    }
}

/// For `audit`.
impl Connections {
    /// The workers that have tunnels, in no order.
    pub(super) fn tunnels_of_workers(&self) -> impl Iterator<Item = (WorkerKey, TunnelKey)> {
        self.tunnels.iter().filter_map(|(key, _)| Some((self.worker_of(key)?, key)))
    }

    /// The workers that have upstream connections, in no order.
    pub(super) fn upstreams_of_workers(&self) -> impl Iterator<Item = (WorkerKey, UpstreamKey)> {
        self.upstreams.iter().filter_map(|(key, it)| match it.user {
            UpstreamUser::Worker(worker) => Some((worker, key)),
            UpstreamUser::Probe(_) | UpstreamUser::Kept { .. } | UpstreamUser::Nobody { .. } => None,
        })
    }

    /// Whether the list of kept connections and the connections themselves disagree.
    pub(super) fn has_lost_kept(&self) -> bool {
        let kept = self.upstreams.iter().filter(|(_, it)| matches!(it.user, UpstreamUser::Kept { .. }));
        let known = self.kept.iter().flatten();
        known
            .clone()
            .any(|key| !self.user_of(*key).is_some_and(|user| matches!(user, UpstreamUser::Kept { .. })))
            || known.count() != kept.count()
    }

    /// Whether a deadline of a connection has no wake-up.
    pub(super) fn is_any_unarmed(&self) -> bool {
        self.tunnels.is_any_unarmed() || self.upstreams.is_any_unarmed()
    }
}
