//! Where a message ends (RFC 9112 section 6.3, stricter where that is safe): the rules against request
//! smuggling.
//!
//! Both kinds of message are judged here and nowhere else, once, from the parsed fields. What cannot be read
//! in exactly one way is a [`Violation`].

use super::fields::{is_token, members};
use super::reading::Reading;
use super::start_line::Version;
use crate::proto::error::Violation;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks, the last of them empty.
    Chunked,
    /// Until the connection ends; responses only.
    UntilClose,
}

impl Framing {
    /// How this body is delimited when it goes on to a recipient of this version: `UntilClose` becomes
    /// `Chunked`, so that its end can be told from a failure, and `Chunked` becomes `UntilClose` for
    /// HTTP/1.0, which knows no chunks.
    pub const fn onward(self, recipient: Version) -> Self {
        match (self, recipient) {
            (Self::UntilClose, Version::Http11) => Self::Chunked,
            (Self::Chunked, Version::Http10) => Self::UntilClose,
            (Self::None | Self::Length(_) | Self::Chunked | Self::UntilClose, _) => self,
        }
    }
}

/// The framing of a response, and what it says of a body that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseFraming {
    pub(super) framing: Framing,
    /// Whether the message was framed in two ways, of which one counts. Its sender is not trusted with
    /// another message.
    pub(super) closes: bool,
    /// The length that a GET would have had (RFC 9110 section 8.6): HEAD and 304 only.
    pub(super) length_of_get: Option<u64>,
}

/// What the framing fields of one head say, gathered field by field.
#[derive(Default)]
pub(super) struct Delimiters<'b> {
    reading: Reading,
    length: Option<(&'b [u8], u64)>,
    coding: Option<Coding>,
}

/// The transfer codings of a message, outermost last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// Something that we do not know, so far.
    Unknown,
    Chunked,
    /// Something that we do not know, then `chunked`.
    UnknownChunked,
}

impl<'b> Delimiters<'b> {
    pub(super) fn new(reading: Reading) -> Self {
        Self { reading, ..Self::default() }
    }

    /// Takes in a `Content-Length` field. A repetition must be the same to the byte (RFC 9112 section 6.3
    /// item 5); a list in one field is not plain digits. To a lenient reading, a list of one number is that
    /// number.
    pub(super) fn content_length(&mut self, value: &'b [u8]) -> Result<(), Violation> {
        match self.reading {
            Reading::Strict => self.one_length(value, |earlier, value| earlier.0 == value.0),
            Reading::Lenient => members(value)
                .try_for_each(|member| self.one_length(member, |earlier, value| earlier.1 == value.1)),
        }
    }

    fn one_length(
        &mut self,
        value: &'b [u8],
        is_same: impl Fn((&[u8], u64), (&[u8], u64)) -> bool,
    ) -> Result<(), Violation> {
        let length = decimal(value)
            .ok_or(Violation::malformed("Content-Length is not a number of at most 64 bits"))?;
        match self.length.replace((value, length)) {
            Some(earlier) if !is_same(earlier, (value, length)) => {
                Err(Violation::malformed("several differing Content-Length fields"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes in a `Transfer-Encoding` field (RFC 9112 section 6.1). Empty members are legal in lists, and a
    /// known disguise. To a lenient reading they are nothing, as is `identity`, which meant that (RFC 2616
    /// section 3.6).
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Violation> {
        let is_nothing = |coding: &[u8]| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
        for coding in members(value) {
            if self.reading == Reading::Lenient && is_nothing(coding) {
                continue;
            }
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            self.coding = Some(match self.coding {
                Some(Coding::Chunked | Coding::UnknownChunked) => {
                    return Err(Violation::malformed("a transfer coding follows chunked"));
                }
                _ if !chunked && !is_token(coding) => {
                    return Err(Violation::malformed("malformed Transfer-Encoding"));
                }
                None if chunked => Coding::Chunked,
                Some(Coding::Unknown) if chunked => Coding::UnknownChunked,
                None | Some(Coding::Unknown) => Coding::Unknown,
            });
        }
        Ok(())
    }

    /// The framing of a request.
    pub(super) fn request(&self, version: Version) -> Result<Framing, Violation> {
        match (self.coded(version)?, self.length) {
            (true, _) => Ok(Framing::Chunked),
            (false, Some((_, length))) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::None),
        }
    }

    /// The framing of a response with this status.
    pub(super) fn response(
        &self,
        version: Version,
        status: u16,
        request_was_head: bool,
    ) -> Result<ResponseFraming, Violation> {
        let chunked = self.coded(version)?;
        // RFC 9112 section 6.3 item 3: a length beside a coding counts for nothing, and does not go on.
        let length = self.length.map(|(_, length)| length).filter(|_| !chunked);
        let closes = chunked && (self.length.is_some() || version == Version::Http10);
        let (framing, length_of_get) = match status {
            // RFC 9112 section 6.3 items 1 and 2; framing fields are not allowed here (RFC 9110 section 8.6,
            // RFC 9112 section 6.1), and are not forwarded.
            100..=199 | 204 => (Framing::None, None),
            304 => (Framing::None, length),
            _ if request_was_head => (Framing::None, length),
            _ if chunked => (Framing::Chunked, None),
            _ => (length.map_or(Framing::UntilClose, Framing::Length), None),
        };
        Ok(ResponseFraming { framing, closes, length_of_get })
    }

    /// Whether the message is chunked, after all rules that requests and responses share.
    fn coded(&self, version: Version) -> Result<bool, Violation> {
        let Some(coding) = self.coding else { return Ok(false) };
        // RFC 9112 section 6.3 item 3 lets a proxy prefer Transfer-Encoding. A sender of both is broken, or
        // an attacker.
        let is_strict = self.reading == Reading::Strict;
        if is_strict && self.length.is_some() {
            return Err(Violation::malformed("both Content-Length and Transfer-Encoding"));
        }
        // RFC 9112 section 6.1: the framing of such a message is faulty.
        if is_strict && version == Version::Http10 {
            return Err(Violation::malformed("Transfer-Encoding in an HTTP/1.0 message"));
        }
        match coding {
            Coding::Chunked => Ok(true),
            Coding::Unknown | Coding::UnknownChunked => Err(Violation::new(501, "unknown transfer coding")),
        }
    }
}

/// Plain digits, within 64 bits: no sign, no space, no list.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
