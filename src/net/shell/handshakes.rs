//! TLS handshakes: how many may be under way, and what is said of those that fail.
//!
//! Their time is the core's affair: a connection whose request head does not come in time goes, and so does
//! one that was dialled and does not stand in time.

use std::collections::VecDeque;

use core::fmt::Display;
use core::time::Duration;

use log::warn;

use super::Shell;
use super::conn::Conns;
use crate::net::Net;
use crate::net::explain::explain_handshake;
use crate::net::stream::Stream;
use crate::net::tls_stream::{TlsPeer, TlsStream};
use crate::proto::seam::{Closed, Core, Why};
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::Mono;

/// Handshakes of clients under way at once: as many as a busy hub has when all its agents come back. The
/// oldest one makes room for another: it has stalled, as a rule. Each holds some 20 KiB.
const MAX_HANDSHAKES: usize = 1024;
/// Steps of handshakes in one turn: each costs up to a signature, a millisecond on a server and many on a
/// router, which other connections must not wait for.
pub(super) const STEPS_PER_TURN: usize = 8;
/// Of one peer there is one line in this time.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// Peers that are remembered for that. What others do is counted.
const MAX_PEERS: usize = 64;

/// The handshakes of a shell.
#[derive(Default)]
pub(super) struct Handshakes {
    /// Those of clients, in the order in which they began. Some may be over.
    under_way: VecDeque<Key>,
    /// How many more steps this turn may have.
    pub(super) steps: usize,
    /// Peers of whom there was a line, in the order of these lines.
    told: VecDeque<Told>,
    /// Failures with peers that were too many to be remembered.
    others: u64,
}

struct Told {
    peer: TlsPeer,
    at: Mono,
    /// Failures since.
    more: u64,
}

impl Handshakes {
    /// Says that a handshake failed, or counts it.
    fn fail(&mut self, peer: TlsPeer, name: &dyn Display, why: &dyn Display, now: Mono) {
        match self.count(peer, now) {
            None => {}
            Some((0, 0)) => warn!("TLS with {name} failed: {why}"),
            Some((more, 0)) => warn!("TLS with {name} failed: {why} (and {more} times before)"),
            Some((more, others)) => {
                warn!(
                    "TLS with {name} failed: {why} (and {more} times before, and {others} times with others)"
                );
            }
        }
    }

    /// Counts a failure. If it is to be said: how many there were before that were not, with this peer and
    /// with those that were too many.
    fn count(&mut self, peer: TlsPeer, now: Mono) -> Option<(u64, u64)> {
        let mut more = 0;
        while let Some(told) = self.told.pop_front_if(|told| now.since(told.at) >= REPEAT_AFTER) {
            if told.peer == peer {
                more = told.more;
            } else {
                self.others += told.more;
            }
        }
        if let Some(told) = self.told.iter_mut().find(|told| told.peer == peer) {
            told.more += 1;
            None
        } else if self.told.len() >= MAX_PEERS {
            self.others += 1;
            None
        } else {
            self.told.push_back(Told { peer, at: now, more: 0 });
            Some((more, core::mem::take(&mut self.others)))
        }
    }
}

impl<C: Core, N: Net> Shell<C, N> {
    /// A handshake with a client begins. If there are too many, the oldest one ends.
    pub(super) fn handshake_begins(&mut self, key: Key) {
        let mut under_way = core::mem::take(&mut self.handshakes.under_way);
        if under_way.len() >= MAX_HANDSHAKES {
            under_way.retain(|key| is_under_way(&self.conns, *key));
        }
        if under_way.len() >= MAX_HANDSHAKES
            && let Some(oldest) = under_way.pop_front()
        {
            self.drop_slot(oldest);
            self.core.handle_closed(oldest, Closed { why: Why::Failed, written: false }, self.now);
            self.obey();
        }
        under_way.push_back(key);
        self.handshakes.under_way = under_way;
    }

    /// A connection with TLS goes. If its handshake was not over, that is noted.
    pub(super) fn note_handshake(&mut self, stream: &TlsStream<N::Socket>) {
        let Some(failure) = stream.failure() else { return };
        let why = explain_handshake(&failure, stream.peer());
        match stream.peer() {
            TlsPeer::Client(address) => self.handshakes.fail(stream.peer(), &address, &why, self.now.mono),
            TlsPeer::Target(target) => {
                let name = self.tls_of(target).map_or(String::new(), |tls| tls.whom.clone());
                self.handshakes.fail(stream.peer(), &name, &why, self.now.mono);
            }
        }
    }

    /// Whether this connection is in a handshake, whose next step must wait for the next turn.
    pub(super) fn is_handshake_put_off(&mut self, key: Key) -> bool {
        if !is_under_way(&self.conns, key) {
            return false;
        }
        match self.handshakes.steps.checked_sub(1) {
            Some(left) => {
                self.handshakes.steps = left;
                false
            }
            None => true,
        }
    }
}

fn is_under_way<S>(conns: &Conns<S>, key: Key) -> bool {
    conns.get(key).is_some_and(|conn| match &conn.stream {
        Stream::Plain(_) | Stream::Framed(_) => false,
        Stream::Tls(stream) => stream.is_handshaking(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_peer_has_a_line_a_minute_and_its_failures_are_counted() {
        let client = |number: u8| TlsPeer::Client(IpAddr::from([10, 0, 0, number]));
        let mut handshakes = Handshakes::default();
        assert_eq!(handshakes.count(client(1), Mono(1000)), Some((0, 0)));
        for at in [1000, 2000, 60_999] {
            assert_eq!(handshakes.count(client(1), Mono(at)), None);
        }
        assert_eq!(handshakes.count(client(2), Mono(30_000)), Some((0, 0)));
        assert_eq!(handshakes.count(client(1), Mono(61_000)), Some((3, 0)));
        assert_eq!(handshakes.count(client(1), Mono(61_001)), None);
    }

    #[test]
    fn peers_beyond_those_that_are_remembered_are_counted_together() {
        let client =
            |number: usize| TlsPeer::Client(IpAddr::from(u32::try_from(number).unwrap().to_be_bytes()));
        let mut handshakes = Handshakes::default();
        for number in 0..MAX_PEERS {
            assert_eq!(handshakes.count(client(number), Mono(0)), Some((0, 0)));
            assert_eq!(handshakes.count(client(number), Mono(0)), None);
        }
        assert_eq!(handshakes.count(client(MAX_PEERS), Mono(0)), None);
        // What was counted of those who are forgotten is not lost.
        let others = MAX_PEERS as u64 - 1 + 1;
        assert_eq!(handshakes.count(client(0), Mono(60_000)), Some((1, others)));
        assert_eq!(handshakes.told.len(), 1);
    }
}
