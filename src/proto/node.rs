//! One type for both cores, so that the shell is compiled once for the two of them: it takes 30 KB less of a
//! router.
//!
//! It decides nothing.

use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::proto::agent::Agent;
use crate::proto::hub::Hub;
use crate::proto::seam::{Closed, Command, Core, Shown, Step};
use crate::proto::tables::key::Key;
use crate::proto::tables::timer::{Mono, Now};

/// What a process is.
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum Node {
    /// The end that applications and agents connect to.
    Hub(Hub),
    /// The end beside the upstreams.
    Agent(Agent),
}

macro_rules! either {
    ($node:ident . $method:ident ( $($argument:expr),* )) => {
        match $node {
            Node::Hub(core) => core.$method($($argument),*),
            Node::Agent(core) => core.$method($($argument),*),
        }
    };
}

impl Core for Node {
    fn handle_accepted(&mut self, peer: SocketAddr, is_tls: bool, now: Now) -> Option<Key> {
        either!(self.handle_accepted(peer, is_tls, now))
    }

    fn handle_insecure(&mut self, key: Key) {
        either!(self.handle_insecure(key));
    }

    fn handle_exhausted(&mut self, now: Now) -> bool {
        either!(self.handle_exhausted(now))
    }

    fn handle_resolved(&mut self, key: Key, now: Now) {
        either!(self.handle_resolved(key, now));
    }

    fn handle_connected(&mut self, key: Key, now: Now) {
        either!(self.handle_connected(key, now));
    }

    #[inline]
    fn handle_input(&mut self, key: Key, shown: Shown<'_>, now: Now) -> Step {
        either!(self.handle_input(key, shown, now))
    }

    #[inline]
    fn wants_input(&self, key: Key) -> bool {
        either!(self.wants_input(key))
    }

    #[inline]
    fn opaque(&self, key: Key) -> u64 {
        either!(self.opaque(key))
    }

    fn handle_opaque(&mut self, key: Key, n: u64, before: &mut Vec<u8>, now: Now) -> &'static [u8] {
        either!(self.handle_opaque(key, n, before, now))
    }

    fn handle_hangup(&mut self, key: Key, now: Now) {
        either!(self.handle_hangup(key, now));
    }

    fn handle_send_progress(&mut self, key: Key, waiting: bool, now: Now) {
        either!(self.handle_send_progress(key, waiting, now));
    }

    fn handle_closed(&mut self, key: Key, reason: Closed, now: Now) {
        either!(self.handle_closed(key, reason, now));
    }

    fn handle_timeout(&mut self, now: Now) {
        either!(self.handle_timeout(now));
    }

    #[inline]
    fn next_timeout(&self) -> Option<Mono> {
        either!(self.next_timeout())
    }

    fn handle_drain(&mut self, now: Now) {
        either!(self.handle_drain(now));
    }

    #[inline]
    fn handle_batch_end(&mut self, now: Now) {
        either!(self.handle_batch_end(now));
    }

    #[inline]
    fn commands(&mut self) -> &mut Vec<Command> {
        either!(self.commands())
    }
}
