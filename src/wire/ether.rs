//! Ethernet II: addresses and ethertypes.

use std::fmt;
use std::str::FromStr;

/// Length of an Ethernet header without VLAN tag, bytes.
pub const HEADER: usize = 14;
pub const TYPE_IPV4: u16 = 0x0800;
pub const TYPE_ARP: u16 = 0x0806;
pub const TYPE_IPV6: u16 = 0x86dd;

/// A MAC address, bytes in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// What every workload's gateway answers with (Calico's host-side veth address).
    pub const GATEWAY: Mac = Mac([0xee; 6]);

    /// Whether the group bit is set (multicast and broadcast).
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The six bytes at `at`.
    #[inline(always)]
    pub fn read(b: &[u8], at: usize) -> Mac {
        Mac([b[at], b[at + 1], b[at + 2], b[at + 3], b[at + 4], b[at + 5]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six hex octets separated by colons.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a MAC address: {0:?} (expected six hex octets, like 66:b6:a5:9d:e1:c9)")]
pub struct MacParseError(String);

impl FromStr for Mac {
    type Err = MacParseError;

    fn from_str(s: &str) -> Result<Mac, MacParseError> {
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            *byte = parts
                .next()
                .filter(|p| (1..=2).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(|| MacParseError(s.to_owned()))?;
        }
        if parts.next().is_some() { Err(MacParseError(s.to_owned())) } else { Ok(Mac(out)) }
    }
}

impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Mac, D::Error> {
        let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

/// Writes destination, source and ethertype into the first 14 bytes.
#[inline(always)]
pub fn write(b: &mut [u8], dst: Mac, src: Mac, ethertype: u16) {
    b[0..6].copy_from_slice(&dst.0);
    b[6..12].copy_from_slice(&src.0);
    b[12..14].copy_from_slice(&ethertype.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_round_trip() {
        let m: Mac = "66:b6:a5:9d:e1:c9".parse().unwrap();
        assert_eq!(m.to_string(), "66:b6:a5:9d:e1:c9");
        for bad in ["", "66:b6:a5:9d:e1", "66:b6:a5:9d:e1:c9:00", "66:b6:a5:9d:e1:zz", "666:b6:a5:9d:e1:c9", "66:b6:a5:9d:e1:+9"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
