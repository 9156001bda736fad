//! What must hold for any input, and the independent reader: etherparse, never the engine's own accessors.
//! Shared by the packet tests, the property tests and the fuzz targets.

use super::bed::Bed;
use super::net::Setup;
use crate::drop::DropReason;
use crate::frame::PortId;
use crate::port::{Medium, mem::Wired};
use crate::snapshot::PortRole;
use crate::wire::{Mac, vxlan};
use crate::worker::Counters;
use crate::worker::counters::MAX_PORTS;
use etherparse::{IpNumber, Ipv4Header, LaxSlicedPacket, TcpSlice, UdpSlice};
use std::net::{IpAddr, Ipv4Addr};

/// received + generated = sent + punted + dropped + coalesced + held. And a drop counts at one port at most.
pub fn law(c: &Counters) -> Result<(), String> {
    match c.balance() {
        (inn, out) if inn == out => {}
        (inn, out) => return Err(format!("received + generated is {inn}, sent + punted + dropped + coalesced + held is {out}")),
    }
    let ports = || (0..MAX_PORTS as u16).map(|i| c.port(PortId(i)));
    for reason in DropReason::ALL {
        let at_ports: u64 = ports().filter_map(|p| p.reasons().get(reason.index())).map(|n| n.get()).sum();
        let all = c.dropped[reason.index()].get();
        if at_ports > all {
            return Err(format!("{at_ports} drops for {reason} at ports, but {all} in all"));
        }
    }
    Ok(())
}

/// An IPv4 packet that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub header: Ipv4Header,
    pub payload: Vec<u8>,
    /// The whole packet, header included.
    pub bytes: Vec<u8>,
}

impl Packet {
    pub fn src(&self) -> Ipv4Addr {
        self.header.source.into()
    }
    pub fn dst(&self) -> Ipv4Addr {
        self.header.destination.into()
    }
    /// The TOS byte.
    pub fn tos(&self) -> u8 {
        self.header.dscp.value() << 2 | self.header.ecn.value()
    }
    pub fn ttl(&self) -> u8 {
        self.header.time_to_live
    }

    /// The ICMP message, its checksum verified.
    pub fn icmp(&self) -> Result<(etherparse::Icmpv4Type, Vec<u8>), String> {
        let (h, body) = etherparse::Icmpv4Header::from_slice(&self.payload).map_err(|e| e.to_string())?;
        let right = h.icmp_type.calc_checksum(body);
        if right != h.checksum {
            return Err(format!("ICMP checksum is {:04x}, not {right:04x}", h.checksum));
        }
        Ok((h.icmp_type, body.to_vec()))
    }

    /// Checks the TCP or UDP checksum and length; other protocols and fragments pass.
    pub fn l4(&self) -> Result<(), String> {
        if self.header.is_fragmenting_payload() {
            return Ok(());
        }
        let (found, right) = match self.header.protocol {
            IpNumber::TCP => {
                let tcp = TcpSlice::from_slice(&self.payload).map_err(|e| e.to_string())?;
                let right = tcp.calc_checksum_ipv4(self.header.source, self.header.destination).map_err(|e| e.to_string())?;
                (tcp.checksum(), right)
            }
            IpNumber::UDP => {
                let udp = UdpSlice::from_slice(&self.payload).map_err(|e| e.to_string())?;
                if usize::from(udp.length()) != self.payload.len() {
                    return Err(format!("UDP length is {}, not {}", udp.length(), self.payload.len()));
                }
                if udp.checksum() == 0 {
                    return Ok(());
                }
                let h = udp.to_header();
                let right = h.calc_checksum_ipv4_raw(self.header.source, self.header.destination, udp.payload());
                (udp.checksum(), right.map_err(|e| e.to_string())?)
            }
            _ => return Ok(()),
        };
        if found == right { Ok(()) } else { Err(format!("L4 checksum is {found:04x}, not {right:04x}")) }
    }
}

