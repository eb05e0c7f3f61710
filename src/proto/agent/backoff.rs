//! When to dial again, and how long the hub may be silent.

use core::time::Duration;

use crate::proto::random::Random;
use crate::proto::tables::timer::Mono;

/// The first window of the back-off.
const MIN_WINDOW_MS: u32 = 200;
/// The window stays here while the outage is young.
const MAX_YOUNG_WINDOW_MS: u32 = 2_000;
/// The last window.
const MAX_WINDOW_MS: u32 = 30_000;
/// An outage is young for this long.
const YOUNG_OUTAGE: Duration = Duration::from_secs(15);
/// Signs of life that the hub may owe, and what a loaded machine takes, in halves.
const SILENCE_HALF_PACES: u32 = 9;

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
        now.after_coarse(self.pace() * SILENCE_HALF_PACES / 2)
    }

    pub(super) fn fail(&mut self, random: &mut Random, now: Mono) -> Mono {
        self.since = self.since.min(now);
        let most = if now.since(self.since) < YOUNG_OUTAGE { MAX_YOUNG_WINDOW_MS } else { MAX_WINDOW_MS };
        self.window = (self.window * 2).clamp(MIN_WINDOW_MS, most);
        Mono(now.0 + random.below(self.window.into()))
    }

    /// For those who are not wanted: the slowest rate, never less than half of it.
    pub(super) fn fail_slowly(&mut self, random: &mut Random, now: Mono) -> Mono {
        self.since = self.since.min(now);
        self.window = MAX_WINDOW_MS;
        let half = u64::from(MAX_WINDOW_MS / 2);
        Mono(now.0 + half + random.below(half))
    }
}
