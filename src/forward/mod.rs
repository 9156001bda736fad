//! Forwarding: parse, look up, act. One [`Forwarder`] per worker holds what packets need on their way (slots,
//! output queues, packets that wait for a neighbour); all knowledge of the network comes with the [`Snapshot`].
//!
//! Every frame given to [`Forwarder::process`] ends as sent, punted, dropped under a reason, joined to another
//! (coalesced), or held for a neighbour, and is counted as such; [`Counters::balance`] states the law.

pub mod carry;
pub mod claim;
pub mod counters;
pub mod decap;
mod hold;
mod host;
mod ingress;
mod output;
mod queue;

pub use claim::{Claim, Identity};
pub use counters::Counters;

use crate::drop::DropReason;
use crate::encap::coalesce::Trains;
use crate::fib::{AdjId, AdjKind, Adjacency};
use crate::flows::Flows;
use crate::frame::{BURST, Batch, Frame, FramePool, PortId};
use crate::icmp;
use crate::port::{Medium, TxReport};
use crate::snapshot::{PortRole, Snapshot};
use crate::wire::{Mac, ipv4};
use ingress::Refused;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Most segments that one super-frame can become: 64 KiB at the smallest MSS that Linux allows (48).
const SEGMENTS_MAX: usize = 65_536 / 48 + 1;
/// Notices kept until the worker takes them.
const NOTICES_MAX: usize = 64;

/// What forwarding wants control to know. Repeated as long as it is true, so a lost one does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Packets wait for this underlay neighbour.
    NeighbourMiss { next_hop: IpAddr },
    /// ARP showed an endpoint's MAC that the snapshot does not have.
    EndpointMac { port: PortId, address: Ipv4Addr, mac: Mac },
    /// Somebody on the underlay says that it is this node.
    Claimed(Claim),
}

/// Where a packet comes from, as far as TTL and loops go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// From a pod or another node: this node is a hop.
    Routed,
    /// From the host stack, which is the same hop: it has decremented the TTL of what it routes.
    Host,
    /// Made here, or resumed after waiting.
    Local,
}

/// One worker's forwarding state.
pub struct Forwarder {
    pub pool: FramePool,
    pub counters: Arc<Counters>,
    queues: Vec<queue::TxQueue>,
    /// Where the packets at hand were received: what is dropped of them counts there too.
    from: PortId,
    /// Ports with frames to send, each once.
    touched: Vec<PortId>,
    held: Vec<hold::Held>,
    /// Emptied whenever `held` is walked; keeps its memory.
    retried: Vec<hold::Held>,
    notices: Vec<Notice>,
    work: Batch,
    dsts: [u32; BURST],
    adjs: [AdjId; BURST],
    segments: Batch,
    fragments: Batch,
    /// Packets of the burst at hand for ports that take super-frames.
    trains: Trains,
    /// Identification of the next outer header.
    ip_id: u16,
    limiter: icmp::Limiter,
    /// How many claims are told.
    claims: claim::Limiter,
    /// Flows that came from the host; shared by all workers of the node.
    flows: Arc<Flows>,
    now_ms: u64,
}

impl Forwarder {
    pub fn new(pool: FramePool, counters: Arc<Counters>, flows: Arc<Flows>) -> Forwarder {
        Forwarder {
            pool,
            counters,
            queues: Vec::new(),
            from: PortId::NONE,
            touched: Vec::with_capacity(BURST),
            held: Vec::with_capacity(hold::HELD_MAX),
            retried: Vec::with_capacity(hold::HELD_MAX),
            notices: Vec::with_capacity(NOTICES_MAX),
            work: Batch::new(),
            dsts: [0; BURST],
            adjs: [AdjId::NO_ROUTE; BURST],
            segments: Batch::with_capacity(SEGMENTS_MAX),
            fragments: Batch::with_capacity(crate::encap::fragment::FRAGMENTS_MAX),
            trains: Trains::new(),
            ip_id: 0,
            limiter: icmp::Limiter::default(),
            claims: claim::Limiter::default(),
            flows,
            now_ms: 0,
        }
    }

