//! From the adjacency to the output queue: length, TTL, checksum, rewrite, fixups.

use super::{Forwarder, Origin};
use crate::drop::{DropReason, PuntReason};
use crate::encap::{ecn, fragment, push, rewrite, segment};
use crate::fib::{AdjId, AdjKind, Adjacency};
use crate::frame::{Csum, Frame, Gso, GsoKind};
use crate::icmp;
use crate::snapshot::Snapshot;
use crate::wire::{flow, ipv4, l4};

/// Longest packet behind an outer IPv4 header.
const IPIP_MAX: usize = u16::MAX as usize - ipv4::HEADER;

impl Forwarder {
    /// A packet that fits its next hop: TTL, then out, in segments if the port takes no super-frames.
    #[inline(always)]
    pub(super) fn forward(&mut self, snap: &Snapshot, origin: Origin, mut f: Frame, id: AdjId, adj: &Adjacency) {
        if origin == Origin::Routed {
            ipv4::decrement_ttl(self.pool.data_mut(&f));
        }
        if adj.kind == AdjKind::Glean {
            return self.hold(snap, f, adj);
        }
        match f.gso {
            Some(gso) if !adj.gso.takes(gso.kind) || (adj.kind == AdjKind::Ipip && f.len() > IPIP_MAX) => {
                self.depart(snap);
                self.segmented(f, |this, s| this.emit(s, adj));
            }
            _ => {
                if takes_joined(adj) {
                    self.resolve_checksum(&mut f);
                    self.join(snap, f, id, adj);
                } else {
                    self.settle_checksum(&mut f, adj.partial_csum);
                    self.emit(f, adj);
                }
            }
        }
    }

    /// A packet longer than the next hop's MTU: a super-frame whose segments fit, or one to refuse or fragment.
    #[cold]
    pub(super) fn oversize(&mut self, snap: &Snapshot, origin: Origin, mut f: Frame, id: AdjId) {
        let adj = snap.adjacencies.get(id);
        // Fragments do not pass by what came before them.
        self.depart(snap);
        let mtu = usize::from(adj.mtu);
        self.resolve_checksum(&mut f);
        self.imply_gso(&mut f, mtu);
        let p = self.pool.data(&f);
        if f.gso.is_some_and(|gso| segment_len(p, gso) <= mtu) {
            return self.forward(snap, origin, f, id, adj);
        }
        if ipv4::dont_fragment(p) {
            self.counters.dropped_of(adj.node, 1);
            return self.reject(snap, f, DropReason::MtuExceeded, icmp::Error::FragmentationNeeded { mtu: adj.mtu });
        }
        if origin == Origin::Routed {
            ipv4::decrement_ttl(self.pool.data_mut(&f));
        }
        if f.gso.is_some() {
            self.segmented(f, |this, s| this.fragmented(snap, s, adj));
        } else {
            self.settle_checksum(&mut f, false);
            self.fragmented(snap, f, adj);
        }
    }

    /// To the host stack, as it is. One that it routes on must be known as the super-frame that it is.
    pub(super) fn punt(&mut self, snap: &Snapshot, mut f: Frame, id: AdjId, reason: PuntReason) {
        let adj = snap.adjacencies.get(id);
        if f.len() > usize::from(adj.mtu) {
            self.resolve_checksum(&mut f);
            self.imply_gso(&mut f, usize::from(adj.mtu));
        }
        if f.gso.is_some_and(|gso| !adj.gso.takes(gso.kind)) {
            self.depart(snap);
            return self.segmented(f, |this, s| this.enqueue_punt(adj.port, s, reason));
        }
        if takes_joined(adj) {
            self.resolve_checksum(&mut f);
            self.join(snap, f, id, adj);
        } else {
            self.settle_checksum(&mut f, adj.partial_csum);
            self.enqueue_punt(adj.port, f, reason);
        }
    }

    /// Keeps a packet until the end of the burst, joined to its predecessor if it can be.
    #[inline]
    fn join(&mut self, snap: &Snapshot, f: Frame, id: AdjId, adj: &Adjacency) {
        if self.trains.is_full() {
            self.depart(snap);
        }
        if self.trains.add(&mut self.pool, f, id, adj.gso) {
            self.counters.coalesced.add(1);
        }
    }

    /// Sends what [`Forwarder::join`] kept, in order.
    #[inline(always)]
    pub(super) fn depart(&mut self, snap: &Snapshot) {
        if !self.trains.is_empty() {
            self.depart_all(snap);
        }
    }

    fn depart_all(&mut self, snap: &Snapshot) {
        let mut trains = std::mem::take(&mut self.trains);
        for t in trains.drain() {
            let (mut f, id) = t.finish(&mut self.pool);
            let adj = snap.adjacencies.get(id);
            self.settle_checksum(&mut f, adj.partial_csum);
            match adj.kind {
                AdjKind::Punt(reason) => self.enqueue_punt(adj.port, f, reason),
                _ => self.emit(f, adj),
            }
        }
        self.trains = trains;
    }

    /// Encapsulates and queues. The frame's checksum state suits the port.
    #[inline]
    fn emit(&mut self, mut f: Frame, adj: &Adjacency) {
        if self.encapsulate(&mut f, adj) {
            self.enqueue(adj.port, f);
        } else {
            self.counters.dropped_of(adj.node, 1);
            self.discard(f, DropReason::NeighbourUnresolved);
        }
    }

