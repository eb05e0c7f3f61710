//! What holds of the pool between two turns. For tests.

use alloc::collections::BTreeMap;

use super::{Member, Pool};
use crate::proto::hub::classes::ProfileId;
use crate::proto::hub::profile::Need;
use crate::proto::hub::turns::AgentSlot;
use crate::proto::tables::key::TunnelKey;
use crate::proto::trust::agent_token::TokenId;

impl Pool {
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

    /// How many tunnels owe such an answer. For tests.
    pub fn pending(&self) -> usize {
        self.profiles.iter().map(|(_, profile)| profile.pending).sum()
    }
}
