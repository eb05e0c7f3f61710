//! Who is connected, and who is free.
//!
//! The pool knows the agents by name, counts their ready tunnels, and keeps the idle ones in the order of their agents' turns.
//! What an agent may serve is its *profile*: the scopes and scope paths of its token. Agents with equal ones share a
//! profile. Which profiles may serve a request, and which of them has the idle tunnel whose turn it is, is known to
//! [`super::classes`].
//!
//! It does not know what a tunnel is doing beyond ready and idle, nor who waits for it ([`super::queue`]).

use core::time::Duration;
use std::collections::BTreeMap;

use slab::Slab;

use super::agent_token::TokenId;
use super::classes::{Candidate, Classes, Rights};
pub use super::classes::{ClassId, ProfileId};
use super::http1::path;
use super::key::TunnelKey;
use super::list::NodeId;
use super::revocation::Revocations;
use super::table::more_room;
use super::timer::Mono;
use super::turns::{Queue, Turns};

/// For this long an agent that lost its last ready tunnel is still taken for connected: it is redialling.
pub const REDIAL_GRACE: Duration = Duration::from_secs(5);

/// Agents and their tunnels.
#[derive(Debug, Default)]
pub struct Pool {
    profiles: Slab<Profile>,
    classes: Classes,
    agents: Slab<Agent>,
    by_name: BTreeMap<(TokenId, String), usize>,
    /// Tunnels of each token id, over all its agents.
    per_token: BTreeMap<TokenId, u32>,
    turns: Turns,
    serial: u64,
}

/// An agent from the moment that it takes work until it takes none: unlike a slot, never given to another one. Who refuses a request
/// is skipped for it under this name, and has another one when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentSerial(pub u64);

/// A place among the agents, valid while the agent has a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentSlot(u32);

impl AgentSlot {
    /// So many agents do not fit any memory that this runs on; the saturation is never reached.
    pub(super) fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a request needs from an agent.
#[derive(Clone, Debug, Default)]
pub struct Need {
    /// The scope that the application named; empty if it named none.
    pub scope: String,
    /// The path that is forwarded; empty if an upstream may read it differently than we do, so that it matches no scope path.
    pub path: String,
    /// Agents that refused this exchange.
    pub refused: Vec<AgentSerial>,
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
    /// How many tunnels the token may have.
    pub max_workers: Option<u32>,
}

/// The answer to [`Pool::join`].
#[derive(Debug, PartialEq, Eq)]
pub struct Joined {
    /// The agent that it belongs to.
    pub agent: AgentSlot,
    /// The tunnel that had the same name; the caller ends it. It is out of the pool already.
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
struct Profile {
    scopes: Vec<String>,
    paths: Vec<String>,
    turns: Queue,
    agents: usize,
    ready: usize,
    /// When the last ready tunnel went.
    bereft: Option<Mono>,
}

#[derive(Debug)]
struct Agent {
    serial: AgentSerial,
    token: TokenId,
    token_name: String,
    issued: u64,
    expires: Option<u64>,
    id: String,
    profile: ProfileId,
    /// By number: there may be thousands, and they come and go seldom.
    workers: Vec<(u32, TunnelKey)>,
    ready: usize,
    bereft: Option<Mono>,
    /// Whether an exchange may remember it, under its serial, as having refused.
    has_refused: bool,
    /// Whether the log knows it as one that takes work; `None` if it does not know it.
    told: Option<bool>,
    /// How its last tunnel ended, while it has none.
    why_bereft: String,
}

impl Pool {
    /// Enters a tunnel under its name. It counts as neither ready nor idle yet. `None` if its token has all its tunnels already.
    pub fn join(&mut self, joining: &Joining<'_>, tunnel: TunnelKey) -> Option<Joined> {
        let name = (joining.token, joining.agent_id.to_owned());
        let held = self.by_name.get(&name).and_then(|slot| self.agents.get(*slot));
        let replaces = held.is_some_and(|agent| agent.tunnel_of(joining.worker).is_some());
        let count = self.per_token.get(&joining.token).copied().unwrap_or(0);
        if !replaces && joining.max_workers.is_some_and(|most| count >= most) {
            return None;
        }
        let (profile, splits_classes) = self.profile_for(joining.scopes, joining.scope_paths);
        let slot = match self.by_name.get(&name) {
            Some(slot) => *slot,
            None => {
                self.serial += 1;
                let slot = self.agents.insert(Agent {
                    serial: AgentSerial(self.serial),
                    token: joining.token,
                    token_name: joining.token_name.to_owned(),
                    issued: joining.issued,
                    expires: joining.expires,
                    id: joining.agent_id.to_owned(),
                    profile,
                    workers: Vec::new(),
                    ready: 0,
                    bereft: None,
                    has_refused: false,
                    told: None,
                    why_bereft: String::new(),
                });
                self.by_name.insert(name, slot);
                if let Some(profile) = self.profiles.get_mut(profile.index()) {
                    profile.agents += 1;
                }
                slot
            }
        };
        let replaced = self.agents.get_mut(slot).and_then(|agent| agent.enter(joining.worker, tunnel));
        if replaced.is_none() {
            *self.per_token.entry(joining.token).or_default() += 1;
        }
        Some(Joined { agent: AgentSlot::new(slot), replaced, splits_classes })
    }

