//! What one look at the input makes of it: the pieces that go to the peer, in order.

use core::ops::Range;

/// Several pieces that have no more bytes than this together are copied into one: a system call with one
/// range of bytes costs less than one with several by more than the copying does. With TLS they share a
/// record.
const MAX_JOINED_BYTES: usize = 2 * 1024;
/// Pieces that go out in one write.
pub(super) const MAX_PIECES: usize = 16;

/// A part of what goes to the peer.
pub(super) enum Piece {
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

/// Makes one piece of several small ones.
pub(super) fn join(pieces: &[Option<Piece>], input: &[u8], out: &mut Vec<u8>) -> Option<Piece> {
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
pub(super) fn push(pieces: &mut [Option<Piece>; MAX_PIECES], count: &mut usize, piece: Piece) {
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
