//! Connections that are made: from a name to a socket that is connected, and secured if need be.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use log::warn;
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;

use super::Shell;
use super::conn::{Attempts, Conn, Slot};
use crate::net::Net;
use crate::net::buffer::Class;
use crate::net::stream::Stream;
use crate::net::tls_session::Session;
use crate::net::tls_stream::{TlsPeer, TlsStream};
use crate::proto::seam::{Closed, Core, End, Target, Unreachable, Why};
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::Mono;

/// After this time without an answer, the next address is tried as well (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// TLS could not be established.
const UNTRUSTED: Closed = Closed { why: Why::Unreachable(Unreachable::Untrusted), written: false };

/// Where `Command::Dial` goes.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// The hub, at an agent.
    pub hub: Option<Endpoint>,
    /// The upstreams, at an agent.
    pub upstreams: Vec<Endpoint>,
}

/// An address to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an IP address (without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
}

/// How a connection that we make is secured.
#[derive(Clone, Debug)]
pub struct DialTls {
    /// Whom we trust, and what we offer.
    pub config: Arc<ClientConfig>,
    /// Whom we expect.
    pub name: ServerName<'static>,
    /// What they are called in the log.
    pub whom: String,
    /// Whether TLS begins by `Command::Secure` instead of at once: when a proxy is between.
    pub is_later: bool,
}

impl Targets {
    pub(super) fn get(&self, target: Target) -> Option<&Endpoint> {
        match target {
            Target::Hub => self.hub.as_ref(),
            Target::Upstream(index) => self.upstreams.get(usize::from(index)),
        }
    }
}

impl<C: Core, N: Net> Shell<C, N> {
    pub(super) fn resolved(&mut self, key: Key, mut addresses: Vec<SocketAddr>) {
        let Some(Slot::Resolving(target)) = self.conns.slot_mut(key) else { return };
        let target = *target;
        self.core.handle_resolved(key, self.now);
        // They are tried from the end.
        addresses.reverse();
        let why = if addresses.is_empty() { Unreachable::NameNotFound } else { Unreachable::Other };
        let attempts =
            Attempts { target, sockets: Vec::new(), left: addresses, hangup: false, are_several: false };
        if let Some(slot) = self.conns.slot_mut(key) {
            *slot = Slot::Connecting(Box::new(attempts));
        }
        self.connect_next(key, why);
    }

    /// Connects to the next address. If none is left and no attempt is under way, the connection has failed.
    fn connect_next(&mut self, key: Key, mut why: Unreachable) {
        let Some(Slot::Connecting(attempts)) = self.conns.slot_mut(key) else { return };
        while let Some(address) = attempts.left.pop() {
            let connected = self.net.connect(address).and_then(|mut socket| {
                self.net.register(&mut socket, key.to_token())?;
                Ok(socket)
            });
            match connected {
                Ok(socket) => {
                    attempts.are_several |= !attempts.sockets.is_empty();
                    attempts.sockets.push(socket);
                    if !attempts.left.is_empty() {
                        self.attempts.push_back((self.now.mono.after(ATTEMPT_DELAY), key));
                    }
                    return;
                }
                Err(error) => why = unreachable(&error),
            }
        }
        if attempts.sockets.is_empty() {
            self.conns.remove(key);
            self.core.handle_closed(key, Closed { why: Why::Unreachable(why), written: false }, self.now);
            self.obey();
        }
    }

    /// When the next address of a connection is tried beside those that have not answered.
    pub(super) fn next_attempt(&self) -> Option<Mono> {
        self.attempts.front().map(|(at, _)| *at)
    }

    /// Tries the next address of each connection whose last attempt takes too long.
    pub(super) fn try_next_addresses(&mut self) {
        while let Some((_, key)) = self.attempts.pop_front_if(|(at, _)| *at <= self.now.mono) {
            self.connect_next(key, Unreachable::Other);
        }
    }

    /// Checks the connections that are being made and had an event. By now all events of the batch are noted:
    /// an event of an attempt that is over must not be taken for one of the finished connection.
    #[inline]
    pub(super) fn check_dialled(&mut self) {
        while let Some(key) = self.dialled.pop() {
            self.check_connecting(key);
        }
    }

