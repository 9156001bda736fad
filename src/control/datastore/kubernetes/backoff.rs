//! How long to wait before the next try.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(30);

/// Doubles from try to try, up to half a minute; a random part keeps many nodes from asking at once.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Tries that failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The wait after a failure, at least `least`.
    pub fn next(&mut self, least: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        jittered(whole.max(least.unwrap_or_default()))
    }
}

/// From the time itself up to half as much again.
pub fn jittered(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    time + time.mul_f64((random % 1024) as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end_somewhere() {
        let mut b = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| b.next(None)).collect();
        assert!(waits[0] >= FIRST && waits[0] <= FIRST.mul_f64(1.5));
        assert!(waits[7] >= FIRST * 128 && waits[39] >= LAST && waits.iter().all(|w| *w <= LAST.mul_f64(1.5)));
        assert!(b.next(Some(Duration::from_secs(50))) >= Duration::from_secs(50));
        b.reset();
        assert!(b.next(None) <= FIRST.mul_f64(1.5) && b.failures() == 1);
        let many: std::collections::BTreeSet<_> = (0..50).map(|_| jittered(FIRST)).collect();
        assert!(many.len() > 10);
    }
}
