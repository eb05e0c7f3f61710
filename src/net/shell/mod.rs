//! The event loop: it waits, tells the core what happened, and does what the core says.
//!
//! In each turn the events of a batch are first noted at their connections, then the connections are served,
//! responders before requesters, so that a worker that became free, or a tunnel that died, is known before
//! the next request is dispatched. This module owns the turn; `commands` does what the core says, `flow` and
//! `send` move the bytes, `accept` and `dial` make connections.

mod accept;
mod ahead;
mod commands;
mod conn;
mod dial;
mod flow;
mod handshakes;
mod held;
mod listeners;
mod overdue;
mod pieces;
mod send;
mod splice;
mod vanish;

use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;

use self::conn::{Conns, Slot};
pub use self::dial::{DialTls, Endpoint, Targets};
use self::handshakes::Handshakes;
pub use self::listeners::Entrance;
use self::listeners::Listeners;
use super::buffer::BufferPool;
use super::sys::RESERVED_TOKENS;
use super::sys::notify::Notifier;
use super::{Event, Net};
use crate::proto::seam::{Command, Core, Target, Why};
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::{Mono, Now};

/// The tokens of listeners begin here: above all keys, below those that the network keeps for itself.
pub const LISTENER_TOKENS: u32 = 0xffff_0000;

const _: () = assert!(LISTENER_TOKENS >= Key::TOKENS_END && LISTENER_TOKENS < *RESERVED_TOKENS.start());

/// How many times a turn goes through the ready list. What is still ready then waits until new events have
/// been looked at.
const ROUNDS_PER_TURN: usize = 8;

/// Entries that the work lists keep room for between turns. Only bursts have more, as when all workers dial.
const KEPT_ENTRIES: usize = 256;

/// A core and its network.
pub struct Shell<C: Core, N: Net> {
    core: C,
    net: N,
    conns: Conns<N::Socket>,
    buffers: BufferPool,
    now: Now,
    /// What the core writes to while it looks at input.
    scratch: Vec<u8>,
    /// Connections whose socket failed while something else was being done.
    failed: Vec<(Key, Why)>,
    /// Connections to be served in this turn.
    ready: Vec<Key>,
    /// At least one of them had an edge that says that its remote side has closed or reset.
    has_hangups: bool,
    /// The memory of the ready list that was served last, for the next one.
    spare: Vec<Key>,
    /// Connections that used up their share of this turn.
    later: Vec<Key>,
    listeners: Listeners<N::Listener>,
    targets: Targets,
    /// The first edge of a connection that was accepted has not been told yet.
    has_accepted: bool,
    events: Vec<Event>,
    /// Connections that are being made and had an event in this batch.
    dialled: Vec<Key>,
    /// When a connection that is being made tries its next address. All wait equally long, so the earliest
    /// comes first.
    attempts: VecDeque<(Mono, Key)>,
    /// When to look next for remote sides that have vanished (`vanish.rs`); `None` while there are no
    /// connections.
    look_at: Option<Mono>,
    /// How many turns have put off deadlines that had passed (`overdue.rs`).
    turns_overdue: usize,
    handshakes: Handshakes,
    /// What TLS listeners offer.
    tls: Option<Arc<ServerConfig>>,
    /// The targets that are reached by TLS.
    dial_tls: Vec<(Target, DialTls)>,
    commands: Vec<Command>,
    reload: Option<Reload<C>>,
    notifier: Option<Notifier>,
    exit: Option<u8>,
}

/// Reads again what may have changed, when the operator asks for it. It may replace what TLS listeners offer;
/// existing connections keep what they have.
pub type Reload<C> = Box<dyn FnMut(&mut C, &mut Option<Arc<ServerConfig>>, Now)>;

impl<C: Core, N: Net> Shell<C, N> {
    /// A shell around a core, without listeners.
    pub fn new(core: C, mut net: N, targets: Targets) -> Self {
        let now = net.now();
        Self {
            core,
            net,
            conns: Conns::new(),
            buffers: BufferPool::new(),
            now,
            scratch: Vec::new(),
            failed: Vec::new(),
            ready: Vec::new(),
            has_hangups: false,
            spare: Vec::new(),
            later: Vec::new(),
            events: Vec::new(),
            dialled: Vec::new(),
            attempts: VecDeque::new(),
            look_at: None,
            turns_overdue: 0,
            listeners: Listeners::new(),
            handshakes: Handshakes::default(),
            tls: None,
            dial_tls: Vec::new(),
            targets,
            commands: Vec::new(),
            has_accepted: false,
            reload: None,
            notifier: None,
            exit: None,
        }
    }

