//! The end of a head, found in bytes that arrive bit by bit.

use super::fields::is_token_byte;
use super::limits::{HEAD_LIMIT, TARGET_LIMIT, TARGET_TOO_LONG, TUNNEL_ROOM};
use super::reading::Reading;
use crate::proto::error::Violation;

/// The longest start line in bytes without its CRLF: the longest target and room for method and version.
const LINE_LIMIT: usize = TARGET_LIMIT + 64;

/// The search for the end of a head in bytes that arrive bit by bit. It looks at no byte twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    /// No line end but those before `line` lies in the first `seen` bytes.
    seen: u16,
    /// Where the current line begins.
    line: u16,
    /// The one empty line before the head was dropped.
    skipped: bool,
    place: Place,
}

/// Where the head is read. One byte: every idle connection has a search.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    /// From an application, or from whoever answers an agent's handshake.
    #[default]
    Front,
    Tunnel,
    Upstream,
    /// In trailers of an upstream.
    UpstreamTrailers,
}

impl Place {
    const fn reading(self) -> Reading {
        match self {
            Self::Front | Self::Tunnel => Reading::Strict,
            Self::Upstream | Self::UpstreamTrailers => Reading::Lenient,
        }
    }

    const fn limit(self) -> usize {
        match self {
            Self::Front | Self::Upstream => HEAD_LIMIT,
            Self::Tunnel | Self::UpstreamTrailers => HEAD_LIMIT + TUNNEL_ROOM,
        }
    }
}

impl HeadScan {
    /// The search on a tunnel, for either kind of head: its limit is [`TUNNEL_ROOM`] higher.
    pub const fn on_tunnel() -> Self {
        Self::at(Place::Tunnel)
    }

    /// The search for the head of a response that comes from an upstream, or from anything else that is not
    /// ours.
    pub const fn of_upstream() -> Self {
        Self::at(Place::Upstream)
    }

    /// The search for the end of a trailer section, in which it begins with the line before that. There is a
    /// little more room than what goes on may take.
    pub(super) const fn of_trailers(reading: Reading) -> Self {
        Self::at(match reading {
            Reading::Strict => Place::Tunnel,
            Reading::Lenient => Place::UpstreamTrailers,
        })
    }

    const fn at(place: Place) -> Self {
        Self { seen: 0, line: 0, skipped: false, place }
    }

    /// The search for the next head on the same connection.
    pub const fn anew(self) -> Self {
        Self::at(self.place)
    }

    /// How strictly the message is read.
    pub const fn reading(self) -> Reading {
        self.place.reading()
    }

    /// How many bytes to drop before the head begins: 2 if there is an empty line, and none was dropped
    /// before. Some clients send one after a body (RFC 9112 section 2.2). To be asked before each
    /// [`HeadScan::advance`]; for requests only.
    pub fn leading_crlf(&mut self, input: &[u8]) -> usize {
        if self.skipped || !input.starts_with(b"\r\n") {
            return 0;
        }
        *self = Self { skipped: true, ..self.anew() };
        2
    }

    /// Whether any byte of the head has been looked at.
    pub const fn is_begun(self) -> bool {
        self.seen > 0
    }

    /// Bytes that may well hold a head from beginning to end, because nobody has looked at them yet: most
    /// come in one piece. Whoever finds one there with another method needs no search, which would find the
    /// same: no limit is in reach. If there is none, or there is anything wrong with it,
    /// [`HeadScan::advance`] says what.
    pub(super) fn likely<'b>(&self, input: &'b [u8]) -> Option<&'b [u8]> {
        (!self.is_begun()).then(|| input.get(..LINE_LIMIT).unwrap_or(input))
    }

    /// The length of the head with the empty line that ends it, once it is complete. `input` always begins
    /// with the head's first byte.
    ///
    /// Fails with 400 at a bare LF, at an empty line in place of a start line, and at a first byte that
    /// begins no message (TLS on a plain port); with 414 when the start line, and with 431 when the head, is
    /// beyond its limit. A lenient reading lets LF and empty lines pass.
    pub fn advance(&mut self, input: &[u8]) -> Result<Option<usize>, Violation> {
        let limit = self.place.limit();
        let window = input.get(..limit).unwrap_or(input);
        let is_strict = self.reading() == Reading::Strict;
        let may_begin = |byte| is_token_byte(byte) || byte == b'\r' || byte == b'\n' && !is_strict;
        if window.first().is_some_and(|&byte| !may_begin(byte)) {
            return Err(Violation::malformed("this is not HTTP/1"));
        }
        while let Some(found) = window.get(usize::from(self.seen)..).and_then(line_feed) {
            let line = usize::from(self.line);
            let at = usize::from(self.seen) + found;
            let text = window.get(line..at).unwrap_or_default();
            let has_cr = text.last() == Some(&b'\r');
            if !has_cr && is_strict {
                return Err(Violation::malformed("a line ends in LF without CR"));
            }
            if line == 0 && at > LINE_LIMIT {
                return Err(TARGET_TOO_LONG);
            }
            let before = window.get(..line).unwrap_or_default();
            if text.len() == usize::from(has_cr) && before.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                if is_strict {
                    return Err(Violation::malformed("an empty line in place of a start line"));
                }
            } else if text.len() == usize::from(has_cr) {
                // Asked again, it finds the same end again.
                self.seen = offset(at);
                return Ok(Some(at + 1));
            }
            self.seen = offset(at + 1);
            self.line = self.seen;
        }
        self.seen = offset(window.len());
        if self.line == 0 && window.len() > LINE_LIMIT {
            return Err(TARGET_TOO_LONG);
        }
        if window.len() == limit {
            return Err(Violation::new(431, "the head, or the trailer section, is larger than 16 KiB"));
        }
        Ok(None)
    }
}

