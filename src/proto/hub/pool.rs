//! Who is connected, and who is free.
//!
//! The pool knows the agents by name, counts their ready tunnels, and keeps the idle ones in the order of
//! their agents' turns. What an agent may serve is its *profile*: the scopes and scope paths of its token.
//! Agents with equal ones share a profile. The tunnels that an agent has for its light paths alone
//! ([`crate::proto::light`]) are an agent of their own here, which nobody hears of. Which profiles may serve
//! a request, and which of them has the idle tunnel whose turn it is, is known to `super::classes`.
//!
//! It does not know what a tunnel is doing beyond ready and idle, nor who waits for it ([`super::queue`]).

mod audit;
mod expiry;
mod known;
mod paused;
mod report;
mod search;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::time::Duration;

use slab::Slab;

pub use self::expiry::{Gone, REFUSAL_PAUSE, Swept};
pub use self::known::Known;
use self::paused::Pauses;
pub use self::paused::{Paused, TooMany};
pub use self::report::News;
pub use super::classes::{ClassId, ProfileId};
use super::classes::{Classes, Rights};
use super::presence::Presence;
use super::profile::Profile;
pub use super::profile::{AgentSerial, Need, Refused};
pub use super::turns::AgentSlot;
use super::turns::{Queue, Turns};
use crate::proto::info::Info;
use crate::proto::light;
use crate::proto::tables::key::TunnelKey;
use crate::proto::tables::list::NodeId;
use crate::proto::tables::table::more_room;
use crate::proto::tables::timer::Mono;
use crate::proto::trust::agent_token::TokenId;

/// Agents and their tunnels.
#[derive(Debug)]
pub struct Pool {
    /// For this long an agent that takes no work any more is taken for connected.
    grace: Duration,
    profiles: Slab<Profile>,
    classes: Classes,
    agents: Slab<Agent>,
    by_name: BTreeMap<Name, usize>,
    /// Tunnels of each token id, over all its agents: those of workers, and those for light paths.
    per_token: BTreeMap<(TokenId, bool), u32>,
    turns: Turns,
    pauses: Pauses,
    serial: u64,
}

/// Token, the id that the agent gave itself, and the light paths to which its tunnels are kept.
type Name = (TokenId, String, Vec<String>);

/// The name of a tunnel: its agent, and which of that agent's workers it stands for. Another tunnel may take
/// the name while it is in the middle of a response ([`Pool::holds`]). The agent keeps its slot until both
/// have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The agent.
    pub agent: AgentSlot,
    /// The worker.
    pub worker: u32,
}

/// A tunnel that wants to join.
#[derive(Debug)]
pub struct Joining<'a> {
    /// The token that it showed.
    pub token: TokenId,
    /// The name that goes with the token, for people.
    pub token_name: &'a str,
    /// When the token was issued, in seconds since 1970.
    pub issued: u64,
    /// When it expires, likewise.
    pub expires: Option<u64>,
    /// The agent's own id.
    pub agent_id: &'a str,
    /// The worker that it stands for.
    pub worker: u32,
    /// Scopes of the token.
    pub scopes: &'a [String],
    /// Scope paths of the token.
    pub scope_paths: &'a [String],
    /// The light paths to which it is kept, if it is.
    pub light: &'a [String],
    /// How many tunnels of workers the token may have.
    pub max_workers: Option<u32>,
    /// What the agent says of itself.
    pub info: &'a Info,
}

impl Joining<'_> {
    fn name(&self) -> Name {
        (self.token, self.agent_id.to_owned(), self.light.to_vec())
    }
}

/// The answer to [`Pool::join`].
#[derive(Debug, PartialEq, Eq)]
pub struct Joined {
    /// The agent that it belongs to.
    pub agent: AgentSlot,
    /// The tunnel that had the same name. It must not count as ready any more, and takes no further request.
    pub replaced: Option<TunnelKey>,
    /// Whether waiters may belong to other classes now: [`Pool::class_of`] is to be asked again.
    pub splits_classes: bool,
}

