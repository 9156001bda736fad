//! All that a worker may read, one generation at a time. Control builds a [`Snapshot`] and publishes it with
//! one atomic store; a worker takes it up at the start of a turn and never sees half a change.

use crate::fib::{AdjId, Adjacency, Lpm4, PeerId};
use crate::flows::Flows;
use crate::frame::PortId;
use crate::wire::{Mac, vxlan::Vni};
use arc_swap::ArcSwap;
use ipnet::Ipv4Net;
use rustc_hash::{FxHashMap, FxHashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Adjacencies that are copied together when one of them changes: 8 KiB.
const CHUNK: usize = 64;
/// Chunks of a page. A new generation counts a reference to each page, and to each chunk of a page that changed: with a
/// million adjacencies 489 and 32.
const PAGE: usize = 32;

type Chunk = [Adjacency; CHUNK];
type Page = [Arc<Chunk>; PAGE];

/// Adjacencies by number, copied on write: generations share what did not change.
#[derive(Clone)]
pub struct AdjTable {
    pages: Vec<Arc<Page>>,
    len: usize,
}

impl Default for AdjTable {
    fn default() -> AdjTable {
        AdjTable::new()
    }
}

impl AdjTable {
    /// Holds number 0, drop(no-route).
    pub fn new() -> AdjTable {
        let mut t = AdjTable { pages: Vec::new(), len: 0 };
        t.set(AdjId::NO_ROUTE, Adjacency::drop(crate::drop::DropReason::NoRoute));
        t
    }

    /// Panics on a number from [`AdjTable::len`] on, or answers drop(no-route).
    #[inline(always)]
    pub fn get(&self, id: AdjId) -> &Adjacency {
        let i = id.index();
        &self.pages[i / (CHUNK * PAGE)][i / CHUNK % PAGE][i % CHUNK]
    }

    /// Puts an adjacency at a number, growing the table as needed.
    pub fn set(&mut self, id: AdjId, adj: Adjacency) {
        let i = id.index();
        if self.pages.len() <= i / (CHUNK * PAGE) {
            let empty = Arc::new([Adjacency::drop(crate::drop::DropReason::NoRoute); CHUNK]);
            self.pages.resize_with(i / (CHUNK * PAGE) + 1, || Arc::new(std::array::from_fn(|_| empty.clone())));
        }
        let page = Arc::make_mut(&mut self.pages[i / (CHUNK * PAGE)]);
        Arc::make_mut(&mut page[i / CHUNK % PAGE])[i % CHUNK] = adj;
        self.len = self.len.max(i + 1);
    }

    /// One more than the highest number that was set.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// One pod's side of the world, as far as forwarding cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `namespace/pod` or the endpoint's own name: for events and counters by name.
    pub name: String,
    /// What it may send from: its addresses as /32, plus allowed source prefixes.
    pub sources: Vec<Ipv4Net>,
    /// Its own addresses: what it may announce and resolve with ARP.
    pub addresses: Vec<Ipv4Addr>,
    /// Its interface's MAC, when known; frames to it go to this address.
    pub mac: Option<Mac>,
}

impl Endpoint {
    /// Whether a packet with this source (host order) may come from here.
    #[inline(always)]
    pub fn may_send(&self, src: u32) -> bool {
        self.sources.iter().any(|n| (src ^ u32::from(n.addr())) & u32::from(n.netmask()) == 0)
    }
}

/// What a port is for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum PortRole {
    /// No such port, or being closed: whatever it still receives is dropped as unknown-port.
    #[default]
    Closed,
    /// Towards other nodes: only tunnel packets are taken.
    Uplink,
    /// A pod.
    Workload(Arc<Endpoint>),
    /// The host stack (TUN).
    Host,
}

/// This node as a tunnel endpoint, and who may talk to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The node's underlay address: destination of tunnel packets and source of our own.
    pub node: Ipv4Addr,
    /// Source of ICMP errors: the node's tunnel address where it has one, its underlay address otherwise.
    pub icmp_source: Ipv4Addr,
    /// Inner destination MAC of packets for us.
    pub vtep_mac: Mac,
    pub vni: Vni,
    /// UDP port, both ends.
    pub port: u16,
    /// Underlay addresses (host order) that tunnel packets are accepted from: nodes and the external nodes list,
    /// each with the number that it is counted under.
    pub senders: Arc<FxHashMap<u32, PeerId>>,
    /// Underlay addresses of all nodes, this one too: where a workload may not send tunnel packets.
    pub nodes: Arc<FxHashSet<u32>>,
    /// FelixConfiguration allowVXLANPacketsFromWorkloads.
    pub workloads_may_vxlan: bool,
    /// FelixConfiguration allowIPIPPacketsFromWorkloads.
    pub workloads_may_ipip: bool,
}

