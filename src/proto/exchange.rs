//! One request and its responses: the joint machine of both messages, the same at hub and agent.
//!
//! ```text
//!   request    Body --------------------------> done
//!   response   Head -> (1xx Head)* -> Body ---> done
//!                 \-> Upgraded (both directions blind, until both have ended)
//! ```
//!
//! A connection can be used again only if both messages are complete; nobody keeps a flag for that, it is
//! asked here. Who waits for whom, what is retried and which deadline holds is decided by
//! [`crate::proto::hub`] and [`crate::proto::agent`].

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::proto::error::Violation;
use crate::proto::http1::body::{Progress, Transfer};
use crate::proto::http1::framing::Framing;
use crate::proto::http1::head::{HeadScan, RequestHead, ResponseHead};
use crate::proto::http1::start_line::Version;
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{End, Shown};
use crate::proto::tables::timer::Mono;

/// Interim responses that may come at once (RFC 9110 section 15.2 sets no bound).
const MAX_INTERIM: u64 = 32;
/// After this time there may be one more: a job of hours may tell of its progress all the while. More is an
/// attack or a fault.
const INTERIM_PAUSE: Duration = Duration::from_millis(250);

/// What a request head said that matters after it was forwarded.
#[derive(Debug)]
pub struct Facts {
    /// A HEAD request: its response has no body.
    pub head_only: bool,
    /// The version that the requester speaks.
    pub version: Version,
    /// Whether the requester's connection may carry another request.
    pub persistent: bool,
    /// Whether the sender declared a second execution harmless (RFC 9110 section 9.2.2, or
    /// `Idempotency-Key`).
    pub idempotent: bool,
    /// The protocols that the requester asked to upgrade to. The only allocation, and only for upgrades.
    upgrade: Option<Box<str>>,
}

impl Facts {
    /// The facts of a request.
    pub fn of(head: &RequestHead<'_, '_>) -> Self {
        Self {
            head_only: head.method.is_head(),
            version: head.version,
            persistent: head.persistent,
            idempotent: head.method.is_idempotent() || head.fields.first("Idempotency-Key").is_some(),
            upgrade: head.upgrade.map(Into::into),
        }
    }

    /// RFC 9110 section 7.8: a server switches only to a protocol that the client offered.
    fn offered(&self, protocol: &str) -> bool {
        let name = |text: &str| text.trim().to_ascii_lowercase();
        self.upgrade
            .as_deref()
            .is_some_and(|offered| offered.split(',').any(|one| name(one) == name(protocol)))
    }
}

/// How far the response is.
#[derive(Debug)]
pub enum Response {
    /// No final head yet.
    Head {
        /// Where to go on looking for its end.
        scan: HeadScan,
        /// When the next interim response would come if they came at the greatest pace that they may have in
        /// the long run; none has come so far if `None`.
        interim: Option<Mono>,
    },
    /// The head has passed.
    Body {
        /// How far its body is.
        body: Transfer,
        /// Whether the responder keeps its connection open afterwards.
        persistent: bool,
    },
    /// 101: both directions are blind. Each holds whether it has ended.
    Upgraded {
        /// The requester has closed its direction.
        inbound_ended: bool,
        /// The responder has closed its direction.
        outbound_ended: bool,
    },
}

/// What a response head turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// 1xx; the final one is still to come.
    Interim,
    /// The final response.
    Final,
    /// Both sides leave HTTP.
    Upgraded,
}

/// Both messages of an exchange.
#[derive(Debug)]
pub struct Messages {
    /// What the request said.
    pub facts: Facts,
    /// The request's body.
    pub request: Transfer,
    /// The response.
    pub response: Response,
}

impl Messages {
    /// An exchange whose request head has been read, and will be forwarded with the framing it has. `scan`
    /// finds the end of the response head.
    pub fn new(facts: Facts, framing: Framing, scan: HeadScan) -> Self {
        Self { facts, request: Transfer::new(framing, framing), response: Response::awaited(scan) }
    }

    /// Looks for a response head in `input`: [`ResponseHead::find`].
    pub fn find_head<'s, 'b>(
        &mut self,
        input: &'b [u8],
        storage: &'s mut Storage<'b>,
    ) -> Result<Option<ResponseHead<'s, 'b>>, Violation> {
        match &mut self.response {
            Response::Head { scan, .. } => ResponseHead::find(scan, input, storage, self.facts.head_only),
            Response::Body { .. } | Response::Upgraded { .. } => Ok(None),
        }
    }

    /// Takes a response head into account. `to` is the framing that its body gets on the way out.
    ///
    /// # Errors
    /// A 101 that nobody asked for, too many interim responses.
    pub fn on_head(
        &mut self,
        head: &ResponseHead<'_, '_>,
        to: Framing,
        now: Mono,
    ) -> Result<Turn, Violation> {
        let bad = |detail| Violation { status: 502, detail };
        let (scan, interim) = match self.response {
            Response::Head { scan, interim } => (scan, interim),
            Response::Body { .. } | Response::Upgraded { .. } => return Err(bad("a second response head")),
        };
        if head.status == 101 {
            // The switch is only possible once the request is complete (RFC 9110 section 7.8).
            if !self.request.is_done() || !head.upgrade.is_some_and(|protocol| self.facts.offered(protocol)) {
                return Err(bad("the upstream switched to a protocol that was not asked for"));
            }
            self.response = Response::Upgraded { inbound_ended: false, outbound_ended: false };
            return Ok(Turn::Upgraded);
        }
        if head.status < 200 {
            let next = interim.map_or(now, |next| next.max(now)).after(INTERIM_PAUSE);
            let ahead = next.since(now).as_millis() / INTERIM_PAUSE.as_millis();
            if ahead > MAX_INTERIM.into() {
                return Err(bad("the upstream sends too many interim responses in too short a time"));
            }
            self.response = Response::Head { scan: scan.anew(), interim: Some(next) };
            return Ok(Turn::Interim);
        }
        let body = Transfer::read(head.framing, to, scan.reading());
        self.response = Response::Body { body, persistent: head.persistent };
        Ok(Turn::Final)
    }

