//! The service manager: what sd_notify(3) tells it, and its watchdog.
//!
//! Datagrams to the socket that `NOTIFY_SOCKET` names say that the process is ready, reads its files again,
//! or is about to end. A manager that watches (`WATCHDOG_USEC`) is told that the loop turns by the loop
//! itself, at the end of a turn, and by nothing else. This module owns these messages and the time when they
//! are due. It never delays the loop: what the manager cannot take now is said again a little later.

use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use log::warn;

use crate::proto::tables::timer::Mono;

/// A service manager that wants to be told.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
    /// How often it is told that the loop turns, and when next.
    watchdog: Option<(Duration, Mono)>,
    /// The state that it could not take, and when to say it again. A later state replaces it.
    unsaid: Option<(String, Mono)>,
    state: State,
    has_complained: bool,
}

/// What the process is about, in the order in which it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    Stopping,
}

/// When the manager's queue is full, it is tried again after this.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Signs of life in each period of the watchdog: a turn of the loop may be late by a sixth of it, and still
/// each half has one.
const SIGNS_PER_PERIOD: u32 = 3;

impl Notifier {
    /// The manager that the variables name, if they name one for this process. What is wrong with them is
    /// logged: they are not the user's, and a process that serves and tells nobody is better than none.
    pub fn from_environment(look_up: impl Fn(&str) -> Option<OsString>, pid: u32) -> Option<Self> {
        let name = look_up("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let opened = address(&name).and_then(|manager| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((manager, socket))
        });
        let (manager, socket) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                warn!("NOTIFY_SOCKET cannot be used, so the service manager is told nothing: {error}");
                return None;
            }
        };
        let watchdog = match watchdog(look_up("WATCHDOG_USEC"), look_up("WATCHDOG_PID"), pid) {
            Ok(period) => period.map(|period| (period / SIGNS_PER_PERIOD, Mono::NEVER)),
            Err(name) => {
                warn!(
                    "{name} is not a whole number above zero, so the watchdog of the service manager is told nothing"
                );
                None
            }
        };
        Some(Self { socket, manager, watchdog, unsaid: None, state: State::Starting, has_complained: false })
    }

    /// The loop is about to run.
    pub fn ready(&mut self, now: Mono) {
        if let Some((_, at)) = &mut self.watchdog {
            *at = now;
        }
        self.state = State::Ready;
        self.say("READY=1".into(), now);
    }

    /// Files are about to be read again; [`Notifier::reloaded`] follows.
    pub fn reloading(&mut self, now: Mono) {
        if self.state == State::Ready {
            self.say(format!("RELOADING=1\nMONOTONIC_USEC={}", super::monotonic_micros()), now);
        }
    }

    /// Files were read again.
    pub fn reloaded(&mut self, now: Mono) {
        if self.state == State::Ready {
            self.say("READY=1".into(), now);
        }
    }

    /// The process was told to end.
    pub fn stopping(&mut self, now: Mono) {
        if self.state != State::Stopping {
            self.state = State::Stopping;
            self.say("STOPPING=1".into(), now);
        }
    }

    /// At the end of a turn of the loop: says what is due.
    pub fn end_turn(&mut self, now: Mono) {
        if self.unsaid.as_ref().is_some_and(|(_, at)| *at <= now)
            && let Some((text, _)) = self.unsaid.take()
        {
            self.say(text, now);
        }
        if let Some((every, at)) = &mut self.watchdog
            && *at <= now
        {
            *at = now.after(*every);
            // A full queue holds an earlier one.
            let _ = self.send("WATCHDOG=1");
        }
    }

    /// When something is due, even if nothing happens.
    pub fn next_timeout(&self) -> Option<Mono> {
        let unsaid = self.unsaid.as_ref().map(|(_, at)| *at);
        let watchdog = self.watchdog.map(|(_, at)| at);
        unsaid.into_iter().chain(watchdog).min()
    }

    fn say(&mut self, text: String, now: Mono) {
        self.unsaid = match self.send(&text) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some((text, now.after(RETRY_PAUSE))),
            Ok(()) | Err(_) => None,
        };
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        let sent = self.socket.send_to_addr(text.as_bytes(), &self.manager).map(drop);
        if let Err(error) = &sent
            && error.kind() != io::ErrorKind::WouldBlock
            && !self.has_complained
        {
            self.has_complained = true;
            warn!("the service manager at NOTIFY_SOCKET cannot be told anything: {error}");
        }
        sent
    }
}

/// A path, or the name of an abstract socket after `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::other("it is neither an absolute path nor the name of an abstract socket")),
    }
}

