//! What start lines are made of (RFC 9112 sections 3 and 4).

/// The version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    pub(super) const fn from_minor(minor: u8) -> Self {
        if minor == 0 { Self::Http10 } else { Self::Http11 }
    }
}

/// A request method (RFC 9110 section 9); its case matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method<'b>(pub(super) &'b str);

impl<'b> Method<'b> {
    /// As it was sent.
    pub const fn as_str(self) -> &'b str {
        self.0
    }

    /// Whether responses to it have no body.
    pub fn is_head(self) -> bool {
        self.0 == "HEAD"
    }

    /// Whether it may be asked of the server as a whole (`*`).
    pub fn is_options(self) -> bool {
        self.0 == "OPTIONS"
    }

    /// Whether it asks for the request as it arrived: what the RFC calls so, and IIS by another name. Some
    /// servers do not care for its case.
    pub fn is_trace(self) -> bool {
        self.0.eq_ignore_ascii_case("TRACE") || self.0.eq_ignore_ascii_case("TRACK")
    }

    /// Whether executing it twice is as good as once (RFC 9110 section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        matches!(self.0, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }
}

/// The form of a request target (RFC 9112 section 3.2); authority-form is for CONNECT alone, which is
/// refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// A path and perhaps a query.
    Origin,
    /// A whole URI. Its authority overrides `Host`.
    Absolute,
    /// `*`.
    Asterisk,
}
