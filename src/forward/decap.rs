//! Stripping tunnel headers, with every check that a receiver owes (RFC 7348, RFC 2003).

use crate::drop::DropReason;
use crate::encap::ecn;
use crate::frame::{Csum, Frame, FramePool};
use crate::snapshot::Tunnel;
use crate::wire::{Mac, be16, checksum, ether, ipv4, l4, vxlan};
use std::net::IpAddr;

/// A frame from the uplink that starts at Ethernet: VXLAN or IP-in-IP for this node. On success the frame
/// starts at the inner IP header.
#[inline]
pub fn ethernet(pool: &mut FramePool, f: &mut Frame, t: &Tunnel) -> Result<(), DropReason> {
    let p = pool.data(f);
    if p.len() < ether::HEADER {
        return Err(DropReason::EthernetTruncated);
    }
    if be16(p, 12) != ether::TYPE_IPV4 {
        return Err(DropReason::OuterNotOurs);
    }
    f.pull(ether::HEADER);
    outer_ip(pool, f, t)
}

/// A frame that starts at the outer IPv4 header.
#[inline]
pub fn outer_ip(pool: &mut FramePool, f: &mut Frame, t: &Tunnel) -> Result<(), DropReason> {
    let p = pool.data(f);
    let total = ipv4::validate(p)?;
    if ipv4::dst(p) != u32::from(t.node) {
        return Err(DropReason::OuterNotOurs);
    }
    if ipv4::is_fragment(p) {
        return Err(DropReason::OuterFragment);
    }
    if !t.senders.contains(&ipv4::src(p)) {
        return Err(DropReason::TunnelSenderUnknown);
    }
    let (header, proto, tos) = (ipv4::header_len(p), ipv4::proto(p), ipv4::tos(p));
    f.truncate(total);
    match proto {
        ipv4::PROTO_UDP => {
            check_udp(pool.data(f), header, t, f.csum)?;
            let length = usize::from(be16(pool.data(f), header + 4));
            f.truncate(header + length);
            f.pull(header + l4::UDP_HEADER);
            vxlan(pool, f, t, tos)
        }
        ipv4::PROTO_IPIP => {
            f.pull(header);
            inner_ip(pool, f, tos)
        }
        _ => Err(DropReason::OuterNotOurs),
    }
}

/// Destination port, length and, when it is not zero, checksum of the outer UDP header.
#[inline(always)]
fn check_udp(p: &[u8], header: usize, t: &Tunnel, csum: Csum) -> Result<(), DropReason> {
    if p.len() < header + l4::UDP_HEADER {
        return Err(DropReason::OuterUdpLength);
    }
    if be16(p, header + 2) != t.port {
        return Err(DropReason::OuterNotOurs);
    }
    let length = usize::from(be16(p, header + 4));
    if length < l4::UDP_HEADER || length > p.len() - header {
        return Err(DropReason::OuterUdpLength);
    }
    let end = header + length;
    if l4::verify(p, end) || (csum != Csum::Complete && left_to_device(p, header, end)) {
        Ok(())
    } else {
        Err(DropReason::OuterUdpChecksum)
    }
}

/// Whether an outer UDP checksum that does not verify was left to a device that is none, as a stock node on the
/// other end of a veth does: it holds the pseudo-header sum only, or it is right for the finished inner packet
/// while that one is unfinished (Linux's `lco_csum`).
#[cold]
fn left_to_device(p: &[u8], header: usize, end: usize) -> bool {
    if l4::unfinished(p, end).is_some() {
        return true;
    }
    let at = header + l4::UDP_HEADER + vxlan::HEADER + ether::HEADER;
    let Some(inner) = p.get(at..end) else { return false };
    let Some((start, offset)) = ipv4::validate(inner).ok().and_then(|total| l4::unfinished(inner, total)) else { return false };
    // From the inner L4 header on, the finished packet sums to the complement of what its field holds now.
    let rest = u64::from(!be16(inner, start + offset));
    checksum::fold(checksum::sum(&p[header..at + start]) + rest + l4::pseudo(p, end)) == 0xffff
}

/// A frame from a `VxlanUdp` port: it starts at the VXLAN header, and the kernel has checked what is before.
#[inline]
pub fn vxlan_udp(pool: &mut FramePool, f: &mut Frame, t: &Tunnel) -> Result<(), DropReason> {
    match f.peer {
        IpAddr::V4(a) if t.senders.contains(&u32::from(a)) => vxlan(pool, f, t, f.outer_tos),
        _ => Err(DropReason::TunnelSenderUnknown),
    }
}

#[inline(always)]
fn vxlan(pool: &mut FramePool, f: &mut Frame, t: &Tunnel, outer_tos: u8) -> Result<(), DropReason> {
    let p = pool.data(f);
    if vxlan::parse(p)? != t.vni {
        return Err(DropReason::VxlanVni);
    }
    if p.len() < vxlan::HEADER + ether::HEADER {
        return Err(DropReason::VxlanTruncated);
    }
    if Mac::read(p, vxlan::HEADER) != t.vtep_mac {
        return Err(DropReason::VxlanInnerMac);
    }
    if be16(p, vxlan::HEADER + 12) != ether::TYPE_IPV4 {
        return Err(DropReason::VxlanInnerType);
    }
    f.pull(vxlan::HEADER + ether::HEADER);
    inner_ip(pool, f, outer_tos)
}

/// Validates the inner IPv4 packet and merges the congestion marks.
#[inline(always)]
fn inner_ip(pool: &mut FramePool, f: &mut Frame, outer_tos: u8) -> Result<(), DropReason> {
    let p = pool.data(f);
    let total = ipv4::validate(p)?;
    let inner_tos = ipv4::tos(p);
    f.truncate(total);
    let merged = ecn::decap(outer_tos, inner_tos)?;
    if merged != inner_tos & ipv4::ECN_MASK {
        ipv4::set_ecn(pool.data_mut(f), merged);
    }
    Ok(())
}
