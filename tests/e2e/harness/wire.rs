//! A raw HTTP/1.1 connection, from either side: bytes out, strictly parsed messages in.
//!
//! The parser is independent of ours and forgives nothing: what it does not understand fails the test.

mod message;

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

pub use message::{Head, Message};
use message::{find, parse_field};

use super::{DEADLINE, Socket};

/// A connection and what was read from it ahead of time.
pub struct Wire {
    stream: Socket,
    buffer: Vec<u8>,
    state: BodyState,
    trailers: Vec<(String, Vec<u8>)>,
}

/// Where the body that is being read stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum BodyState {
    Done,
    Length(u64),
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    UntilClose,
}

/// How a message was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Eof,
    Reset,
}

impl Wire {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(Socket::connect(address))
    }

    /// Without TLS, whatever this build of the tests has elsewhere.
    #[track_caller]
    pub fn connect_plain(address: SocketAddr) -> Self {
        Self::over(Socket::plain(TcpStream::connect(address).unwrap()))
    }

    pub fn over(stream: Socket) -> Self {
        Self { stream, buffer: Vec::new(), state: BodyState::Done, trailers: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap_or_else(|error| panic!("send: {error}"));
    }

    /// Sends although the remote side may be gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// A second handle, to write while another thread reads.
    pub fn writer(&self) -> Socket {
        self.stream.clone()
    }

    /// The socket itself.
    pub fn socket(&self) -> &Socket {
        &self.stream
    }

    /// FIN, unless the remote side has ended the connection already.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// RST.
    pub fn reset(self) {
        self.stream.reset_at_drop();
    }

    /// Reads a head. Panics if the connection ends first.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.try_head().unwrap_or_else(|cut| panic!("{cut:?} instead of a head, after {}", self.shown()))
    }

    /// Reads a head; the body of the message before it must have been read. `Err` if the connection ends
    /// before it begins.
    #[track_caller]
    pub fn try_head(&mut self) -> Result<Head, Cut> {
        assert_eq!(self.state, BodyState::Done, "the body before was not read");
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let raw: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Ok(Head::parse(raw));
            }
            self.fill_more()?;
        }
    }

    /// Reads a final response to a request with this method, with all of its body.
    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Message {
        let (interim, head) = self.response_head(method);
        let (body, cut) = self.rest();
        assert_eq!(cut, None, "the response was cut after {} bytes: {head:?}", body.len());
        Message { interim, head, body, trailers: std::mem::take(&mut self.trailers) }
    }

    /// Reads a response to a GET or anything else whose response has a body.
    #[track_caller]
    pub fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    /// Reads the heads of a response up to the final one; its body is to be read next.
    #[track_caller]
    pub fn response_head(&mut self, method: &str) -> (Vec<Head>, Head) {
        let mut interim = Vec::new();
        loop {
            let head = self.head();
            if (100..200).contains(&head.status()) && head.status() != 101 {
                interim.push(head);
                continue;
            }
            self.state = head.response_framing(method);
            return (interim, head);
        }
    }

    /// Reads a whole request.
    #[track_caller]
    pub fn request(&mut self) -> Message {
        let head = self.request_head();
        let (body, cut) = self.rest();
        assert_eq!(cut, None, "the request was cut after {} bytes: {head:?}", body.len());
        Message { interim: Vec::new(), head, body, trailers: std::mem::take(&mut self.trailers) }
    }

    /// Reads the head of a request; its body is to be read next.
    #[track_caller]
    pub fn request_head(&mut self) -> Head {
        let head = self.head();
        self.state = head.request_framing();
        head
    }

    /// Reads the head of a request if one comes.
    #[track_caller]
    pub fn try_request_head(&mut self) -> Result<Head, Cut> {
        let head = self.try_head()?;
        self.state = head.request_framing();
        Ok(head)
    }

    /// Reads a final response to a GET, if it comes in full.
    #[track_caller]
    pub fn try_response(&mut self) -> Result<Message, Cut> {
        loop {
            let head = self.try_head()?;
            if head.status() >= 200 {
                self.state = head.response_framing("GET");
                let (body, cut) = self.rest();
                let trailers = std::mem::take(&mut self.trailers);
                return cut.map_or(Ok(Message { interim: Vec::new(), head, body, trailers }), Err);
            }
        }
    }

    /// Reads some bytes of the body, as soon as there are any; `None` at its end.
    #[track_caller]
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, Cut> {
        loop {
            match self.state {
                BodyState::Done | BodyState::Length(0) => {
                    self.state = BodyState::Done;
                    return Ok(None);
                }
                BodyState::Length(left) => {
                    let piece = self.available(left)?;
                    self.state = BodyState::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                BodyState::ChunkLine => {
                    let line = self.line()?;
                    let digits = line.split(';').next().unwrap();
                    let size =
                        u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("chunk line {line:?}"));
                    if size == 0 {
                        self.read_trailers()?;
                        self.state = BodyState::Done;
                        return Ok(None);
                    }
                    self.state = BodyState::ChunkData(size);
                }
                BodyState::ChunkData(left) => {
                    let piece = self.available(left)?;
                    let left = left - piece.len() as u64;
                    self.state = if left == 0 { BodyState::ChunkEnd } else { BodyState::ChunkData(left) };
                    return Ok(Some(piece));
                }
                BodyState::ChunkEnd => {
                    let line = self.line()?;
                    assert!(line.is_empty(), "no line end after a chunk but {line:?}");
                    self.state = BodyState::ChunkLine;
                }
                BodyState::UntilClose => {
                    return match self.available(u64::MAX) {
                        Ok(piece) => Ok(Some(piece)),
                        Err(Cut::Eof) => {
                            self.state = BodyState::Done;
                            Ok(None)
                        }
                        Err(Cut::Reset) => Err(Cut::Reset),
                    };
                }
            }
        }
    }

    /// Reads so many bytes of the body.
    #[track_caller]
    pub fn body_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < count {
            let piece =
                self.piece().unwrap_or_else(|cut| panic!("{cut:?} after {} bytes of body", body.len()));
            body.extend(piece.unwrap_or_else(|| panic!("the body ended after {} bytes", body.len())));
        }
        assert_eq!(body.len(), count, "more came than was sent: {:?}", String::from_utf8_lossy(&body));
        body
    }

    /// Reads so many bytes of the body, or more.
    #[track_caller]
    pub fn body_bytes_at_least(&mut self, count: usize) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < count {
            let piece =
                self.piece().unwrap_or_else(|cut| panic!("{cut:?} after {} bytes of body", body.len()));
            body.extend(piece.unwrap_or_else(|| panic!("the body ended after {} bytes", body.len())));
        }
        body
    }

    /// Reads the rest of the body, and how it was cut if it was.
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<u8>, Option<Cut>) {
        let mut body = Vec::new();
        loop {
            match self.piece() {
                Ok(Some(piece)) => body.extend(piece),
                Ok(None) => return (body, None),
                Err(cut) => return (body, Some(cut)),
            }
        }
    }

    /// Reads so many bytes without looking at them.
    #[track_caller]
    pub fn raw_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            let seen = self.buffer.len();
            self.fill_more().unwrap_or_else(|cut| panic!("{cut:?} after {seen} of {count} bytes"));
        }
        self.buffer.drain(..count).collect()
    }

    /// Waits for the end of the connection, which must come without another byte; tells how.
    #[track_caller]
    pub fn end(&mut self) -> Cut {
        match self.fill_more() {
            Ok(()) => panic!("more came instead of the end: {}", self.shown()),
            Err(cut) => cut,
        }
    }

    /// Waits until the connection is over, whatever comes before; tells how.
    #[track_caller]
    pub fn wait_end(&mut self) -> Cut {
        loop {
            self.buffer.clear();
            if let Err(cut) = self.fill_more() {
                return cut;
            }
        }
    }

    /// Waits for so long; `Err` if the remote side has closed then.
    pub fn closed_after(&mut self, time: Duration) -> Result<(), Cut> {
        // A time limit of the socket would be rounded up to whole ticks of the kernel.
        std::thread::sleep(time);
        let peeked = self.stream.peek();
        match peeked {
            Ok(0) => Err(Cut::Eof),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(Cut::Reset),
        }
    }

    /// Whether nothing has arrived that was not read, and the connection stands.
    pub fn is_silent(&mut self) -> bool {
        let peeked = self.stream.peek();
        self.buffer.is_empty() && matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Whether something has arrived that was not read.
    pub fn has_bytes(&mut self) -> bool {
        let peeked = self.stream.peek();
        !self.buffer.is_empty() || matches!(peeked, Ok(1))
    }

    /// Between one byte and `limit` bytes.
    #[track_caller]
    fn available(&mut self, limit: u64) -> Result<Vec<u8>, Cut> {
        if self.buffer.is_empty() {
            self.fill_more()?;
        }
        let count = (self.buffer.len() as u64).min(limit) as usize;
        if count == self.buffer.len() {
            return Ok(std::mem::take(&mut self.buffer));
        }
        Ok(self.buffer.drain(..count).collect())
    }

    #[track_caller]
    fn line(&mut self) -> Result<String, Cut> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8(line).expect("a line in UTF-8"));
            }
            assert!(self.buffer.len() < 100_000, "no line end in {}", self.shown());
            self.fill_more()?;
        }
    }

    #[track_caller]
    fn read_trailers(&mut self) -> Result<(), Cut> {
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            self.trailers.push(parse_field(line.as_bytes()));
        }
    }

    #[track_caller]
    fn fill_more(&mut self) -> Result<(), Cut> {
        let held = self.buffer.len();
        self.buffer.resize(held + 128 * 1024, 0);
        let result = self.stream.read(&mut self.buffer[held..]);
        self.buffer.truncate(held + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => Err(Cut::Eof),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                Err(Cut::Reset)
            }
            Err(error) => panic!("nothing came within {DEADLINE:?} ({error}); held: {}", self.shown()),
        }
    }

    fn shown(&self) -> String {
        format!("{:?}", String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(500)]))
    }
}

