//! What an operator does: pauses agents and the queue, and cancels requests.

use alloc::vec::Vec;

use log::Level;

use super::Hub;
use super::answers::Refusal;
use super::exchanges::Phase;
use super::pool::{Known, TooMany};
use crate::proto::admin::action::{Action, Done, Kind, NotDone};
use crate::proto::admin::attention::{Attention, Severity};
use crate::proto::tables::timer::{Mono, Now};

/// What an operator has said.
#[derive(Debug, Default)]
pub(super) struct Operator {
    /// Since when the queue is paused, if it is.
    queue_paused: Option<Mono>,
    /// By kind.
    done: [u64; Kind::ALL.len()],
}

impl Operator {
    /// Since when nothing that waits gets a worker, if an operator wants it so.
    pub(super) fn queue_paused(&self) -> Option<Mono> {
        self.queue_paused
    }

    /// How often anything was changed, by kind.
    pub(super) fn done(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().zip(self.done)
    }
}

impl Hub {
    /// As [`Subject::act`](crate::proto::admin::Subject::act).
    pub(super) fn carry_out(&mut self, action: &Action<'_>, now: Now) -> Result<Done, NotDone> {
        let done = match action {
            Action::Agent { id, pause } => self.pause_agent(id, *pause, now)?,
            Action::Name { name, pause } => self.pause_name(name, *pause, now)?,
            Action::Queue { pause } => self.pause_queue(*pause, now),
            Action::Cancel { number } => self.cancel(*number, now)?,
        };
        let kind = Kind::ALL.into_iter().position(|kind| kind == action.kind());
        if done != Done::Changed(false)
            && let Some(count) = kind.and_then(|kind| self.operator.done.get_mut(kind))
        {
            *count += 1;
        }
        Ok(done)
    }

    fn pause_agent(&mut self, id: &str, pause: bool, now: Now) -> Result<Done, NotDone> {
        let changed = self.tunnels.pause_agent(id, pause, now.mono);
        let changed = changed.ok_or(NotDone::Unknown("no agent is known by this id"))?;
        if changed {
            self.tell_operator(format_args!("agent {} {}", id.escape_debug(), verb(pause)));
        }
        self.look_at_pauses(pause, now);
        Ok(Done::Changed(changed))
    }

    fn pause_name(&mut self, name: &str, pause: bool, now: Now) -> Result<Done, NotDone> {
        let changed = self.tunnels.pause_name(name, pause, now.mono);
        let changed = changed.map_err(|TooMany| NotDone::Full("too many names are paused"))?;
        if changed {
            self.tell_operator(format_args!("all agents named {} {}", name.escape_debug(), verb(pause)));
        }
        self.look_at_pauses(pause, now);
        Ok(Done::Changed(changed))
    }

    /// Those who wait for agents that were paused give up when the grace is over; others may be served now.
    fn look_at_pauses(&mut self, pause: bool, now: Now) {
        if pause {
            self.look_again_at(self.tunnels.pool().grace_from(now.mono));
        } else {
            self.dispatch(now);
        }
    }

    fn pause_queue(&mut self, pause: bool, now: Now) -> Done {
        let changed = self.operator.queue_paused.is_some() != pause;
        if changed {
            self.operator.queue_paused = pause.then_some(now.mono);
            self.tell_operator(format_args!("the queue {}", verb(pause)));
            self.dispatch(now);
        }
        Done::Changed(changed)
    }

    /// What is paused, for those who look: so many names, and so many agents.
    pub(super) fn pauses(&self, most: usize) -> Vec<Attention> {
        let mut all = Vec::new();
        if self.operator.queue_paused.is_some() {
            let text = format!("The queue is paused; {} requests wait.", self.exchanges.queue().len());
            all.push(Attention::new("queue_paused", Severity::Bad, text));
        }
        for (name, _) in self.tunnels.pool().paused_names().take(most) {
            let text = format!("All agents named {name} are paused.");
            all.push(Attention::new("paused", Severity::Warn, text).about(name));
        }
        let is_paused = |agent: &Known<'_>| agent.paused.is_some_and(|paused| !paused.by_name);
        let here = self.tunnels.pool().known().filter(|agent| !agent.workers.is_empty() && is_paused(agent));
        for agent in here.take(most) {
            let text = format!("{} is paused.", agent.name);
            let id = format!("{}:{}", agent.token, agent.id);
            all.push(Attention::new("paused", Severity::Warn, text).about(id));
        }
        all
    }

    fn cancel(&mut self, number: u64, now: Now) -> Result<Done, NotDone> {
        let found = self.exchanges.iter().find(|(_, exchange)| exchange.arrival.0 == number);
        let (key, exchange) = found.ok_or(NotDone::Unknown("no request with this id waits or runs"))?;
        let ran = match *exchange.phase {
            Phase::Active { .. } => true,
            Phase::Gathering { .. } | Phase::Between | Phase::Queued { .. } => false,
        };
        self.fail(key, Refusal::Cancelled, now);
        Ok(Done::Cancelled { ran })
    }

    fn tell_operator(&mut self, line: core::fmt::Arguments<'_>) {
        self.notices.change(Level::Info, &[], format_args!("{line}, by an operator"));
    }
}

fn verb(pause: bool) -> &'static str {
    if pause { "paused" } else { "resumed" }
}