#[derive(Debug)]
struct Agent {
    serial: AgentSerial,
    token: TokenId,
    token_name: String,
    issued: u64,
    expires: Option<u64>,
    id: String,
    /// The light paths to which its tunnels are kept, if they are.
    light: Vec<String>,
    profile: ProfileId,
    /// By number: there may be thousands, and they come and go seldom.
    workers: Vec<(u32, TunnelKey)>,
    /// Tunnels whose name another one has taken, until they leave.
    replaced: usize,
    presence: Presence,
    /// How often it took work again after it had refused some.
    round: u32,
    /// Its last refusal in this round.
    refusal: Option<Refusal>,
    /// Whether the log knows it as one that takes work; `None` if it does not know it.
    told: Option<bool>,
    /// Why it takes no work, while it says so.
    trouble: String,
    /// Since when it has no tunnel.
    gone: Option<Mono>,
    /// How its last tunnel ended, while it has none.
    why_gone: String,
    /// What it said of itself when its newest tunnel joined. Nothing is kept for light paths, of which nobody
    /// is told.
    info: Info,
}

/// That an agent refused a request.
#[derive(Debug)]
struct Refusal {
    at: Mono,
    /// Whether it has said since that it takes work.
    is_back: bool,
}

impl Pool {
    /// A pool without agents, which takes one that takes no work any more for connected for this long.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            profiles: Slab::new(),
            classes: Classes::default(),
            agents: Slab::new(),
            by_name: BTreeMap::new(),
            per_token: BTreeMap::new(),
            turns: Turns::default(),
            pauses: Pauses::default(),
            serial: 0,
        }
    }

    /// Enters a tunnel under its name. It counts as neither ready nor idle yet. `None` if its token has all
    /// its tunnels already.
    pub fn join(&mut self, joining: &Joining<'_>, tunnel: TunnelKey, now: Mono) -> Option<Joined> {
        let name = joining.name();
        let held = self.by_name.get(&name).and_then(|slot| self.agents.get(*slot));
        let replaces = held.is_some_and(|agent| agent.tunnel_of(joining.worker).is_some());
        let is_light = !joining.light.is_empty();
        let count = self.per_token.get(&(joining.token, is_light)).copied().unwrap_or(0);
        // Each worker may be the only one of its agent.
        let each = if is_light { light::TUNNELS } else { 1 };
        if !replaces && joining.max_workers.is_some_and(|most| count >= most.saturating_mul(each)) {
            return None;
        }
        let mut splits_classes = false;
        let slot = match self.by_name.get(&name) {
            Some(slot) => *slot,
            None => {
                let profile;
                (profile, splits_classes) = self.profile_for(joining);
                self.serial += 1;
                let is_paused =
                    self.pauses.paused(joining.token, joining.agent_id, joining.token_name).is_some();
                let slot = self.agents.insert(Agent {
                    serial: AgentSerial(self.serial),
                    token: joining.token,
                    token_name: joining.token_name.to_owned(),
                    issued: joining.issued,
                    expires: joining.expires,
                    id: joining.agent_id.to_owned(),
                    light: joining.light.to_vec(),
                    profile,
                    workers: Vec::new(),
                    replaced: 0,
                    presence: Presence::new(is_paused),
                    round: 0,
                    refusal: None,
                    told: None,
                    trouble: String::new(),
                    gone: None,
                    why_gone: String::new(),
                    info: Info::default(),
                });
                self.by_name.insert(name, slot);
                if let Some(profile) = self.profiles.get_mut(profile.index()) {
                    profile.agents += 1;
                }
                slot
            }
        };
        // Its token is good, whatever was once said of it.
        self.change(AgentSlot::new(slot), now, |presence| presence.spent = false);
        let agent = self.agents.get_mut(slot)?;
        agent.gone = None;
        if !is_light && agent.info != *joining.info {
            agent.info = joining.info.clone();
        }
        let replaced = agent.enter(joining.worker, tunnel);
        match replaced {
            Some(_) => agent.replaced += 1,
            None => *self.per_token.entry((joining.token, is_light)).or_default() += 1,
        }
        Some(Joined { agent: AgentSlot::new(slot), replaced, splits_classes })
    }

    /// The tunnel of this name, which would be replaced.
    pub fn find(&self, joining: &Joining<'_>) -> Option<TunnelKey> {
        let agent = self.by_name.get(&joining.name()).and_then(|slot| self.agents.get(*slot));
        agent?.tunnel_of(joining.worker)
    }

    /// Whether a tunnel has this name, and not one that replaced it.
    pub fn holds(&self, member: Member, tunnel: TunnelKey) -> bool {
        self.holder(member) == Some(tunnel)
    }

    /// The tunnel that has this name.
    pub fn holder(&self, member: Member) -> Option<TunnelKey> {
        self.agents.get(member.agent.index())?.tunnel_of(member.worker)
    }

    /// Whether an agent has tunnels whose names others have taken.
    pub fn has_replaced(&self, slot: AgentSlot) -> bool {
        self.agents.get(slot.index()).is_some_and(|agent| agent.replaced > 0)
    }

    /// Takes a tunnel out, which ended for this reason. It must not be ready or idle any more.
    pub fn leave(&mut self, member: Member, tunnel: TunnelKey, why: impl fmt::Display, now: Mono) {
        let Member { agent: slot, worker } = member;
        let Some(agent) = self.agents.get_mut(slot.index()) else { return };
        let place = agent.place_of(worker).ok();
        let own = place.filter(|index| agent.workers.get(*index) == Some(&(worker, tunnel)));
        match own {
            Some(index) => {
                agent.workers.remove(index);
            }
            None => agent.replaced -= 1,
        }
        let counted = (agent.token, agent.is_light());
        if agent.is_gone() {
            agent.gone = Some(now);
            agent.why_gone.clear();
            // Writing to a string does not fail.
            let _ = write!(agent.why_gone, "{why}");
            self.change(slot, now, |presence| presence.loading = false);
        }
        if own.is_none() {
            return;
        }
        if let Some(count) = self.per_token.get_mut(&counted) {
            *count -= 1;
            if *count == 0 {
                self.per_token.remove(&counted);
            }
        }
    }

    /// Notes that one more tunnel of this agent takes work, or one fewer.
    pub fn set_ready(&mut self, slot: AgentSlot, ready: bool, now: Mono) {
        if let Some(agent) = self.agents.get_mut(slot.index())
            && let Some(refusal) = &mut agent.refusal
            && ready
        {
            refusal.is_back = true;
            self.take_again(slot, now);
        }
        self.change(slot, now, |presence| {
            if ready {
                presence.ready += 1;
            } else {
                presence.ready -= 1;
            }
        });
    }

    /// Enters a tunnel as an idle one.
    pub fn push_idle(&mut self, slot: AgentSlot, tunnel: TunnelKey) -> Option<NodeId> {
        self.change_turns(slot, |turns, queue| turns.enter(queue, slot, tunnel))?
    }

    /// Takes a tunnel out of the idle ones, because an exchange gets it.
    pub fn take_idle(&mut self, slot: AgentSlot, place: NodeId) {
        self.change_turns(slot, |turns, queue| turns.take(queue, slot, place));
    }

    /// Takes a tunnel out of the idle ones, for another reason.
    pub fn remove_idle(&mut self, slot: AgentSlot, place: NodeId) {
        self.change_turns(slot, |turns, queue| turns.leave(queue, slot, place));
    }

    /// The profile of an agent.
    pub fn profile(&self, slot: AgentSlot) -> Option<ProfileId> {
        self.agents.get(slot.index()).map(|agent| agent.profile)
    }

    /// Forgets classes in which nobody waits and that nobody serves, and gives back what a burst has left
    /// behind.
    pub fn end_batch(&mut self, has_waiters: impl Fn(ClassId) -> bool) {
        self.classes.end_batch(has_waiters);
        self.turns.end_batch();
    }

    /// Changes what is known of an agent's return, and keeps the count of its profile in step.
    fn change(&mut self, slot: AgentSlot, now: Mono, change: impl FnOnce(&mut Presence)) {
        let Some(agent) = self.agents.get_mut(slot.index()) else { return };
        let Some(profile) = self.profiles.get_mut(agent.profile.index()) else { return };
        let was_here = agent.presence.is_here();
        change(&mut agent.presence);
        match (was_here, agent.presence.is_here()) {
            (false, true) => profile.here += 1,
            (true, false) => {
                profile.here -= 1;
                let until = agent.presence.begin_grace(self.grace, now);
                profile.until = profile.until.max(until.unwrap_or_default());
            }
            (false, false) | (true, true) => {}
        }
    }

    fn profile_for(&mut self, joining: &Joining<'_>) -> (ProfileId, bool) {
        let Joining { scopes, scope_paths: paths, light, .. } = *joining;
        let rights = Rights { scopes, paths, light };
        let same = self.profiles.iter().find(|(_, profile)| profile.rights() == rights);
        if let Some((id, _)) = same {
            return (ProfileId::new(id), false);
        }
        let profile = Profile {
            scopes: scopes.to_vec(),
            paths: paths.to_vec(),
            light: light.to_vec(),
            turns: Queue::default(),
            agents: 0,
            here: 0,
            pending: 0,
            until: Mono::default(),
        };
        let id = ProfileId::new(self.profiles.insert(profile));
        (id, self.classes.enter(id, rights))
    }

    /// Changes who is idle among the agents of a profile, and keeps its classes in step.
    fn change_turns<T>(
        &mut self,
        slot: AgentSlot,
        change: impl FnOnce(&mut Turns, &mut Queue) -> T,
    ) -> Option<T> {
        let Agent { profile: id, presence, .. } = self.agents.get(slot.index())?;
        let id = *id;
        let profile = self.profiles.get_mut(id.index())?;
        // Nobody looks for idle tunnels of paused agents.
        let queue = if presence.paused { self.pauses.turns_mut() } else { &mut profile.turns };
        let changed = change(&mut self.turns, queue);
        let turn = self.turns.next(&profile.turns, |_| true).map(|next| profile.rank(next.since));
        self.classes.set_turn(id, turn);
        Some(changed)
    }
}

