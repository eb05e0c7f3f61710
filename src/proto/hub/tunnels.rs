//! What the hub knows of its tunnels: whose each one is, what it is good for, and what its agent owes; and
//! the agents to which they belong.
//!
//! A tunnel is pooled if and only if it is ready and owes no heartbeat. Which tunnels are in the pool, how
//! many of an agent are ready, and which agents owe a heartbeat follow from the states of the tunnels. Nobody
//! else can change a state, so nobody can leave one of them out.

use alloc::vec::Vec;

use log::debug;

use super::Refusal;
use super::ending::TunnelEnd;
use super::pool::{AgentSlot, ClassId, Joined, Joining, Member, Need, News, Pool, Refused, Swept, TooMany};
use crate::proto::deadline::SendLimit;
use crate::proto::http1::head::HeadScan;
use crate::proto::tables::key::{ExchangeKey, TunnelKey};
use crate::proto::tables::list::NodeId;
use crate::proto::tables::table::Table;
use crate::proto::tables::timer::{Armed, Mono, Now, TimerTable};
use crate::proto::trust::revocation::Revocations;
use crate::proto::tunnel::Trouble;

/// The tunnels and their agents. They are read anywhere, and changed here only.
pub(super) struct Tunnels {
    table: Table<TunnelKey, Tunnel>,
    pool: Pool,
}

/// A tunnel has left its agent.
pub(super) struct Leave {
    /// The tunnel that has its name, if another one has: it may have waited for this one.
    pub(super) successor: Option<TunnelKey>,
}

impl Tunnels {
    pub(super) fn new(pool: Pool) -> Self {
        Self { table: Table::new(), pool }
    }

