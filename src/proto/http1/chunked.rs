//! Chunk lines and trailer sections (RFC 9112 section 7.1).

use alloc::vec::Vec;

use super::fields::Class;
use super::head::HeadScan;
use super::limits::{HEAD_LIMIT, MAX_FIELDS};
use super::put;
use super::reading::Reading;
use crate::proto::error::Violation;

/// The longest chunk line in bytes, with its extensions and its CRLF. It must fit a buffer; nobody uses
/// extensions.
pub(super) const CHUNK_LINE_LIMIT: usize = 4 * 1024;
/// How many bytes of extensions and leading zeros one body may hold beyond those that its data makes up for.
/// They cost work and are of no use to anybody, so that RFC 9112 section 7.1.1 asks for a limit; data makes
/// up for some because there are bodies without end.
pub(super) const CHUNK_EXCESS_LIMIT: u32 = 64 * 1024;
/// A chunk line with no more of them than this costs nothing: a padded size is no longer than one that needs
/// all its digits.
const FREE_EXCESS: u32 = 16;
/// How many bytes of data make up for one of them.
const DATA_FOR_EXCESS: u64 = 8;

/// A complete chunk line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkLine {
    /// Its length in bytes with the CRLF.
    pub(super) len: usize,
    /// How many bytes of data follow. None do after the last chunk's line.
    pub(super) size: u64,
    /// How many of its bytes are neither needed digits nor CRLF.
    pub(super) excess: u32,
    /// Whether the line goes on as it is: it has no such bytes, and ends in CRLF.
    pub(super) canonical: bool,
}

impl ChunkLine {
    /// How many needless bytes the chunk makes up for, its own among them.
    pub(super) fn credit(&self) -> u32 {
        let own = if self.excess <= FREE_EXCESS { self.excess } else { 0 };
        own.saturating_add(u32::try_from(self.size / DATA_FOR_EXCESS).unwrap_or(u32::MAX))
    }
}

/// Reads a chunk line that arrives bit by bit, and looks at no byte twice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineScan {
    seen: u16,
    digits: u16,
    leading_zeros: u16,
    in_extension: bool,
    /// White space follows the size.
    blank: bool,
    size: u64,
}

impl LineScan {
    /// The line, once it is complete. `input` always begins with its first byte.
    pub(super) fn advance(&mut self, input: &[u8], reading: Reading) -> Result<Option<ChunkLine>, Violation> {
        let is_lenient = reading == Reading::Lenient;
        let window = input.get(..CHUNK_LINE_LIMIT).unwrap_or(input);
        let mut rest = window.get(usize::from(self.seen)..).unwrap_or_default();
        while let [byte, tail @ ..] = rest {
            match byte {
                b'\r' if self.digits > 0 => match tail {
                    [b'\n', ..] => return Ok(Some(self.line(2))),
                    [] => break,
                    _ => return Err(Violation::malformed("a CR without LF in a chunk line")),
                },
                b'\n' if self.digits > 0 && is_lenient => return Ok(Some(self.line(1))),
                // White space before the semicolon, which RFC 9112 section 7.1.1 calls bad and lets pass, is
                // not let pass in requests: recipients disagree on it.
                b';' if self.digits > 0 => self.in_extension = true,
                b'\t' | b' '..=b'~' | 0x80.. if self.in_extension => {}
                _ if self.in_extension => {
                    return Err(Violation::malformed("a control byte in a chunk extension"));
                }
                b' ' | b'\t' if self.digits > 0 && is_lenient => self.blank = true,
                _ if self.blank => return Err(Violation::malformed("a chunk size is followed by something")),
                _ => self.digit(*byte)?,
            }
            self.seen += 1;
            rest = tail;
        }
        if window.len() == CHUNK_LINE_LIMIT {
            return Err(Violation::malformed("a chunk line is longer than 4 KiB"));
        }
        Ok(None)
    }

