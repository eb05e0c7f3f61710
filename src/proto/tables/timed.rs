//! A [`Table`] whose entries have deadlines, together with the wake-ups for them.
//!
//! An entry is changed by [`TimedTable::change`] alone, which arms it: no deadline is ever forgotten. What
//! moves none sooner may go through [`TimedTable::get_mut`]; a later one is noticed when the wake-up comes.

use super::key::{Key, TableKey};
use super::table::Table;
use super::timer::{Armed, Mono, TimerTable};

/// What has deadlines.
pub trait Timed {
    /// When something is to be done about it, though nothing happens: [`Mono::NEVER`] if nothing is.
    fn deadline(&self) -> Mono;
}

/// Entries of one kind, and when each is looked at.
#[derive(Debug)]
pub struct TimedTable<K, T> {
    entries: Table<K, Entry<T>>,
    timers: TimerTable,
}

#[derive(Debug)]
struct Entry<T> {
    armed: Armed,
    value: T,
}

impl<K: TableKey, T: Timed> TimedTable<K, T> {
    /// As [`Table::insert`].
    pub fn insert(&mut self, value: T) -> Option<K> {
        let key = self.entries.insert(Entry { armed: Armed::default(), value })?;
        self.rearm(key);
        Some(key)
    }

    /// As [`Table::remove`].
    pub fn remove(&mut self, key: K) -> Option<T> {
        Some(self.entries.remove(key)?.value)
    }

    /// As [`Table::get`].
    pub fn get(&self, key: K) -> Option<&T> {
        Some(&self.entries.get(key)?.value)
    }

    /// As [`Table::get_mut`], for a change that moves no deadline sooner.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        Some(&mut self.entries.get_mut(key)?.value)
    }

    /// Changes an entry, and sees to it that its deadline is looked at. `None` if the entry is gone.
    pub fn change<R>(&mut self, key: K, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let Entry { armed, value } = self.entries.get_mut(key)?;
        let result = change(value);
        self.timers.arm(armed, key.into(), value.deadline());
        Some(result)
    }

    /// The next entry whose wake-up is due, if it is there. It has none then: whoever looks at it calls
    /// [`TimedTable::rearm`] afterwards.
    pub fn pop_due(&mut self, now: Mono) -> Option<K> {
        loop {
            let (at, key) = self.timers.pop_due(now)?;
            let key = K::from_key(key)?;
            if let Some(entry) = self.entries.get_mut(key)
                && TimerTable::disarm(&mut entry.armed, at)
            {
                return Some(key);
            }
        }
    }

    /// Arms the entry anew, if it is still there.
    pub fn rearm(&mut self, key: K) {
        self.change(key, |_| ());
    }

    /// The next wake-up.
    pub fn next(&self) -> Option<(Mono, Key)> {
        self.timers.peek()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// Whether a deadline has no wake-up. For tests.
    pub fn is_any_unarmed(&self) -> bool {
        self.entries.iter().any(|(_, entry)| !entry.armed.covers(entry.value.deadline()))
    }

    /// As [`Table::end_batch`]. Forgets wake-ups of entries that are gone, too.
    pub fn end_batch(&mut self) {
        let Self { entries, timers } = self;
        timers.prune(entries.len(), |key| Some(entries.get(K::from_key(key)?)?.armed));
        entries.end_batch();
    }
}

impl<K: TableKey, T> Default for TimedTable<K, T> {
    fn default() -> Self {
        Self { entries: Table::new(), timers: TimerTable::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tables::key::ClientKey;

    struct Until(Mono);

    impl Timed for Until {
        fn deadline(&self) -> Mono {
            self.0
        }
    }

    #[test]
    fn what_is_changed_is_armed_and_what_is_gone_is_not_told() {
        let mut table: TimedTable<ClientKey, Until> = TimedTable::default();
        let [first, second] = [900, 500].map(|at| table.insert(Until(Mono(at))).unwrap());
        table.change(first, |it| it.0 = Mono(100));
        table.get_mut(second).unwrap().0 = Mono(700);
        assert_eq!(table.next(), Some((Mono(100), first.into())));
        assert!(!table.is_any_unarmed());
        assert_eq!(table.pop_due(Mono(600)), Some(first));
        assert!(table.is_any_unarmed());
        table.change(first, |it| it.0 = Mono(2000));
        // Its wake-up comes before its deadline, which was put off.
        assert_eq!(table.pop_due(Mono(600)), Some(second));
        table.rearm(second);
        assert!(!table.is_any_unarmed());
        table.remove(second);
        assert_eq!(table.pop_due(Mono(1000)), None);
        assert_eq!(table.pop_due(Mono(2000)), Some(first));
    }

    #[test]
    fn what_never_comes_needs_no_wake_up() {
        let mut table: TimedTable<ClientKey, Until> = TimedTable::default();
        table.insert(Until(Mono::NEVER)).unwrap();
        assert_eq!(table.next(), None);
        assert!(!table.is_any_unarmed());
    }
}
