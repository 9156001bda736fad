//! ICMP errors that a router owes (RFC 792, RFC 1812): who may get one, what it holds, how many per second.

use crate::wire::{checksum, ipv4, put16};
use std::net::Ipv4Addr;

/// Which error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Type 11 code 0: the TTL ran out here.
    TimeExceeded,
    /// Type 3 code 4 with the next hop's MTU (RFC 1191).
    FragmentationNeeded { mtu: u16 },
}

impl Error {
    const fn type_code(self) -> (u8, u8) {
        match self {
            Error::TimeExceeded => (11, 0),
            Error::FragmentationNeeded { .. } => (3, 4),
        }
    }
}

/// Longest error packet (RFC 1812, 4.3.2.3).
pub const MAX_LEN: usize = 576;
const HEADER: usize = 8;
/// Precedence "internetwork control", as routers send errors (RFC 1812, 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;
/// The service bits that an error shares with its offender (RFC 1812, 4.3.2.4), the congestion bits left out:
/// an error is not ECN-capable (RFC 3168, 6.1).
const SERVICE_MASK: u8 = 0x1c;

/// Whether an error may be sent about this packet (RFC 1812, 4.3.2.7): never about ICMP errors, later
/// fragments, or packets to or from an address that does not name one host. `p` starts at a validated header.
pub fn may_answer(p: &[u8]) -> bool {
    let (src, dst) = (ipv4::src(p), ipv4::dst(p));
    if ipv4::is_later_fragment(p) || ipv4::is_martian(src) || ipv4::is_martian(dst) {
        return false;
    }
    // Queries and replies may be answered, everything else of ICMP may be an error.
    let is_error = ipv4::proto(p) == ipv4::PROTO_ICMP
        && p.get(ipv4::header_len(p)).is_none_or(|kind| !matches!(kind, 0 | 8 | 9 | 10 | 13 | 14 | 15 | 16 | 17 | 18));
    !is_error
}

/// Length of the error about `offender`.
pub fn error_len(offender: &[u8]) -> usize {
    (ipv4::HEADER + HEADER + offender.len()).min(MAX_LEN)
}

/// Writes the error about `offender` (a validated IPv4 packet) from `source` into `out`, which is
/// [`error_len`] bytes long.
pub fn write_error(error: Error, source: Ipv4Addr, id: u16, offender: &[u8], out: &mut [u8]) {
    let header = ipv4::Header {
        tos: PRECEDENCE | (ipv4::tos(offender) & SERVICE_MASK),
        len: out.len() as u16,
        id,
        frag: 0,
        ttl: 64,
        proto: ipv4::PROTO_ICMP,
        src: source.into(),
        dst: ipv4::src(offender),
    };
    header.write(out);
    let icmp = &mut out[ipv4::HEADER..];
    let (kind, code) = error.type_code();
    icmp[..HEADER].copy_from_slice(&[kind, code, 0, 0, 0, 0, 0, 0]);
    if let Error::FragmentationNeeded { mtu } = error {
        put16(icmp, 6, mtu);
    }
    let quoted = icmp.len() - HEADER;
    icmp[HEADER..].copy_from_slice(&offender[..quoted]);
    let check = checksum::finish(checksum::sum(icmp));
    put16(icmp, 2, check);
}

/// A token bucket over a coarse millisecond clock.
#[derive(Clone, Debug)]
pub struct Limiter {
    tokens: u32,
    last_ms: u64,
}

/// Errors per second and worker, and how many may come at once (Linux's global limit of old).
const PER_SECOND: u64 = 1000;
const BURST: u32 = 50;

impl Default for Limiter {
    fn default() -> Limiter {
        Limiter { tokens: BURST, last_ms: 0 }
    }
}

impl Limiter {
    /// Whether one more may be sent at time `now_ms`.
    pub fn allow(&mut self, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.last_ms) * PER_SECOND / 1000;
        if gained > 0 {
            self.tokens = self.tokens.saturating_add(gained.min(u64::from(BURST)) as u32).min(BURST);
            self.last_ms = now_ms;
        }
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offender(proto: u8, frag: u16, dst: u32, l4: &[u8]) -> Vec<u8> {
        let mut p = vec![0u8; 20 + l4.len()];
        let len = p.len() as u16;
        ipv4::Header { tos: 0, len, id: 3, frag, ttl: 1, proto, src: 0x0af43841, dst }.write(&mut p);
        p[20..].copy_from_slice(l4);
        p
    }

    #[test]
    fn errors_read_back_by_etherparse() {
        let p = offender(17, ipv4::DF, 0x0af45c81, &[7; 1000]);
        for (e, want) in [
            (Error::TimeExceeded, etherparse::Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit)),
            (
                Error::FragmentationNeeded { mtu: 1450 },
                etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1450,
                }),
            ),
        ] {
            let mut out = vec![0; error_len(&p)];
            assert_eq!(out.len(), 576);
            write_error(e, Ipv4Addr::new(10, 0, 0, 1), 9, &p, &mut out);
            let s = etherparse::SlicedPacket::from_ip(&out).unwrap();
            let Some(etherparse::TransportSlice::Icmpv4(i)) = s.transport else { panic!() };
            assert_eq!(i.icmp_type(), want);
            assert!(i.payload() == &p[..548] && checksum::fold(checksum::sum(&out[20..])) == 0xffff);
            assert_eq!(ipv4::validate(&out), Ok(576));
        }
    }

    #[test]
    fn errors_share_the_service_bits() {
        for (tos, want) in [(0, 0xc0), (0xff, 0xdc), (0x2e, 0xcc)] {
            let mut p = offender(17, 0, 0x0af45c81, &[0; 8]);
            p[1] = tos;
            let mut out = vec![0; error_len(&p)];
            write_error(Error::TimeExceeded, Ipv4Addr::new(10, 0, 0, 1), 9, &p, &mut out);
            assert_eq!(out[1], want);
        }
    }

    #[test]
    fn who_may_be_answered() {
        let ok = 0x0af45c81;
        assert!(may_answer(&offender(17, 0, ok, &[0; 8])));
        assert!(may_answer(&offender(17, ipv4::MF, ok, &[0; 8])));
        assert!(may_answer(&offender(1, 0, ok, &[8, 0, 0, 0])));
        assert!(!may_answer(&offender(1, 0, ok, &[3, 4, 0, 0])));
        assert!(!may_answer(&offender(1, 0, ok, &[11, 0, 0, 0])));
        assert!(!may_answer(&offender(1, 0, ok, &[])));
        assert!(!may_answer(&offender(17, 5, ok, &[0; 8])));
        assert!(!may_answer(&offender(17, 0, 0xe000_0001, &[0; 8])));
        assert!(!may_answer(&offender(17, 0, 0xffff_ffff, &[0; 8])));
    }

    #[test]
    fn limiter_refills_with_time() {
        let mut l = Limiter::default();
        let at = |l: &mut Limiter, ms| (0..200).filter(|_| l.allow(ms)).count();
        assert_eq!(at(&mut l, 0), 50);
        assert_eq!(at(&mut l, 0), 0);
        assert_eq!(at(&mut l, 10), 10);
        assert_eq!(at(&mut l, 10_000), 50);
    }
}
