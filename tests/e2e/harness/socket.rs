//! A blocking socket, plain or under TLS, with the calls of a [`TcpStream`].
//!
//! One thread may read while another one writes. The end of a TLS connection is strict: without close_notify
//! it is an error.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection,
};

use super::{DEADLINE, pki};

/// A connected socket. Clones are the same socket.
#[derive(Clone)]
pub struct Socket(Arc<Inner>);

struct Inner {
    tcp: TcpStream,
    tls: Option<Tls>,
}

struct Tls {
    state: Mutex<State>,
    /// Keeps records in order while one thread writes.
    turn: Mutex<()>,
}

struct State {
    connection: Connection,
    /// Ciphertext that was read and not processed.
    raw: Vec<u8>,
    is_at_end: bool,
    says_nothing: bool,
}

impl Socket {
    /// Connects as this build of the tests has it. The handshake waits for the first byte.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect {address}: {error}"));
        if pki::is_tls() {
            return Self::client(tcp, pki::client_config(rustls::ALL_VERSIONS));
        }
        Self::plain(tcp)
    }

    /// Takes what was accepted as this build of the tests has it. With TLS, until the end of the handshake.
    pub fn accept(tcp: TcpStream) -> io::Result<Self> {
        if pki::is_tls() {
            return Self::server(tcp, pki::server_config(pki::identity(), rustls::ALL_VERSIONS));
        }
        Ok(Self::plain(tcp))
    }

    pub fn plain(tcp: TcpStream) -> Self {
        Self::new(tcp, None)
    }

    /// A client that expects what belongs to the address that it is connected to.
    pub fn client(tcp: TcpStream, config: Arc<ClientConfig>) -> Self {
        let name = ServerName::from(tcp.peer_addr().unwrap().ip());
        Self::new(tcp, Some(ClientConnection::new(config, name).unwrap().into()))
    }

    /// A server, after the handshake.
    pub fn server(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let socket = Self::new(tcp, Some(ServerConnection::new(config).unwrap().into()));
        socket.handshake()?;
        Ok(socket)
    }

    fn new(tcp: TcpStream, connection: Option<Connection>) -> Self {
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.set_write_timeout(Some(DEADLINE)).unwrap();
        let tls = connection.map(|connection| Tls {
            state: Mutex::new(State { connection, raw: Vec::new(), is_at_end: false, says_nothing: false }),
            turn: Mutex::new(()),
        });
        Self(Arc::new(Inner { tcp, tls }))
    }

    /// The socket under it.
    pub fn tcp(&self) -> &TcpStream {
        &self.0.tcp
    }

    /// Goes through the handshake, if there is one.
    pub fn handshake(&self) -> io::Result<()> {
        let Some(tls) = &self.0.tls else { return Ok(()) };
        let mut state = tls.lock();
        while state.connection.is_handshaking() {
            state.connection.complete_io(&mut &self.0.tcp)?;
        }
        Ok(())
    }

    /// What was agreed on, once the handshake is over.
    pub fn inspect<R>(&self, look: impl FnOnce(&Connection) -> R) -> R {
        look(&self.0.tls.as_ref().unwrap().lock().connection)
    }

    /// Looks whether there is a byte, without waiting for one; `Ok(0)` at the end.
    pub fn peek(&self) -> io::Result<usize> {
        use rustix::net::{RecvFlags, recv};
        let Some(tls) = &self.0.tls else {
            return Ok(recv(&self.0.tcp, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0);
        };
        let mut state = tls.lock();
        loop {
            state.process()?;
            let io = state.connection.process_new_packets().map_err(io::Error::other)?;
            if io.plaintext_bytes_to_read() > 0 {
                return Ok(1);
            }
            if io.peer_has_closed() || state.is_at_end {
                return Ok(0);
            }
            let mut raw = [0; 16 * 1024];
            let n = recv(&self.0.tcp, &mut raw, RecvFlags::DONTWAIT)?.0;
            state.take(&raw[..n]);
        }
    }

    /// Waits for a byte, or the end. Whether there is a byte.
    pub fn wait_byte(&self) -> bool {
        loop {
            match self.peek() {
                Ok(n) => return n > 0,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.0.tcp.peek(&mut [0]).is_err() {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    }

    /// Ends it, in the way that a plain socket ends.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if let (Some(tls), Shutdown::Write | Shutdown::Both) = (&self.0.tls, how) {
            tls.say_end(&self.0.tcp);
        }
        self.0.tcp.shutdown(how)
    }

    /// Says the end without making it: close_notify alone.
    pub fn say_end(&self) {
        self.0.tls.as_ref().unwrap().say_end(&self.0.tcp);
    }

    /// The end will be a reset.
    pub fn reset_at_drop(&self) {
        if let Some(tls) = &self.0.tls {
            tls.lock().says_nothing = true;
        }
        rustix::net::sockopt::set_socket_linger(&self.0.tcp, Some(Duration::ZERO)).unwrap();
    }

    /// The end will come without close_notify.
    pub fn cut(self) {
        self.0.tls.as_ref().unwrap().lock().says_nothing = true;
    }
}

impl Tls {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_end(&self, mut tcp: &TcpStream) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        if !state.connection.is_handshaking() && !std::mem::replace(&mut state.says_nothing, true) {
            state.connection.send_close_notify();
            let _ = tcp.write_all(&state.ciphertext());
        }
    }
}

impl State {
    fn take(&mut self, raw: &[u8]) {
        self.is_at_end |= raw.is_empty();
        self.raw.extend_from_slice(raw);
    }

    /// Decrypts what was read, as far as there is room for it.
    fn process(&mut self) -> io::Result<()> {
        while !self.raw.is_empty() {
            match self.connection.read_tls(&mut &self.raw[..]) {
                Ok(0) => break,
                Ok(n) => drop(self.raw.drain(..n)),
                // Its buffer of plaintext is full.
                Err(_) => break,
            }
            self.connection
                .process_new_packets()
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
        if self.raw.is_empty() && self.is_at_end {
            self.connection.read_tls(&mut io::empty())?;
        }
        Ok(())
    }

    fn ciphertext(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.0.tls else { return (&self.0.tcp).read(buffer) };
        self.handshake()?;
        loop {
            {
                let mut state = tls.lock();
                state.process()?;
                match state.connection.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                        return Err(ErrorKind::ConnectionReset.into());
                    }
                    done => return done,
                }
            }
            let mut raw = [0; 32 * 1024];
            let n = (&self.0.tcp).read(&mut raw)?;
            tls.lock().take(&raw[..n]);
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.0.tls else { return (&self.0.tcp).write(bytes) };
        self.handshake()?;
        let _turn = tls.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (n, ciphertext) = {
            let mut state = tls.lock();
            let n = state.connection.writer().write(bytes)?;
            (n, state.ciphertext())
        };
        (&self.0.tcp).write_all(&ciphertext)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(tls) = &self.tls {
            // Whoever does not read must not keep the test waiting.
            let _ = self.tcp.set_nonblocking(true);
            tls.say_end(&self.tcp);
        }
    }
}
