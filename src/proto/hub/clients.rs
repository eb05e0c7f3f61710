//! What the hub knows of a client: what it speaks, what it is doing, and how long it may.

use core::net::IpAddr;

use crate::proto::deadline::SendLimit;
use crate::proto::http1::head::HeadScan;
use crate::proto::tables::key::ExchangeKey;
use crate::proto::tables::list::NodeId;
use crate::proto::tables::timer::{Armed, Mono};

pub(super) struct Client {
    pub(super) peer: IpAddr,
    pub(super) transport: Transport,
    pub(super) armed: Armed,
    /// It has sent FIN or a reset, though not all that it sent before may have been read.
    pub(super) left: bool,
    pub(super) sending: SendLimit,
    /// What it was sent last came from an agent, however much of that it has taken.
    pub(super) was_served: bool,
    pub(super) state: ClientState,
}

impl Client {
    /// Whether it is in no exchange any more and has not taken all of what it was sent from an agent. Answers
    /// of the hub's own are small, and whoever does not take one keeps nobody from being served.
    pub(super) fn takes_tail(&self) -> bool {
        self.was_served && self.sending.is_sending() && !matches!(self.state, ClientState::Exchange(_))
    }
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// HTTP, on a plain port.
    Plain,
    /// HTTP over TLS.
    Tls,
    /// Plain HTTP, on a port where TLS is spoken.
    PlainOnTls,
}

pub(super) enum ClientState {
    /// For a request head, its first or its next.
    Waiting { place: NodeId, scan: HeadScan, until: Mono },
    /// In an exchange.
    Exchange(ExchangeKey),
    /// The last response is being sent, then FIN.
    Ending { place: Option<NodeId>, until: Mono },
}

impl Client {
    /// When something is to be done about it, though nothing happens.
    pub(super) fn deadline(&self) -> Mono {
        let until = match self.state {
            ClientState::Waiting { until, .. } | ClientState::Ending { until, .. } => until,
            ClientState::Exchange(_) => Mono::NEVER,
        };
        until.min(self.sending.deadline())
    }
}
