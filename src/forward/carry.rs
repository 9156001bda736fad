//! What a forwarder knows that neither the snapshot nor the kernel could tell its successor in another process, and
//! what it has counted: taken out of one, put into another.

use super::counters::PortCounters;
use super::{Counters, Forwarder, Origin};
use crate::drop::{DropReason, PuntReason};
use crate::fib::{AdjId, PeerId};
use crate::frame::{Csum, Frame, PortId};
use crate::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state of one worker's flows. What all workers share is in [`crate::flows`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowState {
    /// Packets that wait for a neighbour, in order, from the inner IPv4 header on, with finished checksums.
    pub held: Vec<Vec<u8>>,
}

/// What one worker has counted. Reasons go by name: another version may number them otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub received: u64,
    pub generated: u64,
    pub sent: u64,
    pub coalesced: u64,
    pub punted: BTreeMap<String, u64>,
    pub dropped: BTreeMap<String, u64>,
    pub turns: u64,
    pub idle_turns: u64,
    pub sleeps: u64,
    pub spins: u64,
    pub spins_found: u64,
    pub spins_contended: u64,
    pub events_lost: u64,
    pub flows_kept: u64,
    pub flows_evicted: u64,
    pub busy_ns: u64,
}

/// What one port has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTotals {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
    pub rx_dropped: u64,
}

/// Drops by the reason's name.
pub type Reasons = BTreeMap<String, u64>;

/// What passed between this node and another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTotal {
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub rx_packets: u64,
    pub rx_bytes: u64,
    /// Packets for it and from it that were dropped, where it was known whose they were.
    #[serde(default)]
    pub dropped: u64,
}

/// What a worker is to count as its own from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub totals: Totals,
    pub ports: Vec<(PortId, PortTotals)>,
    pub reasons: Vec<(PortId, Reasons)>,
    pub adjacencies: Vec<(AdjId, u64)>,
    pub peers: Vec<(PeerId, PeerTotal)>,
}

impl Counters {
    /// What was counted so far; `held` is not: what is held goes on in another's books.
    pub fn totals(&self) -> Totals {
        let punted = PuntReason::ALL.iter().map(|r| (r.name().to_owned(), self.punted[r.index()].get()));
        let dropped = DropReason::ALL.iter().map(|r| (r.name().to_owned(), self.dropped[r.index()].get()));
        Totals {
            received: self.received.get(),
            generated: self.generated.get(),
            sent: self.sent.get(),
            coalesced: self.coalesced.get(),
            punted: punted.filter(|(_, n)| *n > 0).collect(),
            dropped: dropped.filter(|(_, n)| *n > 0).collect(),
            turns: self.turns.get(),
            idle_turns: self.idle_turns.get(),
            sleeps: self.sleeps.get(),
            spins: self.spins.get(),
            spins_found: self.spins_found.get(),
            spins_contended: self.spins_contended.get(),
            events_lost: self.events_lost.get(),
            flows_kept: self.flows_kept.get(),
            flows_evicted: self.flows_evicted.get(),
            busy_ns: self.busy_ns.get(),
        }
    }

