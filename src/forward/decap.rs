//! Stripping tunnel headers, with every check that a receiver owes (RFC 7348, RFC 2003).

use crate::drop::DropReason;
use crate::encap::ecn;
use crate::fib::PeerId;
use crate::frame::{Csum, Frame, FramePool};
use crate::snapshot::Tunnel;
use crate::wire::{Mac, be16, checksum, ether, ipv4, l4, vxlan};
use std::net::IpAddr;

/// A frame from the uplink that starts at Ethernet: VXLAN or IP-in-IP for this node. On success the frame
/// starts at the inner IP header; returns who sent it.
#[inline]
pub fn ethernet(pool: &mut FramePool, f: &mut Frame, t: &Tunnel) -> Result<PeerId, DropReason> {
    let Some((header, p)) = pool.data(f).split_first_chunk::<{ ether::HEADER }>() else { return Err(DropReason::EthernetTruncated) };
    if be16(header, 12) != ether::TYPE_IPV4 {
        return Err(DropReason::OuterNotOurs);
    }
    let inner = outer(p, f.csum, t)?;
    strip(pool, f, Inner { at: ether::HEADER + inner.at, ..inner })
}

/// A frame that starts at the outer IPv4 header.
#[inline]
pub fn outer_ip(pool: &mut FramePool, f: &mut Frame, t: &Tunnel) -> Result<PeerId, DropReason> {
    let inner = outer(pool.data(f), f.csum, t)?;
    strip(pool, f, inner)
}

/// Where the inner packet lies behind the first byte looked at, and what the outer header says of congestion.
#[derive(Clone, Copy)]
struct Inner {
    at: usize,
    /// Bytes up to the end of what carries it.
    len: usize,
    outer_tos: u8,
    sender: PeerId,
}

/// The checks of the outer headers, from IPv4 on.
#[inline(always)]
fn outer(p: &[u8], csum: Csum, t: &Tunnel) -> Result<Inner, DropReason> {
    let total = ipv4::validate(p)?;
    if ipv4::dst(p) != u32::from(t.node) {
        return Err(DropReason::OuterNotOurs);
    }
    if ipv4::is_fragment(p) {
        return Err(DropReason::OuterFragment);
    }
    let Some(&sender) = t.senders.get(&ipv4::src(p)) else { return Err(DropReason::TunnelSenderUnknown) };
    let (header, outer_tos) = (ipv4::header_len(p), ipv4::tos(p));
    let p = &p[..total];
    match ipv4::proto(p) {
        ipv4::PROTO_UDP => {
            let end = check_udp(p, header, t, csum)?;
            let at = header + l4::UDP_HEADER;
            check_vxlan(&p[at..end], t)?;
            let at = at + vxlan::HEADER + ether::HEADER;
            Ok(Inner { at, len: end - at, outer_tos, sender })
        }
        ipv4::PROTO_IPIP => Ok(Inner { at: header, len: total - header, outer_tos, sender }),
        _ => Err(DropReason::OuterNotOurs),
    }
}

/// Destination port, length and, when it is not zero, checksum of the outer UDP header. Returns where the
/// datagram ends.
#[inline(always)]
fn check_udp(p: &[u8], header: usize, t: &Tunnel, csum: Csum) -> Result<usize, DropReason> {
    let Some(udp) = p[header..].first_chunk::<{ l4::UDP_HEADER }>() else { return Err(DropReason::OuterUdpLength) };
    if be16(udp, 2) != t.port {
        return Err(DropReason::OuterNotOurs);
    }
    let length = usize::from(be16(udp, 4));
    if length < l4::UDP_HEADER || length > p.len() - header {
        return Err(DropReason::OuterUdpLength);
    }
    let end = header + length;
    if be16(udp, l4::UDP_CHECK) == 0 || l4::verify(p, end) || (csum != Csum::Complete && left_to_device(p, header, end)) {
        Ok(end)
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
pub fn vxlan_udp(pool: &mut FramePool, f: &mut Frame, t: &Tunnel) -> Result<PeerId, DropReason> {
    let known = if let IpAddr::V4(a) = f.peer { t.senders.get(&u32::from(a)) } else { None };
    let Some(&sender) = known else { return Err(DropReason::TunnelSenderUnknown) };
    let p = pool.data(f);
    check_vxlan(p, t)?;
    let at = vxlan::HEADER + ether::HEADER;
    let inner = Inner { at, len: p.len() - at, outer_tos: f.outer_tos, sender };
    strip(pool, f, inner)
}

/// VXLAN and inner Ethernet headers.
#[inline(always)]
fn check_vxlan(p: &[u8], t: &Tunnel) -> Result<(), DropReason> {
    if vxlan::parse(p)? != t.vni {
        return Err(DropReason::VxlanVni);
    }
    let Some(inner) = p[vxlan::HEADER..].first_chunk::<{ ether::HEADER }>() else { return Err(DropReason::VxlanTruncated) };
    if Mac::read(inner, 0) != t.vtep_mac {
        return Err(DropReason::VxlanInnerMac);
    }
    if be16(inner, 12) != ether::TYPE_IPV4 {
        return Err(DropReason::VxlanInnerType);
    }
    Ok(())
}

/// Validates the inner IPv4 packet, cuts the frame to it and merges the congestion marks.
#[inline(always)]
fn strip(pool: &mut FramePool, f: &mut Frame, inner: Inner) -> Result<PeerId, DropReason> {
    let p = &pool.data(f)[inner.at..inner.at + inner.len];
    let total = ipv4::validate(p)?;
    let inner_tos = ipv4::tos(p);
    f.pull(inner.at);
    f.truncate(total);
    let merged = ecn::decap(inner.outer_tos, inner_tos)?;
    if merged != inner_tos & ipv4::ECN_MASK {
        ipv4::set_ecn(pool.data_mut(f), merged);
    }
    Ok(inner.sender)
}
