//! Byte queues over borrowed blocks.
//!
//! A connection has buffers for good, but memory only while bytes are in flight: an empty [`Buffer`] owns no
//! block, and an idle connection none at all. Blocks come from the [`BufferPool`] of the process, which is
//! passed as an argument.

use core::fmt;

/// The sizes that blocks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// 2 KiB: a message head with its first body bytes, nearly always.
    Small,
    /// 16 KiB: the largest head that is taken, the request body that the hub holds, a full TLS record.
    Medium,
    /// 34 KiB: a request that waits, which is a head as the hub writes it and what is held of the body; the
    /// largest head on a tunnel.
    Wide,
    /// 64 KiB: bodies on their way; beyond it a system call costs no more than the copying that it does.
    Large,
}

impl Class {
    const ALL: [Self; 4] = [Self::Small, Self::Medium, Self::Wide, Self::Large];

    /// The size of a block in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Small => 2 * 1024,
            Self::Medium => 16 * 1024,
            Self::Wide => 34 * 1024,
            Self::Large => 64 * 1024,
        }
    }

    /// Free blocks that the pool keeps; those beyond go back to the allocator. 2.8 MiB in all: what a router
    /// can spare, and enough that a busy server does not ask the allocator for each message.
    const fn kept(self) -> usize {
        match self {
            Self::Small => 256,
            Self::Medium => 64,
            Self::Wide => 8,
            Self::Large => 16,
        }
    }

    /// The smallest class that holds this many bytes.
    fn holding(bytes: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|class| bytes <= class.size())
    }
}

/// Free blocks, and how many are out.
#[derive(Default)]
pub struct BufferPool {
    free: [Blocks; 4],
    out: usize,
    bytes: usize,
}

impl BufferPool {
    /// A pool without blocks.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many blocks buffers own at present. None when nothing is in flight: anything else is a leak.
    pub fn out(&self) -> usize {
        self.out
    }

    /// The size of those blocks, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A block of this class. Its content is whatever its last owner left; it was zeroed once, when it was
    /// allocated.
    fn take(&mut self, class: Class) -> Box<Block> {
        self.out += 1;
        self.bytes += class.size();
        // The block used last is the one in the processor's cache.
        self.list(class).pop().unwrap_or_else(|| {
            let bytes = vec![0; class.size()].into_boxed_slice();
            Box::new(Block { start: 0, end: 0, class, next: Buffer::new(), bytes })
        })
    }

    fn give_back(&mut self, mut block: Box<Block>) {
        (block.start, block.end) = (0, 0);
        self.out -= 1;
        self.bytes -= block.bytes.len();
        let class = block.class;
        let list = self.list(class);
        if list.len() < class.kept() {
            list.push(block);
        }
    }

    fn list(&mut self, class: Class) -> &mut Blocks {
        let [small, medium, wide, large] = &mut self.free;
        match class {
            Class::Small => small,
            Class::Medium => medium,
            Class::Wide => wide,
            Class::Large => large,
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("out", &self.out)
            .field("free", &self.free.each_ref().map(Vec::len))
            .finish()
    }
}

/// A byte queue over at most one block, of [`Class::Large`] at most.
///
/// Where its bytes begin and end is written in the block, so that the buffers of an idle connection, which
/// are many, have the size of a pointer each. Invariant: a buffer without bytes has no block, except between
/// [`Buffer::space`] and [`Buffer::filled`]. One that is dropped with bytes in it must be cleared first, or
/// the pool's count goes wrong.
#[derive(Default)]
pub struct Buffer(Option<Box<Block>>);

/// The memory of a buffer, and which part of it waits: `start <= end <= bytes.len()`. Free ones have `start
/// == end == 0`.
pub(super) struct Block {
    start: u32,
    end: u32,
    class: Class,
    /// What follows in a chain ([`super::chain`]); empty in any other buffer.
    next: Buffer,
    bytes: Box<[u8]>,
}

/// Boxed, because a buffer owns a box: memory stays where it is while it goes from hand to hand.
type Blocks = Vec<Box<Block>>;

/// More bytes were to be appended than a block of the largest class holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Buffer {
    /// An empty buffer. It owns no memory.
    pub const fn new() -> Self {
        Self(None)
    }

    /// The bytes that wait, in order.
    pub fn data(&self) -> &[u8] {
        self.block().map_or(&[], Block::data)
    }

