//! Who is connected, and who is free.
//!
//! The pool knows the agents by name, counts their ready tunnels, and keeps the idle ones in the order of
//! their agents' turns. What an agent may serve is its *profile*: the scopes and scope paths of its token.
//! Agents with equal ones share a profile. The tunnels that an agent has for its light paths alone
//! ([`crate::proto::light`]) are an agent of their own here, which nobody hears of. Which profiles may serve
//! a request, and which of them has the idle tunnel whose turn it is, is known to `super::classes`.
//!
//! It does not know what a tunnel is doing beyond ready and idle, nor who waits for it ([`super::queue`]).

mod known;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::time::Duration;

use slab::Slab;

pub use self::known::Known;
use super::classes::{Candidate, Classes, Rights};
pub use super::classes::{ClassId, ProfileId};
use super::presence::Presence;
use super::profile::Profile;
pub use super::profile::{AgentSerial, Need, Refused};
pub use super::turns::AgentSlot;
use super::turns::{Queue, Turns};
use crate::proto::light;
use crate::proto::tables::key::TunnelKey;
use crate::proto::tables::list::NodeId;
use crate::proto::tables::table::more_room;
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::trust::agent_token::TokenId;
use crate::proto::trust::revocation::Revocations;
use crate::proto::tunnel::Trouble;

/// From a refusal to the time when the agent may have the same request again, if it takes work by then. An
/// agent that refuses and joins again and again would keep a request on the move.
pub const REFUSAL_PAUSE: Duration = Duration::from_secs(1);
/// What is kept of the reason why an agent takes no work, in characters.
const LONGEST_TROUBLE: usize = 120;
/// The agents that the log names where none can be used.
const MOST_NAMED: usize = 5;

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

/// What the log should say of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is there, for the first time since it was forgotten.
    Joined,
    /// It takes no more work.
    Withdrew,
    /// It takes work again.
    Returned,
}

/// What [`Pool::sweep`] found.
#[derive(Debug, Default)]
pub struct Swept {
    /// The agents that are forgotten.
    pub gone: Vec<Gone>,
    /// The agents whose tokens have expired of late. They are taken for gone from now on.
    pub expired: Vec<AgentSlot>,
}

/// An agent that is forgotten.
#[derive(Debug)]
pub struct Gone {
    /// Which one it was.
    pub serial: AgentSerial,
    /// In words, for the log.
    pub name: String,
    /// How its last tunnel ended.
    pub why: String,
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
                    presence: Presence::default(),
                    round: 0,
                    refusal: None,
                    told: None,
                    trouble: String::new(),
                    gone: None,
                    why_gone: String::new(),
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

