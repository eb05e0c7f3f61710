//! The operating system: sockets, readiness, clocks, randomness, limits.
//!
//! The files of this folder are the only ones that name mio and rustix, and this one is the only reader of a
//! clock. It makes the system call that it is asked for, one for one, and decides nothing. Everything that
//! epoll, timerfd, splice(2), signals, `/proc` and systemd mean stays in here.

mod alarm;
pub mod memory;
pub mod notify;
mod pipes;
pub mod process;
mod resolve;
mod signals;
mod unanswered;

use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use core::ops::RangeInclusive;
use core::time::Duration;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mio::net::{TcpListener, TcpStream, UnixListener};
use mio::{Events, Interest, Poll, Token, Waker};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::fstat;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, ipproto, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use self::alarm::Alarm;
use self::pipes::Pipes;
use self::resolve::Resolver;
use self::signals::Signals;
use self::unanswered::Unanswered;
use super::{Event, Net, Pipe, Polled};
use crate::proto::tables::timer::{Mono, Now};

/// The tokens that [`Sys`] keeps for itself. Keys are far below them, and so must be the tokens of listeners.
pub const RESERVED_TOKENS: RangeInclusive<u32> = u32::MAX - 3..=u32::MAX;

const WAKER: u32 = u32::MAX;
const TERMINATE: u32 = u32::MAX - 1;
const RELOAD: u32 = u32::MAX - 2;
const ALARM: u32 = u32::MAX - 3;

/// How long a reading of the time of day, which counts in seconds, is good for.
const UNIX_LIFETIME: Duration = Duration::from_millis(250);

/// Events taken from the kernel at once. More only wait for the next turn; each costs 12 bytes for good.
const MAX_EVENTS: usize = 1024;

/// Connections that the kernel holds for us while we do not accept. The kernel lowers it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Silence after which the kernel asks whether the remote side is alive, and how often and how many times it
/// asks: a peer that vanished is noticed within a minute, and a NAT on the way does not forget the
/// connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The operating system as a [`Net`].
pub struct Sys {
    poll: Poll,
    events: Events,
    alarm: Alarm,
    start: Instant,
    /// What [`Net::now`] said last.
    last: Now,
    /// When [`Net::now`] reads the time of day again.
    unix_again: Mono,
    resolver: Resolver,
    unanswered: Unanswered,
    pipes: Pipes,
    signals: Option<Signals>,
}

impl Sys {
    /// A new epoll instance. Its monotonic clock starts at zero.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), mio_token(WAKER))?);
        Ok(Self {
            events: Events::with_capacity(MAX_EVENTS),
            alarm: Alarm::new(poll.registry(), mio_token(ALARM))?,
            start: instant(),
            last: Now { mono: Mono(0), unix: 0 },
            unix_again: Mono(0),
            resolver: Resolver::new(Arc::clone(&waker)),
            unanswered: Unanswered::new(waker),
            pipes: Pipes::default(),
            signals: None,
            poll,
        })
    }

    /// Turns `SIGTERM`, `SIGINT` and `SIGHUP` of this process into events, for good.
    pub fn watch_signals(&mut self) -> io::Result<()> {
        self.signals = Some(Signals::new(self.poll.registry(), mio_token(TERMINATE), mio_token(RELOAD))?);
        Ok(())
    }

    /// Listens on an address and reports waiting connections with this token, which must not be one of
    /// [`RESERVED_TOKENS`]. An IPv6 wildcard takes no IPv4 connections, so that both wildcards stand side by
    /// side.
    pub fn listen(&mut self, address: SocketAddr, token: u32) -> io::Result<Listener> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        // Connections of the process before us, in TIME_WAIT, do not keep the address.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        // Accepted sockets inherit these, which saves five system calls for each.
        set_stream_options(&socket)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let mut listener = TcpListener::from_std(std::net::TcpListener::from(socket));
        self.poll.registry().register(&mut listener, mio_token(token), Interest::READABLE)?;
        Ok(Listener::Tcp(listener))
    }

    /// Listens on a unix socket at this path, which only its owner can open, and takes the place of one that
    /// nobody listens on any more.
    ///
    /// # Errors
    /// Somebody listens there; the folder is missing or cannot be written to.
    pub fn listen_unix(&mut self, path: &Path, token: u32) -> io::Result<Listener> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // It is put in place once it is ready and nobody else can open it.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        // What a process that ended too early has left.
        let _ = std::fs::remove_file(&new);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&new)?)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        std::fs::rename(&new, path)?;
        let mut listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket));
        self.poll.registry().register(&mut listener, mio_token(token), Interest::READABLE)?;
        Ok(Listener::Unix(listener))
    }
}

