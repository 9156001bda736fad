//! A worker's counters as others see them: one writer, any number of readers, no read-modify-write.

use crate::drop::{DropReason, PuntReason};
use crate::fib::{AdjId, PeerId};
use crate::frame::PortId;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Adjacencies with a packet counter of their own; higher numbers are not counted one by one.
pub const COUNTED_ADJACENCIES: usize = 1 << 16;
/// Nodes with counters of their own, number 0 included; higher numbers are not counted one by one.
pub const COUNTED_PEERS: usize = 1 << 13;
/// Most ports of one worker.
pub const MAX_PORTS: usize = 4096;

/// A counter with a single writer.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call this.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }
    /// Sets; only the owning worker may call this.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one port of one worker did.
#[derive(Default)]
pub struct PortCounters {
    pub rx_frames: Counter,
    pub rx_bytes: Counter,
    pub tx_frames: Counter,
    pub tx_bytes: Counter,
    /// Frames meant for this port that it did not take.
    pub tx_dropped: Counter,
    /// Frames received here, or made of those, that were dropped before they were queued for a port.
    pub rx_dropped: Counter,
    /// Both by reason, since the port was opened; made then.
    reasons: OnceLock<Box<[Counter; DropReason::COUNT]>>,
}

impl PortCounters {
    /// Starts to count the reasons, from zero; only the owning worker may call this, and not on a packet's way.
    pub fn open(&self) {
        self.reasons.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default()))).iter().for_each(|c| c.set(0));
    }

    /// Drops in both directions since the port was opened, by reason; empty for a port that never was.
    pub fn reasons(&self) -> &[Counter] {
        self.reasons.get().map_or(&[], |all| &all[..])
    }

    /// Counts drops that another has counted; only the owning worker may call this, and not on a packet's way.
    pub(super) fn carry_reason(&self, reason: DropReason, n: u64) {
        if self.reasons.get().is_none() {
            self.open();
        }
        self.count_reason(reason, n);
    }

    fn count_reason(&self, reason: DropReason, n: u64) {
        if let Some(all) = self.reasons.get() {
            all[reason.index()].add(n);
        }
    }
}

/// Packets in one direction, from the inner IP header on. A super-frame counts once.
#[derive(Default)]
pub struct Flow {
    pub packets: Counter,
    pub bytes: Counter,
}

impl Flow {
    #[inline(always)]
    fn add(&self, bytes: usize) {
        self.packets.add(1);
        self.bytes.add(bytes as u64);
    }
}

/// What passed between this worker and another node.
#[derive(Default)]
#[repr(C, align(32))]
pub struct PeerCounters {
    /// Encapsulated for the node, or sent there as they are.
    pub to: Flow,
    /// Decapsulated from the node, and good.
    pub from: Flow,
}

/// All counters of one worker. The law: `received + generated = sent + punted + dropped + coalesced + held`.
pub struct Counters {
    pub received: Counter,
    /// Packets that were made here: ICMP errors, ARP requests, fragments and segments beyond the first.
    pub generated: Counter,
    pub sent: Counter,
    /// Packets that were joined to the one before them: a super-frame of n counts n - 1 here, and one as sent.
    pub coalesced: Counter,
    /// Packets that wait for a neighbour or for room on a port; a gauge.
    pub held: Counter,
    pub punted: [Counter; PuntReason::COUNT],
    pub dropped: [Counter; DropReason::COUNT],
    /// Flows from the host kept because their answers are its own, and those given up for want of room.
    pub flows_kept: Counter,
    pub flows_evicted: Counter,
    /// Turns of the loop, and those among them that moved no frame.
    pub turns: Counter,
    pub idle_turns: Counter,
    /// Times the worker slept in the kernel.
    pub sleeps: Counter,
    /// Times it kept looking before it would sleep; those that found something, and those that ended because others
    /// wanted the core.
    pub spins: Counter,
    pub spins_found: Counter,
    pub spins_contended: Counter,
    /// Nanoseconds that the worker was not asleep and not looking for packets in vain.
    pub busy_ns: Counter,
    /// Events for control that were lost because control did not keep up.
    pub events_lost: Counter,
    ports: Box<[PortCounters]>,
    adjacencies: Box<[Counter]>,
    peers: Box<[PeerCounters]>,
    /// By node, apart from what each packet touches.
    peer_drops: Box<[Counter]>,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            received: Counter::default(),
            generated: Counter::default(),
            sent: Counter::default(),
            coalesced: Counter::default(),
            held: Counter::default(),
            punted: std::array::from_fn(|_| Counter::default()),
            dropped: std::array::from_fn(|_| Counter::default()),
            flows_kept: Counter::default(),
            flows_evicted: Counter::default(),
            turns: Counter::default(),
            idle_turns: Counter::default(),
            sleeps: Counter::default(),
            spins: Counter::default(),
            spins_found: Counter::default(),
            spins_contended: Counter::default(),
            busy_ns: Counter::default(),
            events_lost: Counter::default(),
            ports: (0..MAX_PORTS).map(|_| PortCounters::default()).collect(),
            adjacencies: (0..COUNTED_ADJACENCIES).map(|_| Counter::default()).collect(),
            peers: (0..COUNTED_PEERS).map(|_| PeerCounters::default()).collect(),
            peer_drops: (0..COUNTED_PEERS).map(|_| Counter::default()).collect(),
        }
    }
}

