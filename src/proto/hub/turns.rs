//! Whose turn it is, and which tunnel is taken.
//!
//! Agents take turns: an idle tunnel is worth one, and they come in the order in which tunnels became idle.
//! So the longest idle goes first, and an agent with eight workers is asked eight times as often as one with
//! one. Which of an agent's idle tunnels is used is another matter: all of them lead to the same upstream,
//! and the one that was used last is known to work and is still in the caches of both machines. With
//! thousands of them that saves a third of what a small request costs.
//!
//! A tunnel that leaves otherwise than by being taken leaves its turn behind, for the next one of its agent,
//! so that a sign of life that is asked for costs nobody a turn. A turn of an agent that has no idle tunnel
//! is dropped when it is the first.

use alloc::vec::Vec;
use core::num::NonZeroU32;

use crate::proto::tables::key::TunnelKey;
use crate::proto::tables::list::{Arena, List, NodeId};

/// A place among the agents, valid while the agent has a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentSlot(NonZeroU32);

impl AgentSlot {
    /// So many agents do not fit any memory that this runs on; the saturation is never reached.
    pub(super) fn new(index: usize) -> Self {
        let number = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        Self(NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX))
    }

    pub(super) const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The idle tunnels of all agents, and the turns that they wait for.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: Arena<Turn>,
    tunnels: Arena<TunnelKey>,
    /// By agent.
    idle: Vec<Idle>,
    /// Counts turns, so that those of different queues can be compared.
    clock: u64,
}

/// The turns of the agents of one profile.
#[derive(Debug, Default)]
pub(super) struct Queue(List);

/// The next tunnel of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Next {
    pub(super) tunnel: TunnelKey,
    /// The turn's place among all that there ever were.
    pub(super) since: u64,
}

#[derive(Debug)]
struct Turn {
    agent: AgentSlot,
    since: u64,
}

/// What an agent has.
#[derive(Debug, Default)]
struct Idle {
    /// The one that was used last at the end.
    tunnels: List,
    /// Never fewer than tunnels.
    turns: usize,
}

impl Turns {
    /// Enters a tunnel of an agent of this queue.
    pub(super) fn enter(&mut self, queue: &mut Queue, agent: AgentSlot, tunnel: TunnelKey) -> Option<NodeId> {
        if self.idle.len() <= agent.index() {
            self.idle.resize_with(agent.index() + 1, Idle::default);
        }
        let idle = self.idle.get_mut(agent.index())?;
        let place = idle.tunnels.push_back(&mut self.tunnels, tunnel);
        if idle.turns < idle.tunnels.len() {
            idle.turns += 1;
            self.clock += 1;
            queue.0.push_back(&mut self.turns, Turn { agent, since: self.clock });
        }
        Some(place)
    }

    /// Takes a tunnel out because it is its agent's turn.
    pub(super) fn take(&mut self, queue: &mut Queue, agent: AgentSlot, place: NodeId) {
        let first = queue.0.iter(&self.turns).find(|(_, turn)| turn.agent == agent).map(|(id, _)| id);
        if let Some(turn) = first {
            self.drop_turn(queue, turn);
        }
        self.leave(queue, agent, place);
    }

    /// Takes a tunnel out for another reason.
    pub(super) fn leave(&mut self, queue: &mut Queue, agent: AgentSlot, place: NodeId) {
        if let Some(idle) = self.idle.get_mut(agent.index()) {
            idle.tunnels.remove(&mut self.tunnels, place);
        }
        while let Some(stale) = self.first_stale(queue) {
            self.drop_turn(queue, stale);
        }
    }

    /// Drops what is left of an agent.
    pub(super) fn forget(&mut self, queue: &mut Queue, agent: AgentSlot) {
        let turns: Vec<NodeId> =
            queue.0.iter(&self.turns).filter(|(_, turn)| turn.agent == agent).map(|(id, _)| id).collect();
        for id in turns {
            self.drop_turn(queue, id);
        }
    }

    /// The turns of an agent go to the end of another queue.
    pub(super) fn change_queue(&mut self, from: &mut Queue, to: &mut Queue, agent: AgentSlot) {
        let turns = self.idle.get(agent.index()).map_or(0, |idle| idle.turns);
        self.forget(from, agent);
        let Some(idle) = self.idle.get_mut(agent.index()) else { return };
        idle.turns = turns;
        for _ in 0..turns {
            self.clock += 1;
            to.0.push_back(&mut self.turns, Turn { agent, since: self.clock });
        }
    }

    /// The next tunnel of this queue, of an agent that may have it.
    pub(super) fn next(&self, queue: &Queue, may: impl Fn(AgentSlot) -> bool) -> Option<Next> {
        queue.0.iter(&self.turns).find_map(|(_, turn)| {
            let tunnel = self.last_used(turn.agent).filter(|_| may(turn.agent))?;
            Some(Next { tunnel, since: turn.since })
        })
    }

    /// How many tunnels are idle. For tests.
    pub(super) fn idle(&self) -> usize {
        self.idle.iter().map(|idle| idle.tunnels.len()).sum()
    }

    /// Gives back what a burst has left behind.
    pub(super) fn end_batch(&mut self) {
        self.turns.end_batch();
        self.tunnels.end_batch();
    }