impl Net for Sys {
    type Listener = Listener;
    type Socket = Socket;

    fn now(&mut self) -> Now {
        let mono = instant().saturating_duration_since(self.start);
        self.last.mono = Mono(mono.as_secs() * 1000 + u64::from(mono.subsec_millis()));
        if self.last.mono >= self.unix_again {
            self.last.unix = unix_seconds();
            self.unix_again = self.last.mono.after(UNIX_LIFETIME);
        }
        self.last
    }

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Polled> {
        // Answers that are there already do not come through the waker.
        let timeout = if self.resolver.append_immediate(events) { Some(Duration::ZERO) } else { timeout };
        let timeout = match timeout {
            Some(timeout) if !timeout.is_zero() && self.alarm.ring_after(self.last.mono, timeout).is_ok() => {
                None
            }
            Some(_) | None => timeout,
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Polled::Part),
            result => result?,
        }
        let Self { events: ready, resolver, unanswered, signals, alarm, last: Now { mono: now, .. }, .. } =
            self;
        let mut count = 0;
        for event in &*ready {
            count += 1;
            // Every token was made of 32 bits.
            match u32::try_from(event.token().0).unwrap_or(WAKER) {
                WAKER => {
                    resolver.append_answers(events, *now);
                    unanswered.append_answers(events);
                }
                ALARM => alarm.rang(),
                TERMINATE if signals.as_mut().is_some_and(Signals::take_terminate) => {
                    events.push(Event::Terminate)
                }
                RELOAD if signals.as_mut().is_some_and(Signals::take_reload) => events.push(Event::Reload),
                TERMINATE | RELOAD => {}
                token => events.push(Event::Ready {
                    token,
                    readable: event.is_readable(),
                    writable: event.is_writable(),
                    hangup: event.is_read_closed() || event.is_error(),
                }),
            }
        }
        Ok(if count < MAX_EVENTS { Polled::Whole } else { Polled::Part })
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(Socket, SocketAddr)> {
        match listener {
            Listener::Tcp(listener) => listener.accept().map(|(stream, peer)| (Socket(stream), peer)),
            // Bytes are moved by the same calls as on TCP. The remote side has no address.
            Listener::Unix(listener) => {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let socket = rustix::net::accept_with(listener, flags)?;
                let stream = TcpStream::from_std(std::net::TcpStream::from(socket));
                Ok((Socket(stream), SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
            }
        }
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<Socket> {
        let stream = TcpStream::connect(address)?;
        set_stream_options(&stream)?;
        Ok(Socket(stream))
    }

    fn register(&mut self, socket: &mut Socket, token: u32) -> io::Result<()> {
        self.poll.registry().register(&mut socket.0, mio_token(token), BOTH)
    }

    fn reregister(&mut self, socket: &mut Socket, token: u32) -> io::Result<()> {
        self.poll.registry().reregister(&mut socket.0, mio_token(token), BOTH)
    }

    fn connected(&mut self, socket: &mut Socket) -> io::Result<bool> {
        if let Some(error) = socket.0.take_error()? {
            return Err(error);
        }
        match socket.0.peer_addr() {
            // Nobody listens on the port that was dialled, and the kernel chose that very port for our side:
            // both sides are this socket.
            Ok(peer) if socket.0.local_addr().is_ok_and(|own| own == peer) => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, socket: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
        socket.0.read(buffer)
    }

    fn write(&mut self, socket: &mut Socket, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match buffers {
            // send(2) is cheaper than writev(2).
            [one] => socket.0.write(one),
            _ => socket.0.write_vectored(buffers),
        }
    }

    fn shutdown(&mut self, socket: &mut Socket) -> io::Result<()> {
        socket.0.shutdown(std::net::Shutdown::Write)
    }

    fn abort(&mut self, socket: Socket) {
        // If the option cannot be set, the connection is gone already. Dropping the socket closes it.
        let _ = sockopt::set_socket_linger(&socket.0, Some(Duration::ZERO));
    }

    fn take_pipe(&mut self) -> Option<Pipe> {
        self.pipes.take()
    }

    fn give_pipe(&mut self, pipe: Pipe, is_empty: bool) {
        self.pipes.give(pipe, is_empty);
    }

    fn splice_in(&mut self, socket: &mut Socket, pipe: Pipe, most: usize) -> io::Result<usize> {
        self.pipes.fill(pipe, &socket.0, most)
    }

    fn splice_out(&mut self, pipe: Pipe, socket: &mut Socket, n: usize) -> io::Result<usize> {
        self.pipes.drain(pipe, &socket.0, n)
    }

    fn find_vanished(&mut self) {
        self.unanswered.look();
    }

    fn identity(&mut self, socket: &mut Socket) -> Option<u64> {
        Some(fstat(&socket.0).ok()?.st_ino)
    }

    fn resolve(&mut self, host: &str, port: u16, token: u32) {
        self.resolver.resolve(host, port, token, self.last.mono);
    }
}

impl fmt::Debug for Sys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sys").finish_non_exhaustive()
    }
}

/// A listening socket. Dropping it closes it.
#[derive(Debug)]
pub enum Listener {
    /// On an address.
    Tcp(TcpListener),
    /// On a file.
    Unix(UnixListener),
}

impl Listener {
    /// The address that it listens on, with the port that the kernel chose if port 0 was asked for.
    ///
    /// # Errors
    /// The system call failed, or it is a unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// A connected, or connecting, TCP socket. Dropping it closes it.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Fills the slice with random bytes that nobody can guess.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| io::Error::other("the system has no random numbers"))
}

/// Tries to raise the number of descriptors that this process may have open to `wanted`; returns how many it
/// may have.
pub fn raise_nofile(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(soft) = current.filter(|soft| *soft < wanted) else {
        return current.unwrap_or(u64::MAX);
    };
    // Only a privileged process can go above the hard limit.
    let hard = maximum.unwrap_or(u64::MAX);
    for (current, maximum) in [(wanted, hard.max(wanted)), (wanted.min(hard), hard)] {
        let maximum = (maximum != u64::MAX).then_some(maximum);
        if setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).is_ok() {
            return current;
        }
    }
    soft
}

/// Interest in both directions, told once: no epoll_ctl(2) after the registration.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

fn mio_token(token: u32) -> Token {
    // A pointer has 32 bits at least on every machine that has epoll.
    Token(token as usize)
}

fn set_stream_options(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    // The loop itself gathers what belongs together, so what is written should go out at once.
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
fn instant() -> Instant {
    Instant::now()
}

/// Microseconds on the clock of this machine that everybody shares (`CLOCK_MONOTONIC`), for messages to other
/// processes.
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000_000);
    whole.saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1000)
}

