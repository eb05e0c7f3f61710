//! A core and its connections: a shell without an operating system, that obeys [`crate::proto::seam`] to the
//! letter.

mod commands;
mod conn;
mod send;

use std::collections::BTreeMap;

use conn::{Conn, Ending, Held, Peer};

use super::wires::{Blocked, Ended, WireEnd, Wires};
use crate::proto::seam::{Closed, Command, Core, End, Shown, Step, Target, Unreachable, Why};
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::Now;

/// The largest block of the real shell's buffers; what does not fit there is a connection lost.
const BUFFER: usize = 64 * 1024;
/// The largest head and body that a core may let the shell hold, with the body's first 16 KiB.
const HELD: usize = BUFFER + 1024 * 1024;
/// What a lingering connection may still send us.
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// A core with its connections.
pub(crate) struct Driver<C> {
    pub(crate) core: C,
    conns: BTreeMap<Key, Conn>,
    /// Connections that were asked for and are not made yet.
    pub(crate) dials: Vec<(Key, Target)>,
    /// Connections that failed while commands were carried out. The core hears of it after those.
    failed: Vec<Key>,
    pub(crate) exit: Option<u8>,
}

impl<C: Core> Driver<C> {
    pub(crate) fn new(core: C) -> Self {
        Self { core, conns: BTreeMap::new(), dials: Vec::new(), failed: Vec::new(), exit: None }
    }

    /// How many connections there are, and how many bytes are held or wait in them.
    pub(crate) fn census(&self) -> (usize, usize) {
        let bytes = self.conns.values().map(|c| c.input.len() + c.output.len() + c.held.bytes.len()).sum();
        (self.conns.len(), bytes)
    }

