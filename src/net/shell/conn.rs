//! One connection, as the shell keeps it: its socket, what is known of its readiness, and its buffers.

use core::net::SocketAddr;

use super::held::Held;
use crate::net::Pipe;
use crate::net::buffer::{Buffer, BufferPool};
use crate::net::stream::Stream;
use crate::net::tls_stream::TlsStream;
use crate::proto::seam::{End, Target};
use crate::proto::tables::key::{Key, Kind};
use crate::proto::tables::table::{ShrinkPolicy, more_room};

/// An entry of the shell's tables: a connection, or what is to become one.
pub(super) enum Slot<S> {
    /// The name of its target is being looked up.
    Resolving(Target),
    /// The connection is being made.
    Connecting(Box<Attempts<S>>),
    /// The connection is being secured. `hangup` if an edge has said that the remote side has closed or reset
    /// it.
    Securing { stream: Box<TlsStream<S>>, hangup: bool },
    /// The connection stands.
    Open(Conn<S>),
}

/// Attempts to make one connection, to one address after the other (RFC 8305).
pub(super) struct Attempts<S> {
    pub(super) target: Target,
    /// Those that are under way.
    pub(super) sockets: Vec<S>,
    /// The addresses that are left to try, the next one last.
    pub(super) left: Vec<SocketAddr>,
    /// An edge has said that a socket was closed or reset.
    pub(super) hangup: bool,
    /// There was more than one socket, so it is not known which of them that edge was about.
    pub(super) are_several: bool,
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
    /// An edge said that the remote side has closed or reset. A short read then does not prove that nothing
    /// follows.
    pub(super) hangup: bool,
    /// The core was told of the hangup.
    pub(super) hangup_told: bool,
    /// The core was told that bytes wait to be sent.
    pub(super) waiting_told: bool,
    /// Writing has failed for good, but what was received still counts.
    pub(super) write_failed: bool,
    /// It is in the ready list, or in the list of those that are put off.
    pub(super) is_listed: bool,
    /// It has used up its share of this turn. If it is in the ready list, too, it is passed over there.
    pub(super) is_put_off: bool,
    /// The core has more to say about what it was shown, even if it wants no more input: the end of a body,
    /// for example.
    pub(super) is_unsettled: bool,
    /// The last read filled all its room: the next one gets more.
    pub(super) is_bulk: bool,
}

/// Bytes in a pipe, and what goes before and after them. It exists only while the socket does not take all of
/// it.
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
    /// The role of the connection that has this peer.
    pub(super) role: Role,
}

/// What a connection is in its pair.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The request came from it.
    Requester,
    /// The request goes to it. `written` once any of it was.
    Responder { written: bool },
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
    /// FIN; what is still read is dropped, `dropped` bytes so far. `finished` once FIN has been sent.
    Linger { dropped: u32, finished: bool },
}

impl<S> Conn<S> {
    /// Bytes of its peer were written to it, if it is a responder and there were any.
    pub(super) fn note_written(&mut self, bytes: usize) {
        if let Some(Peer { role: Role::Responder { written }, .. }) = &mut self.peer {
            *written |= bytes > 0;
        }
    }

    /// The connection that it is the responder of, if it is one.
    pub(super) fn requester(&self) -> Option<Key> {
        match self.peer {
            Some(Peer { key, role: Role::Responder { .. } }) => Some(key),
            Some(Peer { role: Role::Requester, .. }) | None => None,
        }
    }

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
            is_put_off: false,
            is_unsettled: false,
            is_bulk: false,
        }
    }

    /// Whether there is anything to be read, or to be shown to the core, if the core wants it.
    pub(super) fn has_news(&self) -> bool {
        self.readable || self.is_unsettled || self.end.is_some() || !self.input.is_empty()
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
    tables: [Places<S>; 4],
}

struct Places<S> {
    places: Vec<Option<Entry<S>>>,
    taken: usize,
    shrink: ShrinkPolicy,
}

struct Entry<S> {
    key: Key,
    slot: Slot<S>,
}

impl<S> Conns<S> {
    pub(super) fn new() -> Self {
        Self { tables: core::array::from_fn(|_| Places::new()) }
    }