    /// Puts the rewrite in front; false for an adjacency that has none.
    #[inline(always)]
    pub(super) fn encapsulate(&mut self, f: &mut Frame, adj: &Adjacency) -> bool {
        match adj.kind {
            AdjKind::Deliver | AdjKind::Direct => {
                if adj.kind == AdjKind::Direct {
                    self.counters.sent_to(adj.node, f.len());
                }
                if !adj.rewrite.as_slice().is_empty() {
                    push::plain(&mut self.pool, f, &adj.rewrite);
                }
            }
            AdjKind::Vxlan => {
                self.counters.sent_to(adj.node, f.len());
                let p = self.pool.data(f);
                let tos = ecn::encap(ipv4::tos(p));
                f.hash = flow::hash(p);
                f.peer = adj.peer;
                if adj.rewrite.as_slice().len() == rewrite::VXLAN_ETHERNET {
                    let id = self.next_id();
                    push::vxlan_ethernet(&mut self.pool, f, &adj.rewrite, tos, id);
                } else {
                    push::vxlan_udp(&mut self.pool, f, &adj.rewrite, tos);
                }
            }
            AdjKind::Ipip => {
                self.counters.sent_to(adj.node, f.len());
                let tos = ecn::encap(ipv4::tos(self.pool.data(f)));
                let id = self.next_id();
                push::ipip(&mut self.pool, f, &adj.rewrite, tos, id);
            }
            AdjKind::Glean | AdjKind::Drop(_) | AdjKind::Punt(_) => return false,
        }
        true
    }

    /// Splits a super-frame in software and passes on each segment.
    fn segmented(&mut self, f: Frame, mut each: impl FnMut(&mut Forwarder, Frame)) {
        let mut segments = std::mem::take(&mut self.segments);
        match segment::segment_into(&mut self.pool, f, |s| segments.push(s)) {
            Ok(done) => {
                self.counters.generated.add(u64::from(done.made + done.lost) - 1);
                self.count_drop(DropReason::PoolEmpty, u64::from(done.lost));
                for s in segments.drain() {
                    each(self, s);
                }
            }
            Err(reason) => self.count_drop(reason, 1),
        }
        self.segments = segments;
    }

    /// Sends a packet without DF, in fragments if it is too long.
    fn fragmented(&mut self, snap: &Snapshot, f: Frame, adj: &Adjacency) {
        if f.len() <= usize::from(adj.mtu) {
            return self.release(snap, f, adj);
        }
        let mut parts = std::mem::take(&mut self.fragments);
        match fragment::fragment(&mut self.pool, f, usize::from(adj.mtu), |part| parts.push(part)) {
            Ok(done) => {
                self.counters.generated.add(u64::from(done.made + done.lost) - 1);
                self.count_drop(DropReason::PoolEmpty, u64::from(done.lost));
                for part in parts.drain() {
                    self.release(snap, part, adj);
                }
            }
            Err((f, reason)) => {
                self.counters.dropped_of(adj.node, 1);
                self.discard(f, reason);
            }
        }
        self.fragments = parts;
    }

    /// Emits, or holds where the neighbour is not known yet.
    fn release(&mut self, snap: &Snapshot, f: Frame, adj: &Adjacency) {
        if adj.kind == AdjKind::Glean { self.hold(snap, f, adj) } else { self.emit(f, adj) }
    }

    /// Finds out what the checksum state of a frame without metadata is.
    #[inline(always)]
    fn resolve_checksum(&mut self, f: &mut Frame) {
        if f.csum == Csum::MayBePartial {
            let p = self.pool.data(f);
            f.csum = match l4::unfinished(p, p.len()) {
                Some((start, offset)) => Csum::Partial { start: f.head() + start as u32, offset: offset as u16 },
                None => Csum::Complete,
            };
        }
    }

    /// Leaves the checksum in a state that the output port can deal with.
    #[inline(always)]
    pub(super) fn settle_checksum(&mut self, f: &mut Frame, port_takes_partial: bool) {
        self.resolve_checksum(f);
        if let Csum::Partial { start, offset } = f.csum
            && !port_takes_partial
            && f.gso.is_none()
        {
            push::finish_checksum(&mut self.pool, f, start, offset);
            f.csum = Csum::Complete;
        }
    }

    /// A TCP packet that is too long and has an unfinished checksum came as a super-frame over a path that
    /// dropped the segment size: a veth seen through AF_XDP, or a stock node's VXLAN device on a veth. Any
    /// segment size that fits will do.
    fn imply_gso(&self, f: &mut Frame, mtu: usize) {
        let p = self.pool.data(f);
        if f.gso.is_some() || !matches!(f.csum, Csum::Partial { .. }) || ipv4::proto(p) != ipv4::PROTO_TCP {
            return;
        }
        let headers = header_len(p, GsoKind::Tcp4);
        if mtu > headers {
            f.gso = Some(Gso { kind: GsoKind::Tcp4, size: (mtu - headers) as u16 });
        }
    }
}

/// Whether packets for the adjacency are joined, and to something that its port takes.
#[inline(always)]
pub(super) fn takes_joined(adj: &Adjacency) -> bool {
    adj.joins && (adj.gso.tcp4 || adj.gso.udp)
}

/// IP and L4 header bytes of a TCP or UDP packet whose L4 header is known to be there.
fn header_len(p: &[u8], kind: GsoKind) -> usize {
    let ip = ipv4::header_len(p);
    match kind {
        GsoKind::Udp => ip + l4::UDP_HEADER,
        GsoKind::Tcp4 | GsoKind::Tcp6 => ip + p.get(ip + 12).map_or(0, |b| usize::from(b >> 4) * 4),
    }
}

/// Length of a super-frame's full segments from the IP header on.
fn segment_len(p: &[u8], gso: Gso) -> usize {
    header_len(p, gso.kind) + usize::from(gso.size)
}
