//! Packets that wait for a neighbour: few, and not for long.

use super::{Forwarder, Notice, Origin};
use crate::arp;
use crate::drop::DropReason;
use crate::fib::{AdjKind, Adjacency};
use crate::frame::{Frame, PortId};
use crate::snapshot::{PortRole, Snapshot};
use crate::wire::ipv4;
use std::net::IpAddr;

/// Packets that may wait in one worker, and for one neighbour.
pub(super) const HELD_MAX: usize = 256;
const HELD_PER_NEIGHBOUR: usize = 32;
/// How long one waits, milliseconds.
const WAIT_MS: u64 = 1000;
/// How often the question is repeated while packets wait.
const ASK_MS: u64 = 200;

pub(super) struct Held {
    pub frame: Frame,
    next_hop: IpAddr,
    since_ms: u64,
    asked_ms: u64,
}

impl Forwarder {
    /// Keeps a packet until its neighbour is known, and asks for it. TTL and length are settled already.
    #[cold]
    pub(super) fn hold(&mut self, snap: &Snapshot, f: Frame, adj: &Adjacency) {
        let waiting = self.held.iter().filter(|h| h.next_hop == adj.peer).count();
        if waiting >= HELD_PER_NEIGHBOUR || self.held.len() >= HELD_MAX {
            self.counters.dropped_of(adj.node, 1);
            return self.discard(f, DropReason::NeighbourQueueFull);
        }
        if waiting == 0 {
            self.ask(snap, adj);
        }
        self.held.push(Held { frame: f, next_hop: adj.peer, since_ms: self.now_ms, asked_ms: self.now_ms });
    }

    /// A pod is asked by ARP from here; an underlay neighbour is the kernel's to resolve, through control.
    fn ask(&mut self, snap: &Snapshot, adj: &Adjacency) {
        match (snap.role(adj.port), adj.peer) {
            (PortRole::Workload(_), IpAddr::V4(target)) => {
                let Some(mut f) = self.pool.take() else { return };
                self.pool.set_len(&mut f, arp::FRAME);
                arp::request(self.pool.data_mut(&f), target.into());
                self.counters.generated.add(1);
                self.enqueue(adj.port, f);
            }
            _ => self.notify(Notice::NeighbourMiss { next_hop: adj.peer }),
        }
    }

    /// Whether packets wait: then `retry_held` wants to be called now and then, not only on a new snapshot.
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// How many packets wait.
    pub fn waiting(&self) -> usize {
        self.held.len()
    }

    /// Sends on what can go, asks again for what cannot, and drops what waited too long. In order.
    pub fn retry_held(&mut self, snap: &Snapshot) {
        // Where they were received is forgotten.
        self.from = PortId::NONE;
        let mut retried = std::mem::take(&mut self.retried);
        std::mem::swap(&mut self.held, &mut retried);
        for mut h in retried.drain(..) {
            let dst = ipv4::dst(self.pool.data(&h.frame));
            let adj = snap.adjacencies.get(snap.fib.lookup(dst));
            if adj.kind != AdjKind::Glean {
                self.route_one(snap, Origin::Local, h.frame);
            } else if self.now_ms.saturating_sub(h.since_ms) >= WAIT_MS {
                self.counters.dropped_of(adj.node, 1);
                self.discard(h.frame, DropReason::NeighbourUnresolved);
            } else {
                if self.now_ms.saturating_sub(h.asked_ms) >= ASK_MS {
                    let first = !self.held.iter().any(|k| k.next_hop == h.next_hop);
                    h.asked_ms = self.now_ms;
                    if first {
                        self.ask(snap, adj);
                    }
                }
                self.held.push(h);
            }
        }
        self.retried = retried;
        self.depart(snap);
    }
}
