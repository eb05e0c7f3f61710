//! What a peer did wrong. What the core itself cannot do, and what the transport failed at, are told
//! elsewhere.

use core::fmt;

/// The peer misbehaved: its message is malformed, ambiguous, or beyond a limit, and nothing more is read from
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The status to answer with: 4xx or 5xx as RFC 9110 section 15 names it for a request, 502 for a
    /// response.
    pub status: u16,
    /// What was wrong, in words that help the sender.
    pub detail: &'static str,
}

impl Violation {
    /// A violation that is answered with this status.
    pub const fn new(status: u16, detail: &'static str) -> Self {
        Self { status, detail }
    }

    /// A malformed or ambiguous message.
    pub const fn malformed(detail: &'static str) -> Self {
        Self::new(400, detail)
    }

    /// The same violation, when it was found in a response: to the client it is a bad gateway (RFC 9110
    /// section 15.6.3).
    pub const fn in_response(self) -> Self {
        Self::new(502, self.detail)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.status)
    }
}
