//! Bodies on their way (RFC 9112 sections 6 and 7): how many of the bytes at hand may pass, and what is
//! replaced.
//!
//! The bytes stay where they are; a [`Transfer`] looks at them and counts. The only copies it makes are of
//! chunk lines and trailers that it writes anew, and of pieces of close-delimited bodies too small to be
//! worth more steps.

use alloc::vec::Vec;

use super::chunked::{CHUNK_EXCESS_LIMIT, ChunkLine, Ending, LastChunk, LineScan, write_ending};
use super::framing::Framing;
use super::put;
use super::reading::Reading;
use crate::proto::error::Violation;
use crate::proto::seam::End;

/// One message body on its way: how it is delimited where it comes from and where it goes.
#[derive(Clone, Debug)]
pub struct Transfer(State);

/// What becomes of the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing can be said before more bytes are there.
    NeedMore,
    /// The first `n` bytes go on as they are; `n` is not zero.
    Pass(usize),
    /// The first `n` bytes are dropped; `n` is not zero. What replaces them, if anything, was appended to the
    /// output, and goes before what follows them.
    Skip(usize),
    /// The body is complete. None of the bytes at hand belongs to it. Whatever ends the body where it goes
    /// was appended to the output, unless it was among the bytes that went before.
    Done,
    /// The input ended before the body was complete, or in a way that does not say whether it is.
    Truncated,
}

#[derive(Clone, Debug)]
enum State {
    /// This many bytes are to come; not zero.
    Length(u64),
    Chunked(Chunked),
    /// Everything passes until the end.
    UntilClose,
    /// Everything becomes chunks until the end.
    Encode(Encode),
    Done,
    /// There is no way to delimit this body like that.
    Unsendable,
}

/// Pieces up to this size are copied into their chunk. Larger ones pass uncopied, which takes three steps.
const COPIED_CHUNK: usize = 1024;

impl Transfer {
    /// A body that comes framed in one way and goes on framed in another: in the same one, or as
    /// [`Framing::onward`] has it.
    pub fn new(from: Framing, to: Framing) -> Self {
        Self::read(from, to, Reading::Strict)
    }

    /// As [`Transfer::new`], read in this way.
    pub fn read(from: Framing, to: Framing, reading: Reading) -> Self {
        Self(match (from, to) {
            (Framing::None, _) | (Framing::Length(0), Framing::Length(0)) => State::Done,
            (Framing::Length(length), Framing::Length(other)) if length == other => State::Length(length),
            (Framing::Chunked, Framing::Chunked) => State::Chunked(Chunked::new(Lines::Keep, reading)),
            (Framing::Chunked, Framing::UntilClose) => State::Chunked(Chunked::new(Lines::Drop, reading)),
            (Framing::UntilClose, Framing::UntilClose) => State::UntilClose,
            (Framing::UntilClose, Framing::Chunked) => State::Encode(Encode::Between),
            (Framing::Length(_) | Framing::Chunked | Framing::UntilClose, _) => {
                debug_assert!(false, "a body that comes as {from:?} cannot go on as {to:?}");
                State::Unsendable
            }
        })
    }

