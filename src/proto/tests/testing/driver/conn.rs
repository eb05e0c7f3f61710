//! A connection of a core: what has arrived, what is to be sent, and the frames around it.

use super::super::wires::{Blocked, WireEnd, Wires};
use super::BUFFER;
use crate::proto::seam::End;
use crate::proto::tables::key::Key;
use crate::proto::websocket::{Broken, Decoder, Encoder, Kind};

pub(super) struct Conn {
    pub(super) wire: WireEnd,
    pub(super) peer: Option<Peer>,
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    pub(super) held: Held,
    pub(super) end: Option<End>,
    pub(super) ending: Ending,
    pub(super) hangup_told: bool,
    pub(super) waiting_told: bool,
    pub(super) write_failed: bool,
    /// What had arrived when it was served last: more of it is an edge.
    pub(super) seen: u64,
    /// It is to be served without an edge.
    pub(super) listed: bool,
    pub(super) frames: Option<Box<Frames>>,
}

/// What is between a connection and its wire, once it goes in frames.
pub(super) struct Frames {
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    /// Frames that the wire has not taken.
    pub(super) outgoing: Vec<u8>,
    pub(super) end_said: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Peer {
    Requester(Key),
    Responder { requester: Key, written: bool },
}

#[derive(Default)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
    pub(super) upto: usize,
    pub(super) released: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    No,
    Finish,
    Finished,
    Linger { dropped: usize, finished: bool },
}

impl Held {
    pub(super) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..self.upto.min(self.bytes.len())).unwrap_or_default()
    }
}

impl Conn {
    /// Takes what is to be sent, all or some of it.
    pub(super) fn write(&mut self, wires: &mut Wires, bytes: &[u8]) -> Result<usize, Blocked> {
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
    pub(super) fn say_end(&mut self, wires: &mut Wires) -> bool {
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
    pub(super) fn close(mut self, wires: &mut Wires) {
        if self.frames.is_some() {
            self.say_end(wires);
        }
        wires.close(self.wire);
    }

    /// Makes data of what has arrived, and answers pings.
    pub(super) fn unwrap(&mut self, bytes: &mut Vec<u8>) -> Result<(), Broken> {
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
