//! Connections that are accepted.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use log::{debug, warn};
use rustls::server::UnbufferedServerConnection;

use super::Shell;
use super::conn::{Conn, Slot};
use super::listeners::Entrance;
use crate::net::Net;
use crate::net::stream::Stream;
use crate::net::tls_session::Session;
use crate::net::tls_stream::{TlsPeer, TlsStream};
use crate::proto::seam::{Caller, Closed, Core, Why};

/// Connections accepted in one turn, so that a flood of them does not starve those that are there.
const ACCEPT_BUDGET: usize = 64;
/// How long accepting pauses when the process has run out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl<C: Core, N: Net> Shell<C, N> {
    pub(super) fn accept(&mut self) {
        let mut budget = ACCEPT_BUDGET;
        for index in 0..self.listeners.len() {
            while budget > 0 && self.listeners.paused_until().is_none() && self.accept_one(index) {
                budget -= 1;
            }
        }
    }

    /// What accept(2) says, unless it has said that none waits.
    fn accept_from(&mut self, index: usize) -> Option<io::Result<(N::Socket, SocketAddr)>> {
        Some(self.net.accept(self.listeners.waiting(index)?))
    }

    /// Accepts one connection from this listener. False if there is none at present.
    fn accept_one(&mut self, index: usize) -> bool {
        let Some(entrance) = self.listeners.entrance(index) else { return false };
        let Some(mut result) = self.accept_from(index) else { return false };
        if result.as_ref().is_err_and(is_of_process) {
            // A freed descriptor lets us accept at once: legitimate clients may be queued behind a flood.
            let made_room = self.core.handle_exhausted(self.now);
            self.obey();
            if made_room && let Some(again) = self.accept_from(index) {
                result = again;
            }
        }
        let (mut socket, peer) = match result {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.listeners.note_empty(index);
                return false;
            }
            // The connection that was waiting is gone; others may wait (accept(2)).
            Err(error) if is_of_connection(&error) => return true,
            Err(error) => {
                debug!("cannot accept: {error}");
                self.listeners.pause(self.now.mono.after(ACCEPT_PAUSE));
                return false;
            }
        };
        let session = match (entrance.is_tls(), &self.tls) {
            (false, _) => None,
            (true, Some(config)) => match UnbufferedServerConnection::new(Arc::clone(config)) {
                Ok(session) => Some(Session::Server(session)),
                Err(error) => {
                    warn!("cannot begin TLS: {error}");
                    return true;
                }
            },
            (true, None) => return true,
        };
        let key = match entrance {
            Entrance::Plain | Entrance::Tls => self.core.handle_accepted(peer, entrance.is_tls(), self.now),
            Entrance::Admin | Entrance::AdminTls => {
                self.core.handle_admin_accepted(Caller::Network(peer.ip()), self.now)
            }
            Entrance::AdminUnix => self.core.handle_admin_accepted(Caller::Unix, self.now),
        };
        self.obey();
        let Some(key) = key else { return true };
        if let Err(error) = self.net.register(&mut socket, key.to_token()) {
            debug!("cannot register a connection: {error}");
            self.core.handle_closed(key, Closed { why: Why::Failed, written: false }, self.now);
            self.obey();
            return true;
        }
        let conn = Conn::new(match session {
            None => Stream::Plain(socket),
            Some(session) => {
                if let Some(oldest) = self.handshakes.begin(key, |key| self.conns.is_handshaking(key)) {
                    self.fail(oldest, Why::Failed);
                }
                let peer = TlsPeer::Client(peer.ip().to_canonical());
                Stream::Tls(Box::new(TlsStream::new(socket, session, peer)))
            }
        });
        // It is not read before its first edge, which the next turn tells. Only edges say that the remote
        // side has already left; and most clients have sent their request by the time they are accepted, so
        // that a read now and one after the edge would be one too many.
        self.has_accepted = true;
        self.conns.insert(key, Slot::Open(conn));
        true
    }
}

/// Whether accept(2) failed for want of descriptors or memory.
fn is_of_process(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::WouldBlock && !is_of_connection(error)
}

/// Whether accept(2) failed because of the connection that it would have returned, and not for lack of our
/// own resources.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
        PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
            | TimedOut
    )
}