    /// A message of our own other half came in place of the response head, which is still to come.
    pub fn await_another_head(&mut self) {
        if let Response::Head { scan, .. } = &mut self.response {
            *scan = scan.anew();
        }
    }

    /// Whether an interim response was forwarded.
    pub fn has_interim(&self) -> bool {
        matches!(self.response, Response::Head { interim: Some(_), .. })
    }

    /// Whether the final response head has passed, or the exchange is upgraded.
    pub fn is_answered(&self) -> bool {
        !matches!(self.response, Response::Head { .. })
    }

    /// Whether the response is complete.
    pub fn response_is_done(&self) -> bool {
        match &self.response {
            Response::Head { .. } => false,
            Response::Body { body, .. } => body.is_done(),
            Response::Upgraded { inbound_ended, outbound_ended } => *inbound_ended && *outbound_ended,
        }
    }

    /// Whether the responder's connection can carry another request: both messages are complete, and it said
    /// nothing else.
    pub fn responder_is_reusable(&self) -> bool {
        self.request.is_done()
            && match &self.response {
                Response::Body { body, persistent } => body.is_done() && *persistent,
                Response::Head { .. } | Response::Upgraded { .. } => false,
            }
    }

    /// Whether the exchange has become a blind relay.
    pub fn is_upgraded(&self) -> bool {
        matches!(self.response, Response::Upgraded { .. })
    }

    /// Whether the exchange is a blind relay for either side: while the switch is on its way, they do not
    /// agree on that, and one of them would take FIN for the end of a direction.
    pub fn may_be_upgraded(&self) -> bool {
        self.is_upgraded() || self.facts.upgrade.is_some() && !self.is_answered()
    }

    /// Whether more bytes of the requester belong to this exchange.
    pub fn wants_request(&self) -> bool {
        match &self.response {
            Response::Upgraded { inbound_ended, .. } => !inbound_ended,
            Response::Head { .. } | Response::Body { .. } => !self.request.is_done(),
        }
    }

    /// Whether more bytes of the responder belong to this exchange.
    pub fn wants_response(&self) -> bool {
        match &self.response {
            Response::Head { .. } => true,
            Response::Body { body, .. } => !body.is_done(),
            Response::Upgraded { outbound_ended, .. } => !outbound_ended,
        }
    }

    /// [`Transfer::opaque`] for bytes from the requester.
    pub fn opaque_request(&self) -> u64 {
        match &self.response {
            Response::Upgraded { inbound_ended: false, .. } => u64::MAX,
            Response::Upgraded { .. } => 0,
            Response::Head { .. } | Response::Body { .. } => self.request.opaque(),
        }
    }

    /// [`Transfer::opaque`] for bytes from the responder.
    pub fn opaque_response(&self) -> u64 {
        match &self.response {
            Response::Upgraded { outbound_ended: false, .. } => u64::MAX,
            Response::Head { .. } | Response::Upgraded { .. } => 0,
            Response::Body { body, .. } => body.opaque(),
        }
    }

    /// [`Transfer::pass_opaque`] for bytes from the requester.
    pub fn pass_request(&mut self, n: u64, before: &mut Vec<u8>) -> &'static [u8] {
        if self.is_upgraded() { b"" } else { self.request.pass_opaque(n, before) }
    }

    /// [`Transfer::pass_opaque`] for bytes from the responder.
    pub fn pass_response(&mut self, n: u64, before: &mut Vec<u8>) -> &'static [u8] {
        match &mut self.response {
            Response::Body { body, .. } => body.pass_opaque(n, before),
            Response::Head { .. } | Response::Upgraded { .. } => b"",
        }
    }

    /// What becomes of bytes from the requester: its body, or after an upgrade anything.
    ///
    /// # Errors
    /// What [`Transfer::advance`] says.
    pub fn advance_request(&mut self, shown: Shown<'_>) -> Result<Progress, Violation> {
        match &mut self.response {
            Response::Upgraded { inbound_ended, .. } => Ok(blind(inbound_ended, shown.input, shown.end)),
            Response::Head { .. } | Response::Body { .. } => {
                self.request.advance(shown.input, shown.end, shown.out)
            }
        }
    }

    /// What becomes of bytes from the responder after its head.
    ///
    /// # Errors
    /// What [`Transfer::advance`] says.
    pub fn advance_response(&mut self, shown: Shown<'_>) -> Result<Progress, Violation> {
        match &mut self.response {
            Response::Upgraded { outbound_ended, .. } => Ok(blind(outbound_ended, shown.input, shown.end)),
            Response::Body { body, .. } => body.advance(shown.input, shown.end, shown.out),
            Response::Head { .. } => Ok(Progress::NeedMore),
        }
    }
}

impl Response {
    /// Nothing of it has come.
    pub fn awaited(scan: HeadScan) -> Self {
        Self::Head { scan, interim: None }
    }
}

/// One direction after an upgrade. `Done` is said once for its end; a cut end is none.
fn blind(ended: &mut bool, input: &[u8], end: Option<End>) -> Progress {
    match end {
        _ if *ended => Progress::NeedMore,
        _ if !input.is_empty() => Progress::Pass(input.len()),
        Some(End::Clean) => {
            *ended = true;
            Progress::Done
        }
        Some(End::Cut) => Progress::Truncated,
        None => Progress::NeedMore,
    }
}
