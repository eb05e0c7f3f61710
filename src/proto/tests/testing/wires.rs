//! Connections in memory: two byte queues each, with FIN and reset as TCP has them.

use std::collections::VecDeque;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WireEnd {
    wire: usize,
    side: usize,
}

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Fin,
    Reset,
}

/// What a read or write gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Nothing at present, or no room at present.
    Yet,
    /// Nothing any more.
    For(Ended),
}

/// All connections. How much is under way at most in each direction, and how much one read gives at most, is
/// the same for all.
pub(crate) struct Wires {
    wires: Vec<[Side; 2]>,
    pub(crate) room: usize,
    pub(crate) grain: usize,
    /// Whether what the core need not see goes by without being shown.
    pub(crate) splices: bool,
    /// Counts everything that happens, so that the driver sees when nothing does.
    pub(crate) moves: u64,
}

/// What one end has sent, and whether it is still there.
#[derive(Default)]
struct Side {
    sent: VecDeque<u8>,
    /// Counts what was sent, the end included.
    sendings: u64,
    fin: bool,
    closed: bool,
    /// The other end has reset the connection.
    reset: bool,
    /// The other end resets the connection when this one writes next, before anything is taken.
    reset_at_write: bool,
    /// A read or write was told so. Reading gives the end from then on: the kernel tells an error once.
    is_told: bool,
}

impl Wires {
    pub(crate) fn new(grain: usize, room: usize, splices: bool) -> Self {
        Self { wires: Vec::new(), room, grain, splices, moves: 0 }
    }

    /// A new connection: the end of who dialled, and the other one.
    pub(crate) fn connect(&mut self) -> (WireEnd, WireEnd) {
        self.moves += 1;
        self.wires.push(Default::default());
        let wire = self.wires.len() - 1;
        (WireEnd { wire, side: 0 }, WireEnd { wire, side: 1 })
    }

    fn own(&mut self, end: WireEnd) -> &mut Side {
        &mut self.wires[end.wire][end.side]
    }

    fn other(&mut self, end: WireEnd) -> &mut Side {
        &mut self.wires[end.wire][1 - end.side]
    }

    /// Takes what there is to read, at most one grain of it.
    pub(crate) fn read(&mut self, end: WireEnd) -> Result<Vec<u8>, Blocked> {
        self.read_at_most(end, usize::MAX)
    }

    pub(crate) fn read_at_most(&mut self, end: WireEnd, most: usize) -> Result<Vec<u8>, Blocked> {
        let (grain, own) = (self.grain, self.own(end));
        let reset = own.reset && !own.is_told;
        let other = self.other(end);
        let n = other.sent.len().min(grain).min(most);
        if n > 0 {
            let bytes = other.sent.drain(..n).collect();
            self.moves += 1;
            return Ok(bytes);
        }
        match (reset, other.fin) {
            (true, _) => {
                self.own(end).is_told = true;
                Err(Blocked::For(Ended::Reset))
            }
            (false, true) => Err(Blocked::For(Ended::Fin)),
            (false, false) => Err(Blocked::Yet),
        }
    }

    /// Sends what there is room for. An end that is closed takes everything and answers with a reset, once.
    pub(crate) fn write(&mut self, end: WireEnd, bytes: &[u8]) -> Result<usize, Blocked> {
        if core::mem::take(&mut self.own(end).reset_at_write) {
            self.reset(WireEnd { side: 1 - end.side, ..end });
        }
        if self.own(end).reset {
            self.own(end).is_told = true;
            return Err(Blocked::For(Ended::Reset));
        }
        if self.other(end).closed {
            self.own(end).reset = true;
            self.moves += 1;
            return Ok(bytes.len());
        }
        let n = bytes.len().min(self.room.saturating_sub(self.own(end).sent.len()));
        if n == 0 {
            return Err(Blocked::Yet);
        }
        self.moves += 1;
        let own = self.own(end);
        own.sent.extend(&bytes[..n]);
        own.sendings += 1;
        Ok(n)
    }

    /// FIN.
    pub(crate) fn shutdown(&mut self, end: WireEnd) {
        self.moves += 1;
        let own = self.own(end);
        own.fin = true;
        own.sendings += 1;
    }

    /// close(2): with a FIN, or with a reset if there was something left to be read.
    pub(crate) fn close(&mut self, end: WireEnd) {
        if self.other(end).sent.is_empty() {
            self.own(end).closed = true;
            self.shutdown(end);
        } else {
            self.reset(end);
        }
    }

    pub(crate) fn reset(&mut self, end: WireEnd) {
        self.moves += 1;
        let own = self.own(end);
        (own.fin, own.closed) = (true, true);
        self.other(end).reset = true;
    }

    /// A reset that arrives after the other end has looked for hangups, and before it writes.
    pub(crate) fn reset_at_write(&mut self, end: WireEnd) {
        self.other(end).reset_at_write = true;
    }

    /// Grows whenever something arrives at this end, an end or a reset included.
    pub(crate) fn arrived(&mut self, end: WireEnd) -> u64 {
        2 * self.other(end).sendings + u64::from(self.own(end).reset)
    }

    /// Whether the other end has ended its direction, though bytes before that may be unread.
    pub(crate) fn hung_up(&self, end: WireEnd) -> bool {
        let [own, other] = [end.side, 1 - end.side].map(|side| &self.wires[end.wire][side]);
        own.reset || other.fin
    }
}
