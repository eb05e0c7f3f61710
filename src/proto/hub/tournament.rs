//! The smallest of many keys, when one of them changes at a time.
//!
//! A binary tree of winners over a fixed row of places: reading the smallest key costs one look, changing a
//! key costs one comparison for each level. Nothing is allocated but when places are added.

use alloc::vec::Vec;

/// The key of a place that takes no part.
const ABSENT: u64 = u64::MAX;

/// Places with a key each, and the smallest of the keys.
#[derive(Debug, Default)]
pub(super) struct Tournament {
    keys: Vec<u64>,
    /// The winner of each match, as the index of its place. `winners[1]` is the winner of all; the children
    /// of `n` are `2n` and `2n + 1`, and from `span` on they are the places themselves. Empty while there are
    /// fewer than two places.
    winners: Vec<u32>,
    /// The number of leaves: the number of places, rounded up to a power of two.
    span: usize,
}

impl Tournament {
    /// Adds a place that takes no part yet.
    pub(super) fn push(&mut self) {
        self.keys.push(ABSENT);
        if self.keys.len() > self.span {
            self.span = self.keys.len().next_power_of_two();
            self.winners = vec![0; self.span];
            for node in (1..self.span).rev() {
                self.play(node);
            }
        }
    }

    /// Removes a place. The last place takes its index.
    pub(super) fn swap_remove(&mut self, place: usize) {
        let Some(last) = self.keys.len().checked_sub(1) else { return };
        let moved = self.keys.get(last).copied().unwrap_or(ABSENT);
        self.set_key(last, ABSENT);
        if place != last {
            self.set_key(place, moved);
        }
        self.keys.truncate(last);
        if self.keys.len() <= self.span / 4 {
            self.keys.shrink_to_fit();
            self.span = self.keys.len().next_power_of_two();
            self.winners = vec![0; self.span];
            for node in (1..self.span).rev() {
                self.play(node);
            }
        }
    }

    /// Gives a place another key; `None` if it takes no part.
    #[inline]
    pub(super) fn set(&mut self, place: usize, key: Option<u64>) {
        self.set_key(place, key.unwrap_or(ABSENT));
    }

    /// The place with the smallest key.
    #[inline]
    pub(super) fn first(&self) -> Option<usize> {
        let place = if self.span > 1 { self.winners.get(1).map_or(0, |winner| *winner as usize) } else { 0 };
        (self.key(place) != ABSENT).then_some(place)
    }

    #[inline]
    fn set_key(&mut self, place: usize, key: u64) {
        let Some(old) = self.keys.get_mut(place) else { return };
        if *old == key {
            return;
        }
        *old = key;
        let mut node = (self.span + place) / 2;
        while node > 0 {
            self.play(node);
            node /= 2;
        }
    }

    /// Plays the match of a node anew.
    #[inline]
    fn play(&mut self, node: usize) {
        let (left, right) = (self.winner(2 * node), self.winner(2 * node + 1));
        let winner = if self.key(right as usize) < self.key(left as usize) { right } else { left };
        if let Some(place) = self.winners.get_mut(node) {
            *place = winner;
        }
    }

    #[inline]
    fn winner(&self, node: usize) -> u32 {
        match node.checked_sub(self.span) {
            // There is one place for each agent's profile or class at most; the saturation is never reached.
            Some(place) => u32::try_from(place).unwrap_or(u32::MAX),
            None => self.winners.get(node).copied().unwrap_or(0),
        }
    }

    /// The key of a place; places that do not exist take no part.
    #[inline]
    fn key(&self, place: usize) -> u64 {
        self.keys.get(place).copied().unwrap_or(ABSENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_wins_if_it_takes_part() {
        let mut it = Tournament::default();
        assert_eq!(it.first(), None);
        it.push();
        assert_eq!(it.first(), None);
        it.set(0, Some(7));
        assert_eq!(it.first(), Some(0));
        it.set(0, None);
        assert_eq!(it.first(), None);
        it.swap_remove(0);
        assert_eq!((it.keys.len(), it.first()), (0, None));
    }

    #[test]
    fn the_first_is_that_of_a_search() {
        let mut it = Tournament::default();
        let mut keys: Vec<Option<u64>> = Vec::new();
        // A fixed walk of a linear congruential generator (Knuth, MMIX).
        let mut state = 1_u64;
        let mut draw = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % bound
        };
        for _ in 0..20_000 {
            match draw(8) {
                0 => {
                    it.push();
                    keys.push(None);
                }
                1 if !keys.is_empty() => {
                    let place = draw(keys.len());
                    it.swap_remove(place);
                    keys.swap_remove(place);
                }
                2 if !keys.is_empty() => {
                    let place = draw(keys.len());
                    it.set(place, None);
                    keys[place] = None;
                }
                _ if !keys.is_empty() => {
                    let (place, key) = (draw(keys.len()), draw(1_000_000) as u64);
                    it.set(place, Some(key));
                    keys[place] = Some(key);
                }
                _ => {}
            }
            let smallest = keys.iter().flatten().min();
            assert_eq!(it.first().map(|place| keys[place].unwrap()), smallest.copied());
            assert_eq!(it.keys.len(), keys.len());
        }
    }
}
