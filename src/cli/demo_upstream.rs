//! A small upstream for the demo: an HTTP/1.1 server in plain threads, for whoever has no service at hand.
//!
//! It answers `/` with a page that lists what there is, `/echo` with the request, `/events` with a stream,
//! `/job` after a second. It keeps connections alive, streams bodies of any size, and notices when its caller
//! leaves in the middle of something, as a service behind slime should. It is no part of the proxy and shares
//! no code with it.

use core::time::Duration;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Connections at once; each has a thread. The demo's agent needs one or two.
const MAX_CONNECTIONS: usize = 64;
/// The longest request head in bytes, and the longest line within a body: as at the hub.
const MAX_HEAD: u64 = 16 * 1024;
/// The most fields of a request: as at the hub.
const MAX_FIELDS: usize = 100;
/// How long a connection may be silent: longer than an agent keeps one.
const SILENCE: Duration = Duration::from_secs(600);
/// How long `/job` takes.
const JOB: Duration = Duration::from_secs(1);
/// The pace of `/events`, and how many there are.
const EVENT: Duration = Duration::from_millis(500);
const EVENTS: u32 = 20;

const PAGE: &str = "Hello from the upstream of the slime demo.

  /        this page
  /echo    sends the request back, with a body of any size
  /events  an event every half second, twenty of them
  /job     takes a second
";

/// Gets a line for each thing that happens.
pub(super) type Log = Arc<dyn Fn(String) + Send + Sync>;

/// Serves what connects to the listener, in threads of its own, until the process ends.
pub(super) fn start(listener: TcpListener, log: Log) {
    thread::spawn(move || {
        let connections = Arc::new(());
        for stream in listener.incoming() {
            match stream {
                Ok(stream) if Arc::strong_count(&connections) <= MAX_CONNECTIONS => {
                    let (guard, log) = (Arc::clone(&connections), Arc::clone(&log));
                    // Without a thread to be had, the connection is dropped.
                    let _ = thread::Builder::new().spawn(move || {
                        // Whoever breaks the connection or the protocol has ended it.
                        let _ = serve(&stream, &log);
                        drop(guard);
                    });
                }
                Ok(refused) => drop(refused),
                // No descriptors left: some will be, soon.
                Err(_) => thread::sleep(EVENT),
            }
        }
    });
}

/// Serves one connection to its end.
fn serve(stream: &TcpStream, log: &Log) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut input = BufReader::new(stream);
    loop {
        stream.set_read_timeout(Some(SILENCE))?;
        let Some(request) = Request::read(&mut input)? else { return Ok(()) };
        let what = format!("{} {}", request.method, request.target);
        log(what.clone());
        if let Err(error) = answer(stream, &mut input, &request) {
            log(format!("{what}: the caller has left, so the work on it stops"));
            return Err(error);
        }
        if !request.keep_alive {
            return Ok(());
        }
    }
}

fn answer(stream: &TcpStream, input: &mut impl BufRead, request: &Request) -> io::Result<()> {
    if request.awaits_continue && request.body != Body::None {
        // RFC 9110 section 10.1.1.
        io::copy(&mut &b"HTTP/1.1 100 Continue\r\n\r\n"[..], &mut &*stream)?;
    }
    let path = request.target.split('?').next().unwrap_or_default();
    if path == "/echo" {
        let mut out = Answer::start(stream, request, "200 OK", "text/plain; charset=utf-8")?;
        out.write_all(format!("{} {}\n{}\n", request.method, request.target, request.fields).as_bytes())?;
        request.body.copy(input, &mut out)?;
        return out.finish();
    }
    request.body.copy(input, &mut io::sink())?;
    let (status, text) = match path {
        "/" => ("200 OK", PAGE),
        "/job" => {
            wait(stream, JOB)?;
            ("200 OK", "The job is done.\n")
        }
        "/events" => return events(stream, request),
        _ => ("404 Not Found", PAGE),
    };
    let mut out = Answer::start(stream, request, status, "text/plain; charset=utf-8")?;
    out.write_all(text.as_bytes())?;
    out.finish()
}

