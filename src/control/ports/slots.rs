//! Port numbers: small, and not given to another port while some worker may still mean the old one.

use crate::frame::PortId;
use crate::worker::counters::MAX_PORTS;
use std::collections::BTreeSet;

/// A number whose port went away.
#[derive(Debug)]
struct Draining {
    id: PortId,
    /// Workers that have not closed their queue yet.
    workers: BTreeSet<usize>,
    /// First generation without the port; `None` until one is published.
    generation: Option<u64>,
}

/// Which numbers are in use.
#[derive(Debug, Default)]
pub struct Slots {
    used: BTreeSet<u16>,
    draining: Vec<Draining>,
}

impl Slots {
    /// The lowest free number; `None` when all are taken.
    pub fn take(&mut self) -> Option<PortId> {
        let id = (0..MAX_PORTS as u16).find(|i| !self.used.contains(i))?;
        self.used.insert(id);
        Some(PortId(id))
    }

    /// The port went away; `workers` still have a queue of it.
    pub fn release(&mut self, id: PortId, workers: BTreeSet<usize>) {
        self.draining.push(Draining { id, workers, generation: None });
    }

    /// A worker closed its queue.
    pub fn closed(&mut self, id: PortId, worker: usize) {
        self.draining.iter_mut().filter(|d| d.id == id).for_each(|d| {
            d.workers.remove(&worker);
        });
    }

    /// A worker died, and all its queues with it.
    pub fn worker_gone(&mut self, worker: usize) {
        self.draining.iter_mut().for_each(|d| {
            d.workers.remove(&worker);
        });
    }

    /// A generation was published without the ports released so far.
    pub fn published(&mut self, generation: u64) {
        self.draining.iter_mut().for_each(|d| {
            d.generation.get_or_insert(generation);
        });
    }

    /// Frees what nobody can mean any more: closed everywhere, and every worker at or past the generation.
    pub fn reap(&mut self, oldest_in_use: u64) {
        let used = &mut self.used;
        self.draining.retain(|d| {
            let free = d.workers.is_empty() && d.generation.is_some_and(|g| g <= oldest_in_use);
            if free {
                used.remove(&d.id.0);
            }
            !free
        });
    }

    /// Whether some number waits to be freed.
    pub fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_free_after_close_and_generation() {
        let mut s = Slots::default();
        assert_eq!((s.take(), s.take(), s.take()), (Some(PortId(0)), Some(PortId(1)), Some(PortId(2))));
        s.release(PortId(1), [0, 1].into());
        s.published(5);
        s.closed(PortId(1), 0);
        s.reap(9);
        assert_eq!(s.take(), Some(PortId(3)), "worker 1 has it open");
        s.closed(PortId(1), 1);
        s.reap(4);
        assert_eq!(s.take(), Some(PortId(4)), "a worker still uses generation 4");
        s.reap(5);
        assert_eq!(s.take(), Some(PortId(1)));
        s.release(PortId(0), [1].into());
        s.worker_gone(1);
        s.reap(u64::MAX);
        assert!(s.is_draining(), "not published without it yet");
        s.published(6);
        s.reap(6);
        assert_eq!((s.is_draining(), s.take()), (false, Some(PortId(0))));
    }
}