impl Agent {
    /// Whether it is one of these, and has not come back since.
    fn is_among(&self, refused: &[Refused]) -> bool {
        refused.contains(&Refused { agent: self.serial, round: self.round })
    }

    /// Whether these are the tunnels of an agent for its light paths.
    fn is_light(&self) -> bool {
        !self.light.is_empty()
    }

    /// Whether none of its tunnels is left.
    fn is_gone(&self) -> bool {
        self.workers.is_empty() && self.replaced == 0
    }

    /// Where a worker stands, or where it would.
    fn place_of(&self, worker: u32) -> Result<usize, usize> {
        self.workers.binary_search_by_key(&worker, |(worker, _)| *worker)
    }

    fn tunnel_of(&self, worker: u32) -> Option<TunnelKey> {
        self.workers.get(self.place_of(worker).ok()?).map(|(_, tunnel)| *tunnel)
    }

    /// Enters a worker's tunnel. The one that it had.
    fn enter(&mut self, worker: u32, tunnel: TunnelKey) -> Option<TunnelKey> {
        match self.place_of(worker) {
            Ok(index) => self.workers.get_mut(index).map(|(_, old)| core::mem::replace(old, tunnel)),
            Err(index) => {
                if self.workers.len() == self.workers.capacity() {
                    self.workers.reserve_exact(more_room::<(u32, TunnelKey)>(self.workers.len()));
                }
                self.workers.insert(index, (worker, tunnel));
                None
            }
        }
    }
}
