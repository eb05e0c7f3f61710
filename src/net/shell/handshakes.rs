//! TLS handshakes: how many may be under way, and what is said of those that fail.
//!
//! Their time is the core's affair: a connection whose request head does not come in time goes, and so does
//! one that was dialled and does not stand in time.

use core::net::IpAddr;
use std::collections::VecDeque;

use log::Level;

use crate::net::tls_stream::TlsPeer;
use crate::proto::notice::Notices;
use crate::proto::seam::Target;
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::Mono;

/// Handshakes of clients under way at once: as many as a busy hub has when all its agents come back. The
/// oldest one makes room for another: it has stalled, as a rule. Each holds some 20 KiB.
const MAX_HANDSHAKES: usize = 1024;
/// Steps of handshakes in one turn: each costs up to a signature, a millisecond on a server and many on a
/// router, which other connections must not wait for.
pub(super) const STEPS_PER_TURN: usize = 8;

/// The handshakes of a shell.
#[derive(Default)]
pub(super) struct Handshakes {
    /// Those of clients, in the order in which they began. Some may be over.
    under_way: VecDeque<Key>,
    /// How many more steps this turn may have.
    steps_left: usize,
    /// Lines about those that failed.
    notices: Notices,
}

impl Handshakes {
    /// A turn begins, and has steps of its own.
    pub(super) fn begin_turn(&mut self) {
        self.steps_left = STEPS_PER_TURN;
    }

    /// A handshake with a client begins. If there are too many, the oldest one is returned: it has to end.
    pub(super) fn begin(&mut self, key: Key, is_under_way: impl Fn(Key) -> bool) -> Option<Key> {
        if self.under_way.len() >= MAX_HANDSHAKES {
            self.under_way.retain(|key| is_under_way(*key));
        }
        let has_room = self.under_way.len() < MAX_HANDSHAKES;
        let oldest = if has_room { None } else { self.under_way.pop_front() };
        self.under_way.push_back(key);
        oldest
    }

    /// Takes one of the steps of this turn, if there is one left.
    pub(super) fn take_step(&mut self) -> bool {
        let left = self.steps_left.checked_sub(1);
        self.steps_left = left.unwrap_or(0);
        left.is_some()
    }

    /// Says that a handshake failed. `name` is what the operator calls the peer.
    pub(super) fn fail(&mut self, peer: TlsPeer, name: &str, why: &str, now: Mono) {
        let line = format_args!("TLS with {name} failed: {why}");
        self.notices.say(Level::Warn, ("TLS failed", number(peer)), now, line);
    }

    /// When [`Handshakes::handle_timeout`] has something to do.
    pub(super) fn next_timeout(&self) -> Mono {
        self.notices.next_timeout()
    }

    /// Says what was not said at once.
    pub(super) fn handle_timeout(&mut self, now: Mono) {
        if self.next_timeout() <= now {
            self.notices.handle_timeout(now);
        }
    }

    /// As [`Handshakes::handle_timeout`], of everything: the process ends.
    pub(super) fn handle_end(&mut self, now: Mono) {
        self.notices.handle_end(now);
    }
}

/// By which lines about one peer are told from those about others. Of IPv6 it is the network: who has one has
/// all its addresses.
fn number(peer: TlsPeer) -> u64 {
    match peer {
        TlsPeer::Client(IpAddr::V4(address)) => u64::from(address.to_bits()) | 1 << 32,
        TlsPeer::Client(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments().map(u64::from);
            a << 48 | b << 32 | c << 16 | d
        }
        TlsPeer::Target(Target::Hub) => 0,
        TlsPeer::Target(Target::Upstream(index)) => u64::from(index) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tables::key::ClientKey;
    use crate::proto::tables::table::Table;

    #[test]
    fn the_oldest_of_too_many_ends() {
        let mut table: Table<ClientKey, ()> = Table::new();
        let mut next = || Key::from(table.insert(()).unwrap());
        let mut handshakes = Handshakes::default();
        let keys: Vec<Key> = (0..MAX_HANDSHAKES).map(|_| next()).collect();
        assert!(keys.iter().all(|key| handshakes.begin(*key, |_| true).is_none()));
        assert_eq!(handshakes.begin(next(), |_| true), Some(keys[0]));
        // Those that are over make room.
        assert_eq!(handshakes.begin(next(), |key| key != keys[1]), None);
        assert_eq!(handshakes.begin(next(), |_| true), Some(keys[2]));
    }

    #[test]
    fn a_turn_has_a_few_steps() {
        let mut handshakes = Handshakes::default();
        handshakes.begin_turn();
        assert_eq!((0..100).filter(|_| handshakes.take_step()).count(), STEPS_PER_TURN);
    }

    #[test]
    fn peers_are_told_apart() {
        let client = |address: &str| number(TlsPeer::Client(address.parse().unwrap()));
        let mut all = [
            client("10.0.0.1"),
            client("10.0.0.2"),
            client("0.0.0.1"),
            client("2001:db8::1"),
            client("2001:db8:0:1::1"),
            number(TlsPeer::Target(Target::Hub)),
            number(TlsPeer::Target(Target::Upstream(0))),
            number(TlsPeer::Target(Target::Upstream(1))),
        ];
        all.sort_unstable();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        assert_eq!(client("2001:db8::1"), client("2001:db8::2"));
    }
}
