//! Sets of slots: what the kernel has, and what one process tells another.

use serde::{Deserialize, Serialize};

const BITS: usize = u64::BITS as usize;

/// Slots by number, a bit each. The numbers of a pool: the small slots as they lie there, then the big ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSet(Vec<u64>);

impl SlotSet {
    /// Empty, for numbers below `slots`.
    pub fn new(slots: usize) -> SlotSet {
        SlotSet(vec![0; slots.div_ceil(BITS)])
    }

    /// Panics if the set was not made for such a number.
    #[inline(always)]
    pub fn add(&mut self, slot: usize) {
        self.0[slot / BITS] |= 1u64 << (slot % BITS);
    }

    /// Whether the slot was in the set; it is not any more.
    #[inline(always)]
    pub fn remove(&mut self, slot: usize) -> bool {
        let bit = 1u64 << (slot % BITS);
        match self.0.get_mut(slot / BITS) {
            Some(word) if *word & bit != 0 => {
                *word &= !bit;
                true
            }
            _ => false,
        }
    }

    pub fn contains(&self, slot: usize) -> bool {
        self.0.get(slot / BITS).is_some_and(|word| *word & (1u64 << (slot % BITS)) != 0)
    }

    /// Whether both are for the same numbers.
    pub fn fits(&self, other: &SlotSet) -> bool {
        self.0.len() == other.0.len()
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// How many are in the set.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(i, word): (usize, &u64)| {
            let word = *word;
            (0..BITS).filter(move |bit| word & (1u64 << bit) != 0).map(move |bit| i * BITS + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_in_the_set_once() {
        let mut set = SlotSet::new(130);
        [129, 0, 63, 64, 63].into_iter().for_each(|s| set.add(s));
        assert_eq!((set.iter().collect::<Vec<_>>(), set.count()), (vec![0, 63, 64, 129], 4));
        assert!(set.remove(63) && !set.remove(63) && !set.remove(usize::MAX));
        assert!(set.contains(64) && !set.contains(63) && !set.contains(100_000));
        assert!(set.fits(&SlotSet::new(192)) && !set.fits(&SlotSet::new(193)));
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(serde_json::from_str::<SlotSet>(&text).unwrap(), set);
    }
}
