//! How exchanges and tunnels end, and what the log says of it.

use core::fmt;

use super::{Exchange, Phase, Refusal};
use crate::proto::ends::{End, Stage, Who};
use crate::proto::error::Violation;
use crate::proto::exchange::Response;
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
    /// The client took nothing for too long.
    StoodStill,
    /// The hub ended before that.
    CutOff,
    /// There is no whole response. The client was told so, or can see it.
    Failed(Refusal),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complete => "the response is complete",
            Self::UpgradeOver => "both sides of the upgraded connection ended",
            Self::ClientLeft => "the client left",
            Self::StoodStill => "the client stopped reading",
            Self::CutOff => "the hub ends",
            Self::Failed(refusal) => refusal.detail(),
        })
    }
}

impl Outcome {
    /// The end of an exchange that had come so far.
    fn end(self, stage: Stage) -> End {
        match self {
            Self::Complete | Self::UpgradeOver => End::Complete,
            Self::ClientLeft => End::of(Who::Client, stage),
            // An interim response that it does not take keeps it from sending its body, at the most.
            Self::StoodStill if stage == Stage::Worker => End::of(Who::Time, Stage::Body),
            Self::StoodStill => End::of(Who::Time, stage),
            Self::CutOff => End::of(Who::Shutdown, stage),
            Self::Failed(refusal) => refusal.end(stage),
        }
    }
}

impl Refusal {
    /// The end of a request that had come so far and is not served, or not to its end.
    pub(super) fn end(self, stage: Stage) -> End {
        let (who, stage) = match self {
            Self::Misbehaved(Violation { status: 502, .. }) => (Who::Upstream, stage),
            Self::Misbehaved(_)
            | Self::HttpsOnly
            | Self::HttpsElsewhere
            | Self::NoUpgrade
            | Self::NoUpgradeAtAll
            | Self::DoubledCredential
            | Self::TwoApplications
            | Self::Reserved
            | Self::TooLarge
            | Self::Loop => (Who::Hub, stage),
            Self::Unauthorized
            | Self::NoToken
            | Self::BadToken
            | Self::ExpiredToken
            | Self::RevokedToken
            | Self::CrossSite
            | Self::WorkersFull => (Who::Key, stage),
            Self::HubFull | Self::ClientsFull | Self::TunnelsFull | Self::GatheringFull | Self::QueueFull => {
                (Who::Limit, Stage::Queue)
            }
            Self::NoAgent | Self::Paused | Self::Unreachable | Self::BarredPath => (Who::Nobody, stage),
            Self::HeadLate => (Who::Time, Stage::Head),
            Self::BodyLate if matches!(stage, Stage::Response | Stage::Upgraded) => (Who::Time, stage),
            Self::BodyLate => (Who::Time, Stage::Body),
            Self::Waited | Self::Busy => (Who::Time, Stage::Queue),
            Self::NoResponse => (Who::Time, Stage::Worker),
            Self::OtherSide => (Who::Time, Stage::Upgraded),
            Self::Lost | Self::CutOff => (Who::Agent, stage),
            Self::AllRefused => (Who::Upstream, Stage::Queue),
            Self::Unframed => (Who::Upstream, Stage::Worker),
            Self::Cancelled => (Who::Operator, stage),
            Self::Draining => (Who::Shutdown, stage),
        };
        End::of(who, stage)
    }
}

impl Exchange {
    /// How it ends.
    pub(super) fn end(&self, outcome: Outcome) -> End {
        match outcome {
            Outcome::Complete if self.is_agents_own => End::UpstreamAtWorker,
            Outcome::Complete
            | Outcome::UpgradeOver
            | Outcome::ClientLeft
            | Outcome::StoodStill
            | Outcome::CutOff
            | Outcome::Failed(_) => outcome.end(self.stage()),
        }
    }

    /// How far it has come.
    pub(super) fn stage(&self) -> Stage {
        match (&self.messages.response, &*self.phase) {
            (Response::Upgraded { .. }, _) => Stage::Upgraded,
            (Response::Body { .. }, _) => Stage::Response,
            (Response::Head { .. }, Phase::Gathering { .. }) => Stage::Body,
            (Response::Head { .. }, Phase::Between | Phase::Queued { .. }) => Stage::Queue,
            (Response::Head { .. }, Phase::Active { .. }) => Stage::Worker,
        }
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
