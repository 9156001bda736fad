//! The largest packet that passes, found by halving the doubt eightfold: packets of eight sizes are asked for at once,
//! so that a search over 1,400 bytes takes four rounds. What is not answered is asked for once more: one lost packet
//! says nothing.

/// Sizes of one round.
const SIZES: usize = 8;
/// What is known: `passes` bytes pass, `fails` do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    passes: u16,
    fails: u16,
    round: u32,
    asked: [u16; SIZES],
    answered: u8,
    repeated: bool,
    /// When the round is over, nanoseconds.
    pub until: u64,
}

impl Search {
    /// Over the sizes between one that passes and one that does not.
    pub fn new(passes: u16, fails: u16) -> Search {
        Search { passes, fails: fails.max(passes), round: 0, asked: [0; SIZES], answered: 0, repeated: false, until: 0 }
    }

    /// The result, once there is nothing to try any more.
    pub fn result(&self) -> Option<u16> {
        (self.fails - self.passes <= 1).then_some(self.passes)
    }

    /// Begins a round: its number, and the sizes to ask for, in ascending order.
    pub fn round(&mut self, until: u64) -> (u32, Vec<u16>) {
        let doubt = u32::from(self.fails - self.passes);
        let n = (doubt.saturating_sub(1) as usize).min(SIZES);
        self.asked =
            std::array::from_fn(
                |i| {
                    if i < n { self.passes + (doubt * (i as u32 + 1) / (n as u32 + 1)).clamp(1, doubt - 1) as u16 } else { 0 }
                },
            );
        (self.answered, self.repeated, self.until) = (0, false, until);
        self.round = self.round.wrapping_add(1);
        (self.round, self.unanswered().collect())
    }

    /// The sizes of the round that were not answered, to be asked for once more; `None` if they have been, or there are
    /// none.
    pub fn repeat(&mut self, until: u64) -> Option<(u32, Vec<u16>)> {
        let open: Vec<u16> = self.unanswered().collect();
        if open.is_empty() || std::mem::replace(&mut self.repeated, true) {
            return None;
        }
        self.until = until;
        Some((self.round, open))
    }

    fn unanswered(&self) -> impl Iterator<Item = u16> {
        (0..SIZES).filter(|i| self.asked[*i] != 0 && self.answered & 1 << i == 0).map(|i| self.asked[i])
    }

    /// A packet of this size was answered.
    pub fn answered(&mut self, round: u32, size: u16) {
        if let Some(i) = self.asked.iter().position(|s| *s == size && size != 0).filter(|_| round == self.round) {
            self.answered |= 1 << i;
        }
    }

    /// Whether all sizes of the round were answered: no need to wait.
    pub fn is_answered(&self) -> bool {
        self.unanswered().next().is_none()
    }

    /// Draws the conclusion of a round.
    pub fn conclude(&mut self) {
        let all = || (0..SIZES).filter(|i| self.asked[*i] != 0).map(|i| (self.asked[i], self.answered & 1 << i != 0));
        let passes = all().filter(|(_, yes)| *yes).map(|(size, _)| size).max().unwrap_or(self.passes);
        let fails = all().filter(|(size, yes)| !yes && *size > passes).map(|(size, _)| size).min();
        (self.passes, self.fails) = (passes, fails.unwrap_or(self.fails).max(passes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rounds(limit: u16, from: u16, to: u16) -> (u16, u32) {
        let mut s = Search::new(from, to);
        let mut n = 0;
        while s.result().is_none() {
            let (round, sizes) = s.round(0);
            // The first packet of some sizes is lost.
            sizes.into_iter().filter(|size| *size <= limit && size % 2 == 0).for_each(|size| s.answered(round, size));
            if let Some((_, again)) = s.repeat(0) {
                again.into_iter().filter(|size| *size <= limit).for_each(|size| s.answered(round, size));
                assert_eq!(s.repeat(0), None);
            }
            s.conclude();
            n += 1;
            assert!(n < 20);
        }
        (s.result().unwrap(), n)
    }

    #[test]
    fn four_rounds_are_enough_on_ethernet() {
        assert_eq!(rounds(1350, 92, 1450).0, 1350);
        assert!((92..1450).all(|limit| rounds(limit, 92, 1450).1 <= 4));
    }

    proptest! {
        #[test]
        fn every_limit_is_found(from in 92u16..9000, width in 1u16..u16::MAX - 9000, at in any::<u16>()) {
            let limit = from + at % width;
            prop_assert_eq!(rounds(limit, from, from + width).0, limit);
        }

        #[test]
        fn answers_of_any_kind_lead_to_an_end(answers in proptest::collection::vec((any::<u32>(), any::<u16>()), 0..300)) {
            let mut s = Search::new(92, 1450);
            for chunk in answers.chunks(16) {
                if s.result().is_none() {
                    let (round, _) = s.round(0);
                    chunk.iter().for_each(|(r, size)| s.answered(if r % 2 == 0 { round } else { *r }, 92 + size % 1400));
                    s.conclude();
                }
                prop_assert!(s.passes >= 92 && s.passes <= s.fails && s.fails <= 1450);
            }
        }
    }
}
