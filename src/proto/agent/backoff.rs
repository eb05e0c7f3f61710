//! When to dial again, and how long the hub may be silent.

use core::time::Duration;

use crate::proto::random::Random;
use crate::proto::tables::timer::Mono;

/// The first window of the back-off.
const MIN_WINDOW_MS: u32 = 200;
/// The largest window while the outage is young.
const MAX_YOUNG_WINDOW_MS: u32 = 2_000;
/// The largest window.
const MAX_WINDOW_MS: u32 = 30_000;
/// How long an outage is young.
const YOUNG_OUTAGE: Duration = Duration::from_secs(15);
/// How many halves of the pace of heartbeats the hub may be silent for: it may miss some of them, and a
/// loaded machine takes its time.
const SILENCE_HALF_PACES: u32 = 9;

/// When to dial again: full jitter over a window that doubles (Brooker, "Exponential backoff and jitter",
/// 2015).
pub(super) struct Backoff {
    /// The first failure since the last success; [`Mono::NEVER`] if there was none.
    since: Mono,
    /// In milliseconds; 0 before the first failure.
    window: u32,
    /// The pace of heartbeats that the hub has announced, in milliseconds, up to 49 days; 0 before that.
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

    /// The pause of a worker that the hub does not want: as for the largest window, but at least half of
    /// that.
    pub(super) fn fail_slowly(&mut self, random: &mut Random, now: Mono) -> Mono {
        self.since = self.since.min(now);
        self.window = MAX_WINDOW_MS;
        let half = u64::from(MAX_WINDOW_MS / 2);
        Mono(now.0 + half + random.below(half))
    }
}