    /// Looks at all bytes that have arrived and are not consumed; `end` says that nothing follows them. After
    /// [`Progress::Pass`] and [`Progress::Skip`] it is called again with the rest, which may be empty.
    ///
    /// What precedes a violation passes before the violation is told.
    pub fn advance(
        &mut self,
        input: &[u8],
        end: Option<End>,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Violation> {
        let progress = match &mut self.0 {
            State::Done => Progress::Done,
            State::Unsendable => Progress::Truncated,
            State::UntilClose => pass(input.len()),
            State::Length(left) => {
                let n = at_most(input.len(), *left);
                *left -= n as u64;
                if *left == 0 {
                    self.0 = State::Done;
                }
                pass(n)
            }
            State::Chunked(chunked) => {
                let (progress, complete) = chunked.advance(input, out)?;
                if complete {
                    self.0 = State::Done;
                }
                progress
            }
            State::Encode(encode) => encode.advance(input, out),
        };
        let (Progress::NeedMore, Some(end)) = (progress, end) else { return Ok(progress) };
        match (&self.0, end) {
            (State::UntilClose, End::Clean) => {}
            (State::Encode(Encode::Between), End::Clean) => out.extend_from_slice(b"0\r\n\r\n"),
            // RFC 9112 section 9.8: without close_notify nobody knows whether a close-delimited body is
            // complete.
            (State::UntilClose | State::Encode(_), End::Clean | End::Cut)
            | (State::Length(_) | State::Chunked(_) | State::Done | State::Unsendable, _) => {
                return Ok(Progress::Truncated);
            }
        }
        self.0 = State::Done;
        Ok(Progress::Done)
    }

    /// How many of the bytes that come next are opaque: they go on as they are, whatever they are. `u64::MAX`
    /// means all until the end, 0 that the next byte must be looked at. The caller may move opaque bytes in
    /// lumps without showing them, and tells each lump by [`Transfer::pass_opaque`].
    pub fn opaque(&self) -> u64 {
        match &self.0 {
            State::Length(left) => *left,
            State::Chunked(chunked) => match chunked.place {
                Place::Data(left) => left,
                Place::Line(_) | Place::DataEnd | Place::Last(_) => 0,
            },
            State::UntilClose | State::Encode(Encode::Between) => u64::MAX,
            State::Encode(Encode::Within(_)) | State::Done | State::Unsendable => 0,
        }
    }

    /// A lump of `n` opaque bytes goes on, no more than [`Transfer::opaque`] said. What goes before it is
    /// appended to `before`; what goes after it is returned.
    pub fn pass_opaque(&mut self, n: u64, before: &mut Vec<u8>) -> &'static [u8] {
        match &mut self.0 {
            State::Length(left) => {
                *left = left.saturating_sub(n);
                if *left == 0 {
                    self.0 = State::Done;
                }
            }
            State::Chunked(chunked) => {
                if let Place::Data(left) = &mut chunked.place {
                    *left = left.saturating_sub(n);
                    if *left == 0 {
                        chunked.place = Place::DataEnd;
                    }
                }
            }
            State::Encode(_) => {
                put::hex(before, n);
                before.extend_from_slice(b"\r\n");
                return b"\r\n";
            }
            State::UntilClose | State::Done | State::Unsendable => {}
        }
        b""
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// How many bytes are still to come, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            State::Chunked(_) | State::UntilClose | State::Encode(_) | State::Unsendable => None,
        }
    }
}

/// What the recipient of a chunked body gets of its chunk lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    /// All of them, in their canonical form.
    Keep,
    /// None: only the data.
    Drop,
}

#[derive(Clone, Debug)]
struct Chunked {
    lines: Lines,
    reading: Reading,
    place: Place,
    /// Bytes of extensions and leading zeros that no data has made up for so far.
    excess: u32,
}

/// The part of a chunked body that the input begins in.
#[derive(Clone, Debug)]
enum Place {
    Line(LineScan),
    /// In the data of a chunk; this many bytes of it are to come, not zero.
    Data(u64),
    /// At the CRLF after the data.
    DataEnd,
    Last(LastChunk),
}

/// What comes next in a chunked body.
enum Item<'a> {
    Line(ChunkLine),
    /// So many bytes of data.
    Data(usize),
    /// The line end after the data, in bytes.
    DataEnd(usize),
    Ending(Ending<'a>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Replace,
}

impl Chunked {
    fn new(lines: Lines, reading: Reading) -> Self {
        Self { lines, reading, place: Place::Line(LineScan::default()), excess: 0 }
    }

    /// Takes as many bytes as share one fate. The flag says that the body is complete with them.
    fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(Progress, bool), Violation> {
        let mut n = 0;
        let mut shared = Fate::Pass;
        loop {
            let item = match self.next(input.get(n..).unwrap_or_default()) {
                Ok(Some(item)) => item,
                // The next call comes upon the same violation again.
                Err(violation) if n == 0 => return Err(violation),
                Ok(None) | Err(_) => return Ok((shared.of(n), false)),
            };
            let (len, fate) = item.fate(self.lines);
            if n > 0 && (fate != shared || fate == Fate::Replace) {
                return Ok((shared.of(n), false));
            }
            shared = fate;
            n += len;
            match item {
                Item::Line(line) => {
                    if fate == Fate::Replace {
                        put::hex(out, line.size);
                        out.extend_from_slice(b"\r\n");
                    }
                    self.excess = (self.excess + line.excess).saturating_sub(line.credit());
                    self.place = Place::Data(line.size);
                }
                Item::Data(len) => {
                    if let Place::Data(left) = &mut self.place {
                        *left -= len as u64;
                        if *left == 0 {
                            self.place = Place::DataEnd;
                        }
                    }
                }
                Item::DataEnd(_) => {
                    if fate == Fate::Replace {
                        out.extend_from_slice(b"\r\n");
                    }
                    self.place = Place::Line(LineScan::default());
                }
                Item::Ending(ending) => {
                    if fate != Fate::Pass {
                        let before = out.len();
                        write_ending(ending.trailers, out)?;
                        if fate == Fate::Drop {
                            out.truncate(before);
                        }
                    }
                    return Ok((shared.of(n), true));
                }
            }
        }
    }

