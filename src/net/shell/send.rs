//! How bytes are sent.
//!
//! Writing is tried at once, with everything that one look at the input made: head and body go out in one
//! call, and the body is not copied. Only what the socket does not take is copied to the connection's output,
//! and as long as anything is there, the input that it comes from is not looked at.

use std::io::{self, IoSlice};

use super::Shell;
use super::conn::{Conn, Ending, Peer, Role};
use super::held::Held;
use super::pieces::{MAX_PIECES, Piece};
use crate::net::Net;
use crate::proto::seam::{Core, Why};
use crate::proto::tables::key::Key;

impl<C: Core, N: Net> Shell<C, N> {
    /// Sends pieces to the peer, or adds them to the held bytes where there is none.
    pub(super) fn deliver(&mut self, key: Key, pieces: &[Option<Piece>], input: &[u8], out: &[u8]) {
        if pieces.is_empty() {
            return;
        }
        let mut slices = [IoSlice::new(&[]); MAX_PIECES];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            let bytes = match piece {
                Some(Piece::Ours(range)) => out.get(range.clone()),
                Some(Piece::Theirs(range)) => input.get(range.clone()),
                None => None,
            };
            *slice = IoSlice::new(bytes.unwrap_or_default());
        }
        let mut slices = slices.get_mut(..pieces.len()).unwrap_or_default();
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(peer) = conn.peer else {
            for slice in slices.iter() {
                conn.held.append(slice, &mut self.buffers);
            }
            return;
        };
        let Some(to) = self.conns.get_mut(peer.key) else { return };
        if to.write_failed {
            return;
        }
        // Nothing waits there: otherwise the input would not have been looked at.
        while to.writable && to.output.is_empty() && !slices.is_empty() {
            let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
            match to.stream.write(&mut self.net, &mut self.buffers, slices) {
                Ok(n) => {
                    to.note_written(n);
                    to.writable = !to.stream.is_filled_by(n, wanted);
                    IoSlice::advance_slices(&mut slices, n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.write_failed(peer.key);
                    return;
                }
            }
        }
        if slices.is_empty() && !to.stream.has_pending() {
            return;
        }
        for slice in slices.iter() {
            // From now on it may be written at any time.
            to.note_written(slice.len());
            if to.output.append(slice, &mut self.buffers).is_err() {
                self.failed.push((peer.key, Why::Failed));
            }
        }
        self.tell_waiting(peer.key);
    }

    /// Sends bytes of the core's own.
    pub(super) fn send(&mut self, key: Key, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.output.append(bytes, &mut self.buffers).is_err() {
            self.failed.push((key, Why::Failed));
            return;
        }
        self.flush(key);
    }

    /// Sends what waits: the output, then what a responder may be sent of the held bytes, then FIN if it is
    /// wanted.
    pub(super) fn flush(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let ends = !matches!(conn.ending, Ending::No | Ending::Finished);
        if self.conns.has_waiting(conn) {
            self.send_waiting(key);
        }
        if ends {
            self.finish_if_sent(key);
        }
    }

