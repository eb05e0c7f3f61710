//! What time and revocations do to agents: they are forgotten, lose their token, or may have again what they
//! refused.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::time::Duration;

use super::{Agent, Pool, Refusal};
use crate::proto::hub::profile::{AgentSerial, Refused};
use crate::proto::hub::turns::AgentSlot;
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::trust::revocation::Revocations;

/// From a refusal to the time when the agent may have the same request again, if it takes work by then. An
/// agent that refuses and joins again and again would keep a request on the move.
pub const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

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

impl Pool {
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
            let queue = if agent.presence.paused { self.pauses.turns_mut() } else { &mut profile.turns };
            self.turns.forget(queue, AgentSlot::new(slot));
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

    /// Whether the token of an agent has expired.
    pub fn is_expired(&self, slot: AgentSlot, unix: u64) -> bool {
        self.agents.get(slot.index()).and_then(|agent| agent.expires).is_some_and(|at| unix >= at)
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

    /// Notes that an agent refused an exchange.
    pub fn refuse(&mut self, slot: AgentSlot, now: Mono) -> Option<Refused> {
        let agent = self.agents.get_mut(slot.index())?;
        agent.refusal = Some(Refusal { at: now, is_back: false });
        Some(Refused { agent: agent.serial, round: agent.round })
    }

    /// An agent may have what it refused once it has been back for long enough: its idle tunnels are looked
    /// at again.
    pub(super) fn take_again(&mut self, slot: AgentSlot, now: Mono) {
        let Some(agent) = self.agents.get_mut(slot.index()) else { return };
        if agent.refusal.as_ref().is_some_and(|it| it.is_back && it.at.after(REFUSAL_PAUSE) <= now) {
            agent.refusal = None;
            agent.round = agent.round.wrapping_add(1);
            self.change_turns(slot, |_, _| ());
        }
    }
}
