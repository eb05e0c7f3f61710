//! The system calls of the simulated world, and [`SimNet`], through which a process makes them.

mod ending;

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use slime::net::{Event, Net, Pipe, Polled};
use slime::proto::tables::timer::Now;

use crate::history::History;
use crate::world::{Delivery, Endpoint, Listening, MAX_DIALS, MILLI, Micros, SECOND, World};

/// What a pipe holds at most.
const PIPE: usize = 64 * 1024;

/// The network as one process sees it.
#[derive(Clone)]
pub(crate) struct SimNet {
    pub(crate) world: Rc<RefCell<World>>,
    pub(crate) process: usize,
}

/// A listening socket.
pub(crate) struct Listener {
    world: Rc<RefCell<World>>,
    number: usize,
}

/// A socket; the number of its endpoint.
pub(crate) struct Socket {
    world: Rc<RefCell<World>>,
    pub(crate) end: usize,
}

impl SimNet {
    /// A process with this name joins the world.
    pub(crate) fn new(world: &Rc<RefCell<World>>, name: &str) -> Self {
        Self { process: world.borrow_mut().add_host(name), world: Rc::clone(world) }
    }

    /// This process's address, with a port.
    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.world.borrow().hosts[self.process].address, port)
    }

    pub(crate) fn listen(&self, address: SocketAddr, token: u32) -> Listener {
        let mut world = self.world.borrow_mut();
        let limit = if world.weather.sluggish { world.rng.pick(&[1, 2, 8]) } else { 128 };
        let listening = Listening {
            process: self.process,
            address,
            token,
            backlog: Default::default(),
            limit,
            edge: false,
            open: true,
        };
        world.listeners.push(listening);
        Listener { world: Rc::clone(&self.world), number: world.listeners.len() - 1 }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.world.borrow_mut().close_listener(self.number);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.world.borrow_mut().close(self.end);
    }
}

impl Net for SimNet {
    type Listener = Listener;
    type Socket = Socket;

    fn now(&mut self) -> Now {
        self.world.borrow().now()
    }

    /// Never waits: the scheduler runs a process only when there is something for it.
    fn poll(&mut self, events: &mut Vec<Event>, _timeout: Option<Duration>) -> io::Result<Polled> {
        Ok(self.world.borrow_mut().poll(self.process, events))
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(Socket, SocketAddr)> {
        let (end, peer) = self.world.borrow_mut().accept(listener.number)?;
        Ok((Socket { world: Rc::clone(&self.world), end }, peer))
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<Socket> {
        let end = self.world.borrow_mut().connect(self.process, address)?;
        Ok(Socket { world: Rc::clone(&self.world), end })
    }

    fn register(&mut self, socket: &mut Socket, token: u32) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        assert_eq!(world.ends[socket.end].token, None, "registered twice");
        world.set_token(socket.end, token);
        Ok(())
    }

    fn reregister(&mut self, socket: &mut Socket, token: u32) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        assert_ne!(world.ends[socket.end].token, None, "not registered");
        world.set_token(socket.end, token);
        Ok(())
    }

    fn connected(&mut self, socket: &mut Socket) -> io::Result<bool> {
        let mut world = self.world.borrow_mut();
        world.enter(self.process);
        let it = &mut world.ends[socket.end];
        match it.error.take() {
            Some(error) => Err(error.into()),
            None => Ok(it.connected && !it.dead),
        }
    }

    fn read(&mut self, socket: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.world.borrow_mut().read(socket.end, buffer)?)
    }

    fn write(&mut self, socket: &mut Socket, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(self.world.borrow_mut().write(socket.end, buffers)?)
    }

    fn shutdown(&mut self, socket: &mut Socket) -> io::Result<()> {
        Ok(self.world.borrow_mut().shutdown(socket.end)?)
    }

    fn abort(&mut self, socket: Socket) {
        self.world.borrow_mut().abort(socket.end);
    }

    fn take_pipe(&mut self) -> Option<Pipe> {
        self.world.borrow_mut().take_pipe(self.process)
    }

    fn give_pipe(&mut self, pipe: Pipe, is_empty: bool) {
        let bytes = self.world.borrow_mut().pipes.remove(&pipe.0).expect("a pipe is given back once");
        assert_eq!(bytes.1.is_empty(), is_empty);
    }

    fn splice_in(&mut self, socket: &mut Socket, pipe: Pipe, most: usize) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        assert!(world.pipes[&pipe.0].1.is_empty(), "a pipe is filled once");
        let mut buffer = vec![0; most.min(PIPE)];
        let n = world.read(socket.end, &mut buffer)?;
        buffer.truncate(n);
        world.pipes.entry(pipe.0).and_modify(|it| it.1 = buffer);
        Ok(n)
    }

    fn splice_out(&mut self, pipe: Pipe, socket: &mut Socket, n: usize) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        let bytes = world.pipes[&pipe.0].1.clone();
        assert_eq!(bytes.len(), n, "what a pipe holds is known");
        let n = world.write(socket.end, &[IoSlice::new(&bytes)])?;
        world.pipes.entry(pipe.0).and_modify(|it| drop(it.1.drain(..n)));
        Ok(n)
    }

    fn find_vanished(&mut self) {
        self.world.borrow_mut().find_vanished(self.process);
    }

    fn identity(&mut self, socket: &mut Socket) -> Option<u64> {
        Some(socket.end as u64)
    }

    fn resolve(&mut self, host: &str, port: u16, token: u32) {
        self.world.borrow_mut().resolve(self.process, host, port, token);
    }
}

