//! The hash of a packet's flow: what spreads tunnel packets over source ports (RFC 7348, section 5) and workers.

use super::{be32, ipv4};

/// Hash of addresses, protocol and, for unfragmented TCP and UDP, ports. All fragments of a packet hash alike.
/// `p` starts at a validated IPv4 header.
#[inline(always)]
pub fn hash(p: &[u8]) -> u32 {
    let ports = match ipv4::proto(p) {
        ipv4::PROTO_TCP | ipv4::PROTO_UDP if !ipv4::is_fragment(p) => {
            let at = ipv4::header_len(p);
            if p.len() >= at + 4 { be32(p, at) } else { 0 }
        }
        _ => 0,
    };
    mix(u64::from(ipv4::src(p)) << 32 | u64::from(ipv4::dst(p)), u64::from(ports) << 8 | u64::from(ipv4::proto(p)))
}

/// Two multiply-and-fold rounds: every input bit reaches every output bit.
#[inline(always)]
const fn mix(a: u64, b: u64) -> u32 {
    const K1: u64 = 0x9e37_79b9_7f4a_7c15;
    const K2: u64 = 0xc2b2_ae3d_27d4_eb4f;
    let x = (a ^ K1) as u128 * (b ^ K2) as u128;
    let x = (x as u64) ^ (x >> 64) as u64;
    let y = (x ^ a) as u128 * K1 as u128;
    ((y as u64) ^ (y >> 64) as u64) as u32
}

/// The source port range for tunnel packets: Linux's default local port range, which stock nodes use.
pub const PORT_FIRST: u16 = 32768;
/// Number of ports in 32768..=60999.
pub const PORT_COUNT: u32 = 60999 - 32768 + 1;

/// Maps a flow hash to a source port in 32768..=60999 without division.
#[inline(always)]
pub const fn source_port(hash: u32) -> u16 {
    PORT_FIRST + ((hash as u64 * PORT_COUNT as u64) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_in_range_and_spread() {
        assert_eq!(source_port(0), 32768);
        assert_eq!(source_port(u32::MAX), 60999);
        let mut buckets = [0u32; 16];
        for i in 0..16_000u64 {
            let h = mix(0x0a00_0001_0a00_0002, i << 24 | 6);
            buckets[(source_port(h) - PORT_FIRST) as usize * 16 / PORT_COUNT as usize] += 1;
        }
        assert!(buckets.iter().all(|n| (800..1200).contains(n)), "{buckets:?}");
    }
}
