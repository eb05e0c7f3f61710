//! What the applications and upstreams of a run are going to do, drawn from its seed.

use crate::history::{METHODS, marker};
use crate::hostile;
use crate::http::{Way, body, chunked};
use crate::rng::Rng;
use crate::theme::Theme;
use crate::world::{MILLI, Micros, SECOND};

/// Waits for as long as its application does.
pub(crate) const PATIENT: &str = "Slime-Block: 1\r\n";

const HOUR: Micros = 3600 * SECOND;

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length,
    Chunked,
    UntilClose,
    /// 101, then bytes of both sides, each ended by FIN.
    Upgrade,
}

/// So many bytes at once, so often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) bytes: usize,
    pub(crate) every: Micros,
}

/// How a connection is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// FIN, and reading goes on.
    Fin,
    /// close(2).
    Close,
    /// A reset.
    Reset,
}

/// When an application leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// After so many bytes of its request.
    Sent(usize),
    /// After so many bytes of the response.
    Received(usize),
    /// So long after it began.
    Passed(Micros),
}

/// Who ends its side of an upgraded connection only when the other side has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// Both end when all is said.
    Nobody,
    Client,
    Upstream,
}

/// What an upstream does wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Says nothing for a long time, and then closes the connection.
    Silence,
    /// Drops the connection after so many bytes of the request body.
    DropRequest(usize, How),
    /// Drops the connection after so many bytes of the response.
    CutResponse(usize, How),
    /// Answers what nobody should.
    Garbage,
    /// Says nothing, for as long as nobody ends the connection.
    Mute,
    /// Drops a connection that it kept after so many bytes of the response. A fresh one it serves.
    BreakKept(usize),
    /// Ends for a while, with all its connections, when it gets the request.
    Crash,
    /// The same, if it gets the request on a connection that it kept. On a fresh one it serves it.
    CrashKept,
}

/// One request, its response, and how both sides behave.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) id: usize,
    pub(crate) method: &'static str,
    pub(crate) http10: bool,
    pub(crate) request: Framing,
    pub(crate) request_length: usize,
    pub(crate) expect: bool,
    pub(crate) idempotency_key: bool,
    /// A further field line for the hub that says how long to wait, or nothing.
    pub(crate) field: &'static str,
    /// Which agents it is for.
    pub(crate) scope: Option<&'static str>,
    pub(crate) password: Option<&'static str>,
    pub(crate) leave: Option<(When, How)>,
    pub(crate) write_pace: Option<Pace>,
    pub(crate) read_pace: Option<Pace>,
    /// Its application sends so many bytes of it and nothing more, and stays.
    pub(crate) halt: Option<usize>,

    pub(crate) status: u16,
    pub(crate) response: Framing,
    /// It is a stream of events.
    pub(crate) is_stream: bool,
    pub(crate) response_length: usize,
    pub(crate) interims: usize,
    pub(crate) trailers: bool,
    pub(crate) think: Micros,
    /// The upstream closes after the response: told by `Connection: close`, or not.
    pub(crate) close: Option<bool>,
    /// The upstream answers when it has so many bytes of the request body.
    pub(crate) early: Option<usize>,
    /// And does not read the rest.
    pub(crate) early_close: bool,
    pub(crate) upstream_pace: Option<Pace>,
    /// The upstream knows nothing of `100 Continue`.
    pub(crate) says_continue: bool,
    pub(crate) fault: Option<Fault>,
    /// After an upgrade: who ends last, and how long after the other one.
    pub(crate) last: Last,
    pub(crate) last_pause: Micros,
}

/// One connection of an application, and what it asks on it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) pause: Micros,
    pub(crate) exchanges: Vec<usize>,
    pub(crate) pipelined: bool,
}

/// What is allowed to go wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Nothing: every exchange must succeed.
    Calm,
    /// Everything: what fails must be seen to fail.
    Stormy,
}