    /// Notes that an agent says that it takes work, or none and why. What is new about it, if anything is.
    pub fn note_standing(
        &mut self,
        slot: AgentSlot,
        trouble: Option<Trouble<'_>>,
        now: Mono,
    ) -> Option<News> {
        let is_loading = trouble.is_some_and(|trouble| trouble.is_loading);
        self.change(slot, now, |presence| presence.loading = is_loading);
        let agent = self.agents.get_mut(slot.index())?;
        agent.trouble.clear();
        agent
            .trouble
            .extend(trouble.into_iter().flat_map(|trouble| trouble.reason.chars().take(LONGEST_TROUBLE)));
        if agent.is_light() {
            return None;
        }
        let ready = trouble.is_none();
        match (agent.told.replace(ready), ready) {
            (None, _) => Some(News::Joined),
            (Some(true), false) => Some(News::Withdrew),
            (Some(false), true) => Some(News::Returned),
            (Some(true), true) | (Some(false), false) => None,
        }
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

    /// The class of requests to which this one belongs.
    pub fn class_of(&mut self, need: &Need) -> ClassId {
        let candidates = self.profiles.iter().map(|(index, profile)| Candidate {
            profile: ProfileId::new(index),
            rights: profile.rights(),
            turn: self.turns.next(&profile.turns, |_| true).map(|next| profile.rank(next.since)),
        });
        self.classes.find(&need.scope, &need.path, candidates)
    }

    /// The tunnel whose turn it is among those that may serve this class, but not one of these agents.
    pub fn find_idle(&self, class: ClassId, refused: &[Refused]) -> Option<TunnelKey> {
        let first = self.classes.first(class)?;
        if refused.is_empty() {
            let profile = self.profiles.get(first.index())?;
            return self.turns.next(&profile.turns, |_| true).map(|next| next.tunnel);
        }
        let may = |slot| self.may_have(slot, refused);
        let profiles = self.classes.members(class).iter().filter_map(|id| self.profiles.get(id.index()));
        let next = profiles
            .filter_map(|it| self.turns.next(&it.turns, may).map(|next| (it.rank(next.since), next.tunnel)));
        next.min_by_key(|(rank, _)| *rank).map(|(_, tunnel)| tunnel)
    }

    /// The profiles that may serve this class, in no order.
    pub fn serving(&self, class: ClassId) -> &[ProfileId] {
        self.classes.members(class)
    }

    /// Notes that one more tunnel of this agent would take work but for the answer to a first heartbeat, or
    /// one fewer.
    pub fn note_pending(&mut self, slot: AgentSlot, is_pending: bool) {
        let profile = self.profile(slot).and_then(|id| self.profiles.get_mut(id.index()));
        if let Some(profile) = profile {
            if is_pending {
                profile.pending += 1;
            } else {
                profile.pending -= 1;
            }
        }
    }

    /// Whether a tunnel that may serve this class would take work but for the answer to a first heartbeat.
    pub fn has_heartbeat_pending(&self, class: ClassId) -> bool {
        let mut profiles = self.classes.members(class).iter().filter_map(|id| self.profiles.get(id.index()));
        profiles.any(|profile| profile.pending > 0)
    }

    /// How many tunnels owe such an answer. For tests.
    pub fn pending(&self) -> usize {
        self.profiles.iter().map(|(_, profile)| profile.pending).sum()
    }

    /// A class that has other idle tunnels, or other profiles, than when it was last told here.
    pub fn pop_changed(&mut self) -> Option<ClassId> {
        self.classes.pop_changed()
    }

    /// Whether an agent that may serve this class is taken for connected by a request that these have
    /// refused. One that has counts as long as it may come back.
    pub fn is_connected(&self, class: ClassId, refused: &[Refused], now: Mono) -> bool {
        let profiles = self.classes.members(class);
        if refused.is_empty() {
            let mut profiles = profiles.iter().filter_map(|id| self.profiles.get(id.index()));
            return profiles.any(|profile| profile.here > 0 || now < profile.until);
        }
        self.agents.iter().any(|(_, agent)| {
            profiles.contains(&agent.profile)
                && if agent.is_among(refused) {
                    agent.presence.may_return(now)
                        || !agent.presence.spent
                            && agent.refusal.as_ref().is_some_and(|it| now < it.at.after(self.grace))
                } else {
                    agent.presence.is_connected(now)
                }
        })
    }

    /// Whether agents that may serve this class have tunnels, and tokens that are good, though none of them
    /// may take work.
    pub fn has_any(&self, class: ClassId) -> bool {
        let profiles = self.classes.members(class);
        self.agents
            .iter()
            .any(|(_, agent)| profiles.contains(&agent.profile) && !agent.is_gone() && !agent.presence.spent)
    }

    /// The agents of this class that have tunnels and take no work, and why, for the log. Empty if there are
    /// none.
    pub fn troubles(&self, class: ClassId) -> String {
        let profiles = self.classes.members(class);
        let mut text = String::new();
        let in_trouble = self.agents.iter().filter(|(_, agent)| {
            profiles.contains(&agent.profile)
                && !agent.is_light()
                && !agent.is_gone()
                && !agent.trouble.is_empty()
        });
        for (at, (slot, agent)) in in_trouble.take(MOST_NAMED + 1).enumerate() {
            text.push_str(if at == 0 { "" } else { "; " });
            if at == MOST_NAMED {
                text.push_str("and others");
            } else {
                text.push_str(&self.describe(AgentSlot::new(slot)));
                text.push_str(": ");
                text.extend(agent.trouble.escape_default());
            }
        }
        text
    }

    /// Whether a matching agent would be there but for the rule that paths which can be read in two ways
    /// match no scope path.
    pub fn is_barred_by_path(&self, need: &Need) -> bool {
        need.path.is_empty()
            && self
                .profiles
                .iter()
                .any(|(_, profile)| profile.has_scope(&need.scope) && !profile.paths.is_empty())
    }

    /// Does what is due: agents that have been gone for the grace are forgotten, those that have refused
    /// something and are back may have it again, and those whose token has expired are taken for gone.
    pub fn sweep(&mut self, now: Now) -> Swept {
        let mut swept = Swept::default();
        let mut gone: Vec<usize> = Vec::new();
        let mut back: Vec<AgentSlot> = Vec::new();
        for (slot, agent) in &self.agents {
            if agent.refusal.is_some() {
                back.push(AgentSlot::new(slot));
            }
            if agent.gone.is_some_and(|at| at.after(self.grace) <= now.mono) {
                gone.push(slot);
            } else if agent.expires.is_some_and(|at| now.unix >= at) && !agent.presence.spent {
                swept.expired.push(AgentSlot::new(slot));
            }
        }
        for slot in back {
            self.take_again(slot, now.mono);
        }
        for slot in &swept.expired {
            self.spend(*slot, now.mono);
        }
        for slot in gone {
            let name = self.describe(AgentSlot::new(slot));
            let agent = self.agents.remove(slot);
            if !agent.is_light() {
                swept.gone.push(Gone { serial: agent.serial, name, why: agent.why_gone });
            }
            self.by_name.remove(&(agent.token, agent.id, agent.light));
            let Some(profile) = self.profiles.get_mut(agent.profile.index()) else { continue };
            self.turns.forget(&mut profile.turns, AgentSlot::new(slot));
            profile.agents -= 1;
            if profile.agents == 0 {
                self.classes.leave(agent.profile, profile.rights());
                self.profiles.remove(agent.profile.index());
            }
        }
        swept
    }

    /// When something of what [`Pool::sweep`] does is due, or the grace of an agent ends.
    pub fn next_sweep(&self, now: Now) -> Mono {
        let due = self.agents.iter().flat_map(|(_, agent)| {
            let refusal = agent.refusal.as_ref();
            let expires = agent.expires.filter(|_| !agent.presence.spent);
            [
                agent.gone.map(|at| at.after(self.grace)),
                agent.presence.grace_ends(),
                refusal.map(|refusal| refusal.at.after(self.grace)),
                refusal.filter(|it| it.is_back).map(|refusal| refusal.at.after(REFUSAL_PAUSE)),
                expires.map(|at| now.mono.after(Duration::from_secs(at.saturating_sub(now.unix)))),
            ]
        });
        due.flatten().filter(|at| *at > now.mono).min().unwrap_or(Mono::NEVER)
    }

    /// When an agent that lost its last ready tunnel now is taken for gone.
    pub fn grace_from(&self, now: Mono) -> Mono {
        now.after_coarse(self.grace)
    }

    /// An agent's token is not good any more: it is taken for gone.
    pub fn spend(&mut self, slot: AgentSlot, now: Mono) {
        self.change(slot, now, |presence| presence.spent = true);
        let Some(id) = self.profile(slot) else { return };
        let agents = self.agents.iter().filter(|(_, agent)| agent.profile == id);
        let until = agents.filter_map(|(_, agent)| agent.presence.grace_ends()).max();
        if let Some(profile) = self.profiles.get_mut(id.index()) {
            profile.until = until.unwrap_or_default();
        }
    }

    /// Whether an agent's token is known to be good no more.
    pub fn is_spent(&self, slot: AgentSlot) -> bool {
        self.agents.get(slot.index()).is_some_and(|agent| agent.presence.spent)
    }

    /// The agents whose tokens were taken back. They are taken for gone from now on.
    pub fn revoke(&mut self, revocations: &Revocations, now: Mono) -> Vec<AgentSlot> {
        let is_meant =
            |agent: &Agent| revocations.names(&agent.token.to_string(), &agent.token_name, agent.issued);
        let all: Vec<AgentSlot> = self
            .agents
            .iter()
            .filter(|(_, agent)| is_meant(agent))
            .map(|(slot, _)| AgentSlot::new(slot))
            .collect();
        for slot in &all {
            self.spend(*slot, now);
        }
        all
    }

    /// The id that an agent gave itself.
    pub fn agent_id(&self, slot: AgentSlot) -> &str {
        self.agents.get(slot.index()).map_or("", |agent| &agent.id)
    }

    /// The agents that have tunnels for all they serve: the name of each one's token, and its workers.
    pub fn connected(&self) -> impl Iterator<Item = (&str, &[(u32, TunnelKey)])> {
        let agents = self.agents.iter().map(|(_, agent)| agent);
        let connected = agents.filter(|agent| agent.light.is_empty() && !agent.workers.is_empty());
        connected.map(|agent| (agent.token_name.as_str(), agent.workers.as_slice()))
    }

    /// How many agents take work.
    pub fn ready_agents(&self) -> usize {
        let takes_work = |agent: &Agent| agent.presence.ready > 0 && !agent.presence.spent;
        self.agents.iter().filter(|(_, agent)| agent.light.is_empty() && takes_work(agent)).count()
    }

    /// An agent in words, for the log.
    pub fn describe(&self, slot: AgentSlot) -> String {
        self.agents
            .get(slot.index())
            .map_or_else(String::new, |agent| format!("{} ({})", agent.token_name, agent.id))
    }

    /// Whether the token of an agent has expired.
    pub fn is_expired(&self, slot: AgentSlot, unix: u64) -> bool {
        self.agents.get(slot.index()).and_then(|agent| agent.expires).is_some_and(|at| unix >= at)
    }

    /// Notes that an agent refused an exchange.
    pub fn refuse(&mut self, slot: AgentSlot, now: Mono) -> Option<Refused> {
        let agent = self.agents.get_mut(slot.index())?;
        agent.refusal = Some(Refusal { at: now, is_back: false });
        Some(Refused { agent: agent.serial, round: agent.round })
    }

    /// What tells an agent from those that had its slot before.
    pub fn serial(&self, slot: AgentSlot) -> Option<AgentSerial> {
        self.agents.get(slot.index()).map(|agent| agent.serial)
    }

    /// The profile of an agent.
    pub fn profile(&self, slot: AgentSlot) -> Option<ProfileId> {
        self.agents.get(slot.index()).map(|agent| agent.profile)
    }

    /// Whether these are exactly the tunnels that are known under their names, and as many count as ready as
    /// are. For tests.
    pub fn is_made_of(&self, tunnels: impl Iterator<Item = (TunnelKey, Member, bool)>) -> bool {
        /// Tunnels with a name, replaced ones, ready ones.
        type Counts = (usize, usize, usize);
        let mut counts: BTreeMap<usize, Counts> = BTreeMap::new();
        for (key, member, is_ready) in tunnels {
            let (named, replaced, ready) = counts.entry(member.agent.index()).or_default();
            if self.holds(member, key) {
                *named += 1;
                *ready += usize::from(is_ready);
            } else {
                *replaced += 1;
            }
        }
        let of = |slot: usize| counts.get(&slot).copied().unwrap_or_default();
        let here_in = |id: usize| {
            let agents = self.agents.iter().filter(|(_, agent)| agent.profile == ProfileId::new(id));
            agents.filter(|(_, agent)| agent.presence.is_here()).count()
        };
        let named_of = |counted: &(TokenId, bool)| {
            let agents = self.agents.iter().filter(|(_, it)| (it.token, it.is_light()) == *counted);
            agents.map(|(slot, _)| of(slot).0).sum::<usize>()
        };
        counts.keys().all(|slot| self.agents.contains(*slot))
            && self
                .agents
                .iter()
                .all(|(slot, it)| (it.workers.len(), it.replaced, it.presence.ready) == of(slot))
            && self.agents.iter().all(|(_, it)| it.is_gone() == it.gone.is_some())
            && self.profiles.iter().all(|(id, profile)| profile.here == here_in(id))
            && self.per_token.iter().all(|(counted, count)| *count as usize == named_of(counted))
            && self
                .agents
                .iter()
                .all(|(slot, it)| of(slot).0 == 0 || self.per_token.contains_key(&(it.token, it.is_light())))
    }

    /// Nobody waits in this class any more.
    pub fn note_empty(&mut self, class: ClassId) {
        self.classes.note_empty(class);
    }

    /// Forgets classes in which nobody waits and that nobody serves, and gives back what a burst has left
    /// behind.
    pub fn end_batch(&mut self, has_waiters: impl Fn(ClassId) -> bool) {
        self.classes.end_batch(has_waiters);
        self.turns.end_batch();
    }

    /// Whether a tunnel is idle that may serve this, found by a look at every profile. For tests.
    pub fn could_serve(&self, need: &Need) -> bool {
        let may = |slot| self.may_have(slot, &need.refused);
        let serving = self.profiles.iter().filter(|(_, profile)| profile.serves(need));
        serving.into_iter().any(|(_, profile)| self.turns.next(&profile.turns, may).is_some())
    }

    /// Whether an agent may serve this, busy or not. For tests.
    pub fn may_serve(&self, slot: AgentSlot, need: &Need) -> bool {
        let profile = self.profile(slot).and_then(|id| self.profiles.get(id.index()));
        profile.is_some_and(|profile| profile.serves(need))
    }

    /// How many tunnels are idle. For tests.
    pub fn idle(&self) -> usize {
        self.turns.idle()
    }

    /// How many agents are known, the lately gone ones included.
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    fn may_have(&self, slot: AgentSlot, refused: &[Refused]) -> bool {
        self.agents.get(slot.index()).is_some_and(|agent| !agent.is_among(refused))
    }

    /// An agent may have what it refused once it has been back for long enough: its idle tunnels are looked
    /// at again.
    fn take_again(&mut self, slot: AgentSlot, now: Mono) {
        let Some(agent) = self.agents.get_mut(slot.index()) else { return };
        if agent.refusal.as_ref().is_some_and(|it| it.is_back && it.at.after(REFUSAL_PAUSE) <= now) {
            agent.refusal = None;
            agent.round = agent.round.wrapping_add(1);
            self.change_turns(slot, |_, _| ());
        }
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
        let id = self.agents.get(slot.index())?.profile;
        let profile = self.profiles.get_mut(id.index())?;
        let changed = change(&mut self.turns, &mut profile.turns);
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