/// How packets ended, by reason; the position is the reason's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    pub punted: Vec<u64>,
    pub dropped: Vec<u64>,
}

impl Ends {
    /// The reasons that packets ended for since `before`, with how many.
    pub fn since(&self, before: &Ends) -> (Reasons<PuntReason>, Reasons<DropReason>) {
        (more(&self.punted, &before.punted, PuntReason::ALL), more(&self.dropped, &before.dropped, DropReason::ALL))
    }
}

/// Reasons with how many packets ended for each.
pub type Reasons<R> = Vec<(R, u64)>;

fn more<R: Copy>(now: &[u64], before: &[u64], reasons: &[R]) -> Reasons<R> {
    now.iter().zip(before).zip(reasons).filter(|((n, b), _)| n != b).map(|((n, b), r)| (*r, n - b)).collect()
}

impl Counters {
    /// The counters of a port; numbers beyond [`MAX_PORTS`] share the last.
    #[inline(always)]
    pub fn port(&self, id: PortId) -> &PortCounters {
        &self.ports[id.index().min(MAX_PORTS - 1)]
    }

    /// Counts a packet on an adjacency.
    #[inline(always)]
    pub fn hit(&self, adj: AdjId) {
        if let Some(c) = self.adjacencies.get(adj.index()) {
            c.add(1);
        }
    }

    /// Counts packets that another has counted.
    pub(super) fn hits_add(&self, adj: AdjId, n: u64) {
        if let Some(c) = self.adjacencies.get(adj.index()) {
            c.add(n);
        }
    }

    /// Packets that took an adjacency; `None` if it is not counted.
    pub fn hits(&self, adj: AdjId) -> Option<u64> {
        self.adjacencies.get(adj.index()).map(Counter::get)
    }

    /// Counts a packet for another node, with its length from the inner IP header on.
    #[inline(always)]
    pub fn sent_to(&self, peer: PeerId, bytes: usize) {
        if let Some(p) = self.peers.get(peer.index()) {
            p.to.add(bytes);
        }
    }

    /// Counts a packet from another node, with its length from the inner IP header on.
    #[inline(always)]
    pub fn received_from(&self, peer: PeerId, bytes: usize) {
        if let Some(p) = self.peers.get(peer.index()) {
            p.from.add(bytes);
        }
    }

    /// Counts dropped packets that were for or from a node, where that is known without looking for it.
    #[cold]
    pub fn dropped_of(&self, peer: PeerId, n: u64) {
        if let Some(c) = self.peer_drops.get(peer.index()) {
            c.add(n);
        }
    }

    /// How many those are.
    pub fn peer_drops(&self, peer: PeerId) -> u64 {
        self.peer_drops.get(peer.index()).map_or(0, Counter::get)
    }

    /// What passed to and from a node; `None` if it is not counted.
    pub fn peer(&self, peer: PeerId) -> Option<&PeerCounters> {
        self.peers.get(peer.index())
    }

    #[inline(always)]
    pub fn count_drop(&self, reason: DropReason, n: u64) {
        self.dropped[reason.index()].add(n);
    }

    /// Counts drops of what was received on a port.
    #[inline]
    pub fn count_rx_drop(&self, port: PortId, reason: DropReason, n: u64) {
        self.count_drop(reason, n);
        if let Some(p) = self.ports.get(port.index()) {
            p.rx_dropped.add(n);
            p.count_reason(reason, n);
        }
    }

    /// Counts drops of what a port was to send.
    #[inline]
    pub fn count_tx_drop(&self, port: PortId, reason: DropReason, n: u64) {
        self.count_drop(reason, n);
        let p = self.port(port);
        p.tx_dropped.add(n);
        p.count_reason(reason, n);
    }

    #[inline(always)]
    pub fn count_punt(&self, reason: PuntReason, n: u64) {
        self.punted[reason.index()].add(n);
    }

    /// How packets ended so far, by reason.
    pub fn ends(&self) -> Ends {
        let all = |counters: &[Counter]| counters.iter().map(Counter::get).collect();
        Ends { punted: all(&self.punted), dropped: all(&self.dropped) }
    }

    /// Both sides of the law: (received + generated, sent + punted + dropped + coalesced + held). Equal whenever
    /// the worker is between turns.
    pub fn balance(&self) -> (u64, u64) {
        let ends = self.punted.iter().chain(&self.dropped).map(Counter::get).sum::<u64>();
        let out = self.sent.get() + self.coalesced.get() + self.held.get() + ends;
        (self.received.get() + self.generated.get(), out)
    }
}
