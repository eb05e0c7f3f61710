//! An application: it asks what its plan says, checks what it gets, and leaves when its plan says so.

mod reading;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use slime::net::Net;
use slime::proto::tables::timer::Mono;

use crate::calls::SimNet;
use crate::http::{Head, Part, Reader, Role, Way, body};
use crate::model::{Outcome, Shared};
use crate::plan::{Exchange, Fault, Framing, How, Last, Pace, Session, When};
use crate::rng::Rng;
use crate::scheduler::Process;
use crate::wire::Wire;
use crate::world::{MILLI, Micros, SECOND};

/// Longer than any time limit of those who answer, kernels included. Whoever waits for longer waits for ever.
const PATIENCE: Micros = 4000 * SECOND;

/// How long it waits for a 100 before it sends the body all the same.
const CONTINUE: Micros = SECOND;

pub(crate) struct Client {
    net: SimNet,
    model: Shared,
    to: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    rng: Rng,
    sessions: VecDeque<Session>,
    next_session: Micros,
    connection: Option<Connection>,
    wake: Option<Micros>,
}

struct Connection {
    wire: Wire,
    connected: bool,
    /// A write failed: whatever ends the stream now does not end it cleanly.
    failed: bool,
    out: Vec<u8>,
    sent: usize,
    /// What was asked, in order, and which of them is being answered.
    asked: Vec<Asked>,
    current: usize,
    reader: Reader,
    received: usize,
    length: usize,
    interims: usize,
    head: Option<Head>,
    may_continue: bool,
    began: Micros,
    /// Bytes moved since the last pause, and when the next ones may move.
    written: usize,
    next_write: Micros,
    taken: usize,
    next_read: Micros,
    next_ask: Micros,
    half_closed: bool,
    /// Its side of an upgraded connection is complete.
    finished: bool,
    /// When the other side of an upgraded connection ended.
    other_ended: Option<Micros>,
}

/// A request, and where it stands in the stream.
#[derive(Clone, Copy)]
struct Asked {
    exchange: usize,
    begins: usize,
    head_ends: usize,
    ends: usize,
}

/// What becomes of a connection.
enum Next {
    Go,
    Wait,
    /// It is over; what was not concluded ends like this.
    Over(Outcome),
}

impl Client {
    /// It speaks TLS if it is told how.
    pub(crate) fn new(
        net: SimNet,
        model: &Shared,
        to: SocketAddr,
        tls: Option<Arc<ClientConfig>>,
        sessions: Vec<Session>,
        rng: Rng,
    ) -> Self {
        let mut it = Self {
            model: model.clone(),
            to,
            tls,
            rng,
            sessions: sessions.into(),
            next_session: 0,
            connection: None,
            wake: Some(0),
            net,
        };
        it.schedule_session();
        it
    }

    fn now(&self) -> Micros {
        self.net.world.borrow().clock
    }

    fn plan(&self, exchange: usize) -> Exchange {
        self.model.borrow().exchanges[exchange].clone()
    }

    fn schedule_session(&mut self) {
        self.next_session = self.now() + self.sessions.front().map_or(0, |session| session.pause);
    }

    fn wake_at(&mut self, at: Micros) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Begins the next session, once its time has come.
    fn open(&mut self) {
        if self.next_session > self.now() {
            return self.wake_at(self.next_session);
        }
        let socket = self.net.connect(self.to).and_then(|mut socket| {
            self.net.register(&mut socket, 0)?;
            Ok(socket)
        });
        let Ok(socket) = socket else {
            return self.finish(Outcome::Nothing);
        };
        self.connection = Some(Connection {
            wire: Wire::client(socket, self.tls.as_ref()),
            connected: false,
            failed: false,
            out: Vec::new(),
            sent: 0,
            asked: Vec::new(),
            current: 0,
            reader: Reader::new(Role::Responses),
            received: 0,
            length: 0,
            interims: 0,
            head: None,
            may_continue: false,
            began: self.now(),
            written: 0,
            next_write: 0,
            taken: 0,
            next_read: 0,
            next_ask: 0,
            half_closed: false,
            finished: false,
            other_ended: None,
        });
        self.ask();
    }

