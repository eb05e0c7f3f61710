//! HTTP/1.1 as the scripts speak it: written from the RFCs, apart from the code under test, and without
//! mercy.

use crate::rng::{Rng, mix};

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Inbound = 0,
    Outbound = 1,
}

/// The byte of a body at an offset: it depends on the exchange, the way and the offset, so that whatever is
/// lost, doubled, exchanged or sent to another one shows.
pub(crate) fn body_byte(exchange: usize, way: Way, offset: usize) -> u8 {
    mix(((exchange as u64) << 40) ^ ((way as u64) << 39) ^ offset as u64).to_le_bytes()[0]
}

pub(crate) fn body(exchange: usize, way: Way, length: usize) -> Vec<u8> {
    (0..length).map(|offset| body_byte(exchange, way, offset)).collect()
}

/// A body in chunks of any sizes, with all that the grammar permits (RFC 9112 section 7.1).
pub(crate) fn chunked(body: &[u8], trailer: Option<&str>, rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    // Hundreds of chunks at most: more overhead than data looks like an attack.
    let largest = rng.pick(&[1, 10, 1000, 20_000, 400_000]).max(body.len() / 300);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rng.length(1, largest).min(rest.len()));
        // Extensions are rare in the world, and more than a few of them are an attack.
        let line = match rng.within(if out.len() < 200 { 0 } else { 2 }, 9) {
            0 => format!("{:X};name=value\r\n", chunk.len()),
            1 => format!("{:X};quoted=\"a;b\"\r\n", chunk.len()),
            2 => format!("00{:x}\r\n", chunk.len()),
            3 => format!("{:X}\r\n", chunk.len()),
            _ => format!("{:x}\r\n", chunk.len()),
        };
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = after;
    }
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailer.unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    out
}

/// A head as it was received; names in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has_option(&self, name: &str, option: &str) -> bool {
        let mut values = self.fields.iter().filter(|(it, _)| it == name);
        values.any(|(_, value)| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(option)))
    }

    /// The exchange of a request or a response that a script has written.
    pub(crate) fn exchange(&self) -> Option<usize> {
        self.field("x-exchange").or_else(|| self.field("x-answers"))?.parse().ok()
    }

    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// A piece of a message.
#[derive(Debug)]
pub(crate) enum Part {
    Head(Head),
    Data(Vec<u8>),
    /// The message is complete; with its trailer fields.
    End(Vec<(String, String)>),
}

/// What a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Requests,
    Responses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(usize),
    ChunkLine,
    Chunk(usize),
    ChunkEnd,
    Trailers,
    UntilClose,
    /// After 101: not HTTP any more.
    Raw,
}

/// Cuts a stream into messages.
pub(crate) struct Reader {
    role: Role,
    state: State,
    bytes: Vec<u8>,
    /// Whether the next response is one to HEAD.
    pub(crate) to_head: bool,
}