    /// Adds what another has counted; only the owning worker may call this. A reason that is not known here counts as
    /// worker-restart, so that the law holds.
    pub fn carry(&self, c: &Carried) {
        let t = &c.totals;
        let plain = [
            (&self.received, t.received),
            (&self.generated, t.generated),
            (&self.sent, t.sent),
            (&self.coalesced, t.coalesced),
            (&self.turns, t.turns),
            (&self.idle_turns, t.idle_turns),
            (&self.sleeps, t.sleeps),
            (&self.spins, t.spins),
            (&self.spins_found, t.spins_found),
            (&self.spins_contended, t.spins_contended),
            (&self.events_lost, t.events_lost),
            (&self.flows_kept, t.flows_kept),
            (&self.flows_evicted, t.flows_evicted),
            (&self.busy_ns, t.busy_ns),
        ];
        plain.into_iter().for_each(|(counter, n)| counter.add(n));
        for (name, n) in &t.punted {
            match PuntReason::ALL.iter().find(|r| r.name() == name) {
                Some(r) => self.count_punt(*r, *n),
                None => self.count_drop(DropReason::WorkerRestart, *n),
            }
        }
        for (name, n) in &t.dropped {
            self.count_drop(drop_named(name), *n);
        }
        for (id, reasons) in &c.reasons {
            reasons.iter().for_each(|(name, n)| self.port(*id).carry_reason(drop_named(name), *n));
        }
        for (id, p) in &c.ports {
            let to = self.port(*id);
            let all = [
                (&to.rx_frames, p.rx_frames),
                (&to.rx_bytes, p.rx_bytes),
                (&to.tx_frames, p.tx_frames),
                (&to.tx_bytes, p.tx_bytes),
                (&to.tx_dropped, p.tx_dropped),
                (&to.rx_dropped, p.rx_dropped),
            ];
            all.into_iter().for_each(|(counter, n)| counter.add(n));
        }
        c.adjacencies.iter().for_each(|(id, n)| self.hits_add(*id, *n));
        for (id, p) in &c.peers {
            let Some(to) = self.peer(*id) else { continue };
            self.dropped_of(*id, p.dropped);
            let all = [
                (&to.to.packets, p.tx_packets),
                (&to.to.bytes, p.tx_bytes),
                (&to.from.packets, p.rx_packets),
                (&to.from.bytes, p.rx_bytes),
            ];
            all.into_iter().for_each(|(counter, n)| counter.add(n));
        }
    }
}

/// The reason of this name, or worker-restart.
fn drop_named(name: &str) -> DropReason {
    DropReason::ALL.iter().find(|r| r.name() == name).copied().unwrap_or(DropReason::WorkerRestart)
}

impl PortCounters {
    /// Drops by reason since the port was opened.
    pub fn reason_totals(&self) -> Reasons {
        let all = self.reasons().iter().zip(DropReason::ALL).map(|(n, r)| (r.name().to_owned(), n.get()));
        all.filter(|(_, n)| *n > 0).collect()
    }
}

impl Forwarder {
    /// A copy of the flows' state; it stays in force here.
    pub fn export(&mut self) -> FlowState {
        let mut held = std::mem::take(&mut self.held);
        let mut state = FlowState::default();
        for h in &mut held {
            self.settle_checksum(&mut h.frame, false);
            if travels(&h.frame) {
                state.held.push(self.pool.data(&h.frame).to_vec());
            }
        }
        self.held = held;
        state
    }

    /// Goes on with the flows of another forwarder, whose totals count these packets as received. What finds no slot is
    /// dropped as pool-empty.
    pub fn import(&mut self, snap: &Snapshot, state: &FlowState) {
        for packet in &state.held {
            match self.pool.take_for(packet.len()) {
                Some(mut f) => {
                    self.pool.set_len(&mut f, packet.len());
                    self.pool.data_mut(&f).copy_from_slice(packet);
                    f.csum = Csum::Complete;
                    self.route_one(snap, Origin::Local, f);
                }
                None => self.counters.count_drop(DropReason::PoolEmpty, 1),
            }
        }
        self.depart(snap);
    }

    /// Ends, another forwarder having imported what was exported here: that is none of this one's business any more. The
    /// rest is dropped as worker-restart.
    pub fn hand_over(&mut self) {
        let mut elsewhere = 0;
        for h in std::mem::take(&mut self.held) {
            if travels(&h.frame) {
                self.pool.give(h.frame);
                elsewhere += 1;
            } else {
                self.discard(h.frame, DropReason::WorkerRestart);
            }
        }
        self.abandon(DropReason::WorkerRestart);
        self.counters.held.set(elsewhere);
    }
}

/// A held super-frame stays behind: its offload data are not worth a format of their own.
fn travels(f: &Frame) -> bool {
    f.gso.is_none() && f.csum == Csum::Complete
}
