//! What the benches share: seeded routes and addresses, a node's snapshot, and a port that costs next to nothing.

#![allow(dead_code)] // each bench uses its part

use ipnet::Ipv4Net;
use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use tortie::drop::PuntReason;
use tortie::encap::rewrite::{self, MacPair};
use tortie::fib::{AdjId, AdjKind, Adjacency, PeerId, Rewrite, Table4};
use tortie::frame::{Batch, FramePool, GsoSet, PortId};
use tortie::port::mem::caps;
use tortie::port::{Caps, Medium, Port, RxReport, TxReport};
use tortie::snapshot::{Endpoint, PortRole, Snapshot, Tunnel};
use tortie::wire::{Mac, ether, ipv4, put16, vxlan::Vni};

/// xorshift64*: the same numbers in each run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }
}

/// A cluster's routes: /26 blocks, consecutive, as IPAM hands them out.
pub fn blocks(n: usize) -> Vec<Ipv4Net> {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    (0..n as u32).map(|i| Ipv4Net::new(Ipv4Addr::from(base + (i << 6)), 26).unwrap()).collect()
}

/// A table of the internet's size and shape: 60 % /24, a third /16 to /23, some longer.
pub fn internet(n: usize) -> Vec<Ipv4Net> {
    let mut rng = Rng::new(7);
    let mut seen = HashSet::with_capacity(n);
    let mut out = Vec::with_capacity(n);
    while out.len() < n {
        let len = match rng.below(100) {
            0..60 => 24,
            60..72 => 22,
            72..80 => 23,
            80..86 => 20,
            86..92 => 16 + rng.below(6) as u8,
            92..94 => 8 + rng.below(8) as u8,
            _ => 25 + rng.below(8) as u8,
        };
        let addr = (1 + rng.below(222) as u32) << 24 | (rng.next() >> 40) as u32;
        let net = Ipv4Net::new(Ipv4Addr::from(addr), len).unwrap().trunc();
        if seen.insert(net) {
            out.push(net);
        }
    }
    out
}

pub fn table(routes: &[Ipv4Net]) -> Table4 {
    let mut t = Table4::new();
    for (i, r) in routes.iter().enumerate() {
        t.insert(*r, AdjId((i % 5000) as u32 + 1));
    }
    t
}

/// `n` destinations under the routes, each route as likely as any other.
pub fn random_dsts(routes: &[Ipv4Net], n: usize) -> Vec<u32> {
    let mut rng = Rng::new(11);
    (0..n).map(|_| within(routes[rng.below(routes.len())], rng.next())).collect()
}

/// `n` destinations whose popularity falls as 1/rank (Zipf, s = 1) over 1,000 flows.
pub fn hot_dsts(routes: &[Ipv4Net], n: usize) -> Vec<u32> {
    const FLOWS: usize = 1000;
    let mut rng = Rng::new(13);
    let flows: Vec<u32> = (0..FLOWS).map(|_| within(routes[rng.below(routes.len())], rng.next())).collect();
    let mut cumulated = Vec::with_capacity(FLOWS);
    let mut sum = 0.0;
    for rank in 1..=FLOWS {
        sum += 1.0 / rank as f64;
        cumulated.push(sum);
    }
    (0..n)
        .map(|_| {
            let at = (rng.next() >> 11) as f64 / (1u64 << 53) as f64 * sum;
            flows[cumulated.partition_point(|c| *c < at).min(FLOWS - 1)]
        })
        .collect()
}

fn within(net: Ipv4Net, random: u64) -> u32 {
    u32::from(net.network()) | (random as u32 & u32::from(net.hostmask()))
}

pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 3, 110);
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 3, 111);
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
pub const LINK: MacPair = MacPair { dst: Mac([2, 0, 0, 0, 0, 2]), src: Mac([2, 0, 0, 0, 0, 1]) };
pub const VTEP: MacPair = MacPair { dst: Mac([0x66, 0xaa, 0x99, 0x2f, 0xdc, 0x24]), src: Mac([0x66, 0xb6, 0xa5, 0x9d, 0xe1, 0xc9]) };
pub const POD_MAC: Mac = Mac([0x92, 0x7e, 0xc4, 0x15, 0xb9, 0x82]);

pub const UPLINK: PortId = PortId(0);
pub const POD_PORT: PortId = PortId(1);
pub const HOST: PortId = PortId(2);

/// An IPv4/UDP packet of `len` bytes from the IP header on, checksum zero.
pub fn packet(src: u32, dst: u32, len: usize) -> Vec<u8> {
    let mut p = vec![0x5a; len];
    ipv4::Header { tos: 0, len: len as u16, id: 1, frag: ipv4::DF, ttl: 64, proto: ipv4::PROTO_UDP, src, dst }.write(&mut p);
    put16(&mut p, 20, 40_000);
    put16(&mut p, 22, 5_001);
    put16(&mut p, 24, (len - 20) as u16);
    put16(&mut p, 26, 0);
    p
}

