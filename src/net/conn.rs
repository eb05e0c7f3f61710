//! One connection, as the shell keeps it: its socket, what is known of its readiness, and its buffers.

use core::net::SocketAddr;

use super::Pipe;
use super::buffer::{Buffer, BufferPool};
use super::stream::{Stream, TlsStream};
use crate::proto::key::{Key, Kind};
use crate::proto::seam::{End, Target};

/// An entry of the shell's tables: a connection, or what is to become one.
pub(super) enum Slot<S> {
    /// The name of its target is being looked up.
    Resolving(Target),
    /// The connection is being made; these addresses are left to try after it.
    Connecting { socket: S, target: Target, left: Vec<SocketAddr> },
    /// The connection is being secured.
    Securing(Box<TlsStream<S>>),
    /// The connection stands.
    Open(Conn<S>),
}

/// A connection.
pub(super) struct Conn<S> {
    pub(super) stream: Stream<S>,
    /// The connection that it is paired with.
    pub(super) peer: Option<Peer>,
    /// Received, but not consumed by the core.
    pub(super) input: Buffer,
    /// To be sent, but not taken by the socket.
    pub(super) output: Buffer,
    /// What waits in a pipe to be sent, before the output.
    pub(super) piped: Option<Box<Piped>>,
    /// What came from a requester, for its responder.
    pub(super) held: Held,
    /// How the input ended, once it has.
    pub(super) end: Option<End>,
    /// What is to be done once everything is sent.
    pub(super) ending: Ending,
    /// An edge said that there is something to read, and no call has said yet that there is no more.
    pub(super) readable: bool,
    /// No call has said that the socket takes no more.
    pub(super) writable: bool,
    /// An edge said that the remote side has closed or reset. A short read does not prove then that nothing follows.
    pub(super) hangup: bool,
    /// The core was told of the hangup.
    pub(super) hangup_told: bool,
    /// The core was told that bytes wait to be sent.
    pub(super) waiting_told: bool,
    /// The socket takes nothing any more, but what it received before counts.
    pub(super) write_failed: bool,
    /// It stands in the ready list.
    pub(super) is_listed: bool,
    /// The core was shown something and has more to say, though it may want nothing any more: the end of a body, for one.
    pub(super) is_unsettled: bool,
    /// The last read filled all its room: the next one gets more.
    pub(super) is_bulk: bool,
}

/// Bytes in a pipe, and what goes before and after them. It is put down only when the socket does not take all at once.
pub(super) struct Piped {
    pub(super) before: Vec<u8>,
    pub(super) pipe: Pipe,
    pub(super) left: usize,
    pub(super) after: &'static [u8],
}

/// The other connection of a pair.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) key: Key,
    /// What the connection that has this peer is in the pair.
    pub(super) role: Role,
}

/// What a connection is in its pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The request came from it.
    Requester,
    /// The request goes to it. Whether anything of it was written.
    Responder { written: bool },
}

/// The held bytes of a requester.
#[derive(Default)]
pub(super) struct Held {
    pub(super) bytes: Buffer,
    /// How many of them the present responder has been sent.
    pub(super) sent: usize,
    /// How many of them it may be sent at present.
    pub(super) upto: usize,
    /// They are not needed any more once they are sent.
    pub(super) is_released: bool,
}

impl Held {
    /// What the responder may be sent and has not been sent.
    pub(super) fn unsent(&self) -> &[u8] {
        self.bytes.data().get(self.sent..self.upto.min(self.bytes.len())).unwrap_or_default()
    }

    /// Whether the responder has been sent all that it may be.
    pub(super) fn is_sent(&self) -> bool {
        self.sent >= self.upto.min(self.bytes.len())
    }

    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        self.bytes.clear(pool);
        *self = Self::default();
    }
}

/// What happens to a connection once everything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing.
    No,
    /// FIN, and reading goes on.
    Finish,
    /// FIN has been sent.
    Finished,
    /// FIN, and what is still read is dropped; so many bytes so far. `finished` once FIN has been sent.
    Linger { dropped: usize, finished: bool },
}

impl<S> Conn<S> {
    pub(super) fn new(stream: Stream<S>) -> Self {
        Self {
            stream,
            peer: None,
            input: Buffer::new(),
            output: Buffer::new(),
            piped: None,
            held: Held::default(),
            end: None,
            ending: Ending::No,
            readable: false,
            writable: true,
            hangup: false,
            hangup_told: false,
            waiting_told: false,
            write_failed: false,
            is_listed: false,
            is_unsettled: false,
            is_bulk: false,
        }
    }

    /// Gives all blocks back. To be called before it is dropped.
    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        self.stream.clear(pool);
        self.input.clear(pool);
        self.output.clear(pool);
        self.held.clear(pool);
    }
}

/// The tables, parallel to the core's: one for each kind, by slot.
pub(super) struct Conns<S> {
    tables: [Vec<Option<Entry<S>>>; 3],
}

struct Entry<S> {
    key: Key,
    slot: Slot<S>,
}

impl<S> Conns<S> {
    pub(super) fn new() -> Self {
        Self { tables: [Vec::new(), Vec::new(), Vec::new()] }
    }

    pub(super) fn insert(&mut self, key: Key, slot: Slot<S>) {
        let Some(table) = index(key).and_then(|index| self.tables.get_mut(index)) else { return };
        if table.len() <= key.slot() {
            table.resize_with(key.slot() + 1, || None);
        }
        if let Some(place) = table.get_mut(key.slot()) {
            debug_assert!(place.is_none(), "the core gave a slot to a newcomer whose tenant is still here");
            *place = Some(Entry { key, slot });
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Slot<S>> {
        let place = self.tables.get_mut(index(key)?)?.get_mut(key.slot())?;
        place.take_if(|entry| entry.key == key).map(|entry| entry.slot)
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, key: Key) -> Option<&mut Slot<S>> {
        let place = self.tables.get_mut(index(key)?)?.get_mut(key.slot())?;
        place.as_mut().filter(|entry| entry.key == key).map(|entry| &mut entry.slot)
    }

    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&Conn<S>> {
        let place = self.tables.get(index(key)?)?.get(key.slot())?;
        match &place.as_ref().filter(|entry| entry.key == key)?.slot {
            Slot::Open(conn) => Some(conn),
            Slot::Resolving(_) | Slot::Connecting { .. } | Slot::Securing(_) => None,
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Conn<S>> {
        match self.slot_mut(key)? {
            Slot::Open(conn) => Some(conn),
            Slot::Resolving(_) | Slot::Connecting { .. } | Slot::Securing(_) => None,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.tables.iter().flatten().flatten().count()
    }
}

fn index(key: Key) -> Option<usize> {
    match key.kind() {
        Kind::Client => Some(0),
        Kind::Tunnel => Some(1),
        Kind::Upstream => Some(2),
        Kind::Exchange | Kind::Worker => None,
    }
}
