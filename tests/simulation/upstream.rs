//! An upstream: it answers as the plan says, and checks what it is asked.

mod answering;

use std::io::{self, IoSlice};
use std::sync::Arc;

use rustls::ServerConfig;
use slime::net::Net;
use slime::proto::tables::timer::Mono;

use crate::calls::{Listener, SimNet, Socket};
use crate::http::{Head, Part, Reader, Role, Way};
use crate::model::{Attempt, Shared};
use crate::plan::{Exchange, Fault, Framing, How, Last};
use crate::rng::Rng;
use crate::scheduler::Process;
use crate::setting::PASSWORD;
use crate::wire::Wire;
use crate::world::{MILLI, Micros, SECOND};

/// The port of all upstreams.
pub(crate) const PORT: u16 = 8000;

/// How long an upstream says nothing before it drops the connection.
const SILENCE: Micros = 300 * SECOND;

/// How long it waits at least for the first request on a connection with TLS.
const FIRST: Micros = 60 * SECOND;

/// How long it waits beyond its time for a peer that takes what is left: longer than anything takes where
/// windows are of a few bytes.
const UNSAID: Micros = 4000 * SECOND;

pub(crate) struct Upstream {
    net: SimNet,
    model: Shared,
    tls: Option<Arc<ServerConfig>>,
    rng: Rng,
    listener: Option<Listener>,
    /// When it is down: nobody listens, and what was open is closed.
    outages: Vec<(Micros, Micros)>,
    /// After how long it closes an idle connection.
    idle: Micros,
    /// Until then it says to probes that it is not ready.
    pub(crate) loads_until: Micros,
    connections: Vec<Connection>,
    wake: Option<Micros>,
    /// Connections that it has turned away, each with the time at which it is closed.
    turned_away: Vec<(Socket, Micros)>,
}

struct Connection {
    wire: Wire,
    /// Requests that it has answered here.
    served: usize,
    reader: Reader,
    read: u64,
    written: u64,
    serving: Option<Serving>,
    idle_since: Micros,
    /// Bytes read since the last pause, and when the next ones may be.
    taken: usize,
    next_read: Micros,
    /// The other side sends no more.
    ended: bool,
    /// Everything is said; what still comes is dropped until then (RFC 9112 section 9.6).
    lingers_until: Option<Micros>,
    over: bool,
}

/// A request that is being served.
struct Serving {
    /// `None` for a request that no script sent: a probe.
    plan: Option<Exchange>,
    attempt: usize,
    http10: bool,
    received: usize,
    request_complete: bool,
    answer_at: Option<Micros>,
    decided: bool,
    answer: Vec<u8>,
    sent: usize,
    answered: bool,
    request_ended: Micros,
}

impl Upstream {
    /// It speaks TLS if it is told how.
    pub(crate) fn new(
        net: SimNet,
        model: &Shared,
        tls: Option<Arc<ServerConfig>>,
        idle: Micros,
        outages: Vec<(Micros, Micros)>,
        rng: Rng,
    ) -> Self {
        Self {
            listener: Some(net.listen(net.address(PORT), 0)),
            model: model.clone(),
            tls,
            outages,
            idle,
            loads_until: 0,
            connections: Vec::new(),
            wake: Some(0),
            turned_away: Vec::new(),
            rng,
            net,
        }
    }

    fn now(&self) -> Micros {
        self.net.world.borrow().clock
    }