impl World {
    fn poll(&mut self, process: usize, events: &mut Vec<Event>) -> Polled {
        self.enter(process);
        let has_gone_on = std::mem::take(&mut self.hosts[process].interrupted);
        if self.rng.chance(self.weather.interrupted) || has_gone_on {
            // EINTR, as after SIGCONT. That the process was woken up is not its doing.
            self.note("eintr", process, 0, 0);
            self.progressed(process);
            return Polled::Part;
        }
        let before = events.len();
        events.append(&mut self.hosts[process].told);
        for listener in &mut self.listeners {
            if listener.process == process && listener.open && std::mem::take(&mut listener.edge) {
                let token = listener.token;
                events.push(Event::Ready { token, readable: true, writable: false, hangup: false });
            }
        }
        let mut ends = self.hosts[process].ends.clone();
        self.rng.shuffle(&mut ends);
        // What waits longest comes first, or a batch that is always full would leave something for ever.
        ends.sort_by_key(|end| !self.ends[*end].was_left);
        let mut polled = Polled::Whole;
        let most = self.weather.batch.unwrap_or(usize::MAX);
        let mut left = if self.rng.chance(self.weather.spurious) { most.min(2) } else { most };
        for end in ends {
            let Some(token) = self.ends[end].token else { continue };
            let spurious = self.rng.chance(self.weather.spurious / 10);
            if left == 0 && self.ends[end].edge {
                polled = Polled::Part;
                self.ends[end].was_left = true;
            }
            if left == 0 || !spurious && !self.ends[end].edge {
                continue;
            }
            self.ends[end].was_left = false;
            left -= 1;
            self.ends[end].edge = false;
            // Also if what it announced is gone already: that the process was woken up is not its doing.
            self.progressed(process);
            let room = self.has_room(end);
            let it = &mut self.ends[end];
            let hangup = it.connected && it.fin_received || it.dead;
            let readable = spurious || hangup || !it.queue.is_empty();
            let writable = spurious || it.dead || it.connected && (it.fin_sent || room);
            if hangup {
                it.history.told_end.get_or_insert(self.moment);
            }
            if readable || writable {
                self.note("event", process, end, u64::from(hangup));
                events.push(Event::Ready { token, readable, writable, hangup });
            }
        }
        if events.len() > before {
            self.progressed(process);
        }
        polled
    }

    fn accept(&mut self, listener: usize) -> Result<(usize, SocketAddr), Errno> {
        let process = self.listeners[listener].process;
        self.enter(process);
        if self.listeners[listener].backlog.is_empty() {
            return Err(Errno::AGAIN);
        }
        if self.rng.chance(self.weather.exhausted) {
            self.note("emfile", process, listener, 0);
            return Err(Errno::MFILE);
        }
        let end = self.listeners[listener].backlog.pop_front().unwrap();
        self.progressed(process);
        if self.rng.chance(self.weather.exhausted / 4) {
            self.abort(end);
            return Err(Errno::CONNABORTED);
        }
        self.ends[end].history.accepted = Some(self.moment);
        self.note("accept", process, end, 0);
        Ok((end, self.ends[end ^ 1].address.unwrap()))
    }

