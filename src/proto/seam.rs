//! How core and shell meet.
//!
//! The core ([`Core`]: the hub or the agent) never sees a socket; the shell never sees a field. Three
//! channels join them, and none of them allocates per request:
//!
//! 1. **Scan** (pull): the shell shows the bytes that a connection received, and the core says what becomes
//!    of them ([`Core::handle_input`], [`Step`]). Bytes that stay as they are are never copied by the core.
//! 2. **Events** (world to core): the `handle_*` methods.
//! 3. **Commands** (core to world): [`Command`], collected in one vector that is drained after every call.
//!
//! **Requester and responder.** Both hub and agent serve requests that come in on one connection by sending
//! them out on another one. At the hub the requester is a client and the responder a tunnel; at the agent the
//! requester is the tunnel and the responder the upstream connection. The shell joins two connections by
//! [`Command::Pair`]: from then on what the core passes from one goes to the other.
//!
//! **Held bytes.** What the core produces or passes from a requester that has no responder yet is *held* by
//! the shell beside the requester. `Pair` sends it. It stays until [`Command::DropHeld`], so that another
//! responder can be given the same bytes. How much may be held is the core's to decide: it says so by what it
//! wants and passes. Beyond the first [`HELD_FIRST`] bytes the shell keeps it in blocks of [`HELD_BLOCK`]
//! bytes, so that the core can count memory and not only bytes.
//!
//! **Back-pressure is the shell's.** The input of a connection is shown to the core only while its peer has
//! nothing left to be sent (and all released held bytes are sent), and is read only while
//! [`Core::wants_input`] says so.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::proto::http1::limits::{HEAD_LIMIT, TUNNEL_ROOM};
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::websocket::Side;

/// How many bytes of a body are held beside their head, and take no block of their own.
pub const HELD_BODY: usize = 16 * 1024;
/// How many bytes the first block of what is held has room for at least: any head, as it goes out on a
/// tunnel, and [`HELD_BODY`].
pub const HELD_FIRST: usize = HEAD_LIMIT + TUNNEL_ROOM + HELD_BODY;
/// The size of the blocks that held bytes take beyond the first one.
pub const HELD_BLOCK: usize = 64 * 1024;

/// The hub or the agent, as the shell sees it.
pub trait Core {
    /// A connection was accepted, and TLS is spoken on it or not. The key that it is given, or `None` to drop
    /// it at once.
    fn handle_accepted(&mut self, peer: SocketAddr, is_tls: bool, now: Now) -> Option<Key>;

    /// As [`Core::handle_accepted`], at a listener of the admin side. A core without one takes nobody.
    fn handle_admin_accepted(&mut self, _caller: Caller, _now: Now) -> Option<Key> {
        None
    }

    /// On a connection where TLS should be spoken the remote side began with plain HTTP. It will be read, and
    /// answered, in plain text.
    fn handle_insecure(&mut self, key: Key);

    /// The descriptors or buffers of the process ran out while accepting. The core may close what it can
    /// spare; whether it did.
    fn handle_exhausted(&mut self, now: Now) -> bool;

    /// The name of a connection that was asked for by [`Command::Dial`] was looked up, or is an address. Now
    /// it is being made.
    fn handle_resolved(&mut self, key: Key, now: Now);

    /// A connection that was asked for by [`Command::Dial`] stands. If the remote side has ended it already,
    /// and sent nothing before that, [`Core::handle_hangup`] comes first.
    fn handle_connected(&mut self, key: Key, now: Now);

