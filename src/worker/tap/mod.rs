//! A look at packets on their way, for `tortie trace` and `tortie capture`: a worker that has a tap forwards each
//! matching packet by itself and writes down what came in, what became of it, and what left because of it. A worker
//! without one pays nothing: the tap is asked for once per burst.
//!
//! Bounded in number, in memory and by the reader: what the reader does not fetch in time is lost and counted.

mod filter;
mod view;

pub use filter::{Filter, FilterError};
pub use view::View;

use super::Worker;
use crate::drop::{DropReason, PuntReason};
use crate::forward::counters::Ends;
use crate::frame::{Frame, PortId};
use crate::port::Medium;
use crate::port::mem::Wired;
use crate::snapshot::Snapshot;
use crossbeam::queue::ArrayQueue;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Records that wait for the reader.
const QUEUE: usize = 1024;
/// Bytes of frames that wait for the reader.
const BYTES_MAX: u64 = 32 << 20;

/// A packet's way through one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub worker: usize,
    /// Since the epoch.
    pub at: Duration,
    /// Generation of the snapshot that it was forwarded by.
    pub generation: u64,
    pub port: PortId,
    /// As it was received.
    pub frame: Wired,
    pub dropped: Vec<(DropReason, u64)>,
    pub punted: Vec<(PuntReason, u64)>,
    /// Waits for a neighbour.
    pub held: bool,
    /// Frames queued because of it, and where: itself, its segments or fragments, an error to its sender.
    pub sent: Vec<(PortId, Wired)>,
}

impl Record {
    fn bytes(&self) -> u64 {
        (self.frame.bytes.len() + self.sent.iter().map(|(_, f)| f.bytes.len()).sum::<usize>()) as u64
    }
}

/// Which packets to look at, and where the records go. Shared by the workers and the reader.
pub struct Tap {
    filter: Filter,
    vxlan_port: u16,
    queue: ArrayQueue<Record>,
    bytes: AtomicU64,
    lost: AtomicU64,
    /// Records still wanted.
    left: AtomicU64,
    over: AtomicBool,
}

impl Tap {
    /// Looks at the first `count` packets that match.
    pub fn new(filter: Filter, vxlan_port: u16, count: u64) -> Tap {
        Tap {
            filter,
            vxlan_port,
            queue: ArrayQueue::new(QUEUE),
            bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            left: AtomicU64::new(count),
            over: AtomicBool::new(false),
        }
    }

    /// The next record.
    pub fn next(&self) -> Option<Record> {
        let record = self.queue.pop()?;
        self.bytes.fetch_sub(record.bytes(), Ordering::Relaxed);
        Some(record)
    }

    /// Records that the reader was too slow for.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Ends it: workers let go of it at the next packet.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Nothing more is written down.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.left.load(Ordering::Relaxed) == 0
    }

    fn put(&self, record: Record) {
        // Several workers may want the last one.
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err() {
            return;
        }
        let n = record.bytes();
        if self.bytes.load(Ordering::Relaxed) + n > BYTES_MAX || self.queue.push(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            self.bytes.fetch_add(n, Ordering::Relaxed);
        }
    }
}

impl Worker {
    /// Forwards the burst with the tap looking: matching packets one at a time, those between them together.
    #[cold]
    pub(super) fn forward_tapped(&mut self, snap: &Snapshot, id: PortId, medium: Medium) {
        let Some(tap) = self.tap.clone().filter(|t| !t.is_over()) else {
            self.tap = None;
            return self.forward(snap, id, medium);
        };
        let mut all = std::mem::take(&mut self.batch);
        for f in all.drain() {
            let view = View::of(self.forwarder.pool.data(&f), id, medium, tap.vxlan_port, f.peer);
            if !tap.filter.may_match(&view) {
                self.batch.push(f);
                continue;
            }
            if !self.batch.is_empty() {
                self.forward(snap, id, medium);
            }
            let record = self.observe(snap, id, medium, f);
            let reason = record.dropped.first().map(|(r, _)| *r);
            if tap.filter.matches(&view, reason) {
                tap.put(record);
            }
            self.send();
        }
        if !self.batch.is_empty() {
            self.forward(snap, id, medium);
        }
        let rest = std::mem::replace(&mut self.batch, all);
        debug_assert!(rest.is_empty());
    }

    /// Forwards one frame and tells its story.
    fn observe(&mut self, snap: &Snapshot, id: PortId, medium: Medium, f: Frame) -> Record {
        // Whatever is queued is not this packet's.
        self.send();
        let (frame, before, held) = (Wired::copy(&self.forwarder.pool, &f), self.ends(), self.forwarder.waiting());
        let queued = self.forwarder.queued();
        let marks: Vec<(PortId, usize)> = queued.map(|(id, b)| (id, b.len())).collect();
        self.batch.push(f);
        self.forwarder.process(snap, id, medium, &mut self.batch);
        let mut sent = Vec::new();
        for (port, batch) in self.forwarder.queued() {
            let old = marks.iter().find(|(id, _)| *id == port).map_or(0, |(_, n)| *n);
            sent.extend(batch.as_slice()[old.min(batch.len())..].iter().map(|f| (port, Wired::copy(&self.forwarder.pool, f))));
        }
        let (punted, dropped) = self.ends().since(&before);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
            worker: self.index,
            at,
            generation: snap.generation,
            port: id,
            frame,
            dropped,
            punted,
            held: self.forwarder.waiting() > held,
            sent,
        }
    }

    /// How packets ended so far. A punt is counted when it has left; until then it is queued.
    fn ends(&self) -> Ends {
        Ends { punted: self.forwarder.punts(), ..self.counters.ends() }
    }
}
