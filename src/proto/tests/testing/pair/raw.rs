//! An end of a connection that the test plays.

use super::super::wires::{Blocked, Ended, WireEnd, Wires};

pub(super) struct RawEnd {
    pub(super) wire: WireEnd,
    pub(super) to_send: Vec<u8>,
    pub(super) finish: bool,
    pub(super) received: Vec<u8>,
    pub(super) ended: Option<Ended>,
    /// A write was told of a reset, so that reading finds a mere end.
    pub(super) is_reset: bool,
    /// How many more bytes it reads.
    pub(super) appetite: usize,
    pub(super) closed: bool,
}

impl RawEnd {
    pub(super) fn turn(&mut self, wires: &mut Wires) {
        if self.closed {
            return;
        }
        while !self.to_send.is_empty() {
            match wires.write(self.wire, &self.to_send) {
                Ok(n) => drop(self.to_send.drain(..n)),
                Err(Blocked::Yet) => break,
                Err(Blocked::For(_)) => {
                    self.is_reset = true;
                    self.to_send.clear();
                }
            }
        }
        if self.finish && self.to_send.is_empty() {
            self.finish = false;
            wires.shutdown(self.wire);
        }
        while self.appetite > 0 && self.ended.is_none() {
            match wires.read(self.wire) {
                Ok(bytes) => {
                    self.appetite = self.appetite.saturating_sub(bytes.len());
                    self.received.extend(bytes);
                }
                Err(Blocked::Yet) => break,
                Err(Blocked::For(ended)) => {
                    self.ended = Some(if self.is_reset { Ended::Reset } else { ended });
                }
            }
        }
    }
}