/// The packet as a pod sends it: to the gateway's MAC.
pub fn from_pod(dst: u32, frame_len: usize) -> Vec<u8> {
    let mut f = vec![0; ether::HEADER];
    ether::write(&mut f, Mac::GATEWAY, POD_MAC, ether::TYPE_IPV4);
    f.extend(packet(POD.into(), dst, frame_len - ether::HEADER));
    f
}

/// Which tunnel the bench's remote routes use.
#[derive(Clone, Copy)]
pub enum Encap {
    Vxlan,
    Ipip,
}

/// The prebuilt answer for one remote node, over Ethernet.
pub fn remote(encap: Encap, peer: Ipv4Addr) -> Adjacency {
    let (kind, rewrite, mtu) = match encap {
        Encap::Vxlan => (AdjKind::Vxlan, rewrite::vxlan_ethernet(LINK, NODE, peer, 4789, Vni::CALICO, VTEP), 1450),
        Encap::Ipip => (AdjKind::Ipip, rewrite::ipip_ethernet(LINK, NODE, peer), 1480),
    };
    Adjacency {
        rewrite,
        kind,
        port: UPLINK,
        mtu,
        gso: GsoSet::NONE,
        partial_csum: false,
        joins: false,
        peer: peer.into(),
        node: PeerId(1 + u32::from(peer) % 5000),
    }
}

/// A node with one pod, and `routes` spread over 5,000 remote nodes.
pub fn node(routes: &[Ipv4Net], encap: Encap) -> Snapshot {
    const NODES: u32 = 5000;
    let mut s = Snapshot::empty();
    let mut t = table(routes);
    let first = u32::from(Ipv4Addr::new(172, 16, 0, 1));
    for i in 0..NODES {
        s.adjacencies.set(AdjId(i + 1), remote(encap, Ipv4Addr::from(first + i)));
    }
    let to_pod = MacPair { dst: POD_MAC, src: Mac::GATEWAY };
    let deliver =
        Adjacency { rewrite: rewrite::ethernet(to_pod), kind: AdjKind::Deliver, port: POD_PORT, mtu: 1450, ..remote(encap, PEER) };
    let punt =
        Adjacency { rewrite: Rewrite::EMPTY, kind: AdjKind::Punt(PuntReason::HostRoute), port: HOST, mtu: 1500, ..remote(encap, PEER) };
    s.adjacencies.set(AdjId(NODES + 1), deliver);
    s.adjacencies.set(AdjId(NODES + 2), punt);
    t.insert(Ipv4Net::new(POD, 32).unwrap(), AdjId(NODES + 1));
    t.insert(Ipv4Net::default(), AdjId(NODES + 2));
    s.fib = t.commit();
    let pod =
        Endpoint { name: "bench/pod".into(), sources: vec![Ipv4Net::new(POD, 32).unwrap()], addresses: vec![POD], mac: Some(POD_MAC) };
    s.ports = vec![PortRole::Uplink, PortRole::Workload(Arc::new(pod)), PortRole::Host];
    let nodes: Arc<rustc_hash::FxHashSet<u32>> = Arc::new((0..NODES).map(|i| first + i).chain([u32::from(PEER)]).collect());
    let senders = Arc::new(nodes.iter().map(|a| (*a, PeerId(1 + *a % 5000))).collect());
    s.tunnel = Tunnel { node: NODE, icmp_source: NODE, vtep_mac: VTEP.dst, senders, nodes, ..Tunnel::default() };
    s
}

/// A port without a kernel behind it: `rx_burst` writes a template into a slot, as a device's DMA would, and
/// `tx_burst` gives the slots back. No allocation; one store of the template's length per frame.
pub struct Loop {
    caps: Caps,
    templates: Vec<Vec<u8>>,
    next: usize,
    /// Frames still to be received before the port falls silent.
    pub left: usize,
}

impl Loop {
    /// Receives the templates in turn; none, and it only sends.
    pub fn new(medium: Medium, templates: Vec<Vec<u8>>) -> Loop {
        Loop { caps: caps(medium, 1500), templates, next: 0, left: 0 }
    }
}

impl Port for Loop {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let n = self.left.min(out.room());
        for _ in 0..n {
            let Some(mut f) = pool.take() else { break };
            let bytes = &self.templates[self.next];
            self.next = if self.next + 1 == self.templates.len() { 0 } else { self.next + 1 };
            // Frames of the smallest size are stored as a device would: a full cache line, no call.
            match bytes.first_chunk::<64>() {
                Some(line) if bytes.len() == 64 => *pool.room_mut(&f).first_chunk_mut().unwrap() = *line,
                _ => pool.room_mut(&f)[..bytes.len()].copy_from_slice(bytes),
            }
            pool.set_len(&mut f, bytes.len());
            out.push(f);
            self.left -= 1;
        }
        Ok(RxReport::default())
    }

    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        let sent = out.len() as u32;
        pool.give_all(out);
        Ok(TxReport { sent, ..TxReport::default() })
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(&mut self, _pool: &mut FramePool) {}
}