    /// Checks whether a connection is made now, or an attempt has failed.
    fn check_connecting(&mut self, key: Key) {
        let Some(Slot::Connecting(attempts)) = self.conns.slot_mut(key) else { return };
        let mut index = 0;
        while let Some(socket) = attempts.sockets.get_mut(index) {
            match self.net.connected(socket) {
                Ok(false) => index += 1,
                Ok(true) => {
                    let mut socket = attempts.sockets.swap_remove(index);
                    let (target, hangup) = (attempts.target, attempts.hangup && !attempts.are_several);
                    // It is not known which edges were about this socket, so they are told again: connecting,
                    // data and FIN may share one edge.
                    let is_told =
                        !attempts.are_several || self.net.reregister(&mut socket, key.to_token()).is_ok();
                    self.conns.remove(key);
                    match self.tls_of(target) {
                        _ if !is_told => {
                            let why = Why::Unreachable(Unreachable::Other);
                            self.core.handle_closed(key, Closed { why, written: false }, self.now);
                            self.obey();
                        }
                        Some(tls) if !tls.is_later => {
                            self.secure(key, socket, target, &tls.clone(), hangup);
                        }
                        Some(_) | None => self.opened(key, Stream::Plain(socket), hangup),
                    }
                    return;
                }
                Err(error) => {
                    // Not by FIN: a socket that was connected to itself would keep the port, and its server
                    // could not listen there.
                    self.net.abort(attempts.sockets.remove(index));
                    attempts.hangup = false;
                    self.connect_next(key, unreachable(&error));
                    self.check_connecting(key);
                    return;
                }
            }
        }
    }

    pub(super) fn tls_of(&self, target: Target) -> Option<&DialTls> {
        self.dial_tls.iter().find(|(of, _)| *of == target).map(|(_, tls)| tls)
    }

    /// A connection that was dialled is open.
    fn opened(&mut self, key: Key, stream: Stream<N::Socket>, hangup: bool) {
        let mut conn = Conn::new(stream);
        conn.hangup = hangup;
        self.conns.insert(key, Slot::Open(conn));
        if hangup {
            self.read_ended(key);
            if self.conns.get(key).is_none() {
                return;
            }
        }
        self.core.handle_connected(key, self.now);
        self.obey();
        // No edge announces what came along with the end of a handshake.
        if let Some(conn) = self.conns.get_mut(key) {
            conn.readable = true;
            self.list(key);
        }
    }

    /// The remote side ended a connection before it was open here. Unless bytes came first, the core is told
    /// at once, before it sends anything.
    fn read_ended(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let space = conn.input.space(Class::Medium, &mut self.buffers);
        let result = conn.stream.read(&mut self.net, &mut self.buffers, space);
        conn.input.filled(*result.as_ref().unwrap_or(&0), &mut self.buffers);
        conn.end = match result {
            Ok(0) => Some(conn.stream.end()),
            Ok(_) => None,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                None
            }
            // The kernel tells an error once, and this was it.
            Err(_) => Some(End::Cut),
        };
        if conn.end.is_some() {
            self.tell_hangup(key);
            self.obey();
        }
    }

    /// Begins TLS on a connection that was dialled.
    pub(super) fn secure(
        &mut self,
        key: Key,
        socket: N::Socket,
        target: Target,
        tls: &DialTls,
        hangup: bool,
    ) {
        match UnbufferedClientConnection::new(Arc::clone(&tls.config), tls.name.clone()) {
            Ok(session) => {
                let stream = TlsStream::new(socket, Session::Client(session), TlsPeer::Target(target));
                self.conns.insert(key, Slot::Securing { stream: Box::new(stream), hangup });
                self.check_securing(key);
            }
            Err(error) => {
                warn!("cannot begin TLS: {error}");
                self.core.handle_closed(key, UNTRUSTED, self.now);
                self.obey();
            }
        }
    }

    pub(super) fn check_securing(&mut self, key: Key) {
        let Some(Slot::Securing { stream, .. }) = self.conns.slot_mut(key) else { return };
        match stream.handshake(&mut self.net, &mut self.buffers) {
            Ok(false) => {}
            Ok(true) => {
                let Some(Slot::Securing { stream, hangup }) = self.conns.remove(key) else { return };
                self.opened(key, Stream::Tls(stream), hangup);
            }
            Err(_) => {
                self.drop_slot(key);
                self.core.handle_closed(key, UNTRUSTED, self.now);
                self.obey();
            }
        }
    }
}

fn unreachable(error: &io::Error) -> Unreachable {
    if error.kind() == io::ErrorKind::ConnectionRefused { Unreachable::Refused } else { Unreachable::Other }
}
