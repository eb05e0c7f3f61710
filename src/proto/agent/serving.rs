//! A request that is being served, as data.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::proto::deadline::Limit;
use crate::proto::exchange::Messages;
use crate::proto::tables::key::UpstreamKey;
use crate::proto::tables::timer::Mono;

/// A request that is being served.
pub(super) struct Serving {
    pub(super) messages: Messages,
    pub(super) leg: Leg,
    /// The hub sends the body once it hears that the upstream connection stands.
    pub(super) expects_connect: bool,
    /// Whether credentials or a challenge for the whole connection were seen: it carries no other request
    /// before or after this one, which would be taken for the same user's.
    pub(super) is_private: bool,
    /// Scheme and authority by which the application knows the upstream; empty if it gets the application's
    /// `Host`.
    pub(super) origin: String,
    /// Whether nothing was sent beyond what the shell holds, so that the request can be sent again.
    pub(super) whole: bool,
    /// Whether it is a GET: its response may be a stream of events.
    pub(super) is_get: bool,
    /// When its worker was lent. Another one takes requests in its stead, if there is one.
    pub(super) lent_since: Option<Mono>,
    /// The next heartbeat for the hub, while no response head has come.
    pub(super) heartbeat_at: Mono,
    pub(super) due: Due,
}

/// What has begun, and must be done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing has.
    Nothing,
    /// A response head has begun, and must be complete by then.
    Head(Mono),
    /// One side of an upgraded connection has ended, and the next byte of the other one must come by then.
    Byte(Mono),
}

/// The way to the upstream.
pub(super) enum Leg {
    /// The part of the body that came with the head is being taken in: so many bytes so far.
    Gathering(usize),
    /// A probe has its place at the upstream.
    Waiting,
    /// A connection is being made. The upstream may have `seen` the request on a kept connection that broke
    /// under it.
    Dialling { upstream: UpstreamKey, until: Mono, seen: bool },
    /// The request is on its way. A connection that was used before may turn out to be dead.
    Paired { upstream: UpstreamKey, reused: bool },
}

impl Due {
    fn limit(self) -> Limit {
        match self {
            Self::Nothing => Limit::NONE,
            Self::Head(by) | Self::Byte(by) => Limit::at(by),
        }
    }
}

impl Serving {
    pub(super) fn deadline(&self) -> Mono {
        let heartbeat_at =
            if self.messages.is_answered() { Limit::NONE.deadline() } else { self.heartbeat_at };
        let other = match self.leg {
            Leg::Dialling { until, .. } => until,
            Leg::Gathering(_) | Leg::Waiting => Limit::NONE.deadline(),
            Leg::Paired { .. } => self.due.limit().deadline(),
        };
        other.min(heartbeat_at)
    }

    pub(super) fn wants_request(&self) -> bool {
        match self.leg {
            Leg::Gathering(_) => true,
            Leg::Waiting | Leg::Dialling { .. } => false,
            Leg::Paired { .. } => self.messages.wants_request(),
        }
    }

    pub(super) fn connection(&self) -> Option<UpstreamKey> {
        match self.leg {
            Leg::Dialling { upstream, .. } | Leg::Paired { upstream, .. } => Some(upstream),
            Leg::Gathering(_) | Leg::Waiting => None,
        }
    }

    /// Whether another worker takes requests in its stead, if there is one.
    pub(super) fn is_lent(&self) -> bool {
        self.lent_since.is_some()
    }

    /// Whether the upstream has the request, or should have it, and has not answered at all.
    pub(super) fn is_unanswered(&self) -> bool {
        self.connection().is_some() && !self.messages.is_answered() && !self.messages.has_interim()
    }

    /// Whether it is not even known that the upstream can still be connected to: a probe without a path can
    /// find that out.
    pub(super) fn may_lead_nowhere(&self) -> bool {
        self.is_unanswered() && !matches!(self.leg, Leg::Paired { reused: false, .. })
    }

    /// Whether the upstream still waits for what the application sends after an upgrade.
    pub(super) fn is_fed(&self) -> bool {
        let messages = &self.messages;
        messages.may_be_upgraded() && (messages.wants_request() || !messages.is_upgraded())
    }

    /// Bytes of the request were consumed.
    pub(super) fn take_in(&mut self, n: usize) {
        match &mut self.leg {
            Leg::Gathering(gathered) => *gathered += n,
            Leg::Waiting | Leg::Dialling { .. } | Leg::Paired { .. } => self.whole = false,
        }
    }

    /// Bytes came from either side.
    pub(super) fn note_progress(&mut self, stalled_by: Mono) {
        if let Due::Byte(by) = &mut self.due {
            *by = stalled_by;
        }
    }

    /// Whether all of the request is held and may be sent a second time.
    pub(super) fn is_repeatable(&self) -> bool {
        self.whole && self.messages.facts.idempotent && self.messages.request.is_done()
    }

    pub(super) fn pass_opaque(
        &mut self,
        is_tunnel: bool,
        n: u64,
        before: &mut Vec<u8>,
        stalled_by: Mono,
    ) -> &'static [u8] {
        self.note_progress(stalled_by);
        if is_tunnel {
            self.whole = false;
            self.messages.pass_request(n, before)
        } else {
            self.messages.pass_response(n, before)
        }
    }
}

/// Memory of requests that were served, for the next ones, which then allocate nothing.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "a worker owns a box")]
pub(super) struct SpareServings(Vec<Box<Serving>>);

impl SpareServings {
    /// How many are kept: about 10 KB. Only large agents have more requests in progress.
    const KEPT_ENTRIES: usize = 64;

    pub(super) fn keep(&mut self, serving: Box<Serving>) {
        if self.0.len() < Self::KEPT_ENTRIES {
            self.0.push(serving);
        }
    }

    /// The memory for the origin of the next request.
    pub(super) fn take_origin(&mut self) -> String {
        let mut origin =
            self.0.last_mut().map(|spare| core::mem::take(&mut spare.origin)).unwrap_or_default();
        origin.clear();
        // A huge authority must not keep its memory.
        origin.shrink_to(256);
        origin
    }

    pub(super) fn place(&mut self, serving: Serving) -> Box<Serving> {
        match self.0.pop() {
            Some(mut spare) => {
                *spare = serving;
                spare
            }
            None => Box::new(serving),
        }
    }
}
