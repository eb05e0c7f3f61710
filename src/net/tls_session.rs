//! rustls, for either side of a connection: one state of it is dealt with at a time.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};

use super::buffer::{Buffer, BufferPool};

/// What a record adds to its plaintext, at most: header, content type, padding of none, tag, explicit nonce
/// (RFC 5246 section 6.2.3.3).
pub(super) const RECORD_OVERHEAD_BYTES: usize = 64;

/// Either side of the protocol.
pub(super) enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
    /// The remote side does not speak TLS. It is told so in plain text.
    Refused,
}

impl Session {
    /// Deals with one state of the connection. Plaintext goes to `take`.
    pub(super) fn settle(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Buffer,
        pool: &mut BufferPool,
        take: &mut impl FnMut(&[u8], &mut BufferPool),
    ) -> Settled {
        match self {
            Self::Client(session) => {
                settle::<ClientConnectionData>(session.process_tls_records(incoming), outgoing, pool, take)
            }
            Self::Server(session) => {
                settle::<ServerConnectionData>(session.process_tls_records(incoming), outgoing, pool, take)
            }
            Self::Refused => Settled { discard: 0, event: Ok(Event::Blocked) },
        }
    }

    /// What takes plaintext, once the handshake is over and all that has been received was dealt with.
    pub(super) fn traffic<'a>(&'a mut self, incoming: &'a mut [u8]) -> Option<Traffic<'a>> {
        match self {
            Self::Client(session) => match session.process_tls_records(incoming).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => Some(Traffic::Client(traffic)),
                _ => None,
            },
            Self::Server(session) => match session.process_tls_records(incoming).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => Some(Traffic::Server(traffic)),
                _ => None,
            },
            Self::Refused => None,
        }
    }
}

/// What one look at the received records came to.
pub(super) enum Event {
    /// There may be more.
    More,
    PeerClosed,
    /// Nothing more is there, and plaintext may be sent.
    Established,
    /// Nothing more is there.
    Blocked,
}

/// What came of one state of the connection.
pub(super) struct Settled {
    /// Bytes of the input that are done with.
    pub(super) discard: usize,
    pub(super) event: Result<Event, rustls::Error>,
}

/// A connection that takes plaintext.
pub(super) enum Traffic<'a> {
    Client(WriteTraffic<'a, ClientConnectionData>),
    Server(WriteTraffic<'a, ServerConnectionData>),
}

impl Traffic<'_> {
    pub(super) fn encrypt(self, plain: &[u8], room: &mut [u8]) -> Result<usize, EncryptError> {
        match self {
            Self::Client(mut traffic) => traffic.encrypt(plain, room),
            Self::Server(mut traffic) => traffic.encrypt(plain, room),
        }
    }

    pub(super) fn queue_close_notify(self, room: &mut [u8]) -> Result<usize, EncryptError> {
        match self {
            Self::Client(mut traffic) => traffic.queue_close_notify(room),
            Self::Server(mut traffic) => traffic.queue_close_notify(room),
        }
    }
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
