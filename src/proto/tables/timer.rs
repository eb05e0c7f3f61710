//! Time as the core sees it, and the table of who wants to be woken when.
//!
//! The core never reads a clock: the shell hands it [`Now`]. Deadlines live in the states that have them;
//! this table only remembers to look. It is lazy: moving a deadline back, which every request does, costs a
//! store and no heap operation.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use core::time::Duration;

use crate::proto::tables::key::Key;
use crate::proto::tables::table::more_room;

/// A point on the monotonic clock, in milliseconds since some moment before the process began its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// A deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// This point, later by `delay` (rounded up to milliseconds).
    pub fn after(self, delay: Duration) -> Self {
        let fraction = u64::from(delay.subsec_nanos().div_ceil(1_000_000));
        Self(self.0.saturating_add(delay.as_secs().saturating_mul(1000)).saturating_add(fraction))
    }

    /// As [`Mono::after`], rounded up to the next half second of the clock: deadlines that need no precision
    /// fall on the same instants, so that thousands of idle connections wake the loop twice a second at most.
    pub fn after_coarse(self, delay: Duration) -> Self {
        Self(self.after(delay).0.div_ceil(COARSE_MS).saturating_mul(COARSE_MS))
    }

    /// The milliseconds from `earlier` to this point; zero if it lies behind.
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from `earlier` to this point; zero if it lies behind.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.millis_since(earlier))
    }
}

const COARSE_MS: u64 = 500;
/// Fewer wake-ups than this are not worth the looking.
const MIN_PRUNED_WAKE_UPS: usize = 256;
/// Wake-ups that room is kept for.
const KEPT_WAKE_UPS: usize = 8192;

/// A clock that shows an earlier time than this, the beginning of 2024, has not been set: routers without a
/// battery start in 1970.
pub const CLOCK_IS_SET: u64 = 1_704_067_200;

/// The two clocks, read once in each turn of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub mono: Mono,
    /// Seconds since 1970, for the expiry of tokens. It may jump, and on a router without a clock it starts
    /// in 1970.
    pub unix: u64,
}

/// The wake-up that is in force for one table entry. It belongs to the entry, as the deadlines do.
#[derive(Clone, Copy, Debug)]
pub struct Armed(Mono);

impl Default for Armed {
    /// None is.
    fn default() -> Self {
        Self(Mono::NEVER)
    }
}

impl Now {
    /// The time of day, if the clock has been set.
    pub fn date(self) -> Option<u64> {
        (self.unix >= CLOCK_IS_SET).then_some(self.unix)
    }
}

impl Armed {
    /// Whether this is the wake-up for `at`, and not one that took its place or a later entry's.
    pub fn is_for(self, at: Mono) -> bool {
        self.0 == at
    }

    /// Whether somebody will look at `deadline` in time.
    pub fn covers(self, deadline: Mono) -> bool {
        self.0 <= deadline
    }
}

/// Wake-ups, earliest first.
#[derive(Debug, Default)]
pub struct TimerTable {
    heap: BinaryHeap<Reverse<(Mono, Key)>>,
}

impl TimerTable {
    /// Sees to it that `key` comes out of [`TimerTable::pop_due`] at `deadline` or before. A wake-up that is
    /// already armed for an earlier time stays, and its owner arms the later one when it comes.
    pub fn arm(&mut self, armed: &mut Armed, key: Key, deadline: Mono) {
        if armed.covers(deadline) {
            return;
        }
        armed.0 = deadline;
        if self.heap.len() == self.heap.capacity() {
            self.heap.reserve_exact(more_room::<Reverse<(Mono, Key)>>(self.heap.len()));
        }
        self.heap.push(Reverse((deadline, key)));
    }

    /// The next entry whose wake-up is due, with the time it was armed for. Its owner calls
    /// [`TimerTable::disarm`] with that time, looks at its deadlines, and arms the next one.
    pub fn pop_due(&mut self, now: Mono) -> Option<(Mono, Key)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    /// Notes that the wake-up for `at` has come. False if another one, armed later for an earlier time, took
    /// its place.
    pub fn disarm(armed: &mut Armed, at: Mono) -> bool {
        if armed.0 != at {
            return false;
        }
        *armed = Armed::default();
        true
    }

    /// Forgets the wake-ups of entries that are gone, or have another one, once there is one for every four
    /// entries: many short connections must not leave more behind than there are at once. Nor must many long
    /// ones, once they are over. `armed` is what the entry has, if it is there.
    pub fn prune(&mut self, entries: usize, mut armed: impl FnMut(Key) -> Option<Armed>) {
        if self.heap.len() > entries + entries / 4 + MIN_PRUNED_WAKE_UPS {
            self.heap.retain(|Reverse((at, key))| armed(*key).is_some_and(|armed| armed.is_for(*at)));
        }
        if self.heap.capacity() > 4 * self.heap.len().max(KEPT_WAKE_UPS) {
            self.heap.shrink_to(2 * self.heap.len().max(KEPT_WAKE_UPS));
        }
    }

    /// When the next wake-up is due.
    pub fn next(&self) -> Option<Mono> {
        self.peek().map(|(at, _)| at)
    }

    /// The next wake-up: when it is due, and whose it is.
    pub fn peek(&self) -> Option<(Mono, Key)> {
        self.heap.peek().map(|Reverse(next)| *next)
    }

    /// How many wake-ups are armed, stale ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no wake-up is armed.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
