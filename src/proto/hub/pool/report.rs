//! What the log and the admin side are told of agents.

use alloc::string::String;

use super::Pool;
use crate::proto::hub::classes::ClassId;
use crate::proto::hub::profile::AgentSerial;
use crate::proto::hub::turns::AgentSlot;
use crate::proto::tables::key::TunnelKey;
use crate::proto::tables::timer::Mono;
use crate::proto::tunnel::Trouble;

/// What is kept of the reason why an agent takes no work, in characters.
const LONGEST_TROUBLE: usize = 120;
/// The agents that the log names where none can be used.
const MOST_NAMED: usize = 5;

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

impl Pool {
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

    /// An agent in words, for the log.
    pub fn describe(&self, slot: AgentSlot) -> String {
        self.agents
            .get(slot.index())
            .map_or_else(String::new, |agent| format!("{} ({})", agent.token_name, agent.id))
    }

    /// The id that an agent gave itself.
    pub fn agent_id(&self, slot: AgentSlot) -> &str {
        self.agents.get(slot.index()).map_or("", |agent| &agent.id)
    }

    /// What tells an agent from those that had its slot before.
    pub fn serial(&self, slot: AgentSlot) -> Option<AgentSerial> {
        self.agents.get(slot.index()).map(|agent| agent.serial)
    }

    /// The agents that have tunnels for all they serve: the name of each one's token, and its workers.
    pub fn connected(&self) -> impl Iterator<Item = (&str, &[(u32, TunnelKey)])> {
        let agents = self.agents.iter().map(|(_, agent)| agent);
        let connected = agents.filter(|agent| agent.light.is_empty() && !agent.workers.is_empty());
        connected.map(|agent| (agent.token_name.as_str(), agent.workers.as_slice()))
    }

    /// How many agents are known, the lately gone ones included.
    pub fn agents(&self) -> usize {
        self.agents.len()
    }
}
