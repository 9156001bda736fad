//! The engine over memory ports: frames in, frames out read back by etherparse, and the exact counter changes of
//! every case. The accounting law and the pool are checked by the bed itself.

mod carry;
mod claims;
mod counts;
mod errors;
mod host_flows;
mod local;
mod neighbours;
mod offload;
mod proptests;
mod reasons;
mod replay;
mod tunnel;

use std::net::Ipv4Addr;
use tortie::port::mem::Wired;
use tortie::testing::{build, check, net::Node};
use tortie::wire::Mac;

/// This node and two others.
const ME: Node = Node(1);
const PEER: Node = Node(2);

/// A packet as a pod sends it: to the gateway's MAC, from its own.
fn from_pod(i: u8, packet: &[u8]) -> Vec<u8> {
    build::ethernet(Mac::GATEWAY, ME.pod_mac(i), packet)
}

/// A datagram from pod `i` of this node.
fn udp(i: u8, dst: Ipv4Addr, payload: usize) -> Vec<u8> {
    build::Ip4::new(ME.pod(i), dst).udp(4000, 5000, &build::pattern(payload))
}

/// Reads the packet in a frame delivered to pod `i`, checking its MACs.
fn delivered(i: u8, w: &Wired) -> check::Packet {
    let (dst, src, packet) = check::ethernet_ipv4(&w.bytes).unwrap();
    assert_eq!((dst, src), (ME.pod_mac(i), Mac::GATEWAY));
    packet
}
