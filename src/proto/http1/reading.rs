//! How strictly a message is read, and how the head of a response is read where nothing is in doubt but its
//! form.
//!
//! Requests, and what the other half of slime writes, are read as RFC 9112 has it and stricter. A response of
//! an upstream is written anew, and the connection that it came on can be closed; nobody behind us reads it
//! as it came. There it does no harm to understand what devices and old servers write, as HAProxy and nginx
//! do: LF as the end of a line, empty lines before the status line, several spaces in it, later versions of
//! HTTP/1, white space before a colon, folded lines, a length that is given twice, an empty transfer coding.
//! Where the message ends must never be in doubt.

use alloc::vec::Vec;

use super::fields::Field;
use super::fields::{is_token, trim};
use super::start_line::Version;
use crate::proto::error::Violation;

/// How strictly the bytes of a message are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// What can be read in more than one way is refused, and so is what no peer of ours writes.
    #[default]
    Strict,
    /// What can be read in one way only is understood, in whatever form it is written. For responses of
    /// upstreams.
    Lenient,
}

/// A status line.
pub(super) struct StatusLine<'b> {
    pub(super) version: Version,
    pub(super) status: u16,
    pub(super) reason: &'b [u8],
}

/// The status line of a head, which ends with an empty line.
pub(super) fn status_line(head: &[u8]) -> Result<StatusLine<'_>, Violation> {
    parse_status_line(lines(head).find(|line| !line.bytes.is_empty()).unwrap_or_default().bytes)
}

/// Reads a head, which ends with an empty line. The value of a folded field has its line ends and the white
/// space after them in it; whether there is one is said.
pub(super) fn response_head<'b>(
    head: &'b [u8],
    limit: usize,
    fields: &mut Vec<Field<'b>>,
) -> Result<(StatusLine<'b>, bool), Violation> {
    let mut lines = lines(head).skip_while(|line| line.bytes.is_empty());
    let status = parse_status_line(lines.next().unwrap_or_default().bytes)?;
    let mut is_folded = false;
    // Where the value of the last field begins.
    let mut value_at = 0;
    for Line { at, bytes } in lines.take_while(|line| !line.bytes.is_empty()) {
        if !bytes.iter().all(|&byte| is_text(byte)) {
            return Err(Violation::malformed("malformed field value"));
        }
        if let [b' ' | b'\t', ..] = bytes {
            let Some(last) = fields.last_mut() else {
                return Err(Violation::malformed("white space before the first field"));
            };
            last.value = trim(head.get(value_at..at + bytes.len()).unwrap_or_default());
            is_folded |= last.value.contains(&b'\n');
            continue;
        }
        let mut halves = bytes.splitn(2, |&byte| byte == b':');
        let name = halves.next().unwrap_or_default();
        let Some(value) = halves.next() else {
            return Err(Violation::malformed("a field without a colon"));
        };
        value_at = at + name.len() + 1;
        let name = trim(name);
        let (true, Ok(name)) = (is_token(name), core::str::from_utf8(name)) else {
            return Err(Violation::malformed("malformed field name"));
        };
        if fields.len() == limit {
            return Err(Violation::new(431, "more fields than the 100 that are allowed"));
        }
        fields.push(Field { name, value: trim(value) });
    }
    Ok((status, is_folded))
}

/// A line without its end.
#[derive(Clone, Copy, Default)]
struct Line<'b> {
    at: usize,
    bytes: &'b [u8],
}

fn lines(head: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut next = 0;
    head.split(|&byte| byte == b'\n').map(move |line| {
        let at = next;
        next += line.len() + 1;
        Line { at, bytes: line.strip_suffix(b"\r").unwrap_or(line) }
    })
}

/// `HTTP/1.` digit, spaces, status, spaces, reason phrase (RFC 9112 section 4), of which the reason phrase
/// and the space before it may be missing. A minor version is the newest that is spoken here, or an earlier
/// one (RFC 9110 section 2.5).
fn parse_status_line(line: &[u8]) -> Result<StatusLine<'_>, Violation> {
    let malformed = Violation::malformed("malformed status line");
    let Some((&[minor, b' '], rest)) =
        line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.split_first_chunk::<2>())
    else {
        return Err(malformed);
    };
    let Some((digits, reason)) = without_spaces(rest).split_first_chunk::<3>() else { return Err(malformed) };
    if !minor.is_ascii_digit()
        || !digits.iter().all(u8::is_ascii_digit)
        || !matches!(reason, [] | [b' ', ..])
        || !reason.iter().all(|&byte| is_text(byte))
    {
        return Err(malformed);
    }
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let version = if minor == b'0' { Version::Http10 } else { Version::Http11 };
    Ok(StatusLine { version, status, reason: without_spaces(reason) })
}

fn without_spaces(mut bytes: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Whether a byte may stand in a field value or a reason phrase (RFC 9110 section 5.5).
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}
