//! Agents that get nothing because an operator said so.
//!
//! One agent can be paused, or all whose tokens have one name, those that join later, too. A paused agent
//! keeps its tunnels, and what runs on them goes on. The idle ones stand in a queue of their own, in which
//! nobody looks for one.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Agent, AgentSlot, ClassId, Pool, Queue};
use crate::proto::tables::timer::Mono;
use crate::proto::trust::agent_token::TokenId;

/// Names that can be paused at a time, and agents that are not there.
const MOST: usize = 1024;

/// More names are paused than are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// What pauses an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub since: Mono,
    /// Whether it is its name that is paused.
    pub by_name: bool,
}

/// Who is paused, and since when.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    agents: BTreeMap<(TokenId, String), Mono>,
    names: BTreeMap<String, Mono>,
    /// The idle tunnels of paused agents.
    turns: Queue,
}

impl Pauses {
    /// What pauses the agent with this token and id, and this name; the name before the agent itself.
    pub(super) fn paused(&self, token: TokenId, id: &str, name: &str) -> Option<Paused> {
        if let Some(since) = self.names.get(name) {
            return Some(Paused { since: *since, by_name: true });
        }
        if self.agents.is_empty() {
            return None;
        }
        self.agents.get(&(token, id.to_owned())).map(|since| Paused { since: *since, by_name: false })
    }

    pub(super) fn turns_mut(&mut self) -> &mut Queue {
        &mut self.turns
    }
}

impl Pool {
    /// Pauses or resumes the agent with this id: that of its token, a colon, and its own. Whether that
    /// changed anything; `None` if there is no such agent.
    pub fn pause_agent(&mut self, id: &str, pause: bool, now: Mono) -> Option<bool> {
        let is_it = |token: TokenId, own: &str| id == format!("{token}:{own}");
        let known = self.agents.iter().map(|(_, agent)| (agent.token, &agent.id));
        let known = known.chain(self.pauses.agents.keys().map(|(token, own)| (*token, own)));
        let (token, own) = known.into_iter().find(|(token, own)| is_it(*token, own))?;
        let key = (token, own.to_owned());
        let was_paused = self.pauses.agents.contains_key(&key);
        if pause && !was_paused {
            self.forget_one_that_is_gone();
            self.pauses.agents.insert(key, now);
        } else if !pause {
            self.pauses.agents.remove(&key);
        }
        self.follow_pauses(now);
        Some(was_paused != pause)
    }

    /// Pauses or resumes all agents whose tokens have this name, also those that join later. Whether that
    /// changed anything.
    ///
    /// # Errors
    /// So many names are paused that one more would not be kept.
    pub fn pause_name(&mut self, name: &str, pause: bool, now: Mono) -> Result<bool, TooMany> {
        let was_paused = self.pauses.names.contains_key(name);
        if pause && !was_paused {
            if self.pauses.names.len() >= MOST {
                return Err(TooMany);
            }
            self.pauses.names.insert(name.to_owned(), now);
        } else if !pause {
            self.pauses.names.remove(name);
        }
        self.follow_pauses(now);
        Ok(was_paused != pause)
    }

    /// The names that are paused, in order, and since when.
    pub fn paused_names(&self) -> impl Iterator<Item = (&str, Mono)> {
        self.pauses.names.iter().map(|(name, since)| (name.as_str(), *since))
    }

    /// Whether an agent is paused.
    pub fn is_paused(&self, slot: AgentSlot) -> bool {
        self.agents.get(slot.index()).is_some_and(|agent| agent.presence.paused)
    }

    /// Whether agents that may serve this class have tunnels, and all of them are paused.
    pub fn is_all_paused(&self, class: ClassId) -> bool {
        let profiles = self.classes.members(class);
        let is_meant = |agent: &&Agent| profiles.contains(&agent.profile) && !agent.is_gone();
        let mut serving = self.agents.iter().map(|(_, agent)| agent).filter(is_meant).peekable();
        serving.peek().is_some() && serving.all(|agent| agent.presence.paused)
    }

    /// Whether those agents count as paused that are. For tests.
    pub fn follows_pauses(&self) -> bool {
        self.agents.iter().all(|(_, agent)| agent.presence.paused == self.should_be_paused(agent))
    }

    fn should_be_paused(&self, agent: &Agent) -> bool {
        self.pauses.paused(agent.token, &agent.id, &agent.token_name).is_some()
    }

    /// Agents may be gone for good: of those that are paused and not there the first one is forgotten where
    /// there are many.
    fn forget_one_that_is_gone(&mut self) {
        if self.pauses.agents.len() < MOST {
            return;
        }
        let is_here = |key: &(TokenId, String)| {
            self.agents.iter().any(|(_, agent)| agent.token == key.0 && agent.id == key.1)
        };
        let gone = self.pauses.agents.iter().filter(|(key, _)| !is_here(key));
        if let Some(first) = gone.min_by_key(|(_, since)| **since).map(|(key, _)| key.clone()) {
            self.pauses.agents.remove(&first);
        }
    }

    /// Agents that are paused now, and were not, or the other way round.
    fn follow_pauses(&mut self, now: Mono) {
        let changed: Vec<usize> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.presence.paused != self.should_be_paused(agent))
            .map(|(slot, _)| slot)
            .collect();
        for index in changed {
            let slot = AgentSlot::new(index);
            let Some(agent) = self.agents.get(index) else { continue };
            let pause = !agent.presence.paused;
            let Some(profile) = self.profiles.get_mut(agent.profile.index()) else { continue };
            let (own, aside) = (&mut profile.turns, &mut self.pauses.turns);
            let (from, to) = if pause { (own, aside) } else { (aside, own) };
            self.turns.change_queue(from, to, slot);
            self.change(slot, now, |presence| presence.paused = pause);
            self.change_turns(slot, |_, _| ());
        }
    }
}
