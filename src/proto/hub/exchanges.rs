//! What the hub knows of an exchange: its messages, what is held of its request, and who has to act.

use alloc::boxed::Box;
use core::time::Duration;

use super::answers::Manner;
use super::hold::Share;
use super::pool::Need;
use super::queue::{Arrival, Place};
use crate::proto::deadline::Limit;
use crate::proto::exchange::Messages;
use crate::proto::http1::cors::Grant;
use crate::proto::http1::reply::Form;
use crate::proto::http1::request_id::RequestId;
use crate::proto::tables::key::{ClientKey, TunnelKey};
use crate::proto::tables::list::NodeId;
use crate::proto::tables::timer::{Armed, Mono};

pub(super) struct Exchange {
    pub(super) client: ClientKey,
    pub(super) messages: Messages,
    pub(super) need: Need,
    /// What its request is called.
    pub(super) id: RequestId,
    pub(super) arrival: Arrival,
    pub(super) patience: Patience,
    pub(super) held: Held,
    /// Tunnels that were lost under it.
    pub(super) lost: u8,
    /// How often it came back from a tunnel of which it is sure that no upstream has seen anything of it: an
    /// agent refused it, or nothing of it could be written.
    pub(super) returns: u8,
    pub(super) armed: Armed,
    pub(super) phase: Phase,
    /// How its client is told of an error.
    pub(super) form: Form,
    /// Which pages may see the answer.
    pub(super) grant: Grant,
    /// What the log says of it; only there when the log wants it.
    pub(super) label: Option<Box<str>>,
    pub(super) began: Mono,
    /// Since when it has waited for a worker, had it not been served in between by one that was lost.
    pub(super) waits_since: Mono,
}

pub(super) enum Phase {
    /// Its body is awaited, until it is complete or fills what is held of it.
    Gathering { place: NodeId, until: Mono },
    /// It has come, or has come back, or has gathered what it needs: before the event is over it gets a
    /// worker, a place in the queue, or an answer.
    Between,
    /// It waits for a worker.
    Queued { place: Place, until: Limit },
    /// It has one.
    Active {
        tunnel: TunnelKey,
        since: Mono,
        gate: Gate,
        awaited: Awaited,
        /// Until the response head, once the request is on its way.
        response: Limit,
        /// Whether the client was told that its connection stays open, once it has been told something.
        keep: bool,
    },
}

/// Who is to send the next byte of an exchange that has a worker, and by when.
#[derive(Clone, Copy)]
pub(super) enum Awaited {
    /// Nobody: the request is complete, or the rest of it waits until the agent's connection stands.
    Nobody,
    /// Nobody: the final response came in place of the 100 that the client waits for. It may send no more.
    Unmet,
    /// The upstream, the 100 that the client waits for. Then the hub says it.
    Continue { by: Mono },
    /// The client, more of its request.
    Request { by: Mono },
    /// The side of an upgraded connection that has not ended.
    OtherSide { by: Mono },
}

impl Awaited {
    pub(super) fn deadline(self) -> Mono {
        match self {
            Self::Continue { by } | Self::Request { by } | Self::OtherSide { by } => by,
            Self::Nobody | Self::Unmet => Mono::NEVER,
        }
    }

    /// A byte went one way or the other: as long as there are any, an exchange does not stand still.
    pub(super) fn put_off(&mut self, deadline: Mono) {
        match self {
            Self::Request { by } | Self::OtherSide { by } => *by = deadline,
            Self::Nobody | Self::Unmet | Self::Continue { .. } => {}
        }
    }
}

/// How long a request waits for a worker.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// `Slime-Block`.
    pub(super) block: Option<bool>,
    /// `Slime-Max-Wait`.
    pub(super) max_wait: Option<Duration>,
}

/// What the shell holds of a request.
#[derive(Clone, Copy)]
pub(super) struct Held {
    /// The forwarded head, in bytes.
    pub(super) head: usize,
    /// The body, in bytes: what is held of it, and what has been sent beyond that.
    pub(super) body: u64,
    /// What it takes of the budget.
    pub(super) share: Share,
    /// Whether nothing has been sent beyond it, so that the request can be sent again. It is dropped as soon
    /// as it cannot.
    pub(super) whole: bool,
    /// Who waits, if anyone, before the body is sent. With a worker it is [`Awaited`] that knows of a client.
    pub(super) expectation: Expectation,
}

/// Who waits for a `100 Continue` (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expectation {
    /// Nobody.
    None,
    /// The client, for the upstream's.
    OfClient,
    /// The hub, for the agent's.
    Ours,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// The body flows.
    Open,
    /// The body waits until the agent's upstream connection stands.
    AwaitsConnect,
}

impl Expectation {
    /// What is left of it once the body has begun to come.
    pub(super) fn begun(self) -> Self {
        match self {
            Self::None | Self::OfClient => Self::None,
            Self::Ours => Self::Ours,
        }
    }
}

impl Exchange {
    /// How its client is told of an error.
    pub(super) fn manner(&self) -> Manner<'_> {
        Manner {
            form: self.form,
            grant: self.grant,
            head_only: self.messages.facts.head_only,
            id: Some(self.id.as_str()),
        }
    }

    /// As [`Client::deadline`].
    pub(super) fn deadline(&self) -> Mono {
        match self.phase {
            Phase::Between => Mono::NEVER,
            Phase::Gathering { until, .. } => until,
            Phase::Queued { until, .. } => until.deadline(),
            Phase::Active { awaited, response, .. } => awaited.deadline().min(response.deadline()),
        }
    }
}
