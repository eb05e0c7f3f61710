//! A slab whose entries are found by typed keys with generations, and whose freed slots rest until the end of
//! the batch.

use alloc::vec::Vec;
use core::marker::PhantomData;

use slab::Slab;

use crate::proto::tables::key::{GENERATION_MASK, Key, MAX_SLOTS, TableKey};

/// Entries of one kind.
///
/// A removed entry's slot is not given to a newcomer before [`Table::end_batch`], so that an event which was
/// already on its way when the entry went cannot touch another one, even after the generation has wrapped
/// around.
#[derive(Debug)]
pub struct Table<K, T> {
    slots: Slab<Slot<T>>,
    /// Slots that were emptied in this batch.
    resting: Vec<u32>,
    /// The generation that the next tenant of a slot gets. Kept beside the slab, which forgets removed
    /// entries, and for good: a key from before the table shrank must not find who comes after it has grown
    /// again.
    generations: Vec<u16>,
    len: usize,
    /// Beyond this no slot has been used since memory was given back.
    high: usize,
    shrink: ShrinkPolicy,
    key: PhantomData<K>,
}

/// How many entries more a full table gets room for. A small one doubles. Beyond a kilobyte it takes at once
/// so much that the allocators that we know ask the kernel for it alone: what is not used of that is no
/// memory, and growing further moves pages instead of copying what is on them, so that it leaves no holes
/// behind.
pub fn more_room<T>(entries: usize) -> usize {
    const SMALL: usize = 1024;
    const ALONE: usize = 128 * 1024;
    let size = size_of::<T>().max(1);
    let enough = ALONE.div_ceil(size);
    if entries * size < SMALL || entries >= enough { entries.max(4) } else { enough - entries }
}

/// When to look for storage that a burst has left behind: once a quarter of it or less is in use, and again
/// only after half of that is gone, too. So the looks are few even where one high entry keeps all of it.
#[derive(Clone, Copy, Debug)]
pub struct ShrinkPolicy {
    /// The next look is due when there are fewer entries than this.
    below: usize,
}

impl ShrinkPolicy {
    /// Storage that has held no more entries than this is left alone.
    pub const KEPT_ENTRIES: usize = 256;

    /// Whether to look now: `entries` are in storage that has held `used`.
    pub fn is_due(&mut self, entries: usize, used: usize) -> bool {
        if used <= Self::KEPT_ENTRIES.max(4 * entries) {
            self.below = usize::MAX;
            return false;
        }
        let is_due = entries < self.below;
        if is_due {
            self.below = entries.div_ceil(2);
        }
        is_due
    }

    /// Gives back what a slab has beyond its last entry, if that is the larger part of the `used` places.
    /// Returns how many places are used afterwards.
    pub(super) fn shrink_tail<T>(slab: &mut Slab<T>, used: usize) -> usize {
        let needed = slab.iter().next_back().map_or(0, |(last, _)| last + 1);
        if 2 * needed > used {
            return used;
        }
        slab.shrink_to_fit();
        needed
    }
}

impl Default for ShrinkPolicy {
    fn default() -> Self {
        Self { below: usize::MAX }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<K: TableKey, T> Table<K, T> {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            slots: Slab::new(),
            resting: Vec::new(),
            generations: Vec::new(),
            len: 0,
            high: 0,
            shrink: ShrinkPolicy::default(),
            key: PhantomData,
        }
    }

    /// Stores a value under a new key; `None` if the table is at [`MAX_SLOTS`].
    pub fn insert(&mut self, value: T) -> Option<K> {
        self.insert_with(|_| value)
    }

