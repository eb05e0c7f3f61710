//! The commands of the core, and how a connection ends.

use log::warn;

use super::conn::{Conn, Ending, Peer, Role, Slot};
use super::{KEPT_ENTRIES, Shell};
use crate::net::Net;
use crate::net::buffer::Buffer;
use crate::net::explain::explain_handshake;
use crate::net::framed::FramedStream;
use crate::net::stream::Stream;
use crate::net::tls_stream::{TlsPeer, TlsStream};
use crate::proto::seam::{Close, Closed, Command, Core, Why};
use crate::proto::tables::key::Key;
use crate::proto::websocket::Side;

impl<C: Core, N: Net> Shell<C, N> {
    /// Takes a connection out of the tables and closes it.
    pub(super) fn drop_slot(&mut self, key: Key) {
        self.drop_pipe(key);
        match self.conns.remove(key) {
            Some(Slot::Open(mut conn)) => {
                // RFC 8446 section 6.1: what is FIN on plain TCP is close_notify and FIN. If it has to wait,
                // it is left out.
                conn.stream.part(&mut self.net, &mut self.buffers);
                if let Stream::Tls(stream) = &conn.stream {
                    self.note_handshake(stream);
                }
                conn.clear(&mut self.buffers);
            }
            Some(Slot::Securing { stream, .. }) => {
                self.note_handshake(&stream);
                drop(Stream::Tls(stream).into_socket(&mut self.buffers));
            }
            Some(Slot::Resolving(_) | Slot::Connecting(_)) | None => {}
        }
    }

    /// A connection with TLS goes. If its handshake was not over, the log says why.
    fn note_handshake(&mut self, stream: &TlsStream<N::Socket>) {
        let Some(failure) = stream.failure() else { return };
        let (peer, now) = (stream.peer(), self.now.mono);
        let why = explain_handshake(&failure, peer);
        match peer {
            TlsPeer::Client(address) => self.handshakes.fail(peer, &address.to_string(), &why, now),
            TlsPeer::Target(target) => {
                let name =
                    self.dial_tls.iter().find(|(of, _)| *of == target).map_or("", |(_, tls)| &tls.whom);
                self.handshakes.fail(peer, name, &why, now);
            }
        }
    }

    /// Carries out the core's commands, and those that follow from them.
    #[inline]
    pub(super) fn obey(&mut self) {
        if !self.core.commands().is_empty() || !self.failed.is_empty() {
            self.obey_all();
        }
    }

