//! The simulated world: one virtual clock, all sockets of all processes, and what is on its way between them.
//!
//! A connection is two [`Endpoint`]s; the numbers of the two differ in the last bit. Everything that travels
//! (bytes, FIN, RST, the handshake, room that a reader made, answers of the resolver) is a [`Delivery`] at a
//! time of the virtual clock, in order for each direction. The system calls are in `calls.rs`.
//!
//! Edges come as Linux gives them with EPOLLET: a change (new data, FIN, RST, room after a refused write, the
//! end of a connection attempt) marks the endpoint; a poll reports the state as it then stands, once. Data
//! and FIN that arrive between two polls are one event, and without a further change there is no second one.

mod arrival;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use slime::net::Event;
use slime::proto::tables::timer::{Mono, Now};

use crate::history::{Answer, History, Moment, Sighting};
use crate::rng::{Rng, mix};

/// Microseconds of the virtual clock.
pub(crate) type Micros = u64;

pub(crate) const MILLI: Micros = 1000;
pub(crate) const SECOND: Micros = 1_000_000;

/// The clock does not begin at zero, so that nothing takes zero for "never".
const START: Micros = 10 * SECOND;

/// When the kernel gives an idle connection up whose other side is silent: 30 s, then three probes 10 s
/// apart.
const KEEPALIVE: Micros = 60 * SECOND;
/// And when it gives one up whose bytes are not acknowledged (`tcp_retries2`), or whose SYN is not answered.
const RETRIES: Micros = 924 * SECOND;
const SYN_RETRIES: Micros = 127 * SECOND;
/// When the kernel gives up a connection that its process has closed, and whose other side has no room for
/// what was sent before FIN: it asks for room at longer and longer intervals, and ends that when they come to
/// two minutes (`tcp_orphan_retries`). The other side's next keep-alive probe is answered by RST.
const ORPHANED: Micros = 370 * SECOND;

/// The most connections that a process may dial in one virtual second: more is a hot loop.
pub(crate) const MAX_DIALS: u32 = 300;

/// The most that a process may call within one turn: more is an endless loop.
const MAX_CALLS: u32 = 2_000_000;

/// How rough the network is: chances in a thousand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    /// A read gives less than there is; a write takes less than there is room for.
    pub(crate) short: u64,
    /// A read or write would block although there is something, or room.
    pub(crate) block: u64,
    /// A segment is lost once and arrives a second later, and all behind it.
    pub(crate) hiccup: u64,
    /// A connection is reset at some time.
    pub(crate) reset: u64,
    /// A connection goes silent at some time: nothing arrives any more in either direction.
    pub(crate) blackhole: u64,
    /// A connection is reset or goes silent while it is being sent a request, or soon after.
    pub(crate) ambush: u64,
    /// Accepting fails for want of descriptors, dialling for want of buffers.
    pub(crate) exhausted: u64,
    /// A dialled connection is refused although somebody listens; a name is not found.
    pub(crate) refuse: u64,
    /// An event that nothing caused; a poll whose batch is full with two events, which leaves the others for
    /// the next one.
    pub(crate) spurious: u64,
    /// A poll is interrupted by a signal, and tells nothing.
    pub(crate) interrupted: u64,
    /// Whether queues may be as small as one byte.
    pub(crate) narrow: bool,
    /// Whether queues are large, so that large reads and writes are likely.
    pub(crate) wide: bool,
    /// The most that queues may hold, if there is such a number.
    pub(crate) largest: Option<usize>,
    /// Whether backlogs are short and names are looked up slowly, so that connecting takes seconds.
    pub(crate) sluggish: bool,
    /// A process that could run is stopped for a moment instead.
    pub(crate) dozing: u64,
    /// The most events that a poll tells of, if there is such a number.
    pub(crate) batch: Option<usize>,
    /// How long the lookup of a name may take.
    pub(crate) slow_names: Micros,
    /// An upstream answers a connection at once, without a request, and ends it.
    pub(crate) turns_away: u64,
    /// An upstream begins to read a connection only after a long time.
    pub(crate) deaf: u64,
    /// Something before the hub ends a connection of an agent in the middle of its handshake, as a proxy does
    /// whose hub is away.
    pub(crate) fronts: u64,
    /// Windows close: FIN arrives only when most of what was sent before it has been read.
    pub(crate) windows: bool,
}

