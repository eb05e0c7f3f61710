//! Peers that mean no good: they send mutated messages from `tests/vectors/`, in any pieces, at any time, and
//! end as they like.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::OnceLock;

use slime::net::Net;
use slime::proto::info::Info;
use slime::proto::tables::timer::Mono;
use slime::proto::tunnel::{Hello, Light};

use crate::calls::{SimNet, Socket};
use crate::plan::How;
use crate::rng::Rng;
use crate::scheduler::Process;
use crate::setting::HUB_NAME;
use crate::vectors::{self, Direction};
use crate::world::{MILLI, Micros, SECOND};

/// What it pretends to be.
pub(crate) enum Guise {
    /// An application.
    Client,
    /// An agent that has this token.
    Agent(String),
}

pub(crate) struct Hostile {
    net: SimNet,
    guise: Guise,
    to: SocketAddr,
    rng: Rng,
    /// Connections that it is still going to make.
    left: usize,
    connection: Option<Connection>,
    wake: Option<Micros>,
}

struct Connection {
    socket: Socket,
    out: Vec<u8>,
    sent: usize,
    next_write: Micros,
    /// When it is enough.
    until: Micros,
    how: How,
    /// Whether it reads what it gets.
    reads: bool,
}

impl Hostile {
    pub(crate) fn new(net: SimNet, guise: Guise, to: SocketAddr, mut rng: Rng) -> Self {
        let left = rng.length(1, 6);
        let first = net.world.borrow().clock + rng.within(0, 5 * SECOND);
        Self { net, guise, to, rng, left, connection: None, wake: Some(first) }
    }

    fn now(&self) -> Micros {
        self.net.world.borrow().clock
    }

    fn open(&mut self) -> bool {
        self.left -= 1;
        let Ok(mut socket) = self.net.connect(self.to) else { return false };
        if self.net.register(&mut socket, 0).is_err() {
            return false;
        }
        let rng = &mut self.rng;
        let mut out = Vec::new();
        if let Guise::Agent(token) = &self.guise {
            let hello = Hello {
                token,
                agent_id: "hostile",
                worker: 0,
                withdrawn: None,
                websocket: None,
                light: Light::None,
                info: Info::default(),
            };
            hello.write(HUB_NAME, "", None, &mut out);
            if rng.chance(200) {
                mutate(&mut out, rng);
            }
        }
        for _ in 0..rng.length(0, 4) {
            out.extend(match self.guise {
                Guise::Client => request(rng),
                Guise::Agent(_) => response(rng),
            });
        }
        let now = self.net.world.borrow().clock;
        self.connection = Some(Connection {
            socket,
            out,
            sent: 0,
            next_write: now,
            until: now + rng.pick(&[MILLI, 100 * MILLI, 5 * SECOND, 100 * SECOND]),
            how: rng.pick(&[How::Fin, How::Close, How::Reset]),
            reads: rng.chance(800),
        });
        true
    }

    /// False once the connection is over.
    fn drive(&mut self) -> bool {
        let now = self.now();
        let Some(connection) = &mut self.connection else { return false };
        let mut buffer = [0; 4096];
        while connection.reads {
            match self.net.read(&mut connection.socket, &mut buffer) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        while connection.sent < connection.out.len() && connection.next_write <= now {
            let most = connection.out.len() - connection.sent;
            let n = if self.rng.chance(500) { most } else { self.rng.length(1, most) };
            let piece = &connection.out[connection.sent..connection.sent + n];
            match self.net.write(&mut connection.socket, &[IoSlice::new(piece)]) {
                Ok(n) => connection.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
            connection.next_write = now + self.rng.pick(&[0, 0, MILLI, 3 * SECOND]);
        }
        if now < connection.until {
            let next = if connection.next_write > now && connection.sent < connection.out.len() {
                connection.next_write.min(connection.until)
            } else {
                connection.until
            };
            self.wake = Some(next);
            return true;
        }
        match connection.how {
            How::Fin => {
                let _ = self.net.shutdown(&mut connection.socket);
            }
            How::Close => {}
            How::Reset => self.net.world.borrow_mut().abort(connection.socket.end),
        }
        false
    }
}

impl Process for Hostile {
    fn turn(&mut self) -> Option<u8> {
        self.wake = None;
        let _ = self.net.poll(&mut Vec::new(), None);
        if self.connection.is_none() && !self.open() || !self.drive() {
            self.connection = None;
            if self.left == 0 {
                return Some(0);
            }
            self.wake = Some(self.now() + self.rng.pick(&[MILLI, 100 * MILLI, 10 * SECOND]));
        }
        None
    }

    fn next_timeout(&self) -> Option<Mono> {
        self.wake.map(|wake| Mono(wake.div_ceil(MILLI)))
    }
}

/// A request as nobody should send it.
pub(crate) fn request(rng: &mut Rng) -> Vec<u8> {
    draw(rng, |direction| direction == Direction::Request)
}

/// A response as nobody should send it.
pub(crate) fn response(rng: &mut Rng) -> Vec<u8> {
    draw(rng, |direction| direction != Direction::Request)
}

fn draw(rng: &mut Rng, fits: impl Fn(Direction) -> bool) -> Vec<u8> {
    static ALL: OnceLock<Vec<(Direction, Vec<u8>)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let short = |raw: &Vec<u8>| raw.len() < 10_000;
        vectors::all().into_iter().map(|it| (it.direction, it.raw)).filter(|(_, raw)| short(raw)).collect()
    });
    let fitting: Vec<&Vec<u8>> = all.iter().filter(|(it, _)| fits(*it)).map(|(_, raw)| raw).collect();
    let mut bytes = rng.pick(&fitting).clone();
    if rng.chance(700) {
        mutate(&mut bytes, rng);
    }
    if bytes.is_empty() {
        bytes.push(b'?');
    }
    bytes
}

/// Changes something.
fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    const WORDS: [&[u8]; 12] = [
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b" ",
        b"\0",
        b",",
        b"0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n",
        b"Connection: close\r\n",
        b"Slime-Refused: ?1\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    for _ in 0..rng.length(1, 3) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.length(0, bytes.len() - 1);
        let to = rng.length(at, bytes.len().min(at + 40));
        match rng.within(0, 4) {
            0 => bytes[at] ^= 1 << rng.within(0, 7),
            1 => drop(bytes.drain(at..to)),
            2 => drop(bytes.splice(at..at, rng.pick(&WORDS).iter().copied())),
            3 => bytes.truncate(at),
            _ => {
                let again = bytes[at..to].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
}