    /// What is kept in each connection, in words.
    pub(crate) fn describe(&self) -> String {
        let text = |bytes: &[u8]| bytes.get(..60).unwrap_or(bytes).escape_ascii().to_string();
        let kept = self.conns.iter().map(|(key, conn)| {
            let Conn { input, output, held, .. } = conn;
            format!("{key:?} input '{}' output '{}' held '{}'", text(input), text(output), text(&held.bytes))
        });
        kept.collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn open(&mut self, key: Key, wire: WireEnd) {
        let conn = Conn {
            wire,
            peer: None,
            input: Vec::new(),
            output: Vec::new(),
            held: Held::default(),
            end: None,
            ending: Ending::No,
            hangup_told: false,
            waiting_told: false,
            write_failed: false,
            seen: 0,
            listed: true,
            frames: None,
        };
        assert!(self.conns.insert(key, conn).is_none(), "{key:?} is still there");
    }

    pub(crate) fn connected(&mut self, key: Key, wire: WireEnd, wires: &mut Wires, now: Now) {
        self.open(key, wire);
        if wires.hung_up(wire) {
            self.read_ended(key, wires, now);
        }
        if self.conns.contains_key(&key) {
            self.core.handle_connected(key, now);
            self.obey(wires, now);
        }
    }

    /// A connection has ended before it stood: that comes first, unless bytes came before it.
    fn read_ended(&mut self, key: Key, wires: &mut Wires, now: Now) {
        let Some(conn) = self.conns.get_mut(&key) else { return };
        match wires.read_at_most(conn.wire, BUFFER) {
            Ok(bytes) => conn.input.extend(bytes),
            Err(Blocked::Yet) => {}
            Err(Blocked::For(ended)) => {
                conn.end = Some(if ended == Ended::Fin { End::Clean } else { End::Cut });
                self.tell_hangup(key, wires, now);
                self.obey(wires, now);
            }
        }
    }

    pub(crate) fn unreachable(&mut self, key: Key, why: Unreachable, wires: &mut Wires, now: Now) {
        self.core.handle_closed(key, Closed { why: Why::Unreachable(why), written: false }, now);
        self.obey(wires, now);
    }

    /// Tells the core that time has come, if it has.
    pub(crate) fn wake(&mut self, wires: &mut Wires, now: Now) {
        if self.exit.is_none() && self.core.next_timeout().is_some_and(|at| at <= now.mono) {
            wires.moves += 1;
            self.core.handle_timeout(now);
            self.obey(wires, now);
        }
    }

    /// Serves all connections once, responders before requesters.
    pub(crate) fn turn(&mut self, wires: &mut Wires, now: Now) {
        if self.exit.is_some() {
            return self.end_process(wires);
        }
        let mut keys: Vec<Key> = self.conns.keys().copied().collect();
        keys.sort_by_key(|key| core::cmp::Reverse(key.kind()));
        for key in &keys {
            self.tell_hangup(*key, wires, now);
        }
        self.obey(wires, now);
        for key in keys {
            let waits = self.waits(key);
            let Some(conn) = self.conns.get_mut(&key) else { continue };
            let seen = core::mem::replace(&mut conn.seen, wires.arrived(conn.wire));
            if core::mem::take(&mut conn.listed) || waits || seen != conn.seen {
                self.serve(key, wires, now);
            }
        }
        self.core.handle_batch_end(now);
        self.obey(wires, now);
        if self.exit.is_some() {
            self.end_process(wires);
        }
    }

    /// What the kernel does when a process ends.
    pub(crate) fn end_process(&mut self, wires: &mut Wires) {
        while let Some((_, conn)) = self.conns.pop_first() {
            wires.close(conn.wire);
        }
        self.dials.clear();
    }

    fn tell_hangup(&mut self, key: Key, wires: &mut Wires, now: Now) {
        if let Some(conn) = self.conns.get_mut(&key)
            && !conn.hangup_told
            && wires.hung_up(conn.wire)
        {
            conn.hangup_told = true;
            wires.moves += 1;
            self.core.handle_hangup(key, now);
        }
    }

    fn serve(&mut self, key: Key, wires: &mut Wires, now: Now) {
        self.tell_hangup(key, wires, now);
        self.obey(wires, now);
        self.flush(key, wires, now);
        self.obey(wires, now);
        self.pump(key, wires, now);
    }

    fn pump(&mut self, key: Key, wires: &mut Wires, now: Now) {
        let mut idle = 0;
        while idle < 100 {
            let Some(conn) = self.conns.get_mut(&key) else { return };
            if let Ending::Linger { .. } = conn.ending {
                return self.drop_input(key, wires, now);
            }
            if !self.core.wants_input(key) || self.is_held_up(key) {
                return;
            }
            let had = self.conns.get(&key).map_or(0, |conn| conn.input.len());
            let Some(conn) = self.conns.get_mut(&key) else { return };
            if (!conn.input.is_empty() || conn.end.is_some()) && self.show(key, wires, now) {
                idle = if self.conns.get(&key).is_some_and(|conn| conn.input.len() == had) {
                    idle + 1
                } else {
                    0
                };
                continue;
            }
            idle = 0;
            let Some(conn) = self.conns.get_mut(&key) else { return };
            if conn.end.is_some() || conn.input.len() >= BUFFER {
                return;
            }
            if wires.splices && conn.input.is_empty() && self.splice(key, wires, now) {
                self.show(key, wires, now);
                continue;
            }
            let Some(conn) = self.conns.get_mut(&key) else { return };
            match wires.read_at_most(conn.wire, BUFFER - conn.input.len()) {
                Ok(mut bytes) => {
                    let Ok(()) = conn.unwrap(&mut bytes) else {
                        return self.fail(key, Why::Failed, wires, now);
                    };
                    conn.input.extend(bytes);
                }
                Err(Blocked::Yet) => return,
                Err(Blocked::For(Ended::Fin)) => {
                    let is_cut = conn.write_failed || conn.frames.is_some();
                    conn.end = Some(if is_cut { End::Cut } else { End::Clean })
                }
                Err(Blocked::For(Ended::Reset)) => return self.fail(key, Why::Failed, wires, now),
            }
            if !self.show(key, wires, now) && self.conns.get(&key).is_none_or(|conn| conn.end.is_some()) {
                return;
            }
        }
        panic!("{key:?} is shown the same again and again");
    }

    /// Shows the input until the core waits. False if nothing came of it.
    fn show(&mut self, key: Key, wires: &mut Wires, now: Now) -> bool {
        let Some(conn) = self.conns.get_mut(&key) else { return false };
        let (input, end, mut at) = (core::mem::take(&mut conn.input), conn.end, 0);
        let (mut passed, mut out) = (Vec::new(), Vec::new());
        let mut has_failed = false;
        loop {
            let step = self.core.handle_input(key, Shown { input: &input[at..], end, out: &mut out }, now);
            passed.append(&mut out);
            match step {
                Step::Wait => break,
                Step::Fail => {
                    has_failed = true;
                    break;
                }
                Step::Skip(n) => at += n,
                Step::Pass(n) => {
                    passed.extend(&input[at..at + n]);
                    at += n;
                }
            }
            if self.core.commands().iter().any(Command::ends_look) {
                break;
            }
        }
        let progress = at > 0 || !passed.is_empty() || !self.core.commands().is_empty();
        wires.moves += u64::from(progress);
        self.deliver(key, &passed, wires, now);
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.input = input[at..].to_vec();
        }
        self.obey(wires, now);
        if has_failed {
            self.fail(key, Why::Failed, wires, now);
        }
        progress || has_failed
    }

