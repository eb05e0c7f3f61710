//! Name lookup: the only blocking call, on short-lived threads beside the loop.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use mio::Waker;

use crate::net::Event;
use crate::proto::tables::timer::Mono;

/// Lookups under way at once. A process has a handful of names; a dead resolver must not cost it a thread for
/// each retry.
const MAX_THREADS: usize = 4;

/// How many askers may wait at once; those beyond hear that there is no address. There are hardly more
/// workers.
const MAX_WAITING: usize = 4096;

/// After this time a lookup is given up: its thread may never return, and must not keep others from being
/// started. At most [`MAX_GIVEN_UP`] such threads are left running.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_GIVEN_UP: usize = 12;

/// An answer that took this long usually comes too late for whoever asked. The next one who asks within
/// [`LATE_ANSWER_LIFETIME`] gets it at once.
const SLOW_LOOK_UP: Duration = Duration::from_secs(2);
const LATE_ANSWER_LIFETIME: Duration = Duration::from_secs(60);

/// Enough for getaddrinfo(3) of any libc, much less than the default of 2 MiB on a small machine.
const STACK_BYTES: usize = 256 * 1024;

/// Names that are being looked up. Whoever asks for a name that is already being looked up shares its answer.
pub(super) struct Resolver {
    waker: Arc<Waker>,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    lookups: Vec<Lookup>,
    /// Numbers the lookups that were started.
    last: u64,
    /// Threads of lookups that were given up.
    given_up: usize,
    /// Answers that came late, and until when they are good.
    late: Vec<(Name, Vec<SocketAddr>, Mono)>,
    immediate: Vec<Event>,
}

#[derive(Clone, PartialEq, Eq)]
struct Name {
    host: String,
    port: u16,
}

/// Of the lookup with this number.
type Answer = (u64, Vec<SocketAddr>);

struct Lookup {
    name: Name,
    tokens: Vec<u32>,
    /// Its number, and when it was started, once it was.
    running: Option<(u64, Mono)>,
}

impl Resolver {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        let (sender, answers) = channel();
        let (lookups, late, immediate) = (Vec::new(), Vec::new(), Vec::new());
        Self { waker, sender, answers, lookups, last: 0, given_up: 0, late, immediate }
    }

    /// Looks a name up. The answer comes by [`Resolver::append_immediate`], or the waker announces it and it
    /// comes by [`Resolver::append_answers`].
    pub(super) fn resolve(&mut self, host: &str, port: u16, token: u32, now: Mono) {
        if let Some(address) = literal(host) {
            let addresses = vec![SocketAddr::new(address, port)];
            self.immediate.push(Event::Resolved { token, addresses });
            return;
        }
        self.give_up(now);
        self.late.retain(|(_, _, until)| *until > now);
        if let Some((_, addresses, _)) =
            self.late.iter().find(|(name, ..)| name.port == port && name.host == host)
        {
            self.immediate.push(Event::Resolved { token, addresses: addresses.clone() });
            return;
        }
        if self.lookups.iter().map(|lookup| lookup.tokens.len()).sum::<usize>() >= MAX_WAITING {
            self.immediate.push(Event::Resolved { token, addresses: Vec::new() });
            return;
        }
        match self.lookups.iter_mut().find(|lookup| lookup.name.port == port && lookup.name.host == host) {
            Some(lookup) => lookup.tokens.push(token),
            None => {
                let name = Name { host: host.to_owned(), port };
                self.lookups.push(Lookup { name, tokens: vec![token], running: None });
                self.start_next(now);
            }
        }
    }

    /// Appends the answers that needed no lookup. Whether there was any.
    pub(super) fn append_immediate(&mut self, events: &mut Vec<Event>) -> bool {
        let any = !self.immediate.is_empty();
        events.append(&mut self.immediate);
        any
    }

    /// Appends the answers that the threads have found.
    pub(super) fn append_answers(&mut self, events: &mut Vec<Event>, now: Mono) {
        while let Ok((number, addresses)) = self.answers.try_recv() {
            let is_it = |lookup: &Lookup| lookup.running.is_some_and(|(of, _)| of == number);
            let Some(index) = self.lookups.iter().position(is_it) else {
                self.given_up = self.given_up.saturating_sub(1);
                continue;
            };
            let Lookup { name, tokens, running } = self.lookups.remove(index);
            for token in tokens {
                events.push(Event::Resolved { token, addresses: addresses.clone() });
            }
            let is_slow = running.is_some_and(|(_, since)| now.since(since) >= SLOW_LOOK_UP);
            if is_slow && !addresses.is_empty() {
                self.late.push((name, addresses, now.after(LATE_ANSWER_LIFETIME)));
            }
            self.start_next(now);
        }
    }

    /// Gives up the lookups that have taken too long. Whoever waits for them hears that there is no address.
    fn give_up(&mut self, now: Mono) {
        let is_late = |lookup: &mut Lookup| {
            lookup.running.is_some_and(|(_, since)| now.since(since) >= LOOK_UP_TIMEOUT)
        };
        while self.given_up < MAX_GIVEN_UP
            && let Some(index) = self.lookups.iter_mut().position(is_late)
        {
            for token in self.lookups.remove(index).tokens {
                self.immediate.push(Event::Resolved { token, addresses: Vec::new() });
            }
            self.given_up += 1;
            self.start_next(now);
        }
    }

    /// Starts the lookups that wait longest, as many as may run.
    fn start_next(&mut self, now: Mono) {
        while self.lookups.iter().filter(|lookup| lookup.running.is_some()).count() < MAX_THREADS {
            let Some(index) = self.lookups.iter().position(|lookup| lookup.running.is_none()) else { return };
            let Some(lookup) = self.lookups.get_mut(index) else { return };
            self.last += 1;
            lookup.running = Some((self.last, now));
            let name = lookup.name.clone();
            if spawn(self.last, name, self.sender.clone(), Arc::clone(&self.waker)).is_err() {
                for token in self.lookups.remove(index).tokens {
                    self.immediate.push(Event::Resolved { token, addresses: Vec::new() });
                }
            }
        }
    }
}

