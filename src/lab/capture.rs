//! One packet between nodes as the underlay sees it, decoded by a reader that shares no code with the engine's
//! encapsulation.

use super::LabError;
use super::matrix::ping;
use super::spec::{Encap, Node, Plan, netns_path};
use super::sys::Capture;
use crate::wire::vxlan;
use etherparse::{IpNumber, LinkSlice, NetSlice, SlicedPacket, TransportSlice};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Pings from the first node's first pod to a pod on another node and returns the first request seen on the
/// first node's wire, or `None` if the lab has no such pair or nothing was seen in two seconds.
pub fn one_packet(plan: &Plan) -> Result<Option<(String, Vec<u8>)>, LabError> {
    let Some(a) = plan.nodes.first() else { return Ok(None) };
    let to = plan.nodes.iter().find(|n| plan.encapsulated(a, n) && n.name != a.name).or_else(|| plan.nodes.get(1));
    let (Some(b), Some(from)) = (to, a.pods.first()) else { return Ok(None) };
    let Some(dst) = b.pods.first() else { return Ok(None) };
    let open = |e| LabError::Run { what: format!("capture on {} in {}", a.name, plan.underlay), source: e };
    let capture = Capture::open(&netns_path(&plan.underlay), &a.name, Duration::from_millis(100)).map_err(open)?;
    let title = format!("{} -> {} ({} -> {}) on the wire of {}", from.name, dst.name, from.address, dst.address, a.name);
    let frame = std::thread::scope(|s| {
        s.spawn(|| ping(&from.netns, dst.address));
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut buffer = [0u8; 2048];
        while Instant::now() < deadline {
            match capture.next(&mut buffer) {
                Ok(n) if is_from_to(plan, a, b, &buffer[..n]) && is_between(from.address, dst.address, &buffer[..n]) => {
                    return Some(buffer[..n].to_vec());
                }
                _ => {}
            }
        }
        None
    });
    Ok(frame.map(|f| (title, f)))
}

/// Whether a frame holds these two addresses, one behind the other: nodes send each other packets of their own, too.
fn is_between(from: Ipv4Addr, to: Ipv4Addr, frame: &[u8]) -> bool {
    let pair = [from.octets(), to.octets()].concat();
    frame.windows(pair.len()).any(|w| w == pair)
}

/// Whether a frame carries a packet from node `a` to node `b` in the encapsulation between the two.
fn is_from_to(plan: &Plan, a: &Node, b: &Node, frame: &[u8]) -> bool {
    let Ok(SlicedPacket { net: Some(NetSlice::Ipv4(ip)), transport, .. }) = SlicedPacket::from_ethernet(frame) else { return false };
    let h = ip.header();
    if !plan.encapsulated(a, b) {
        return a.block.contains(&h.source_addr()) && b.block.contains(&h.destination_addr());
    }
    let tunnel = match plan.spec.encap {
        Encap::Vxlan => matches!(transport, Some(TransportSlice::Udp(u)) if u.destination_port() == vxlan::PORT),
        Encap::Ipip => h.protocol() == IpNumber::IPV4,
        Encap::None => false,
    };
    tunnel && h.source_addr() == a.address.addr() && h.destination_addr() == b.address.addr()
}

/// One line per header, outermost first.
pub fn decode(frame: &[u8]) -> Vec<String> {
    let mut lines = vec![format!("{} bytes", frame.len())];
    layers("outer", SlicedPacket::from_ethernet(frame).ok(), &mut lines);
    lines
}

fn layers(which: &str, packet: Option<SlicedPacket>, lines: &mut Vec<String>) {
    let Some(packet) = packet else {
        lines.push(format!("{which} (cannot be decoded)"));
        return;
    };
    if let Some(LinkSlice::Ethernet2(e)) = &packet.link {
        let (from, to) = (crate::wire::Mac(e.source()), crate::wire::Mac(e.destination()));
        lines.push(format!("{which} Ethernet  {from} > {to}  type {:#06x}", e.ether_type().0));
    }
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { return };
    let h = ip.header();
    let df = if h.dont_fragment() { " DF" } else { "" };
    lines.push(format!(
        "{which} IPv4      {} > {}  protocol {} ttl {} tos {:#04x} id {}{df} length {}",
        h.source_addr(),
        h.destination_addr(),
        h.protocol().0,
        h.ttl(),
        h.slice()[1],
        h.identification(),
        h.total_len()
    ));
    if h.protocol() == IpNumber::IPV4 {
        return layers("inner", SlicedPacket::from_ip(ip.payload().payload).ok(), lines);
    }
    match &packet.transport {
        Some(TransportSlice::Udp(u)) => {
            lines.push(format!(
                "{which} UDP       {} > {}  length {} checksum {:#06x}",
                u.source_port(),
                u.destination_port(),
                u.length(),
                u.checksum()
            ));
            if u.destination_port() == vxlan::PORT && u.payload().len() >= vxlan::HEADER {
                let (header, inner) = u.payload().split_at(vxlan::HEADER);
                let vni = vxlan::parse(header).map_or_else(|r| r.to_string(), |v| v.get().to_string());
                lines.push(format!("      VXLAN     flags {:#04x} vni {vni}", header[0]));
                layers("inner", SlicedPacket::from_ethernet(inner).ok(), lines);
            }
        }
        Some(TransportSlice::Icmpv4(i)) => {
            let b = i.bytes5to8();
            let what = match i.type_u8() {
                0 => "echo reply",
                8 => "echo request",
                _ => "other",
            };
            let (id, sequence) = (u16::from_be_bytes([b[0], b[1]]), u16::from_be_bytes([b[2], b[3]]));
            lines.push(format!("{which} ICMP      type {} ({what}) id {id} sequence {sequence}", i.type_u8()));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn echo() -> Vec<u8> {
        let mut out = Vec::new();
        let b = PacketBuilder::ethernet2([0x66, 1, 1, 1, 1, 1], [0x66, 2, 2, 2, 2, 2]).ipv4([10, 244, 1, 1], [10, 244, 2, 1], 63);
        b.icmpv4_echo_request(7, 1).write(&mut out, b"abc").unwrap();
        out
    }

    #[test]
    fn vxlan_is_decoded_down_to_the_ping() {
        let mut payload = vec![0u8; 8];
        vxlan::write(&mut payload, vxlan::Vni::CALICO);
        payload.extend(echo());
        let mut frame = Vec::new();
        let b = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([172, 31, 1, 1], [172, 31, 1, 2], 64);
        b.udp(40000, 4789).write(&mut frame, &payload).unwrap();
        let text = decode(&frame).join("\n");
        for part in [
            "outer IPv4      172.31.1.1 > 172.31.1.2  protocol 17 ttl 64",
            "outer UDP       40000 > 4789",
            "VXLAN     flags 0x08 vni 4096",
            "inner Ethernet  66:01:01:01:01:01 > 66:02:02:02:02:02  type 0x0800",
            "inner IPv4      10.244.1.1 > 10.244.2.1  protocol 1 ttl 63",
            "inner ICMP      type 8 (echo request) id 7 sequence 1",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let plan = Plan::new(crate::lab::spec::Spec::new("lab")).unwrap();
        assert!(is_from_to(&plan, &plan.nodes[0], &plan.nodes[1], &frame));
        assert!(!is_from_to(&plan, &plan.nodes[1], &plan.nodes[0], &frame));
    }

    #[test]
    fn garbage_is_said_to_be_garbage() {
        assert_eq!(decode(&[1, 2, 3]), ["3 bytes", "outer (cannot be decoded)"]);
    }
}
