//! Deadlines that have passed while something that arrived before them is still unread.
//!
//! Nothing expires before what has arrived was read. A process that was stopped, or had no processor for a
//! while (SIGSTOP, a frozen container, a debugger, a machine that swaps), finds many deadlines passed, and
//! the signs of life that they ask for in its sockets. So the events that came until now are looked at before
//! the core hears that time is up; and while the network has told only some of them, or some connections have
//! used up their share of the turn, it hears of it only in a later turn. The number of those turns has a
//! bound, which comes from the bounds of what is looked at in one: a flood must not keep deadlines from
//! passing.

use super::Shell;
use super::handshakes::STEPS_PER_TURN;
use crate::net::{Net, Polled};
use crate::proto::seam::Core;

/// After this many turns all events and the whole backlog have been seen: a turn takes 1024 events and
/// accepts 64 connections, those that have waited longest first.
const QUEUE_TURNS: usize = 64;
/// After this many turns a connection that uses up its share each time has been shown a megabyte: more than
/// what arrives in one go before any deadline.
const SHARE_TURNS: usize = 4;

impl<C: Core, N: Net> Shell<C, N> {
    /// Whether deadlines that have passed may be acted on in this turn, whose events were told as `polled`.
    pub(super) fn has_caught_up(&mut self, polled: Polled) -> bool {
        let most = if polled == Polled::Part || self.listeners.may_accept() || self.has_accepted {
            QUEUE_TURNS
        } else if self.ready.is_empty() && self.later.is_empty() {
            0
        } else {
            // Handshakes wait for their steps.
            SHARE_TURNS + self.later.len() / STEPS_PER_TURN
        };
        let may = self.turns_overdue >= most;
        self.turns_overdue = if may { 0 } else { self.turns_overdue + 1 };
        may
    }
}