/// The period of the watchdog, if it watches this process. Else the variable that is wrong.
fn watchdog(
    micros: Option<OsString>,
    of: Option<OsString>,
    pid: u32,
) -> Result<Option<Duration>, &'static str> {
    fn number(text: &OsStr) -> Option<u64> {
        text.to_str()?.parse().ok().filter(|number| *number > 0)
    }
    let Some(micros) = micros else { return Ok(None) };
    // The variables of a process are its children's, too.
    if let Some(of) = of
        && number(&of).ok_or("WATCHDOG_PID")? != u64::from(pid)
    {
        return Ok(None);
    }
    number(&micros).map(|micros| Some(Duration::from_micros(micros))).ok_or("WATCHDOG_USEC")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager behind an abstract socket, and what is told to it.
    fn pair(test: &str, variables: &[(&str, &str)]) -> (UnixDatagram, Notifier) {
        let name = format!("slime-notify-{test}-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = Notifier::from_environment(
            |asked| match asked {
                "NOTIFY_SOCKET" => Some(format!("@{name}").into()),
                _ => variables.iter().find(|(key, _)| *key == asked).map(|(_, value)| value.into()),
            },
            7,
        );
        (manager, notifier.unwrap())
    }

    fn told(manager: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 256];
        let mut all = Vec::new();
        while let Ok(n) = manager.recv(&mut buffer) {
            all.push(String::from_utf8(buffer[..n].to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn a_life() {
        let (manager, mut notifier) = pair("life", &[]);
        assert_eq!(told(&manager), [""; 0]);
        notifier.ready(Mono(0));
        notifier.end_turn(Mono(1_000_000));
        assert_eq!(notifier.next_timeout(), None);
        assert_eq!(told(&manager), ["READY=1"]);
        notifier.reloading(Mono(0));
        notifier.reloaded(Mono(0));
        let said = told(&manager);
        let (first, clock) = said[0].split_once("\nMONOTONIC_USEC=").unwrap();
        assert!(first == "RELOADING=1" && clock.parse::<u64>().unwrap() > 0, "{said:?}");
        assert_eq!(said[1..], ["READY=1"]);
        notifier.stopping(Mono(0));
        notifier.stopping(Mono(0));
        // Whoever stops is not ready again.
        notifier.reloading(Mono(0));
        notifier.reloaded(Mono(0));
        assert_eq!(told(&manager), ["STOPPING=1"]);
    }

    #[test]
    fn a_sign_of_life_in_each_half_of_the_period() {
        let (manager, mut notifier) =
            pair("watchdog", &[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "7")]);
        assert_eq!(notifier.next_timeout(), Some(Mono::NEVER), "the watchdog waits for READY=1");
        notifier.ready(Mono(50));
        assert_eq!(notifier.next_timeout(), Some(Mono(50)));
        notifier.end_turn(Mono(50));
        assert_eq!(notifier.next_timeout(), Some(Mono(1050)));
        notifier.end_turn(Mono(1049));
        assert_eq!(told(&manager), ["READY=1", "WATCHDOG=1"]);
        notifier.end_turn(Mono(1500));
        notifier.stopping(Mono(1500));
        notifier.end_turn(Mono(2500));
        assert_eq!(told(&manager), ["WATCHDOG=1", "STOPPING=1", "WATCHDOG=1"]);
    }

    #[test]
    fn what_the_manager_cannot_take_is_said_again() {
        let (manager, mut notifier) = pair("full", &[("WATCHDOG_USEC", "3000000")]);
        while notifier.send("X").is_ok() {}
        notifier.ready(Mono(0));
        notifier.stopping(Mono(0));
        notifier.end_turn(Mono(0));
        assert_eq!(notifier.next_timeout(), Some(Mono(100)));
        notifier.end_turn(Mono(100));
        assert_eq!(notifier.next_timeout(), Some(Mono(200)));
        assert!(told(&manager).iter().all(|text| text == "X"));
        notifier.end_turn(Mono(200));
        assert_eq!((told(&manager), notifier.next_timeout()), (vec!["STOPPING=1".into()], Some(Mono(1000))));
        drop(manager);
        notifier.end_turn(Mono(1000));
        assert!(notifier.has_complained);
    }

    #[test]
    fn who_is_told() {
        for name in [None, Some(""), Some("relative"), Some("vsock:2:1234"), Some("@\0\0")] {
            let look_up =
                |asked: &str| if asked == "NOTIFY_SOCKET" { name.map(OsString::from) } else { None };
            let told = Notifier::from_environment(look_up, 7).is_some();
            assert_eq!(told, name == Some("@\0\0"), "{name:?}");
        }
        let too_long = format!("/{}", "x".repeat(200));
        assert!(Notifier::from_environment(|_| Some(too_long.clone().into()), 7).is_none());
        let watched = |micros: &str, of: Option<&str>| watchdog(Some(micros.into()), of.map(Into::into), 7);
        let period = Ok(Some(Duration::from_millis(20)));
        assert_eq!(watched("20000", None), period);
        assert_eq!(watched("20000", Some("7")), period);
        assert_eq!(watched("20000", Some("8")), Ok(None));
        assert_eq!(watched("20000", Some("x")), Err("WATCHDOG_PID"));
        assert_eq!(watched("0", None), Err("WATCHDOG_USEC"));
        assert_eq!(watched("-1", Some("7")), Err("WATCHDOG_USEC"));
        assert_eq!(watchdog(None, Some("x".into()), 7), Ok(None));
    }
}
