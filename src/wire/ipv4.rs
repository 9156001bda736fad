//! IPv4 header fields (RFC 791). Slices start at the first byte of the header.

use super::{be16, be32, checksum, put16, put32};
use crate::drop::DropReason;

/// Length of a header without options, bytes.
pub const HEADER: usize = 20;
pub const PROTO_ICMP: u8 = 1;
pub const PROTO_IPIP: u8 = 4;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_UDP: u8 = 17;
/// Don't Fragment, in the flags and fragment offset word.
pub const DF: u16 = 0x4000;
/// More Fragments, in the same word.
pub const MF: u16 = 0x2000;
/// Mask of the fragment offset, in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;
/// The congestion bits of the TOS byte (RFC 3168).
pub const ECN_MASK: u8 = 0b11;

#[inline(always)]
pub fn header_len(p: &[u8]) -> usize {
    usize::from(p[0] & 0x0f) * 4
}
#[inline(always)]
pub fn tos(p: &[u8]) -> u8 {
    p[1]
}
#[inline(always)]
pub fn total_len(p: &[u8]) -> usize {
    usize::from(be16(p, 2))
}
#[inline(always)]
pub fn id(p: &[u8]) -> u16 {
    be16(p, 4)
}
/// The flags and fragment offset word.
#[inline(always)]
pub fn frag_word(p: &[u8]) -> u16 {
    be16(p, 6)
}
#[inline(always)]
pub fn dont_fragment(p: &[u8]) -> bool {
    frag_word(p) & DF != 0
}
/// Whether the packet is a fragment (first, middle or last).
#[inline(always)]
pub fn is_fragment(p: &[u8]) -> bool {
    frag_word(p) & (MF | OFFSET_MASK) != 0
}
/// Whether the packet lacks the L4 header because it is a later fragment.
#[inline(always)]
pub fn is_later_fragment(p: &[u8]) -> bool {
    frag_word(p) & OFFSET_MASK != 0
}
#[inline(always)]
pub fn ttl(p: &[u8]) -> u8 {
    p[8]
}
#[inline(always)]
pub fn proto(p: &[u8]) -> u8 {
    p[9]
}
#[inline(always)]
pub fn check(p: &[u8]) -> u16 {
    be16(p, 10)
}
#[inline(always)]
pub fn src(p: &[u8]) -> u32 {
    be32(p, 12)
}
#[inline(always)]
pub fn dst(p: &[u8]) -> u32 {
    be32(p, 16)
}

/// Checks version, lengths and header checksum (RFC 1812, 5.2.2) and returns the packet's total length,
/// which may be shorter than `p` (Ethernet padding).
#[inline(always)]
pub fn validate(p: &[u8]) -> Result<usize, DropReason> {
    let Some(h) = p.first_chunk::<HEADER>() else { return Err(DropReason::IpTruncated) };
    if h[0] != 0x45 {
        return validate_any(p);
    }
    let total = total_len(h);
    if total < HEADER || p.len() < total {
        return Err(DropReason::IpTruncated);
    }
    if checksum::fold(plain_sum(h)) != 0xffff {
        return Err(DropReason::IpChecksum);
    }
    Ok(total)
}

/// The same for what is not a header without options.
#[cold]
fn validate_any(p: &[u8]) -> Result<usize, DropReason> {
    let header = header_len(p);
    if p[0] >> 4 != 4 || header < HEADER {
        return Err(DropReason::IpMalformed);
    }
    let total = total_len(p);
    if total < header || p.len() < total {
        return Err(DropReason::IpTruncated);
    }
    if checksum::fold(checksum::sum(&p[..header])) != 0xffff {
        return Err(DropReason::IpChecksum);
    }
    Ok(total)
}

/// Sum of a header without options in the machine's byte order: whether it folds to 0xffff does not depend on
/// the order (RFC 1071, 2(B)).
#[inline(always)]
fn plain_sum(h: &[u8; HEADER]) -> u64 {
    let word = |at: usize| u64::from(u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]));
    word(0) + word(4) + word(8) + word(12) + word(16)
}

/// Sum over the header; five adds when there are no options, which is nearly always.
#[inline(always)]
fn header_sum(p: &[u8], header: usize) -> u64 {
    if header == HEADER {
        let p: &[u8; HEADER] = p[..HEADER].try_into().expect("length checked");
        return u64::from(be32(p, 0)) + u64::from(be32(p, 4)) + u64::from(be32(p, 8)) + u64::from(be32(p, 12)) + u64::from(be32(p, 16));
    }
    checksum::sum(&p[..header])
}