    fn obey_all(&mut self) {
        while !self.core.commands().is_empty() || !self.failed.is_empty() {
            let mut commands = core::mem::take(&mut self.commands);
            core::mem::swap(&mut commands, self.core.commands());
            for command in commands.drain(..) {
                self.carry_out(command);
            }
            commands.shrink_to(KEPT_ENTRIES);
            self.commands = commands;
            while let Some((key, why)) = self.failed.pop() {
                self.fail(key, why);
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Dial { key, target } => match self.targets.get(target) {
                Some(endpoint) => {
                    self.conns.insert(key, Slot::Resolving(target));
                    self.net.resolve(&endpoint.host, endpoint.port, key.to_token());
                }
                None => warn!("no such target: {target:?}"),
            },
            Command::Send { key, bytes } => self.send(key, &bytes),
            Command::Pair { requester, responder, upto } => {
                if let Some(conn) = self.conns.get_mut(requester) {
                    conn.peer = Some(Peer { key: responder, role: Role::Requester });
                    conn.held.begin(upto);
                }
                if let Some(conn) = self.conns.get_mut(responder) {
                    conn.peer = Some(Peer { key: requester, role: Role::Responder { written: false } });
                }
                self.flush(responder);
            }
            Command::SendHeld(key) => {
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.held.allow(None);
                    if let Some(peer) = conn.peer {
                        self.flush(peer.key);
                    }
                }
            }
            Command::DropHeld(key) => {
                if let Some(conn) = self.conns.get_mut(key) {
                    if conn.peer.is_some() && !conn.held.is_sent() {
                        conn.held.release();
                    } else {
                        conn.held.clear(&mut self.buffers);
                    }
                }
            }
            Command::Unpair(key) => self.unpair(key),
            Command::Resume(key) => {
                if self.conns.get(key).is_some_and(Conn::has_news) {
                    self.list(key);
                }
            }
            Command::Finish(key) => {
                if let Some(conn) = self.conns.get_mut(key)
                    && conn.ending == Ending::No
                {
                    conn.ending = Ending::Finish;
                    self.flush(key);
                }
            }
            Command::Close(key, Close::Linger) => {
                self.unpair(key);
                if let Some(conn) = self.conns.get_mut(key) {
                    let finished = conn.ending == Ending::Finished;
                    conn.ending = Ending::Linger { dropped: 0, finished };
                    conn.input.clear(&mut self.buffers);
                    self.flush(key);
                    self.list(key);
                }
            }
            Command::Close(key, how) => {
                self.unpair(key);
                if how == Close::Reset
                    && let Some(conn) = self.conns.get_mut(key)
                {
                    conn.clear(&mut self.buffers);
                    self.drop_pipe(key);
                    if let Some(Slot::Open(conn)) = self.conns.remove(key) {
                        self.net.abort(conn.stream.into_socket(&mut self.buffers));
                    }
                } else {
                    self.drop_slot(key);
                }
            }
            Command::Rekey { from, to } => {
                if let Some(Slot::Open(mut conn)) = self.conns.remove(from) {
                    if self.net.reregister(conn.stream.socket_mut(), to.to_token()).is_err() {
                        self.failed.push((to, Why::Failed));
                    }
                    (conn.is_listed, conn.is_put_off) = (false, false);
                    self.conns.insert(to, Slot::Open(conn));
                    self.list(to);
                }
            }
            Command::Secure { key, target } => {
                let tls = self.tls_of(target).cloned();
                if let (Some(tls), Some(Slot::Open(mut conn))) = (tls, self.conns.remove(key)) {
                    conn.clear(&mut self.buffers);
                    let hangup = conn.hangup;
                    let socket = conn.stream.into_socket(&mut self.buffers);
                    self.secure(key, socket, target, &tls, hangup);
                }
            }
            Command::Frame { key, side } => self.frame(key, side),
            Command::Exit(code) => self.exit = Some(code),
        }
    }

    /// Puts frames around what a connection sends, and takes them off what it receives.
    fn frame(&mut self, key: Key, side: Side) {
        let Some(Slot::Open(conn)) = self.conns.remove(key) else { return };
        let Conn { stream, mut input, output, end, .. } = conn;
        let mut framed = FramedStream::new(stream, side, output);
        match framed.unwrap(input.data_mut()) {
            Ok(n) => input.truncate(n, &mut self.buffers),
            Err(_) => {
                input.clear(&mut self.buffers);
                self.failed.push((key, Why::Failed));
            }
        }
        let end = end.map(|_| framed.end());
        let stream = Stream::Framed(Box::new(framed));
        // There may have been a Close frame.
        let conn = Conn { stream, input, output: Buffer::new(), end, readable: true, ..conn };
        self.conns.insert(key, Slot::Open(conn));
        self.list(key);
    }

    /// Parts a connection from its peer.
    pub(super) fn unpair(&mut self, key: Key) {
        let Some(peer) = self.conns.get_mut(key).and_then(|conn| conn.peer.take()) else { return };
        let other = self.conns.get_mut(peer.key).map(|other| {
            other.peer = None;
            peer.key
        });
        let requester = match peer.role {
            Role::Requester => Some(key),
            Role::Responder { .. } => other,
        };
        if let Some(conn) = requester.and_then(|key| self.conns.get_mut(key))
            && conn.held.is_released()
        {
            conn.held.clear(&mut self.buffers);
        }
    }

    /// A connection broke: it goes, and the core is told.
    pub(super) fn fail(&mut self, key: Key, why: Why) {
        let Some(conn) = self.conns.get(key) else { return };
        let written = match conn.peer {
            Some(Peer { role: Role::Responder { written }, .. }) => written,
            Some(Peer { role: Role::Requester, .. }) | None => false,
        };
        self.unpair(key);
        self.drop_slot(key);
        self.core.handle_closed(key, Closed { why, written }, self.now);
        self.obey();
    }
}