    /// Shows what a connection has received.
    ///
    /// The shell calls again with the rest until it gets [`Step::Wait`], or until a step issued a command
    /// that ends the look ([`Command::ends_look`]). Then it delivers what was passed, carries out the
    /// commands, and, if there were any, shows what is left once more, if anything is. So the core never
    /// reads bytes of which its own commands have changed the meaning.
    fn handle_input(&mut self, key: Key, shown: Shown<'_>, now: Now) -> Step;

    /// Whether bytes from this connection are wanted at all at present. While they are not, the shell leaves
    /// them in the kernel.
    fn wants_input(&self, key: Key) -> bool;

    /// How many of the bytes that this connection sends next are opaque: they go to its peer as they are,
    /// whatever they are. The shell may move them without showing them, and tells each lump by
    /// [`Core::handle_opaque`].
    fn opaque(&self, key: Key) -> u64;

    /// A lump of `n` opaque bytes goes from this connection to its peer. What goes before it is appended to
    /// `before`; what goes after it is returned.
    fn handle_opaque(&mut self, key: Key, n: u64, before: &mut Vec<u8>, now: Now) -> &'static [u8];

    /// The remote side has closed its direction or reset the connection, though bytes before that may be
    /// unread. Told once, as soon as it is noticed, also while input is not wanted.
    fn handle_hangup(&mut self, key: Key, now: Now);

    /// The connection takes no more bytes at present and some wait to be sent (`waiting`), has taken some of
    /// those, or has taken all of them (not `waiting` any more). Not called when a write succeeds at once.
    fn handle_send_progress(&mut self, key: Key, waiting: bool, now: Now);

    /// The connection failed, or could not be made, or a lingering one has ended. It is gone from the shell's
    /// tables.
    fn handle_closed(&mut self, key: Key, reason: Closed, now: Now);

    /// Time has come to [`Core::next_timeout`].
    fn handle_timeout(&mut self, now: Now);

    /// The earliest deadline.
    fn next_timeout(&self) -> Option<Mono>;

    /// The operator asked to end: `SIGTERM` or `SIGINT`.
    fn handle_drain(&mut self, now: Now);

    /// All events of this turn of the loop were handled: slots of closed connections may be used again.
    fn handle_batch_end(&mut self, now: Now);

    /// Where commands are collected. The shell drains it.
    fn commands(&mut self) -> &mut Vec<Command>;
}

/// The bytes that arrived on a connection and are not consumed yet, and where the answer to them goes.
#[derive(Debug)]
pub struct Shown<'a> {
    /// The bytes.
    pub input: &'a [u8],
    /// That nothing follows them, and how they ended.
    pub end: Option<End>,
    /// What the core writes here goes to the peer, before anything of `input`; without a peer it joins the
    /// held bytes.
    pub out: &'a mut Vec<u8>,
}

impl Shown<'_> {
    /// The first `most` bytes alone, for a while. Their end is not in sight if there are more.
    pub fn first(&mut self, most: usize) -> Shown<'_> {
        let input = self.input.get(..most).unwrap_or(self.input);
        let end = self.end.filter(|_| input.len() == self.input.len());
        Shown { input, end, out: &mut *self.out }
    }

    /// All of it, for a while.
    pub fn all(&mut self) -> Shown<'_> {
        self.first(usize::MAX)
    }

    /// Whether there is news: bytes, or their end.
    #[must_use]
    pub fn is_news(&self) -> bool {
        !self.input.is_empty() || self.end.is_some()
    }
}

/// Who has come to the admin side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who may open the socket's file.
    Unix,
    /// Whoever has this address.
    Network(IpAddr),
}

/// How the input of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The remote side said that it is complete: FIN on plain TCP, close_notify on TLS.
    Clean,
    /// A TLS connection ended without close_notify: an attacker may have cut it (RFC 8446 section 6.1).
    Cut,
}

/// What becomes of the input that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more can be done with it now: more bytes are needed, or none are wanted.
    Wait,
    /// It ended before it said what it should have. The connection has failed, and [`Core::handle_closed`]
    /// says whether anything was written to it.
    Fail,
    /// The first `n` bytes go to the peer as they are (to the held bytes where there is none).
    Pass(usize),
    /// The first `n` bytes are done with. What replaces them, if anything, is in `out`.
    Skip(usize),
}