fn events(stream: &TcpStream, request: &Request) -> io::Result<()> {
    let mut out = Answer::start(stream, request, "200 OK", "text/event-stream")?;
    for number in 1..=EVENTS {
        out.write_all(format!("id: {number}\ndata: event {number} of {EVENTS}\n\n").as_bytes())?;
        if number < EVENTS {
            wait(stream, EVENT)?;
        }
    }
    out.finish()
}

/// Lets time pass, or fails as soon as the caller leaves.
fn wait(stream: &TcpStream, time: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(time))?;
    match stream.peek(&mut [0]) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {
            // The next request is here already: its sender is, too.
            thread::sleep(time);
            Ok(())
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Request {
    method: String,
    target: String,
    /// The header section as it came, for the echo.
    fields: String,
    body: Body,
    awaits_continue: bool,
    /// RFC 9112 section 9.3.
    keep_alive: bool,
    /// HTTP/1.0 callers know no chunks.
    knows_chunks: bool,
}

impl Request {
    /// The next request; `None` if the caller is done.
    fn read(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let room = MAX_HEAD.saturating_sub(head.len() as u64);
            if input.take(room).read_until(b'\n', &mut head)? == 0 {
                return if head.is_empty() { Ok(None) } else { Err(malformed()) };
            }
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(&head).map_err(|_| malformed())?;
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(malformed());
        };
        let has = |name: &str, part: &str| {
            let mut values = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
            values.any(|field| String::from_utf8_lossy(field.value).to_ascii_lowercase().contains(part))
        };
        let length = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let length =
            length.map(|field| core::str::from_utf8(field.value).ok().and_then(|text| text.parse().ok()));
        let body = match length {
            _ if has("transfer-encoding", "chunked") => Body::Chunked,
            Some(length) => Body::Length(length.ok_or_else(malformed)?),
            None => Body::None,
        };
        let text = String::from_utf8_lossy(&head);
        Ok(Some(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            fields: text
                .split_once("\r\n")
                .map(|(_, fields)| fields.trim_end().replace('\r', "") + "\n")
                .unwrap_or_default(),
            body,
            awaits_continue: has("expect", "100-continue"),
            keep_alive: minor == 1 && !has("connection", "close"),
            knows_chunks: minor == 1,
        }))
    }
}

#[derive(PartialEq, Eq)]
enum Body {
    None,
    Length(u64),
    Chunked,
}

impl Body {
    /// Hands the body on, as it comes.
    fn copy(&self, input: &mut impl BufRead, out: &mut impl Write) -> io::Result<()> {
        match *self {
            Self::None => Ok(()),
            Self::Length(length) => copy_exactly(input, length, out),
            Self::Chunked => {
                // RFC 9112 section 7.1.
                loop {
                    let line = read_line(input)?;
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(digits, 16).map_err(|_| malformed())?;
                    if size == 0 {
                        break;
                    }
                    copy_exactly(input, size, out)?;
                    if !read_line(input)?.is_empty() {
                        return Err(malformed());
                    }
                }
                while !read_line(input)?.is_empty() {}
                Ok(())
            }
        }
    }
}

fn copy_exactly(input: &mut impl BufRead, length: u64, out: &mut impl Write) -> io::Result<()> {
    let copied = io::copy(&mut input.take(length), out)?;
    if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// A line without its end.
fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.take(MAX_HEAD).read_line(&mut line)?;
    line.strip_suffix("\r\n").map(String::from).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// A response under way. What is written to it goes out at once.
struct Answer<'a> {
    stream: &'a TcpStream,
    chunked: bool,
    /// A response to HEAD ends with its head (RFC 9110 section 9.3.2).
    headless: bool,
}

