//! TCP and UDP checksums over IPv4, whole and unfinished.
//!
//! A sender with checksum offload leaves only the folded pseudo-header sum in the field and expects the
//! device to add the rest. A veth pair is such a device in name only: it passes the packet on unfinished.

use super::{be16, checksum, ipv4, put16};

/// Offset of the checksum field in a TCP header.
pub const TCP_CHECK: usize = 16;
/// Offset of the checksum field in a UDP header.
pub const UDP_CHECK: usize = 6;
/// Length of a UDP header.
pub const UDP_HEADER: usize = 8;

/// Where a packet's L4 checksum lies: (start of the L4 header, offset of the field from there), both in bytes
/// and from the IP header's first byte. `None` for other protocols, fragments and packets too short to have one.
#[inline(always)]
pub fn checksum_at(p: &[u8], total: usize) -> Option<(usize, usize)> {
    if ipv4::is_fragment(p) {
        return None;
    }
    let start = ipv4::header_len(p);
    let (offset, min) = match ipv4::proto(p) {
        ipv4::PROTO_TCP => (TCP_CHECK, 20),
        ipv4::PROTO_UDP => (UDP_CHECK, UDP_HEADER),
        _ => return None,
    };
    (total >= start + min).then_some((start, offset))
}

/// The pseudo-header sum of the packet, not folded.
#[inline(always)]
pub fn pseudo(p: &[u8], total: usize) -> u64 {
    checksum::pseudo_v4(ipv4::src(p), ipv4::dst(p), ipv4::proto(p), (total - ipv4::header_len(p)) as u32)
}

/// If the packet's L4 checksum is unfinished (the field holds just the pseudo-header sum), where it lies.
///
/// A finished checksum looks like this once in 65,536; finishing it again then gives the same value.
#[inline]
pub fn unfinished(p: &[u8], total: usize) -> Option<(usize, usize)> {
    let (start, offset) = checksum_at(p, total)?;
    (be16(p, start + offset) == checksum::fold(pseudo(p, total))).then_some((start, offset))
}

/// Finishes an unfinished checksum: sums from `start` to `total`, whose field at `start + offset` holds the
/// pseudo-header sum. A UDP result of zero is sent as all ones (RFC 768).
#[inline]
pub fn finish(p: &mut [u8], total: usize, start: usize, offset: usize) {
    let c = checksum::finish(checksum::sum(&p[start..total]));
    let udp = offset == UDP_CHECK;
    put16(p, start + offset, if udp && c == 0 { 0xffff } else { c });
}

/// Writes the whole checksum anew, whatever the field held.
pub fn write(p: &mut [u8], total: usize) {
    if let Some((start, offset)) = checksum_at(p, total) {
        let seed = checksum::fold(pseudo(p, total));
        put16(p, start + offset, seed);
        finish(p, total, start, offset);
    }
}

/// Whether the packet's L4 checksum is right; true where there is none to check (UDP zero, other protocols).
pub fn verify(p: &[u8], total: usize) -> bool {
    let Some((start, offset)) = checksum_at(p, total) else { return true };
    if offset == UDP_CHECK && be16(p, start + offset) == 0 {
        return true;
    }
    checksum::fold(checksum::sum(&p[start..total]) + pseudo(p, total)) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(payload: &[u8]) -> Vec<u8> {
        let total = 28 + payload.len();
        let mut p = vec![0u8; total];
        ipv4::Header { tos: 0, len: total as u16, id: 0, frag: 0, ttl: 64, proto: ipv4::PROTO_UDP, src: 0x0a000001, dst: 0x0a000002 }
            .write(&mut p);
        put16(&mut p, 20, 1000);
        put16(&mut p, 22, 2000);
        put16(&mut p, 24, (8 + payload.len()) as u16);
        p[28..].copy_from_slice(payload);
        p
    }

    #[test]
    fn unfinished_is_seen_and_finished() {
        let mut p = udp(b"hello");
        let total = p.len();
        write(&mut p, total);
        assert!(verify(&p, total));
        assert_eq!(unfinished(&p, total), None);
        let whole = p.clone();
        let seed = checksum::fold(pseudo(&p, total));
        put16(&mut p, 26, seed);
        assert_eq!(unfinished(&p, total), Some((20, 6)));
        assert!(!verify(&p, total));
        finish(&mut p, total, 20, 6);
        assert_eq!(p, whole);
    }

    #[test]
    fn fragments_and_other_protocols_have_none() {
        let mut p = udp(b"hello");
        put16(&mut p, 6, ipv4::MF);
        assert_eq!(checksum_at(&p, 33), None);
        put16(&mut p, 6, 0);
        p[9] = ipv4::PROTO_ICMP;
        assert_eq!(checksum_at(&p, 33), None);
        p[9] = ipv4::PROTO_TCP;
        assert_eq!(checksum_at(&p, 33), None);
    }
}