impl Weather {
    /// Any of the roughnesses, or none of them.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut some = |of: &[u64]| rng.pick(of);
        Self {
            short: some(&[0, 50, 300]),
            block: some(&[0, 20, 150]),
            hiccup: some(&[0, 0, 5, 30]),
            reset: some(&[0, 0, 30, 200]),
            blackhole: some(&[0, 0, 0, 20]),
            ambush: 0,
            exhausted: some(&[0, 0, 30, 200]),
            refuse: some(&[0, 0, 0, 100]),
            spurious: some(&[0, 20, 200]),
            interrupted: 0,
            narrow: some(&[0, 1]) == 1,
            wide: false,
            largest: None,
            sluggish: some(&[0, 1]) == 1,
            dozing: 0,
            batch: None,
            slow_names: 0,
            turns_away: 0,
            deaf: 0,
            fronts: 0,
            windows: false,
        }
    }

    /// The same without anything that may make an exchange fail, or last longer than the time limits.
    pub(crate) fn harmless(self) -> Self {
        let hiccup = if self.narrow { 0 } else { self.hiccup };
        Self { hiccup, reset: 0, blackhole: 0, refuse: 0, exhausted: 0, sluggish: false, ..self }
    }
}

/// One end of a TCP connection.
#[derive(Default)]
pub(crate) struct Endpoint {
    pub(crate) process: usize,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) token: Option<u32>,
    /// Something changed that no poll has told yet.
    pub(crate) edge: bool,
    /// A poll had no room for it.
    pub(crate) was_left: bool,
    pub(crate) connected: bool,
    /// `SO_ERROR`: told once, by whichever call comes first.
    pub(crate) error: Option<Errno>,
    /// Reset, timed out, or never made.
    pub(crate) dead: bool,
    pub(crate) fin_received: bool,
    /// FIN waits behind more unread bytes than the window has room for, if it has an end.
    pub(crate) fin_waits: bool,
    pub(crate) window: Option<usize>,
    pub(crate) fin_sent: bool,
    /// The application has closed it.
    pub(crate) closed: bool,
    /// On its way to this end, and arrived.
    pub(crate) flight: VecDeque<u8>,
    pub(crate) queue: VecDeque<u8>,
    /// When the last thing arrives that is on its way to this end.
    pub(crate) last_arrival: Micros,
    /// How much may be on its way or unread, and how much of it the sender knows to be taken.
    pub(crate) capacity: usize,
    pub(crate) used: usize,
    /// A write was refused; the next room is an edge.
    pub(crate) no_space: bool,
    /// The last write was not taken as a whole.
    pub(crate) held_up: bool,
    /// How far those writes went that came behind such a one.
    pub(crate) late_until: u64,
    /// Room is withheld by chance.
    pub(crate) blocked: bool,
    pub(crate) latency: Micros,
    /// Nothing arrives here any more.
    pub(crate) silent: bool,
    pub(crate) silent_since: Option<Micros>,
    pub(crate) history: History,
}

pub(crate) struct Listening {
    pub(crate) process: usize,
    pub(crate) address: SocketAddr,
    pub(crate) token: u32,
    pub(crate) backlog: VecDeque<usize>,
    pub(crate) limit: usize,
    pub(crate) edge: bool,
    pub(crate) open: bool,
}

/// The kernel's side of a process.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// Its endpoints that are not closed.
    pub(crate) ends: Vec<usize>,
    /// Answers of the resolver, and signals.
    pub(crate) told: Vec<Event>,
    /// When it was stopped, and until when.
    pub(crate) stopped: Vec<(Micros, Micros)>,
    /// It was stopped and goes on: the poll that it is in is interrupted.
    pub(crate) interrupted: bool,
    /// Grows with every call that had an effect and every event.
    pub(crate) progress: u64,
    /// Calls in this turn.
    pub(crate) calls: u32,
    /// The virtual second, and how often it has dialled in it.
    pub(crate) dials: (Micros, u32),
}

