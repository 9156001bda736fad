//! What a socket underlay hides: outer headers that the kernel strips before a frame comes to the engine and makes
//! after it has left.

use super::state::{RoleState, State};
use crate::frame::PortId;
use crate::port::Medium;
use crate::port::mem::Wired;
use crate::wire::{Mac, ether, flow, ipv4, l4, put16, put32};
use std::net::{IpAddr, Ipv4Addr};

/// Ethernet, IPv4 and UDP.
const OUTER: usize = ether::HEADER + ipv4::HEADER + l4::UDP_HEADER;
/// VXLAN and inner Ethernet: where the inner packet starts behind the UDP header.
const INNER: usize = 8 + ether::HEADER;

/// The frame as the engine gets it from the uplink, and the port that it comes by. `None` if the kernel keeps it:
/// everything but tunnel packets for this node.
pub fn strip(ports: &[(PortId, Medium)], vxlan_port: u16, node: Ipv4Addr, frame: Wired) -> Option<(PortId, Wired)> {
    let by = |m: Medium| ports.iter().find(|(_, medium)| *medium == m).map(|(id, _)| *id);
    let p = frame.bytes.get(ether::HEADER..)?;
    let is_ipv4 = frame.bytes[12..14] == ether::TYPE_IPV4.to_be_bytes();
    if !is_ipv4 || ipv4::validate(p).is_err() || ipv4::dst(p) != u32::from(node) {
        return None;
    }
    let (header, tos, src) = (ipv4::header_len(p), ipv4::tos(p), Ipv4Addr::from(ipv4::src(p)));
    let is_vxlan = ipv4::proto(p) == ipv4::PROTO_UDP
        && !ipv4::is_fragment(p)
        && p.len() >= header + l4::UDP_HEADER
        && p[header + 2..header + 4] == vxlan_port.to_be_bytes();
    let (port, cut) = if is_vxlan {
        match by(Medium::VxlanUdp) {
            Some(port) => (port, ether::HEADER + header + l4::UDP_HEADER),
            None => (by(Medium::Ethernet)?, 0),
        }
    } else if ipv4::proto(p) == ipv4::PROTO_IPIP {
        match by(Medium::Ip) {
            Some(port) => (port, ether::HEADER),
            None => (by(Medium::Ethernet)?, 0),
        }
    } else {
        return None;
    };
    let of_socket = cut > ether::HEADER;
    Some((port, without_front(frame, cut, of_socket.then_some((src, tos)))))
}

/// Takes bytes off the front; what the kernel says of the outer header comes with a socket's datagram.
fn without_front(mut frame: Wired, cut: usize, outer: Option<(Ipv4Addr, u8)>) -> Wired {
    frame.bytes.drain(..cut);
    frame.partial = frame.partial.and_then(|(start, offset)| Some((start.checked_sub(cut as u32)?, offset)));
    if let Some((src, tos)) = outer {
        (frame.peer, frame.outer_tos) = (IpAddr::V4(src), tos);
    }
    frame
}

/// Makes outer headers as the kernel would for what leaves by a socket.
pub struct Outer {
    /// Ports whose frames a capture shows with more in front.
    uplinks: Vec<PortId>,
    node: Ipv4Addr,
    port: u16,
    id: u16,
}

impl Outer {
    pub fn new(state: &State) -> Outer {
        let uplinks = state.ports.iter().filter(|p| p.role == RoleState::Uplink).map(|p| PortId(p.id)).collect();
        Outer { uplinks, node: state.tunnel.node, port: state.tunnel.port, id: 0 }
    }

    /// The frame as a capture on the port's interface shows it, and whether headers were made for that.
    pub fn wrap(&mut self, port: PortId, medium: Medium, frame: Wired) -> (Wired, bool) {
        if !self.uplinks.contains(&port) {
            return (frame, false);
        }
        match (medium, frame.peer) {
            (Medium::Ip, _) => (with_front(frame, &ethernet()), true),
            (Medium::VxlanUdp, IpAddr::V4(peer)) => (self.datagram(frame, self.node, peer), true),
            _ => (frame, false),
        }
    }

    /// The same for a frame that came in.
    pub fn received(&mut self, port: PortId, medium: Medium, frame: Wired) -> (Wired, bool) {
        match (medium, frame.peer) {
            (Medium::VxlanUdp, IpAddr::V4(peer)) if self.uplinks.contains(&port) => (self.datagram(frame, peer, self.node), true),
            (Medium::Ip, _) => self.wrap(port, medium, frame),
            _ => (frame, false),
        }
    }