    /// Queues the next request of the session, or all of them.
    fn ask(&mut self) {
        let Some(session) = self.sessions.front() else { return };
        let (exchanges, pipelined, now) = (session.exchanges.clone(), session.pipelined, self.now());
        let Some(connection) = &mut self.connection else { return };
        let first = connection.asked.len();
        let more = if pipelined { exchanges.len() - first } else { 1 };
        for exchange in exchanges.into_iter().skip(first).take(more) {
            let mut model = self.model.borrow_mut();
            let (bytes, head) = model.exchanges[exchange].request_bytes(&mut self.rng);
            let begins = connection.out.len();
            let (head_ends, ends) = (begins + head, begins + bytes.len());
            connection.out.extend_from_slice(&bytes);
            connection.asked.push(Asked { exchange, begins, head_ends, ends });
            model.records[exchange].client = Some(connection.wire.socket.end);
            model.records[exchange].is_tls = connection.wire.is_tls();
        }
        connection.begin(&self.model, now);
    }

    /// The session is over: what was not concluded ends like this.
    fn finish(&mut self, outcome: Outcome) {
        let connection = self.connection.take();
        let Some(session) = self.sessions.pop_front() else { return };
        let length = connection.as_ref().map_or(0, |it| it.length);
        let mut outcome = outcome;
        for exchange in session.exchanges {
            if self.model.borrow().records[exchange].outcome.is_none() {
                self.model.borrow_mut().conclude(exchange, outcome, length);
                // What was to be asked behind it shares its connection's fate.
                outcome = match outcome {
                    Outcome::Complete | Outcome::Own(_) | Outcome::Dropped => Outcome::Dropped,
                    Outcome::Cut | Outcome::Nothing => Outcome::Nothing,
                    Outcome::Left => Outcome::Left,
                };
            }
        }
        self.schedule_session();
        self.wake_at(self.next_session);
    }

    fn drive(&mut self) {
        loop {
            let next = match self.connection {
                None => {
                    if self.sessions.is_empty() {
                        return;
                    }
                    self.open();
                    if self.connection.is_none() {
                        return;
                    }
                    Next::Go
                }
                Some(_) => self.step(),
            };
            match next {
                Next::Go => {}
                Next::Wait => return,
                Next::Over(outcome) => return self.finish(outcome),
            }
        }
    }

    fn step(&mut self) -> Next {
        let now = self.now();
        let Some(connection) = &mut self.connection else { return Next::Wait };
        if connection.current == connection.asked.len() {
            // Between two requests.
            if connection.next_ask > now {
                let at = connection.next_ask;
                self.wake_at(at);
                return Next::Wait;
            }
            self.ask();
            return Next::Go;
        }
        let exchange = connection.asked[connection.current].exchange;
        if now >= connection.began + PATIENCE {
            self.model.borrow_mut().violate(exchange, "waits for ever");
            return Next::Over(Outcome::Left);
        }
        self.wake_at(self.connection.as_ref().map_or(0, |it| it.began) + PATIENCE);
        let Some(connection) = &mut self.connection else { return Next::Wait };
        if !connection.connected {
            match self.net.connected(&mut connection.wire.socket) {
                Ok(true) => connection.connected = true,
                Ok(false) => return Next::Wait,
                Err(_) => return Next::Over(Outcome::Nothing),
            }
        }
        if let Some(how) = self.must_leave() {
            return self.leave(how);
        }
        let wrote = self.write();
        if let Some(how) = self.must_leave() {
            return self.leave(how);
        }
        match self.read() {
            Next::Wait if wrote => Next::Go,
            next @ (Next::Go | Next::Wait | Next::Over(_)) => next,
        }
    }

    fn must_leave(&mut self) -> Option<How> {
        let connection = self.connection.as_ref().filter(|it| !it.half_closed)?;
        let asked = connection.asked[connection.current];
        let plan = self.plan(asked.exchange);
        let connection = self.connection.as_ref()?;
        let (when, how) = plan.leave?;
        let now = match when {
            When::Sent(bytes) => connection.sent >= asked.begins + bytes.min(asked.ends - asked.begins),
            When::Received(bytes) => connection.received >= bytes,
            When::Passed(time) => {
                let at = connection.began + time;
                self.wake_at(at);
                self.now() >= at
            }
        };
        now.then_some(how)
    }