    fn wake_at(&mut self, at: Micros) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn accept(&mut self) {
        let now = self.now();
        let down = self.outages.iter().find(|(from, to)| (*from..*to).contains(&now)).copied();
        if let Some((_, until)) = down {
            self.listener = None;
            for connection in self.connections.drain(..) {
                self.net.world.borrow_mut().ends[connection.wire.socket.end].history.dropped = true;
                // A FIN would be the regular end of such a body, without TLS.
                let is_delimited_by_end = connection.serving.as_ref().is_some_and(|it| {
                    let framing = it.plan.as_ref().map(|plan| plan.response_framing(it.http10));
                    matches!(framing, Some(Framing::UntilClose | Framing::Upgrade))
                });
                if is_delimited_by_end && !connection.wire.is_tls() {
                    self.net.abort(connection.wire.socket);
                }
            }
            return self.wake_at(until);
        }
        if let Some(next) = self.outages.iter().map(|(from, _)| *from).filter(|from| *from > now).min() {
            self.wake_at(next);
        }
        if self.listener.is_none() {
            self.listener = Some(self.net.listen(self.net.address(PORT), 0));
        }
        while let Some(listener) = &mut self.listener {
            match self.net.accept(listener) {
                Ok((mut socket, _)) => {
                    let _ = self.net.register(&mut socket, 1);
                    let turns_away = self.net.world.borrow().weather.turns_away;
                    if turns_away > 0 && self.tls.is_none() && self.rng.chance(turns_away) {
                        self.turn_away(socket);
                        continue;
                    }
                    let deaf = self.net.world.borrow().weather.deaf;
                    let is_deaf = deaf > 0 && self.tls.is_none() && self.rng.chance(deaf);
                    let next_read = if is_deaf { now + 90 * SECOND } else { 0 };
                    self.connections.push(Connection {
                        wire: Wire::server(socket, self.tls.as_ref()),
                        served: 0,
                        reader: Reader::new(Role::Requests),
                        read: 0,
                        written: 0,
                        serving: None,
                        // It has not heard of its silence before.
                        idle_since: now.max(next_read),
                        taken: 0,
                        next_read,
                        ended: false,
                        lingers_until: None,
                        over: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return self.wake_at(now + 100 * MILLI),
            }
        }
    }

    /// Says on a new connection that it takes no request, and ends it.
    fn turn_away(&mut self, mut socket: Socket) {
        let end = self.rng.chance(750);
        let length = if end { "" } else { "Content-Length: 4\r\n" };
        let answer = format!("HTTP/1.1 503 Busy\r\n{length}Connection: close\r\n\r\nbusy");
        // What the socket does not take at once is never said.
        let _ = self.net.write(&mut socket, &[IoSlice::new(answer.as_bytes())]);
        let _ = self.net.shutdown(&mut socket);
        // Whoever does not notice the end waits for as long as the socket lives.
        let lives = self.rng.pick(&[5 * SECOND, 500 * SECOND, 500 * SECOND]);
        self.turned_away.push((socket, self.now() + lives));
    }

    /// Does with one connection what can be done.
    fn drive(&mut self, connection: &mut Connection) {
        loop {
            let mut progress = self.read(connection);
            if connection.lingers_until.is_none() {
                progress |= self.parse(connection);
            }
            progress |= self.write(connection);
            if connection.over || !progress {
                break;
            }
        }
        if connection.serving.is_none() && !connection.over {
            let at = match connection.lingers_until {
                Some(at) => at,
                None if connection.reader.rest() > 0 && !connection.ended => return,
                // On a long way a handshake alone takes seconds.
                None if connection.wire.is_tls() && connection.served == 0 => {
                    connection.idle_since + self.idle.max(FIRST)
                }
                None => connection.idle_since + self.idle,
            };
            // What TLS has yet to say is said first, as a kernel goes on sending what a closed socket was
            // given.
            let has_said = connection.wire.flush(&mut self.net).unwrap_or(true);
            let is_late = self.now() >= at;
            let never = at + UNSAID;
            connection.over = has_said && (connection.ended || is_late) || self.now() >= never;
            self.wake_at(if is_late { never } else { at });
        }
    }

    fn read(&mut self, connection: &mut Connection) -> bool {
        let now = self.now();
        // Not more than the request that is being served: the next one waits in the kernel.
        let full =
            connection.reader.rest() > 0 && connection.serving.as_ref().is_some_and(|it| it.request_complete);
        if connection.ended || full {
            return false;
        }
        if connection.next_read > now {
            self.wake_at(connection.next_read);
            return false;
        }
        let pace =
            connection.serving.as_ref().and_then(|it| it.plan.as_ref()).and_then(|plan| plan.upstream_pace);
        let mut buffer =
            vec![0; pace.map_or(16_384, |pace| pace.bytes.saturating_sub(connection.taken).max(1))];
        match connection.wire.read(&mut self.net, &mut buffer) {
            Ok(0) => {
                connection.ended = true;
                true
            }
            Ok(n) => {
                connection.read += n as u64;
                connection.reader.feed(&buffer[..n]);
                connection.taken += n;
                if let Some(pace) = pace
                    && connection.taken >= pace.bytes
                {
                    (connection.taken, connection.next_read) = (0, now + pace.every);
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                connection.over = true;
                false
            }
        }
    }

    fn parse(&mut self, connection: &mut Connection) -> bool {
        let mut progress = false;
        while !connection.over {
            let done = connection.serving.as_ref().is_some_and(|it| it.request_complete);
            if done {
                break;
            }
            let begins = connection.read - connection.reader.rest() as u64;
            match connection.reader.next() {
                Ok(None) => break,
                Ok(Some(Part::Head(head))) => self.head(connection, &head, begins),
                Ok(Some(Part::Data(bytes))) => {
                    let Some(serving) = &mut connection.serving else { break };
                    if let Some(plan) = &serving.plan {
                        self.model.borrow_mut().check_bytes(plan.id, Way::Inbound, serving.received, &bytes);
                    }
                    serving.received += bytes.len();
                }
                Ok(Some(Part::End(trailers))) => {
                    self.request_end(connection, &trailers);
                }
                Err(error) => {
                    let id =
                        connection.serving.as_ref().and_then(|it| it.plan.as_ref()).map_or(0, |plan| plan.id);
                    self.model.borrow_mut().violate(id, format!("at an upstream: {error}"));
                    connection.over = true;
                }
            }
            progress = true;
        }
        if let Some(serving) = &mut connection.serving
            && connection.ended
            && !serving.request_complete
        {
            if serving.is_upgrade() {
                self.request_end(connection, &[]);
            } else {
                // It was cut, and that can be seen.
                connection.over = true;
            }
            progress = true;
        }
        progress | self.decide(connection)
    }

    fn head(&mut self, connection: &mut Connection, head: &Head, begins: u64) {
        let mut serving = Serving {
            plan: None,
            attempt: 0,
            http10: head.start.ends_with("HTTP/1.0"),
            received: 0,
            request_complete: false,
            answer_at: None,
            decided: false,
            answer: Vec::new(),
            sent: 0,
            answered: false,
            request_ended: 0,
        };
        let says_continue = head.exchange().is_none_or(|id| self.model.borrow().exchanges[id].says_continue);
        if says_continue && head.has_option("expect", "100-continue") {
            serving.answer.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if let Some(id) = head.exchange() {
            let mut model = self.model.borrow_mut();
            let plan = model.exchanges[id].clone();
            let target = format!("/e/{id}?q=%20");
            let parts: Vec<_> = head.start.split(' ').collect();
            if parts[0] != plan.method || parts[1] != target {
                model.violate(id, format!("asked as {:?}", head.start));
            }
            let ours = head.fields.iter().find(|(name, _)| name.starts_with("slime-"));
            let password = head.fields.iter().find(|(_, value)| value.contains(PASSWORD));
            let world = self.net.world.borrow();
            // The scripts' own relay passes everything on.
            let is_by_agent = world.hosts[world.ends[connection.wire.socket.end ^ 1].process].name != "relay";
            if let Some(field) = ours.or(password).filter(|_| is_by_agent) {
                model.violate(id, format!("{field:?} reached an upstream"));
            }
            if plan.request == Framing::Upgrade {
                connection.reader.become_raw();
            }
            serving.plan = Some(plan);
            let attempts = &mut model.records[id].attempts;
            serving.attempt = attempts.len();
            let end = connection.wire.socket.end;
            let begins = connection.wire.received_from(begins);
            attempts.push(Attempt { end, begins, request_ends: None, response_ends: None });
        } else {
            let end = connection.wire.socket.end;
            let begins = connection.wire.received_from(begins);
            let mut model = self.model.borrow_mut();
            serving.attempt = model.probes.len();
            model.probes.push(Attempt { end, begins, request_ends: None, response_ends: None });
        }
        connection.serving = Some(serving);
    }

    fn request_end(&mut self, connection: &mut Connection, trailers: &[(String, String)]) {
        let Some(serving) = &mut connection.serving else { return };
        serving.request_complete = true;
        serving.request_ended = self.net.world.borrow().clock;
        connection.next_read = 0;
        let ends = connection.wire.received_to(connection.read - connection.reader.rest() as u64);
        let mut model = self.model.borrow_mut();
        let Some(plan) = &serving.plan else {
            model.probes[serving.attempt].request_ends = Some(ends);
            return;
        };
        // Before the upgrade a FIN is no end of anything.
        if !serving.is_upgrade() || serving.decided && plan.fault.is_none() {
            model.check_request_end(plan.id, serving.received);
            if serving.is_upgrade() {
                model.check_fin(plan.id, Way::Inbound, serving.request_ended);
            }
        }
        model.records[plan.id].attempts[serving.attempt].request_ends = Some(ends);
        let expected = plan.request == Framing::Chunked;
        if expected
            != trailers.iter().any(|(name, value)| name == "x-trailer" && *value == plan.id.to_string())
        {
            model.violate(plan.id, format!("request trailers {trailers:?}"));
        }
    }

    fn drop_connection(&mut self, connection: &mut Connection, how: How) {
        connection.over = true;
        match how {
            How::Fin => {
                let _ = connection.wire.finish(&mut self.net);
            }
            How::Close => {}
            // A FIN that nothing announces tells as much.
            How::Reset if connection.wire.is_tls() && self.rng.chance(500) => {}
            How::Reset => self.net.world.borrow_mut().abort(connection.wire.socket.end),
        }
    }
}

impl Serving {
    fn is_upgrade(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.request == Framing::Upgrade)
    }
}

impl Process for Upstream {
    fn turn(&mut self) -> Option<u8> {
        self.wake = None;
        let now = self.now();
        self.turned_away.retain(|(_, until)| *until > now);
        if let Some(next) = self.turned_away.iter().map(|(_, until)| *until).min() {
            self.wake_at(next);
        }
        // Readiness is not remembered: everything is tried in every turn, until it would block.
        let _ = self.net.poll(&mut Vec::new(), None);
        self.accept();
        let mut connections = std::mem::take(&mut self.connections);
        for connection in &mut connections {
            self.drive(connection);
        }
        connections.retain(|connection| !connection.over);
        self.connections = connections;
        None
    }

    fn next_timeout(&self) -> Option<Mono> {
        self.wake.map(|wake| Mono(wake.div_ceil(MILLI)))
    }
}