/// Decrements the TTL and updates the checksum by RFC 1624; the TTL must not be zero. What the header loses, the
/// checksum gains, with end-around carry.
#[inline(always)]
pub fn decrement_ttl(p: &mut [u8]) {
    let c = u32::from(check(p)) + 0x0100;
    p[8] -= 1;
    put16(p, 10, (c + u32::from(c >= 0xffff)) as u16);
}

/// Replaces the congestion bits and updates the checksum.
#[inline(always)]
pub fn set_ecn(p: &mut [u8], ecn: u8) {
    let old = be16(p, 0);
    p[1] = (p[1] & !ECN_MASK) | ecn;
    let c = checksum::update(check(p), old, be16(p, 0));
    put16(p, 10, c);
}

/// Computes and writes the header checksum.
#[inline]
pub fn write_checksum(p: &mut [u8]) {
    put16(p, 10, 0);
    let header = header_len(p);
    let c = checksum::finish(header_sum(p, header));
    put16(p, 10, c);
}

/// The fields of a header without options, for headers that are built once.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub tos: u8,
    /// Total length, bytes.
    pub len: u16,
    pub id: u16,
    /// Flags and fragment offset word.
    pub frag: u16,
    pub ttl: u8,
    pub proto: u8,
    /// Addresses, host order.
    pub src: u32,
    pub dst: u32,
}

impl Header {
    /// Writes the 20 bytes with a correct checksum.
    pub fn write(&self, p: &mut [u8]) {
        p[0] = 0x45;
        p[1] = self.tos;
        put16(p, 2, self.len);
        put16(p, 4, self.id);
        put16(p, 6, self.frag);
        p[8] = self.ttl;
        p[9] = self.proto;
        put16(p, 10, 0);
        put32(p, 12, self.src);
        put32(p, 16, self.dst);
        write_checksum(p);
    }
}

/// Addresses that no router forwards to or from: 0/8, 127/8, multicast, reserved and limited broadcast
/// (RFC 1812, 5.3.7).
#[inline(always)]
pub const fn is_martian(addr: u32) -> bool {
    let top = addr >> 24;
    // The first and the last range in one comparison.
    top.wrapping_sub(1) >= 223 || top == 127
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> [u8; 20] {
        let mut p = [0u8; 20];
        Header { tos: 0, len: 20, id: 7, frag: DF, ttl: 64, proto: PROTO_UDP, src: 0x0af43841, dst: 0x0af45c81 }.write(&mut p);
        p
    }

    #[test]
    fn written_header_validates() {
        assert_eq!(validate(&header()), Ok(20));
    }

    #[test]
    fn damage_is_named() {
        let mut p = header();
        assert_eq!(validate(&p[..19]), Err(DropReason::IpTruncated));
        p[8] ^= 1;
        assert_eq!(validate(&p), Err(DropReason::IpChecksum));
        p = header();
        p[0] = 0x44;
        assert_eq!(validate(&p), Err(DropReason::IpMalformed));
        p = header();
        put16(&mut p, 2, 21);
        assert_eq!(validate(&p), Err(DropReason::IpTruncated));
    }

    #[test]
    fn decrementing_is_rfc1624_for_every_checksum() {
        let mut p = header();
        for check in 0..=u16::MAX {
            put16(&mut p, 8, 0x4011);
            put16(&mut p, 10, check);
            decrement_ttl(&mut p);
            assert_eq!((be16(&p, 8), super::check(&p)), (0x3f11, checksum::update(check, 0x4011, 0x3f11)), "{check:04x}");
        }
    }

    #[test]
    fn martians_are_the_four_ranges() {
        for top in 0..=255u32 {
            assert_eq!(is_martian(top << 24 | 1), top == 0 || top == 127 || top >= 224, "{top}");
        }
    }

    #[test]
    fn ttl_and_ecn_keep_the_checksum_right() {
        let mut p = header();
        for _ in 0..64 {
            decrement_ttl(&mut p);
            assert_eq!(validate(&p), Ok(20));
        }
        assert_eq!(ttl(&p), 0);
        for ecn in 0..4 {
            set_ecn(&mut p, ecn);
            assert_eq!((tos(&p), validate(&p)), (ecn, Ok(20)));
        }
    }
}