fn spawn(number: u64, name: Name, sender: Sender<Answer>, waker: Arc<Waker>) -> io::Result<()> {
    let lookup = move || {
        let addresses = (name.host.as_str(), name.port).to_socket_addrs();
        let addresses = addresses.map_or_else(|_| Vec::new(), Iterator::collect);
        // If the loop is gone nobody wants the answer.
        let _ = sender.send((number, addresses));
        let _ = waker.wake();
    };
    thread::Builder::new().name("resolve".into()).stack_size(STACK_BYTES).spawn(lookup)?;
    Ok(())
}

/// An address where a name is expected, also in the brackets that a URL has around IPv6.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(bare) => bare.parse().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Mono = Mono(1000);

    /// Without threads: the test answers.
    struct Bench {
        resolver: Resolver,
        _poll: mio::Poll,
    }

    impl Bench {
        fn new() -> Self {
            let poll = mio::Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
            Self { resolver: Resolver::new(waker), _poll: poll }
        }

        /// A lookup that is under way since the beginning.
        fn looking(&mut self, host: &str, token: u32) {
            self.resolver.last += 1;
            let name = Name { host: host.into(), port: 80 };
            let running = Some((self.resolver.last, BEGIN));
            self.resolver.lookups.push(Lookup { name, tokens: vec![token], running });
        }

        fn answer(&mut self, number: u64, now: Mono) -> Vec<u32> {
            self.resolver.sender.send((number, vec!["192.0.2.1:80".parse().unwrap()])).unwrap();
            let mut events = Vec::new();
            self.resolver.append_answers(&mut events, now);
            tokens(events)
        }

        fn immediate(&mut self) -> Vec<u32> {
            let mut events = Vec::new();
            self.resolver.append_immediate(&mut events);
            tokens(events)
        }
    }

    fn tokens(events: Vec<Event>) -> Vec<u32> {
        let token = |event| match event {
            Event::Resolved { token, .. } => Some(token),
            Event::Ready { .. } | Event::Vanished { .. } | Event::Terminate | Event::Reload => None,
        };
        events.into_iter().filter_map(token).collect()
    }

    #[test]
    fn an_answer_that_came_late_serves_the_next_attempt() {
        let mut bench = Bench::new();
        bench.looking("slow.example", 1);
        let now = BEGIN.after(Duration::from_secs(8));
        assert_eq!(bench.answer(1, now), [1]);
        bench.resolver.resolve("slow.example", 80, 2, now.after(Duration::from_secs(30)));
        assert_eq!(bench.immediate(), [2]);
        // It is not good for ever.
        bench.looking("slow.example", 3);
        bench.resolver.resolve("slow.example", 80, 4, BEGIN.after(Duration::from_secs(3600)));
        assert!(bench.resolver.late.is_empty());
    }

    #[test]
    fn a_lookup_that_never_returns_is_given_up() {
        let mut bench = Bench::new();
        for number in 1..=4 {
            bench.looking("stuck.example", number);
        }
        bench.resolver.give_up(BEGIN.after(Duration::from_secs(59)));
        assert_eq!(bench.resolver.lookups.len(), 4);
        bench.resolver.give_up(BEGIN.after(Duration::from_secs(60)));
        assert_eq!((bench.resolver.lookups.len(), bench.resolver.given_up), (0, 4));
        assert_eq!(bench.immediate(), [1, 2, 3, 4]);
        // If one does return, nobody waits for it.
        assert!(bench.answer(2, BEGIN).is_empty());
        assert_eq!(bench.resolver.given_up, 3);
        bench.resolver.given_up = MAX_GIVEN_UP;
        bench.looking("stuck.example", 5);
        bench.resolver.give_up(BEGIN.after(Duration::from_secs(600)));
        assert_eq!(bench.resolver.lookups.len(), 1);
    }
}
