//! A connection's bytes, plain, under TLS, or in frames of WebSocket: the same calls for all.

use std::io::{self, IoSlice};

use super::Net;
use super::buffer::BufferPool;
use super::framed::FramedStream;
use super::tls_stream::{Ahead, TlsStream};
use crate::proto::seam::End;

/// A socket, and what is spoken on it.
pub(super) enum Stream<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
    /// Over one of the others.
    Framed(Box<FramedStream<S>>),
}

impl<S> Stream<S> {
    /// The socket itself.
    pub(super) fn socket_mut(&mut self) -> &mut S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.socket_mut(),
            Self::Framed(framed) => framed.socket_mut(),
        }
    }

    /// The socket alone; what was not sent is lost.
    pub(super) fn into_socket(self, pool: &mut BufferPool) -> S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.into_socket(pool),
            Self::Framed(framed) => framed.into_socket(pool),
        }
    }

    /// Reads plaintext. `Ok(0)` is the end; [`Stream::end`] says of which kind.
    pub(super) fn read<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        space: &mut [u8],
    ) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => net.read(socket, space),
            Self::Tls(tls) => tls.read(net, pool, space),
            Self::Framed(framed) => framed.read(net, pool, space),
        }
    }

    /// An edge said that there is something to read. What was decrypted before it proves nothing.
    pub(super) fn note_edge(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(tls) => tls.note_edge(),
            Self::Framed(framed) => framed.note_edge(),
        }
    }

    /// Whether reading `n` bytes into room for `room` proves that there is nothing more at present.
    pub(super) fn is_drained_by(&self, n: usize, room: usize) -> bool {
        match self {
            Self::Plain(_) => n < room,
            Self::Tls(tls) => tls.is_drained(),
            Self::Framed(framed) => framed.is_drained(),
        }
    }

    /// Whether reading `n` bytes shows that many more follow: with TLS, which gives whole records, a full one
    /// does.
    pub(super) fn is_bulk(&self, n: usize) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(_) => TlsStream::<S>::is_bulk(n),
            Self::Framed(framed) => framed.is_bulk(),
        }
    }

    /// Whether taking `n` of `wanted` bytes proves that the socket takes no more at present.
    pub(super) fn is_filled_by(&self, n: usize, wanted: usize) -> bool {
        match self {
            Self::Plain(_) => n < wanted,
            Self::Tls(tls) => tls.has_pending(),
            Self::Framed(framed) => framed.has_pending(),
        }
    }

    /// How the input ended, once reading has returned nothing.
    pub(super) fn end(&self) -> End {
        match self {
            Self::Plain(_) => End::Clean,
            Self::Tls(tls) => tls.end(),
            Self::Framed(framed) => framed.end(),
        }
    }

    /// What stands next in the input, though nobody wants it; would-block if nothing does.
    pub(super) fn look_ahead<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
    ) -> io::Result<Ahead> {
        match self {
            // FIN is an edge of its own.
            Self::Plain(_) => Ok(Ahead::Bytes),
            Self::Tls(tls) => tls.look_ahead(net, pool),
            Self::Framed(framed) => framed.look_ahead(net, pool),
        }
    }

    /// Takes plaintext to be sent, all or some of it; would-block if none.
    pub(super) fn write<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => net.write(socket, slices),
            Self::Tls(tls) => tls.write(net, pool, slices),
            Self::Framed(framed) => framed.write(net, pool, slices),
        }
    }

    /// Whether taken bytes still wait for the socket.
    pub(super) fn has_pending(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.has_pending(),
            Self::Framed(framed) => framed.has_pending(),
        }
    }

    /// Sends what was taken. Would-block if some of it still waits.
    pub(super) fn flush<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(net, pool),
            Self::Framed(framed) => framed.flush(net, pool),
        }
    }

    /// Queues what says that nothing more will be sent: close_notify on TLS, a Close frame, which then waits
    /// like other bytes.
    pub(super) fn say_end(&mut self, pool: &mut BufferPool) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(tls) => tls.say_end(pool),
            Self::Framed(framed) => framed.say_end(pool),
        }
    }

    /// Whether FIN follows what [`Stream::say_end`] queues.
    pub(super) fn ends_by_fin(&self) -> bool {
        !matches!(self, Self::Framed(_))
    }

    /// The connection is about to be closed: says the end on each layer, and leaves out what would have to
    /// wait.
    pub(super) fn part<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(tls) => tls.part(net, pool),
            Self::Framed(framed) => framed.part(net, pool),
        }
    }

    /// After a failed read: whether the remote side speaks HTTP where it should speak TLS. If so, what it
    /// said is read without TLS.
    pub(super) fn turn_plain(&mut self) -> bool {
        match self {
            Self::Tls(tls) => tls.turn_plain(),
            Self::Plain(_) | Self::Framed(_) => false,
        }
    }

    /// Gives all blocks back. To be called before it is dropped.
    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(tls) => tls.clear(pool),
            Self::Framed(framed) => framed.clear(pool),
        }
    }
}
