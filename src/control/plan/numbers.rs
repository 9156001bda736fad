//! Numbers of adjacencies and of peers: small, stable, and not given out again while a worker may still use the old meaning.

use crate::fib::AdjId;
use std::collections::VecDeque;

/// Hands numbers out from 2 on. Of adjacencies, 0 and 1 are drop(no-route) and punt(host-flow); of peers, 0 is none.
#[derive(Debug)]
pub struct Numbers {
    next: u32,
    /// Given back since the last publish: the generation that no longer holds them is not known yet.
    pending: Vec<u32>,
    /// With the first generation that does not hold them, oldest first.
    retired: VecDeque<(u64, u32)>,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { next: AdjId::HOST_FLOW.0 + 1, pending: Vec::new(), retired: VecDeque::new() }
    }
}

impl Numbers {
    /// A number that no worker can know: a new one, or one whose last generation every worker has left
    /// (`oldest`: the oldest generation still in use).
    pub fn take(&mut self, oldest: u64) -> u32 {
        match self.retired.front() {
            Some((generation, _)) if *generation <= oldest => self.retired.pop_front().map(|(_, id)| id).unwrap_or_default(),
            _ => {
                self.next += 1;
                self.next - 1
            }
        }
    }

    /// Gives a number back; it is in use until the next publish at least.
    pub fn retire(&mut self, id: u32) {
        self.pending.push(id);
    }

    /// A generation was published that holds none of the numbers given back so far.
    pub fn published(&mut self, generation: u64) {
        self.retired.extend(self.pending.drain(..).map(|id| (generation, id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_waits_for_every_worker() {
        let mut n = Numbers::default();
        assert_eq!((n.take(0), n.take(0)), (2, 3));
        n.retire(2);
        assert_eq!(n.take(u64::MAX), 4, "not published yet");
        n.published(7);
        assert_eq!(n.take(6), 5, "a worker still uses generation 6");
        assert_eq!(n.take(7), 2);
        assert_eq!(n.take(7), 6);
    }
}
