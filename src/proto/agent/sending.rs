//! What waits to be sent to an upstream, and how long it may.
//!
//! An upstream that is busy with something else has not begun to read. What the kernels on the way have no
//! room for waits then, which is no more suspicious than a small request that waits in them as a whole. Only
//! an upstream that has begun to read, or has answered, is expected to go on. Kernels take what they have
//! room for at once, so that whatever is taken later was read.

use core::time::Duration;

use crate::proto::deadline::Limit;
use crate::proto::tables::timer::Mono;

/// How long kernels may need to take what they have room for.
const KERNEL_FILL_TIME: Duration = Duration::from_secs(2);

/// What waits to be sent to one upstream connection.
#[derive(Clone, Copy)]
pub(super) enum Sending {
    /// Nothing waits, and nothing has since the request began.
    Nothing,
    /// Something waits, or waited before. Nobody knows whether the upstream reads.
    Filling { since: Mono, waits: bool },
    /// It reads. Something waits, and the upstream must take some of that by then.
    Reading { by: Mono },
    /// It reads, and has taken everything.
    Read,
}

impl Sending {
    pub(super) fn waits(self) -> bool {
        matches!(self, Self::Filling { waits: true, .. } | Self::Reading { .. })
    }

    /// By when the upstream must take some of what waits.
    pub(super) fn limit(self) -> Limit {
        match self {
            Self::Reading { by } => Limit::at(by),
            Self::Nothing | Self::Filling { .. } | Self::Read => Limit::NONE,
        }
    }

    /// Something began to wait, or some of what waits was taken (`waits`), or all of it (not `waits`).
    pub(super) fn note(&mut self, waits: bool, may_be_busy: bool, now: Mono, stall: Duration) {
        *self = match *self {
            Self::Nothing if may_be_busy => Self::Filling { since: now, waits },
            Self::Filling { since, .. } if may_be_busy && now.since(since) < KERNEL_FILL_TIME => {
                Self::Filling { since, waits }
            }
            // Something waits again, which says nothing about the upstream.
            Self::Filling { since, waits: false } if may_be_busy && waits => Self::Filling { since, waits },
            Self::Nothing | Self::Filling { .. } | Self::Reading { .. } | Self::Read if waits => {
                Self::Reading { by: now.after_coarse(stall) }
            }
            Self::Nothing | Self::Filling { .. } | Self::Reading { .. } | Self::Read => Self::Read,
        };
    }

    /// The upstream is expected to read from now on.
    pub(super) fn expect_reading(&mut self, now: Mono, stall: Duration) {
        if let Self::Filling { waits, .. } = *self {
            *self = if waits { Self::Reading { by: now.after_coarse(stall) } } else { Self::Read };
        }
    }
}
