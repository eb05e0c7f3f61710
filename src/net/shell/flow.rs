//! How bytes move: from a socket, past the core, to the peer's socket ([`send`](super::send)), in as few
//! system calls as there are messages.
//!
//! **Reading** stops where the core wants nothing, where the peer has not taken everything yet, and after a
//! budget, so that one connection does not starve the others. A short read proves that the socket is empty,
//! unless an edge said that the remote side has closed: data and FIN share one edge.

use std::io;

use log::debug;

use super::Shell;
use super::conn::Ending;
use super::pieces::{MAX_PIECES, Piece, join, push};
use super::splice::Spliced;
use crate::net::Net;
use crate::net::buffer::{Buffer, Class, offset};
use crate::net::stream::Stream;
use crate::proto::http1::limits::{HEAD_LIMIT, TUNNEL_ROOM};
use crate::proto::seam::{Command, Core, End, Shown, Step, Why};
use crate::proto::tables::key::Key;

/// Bytes read from one connection in one turn.
const READ_BUDGET_BYTES: usize = 256 * 1024;
/// How many times in one turn the input of one connection may make the core issue commands, which hardly
/// anything but a head does. Without it, nobody else would be served while a client that sends thousands of
/// small requests at once has them all answered by the hub itself.
const HEAD_BUDGET: usize = 16;
/// What each step of the core, beyond the free ones, takes from the byte budget: chunks may have one byte
/// each.
const STEP_COST_BYTES: usize = 256;
/// Steps of each look at the input that cost nothing.
const FREE_STEPS: usize = 4;
/// The most steps in one look at the input; they take about 100 microseconds.
const MAX_STEPS: usize = READ_BUDGET_BYTES / STEP_COST_BYTES;
// The core can be shown any head whole: a medium block has room for one of an application, and a wide one for
// one on a tunnel.
const _: () = assert!(Class::Medium.size() >= HEAD_LIMIT && Class::Wide.size() >= HEAD_LIMIT + TUNNEL_ROOM);

/// Bytes that a lingering connection may still send us before it is closed: what was on its way when it was
/// told to stop.
const MAX_LINGER_BYTES: u32 = 4 * 1024 * 1024;

/// What a look at the input takes from a connection's share of the turn, beside the bytes that were read for
/// it.
struct Cost {
    bytes: usize,
    heads: usize,
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
            let is_tls = matches!(conn.stream, Stream::Tls(_));
            if is_tls && self.conns.is_handshaking(key) && !self.handshakes.take_step() {
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
            // TLS may have had something to say of its own.
            let has_pending = conn.stream.has_pending();
            match result {
                Ok(0) => {
                    conn.input.filled(0, &mut self.buffers);
                    conn.readable = false;
                    // After a failed write the kernel may tell the error as an end: then nobody knows what is
                    // missing.
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

    /// Shows the input to the core, delivers what it passes, and carries out its commands. Returns what that
    /// cost, or `None` if nothing came of it.
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
            // A step adds at most two pieces.
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
