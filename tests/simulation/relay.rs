//! A relay of bytes, driven by edges alone: it proves that the simulated network gives every edge that it
//! must, and that the scripts and invariants notice what goes wrong, without the code under test.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use slime::net::{Event, Net};
use slime::proto::tables::timer::Mono;

use crate::calls::{Listener, SimNet, Socket};
use crate::scheduler::Process;
use crate::world::{MILLI, Micros};

/// What a relay does wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Sends now and then to another connection.
    Misdeliver,
    /// Loses a byte now and then.
    Lose,
    /// Ends in a FIN what ended in a reset.
    CutCleanly,
    /// Stops at a short read although the event said that the end had come too.
    MissEnd,
    /// Asks to be run again at once, and has nothing to do.
    Spin,
}

const LISTENER: u32 = u32::MAX - 16;

pub(crate) struct Relay {
    net: SimNet,
    listener: Listener,
    to: Vec<SocketAddr>,
    flaw: Flaw,
    accept_at: Option<Micros>,
    /// Two neighbours belong together; they are never removed.
    sides: Vec<Side>,
}

#[derive(Default)]
struct Side {
    socket: Option<Socket>,
    readable: bool,
    writable: bool,
    hangup: bool,
    /// What waits to be sent on this side, and whether FIN follows.
    out: Vec<u8>,
    end: bool,
    end_sent: bool,
}

impl Relay {
    /// Listens on a port of its own, and gives each connection to one of the addresses in turn.
    pub(crate) fn new(net: SimNet, port: u16, to: Vec<SocketAddr>, flaw: Flaw) -> Self {
        let listener = net.listen(net.address(port), LISTENER);
        Self { net, listener, to, flaw, accept_at: None, sides: Vec::new() }
    }

    fn now(&self) -> Micros {
        self.net.world.borrow().clock
    }

    fn accept(&mut self) {
        self.accept_at = None;
        loop {
            match self.net.accept(&mut self.listener) {
                Ok((here, _)) => {
                    let to = self.to[self.sides.len() / 2 % self.to.len()];
                    // A failed dial resets the client.
                    if let Ok(there) = self.net.connect(to) {
                        self.add(here);
                        self.add(there);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.accept_at = Some(self.now() + 50 * MILLI);
                    return;
                }
            }
        }
    }

    fn add(&mut self, mut socket: Socket) {
        let token = u32::try_from(self.sides.len()).unwrap();
        let _ = self.net.register(&mut socket, token);
        self.sides.push(Side { socket: Some(socket), ..Side::default() });
    }

    /// Moves from one side to the other until one of them has to wait.
    fn pump(&mut self, from: usize) -> io::Result<()> {
        let to = from ^ 1;
        loop {
            self.flush(to)?;
            if !self.sides[from].readable || !self.sides[to].out.is_empty() || self.sides[to].end {
                return Ok(());
            }
            let Some(socket) = &mut self.sides[from].socket else { return Ok(()) };
            let mut buffer = [0; 3000];
            match self.net.read(socket, &mut buffer) {
                Ok(0) => {
                    self.sides[from].readable = false;
                    self.sides[to].end = true;
                }
                Ok(n) => {
                    let mut bytes = buffer[..n].to_vec();
                    if n < buffer.len() && (!self.sides[from].hangup || self.flaw == Flaw::MissEnd) {
                        self.sides[from].readable = false;
                    }
                    if self.flaw == Flaw::Lose && n % 7 == 3 {
                        bytes.pop();
                    }
                    let other = (to + 2) % self.sides.len();
                    let to = if self.flaw == Flaw::Misdeliver && n % 7 == 3 { other } else { to };
                    self.sides[to].out.extend(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.sides[from].readable = false,
                Err(_) if self.flaw == Flaw::CutCleanly => {
                    self.sides[from].readable = false;
                    self.sides[to].end = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn flush(&mut self, to: usize) -> io::Result<()> {
        let side = &mut self.sides[to];
        let Some(socket) = &mut side.socket else { return Ok(()) };
        while side.writable && !side.out.is_empty() {
            match self.net.write(socket, &[IoSlice::new(&side.out)]) {
                Ok(n) => {
                    side.writable = n == side.out.len();
                    side.out.drain(..n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => side.writable = false,
                Err(error) => return Err(error),
            }
        }
        if side.writable && side.end && !side.end_sent {
            side.end_sent = true;
            self.net.shutdown(socket)?;
        }
        Ok(())
    }

    /// Resets both sides, or lets both go once both directions have ended.
    fn settle(&mut self, side: usize, failed: bool) {
        let pair = [side & !1, side | 1];
        let over = pair.iter().all(|side| self.sides[*side].end_sent);
        for side in pair {
            if failed || over {
                let socket = self.sides[side].socket.take();
                self.sides[side] = Side::default();
                if let Some(socket) = socket.filter(|_| failed) {
                    self.net.abort(socket);
                }
            }
        }
    }
}

impl Process for Relay {
    fn turn(&mut self) -> Option<u8> {
        let mut events = Vec::new();
        let _ = self.net.poll(&mut events, None);
        if self.accept_at.is_some_and(|at| at <= self.now()) {
            self.accept();
        }
        for event in events {
            match event {
                Event::Ready { token: LISTENER, .. } => self.accept(),
                Event::Ready { token, readable, writable, hangup } => {
                    let side = usize::try_from(token).unwrap();
                    let it = &mut self.sides[side];
                    it.readable |= readable;
                    it.writable |= writable;
                    it.hangup |= hangup;
                    let failed = self.pump(side).and_then(|()| self.pump(side ^ 1)).is_err();
                    self.settle(side, failed);
                }
                Event::Resolved { .. } | Event::Vanished { .. } | Event::Reload => {}
                Event::Terminate => return Some(0),
            }
        }
        None
    }

    fn next_timeout(&self) -> Option<Mono> {
        let spin = (self.flaw == Flaw::Spin && self.sides.len() > 2).then_some(Mono(0));
        spin.or(self.accept_at.map(|at| Mono(at.div_ceil(MILLI))))
    }
}