    pub(super) fn get(&self, key: TunnelKey) -> Option<&Tunnel> {
        self.table.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TunnelKey, &Tunnel)> {
        self.table.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The agents.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Enters a tunnel under its name. It takes no work yet.
    ///
    /// # Errors
    /// The hub, or its token, has all its tunnels already.
    pub(super) fn join(
        &mut self,
        joining: &Joining<'_>,
        left: bool,
        ping_at: Mono,
        now: Mono,
        timers: &mut TimerTable,
    ) -> Result<(TunnelKey, Joined), Refusal> {
        let tunnel = Tunnel {
            armed: Armed::default(),
            left,
            // A head is only read once the last response was taken.
            sending: SendLimit::IDLE,
            // What it is if it is refused.
            state: TunnelState::Ending { until: now },
        };
        let key = self.table.insert(tunnel).ok_or(Refusal::TunnelsFull)?;
        let Some(joined) = self.pool.join(joining, key, now) else {
            self.table.remove(key);
            return Err(Refusal::WorkersFull);
        };
        let member = Member { agent: joined.agent, worker: joining.worker };
        if let Some(tunnel) = self.table.get_mut(key) {
            tunnel.state = TunnelState::free(member, Standing::Withdrawn, ping_at);
            tunnel.arm(key, timers);
        }
        Ok((key, joined))
    }

    /// It takes the next exchange, and is asked for a heartbeat then. It needs to have its name. False if its
    /// agent has closed the connection.
    pub(super) fn free(&mut self, key: TunnelKey, ping_at: Mono, now: Mono, timers: &mut TimerTable) -> bool {
        let Self { table, pool } = self;
        let Some(tunnel) = table.get_mut(key) else { return true };
        if tunnel.left {
            return false;
        }
        let Some(member) = tunnel.member() else { return true };
        if !tunnel.is_ready() {
            pool.set_ready(member.agent, true, now);
        }
        let Some(place) = pool.push_idle(member.agent, key) else { return true };
        tunnel.state = TunnelState::free(member, Standing::Pooled(place), ping_at);
        tunnel.arm(key, timers);
        true
    }

    /// It will take work once the other one is through.
    pub(super) fn wait_behind(&mut self, key: TunnelKey, first: TunnelKey, now: Mono) {
        let Some(tunnel) = self.table.get_mut(key) else { return };
        tunnel.change(&mut self.pool, |tunnel, pool| {
            if let TunnelState::Free { member, standing, .. } = &mut tunnel.state {
                *standing = Standing::Behind(first);
                pool.set_ready(member.agent, true, now);
            }
        });
    }

    /// The tunnel that it replaced is through. Whether it takes work now.
    pub(super) fn end_wait_behind(&mut self, key: TunnelKey, first: TunnelKey) -> bool {
        let Some(tunnel) = self.table.get_mut(key) else { return false };
        tunnel.change(&mut self.pool, |tunnel, _| {
            let TunnelState::Free { standing, unanswered, scan, .. } = &mut tunnel.state else {
                return false;
            };
            if !matches!(standing, Standing::Behind(it) if *it == first) {
                return false;
            }
            if *unanswered > 0 {
                *standing = Standing::Asked;
            } else if scan.is_begun() {
                *standing = Standing::Speaking;
            } else {
                return true;
            }
            false
        })
    }

    /// An exchange takes it out of the pool.
    #[inline]
    pub(super) fn take(
        &mut self,
        key: TunnelKey,
        exchange: ExchangeKey,
        owes: Owes,
        timers: &mut TimerTable,
    ) {
        let Some(tunnel) = self.table.get_mut(key) else { return };
        if let TunnelState::Free { member, standing: Standing::Pooled(place), .. } = tunnel.state {
            self.pool.take_idle(member.agent, place);
            tunnel.state = TunnelState::Busy { member, exchange, owes };
            tunnel.arm(key, timers);
        }
    }

    /// It is asked for a heartbeat, and once more then.
    pub(super) fn ask(&mut self, key: TunnelKey, again_at: Mono) {
        let Some(tunnel) = self.table.get_mut(key) else { return };
        tunnel.change(&mut self.pool, |tunnel, pool| {
            if let TunnelState::Free { unanswered, ping_at, .. } = &mut tunnel.state {
                *unanswered += 1;
                *ping_at = again_at;
                tunnel.leave_pool(pool, Standing::Asked);
            }
        });
    }

    /// Its agent has answered a heartbeat, and has begun to say something more or has not. Whether it takes
    /// work now.
    pub(super) fn note_answer(&mut self, key: TunnelKey, speaks: bool) -> bool {
        let Some(tunnel) = self.table.get_mut(key) else { return false };
        tunnel.change(&mut self.pool, |tunnel, _| {
            let TunnelState::Free { unanswered, standing, .. } = &mut tunnel.state else { return false };
            *unanswered = unanswered.saturating_sub(1);
            if *unanswered > 0 || !matches!(standing, Standing::Asked) {
                return false;
            }
            if speaks {
                *standing = Standing::Speaking;
            }
            !speaks
        })
    }

    /// Its agent has begun to say something: it leaves the pool.
    pub(super) fn note_speech(&mut self, key: TunnelKey) {
        if let Some(tunnel) = self.table.get_mut(key) {
            tunnel.leave_pool(&mut self.pool, Standing::Speaking);
        }
    }

    /// Another tunnel has taken its name. It takes no more work, and does not count as ready.
    pub(super) fn lose_name(&mut self, key: TunnelKey, now: Mono) {
        let Some(tunnel) = self.table.get_mut(key) else { return };
        tunnel.leave_pool(&mut self.pool, Standing::Asked);
        if let Some(member) = tunnel.member().filter(|_| tunnel.is_ready()) {
            self.pool.set_ready(member.agent, false, now);
        }
    }

    /// It leaves its agent, and has until then to close its side. `None` if it had left.
    pub(super) fn end(
        &mut self,
        key: TunnelKey,
        why: TunnelEnd<'_>,
        until: Mono,
        now: Mono,
        timers: &mut TimerTable,
    ) -> Option<Leave> {
        let leave = self.leave(key, why, now);
        if let Some(tunnel) = self.table.get_mut(key) {
            tunnel.state = TunnelState::Ending { until };
            tunnel.arm(key, timers);
        }
        leave
    }

    /// Forgets a tunnel. It leaves its agent, if it had not left.
    pub(super) fn remove(
        &mut self,
        key: TunnelKey,
        why: TunnelEnd<'_>,
        now: Mono,
    ) -> Option<(Tunnel, Option<Leave>)> {
        let leave = self.leave(key, why, now);
        self.table.remove(key).map(|tunnel| (tunnel, leave))
    }

    /// The caller changes its state, or removes it.
    fn leave(&mut self, key: TunnelKey, why: TunnelEnd<'_>, now: Mono) -> Option<Leave> {
        let Self { table, pool } = self;
        let tunnel = table.get_mut(key)?;
        let member = tunnel.member()?;
        debug!("agent {} worker {} left: {why}", pool.describe(member.agent), member.worker);
        tunnel.leave_pool(pool, Standing::Asked);
        if let Some(agent) = tunnel.who_is_asked() {
            pool.note_pending(agent, false);
        }
        let holder = pool.holder(member);
        if holder == Some(key) && tunnel.is_ready() {
            pool.set_ready(member.agent, false, now);
        }
        pool.leave(member, key, why, now);
        Some(Leave { successor: holder.filter(|holder| *holder != key) })
    }

    /// What its agent owes, while it is busy.
    pub(super) fn set_owes(&mut self, key: TunnelKey, what: Owes) {
        if let Some(Tunnel { state: TunnelState::Busy { owes, .. }, .. }) = self.table.get_mut(key) {
            *owes = what;
        }
    }

    /// Bytes of a response came. Of a replaced tunnel that is all that is asked for.
    pub(super) fn note_progress(&mut self, key: TunnelKey, deadline: Mono) {
        if let Some(Tunnel { state: TunnelState::Busy { owes: Owes::Bytes { by }, .. }, .. }) =
            self.table.get_mut(key)
        {
            *by = deadline;
        }
    }

    /// Its agent has more time for what it owes, or to close its side.
    pub(super) fn put_off(&mut self, key: TunnelKey, deadline: Mono) {
        match self.table.get_mut(key).map(|tunnel| &mut tunnel.state) {
            Some(
                TunnelState::Busy { owes: Owes::Sign { by } | Owes::Bytes { by }, .. }
                | TunnelState::Ending { until: by },
            ) => *by = deadline,
            Some(TunnelState::Busy { owes: Owes::Nothing, .. } | TunnelState::Free { .. }) | None => {}
        }
    }

    /// How far what comes without an exchange was looked at, while there is none.
    pub(super) fn scan_mut(&mut self, key: TunnelKey) -> Option<&mut HeadScan> {
        match &mut self.table.get_mut(key)?.state {
            TunnelState::Free { scan, .. } => Some(scan),
            TunnelState::Busy { .. } | TunnelState::Ending { .. } => None,
        }
    }

    /// By when it must have taken some of what waits for it.
    pub(super) fn sending_mut(&mut self, key: TunnelKey) -> Option<&mut SendLimit> {
        self.table.get_mut(key).map(|tunnel| &mut tunnel.sending)
    }

    /// It has sent FIN or a reset.
    pub(super) fn note_left(&mut self, key: TunnelKey) {
        if let Some(tunnel) = self.table.get_mut(key) {
            tunnel.left = true;
        }
    }

    /// Its timer is set to its deadline.
    pub(super) fn arm(&mut self, key: TunnelKey, timers: &mut TimerTable) {
        if let Some(tunnel) = self.table.get_mut(key) {
            tunnel.arm(key, timers);
        }
    }

    /// Its timer has gone off. False if it was set to another time meanwhile.
    pub(super) fn disarm(&mut self, key: TunnelKey, at: Mono) -> bool {
        self.table.get_mut(key).is_some_and(|tunnel| TimerTable::disarm(&mut tunnel.armed, at))
    }

    /// How many owe the answer to one heartbeat and would take work but for that. For tests.
    pub(super) fn asked(&self) -> usize {
        self.iter().filter(|(_, tunnel)| tunnel.who_is_asked().is_some()).count()
    }

    /// As [`Pool::end_batch`]; the keys that have become free in this batch may be given away again.
    pub(super) fn end_batch(&mut self, has_waiters: impl Fn(ClassId) -> bool) {
        self.table.end_batch();
        self.pool.end_batch(has_waiters);
    }
}

/// What is asked of the pool, and noted there, whatever its tunnels do.
impl Tunnels {
    /// As [`Pool::class_of`].
    pub(super) fn class_of(&mut self, need: &Need) -> ClassId {
        self.pool.class_of(need)
    }

