//! How bytes move: from a socket, past the core, to the peer's socket, in as few system calls as there are
//! messages.
//!
//! **Reading** stops where the core wants nothing, where the peer has not taken everything yet, and after a
//! budget, so that one connection does not starve the others. A short read proves that the socket is empty,
//! unless an edge said that the remote side has closed: data and FIN share one edge.
//!
//! **Writing** is tried at once, with everything that one look at the input made: head and body go out in one
//! call, and the body is not copied. Only what the socket does not take is copied to the connection's output,
//! and as long as anything is there, the input that it comes from is not looked at.

use core::ops::Range;
use std::io::{self, IoSlice};

use log::debug;

use super::Shell;
use super::conn::{Conn, Ending, Peer, Role};
use super::splice::Spliced;
use crate::net::Net;
use crate::net::buffer::{Buffer, Class, offset};
use crate::net::stream::Stream;
use crate::proto::seam::{Command, Core, End, Shown, Step, Why};
use crate::proto::tables::key::Key;

/// Bytes read from one connection in one turn.
const READ_BUDGET_BYTES: usize = 256 * 1024;
/// Times that what one connection sent may make the core say something in one turn: it does so of each head,
/// and of hardly anything else. A client that sends thousands of small requests at once, each of which the
/// hub answers by itself, makes nobody wait for all of them.
const HEAD_BUDGET: usize = 16;
/// What a step of the core costs of the bytes, beyond the first ones: chunks may be of one byte.
const STEP_COST_BYTES: usize = 256;
/// Steps that every look at the input takes.
const FREE_STEPS: usize = 4;
/// Steps in one look at the input, which are some 100 microseconds.
const MAX_STEPS: usize = READ_BUDGET_BYTES / STEP_COST_BYTES;
/// Several pieces that have no more bytes than this together are copied into one: a system call with one
/// range of bytes costs less than one with several by more than the copying does. With TLS they share a
/// record.
const MAX_JOINED_BYTES: usize = 2 * 1024;
/// Pieces that go out in one write.
const MAX_PIECES: usize = 16;
/// Bytes that a lingering connection may still send us before it is closed: what was on its way when it was
/// told to stop.
const MAX_LINGER_BYTES: u32 = 4 * 1024 * 1024;

/// What a look at the input cost of a connection's share of the turn, beside the bytes that were read for it.
struct Cost {
    bytes: usize,
    heads: usize,
}

/// A part of what goes to the peer.
enum Piece {
    /// From the scratch buffer: written by the core.
    Ours(Range<usize>),
    /// From the input: passed by the core.
    Theirs(Range<usize>),
}

impl Piece {
    fn range(&self) -> &Range<usize> {
        let (Self::Ours(range) | Self::Theirs(range)) = self;
        range
    }
}

