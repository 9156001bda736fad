//! The constant bytes in front of a packet, per encapsulation and medium. Fields that vary per packet are zero
//! and the IPv4 checksum is that of the header with those fields at zero.

use crate::fib::Rewrite;
use crate::wire::{Mac, ether, ipv4, l4, put16, vxlan, vxlan::Vni};
use std::net::Ipv4Addr;

/// TTL of outer headers: what Linux's VXLAN device uses and calico's nodes send.
pub const OUTER_TTL: u8 = 64;
/// Outer UDP, VXLAN and inner Ethernet: what VXLAN adds behind the outer IPv4 header.
const VXLAN_BEHIND_IP: usize = l4::UDP_HEADER + vxlan::HEADER + ether::HEADER;
/// Length of the VXLAN rewrite on an Ethernet port.
pub const VXLAN_ETHERNET: usize = ether::HEADER + ipv4::HEADER + VXLAN_BEHIND_IP;
/// Length of the VXLAN rewrite on a `VxlanUdp` port: VXLAN and inner Ethernet.
pub const VXLAN_UDP: usize = vxlan::HEADER + ether::HEADER;
/// Bytes that VXLAN over IPv4 adds to a packet, outer IPv4 header included.
pub const VXLAN_OVERHEAD: u16 = (ipv4::HEADER + VXLAN_BEHIND_IP) as u16;
/// Bytes that IP-in-IP adds.
pub const IPIP_OVERHEAD: u16 = ipv4::HEADER as u16;

fn outer(proto: u8, node: Ipv4Addr, peer: Ipv4Addr) -> ipv4::Header {
    ipv4::Header { tos: 0, len: 0, id: 0, frag: 0, ttl: OUTER_TTL, proto, src: node.into(), dst: peer.into() }
}

/// The two MACs in front of a frame: where it goes and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacPair {
    pub dst: Mac,
    pub src: Mac,
}

/// VXLAN (RFC 7348) with all outer layers, for an Ethernet port. `link` are the underlay's MACs, `vtep` the
/// remote and the own VTEP MAC in the inner header. UDP checksum zero.
pub fn vxlan_ethernet(link: MacPair, node: Ipv4Addr, peer: Ipv4Addr, port: u16, vni: Vni, vtep: MacPair) -> Rewrite {
    let mut b = [0u8; VXLAN_ETHERNET];
    ether::write(&mut b, link.dst, link.src, ether::TYPE_IPV4);
    outer(ipv4::PROTO_UDP, node, peer).write(&mut b[14..34]);
    put16(&mut b, 36, port);
    b[42..].copy_from_slice(vxlan_udp(vni, vtep).as_slice());
    Rewrite::new(&b)
}

/// VXLAN and inner Ethernet only, for a port whose kernel makes outer IP and UDP.
pub fn vxlan_udp(vni: Vni, vtep: MacPair) -> Rewrite {
    let mut b = [0u8; VXLAN_UDP];
    vxlan::write(&mut b, vni);
    ether::write(&mut b[8..], vtep.dst, vtep.src, ether::TYPE_IPV4);
    Rewrite::new(&b)
}

/// IP-in-IP (RFC 2003) with Ethernet.
pub fn ipip_ethernet(link: MacPair, node: Ipv4Addr, peer: Ipv4Addr) -> Rewrite {
    let mut b = [0u8; ether::HEADER + ipv4::HEADER];
    ether::write(&mut b, link.dst, link.src, ether::TYPE_IPV4);
    outer(ipv4::PROTO_IPIP, node, peer).write(&mut b[14..]);
    Rewrite::new(&b)
}

/// IP-in-IP for a raw IP socket.
pub fn ipip_ip(node: Ipv4Addr, peer: Ipv4Addr) -> Rewrite {
    let mut b = [0u8; ipv4::HEADER];
    outer(ipv4::PROTO_IPIP, node, peer).write(&mut b);
    Rewrite::new(&b)
}

/// An Ethernet header before an IPv4 packet: delivery to a pod, or unencapsulated routing.
pub fn ethernet(link: MacPair) -> Rewrite {
    let mut b = [0u8; ether::HEADER];
    ether::write(&mut b, link.dst, link.src, ether::TYPE_IPV4);
    Rewrite::new(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vxlan_golden_bytes() {
        let link = MacPair { dst: Mac([2, 0, 0, 0, 0, 2]), src: Mac([2, 0, 0, 0, 0, 1]) };
        let vtep = MacPair { dst: "66:aa:99:2f:dc:24".parse().unwrap(), src: "66:b6:a5:9d:e1:c9".parse().unwrap() };
        let r = vxlan_ethernet(link, Ipv4Addr::new(192, 168, 3, 110), Ipv4Addr::new(192, 168, 3, 111), 4789, Vni::CALICO, vtep);
        let want = "020000000002020000000001080045000000000000004011f2cac0a8036ec0a8036f000012b5000000000800000000100000\
                    66aa992fdc2466b6a59de1c90800";
        let hex = hex::encode(r.as_slice());
        // The checksum at 24..26 covers length and id zero; everything else is literal.
        assert_eq!(hex.len(), want.len());
        assert_eq!((&hex[..48], &hex[52..]), (&want[..48], &want[52..]));
        assert_eq!(crate::wire::checksum::fold(crate::wire::checksum::sum(&r.as_slice()[14..34])), 0xffff);
        assert_eq!(VXLAN_OVERHEAD, 50);
    }
}