    /// As [`Pool::pause_agent`].
    pub(super) fn pause_agent(&mut self, id: &str, pause: bool, now: Mono) -> Option<bool> {
        self.pool.pause_agent(id, pause, now)
    }

    /// As [`Pool::pause_name`].
    ///
    /// # Errors
    /// Too many names are paused.
    pub(super) fn pause_name(&mut self, name: &str, pause: bool, now: Mono) -> Result<bool, TooMany> {
        self.pool.pause_name(name, pause, now)
    }

    /// As [`Pool::pop_changed`].
    pub(super) fn pop_changed(&mut self) -> Option<ClassId> {
        self.pool.pop_changed()
    }

    /// As [`Pool::note_empty`].
    pub(super) fn note_empty(&mut self, class: ClassId) {
        self.pool.note_empty(class);
    }

    /// As [`Pool::note_standing`].
    pub(super) fn note_standing(
        &mut self,
        agent: AgentSlot,
        trouble: Option<Trouble<'_>>,
        now: Mono,
    ) -> Option<News> {
        self.pool.note_standing(agent, trouble, now)
    }

    /// As [`Pool::refuse`].
    pub(super) fn refuse(&mut self, agent: AgentSlot, now: Mono) -> Option<Refused> {
        self.pool.refuse(agent, now)
    }

    /// As [`Pool::spend`].
    pub(super) fn spend(&mut self, agent: AgentSlot, now: Mono) {
        self.pool.spend(agent, now);
    }

    /// As [`Pool::revoke`].
    pub(super) fn revoke(&mut self, revocations: &Revocations, now: Mono) -> Vec<AgentSlot> {
        self.pool.revoke(revocations, now)
    }

