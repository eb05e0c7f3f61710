//! Exchanges that wait for a worker, in order of arrival.
//!
//! Waiters that the same agents can serve stand in one list (a *class*), so that a freed tunnel looks only at the heads of the
//! classes that it may serve, and a hand-off costs the same with one and with a thousand waiters. The number of classes is
//! bounded by the different sets of profiles, not by what applications ask for: all requests that nobody can serve are one class.

use slab::Slab;

use super::key::ExchangeKey;
use super::list::{Arena, List, NodeId};
use super::pool::{AgentSerial, ProfileId};

/// Waiters.
#[derive(Debug, Default)]
pub struct DispatchQueue {
    arena: Arena<Waiter>,
    classes: Slab<Class>,
    len: usize,
    /// Waiters of the class that no profile serves.
    hopeless: usize,
}

/// The place of an exchange in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    class: usize,
    node: NodeId,
}

/// The order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival(pub u64);

#[derive(Debug)]
struct Waiter {
    exchange: ExchangeKey,
    arrival: Arrival,
}

#[derive(Debug)]
struct Class {
    profiles: Vec<ProfileId>,
    refused: Vec<AgentSerial>,
    waiters: List,
}

impl DispatchQueue {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many wait for agents of which none is known.
    pub fn hopeless(&self) -> usize {
        self.hopeless
    }

    /// Enters by order of arrival: at the end, but for an exchange that was refused and keeps its place.
    pub fn enter(
        &mut self,
        exchange: ExchangeKey,
        arrival: Arrival,
        profiles: Vec<ProfileId>,
        refused: &[AgentSerial],
    ) -> Place {
        self.len += 1;
        if profiles.is_empty() {
            self.hopeless += 1;
        }
        let same =
            self.classes.iter().find(|(_, class)| class.profiles == profiles && class.refused == refused);
        let id = match same {
            Some((id, _)) => id,
            None => {
                self.classes.insert(Class { profiles, refused: refused.to_vec(), waiters: List::default() })
            }
        };
        let waiter = Waiter { exchange, arrival };
        let node = match self.classes.get_mut(id) {
            Some(class) => {
                let next = if class.ends_after(&self.arena, arrival) {
                    class
                        .waiters
                        .iter(&self.arena)
                        .find(|(_, other)| other.arrival > arrival)
                        .map(|(node, _)| node)
                } else {
                    None
                };
                class.waiters.insert_before(&mut self.arena, next, waiter)
            }
            // Not reached: the class was found or made above.
            None => List::default().push_back(&mut self.arena, waiter),
        };
        Place { class: id, node }
    }

    /// Leaves the queue.
    pub fn leave(&mut self, place: Place) {
        let Some(class) = self.classes.get_mut(place.class) else { return };
        if class.waiters.remove(&mut self.arena, place.node).is_none() {
            return;
        }
        self.len -= 1;
        if class.profiles.is_empty() {
            self.hopeless -= 1;
        }
        if class.waiters.is_empty() {
            self.classes.remove(place.class);
        }
    }

    /// The waiter that came first among those for whom `find` finds something, with what it found. `find` is asked once for each
    /// class, with the profiles that serve it and the agents that it must not go to.
    pub fn first_served<T>(
        &self,
        mut find: impl FnMut(&[ProfileId], &[AgentSerial]) -> Option<T>,
    ) -> Option<(ExchangeKey, T)> {
        let heads = self.classes.iter().filter_map(|(_, class)| {
            let waiter = class.waiters.front(&self.arena)?;
            Some((waiter, find(&class.profiles, &class.refused)?))
        });
        heads.min_by_key(|(waiter, _)| waiter.arrival).map(|(waiter, found)| (waiter.exchange, found))
    }

    /// All waiters, in order of arrival.
    pub fn waiters(&self) -> Vec<ExchangeKey> {
        let mut all: Vec<(Arrival, ExchangeKey)> = self
            .classes
            .iter()
            .flat_map(|(_, class)| class.waiters.iter(&self.arena))
            .map(|(_, waiter)| (waiter.arrival, waiter.exchange))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, exchange)| exchange).collect()
    }
}

impl Class {
    /// Whether anybody in this class arrived after `arrival`. The last one did if any did.
    fn ends_after(&self, arena: &Arena<Waiter>, arrival: Arrival) -> bool {
        self.waiters.back(arena).is_some_and(|last| last.arrival > arrival)
    }
}
