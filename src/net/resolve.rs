//! Name lookup: the only blocking call, on short-lived threads beside the loop.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use mio::Waker;

use super::Event;

/// Lookups under way at once. A process has a handful of names; a dead resolver must not cost it a thread for each retry.
const MAX_THREADS: usize = 4;

/// Who may wait for answers at once; beyond it the answer is that there is no address. As many as there are workers at most.
const MAX_WAITING: usize = 4096;

/// Answers that are given at once. All workers of an agent may ask in one moment; if they all dialled in one turn, the hub would have
/// to keep a place for each before the first of them has said a word.
const AT_ONCE: usize = 16;

/// Enough for getaddrinfo(3) of any libc, much less than the default of 2 MiB on a small machine.
const STACK_SIZE: usize = 256 * 1024;

/// Names that are being looked up. Whoever asks for a name that is already being looked up shares its answer.
pub(super) struct Resolver {
    waker: Arc<Waker>,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    lookups: Vec<Lookup>,
    /// Answers that are there.
    found: VecDeque<Found>,
}

/// An answer, and whose it is.
struct Found {
    addresses: Vec<SocketAddr>,
    tokens: VecDeque<u32>,
}

#[derive(Clone, PartialEq, Eq)]
struct Name {
    host: String,
    port: u16,
}

type Answer = (Name, Vec<SocketAddr>);

struct Lookup {
    name: Name,
    tokens: Vec<u32>,
    running: bool,
}

impl Resolver {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        let (sender, answers) = channel();
        Self { waker, sender, answers, lookups: Vec::new(), found: VecDeque::new() }
    }

    /// Looks a name up. The answer comes by [`Resolver::append_found`], if need be after the waker has announced one for
    /// [`Resolver::take_answers`].
    pub(super) fn resolve(&mut self, host: &str, port: u16, token: u32) {
        if let Some(address) = literal(host) {
            self.find(&[SocketAddr::new(address, port)], token);
            return;
        }
        if self.lookups.iter().map(|lookup| lookup.tokens.len()).sum::<usize>() >= MAX_WAITING {
            self.find(&[], token);
            return;
        }
        match self.lookups.iter_mut().find(|lookup| lookup.name.port == port && lookup.name.host == host) {
            Some(lookup) => lookup.tokens.push(token),
            None => {
                let name = Name { host: host.to_owned(), port };
                self.lookups.push(Lookup { name, tokens: vec![token], running: false });
                self.start_next();
            }
        }
    }

    /// Appends answers that are there, the first ones. Whether there was any.
    pub(super) fn append_found(&mut self, events: &mut Vec<Event>) -> bool {
        let any = !self.found.is_empty();
        let mut left = AT_ONCE;
        while left > 0
            && let Some(Found { addresses, tokens }) = self.found.front_mut()
        {
            let first = tokens.len().min(left);
            left -= first;
            let all = tokens.drain(..first);
            events.extend(all.map(|token| Event::Resolved { token, addresses: addresses.clone() }));
            if tokens.is_empty() {
                self.found.pop_front();
            }
        }
        any
    }

    /// Takes the answers that the threads have found.
    pub(super) fn take_answers(&mut self) {
        while let Ok((name, addresses)) = self.answers.try_recv() {
            let Some(index) = self.lookups.iter().position(|lookup| lookup.name == name) else { continue };
            let tokens = self.lookups.remove(index).tokens.into();
            self.found.push_back(Found { addresses, tokens });
            self.start_next();
        }
    }

    /// Notes an answer that is there. Who has the same one shares it.
    fn find(&mut self, addresses: &[SocketAddr], token: u32) {
        match self.found.iter_mut().find(|found| found.addresses == addresses) {
            Some(found) => found.tokens.push_back(token),
            None => {
                let tokens = VecDeque::from([token]);
                self.found.push_back(Found { addresses: addresses.to_vec(), tokens });
            }
        }
    }

    /// Starts the lookups that wait longest, as many as may run.
    fn start_next(&mut self) {
        while self.lookups.iter().filter(|lookup| lookup.running).count() < MAX_THREADS {
            let Some(index) = self.lookups.iter().position(|lookup| !lookup.running) else { return };
            let Some(lookup) = self.lookups.get_mut(index) else { return };
            lookup.running = true;
            if spawn(lookup.name.clone(), self.sender.clone(), Arc::clone(&self.waker)).is_err() {
                let tokens = self.lookups.remove(index).tokens.into();
                self.found.push_back(Found { addresses: Vec::new(), tokens });
            }
        }
    }
}

fn spawn(name: Name, sender: Sender<Answer>, waker: Arc<Waker>) -> io::Result<()> {
    let lookup = move || {
        let addresses = (name.host.as_str(), name.port).to_socket_addrs();
        let addresses = addresses.map_or_else(|_| Vec::new(), Iterator::collect);
        // If the loop is gone nobody wants the answer.
        let _ = sender.send((name, addresses));
        let _ = waker.wake();
    };
    thread::Builder::new().name("resolve".into()).stack_size(STACK_SIZE).spawn(lookup)?;
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