    pub(super) fn insert(&mut self, key: Key, slot: Slot<S>) {
        let Some(table) = index(key).and_then(|index| self.tables.get_mut(index)) else { return };
        if table.places.len() <= key.slot() {
            if table.places.capacity() <= key.slot() {
                let beyond = key.slot() - table.places.len();
                table.places.reserve_exact(beyond + more_room::<Option<Entry<S>>>(key.slot()));
            }
            table.places.resize_with(key.slot() + 1, || None);
        }
        if let Some(place) = table.places.get_mut(key.slot()) {
            debug_assert!(place.is_none(), "the core gave a slot to a newcomer whose tenant is still here");
            table.taken += usize::from(place.replace(Entry { key, slot }).is_none());
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Slot<S>> {
        let table = self.tables.get_mut(index(key)?)?;
        let entry = table.places.get_mut(key.slot())?.take_if(|entry| entry.key == key)?;
        table.taken -= 1;
        if table.shrink.is_due(table.taken, table.places.len()) {
            table.shrink_tail();
        }
        Some(entry.slot)
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, key: Key) -> Option<&mut Slot<S>> {
        let place = self.tables.get_mut(index(key)?)?.places.get_mut(key.slot())?;
        place.as_mut().filter(|entry| entry.key == key).map(|entry| &mut entry.slot)
    }

    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&Conn<S>> {
        let place = self.tables.get(index(key)?)?.places.get(key.slot())?;
        match &place.as_ref().filter(|entry| entry.key == key)?.slot {
            Slot::Open(conn) => Some(conn),
            Slot::Resolving(_) | Slot::Connecting(_) | Slot::Securing { .. } => None,
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Conn<S>> {
        self.tables.get_mut(index(key)?)?.open_mut(key)
    }

    /// A connection, and what is held for it if it is a responder.
    pub(super) fn with_held(&mut self, key: Key) -> Option<(&mut Conn<S>, Option<&mut Held>)> {
        let Some(requester) = self.get(key)?.requester() else {
            return self.get_mut(key).map(|conn| (conn, None));
        };
        // The two connections of a pair are of two kinds, and so in two tables.
        let [table, other] = self.tables.get_disjoint_mut([index(key)?, index(requester)?]).ok()?;
        Some((table.open_mut(key)?, other.open_mut(requester).map(|conn| &mut conn.held)))
    }

    /// Whether this connection is in a handshake of TLS that a client began.
    pub(super) fn is_handshaking(&self, key: Key) -> bool {
        self.get(key).is_some_and(|conn| match &conn.stream {
            Stream::Plain(_) | Stream::Framed(_) => false,
            Stream::Tls(stream) => stream.is_handshaking(),
        })
    }

    /// Whether anything waits to be sent to this connection of the table.
    #[inline]
    pub(super) fn has_waiting(&self, conn: &Conn<S>) -> bool {
        if conn.write_failed {
            return false;
        }
        !conn.output.is_empty()
            || conn.piped.is_some()
            || conn.stream.has_pending()
            || conn
                .requester()
                .and_then(|requester| self.get(requester))
                .is_some_and(|requester| !requester.held.is_sent())
    }

    /// The keys of the entries for which the closure returns true.
    pub(super) fn keys_where(&mut self, mut is_meant: impl FnMut(&mut Slot<S>) -> bool) -> Vec<Key> {
        let entries = self.tables.iter_mut().flat_map(|table| table.places.iter_mut().flatten());
        entries.filter_map(|Entry { key, slot }| is_meant(slot).then_some(*key)).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(|table| table.taken).sum()
    }
}

impl<S> Places<S> {
    fn new() -> Self {
        Self { places: Vec::new(), taken: 0, shrink: ShrinkPolicy::default() }
    }

    #[inline]
    fn open_mut(&mut self, key: Key) -> Option<&mut Conn<S>> {
        let place = self.places.get_mut(key.slot())?;
        match &mut place.as_mut().filter(|entry| entry.key == key)?.slot {
            Slot::Open(conn) => Some(conn),
            Slot::Resolving(_) | Slot::Connecting(_) | Slot::Securing { .. } => None,
        }
    }

    /// Gives back the memory behind the last place that is taken, if that is the larger part.
    fn shrink_tail(&mut self) {
        let needed = self.places.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        if 2 * needed <= self.places.len() {
            self.places.truncate(needed);
            self.places.shrink_to_fit();
        }
    }
}

fn index(key: Key) -> Option<usize> {
    match key.kind() {
        Kind::Admin => Some(0),
        Kind::Client => Some(1),
        Kind::Tunnel => Some(2),
        Kind::Upstream => Some(3),
        Kind::Exchange | Kind::Worker => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sys::Socket;
    use crate::proto::tables::key::{ClientKey, TableKey};
    use crate::proto::tables::table::Table;

    #[test]
    fn an_idle_connection_is_small() {
        // Sockets of mio have a word more where it looks after itself.
        let more = size_of::<Socket>() - size_of::<std::os::fd::OwnedFd>();
        assert!(size_of::<Option<Entry<Socket>>>() <= 96 + more);
    }

    #[test]
    fn what_a_burst_leaves_is_given_back() {
        let mut core: Table<ClientKey, ()> = Table::new();
        let mut conns = Conns::<()>::new();
        let keys: Vec<Key> = (0..10_000).map(|_| core.insert(()).unwrap().into()).collect();
        for key in &keys {
            conns.insert(*key, Slot::Resolving(Target::Hub));
        }
        for key in &keys[1..] {
            assert!(conns.remove(*key).is_some());
            core.remove(ClientKey::from_key(*key).unwrap());
        }
        core.end_batch();
        assert_eq!(conns.len(), 1);
        assert_eq!(conns.tables[1].places.capacity(), 1);
        assert!(conns.slot_mut(keys[0]).is_some());
        // Who comes next has a slot that was given back, and another key.
        let next: Key = core.insert(()).unwrap().into();
        conns.insert(next, Slot::Resolving(Target::Hub));
        assert!(keys[1..].iter().all(|key| conns.slot_mut(*key).is_none() && conns.remove(*key).is_none()));
        assert!(conns.slot_mut(next).is_some());
    }
}