    /// The bytes that wait, for those who decrypt in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.0
            .as_mut()
            .and_then(|block| {
                let range = block.range();
                block.bytes.get_mut(range)
            })
            .unwrap_or_default()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |block| block.len())
    }

    /// Whether no bytes wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the first `n` bytes (all, if there are fewer). With the last one the block goes back.
    pub fn consume(&mut self, n: usize, pool: &mut BufferPool) {
        let Some(block) = &mut self.0 else { return };
        if n < block.len() {
            block.start += offset(n);
        } else {
            self.clear(pool);
        }
    }

    /// Moves bytes to a slice, as many as there are and fit. How many those were.
    pub(super) fn take(&mut self, to: &mut [u8], pool: &mut BufferPool) -> usize {
        let n = self.len().min(to.len());
        if let (Some(to), Some(data)) = (to.get_mut(..n), self.data().get(..n)) {
            to.copy_from_slice(data);
        }
        self.consume(n, pool);
        n
    }

    /// Drops all bytes but the first `n`.
    pub fn truncate(&mut self, n: usize, pool: &mut BufferPool) {
        let Some(block) = &mut self.0 else { return };
        if n == 0 {
            self.clear(pool);
        } else if n < block.len() {
            block.end = block.start + offset(n);
        }
    }

    /// Drops all bytes, and those that follow in a chain, and gives the blocks back.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        while let Some(mut block) = self.0.take() {
            *self = core::mem::take(&mut block.next);
            pool.give_back(block);
        }
    }

    /// Room behind the data, to be filled from a socket and then told by [`Buffer::filled`], in a block of
    /// `class` at least. Empty if such a block is full.
    pub fn space(&mut self, class: Class, pool: &mut BufferPool) -> &mut [u8] {
        match &mut self.0 {
            // More room in front than behind: no reads of a few bytes at the end of a block.
            Some(block) if class.size() <= block.bytes.len() => {
                if block.bytes.len() - (block.end as usize) < block.start as usize {
                    block.compact();
                }
            }
            Some(_) | None => self.exchange(class, pool),
        }
        self.behind()
    }

    /// Room for `n` bytes at least behind the data, as [`Buffer::space`]; less if no block is large enough.
    pub fn room(&mut self, n: usize, pool: &mut BufferPool) -> &mut [u8] {
        if !self.make_room(n) {
            self.exchange(Class::holding(self.len() + n).unwrap_or(Class::Large), pool);
        }
        self.behind()
    }

    /// The first `n` bytes of [`Buffer::space`] were filled; none, if nothing came.
    pub fn filled(&mut self, n: usize, pool: &mut BufferPool) {
        let Some(block) = &mut self.0 else { return };
        block.end += offset(n.min(block.bytes.len() - block.end as usize));
        if block.len() == 0 {
            self.clear(pool);
        }
    }

    /// Appends bytes, in a larger block if need be: all of them or none.
    pub fn append(&mut self, bytes: &[u8], pool: &mut BufferPool) -> Result<(), Full> {
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.make_room(bytes.len()) {
            self.exchange(Class::holding(self.len() + bytes.len()).ok_or(Full)?, pool);
        }
        if let Some(block) = &mut self.0 {
            let range = block.end as usize..block.end as usize + bytes.len();
            if let Some(room) = block.bytes.get_mut(range) {
                room.copy_from_slice(bytes);
                block.end += offset(bytes.len());
            }
        }
        Ok(())
    }

    /// Appends as many bytes as a block of `class` takes, or the present one if that is larger. The rest.
    pub(super) fn fill<'a>(&mut self, bytes: &'a [u8], class: Class, pool: &mut BufferPool) -> &'a [u8] {
        let room = class.size().max(self.capacity()).saturating_sub(self.len());
        let (fits, rest) = bytes.split_at(room.min(bytes.len()));
        if !fits.is_empty() {
            if !self.make_room(fits.len()) {
                self.exchange(class, pool);
            }
            // There is room.
            let _ = self.append(fits, pool);
        }
        rest
    }

    /// What follows in a chain, while this one is not empty.
    pub(super) fn next(&self) -> Option<&Self> {
        self.0.as_ref().map(|block| &block.next)
    }

    /// As [`Buffer::next`].
    pub(super) fn next_mut(&mut self) -> Option<&mut Self> {
        self.0.as_mut().map(|block| &mut block.next)
    }

    /// The block, if there is one.
    pub(super) fn block(&self) -> Option<&Block> {
        self.0.as_deref()
    }

    /// Moves what is left to the smallest block that holds it.
    pub fn fit(&mut self, pool: &mut BufferPool) {
        if let Some(class) = Class::holding(self.len())
            && class.size() < self.capacity()
        {
            self.exchange(class, pool);
        }
    }

    /// The size of the block that is owned at present.
    fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |block| block.bytes.len())
    }

    /// What lies behind the data.
    fn behind(&mut self) -> &mut [u8] {
        self.0
            .as_mut()
            .and_then(|block| {
                let end = block.end as usize;
                block.bytes.get_mut(end..)
            })
            .unwrap_or_default()
    }

    /// Whether there is a block with room for `n` bytes behind the data, which is moved to its front if need
    /// be.
    fn make_room(&mut self, n: usize) -> bool {
        let Some(block) = &mut self.0 else { return false };
        if block.end as usize + n > block.bytes.len() {
            if block.len() + n > block.bytes.len() {
                return false;
            }
            block.compact();
        }
        true
    }

    /// Moves the data to a block of this class, which holds it.
    fn exchange(&mut self, class: Class, pool: &mut BufferPool) {
        let mut block = pool.take(class);
        let data = self.data();
        if let Some(room) = block.bytes.get_mut(..data.len()) {
            room.copy_from_slice(data);
        }
        block.end = offset(data.len());
        if let Some(old) = self.0.replace(block) {
            pool.give_back(old);
        }
    }
}

