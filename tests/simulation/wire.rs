//! What a script speaks on its connection: bytes as they are, or TLS by rustls' own buffered interface, which
//! slime does not use.
//!
//! What the world remembers of a connection is counted in bytes on the network. Scripts count theirs;
//! [`Wire`] knows which belong together.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use slime::net::Net;

use crate::calls::{SimNet, Socket};
use crate::setting::HUB_NAME;

/// The most plaintext in a record, and the header before it (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;
const HEADER: usize = 5;

pub(crate) struct Wire {
    pub(crate) socket: Socket,
    tls: Option<Box<Tls>>,
}

struct Tls {
    session: Connection,
    /// Ciphertext that makes no whole record yet.
    incoming: Vec<u8>,
    /// Ciphertext that the socket has not taken.
    outgoing: VecDeque<u8>,
    /// FIN follows what is outgoing.
    finishes: bool,
    finished: bool,
    received: Account,
    sent: Account,
}

/// Which bytes on the network carry which bytes of a script.
#[derive(Default)]
struct Account {
    /// For each record with data: the script's bytes up to its end, and where it begins and ends on the
    /// network.
    records: Vec<(u64, u64, u64)>,
    plain: u64,
    on_network: u64,
}

impl Account {
    fn add(&mut self, plain: usize, on_network: usize) {
        let begins = self.on_network;
        self.plain += plain as u64;
        self.on_network += on_network as u64;
        if plain > 0 {
            self.records.push((self.plain, begins, self.on_network));
        }
    }

    fn begin_of(&self, offset: u64) -> u64 {
        let next = self.records.iter().find(|(plain, ..)| *plain > offset);
        next.map_or(self.on_network, |(_, begins, _)| *begins)
    }

    fn end_of(&self, offset: u64) -> u64 {
        self.records.iter().find(|(plain, ..)| *plain >= offset).map_or(0, |(.., ends)| *ends)
    }
}

impl Wire {
    pub(crate) fn client(socket: Socket, config: Option<&Arc<ClientConfig>>) -> Self {
        let session = config.map(|config| {
            ClientConnection::new(Arc::clone(config), HUB_NAME.try_into().unwrap()).unwrap().into()
        });
        Self::new(socket, session)
    }

    pub(crate) fn server(socket: Socket, config: Option<&Arc<ServerConfig>>) -> Self {
        Self::new(socket, config.map(|config| ServerConnection::new(Arc::clone(config)).unwrap().into()))
    }

    fn new(socket: Socket, session: Option<Connection>) -> Self {
        let tls = session.map(|session| {
            Box::new(Tls {
                session,
                incoming: Vec::new(),
                outgoing: VecDeque::new(),
                finishes: false,
                finished: false,
                received: Account::default(),
                sent: Account::default(),
            })
        });
        Self { socket, tls }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads what the other side said. `Ok(0)` is an end that it said; one that was cut is an error.
    pub(crate) fn read(&mut self, net: &mut SimNet, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return net.read(&mut self.socket, buffer) };
        loop {
            match tls.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if tls.process()? {
                continue;
            }
            tls.flush(net, &mut self.socket)?;
            let mut bytes = vec![0; RECORD];
            let n = net.read(&mut self.socket, &mut bytes)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tls.incoming.extend_from_slice(&bytes[..n]);
        }
    }

    /// Takes bytes to be sent. With TLS they may still wait then: see [`Wire::flush`].
    pub(crate) fn write(&mut self, net: &mut SimNet, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return net.write(&mut self.socket, &[IoSlice::new(bytes)]) };
        if !tls.flush(net, &mut self.socket)? || tls.session.is_handshaking() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = tls.session.writer().write(&bytes[..bytes.len().min(RECORD)])?;
        tls.collect(n);
        tls.flush(net, &mut self.socket)?;
        Ok(n)
    }

    /// Whether the socket has taken everything.
    pub(crate) fn flush(&mut self, net: &mut SimNet) -> io::Result<bool> {
        match &mut self.tls {
            Some(tls) => tls.flush(net, &mut self.socket),
            None => Ok(true),
        }
    }

    /// Whether nothing waits that [`Wire::flush`] would send.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.outgoing.is_empty())
    }

    /// Ends our side.
    pub(crate) fn finish(&mut self, net: &mut SimNet) -> io::Result<()> {
        self.say_end();
        let Some(tls) = &mut self.tls else { return net.shutdown(&mut self.socket) };
        tls.finishes = true;
        tls.flush(net, &mut self.socket).map(drop)
    }

    /// Says that our side has ended, and leaves the connection as it is. Without TLS nothing can be said.
    pub(crate) fn say_end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.session.send_close_notify();
            tls.collect(0);
        }
    }

    /// Where on the network a byte begins that was read; where what was read up to an offset ends; the same
    /// for what was written.
    pub(crate) fn received_from(&self, offset: u64) -> u64 {
        self.tls.as_ref().map_or(offset, |tls| tls.received.begin_of(offset))
    }

    pub(crate) fn received_to(&self, offset: u64) -> u64 {
        self.tls.as_ref().map_or(offset, |tls| tls.received.end_of(offset))
    }

    pub(crate) fn sent_to(&self, offset: u64) -> u64 {
        self.tls.as_ref().map_or(offset, |tls| tls.sent.end_of(offset))
    }
}

impl Tls {
    /// Takes one record in. False if there is no whole one.
    fn process(&mut self) -> io::Result<bool> {
        let length = match self.incoming[..] {
            [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([high, low])),
            _ => return Ok(false),
        };
        if self.incoming.len() < length {
            return Ok(false);
        }
        let record: Vec<u8> = self.incoming.drain(..length).collect();
        let mut rest = &record[..];
        while !rest.is_empty() {
            self.session.read_tls(&mut rest)?;
        }
        let state = self.session.process_new_packets();
        // Also what it says of an error.
        self.collect(0);
        let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.received.add(state.plaintext_bytes_to_read(), length);
        Ok(true)
    }

    /// Takes out what rustls wants to send, which carries so many bytes of ours.
    fn collect(&mut self, plain: usize) {
        let mut bytes = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut bytes).unwrap();
        }
        self.sent.add(plain, bytes.len());
        self.outgoing.extend(bytes);
    }

    fn flush(&mut self, net: &mut SimNet, socket: &mut Socket) -> io::Result<bool> {
        self.collect(0);
        while !self.outgoing.is_empty() {
            match net.write(socket, &[IoSlice::new(self.outgoing.make_contiguous())]) {
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if self.finishes && !std::mem::replace(&mut self.finished, true) {
            net.shutdown(socket)?;
        }
        Ok(true)
    }
}