/// Reads a packet that takes up all of `bytes`, its header checksum right.
pub fn ipv4(bytes: &[u8]) -> Result<Packet, String> {
    let (header, payload) = Ipv4Header::from_slice(bytes).map_err(|e| format!("no IPv4 header: {e}"))?;
    // Over the bytes, not over the parsed header: that has lost the reserved flag, which is forwarded as it came.
    let words = bytes[..header.header_len()].chunks_exact(2);
    let sum = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
    if (sum & 0xffff) + (sum >> 16) != 0xffff {
        return Err(format!("IPv4 checksum {:04x} is wrong", header.header_checksum));
    }
    if usize::from(header.total_len) != bytes.len() {
        return Err(format!("IPv4 total length is {}, the packet has {}", header.total_len, bytes.len()));
    }
    Ok(Packet { header, payload: payload.to_vec(), bytes: bytes.to_vec() })
}

/// Splits an Ethernet frame into destination, source, type and payload.
pub fn ethernet(bytes: &[u8]) -> Result<(Mac, Mac, u16, &[u8]), String> {
    let (h, rest) = etherparse::Ethernet2Header::from_slice(bytes).map_err(|e| format!("no Ethernet header: {e}"))?;
    Ok((Mac(h.destination), Mac(h.source), h.ether_type.0, rest))
}

/// An IPv4 packet in an Ethernet frame, with its MACs.
pub fn ethernet_ipv4(bytes: &[u8]) -> Result<(Mac, Mac, Packet), String> {
    match ethernet(bytes)? {
        (dst, src, 0x0800, rest) => Ok((dst, src, ipv4(rest)?)),
        (_, _, kind, _) => Err(format!("ethertype {kind:04x}, not IPv4")),
    }
}

/// A VXLAN packet without its outer headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    pub flags: u8,
    pub vni: u32,
    pub inner_dst: Mac,
    pub inner_src: Mac,
    pub inner: Packet,
}

/// Reads VXLAN header, inner Ethernet and inner packet.
pub fn vxlan(bytes: &[u8]) -> Result<Vxlan, String> {
    let header: &[u8; 8] = bytes.first_chunk().ok_or("no VXLAN header")?;
    let (inner_dst, inner_src, inner) = ethernet_ipv4(&bytes[8..])?;
    let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
    if header[1..4] != [0; 3] || header[7] != 0 {
        return Err(format!("reserved bits of the VXLAN header are set: {header:02x?}"));
    }
    Ok(Vxlan { flags: header[0], vni, inner_dst, inner_src, inner })
}

/// An outer packet on the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    pub packet: Packet,
    /// Source port, destination port and checksum field.
    pub udp: Option<(u16, u16, u16)>,
    pub vxlan: Option<Vxlan>,
    /// The inner packet, of either encapsulation.
    pub inner: Packet,
}

/// Reads VXLAN or IP-in-IP from the outer IPv4 header on.
pub fn outer(bytes: &[u8]) -> Result<Outer, String> {
    let packet = ipv4(bytes)?;
    match packet.header.protocol {
        IpNumber::UDP => {
            packet.l4()?;
            let udp = UdpSlice::from_slice(&packet.payload).map_err(|e| e.to_string())?;
            let fields = (udp.source_port(), udp.destination_port(), udp.checksum());
            let v = vxlan(udp.payload())?;
            let inner = v.inner.clone();
            Ok(Outer { packet, udp: Some(fields), vxlan: Some(v), inner })
        }
        IpNumber(4) => {
            let inner = ipv4(&packet.payload)?;
            Ok(Outer { packet, udp: None, vxlan: None, inner })
        }
        other => Err(format!("protocol {} is no tunnel", other.0)),
    }
}

