//! Why a link to the hub ends, and why an exchange ends without the whole of its response. Each reason is a
//! variant, and its text stands here.

use core::fmt;

use crate::proto::error::Violation;
use crate::proto::seam::{Closed, Unreachable, Why};
use crate::proto::tunnel::NO_UPGRADE;

/// Why a worker has lost its link to the hub, or gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkEnd<'a> {
    /// The connection could not be made, or broke.
    Connection(Closed),
    /// The hub did not take the worker in before its time was over.
    NotInTime,
    /// The proxy on the way answered something that is no HTTP.
    ProxyIsNone,
    /// The proxy on the way wants a user and a password.
    ProxyIsLocked,
    /// The proxy on the way answered with this status.
    ProxyRefused(u16),
    /// The connection ended before an answer to the handshake.
    Unanswered,
    /// The answer to the handshake is no HTTP.
    NoHub,
    /// A 401 that is not the hub's.
    Locked,
    /// A redirection.
    Moved,
    /// A 400 that does not say why: what servers of TLS answer to plain HTTP.
    Misunderstood,
    /// A 400 with these words: the hub's own, or somebody else's.
    Malformed(&'a str),
    /// A 403 that is not the hub's.
    Forbidden,
    /// What reverse proxies answer to an upgrade that they do not know.
    UpgradeUnknown(u16),
    /// Any other status.
    Status(u16),
    /// The hub has not been heard of for too long.
    Silent,
    /// The hub takes nothing of what waits for it.
    StoppedReading,
    /// The hub closed the connection.
    Closed,
    /// The hub sent a request that cannot be read.
    Unread(Violation),
}

impl LinkEnd<'_> {
    /// Whether a reverse proxy that passes no upgrade but WebSocket's may be what refused a handshake.
    pub(super) fn may_be_in_front(self) -> bool {
        match self {
            Self::Connection(Closed { why, .. }) => why == Why::Failed,
            Self::Malformed(words) => words == NO_UPGRADE,
            Self::Unanswered | Self::Misunderstood | Self::Forbidden | Self::UpgradeUnknown(_) => true,
            Self::NotInTime
            | Self::ProxyIsNone
            | Self::ProxyIsLocked
            | Self::ProxyRefused(_)
            | Self::NoHub
            | Self::Locked
            | Self::Moved
            | Self::Status(_)
            | Self::Silent
            | Self::StoppedReading
            | Self::Closed
            | Self::Unread(_) => false,
        }
    }
}

impl fmt::Display for LinkEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Connection(reason) => describe(*reason),
            Self::NotInTime => "the hub did not answer in time",
            Self::ProxyIsNone => "the proxy does not answer in HTTP",
            Self::ProxyIsLocked => {
                "the proxy wants a valid user and password: --proxy http://user:password@host"
            }
            Self::ProxyRefused(status) => {
                return write!(f, "the proxy did not connect: status {status}");
            }
            Self::Unanswered => "the connection was closed without an answer",
            Self::NoHub => "the server there is not a slime hub",
            Self::Locked => {
                "a reverse proxy in front of it answered 401; it wants a user and a password: \
                 --hub http://user:password@host"
            }
            Self::Moved => "it redirects to another address; should --hub begin with https://?",
            Self::Misunderstood => {
                "it does not understand the handshake (status 400); should --hub begin with https://, or does a \
                 reverse proxy there pass WebSockets only?"
            }
            Self::Malformed(words) => return write!(f, "it answered 400: {words}"),
            Self::Forbidden => {
                "a reverse proxy there refuses the handshake: status 403; have it pass Upgrade: slime/1 on"
            }
            Self::UpgradeUnknown(status) => {
                return write!(
                    f,
                    "a reverse proxy there may pass WebSockets only: status {status}; have it pass Upgrade: slime/1 on"
                );
            }
            Self::Status(status) => {
                return write!(
                    f,
                    "the server there is not a slime hub, or the path is wrong: status {status}"
                );
            }
            Self::Silent => "the hub stopped responding",
            Self::StoppedReading => "the hub stopped reading",
            Self::Closed => "the hub closed the connection",
            Self::Unread(violation) => violation.detail,
        };
        f.write_str(text)
    }
}

/// Why a connection could not be made, or broke.
pub(super) fn describe(reason: Closed) -> &'static str {
    match reason.why {
        Why::Unreachable(Unreachable::NameNotFound) => "cannot resolve its name",
        Why::Unreachable(Unreachable::Refused) => "nothing is listening there",
        Why::Unreachable(Unreachable::Untrusted) => "TLS with it failed",
        Why::Unreachable(Unreachable::Other) => "it cannot be reached",
        Why::Failed | Why::Lingered => "the connection failed",
    }
}

/// Why an exchange ends without the whole of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The upstream closed its connection before it answered.
    Broke,
    /// The upstream broke its connection in the middle of its response.
    BrokeOff,
    /// The upstream closed its connection in the middle of its response.
    CutShort,
    /// The head of the response has begun, and is not complete in time.
    SlowHead,
    /// The upstream takes nothing of what waits for it.
    Stalled,
    /// The response cannot be read, or must not be passed on.
    Unread(Violation),
    /// Nothing is said on an upgraded connection one side of which has ended.
    StoodStill,
    /// `--extra-streams` allows no more workers to be lent.
    AllLent,
    /// A stream would take the last worker that the hub has room for.
    LastWorker,
    /// The process ends.
    AgentEnds,
}

impl Failure {
    /// The reason in words, for the log and for the application.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Broke => "the upstream closed the connection before it answered",
            Self::BrokeOff => "the upstream broke off its response",
            Self::CutShort => "the upstream cut its response",
            Self::SlowHead => "the upstream did not complete the head of its response in time",
            Self::Stalled => "the upstream takes nothing of the request",
            Self::Unread(violation) => violation.detail,
            Self::StoodStill => "the upgraded connection stood still after one side had ended",
            Self::AllLent => {
                "as many streams and WebSockets are open at the agent as its --extra-streams allows; close one \
                 of them, or raise the number"
            }
            Self::LastWorker => {
                "a stream would take the last worker of the agent, and the hub takes no other one in its stead; \
                 raise the --max-workers of its token"
            }
            Self::AgentEnds => "the agent ends",
        }
    }

    /// Whether there is one stream too many. The application may try again.
    pub(super) fn is_limit(self) -> bool {
        matches!(self, Self::AllLent | Self::LastWorker)
    }

    /// The status of the answer that the application gets in place of the response.
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Unread(violation) => violation.status,
            Self::AllLent | Self::LastWorker => 503,
            Self::Broke
            | Self::BrokeOff
            | Self::CutShort
            | Self::SlowHead
            | Self::Stalled
            | Self::StoodStill
            | Self::AgentEnds => 502,
        }
    }
}
