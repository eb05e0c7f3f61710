//! The I/O shell: the event loop, sockets, buffers, TLS, name lookup, signals.
//!
//! It fills buffers, reports readiness and time, and carries out the commands of the core
//! ([`crate::proto::seam`]). No protocol decision is taken here, and no HTTP field is known here. The
//! operating system itself is behind [`Net`], which has two implementations: [`sys`], which is `net/linux/`
//! and the only place that names mio and rustix, and the simulated network of the tests. Another operating
//! system would be another folder.

pub mod buffer;
mod chain;
mod descriptors;
mod explain;
mod framed;
mod listen;
pub mod run;
pub mod self_signed;
pub mod shell;
mod stream;
#[path = "linux/mod.rs"]
pub mod sys;
pub mod tls;
mod tls_session;
mod tls_stream;

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, IoSlice};

use crate::proto::tables::timer::Now;

/// The system-call layer, and nothing more. All sockets are non-blocking, readiness is edge-triggered as
/// Linux gives it (epoll(7)): a new edge comes only after a call would have blocked; data and FIN that arrive
/// together make one edge.
pub trait Net {
    /// A listening socket.
    type Listener;
    /// A connected, or connecting, TCP socket. Dropping it closes it.
    type Socket;

    /// Both clocks. The loop calls it once in each turn.
    fn now(&mut self) -> Now;

    /// Waits until something happens or the timeout has passed, and appends what happened. What has waited
    /// longest to be told is told first.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Polled>;

    /// Takes a connection from the backlog.
    fn accept(&mut self, listener: &mut Self::Listener) -> io::Result<(Self::Socket, SocketAddr)>;

    /// Begins to connect. Writability, or an error, of the registered socket tells the end.
    fn connect(&mut self, address: SocketAddr) -> io::Result<Self::Socket>;

    /// Asks for events of this socket, for both directions and for good. Readiness that already stands is
    /// reported.
    fn register(&mut self, socket: &mut Self::Socket, token: u32) -> io::Result<()>;

    /// Changes the token of a registered socket. Readiness that already stands is reported anew.
    fn reregister(&mut self, socket: &mut Self::Socket, token: u32) -> io::Result<()>;

    /// Whether a connecting socket is connected: `Ok(false)` while it is under way, the error when it failed.
    fn connected(&mut self, socket: &mut Self::Socket) -> io::Result<bool>;

    /// recv(2). `Ok(0)` is the end.
    fn read(&mut self, socket: &mut Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;

    /// writev(2).
    fn write(&mut self, socket: &mut Self::Socket, buffers: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sends FIN: shutdown(2) with `SHUT_WR`.
    fn shutdown(&mut self, socket: &mut Self::Socket) -> io::Result<()>;

    /// Closes the socket with a reset (`SO_LINGER` of zero).
    fn abort(&mut self, socket: Self::Socket);

    /// Takes an empty pipe for [`Net::splice_in`], if there is one to be had: a system without splice(2) has
    /// none, and so has a process that is short of descriptors.
    fn take_pipe(&mut self) -> Option<Pipe> {
        None
    }

    /// Gives a pipe back. One that is not empty is closed.
    fn give_pipe(&mut self, _pipe: Pipe, _is_empty: bool) {}

    /// splice(2) from a socket into an empty pipe, `most` bytes at most. `Ok(0)` is the end of the input.
    fn splice_in(&mut self, _socket: &mut Self::Socket, _pipe: Pipe, _most: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// splice(2) from a pipe that holds `n` bytes to a socket.
    fn splice_out(&mut self, _pipe: Pipe, _socket: &mut Self::Socket, _n: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Begins to look for sockets whose remote side does not acknowledge what is sent to it any more, for
    /// about half a minute at least. The answer is an [`Event::Vanished`], if there are any: of this process
    /// or of others.
    fn find_vanished(&mut self);

    /// What [`Event::Vanished`] calls this socket.
    fn identity(&mut self, socket: &mut Self::Socket) -> Option<u64>;

    /// Looks up a name without blocking the loop. The answer is an [`Event::Resolved`] with this token.
    fn resolve(&mut self, host: &str, port: u16, token: u32);
}

/// Whether a poll has told of all that happened before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// It has.
    Whole,
    /// More may be there: it was interrupted by a signal (SIGCONT, for one), or told as much as it can at
    /// once.
    Part,
}

/// A pipe of the network's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pipe(pub u32);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A socket or listener is ready.
    Ready {
        /// The token that it was registered with.
        token: u32,
        /// There is something to read, or the end of it.
        readable: bool,
        /// There is room to write, or the connection stands.
        writable: bool,
        /// The remote side has sent FIN, or the connection is reset or in error.
        hangup: bool,
    },
    /// A name was looked up: its addresses, none if it has none.
    Resolved {
        /// The token of the request.
        token: u32,
        /// The addresses, in the order in which to try them.
        addresses: Vec<SocketAddr>,
    },
    /// Nobody is at the other end of these sockets any more.
    Vanished {
        /// Their identities.
        sockets: Vec<u64>,
    },
    /// `SIGTERM` or `SIGINT`.
    Terminate,
    /// `SIGHUP`.
    Reload,
}
