//! A frame as filters see it: addresses, protocols and ports of the outer and the inner packet.

use crate::frame::PortId;
use crate::port::Medium;
use crate::wire::{be16, ether, ipv4, vxlan};
use std::net::IpAddr;

/// One IPv4 packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// Host order.
    pub src: u32,
    pub dst: u32,
    pub proto: u8,
    /// Of TCP and UDP, source and destination.
    pub ports: Option<(u16, u16)>,
    /// Total length, as the header has it.
    pub len: u16,
}

/// What a frame shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub arp: bool,
    /// Bytes.
    pub len: usize,
    pub port: PortId,
    layers: [Layer; 2],
    n: usize,
}

impl View {
    /// A frame of that length that shows nothing.
    pub fn new(len: usize, port: PortId) -> View {
        View { arp: false, len, port, layers: [Layer::default(); 2], n: 0 }
    }

    /// Reads a frame of any content. `vxlan_port`: what follows UDP to this port is a tunnel's. `peer`: the sender, on
    /// a port that does not show the outer header.
    pub fn of(frame: &[u8], port: PortId, medium: Medium, vxlan_port: u16, peer: IpAddr) -> View {
        let mut v = View::new(frame.len(), port);
        match medium {
            Medium::Ethernet => v.ethernet(frame, vxlan_port),
            Medium::Ip => v.packet(frame, vxlan_port),
            Medium::VxlanUdp => {
                if let IpAddr::V4(peer) = peer {
                    v.push(Layer { src: peer.into(), proto: ipv4::PROTO_UDP, ports: Some((0, vxlan_port)), ..Layer::default() });
                }
                v.ethernet(frame.get(vxlan::HEADER..).unwrap_or_default(), vxlan_port);
            }
        }
        v
    }

    pub fn layers(&self) -> &[Layer] {
        &self.layers[..self.n]
    }

    /// Adds an inner packet; the third and further ones are not looked at.
    pub fn push(&mut self, l: Layer) {
        if let Some(slot) = self.layers.get_mut(self.n) {
            *slot = l;
            self.n += 1;
        }
    }

    fn ethernet(&mut self, frame: &[u8], vxlan_port: u16) {
        let Some((header, rest)) = frame.split_at_checked(ether::HEADER) else { return };
        match be16(header, 12) {
            ether::TYPE_ARP => self.arp = true,
            ether::TYPE_IPV4 => self.packet(rest, vxlan_port),
            _ => {}
        }
    }

    fn packet(&mut self, p: &[u8], vxlan_port: u16) {
        if self.n == self.layers.len() || p.len() < ipv4::HEADER || p[0] >> 4 != 4 {
            return;
        }
        let (proto, payload) = (ipv4::proto(p), p.get(ipv4::header_len(p)..).unwrap_or_default());
        let transport = matches!(proto, ipv4::PROTO_TCP | ipv4::PROTO_UDP) && !ipv4::is_later_fragment(p) && payload.len() >= 4;
        let ports = transport.then(|| (be16(payload, 0), be16(payload, 2)));
        self.push(Layer { src: ipv4::src(p), dst: ipv4::dst(p), proto, ports, len: ipv4::total_len(p) as u16 });
        match (proto, ports) {
            (ipv4::PROTO_IPIP, _) => self.packet(payload, vxlan_port),
            (ipv4::PROTO_UDP, Some((_, to))) if to == vxlan_port => {
                self.ethernet(payload.get(8 + vxlan::HEADER..).unwrap_or_default(), vxlan_port);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(frame in proptest::collection::vec(any::<u8>(), 0..200), medium in 0usize..3) {
            let medium = [Medium::Ethernet, Medium::Ip, Medium::VxlanUdp][medium];
            let v = View::of(&frame, PortId(1), medium, 4789, IpAddr::V4([10, 0, 0, 1].into()));
            prop_assert!(v.layers().len() <= 2);
        }
    }
}
