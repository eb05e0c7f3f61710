//! How exchanges and tunnels end, and what the log says of it.

use core::fmt;

use super::Refusal;
use crate::proto::error::Violation;
use crate::proto::tunnel::{CloseReason, Trouble};

/// How an exchange ended.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// The client was sent a whole response.
    Complete,
    /// Both sides of the upgraded connection have ended.
    UpgradeOver,
    /// The client left before that.
    ClientLeft,
    /// There is no whole response. The client was told so, or can see it.
    Failed(Refusal),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "complete",
            Self::UpgradeOver => "both sides of the upgraded connection ended",
            Self::ClientLeft => "the client left",
            Self::Failed(refusal) => refusal.detail(),
        })
    }
}

/// How a tunnel ended.
#[derive(Clone, Copy)]
pub(super) enum TunnelEnd<'a> {
    /// We have closed it, or are about to, with this reason.
    Farewell(CloseReason),
    /// The agent took too long to take what was sent.
    StoppedReading,
    /// The agent owed signs of life for too long.
    StoppedResponding,
    /// The agent closed its direction.
    Closed,
    /// The agent did not close its direction after our FIN.
    NotClosed,
    /// The transport failed.
    Failed,
    /// The agent takes no more work.
    Withdrew(Trouble<'a>),
    /// The agent refused a request.
    Refused(Trouble<'a>),
    /// The agent sent what is no HTTP response while no request was on the tunnel.
    Unexpected,
    /// The agent sent a response while no request was on the tunnel.
    Unasked,
    /// The agent sent what cannot be read.
    Malformed(Violation),
    /// The exchange on it is over, and left the connection in a state in which it carries no other.
    Unfit,
    /// The upgraded connection that it carried is over.
    UpgradeOver,
    /// The exchange on it was given up.
    GivenUp(Outcome),
}

impl fmt::Display for TunnelEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Farewell(reason) => reason.as_str(),
            Self::StoppedReading => "it stopped reading",
            Self::StoppedResponding => "it stopped responding",
            Self::Closed => "it closed the connection",
            Self::NotClosed => "it did not close in time",
            Self::Failed => "the connection failed",
            Self::Withdrew(trouble) => return write!(f, "it withdrew: {}", trouble.reason.escape_default()),
            Self::Refused(trouble) => return write!(f, "it refused: {}", trouble.reason.escape_default()),
            Self::Unexpected => "it sent unexpected data",
            Self::Unasked => "it sent a response without a request",
            Self::Malformed(violation) => violation.detail,
            Self::Unfit => "its connection cannot carry another request",
            Self::UpgradeOver => "its upgraded connection ended",
            Self::GivenUp(outcome) => return outcome.fmt(f),
        })
    }
}
