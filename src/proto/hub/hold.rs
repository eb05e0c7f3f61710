//! Who may hold how much of a request that waits.
//!
//! The first [`FREE`] bytes of a body are held beside its head, and cost nothing here: small requests never
//! wait for large ones. What is read beyond that while a request waits takes blocks of one budget (`--hold`),
//! up to [`MOST`] bytes of body for each request. Where no block is free the rest of the body stays with its
//! sender, until one is given back.

use super::{Exchange, Hub, Phase};
use crate::proto::seam::{Command, HELD_BLOCK, HELD_BODY};
use crate::proto::tables::key::{ExchangeKey, TunnelKey};
use crate::proto::tables::list::{Arena, List, NodeId};

/// The bytes of a body that are held beside its head, so that a sender is not given a worker before it has
/// shown them, and the request can be sent again.
pub(super) const FREE: usize = HELD_BODY;
/// The bytes of a body that are held at most.
pub(super) const MOST: usize = 1024 * 1024;

/// The budget.
#[derive(Debug)]
pub(super) struct Budget {
    /// Blocks that may be taken.
    limit: usize,
    /// Blocks that are.
    taken: usize,
    /// Exchanges in [`Phase::Queued`] that found none, the first of them first.
    starved: List,
    nodes: Arena<ExchangeKey>,
}

/// What one exchange has of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// Blocks.
    blocks: u32,
    /// Its place among those that wait for one.
    place: Option<NodeId>,
}

impl Share {
    /// How many bytes of a body may be held.
    pub(super) fn room(&self) -> usize {
        (FREE + self.blocks as usize * HELD_BLOCK).min(MOST)
    }

    /// How many blocks it has.
    pub(super) fn blocks(&self) -> usize {
        self.blocks as usize
    }

    /// Whether it waits for one.
    pub(super) fn is_starved(&self) -> bool {
        self.place.is_some()
    }
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let limit = usize::try_from(bytes / HELD_BLOCK as u64).unwrap_or(usize::MAX);
        Self { limit, taken: 0, starved: List::default(), nodes: Arena::default() }
    }

    /// Blocks that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Whether more are taken than there are, or one is free though somebody waits for it.
    pub(super) fn is_wrong(&self) -> bool {
        self.taken > self.limit || self.taken < self.limit && !self.starved.is_empty()
    }

    /// How many wait for a block.
    pub(super) fn starved(&self) -> usize {
        self.starved.len()
    }

    pub(super) fn end_batch(&mut self) {
        self.nodes.end_batch();
    }

    /// Makes room for more of a body of which `held` bytes are held. False if there is none to be had.
    fn grow(&mut self, share: &mut Share, held: u64) -> bool {
        if held < share.room() as u64 {
            return true;
        }
        if share.room() >= MOST || self.taken >= self.limit {
            return false;
        }
        share.blocks += 1;
        self.taken += 1;
        true
    }

    fn leave(&mut self, share: &mut Share) {
        if let Some(place) = share.place.take() {
            self.starved.remove(&mut self.nodes, place);
        }
    }
}

impl Exchange {
    /// How many bytes of its body may be added to what is held.
    pub(super) fn room(&self) -> usize {
        usize::try_from(self.held.body).map_or(0, |body| self.held.share.room().saturating_sub(body))
    }
}

impl Hub {
    /// More of a body was taken in. False if what is held of it must not become more: it is all of it, or all
    /// that may be held.
    pub(super) fn makes_room(&mut self, key: ExchangeKey) -> bool {
        let Some(exchange) = self.exchanges.get_mut(key) else { return false };
        if exchange.messages.request.is_done() {
            return false;
        }
        let held = &mut exchange.held;
        if self.budget.grow(&mut held.share, held.body) {
            return true;
        }
        if matches!(*exchange.phase, Phase::Queued { .. })
            && held.share.room() < MOST
            && held.share.place.is_none()
        {
            held.share.place = Some(self.budget.starved.push_back(&mut self.budget.nodes, key));
        }
        false
    }

    /// An exchange waits for nothing that would have to be held any more.
    pub(super) fn stop_holding(&mut self, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            self.budget.leave(&mut exchange.held.share);
        }
    }

    /// What is held of a request will not be sent again. Its memory is free once the tunnel has taken it all.
    pub(super) fn let_go(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !core::mem::replace(&mut exchange.held.whole, false) {
            return;
        }
        self.commands.push(Command::DropHeld(exchange.client.into()));
        if let Phase::Active { tunnel, .. } = *exchange.phase {
            self.note_taken(key, tunnel);
        }
    }

    /// A tunnel has been sent what is held of a request, or is just being sent it.
    pub(super) fn note_taken(&mut self, key: ExchangeKey, tunnel: TunnelKey) {
        let all_sent = self.tunnels.get(tunnel).is_none_or(|tunnel| !tunnel.sending.is_sending());
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if all_sent && !exchange.held.whole && exchange.held.share.blocks > 0 {
            let mut share = core::mem::take(&mut exchange.held.share);
            self.give_back(&mut share);
        }
    }

    /// Takes back what an exchange had, and gives it to those that wait for it.
    pub(super) fn give_back(&mut self, share: &mut Share) {
        self.budget.leave(share);
        self.budget.taken -= core::mem::take(&mut share.blocks) as usize;
        while self.budget.taken < self.budget.limit {
            let first = self.budget.starved.iter(&self.budget.nodes).next().map(|(_, key)| *key);
            let Some(exchange) = first.and_then(|key| self.exchanges.get_mut(key)) else { return };
            self.budget.leave(&mut exchange.held.share);
            if self.budget.grow(&mut exchange.held.share, exchange.held.body) {
                self.commands.push(Command::Resume(exchange.client.into()));
            }
        }
    }
}
