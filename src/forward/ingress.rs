//! The parse loop: from whatever a port delivers to a validated IPv4 packet that may be forwarded.

use super::{Counters, Forwarder, Notice, claim, decap};
use crate::arp;
use crate::drop::DropReason;
use crate::fib::PeerId;
use crate::frame::{BURST, Batch, Csum, Frame, FramePool, PortId};
use crate::port::Medium;
use crate::snapshot::{Endpoint, Tunnel};
use crate::wire::{Mac, be16, ether, ipv4};
use std::net::IpAddr;

/// Why a frame does not go on to the lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// ARP, to be answered.
    Arp,
    Drop(DropReason),
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Refused {
        Refused::Drop(reason)
    }
}

/// A frame from a pod: what passes is a packet from one of the pod's own addresses. Returns the destination.
#[inline(always)]
pub(super) fn from_workload(
    pool: &FramePool,
    f: &mut Frame,
    port: PortId,
    medium: Medium,
    endpoint: &Endpoint,
    t: &Tunnel,
) -> Result<u32, Refused> {
    f.port = port;
    let mut p = pool.data(f);
    let mut at = 0;
    if medium == Medium::Ethernet {
        let Some((header, packet)) = p.split_first_chunk::<{ ether::HEADER }>() else { return Err(DropReason::EthernetTruncated.into()) };
        if ether_type(header)? == ether::TYPE_ARP {
            return Err(Refused::Arp);
        }
        let to = Mac::read(header, 0);
        if to != Mac::GATEWAY {
            return Err(Refused::Drop(if to.is_group() { DropReason::IpMartian } else { DropReason::NotForUs }));
        }
        (p, at) = (packet, ether::HEADER);
    }
    let total = workload_packet(p, endpoint, t)?;
    let dst = ipv4::dst(p);
    f.pull(at);
    f.truncate(total);
    Ok(dst)
}

/// A frame from the underlay: what passes is the inner packet of a tunnel packet for us. Returns its destination.
#[inline(always)]
pub(super) fn from_uplink(pool: &mut FramePool, counters: &Counters, f: &mut Frame, medium: Medium, t: &Tunnel) -> Result<u32, Refused> {
    let head = f.head();
    let sender = match medium {
        Medium::Ethernet => decap::ethernet(pool, f, t)?,
        Medium::Ip => decap::outer_ip(pool, f, t)?,
        Medium::VxlanUdp => decap::vxlan_udp(pool, f, t)?,
    };
    let p = pool.data(f);
    if let Err(reason) = from_elsewhere(p, t) {
        // Whoever looks at what was refused wants to see who sent it.
        f.unpull(head);
        return Err(reason.into());
    }
    counters.received_from(sender, f.len());
    Ok(ipv4::dst(p))
}

/// A packet from the host stack. Returns its destination.
#[inline(always)]
pub(super) fn from_host(pool: &FramePool, f: &mut Frame, medium: Medium) -> Result<u32, Refused> {
    debug_assert_eq!(medium, Medium::Ip, "the host device is a TUN");
    let p = pool.data(f);
    if p.first().is_some_and(|b| b >> 4 == 6) {
        return Err(DropReason::Ipv6Unsupported.into());
    }
    let total = ipv4::validate(p)?;
    not_martian(p)?;
    let dst = ipv4::dst(p);
    f.truncate(total);
    Ok(dst)
}

impl Forwarder {
    /// Applies the checks of one kind of port to a burst and keeps what passes, in order; the destinations are in
    /// `dsts` then. Frames stay where they are unless one is refused: moving each costs as much as checking it.
    #[inline(always)]
    pub(super) fn admit(
        &mut self,
        batch: &mut Batch,
        check: impl Fn(&mut FramePool, &Counters, &mut Frame) -> Result<u32, Refused>,
        mut refuse: impl FnMut(&mut Forwarder, Frame, Refused),
    ) {
        assert!(batch.len() <= BURST, "a burst longer than its tables");
        let mut refused = [None; BURST];
        let mut passed = 0;
        for (f, refused) in batch.as_mut_slice().iter_mut().zip(&mut refused) {
            match check(&mut self.pool, &self.counters, f) {
                Ok(dst) => {
                    own_checksum_only(f);
                    self.dsts[passed] = dst;
                    passed += 1;
                }
                Err(why) => *refused = Some(why),
            }
        }
        if passed < batch.len() {
            let mut work = std::mem::take(&mut self.work);
            for (f, refused) in batch.drain().zip(refused) {
                match refused {
                    None => work.push(f),
                    Some(why) => refuse(self, f, why),
                }
            }
            work.move_front(BURST, batch);
            self.work = work;
        }
    }

    /// Drops what the uplink delivered. Who says that it is this node is told to control, a few times a second.
    #[cold]
    pub(super) fn refuse_from_uplink(&mut self, medium: Medium, t: &Tunnel, f: Frame, why: Refused) {
        let Refused::Drop(reason) = why else { return self.discard(f, DropReason::EthertypeUnsupported) };
        if let Some(sender) = sender_of(self.pool.data(&f), f.peer, medium, t) {
            self.counters.dropped_of(sender, 1);
        }
        if let Some(claim) = claim::of(self.pool.data(&f), f.peer, medium, reason, t)
            && self.claims.allow(self.now_ms)
        {
            self.notify(Notice::Claimed(claim));
        }
        self.discard(f, reason);
    }