/// Seconds since 1970; zero on a clock before that.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the time of day")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: u32 = 7;
    const DEADLINE: Duration = Duration::from_secs(10);

    /// Polls until an event satisfies the condition.
    fn wait(sys: &mut Sys, mut wanted: impl FnMut(&Event) -> bool) {
        let mut events = Vec::new();
        let by = sys.now().mono.after(DEADLINE);
        while sys.now().mono < by {
            sys.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
            // All of them are shown, also those beside the one that was waited for.
            if events.drain(..).filter(|event| wanted(event)).count() > 0 {
                return;
            }
        }
        panic!("the event did not come");
    }

    fn wait_ready(sys: &mut Sys, wanted: u32, hangup_wanted: bool) {
        wait(sys, |event| match event {
            Event::Ready { token, hangup, .. } => *token == wanted && *hangup >= hangup_wanted,
            Event::Resolved { .. } | Event::Vanished { .. } | Event::Terminate | Event::Reload => false,
        });
    }

    /// A dialled socket (token 1) and the accepted one (token 2).
    fn pair(sys: &mut Sys) -> (Socket, Socket) {
        let mut listener = sys.listen("127.0.0.1:0".parse().unwrap(), LISTENER).unwrap();
        let mut dialled = sys.connect(listener.local_addr().unwrap()).unwrap();
        sys.register(&mut dialled, 1).unwrap();
        wait_ready(sys, LISTENER, false);
        let (mut accepted, peer) = sys.accept(&mut listener).unwrap();
        assert!(peer.ip().is_loopback());
        assert_eq!(sys.accept(&mut listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        sys.register(&mut accepted, 2).unwrap();
        while !sys.connected(&mut dialled).unwrap() {
            wait_ready(sys, 1, false);
        }
        (dialled, accepted)
    }

    fn drained(sys: &mut Sys) {
        sys.poll(&mut Vec::new(), Some(Duration::ZERO)).unwrap();
    }

    #[test]
    fn nobody_is_connected_to_himself() {
        let mut sys = Sys::new().unwrap();
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let stream = std::net::TcpStream::from(socket);
        let address = stream.local_addr().unwrap();
        rustix::net::connect(&stream, &address).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        let mut socket = Socket(TcpStream::from_std(stream));
        assert_eq!(sys.connected(&mut socket).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn bytes_and_fin_cross() {
        let mut sys = Sys::new().unwrap();
        let (mut dialled, mut accepted) = pair(&mut sys);
        let sent = sys.write(&mut dialled, &[IoSlice::new(b"one "), IoSlice::new(b"two")]).unwrap();
        assert_eq!(sent, 7);
        sys.shutdown(&mut dialled).unwrap();
        wait_ready(&mut sys, 2, true);
        let mut buffer = [0; 16];
        assert_eq!(sys.read(&mut accepted, &mut buffer).unwrap(), 7);
        assert_eq!(&buffer[..7], b"one two");
        assert_eq!(sys.read(&mut accepted, &mut buffer).unwrap(), 0);
        assert_eq!(sys.write(&mut accepted, &[IoSlice::new(b"back")]).unwrap(), 4);
        wait_ready(&mut sys, 1, false);
        assert_eq!(sys.read(&mut dialled, &mut buffer).unwrap(), 4);
        assert_eq!(sys.read(&mut dialled, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn abort_resets_and_drop_closes() {
        let mut sys = Sys::new().unwrap();
        let (dialled, mut accepted) = pair(&mut sys);
        drained(&mut sys);
        sys.abort(dialled);
        wait_ready(&mut sys, 2, true);
        assert_eq!(sys.read(&mut accepted, &mut [0; 16]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let (dialled, mut accepted) = pair(&mut sys);
        drained(&mut sys);
        drop(dialled);
        wait_ready(&mut sys, 2, true);
        assert_eq!(sys.read(&mut accepted, &mut [0; 16]).unwrap(), 0);
    }

    #[test]
    fn refused_is_an_error_of_the_socket() {
        let mut sys = Sys::new().unwrap();
        let listener = sys.listen("127.0.0.1:0".parse().unwrap(), LISTENER).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut socket = sys.connect(address).unwrap();
        sys.register(&mut socket, 1).unwrap();
        wait_ready(&mut sys, 1, true);
        assert_eq!(sys.connected(&mut socket).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_new_token_is_told_what_stands() {
        let mut sys = Sys::new().unwrap();
        let (mut dialled, mut accepted) = pair(&mut sys);
        sys.write(&mut dialled, &[IoSlice::new(b"x")]).unwrap();
        wait_ready(&mut sys, 2, false);
        drained(&mut sys);
        sys.reregister(&mut accepted, 3).unwrap();
        wait_ready(&mut sys, 3, false);
        assert_eq!(sys.read(&mut accepted, &mut [0; 2]).unwrap(), 1);
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let mut sys = Sys::new().unwrap();
        for socket in <[Socket; 2]>::from(pair(&mut sys)) {
            assert!(sockopt::tcp_nodelay(&socket).unwrap());
            assert!(sockopt::socket_keepalive(&socket).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), KEEPALIVE_IDLE);
            assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), KEEPALIVE_INTERVAL);
            assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), KEEPALIVE_PROBES);
        }
    }

    #[test]
    fn an_ipv6_listener_leaves_ipv4_alone() {
        let mut sys = Sys::new().unwrap();
        // Not every machine has IPv6.
        let Ok(listener) = sys.listen("[::1]:0".parse().unwrap(), LISTENER) else { return };
        assert!(matches!(&listener, Listener::Tcp(it) if sockopt::ipv6_v6only(it).unwrap()));
    }

    #[test]
    fn literals_and_names_are_resolved() {
        let mut sys = Sys::new().unwrap();
        sys.resolve("127.0.0.1", 80, 1);
        sys.resolve("[::1]", 81, 2);
        let mut events = Vec::new();
        sys.poll(&mut events, None).unwrap();
        let answers: Vec<_> = events
            .into_iter()
            .map(|event| match event {
                Event::Resolved { token, addresses } => (token, addresses),
                Event::Ready { .. } | Event::Vanished { .. } | Event::Terminate | Event::Reload => {
                    panic!("{event:?}")
                }
            })
            .collect();
        assert_eq!(
            answers,
            [(1, vec!["127.0.0.1:80".parse().unwrap()]), (2, vec!["[::1]:81".parse().unwrap()])]
        );

        for token in 0..20 {
            let port = u16::try_from(token).unwrap();
            sys.resolve("localhost", port, token);
            sys.resolve("localhost", 99, 100 + token);
            sys.resolve("not\0a name", port, 200 + token);
        }
        let mut answered = 0;
        wait(&mut sys, |event| match event {
            Event::Resolved { token, addresses } => {
                answered += 1;
                assert_eq!(*token >= 200, addresses.is_empty());
                answered == 60
            }
            Event::Ready { .. } | Event::Vanished { .. } | Event::Terminate | Event::Reload => false,
        });
    }

    #[test]
    fn signals_are_events() {
        let mut sys = Sys::new().unwrap();
        sys.watch_signals().unwrap();
        signal_hook::low_level::raise(signal_hook::consts::SIGHUP).unwrap();
        wait(&mut sys, |event| matches!(event, Event::Reload));
        signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
        wait(&mut sys, |event| matches!(event, Event::Terminate));
    }

    #[test]
    fn clocks_and_timeouts() {
        let mut sys = Sys::new().unwrap();
        let before = sys.now();
        sys.poll(&mut Vec::new(), Some(Duration::from_micros(1500))).unwrap();
        let after = sys.now();
        assert!(after.mono.since(before.mono) >= Duration::from_millis(1));
        assert!(after.unix >= before.unix);
    }

    #[test]
    fn limits_and_randomness() {
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert_eq!(raise_nofile(most.min(64)), most, "never lowered");
        let (mut one, mut other) = ([0; 16], [0; 16]);
        random(&mut one).unwrap();
        random(&mut other).unwrap();
        assert_ne!(one, other);
    }
}
