//! What control counts of its own work. Written by the control task, read by whoever looks.

use super::conflict::Kind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How often something was done, and how long it took in all.
#[derive(Debug, Default)]
pub struct Timer {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Timer {
    pub fn add(&self, took: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Relaxed))
    }
}

/// Counts of the control task.
#[derive(Debug, Default)]
pub struct Tally {
    /// Complete reads of the datastore.
    pub resyncs: AtomicU64,
    /// Calculations of the desired state from the cluster's.
    pub calculations: Timer,
    /// Updates of ports, data plane and host; and those that left something on the host to be tried again.
    pub applies: Timer,
    pub failures: AtomicU64,
    /// Turns of the control task's loop: one per second at least.
    pub beats: AtomicU64,
    /// Conflicts found, by kind.
    conflicts: [AtomicU64; Kind::ALL.len()],
    /// The first state of the cluster is in force.
    in_sync: AtomicBool,
    /// Every worker forwards by a snapshot of the cluster's state. Stays true from then on.
    pub programmed: AtomicBool,
    /// The control task has panicked, and the process waits to be replaced.
    pub panicked: AtomicBool,
}

impl Tally {
    pub fn resync(&self) {
        self.resyncs.fetch_add(1, Relaxed);
    }

    pub fn failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub fn conflict(&self, kind: Kind) {
        self.conflicts[kind.index()].fetch_add(1, Relaxed);
    }

    pub fn conflicts(&self, kind: Kind) -> u64 {
        self.conflicts[kind.index()].load(Relaxed)
    }

    pub fn set_in_sync(&self) {
        self.in_sync.store(true, Relaxed);
    }

    pub fn is_in_sync(&self) -> bool {
        self.in_sync.load(Relaxed)
    }

    pub fn beat(&self) {
        self.beats.fetch_add(1, Relaxed);
    }

    pub fn set_panicked(&self) {
        self.panicked.store(true, Relaxed);
    }

    pub fn set_programmed(&self) {
        self.programmed.store(true, Relaxed);
    }

    pub fn is_programmed(&self) -> bool {
        self.programmed.load(Relaxed)
    }
}