/// The parser against a server and a client that are not ours, so that what it says about our own messages
/// can be believed.
#[test]
fn the_wire_understands_hyper() {
    use super::{Server, body_of, full, hyper_exchange, reply, text};

    let server = Server::start(async |request| {
        let path = request.uri().path().to_owned();
        let body = body_of(request.into_body()).await.unwrap();
        reply(200, [path.as_bytes(), b" ", &body].concat())
    });
    let mut wire = Wire::connect(server.address());
    wire.send("POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(wire.response().text(), "/a abc");
    wire.send("HEAD /b HTTP/1.1\r\nHost: h\r\n\r\nGET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(wire.response_to("HEAD").body, b"");
    assert_eq!(wire.response().text(), "/c ");
    assert_eq!(wire.end(), Cut::Eof);
    assert_eq!((server.connections(), server.requests(), server.peak()), (1, 3, 1));

    let upstream = super::RawUpstream::new();
    let address = upstream.address();
    let serving = std::thread::spawn(move || {
        let mut wire = upstream.accept();
        let request = wire.request();
        wire.send(
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        wire.send("2\r\nok\r\n0\r\nX-T: 1\r\n\r\n");
        request
    });
    let request = hyper::Request::put("/x").header("host", "h").body(full("hello")).unwrap();
    let response = hyper_exchange(address, request);
    assert_eq!((response.status().as_u16(), text(&response).as_str()), (201, "ok"));
    let request = serving.join().unwrap();
    assert_eq!((request.head.start.as_str(), request.text().as_str()), ("PUT /x HTTP/1.1", "hello"));
}

#[test]
fn the_wire_notices_cuts_and_malformed_messages() {
    let refuses = |bytes: &'static str| {
        let upstream = super::RawUpstream::new();
        let mut client = Wire::connect(upstream.address());
        client.send("request");
        let mut at = upstream.accept();
        at.raw_bytes(7);
        at.send(bytes);
        drop(at);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.response())).is_err()
    };
    assert!(!refuses("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\nX: y\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        "garbage\r\n\r\n",
    ] {
        assert!(refuses(bytes), "{bytes:?}");
    }
    let upstream = super::RawUpstream::new();
    let mut client = Wire::connect(upstream.address());
    client.send("y");
    let mut at = upstream.accept();
    assert!(client.is_silent() && !client.has_bytes());
    at.send("x");
    super::wait_until("the byte is there", DEADLINE, || client.has_bytes());
    assert!(client.closed_after(Duration::ZERO).is_ok());
    at.reset();
    assert_eq!(client.wait_end(), Cut::Reset);
}
