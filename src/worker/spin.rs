//! Whether a worker with nothing to do keeps looking for a while before it sleeps. Waking a sleeping thread costs
//! more than forwarding a packet, and waking a halted core several times as much; a core that others want is worth
//! more to them.
//!
//! The window follows what happened, as Linux's KVM halt polling (`halt_poll_ns`) does: short sleeps widen it,
//! vain looking narrows it, so that a worker without traffic, or with a packet now and then, does not look at all.
//! Between two looks the worker yields the core. When it gets it back late, others have use for it: then there is
//! no looking for a time that doubles from one such case to the next.

use std::time::{Duration, Instant};

/// A core that comes back this late was in use by others.
const LATE: Duration = Duration::from_micros(200);
/// How long a worker refrains after that, at first and at most.
const REST_FIRST: Duration = Duration::from_millis(5);
const REST_MAX: Duration = Duration::from_millis(100);

/// How one round of looking ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something came.
    Found,
    /// Nothing came within the window.
    Vain,
    /// The core was in use by others.
    Contended,
}

/// The window and what it follows from.
#[derive(Debug)]
pub struct Spin {
    limit: Duration,
    window: Duration,
    rest: Duration,
    rest_until: Option<Instant>,
}

impl Spin {
    /// `limit`: the widest window; zero never looks.
    pub fn new(limit: Duration) -> Spin {
        Spin { limit, window: Duration::ZERO, rest: Duration::ZERO, rest_until: None }
    }

    /// How long to look now.
    pub fn window(&mut self, now: Instant) -> Duration {
        if self.rest_until.is_some_and(|t| now < t) {
            return Duration::ZERO;
        }
        self.rest_until = None;
        self.window
    }

    /// Takes note of a round of looking.
    pub fn ended(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Found => self.rest -= self.rest / 16,
            Outcome::Vain => {
                self.window /= 2;
                if self.window < self.limit / 8 {
                    self.window = Duration::ZERO;
                }
            }
            Outcome::Contended => {
                self.rest = (self.rest * 2).clamp(REST_FIRST, REST_MAX);
                self.rest_until = Some(now + self.rest);
            }
        }
    }

    /// Takes note of a sleep that a packet ended.
    pub fn slept(&mut self, time: Duration) {
        if time < self.limit * 2 {
            self.window = (self.window * 2).clamp(self.limit / 4, self.limit);
        }
    }

    /// Looks until something is there, the window is over, or the core turns out to be in use by others. `look`
    /// tells whether there is something.
    pub fn round<E>(&mut self, window: Duration, start: Instant, mut look: impl FnMut() -> Result<bool, E>) -> Result<Outcome, E> {
        let mut last = start;
        let outcome = loop {
            if look()? {
                break Outcome::Found;
            }
            std::thread::yield_now();
            let now = Instant::now();
            if now - last > LATE {
                break Outcome::Contended;
            }
            if now - start > window {
                break Outcome::Vain;
            }
            last = now;
        };
        self.ended(outcome, last);
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(64);

    #[test]
    fn short_sleeps_widen_and_vain_looking_narrows_the_window() {
        let (mut s, now) = (Spin::new(LIMIT), Instant::now());
        assert_eq!(s.window(now), Duration::ZERO);
        let mut widths = Vec::new();
        for _ in 0..4 {
            s.slept(LIMIT);
            widths.push(s.window(now).as_micros());
        }
        assert_eq!(widths, [16, 32, 64, 64]);
        s.ended(Outcome::Found, now);
        assert_eq!(s.window(now), LIMIT);
        let mut widths = Vec::new();
        for _ in 0..5 {
            s.ended(Outcome::Vain, now);
            widths.push(s.window(now).as_micros());
        }
        assert_eq!(widths, [32, 16, 8, 0, 0]);
        // A sleep as long as that says nothing for looking.
        s.slept(LIMIT * 2);
        assert_eq!(s.window(now), Duration::ZERO);
    }

    #[test]
    fn a_core_in_use_by_others_is_left_to_them_for_longer_and_longer() {
        let (mut s, mut now) = (Spin::new(LIMIT), Instant::now());
        s.slept(LIMIT);
        for rest in [5, 10, 20, 40, 80, 100, 100] {
            assert!(s.window(now) > Duration::ZERO);
            s.ended(Outcome::Contended, now);
            now += Duration::from_millis(rest - 1);
            assert_eq!(s.window(now), Duration::ZERO, "{rest}");
            now += Duration::from_millis(1);
        }
        for _ in 0..200 {
            s.ended(Outcome::Found, now);
        }
        s.ended(Outcome::Contended, now);
        assert!(s.window(now + REST_FIRST) > Duration::ZERO, "forgotten after many good rounds");
    }

    #[test]
    fn never_looks_with_a_limit_of_zero() {
        let mut s = Spin::new(Duration::ZERO);
        s.slept(Duration::ZERO);
        s.slept(Duration::from_micros(1));
        assert_eq!(s.window(Instant::now()), Duration::ZERO);
    }

    #[test]
    fn a_round_ends_with_what_it_looks_for_or_with_its_window() {
        let mut s = Spin::new(LIMIT);
        let start = Instant::now();
        let mut looks = 0;
        let found = s.round(Duration::from_secs(10), start, || {
            looks += 1;
            Ok::<_, ()>(looks == 3)
        });
        // On a busy machine the core may be gone in between.
        assert!(matches!(found, Ok(Outcome::Found | Outcome::Contended)));
        let vain = s.round(Duration::ZERO, Instant::now(), || Ok::<_, ()>(false));
        assert!(matches!(vain, Ok(Outcome::Vain | Outcome::Contended)));
        assert_eq!(s.round(LIMIT, start, || Err(7)), Err(7));
    }
}