    fn connect(&mut self, process: usize, address: SocketAddr) -> Result<usize, Errno> {
        self.enter(process);
        self.progressed(process);
        let second = self.clock / SECOND;
        let host = &mut self.hosts[process];
        host.dials = if host.dials.0 == second { (second, host.dials.1 + 1) } else { (second, 1) };
        assert!(host.dials.1 < MAX_DIALS, "{} dials in a hot loop", host.name);
        if self.rng.chance(self.weather.exhausted / 4) {
            return Err(Errno::NOBUFS);
        }
        if self.rng.chance(self.weather.refuse / 4) {
            return Err(Errno::CONNREFUSED);
        }
        let end = self.ends.len();
        let port = 40_000 + u16::try_from(end % 20_000).unwrap();
        let latency = self.rng.pick(&[20, 200, 2 * MILLI, 30 * MILLI, 200 * MILLI]);
        // A narrow queue on a long way would take hours.
        let narrowest = match latency {
            ..=200 if self.weather.narrow => 1,
            ..=2000 if self.weather.narrow => 100,
            ..=30_000 => 1000,
            _ => 4096,
        };
        let ours = self.hosts[process].address;
        for address in [Some(SocketAddr::new(ours, port)), None] {
            let narrowest = if self.weather.wide { 40_000 } else { narrowest };
            let capacity = self.rng.pick(&[1, 2, 13, 100, 1000, 4096, 65_536, 200_000]).max(narrowest);
            let capacity = capacity.min(self.weather.largest.unwrap_or(usize::MAX));
            let window =
                if self.weather.windows { Some(self.rng.pick(&[2000, 20_000, 100_000])) } else { None };
            let history = History { began: self.clock, ..History::default() };
            self.ends.push(Endpoint {
                process,
                address,
                latency,
                capacity,
                window,
                history,
                ..Endpoint::default()
            });
        }
        self.hosts[process].ends.push(end);
        self.note("connect", process, end, latency);
        let at = self.clock + self.delay(end);
        self.deliver_at(at, Delivery::Syn { end, address });
        for (chance, silence) in [(self.weather.reset, false), (self.weather.blackhole, true)] {
            if self.rng.chance(chance) {
                let after: Micros = self.rng.pick(&[MILLI, 100 * MILLI, SECOND, 20 * SECOND]);
                let at = self.clock + self.rng.within(1, after);
                self.deliver_at(at, Delivery::Strike { end, silence });
            }
        }
        Ok(end)
    }

    fn take_pipe(&mut self, process: usize) -> Option<Pipe> {
        self.enter(process);
        if self.rng.chance(self.weather.exhausted) {
            return None;
        }
        self.last_pipe += 1;
        self.pipes.insert(self.last_pipe, (process, Vec::new()));
        Some(Pipe(self.last_pipe))
    }

    fn set_token(&mut self, end: usize, token: u32) {
        let process = self.ends[end].process;
        self.enter(process);
        self.progressed(process);
        self.ends[end].token = Some(token);
        self.ends[end].edge = true;
        self.note("register", process, end, token.into());
    }

    fn read(&mut self, end: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
        let process = self.ends[end].process;
        self.enter(process);
        assert!(!buffer.is_empty(), "a read into nothing looks like the end");
        let result = self.read_inner(end, buffer);
        let it = &mut self.ends[end];
        match result {
            Ok(n) if n > 0 => {
                let total = it.history.read.last().map_or(0, |(total, _)| *total) + n as u64;
                it.history.read.push((total, self.moment));
                self.progressed(process);
            }
            Err(Errno::AGAIN) => {}
            Ok(_) | Err(_) => {
                it.history.told_end.get_or_insert(self.moment);
            }
        }
        self.note("read", process, end, code(result));
        result
    }

    fn read_inner(&mut self, end: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
        let it = &mut self.ends[end];
        if !it.connected {
            return Err(it.error.take().unwrap_or(if it.dead { Errno::NOTCONN } else { Errno::AGAIN }));
        }
        if it.queue.is_empty() {
            // tcp_recvmsg(): after FIN the end, whatever came later; an error once, then the end.
            return match it.error {
                _ if it.fin_received => Ok(0),
                Some(_) => Err(it.error.take().unwrap()),
                None if it.dead => Ok(0),
                None => Err(Errno::AGAIN),
            };
        }
        let ended = it.fin_received || it.dead;
        // What has lain there for long, while its process was stopped, cannot pass for late.
        let is_fresh = self.clock < it.history.arrived_at + SECOND;
        if !ended && is_fresh && self.rng.chance(self.weather.block) {
            // As if the bytes arrived only later.
            let at = self.clock + self.delay(end);
            self.deliver_at(at, Delivery::Edge(end));
            return Err(Errno::AGAIN);
        }
        let mut n = buffer.len().min(self.ends[end].queue.len());
        if self.rng.chance(self.weather.short) && n > 1 {
            // As if the rest arrived right behind the call: another edge.
            n = self.rng.length(1, n - 1);
            self.ends[end].edge = true;
        }
        for (to, from) in buffer.iter_mut().zip(self.ends[end].queue.drain(..n)) {
            *to = from;
        }
        let at = self.clock + self.delay(end);
        self.deliver_at(at, Delivery::Room(end ^ 1, n));
        let it = &mut self.ends[end];
        if it.fin_waits && it.window.is_none_or(|window| it.queue.len() <= window) {
            it.fin_waits = false;
            self.send_in_order(end, Delivery::Fin(end));
        }
        Ok(n)
    }

