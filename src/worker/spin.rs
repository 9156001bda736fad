//! Whether a worker with nothing to do keeps looking for a while before it sleeps. Waking a sleeping thread costs
//! more than forwarding a packet, and waking a halted core several times as much; a core that others want is worth
//! more to them.
//!
//! The window follows what happened, as Linux's KVM halt polling (`halt_poll_ns`) does: short sleeps widen it,
//! vain looking narrows it, so that a worker without traffic, or with a packet now and then, does not look at all.
//! Between two looks the worker yields the core. When it gets it back late, others have use for it: then there is
//! no looking for a time that doubles from one such case to the next. The same if packets come just after vain looks time
//! and again: the kernel may leave the core to one that yields, and who would send the packet waits for that core.

use std::time::{Duration, Instant};

/// A core that comes back this late was in use by others.
const LATE: Duration = Duration::from_micros(200);
/// How long a worker refrains after that, at first and at most.
const REST_FIRST: Duration = Duration::from_millis(5);
const REST_MAX: Duration = Duration::from_millis(100);
/// What a vain look costs if a packet comes just after it, in looks that find one: a window against a wakeup.
const MISS: u32 = 3;
/// So much more lost than gained, and looking does not pay.
const LOSS: u32 = 8;

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
    /// What looking has cost more than it has gained.
    loss: u32,
    /// The last look was vain.
    vain: bool,
}

impl Spin {
    /// `limit`: the widest window; zero never looks.
    pub fn new(limit: Duration) -> Spin {
        Spin { limit, window: Duration::ZERO, rest: Duration::ZERO, rest_until: None, loss: 0, vain: false }
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
        self.vain = outcome == Outcome::Vain;
        match outcome {
            Outcome::Found => {
                self.rest -= self.rest / 16;
                self.loss = self.loss.saturating_sub(1);
            }
            Outcome::Vain => {
                self.window /= 2;
                if self.window < self.limit / 8 {
                    self.window = Duration::ZERO;
                }
            }
            Outcome::Contended => self.refrain(now),
        }
    }

    fn refrain(&mut self, now: Instant) {
        self.rest = (self.rest * 2).clamp(REST_FIRST, REST_MAX);
        self.rest_until = Some(now + self.rest);
        self.loss = 0;
    }

    /// Takes note of a sleep that a packet ended at `now`.
    pub fn slept(&mut self, time: Duration, now: Instant) {
        let vain = std::mem::take(&mut self.vain);
        if time >= self.limit * 2 {
            return;
        }
        self.window = (self.window * 2).clamp(self.limit / 4, self.limit);
        if vain {
            self.loss += MISS;
            if self.loss > LOSS {
                self.refrain(now);
            }
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
            s.slept(LIMIT, now);
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
        s.slept(LIMIT * 2, now);
        assert_eq!(s.window(now), Duration::ZERO);
    }

    #[test]
    fn looking_that_does_not_pay_is_given_up_for_a_time() {
        let (mut s, now) = (Spin::new(LIMIT), Instant::now());
        let sleep_after = |s: &mut Spin, outcome| {
            s.ended(outcome, now);
            s.slept(LIMIT, now);
        };
        // The packet came just after each look.
        sleep_after(&mut s, Outcome::Vain);
        sleep_after(&mut s, Outcome::Vain);
        assert!(s.window(now) > Duration::ZERO);
        sleep_after(&mut s, Outcome::Vain);
        assert_eq!(s.window(now + REST_FIRST / 2), Duration::ZERO);
        let mut now = now + REST_FIRST;
        assert!(s.window(now) > Duration::ZERO);
        // Every other look finds one: still more is lost than gained.
        let mut looks = 0;
        while !s.window(now).is_zero() {
            s.ended(Outcome::Found, now);
            s.ended(Outcome::Vain, now);
            s.slept(LIMIT, now);
            looks += 1;
        }
        assert!((3..8).contains(&looks), "{looks}");
        // Seven in eight do.
        now += REST_MAX;
        for _ in 0..100 {
            (0..7).for_each(|_| s.ended(Outcome::Found, now));
            s.ended(Outcome::Vain, now);
            s.slept(LIMIT, now);
            assert!(s.window(now) > Duration::ZERO);
        }
    }

    #[test]
    fn a_core_in_use_by_others_is_left_to_them_for_longer_and_longer() {
        let (mut s, mut now) = (Spin::new(LIMIT), Instant::now());
        s.slept(LIMIT, now);
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
        s.slept(Duration::ZERO, Instant::now());
        s.slept(Duration::from_micros(1), Instant::now());
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
