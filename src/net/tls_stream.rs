//! A connection's bytes under TLS.
//!
//! TLS sits above [`Net`], so that the simulated network carries it too. rustls is used without its own
//! buffers: ciphertext lives in borrowed blocks like everything else, and an idle connection holds none.

use core::net::IpAddr;
use std::io::{self, IoSlice};

use rustls::InvalidMessage;
use rustls::unbuffered::EncryptError;

use super::Net;
use super::buffer::{Buffer, BufferPool, Class};
use super::tls_session::{Event, RECORD_OVERHEAD_BYTES, Session, Traffic};
use crate::proto::seam::{End, Target};

/// The most plaintext in one record (RFC 8446 section 5.1).
const MAX_RECORD_BYTES: usize = 16 * 1024;
/// Ciphertext that may wait for the socket before no more plaintext is taken.
const MAX_OUTGOING_BYTES: usize = 3 * (MAX_RECORD_BYTES + RECORD_OVERHEAD_BYTES);

// The largest block takes all that may wait; the next one the largest record that comes, whose remote side
// may add more than we do (RFC 5246 section 6.2.3).
const _: () = assert!(MAX_OUTGOING_BYTES <= Class::Large.size());
const _: () = assert!(MAX_RECORD_BYTES + 2048 + 5 <= Class::Wide.size());

/// Whom TLS is spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsPeer {
    /// A client of the hub, at this address.
    Client(IpAddr),
    /// What was dialled.
    Target(Target),
}

/// Why a handshake was not finished.
pub(super) enum HandshakeFailure<'a> {
    /// The other side began it and did not go on.
    Unfinished,
    /// This was wrong.
    Error(&'a rustls::Error),
}

/// What stands next in the input.
pub(super) enum Ahead {
    /// The end, or what will turn out to be one.
    End,
    /// Bytes.
    Bytes,
}

/// A TLS connection over a socket.
pub(super) struct TlsStream<S> {
    socket: S,
    session: Session,
    /// Ciphertext that was read and not processed.
    incoming: Buffer,
    /// Plaintext that the last reader had no room for.
    plain: Buffer,
    /// Ciphertext that waits for the socket.
    outgoing: Buffer,
    /// The handshake is over.
    is_established: bool,
    /// The last read took all that the socket had.
    is_drained: bool,
    /// An edge has come since the last read.
    has_edge: bool,
    /// The remote side said close_notify.
    peer_closed: bool,
    /// We did.
    end_said: bool,
    peer: TlsPeer,
    /// Anything came at all.
    has_received: bool,
    /// Why it failed. rustls is not called after that.
    failure: Option<Box<rustls::Error>>,
}

impl<S> TlsStream<S> {
    pub(super) fn new(socket: S, session: Session, peer: TlsPeer) -> Self {
        Self {
            socket,
            session,
            incoming: Buffer::new(),
            plain: Buffer::new(),
            outgoing: Buffer::new(),
            is_established: false,
            is_drained: false,
            has_edge: false,
            peer_closed: false,
            end_said: false,
            peer,
            has_received: false,
            failure: None,
        }
    }

    /// The remote side.
    pub(super) fn peer(&self) -> TlsPeer {
        self.peer
    }

    /// Whether the handshake is neither over nor given up.
    pub(super) fn is_handshaking(&self) -> bool {
        !self.is_established && !matches!(self.session, Session::Refused)
    }