    /// The tunnel of this name, which would be replaced.
    pub fn find(&self, joining: &Joining<'_>) -> Option<TunnelKey> {
        let agent = self
            .by_name
            .get(&(joining.token, joining.agent_id.to_owned()))
            .and_then(|slot| self.agents.get(*slot));
        agent?.tunnel_of(joining.worker)
    }

    /// Takes a tunnel out, which ended for this reason. It must not be ready or idle any more.
    pub fn leave(&mut self, slot: AgentSlot, worker: u32, tunnel: TunnelKey, why: &str, now: Mono) {
        let Some(agent) = self.agents.get_mut(slot.index()) else { return };
        // A tunnel that was replaced has lost its name to the newcomer.
        let Ok(index) = agent.place_of(worker) else { return };
        if agent.workers.get(index) != Some(&(worker, tunnel)) {
            return;
        }
        agent.workers.remove(index);
        if agent.workers.is_empty() {
            agent.bereft.get_or_insert(now);
            agent.why_bereft.clear();
            agent.why_bereft.push_str(why);
        }
        let token = agent.token;
        if let Some(count) = self.per_token.get_mut(&token) {
            *count -= 1;
            if *count == 0 {
                self.per_token.remove(&token);
            }
        }
    }

    /// Notes that one more tunnel of this agent takes work, or one fewer.
    pub fn set_ready(&mut self, slot: AgentSlot, ready: bool, now: Mono) {
        let Some(agent) = self.agents.get_mut(slot.index()) else { return };
        let Some(profile) = self.profiles.get_mut(agent.profile.index()) else { return };
        if ready && agent.has_refused {
            // It takes now what it refused.
            agent.has_refused = false;
            self.serial += 1;
            agent.serial = AgentSerial(self.serial);
        }
        for (count, bereft) in
            [(&mut agent.ready, &mut agent.bereft), (&mut profile.ready, &mut profile.bereft)]
        {
            if ready {
                *count += 1;
                *bereft = None;
            } else {
                *count -= 1;
                if *count == 0 {
                    *bereft = Some(now);
                }
            }
        }
    }

    /// Notes that an agent says that it takes work, or none. What is new about it, if anything is.
    pub fn note_standing(&mut self, slot: AgentSlot, ready: bool) -> Option<News> {
        let agent = self.agents.get_mut(slot.index())?;
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
            turn: self.turns.next(&profile.turns, |_| true).map(|next| next.since),
        });
        self.classes.find(&need.scope, &need.path, candidates)
    }

    /// The tunnel whose turn it is among those that may serve this class, but not one of these agents.
    pub fn find_idle(&self, class: ClassId, refused: &[AgentSerial]) -> Option<TunnelKey> {
        let first = self.classes.first(class)?;
        if refused.is_empty() {
            let profile = self.profiles.get(first.index())?;
            return self.turns.next(&profile.turns, |_| true).map(|next| next.tunnel);
        }
        let may = |agent| self.serial(agent).is_some_and(|serial| !refused.contains(&serial));
        let profiles = self.classes.members(class).iter().filter_map(|id| self.profiles.get(id.index()));
        let first =
            profiles.filter_map(|profile| self.turns.next(&profile.turns, may)).min_by_key(|next| next.since);
        first.map(|next| next.tunnel)
    }

    /// The profiles that may serve this class, in no order.
    pub fn serving(&self, class: ClassId) -> &[ProfileId] {
        self.classes.members(class)
    }

    /// A class that has other idle tunnels, or other profiles, than when it was last told here.
    pub fn pop_changed(&mut self) -> Option<ClassId> {
        self.classes.pop_changed()
    }

    /// Whether an agent that may serve this is connected, however busy, and has not refused it.
    pub fn is_connected(&self, need: &Need, now: Mono) -> bool {
        let lately = |bereft: Option<Mono>| bereft.is_some_and(|at| now.since(at) < REDIAL_GRACE);
        if need.refused.is_empty() {
            return self
                .profiles
                .iter()
                .any(|(_, profile)| profile.serves(need) && (profile.ready > 0 || lately(profile.bereft)));
        }
        self.agents.iter().any(|(_, agent)| {
            !need.refused.contains(&agent.serial)
                && (agent.ready > 0 || lately(agent.bereft))
                && self.profiles.get(agent.profile.index()).is_some_and(|profile| profile.serves(need))
        })
    }

    /// Whether a matching agent would be there but for the rule that paths which can be read in two ways match no scope path.
    pub fn is_barred_by_path(&self, need: &Need) -> bool {
        need.path.is_empty()
            && self
                .profiles
                .iter()
                .any(|(_, profile)| profile.has_scope(&need.scope) && !profile.paths.is_empty())
    }

