//! What came from a requester, for its responder: kept until an answer comes, so that it can be sent again.

use crate::net::buffer::{BufferPool, offset};
use crate::net::chain::Chain;

/// The held bytes of a requester.
#[derive(Default)]
pub(super) struct Held {
    bytes: Chain,
    /// How many of them the present responder has been sent.
    sent: u32,
    /// How many of them it may be sent at present, and [`RELEASED`].
    upto: u32,
}

/// They are not needed any more once they are sent. It has no field of its own because a connection is
/// smaller then.
const RELEASED: u32 = 1 << 31;

impl Held {
    /// More came.
    pub(super) fn append(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        self.bytes.append(bytes, pool);
    }

    /// They go to a responder, from their beginning. It may be sent so many, or all.
    pub(super) fn begin(&mut self, upto: Option<usize>) {
        self.sent = 0;
        self.allow(upto);
    }

    /// What the responder may be sent and has not been sent, as far as it lies side by side.
    pub(super) fn unsent(&self) -> &[u8] {
        let data = self.bytes.from(self.sent as usize);
        data.get(..self.upto().saturating_sub(self.sent as usize)).unwrap_or(data)
    }

    /// The responder has been sent `n` more. If that is all, and they are released, they go.
    pub(super) fn note_sent(&mut self, n: usize, pool: &mut BufferPool) {
        self.sent += offset(n);
        if self.is_released() && self.is_sent() {
            self.clear(pool);
        }
    }

    const fn upto(&self) -> usize {
        (self.upto & !RELEASED) as usize
    }

    /// So many may be sent, or all.
    pub(super) fn allow(&mut self, upto: Option<usize>) {
        self.upto = self.upto & RELEASED | upto.map_or(!RELEASED, |upto| offset(upto) & !RELEASED);
    }

    /// They go once they are sent.
    pub(super) fn release(&mut self) {
        self.upto |= RELEASED;
    }

    pub(super) fn is_released(&self) -> bool {
        self.upto & RELEASED != 0
    }

    /// Whether the responder has been sent all that it may be.
    pub(super) fn is_sent(&self) -> bool {
        self.sent as usize >= self.bytes.len().min(self.upto())
    }

    /// Drops them.
    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        self.bytes.clear(pool);
        *self = Self::default();
    }
}
