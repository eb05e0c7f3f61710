//! Connections that are made: from a name to a socket that is connected, and secured if need be.

use core::net::SocketAddr;
use std::io;
use std::sync::Arc;

use log::warn;
use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;

use super::Net;
use super::conn::{Conn, Slot};
use super::handshakes::With;
use super::shell::Shell;
use super::stream::{Session, Stream, TlsStream};
use crate::proto::key::Key;
use crate::proto::seam::{Closed, Core, Target, Unreachable, Why};

/// TLS could not be established.
const UNTRUSTED: Closed = Closed { why: Why::Unreachable(Unreachable::Untrusted), written: false };

/// Where [`Command::Dial`] goes.
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
    /// Whether TLS begins by [`Command::Secure`] instead of at once: when a proxy is between.
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
        // They are tried from the end.
        addresses.reverse();
        let why = if addresses.is_empty() { Unreachable::NameNotFound } else { Unreachable::Other };
        self.connect_next(key, target, addresses, why);
    }

    /// Connects to the next address that is left, or reports that there is none.
    fn connect_next(&mut self, key: Key, target: Target, mut left: Vec<SocketAddr>, mut why: Unreachable) {
        while let Some(address) = left.pop() {
            let connected = self.net.connect(address).and_then(|mut socket| {
                self.net.register(&mut socket, key.to_token())?;
                Ok(socket)
            });
            match connected {
                Ok(socket) => {
                    if let Some(slot) = self.conns.slot_mut(key) {
                        *slot = Slot::Connecting { socket, target, left };
                    }
                    return;
                }
                Err(error) => why = unreachable(&error),
            }
        }
        self.conns.remove(key);
        self.core.handle_closed(key, Closed { why: Why::Unreachable(why), written: false }, self.now);
        self.obey();
    }

    /// Looks whether a connection stands now. With `hangup` the event said that the remote side has closed it already: connecting, data
    /// and FIN may share one edge, and no other one comes.
    pub(super) fn check_connecting(&mut self, key: Key, hangup: bool) {
        let Some(Slot::Connecting { socket, target, left }) = self.conns.slot_mut(key) else { return };
        match self.net.connected(socket) {
            Ok(false) => {}
            Ok(true) => {
                let target = *target;
                let Some(Slot::Connecting { socket, .. }) = self.conns.remove(key) else { return };
                match self.tls_of(target) {
                    Some(tls) if !tls.is_later => self.secure(key, socket, target, &tls.clone(), hangup),
                    Some(_) | None => self.opened(key, Stream::Plain(socket), hangup),
                }
            }
            Err(error) => {
                let (target, left) = (*target, core::mem::take(left));
                self.connect_next(key, target, left, unreachable(&error));
            }
        }
    }

    pub(super) fn tls_of(&self, target: Target) -> Option<&DialTls> {
        self.dial_tls.iter().find(|(of, _)| *of == target).map(|(_, tls)| tls)
    }

    /// A connection that was dialled stands.
    fn opened(&mut self, key: Key, stream: Stream<N::Socket>, hangup: bool) {
        let mut conn = Conn::new(stream);
        conn.hangup = hangup;
        self.conns.insert(key, Slot::Open(conn));
        self.core.handle_connected(key, self.now);
        self.obey();
        // What came along with the end of a handshake is announced by no edge.
        if let Some(conn) = self.conns.get_mut(key) {
            conn.readable = true;
            self.list(key);
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
                let stream = TlsStream::new(socket, Session::Client(session), With::Target(target));
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
