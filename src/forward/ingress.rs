//! The parse loop: from whatever a port delivers to a validated IPv4 packet that may be forwarded.

use super::{Forwarder, Notice, decap};
use crate::arp;
use crate::drop::DropReason;
use crate::frame::{Csum, Frame, FramePool, PortId};
use crate::port::Medium;
use crate::snapshot::{Endpoint, Snapshot, Tunnel};
use crate::wire::{Mac, be16, ether, ipv4};

impl Forwarder {
    /// A frame from a pod: ARP is answered here; what is returned is a packet from one of the pod's own
    /// addresses.
    pub(super) fn enter_from_workload(
        &mut self,
        snap: &Snapshot,
        endpoint: &Endpoint,
        port: PortId,
        medium: Medium,
        mut f: Frame,
    ) -> Option<Frame> {
        f.port = port;
        if medium == Medium::Ethernet {
            match ether_type(self.pool.data(&f)) {
                Ok(ether::TYPE_IPV4) => {}
                Ok(_) => {
                    self.arp_from_workload(endpoint, port, f);
                    return None;
                }
                Err(reason) => return self.dropped(f, reason),
            }
            if Mac::read(self.pool.data(&f), 0) != Mac::GATEWAY {
                let group = Mac::read(self.pool.data(&f), 0).is_group();
                return self.dropped(f, if group { DropReason::IpMartian } else { DropReason::NotForUs });
            }
            f.pull(ether::HEADER);
        }
        match workload_packet(&self.pool, &mut f, endpoint, &snap.tunnel) {
            Ok(()) => Some(f),
            Err(reason) => self.dropped(f, reason),
        }
    }

    /// A frame from the underlay: what is returned is the inner packet of a tunnel packet for us.
    pub(super) fn enter_from_uplink(&mut self, snap: &Snapshot, medium: Medium, mut f: Frame) -> Option<Frame> {
        let stripped = match medium {
            Medium::Ethernet => decap::ethernet(&mut self.pool, &mut f, &snap.tunnel),
            Medium::Ip => decap::outer_ip(&mut self.pool, &mut f, &snap.tunnel),
            Medium::VxlanUdp => decap::vxlan_udp(&mut self.pool, &mut f, &snap.tunnel),
        };
        match stripped.and_then(|()| from_elsewhere(self.pool.data(&f), &snap.tunnel)) {
            Ok(()) => Some(f),
            Err(reason) => self.dropped(f, reason),
        }
    }

    /// A packet from the host stack.
    pub(super) fn enter_from_host(&mut self, medium: Medium, mut f: Frame) -> Option<Frame> {
        debug_assert_eq!(medium, Medium::Ip, "the host device is a TUN");
        let p = self.pool.data(&f);
        let checked = match p.first().map(|b| b >> 4) {
            Some(6) => Err(DropReason::Ipv6Unsupported),
            _ => ipv4::validate(p).and_then(|total| not_martian(p).map(|()| total)),
        };
        match checked {
            Ok(total) => {
                f.truncate(total);
                Some(f)
            }
            Err(reason) => self.dropped(f, reason),
        }
    }

    fn dropped(&mut self, f: Frame, reason: DropReason) -> Option<Frame> {
        self.discard(f, reason);
        None
    }

    /// Answers in place, learns the pod's MAC, or drops.
    fn arp_from_workload(&mut self, endpoint: &Endpoint, port: PortId, mut f: Frame) {
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

/// The frame's ethertype if it is one that we handle.
#[inline(always)]
fn ether_type(p: &[u8]) -> Result<u16, DropReason> {
    if p.len() < ether::HEADER {
        return Err(DropReason::EthernetTruncated);
    }
    match be16(p, 12) {
        t @ (ether::TYPE_IPV4 | ether::TYPE_ARP) => Ok(t),
        ether::TYPE_IPV6 => Err(DropReason::Ipv6Unsupported),
        _ => Err(DropReason::EthertypeUnsupported),
    }
}

/// Validates a packet from a pod, cuts padding, and checks that the pod may send it.
#[inline(always)]
fn workload_packet(pool: &FramePool, f: &mut Frame, endpoint: &Endpoint, t: &Tunnel) -> Result<(), DropReason> {
    let p = pool.data(f);
    let total = ipv4::validate(p)?;
    if !endpoint.may_send(ipv4::src(p)) {
        return Err(DropReason::SourceSpoofed);
    }
    not_martian(p)?;
    if sends_tunnel(p, total, t) {
        return Err(DropReason::WorkloadTunnel);
    }
    f.truncate(total);
    Ok(())
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

/// What comes from another node cannot have this node's own address as its source (RFC 1812, 5.3.8).
#[inline(always)]
fn from_elsewhere(p: &[u8], t: &Tunnel) -> Result<(), DropReason> {
    let src = ipv4::src(p);
    if src == u32::from(t.node) || src == u32::from(t.icmp_source) { Err(DropReason::IpMartian) } else { not_martian(p) }
}

#[inline(always)]
fn not_martian(p: &[u8]) -> Result<(), DropReason> {
    if ipv4::is_martian(ipv4::src(p)) || ipv4::is_martian(ipv4::dst(p)) { Err(DropReason::IpMartian) } else { Ok(()) }
}
