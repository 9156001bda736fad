//! Putting a rewrite in front of a packet and filling in the fields that vary.

use crate::fib::adjacency::Rewrite;
use crate::frame::{Frame, FramePool};
use crate::wire::{be16, checksum, ether, flow, ipv4, l4, put16};

use super::rewrite::{VXLAN_ETHERNET, VXLAN_UDP};

/// Offset of the outer IPv4 header in a rewrite for an Ethernet port.
const IP_AT: usize = ether::HEADER;

/// Puts the rewrite's bytes in front.
#[inline(always)]
pub fn plain<'p>(pool: &'p mut FramePool, f: &mut Frame, rewrite: &Rewrite) -> &'p mut [u8] {
    let bytes = rewrite.as_slice();
    let out = pool.push(f, bytes.len());
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

/// VXLAN on an Ethernet port. The frame starts at the inner IP header; `tos` is the outer TOS byte, `id` the
/// outer IP identification.
#[inline(always)]
pub fn vxlan_ethernet(pool: &mut FramePool, f: &mut Frame, rewrite: &Rewrite, tos: u8, id: u16) {
    let port = flow::source_port(f.hash);
    let out = pool.push(f, VXLAN_ETHERNET);
    let total = (out.len() - IP_AT) as u16;
    // Arrays of constant length: the copy is four 16-byte moves, and no store checks a bound.
    let out = out.first_chunk_mut::<VXLAN_ETHERNET>().expect("just pushed");
    *out = *rewrite.array();
    fix_ip(&mut out[IP_AT..], ipv4::check(&rewrite.array()[IP_AT..]), total, id, 0, tos);
    put16(out, IP_AT + ipv4::HEADER, port);
    put16(out, IP_AT + ipv4::HEADER + 4, total - ipv4::HEADER as u16);
}

/// VXLAN on a `VxlanUdp` port: the kernel makes the outer headers from the frame's `peer`, `hash` and `outer_tos`.
#[inline(always)]
pub fn vxlan_udp(pool: &mut FramePool, f: &mut Frame, rewrite: &Rewrite, tos: u8) {
    let out = pool.push(f, VXLAN_UDP);
    out[..VXLAN_UDP].copy_from_slice(&rewrite.array()[..VXLAN_UDP]);
    f.outer_tos = tos;
}

/// IP-in-IP on either medium: the outer IP header is the rewrite's last 20 bytes. DF is copied from the inner
/// header (RFC 2003, 3.1).
#[inline(always)]
pub fn ipip(pool: &mut FramePool, f: &mut Frame, rewrite: &Rewrite, tos: u8, id: u16) {
    let at = rewrite.as_slice().len() - ipv4::HEADER;
    let out = plain(pool, f, rewrite);
    let df = ipv4::frag_word(&out[at + ipv4::HEADER..]) & ipv4::DF;
    let total = (out.len() - at) as u16;
    let ip = &mut out[at..];
    fix_ip(ip, ipv4::check(ip), total, id, df, tos);
}

/// Fills in an outer IPv4 header whose checksum `check` was computed with these fields at zero.
#[inline(always)]
fn fix_ip(ip: &mut [u8], check: u16, total: u16, id: u16, frag: u16, tos: u8) {
    let base = !check;
    ip[1] = tos;
    put16(ip, 2, total);
    put16(ip, 4, id);
    put16(ip, 6, frag);
    let sum = u64::from(base) + u64::from(tos) + u64::from(total) + u64::from(id) + u64::from(frag);
    put16(ip, 10, checksum::finish(sum));
}

/// Finishes the frame's L4 checksum where it lies; `start` is the L4 header's position in the slot.
#[inline]
pub fn finish_checksum(pool: &mut FramePool, f: &Frame, start: u32, offset: u16) {
    let data = pool.data_mut(f);
    let start = (start - f.head()) as usize;
    if start + usize::from(offset) + 2 <= data.len() {
        let total = data.len();
        l4::finish(data, total, start, usize::from(offset));
        debug_assert!(be16(data, start + usize::from(offset)) != 0 || usize::from(offset) != l4::UDP_CHECK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encap::rewrite::{self, MacPair};
    use crate::wire::{Mac, vxlan::Vni};
    use std::net::Ipv4Addr;

    fn inner(pool: &mut FramePool, len: u16, frag: u16) -> Frame {
        let mut f = pool.take().unwrap();
        pool.set_len(&mut f, usize::from(len));
        let h = ipv4::Header { tos: 0b10, len, id: 1, frag, ttl: 63, proto: ipv4::PROTO_UDP, src: 0x0af43841, dst: 0x0af45c81 };
        h.write(&mut pool.data_mut(&f)[..20]);
        f
    }
    const LINK: MacPair = MacPair { dst: Mac([2; 6]), src: Mac([4; 6]) };
    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn vxlan_headers_read_back_by_etherparse() {
        let mut pool = FramePool::new(1, 0).unwrap();
        let mut f = inner(&mut pool, 1450, ipv4::DF);
        f.hash = 0x1234_5678;
        let r = rewrite::vxlan_ethernet(LINK, A, B, 4789, Vni::CALICO, LINK);
        vxlan_ethernet(&mut pool, &mut f, &r, 0b10, 0xbeef);
        let p = etherparse::SlicedPacket::from_ethernet(pool.data(&f)).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = p.net else { panic!("no IPv4") };
        let h = ip.header().to_header();
        assert_eq!(h.header_checksum, h.calc_header_checksum());
        assert_eq!((h.total_len, h.identification, h.dont_fragment, h.time_to_live), (1500, 0xbeef, false, 64));
        assert_eq!((h.ecn.value(), h.dscp.value()), (0b10, 0));
        let Some(etherparse::TransportSlice::Udp(udp)) = p.transport else { panic!("no UDP") };
        assert_eq!((udp.destination_port(), udp.length(), udp.checksum()), (4789, 1480, 0));
        assert_eq!(udp.source_port(), flow::source_port(0x1234_5678));
    }

    #[test]
    fn ipip_copies_df() {
        let mut pool = FramePool::new(1, 0).unwrap();
        for frag in [0, ipv4::DF] {
            let mut f = inner(&mut pool, 100, frag);
            ipip(&mut pool, &mut f, &rewrite::ipip_ip(A, B), 0b10, 7);
            let p = pool.data(&f);
            assert_eq!((ipv4::validate(p), ipv4::frag_word(p), ipv4::proto(p), ipv4::ttl(p)), (Ok(120), frag, 4, 64));
            pool.give(f);
        }
    }
}