    fn write(&mut self, end: usize, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let process = self.ends[end].process;
        self.enter(process);
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let result = self.write_inner(end, &bytes);
        if let Ok(n) = result {
            self.note_markers(end, &bytes[..n]);
            self.meet_a_front(end);
            let it = &mut self.ends[end];
            let total = it.history.written.last().map_or(0, |(total, _)| *total) + n as u64;
            it.history.written.push((total, self.moment));
            if it.held_up {
                it.late_until = total;
            }
            self.progressed(process);
        }
        let it = &mut self.ends[end];
        it.held_up = result != Ok(bytes.len());
        it.history.begun_late |= result == Err(Errno::AGAIN) && it.history.written.is_empty();
        self.note("write", process, end, code(result));
        result
    }

    /// By chance, an agent's first word to the hub comes as far as to what stands before it, which ends the
    /// connection.
    fn meet_a_front(&mut self, end: usize) {
        let name_of = |end: usize| self.hosts[self.ends[end].process].name.as_str();
        let begins = self.weather.fronts > 0 && self.ends[end].history.written.is_empty();
        if begins
            && name_of(end).starts_with("agent")
            && name_of(end ^ 1) == "hub"
            && self.rng.chance(self.weather.fronts)
        {
            self.ends[end ^ 1].silent = true;
            let at = self.clock + self.delay(end);
            self.deliver_at(at, Delivery::Parted(end));
        }
    }

    fn write_inner(&mut self, end: usize, bytes: &[u8]) -> Result<usize, Errno> {
        let room = self.ends[end ^ 1].capacity - self.ends[end ^ 1].used;
        let it = &mut self.ends[end];
        if it.dead || it.fin_sent {
            // sk_stream_error(): the pending error, once, then EPIPE. Whoever reads then finds a clean end.
            return Err(it.error.take().unwrap_or(Errno::PIPE));
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        if !it.connected || it.blocked || room == 0 {
            it.no_space = true;
            return Err(Errno::AGAIN);
        }
        if self.rng.chance(self.weather.block) {
            self.withhold_room(end);
            return Err(Errno::AGAIN);
        }
        let mut n = bytes.len().min(room);
        if n > 1 && self.rng.chance(self.weather.short) {
            n = self.rng.length(1, n - 1);
            self.withhold_room(end);
        }
        if n < bytes.len() {
            self.ends[end].no_space = true;
        }
        self.ends[end ^ 1].used += n;
        self.ends[end ^ 1].flight.extend(&bytes[..n]);
        let mut left = n;
        while left > 0 {
            let segment = if self.rng.chance(300) { self.rng.length(1, left) } else { left };
            self.send_in_order(end ^ 1, Delivery::Bytes(end ^ 1, segment));
            left -= segment;
        }
        Ok(n)
    }

    fn withhold_room(&mut self, end: usize) {
        self.ends[end].blocked = true;
        self.ends[end].no_space = true;
        let at = self.clock + self.delay(end);
        self.deliver_at(at, Delivery::Unblock(end));
    }

    fn resolve(&mut self, process: usize, host: &str, port: u16, token: u32) {
        self.enter(process);
        self.progressed(process);
        let found = match host.parse() {
            Ok(address) => vec![address],
            Err(_) if self.rng.chance(self.weather.refuse) => Vec::new(),
            Err(_) => self.names.get(host).cloned().unwrap_or_default(),
        };
        let mut found: Vec<_> = found;
        if found.len() > 1 {
            self.rng.shuffle(&mut found);
        }
        let addresses = found.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        let slowest = if self.weather.sluggish { 3 * SECOND } else { 100 * MILLI };
        let slowest = slowest.max(self.weather.slow_names);
        let after = self.rng.pick(&[1, MILLI, slowest]);
        self.note("resolve", process, 0, after);
        self.deliver_at(self.clock + after, Delivery::Told(process, Event::Resolved { token, addresses }));
    }
}

/// A result as a number, for the trace.
fn code(result: Result<usize, Errno>) -> u64 {
    match result {
        Ok(n) => n as u64,
        Err(error) => u64::MAX - u64::from(error.raw_os_error().unsigned_abs()),
    }
}