    /// Sets the coarse clock, once per turn.
    pub fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Forwards a burst received on `port`; the batch is empty afterwards.
    pub fn process(&mut self, snap: &Snapshot, port: PortId, medium: Medium, batch: &mut Batch) {
        self.counters.received.add(batch.len() as u64);
        self.from = port;
        let origin = match snap.role(port) {
            PortRole::Workload(endpoint) => {
                let check = |pool: &mut FramePool, _: &Counters, f: &mut Frame| {
                    ingress::from_workload(pool, f, port, medium, endpoint, &snap.tunnel)
                };
                self.admit(batch, check, |this, f, why| match why {
                    Refused::Arp => this.arp_from_workload(endpoint, port, f),
                    Refused::Drop(reason) => this.discard(f, reason),
                });
                Origin::Routed
            }
            PortRole::Uplink => {
                let t = &snap.tunnel;
                self.admit(
                    batch,
                    |pool, counters, f| ingress::from_uplink(pool, counters, f, medium, t),
                    |this, f, why| this.refuse_from_uplink(medium, t, f, why),
                );
                Origin::Routed
            }
            PortRole::Host => {
                self.admit(batch, |pool, _, f| ingress::from_host(pool, f, medium), refuse_from_host);
                Origin::Host
            }
            PortRole::Closed => {
                for f in batch.drain() {
                    self.discard(f, DropReason::UnknownPort);
                }
                return;
            }
        };
        self.route(snap, origin, batch);
    }

    /// Looks up all destinations in a loop of its own, acts on what needs nothing but a rewrite where it lies, then
    /// moves the frames on, in order.
    fn route(&mut self, snap: &Snapshot, origin: Origin, batch: &mut Batch) {
        let n = batch.len();
        snap.fib.lookup_batch(&self.dsts[..n], &mut self.adjs[..n]);
        match origin {
            Origin::Host => self.keep_flows(snap, batch),
            _ if !self.flows.is_empty() => self.divert_answers(snap, batch),
            _ => {}
        }
        let mut to = [PortId::NONE; BURST];
        // A loop of its own: the misses on the adjacencies' two cache lines overlap.
        for (to, id) in to.iter_mut().zip(&self.adjs[..n]) {
            *to = only_rewrite(snap.adjacencies.get(*id));
        }
        for ((f, to), id) in batch.as_mut_slice().iter_mut().zip(&mut to).zip(self.adjs) {
            if *to != PortId::NONE && !self.rewrite_in_place(snap, origin, f, id) {
                *to = PortId::NONE;
            }
        }
        let mut frames = batch.drain();
        let mut done = 0;
        while done < n {
            let port = to[done];
            let run = to[done..n].iter().take_while(|t| **t == port).count();
            if port == PortId::NONE {
                for (i, f) in frames.by_ref().take(run).enumerate() {
                    self.act(snap, origin, f, self.adjs[done + i]);
                }
            } else {
                self.enqueue_run(port, frames.by_ref().take(run), run);
            }
            done += run;
        }
        drop(frames);
        self.depart(snap);
    }

    /// Sends one packet on its way: a made one, or one that waited.
    fn route_one(&mut self, snap: &Snapshot, origin: Origin, f: Frame) {
        let dst = ipv4::dst(self.pool.data(&f));
        self.act(snap, origin, f, snap.fib.lookup(dst));
    }

    /// Does all that [`Forwarder::act`] would, up to the queue, for a packet of which nothing but the rewrite is
    /// asked. False, and nothing done, for any other.
    #[inline(always)]
    fn rewrite_in_place(&mut self, snap: &Snapshot, origin: Origin, f: &mut Frame, id: AdjId) -> bool {
        let adj = snap.adjacencies.get(id);
        let expired = origin == Origin::Routed && ipv4::ttl(self.pool.data(f)) <= 1;
        if expired || f.len() > usize::from(adj.mtu) || f.gso.is_some_and(|gso| !adj.gso.takes(gso.kind)) {
            return false;
        }
        self.counters.hit(id);
        if origin == Origin::Routed {
            ipv4::decrement_ttl(self.pool.data_mut(f));
        }
        self.settle_checksum(f, adj.partial_csum);
        self.encapsulate(f, adj)
    }

