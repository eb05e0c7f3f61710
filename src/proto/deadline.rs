//! Limits of waits that may not be under way, as types: what is asked of them is asked by name, and no
//! deadline is compared with [`Mono::NEVER`] to find out what somebody is doing.
//!
//! # All timers
//!
//! A timer lives in the state that waits, and its owner tells the earliest one by `deadline` or
//! `next_timeout`. Those of the hub and of the agent stand in the tables of [`hub`](crate::proto::hub) and
//! [`agent`](crate::proto::agent), state by state. The others are:
//!
//! | Who waits | State | For what | Limit |
//! |---|---|---|---|
//! | hub | `sweep_at` | agents that are gone or refused, tokens that expire | `agent_grace`, `REFUSAL_PAUSE`, `startup_grace` |
//! | hub, agent, shell | `Notices` | the next line of its kind | `REPEAT_AFTER` |
//! | admin | `State::Waiting`, `Ending`, `SendLimit` | a head or the next request; the end; its client | `HEAD`, `IDLE`; `LINGER`; `STALL` |
//! | node | `drain_delay` | balancers that look at `/readyz` | `--drain-delay` |
//! | shell | `attempts` | an address that does not answer | `ATTEMPT_DELAY` |
//! | shell | `Listeners` | free descriptors | `ACCEPT_PAUSE` |
//! | shell | `look_at` | the next look for peers that have vanished | `LOOK_INTERVAL` |
//! | shell | `Notifier` | the watchdog of the service manager | what it asks for |
//! | system | `Resolver` | a name | `LOOK_UP_TIMEOUT` |

use core::time::Duration;

use crate::proto::tables::timer::{Mono, Now};

/// The end of a wait, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Mono);

impl Limit {
    /// Nobody waits, or without a limit.
    pub const NONE: Self = Self(Mono::NEVER);

    /// The wait ends then.
    pub fn at(deadline: Mono) -> Self {
        Self(deadline)
    }

    /// Whether there is a limit.
    pub fn is_set(self) -> bool {
        self.0 != Mono::NEVER
    }

    /// Whether the wait has taken too long.
    pub fn has_passed(self, now: Now) -> bool {
        self.0 <= now.mono
    }

    /// For the timer: when it passes.
    pub fn deadline(self) -> Mono {
        self.0
    }

    /// Something came of what is waited for. There is more time for the rest, if there is a limit at all.
    pub fn put_off(&mut self, deadline: Mono) {
        if self.is_set() {
            self.0 = deadline;
        }
    }

    /// Sooner than it was, or for the first time.
    pub fn bring_forward(&mut self, deadline: Mono) {
        self.0 = self.0.min(deadline);
    }
}

/// Whether bytes wait until a connection takes them, and how long it may take none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendLimit(Limit);

impl SendLimit {
    /// Nothing waits.
    pub const IDLE: Self = Self(Limit::NONE);

    /// As [`Core::handle_send_progress`](crate::proto::seam::Core::handle_send_progress) tells it: bytes
    /// wait, and one of them must be taken within `stall`; or none wait.
    pub fn of(waiting: bool, stall: Duration, now: Now) -> Self {
        if waiting { Self(Limit::at(now.mono.after_coarse(stall))) } else { Self::IDLE }
    }

    /// Whether anything waits.
    pub fn is_sending(self) -> bool {
        self.0.is_set()
    }

    /// Whether something waits, and nothing of it was taken for too long.
    pub fn has_passed(self, now: Now) -> bool {
        self.0.has_passed(now)
    }

    /// For the timer: when it passes.
    pub fn deadline(self) -> Mono {
        self.0.deadline()
    }

    /// If anything waits, there is so much time again from now on.
    pub fn put_off(&mut self, stall: Duration, now: Now) {
        self.0.put_off(now.mono.after_coarse(stall));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_none_neither_passes_nor_is_put_off() {
        let late = Now { mono: Mono(u64::MAX - 1), unix: 0 };
        let mut limit = Limit::NONE;
        limit.put_off(Mono(1));
        assert!(!limit.is_set() && !limit.has_passed(late));
        limit.bring_forward(Mono(2));
        assert!(limit.is_set() && limit.has_passed(Now { mono: Mono(2), unix: 0 }));
        limit.put_off(Mono(3));
        assert!(!limit.has_passed(Now { mono: Mono(2), unix: 0 }));
    }

    #[test]
    fn who_sends_has_a_limit_and_who_does_not_has_none() {
        let now = Now { mono: Mono(1000), unix: 0 };
        let stall = Duration::from_secs(10);
        let mut limit = SendLimit::of(false, stall, now);
        limit.put_off(stall, now);
        assert!(!limit.is_sending() && limit == SendLimit::IDLE);
        limit = SendLimit::of(true, stall, now);
        assert!(limit.is_sending() && !limit.has_passed(now));
        assert!(limit.has_passed(Now { mono: Mono(11_000), unix: 0 }));
    }
}
