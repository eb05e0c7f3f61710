//! A core and its connections: a shell without an operating system, that obeys [`crate::proto::seam`] to the
//! letter.

use std::collections::BTreeMap;

use super::wires::{Blocked, Ended, WireEnd, Wires};
use crate::proto::seam::{Close, Closed, Command, Core, End, Shown, Step, Target, Unreachable, Why};
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::Now;
use crate::proto::websocket::{Broken, Decoder, Encoder, Kind};

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

struct Conn {
    wire: WireEnd,
    peer: Option<Peer>,
    input: Vec<u8>,
    output: Vec<u8>,
    held: Held,
    end: Option<End>,
    ending: Ending,
    hangup_told: bool,
    waiting_told: bool,
    write_failed: bool,
    /// What had arrived when it was served last: more of it is an edge.
    seen: u64,
    /// It is to be served without an edge.
    listed: bool,
    frames: Option<Box<Frames>>,
}

/// What is between a connection and its wire, once it goes in frames.
struct Frames {
    decoder: Decoder,
    encoder: Encoder,
    /// Frames that the wire has not taken.
    outgoing: Vec<u8>,
    end_said: bool,
}

#[derive(Clone, Copy)]
enum Peer {
    Requester(Key),
    Responder { requester: Key, written: bool },
}

#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    sent: usize,
    upto: usize,
    released: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    Finish,
    Finished,
    Linger { dropped: usize, finished: bool },
}

impl Held {
    fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..self.upto.min(self.bytes.len())).unwrap_or_default()
    }
}

impl Conn {
    /// Takes what is to be sent, all or some of it.
    fn write(&mut self, wires: &mut Wires, bytes: &[u8]) -> Result<usize, Blocked> {
        let Some(frames) = &mut self.frames else { return wires.write(self.wire, bytes) };
        frames.flush(self.wire, wires)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let (taken, _) = frames.wrap(|encoder, room| encoder.encode(Kind::Data, [bytes].into_iter(), room));
        match frames.flush(self.wire, wires) {
            Err(error @ Blocked::For(_)) => Err(error),
            Ok(()) | Err(Blocked::Yet) => Ok(taken),
        }
    }

    /// Says that no more data follows: by a frame, if there are some. Whether that is sent.
    fn say_end(&mut self, wires: &mut Wires) -> bool {
        let Some(frames) = &mut self.frames else {
            wires.shutdown(self.wire);
            return true;
        };
        if !core::mem::replace(&mut frames.end_said, true) {
            frames.wrap(|encoder, room| (0, encoder.close(false, room)));
        }
        !matches!(frames.flush(self.wire, wires), Err(Blocked::Yet))
    }

    /// Closes the connection. What would have to wait is lost.
    fn close(mut self, wires: &mut Wires) {
        if self.frames.is_some() {
            self.say_end(wires);
        }
        wires.close(self.wire);
    }

    /// Makes data of what has arrived, and answers pings.
    fn unwrap(&mut self, bytes: &mut Vec<u8>) -> Result<(), Broken> {
        let Some(frames) = &mut self.frames else { return Ok(()) };
        let n = frames.decoder.decode(bytes)?;
        bytes.truncate(n);
        if let Some(pong) = frames.decoder.take_pong().map(<[u8]>::to_vec) {
            frames.wrap(|encoder, room| encoder.encode(Kind::Pong, [&pong[..]].into_iter(), room));
        }
        self.end = self.end.or(frames.decoder.end());
        Ok(())
    }
}

impl Frames {
    fn wrap(&mut self, write: impl FnOnce(&mut Encoder, &mut [u8]) -> (usize, usize)) -> (usize, usize) {
        let mut room = vec![0; BUFFER];
        let (taken, n) = write(&mut self.encoder, &mut room);
        self.outgoing.extend(&room[..n]);
        (taken, n)
    }

    fn flush(&mut self, wire: WireEnd, wires: &mut Wires) -> Result<(), Blocked> {
        while !self.outgoing.is_empty() {
            let n = wires.write(wire, &self.outgoing)?;
            self.outgoing.drain(..n);
        }
        Ok(())
    }
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