    /// As [`Pool::sweep`].
    pub(super) fn sweep(&mut self, now: Now) -> Swept {
        self.pool.sweep(now)
    }
}

pub(super) struct Tunnel {
    pub(super) armed: Armed,
    pub(super) left: bool,
    pub(super) sending: SendLimit,
    pub(super) state: TunnelState,
}

pub(super) enum TunnelState {
    /// No exchange on it.
    Free { member: Member, standing: Standing, unanswered: u8, ping_at: Mono, scan: HeadScan },
    /// Carries an exchange. Another tunnel may have its name meanwhile: then it ends with its exchange.
    Busy { member: Member, exchange: ExchangeKey, owes: Owes },
    /// Our farewell is being sent, then FIN.
    Ending { until: Mono },
}

/// What the agent of a busy tunnel has to send, and by when.
#[derive(Clone, Copy)]
pub(super) enum Owes {
    /// A sign of life, as long as no response head has come.
    Sign { by: Mono },
    /// Some more of its response: another tunnel has the name of this one, and what stands still is not seen
    /// through.
    Bytes { by: Mono },
    /// Nothing: a response takes as long as it takes.
    Nothing,
}

impl Owes {
    pub(super) fn deadline(self) -> Mono {
        match self {
            Self::Sign { by } | Self::Bytes { by } => by,
            Self::Nothing => Mono::NEVER,
        }
    }

    pub(super) fn is_overdue(self, now: Now) -> bool {
        self.deadline() <= now.mono
    }
}

/// What a tunnel without an exchange is good for.
#[derive(Clone, Copy)]
pub(super) enum Standing {
    /// Takes work.
    Pooled(NodeId),
    /// Would take work, but has been asked for a sign of life and has not answered yet.
    Asked,
    /// Would take work, but has begun to say something that is not read yet: it may withdraw, and nothing
    /// else is right.
    Speaking,
    /// Takes work once this tunnel, which it replaced, has brought its last response: both stand for one
    /// worker.
    Behind(TunnelKey),
    /// Its agent takes no work.
    Withdrawn,
}

impl TunnelState {
    fn free(member: Member, standing: Standing, ping_at: Mono) -> Self {
        Self::Free { member, standing, unanswered: 0, ping_at, scan: HeadScan::on_tunnel() }
    }
}

impl Tunnel {
    /// Changes what it owes, and keeps the count of its agent's profile.
    fn change<T>(&mut self, pool: &mut Pool, change: impl FnOnce(&mut Self, &mut Pool) -> T) -> T {
        let before = self.who_is_asked();
        let changed = change(self, pool);
        let after = self.who_is_asked();
        if before.is_some() != after.is_some()
            && let Some(agent) = before.or(after)
        {
            pool.note_pending(agent, after.is_some());
        }
        changed
    }

    /// It is not idle any more, if it was, though no exchange takes it.
    fn leave_pool(&mut self, pool: &mut Pool, for_what: Standing) {
        if let TunnelState::Free { member, standing, .. } = &mut self.state
            && let Standing::Pooled(place) = *standing
        {
            *standing = for_what;
            pool.remove_idle(member.agent, place);
        }
    }

    fn arm(&mut self, key: TunnelKey, timers: &mut TimerTable) {
        let deadline = self.deadline();
        timers.arm(&mut self.armed, key.into(), deadline);
    }

    /// The agent of a tunnel that owes the answer to one heartbeat and would take work but for that.
    fn who_is_asked(&self) -> Option<AgentSlot> {
        match self.state {
            TunnelState::Free { member, standing: Standing::Asked, unanswered: 1, .. } => Some(member.agent),
            TunnelState::Free { .. } | TunnelState::Busy { .. } | TunnelState::Ending { .. } => None,
        }
    }

    /// Whose it is, until it has left.
    pub(super) fn member(&self) -> Option<Member> {
        match self.state {
            TunnelState::Free { member, .. } | TunnelState::Busy { member, .. } => Some(member),
            TunnelState::Ending { .. } => None,
        }
    }

    /// Whether its agent takes work on it, or has taken some.
    pub(super) fn is_ready(&self) -> bool {
        match self.state {
            TunnelState::Free { standing, .. } => !matches!(standing, Standing::Withdrawn),
            TunnelState::Busy { .. } => true,
            TunnelState::Ending { .. } => false,
        }
    }

    /// As [`Client::deadline`].
    pub(super) fn deadline(&self) -> Mono {
        let until = match self.state {
            TunnelState::Free { ping_at: until, .. } | TunnelState::Ending { until } => until,
            TunnelState::Busy { owes, .. } => owes.deadline(),
        };
        until.min(self.sending.deadline())
    }
}