    /// Has `reload` called on [`Event::Reload`].
    pub fn on_reload(&mut self, reload: Reload<C>) {
        self.reload = Some(reload);
    }

    /// Tells the service manager what becomes of the process.
    pub fn notify_by(&mut self, notifier: Notifier) {
        self.notifier = Some(notifier);
    }

    /// Adds a listener that is registered with the next token. The first one has [`LISTENER_TOKENS`].
    pub fn add_listener(&mut self, listener: N::Listener, entrance: Entrance) {
        self.listeners.add(listener, entrance);
    }

    /// What TLS listeners offer. Without it nobody is accepted there.
    pub fn offer_tls(&mut self, config: Arc<ServerConfig>) {
        self.tls = Some(config);
    }

    /// This target is reached by TLS.
    pub fn dial_by_tls(&mut self, target: Target, tls: DialTls) {
        self.dial_tls.push((target, tls));
    }

    /// Runs turns until the core ends. Returns its exit code.
    ///
    /// # Errors
    /// Waiting for events failed.
    pub fn run(&mut self) -> io::Result<u8> {
        if let Some(notifier) = &mut self.notifier {
            notifier.ready(self.now.mono);
        }
        loop {
            if let Some(code) = self.turn()? {
                return Ok(code);
            }
        }
    }

    /// Waits for events and deals with them. Returns the exit code once the core has ended.
    ///
    /// # Errors
    /// Waiting for events failed.
    pub fn turn(&mut self) -> io::Result<Option<u8>> {
        let due = self.core.next_timeout();
        let timeout = self.earliest(due).map(|at| at.since(self.now.mono));
        let mut events = core::mem::take(&mut self.events);
        self.has_accepted = false;
        self.net.poll(&mut events, timeout)?;
        self.now = self.net.now();
        self.handshakes.begin_turn();
        self.look_at(events);
        if due.is_some_and(|at| at <= self.now.mono) {
            // The process may have been stopped after it was told of these events. A second poll tells of
            // everything that happened before the time it now knows.
            let mut events = core::mem::take(&mut self.events);
            self.has_accepted = false;
            let polled = self.net.poll(&mut events, Some(Duration::ZERO))?;
            self.look_at(events);
            if self.has_caught_up(polled) {
                self.core.handle_timeout(self.now);
                self.obey();
                self.serve_ready();
            }
        }
        self.try_next_addresses();
        self.look_for_vanished();
        self.handshakes.handle_timeout(self.now.mono);
        self.core.handle_batch_end(self.now);
        self.obey();
        self.end_shares();
        // Only here: the watchdog must learn that turns end, not that they begin.
        if let Some(notifier) = &mut self.notifier {
            notifier.end_turn(self.now.mono);
        }
        if self.exit.is_some() {
            self.handshakes.handle_end(self.now.mono);
        }
        Ok(self.exit)
    }

    /// Notes the events of a batch and serves their connections.
    fn look_at(&mut self, mut events: Vec<Event>) {
        for event in events.drain(..) {
            self.note(event);
        }
        events.shrink_to(KEPT_ENTRIES);
        self.events = events;
        self.check_dialled();
        self.listeners.handle_timeout(self.now.mono);
        self.serve_ready();
        self.accept();
        self.serve_ready();
    }

    /// When the next turn has something to do, even if nothing happens.
    pub fn next_timeout(&self) -> Option<Mono> {
        self.earliest(self.core.next_timeout())
    }

    /// As [`Shell::next_timeout`], of a core that has something to do by `due`.
    fn earliest(&self, due: Option<Mono>) -> Option<Mono> {
        if !self.ready.is_empty() || !self.later.is_empty() || self.listeners.may_accept() {
            return Some(self.now.mono);
        }
        let notice = self.notifier.as_ref().and_then(Notifier::next_timeout);
        let or_never = |at: Option<Mono>| at.unwrap_or(Mono::NEVER);
        let next = or_never(due)
            .min(or_never(self.listeners.paused_until()))
            .min(or_never(notice))
            .min(or_never(self.look_at))
            .min(or_never(self.next_attempt()))
            .min(self.handshakes.next_timeout());
        (next != Mono::NEVER).then_some(next)
    }

