//! What is held of a request: a chain of blocks.
//!
//! The first block holds a head with the first bytes of its body, nearly always all of it, and grows by
//! classes as any buffer does. What does not fit there stands in large blocks behind it. How long a chain may
//! become is for the core to say.

use super::buffer::{Block, Buffer, BufferPool, Class};
use crate::proto::seam::{HELD_BLOCK, HELD_FIRST};

/// The largest class that a first block grows to.
const FIRST: Class = Class::Wide;
/// The class of the blocks behind it: [`crate::proto::seam::HELD_BLOCK`].
const NEXT: Class = Class::Large;

const _: () = assert!(FIRST.size() >= HELD_FIRST && NEXT.size() == HELD_BLOCK);

/// A byte queue over any number of blocks, in the memory of a pointer. As with a [`Buffer`], an empty one has
/// no block.
#[derive(Default)]
pub(super) struct Chain(Buffer);

impl Chain {
    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.blocks().map(Block::len).sum()
    }

    /// The bytes from this place on that lie side by side; none if there are none.
    pub(super) fn from(&self, mut at: usize) -> &[u8] {
        for block in self.blocks() {
            if let Some(data) = block.data().get(at..).filter(|data| !data.is_empty()) {
                return data;
            }
            at -= block.len();
        }
        &[]
    }

    /// Appends bytes.
    pub(super) fn append(&mut self, bytes: &[u8], pool: &mut BufferPool) {
        if self.0.len() + bytes.len() <= FIRST.size() && self.0.next().is_none_or(Buffer::is_empty) {
            // There is a class for so many.
            let _ = self.0.append(bytes, pool);
            return;
        }
        let mut last = &mut self.0;
        let mut rest = bytes;
        let mut class = FIRST;
        loop {
            rest = last.fill(rest, class, pool);
            if rest.is_empty() {
                return;
            }
            class = NEXT;
            let Some(next) = last.next_mut() else { return };
            last = next;
        }
    }

    /// Drops all bytes and gives the blocks back.
    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        self.0.clear(pool);
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        core::iter::successors(self.0.block(), |block| block.next().block())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small() {
        assert_eq!(size_of::<Chain>(), size_of::<usize>());
    }

    #[test]
    fn bytes_come_out_in_order_however_they_came() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        for piece in [1, 999, 16 * 1024, 34 * 1024, 34 * 1024 + 1, 100_000, 300_000] {
            let mut pool = BufferPool::new();
            let mut chain = Chain::default();
            for (n, piece) in bytes.chunks(piece).enumerate() {
                chain.append(piece, &mut pool);
                assert!(chain.len() >= n);
            }
            assert_eq!(chain.len(), bytes.len());
            let mut at = 0;
            while at < bytes.len() {
                let data = chain.from(at);
                assert!(!data.is_empty() && data == &bytes[at..at + data.len()], "{piece}: at {at}");
                // Not all of them are taken at once.
                at += data.len().min(10_000);
            }
            assert_eq!(chain.from(at), b"");
            // One that is filled to its end before the next one begins.
            let blocks = (bytes.len() - FIRST.size()).div_ceil(NEXT.size());
            assert_eq!(pool.bytes(), FIRST.size() + blocks * NEXT.size());
            chain.clear(&mut pool);
            assert_eq!((pool.out(), pool.bytes(), chain.len()), (0, 0, 0));
        }
    }

    #[test]
    fn a_small_one_is_a_buffer() {
        let mut pool = BufferPool::new();
        let mut chain = Chain::default();
        for (bytes, size) in
            [(100, Class::Small.size()), (9_900, Class::Medium.size()), (10_000, FIRST.size())]
        {
            chain.append(&vec![7; bytes], &mut pool);
            assert_eq!((pool.out(), pool.bytes()), (1, size));
        }
        chain.clear(&mut pool);
        assert_eq!(pool.out(), 0);
    }
}
