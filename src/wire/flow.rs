//! The hash of a packet's flow: what spreads tunnel packets over source ports (RFC 7348, section 5) and workers.

use super::ipv4;

/// Hash of addresses, protocol and, for unfragmented TCP and UDP, ports. All fragments of a packet hash alike.
/// `p` starts at a validated IPv4 header.
#[inline(always)]
pub fn hash(p: &[u8]) -> u32 {
    match p.first_chunk::<PLAIN>() {
        Some(h) if h[0] == 0x45 => {
            let [_, _, _, _, ports @ ..] = h.last_chunk::<8>().expect("shorter than the array");
            of(h, if has_ports(h) { u32::from_le_bytes(*ports) } else { 0 })
        }
        _ => hash_any(p),
    }
}

/// A header without options, and the ports behind it.
const PLAIN: usize = ipv4::HEADER + 4;

/// The same for a header with options, and for packets that end before the ports.
#[cold]
fn hash_any(p: &[u8]) -> u32 {
    let ports = p.get(ipv4::header_len(p)..).and_then(|l4| l4.first_chunk::<4>());
    of(p, ports.filter(|_| has_ports(p)).map_or(0, |b| u32::from_le_bytes(*b)))
}

#[inline(always)]
fn has_ports(p: &[u8]) -> bool {
    matches!(ipv4::proto(p), ipv4::PROTO_TCP | ipv4::PROTO_UDP) && !ipv4::is_fragment(p)
}

#[inline(always)]
fn of(p: &[u8], ports: u32) -> u32 {
    let addresses = u64::from_le_bytes(p[12..20].try_into().expect("eight bytes"));
    mix(addresses, u64::from(ports) << 8 | u64::from(ipv4::proto(p)))
}

/// A multiplication to 128 bits, folded, brings each input bit to both halves; alone it leaves addresses in steps
/// of a block uneven in the low bits, so the fold's halves are mixed by one short multiplication more.
#[inline(always)]
pub const fn mix(a: u64, b: u64) -> u32 {
    const K1: u64 = 0x9e37_79b9_7f4a_7c15;
    const K2: u64 = 0xc2b2_ae3d_27d4_eb4f;
    let x = (a ^ K1) as u128 * (b ^ K2) as u128;
    let x = (x as u64) ^ (x >> 64) as u64;
    ((x ^ x >> 32).wrapping_mul(K1) >> 32) as u32
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
    }

    fn packet(src: u32, dst: u32, ports: u32, proto: u8) -> [u8; 24] {
        let mut p = [0; 24];
        ipv4::Header { tos: 0, len: 24, id: 0, frag: 0, ttl: 64, proto, src, dst }.write(&mut p);
        p[20..].copy_from_slice(&ports.to_be_bytes());
        p
    }

    /// Flows that differ in one field by small steps, as real ones do: each set fills 64 parts of the range
    /// evenly, by the top bits (source port) and by the low ones (tables).
    #[test]
    fn flows_that_differ_in_one_field_spread() {
        const FLOWS: u32 = 64_000;
        const PARTS: usize = 64;
        let (a, b) = (0x0af4_0005, 0x0af4_0105);
        type Tuple = fn(u32, u32, u32) -> [u8; 24];
        let sets: [(&str, Tuple); 6] = [
            ("source port", |a, b, i| packet(a, b, i << 16 | 80, ipv4::PROTO_TCP)),
            ("destination port", |a, b, i| packet(a, b, 40_000 << 16 | (i & 0xffff), ipv4::PROTO_UDP)),
            ("source", |a, b, i| packet(a + i, b, 0x1f90_0050, ipv4::PROTO_TCP)),
            ("destination", |a, b, i| packet(a, b + i, 0x1f90_0050, ipv4::PROTO_TCP)),
            ("destination by blocks", |a, b, i| packet(a, b + (i << 6), 0x1f90_0050, ipv4::PROTO_UDP)),
            ("addresses without ports", |a, b, i| packet(a + (i & 0xff), b + (i >> 8 << 6), 0, ipv4::PROTO_ICMP)),
        ];
        for (name, flow) in sets {
            let (mut high, mut low) = ([0u32; PARTS], [0u32; PARTS]);
            for i in 0..FLOWS {
                let h = hash(&flow(a, b, i));
                high[usize::from(source_port(h) - PORT_FIRST) * PARTS / PORT_COUNT as usize] += 1;
                low[h as usize % PARTS] += 1;
            }
            // 1,000 expected; five standard deviations of a random spread are 158.
            assert!(high.iter().chain(&low).all(|n| (840..=1160).contains(n)), "{name}: {high:?} {low:?}");
        }
    }

    #[test]
    fn options_and_short_packets_hash_by_what_is_there() {
        let plain = packet(1, 2, 3, ipv4::PROTO_TCP);
        let mut options = [&plain[..20], &[1; 4], &plain[20..]].concat();
        options[0] = 0x46;
        assert_eq!(hash(&options), hash(&plain));
        assert_eq!(hash(&plain[..20]), hash(&packet(1, 2, 0, ipv4::PROTO_TCP)));
        let fragment = |mut p: [u8; 24]| {
            p[6] = 0x20;
            p
        };
        assert_eq!(hash(&fragment(plain)), hash(&fragment(packet(1, 2, 99, ipv4::PROTO_TCP))));
        assert_ne!(hash(&plain), hash(&packet(1, 2, 99, ipv4::PROTO_TCP)));
    }
}