    /// Moves a lump of bytes to the peer without showing it. False if there is none, and the connection is
    /// read as usual.
    fn splice(&mut self, key: Key, wires: &mut Wires, now: Now) -> bool {
        let most = usize::try_from(self.core.opaque(key)).unwrap_or(usize::MAX).min(BUFFER);
        let is_meant = |conn: &&Conn| most > 0 && conn.peer.is_some() && conn.frames.is_none();
        let Some(conn) = self.conns.get(&key).filter(is_meant) else { return false };
        let bytes = match wires.read_at_most(conn.wire, most) {
            Ok(bytes) => bytes,
            // The end: reading tells it once more.
            Err(Blocked::Yet | Blocked::For(Ended::Fin)) => return false,
            // The error is told once, and this was the time.
            Err(Blocked::For(Ended::Reset)) => {
                self.fail(key, Why::Failed, wires, now);
                return true;
            }
        };
        let mut lump = Vec::new();
        let after = self.core.handle_opaque(key, bytes.len() as u64, &mut lump, now);
        lump.extend(bytes);
        lump.extend(after);
        self.deliver(key, &lump, wires, now);
        self.obey(wires, now);
        true
    }

    fn drop_input(&mut self, key: Key, wires: &mut Wires, now: Now) {
        loop {
            let Some(conn) = self.conns.get_mut(&key) else { return };
            let Ending::Linger { dropped, finished } = &mut conn.ending else { return };
            if conn.end.is_some() || *dropped > LINGER_BYTES {
                if *finished || *dropped > LINGER_BYTES {
                    self.fail(key, Why::Lingered, wires, now);
                }
                return;
            }
            match wires.read(conn.wire) {
                Ok(mut bytes) => {
                    *dropped += bytes.len();
                    let Ok(()) = conn.unwrap(&mut bytes) else {
                        return self.fail(key, Why::Lingered, wires, now);
                    };
                }
                Err(Blocked::Yet) => return,
                Err(Blocked::For(Ended::Fin)) => conn.end = Some(End::Clean),
                Err(Blocked::For(Ended::Reset)) => return self.fail(key, Why::Lingered, wires, now),
            }
        }
    }

    fn fail(&mut self, key: Key, why: Why, wires: &mut Wires, now: Now) {
        let written = match self.conns.get(&key).map(|conn| conn.peer) {
            Some(Some(Peer::Responder { written, .. })) => written,
            Some(Some(Peer::Requester(_)) | None) => false,
            None => return,
        };
        self.unpair(key);
        if let Some(conn) = self.conns.remove(&key) {
            conn.close(wires);
        }
        self.core.handle_closed(key, Closed { why, written }, now);
        self.obey(wires, now);
    }

    fn unpair(&mut self, key: Key) {
        let Some(peer) = self.conns.get_mut(&key).and_then(|conn| conn.peer.take()) else { return };
        let (other, requester) = match peer {
            Peer::Requester(responder) => (responder, key),
            Peer::Responder { requester, .. } => (requester, requester),
        };
        if let Some(conn) = self.conns.get_mut(&other) {
            conn.peer = None;
        }
        if let Some(conn) = self.conns.get_mut(&requester)
            && conn.held.released
        {
            conn.held = Held::default();
        }
    }
}
