//! What the hub knows of a tunnel: whose it is, what it is good for, and what its agent owes.

use super::pool::Member;
use crate::proto::deadline::SendLimit;
use crate::proto::http1::head::HeadScan;
use crate::proto::tables::key::{ExchangeKey, TunnelKey};
use crate::proto::tables::list::NodeId;
use crate::proto::tables::timer::{Armed, Mono, Now};

pub(super) struct Tunnel {
    pub(super) armed: Armed,
    pub(super) left: bool,
    pub(super) sending: SendLimit,
    pub(super) state: TunnelState,
}

pub(super) enum TunnelState {
    /// No exchange on it.
    Free { member: Member, standing: Standing, unanswered: u8, ping_at: Mono, scan: HeadScan },
    /// Carries an exchange. Another tunnel may have its name meanwhile: then it ends with its exchange.
    Busy { member: Member, exchange: ExchangeKey, owes: Owes },
    /// Our farewell is being sent, then FIN.
    Ending { until: Mono },
}

/// What the agent of a busy tunnel has to send, and by when.
#[derive(Clone, Copy)]
pub(super) enum Owes {
    /// A sign of life, as long as no response head has come.
    Sign { by: Mono },
    /// Some more of its response: another tunnel has the name of this one, and what stands still is not seen
    /// through.
    Bytes { by: Mono },
    /// Nothing: a response takes as long as it takes.
    Nothing,
}

impl Owes {
    pub(super) fn deadline(self) -> Mono {
        match self {
            Self::Sign { by } | Self::Bytes { by } => by,
            Self::Nothing => Mono::NEVER,
        }
    }

    pub(super) fn is_overdue(self, now: Now) -> bool {
        self.deadline() <= now.mono
    }
}

/// What a tunnel without an exchange is good for.
#[derive(Clone, Copy)]
pub(super) enum Standing {
    /// Takes work.
    Pooled(NodeId),
    /// Would take work, but has been asked for a sign of life and has not answered yet.
    Asked,
    /// Would take work, but has begun to say something that is not read yet: it may withdraw, and nothing
    /// else is right.
    Speaking,
    /// Takes work once this tunnel, which it replaced, has brought its last response: both stand for one
    /// worker.
    Behind(TunnelKey),
    /// Its agent takes no work.
    Withdrawn,
}

impl Tunnel {
    /// Whose it is, until it has left.
    pub(super) fn member(&self) -> Option<Member> {
        match self.state {
            TunnelState::Free { member, .. } | TunnelState::Busy { member, .. } => Some(member),
            TunnelState::Ending { .. } => None,
        }
    }

    /// Whether its agent takes work on it, or has taken some.
    pub(super) fn is_ready(&self) -> bool {
        match self.state {
            TunnelState::Free { standing, .. } => !matches!(standing, Standing::Withdrawn),
            TunnelState::Busy { .. } => true,
            TunnelState::Ending { .. } => false,
        }
    }

    /// As [`Client::deadline`].
    pub(super) fn deadline(&self) -> Mono {
        let until = match self.state {
            TunnelState::Free { ping_at: until, .. } | TunnelState::Ending { until } => until,
            TunnelState::Busy { owes, .. } => owes.deadline(),
        };
        until.min(self.sending.deadline())
    }
}
