//! Name lookup: the only blocking call, on short-lived threads beside the loop.

use core::net::{IpAddr, SocketAddr};
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

/// Enough for getaddrinfo(3) of any libc, much less than the default of 2 MiB on a small machine.
const STACK_SIZE: usize = 256 * 1024;

/// Names that are being looked up. Whoever asks for a name that is already being looked up shares its answer.
pub(super) struct Resolver {
    waker: Arc<Waker>,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    lookups: Vec<Lookup>,
    immediate: Vec<Event>,
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
        Self { waker, sender, answers, lookups: Vec::new(), immediate: Vec::new() }
    }

    /// Looks a name up. The answer comes by [`Resolver::append_immediate`], or the waker announces it and it comes by
    /// [`Resolver::append_answers`].
    pub(super) fn resolve(&mut self, host: &str, port: u16, token: u32) {
        if let Some(address) = literal(host) {
            let addresses = vec![SocketAddr::new(address, port)];
            self.immediate.push(Event::Resolved { token, addresses });
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
                self.lookups.push(Lookup { name, tokens: vec![token], running: false });
                self.start_next();
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
    pub(super) fn append_answers(&mut self, events: &mut Vec<Event>) {
        while let Ok((name, addresses)) = self.answers.try_recv() {
            let Some(index) = self.lookups.iter().position(|lookup| lookup.name == name) else { continue };
            for token in self.lookups.remove(index).tokens {
                events.push(Event::Resolved { token, addresses: addresses.clone() });
            }
            self.start_next();
        }
    }

    /// Starts the lookups that wait longest, as many as may run.
    fn start_next(&mut self) {
        while self.lookups.iter().filter(|lookup| lookup.running).count() < MAX_THREADS {
            let Some(index) = self.lookups.iter().position(|lookup| !lookup.running) else { return };
            let Some(lookup) = self.lookups.get_mut(index) else { return };
            lookup.running = true;
            if spawn(lookup.name.clone(), self.sender.clone(), Arc::clone(&self.waker)).is_err() {
                for token in self.lookups.remove(index).tokens {
                    self.immediate.push(Event::Resolved { token, addresses: Vec::new() });
                }
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
