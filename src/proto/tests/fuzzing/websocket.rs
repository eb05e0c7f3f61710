//! Frames of WebSocket.

use crate::proto::seam::End;
use crate::proto::websocket::{Broken, CONTROL, Decoder, Encoder, Kind, OVERHEAD, Side};

/// What came of some bytes.
#[derive(Debug, PartialEq)]
struct Came {
    data: Vec<u8>,
    pong: Option<Vec<u8>>,
    end: Option<End>,
}

pub(super) fn decode(data: &[u8]) {
    for side in [Side::Asked, Side::Asking(1)] {
        let whole = decode_in(side, data, usize::MAX);
        for piece in [1, 3, 14] {
            assert_eq!(decode_in(side, data, piece), whole);
        }
    }
    // What one side wraps the other one unwraps, in rooms of any size.
    let room = usize::from(data.first().copied().unwrap_or(0)) + OVERHEAD + 1;
    for (from, to) in [(Side::Asking(room as u64), Side::Asked), (Side::Asked, Side::Asking(0))] {
        let (mut encoder, mut wrapped, mut rest) = (Encoder::new(from), Vec::new(), data);
        let mut room = vec![0; room];
        while !rest.is_empty() {
            let (taken, n) = encoder.encode(Kind::Data, rest.chunks(7), &mut room);
            assert!(taken > 0, "it takes nothing");
            wrapped.extend(&room[..n]);
            rest = &rest[taken..];
        }
        let mut room = [0; OVERHEAD + 2];
        let n = encoder.close(false, &mut room);
        wrapped.extend(&room[..n]);
        wrapped.extend(data);
        let came = Came { data: data.to_vec(), pong: None, end: Some(End::Clean) };
        assert_eq!(decode_in(to, &wrapped, usize::MAX), Ok(came));
    }
}

fn decode_in(side: Side, data: &[u8], piece: usize) -> Result<Came, Broken> {
    let mut decoder = Decoder::new(side);
    let mut came = Came { data: Vec::new(), pong: None, end: None };
    for piece in data.chunks(piece) {
        let mut bytes = piece.to_vec();
        let n = decoder.decode(&mut bytes)?;
        came.data.extend(&bytes[..n]);
    }
    came.end = decoder.end();
    came.pong = decoder.take_pong().map(<[u8]>::to_vec);
    assert!(came.data.len() <= data.len() && came.pong.as_ref().is_none_or(|pong| pong.len() <= CONTROL));
    Ok(came)
}
