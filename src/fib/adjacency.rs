//! What a lookup answers: everything about a next hop that can be computed before the packet comes.

use super::PeerId;
use crate::drop::{DropReason, PuntReason};
use crate::frame::PortId;
use std::net::IpAddr;

/// Longest rewrite: Ethernet 14 + IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14.
pub const REWRITE_MAX: usize = 64;

/// Constant bytes put in front of the packet (L3 on), prebuilt for the port's medium. Fields that vary per
/// packet hold zero, and checksums are those of the header with the fields at zero, so that a fixup is one
/// incremental step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    len: u8,
    bytes: [u8; REWRITE_MAX],
}

impl Rewrite {
    pub const EMPTY: Rewrite = Rewrite { len: 0, bytes: [0; REWRITE_MAX] };

    /// Panics beyond [`REWRITE_MAX`] bytes: rewrites are built from fixed headers only.
    pub fn new(bytes: &[u8]) -> Rewrite {
        let mut r = Rewrite::EMPTY;
        r.bytes[..bytes.len()].copy_from_slice(bytes);
        r.len = bytes.len() as u8;
        r
    }

    #[inline(always)]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes with what lies behind `len`, for copies of a constant length.
    #[inline(always)]
    pub fn array(&self) -> &[u8; REWRITE_MAX] {
        &self.bytes
    }
}

impl std::fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for b in self.as_slice() {
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

/// What to do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdjKind {
    /// Count and forget.
    Drop(DropReason),
    /// A local endpoint: Ethernet header in front (or nothing on an IP port), out of its port.
    Deliver,
    /// VXLAN towards a node. The rewrite is all layers on an Ethernet port; VXLAN and inner Ethernet on a
    /// `VxlanUdp` port.
    Vxlan,
    /// IP-in-IP towards a node. The rewrite ends with the outer IPv4 header.
    Ipip,
    /// Routed without encapsulation out of the uplink.
    Direct,
    /// The underlay neighbour has no MAC yet: hold the packet and ask.
    Glean,
    /// Hand to the host stack through the host port.
    Punt(PuntReason),
}

/// One next hop, ready for use. Two cache lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Adjacency {
    pub rewrite: Rewrite,
    pub kind: AdjKind,
    /// Where the frame leaves; [`PortId::NONE`] for `Drop` and `Glean`.
    pub port: PortId,
    /// Longest inner packet from L3 on, bytes.
    pub mtu: u16,
    /// Super-frames that may leave as they are, per [`crate::frame::GsoSet`].
    pub gso: crate::frame::GsoSet,
    /// Whether the port takes unfinished L4 checksums.
    pub partial_csum: bool,
    /// Whether packets of a burst are joined to super-frames of these kinds.
    pub joins: bool,
    /// The node's underlay address (`Vxlan`, `Ipip`), or the next hop that `Glean` waits for.
    pub peer: IpAddr,
    /// The node that packets are counted for (`Vxlan`, `Ipip`, `Direct`).
    pub node: PeerId,
}

impl Adjacency {
    /// The adjacency that only drops.
    pub const fn drop(reason: DropReason) -> Adjacency {
        Adjacency {
            rewrite: Rewrite::EMPTY,
            kind: AdjKind::Drop(reason),
            port: PortId::NONE,
            mtu: u16::MAX,
            gso: crate::frame::GsoSet::NONE,
            partial_csum: false,
            joins: false,
            peer: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            node: PeerId::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adjacency_is_two_cache_lines() {
        assert_eq!(size_of::<Adjacency>(), 128);
    }
}