    /// What the input begins with, if that can be said already. Nothing is consumed, so that the same
    /// question has the same answer.
    fn next<'a>(&mut self, input: &'a [u8]) -> Result<Option<Item<'a>>, Violation> {
        match &mut self.place {
            Place::Line(scan) => {
                let Some(line) = scan.advance(input, self.reading)? else { return Ok(None) };
                if self.excess + line.excess > CHUNK_EXCESS_LIMIT {
                    return Err(Violation::malformed("too many chunk extensions"));
                }
                if line.size > 0 {
                    return Ok(Some(Item::Line(line)));
                }
                let mut last = LastChunk::new(line, self.reading);
                let ending = last.advance(input)?;
                self.place = Place::Last(last);
                Ok(ending.map(Item::Ending))
            }
            Place::Data(left) => {
                let len = at_most(input.len(), *left);
                Ok((len > 0).then_some(Item::Data(len)))
            }
            Place::DataEnd => match input {
                [b'\r', b'\n', ..] => Ok(Some(Item::DataEnd(2))),
                [b'\n', ..] if self.reading == Reading::Lenient => Ok(Some(Item::DataEnd(1))),
                [] | [b'\r'] => Ok(None),
                _ => Err(Violation::malformed("no CRLF after the data of a chunk")),
            },
            Place::Last(last) => Ok(last.advance(input)?.map(Item::Ending)),
        }
    }
}

impl Item<'_> {
    /// The length in bytes, and what becomes of them.
    fn fate(&self, lines: Lines) -> (usize, Fate) {
        let (len, canonical) = match self {
            Item::Line(line) => (line.len, line.canonical),
            Item::Data(len) => return (*len, Fate::Pass),
            Item::DataEnd(len) => (*len, *len == 2),
            Item::Ending(ending) => (ending.len, ending.canonical),
        };
        match lines {
            Lines::Drop => (len, Fate::Drop),
            Lines::Keep if canonical => (len, Fate::Pass),
            Lines::Keep => (len, Fate::Replace),
        }
    }
}

impl Fate {
    fn of(self, n: usize) -> Progress {
        match self {
            _ if n == 0 => Progress::NeedMore,
            Self::Pass => Progress::Pass(n),
            Self::Drop | Self::Replace => Progress::Skip(n),
        }
    }
}

/// A close-delimited body that goes on in chunks. The bytes at hand become one chunk, which is sent whole in
/// the same turn. Every step consumes something, so that nobody has to ask again without input: the chunk
/// line goes along with the first byte of the data, and the CRLF with the last one.
#[derive(Clone, Debug)]
enum Encode {
    Between,
    /// This many bytes of the chunk are to come, not zero.
    Within(usize),
}

impl Encode {
    fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress {
        let Some((first, rest)) = input.split_first() else { return Progress::NeedMore };
        match *self {
            Self::Between => {
                put::hex(out, input.len() as u64);
                out.extend_from_slice(b"\r\n");
                if input.len() <= COPIED_CHUNK {
                    out.extend_from_slice(input);
                    out.extend_from_slice(b"\r\n");
                    return Progress::Skip(input.len());
                }
                out.push(*first);
                *self = Self::Within(rest.len());
                Progress::Skip(1)
            }
            Self::Within(1) => {
                out.extend_from_slice(&[*first, b'\r', b'\n']);
                *self = Self::Between;
                Progress::Skip(1)
            }
            Self::Within(left) => {
                let n = input.len().min(left - 1);
                *self = Self::Within(left - n);
                Progress::Pass(n)
            }
        }
    }
}

fn pass(n: usize) -> Progress {
    Fate::Pass.of(n)
}

