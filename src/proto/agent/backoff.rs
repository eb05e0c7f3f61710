//! When to dial again, and how long the hub may be silent.

use core::time::Duration;

use super::Random;
use crate::proto::timer::Mono;

/// The first window of the back-off.
const SHORTEST: u64 = 200;
/// The window stays here while the outage is young.
const PATIENT: u64 = 2_000;
/// The last window.
const LONGEST: u64 = 30_000;
/// An outage is young for this long.
const YOUNG: Duration = Duration::from_secs(15);
/// Signs of life that the hub may owe, and what a loaded machine takes, in halves.
const SILENCE: u32 = 9;

/// When to dial again: full jitter over a window that doubles (Brooker, "Exponential backoff and jitter", 2015).
#[derive(Default)]
pub(super) struct Backoff {
    /// The first failure since the last success.
    since: Option<Mono>,
    /// In milliseconds; 0 before the first failure.
    window: u64,
    /// How often the hub is expected to be heard of, once it has said so.
    pub(super) pace: Duration,
}

impl Backoff {
    pub(super) fn succeed(&mut self) {
        self.since = None;
        self.window = 0;
    }

    /// By when the hub must be heard of on an idle tunnel.
    pub(super) fn heard_by(&self, now: Mono) -> Mono {
        now.after_coarse(self.pace * SILENCE / 2)
    }

    pub(super) fn fail(&mut self, random: &mut Random, now: Mono) -> Mono {
        let since = *self.since.get_or_insert(now);
        let most = if now.since(since) < YOUNG { PATIENT } else { LONGEST };
        self.window = (self.window * 2).clamp(SHORTEST, most);
        Mono(now.0 + random.below(self.window))
    }

    /// For those who are not wanted: the slowest rate, never less than half of it.
    pub(super) fn fail_slowly(&mut self, random: &mut Random, now: Mono) -> Mono {
        self.since.get_or_insert(now);
        self.window = LONGEST;
        Mono(now.0 + LONGEST / 2 + random.below(LONGEST / 2))
    }
}
