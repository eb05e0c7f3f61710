//! A connection's bytes, plain, under TLS, or in frames of WebSocket: the same calls for all.
//!
//! TLS sits above [`Net`], so that the simulated network carries it too. rustls is used without its own
//! buffers: ciphertext lives in borrowed blocks like everything else, and an idle connection holds none.

use std::io::{self, IoSlice};

use rustls::InvalidMessage;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};

use super::Net;
use super::buffer::{Buffer, BufferPool, Class};
use super::explain::{TlsPeer, explain};
use super::framed::FramedStream;
use crate::proto::seam::End;

/// A socket, and what is spoken on it.
pub(super) enum Stream<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
    /// Over one of the others.
    Framed(Box<FramedStream<S>>),
}

/// The most plaintext in one record (RFC 8446 section 5.1).
const MAX_RECORD_BYTES: usize = 16 * 1024;
/// What a record adds to its plaintext, at most: header, content type, padding of none, tag, explicit nonce
/// (RFC 5246 section 6.2.3.3).
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Ciphertext that may wait for the socket before no more plaintext is taken.
const MAX_OUTGOING_BYTES: usize = 3 * (MAX_RECORD_BYTES + RECORD_OVERHEAD_BYTES);

impl<S> Stream<S> {
    /// The socket itself.
    pub(super) fn socket_mut(&mut self) -> &mut S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
            Self::Framed(framed) => framed.socket_mut(),
        }
    }

    /// The socket alone; what was not sent is lost.
    pub(super) fn into_socket(self, pool: &mut BufferPool) -> S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(mut tls) => {
                tls.clear(pool);
                tls.socket
            }
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
            Self::Tls(tls) => tls.has_edge = true,
            Self::Framed(framed) => framed.note_edge(),
        }
    }

    /// Whether reading `n` bytes into room for `room` proves that there is nothing more at present.
    pub(super) fn is_drained_by(&self, n: usize, room: usize) -> bool {
        match self {
            Self::Plain(_) => n < room,
            // Records are decrypted whole: what is here already is announced by no edge.
            Self::Tls(tls) => {
                tls.is_drained
                    && !tls.has_edge
                    && tls.is_established
                    && tls.plain.is_empty()
                    && !tls.peer_closed
            }
            Self::Framed(framed) => framed.is_drained(),
        }
    }

    /// Whether reading `n` bytes shows that many more follow: with TLS, which gives whole records, a full one
    /// does.
    pub(super) fn is_bulk(&self, n: usize) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(_) => n >= MAX_RECORD_BYTES,
            Self::Framed(framed) => framed.is_bulk(),
        }
    }

    /// Whether taking `n` of `wanted` bytes proves that the socket takes no more at present.
    pub(super) fn is_filled_by(&self, n: usize, wanted: usize) -> bool {
        match self {
            Self::Plain(_) => n < wanted,
            Self::Tls(tls) => !tls.outgoing.is_empty(),
            Self::Framed(framed) => framed.has_pending(),
        }
    }

    /// How the input ended, once reading has returned nothing.
    pub(super) fn end(&self) -> End {
        match self {
            Self::Plain(_) => End::Clean,
            Self::Tls(tls) => {
                if tls.peer_closed {
                    End::Clean
                } else {
                    End::Cut
                }
            }
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
            Self::Tls(tls) => !tls.outgoing.is_empty(),
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

    /// The connection is to be closed: says the end, on each layer. What would have to wait is left out.
    pub(super) fn part<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(tls) => {
                tls.say_end(pool);
                let _ = tls.flush(net, pool);
            }
            Self::Framed(framed) => framed.part(net, pool),
        }
    }

    /// After a failed read: whether the remote side speaks HTTP where it should speak TLS. What it said is
    /// read without TLS then.
    pub(super) fn turn_plain(&mut self) -> bool {
        match self {
            Self::Tls(tls) if tls.is_plain_http() => {
                tls.session = Session::Refused;
                true
            }
            Self::Tls(_) | Self::Plain(_) | Self::Framed(_) => false,
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
    /// What it failed of. rustls is not asked for anything after that.
    failure: Option<Box<rustls::Error>>,
}

/// What stands next in the input.
pub(super) enum Ahead {
    /// The end, or what will turn out to be one.
    End,
    /// Bytes.
    Bytes,
}

/// Either side of the protocol.
pub(super) enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
    /// The remote side does not speak TLS. It is told so in plain text.
    Refused,
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
    pub(super) fn failure(&self) -> Option<String> {
        match &self.failure {
            _ if !self.is_handshaking() => None,
            Some(error) => Some(explain(error, self.peer)),
            None => self.has_received.then(|| "the other side did not finish the handshake".to_owned()),
        }
    }

    /// Goes on with the handshake. Whether it is over.
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

    fn clear(&mut self, pool: &mut BufferPool) {
        for buffer in [&mut self.incoming, &mut self.plain, &mut self.outgoing] {
            buffer.clear(pool);
        }
    }

    fn read<N: Net<Socket = S>>(
        &mut self,
        net: &mut N,
        pool: &mut BufferPool,
        space: &mut [u8],
    ) -> io::Result<usize> {
        if let Session::Refused = self.session {
            if self.incoming.is_empty() {
                return net.read(&mut self.socket, space);
            }
            return Ok(take(&mut self.incoming, pool, space));
        }
        if !self.plain.is_empty() {
            return Ok(take(&mut self.plain, pool, space));
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
            // What waits already is sent when the socket takes more, and whoever waits for that hears of it:
            // not from here.
            let is_silent = self.is_established && !self.outgoing.is_empty();
            let filled = self.process_or_fail(net, pool, space)?;
            match if is_silent { Ok(()) } else { self.flush(net, pool) } {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            // Who has room for little is given little, and may be long in coming back for more.
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

    /// As `fill`, for the end alone, and no further than a small block reaches: an end that comes behind more
    /// than that is seen when that is wanted.
    fn look_ahead<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) -> io::Result<Ahead> {
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

    /// Processes the records that are there. How many bytes of plaintext went to `space`.
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

    /// After an error: what is still to be said, up to the alert that tells the remote side why. rustls must
    /// not look at the input again once it has made that.
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
        let Self { session, incoming, outgoing, .. } = self;
        let settled = match session {
            Session::Client(session) => settle::<ClientConnectionData>(
                session.process_tls_records(incoming.data_mut()),
                outgoing,
                pool,
                take,
            ),
            Session::Server(session) => settle::<ServerConnectionData>(
                session.process_tls_records(incoming.data_mut()),
                outgoing,
                pool,
                take,
            ),
            Session::Refused => return Ok(Event::Blocked),
        };
        self.incoming.consume(settled.discard, pool);
        settled.event
    }

    fn write<N: Net<Socket = S>>(
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
            match traffic {
                Traffic::Client(mut traffic) => traffic.encrypt(record, room),
                Traffic::Server(mut traffic) => traffic.encrypt(record, room),
            }
        })
    }

    fn say_end(&mut self, pool: &mut BufferPool) {
        if !self.is_established || core::mem::replace(&mut self.end_said, true) {
            return;
        }
        // Without it the remote side takes the end for a cut, which is all that can be said then.
        let _ = self.when_writable(pool, |outgoing, traffic, pool| {
            let room = outgoing.room(RECORD_OVERHEAD_BYTES, pool);
            match traffic {
                Traffic::Client(mut traffic) => traffic.queue_close_notify(room),
                Traffic::Server(mut traffic) => traffic.queue_close_notify(room),
            }
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
        let traffic = match session {
            Session::Client(session) => match session.process_tls_records(incoming.data_mut()).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => Some(Traffic::Client(traffic)),
                _ => None,
            },
            Session::Server(session) => match session.process_tls_records(incoming.data_mut()).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => Some(Traffic::Server(traffic)),
                _ => None,
            },
            Session::Refused => None,
        };
        let traffic = traffic.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let n = produce(outgoing, traffic, pool).map_err(|error| io::Error::other(error.to_string()))?;
        outgoing.filled(n, pool);
        Ok(())
    }

    fn flush<N: Net<Socket = S>>(&mut self, net: &mut N, pool: &mut BufferPool) -> io::Result<()> {
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

/// What one look at the received records came to.
enum Event {
    /// There may be more.
    More,
    PeerClosed,
    /// Nothing more is there, and plaintext may be sent.
    Established,
    /// Nothing more is there.
    Blocked,
}

struct Settled {
    discard: usize,
    event: Result<Event, rustls::Error>,
}

enum Traffic<'a> {
    Client(WriteTraffic<'a, ClientConnectionData>),
    Server(WriteTraffic<'a, ServerConnectionData>),
}

/// Deals with one state of the connection.
fn settle<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Buffer,
    pool: &mut BufferPool,
    take: &mut impl FnMut(&[u8], &mut BufferPool),
) -> Settled {
    let mut discard = status.discard;
    let event = match status.state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    take(record.payload, pool);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Event::More),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            match data.encode(outgoing.room(RECORD_OVERHEAD_BYTES, pool)) {
                Ok(n) => {
                    outgoing.filled(n, pool);
                    Ok(Event::More)
                }
                Err(EncodeError::InsufficientSize(needed)) => {
                    match data.encode(outgoing.room(needed.required_size, pool)) {
                        Ok(n) => {
                            outgoing.filled(n, pool);
                            Ok(Event::More)
                        }
                        Err(error) => Err(rustls::Error::General(error.to_string())),
                    }
                }
                Err(error @ EncodeError::AlreadyEncoded) => Err(rustls::Error::General(error.to_string())),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // What is in the outgoing buffer goes out in order, whatever comes after it.
            data.done();
            Ok(Event::More)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Event::PeerClosed),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Event::Established),
        // BlockedHandshake, Closed; early data is never offered.
        Ok(_) => Ok(Event::Blocked),
        Err(error) => Err(error),
    };
    Settled { discard, event }
}

/// Whether a record of ours is an alert: of that type, or encrypted in TLS 1.3 and as long as only alerts are
/// (RFC 8446 section 5.2: two bytes, the type, and a tag of 16).
fn is_alert(record: &[u8]) -> bool {
    matches!(record, [21, ..] | [23, _, _, 0, 19, ..])
}

/// Moves bytes from a buffer to a slice, as many as there are and fit.
pub(super) fn take(from: &mut Buffer, pool: &mut BufferPool, space: &mut [u8]) -> usize {
    let n = from.len().min(space.len());
    if let (Some(to), Some(data)) = (space.get_mut(..n), from.data().get(..n)) {
        to.copy_from_slice(data);
    }
    from.consume(n, pool);
    n
}