/// What every frame that leaves a port must be, whatever came in.
pub fn output(setup: &Setup, port: PortId, w: &Wired) -> Result<(), String> {
    let spec = &setup.ports[port.index()];
    let packet = match (&spec.role, spec.caps.medium) {
        (PortRole::Uplink, Medium::VxlanUdp) => {
            let v = vxlan(&w.bytes)?;
            if w.peer == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || v.flags != vxlan::FLAG_VNI || v.vni != setup.tunnel.vni.get() {
                return Err(format!("VXLAN to {} with flags {:02x} and VNI {}", w.peer, v.flags, v.vni));
            }
            v.inner
        }
        (PortRole::Uplink, Medium::Ethernet) => uplink_ip(setup, ethernet(&w.bytes)?.3)?,
        (PortRole::Uplink, Medium::Ip) => uplink_ip(setup, &w.bytes)?,
        (PortRole::Workload(_), Medium::Ethernet) => {
            let (_, src, kind, rest) = ethernet(&w.bytes)?;
            if src != Mac::GATEWAY {
                return Err(format!("a frame to a pod comes from {src}"));
            }
            if kind == 0x0806 {
                return arp(w, rest);
            }
            ipv4(rest)?
        }
        _ => ipv4(&w.bytes)?,
    };
    let fits = packet.bytes.len() <= spec.caps.mtu as usize || w.gso.is_some() || spec.role == PortRole::Host;
    if !fits {
        return Err(format!("{} bytes do not fit the MTU of {}", packet.bytes.len(), spec.caps.mtu));
    }
    if w.gso.is_some_and(|g| !spec.caps.gso.takes(g.kind)) {
        return Err(format!("{:?} on a port without it", w.gso));
    }
    match w.partial {
        Some(_) if spec.caps.tx_csum == crate::port::TxCsum::Software => Err("an unfinished checksum on a port that cannot".into()),
        Some((start, offset)) if start as usize + usize::from(offset) + 2 > w.bytes.len() => Err("a checksum outside the frame".into()),
        _ => Ok(()),
    }
}

/// An ARP packet to a pod, complete and without offloads.
fn arp(w: &Wired, rest: &[u8]) -> Result<(), String> {
    let packet = etherparse::ArpPacketSlice::from_slice(rest).map_err(|e| e.to_string())?;
    let right = rest.len() == 28 && packet.hw_addr_size() == 6 && packet.proto_addr_size() == 4;
    if right && w.gso.is_none() && w.partial.is_none() { Ok(()) } else { Err(format!("not an ARP packet of ours: {w:?}")) }
}

/// An outer packet from this node, or one routed without encapsulation.
fn uplink_ip(setup: &Setup, bytes: &[u8]) -> Result<Packet, String> {
    let packet = ipv4(bytes)?;
    if packet.src() != setup.tunnel.node || !setup.tunnel.nodes.contains(&u32::from(packet.dst())) {
        return Ok(packet);
    }
    let o = outer(bytes)?;
    if let Some(v) = &o.vxlan
        && (v.flags != vxlan::FLAG_VNI || v.vni != setup.tunnel.vni.get() || !(32_768..=60_999).contains(&o.udp.map_or(0, |u| u.0)))
    {
        return Err(format!("VXLAN fields: {v:?}"));
    }
    // No packet is so broken that a lenient parser finds no IP in it.
    LaxSlicedPacket::from_ip(bytes).map_err(|e| e.to_string())?;
    Ok(packet)
}

/// One frame into a port of a bed: no panic, the law, and well-formed output. Held packets stay.
pub fn survives(bed: &mut Bed, setup: &Setup, port: PortId, frame: Wired) -> Result<(), String> {
    bed.send(port, frame);
    bed.run();
    law(bed.counters())?;
    for i in 0..setup.ports.len() {
        let id = PortId(i as u16);
        for w in bed.drain(id) {
            output(setup, id, &w).map_err(|e| format!("port {i}: {e}: {:02x?}", w.bytes))?;
        }
    }
    Ok(())
}
