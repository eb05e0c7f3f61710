//! What waits to be sent to an upstream, and how long it may.
//!
//! An upstream that is busy with something else has not begun to read: what the kernels on the way have no
//! room for waits, and that is no more suspicious than a small request that waits whole. Only an upstream
//! that has begun to read, or has answered, is expected to go on. Kernels take what they have room for at
//! once, so that what is taken later was read.

use core::time::Duration;

use crate::proto::deadline::Limit;
use crate::proto::tables::timer::Mono;

/// Kernels have taken what they have room for after this.
const KERNEL_FILL_TIME: Duration = Duration::from_secs(2);

/// What waits to be sent to one upstream connection.
#[derive(Clone, Copy)]
pub(super) enum Sending {
    /// Nothing waits, and nothing has since the request began.
    Nothing,
    /// Something waits, or waited before. Nobody knows whether the upstream reads.
    Filling { since: Mono, waits: bool },
    /// It reads. Something waits, and it takes some of that by then.
    Reading { by: Mono },
    /// It reads, and has taken everything.
    Read,
}

impl Sending {
    pub(super) fn waits(self) -> bool {
        matches!(self, Self::Filling { waits: true, .. } | Self::Reading { .. })
    }

    /// It must take some of what waits by then.
    pub(super) fn limit(self) -> Limit {
        match self {
            Self::Reading { by } => Limit::at(by),
            Self::Nothing | Self::Filling { .. } | Self::Read => Limit::NONE,
        }
    }

    /// Something began to wait (`waits`), or some of it was taken, or all (not `waits` any more).
    pub(super) fn note(&mut self, waits: bool, may_be_busy: bool, now: Mono, stall: Duration) {
        *self = match *self {
            Self::Nothing if may_be_busy => Self::Filling { since: now, waits },
            Self::Filling { since, .. } if may_be_busy && now.since(since) < KERNEL_FILL_TIME => {
                Self::Filling { since, waits }
            }
            // It began to wait again, which says nothing about the upstream.
            Self::Filling { since, waits: false } if may_be_busy && waits => Self::Filling { since, waits },
            Self::Nothing | Self::Filling { .. } | Self::Reading { .. } | Self::Read if waits => {
                Self::Reading { by: now.after_coarse(stall) }
            }
            Self::Nothing | Self::Filling { .. } | Self::Reading { .. } | Self::Read => Self::Read,
        };
    }

    /// From now on it is expected to read.
    pub(super) fn expect_reading(&mut self, now: Mono, stall: Duration) {
        if let Self::Filling { waits, .. } = *self {
            *self = if waits { Self::Reading { by: now.after_coarse(stall) } } else { Self::Read };
        }
    }
}