    /// As [`Table::insert`], for a value that has to know its key. Nothing is made if there is no room.
    pub fn insert_with(&mut self, make: impl FnOnce(K) -> T) -> Option<K> {
        let slot = self.slots.vacant_key();
        if slot >= MAX_SLOTS {
            return None;
        }
        if slot == self.generations.len() {
            self.generations.push(0);
        }
        let generation = u32::from(*self.generations.get(slot)?);
        let key = K::from_key(Key::new(K::KIND, generation, u32::try_from(slot).ok()?))?;
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(more_room::<Slot<T>>(slot));
        }
        self.high = self.high.max(slot + 1);
        self.slots.insert(Slot { generation, value: Some(make(key)) });
        self.len += 1;
        Some(key)
    }

    /// Takes the entry out. Its slot rests until [`Table::end_batch`].
    pub fn remove(&mut self, key: K) -> Option<T> {
        let key: Key = key.into();
        let slot = self.slots.get_mut(key.slot()).filter(|slot| slot.generation == key.generation())?;
        let value = slot.value.take()?;
        self.resting.push(u32::try_from(key.slot()).ok()?);
        self.len -= 1;
        Some(value)
    }

    /// The entry under this key, unless it is gone.
    pub fn get(&self, key: K) -> Option<&T> {
        let key: Key = key.into();
        let slot = self.slots.get(key.slot())?;
        if slot.generation != key.generation() {
            return None;
        }
        slot.value.as_ref()
    }

    /// The entry under this key, unless it is gone.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let key: Key = key.into();
        let slot = self.slots.get_mut(key.slot())?;
        if slot.generation != key.generation() {
            return None;
        }
        slot.value.as_mut()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.slots.iter().filter_map(|(index, slot)| {
            let key = Key::new(K::KIND, slot.generation, u32::try_from(index).ok()?);
            Some((K::from_key(key)?, slot.value.as_ref()?))
        })
    }

    /// Gives the slots that were emptied since the last call to newcomers, or back to the allocator if there
    /// are many.
    pub fn end_batch(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        for slot in self.resting.drain(..) {
            let slot = slot as usize;
            if let Some(generation) = self.generations.get_mut(slot) {
                *generation = (*generation + 1) & GENERATION_MASK;
            }
            self.slots.try_remove(slot);
        }
        if self.shrink.is_due(self.len, self.high) {
            self.high = ShrinkPolicy::shrink_tail(&mut self.slots, self.high);
            self.resting.shrink_to(ShrinkPolicy::KEPT_ENTRIES);
        }
    }
}

impl<K: TableKey, T> Default for Table<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tables::key::ClientKey;

    #[test]
    fn a_stale_key_never_finds_the_next_tenant() {
        let mut table: Table<ClientKey, &str> = Table::new();
        let first = table.insert("first").unwrap();
        assert_eq!(table.remove(first), Some("first"));
        assert_eq!(table.remove(first), None);
        let beside = table.insert("beside").unwrap();
        assert_ne!(Key::from(first).slot(), Key::from(beside).slot(), "the slot rests");
        table.end_batch();
        let second = table.insert("second").unwrap();
        assert_eq!(Key::from(first).slot(), Key::from(second).slot());
        assert_eq!(table.get(first), None);
        assert_eq!(table.get(second), Some(&"second"));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn what_a_burst_leaves_is_given_back_and_stale_keys_find_nobody_afterwards() {
        let mut table: Table<ClientKey, usize> = Table::new();
        let keys: Vec<_> = (0..10_000).map(|n| table.insert(n).unwrap()).collect();
        let stay = keys[77];
        for key in keys.iter().filter(|key| **key != stay) {
            table.remove(*key);
            table.end_batch();
        }
        assert_eq!((table.slots.capacity(), table.high), (78, 78));
        assert_eq!((table.get(stay), table.len()), (Some(&77), 1));
        for n in 0..10_000 {
            assert!(!keys.contains(&table.insert(n).unwrap()));
        }
        let stale = keys.iter().filter(|key| **key != stay);
        assert!(stale.clone().all(|key| table.get(*key).is_none()));
        assert!(stale.clone().all(|key| table.remove(*key).is_none()));
    }

    #[test]
    fn a_table_grows_from_little_to_what_stands_alone() {
        let mut table: Table<ClientKey, [u8; 100]> = Table::new();
        let mut rooms = vec![];
        for _ in 0..5000 {
            table.insert([0; 100]).unwrap();
            rooms.push(table.slots.capacity());
        }
        rooms.dedup();
        let alone = (128_usize * 1024).div_ceil(size_of::<Slot<[u8; 100]>>());
        assert_eq!(rooms, [4, 8, 16, alone, 2 * alone, 4 * alone, 8 * alone]);
    }

    #[test]
    fn an_entry_that_stands_high_is_looked_for_seldom() {
        let mut shrink = ShrinkPolicy::default();
        let due: Vec<_> = (0..=10_000).rev().filter(|left| shrink.is_due(*left, 10_000)).collect();
        assert_eq!(due, [2499, 1249, 624, 311, 155, 77, 38, 18, 8, 3, 1, 0]);
        assert!(!shrink.is_due(0, ShrinkPolicy::KEPT_ENTRIES));
    }

    #[test]
    fn generations_wrap() {
        let mut table: Table<ClientKey, u32> = Table::new();
        let first = table.insert(0).unwrap();
        table.remove(first);
        table.end_batch();
        for n in 1..=u32::from(GENERATION_MASK) {
            let key = table.insert(n).unwrap();
            assert_ne!(key, first);
            table.remove(key);
            table.end_batch();
        }
        assert_eq!(table.insert(9), Some(first), "the same key after all generations");
    }
}
