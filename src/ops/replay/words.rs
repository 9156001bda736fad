//! Headers in words: a frame from the outside in, each header with its bytes.

use crate::wire::{Mac, be16, be32, ether, ipv4, l4, vxlan};
use serde::Serialize;
use std::net::Ipv4Addr;

/// One header of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    pub layer: &'static str,
    pub text: String,
    /// Its bytes, hexadecimal.
    pub hex: String,
}

/// The headers of a frame. `vxlan_port`: what follows UDP to this port is a tunnel's.
pub fn headers(frame: &[u8], ethernet: bool, vxlan_port: u16) -> Vec<Header> {
    let mut out = Vec::new();
    let mut rest = frame;
    if ethernet {
        let Some(after) = link(rest, &mut out) else { return out };
        rest = after;
    }
    // Two levels: a tunnel in a tunnel is somebody else's business.
    for _ in 0..2 {
        let Some((proto, payload)) = network(rest, &mut out) else { return out };
        match proto {
            ipv4::PROTO_IPIP => rest = payload,
            ipv4::PROTO_UDP => {
                let Some((port, payload)) = udp(payload, &mut out) else { return out };
                let Some(inner) = (port == vxlan_port).then(|| tunnel(payload, &mut out)).flatten() else { return out };
                let Some(inner) = link(inner, &mut out) else { return out };
                rest = inner;
            }
            ipv4::PROTO_TCP => return tcp(payload, out),
            _ => return out,
        }
    }
    out
}

fn push(out: &mut Vec<Header>, layer: &'static str, bytes: &[u8], text: String) {
    let hex = bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    out.push(Header { layer, text, hex });
}

/// What follows the Ethernet header, if it is IPv4.
fn link<'a>(p: &'a [u8], out: &mut Vec<Header>) -> Option<&'a [u8]> {
    let (header, rest) = p.split_at_checked(ether::HEADER)?;
    let kind = be16(header, 12);
    push(out, "ethernet", header, format!("{} > {}, type 0x{kind:04x}", Mac::read(header, 6), Mac::read(header, 0)));
    (kind == ether::TYPE_IPV4).then_some(rest)
}

/// Protocol and payload.
fn network<'a>(p: &'a [u8], out: &mut Vec<Header>) -> Option<(u8, &'a [u8])> {
    let header_len = p.first().map(|_| ipv4::header_len(p)).filter(|n| *n >= ipv4::HEADER && *n <= p.len())?;
    let (header, rest) = p.split_at(header_len);
    let (src, dst) = (Ipv4Addr::from(ipv4::src(p)), Ipv4Addr::from(ipv4::dst(p)));
    let df = if ipv4::dont_fragment(p) { "DF" } else { "DF clear" };
    let text = format!(
        "{src} > {dst}, protocol {}, TTL {}, TOS 0x{:02x}, {df}, id {}, length {}",
        ipv4::proto(p),
        ipv4::ttl(p),
        ipv4::tos(p),
        ipv4::id(p),
        ipv4::total_len(p)
    );
    push(out, "ipv4", header, text);
    (!ipv4::is_later_fragment(p)).then(|| (ipv4::proto(p), rest))
}

/// Destination port and payload.
fn udp<'a>(p: &'a [u8], out: &mut Vec<Header>) -> Option<(u16, &'a [u8])> {
    let (header, rest) = p.split_at_checked(l4::UDP_HEADER)?;
    let port = be16(header, 2);
    push(out, "udp", header, format!("{} > {port}, length {}, checksum 0x{:04x}", be16(header, 0), be16(header, 4), be16(header, 6)));
    Some((port, rest))
}

fn tunnel<'a>(p: &'a [u8], out: &mut Vec<Header>) -> Option<&'a [u8]> {
    let (header, rest) = p.split_at_checked(8)?;
    let vni = vxlan::parse(header).map_or_else(|_| "without a VNI".into(), |v| format!("VNI {}", v.get()));
    push(out, "vxlan", header, format!("flags 0x{:02x}, {vni}", header[0]));
    Some(rest)
}

fn tcp(p: &[u8], mut out: Vec<Header>) -> Vec<Header> {
    if let Some((header, _)) = p.split_at_checked(20) {
        let text = format!("{} > {}, seq {}, flags 0x{:02x}", be16(header, 0), be16(header, 2), be32(header, 4), header[13]);
        push(&mut out, "tcp", header, text);
    }
    out
}
