//! Which agents may serve a request, which idle tunnel it gets, and for whom it may hope.

use super::Pool;
use crate::proto::hub::classes::{Candidate, ClassId, ProfileId};
use crate::proto::hub::profile::{Need, Refused};
use crate::proto::hub::turns::AgentSlot;
use crate::proto::tables::key::TunnelKey;
use crate::proto::tables::timer::Mono;

impl Pool {
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

    /// A class that has other idle tunnels, or other profiles, than when it was last told here.
    pub fn pop_changed(&mut self) -> Option<ClassId> {
        self.classes.pop_changed()
    }

    /// Nobody waits in this class any more.
    pub fn note_empty(&mut self, class: ClassId) {
        self.classes.note_empty(class);
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

    /// Whether a matching agent would be there but for the rule that paths which can be read in two ways
    /// match no scope path.
    pub fn is_barred_by_path(&self, need: &Need) -> bool {
        need.path.is_empty()
            && self
                .profiles
                .iter()
                .any(|(_, profile)| profile.has_scope(&need.scope) && !profile.paths.is_empty())
    }

    pub(super) fn may_have(&self, slot: AgentSlot, refused: &[Refused]) -> bool {
        self.agents.get(slot.index()).is_some_and(|agent| !agent.is_among(refused))
    }
}