    /// Why the handshake failed, if it ends now. That somebody connects and says nothing is no failure.
    pub(super) fn failure(&self) -> Option<HandshakeFailure<'_>> {
        match &self.failure {
            _ if !self.is_handshaking() => None,
            Some(error) => Some(HandshakeFailure::Error(error)),
            None => self.has_received.then_some(HandshakeFailure::Unfinished),
        }
    }

    /// Goes on with the handshake. Returns whether it is over.
    pub(super) fn handshake<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
    ) -> io::Result<bool> {
        match self.fill(net, pool, &mut []) {
            // The input has ended: nothing will complete it.
            Ok(_) if !self.is_established => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(self.is_established)
    }

    /// Whether a client began with a method, which no TLS record begins with (RFC 8446 section 5.1).
    fn is_plain_http(&self) -> bool {
        !self.is_established
            && matches!(self.session, Session::Server(_))
            && self.incoming.data().first().is_some_and(u8::is_ascii_uppercase)
    }

    /// As [`Stream::socket_mut`](super::stream::Stream::socket_mut), and the others of these names likewise.
    pub(super) fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    pub(super) fn into_socket(mut self, pool: &mut BufferPool) -> S {
        self.clear(pool);
        self.socket
    }

    pub(super) fn note_edge(&mut self) {
        self.has_edge = true;
    }

    /// Records are decrypted whole: what is here already is announced by no edge.
    pub(super) fn is_drained(&self) -> bool {
        self.is_drained && !self.has_edge && self.is_established && self.plain.is_empty() && !self.peer_closed
    }

    pub(super) fn is_bulk(n: usize) -> bool {
        n >= MAX_RECORD_BYTES
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(super) fn end(&self) -> End {
        if self.peer_closed { End::Clean } else { End::Cut }
    }

    pub(super) fn part<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) {
        self.say_end(pool);
        let _ = self.flush(net, pool);
    }

    pub(super) fn turn_plain(&mut self) -> bool {
        let is_plain = self.is_plain_http();
        if is_plain {
            self.session = Session::Refused;
        }
        is_plain
    }

    pub(super) fn clear(&mut self, pool: &mut BufferPool) {
        for buffer in [&mut self.incoming, &mut self.plain, &mut self.outgoing] {
            buffer.clear(pool);
        }
    }

    pub(super) fn read<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        space: &mut [u8],
    ) -> io::Result<usize> {
        if let Session::Refused = self.session {
            if self.incoming.is_empty() {
                return net.read(&mut self.socket, space);
            }
            return Ok(self.incoming.take(space, pool));
        }
        if !self.plain.is_empty() {
            return Ok(self.plain.take(space, pool));
        }
        self.fill(net, pool, space)
    }

    /// Reads and processes records until there is plaintext (in `space`, the rest in `plain`), the end, or
    /// nothing more to read. Without `space`, until the handshake is over.
    fn fill<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        space: &mut [u8],
    ) -> io::Result<usize> {
        loop {
            // What already waits is sent, and its progress told, when the socket takes more; not from here.
            let is_silent = self.is_established && !self.outgoing.is_empty();
            let filled = self.process_or_fail(net, pool, space)?;
            match if is_silent { Ok(()) } else { self.flush(net, pool) } {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            // A reader with little room takes little, and may be slow to come back for the rest.
            let is_narrow = space.len() <= Class::Wide.size();
            if filled > 0 || self.peer_closed {
                if is_narrow {
                    self.incoming.fit(pool);
                }
                return Ok(filled);
            }
            if space.is_empty() && self.is_established {
                return Ok(0);
            }
            // A block of 16 KiB does not hold the largest record.
            let is_bulk = !self.is_drained && self.is_established;
            let class = match self.incoming.len() {
                _ if is_bulk && !is_narrow => Class::Large,
                // Only servers send chains of certificates here.
                len if len >= Class::Wide.size() && matches!(self.session, Session::Client(_)) => {
                    Class::Large
                }
                len if is_bulk || len >= Class::Medium.size() => Class::Wide,
                _ => Class::Medium,
            };
            if !self.is_established && self.incoming.len() >= class.size() {
                let error = rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);
                self.failure = Some(Box::new(error.clone()));
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if self.receive(net, pool, class)? == 0 {
                return Ok(0);
            }
            self.has_received = true;
            if self.is_plain_http() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// As `fill`, but only to see the end, and no further than a small block reaches. An end behind more than
    /// that is seen when the bytes before it are wanted.
    pub(super) fn look_ahead<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
    ) -> io::Result<Ahead> {
        if !self.is_established {
            return Ok(Ahead::Bytes);
        }
        loop {
            if self.peer_closed {
                return Ok(Ahead::End);
            }
            if !self.plain.is_empty() || self.incoming.len() >= Class::Small.size() {
                return Ok(Ahead::Bytes);
            }
            if self.receive(net, pool, Class::Small)? == 0 {
                return Ok(Ahead::End);
            }
            self.process_or_fail(net, pool, &mut [])?;
        }
    }

    /// Reads ciphertext.
    fn receive<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        class: Class,
    ) -> io::Result<usize> {
        let room = self.incoming.space(class, pool);
        let most = room.len();
        self.has_edge = false;
        let result = net.read(&mut self.socket, room);
        let n = *result.as_ref().unwrap_or(&0);
        self.is_drained = n < most;
        self.incoming.filled(n, pool);
        if result.is_err() {
            // It may be long until the rest of the record comes.
            self.incoming.fit(pool);
        }
        result
    }

    /// As `process`. If it fails, the remote side is told why.
    fn process_or_fail<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        space: &mut [u8],
    ) -> io::Result<usize> {
        self.process(pool, space).map_err(|error| {
            self.take_alert(pool);
            let _ = self.flush(net, pool);
            self.failure = Some(Box::new(error.clone()));
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    /// Processes the records that are there. Returns how many bytes of plaintext went to `space`.
    fn process(&mut self, pool: &mut BufferPool, space: &mut [u8]) -> Result<usize, rustls::Error> {
        if let Some(error) = &self.failure {
            return Err(rustls::Error::clone(error));
        }
        let mut filled = 0;
        loop {
            let mut plain = core::mem::take(&mut self.plain);
            let event = self.step(pool, &mut |payload, pool| {
                let n = payload.len().min(space.len() - filled);
                let (now, later) = payload.split_at(n);
                if let Some(to) = space.get_mut(filled..filled + n) {
                    to.copy_from_slice(now);
                }
                filled += n;
                // What was read fits one block, so what it decrypts to does.
                let _ = plain.append(later, pool);
            });
            self.plain = plain;
            match event? {
                Event::More => {}
                Event::PeerClosed => self.peer_closed = true,
                Event::Established => {
                    self.is_established = true;
                    return Ok(filled);
                }
                Event::Blocked => return Ok(filled),
            }
        }
    }

    /// After an error: queues what is still to be said, up to the alert that tells the remote side why. Once
    /// rustls has made the alert, it must not look at the input again.
    fn take_alert(&mut self, pool: &mut BufferPool) {
        loop {
            let before = self.outgoing.len();
            let is_over = !matches!(self.step(pool, &mut |_, _| {}), Ok(Event::More));
            let record = self.outgoing.data().get(before..).unwrap_or_default();
            if is_over || record.is_empty() || is_alert(record) {
                return;
            }
        }
    }

    /// Deals with one state of the connection.
    fn step(
        &mut self,
        pool: &mut BufferPool,
        take: &mut impl FnMut(&[u8], &mut BufferPool),
    ) -> Result<Event, rustls::Error> {
        let settled = self.session.settle(self.incoming.data_mut(), &mut self.outgoing, pool, take);
        self.incoming.consume(settled.discard, pool);
        settled.event
    }

    pub(super) fn write<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        if let Session::Refused = self.session {
            return net.write(&mut self.socket, slices);
        }
        self.flush(net, pool)?;
        if !self.is_established || self.end_said {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut taken = 0;
        let mut slices = slices.iter().filter(|slice| !slice.is_empty());
        let mut current: &[u8] = &[];
        loop {
            if current.is_empty() {
                match slices.next() {
                    Some(slice) => current = slice,
                    None => break,
                }
            }
            if self.outgoing.len() + MAX_RECORD_BYTES + RECORD_OVERHEAD_BYTES > MAX_OUTGOING_BYTES {
                break;
            }
            let (record, rest) = current.split_at(current.len().min(MAX_RECORD_BYTES));
            self.encrypt(pool, record)?;
            taken += record.len();
            current = rest;
        }
        match self.flush(net, pool) {
            Ok(()) => Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            Err(error) => Err(error),
        }
    }

    fn encrypt(&mut self, pool: &mut BufferPool, record: &[u8]) -> io::Result<()> {
        self.when_writable(pool, |outgoing, traffic, pool| {
            let room = outgoing.room(record.len() + RECORD_OVERHEAD_BYTES, pool);
            traffic.encrypt(record, room)
        })
    }

    pub(super) fn say_end(&mut self, pool: &mut BufferPool) {
        if !self.is_established || core::mem::replace(&mut self.end_said, true) {
            return;
        }
        // If it fails, the remote side takes the end for a cut; nothing better can be said.
        let _ = self.when_writable(pool, |outgoing, traffic, pool| {
            let room = outgoing.room(RECORD_OVERHEAD_BYTES, pool);
            traffic.queue_close_notify(room)
        });
    }

    /// Lets `produce` add to the outgoing ciphertext. What has been received is processed first, as rustls
    /// wants it.
    fn when_writable(
        &mut self,
        pool: &mut BufferPool,
        produce: impl FnOnce(&mut Buffer, Traffic<'_>, &mut BufferPool) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        self.process(pool, &mut []).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let Self { session, incoming, outgoing, .. } = self;
        let traffic = session.traffic(incoming.data_mut());
        let traffic = traffic.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let n = produce(outgoing, traffic, pool).map_err(|error| io::Error::other(error.to_string()))?;
        outgoing.filled(n, pool);
        Ok(())
    }

    pub(super) fn flush<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match net.write(&mut self.socket, &[IoSlice::new(self.outgoing.data())]) {
                Ok(n) => self.outgoing.consume(n, pool),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a record of ours is an alert: of that type, or encrypted in TLS 1.3 and as long as only alerts are
/// (RFC 8446 section 5.2: two bytes, the type, and a tag of 16).
fn is_alert(record: &[u8]) -> bool {
    matches!(record, [21, ..] | [23, _, _, 0, 19, ..])
}
