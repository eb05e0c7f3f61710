//! What people are told of agents.

use alloc::string::String;

use super::{Agent, AgentSlot, Paused, Pool, ProfileId};
use crate::proto::info::Info;
use crate::proto::tables::key::TunnelKey;
use crate::proto::trust::agent_token::TokenId;

/// What people are told of an agent.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The name that goes with its token.
    pub name: &'a str,
    /// The id that it gave itself.
    pub id: &'a str,
    /// Its token.
    pub token: TokenId,
    /// When that expires, in seconds since 1970.
    pub expires: Option<u64>,
    /// Why it takes no work, while it says so.
    pub trouble: &'a str,
    /// How its last tunnel ended, while it has none.
    pub why_gone: &'a str,
    /// Whether it gets nothing, because an operator said so.
    pub paused: Option<Paused>,
    /// Its workers by number; none once it is gone.
    pub workers: &'a [(u32, TunnelKey)],
    /// What it may serve.
    pub profile: ProfileId,
    /// Scopes of its token.
    pub scopes: &'a [String],
    /// Scope paths of its token.
    pub paths: &'a [String],
    /// What it says of itself.
    pub info: &'a Info,
}

impl Pool {
    /// The agents that are known, in no order.
    pub fn known(&self) -> impl Iterator<Item = Known<'_>> {
        let agents = self.agents.iter().map(|(_, agent)| agent);
        agents.filter(|agent| agent.light.is_empty()).filter_map(|agent| self.tell(agent))
    }

    /// One of them, or of those that are kept to light paths.
    pub fn known_one(&self, slot: AgentSlot) -> Option<Known<'_>> {
        self.tell(self.agents.get(slot.index())?)
    }

    /// How many agents take work.
    pub fn ready_agents(&self) -> usize {
        self.agents.iter().filter(|(_, it)| it.light.is_empty() && it.presence.takes_work()).count()
    }

    fn tell<'a>(&'a self, agent: &'a Agent) -> Option<Known<'a>> {
        let profile = self.profiles.get(agent.profile.index())?;
        Some(Known {
            name: &agent.token_name,
            id: &agent.id,
            token: agent.token,
            expires: agent.expires,
            trouble: &agent.trouble,
            why_gone: &agent.why_gone,
            paused: self.pauses.paused(agent.token, &agent.id, &agent.token_name),
            workers: &agent.workers,
            profile: agent.profile,
            scopes: &profile.scopes,
            paths: &profile.paths,
            info: &agent.info,
        })
    }
}
