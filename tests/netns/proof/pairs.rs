//! tortie to tortie: each way to attach pods with each way to reach nodes, and each encapsulation.

use super::lab::{Lab, spec};
use super::order::in_order;
use super::traffic::{mtu_sweep, ping, sizes, tcp_both_ways};
use tortie::lab::spec::{Encap, Spec, Uplink, Workload, Xdp};

const BULK: usize = 100_000_000;

fn pair(spec: Spec) {
    let lab = Lab::up(Spec { nodes: 2, ..spec });
    let (a, b) = ("n1-p1", "n2-p1");
    for (from, to) in [(a, b), (b, a), (a, "n1"), ("n1", a), (a, "n2"), ("n1", b)] {
        ping(&lab, from, to);
    }
    in_order(&lab, a, b);
    sizes(&lab, a, b);
    sizes(&lab, b, a);
    tcp_both_ways(&lab, a, b, BULK);
    // A TAP's MTU is the engine's; only a veth's can be raised behind its back.
    if lab.plan.spec.workload == Workload::AfPacket && lab.plan.spec.encap != Encap::None {
        lab.sh("n1", &format!("ip link set {} mtu 9100", lab.interface(a)));
        lab.sh(a, "ip link set eth0 mtu 9100");
        lab.wait("the port is open again", std::time::Duration::from_secs(30), || {
            lab.client("n1").ports().unwrap().iter().all(|p| p.state == "up")
        });
        ping(&lab, a, b);
        mtu_sweep(&lab, a, b, lab.node("n1").tunnel.unwrap());
    }
    for node in ["n1", "n2"] {
        lab.expect_balance(node);
    }
}

#[test]
fn packet_sockets_and_udp() {
    pair(spec(Workload::AfPacket, Uplink::Socket, Xdp::Auto));
}

#[test]
fn packet_sockets_and_af_xdp() {
    pair(spec(Workload::AfPacket, Uplink::AfXdp, Xdp::Native));
}

#[test]
fn native_af_xdp_and_udp() {
    pair(spec(Workload::AfXdp, Uplink::Socket, Xdp::Native));
}

#[test]
fn native_af_xdp_twice() {
    pair(spec(Workload::AfXdp, Uplink::AfXdp, Xdp::Native));
}

#[test]
fn generic_af_xdp_and_udp() {
    pair(spec(Workload::AfXdp, Uplink::Socket, Xdp::Generic));
}

#[test]
fn generic_af_xdp_twice() {
    pair(spec(Workload::AfXdp, Uplink::AfXdp, Xdp::Generic));
}

#[test]
fn taps_and_udp() {
    pair(spec(Workload::Tap, Uplink::Socket, Xdp::Auto));
}

#[test]
fn taps_and_af_xdp() {
    pair(spec(Workload::Tap, Uplink::AfXdp, Xdp::Auto));
}

#[test]
fn ipip_over_a_raw_socket() {
    pair(Spec { encap: Encap::Ipip, ..spec(Workload::AfPacket, Uplink::Socket, Xdp::Auto) });
}

#[test]
fn ipip_over_af_xdp() {
    pair(Spec { encap: Encap::Ipip, ..spec(Workload::AfPacket, Uplink::AfXdp, Xdp::Native) });
}

#[test]
fn no_encapsulation_over_packet_sockets() {
    pair(Spec { encap: Encap::None, ..spec(Workload::AfPacket, Uplink::Socket, Xdp::Auto) });
}
