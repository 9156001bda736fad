//! Who else on the underlay says that it is this node: looked for in packets that are refused in any case.

use crate::drop::DropReason;
use crate::port::Medium;
use crate::snapshot::Tunnel;
use crate::wire::{Mac, be16, ether, ipv4, l4, vxlan};
use std::net::{IpAddr, Ipv4Addr};

/// Which of this node's identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// Its underlay address, as an outer or inner source.
    NodeAddress,
    /// Its tunnel address, as an inner source.
    TunnelAddress,
    /// Its VTEP MAC, as an inner source.
    VtepMac,
}

/// One packet's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub identity: Identity,
    /// Outer source address.
    pub sender: Ipv4Addr,
    /// Outer source MAC, where the port shows it.
    pub mac: Option<Mac>,
}

/// Claims told per second and worker.
const PER_SECOND: u32 = 8;

/// Keeps a stream of such packets from being a stream of notices.
#[derive(Debug, Default)]
pub struct Limiter {
    second: u64,
    told: u32,
}

impl Limiter {
    /// Whether one more may be told at time `now_ms`.
    pub fn allow(&mut self, now_ms: u64) -> bool {
        if now_ms / 1000 != self.second {
            *self = Limiter { second: now_ms / 1000, told: 0 };
        }
        self.told += 1;
        self.told <= PER_SECOND
    }
}

/// What a refused frame claims. `frame` starts where the port's medium does; `peer` is the sender where the kernel
/// took the outer headers away.
pub fn of(frame: &[u8], peer: IpAddr, medium: Medium, reason: DropReason, t: &Tunnel) -> Option<Claim> {
    if !matches!(reason, DropReason::TunnelSenderUnknown | DropReason::OwnSource | DropReason::VxlanOwnMac) || t.node.is_unspecified() {
        return None;
    }
    if medium == Medium::VxlanUdp {
        let IpAddr::V4(sender) = peer else { return None };
        return Some(Claim { identity: in_vxlan(frame, t)?, sender, mac: None });
    }
    let at = if medium == Medium::Ethernet { ether::HEADER } else { 0 };
    let mac = (medium == Medium::Ethernet && frame.len() >= at).then(|| Mac::read(frame, 6));
    let packet = frame.get(at..)?;
    ipv4::validate(packet).ok()?;
    let sender = Ipv4Addr::from(ipv4::src(packet));
    if sender == t.node {
        return Some(Claim { identity: Identity::NodeAddress, sender, mac });
    }
    let inner = packet.get(ipv4::header_len(packet)..)?;
    let identity = match ipv4::proto(packet) {
        ipv4::PROTO_UDP if inner.len() >= l4::UDP_HEADER && be16(inner, 2) == t.port => in_vxlan(&inner[l4::UDP_HEADER..], t)?,
        ipv4::PROTO_IPIP => in_ip(inner, t)?,
        _ => return None,
    };
    Some(Claim { identity, sender, mac })
}

fn in_vxlan(p: &[u8], t: &Tunnel) -> Option<Identity> {
    if vxlan::parse(p).ok()? != t.vni {
        return None;
    }
    let (header, packet) = p.get(vxlan::HEADER..)?.split_first_chunk::<{ ether::HEADER }>()?;
    if Mac::read(header, 6) == t.vtep_mac {
        return Some(Identity::VtepMac);
    }
    if be16(header, 12) == ether::TYPE_IPV4 { in_ip(packet, t) } else { None }
}

fn in_ip(p: &[u8], t: &Tunnel) -> Option<Identity> {
    ipv4::validate(p).ok()?;
    match Ipv4Addr::from(ipv4::src(p)) {
        a if a == t.node => Some(Identity::NodeAddress),
        a if a == t.icmp_source => Some(Identity::TunnelAddress),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_a_second() {
        let mut l = Limiter::default();
        let told = |l: &mut Limiter, ms| (0..100).filter(|_| l.allow(ms)).count();
        assert_eq!((told(&mut l, 0), told(&mut l, 999), told(&mut l, 1000), told(&mut l, 60_000)), (8, 0, 8, 8));
    }
}