/// Where the first LF is. Eight bytes at a time: a head is looked at once more than anything else in it.
fn line_feed(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // A byte of `zeroed` is zero where the word has LF; the lowest high bit that is left marks the first
        // of them.
        let zeroed = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'\n'));
        let marks = zeroed.wrapping_sub(ONES) & !zeroed & HIGHS;
        if marks != 0 {
            return Some(index * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|&byte| byte == b'\n').map(|at| words.len() * 8 + at)
}

/// A place in a head. All of them are at most [`HEAD_LIMIT`].
fn offset(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::every_split;

    fn scan(mut scan: HeadScan, pieces: &[&[u8]]) -> Result<Option<usize>, u16> {
        let mut input = Vec::new();
        let mut last = Ok(None);
        for piece in pieces {
            input.extend_from_slice(piece);
            let dropped = scan.leading_crlf(&input);
            input.drain(..dropped);
            last = scan.advance(&input).map_err(|violation| violation.status);
            if last.is_err() {
                break;
            }
        }
        last
    }

    fn every(input: &[u8], trailing: &[u8]) -> Result<Option<usize>, u16> {
        every_split(input, trailing, |pieces| scan(HeadScan::default(), pieces))
    }

    #[test]
    fn the_end_is_found_at_any_length() {
        for name in 1..40 {
            let head = [b"GET / HTTP/1.1\r\n".as_slice(), &b"x".repeat(name), b": y\r\n\r\n"].concat();
            assert_eq!(every(&head, b"\r\n\r\nGET"), Ok(Some(head.len())));
            assert_eq!(every(&head[..head.len() - 1], b""), Ok(None));
        }
        assert_eq!(every(b"G\r\n\r\n", b"\n"), Ok(Some(5)));
        assert_eq!(every(b"", b""), Ok(None));
    }

    #[test]
    fn what_is_no_head_is_refused_as_early_as_can_be() {
        for bytes in ["\n", " ", "\0", "GET\n", "GET / HTTP/1.1\r\nx\n", "G\r\n\n", "\r\n\r\n", "{"] {
            assert_eq!(every(bytes.as_bytes(), b"x"), Err(400), "{bytes:?}");
        }
        assert_eq!(every(b"\r", b""), Ok(None));
        // It is the parser's to refuse it.
        assert_eq!(every(b"\rGET / HTTP/1.1\r\n\r\n", b""), Ok(Some(19)));
    }

    #[test]
    fn one_empty_line_is_dropped() {
        assert_eq!(every(b"\r\nG\r\n\r\n", b"x"), Ok(Some(5)));
        assert_eq!(HeadScan::default().leading_crlf(b"G"), 0);
    }

    #[test]
    fn limits() {
        let run = |scan_on: HeadScan, input: &[u8]| {
            let whole = scan(scan_on, &[input]);
            assert_eq!(scan(scan_on, &input.chunks(1).collect::<Vec<_>>()), whole);
            whole
        };
        let head = |len: usize| [b"G\r\n".as_slice(), &b"x".repeat(len - 7), b"\r\n\r\n"].concat();
        let (plain, tunnel) = (HeadScan::default(), HeadScan::on_tunnel());
        assert_eq!(run(plain, &head(HEAD_LIMIT)), Ok(Some(HEAD_LIMIT)));
        assert_eq!(run(plain, &head(HEAD_LIMIT + 1)), Err(431));
        assert_eq!(run(tunnel, &head(HEAD_LIMIT + TUNNEL_ROOM)), Ok(Some(HEAD_LIMIT + TUNNEL_ROOM)));
        assert_eq!(run(tunnel, &head(HEAD_LIMIT + TUNNEL_ROOM + 1)), Err(431));
        assert_eq!(run(plain, &b"x".repeat(LINE_LIMIT)), Ok(None));
        assert_eq!(run(plain, &b"x".repeat(LINE_LIMIT + 1)), Err(414));
        assert_eq!(
            run(plain, &[b"x".repeat(LINE_LIMIT - 1), b"\r\n\r\n".to_vec()].concat()),
            Ok(Some(LINE_LIMIT + 3))
        );
        assert_eq!(run(plain, &[b"x".repeat(LINE_LIMIT), b"\r\n\r\n".to_vec()].concat()), Err(414));
    }
}
