//! Exchanges that wait for a worker, in order of arrival.
//!
//! Waiters that the same agents can serve stand in one list, that of their class (`super::classes`). A
//! freed tunnel looks only at the classes that it may serve, and of those only at the one whose first waiter
//! came first, so that a hand-off costs the same with one waiter and with a thousand.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::classes::ClassId;
use super::tournament::Tournament;
use crate::proto::tables::key::ExchangeKey;
use crate::proto::tables::list::{Arena, List, NodeId};

/// Waiters.
#[derive(Debug, Default)]
pub struct DispatchQueue {
    arena: Arena<Waiter>,
    /// By class.
    lines: Vec<Line>,
    /// By class: the first waiter's arrival, if a tunnel is idle that it may have.
    served: Tournament,
    /// Classes whose waiters have changed since somebody asked.
    changed: Vec<ClassId>,
    /// Classes whose last waiter left in this turn.
    emptied: Vec<ClassId>,
    /// Those that agents have refused.
    refused: BTreeMap<Arrival, (ClassId, ExchangeKey)>,
    len: usize,
}

/// The place of an exchange in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    class: ClassId,
    node: NodeId,
}

impl Place {
    /// The class in which the exchange waits.
    pub fn class(self) -> ClassId {
        self.class
    }
}

/// The order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival(pub u64);

/// The waiters of a class.
#[derive(Debug, Default)]
struct Line {
    waiters: List,
    /// How many of them agents have refused.
    refused: usize,
    /// Whether it stands in `changed`.
    has_changed: bool,
}

/// An exchange that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// Which one.
    pub exchange: ExchangeKey,
    /// When it came.
    pub arrival: Arrival,
    /// Whether an agent has refused it: what it may hope for is not what all others of its class may.
    pub was_refused: bool,
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

    /// The classes in which anybody waits, with how many wait there that no agent has refused.
    pub fn classes(&self) -> impl Iterator<Item = (ClassId, usize)> + '_ {
        let lines = self.lines.iter().enumerate().filter(|(_, line)| !line.waiters.is_empty());
        lines.map(|(index, line)| (ClassId::new(index), line.waiters.len() - line.refused))
    }

    /// The waiters that agents have refused, the first to come first.
    pub fn refused(&self) -> impl Iterator<Item = (ClassId, Waiter)> + '_ {
        self.refused.iter().map(|(arrival, (class, key))| {
            (*class, Waiter { exchange: *key, arrival: *arrival, was_refused: true })
        })
    }

    /// Whether anybody waits in a class.
    pub fn has_waiters(&self, class: ClassId) -> bool {
        self.lines.get(class.index()).is_some_and(|line| !line.waiters.is_empty())
    }

    /// Enters by order of arrival: at the end, but for an exchange that comes back and keeps its place.
    pub fn enter(&mut self, waiter: Waiter, class: ClassId) -> Option<Place> {
        while self.lines.len() <= class.index() {
            self.lines.push(Line::default());
            self.served.push();
        }
        let Line { waiters, refused, .. } = self.lines.get_mut(class.index())?;
        // The last one came after it if any did.
        let next = if waiters.back(&self.arena).is_some_and(|last| last.arrival > waiter.arrival) {
            waiters.iter(&self.arena).find(|(_, other)| other.arrival > waiter.arrival).map(|(node, _)| node)
        } else {
            None
        };
        let node = waiters.insert_before(&mut self.arena, next, waiter);
        if waiter.was_refused {
            *refused += 1;
            self.refused.insert(waiter.arrival, (class, waiter.exchange));
        }
        self.len += 1;
        self.note_change(class);
        Some(Place { class, node })
    }

    /// Leaves the queue.
    pub fn leave(&mut self, place: Place) {
        let Some(line) = self.lines.get_mut(place.class.index()) else { return };
        if let Some(waiter) = line.waiters.remove(&mut self.arena, place.node) {
            self.len -= 1;
            if waiter.was_refused {
                line.refused -= 1;
                self.refused.remove(&waiter.arrival);
            }
            if line.waiters.is_empty() {
                self.emptied.push(place.class);
            }
            self.note_change(place.class);
        }
    }

    /// The waiters of a class, the first to come first.
    pub fn waiters_of(&self, class: ClassId) -> impl Iterator<Item = Waiter> + '_ {
        let line = self.lines.get(class.index());
        line.into_iter().flat_map(|line| line.waiters.iter(&self.arena)).map(|(_, waiter)| *waiter)
    }

    /// A class whose waiters have changed. [`DispatchQueue::note_served`] is to be told what became of it.
    pub fn pop_changed(&mut self) -> Option<ClassId> {
        let class = self.changed.pop()?;
        if let Some(line) = self.lines.get_mut(class.index()) {
            line.has_changed = false;
        }
        Some(class)
    }

    /// The first waiter of a class that could be served now came then, if there is one.
    pub fn note_served(&mut self, class: ClassId, arrival: Option<Arrival>) {
        self.served.set(class.index(), arrival.map(|Arrival(arrival)| arrival));
    }

    /// A class whose last waiter left. The pool is to know.
    pub fn pop_emptied(&mut self) -> Option<ClassId> {
        self.emptied.pop()
    }

    /// The class of the waiter that came first among those that could be served now. It needs to have been
    /// told of all changes.
    pub fn first_served(&self) -> Option<ClassId> {
        self.served.first().map(ClassId::new)
    }

    /// All waiters, in no order.
    pub fn waiters(&self) -> impl Iterator<Item = (ClassId, Waiter)> + '_ {
        self.classes().flat_map(|(class, _)| self.waiters_of(class).map(move |waiter| (class, waiter)))
    }

    /// Gives back what a burst has left behind.
    pub fn end_batch(&mut self) {
        self.arena.end_batch();
        while self.lines.len() > KEPT
            && self.lines.last().is_some_and(|line| line.waiters.is_empty() && !line.has_changed)
        {
            self.lines.pop();
            self.served.swap_remove(self.lines.len());
        }
    }

    fn note_change(&mut self, class: ClassId) {
        if let Some(line) = self.lines.get_mut(class.index())
            && !line.has_changed
        {
            line.has_changed = true;
            self.changed.push(class);
        }
    }
}

/// Lines that are kept, empty or not: most hubs have fewer classes.
const KEPT: usize = 64;