    /// Answers in place, learns the pod's MAC, or drops.
    pub(super) fn arp_from_workload(&mut self, endpoint: &Endpoint, port: PortId, mut f: Frame) {
        let verdict = arp::parse(self.pool.data(&f)).and_then(|a| {
            let owns = |addr: u32| endpoint.addresses.iter().any(|x| u32::from(*x) == addr);
            let verdict = arp::judge(&a, owns)?;
            if owns(a.sender) && endpoint.mac != Some(a.sender_mac) {
                self.notify(Notice::EndpointMac { port, address: a.sender.into(), mac: a.sender_mac });
            }
            Ok((verdict, a))
        });
        match verdict {
            Ok((arp::Verdict::Answer, a)) => {
                f.truncate(arp::FRAME);
                // Whatever offload metadata came with the question does not fit the answer.
                (f.csum, f.gso) = (Csum::Complete, None);
                arp::answer(self.pool.data_mut(&f), &a, Mac::GATEWAY);
                self.enqueue(port, f);
            }
            Ok((arp::Verdict::Ignore, _)) => self.discard(f, DropReason::ArpIgnored),
            Err(reason) => self.discard(f, reason),
        }
    }
}

/// The header's ethertype if it is one that we handle.
#[inline(always)]
fn ether_type(header: &[u8; ether::HEADER]) -> Result<u16, DropReason> {
    match be16(header, 12) {
        t @ (ether::TYPE_IPV4 | ether::TYPE_ARP) => Ok(t),
        ether::TYPE_IPV6 => Err(DropReason::Ipv6Unsupported),
        _ => Err(DropReason::EthertypeUnsupported),
    }
}

/// Validates a packet from a pod and checks that the pod may send it. Returns its length without padding.
#[inline(always)]
fn workload_packet(p: &[u8], endpoint: &Endpoint, t: &Tunnel) -> Result<usize, DropReason> {
    let total = ipv4::validate(p)?;
    if !endpoint.may_send(ipv4::src(p)) {
        return Err(DropReason::SourceSpoofed);
    }
    not_martian(p)?;
    if sends_tunnel(p, total, t) {
        return Err(DropReason::WorkloadTunnel);
    }
    Ok(total)
}

/// Whether the packet is a pod's own VXLAN or IP-in-IP towards a node: a way around policy, unless allowed.
#[inline(always)]
fn sends_tunnel(p: &[u8], total: usize, t: &Tunnel) -> bool {
    match ipv4::proto(p) {
        ipv4::PROTO_UDP => {
            let at = ipv4::header_len(p);
            !t.workloads_may_vxlan
                && !ipv4::is_later_fragment(p)
                && total >= at + 4
                && be16(p, at + 2) == t.port
                && t.nodes.contains(&ipv4::dst(p))
        }
        ipv4::PROTO_IPIP => !t.workloads_may_ipip && t.nodes.contains(&ipv4::dst(p)),
        _ => false,
    }
}

/// The node that a refused frame came from, if it is one that tunnel packets are accepted from.
fn sender_of(frame: &[u8], peer: IpAddr, medium: Medium, t: &Tunnel) -> Option<PeerId> {
    let address = match (medium, peer) {
        (Medium::VxlanUdp, IpAddr::V4(address)) => address.into(),
        (Medium::VxlanUdp, IpAddr::V6(_)) => return None,
        _ => {
            let p = frame.get(if medium == Medium::Ethernet { ether::HEADER } else { 0 }..)?;
            ipv4::validate(p).ok()?;
            ipv4::src(p)
        }
    };
    t.senders.get(&address).copied()
}

/// What comes from another node cannot have this node's own address as its source (RFC 1812, 5.3.8).
#[inline(always)]
fn from_elsewhere(p: &[u8], t: &Tunnel) -> Result<(), DropReason> {
    let src = ipv4::src(p);
    if src == u32::from(t.node) || src == u32::from(t.icmp_source) { Err(DropReason::OwnSource) } else { not_martian(p) }
}

#[inline(always)]
fn not_martian(p: &[u8]) -> Result<(), DropReason> {
    if ipv4::is_martian(ipv4::src(p)) || ipv4::is_martian(ipv4::dst(p)) { Err(DropReason::IpMartian) } else { Ok(()) }
}

/// Metadata may place an unfinished checksum in an outer header, which is gone by now, or be nonsense: then there
/// is nothing to finish.
#[inline(always)]
fn own_checksum_only(f: &mut Frame) {
    if let Csum::Partial { start, offset } = f.csum {
        let (head, start) = (f.head() as usize, start as usize);
        if start < head + ipv4::HEADER || start + usize::from(offset) + 2 > head + f.len() {
            f.csum = Csum::Complete;
        }
    }
}