    fn deliver(&mut self, key: Key, bytes: &[u8], wires: &mut Wires, now: Now) {
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

    fn flush(&mut self, key: Key, wires: &mut Wires, now: Now) {
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

    fn list(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.listed = true;
        }
    }

    fn waits(&self, key: Key) -> bool {
        let Some(conn) = self.conns.get(&key).filter(|conn| !conn.write_failed) else { return false };
        let held = match conn.peer {
            Some(Peer::Responder { requester, .. }) => self.conns.get(&requester),
            Some(Peer::Requester(_)) | None => None,
        };
        !conn.output.is_empty()
            || conn.frames.as_ref().is_some_and(|frames| !frames.outgoing.is_empty())
            || held.is_some_and(|conn| !conn.held.unsent().is_empty())
    }

    fn is_held_up(&self, key: Key) -> bool {
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

    pub(crate) fn obey(&mut self, wires: &mut Wires, now: Now) {
        loop {
            let commands = core::mem::take(self.core.commands());
            if commands.is_empty() && self.failed.is_empty() {
                return;
            }
            wires.moves += 1;
            for command in commands {
                self.carry_out(command, wires, now);
            }
            while let Some(key) = self.failed.pop() {
                self.fail(key, Why::Failed, wires, now);
            }
        }
    }

    fn carry_out(&mut self, command: Command, wires: &mut Wires, now: Now) {
        match command {
            Command::Dial { key, target } => self.dials.push((key, target)),
            Command::Send { key, bytes } => {
                if let Some(conn) = self.conns.get_mut(&key) {
                    assert!(conn.ending == Ending::No, "{key:?} is sent something after its end");
                    conn.output.extend(bytes);
                    self.flush(key, wires, now);
                }
            }
            Command::Pair { requester, responder, upto } => {
                assert!(self.conns.contains_key(&requester) && self.conns.contains_key(&responder));
                if let Some(conn) = self.conns.get_mut(&requester) {
                    assert!(
                        conn.peer.is_none() && !conn.held.bytes.is_empty(),
                        "{requester:?} holds nothing"
                    );
                    conn.peer = Some(Peer::Requester(responder));
                    (conn.held.sent, conn.held.upto) = (0, upto.unwrap_or(usize::MAX));
                }
                if let Some(conn) = self.conns.get_mut(&responder) {
                    assert!(conn.peer.is_none(), "{responder:?} is paired already");
                    conn.peer = Some(Peer::Responder { requester, written: false });
                }
                self.flush(responder, wires, now);
            }
            Command::SendHeld(key) => {
                if let Some(conn) = self.conns.get_mut(&key) {
                    conn.held.upto = usize::MAX;
                    if let Some(Peer::Requester(responder)) = conn.peer {
                        self.flush(responder, wires, now);
                    }
                }
            }
            Command::DropHeld(key) => {
                if let Some(conn) = self.conns.get_mut(&key) {
                    if conn.peer.is_some() && !conn.held.unsent().is_empty() {
                        conn.held.released = true;
                    } else {
                        conn.held = Held::default();
                    }
                }
            }
            Command::Unpair(key) => self.unpair(key),
            Command::Resume(key) => self.list(key),
            // No target of these tests has TLS.
            Command::Secure { .. } => {}
            Command::Finish(key) => {
                if let Some(conn) = self.conns.get_mut(&key)
                    && conn.ending == Ending::No
                {
                    conn.ending = Ending::Finish;
                    self.flush(key, wires, now);
                }
            }
            Command::Close(key, Close::Linger) => {
                self.unpair(key);
                if let Some(conn) = self.conns.get_mut(&key) {
                    let finished = conn.ending == Ending::Finished;
                    conn.ending = Ending::Linger { dropped: 0, finished };
                    conn.input.clear();
                    conn.listed = true;
                    self.flush(key, wires, now);
                }
            }
            Command::Close(key, how) => {
                self.unpair(key);
                self.dials.retain(|(other, _)| *other != key);
                match (self.conns.remove(&key), how) {
                    (Some(conn), Close::Reset) => wires.reset(conn.wire),
                    (Some(conn), Close::Now | Close::Linger) => conn.close(wires),
                    (None, _) => {}
                }
            }
            Command::Rekey { from, to } => {
                if let Some(mut conn) = self.conns.remove(&from) {
                    conn.listed = true;
                    assert!(self.conns.insert(to, conn).is_none(), "{to:?} is still there");
                }
            }
            Command::Frame { key, side } => {
                if let Some(conn) = self.conns.get_mut(&key) {
                    let outgoing = core::mem::take(&mut conn.output);
                    let frames = Frames {
                        decoder: Decoder::new(side),
                        encoder: Encoder::new(side),
                        outgoing,
                        end_said: false,
                    };
                    conn.frames = Some(Box::new(frames));
                    conn.listed = true;
                    let mut input = core::mem::take(&mut conn.input);
                    if conn.unwrap(&mut input).is_err() {
                        self.failed.push(key);
                    } else if let Some(conn) = self.conns.get_mut(&key) {
                        conn.input = input;
                    }
                }
            }
            Command::Exit(code) => self.exit = Some(code),
        }
    }
}
