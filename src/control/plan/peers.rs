//! The other nodes under the numbers that packets to and from them are counted by.

use super::numbers::Numbers;
use crate::fib::PeerId;
use crate::worker::Counters;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What passed between this node and another, over all workers, from the inner IP header on.
pub use crate::worker::PeerTotal as PeerTotals;

impl PeerTotals {
    /// The sum over workers; nothing for a number that is not counted.
    pub fn of(counters: &[Arc<Counters>], id: PeerId) -> PeerTotals {
        let mut t = PeerTotals::default();
        for c in counters {
            let Some(p) = c.peer(id) else { continue };
            t.dropped += c.peer_drops(id);
            t.tx_packets += p.to.packets.get();
            t.tx_bytes += p.to.bytes.get();
            t.rx_packets += p.from.packets.get();
            t.rx_bytes += p.from.bytes.get();
        }
        t
    }

    /// What was added since `base`.
    pub fn since(self, base: PeerTotals) -> PeerTotals {
        PeerTotals {
            tx_packets: self.tx_packets.saturating_sub(base.tx_packets),
            tx_bytes: self.tx_bytes.saturating_sub(base.tx_bytes),
            rx_packets: self.rx_packets.saturating_sub(base.rx_packets),
            rx_bytes: self.rx_bytes.saturating_sub(base.rx_bytes),
            dropped: self.dropped.saturating_sub(base.dropped),
        }
    }
}

/// One that tunnel packets are accepted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: PeerId,
    /// What the number's counters stood at when the node got it.
    pub base: PeerTotals,
}

/// By underlay address.
#[derive(Debug, Default)]
pub(super) struct Peers {
    all: BTreeMap<Ipv4Addr, Peer>,
    numbers: Numbers,
}

impl Peers {
    /// The number of a node, a new one if it has none. `oldest`: the oldest generation still in use.
    pub(super) fn join(&mut self, address: Ipv4Addr, counters: &[Arc<Counters>], oldest: u64) -> PeerId {
        if let Some(peer) = self.all.get(&address) {
            return peer.id;
        }
        let id = PeerId(self.numbers.take(oldest));
        self.all.insert(address, Peer { id, base: PeerTotals::of(counters, id) });
        id
    }

    /// Takes a node's number back.
    pub(super) fn leave(&mut self, address: Ipv4Addr) {
        if let Some(peer) = self.all.remove(&address) {
            self.numbers.retire(peer.id.0);
        }
    }

    /// The number of a node; `NONE` for one that tunnel packets are not accepted from.
    pub(super) fn id(&self, address: Ipv4Addr) -> PeerId {
        self.all.get(&address).map_or(PeerId::NONE, |p| p.id)
    }

    /// All, as the data plane looks them up.
    pub(super) fn senders(&self) -> FxHashMap<u32, PeerId> {
        self.all.iter().map(|(address, p)| (u32::from(*address), p.id)).collect()
    }

    pub(super) fn all(&self) -> &BTreeMap<Ipv4Addr, Peer> {
        &self.all
    }

    /// A generation was published that holds none of the numbers taken back so far.
    pub(super) fn published(&mut self, generation: u64) {
        self.numbers.published(generation);
    }
}
