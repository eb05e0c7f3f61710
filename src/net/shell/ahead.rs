//! Who leaves while nobody listens: the end of an input that is not wanted at present.
//!
//! On plain TCP the end is an edge of its own, however much stands before it unread. Under TLS it is a
//! message among the others, and some clients (those of Python's asyncio) say it and wait for ours before
//! their TCP connection ends. So the input is looked at, a little way, when an edge says that there is
//! something.

use std::io;

use super::Shell;
use crate::net::Net;
use crate::net::tls_stream::Ahead;
use crate::proto::seam::{Core, Why};
use crate::proto::tables::key::Key;

impl<C: Core, N: Net> Shell<C, N> {
    /// The core wants nothing from this connection. Tells it if the remote side has left.
    pub(super) fn look_ahead(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.readable || conn.hangup_told || conn.end.is_some() {
            return;
        }
        let seen = conn.stream.look_ahead(&mut self.net, &mut self.buffers);
        // What rustls had to answer may wait for the socket.
        let has_pending = conn.stream.has_pending();
        match seen {
            Ok(Ahead::End) => {
                (conn.hangup, conn.hangup_told) = (true, true);
                self.core.handle_hangup(key, self.now);
                self.obey();
            }
            Ok(Ahead::Bytes) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.list(key),
            Err(_) => {
                self.fail(key, Why::Failed);
                return;
            }
        }
        if has_pending {
            self.tell_waiting(key);
        }
    }
}