impl Exchange {
    /// `most` bounds the lengths of bodies.
    pub(crate) fn draw(id: usize, mood: Mood, most: usize, rng: &mut Rng) -> Self {
        let stormy = mood == Mood::Stormy;
        let method = if rng.chance(300) { "GET" } else { rng.pick(&METHODS) };
        let upgrade = method == "GET" && rng.chance(100);
        let request = match method {
            _ if upgrade => Framing::Upgrade,
            "POST" | "PUT" | "PATCH" => rng.pick(&[Framing::Length, Framing::Length, Framing::Chunked]),
            _ => Framing::None,
        };
        let request_length = if request == Framing::None { 0 } else { draw_length(most, rng) };
        let status = if upgrade { 101 } else { rng.pick(&[200, 200, 200, 200, 404, 204, 304, 500]) };
        let response = match status {
            101 => Framing::Upgrade,
            204 | 304 => Framing::None,
            _ => rng.pick(&[
                Framing::Length,
                Framing::Length,
                Framing::Chunked,
                Framing::Chunked,
                Framing::UntilClose,
            ]),
        };
        let response_length = if response == Framing::None { 0 } else { draw_length(most, rng) };
        let http10 = !upgrade && request != Framing::Chunked && rng.chance(80);
        let mut exchange = Self {
            id,
            method,
            http10,
            request,
            request_length,
            expect: !http10 && !upgrade && request_length > 0 && rng.chance(200),
            idempotency_key: method == "POST" && rng.chance(200),
            field: "",
            scope: None,
            password: None,
            leave: None,
            write_pace: draw_pace(request_length, mood, rng),
            read_pace: draw_pace(response_length, mood, rng),
            halt: None,
            status,
            response,
            is_stream: false,
            response_length,
            interims: if upgrade { 0 } else { rng.pick(&[0, 0, 0, 1, 3]) },
            trailers: rng.chance(300),
            think: rng.pick(&[0, 0, MILLI, 300 * MILLI, 5 * SECOND, 40 * SECOND]),
            close: rng.pick(&[None, None, None, None, Some(true)]),
            early: None,
            early_close: false,
            upstream_pace: draw_pace(request_length, mood, rng),
            says_continue: true,
            fault: None,
            last: Last::Nobody,
            last_pause: 0,
        };
        if request_length > 0 && !upgrade && rng.chance(150) {
            exchange.early = Some(rng.length(0, request_length));
        }
        if stormy {
            exchange.storm(rng);
        }
        exchange
    }

    fn storm(&mut self, rng: &mut Rng) {
        self.field = rng.pick(&["", "", "", "Slime-Block: 0\r\n", PATIENT, "Slime-Max-Wait: 5\r\n"]);
        self.early_close = rng.chance(300);
        if rng.chance(100) {
            self.close = Some(false);
        }
        let how = rng.pick(&[How::Fin, How::Close, How::Reset]);
        if rng.chance(200) {
            let when = match rng.within(0, 2) {
                0 => When::Sent(rng.length(0, self.request_length + 150)),
                1 => When::Received(rng.length(0, self.response_length + 150)),
                _ => When::Passed(rng.pick(&[MILLI, 100 * MILLI, 2 * SECOND, 30 * SECOND])),
            };
            self.leave = Some((when, how));
        }
        if rng.chance(200) {
            self.fault = Some(match rng.within(0, 3) {
                0 => Fault::Silence,
                1 => Fault::DropRequest(rng.length(0, self.request_length), how),
                2 => Fault::CutResponse(rng.length(0, self.response_length + 100), how),
                _ => Fault::Garbage,
            });
            match self.fault {
                // Only the patience of its application ends it.
                Some(Fault::Silence) => {
                    self.leave = Some((When::Passed(rng.within(SECOND, 100 * SECOND)), how));
                }
                // A FIN is the regular end of such a body.
                Some(Fault::CutResponse(at, _)) if self.is_until_close() => {
                    self.fault = Some(Fault::CutResponse(at, How::Reset));
                }
                Some(Fault::DropRequest(at, _)) if self.is_until_close() => {
                    self.fault = Some(Fault::DropRequest(at, How::Reset));
                }
                Some(
                    Fault::CutResponse(..)
                    | Fault::DropRequest(..)
                    | Fault::Garbage
                    | Fault::Mute
                    | Fault::BreakKept(_)
                    | Fault::Crash
                    | Fault::CrashKept,
                )
                | None => {}
            }
        }
    }

