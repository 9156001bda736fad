//! A token bucket.

use super::peer::SECOND;

/// Lets so many through per second, and as many at once after a second of rest.
#[derive(Debug)]
pub struct Bucket {
    rate: u64,
    tokens: u64,
    filled_at: u64,
}

impl Bucket {
    pub fn new(rate: u64) -> Bucket {
        Bucket { rate, tokens: rate, filled_at: 0 }
    }

    fn fill(&mut self, now: u64) {
        let step = SECOND / self.rate;
        let new = now.saturating_sub(self.filled_at) / step;
        self.filled_at += new * step;
        self.tokens = self.tokens.saturating_add(new).min(self.rate);
    }

    /// Whether `n` may pass now.
    pub fn has(&mut self, now: u64, n: u64) -> bool {
        self.fill(now);
        self.tokens >= n
    }

    /// `n` passed.
    pub fn take(&mut self, now: u64, n: u64) {
        self.fill(now);
        self.tokens = self.tokens.saturating_sub(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate_passes() {
        let mut b = Bucket::new(100);
        let mut passed = 0;
        for ms in 0..2000 {
            let now = ms * 1_000_000;
            for _ in 0..3 {
                if b.has(now, 1) {
                    b.take(now, 1);
                    passed += 1;
                }
            }
        }
        assert!((295..=300).contains(&passed), "{passed}");
    }
}
