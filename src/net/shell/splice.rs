//! Large bodies on plain TCP go from socket to socket through a pipe, without passing through this process
//! (splice(2)).
//!
//! It begins where the core says that what comes next goes on unread and there is enough of it, and a read
//! has just filled all its room, so that more is likely to be there. The pipe is taken for one lump and given
//! back when it is empty; what the receiving socket does not take stays in it, and counts as waiting like any
//! output.

use std::io::{self, IoSlice};

use super::Shell;
use super::conn::Piped;
use crate::net::stream::Stream;
use crate::net::{Net, Pipe};
use crate::proto::seam::{Core, Why};
use crate::proto::tables::key::Key;

/// A pipe takes two more system calls. Measured: below this size, copying through a buffer costs less.
const MIN_SPLICE_BYTES: u64 = 128 * 1024;

/// By how much the byte budget of a turn is larger for spliced bytes. Larger lumps cost less per byte: a
/// megabyte, which is what a pipe holds, takes a fifth less processor time than four quarters of one.
const LUMP_FACTOR: usize = 4;

/// What became of an attempt to splice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spliced {
    /// So much of the budget was used.
    Bytes(usize),
    /// There is nothing to move at present.
    Blocked,
    /// It cannot be done here; the bytes are read as usual.
    Unsupported,
}

impl<C: Core, N: Net> Shell<C, N> {
    /// Moves a lump of bytes from a connection to its peer, without showing it to the core.
    pub(super) fn splice(&mut self, key: Key, budget: usize) -> Spliced {
        let Some(conn) = self.conns.get(key) else { return Spliced::Unsupported };
        let Some(peer) = conn.peer.filter(|_| conn.input.is_empty()) else {
            return Spliced::Unsupported;
        };
        let opaque = self.core.opaque(key);
        let is_plain = |stream: &Stream<N::Socket>| matches!(stream, Stream::Plain(_));
        let to =
            self.conns.get(peer.key).filter(|to| !to.write_failed && to.writable && is_plain(&to.stream));
        if opaque < MIN_SPLICE_BYTES || to.is_none() || !is_plain(&conn.stream) {
            return Spliced::Unsupported;
        }
        let Some(pipe) = self.net.take_pipe() else { return Spliced::Unsupported };
        let most = usize::try_from(opaque).unwrap_or(usize::MAX).min(budget.saturating_mul(LUMP_FACTOR));
        let Some(conn) = self.conns.get_mut(key) else { return Spliced::Unsupported };
        let n = match self.net.splice_in(conn.stream.socket_mut(), pipe, most) {
            Ok(n) if n > 0 => n,
            result => {
                self.net.give_pipe(pipe, true);
                match result {
                    // The end: a read tells it again, in the usual way.
                    Ok(_) => return Spliced::Unsupported,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        conn.readable = false;
                        // The next bytes may be the last ones, or few.
                        conn.is_bulk = opaque > MIN_SPLICE_BYTES;
                        return Spliced::Blocked;
                    }
                    // The kernel tells an error once, and this was it.
                    Err(_) => {
                        self.fail(key, Why::Failed);
                        return Spliced::Blocked;
                    }
                }
            }
        };
        let mut before = core::mem::take(&mut self.scratch);
        let after = self.core.handle_opaque(key, n as u64, &mut before, self.now);
        let sent = self.send_lump(peer.key, &before, pipe, n, after);
        before.clear();
        self.scratch = before;
        if sent.is_err() {
            self.write_failed(peer.key);
        }
        self.tell_waiting(peer.key);
        self.obey();
        Spliced::Bytes(n.div_ceil(LUMP_FACTOR))
    }

    /// Sends a lump, and keeps what the socket does not take at once.
    fn send_lump(
        &mut self,
        key: Key,
        before: &[u8],
        pipe: Pipe,
        n: usize,
        after: &'static [u8],
    ) -> io::Result<()> {
        let Some(to) = self.conns.get_mut(key) else {
            self.net.give_pipe(pipe, false);
            return Ok(());
        };
        let mut lump = Lump { before, left: n, after };
        match lump.send(&mut self.net, to.stream.socket_mut(), pipe) {
            Ok(()) => {
                to.note_written(n);
                self.net.give_pipe(pipe, true);
                Ok(())
            }
            Err(error) => {
                let Lump { before: unsent, left, after } = lump;
                // From now on the rest may be written at any time.
                if error.kind() == io::ErrorKind::WouldBlock || left < n || unsent.len() < before.len() {
                    to.note_written(n);
                }
                let before = unsent;
                to.writable = false;
                to.piped = Some(Box::new(Piped { before: before.to_vec(), pipe, left, after }));
                if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Sends what waits in a connection's pipe.
    pub(super) fn flush_pipe(&mut self, key: Key) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        let Some(mut piped) = conn.piped.take() else { return Ok(()) };
        let mut lump = Lump { before: &piped.before, left: piped.left, after: piped.after };
        let result = lump.send(&mut self.net, conn.stream.socket_mut(), piped.pipe);
        let Lump { before, left, after } = lump;
        match result {
            Ok(()) => {
                self.net.give_pipe(piped.pipe, true);
                Ok(())
            }
            Err(error) => {
                (piped.left, piped.after) = (left, after);
                piped.before = before.to_vec();
                conn.piped = Some(piped);
                Err(error)
            }
        }
    }

    /// Drops what waits in a connection's pipe.
    pub(super) fn drop_pipe(&mut self, key: Key) {
        if let Some(piped) = self.conns.get_mut(key).and_then(|conn| conn.piped.take()) {
            self.net.give_pipe(piped.pipe, piped.left == 0);
        }
    }
}

/// What goes out around and through a pipe, in order.
struct Lump<'a> {
    before: &'a [u8],
    left: usize,
    after: &'static [u8],
}

impl Lump<'_> {
    /// Sends as much as the socket takes; would-block if that is not all.
    fn send<N: Net>(&mut self, net: &mut N, socket: &mut N::Socket, pipe: Pipe) -> io::Result<()> {
        loop {
            let result = if !self.before.is_empty() {
                net.write(socket, &[IoSlice::new(self.before)])
                    .map(|n| self.before = self.before.get(n..).unwrap_or_default())
            } else if self.left > 0 {
                net.splice_out(pipe, socket, self.left).map(|n| self.left = self.left.saturating_sub(n))
            } else if !self.after.is_empty() {
                net.write(socket, &[IoSlice::new(self.after)])
                    .map(|n| self.after = self.after.get(n..).unwrap_or_default())
            } else {
                return Ok(());
            };
            match result {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
}