/// Something that arrives at an endpoint or a process.
pub(crate) enum Delivery {
    Syn {
        end: usize,
        address: SocketAddr,
    },
    SynAck(usize),
    Refused(usize),
    Bytes(usize, usize),
    Fin(usize),
    /// The other side's kernel has given up getting FIN through.
    Orphaned(usize),
    Rst(usize),
    /// The reader has made room for the sender at this end.
    Room(usize, usize),
    Unblock(usize),
    Edge(usize),
    GiveUp {
        end: usize,
        last: bool,
    },
    /// Chance strikes this connection: reset or silence.
    Strike {
        end: usize,
        silence: bool,
    },
    /// What stands between the two ends of this connection ends it on both sides, in good order.
    Parted(usize),
    Told(usize, Event),
}

pub(crate) struct World {
    pub(crate) clock: Micros,
    pub(crate) rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) ends: Vec<Endpoint>,
    pub(crate) listeners: Vec<Listening>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) names: BTreeMap<String, Vec<IpAddr>>,
    /// Pipes that are taken: whose, and what they hold.
    pub(crate) pipes: BTreeMap<u32, (usize, Vec<u8>)>,
    pub(crate) last_pipe: u32,
    pub(crate) moment: Moment,
    /// Where an exchange's marker was written: see [`World::note_markers`].
    pub(crate) sightings: Vec<Sighting>,
    /// What agents answered on tunnels.
    pub(crate) answers: Vec<Answer>,
    pub(crate) tails: BTreeMap<usize, Vec<u8>>,
    deliveries: BTreeMap<u64, Delivery>,
    due: BinaryHeap<Reverse<(Micros, u64)>>,
    delivered: u64,
    trace: u64,
    verbose: bool,
}