    /// Forgets agents that have been gone for [`REDIAL_GRACE`].
    pub fn sweep(&mut self, now: Mono) -> Vec<Gone> {
        let gone: Vec<usize> = self
            .agents
            .iter()
            .filter(|(_, agent)| {
                agent.workers.is_empty() && agent.bereft.is_none_or(|at| now.since(at) >= REDIAL_GRACE)
            })
            .map(|(slot, _)| slot)
            .collect();
        let mut told = Vec::new();
        for slot in gone {
            let name = self.describe(AgentSlot::new(slot));
            let agent = self.agents.remove(slot);
            told.push(Gone { serial: agent.serial, name, why: agent.why_bereft });
            self.by_name.remove(&(agent.token, agent.id));
            let Some(profile) = self.profiles.get_mut(agent.profile.index()) else { continue };
            self.turns.forget(&mut profile.turns, AgentSlot::new(slot));
            profile.agents -= 1;
            if profile.agents == 0 {
                self.classes.leave(agent.profile, profile.rights());
                self.profiles.remove(agent.profile.index());
            }
        }
        told
    }

    /// When the next of the agents without a tunnel is to be forgotten.
    pub fn next_sweep(&self) -> Option<Mono> {
        let gone = self.agents.iter().filter(|(_, agent)| agent.workers.is_empty());
        gone.map(|(_, agent)| agent.bereft.unwrap_or_default().after(REDIAL_GRACE)).min()
    }

    /// The id that an agent gave itself.
    pub fn agent_id(&self, slot: AgentSlot) -> &str {
        self.agents.get(slot.index()).map_or("", |agent| &agent.id)
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

    /// Whether the token of an agent was taken back.
    pub fn is_revoked(&self, slot: AgentSlot, revocations: &Revocations) -> bool {
        self.agents
            .get(slot.index())
            .is_some_and(|agent| revocations.names(&agent.token.to_string(), &agent.token_name, agent.issued))
    }

    /// Notes that an agent refused an exchange, which remembers it under this serial until the agent says again that it takes work.
    pub fn refuse(&mut self, slot: AgentSlot) -> Option<AgentSerial> {
        let agent = self.agents.get_mut(slot.index())?;
        agent.has_refused = true;
        Some(agent.serial)
    }

    /// What tells an agent from those that had its slot before.
    pub fn serial(&self, slot: AgentSlot) -> Option<AgentSerial> {
        self.agents.get(slot.index()).map(|agent| agent.serial)
    }

    /// The profile of an agent.
    pub fn profile(&self, slot: AgentSlot) -> Option<ProfileId> {
        self.agents.get(slot.index()).map(|agent| agent.profile)
    }

    /// Forgets classes in which nobody waits and that nobody serves, and gives back what a burst has left behind.
    pub fn end_batch(&mut self, has_waiters: impl Fn(ClassId) -> bool) {
        self.classes.end_batch(has_waiters);
        self.turns.end_batch();
    }

    /// Whether a tunnel is idle that may serve this, found by a look at every profile. For tests.
    pub fn could_serve(&self, need: &Need) -> bool {
        let may = |agent| self.serial(agent).is_some_and(|serial| !need.refused.contains(&serial));
        let serving = self.profiles.iter().filter(|(_, profile)| profile.serves(need));
        serving.into_iter().any(|(_, profile)| self.turns.next(&profile.turns, may).is_some())
    }

    /// How many tunnels are idle. For tests.
    pub fn idle(&self) -> usize {
        self.turns.idle()
    }

    /// How many agents are known, the lately gone ones included.
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    fn profile_for(&mut self, scopes: &[String], paths: &[String]) -> (ProfileId, bool) {
        let same =
            self.profiles.iter().find(|(_, profile)| profile.scopes == scopes && profile.paths == paths);
        if let Some((id, _)) = same {
            return (ProfileId::new(id), false);
        }
        let profile = Profile {
            scopes: scopes.to_vec(),
            paths: paths.to_vec(),
            turns: Queue::default(),
            agents: 0,
            ready: 0,
            bereft: None,
        };
        let id = ProfileId::new(self.profiles.insert(profile));
        (id, self.classes.enter(id, Rights { scopes, paths }))
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
        let turn = self.turns.next(&profile.turns, |_| true).map(|next| next.since);
        self.classes.set_turn(id, turn);
        Some(changed)
    }
}

impl Agent {
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

impl Profile {
    fn rights(&self) -> Rights<'_> {
        Rights { scopes: &self.scopes, paths: &self.paths }
    }

    fn has_scope(&self, scope: &str) -> bool {
        scope.is_empty() || self.scopes.iter().any(|own| own == scope)
    }

    fn serves(&self, need: &Need) -> bool {
        self.has_scope(&need.scope)
            && (self.paths.is_empty()
                || !need.path.is_empty() && self.paths.iter().any(|rule| path::matches(rule, &need.path)))
    }
}
