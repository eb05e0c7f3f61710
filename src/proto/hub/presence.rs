//! Whether an agent is taken for connected, though it may take no work at this moment.
//!
//! A request waits for an agent that will take work before long, and for no other one: an agent that has a
//! ready or busy tunnel; that has none for less than the grace, because agents are restarted and upstreams
//! too; or whose upstream answers, and is not ready yet. An agent that an operator has paused counts as one
//! that takes no work. An agent whose token has expired or was revoked does not come back.

use core::time::Duration;

use crate::proto::tables::timer::Mono;

/// What is known of an agent's return.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Tunnels that take work, or have taken some.
    pub(super) ready: usize,
    /// It takes no work, and will before long: its upstream answers.
    pub(super) loading: bool,
    /// Its token is not good any more.
    pub(super) spent: bool,
    /// An operator wants it to get nothing.
    pub(super) paused: bool,
    /// Until then it is taken for connected, whatever became of it.
    until: Mono,
}

impl Presence {
    /// That of an agent that was never here.
    pub(super) fn new(paused: bool) -> Self {
        Self { paused, ..Self::default() }
    }

    /// Whether it is connected, without a grace.
    pub(super) fn is_here(&self) -> bool {
        !self.spent && !self.paused && (self.ready > 0 || self.loading)
    }

    /// Whether it takes work, or has taken some.
    pub(super) fn takes_work(&self) -> bool {
        !self.spent && !self.paused && self.ready > 0
    }

    /// Whether it is taken for connected.
    pub(super) fn is_connected(&self, now: Mono) -> bool {
        self.is_here() || self.grace_ends().is_some_and(|until| now < until)
    }

    /// Whether it is taken for connected by a request that it has refused: not for the sake of its busy
    /// tunnels.
    pub(super) fn may_return(&self, now: Mono) -> bool {
        !self.spent && (self.loading && !self.paused || now < self.until)
    }

    /// It is not here any more: when its grace ends, if it has one.
    pub(super) fn begin_grace(&mut self, grace: Duration, now: Mono) -> Option<Mono> {
        self.until = now.after(grace);
        self.grace_ends()
    }

    /// When it is taken for gone, unless it is here, or was never.
    pub(super) fn grace_ends(&self) -> Option<Mono> {
        (!self.spent && !self.is_here()).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[test]
    fn an_agent_is_taken_for_connected_for_a_while_after_it_was_here() {
        let (begin, late) = (Mono(1000), Mono(6000));
        let mut it = Presence::default();
        assert!(!it.is_connected(begin), "it was never here");
        for loading in [false, true] {
            it = Presence { ready: usize::from(!loading), loading, ..Presence::default() };
            assert!(it.is_connected(late));
            (it.ready, it.loading) = (0, false);
            assert_eq!(it.begin_grace(GRACE, begin), Some(late));
            assert!(it.is_connected(Mono(5999)) && it.may_return(Mono(5999)));
            assert!(!it.is_connected(late) && !it.may_return(late));
        }
    }

    #[test]
    fn a_spent_token_has_no_grace() {
        let mut it = Presence { ready: 1, spent: true, ..Presence::default() };
        assert!(!it.is_here() && !it.is_connected(Mono(0)));
        it.ready = 0;
        assert_eq!(it.begin_grace(GRACE, Mono(1000)), None);
        assert!(!it.is_connected(Mono(1000)) && !it.may_return(Mono(1000)));
    }

    #[test]
    fn a_paused_agent_is_as_one_that_has_withdrawn() {
        let mut it = Presence { ready: 1, loading: true, paused: true, ..Presence::default() };
        assert!(!it.is_here() && !it.takes_work());
        assert_eq!(it.begin_grace(GRACE, Mono(1000)), Some(Mono(6000)));
        assert!(it.is_connected(Mono(5999)) && it.may_return(Mono(5999)));
        assert!(!it.is_connected(Mono(6000)) && !it.may_return(Mono(6000)));
        it.paused = false;
        assert!(it.is_here() && it.takes_work());
    }

    #[test]
    fn a_busy_agent_does_not_return_by_being_busy() {
        let it = Presence { ready: 1, ..Presence::default() };
        assert!(it.is_connected(Mono(1000)) && !it.may_return(Mono(1000)));
    }
}