impl Reader {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, state: State::Head, bytes: Vec::new(), to_head: false }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that wait and are not part of anything that was given out.
    pub(crate) fn rest(&self) -> usize {
        self.bytes.len()
    }

    /// What follows is not HTTP.
    pub(crate) fn become_raw(&mut self) {
        self.state = State::Raw;
    }

    /// The stream has ended cleanly. Whether that completes the message.
    pub(crate) fn end_completes(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Raw)
    }

    /// The next piece, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, String> {
        match self.state {
            State::Head => self.head(),
            State::Length(0) => Ok(Some(self.end(Vec::new()))),
            State::Length(left) => Ok(self.data(left).map(|(data, left)| {
                self.state = State::Length(left);
                Part::Data(data)
            })),
            State::ChunkLine => self.chunk_line(),
            State::Chunk(left) => Ok(self.data(left).map(|(data, left)| {
                self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                Part::Data(data)
            })),
            State::ChunkEnd => match self.line()? {
                Some(line) if line.is_empty() => {
                    self.state = State::ChunkLine;
                    self.next()
                }
                Some(line) => Err(format!("{line:?} after a chunk")),
                None => Ok(None),
            },
            State::Trailers => match self.block()? {
                Some(lines) => {
                    let fields = fields(&lines)?;
                    Ok(Some(self.end(fields)))
                }
                None => Ok(None),
            },
            State::UntilClose | State::Raw => Ok(self.data(usize::MAX).map(|(data, _)| Part::Data(data))),
        }
    }

    fn head(&mut self) -> Result<Option<Part>, String> {
        let Some(mut lines) = self.block()? else { return Ok(None) };
        if lines.is_empty() {
            return Err("an empty head".into());
        }
        let start = lines.remove(0);
        let head = Head { start, fields: fields(&lines)? };
        self.state = match self.role {
            Role::Requests => {
                let parts: Vec<_> = head.start.split(' ').collect();
                if parts.len() != 3 || !parts[2].starts_with("HTTP/1.") {
                    return Err(format!("bad request line {:?}", head.start));
                }
                self.framing(&head)?.unwrap_or(State::Length(0))
            }
            Role::Responses => {
                if !head.start.starts_with("HTTP/1.") || !(100..1000).contains(&head.status()) {
                    return Err(format!("bad status line {:?}", head.start));
                }
                let framing = self.framing(&head)?;
                match head.status() {
                    101 => State::Raw,
                    100..=199 => State::Head,
                    204 | 304 => State::Length(0),
                    _ if self.to_head => State::Length(0),
                    _ => framing.unwrap_or(State::UntilClose),
                }
            }
        };
        Ok(Some(Part::Head(head)))
    }

    fn framing(&self, head: &Head) -> Result<Option<State>, String> {
        let named = |name: &str| -> Vec<String> {
            head.fields.iter().filter(|(it, _)| it == name).map(|(_, value)| value.clone()).collect()
        };
        let (lengths, codings) = (named("content-length"), named("transfer-encoding"));
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => Ok(None),
            ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map(|length| Some(State::Length(length))).map_err(|error| error.to_string())
            }
            ([], [coding]) if coding == "chunked" => Ok(Some(State::ChunkLine)),
            (lengths, codings) => Err(format!("framing by {lengths:?} and {codings:?}")),
        }
    }

    fn chunk_line(&mut self) -> Result<Option<Part>, String> {
        let Some(line) = self.line()? else { return Ok(None) };
        let digits = line.split(';').next().unwrap_or("");
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("bad chunk line {line:?}"));
        }
        let size = usize::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
        self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
        self.next()
    }

    fn end(&mut self, trailers: Vec<(String, String)>) -> Part {
        self.state = State::Head;
        Part::End(trailers)
    }

    fn data(&mut self, most: usize) -> Option<(Vec<u8>, usize)> {
        if self.bytes.is_empty() {
            return None;
        }
        let n = self.bytes.len().min(most);
        Some((self.bytes.drain(..n).collect(), most - n))
    }

    /// A line without its end.
    fn line(&mut self) -> Result<Option<String>, String> {
        let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") else {
            return if self.bytes.len() > 100_000 { Err("a line without end".into()) } else { Ok(None) };
        };
        let line: Vec<u8> = self.bytes.drain(..end + 2).take(end).collect();
        // Bytes beyond ASCII are opaque (RFC 9110 section 5.5).
        let line: String = line.into_iter().map(char::from).collect();
        if line.contains(['\r', '\n', '\0']) { Err(format!("bad line {line:?}")) } else { Ok(Some(line)) }
    }

    /// Lines up to an empty one, all at once.
    fn block(&mut self) -> Result<Option<Vec<String>>, String> {
        let complete =
            self.bytes.starts_with(b"\r\n") || self.bytes.windows(4).any(|four| four == b"\r\n\r\n");
        if !complete {
            return if self.bytes.len() > 100_000 { Err("a head without end".into()) } else { Ok(None) };
        }
        let mut lines = Vec::new();
        while let Some(line) = self.line()? {
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        Ok(Some(lines))
    }
}

fn fields(lines: &[String]) -> Result<Vec<(String, String)>, String> {
    lines
        .iter()
        .map(|line| match line.split_once(':') {
            Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) => {
                Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
            }
            _ => Err(format!("bad field line {line:?}")),
        })
        .collect()
}