    /// Whether it may be sent to an upstream twice (RFC 9110 section 9.2.2).
    pub(crate) fn may_repeat(&self) -> bool {
        self.idempotency_key || !matches!(self.method, "POST" | "PATCH")
    }

    /// Whether it is planned that this one does not come to its regular end.
    pub(crate) fn is_troubled(&self) -> bool {
        let is_harmful = |fault: Fault| !matches!(fault, Fault::BreakKept(_));
        self.leave.is_some() || self.fault.is_some_and(is_harmful) || self.halt.is_some()
    }

    /// The length of the body that the client gets with a complete response.
    pub(crate) fn expected_length(&self) -> usize {
        if self.method == "HEAD" { 0 } else { self.response_length }
    }

    pub(crate) fn trailer_line(&self) -> String {
        format!("X-Trailer: {}\r\n", self.id)
    }

    /// The request as its client sends it, and the length of its head.
    pub(crate) fn request_bytes(&self, rng: &mut Rng) -> (Vec<u8>, usize) {
        let Self { id, method, request_length, .. } = self;
        let version = if self.http10 { "1.0" } else { "1.1" };
        let mut head =
            format!("{method} /e/{id}?q=%20 HTTP/{version}\r\nHost: app.example\r\n{}", self.field);
        if rng.chance(500) {
            head += &marker(*id);
            head += &format!("X-Pad: {}\r\n", "p".repeat(rng.length(0, 400)));
        } else {
            head += &marker(*id);
        }
        if let Some(scope) = self.scope {
            head += &format!("Slime-Scope: {scope}\r\n");
        }
        match self.password {
            Some(password) if rng.chance(500) => head += &format!("Authorization: Bearer {password}\r\n"),
            Some(password) => head += &format!("Slime-App-Password: {password}\r\n"),
            None => {}
        }
        if self.expect {
            head += "Expect: 100-continue\r\n";
        }
        if self.idempotency_key {
            head += "Idempotency-Key: k\r\n";
        }
        let bytes = body(*id, Way::Inbound, *request_length);
        let body = match self.request {
            Framing::Length => {
                head += &format!("Content-Length: {request_length}\r\n");
                bytes
            }
            Framing::Chunked => {
                head += "Transfer-Encoding: chunked\r\n";
                chunked(&bytes, Some(&self.trailer_line()), rng)
            }
            Framing::Upgrade => {
                head += "Connection: Upgrade\r\nUpgrade: pattern\r\n";
                Vec::new()
            }
            Framing::None | Framing::UntilClose => Vec::new(),
        };
        head += "\r\n";
        let length = head.len();
        (head.into_bytes().into_iter().chain(body).collect(), length)
    }

