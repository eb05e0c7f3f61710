//! Bodies on their way (RFC 9112 sections 6 and 7): how many of the bytes at hand may pass, and what is replaced.
//!
//! The bytes stay where they are; a [`Transfer`] looks at them and counts. The only copies it makes are of chunk lines and
//! trailers that it writes anew, and of pieces of close-delimited bodies too small to be worth more steps.

use super::chunked::{CHUNK_EXCESS_LIMIT, ChunkLine, Ending, LastChunk, LineScan, write_ending};
use super::framing::Framing;
use super::put;
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
    /// The first `n` bytes are dropped; `n` is not zero. What replaces them, if anything, was appended to the output, and goes
    /// before what follows them.
    Skip(usize),
    /// The body is complete. None of the bytes at hand belongs to it. What ends it where it goes, if that is not among the
    /// bytes that went before, was appended to the output.
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
    /// A body that comes framed in one way and goes on framed in another: in the same one, or as [`Framing::onward`] has it.
    pub fn new(from: Framing, to: Framing) -> Self {
        Self(match (from, to) {
            (Framing::None, _) | (Framing::Length(0), Framing::Length(0)) => State::Done,
            (Framing::Length(length), Framing::Length(other)) if length == other => State::Length(length),
            (Framing::Chunked, Framing::Chunked) => State::Chunked(Chunked::new(Lines::Keep)),
            (Framing::Chunked, Framing::UntilClose) => State::Chunked(Chunked::new(Lines::Drop)),
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
            // RFC 9112 section 9.8: without close_notify nobody knows whether a close-delimited body is complete.
            (State::UntilClose | State::Encode(_), End::Clean | End::Cut)
            | (State::Length(_) | State::Chunked(_) | State::Done | State::Unsendable, _) => {
                return Ok(Progress::Truncated);
            }
        }
        self.0 = State::Done;
        Ok(Progress::Done)
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

/// What a chunked body's lines are to its recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    /// It gets them, in their canonical form.
    Keep,
    /// It gets the data alone.
    Drop,
}

#[derive(Clone, Debug)]
struct Chunked {
    lines: Lines,
    place: Place,
    /// Bytes of extensions and leading zeros so far.
    excess: u32,
}

/// Where in a chunked body the input begins.
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
    DataEnd,
    Ending(Ending<'a>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Replace,
}

impl Chunked {
    fn new(lines: Lines) -> Self {
        Self { lines, place: Place::Line(LineScan::default()), excess: 0 }
    }

    /// Goes on for as long as all bytes share one fate. The flag says that the body is complete with them.
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
                    self.excess += line.excess;
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
                Item::DataEnd => self.place = Place::Line(LineScan::default()),
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

    /// What the input begins with, if that can be said already. Nothing is consumed: asked again, it says the same.
    fn next<'a>(&mut self, input: &'a [u8]) -> Result<Option<Item<'a>>, Violation> {
        match &mut self.place {
            Place::Line(scan) => {
                let Some(line) = scan.advance(input)? else { return Ok(None) };
                if self.excess + line.excess > CHUNK_EXCESS_LIMIT {
                    return Err(Violation::malformed("too many chunk extensions"));
                }
                if line.size > 0 {
                    return Ok(Some(Item::Line(line)));
                }
                let mut last = LastChunk::new(line);
                let ending = last.advance(input)?;
                self.place = Place::Last(last);
                Ok(ending.map(Item::Ending))
            }
            Place::Data(left) => {
                let len = at_most(input.len(), *left);
                Ok((len > 0).then_some(Item::Data(len)))
            }
            Place::DataEnd => match input {
                [b'\r', b'\n', ..] => Ok(Some(Item::DataEnd)),
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
            Item::Line(line) => (line.len, line.excess == 0),
            Item::Data(len) => return (*len, Fate::Pass),
            Item::DataEnd => (2, true),
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

/// A close-delimited body that goes on in chunks. What is at hand becomes one chunk, and is sent whole in the same turn. No
/// step consumes nothing, so that nobody has to ask again without input: a chunk's line takes its first byte along, and
/// its last byte the CRLF.
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