/// What the shell is told to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect to one of the targets that the shell was configured with.
    Dial {
        /// The key that the connection gets.
        key: Key,
        /// Which target.
        target: Target,
    },
    /// Begin TLS on a connection that was dialled to a target which has it later. [`Core::handle_connected`]
    /// comes once more.
    Secure {
        /// Which connection.
        key: Key,
        /// What it was dialled to.
        target: Target,
    },
    /// From now on what is sent and received on this connection goes in frames of WebSocket. What waits to be
    /// sent goes before them; what was received and not consumed belongs to them.
    Frame {
        /// Which connection.
        key: Key,
        /// Which side of it we are.
        side: Side,
    },
    /// Send bytes of the core's own, after what is already waiting to be sent.
    Send {
        /// To whom.
        key: Key,
        /// What.
        bytes: Vec<u8>,
    },
    /// Join two connections and send the requester's held bytes to the responder from their beginning: all of
    /// them, or the first `upto` until [`Command::SendHeld`].
    Pair {
        /// The connection that the request came from.
        requester: Key,
        /// The connection that it goes to.
        responder: Key,
        /// How many of the held bytes may be sent.
        upto: Option<usize>,
    },
    /// Send the rest of the held bytes.
    SendHeld(Key),
    /// Forget the held bytes of this requester.
    DropHeld(Key),
    /// Part the two connections; the held bytes stay. Bytes of the responder's peer that wait to be sent stay
    /// with it.
    Unpair(Key),
    /// What [`Core::wants_input`] says of this connection may have become true.
    Resume(Key),
    /// No more bytes will be sent: FIN (close_notify on TLS) once everything before is sent. Reading goes on.
    Finish(Key),
    /// End the connection. The key is gone, except with [`Close::Linger`].
    Close(Key, Close),
    /// A connection has another key from now on.
    Rekey {
        /// The key it had.
        from: Key,
        /// The key it has.
        to: Key,
    },
    /// The work is done; the process ends with this exit code.
    Exit(u8),
}

impl Command {
    /// Whether nothing more may be shown before this is done: it changes where bytes go, or what those that
    /// follow mean. What is held of a request, and whether a connection is read, concern no byte that was
    /// shown already.
    #[must_use]
    pub fn ends_look(&self) -> bool {
        match self {
            Self::SendHeld(_) | Self::DropHeld(_) | Self::Resume(_) => false,
            Self::Dial { .. }
            | Self::Secure { .. }
            | Self::Frame { .. }
            | Self::Send { .. }
            | Self::Pair { .. }
            | Self::Unpair(_)
            | Self::Finish(_)
            | Self::Close(..)
            | Self::Rekey { .. }
            | Self::Exit(_) => true,
        }
    }
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// At once, in the ordinary way; what waits to be sent is lost.
    Now,
    /// At once, by a reset, so that the remote side cannot take what it got for complete.
    Reset,
    /// What waits is sent, then FIN, then what still arrives is dropped, within a bound of bytes, until the
    /// remote side closes (RFC 9112 section 9.6). The shell reports the end by [`Core::handle_closed`]; the
    /// bound of time is the core's.
    Linger,
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What happened.
    pub why: Why,
    /// Whether any byte of the held ones, or any byte after them, was written to this connection since it was
    /// paired.
    pub written: bool,
}

/// What ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A connection could not be made: the name was not found, nobody listened, no route.
    Unreachable(Unreachable),
    /// The remote side reset it, or another error of the transport.
    Failed,
    /// A lingering connection ended.
    Lingered,
}

/// Why a connection could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The name has no address, or the resolver did not answer.
    NameNotFound,
    /// Nobody listens there.
    Refused,
    /// TLS failed: it is not who we expected, or does not speak it.
    Untrusted,
    /// Anything else: no route, no descriptor left, time ran out in the kernel.
    Other,
}

/// An address to dial, as an index into the shell's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The hub.
    Hub,
    /// The upstream with this index.
    Upstream(u16),
}