    fn last_used(&self, agent: AgentSlot) -> Option<TunnelKey> {
        self.idle.get(agent.index())?.tunnels.back(&self.tunnels).copied()
    }

    /// The first turn, if it is one of an agent that has no idle tunnel.
    fn first_stale(&self, queue: &Queue) -> Option<NodeId> {
        let (id, turn) = queue.0.iter(&self.turns).next()?;
        self.last_used(turn.agent).is_none().then_some(id)
    }

    fn drop_turn(&mut self, queue: &mut Queue, id: NodeId) {
        if let Some(turn) = queue.0.remove(&mut self.turns, id)
            && let Some(idle) = self.idle.get_mut(turn.agent.index())
        {
            idle.turns -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tables::table::Table;

    struct Fixture {
        turns: Turns,
        queue: Queue,
        keys: Vec<TunnelKey>,
        places: Vec<Option<NodeId>>,
    }

    impl Fixture {
        fn new() -> Self {
            let mut table = Table::new();
            let keys: Vec<TunnelKey> = (0..20).map(|_| table.insert(()).unwrap()).collect();
            Self { turns: Turns::default(), queue: Queue::default(), places: vec![None; keys.len()], keys }
        }

        /// The tunnels 10 to 19 are those of the second agent.
        fn agent(tunnel: usize) -> AgentSlot {
            AgentSlot::new(tunnel / 10)
        }

        fn enter(&mut self, tunnels: &[usize]) {
            for at in tunnels {
                self.places[*at] = self.turns.enter(&mut self.queue, Self::agent(*at), self.keys[*at]);
            }
        }

        fn leave(&mut self, tunnel: usize) {
            self.turns.leave(&mut self.queue, Self::agent(tunnel), self.places[tunnel].take().unwrap());
        }

        fn next(&self, may: impl Fn(AgentSlot) -> bool) -> Option<usize> {
            let next = self.turns.next(&self.queue, may)?;
            self.keys.iter().position(|key| *key == next.tunnel)
        }

        fn take(&mut self) -> Option<usize> {
            let tunnel = self.next(|_| true)?;
            self.turns.take(&mut self.queue, Self::agent(tunnel), self.places[tunnel].take().unwrap());
            Some(tunnel)
        }

        fn take_all(&mut self) -> Vec<usize> {
            core::iter::from_fn(|| self.take()).collect()
        }
    }

    #[test]
    fn agents_take_turns_with_what_they_used_last() {
        let mut it = Fixture::new();
        it.enter(&[0, 1, 10, 2, 11]);
        assert_eq!(it.turns.idle(), 5);
        assert_eq!(it.take_all(), [2, 1, 11, 0, 10]);
        assert!(it.queue.0.is_empty());
        // One that is used and comes back is used again, and its agent waits for its next turn.
        it.enter(&[0, 1, 10]);
        for expected in [1, 1, 10, 1, 1, 10] {
            assert_eq!(it.take(), Some(expected));
            it.enter(&[expected]);
        }
    }

    #[test]
    fn who_leaves_leaves_the_turn_behind() {
        let mut it = Fixture::new();
        it.enter(&[0, 10, 1]);
        // Asked for a sign of life, and back: the turn is where it was.
        it.leave(0);
        it.enter(&[0]);
        assert_eq!(it.take(), Some(0));
        it.leave(10);
        assert_eq!(it.take_all(), [1]);
        it.enter(&[1, 11]);
        assert_eq!(it.take_all(), [1, 11]);
        assert!(it.queue.0.is_empty());
    }

    #[test]
    fn nothing_stays_of_turns_that_nobody_takes() {
        let mut it = Fixture::new();
        it.enter(&[0, 10, 1, 2]);
        for tunnel in [0, 1, 2] {
            it.leave(tunnel);
        }
        assert_eq!(it.take_all(), [10]);
        assert!(it.queue.0.is_empty());
        it.enter(&[10, 0, 1]);
        it.leave(0);
        it.leave(1);
        it.turns.forget(&mut it.queue, Fixture::agent(0));
        // Whoever comes to the slot begins anew.
        it.enter(&[11, 1]);
        assert_eq!(it.take_all(), [11, 10, 1]);
    }

    #[test]
    fn who_changes_the_queue_goes_to_its_end() {
        let mut it = Fixture::new();
        let mut aside = Queue::default();
        it.enter(&[0, 1, 10]);
        let first = Fixture::agent(0);
        it.turns.change_queue(&mut it.queue, &mut aside, first);
        assert_eq!((it.next(|_| true), it.turns.idle()), (Some(10), 3));
        it.turns.change_queue(&mut aside, &mut it.queue, first);
        assert!(aside.0.is_empty());
        assert_eq!(it.take_all(), [10, 1, 0]);
        assert!(it.queue.0.is_empty());
    }

    #[test]
    fn who_may_not_is_passed_over() {
        let mut it = Fixture::new();
        it.enter(&[0, 1, 10]);
        assert_eq!(it.next(|agent| agent != Fixture::agent(0)), Some(10));
        assert_eq!(it.next(|_| false), None);
        it.turns.take(&mut it.queue, Fixture::agent(10), it.places[10].unwrap());
        assert_eq!(it.take_all(), [1, 0]);
    }

    #[test]
    fn idle_tunnels_are_small() {
        assert!(size_of::<Turn>() <= 16 && size_of::<TunnelKey>() == 4);
    }
}
