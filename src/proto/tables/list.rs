//! First-in, first-out lists whose entries can leave from the middle at the same cost.
//!
//! Idle tunnels, idle clients and waiting exchanges all stand in such lists. Many lists share one arena, so
//! that entering and leaving allocate nothing once the arena has grown.

use core::num::NonZeroU32;

use slab::Slab;

use crate::proto::tables::table::{ShrinkPolicy, more_room};

/// The storage of any number of [`List`]s.
#[derive(Debug)]
pub struct Arena<T> {
    nodes: Slab<Node<T>>,
    /// Beyond this no node has been used since memory was given back.
    high: usize,
    shrink: ShrinkPolicy,
}

#[derive(Debug)]
struct Node<T> {
    value: T,
    previous: Option<NodeId>,
    next: Option<NodeId>,
}

/// An entry of a list. It belongs to whoever entered the list and is consumed on leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(NonZeroU32);

impl NodeId {
    /// A slab of `u32::MAX` nodes does not fit any memory that this runs on; the saturation is never reached.
    fn new(index: usize) -> Self {
        Self(u32::try_from(index).map_or(NonZeroU32::MAX, |index| NonZeroU32::MIN.saturating_add(index)))
    }

    const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// One list in an [`Arena`].
#[derive(Debug, Default)]
pub struct List {
    first: Option<NodeId>,
    last: Option<NodeId>,
    len: usize,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { nodes: Slab::new(), high: 0, shrink: ShrinkPolicy::default() }
    }
}

impl<T> Arena<T> {
    /// Gives back what a burst has left behind.
    pub fn end_batch(&mut self) {
        if self.shrink.is_due(self.nodes.len(), self.high) {
            self.high = ShrinkPolicy::shrink_tail(&mut self.nodes, self.high);
        }
    }

    fn insert(&mut self, node: Node<T>) -> NodeId {
        if self.nodes.len() == self.nodes.capacity() {
            self.nodes.reserve_exact(more_room::<Node<T>>(self.nodes.len()));
        }
        let index = self.nodes.insert(node);
        self.high = self.high.max(index + 1);
        NodeId::new(index)
    }

    fn node(&self, id: NodeId) -> Option<&Node<T>> {
        self.nodes.get(id.index())
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node<T>> {
        self.nodes.get_mut(id.index())
    }
}

impl List {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The entry that has stood longest.
    pub fn front<'a, T>(&self, arena: &'a Arena<T>) -> Option<&'a T> {
        self.first.and_then(|id| arena.node(id)).map(|node| &node.value)
    }

    /// The entry that came last.
    pub fn back<'a, T>(&self, arena: &'a Arena<T>) -> Option<&'a T> {
        self.last.and_then(|id| arena.node(id)).map(|node| &node.value)
    }

    /// All entries, the longest standing first.
    pub fn iter<'a, T>(&self, arena: &'a Arena<T>) -> impl Iterator<Item = (NodeId, &'a T)> + use<'a, T> {
        let mut at = self.first;
        core::iter::from_fn(move || {
            let id = at?;
            let node = arena.node(id)?;
            at = node.next;
            Some((id, &node.value))
        })
    }

    /// Enters at the end.
    pub fn push_back<T>(&mut self, arena: &mut Arena<T>, value: T) -> NodeId {
        self.insert_before(arena, None, value)
    }

    /// Enters in front of `next`, or at the end.
    pub fn insert_before<T>(&mut self, arena: &mut Arena<T>, next: Option<NodeId>, value: T) -> NodeId {
        let previous = match next.and_then(|id| arena.node(id)) {
            Some(node) => node.previous,
            None => self.last,
        };
        let id = arena.insert(Node { value, previous, next });
        match previous.and_then(|previous| arena.node_mut(previous)) {
            Some(node) => node.next = Some(id),
            None => self.first = Some(id),
        }
        match next.and_then(|next| arena.node_mut(next)) {
            Some(node) => node.previous = Some(id),
            None => self.last = Some(id),
        }
        self.len += 1;
        id
    }

    /// Leaves, from wherever it stands.
    pub fn remove<T>(&mut self, arena: &mut Arena<T>, id: NodeId) -> Option<T> {
        let node = arena.nodes.try_remove(id.index())?;
        match node.previous.and_then(|previous| arena.node_mut(previous)) {
            Some(previous) => previous.next = node.next,
            None => self.first = node.next,
        }
        match node.next.and_then(|next| arena.node_mut(next)) {
            Some(next) => next.previous = node.previous,
            None => self.last = node.previous,
        }
        self.len -= 1;
        Some(node.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &List, arena: &Arena<u32>) -> Vec<u32> {
        list.iter(arena).map(|(_, value)| *value).collect()
    }

    #[test]
    fn entries_leave_from_anywhere() {
        let mut arena = Arena::default();
        let mut list = List::default();
        let ids: Vec<_> = (0..5).map(|n| list.push_back(&mut arena, n)).collect();
        assert_eq!(list.remove(&mut arena, ids[2]), Some(2));
        assert_eq!(list.remove(&mut arena, ids[0]), Some(0));
        assert_eq!(list.remove(&mut arena, ids[4]), Some(4));
        assert_eq!(values(&list, &arena), [1, 3]);
        let before = list.insert_before(&mut arena, Some(ids[1]), 9);
        list.insert_before(&mut arena, Some(ids[3]), 8);
        assert_eq!(values(&list, &arena), [9, 1, 8, 3]);
        assert_eq!(list.len(), 4);
        for id in [before, ids[1], ids[3]] {
            list.remove(&mut arena, id);
        }
        assert_eq!(list.front(&arena), Some(&8));
    }

    #[test]
    fn what_a_burst_leaves_is_given_back() {
        let mut arena = Arena::default();
        let mut list = List::default();
        let ids: Vec<_> = (0..10_000).map(|n| list.push_back(&mut arena, n)).collect();
        for id in &ids[1..] {
            list.remove(&mut arena, *id);
            arena.end_batch();
        }
        assert_eq!((arena.nodes.capacity(), arena.high), (1, 1));
        assert_eq!(values(&list, &arena), [0]);
    }

    #[test]
    fn lists_share_an_arena() {
        let mut arena = Arena::default();
        let (mut a, mut b) = (List::default(), List::default());
        let x = a.push_back(&mut arena, 1);
        b.push_back(&mut arena, 2);
        a.push_back(&mut arena, 3);
        a.remove(&mut arena, x);
        b.push_back(&mut arena, 4);
        assert_eq!(values(&a, &arena), [3]);
        assert_eq!(values(&b, &arena), [2, 4]);
    }
}