    /// The response as the upstream sends it to a request of this version.
    pub(crate) fn response_bytes(&self, http10: bool, rng: &mut Rng) -> Vec<u8> {
        let Self { id, status, .. } = self;
        if matches!(self.fault, Some(Fault::Garbage)) {
            return hostile::response(rng);
        }
        let answers = marker(*id).replace("x-exchange", "x-answers");
        let mut head = String::new();
        if !http10 {
            for _ in 0..self.interims {
                head += &format!("HTTP/1.1 103 Early Hints\r\n{answers}Link: </style.css>\r\n\r\n");
            }
        }
        head += &format!("HTTP/1.1 {status} Whatever\r\n{answers}");
        if self.close == Some(true) && self.response != Framing::Upgrade {
            head += "Connection: close\r\n";
        }
        if self.is_stream {
            head += "Content-Type: text/event-stream\r\n";
        }
        let mut bytes = body(*id, Way::Outbound, self.response_length);
        match self.response_framing(http10) {
            Framing::Length => head += &format!("Content-Length: {}\r\n", bytes.len()),
            Framing::Chunked => {
                head += "Transfer-Encoding: chunked\r\n";
                let trailer = self.trailers.then(|| self.trailer_line());
                bytes = chunked(&bytes, trailer.as_deref(), rng);
            }
            Framing::Upgrade => head += "Connection: Upgrade\r\nUpgrade: pattern\r\n",
            Framing::None | Framing::UntilClose => {}
        }
        head += "\r\n";
        if self.method == "HEAD" {
            bytes.clear();
        }
        head.into_bytes().into_iter().chain(bytes).collect()
    }

    pub(crate) fn is_upgrade(&self) -> bool {
        self.request == Framing::Upgrade
    }

    pub(crate) fn is_until_close(&self) -> bool {
        self.response_framing(self.http10) == Framing::UntilClose
    }

    /// HTTP/1.0 knows no chunks.
    pub(crate) fn response_framing(&self, http10: bool) -> Framing {
        if http10 && self.response == Framing::Chunked { Framing::UntilClose } else { self.response }
    }
}

/// What one application does: its exchanges and their sessions.
pub(crate) fn draw_sessions(
    ids: std::ops::Range<usize>,
    mood: Mood,
    theme: Theme,
    most: usize,
    rng: &mut Rng,
    mut change: impl FnMut(&mut Exchange),
) -> (Vec<Exchange>, Vec<Session>) {
    let mut exchanges: Vec<_> = ids.map(|id| Exchange::draw(id, mood, most, rng)).collect();
    exchanges.iter_mut().for_each(|exchange| theme.change(mood, exchange, most, rng));
    exchanges.iter_mut().for_each(&mut change);
    let mut sessions: Vec<Session> = Vec::new();
    let mut open = false;
    for exchange in &mut exchanges {
        if !open {
            let hours = mood == Mood::Stormy && rng.chance(10);
            let pause = if hours {
                rng.within(HOUR, 10 * HOUR)
            } else {
                rng.pick(&[0, 0, MILLI, 100 * MILLI, 3 * SECOND])
            };
            sessions.push(Session { pause, exchanges: Vec::new(), pipelined: rng.chance(250) });
        }
        if let Some(session) = sessions.last_mut() {
            session.exchanges.push(exchange.id);
            if session.pipelined {
                exchange.expect = false;
            }
        }
        // Nothing can follow these.
        let last = exchange.http10
            || exchange.request == Framing::Upgrade
            || exchange.leave.is_some()
            || exchange.halt.is_some()
            // Its connection is idle for the hub long before its application has taken all.
            || exchange.read_pace.is_some_and(|pace| pace.every > 10 * SECOND)
            || mood == Mood::Calm && exchange.is_troubled();
        open = !last && rng.chance(700);
    }
    (exchanges, sessions)
}

fn draw_length(most: usize, rng: &mut Rng) -> usize {
    let most = match rng.within(0, 9) {
        0 => 0,
        1..=4 => most.min(100),
        5..=7 => most.min(5000),
        8 => most.min(40_000),
        _ => most,
    };
    rng.length(0, most)
}

/// Slow, but in calm weather within all time limits.
fn draw_pace(length: usize, mood: Mood, rng: &mut Rng) -> Option<Pace> {
    let steps = rng.length(1, if mood == Mood::Calm { 8 } else { 150 });
    let every = rng.pick(&[MILLI, 20 * MILLI, 500 * MILLI]);
    rng.chance(150).then_some(Pace { bytes: (length + 600) / steps + 1, every })
}