/// `len`, but at most `left`.
fn at_most(len: usize, left: u64) -> usize {
    usize::try_from(left).map_or(len, |left| left.min(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::every_split;

    /// What became of a body: the last word on it, what went on, and what was left.
    type Outcome = (Result<Progress, u16>, Vec<u8>, Vec<u8>);

    fn transfer(from: Framing, to: Framing, pieces: &[&[u8]], end: Option<End>) -> Outcome {
        let mut transfer = Transfer::new(from, to);
        let (mut input, mut sent) = (Vec::new(), Vec::new());
        let mut last = Ok(Progress::NeedMore);
        for (index, piece) in pieces.iter().enumerate() {
            input.extend_from_slice(piece);
            let end = end.filter(|_| index + 1 == pieces.len());
            loop {
                let mut out = Vec::new();
                let progress = transfer.advance(&input, end, &mut out);
                sent.append(&mut out);
                last = progress.map_err(|violation| violation.status);
                match last {
                    Ok(Progress::Pass(n)) => {
                        assert!(n > 0);
                        sent.extend(input.drain(..n));
                    }
                    Ok(Progress::Skip(n)) => {
                        assert!(n > 0);
                        input.drain(..n);
                    }
                    Ok(Progress::NeedMore | Progress::Done | Progress::Truncated) | Err(_) => break,
                }
            }
            assert_eq!(transfer.is_done(), last == Ok(Progress::Done));
        }
        (last, sent, input)
    }

    /// Runs a body in every division.
    fn every(from: Framing, to: Framing, input: &[u8], end: Option<End>) -> Outcome {
        let whole = transfer(from, to, &[input], end);
        let trailing: &[u8] = if end.is_some() || whole.0 == Ok(Progress::NeedMore) { b"" } else { b"GET /" };
        every_split(input, trailing, |pieces| {
            let mut outcome = transfer(from, to, pieces, end);
            let total: usize = pieces.iter().map(|piece| piece.len()).sum();
            outcome.2.truncate(outcome.2.len().saturating_sub(total - input.len()));
            // What was not looked at after a violation says nothing.
            if outcome.0.is_err() {
                outcome.2.clear();
            }
            outcome
        })
    }

    fn chunked(input: &[u8]) -> Outcome {
        every(Framing::Chunked, Framing::Chunked, input, None)
    }

    #[track_caller]
    fn goes_on_as(input: &[u8], expected: &[u8]) {
        let (last, sent, left) = chunked(input);
        assert_eq!(sent.escape_ascii().to_string(), expected.escape_ascii().to_string());
        assert_eq!((last, left), (Ok(Progress::Done), Vec::new()));
    }

    #[track_caller]
    fn is_refused(input: &[u8], passed: &[u8]) {
        for to in [Framing::Chunked, Framing::UntilClose] {
            let (last, sent, _) = every(Framing::Chunked, to, input, None);
            assert!(matches!(last, Err(400 | 431)), "{last:?}: {}", input.escape_ascii());
            if to == Framing::Chunked {
                assert_eq!(sent.escape_ascii().to_string(), passed.escape_ascii().to_string());
            }
        }
    }

    #[test]
    fn nothing_is_done_at_once() {
        for framing in [Framing::None, Framing::Length(0)] {
            let mut transfer = Transfer::new(framing, framing);
            assert!(transfer.is_done());
            assert_eq!(transfer.advance(b"next", None, &mut Vec::new()), Ok(Progress::Done));
            assert_eq!(transfer.remaining(), Some(0));
        }
    }

    #[test]
    fn a_length_is_counted_down() {
        let five = Framing::Length(5);
        assert_eq!(every(five, five, b"hello", None), (Ok(Progress::Done), b"hello".to_vec(), vec![]));
        assert_eq!(every(five, five, b"hellonext", None).2, b"next");
        assert_eq!(every(five, five, b"hell", None).0, Ok(Progress::NeedMore));
        assert_eq!(every(five, five, b"hell", Some(End::Clean)).0, Ok(Progress::Truncated));
        let mut transfer = Transfer::new(five, five);
        assert_eq!(transfer.advance(b"he", None, &mut Vec::new()), Ok(Progress::Pass(2)));
        assert_eq!(transfer.remaining(), Some(3));
        assert_eq!(transfer.advance(b"llo", Some(End::Cut), &mut Vec::new()), Ok(Progress::Pass(3)));
        assert_eq!(transfer.advance(b"", Some(End::Cut), &mut Vec::new()), Ok(Progress::Done));
        let most = Framing::Length(u64::MAX);
        assert_eq!(Transfer::new(most, most).advance(b"x", None, &mut Vec::new()), Ok(Progress::Pass(1)));
    }

    #[test]
    fn canonical_chunks_pass_in_one_step() {
        let body = b"5\r\nhello\r\nA\r\n0123456789\r\n1f\r\n0123456789012345678901234567890\r\n0\r\n\r\n";
        goes_on_as(body, body);
        let mut out = Vec::new();
        let mut transfer = Transfer::new(Framing::Chunked, Framing::Chunked);
        let followed = [body.as_slice(), b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(transfer.advance(&followed, None, &mut out), Ok(Progress::Pass(body.len())));
        assert_eq!(transfer.advance(b"GET", None, &mut out), Ok(Progress::Done));
        assert!(out.is_empty());
    }

    #[test]
    fn other_chunk_lines_are_replaced() {
        goes_on_as(b"5;a=b\r\nhello\r\n0;last\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n");
        goes_on_as(b"5;a=\"b;\t\xe9\"\r\nhello\r\n000\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n");
        goes_on_as(b"0000000000000000000000005\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n");
        goes_on_as(b"1\r\na\r\n01\r\nb\r\n1\r\nc\r\n0\r\n\r\n", b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n");
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let hello = b"5\r\nhello\r\n".as_slice();
        for line in [
            "\r\n",
            " 5\r\n",
            "5 \r\n",
            "5\t;a\r\n",
            "+5\r\n",
            "-5\r\n",
            "0x5\r\n",
            "5h\r\n",
            ";a\r\n",
            "5\n",
            "\n",
            "5\r",
            "5;a\n",
            "5;a\rb\r\n",
            "5;\0\r\n",
            "5;\x7f\r\n",
            "5,5\r\n",
            "10000000000000000\r\n",
            "fffffffffffffffff\r\n",
            "5_0\r\n",
            "\u{665}\r\n",
        ] {
            is_refused(&[line.as_bytes(), b"x"].concat(), b"");
            is_refused(&[hello, line.as_bytes(), b"x"].concat(), hello);
        }
        for after_data in ["hellox", "hello\n", "hello\rx", "hello0\r\n\r\n"] {
            is_refused(&[b"5\r\n", after_data.as_bytes()].concat(), b"5\r\nhello");
        }
        let largest = every(Framing::Chunked, Framing::Chunked, b"ffffffffffffffff\r\nabc", None);
        assert_eq!(largest, (Ok(Progress::NeedMore), b"ffffffffffffffff\r\nabc".to_vec(), vec![]));
    }

    #[test]
    fn trailers_are_written_anew() {
        goes_on_as(b"00\r\nGrpc-Status:0\r\n\r\n", b"0\r\nGrpc-Status: 0\r\n\r\n");
        goes_on_as(
            b"1\r\na\r\n0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nHost: a\r\nSlime-Agent-Id: x\r\nConnection: a\r\n\
              Authorization: x\r\nSet-Cookie: x\r\nX-Forwarded-For: x\r\nVia: x\r\nContent-Type: x\r\nDigest: \t caf\xe9 \r\nETag:\r\n\r\n",
            b"1\r\na\r\n0\r\nDigest: caf\xe9\r\nETag: \r\n\r\n",
        );
    }

    #[test]
    fn malformed_trailers_are_refused() {
        for trailers in [
            "a\r\n\r\n",
            "a : b\r\n\r\n",
            "a: b\n\r\n",
            "a: b\n\n",
            "a: b\r\n c\r\n\r\n",
            " a: b\r\n\r\n",
            "a: \0\r\n\r\n",
            "a: b\rc\r\n\r\n",
            ": b\r\n\r\n",
            "\n",
        ] {
            is_refused(&[b"1\r\na\r\n0\r\n", trailers.as_bytes()].concat(), b"1\r\na\r\n");
        }
        let many = |n: usize| [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(n), b"\r\n"].concat();
        goes_on_as(&many(100), &many(100));
        is_refused(&many(101), b"");
    }

    #[test]
    fn lines_extensions_and_trailers_have_limits() {
        let run = |input: &[u8]| {
            let whole = transfer(Framing::Chunked, Framing::Chunked, &[input], None);
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(transfer(Framing::Chunked, Framing::Chunked, &bytes, None).0, whole.0);
            whole.0
        };
        let line = |len: usize| [b"1;".as_slice(), &b"a".repeat(len - 4), b"\r\n"].concat();
        assert_eq!(run(&line(4096)), Ok(Progress::NeedMore));
        assert_eq!(run(&line(4097)), Err(400));
        assert_eq!(run(&b"0".repeat(4096)), Err(400));

        let chunk = [line(4 + 1023), b"x\r\n".to_vec()].concat();
        assert_eq!(run(&chunk.repeat(64)), Ok(Progress::NeedMore));
        assert_eq!(run(&[chunk.repeat(64), b"01\r\n".to_vec()].concat()), Err(400));
        // Data makes up for them.
        let data = [b"2000\r\n".as_slice(), &b"x".repeat(8192), b"\r\n"].concat();
        assert_eq!(run(&[chunk.repeat(64), data, chunk.clone()].concat()), Ok(Progress::NeedMore));

        let trailers = |len: usize| [b"0\r\na: ".as_slice(), &b"b".repeat(len - 10), b"\r\n\r\n"].concat();
        assert_eq!(run(&trailers(16 * 1024)), Ok(Progress::Done));
        assert_eq!(run(&trailers(16 * 1024 + 1)), Err(431));
    }

    #[test]
    fn a_body_without_end_may_have_padded_sizes_and_signatures() {
        let event = b"00000005\r\nx: y\n\r\n".repeat(50_000);
        assert_eq!(transfer(Framing::Chunked, Framing::Chunked, &[&event], None).0, Ok(Progress::NeedMore));
        let line =
            b"400;chunk-signature=0123456789012345678901234567890123456789012345678901234567890123\r\n";
        let signed = [line.as_slice(), &b"z".repeat(1024), b"\r\n"].concat().repeat(2000);
        assert_eq!(transfer(Framing::Chunked, Framing::Chunked, &[&signed], None).0, Ok(Progress::NeedMore));
    }

    #[test]
    fn an_incomplete_chunked_body_never_looks_complete() {
        let body = b"5\r\nhello\r\n0\r\nA: b\r\n\r\n";
        for len in 0..body.len() {
            let (last, sent, _) =
                transfer(Framing::Chunked, Framing::Chunked, &[&body[..len]], Some(End::Clean));
            assert_eq!(last, Ok(Progress::Truncated));
            assert!(!sent.windows(3).any(|end| end == b"0\r\n"));
        }
    }

    #[test]
    fn chunks_are_taken_off_for_old_clients() {
        let (last, sent, left) = every(
            Framing::Chunked,
            Framing::UntilClose,
            b"5;a\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n",
            None,
        );
        assert_eq!((last, sent, left), (Ok(Progress::Done), b"hello!".to_vec(), vec![]));
    }

    #[test]
    fn the_end_of_a_connection_is_the_end_of_a_body_only_if_it_is_clean() {
        let until = Framing::UntilClose;
        assert_eq!(
            every(until, until, b"hello", Some(End::Clean)),
            (Ok(Progress::Done), b"hello".to_vec(), vec![])
        );
        assert_eq!(every(until, until, b"hello", Some(End::Cut)).0, Ok(Progress::Truncated));
        assert_eq!(every(until, until, b"", Some(End::Clean)).0, Ok(Progress::Done));
        let (last, sent, _) = transfer(until, Framing::Chunked, &[b"hello"], Some(End::Cut));
        assert_eq!((last, sent.as_slice()), (Ok(Progress::Truncated), b"5\r\nhello\r\n".as_slice()));
        let (last, sent, _) = transfer(until, Framing::Chunked, &[b""], Some(End::Clean));
        assert_eq!((last, sent.as_slice()), (Ok(Progress::Done), b"0\r\n\r\n".as_slice()));
    }

    #[test]
    fn close_delimited_bodies_become_chunks_that_are_sent_whole() {
        for len in [1, 2, 3, COPIED_CHUNK - 1, COPIED_CHUNK, COPIED_CHUNK + 1, COPIED_CHUNK + 2, 16 * 1024] {
            let body: Vec<u8> = (0u8..=255).cycle().take(len).collect();
            let (last, sent, _) =
                transfer(Framing::UntilClose, Framing::Chunked, &[&body, b""], Some(End::Clean));
            assert_eq!(last, Ok(Progress::Done));
            let expected = [format!("{len:x}\r\n").as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
            assert_eq!(sent, expected);
            // More arrives while a chunk is under way.
            let mut encode = Encode::Between;
            let mut out = Vec::new();
            if encode.advance(&body, &mut out) == Progress::Skip(1) && len > COPIED_CHUNK {
                let more = [&body[1..], b"more"].concat();
                assert_eq!(encode.advance(&more, &mut out), Progress::Pass(len - 2));
                assert_eq!(encode.advance(&more[len - 2..], &mut out), Progress::Skip(1));
                assert_eq!(encode.advance(b"more", &mut out), Progress::Skip(4));
                assert!(out.ends_with(b"\r\n4\r\nmore\r\n"));
            }
        }
    }
}