    /// The core.
    pub fn core(&self) -> &C {
        &self.core
    }

    /// The network.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// How many connections there are, and how many blocks their buffers own.
    pub fn census(&self) -> (usize, usize) {
        (self.conns.len(), self.buffers.out())
    }

    /// How many bytes those blocks have.
    pub fn buffer_bytes(&self) -> usize {
        self.buffers.bytes()
    }

    /// Notes an event at its connection.
    fn note(&mut self, event: Event) {
        match event {
            Event::Ready { token, readable, writable, hangup } => {
                if let Some(index) = token.checked_sub(LISTENER_TOKENS) {
                    self.listeners.note_readable(index as usize);
                    return;
                }
                let key = Key::from_token(token);
                match self.conns.slot_mut(key) {
                    Some(Slot::Open(conn)) => {
                        if readable || hangup {
                            conn.readable = true;
                            conn.stream.note_edge();
                        }
                        conn.writable |= writable;
                        conn.hangup |= hangup;
                        self.has_hangups |= hangup;
                        if !conn.is_listed {
                            conn.is_listed = true;
                            self.ready.push(key);
                        }
                    }
                    Some(Slot::Connecting(attempts)) => {
                        attempts.hangup |= hangup;
                        self.dialled.push(key);
                    }
                    Some(Slot::Securing { hangup: noted, .. }) => {
                        *noted |= hangup;
                        self.check_securing(key);
                    }
                    Some(Slot::Resolving(_)) | None => {}
                }
            }
            Event::Resolved { token, addresses } => self.resolved(Key::from_token(token), addresses),
            Event::Vanished { sockets } => self.vanished(&sockets),
            Event::Terminate => {
                if let Some(notifier) = &mut self.notifier {
                    notifier.stopping(self.now.mono);
                }
                self.core.handle_drain(self.now);
                self.obey();
            }
            Event::Reload => {
                if let Some(notifier) = &mut self.notifier {
                    notifier.reloading(self.now.mono);
                }
                if let Some(mut reload) = self.reload.take() {
                    reload(&mut self.core, &mut self.tls, self.now);
                    self.reload = Some(reload);
                }
                if let Some(notifier) = &mut self.notifier {
                    notifier.reloaded(self.now.mono);
                }
                self.obey();
            }
        }
    }

    /// Puts a connection on the ready list, unless it is there.
    fn list(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.is_listed
        {
            conn.is_listed = true;
            self.ready.push(key);
        }
    }

    /// Serves the connections on the ready list, responders first, and those that become ready by it.
    #[inline]
    fn serve_ready(&mut self) {
        if !self.ready.is_empty() {
            self.serve_all_ready();
        }
    }

    fn serve_all_ready(&mut self) {
        for _ in 0..ROUNDS_PER_TURN {
            if self.ready.is_empty() {
                return;
            }
            let spare = core::mem::take(&mut self.spare);
            let mut batch = core::mem::replace(&mut self.ready, spare);
            // The admin side comes last: no application waits for it.
            batch.sort_by_key(|key| core::cmp::Reverse(key.kind()));
            if core::mem::take(&mut self.has_hangups) {
                // Before anything is read: a request whose client has left must not be started.
                for key in &batch {
                    self.tell_hangup(*key);
                }
                self.obey();
            }
            for key in batch.drain(..) {
                if let Some(conn) = self.conns.get_mut(key)
                    && !conn.is_put_off
                {
                    conn.is_listed = false;
                    self.serve(key);
                }
            }
            batch.shrink_to(KEPT_ENTRIES);
            self.spare = batch;
        }
    }

    /// The turn ends: connections that were put off get a share of the next one.
    #[inline]
    fn end_shares(&mut self) {
        for key in self.later.drain(..) {
            if let Some(conn) = self.conns.get_mut(key) {
                conn.is_put_off = false;
                self.ready.push(key);
            }
        }
        self.later.shrink_to(KEPT_ENTRIES);
    }

    fn tell_hangup(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key)
            && conn.hangup
            && !conn.hangup_told
        {
            conn.hangup_told = true;
            self.core.handle_hangup(key, self.now);
        }
    }

    fn serve(&mut self, key: Key) {
        self.tell_hangup(key);
        self.obey();
        self.flush(key);
        self.obey();
        self.pump(key);
    }
}