    fn digit(&mut self, byte: u8) -> Result<(), Violation> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return Err(Violation::malformed("a chunk size is not plain hexadecimal digits")),
        };
        if self.size >> 60 != 0 {
            return Err(Violation::malformed("a chunk size of more than 64 bits"));
        }
        // The digit before this one was a zero that nothing needs.
        if self.digits > 0 && self.size == 0 {
            self.leading_zeros += 1;
        }
        self.digits += 1;
        self.size = self.size << 4 | u64::from(digit);
        Ok(())
    }

    fn line(&self, end: u8) -> ChunkLine {
        let excess = u32::from(self.seen - self.digits) + u32::from(self.leading_zeros);
        ChunkLine {
            len: usize::from(self.seen) + usize::from(end),
            size: self.size,
            excess,
            canonical: excess == 0 && end == 2,
        }
    }
}

/// The last chunk's line and the trailer section after it, taken together: either goes on only with the
/// other, so that a body that breaks off here does not look complete to anyone.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastChunk {
    line: ChunkLine,
    end: HeadScan,
}

/// The end of a chunked body.
pub(super) struct Ending<'a> {
    /// The length in bytes from the last chunk's line to the final CRLF.
    pub(super) len: usize,
    /// The trailer section without the last chunk's line, with the final CRLF.
    pub(super) trailers: &'a [u8],
    /// Whether it is exactly `0 CRLF CRLF`.
    pub(super) canonical: bool,
}

impl LastChunk {
    pub(super) fn new(line: ChunkLine, reading: Reading) -> Self {
        Self { line, end: HeadScan::of_trailers(reading) }
    }

    /// The whole ending, once it is complete. `input` always begins with the last chunk's line. What counts
    /// is the length that it has when it goes on, so that the next hop takes it, too; there is a little more
    /// room to arrive in.
    pub(super) fn advance<'a>(&mut self, input: &'a [u8]) -> Result<Option<Ending<'a>>, Violation> {
        // To the scan, the chunk line is the start line of a head.
        let Some(len) = self.end.advance(input)? else { return Ok(None) };
        let trailers = input.get(self.line.len..len).unwrap_or_default();
        Ok(Some(Ending { len, trailers, canonical: self.line.canonical && trailers == b"\r\n" }))
    }
}

/// Writes the last chunk and what may go on of a trailer section, field by field; at most [`HEAD_LIMIT`]
/// bytes.
pub(super) fn write_ending(trailers: &[u8], out: &mut Vec<u8>) -> Result<(), Violation> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let fields = match httparse::parse_headers(trailers, &mut fields) {
        Ok(httparse::Status::Complete((len, fields))) if len == trailers.len() => fields,
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => {
            return Err(Violation::malformed("malformed trailer section"));
        }
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Violation::new(431, "more than 100 trailer fields"));
        }
        Err(_) => return Err(Violation::malformed("malformed trailer field")),
    };
    let before = out.len();
    out.extend_from_slice(b"0\r\n");
    for field in fields.iter().filter(|field| is_trailer(field.name)) {
        put::field(out, field.name, field.value);
    }
    out.extend_from_slice(b"\r\n");
    if out.len() - before > HEAD_LIMIT {
        out.truncate(before);
        return Err(Violation::new(431, "the trailer section is larger than 16 KiB"));
    }
    Ok(())
}

/// Whether a field may stand in a trailer section (RFC 9110 section 6.5.1): none that frames or routes the
/// message, modifies the request, authenticates, controls the response, or says how the content is to be
/// read. Recipients merge trailers into heads that were judged without them.
fn is_trailer(name: &str) -> bool {
    const FORBIDDEN: [&str; 33] = [
        // Framing, routing and hop-by-hop fields that have no class, because heads forward them.
        "trailer",
        "via",
        "max-forwards",
        "x-real-ip",
        "x-http-method-override",
        // Request modifiers.
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "if-range",
        "range",
        "pragma",
        "cache-control",
        "origin",
        "referer",
        "idempotency-key",
        // Authentication and cookies.
        "www-authenticate",
        "authentication-info",
        "proxy-authentication-info",
        "cookie",
        "set-cookie",
        "clear-site-data",
        "strict-transport-security",
        // Response control.
        "age",
        "date",
        "expires",
        "location",
        "retry-after",
        "vary",
        // How the content is to be read.
        "content-encoding",
        "content-location",
        "content-range",
        "content-type",
    ];
    Class::of(name) == Class::EndToEnd
        && !FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}