    /// Outer Ethernet (addresses unknown), IPv4 (TTL 64, DF clear) and UDP in front of a VXLAN header.
    fn datagram(&mut self, frame: Wired, src: Ipv4Addr, dst: Ipv4Addr) -> Wired {
        self.id = self.id.wrapping_add(1);
        let hash = frame.bytes.get(INNER..).filter(|p| ipv4::validate(p).is_ok()).map_or(0, flow::hash);
        let (tos, whole) = (frame.outer_tos, frame.partial.is_none() && frame.gso.is_none());
        let mut out = with_front(frame, &[0; OUTER]);
        let total = out.bytes.len() - ether::HEADER;
        out.bytes[..ether::HEADER].copy_from_slice(&ethernet());
        let p = &mut out.bytes[ether::HEADER..];
        p[0] = 0x45;
        p[1] = tos;
        put16(p, 2, total as u16);
        put16(p, 4, self.id);
        p[8] = 64;
        p[9] = ipv4::PROTO_UDP;
        put32(p, 12, src.into());
        put32(p, 16, dst.into());
        ipv4::write_checksum(p);
        put16(p, ipv4::HEADER, flow::source_port(hash));
        put16(p, ipv4::HEADER + 2, self.port);
        put16(p, ipv4::HEADER + 4, (total - ipv4::HEADER) as u16);
        // That of a super-frame is made per segment, later.
        if whole {
            l4::write(p, total);
        }
        out
    }
}

fn ethernet() -> [u8; ether::HEADER] {
    let mut header = [0; ether::HEADER];
    ether::write(&mut header, Mac::default(), Mac::default(), ether::TYPE_IPV4);
    header
}

fn with_front(mut frame: Wired, front: &[u8]) -> Wired {
    frame.bytes.splice(..0, front.iter().copied());
    frame.partial = frame.partial.map(|(start, offset)| (start + front.len() as u32, offset));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vxlan;

    const NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);

    fn outer() -> Outer {
        Outer { uplinks: vec![PortId(0), PortId(1)], node: PEER, port: vxlan::PORT, id: 0 }
    }

    fn vxlan_frame() -> Wired {
        let mut bytes = vec![0x08, 0, 0, 0, 0, 0x10, 0, 0];
        bytes.extend([0x66, 0, 0, 0, 0, 1, 0x66, 0, 0, 0, 0, 2, 8, 0]);
        let mut inner = vec![0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 244, 2, 1, 10, 244, 1, 1, 0, 7, 0, 9, 0, 8, 0, 0];
        ipv4::write_checksum(&mut inner);
        bytes.extend(inner);
        Wired { peer: IpAddr::V4(NODE), outer_tos: 2, ..Wired::from(bytes) }
    }

    #[test]
    fn what_is_wrapped_here_is_stripped_there() {
        let sent = vxlan_frame();
        let (wire, made) = outer().wrap(PortId(0), Medium::VxlanUdp, sent.clone());
        assert!(made);
        let p = &wire.bytes[ether::HEADER..];
        assert_eq!(ipv4::validate(p), Ok(p.len()));
        assert!(l4::verify(p, p.len()));
        let ports = [(PortId(4), Medium::Ip), (PortId(5), Medium::VxlanUdp)];
        let (port, got) = strip(&ports, vxlan::PORT, NODE, wire).unwrap();
        assert_eq!((port, &got.bytes, got.peer, got.outer_tos), (PortId(5), &sent.bytes, IpAddr::V4(PEER), 2));
    }

    #[test]
    fn the_kernel_keeps_the_rest() {
        let (wire, _) = outer().wrap(PortId(0), Medium::VxlanUdp, vxlan_frame());
        let ports = [(PortId(5), Medium::VxlanUdp)];
        assert!(strip(&ports, 4790, NODE, wire.clone()).is_none());
        assert!(strip(&ports, vxlan::PORT, PEER, wire.clone()).is_none());
        for end in [0, 13, 20, 33] {
            let cut = Wired { bytes: wire.bytes[..end].to_vec(), ..wire.clone() };
            assert!(strip(&ports, vxlan::PORT, NODE, cut).is_none(), "{end}");
        }
        let whole = [(PortId(9), Medium::Ethernet)];
        assert_eq!(strip(&whole, vxlan::PORT, NODE, wire.clone()).unwrap(), (PortId(9), wire));
    }
}