impl<C: Core, N: Net> Shell<C, N> {
    /// Reads what there is and shows it to the core, for as long as it is wanted, there is room, and the
    /// budget lasts.
    pub(super) fn pump(&mut self, key: Key) {
        let (mut budget, mut heads) = (READ_BUDGET_BYTES, HEAD_BUDGET);
        loop {
            let Some(conn) = self.conns.get(key) else { return };
            if let Ending::Linger { .. } = conn.ending {
                self.drop_input(key, budget);
                return;
            }
            if !conn.has_news() {
                return;
            }
            let is_unsettled = conn.is_unsettled;
            if self.is_held_up(key) {
                return;
            }
            if !is_unsettled && !self.core.wants_input(key) {
                self.look_ahead(key);
                return;
            }
            if budget == 0 || heads == 0 {
                self.put_off(key);
                return;
            }
            if (is_unsettled || !conn.input.is_empty() || conn.end.is_some())
                && let Some(cost) = self.show(key)
            {
                budget = budget.saturating_sub(cost.bytes);
                heads = heads.saturating_sub(cost.heads);
                continue;
            }
            let Some(conn) = self.conns.get_mut(key) else { return };
            if conn.end.is_some() || !conn.readable {
                return;
            }
            let is_bulk = conn.is_bulk;
            if matches!(conn.stream, Stream::Tls(_)) && self.is_handshake_put_off(key) {
                self.put_off(key);
                return;
            }
            match if is_bulk { self.splice(key, budget) } else { Spliced::Unsupported } {
                Spliced::Bytes(n) => {
                    budget = budget.saturating_sub(n);
                    // The core sees whether that was all.
                    self.show(key);
                    continue;
                }
                Spliced::Blocked => return,
                Spliced::Unsupported => {}
            }
            let Some(conn) = self.conns.get_mut(key) else { return };
            let class = match conn.peer {
                Some(_) if conn.is_bulk => Class::Large,
                // A head that fills a medium block is not at its limit yet where the other half of slime
                // added to it.
                _ if conn.input.len() >= Class::Medium.size() => Class::Wide,
                _ => Class::Medium,
            };
            let space = conn.input.space(class, &mut self.buffers);
            let room = space.len();
            if room == 0 {
                // The core leaves a full buffer only where it waits for something else.
                return;
            }
            let result = conn.stream.read(&mut self.net, &mut self.buffers, space);
            // TLS may have had to say something, of its own accord.
            let has_pending = conn.stream.has_pending();
            match result {
                Ok(0) => {
                    conn.input.filled(0, &mut self.buffers);
                    conn.readable = false;
                    // The error of a failed write may have been taken for it by the kernel: then nobody knows
                    // what is missing.
                    conn.end = Some(if conn.write_failed { End::Cut } else { conn.stream.end() });
                }
                Ok(n) => {
                    conn.input.filled(n, &mut self.buffers);
                    conn.readable = !conn.stream.is_drained_by(n, room) || conn.hangup;
                    conn.is_bulk = n == room || conn.stream.is_bulk(n);
                    budget = budget.saturating_sub(n);
                }
                Err(error) => {
                    conn.input.filled(0, &mut self.buffers);
                    if error.kind() == io::ErrorKind::WouldBlock {
                        conn.readable = false;
                        return;
                    }
                    if error.kind() == io::ErrorKind::InvalidData && conn.stream.turn_plain() {
                        self.core.handle_insecure(key);
                    } else if error.kind() == io::ErrorKind::Interrupted {
                        // A peer may send thousands of pings.
                        budget = budget.saturating_sub(room);
                    } else {
                        if error.kind() == io::ErrorKind::InvalidData {
                            debug!("{key:?} failed: {error}");
                        }
                        self.fail(key, Why::Failed);
                        return;
                    }
                }
            }
            if has_pending {
                self.tell_waiting(key);
            }
            match self.show(key) {
                Some(cost) => {
                    budget = budget.saturating_sub(cost.bytes);
                    heads = heads.saturating_sub(cost.heads);
                }
                None if self.conns.get(key).is_none_or(|conn| conn.end.is_some()) => return,
                None => {}
            }
        }
    }

