//! How bytes go out, and what the core hears of it.

use super::super::wires::{Blocked, Wires};
use super::conn::{Ending, Held, Peer};
use super::{Driver, HELD};
use crate::proto::seam::Core;
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::Now;

impl<C: Core> Driver<C> {
    pub(super) fn deliver(&mut self, key: Key, bytes: &[u8], wires: &mut Wires, now: Now) {
        let Some(conn) = self.conns.get_mut(&key).filter(|_| !bytes.is_empty()) else { return };
        let to = match conn.peer {
            Some(Peer::Requester(peer) | Peer::Responder { requester: peer, .. }) => peer,
            None => {
                conn.held.bytes.extend(bytes);
                assert!(conn.held.bytes.len() <= HELD, "more is held of {key:?} than there is room for");
                return;
            }
        };
        let Some(peer) = self.conns.get_mut(&to).filter(|peer| !peer.write_failed) else { return };
        let taken = if peer.output.is_empty() { peer.write(wires, bytes) } else { Err(Blocked::Yet) };
        let n = match taken {
            Ok(n) => n,
            Err(Blocked::Yet) => 0,
            Err(Blocked::For(_)) => return self.write_failed(to, wires, now),
        };
        // What was not taken may be written at any time from now on.
        if let Some(Peer::Responder { written, .. }) = &mut peer.peer {
            *written = true;
        }
        peer.output.extend(&bytes[n..]);
        self.flush(to, wires, now);
    }

    pub(super) fn flush(&mut self, key: Key, wires: &mut Wires, now: Now) {
        let mut moved = false;
        loop {
            let Some(conn) = self.conns.get(&key) else { return };
            let held = match conn.peer {
                Some(Peer::Responder { requester, .. }) => {
                    self.conns.get(&requester).map_or(&[][..], |r| r.held.unsent())
                }
                Some(Peer::Requester(_)) | None => &[],
            };
            let own = conn.output.len();
            let frames = conn.frames.as_ref().map_or(0, |frames| frames.outgoing.len());
            if own + held.len() + frames == 0 || conn.write_failed {
                break;
            }
            // The output first, then the held bytes.
            let bytes = if own > 0 { conn.output.clone() } else { held.to_vec() };
            let Some(conn) = self.conns.get_mut(&key) else { return };
            match conn.write(wires, &bytes) {
                Ok(n) => {
                    moved = true;
                    let Some(conn) = self.conns.get_mut(&key) else { return };
                    conn.output.drain(..n.min(own));
                    if n > own
                        && let Some(Peer::Responder { requester, written }) = &mut conn.peer
                    {
                        *written = true;
                        let requester = *requester;
                        let Some(lender) = self.conns.get_mut(&requester) else { return };
                        lender.held.sent += n - own;
                        if lender.held.released && lender.held.unsent().is_empty() {
                            lender.held = Held::default();
                        }
                    }
                }
                Err(Blocked::Yet) => break,
                Err(Blocked::For(_)) => return self.write_failed(key, wires, now),
            }
        }
        self.tell(key, moved, wires, now);
        self.finish_if_sent(key, wires);
    }

    /// What a responder sent before it reset still counts: reading tells the end. A requester is gone.
    fn write_failed(&mut self, key: Key, wires: &mut Wires, now: Now) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        if !matches!(conn.peer, Some(Peer::Responder { .. })) || conn.end.is_some() {
            self.failed.push(key);
            return;
        }
        conn.write_failed = true;
        conn.listed = true;
        conn.output.clear();
        wires.moves += 1;
        if core::mem::take(&mut conn.waiting_told) {
            self.core.handle_send_progress(key, false, now);
        }
    }

    fn tell(&mut self, key: Key, moved: bool, wires: &mut Wires, now: Now) {
        let waits = self.waits(key);
        let Some(conn) = self.conns.get_mut(&key) else { return };
        if conn.waiting_told != waits || (waits && moved) {
            conn.waiting_told = waits;
            wires.moves += 1;
            let peer = conn.peer.filter(|_| !waits);
            self.core.handle_send_progress(key, waits, now);
            if let Some(Peer::Requester(peer) | Peer::Responder { requester: peer, .. }) = peer {
                self.list(peer);
            }
        }
    }

    pub(super) fn list(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.listed = true;
        }
    }

    pub(super) fn waits(&self, key: Key) -> bool {
        let Some(conn) = self.conns.get(&key).filter(|conn| !conn.write_failed) else { return false };
        let held = match conn.peer {
            Some(Peer::Responder { requester, .. }) => self.conns.get(&requester),
            Some(Peer::Requester(_)) | None => None,
        };
        !conn.output.is_empty()
            || conn.frames.as_ref().is_some_and(|frames| !frames.outgoing.is_empty())
            || held.is_some_and(|conn| !conn.held.unsent().is_empty())
    }

    pub(super) fn is_held_up(&self, key: Key) -> bool {
        match self.conns.get(&key).and_then(|conn| conn.peer) {
            Some(Peer::Requester(peer) | Peer::Responder { requester: peer, .. }) => self.waits(peer),
            None => false,
        }
    }

    fn finish_if_sent(&mut self, key: Key, wires: &mut Wires) {
        if self.waits(key) {
            return;
        }
        let Some(conn) = self.conns.get_mut(&key) else { return };
        let after = match conn.ending {
            Ending::Finish => Ending::Finished,
            Ending::Linger { dropped, finished: false } => Ending::Linger { dropped, finished: true },
            Ending::No | Ending::Finished | Ending::Linger { finished: true, .. } => return,
        };
        if conn.say_end(wires) {
            conn.ending = after;
        }
    }
}