    /// Does what the adjacency says. The frame starts at a validated IPv4 header.
    fn act(&mut self, snap: &Snapshot, origin: Origin, f: Frame, id: AdjId) {
        let adj = snap.adjacencies.get(id);
        self.counters.hit(id);
        match adj.kind {
            AdjKind::Drop(reason) => return self.discard(f, reason),
            // The host routed it here because a pool covers it; handing it back would make it circle.
            AdjKind::Punt(_) if origin == Origin::Host => return self.discard(f, DropReason::NoRoute),
            AdjKind::Punt(reason) => return self.punt(snap, f, id, reason),
            _ => {}
        }
        if origin == Origin::Routed && ipv4::ttl(self.pool.data(&f)) <= 1 {
            return self.reject(snap, f, DropReason::TtlExpired, icmp::Error::TimeExceeded);
        }
        if f.len() > usize::from(adj.mtu) {
            return self.oversize(snap, origin, f, id);
        }
        self.forward(snap, origin, f, id, adj);
    }

    /// Counts a drop and gives the slot back.
    #[inline]
    fn discard(&mut self, f: Frame, reason: DropReason) {
        self.count_drop(reason, 1);
        self.pool.give(f);
    }

    #[inline]
    fn count_drop(&self, reason: DropReason, n: u64) {
        self.counters.count_rx_drop(self.from, reason, n);
    }

    /// Drops a packet and, if the rules allow, tells its sender why.
    fn reject(&mut self, snap: &Snapshot, f: Frame, reason: DropReason, error: icmp::Error) {
        let source = snap.tunnel.icmp_source;
        let answer = !source.is_unspecified() && icmp::may_answer(self.pool.data(&f)) && self.limiter.allow(self.now_ms);
        let made = if answer { self.pool.take() } else { None };
        if let Some(mut e) = made {
            let len = icmp::error_len(self.pool.data(&f));
            self.pool.set_len(&mut e, len);
            let id = self.next_id();
            let (offender, out) = self.pool.pair_mut(&f, &e);
            icmp::write_error(error, source, id, offender, out);
            self.counters.generated.add(1);
            self.discard(f, reason);
            self.route_one(snap, Origin::Local, e);
        } else {
            self.discard(f, reason);
        }
    }

    #[inline(always)]
    fn next_id(&mut self) -> u16 {
        self.ip_id = self.ip_id.wrapping_add(1);
        self.ip_id
    }

    fn notify(&mut self, n: Notice) {
        if self.notices.len() < NOTICES_MAX && !self.notices.contains(&n) {
            self.notices.push(n);
        }
    }

    /// Takes the notices collected since the last call.
    pub fn take_notices(&mut self) -> std::vec::Drain<'_, Notice> {
        self.notices.drain(..)
    }

    /// Whether there is something to tell.
    pub fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    /// Accounts for frames that a port lost while receiving.
    pub fn lost_in_rx(&self, id: PortId, report: crate::port::RxReport) {
        for (reason, n) in [(DropReason::RxTruncated, report.truncated), (DropReason::RxError, report.malformed)] {
            if n > 0 {
                self.counters.received.add(u64::from(n));
                self.counters.count_rx_drop(id, reason, u64::from(n));
            }
        }
    }

    /// Updates the gauge of packets that are neither sent nor dropped yet; call between turns.
    pub fn settle(&self) {
        let queued: usize = self.touched.iter().map(|id| self.queues[id.index()].batch.len()).sum();
        self.counters.held.set((queued + self.held.len()) as u64);
    }

    /// Drops everything that waits, for a worker that ends.
    pub fn abandon(&mut self, reason: DropReason) {
        self.from = PortId::NONE;
        for h in std::mem::take(&mut self.held) {
            self.discard(h.frame, reason);
        }
        for id in std::mem::take(&mut self.touched) {
            self.drop_queue(id, reason);
        }
        self.settle();
    }
}

/// The port that a packet leaves by if all it needs is this adjacency's rewrite.
#[inline(always)]
fn only_rewrite(adj: &Adjacency) -> PortId {
    let sends = matches!(adj.kind, AdjKind::Vxlan | AdjKind::Ipip | AdjKind::Deliver | AdjKind::Direct);
    if sends && !output::takes_joined(adj) && !adj.rewrite.as_slice().is_empty() { adj.port } else { PortId::NONE }
}

/// Only pods' ARP is answered.
fn refuse_from_host(this: &mut Forwarder, f: Frame, why: Refused) {
    let reason = if let Refused::Drop(reason) = why { reason } else { DropReason::EthertypeUnsupported };
    this.discard(f, reason);
}

/// Frames that a `tx_burst` took out of its queue.
fn taken(report: TxReport) -> u32 {
    report.sent + report.errors + report.too_big
}
