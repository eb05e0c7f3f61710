//! The end of the process: what it still waits for, and for how long.

use crate::proto::deadline::Limit;
use crate::proto::tables::timer::{Mono, Now};

/// Whether the process goes on.
pub(super) enum Process {
    /// It does.
    Running,
    /// It ends when everything is done that has begun.
    Draining {
        /// What is still served then is cut off.
        until: Mono,
        /// Upgraded connections are cut off then, if there may be any.
        upgraded_until: Limit,
        /// The end of a response may not have come to its application.
        is_short: bool,
    },
    /// The shell has been told to end it.
    Over,
}

impl Process {
    pub(super) fn draining(until: Mono, upgraded_until: Mono) -> Self {
        Self::Draining { until, upgraded_until: Limit::at(upgraded_until), is_short: false }
    }

    /// Whether nothing new is begun.
    pub(super) fn is_draining(&self) -> bool {
        !matches!(self, Self::Running)
    }

    /// Until when it drains, and whether the end of a response may not have come to its application.
    pub(super) fn drains_until(&self) -> Option<(Mono, bool)> {
        match self {
            Self::Draining { until, is_short, .. } => Some((*until, *is_short)),
            Self::Running | Self::Over => None,
        }
    }

    pub(super) fn next_timeout(&self) -> Mono {
        match self {
            Self::Draining { until, upgraded_until, .. } => upgraded_until.deadline().min(*until),
            Self::Running | Self::Over => Limit::NONE.deadline(),
        }
    }

    /// The end of a response may not have come to its application. That counts only if the process is ending.
    pub(super) fn note_short(&mut self) {
        if let Self::Draining { is_short, .. } = self {
            *is_short = true;
        }
    }

    /// There is one more upgraded connection. If the process is ending, the connection has until then.
    pub(super) fn note_upgraded(&mut self, until: Mono) {
        if let Self::Draining { upgraded_until, .. } = self {
            upgraded_until.bring_forward(until);
        }
    }

    /// Whether upgraded connections are to be cut off now. Says so once.
    pub(super) fn cuts_upgraded(&mut self, now: Now) -> bool {
        match self {
            Self::Draining { upgraded_until, .. } if upgraded_until.has_passed(now) => {
                *upgraded_until = Limit::NONE;
                true
            }
            Self::Draining { .. } | Self::Running | Self::Over => false,
        }
    }
}
