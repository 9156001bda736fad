//! The packet that a question is about, and its way into the engine.

use super::explain::{ExplainError, From, Protocol, Question};
use super::state::{EndpointState, PortState, RoleState, State};
use crate::port::mem::Wired;
use crate::wire::{Mac, checksum, ether, ipv4, l4, put16, put32, vxlan};
use std::net::Ipv4Addr;

/// Source port of TCP and UDP probes: the first that Linux chooses by itself.
const SOURCE_PORT: u16 = 32_768;
const TCP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
const ECHO_REQUEST: u8 = 8;
const SYN: u8 = 2;

/// Least size of a packet, bytes from the IP header on.
pub fn least(protocol: Protocol) -> usize {
    ipv4::HEADER
        + match protocol {
            Protocol::Tcp => TCP_HEADER,
            Protocol::Udp => l4::UDP_HEADER,
            Protocol::Icmp => ICMP_HEADER,
        }
}

/// The packet in words.
pub fn describe(q: &Question) -> String {
    let what = match q.protocol {
        Protocol::Tcp => format!("tcp port {} (SYN)", q.port),
        Protocol::Udp => format!("udp port {}", q.port),
        Protocol::Icmp => "icmp echo request".to_owned(),
    };
    format!("{} > {}, {what}, {} bytes, DF", q.src, q.dst, q.size)
}

/// The packet, with all checksums right.
fn packet(q: &Question) -> Vec<u8> {
    let mut p = vec![0; q.size];
    p[0] = 0x45;
    put16(&mut p, 2, q.size as u16);
    put16(&mut p, 6, 0x4000);
    p[8] = 64;
    put32(&mut p, 12, q.src.into());
    put32(&mut p, 16, q.dst.into());
    let at = ipv4::HEADER;
    match q.protocol {
        Protocol::Icmp => {
            (p[9], p[at]) = (ipv4::PROTO_ICMP, ECHO_REQUEST);
            let sum = checksum::sum(&p[at..]);
            put16(&mut p, at + 2, checksum::finish(sum));
        }
        Protocol::Tcp => {
            p[9] = ipv4::PROTO_TCP;
            put16(&mut p, at, SOURCE_PORT);
            put16(&mut p, at + 2, q.port);
            p[at + 12] = 5 << 4;
            p[at + 13] = SYN;
            put16(&mut p, at + 14, u16::MAX);
            l4::write(&mut p, q.size);
        }
        Protocol::Udp => {
            p[9] = ipv4::PROTO_UDP;
            put16(&mut p, at, SOURCE_PORT);
            put16(&mut p, at + 2, q.port);
            put16(&mut p, at + 4, (q.size - at) as u16);
            l4::write(&mut p, q.size);
        }
    }
    ipv4::write_checksum(&mut p);
    p
}

fn with_ethernet(dst: Mac, src: Mac, p: &[u8]) -> Vec<u8> {
    let mut out = vec![0; ether::HEADER];
    ether::write(&mut out, dst, src, ether::TYPE_IPV4);
    out.extend_from_slice(p);
    out
}

/// The pods of this node with their ports.
fn pods(state: &State) -> impl Iterator<Item = (&PortState, &EndpointState)> {
    state.ports.iter().filter_map(|p| if let RoleState::Workload(e) = &p.role { Some((p, e)) } else { None })
}

/// The pod that has an address.
pub fn pod_of(state: &State, ip: Ipv4Addr) -> Option<(&PortState, &EndpointState)> {
    pods(state).find(|(_, e)| e.addresses.contains(&ip))
}

/// From the pod that the question names, or that has the source address.
pub fn from_pod(state: &State, q: &Question) -> Result<(String, String, Wired), ExplainError> {
    let found = match &q.from {
        From::Pod(name) => pods(state).find(|(p, e)| e.name == *name || p.interface == *name),
        _ => pod_of(state, q.src),
    };
    let Some((port, endpoint)) = found else {
        let known: Vec<&str> = pods(state).map(|(_, e)| e.name.as_str()).take(20).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        let name = if let From::Pod(name) = &q.from { name.clone() } else { q.src.to_string() };
        return Err(ExplainError::Pod { name, known });
    };
    let may = if endpoint.sources.iter().any(|s| s.contains(&q.src)) { "may" } else { "may not" };
    let entry = format!("from pod {} by {} ({}), which {may} send from {}", endpoint.name, port.interface, port.driver, q.src);
    let bytes = with_ethernet(Mac::GATEWAY, endpoint.mac.unwrap_or_default(), &packet(q));
    Ok((port.interface.clone(), entry, bytes.into()))
}

/// From this node's own network stack.
pub fn from_host(state: &State, q: &Question) -> Result<(String, String, Wired), ExplainError> {
    let port = state.ports.iter().find(|p| p.role == RoleState::Host).ok_or(ExplainError::NoPort { what: "host" })?;
    Ok((port.interface.clone(), format!("from this host by {}", port.interface), packet(q).into()))
}

/// From another node, in the encapsulation that it would use.
pub fn from_uplink(state: &State, q: &Question, sender: Ipv4Addr, encapsulation: &str) -> Result<(String, String, Wired), ExplainError> {
    let port = state.ports.iter().find(|p| p.role == RoleState::Uplink).ok_or(ExplainError::NoPort { what: "uplink" })?;
    let known = if state.tunnel.senders.contains(&sender) { "a known sender" } else { "not a known sender" };
    let entry = format!("from node {sender} ({known}) by {} in {encapsulation}", port.interface);
    let inner = packet(q);
    let outer = match encapsulation {
        "vxlan" => {
            let mut payload = vec![0; 8];
            if let Some(vni) = vxlan::Vni::new(state.tunnel.vni) {
                vxlan::write(&mut payload, vni);
            }
            payload.extend(with_ethernet(state.tunnel.vtep_mac, Mac::default(), &inner));
            let mut udp = vec![0; l4::UDP_HEADER];
            put16(&mut udp, 0, SOURCE_PORT);
            put16(&mut udp, 2, state.tunnel.port);
            put16(&mut udp, 4, (l4::UDP_HEADER + payload.len()) as u16);
            udp.extend(payload);
            in_ipv4(sender, state.tunnel.node, ipv4::PROTO_UDP, &udp)
        }
        "ipip" => in_ipv4(sender, state.tunnel.node, ipv4::PROTO_IPIP, &inner),
        _ => inner,
    };
    Ok((port.interface.clone(), entry, with_ethernet(Mac::default(), Mac::default(), &outer).into()))
}

fn in_ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0; ipv4::HEADER];
    p[0] = 0x45;
    put16(&mut p, 2, (ipv4::HEADER + payload.len()).min(usize::from(u16::MAX)) as u16);
    (p[8], p[9]) = (64, protocol);
    put32(&mut p, 12, src.into());
    put32(&mut p, 16, dst.into());
    ipv4::write_checksum(&mut p);
    p.extend_from_slice(payload);
    p
}