    fn send_waiting(&mut self, key: Key) {
        let mut moved = false;
        if self.conns.get(key).is_some_and(|conn| conn.piped.is_some() && conn.writable && !conn.write_failed)
        {
            moved = true;
            if let Err(error) = self.flush_pipe(key) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.write_failed(key);
                    return;
                }
                if let Some(conn) = self.conns.get_mut(key) {
                    conn.writable = false;
                }
            }
        }
        if let Some(conn) = self.conns.get_mut(key)
            && conn.writable
            && !conn.write_failed
            && conn.stream.has_pending()
        {
            match conn.stream.flush(&mut self.net, &mut self.buffers) {
                Ok(()) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.writable = false,
                Err(_) => {
                    self.write_failed(key);
                    return;
                }
            }
        }
        loop {
            let Some((conn, held)) = self.conns.with_held(key) else { return };
            let (ours, theirs) = (conn.output.data(), held.as_deref().map_or(&[][..], Held::unsent));
            let (own, all) = (ours.len(), ours.len() + theirs.len());
            if all == 0 || !conn.writable || conn.write_failed {
                break;
            }
            let both = [IoSlice::new(ours), IoSlice::new(theirs)];
            let slices = match &both {
                [ours, _] if theirs.is_empty() => core::slice::from_ref(ours),
                [_, theirs] if own == 0 => core::slice::from_ref(theirs),
                both => &both[..],
            };
            let result = conn.stream.write(&mut self.net, &mut self.buffers, slices);
            let sent = *result.as_ref().unwrap_or(&0);
            conn.output.consume(sent.min(own), &mut self.buffers);
            if let Some(held) = held
                && sent > own
            {
                conn.note_written(sent - own);
                held.note_sent(sent - own, &mut self.buffers);
            }
            match result {
                Ok(n) => {
                    moved |= n > 0;
                    conn.writable = !conn.stream.is_filled_by(n, all);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.write_failed(key);
                    return;
                }
            }
        }
        match self.conns.get(key) {
            Some(Conn { waiting_told: false, .. }) => self.tell_waiting(key),
            Some(_) if moved => self.tell_moved(key),
            Some(_) | None => {}
        }
    }

    /// Whether anything waits to be sent to this connection.
    fn waits(&self, key: Key) -> bool {
        self.conns.get(key).is_some_and(|conn| self.conns.has_waiting(conn))
    }

    /// Whether the input of this connection must not be looked at, because its peer has not taken everything
    /// yet.
    pub(super) fn is_held_up(&self, key: Key) -> bool {
        self.conns.get(key).and_then(|conn| conn.peer).is_some_and(|peer| self.waits(peer.key))
    }

    /// Tells the core, once, that bytes have begun to wait.
    pub(super) fn tell_waiting(&mut self, key: Key) {
        let waits = self.waits(key);
        if let Some(conn) = self.conns.get_mut(key)
            && waits
            && !conn.waiting_told
        {
            conn.waiting_told = true;
            self.core.handle_send_progress(key, true, self.now);
        }
    }

    /// Some of what waited was taken. The core is told if it knew that bytes wait; once all is taken, the
    /// source goes on.
    fn tell_moved(&mut self, key: Key) {
        let waits = self.waits(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let peer = conn.peer;
        if conn.waiting_told {
            conn.waiting_told = waits;
            self.core.handle_send_progress(key, waits, self.now);
            if !waits && let Some(peer) = peer {
                self.list(peer.key);
            }
        }
    }

    fn finish_if_sent(&mut self, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        let after = match conn.ending {
            Ending::Finish => Ending::Finished,
            Ending::Linger { dropped, finished: false } => Ending::Linger { dropped, finished: true },
            Ending::No | Ending::Finished | Ending::Linger { finished: true, .. } => return,
        };
        if self.waits(key) {
            return;
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.stream.say_end(&mut self.buffers);
        match conn.stream.flush(&mut self.net, &mut self.buffers) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.writable = false;
                return;
            }
            Ok(()) | Err(_) => {}
        }
        conn.ending = after;
        if !conn.write_failed
            && conn.stream.ends_by_fin()
            && self.net.shutdown(conn.stream.socket_mut()).is_err()
        {
            self.failed.push((key, Why::Failed));
        }
    }

    /// A write failed. A requester is then gone. What a responder has sent still counts, and reading it will
    /// tell the end.
    pub(super) fn write_failed(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let is_responder = matches!(conn.peer, Some(Peer { role: Role::Responder { .. }, .. }));
        if !is_responder || conn.end.is_some() {
            self.failed.push((key, Why::Failed));
            return;
        }
        conn.write_failed = true;
        conn.readable = true;
        conn.hangup = true;
        conn.output.clear(&mut self.buffers);
        self.drop_pipe(key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.waiting_told {
            conn.waiting_told = false;
            self.core.handle_send_progress(key, false, self.now);
        }
        self.list(key);
    }
}