impl<'a> Answer<'a> {
    fn start(stream: &'a TcpStream, request: &Request, status: &str, kind: &str) -> io::Result<Self> {
        let framing = if request.knows_chunks { "Transfer-Encoding: chunked\r\n" } else { "" };
        let connection = if request.keep_alive { "" } else { "Connection: close\r\n" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{framing}{connection}\r\n");
        (&*stream).write_all(head.as_bytes())?;
        Ok(Self { stream, chunked: request.knows_chunks, headless: request.method == "HEAD" })
    }

    fn finish(mut self) -> io::Result<()> {
        if self.chunked && !self.headless { self.stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
    }
}

impl Write for Answer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.headless || bytes.is_empty() {
            return Ok(bytes.len());
        }
        if self.chunked {
            let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            self.stream.write_all(&chunk)?;
        } else {
            self.stream.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn started() -> (SocketAddr, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (lines, log) = channel();
        start(listener, Arc::new(move |line| drop(lines.send(line))));
        (address, log)
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn read_to_end(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn pages() {
        let (address, log) = started();
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder().timeout_global(Some(DEADLINE)).http_status_as_error(false).build(),
        );
        let get = |path: &str| {
            let mut response = agent.get(format!("http://{address}{path}")).call().unwrap();
            (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
        };
        assert_eq!(get("/"), (200, PAGE.into()));
        assert_eq!(get("/?x=1").0, 200);
        assert_eq!(get("/nothing").0, 404);
        assert_eq!(get("/job"), (200, "The job is done.\n".into()));
        let mut echo =
            agent.post(format!("http://{address}/echo?a=b")).header("X-Me", "hi").send("some text").unwrap();
        let echo = echo.body_mut().read_to_string().unwrap();
        assert!(echo.starts_with("POST /echo?a=b\n") && echo.contains("x-me: hi\n"), "{echo}");
        assert!(echo.ends_with("\n\nsome text"), "{echo}");
        assert_eq!(log.recv().unwrap(), "GET /");
    }

    #[test]
    fn one_connection_serves_many_requests() {
        let (address, _) = started();
        let stream = connect(address);
        let requests = "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n\
                        POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: t\r\n\r\n\
                        POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        (&stream).write_all(requests.as_bytes()).unwrap();
        let text = read_to_end(stream);
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
        assert_eq!(text.matches("Hello from").count(), 1, "{text}");
        assert!(text.contains("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), "{text}");
        assert!(text.ends_with("2\r\nhi\r\n0\r\n\r\n"), "{text}");
    }

    #[test]
    fn an_old_caller_gets_no_chunks() {
        let (address, _) = started();
        let stream = connect(address);
        (&stream).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let text = read_to_end(stream);
        assert!(text.contains("Connection: close\r\n\r\nHello") && text.ends_with(PAGE), "{text}");
    }

    #[test]
    fn a_large_body_streams_back() {
        const SIZE: usize = 8 << 20;
        let (address, _) = started();
        let stream = connect(address);
        let sender = stream.try_clone().unwrap();
        let sending = thread::spawn(move || {
            let head = format!("PUT /echo HTTP/1.0\r\nContent-Length: {SIZE}\r\n\r\n");
            (&sender).write_all(head.as_bytes()).unwrap();
            (&sender).write_all(&vec![b'x'; SIZE]).unwrap();
        });
        let text = read_to_end(stream);
        sending.join().unwrap();
        assert_eq!(text.bytes().rev().take_while(|&byte| byte == b'x').count(), SIZE);
    }

    #[test]
    fn a_caller_that_leaves_is_noticed() {
        let (address, log) = started();
        let mut stream = connect(address);
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        let mut lines = BufReader::new(&stream);
        while !text.contains("data: event 1 of 20") {
            lines.read_line(&mut text).unwrap();
        }
        drop(stream);
        assert_eq!(log.recv_timeout(DEADLINE).unwrap(), "GET /events");
        assert!(log.recv_timeout(DEADLINE).unwrap().starts_with("GET /events: the caller has left"));
    }

    #[test]
    fn nonsense_ends_the_connection() {
        let (address, _) = started();
        for nonsense in ["\r\n\r\n\r\n", "GET\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"] {
            let stream = connect(address);
            (&stream).write_all(nonsense.as_bytes()).unwrap();
            assert_eq!(read_to_end(stream), "", "{nonsense:?}");
        }
    }
}
