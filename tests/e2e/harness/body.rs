//! Bodies that show every fault: a stream of bytes that is different for every seed and never repeats in step
//! with any buffer, compared at memory speed.

use std::io::{self, Write};

/// The length of the repeated block: a prime, so that no chunk or buffer size divides it.
const BLOCK: usize = 1_048_583;

/// A long generated stream.
pub struct Pattern {
    block: Vec<u8>,
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut block = Vec::with_capacity(BLOCK + 8);
        while block.len() < BLOCK {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        block.truncate(BLOCK);
        Self { block }
    }

    /// Some bytes of the stream from this offset on; at most `limit`, at least one.
    pub fn at(&self, offset: u64, limit: usize) -> &[u8] {
        let start = (offset % BLOCK as u64) as usize;
        let end = BLOCK.min(start + limit);
        &self.block[start..end]
    }

    /// The first `total` bytes.
    pub fn bytes(&self, total: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(total);
        self.write_to(&mut all, total as u64).unwrap();
        all
    }

    /// Writes the first `total` bytes as they are.
    pub fn write_to(&self, to: &mut impl Write, total: u64) -> io::Result<()> {
        let mut offset = 0;
        while offset < total {
            let piece = self.at(offset, (total - offset).min(256 * 1024) as usize);
            to.write_all(piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes the first `total` bytes as a chunked body, in chunks of changing size.
    pub fn write_chunked_to(&self, to: &mut impl Write, total: u64) -> io::Result<()> {
        let mut offset = 0;
        while offset < total {
            let size = 1 + (offset as usize).wrapping_mul(7919) % 150_000;
            let piece = self.at(offset, (total - offset).min(size as u64) as usize);
            let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
            chunk.extend_from_slice(piece);
            chunk.extend_from_slice(b"\r\n");
            to.write_all(&chunk)?;
            offset += piece.len() as u64;
        }
        to.write_all(b"0\r\n\r\n")
    }
}

/// Compares what arrives with the stream.
pub struct Checker<'a> {
    pattern: &'a Pattern,
    offset: u64,
}

impl<'a> Checker<'a> {
    pub fn new(pattern: &'a Pattern) -> Self {
        Self { pattern, offset: 0 }
    }

    #[track_caller]
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.pattern.at(self.offset, bytes.len());
            let (now, rest) = bytes.split_at(expected.len());
            assert!(now == expected, "the body differs between {} and +{}", self.offset, now.len());
            self.offset += now.len() as u64;
            bytes = rest;
        }
    }

    pub fn seen(&self) -> u64 {
        self.offset
    }
}

#[test]
fn the_checker_notices_every_fault() {
    let pattern = Pattern::new(1);
    let bytes = pattern.bytes(3 * BLOCK);
    let mut whole = Checker::new(&pattern);
    for piece in bytes.chunks(77_777) {
        whole.take(piece);
    }
    assert_eq!(whole.seen(), bytes.len() as u64);

    let refuses = |bytes: Vec<u8>| {
        let pattern = Pattern::new(1);
        std::panic::catch_unwind(move || Checker::new(&pattern).take(&bytes)).is_err()
    };
    let mut lost = bytes.clone();
    lost.remove(BLOCK + 5);
    let mut doubled = bytes.clone();
    doubled.insert(BLOCK + 5, bytes[BLOCK + 5]);
    let mut swapped = bytes.clone();
    swapped[100_000..300_000].rotate_left(65_536);
    assert!(refuses(lost) && refuses(doubled) && refuses(swapped) && refuses(Pattern::new(2).bytes(100)));
}