impl Block {
    /// How many bytes wait in it.
    pub(super) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Those bytes.
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(self.range()).unwrap_or_default()
    }

    /// What follows it in a chain.
    pub(super) fn next(&self) -> &Buffer {
        &self.next
    }

    fn range(&self) -> core::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Moves the data to the front.
    fn compact(&mut self) {
        let data = self.range();
        self.bytes.copy_within(data, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {})", self.len(), self.capacity())
    }
}

/// No block is anywhere near as long as 4 GiB.
pub(super) fn offset(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_buffer_is_small() {
        assert!(size_of::<Buffer>() <= size_of::<usize>());
    }

    #[test]
    fn bytes_come_out_in_order_and_the_block_goes_back() {
        let mut pool = BufferPool::new();
        let mut buffer = Buffer::new();
        buffer.append(b"hello", &mut pool).unwrap();
        assert_eq!(pool.out(), 1);
        let space = buffer.space(Class::Small, &mut pool);
        assert_eq!(space.len(), Class::Small.size() - 5);
        space[..6].copy_from_slice(b" world");
        buffer.filled(6, &mut pool);
        buffer.consume(3, &mut pool);
        assert_eq!(buffer.data(), b"lo world");
        buffer.consume(99, &mut pool);
        assert!(buffer.is_empty());
        assert_eq!(pool.out(), 0);
        assert_eq!(buffer.data(), b"");
    }

    #[test]
    fn nothing_read_gives_the_block_back() {
        let mut pool = BufferPool::new();
        let mut buffer = Buffer::new();
        assert_eq!(buffer.space(Class::Large, &mut pool).len(), Class::Large.size());
        buffer.filled(0, &mut pool);
        assert_eq!(pool.out(), 0);
    }

    #[test]
    fn it_grows_by_classes_and_no_further() {
        let mut pool = BufferPool::new();
        let mut buffer = Buffer::new();
        let bytes: Vec<u8> = (0..Class::Large.size()).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut sent = 0;
        for chunk in bytes.chunks(1000) {
            buffer.append(chunk, &mut pool).unwrap();
            sent += chunk.len();
            assert_eq!(buffer.capacity(), Class::holding(sent).unwrap().size());
            assert_eq!(pool.out(), 1);
        }
        assert_eq!(buffer.data(), bytes);
        assert_eq!(buffer.append(b"x", &mut pool), Err(Full));
        assert_eq!(buffer.space(Class::Large, &mut pool), b"");
        assert_eq!(buffer.data(), bytes);
        buffer.consume(1, &mut pool);
        buffer.append(b"x", &mut pool).unwrap();
        assert_eq!(buffer.data()[..bytes.len() - 1], bytes[1..]);
        assert_eq!(buffer.data().last(), Some(&b'x'));
        buffer.clear(&mut pool);
        assert_eq!(pool.out(), 0);
    }

    #[test]
    fn a_consumed_front_makes_room() {
        let mut pool = BufferPool::new();
        let mut buffer = Buffer::new();
        let size = Class::Small.size();
        buffer.append(&vec![1; size], &mut pool).unwrap();
        buffer.consume(size - 2, &mut pool);
        let space = buffer.space(Class::Small, &mut pool);
        assert_eq!(space.len(), size - 2);
        space.fill(2);
        buffer.filled(size - 2, &mut pool);
        assert_eq!(buffer.capacity(), size);
        assert_eq!(buffer.data()[..3], [1, 1, 2]);
        assert_eq!(buffer.len(), size);
    }

    #[test]
    fn what_is_left_moves_to_a_block_that_fits() {
        let mut pool = BufferPool::new();
        let mut buffer = Buffer::new();
        buffer.append(&vec![7; Class::Large.size()], &mut pool).unwrap();
        for (left, class) in [(Class::Wide.size(), Class::Wide), (100, Class::Small)] {
            buffer.consume(buffer.len() - left, &mut pool);
            buffer.fit(&mut pool);
            assert_eq!((buffer.data(), buffer.capacity()), (&vec![7; left][..], class.size()));
            assert_eq!((pool.out(), pool.bytes()), (1, class.size()));
        }
        buffer.clear(&mut pool);
        buffer.fit(&mut pool);
        assert_eq!((buffer.capacity(), pool.bytes()), (0, 0));
    }

    #[test]
    fn the_pool_keeps_a_bounded_number() {
        let mut pool = BufferPool::new();
        let mut buffers: Vec<Buffer> = (0..1000).map(|_| Buffer::new()).collect();
        for buffer in &mut buffers {
            buffer.append(b"x", &mut pool).unwrap();
        }
        assert_eq!(pool.out(), 1000);
        for buffer in &mut buffers {
            buffer.consume(1, &mut pool);
        }
        assert_eq!(pool.out(), 0);
        assert_eq!(pool.free.each_ref().map(Vec::len), [Class::Small.kept(), 0, 0, 0]);
    }
}