    fn leave(&mut self, how: How) -> Next {
        let Some(connection) = &mut self.connection else { return Next::Wait };
        let now = self.net.world.borrow().clock;
        for asked in &connection.asked[connection.current..] {
            let record = &mut self.model.borrow_mut().records[asked.exchange];
            (record.left, record.left_at) = (true, Some(now));
        }
        match how {
            How::Close => Next::Over(Outcome::Left),
            How::Reset => {
                if let Some(connection) = self.connection.take() {
                    self.net.abort(connection.wire.socket);
                }
                Next::Over(Outcome::Left)
            }
            How::Fin => {
                connection.half_closed = true;
                let done = if connection.wire.is_tls() && self.rng.chance(500) {
                    // And the socket stays open: so do those who wait for ours to come back.
                    connection.wire.say_end();
                    connection.wire.flush(&mut self.net).map(drop)
                } else {
                    connection.wire.finish(&mut self.net)
                };
                match done {
                    Ok(()) => Next::Go,
                    Err(_) => Next::Over(Outcome::Left),
                }
            }
        }
    }

    /// Writes what may be written now. Whether anything was.
    fn write(&mut self) -> bool {
        let now = self.now();
        let Some(connection) = &mut self.connection else { return false };
        connection.failed |= connection.wire.flush(&mut self.net).is_err();
        let asked = connection.asked[connection.current];
        let plan = self.model.borrow().exchanges[asked.exchange].clone();
        let mut limit = connection.out.len();
        if plan.expect && !connection.may_continue && now < connection.began + CONTINUE {
            limit = asked.head_ends;
            self.wake = Some(self.wake.unwrap_or(Micros::MAX).min(connection.began + CONTINUE));
        }
        if let Some((When::Sent(bytes), _)) = plan.leave {
            limit = limit.min(asked.begins + bytes);
        }
        if let Some(bytes) = plan.halt {
            limit = limit.min(asked.begins + bytes);
        }
        if connection.failed || connection.half_closed || connection.finished {
            return false;
        }
        let is_last = plan.last == Last::Client;
        let may_finish = !is_last || connection.other_ended.is_some_and(|at| at + plan.last_pause <= now);
        let has_sent_all = connection.sent == connection.out.len() && connection.wire.has_sent_all();
        if connection.is_raw() && has_sent_all && may_finish {
            connection.finished = true;
            // A connection that broke meanwhile has ended, too, and nobody will say so once more.
            connection.failed |= connection.wire.finish(&mut self.net).is_err();
            let record = &mut self.model.borrow_mut().records[asked.exchange];
            (record.sent, record.fins[Way::Inbound as usize]) = (true, Some(now));
        }
        if connection.sent >= limit {
            return false;
        }
        if connection.next_write > now {
            let at = connection.next_write;
            self.wake_at(at);
            return false;
        }
        if let Some(Pace { bytes, .. }) = plan.write_pace {
            limit = limit.min(connection.sent + bytes - connection.written);
        }
        let bytes = connection.out[connection.sent..limit].to_vec();
        match connection.wire.write(&mut self.net, &bytes) {
            Ok(n) => {
                connection.sent += n;
                connection.written += n;
                if let Some(Pace { bytes, every }) = plan.write_pace
                    && connection.written >= bytes
                {
                    (connection.written, connection.next_write) = (0, now + every);
                }
                for asked in &connection.asked {
                    let mut model = self.model.borrow_mut();
                    let record = &mut model.records[asked.exchange];
                    record.sent |= asked.ends <= connection.sent;
                    if asked.head_ends <= connection.sent {
                        record.head_ends = connection.wire.sent_to(asked.head_ends as u64);
                    }
                }
                n > 0
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                connection.failed = true;
                false
            }
        }
    }
}

impl Connection {
    /// The current exchange begins.
    fn begin(&mut self, model: &Shared, now: Micros) {
        self.began = now;
        (self.written, self.taken) = (0, 0);
        let exchange = self.asked[self.current].exchange;
        self.reader.to_head = model.borrow().exchanges[exchange].method == "HEAD";
    }

    /// Our side of an upgraded connection has ended, in one way or another.
    fn has_ended(&self) -> bool {
        self.finished && self.wire.has_sent_all() || self.failed || self.half_closed
    }

    fn is_raw(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.status() == 101)
    }
}

impl Process for Client {
    fn turn(&mut self) -> Option<u8> {
        self.wake = None;
        // Readiness is not remembered: everything is tried in every turn, until it would block.
        let _ = self.net.poll(&mut Vec::new(), None);
        self.drive();
        (self.sessions.is_empty() && self.connection.is_none()).then_some(0)
    }

    fn next_timeout(&self) -> Option<Mono> {
        self.wake.map(|wake| Mono(wake.div_ceil(MILLI)))
    }
}
