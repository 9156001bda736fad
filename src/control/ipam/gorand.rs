//! Go's `math/rand`, as far as Calico's choice of blocks depends on it: the additive lagged Fibonacci generator
//! `x[n] = x[n-273] + x[n-607] mod 2^64`, and `big.Int.Rand`.
//!
//! Go seeds it by mixing the seed's words into a table: the state after 7.8e12 steps from seed 1. The table is not
//! kept here but computed once: as the sequence obeys a linear recurrence, the state after N steps follows from
//! `t^N mod (t^607 - t^334 - 1)`.

use std::sync::LazyLock;

/// Words of state.
const LEN: usize = 607;
/// The shorter lag.
const TAP: usize = 273;
/// Steps from seed 1 to the table.
const STEPS: u64 = 7_800_000_000_000;
/// Modulus of the generator that spreads a seed over the state, 2^31 - 1.
const MODULUS: u64 = (1 << 31) - 1;

/// The table in the order of Go's array.
static TABLE: LazyLock<[u64; LEN]> = LazyLock::new(table);

/// Lehmer's generator with multiplier 48271.
struct Lehmer(u64);

impl Lehmer {
    /// After the 20 steps that Go leaves out.
    fn warm(seed: u64) -> Lehmer {
        let mut lehmer = Lehmer(seed);
        (0..20).for_each(|_| {
            lehmer.step();
        });
        lehmer
    }

    fn step(&mut self) -> u64 {
        self.0 = self.0 * 48271 % MODULUS;
        self.0
    }

    /// One word of state from three steps.
    fn word(&mut self, shift: u32) -> u64 {
        (self.step() << (2 * shift)) ^ (self.step() << shift) ^ self.step()
    }
}

/// Go's array holds the sequence backwards: element `(334 - n) mod 607` is `x[n]`.
fn position(n: i64) -> usize {
    ((LEN - TAP) as i64 - n).rem_euclid(LEN as i64) as usize
}

fn table() -> [u64; LEN] {
    let mut lehmer = Lehmer::warm(1);
    let start: Vec<u64> = (0..LEN).map(|_| lehmer.word(10)).collect();
    // x[-606], ..., x[0], and 606 terms more.
    let mut terms: Vec<u64> = (0..LEN as i64).map(|k| start[position(k - (LEN as i64 - 1))]).collect();
    for n in LEN..2 * LEN - 1 {
        terms.push(terms[n - LEN].wrapping_add(terms[n - TAP]));
    }
    let power = power_of_t(STEPS);
    let mut out = [0; LEN];
    for j in 0..LEN {
        let term = power.iter().zip(&terms[j..]).fold(0u64, |sum, (c, x)| sum.wrapping_add(c.wrapping_mul(*x)));
        out[position(STEPS as i64 + j as i64 - (LEN as i64 - 1))] = term;
    }
    out
}

/// `t^n mod (t^607 - t^334 - 1)`, coefficients mod 2^64, lowest first.
fn power_of_t(n: u64) -> Vec<u64> {
    let mut power = vec![0u64; LEN];
    power[0] = 1;
    for bit in (0..u64::BITS - n.leading_zeros()).rev() {
        let mut square = vec![0u64; 2 * LEN];
        for (i, a) in power.iter().enumerate() {
            for (out, b) in square[i..].iter_mut().zip(&power) {
                *out = out.wrapping_add(a.wrapping_mul(*b));
            }
        }
        if n >> bit & 1 == 1 {
            square.rotate_right(1);
        }
        power = reduce(square);
    }
    power
}

fn reduce(mut polynomial: Vec<u64>) -> Vec<u64> {
    for k in (LEN..polynomial.len()).rev() {
        let c = polynomial[k];
        polynomial[k - LEN] = polynomial[k - LEN].wrapping_add(c);
        polynomial[k - TAP] = polynomial[k - TAP].wrapping_add(c);
    }
    polynomial.truncate(LEN);
    polynomial
}

/// `rand.New(rand.NewSource(seed))`.
pub struct GoRand {
    state: [u64; LEN],
    tap: usize,
    feed: usize,
}

impl GoRand {
    pub fn new(seed: i64) -> GoRand {
        let seed = match seed.rem_euclid(MODULUS as i64) {
            0 => 89_482_311,
            seed => seed as u64,
        };
        let mut lehmer = Lehmer::warm(seed);
        let mut state = *TABLE;
        state.iter_mut().for_each(|word| *word ^= lehmer.word(20));
        GoRand { state, tap: 0, feed: LEN - TAP }
    }

    fn next(&mut self) -> u64 {
        self.tap = self.tap.checked_sub(1).unwrap_or(LEN - 1);
        self.feed = self.feed.checked_sub(1).unwrap_or(LEN - 1);
        let x = self.state[self.feed].wrapping_add(self.state[self.tap]);
        self.state[self.feed] = x;
        x
    }

    /// `Rand.Uint32`.
    fn next_u32(&mut self) -> u32 {
        // The top bit of 64 is not part of Go's Int63.
        (self.next() << 1 >> 32) as u32
    }

    /// `big.Int.Rand(r, limit)` on a 64-bit machine: from 0 to below the limit.
    pub fn below(&mut self, limit: u128) -> u128 {
        if limit == 0 {
            return 0;
        }
        let bits = u128::BITS - limit.leading_zeros();
        let mask = u128::MAX >> (u128::BITS - bits);
        loop {
            let mut value = 0u128;
            for word in 0..bits.div_ceil(64) {
                let low = u128::from(self.next_u32());
                value |= (low | u128::from(self.next_u32()) << 32) << (64 * word);
            }
            value &= mask;
            if value < limit {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_seed_one_is_go_s() {
        let mut r = GoRand::new(1);
        let int63: Vec<u64> = (0..3).map(|_| r.next() & (u64::MAX >> 1)).collect();
        assert_eq!(int63, [5577006791947779410, 8674665223082153551, 6129484611666145821]);
        // rand.Intn(100) of Go's documentation, unseeded: 81, 87, 47, 59, 81, 18, 25, 40, 56, 0.
        let mut r = GoRand::new(1);
        let intn: Vec<u64> = (0..10).map(|_| (r.next() << 1 >> 33) % 100).collect();
        assert_eq!(intn, [81, 87, 47, 59, 81, 18, 25, 40, 56, 0]);
    }

    #[test]
    fn seeds_are_taken_modulo() {
        let first = |seed| GoRand::new(seed).next();
        assert_eq!(first(0), first(MODULUS as i64));
        assert_eq!(first(-1), first(MODULUS as i64 - 1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn limits_hold_for_one_word_and_two() {
        let mut r = GoRand::new(7);
        for limit in [1u128, 2, 3, 1000, 1 << 63, 1 << 64, 1 << 74, (1 << 74) + 5, u128::MAX] {
            for _ in 0..50 {
                assert!(r.below(limit) < limit);
            }
        }
        assert_eq!(r.below(0), 0);
        assert!((0..50).any(|_| r.below(1 << 74) > 1 << 64), "the second word is used");
    }
}
