//! Which flow a packet belongs to: its addresses, protocol and ports as two words.

use crate::wire::{be16, be32, ipv4};

/// Ports of an ICMP query are its identifier.
const ICMP_HEADER: usize = 8;
/// Bytes of TCP up to its flags.
const TCP_FLAGS: usize = 13;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Key {
    /// Source and destination.
    pub(super) addresses: u64,
    /// Ports, protocol and [`KIND_PORTS`] or [`KIND_PAIR`]; never 0.
    pub(super) rest: u64,
}

/// With ports.
const KIND_PORTS: u64 = 1;
/// All that two addresses exchange in a protocol: what a fragment without ports is told by.
const KIND_PAIR: u64 = 2;

impl Key {
    pub fn with_ports(src: u32, dst: u32, protocol: u8, ports: (u16, u16)) -> Key {
        let ports = u64::from(ports.0) << 48 | u64::from(ports.1) << 32;
        Key { addresses: u64::from(src) << 32 | u64::from(dst), rest: ports | u64::from(protocol) << 8 | KIND_PORTS }
    }

    pub fn pair(src: u32, dst: u32, protocol: u8) -> Key {
        Key { addresses: u64::from(src) << 32 | u64::from(dst), rest: u64::from(protocol) << 8 | KIND_PAIR }
    }

    /// The other direction.
    pub fn reversed(self) -> Key {
        let ports = self.rest >> 32;
        Key { addresses: self.addresses.rotate_left(32), rest: (ports << 16 | ports >> 16) << 32 | self.rest & 0xffff_ffff }
    }

    pub fn src(self) -> u32 {
        (self.addresses >> 32) as u32
    }

    pub fn dst(self) -> u32 {
        self.addresses as u32
    }

    pub fn protocol(self) -> u8 {
        (self.rest >> 8) as u8
    }

    /// Source and destination port, or an ICMP identifier twice; `None` for a pair of addresses.
    pub fn ports(self) -> Option<(u16, u16)> {
        (!self.is_pair()).then_some(((self.rest >> 48) as u16, (self.rest >> 32) as u16))
    }

    pub(super) fn is_pair(self) -> bool {
        self.rest & 0xff == KIND_PAIR
    }
}

/// What a packet tells of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// `None` where there are no ports: in later fragments and in other protocols.
    pub flow: Option<Key>,
    pub pair: Key,
    pub fragment: bool,
    /// TCP's flags; 0 for others.
    pub flags: u8,
}

impl Packet {
    /// `p` starts at an IPv4 header of at least 20 bytes and may end anywhere behind it.
    #[inline(always)]
    pub fn read(p: &[u8]) -> Packet {
        let (src, dst, protocol) = (ipv4::src(p), ipv4::dst(p), ipv4::proto(p));
        let fragment = ipv4::is_fragment(p);
        let (mut ports, mut flags) = (None, 0);
        if !ipv4::is_later_fragment(p)
            && let Some(l4) = p.get(ipv4::header_len(p)..)
        {
            match protocol {
                ipv4::PROTO_TCP | ipv4::PROTO_UDP if l4.len() >= 4 => {
                    ports = Some((be16(l4, 0), be16(l4, 2)));
                    if protocol == ipv4::PROTO_TCP {
                        flags = l4.get(TCP_FLAGS).copied().unwrap_or(0);
                    }
                }
                ipv4::PROTO_ICMP if l4.len() >= ICMP_HEADER && is_query(l4[0]) => ports = Some((be16(l4, 4), be16(l4, 4))),
                _ => {}
            }
        }
        Packet { flow: ports.map(|ports| Key::with_ports(src, dst, protocol, ports)), pair: Key::pair(src, dst, protocol), fragment, flags }
    }

    /// By what the packet's flow is found: its ports, if every packet that goes with it has them.
    pub fn key(&self) -> Key {
        self.flow.filter(|_| !self.fragment).unwrap_or(self.pair)
    }
}

/// Echo, timestamp and address mask, which have an identifier (RFC 792, RFC 950).
fn is_query(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 13 | 14 | 17 | 18)
}

/// The packet that an ICMP error is about, as far as the error has it.
#[inline(always)]
pub(super) fn offender(p: &[u8]) -> Option<&[u8]> {
    if ipv4::proto(p) != ipv4::PROTO_ICMP || ipv4::is_later_fragment(p) {
        return None;
    }
    offender_of_icmp(p)
}

#[cold]
fn offender_of_icmp(p: &[u8]) -> Option<&[u8]> {
    let icmp = p.get(ipv4::header_len(p)..)?;
    // Unreachable, source quench, redirect, time exceeded, parameter problem.
    let is_error = matches!(icmp.first(), Some(3 | 4 | 5 | 11 | 12));
    let inner = icmp.get(ICMP_HEADER..)?;
    (is_error && inner.len() >= ipv4::HEADER && inner[0] >> 4 == 4 && be32(inner, 12) != 0).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_has_another() {
        let key = Key::with_ports(0x0a000001, 0x0a000002, ipv4::PROTO_TCP, (40_000, 80));
        let back = key.reversed();
        assert_eq!((back.src(), back.dst(), back.protocol(), back.ports()), (0x0a000002, 0x0a000001, 6, Some((80, 40_000))));
        assert_eq!(back.reversed(), key);
        let pair = Key::pair(1, 2, 17);
        assert_eq!((pair.reversed(), pair.ports()), (Key::pair(2, 1, 17), None));
        assert_ne!(Key::with_ports(1, 2, 17, (0, 0)), pair);
    }
}