    /// Shows the input to the core, delivers what it passes, and carries out its commands. What that cost;
    /// `None` if nothing came of it.
    fn show(&mut self, key: Key) -> Option<Cost> {
        let conn = self.conns.get_mut(key)?;
        let end = conn.end;
        let input = core::mem::take(&mut conn.input);
        let mut out = core::mem::take(&mut self.scratch);
        let mut pieces: [Option<Piece>; MAX_PIECES] = [const { None }; MAX_PIECES];
        let mut count = 0;
        let mut at = 0;
        let mut steps = 0;
        let mut is_unsettled = false;
        let mut has_failed = false;
        loop {
            steps += 1;
            let begin = out.len();
            let rest = input.data().get(at..).unwrap_or_default();
            let step = self.core.handle_input(key, Shown { input: rest, end, out: &mut out }, self.now);
            if out.len() > begin {
                push(&mut pieces, &mut count, Piece::Ours(begin..out.len()));
            }
            match step {
                Step::Wait => break,
                Step::Fail => {
                    has_failed = true;
                    break;
                }
                Step::Skip(n) => at += n,
                Step::Pass(n) => {
                    push(&mut pieces, &mut count, Piece::Theirs(at..at + n));
                    at += n;
                }
            }
            if self.core.commands().iter().any(Command::ends_look) {
                break;
            }
            // Two places are kept free: a step adds two pieces at most.
            if count + 2 > MAX_PIECES || steps >= MAX_STEPS {
                is_unsettled = true;
                break;
            }
        }
        let pieces = pieces.get(..count).unwrap_or_default();
        let joined = [join(pieces, input.data(), &mut out)];
        let pieces = if joined[0].is_some() { &joined } else { pieces };
        self.deliver(key, pieces, input.data(), &out);
        out.clear();
        self.scratch = out;
        self.put_back(key, input, at);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.is_unsettled = is_unsettled;
        }
        let has_commands = !self.core.commands().is_empty() || has_failed;
        self.obey();
        if has_failed {
            self.fail(key, Why::Failed);
        }
        let bytes = steps.saturating_sub(FREE_STEPS) * STEP_COST_BYTES;
        (at > 0 || count > 0 || has_commands).then_some(Cost { bytes, heads: has_commands.into() })
    }

    /// Returns the input to its connection, without what was consumed of it.
    fn put_back(&mut self, key: Key, mut input: Buffer, consumed: usize) {
        input.consume(consumed, &mut self.buffers);
        // It may be long until the rest comes.
        input.fit(&mut self.buffers);
        match self.conns.get_mut(key) {
            Some(conn) => conn.input = input,
            None => input.clear(&mut self.buffers),
        }
    }

    /// Sends pieces to the peer, or adds them to the held bytes where there is none.
    fn deliver(&mut self, key: Key, pieces: &[Option<Piece>], input: &[u8], out: &[u8]) {
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
                conn.held.bytes.append(slice, &mut self.buffers);
            }
            return;
        };
        let Some(to) = self.conns.get_mut(peer.key) else { return };
        if to.write_failed {
            return;
        }
        // Nothing waits there, or the input would not have been looked at.
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
            let Some(conn) = self.conns.get(key) else { return };
            let held = match conn.peer {
                Some(Peer { key: requester, role: Role::Responder { .. } }) => {
                    self.conns.get(requester).map_or(&[][..], |requester| requester.held.unsent())
                }
                Some(Peer { role: Role::Requester, .. }) | None => &[],
            };
            let (own, held_len) = (conn.output.len(), held.len());
            if own + held_len == 0 || !conn.writable || conn.write_failed {
                break;
            }
            // The held bytes belong to another connection of the table: they are lent out while this one is
            // written to.
            let lender = conn.peer.filter(|_| held_len > 0).map(|peer| peer.key);
            let lent =
                lender.and_then(|key| self.conns.get_mut(key)).map(|conn| core::mem::take(&mut conn.held));
            let Some(conn) = self.conns.get_mut(key) else { return };
            let held = lent.as_ref().map_or(&[][..], |held| held.unsent());
            let result = if own == 0 {
                conn.stream.write(&mut self.net, &mut self.buffers, &[IoSlice::new(held)])
            } else if held.is_empty() {
                conn.stream.write(&mut self.net, &mut self.buffers, &[IoSlice::new(conn.output.data())])
            } else {
                conn.stream.write(
                    &mut self.net,
                    &mut self.buffers,
                    &[IoSlice::new(conn.output.data()), IoSlice::new(held)],
                )
            };
            let sent = match &result {
                Ok(n) => *n,
                Err(_) => 0,
            };
            conn.output.consume(sent.min(own), &mut self.buffers);
            if let (Some(mut held), Some(lender)) = (lent, lender) {
                held.sent += offset(sent.saturating_sub(own));
                if sent > own
                    && let Some(Peer { role: Role::Responder { written }, .. }) = &mut conn.peer
                {
                    *written = true;
                }
                if held.is_released() && held.is_sent() {
                    held.clear(&mut self.buffers);
                }
                if let Some(conn) = self.conns.get_mut(lender) {
                    conn.held = held;
                }
            }
            let Some(conn) = self.conns.get_mut(key) else { return };
            match result {
                Ok(n) => {
                    moved |= n > 0;
                    conn.writable = !conn.stream.is_filled_by(n, own + held_len);
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
    fn is_held_up(&self, key: Key) -> bool {
        self.conns.get(key).and_then(|conn| conn.peer).is_some_and(|peer| self.waits(peer.key))
    }

    /// The core hears that bytes wait, once, when they begin to.
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

    /// Something that waited was taken: the core hears of it if it knew of the waiting, and the source goes
    /// on if all was.
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

    /// A write failed. A requester is gone then; what a responder sent before still counts, and its reading
    /// tells the end.
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

    /// Reads and drops what a lingering connection still sends. Its end, or too much of it, ends the
    /// connection.
    fn drop_input(&mut self, key: Key, mut budget: usize) {
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let Ending::Linger { dropped, finished } = &mut conn.ending else { return };
            if conn.end.is_some() || *dropped > MAX_LINGER_BYTES {
                if *finished || *dropped > MAX_LINGER_BYTES {
                    self.fail(key, Why::Lingered);
                }
                return;
            }
            if !conn.readable {
                return;
            }
            if budget == 0 {
                self.put_off(key);
                return;
            }
            let mut scrap = Buffer::new();
            let space = scrap.space(Class::Medium, &mut self.buffers);
            let room = space.len();
            let result = conn.stream.read(&mut self.net, &mut self.buffers, space);
            scrap.clear(&mut self.buffers);
            match result {
                Ok(0) => conn.end = Some(End::Clean),
                Ok(n) => {
                    *dropped += offset(n);
                    budget = budget.saturating_sub(n);
                    conn.readable = !conn.stream.is_drained_by(n, room) || conn.hangup;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    conn.readable = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    budget = budget.saturating_sub(room);
                }
                Err(_) => {
                    self.fail(key, Why::Lingered);
                    return;
                }
            }
        }
    }

    /// A connection has used up its share of this turn.
    fn put_off(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key)
            && !conn.is_put_off
        {
            (conn.is_listed, conn.is_put_off) = (true, true);
            self.later.push(key);
        }
    }
}