impl World {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        Self {
            clock: START,
            rng: Rng::new(seed, "world"),
            weather,
            ends: Vec::new(),
            listeners: Vec::new(),
            hosts: Vec::new(),
            names: BTreeMap::new(),
            pipes: BTreeMap::new(),
            last_pipe: 0,
            moment: Moment { turn: 0, call: 0, at: 0 },
            sightings: Vec::new(),
            answers: Vec::new(),
            tails: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            due: BinaryHeap::new(),
            delivered: 0,
            trace: seed,
            verbose: is_verbose(),
        }
    }

    /// Adds a process; its number.
    pub(crate) fn add_host(&mut self, name: &str) -> usize {
        let number = u8::try_from(self.hosts.len() + 1).unwrap();
        self.hosts.push(Host {
            name: name.to_owned(),
            address: [10, 0, 0, number].into(),
            ends: Vec::new(),
            told: Vec::new(),
            stopped: Vec::new(),
            interrupted: false,
            progress: 0,
            calls: 0,
            dials: (0, 0),
        });
        self.hosts.len() - 1
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: Mono(self.clock / MILLI), unix: 1_700_000_000 + self.clock / SECOND }
    }

    /// A hash over all calls, their results, and all deliveries so far.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    pub(crate) fn note(&mut self, what: &str, process: usize, at: usize, result: u64) {
        let fields =
            [self.clock, process as u64, at as u64, result, what.len() as u64, u64::from(what.as_bytes()[0])];
        for field in fields {
            self.trace = mix(self.trace ^ field);
        }
        if self.verbose {
            let name = self.hosts.get(process).map_or("", |host| host.name.as_str());
            println!("{:>12} {name:<10} {what:<10} end {at} -> {result}", self.clock);
        }
    }

    /// Counts a system call.
    pub(crate) fn enter(&mut self, process: usize) {
        (self.moment.call, self.moment.at) = (self.moment.call + 1, self.clock);
        let host = &mut self.hosts[process];
        host.calls += 1;
        assert!(host.calls < MAX_CALLS, "{} calls without end within one turn", host.name);
    }

    /// Begins a turn of a process.
    pub(crate) fn begin_turn(&mut self, process: usize) {
        self.moment.turn += 1;
        self.hosts[process].calls = 0;
    }

    pub(crate) fn progressed(&mut self, process: usize) {
        self.hosts[process].progress += 1;
    }

    // What is on its way.

    pub(crate) fn deliver_at(&mut self, at: Micros, delivery: Delivery) {
        let number = self.delivered;
        self.delivered += 1;
        self.deliveries.insert(number, delivery);
        self.due.push(Reverse((at, number)));
    }

    pub(crate) fn next_delivery(&self) -> Option<Micros> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Moves the clock to a time, and delivers what is due until then.
    pub(crate) fn advance_to(&mut self, time: Micros) {
        loop {
            match self.due.peek() {
                Some(Reverse((at, number))) if *at <= time => {
                    let (at, number) = (*at, *number);
                    self.due.pop();
                    self.clock = self.clock.max(at);
                    if let Some(delivery) = self.deliveries.remove(&number) {
                        self.arrive(delivery);
                    }
                }
                _ => break,
            }
        }
        self.clock = self.clock.max(time);
    }

    /// Sends something to an endpoint, behind all that is on its way there.
    pub(crate) fn send_in_order(&mut self, to: usize, delivery: Delivery) {
        let mut at = self.clock + self.delay(to);
        if self.rng.chance(self.weather.hiccup) {
            at += SECOND;
        }
        let at = at.max(self.ends[to].last_arrival);
        self.ends[to].last_arrival = at;
        self.deliver_at(at, delivery);
    }

    pub(crate) fn delay(&mut self, end: usize) -> Micros {
        let latency = self.ends[end].latency;
        latency + self.rng.within(1, latency)
    }

    /// If FIN waits at this end, and the other one is closed, its kernel does not try to get it through for
    /// ever.
    pub(crate) fn abandon(&mut self, end: usize) {
        if self.ends[end].fin_waits && self.ends[end ^ 1].closed {
            self.deliver_at(self.clock + ORPHANED, Delivery::Orphaned(end));
        }
    }

    /// Writable as poll(2) sees it: a third of the room at least.
    pub(crate) fn has_room(&self, end: usize) -> bool {
        let there = &self.ends[end ^ 1];
        !self.ends[end].blocked && there.capacity - there.used > there.capacity / 3
    }

    // What the scheduler and the invariants ask.

    /// Whether a poll of this process would find anything.
    pub(crate) fn has_events(&self, process: usize) -> bool {
        let host = &self.hosts[process];
        host.interrupted
            || !host.told.is_empty()
            || self.listeners.iter().any(|it| it.process == process && it.open && it.edge)
            || host.ends.iter().any(|end| self.ends[*end].token.is_some() && self.ends[*end].edge)
    }

    /// Whether a process was stopped for some of this time.
    pub(crate) fn was_stopped(&self, process: usize, since: Micros, until: Micros) -> bool {
        self.hosts[process].stopped.iter().any(|(from, to)| *from < until && since < *to)
    }

    /// For how much of this time a process was stopped.
    pub(crate) fn stopped_for(&self, process: usize, since: Micros, until: Micros) -> Micros {
        let within = |(from, to): &(Micros, Micros)| (*to).min(until).saturating_sub((*from).max(since));
        self.hosts[process].stopped.iter().map(within).sum()
    }

    /// The processes at the other ends of this process's open sockets.
    pub(crate) fn peers(&self, process: usize) -> Vec<usize> {
        self.hosts[process].ends.iter().map(|end| self.ends[end ^ 1].process).collect()
    }

    /// The process is gone, by a signal that it could do nothing about or by its own doing; the kernel closes
    /// what it had.
    pub(crate) fn end_process(&mut self, process: usize, is_killed: bool) {
        for end in self.hosts[process].ends.clone() {
            self.ends[end].history.killed = is_killed;
            self.close(end);
        }
        for listener in 0..self.listeners.len() {
            if self.listeners[listener].process == process {
                self.close_listener(listener);
            }
        }
        self.hosts[process].told.clear();
        self.hosts[process].interrupted = false;
        self.pipes.retain(|_, (owner, _)| *owner != process);
    }
}

/// Whether everything is printed that happens, with what the code under test logs. It logs in any case: its
/// notices have deadlines, and a run that is looked into must be the same as before.
fn is_verbose() -> bool {
    struct Printer {
        is_verbose: bool,
    }
    impl log::Log for Printer {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target().starts_with("slime")
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.is_verbose && self.enabled(record.metadata()) {
                println!("{:>12} {}", record.level(), record.args());
            }
        }
        fn flush(&self) {}
    }
    let is_verbose = std::env::var_os("SLIME_TRACE").is_some();
    if log::set_boxed_logger(Box::new(Printer { is_verbose })).is_ok() {
        log::set_max_level(if is_verbose { log::LevelFilter::Trace } else { log::LevelFilter::Info });
    }
    is_verbose
}
