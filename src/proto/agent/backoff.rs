//! When to dial again, and how long the hub may be silent.

use core::time::Duration;

use crate::proto::random::Random;
use crate::proto::tables::timer::Mono;

/// The first window of the back-off.
const SHORTEST: u32 = 200;
/// The window stays here while the outage is young.
const PATIENT: u32 = 2_000;
/// The last window.
const LONGEST: u32 = 30_000;
/// An outage is young for this long.
const YOUNG: Duration = Duration::from_secs(15);
/// Signs of life that the hub may owe, and what a loaded machine takes, in halves.
const SILENCE: u32 = 9;

/// When to dial again: full jitter over a window that doubles (Brooker, "Exponential backoff and jitter",
/// 2015).
pub(super) struct Backoff {
    /// The first failure since the last success; [`Mono::NEVER`] if there was none.
    since: Mono,
    /// In milliseconds; 0 before the first failure.
    window: u32,
    /// How often the hub is expected to be heard of, once it has said so; in milliseconds, up to 49 days.
    pace: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { since: Mono::NEVER, window: 0, pace: 0 }
    }
}

impl Backoff {
    pub(super) fn succeed(&mut self) {
        self.since = Mono::NEVER;
        self.window = 0;
    }

    pub(super) fn set_pace(&mut self, pace: Duration) {
        self.pace = u32::try_from(pace.as_millis()).unwrap_or(u32::MAX);
    }

    pub(super) fn pace(&self) -> Duration {
        Duration::from_millis(self.pace.into())
    }

    /// By when the hub must be heard of on an idle tunnel.
    pub(super) fn heard_by(&self, now: Mono) -> Mono {
        now.after_coarse(self.pace() * SILENCE / 2)
    }

    pub(super) fn fail(&mut self, random: &mut Random, now: Mono) -> Mono {
        self.since = self.since.min(now);
        let most = if now.since(self.since) < YOUNG { PATIENT } else { LONGEST };
        self.window = (self.window * 2).clamp(SHORTEST, most);
        Mono(now.0 + random.below(self.window.into()))
    }

    /// For those who are not wanted: the slowest rate, never less than half of it.
    pub(super) fn fail_slowly(&mut self, random: &mut Random, now: Mono) -> Mono {
        self.since = self.since.min(now);
        self.window = LONGEST;
        let half = u64::from(LONGEST / 2);
        Mono(now.0 + half + random.below(half))
    }
}