/// Makes one piece of several small ones.
fn join(pieces: &[Option<Piece>], input: &[u8], out: &mut Vec<u8>) -> Option<Piece> {
    let count = pieces.len();
    let pieces = pieces.iter().flatten();
    let total: usize = pieces.clone().map(|piece| piece.range().len()).sum();
    if count < 2 || total > MAX_JOINED_BYTES {
        return None;
    }
    let begin = out.len();
    for piece in pieces {
        match piece {
            Piece::Ours(range) => out.extend_from_within(range.clone()),
            Piece::Theirs(range) => out.extend_from_slice(input.get(range.clone()).unwrap_or_default()),
        }
    }
    Some(Piece::Ours(begin..out.len()))
}

/// Adds a piece, in one with the last one if they touch. The caller leaves room for it.
fn push(pieces: &mut [Option<Piece>; MAX_PIECES], count: &mut usize, piece: Piece) {
    if let Some(Some(last)) = count.checked_sub(1).and_then(|last| pieces.get_mut(last)) {
        match (last, &piece) {
            (Piece::Ours(last), Piece::Ours(next)) | (Piece::Theirs(last), Piece::Theirs(next))
                if last.end == next.start =>
            {
                last.end = next.end;
                return;
            }
            (Piece::Ours(_) | Piece::Theirs(_), Piece::Ours(_) | Piece::Theirs(_)) => {}
        }
    }
    debug_assert!(*count < MAX_PIECES);
    if let Some(place) = pieces.get_mut(*count) {
        *place = Some(piece);
        *count += 1;
    }
}