impl Default for Tunnel {
    fn default() -> Tunnel {
        Tunnel {
            node: Ipv4Addr::UNSPECIFIED,
            icmp_source: Ipv4Addr::UNSPECIFIED,
            vtep_mac: Mac::default(),
            vni: Vni::CALICO,
            port: crate::wire::vxlan::PORT,
            senders: Arc::default(),
            nodes: Arc::default(),
            workloads_may_vxlan: false,
            workloads_may_ipip: false,
        }
    }
}

/// One generation of everything a worker forwards by.
#[derive(Clone)]
pub struct Snapshot {
    /// Grows by one with each publish.
    pub generation: u64,
    pub fib: Lpm4,
    pub adjacencies: AdjTable,
    /// By [`PortId`].
    pub ports: Vec<PortRole>,
    pub tunnel: Tunnel,
}

impl Snapshot {
    /// Forwards nothing: what is in force before the first sync.
    pub fn empty() -> Snapshot {
        Snapshot {
            generation: 0,
            fib: crate::fib::Table4::new().commit(),
            adjacencies: AdjTable::new(),
            ports: Vec::new(),
            tunnel: Tunnel::default(),
        }
    }

    #[inline(always)]
    pub fn role(&self, port: PortId) -> &PortRole {
        self.ports.get(port.index()).unwrap_or(&PortRole::Closed)
    }
}

struct Shared {
    current: ArcSwap<Snapshot>,
    /// Per worker: the generation it works with.
    seen: Vec<AtomicU64>,
    /// Not of a generation: what workers learn from packets and need of each other.
    flows: Arc<Flows>,
}

/// Control's end: publishes generations and frees old ones once no worker uses them.
pub struct Publisher {
    shared: Arc<Shared>,
    retired: Vec<Arc<Snapshot>>,
}

/// A worker's end.
pub struct Reader {
    shared: Arc<Shared>,
    current: Arc<Snapshot>,
    worker: usize,
}

/// A publisher and one reader for each of `workers`, starting from the empty snapshot.
pub fn channel(workers: usize) -> (Publisher, Vec<Reader>) {
    let first = Arc::new(Snapshot::empty());
    let shared = Arc::new(Shared {
        current: ArcSwap::new(first.clone()),
        seen: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        flows: Arc::default(),
    });
    let readers = (0..workers).map(|worker| Reader { shared: shared.clone(), current: first.clone(), worker }).collect();
    (Publisher { shared, retired: Vec::new() }, readers)
}

impl Publisher {
    /// Puts a snapshot in force; its generation is set here and returned.
    pub fn publish(&mut self, mut next: Snapshot) -> u64 {
        next.generation = self.shared.current.load().generation + 1;
        let generation = next.generation;
        // Kept until every worker has moved on, so that freeing a large table never falls to a worker.
        self.retired.push(self.shared.current.swap(Arc::new(next)));
        self.retire();
        generation
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// The oldest generation that some worker still works with.
    pub fn oldest_in_use(&self) -> u64 {
        self.shared.seen.iter().map(|g| g.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }

    /// Frees generations that no worker uses any more.
    pub fn retire(&mut self) {
        let oldest = self.oldest_in_use();
        self.retired.retain(|s| s.generation >= oldest);
    }

    /// The flows that all workers share.
    pub fn flows(&self) -> &Arc<Flows> {
        &self.shared.flows
    }

    /// A new reader in the place of a worker that died.
    pub fn reader(&self, worker: usize) -> Reader {
        Reader { shared: self.shared.clone(), current: self.shared.current.load_full(), worker }
    }
}

impl Reader {
    /// Takes up the newest generation; true if it changed. One atomic read when it did not.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        let newest = self.shared.current.load();
        if newest.generation == self.current.generation {
            return false;
        }
        self.current = arc_swap::Guard::into_inner(newest);
        self.shared.seen[self.worker].store(self.current.generation, Ordering::Release);
        true
    }

    /// The flows that all workers share.
    pub fn flows(&self) -> &Arc<Flows> {
        &self.shared.flows
    }

    #[inline(always)]
    pub fn get(&self) -> &Arc<Snapshot> {
        &self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_kept_until_every_reader_moved_on() {
        let (mut publisher, mut readers) = channel(2);
        assert_eq!(publisher.publish(Snapshot::empty()), 1);
        assert_eq!(publisher.publish(Snapshot::empty()), 2);
        assert_eq!(publisher.retired.len(), 2);
        assert!(readers[0].refresh());
        publisher.retire();
        assert_eq!(publisher.retired.len(), 2);
        assert!(readers[1].refresh() && !readers[1].refresh());
        publisher.retire();
        assert!(publisher.retired.is_empty());
        assert_eq!(readers[1].get().generation, 2);
    }

    #[test]
    fn spoof_check_uses_prefixes() {
        let e = Endpoint {
            name: "a".into(),
            sources: vec!["10.0.0.5/32".parse().unwrap(), "10.9.0.0/16".parse().unwrap()],
            addresses: vec![],
            mac: None,
        };
        assert!(e.may_send(0x0a000005) && e.may_send(0x0a09ffff));
        assert!(!e.may_send(0x0a000006) && !e.may_send(0x0a0a0000));
    }
}
