//! A connection's bytes in frames of WebSocket: a layer over a plain connection or one under TLS.
//!
//! What arrives is unwrapped where it was read to, and kept nowhere. What is sent is copied once, to put
//! frames around it: that is what they cost, and that splice(2) cannot be used. A Close frame ends a
//! direction. The connection below stays whole until it is closed, because much of what passes WebSockets
//! only ends both directions when one ends.

use std::io::{self, IoSlice};

use log::debug;

use super::Net;
use super::buffer::{Buffer, BufferPool, Class};
use super::stream::Stream;
use super::tls_stream::Ahead;
use crate::proto::seam::End;
use crate::proto::websocket::{CONTROL, Decoder, Encoder, Kind, OVERHEAD, Side};

/// The most that one frame carries: with its header it fits the largest block.
const MAX_FRAME_BYTES: usize = Class::Large.size() - OVERHEAD;

/// A connection in frames.
pub(super) struct FramedStream<S> {
    inner: Stream<S>,
    decoder: Decoder,
    encoder: Encoder,
    /// Data that was read when nobody wanted it.
    plain: Buffer,
    /// What waits for the connection below.
    outgoing: Buffer,
    /// The last read took all that there was.
    is_drained: bool,
    /// The last read shows that many more follow.
    is_bulk: bool,
    /// The remote side broke the rules.
    is_broken: bool,
    /// We said that no more data follows.
    end_said: bool,
}

impl<S> FramedStream<S> {
    /// `outgoing` is sent before the first frame.
    pub(super) fn new(inner: Stream<S>, side: Side, outgoing: Buffer) -> Self {
        Self {
            inner,
            decoder: Decoder::new(side),
            encoder: Encoder::new(side),
            plain: Buffer::new(),
            outgoing,
            is_drained: false,
            is_bulk: false,
            is_broken: false,
            end_said: false,
        }
    }

    /// Takes the frames off what was read before the connection was framed. Returns how many bytes of data
    /// are at its front.
    pub(super) fn unwrap(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.decoder.decode(bytes).map_err(|broken| {
            debug!("WebSocket: {}", broken.0);
            self.is_broken = true;
            io::Error::new(io::ErrorKind::InvalidData, broken.0)
        })
    }

    pub(super) fn socket_mut(&mut self) -> &mut S {
        self.inner.socket_mut()
    }

    pub(super) fn into_socket(mut self, pool: &mut BufferPool) -> S {
        self.clear(pool);
        self.inner.into_socket(pool)
    }

    /// A read that brought no data, though something came, counts as one that was interrupted.
    pub(super) fn read<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        space: &mut [u8],
    ) -> io::Result<usize> {
        if !self.plain.is_empty() {
            return Ok(self.plain.take(space, pool));
        }
        if self.decoder.end().is_some() {
            return Ok(0);
        }
        let n = self.inner.read(net, pool, space)?;
        self.is_drained = self.inner.is_drained_by(n, space.len());
        self.is_bulk = n == space.len() || self.inner.is_bulk(n);
        if n == 0 {
            return Ok(0);
        }
        let data = self.unwrap(space.get_mut(..n).unwrap_or_default())?;
        self.answer(net, pool);
        if data == 0 && self.decoder.end().is_none() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(data)
    }

    pub(super) fn note_edge(&mut self) {
        self.inner.note_edge();
    }

    pub(super) fn is_drained(&self) -> bool {
        self.is_drained && self.plain.is_empty() && self.decoder.end().is_none()
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.is_bulk
    }

    /// How the input ended: nobody but the other half of slime can say that it is complete.
    pub(super) fn end(&self) -> End {
        self.decoder.end().unwrap_or(End::Cut)
    }

    /// Pings are answered and Close frames seen even while nobody wants data: an intermediary may wait for a
    /// pong, or never close the connection after a Close frame.
    pub(super) fn look_ahead<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
    ) -> io::Result<Ahead> {
        if self.plain.is_empty() && self.decoder.end().is_none() {
            let mut plain = Buffer::new();
            let space = plain.space(Class::Small, pool);
            let result = self.read(net, pool, space);
            self.is_drained = false;
            plain.filled(*result.as_ref().unwrap_or(&0), pool);
            self.plain = plain;
            result?;
        }
        Ok(if self.plain.is_empty() { Ahead::End } else { Ahead::Bytes })
    }

    pub(super) fn write<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        self.flush(net, pool)?;
        if self.end_said {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let all: usize = slices.iter().map(|slice| slice.len()).sum();
        if all == 0 {
            return Ok(0);
        }
        let taken =
            self.wrap(pool, Kind::Data, slices.iter().map(|slice| &**slice), all.min(MAX_FRAME_BYTES));
        match self.flush(net, pool) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Ok(()) | Err(_) => Ok(taken),
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.outgoing.is_empty() || self.inner.has_pending()
    }

    pub(super) fn flush<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) -> io::Result<()> {
        loop {
            if self.outgoing.is_empty() && !self.pong(pool) {
                return self.inner.flush(net, pool);
            }
            match self.inner.write(net, pool, &[IoSlice::new(self.outgoing.data())]) {
                Ok(n) => self.outgoing.consume(n, pool),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn say_end(&mut self, pool: &mut BufferPool) {
        if core::mem::replace(&mut self.end_said, true) {
            return;
        }
        let room = self.outgoing.room(OVERHEAD + 2, pool);
        let n = self.encoder.close(self.is_broken, room);
        self.outgoing.filled(n, pool);
    }

    /// As [`Stream::part`].
    pub(super) fn part<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) {
        self.say_end(pool);
        if self.flush(net, pool).is_ok() {
            self.inner.part(net, pool);
        }
    }

    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        self.plain.clear(pool);
        self.outgoing.clear(pool);
        self.inner.clear(pool);
    }

    /// Sends the pong that is owed, if any. What waits already is sent when the connection takes more, and
    /// the pong with it.
    fn answer<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) {
        if self.decoder.owes_pong() && !self.has_pending() {
            // If that fails, the next read says so.
            let _ = self.flush(net, pool);
        }
    }

    /// Queues the pong that is owed, if any.
    fn pong(&mut self, pool: &mut BufferPool) -> bool {
        let mut content = [0; CONTROL];
        let Some(pong) = self.decoder.take_pong().filter(|_| !self.end_said) else { return false };
        let n = pong.len();
        if let Some(to) = content.get_mut(..n) {
            to.copy_from_slice(pong);
        }
        self.wrap(pool, Kind::Pong, content.get(..n).into_iter(), n);
        true
    }

    /// Queues a frame with the first `length` bytes, or more, of these. How many those were.
    fn wrap<'a>(
        &mut self,
        pool: &mut BufferPool,
        kind: Kind,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
        length: usize,
    ) -> usize {
        let room = self.outgoing.room(length + OVERHEAD, pool);
        let (taken, n) = self.encoder.encode(kind, parts, room);
        self.outgoing.filled(n, pool);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sys::Socket;

    #[test]
    fn frames_cost_little_where_nothing_happens() {
        assert!(size_of::<FramedStream<Socket>>() <= 256);
    }
}
