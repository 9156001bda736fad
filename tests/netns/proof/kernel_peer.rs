//! A tortie node and a node with the kernel's VXLAN device, as stock Calico sets it up: pings, bulk TCP, datagrams,
//! path MTU and fragments in both directions, over each way of driving the interfaces.

use super::lab::{Lab, spec};
use super::order::in_order;
use super::traffic::{mtu_sweep, ping, ping_address, sizes, tcp_both_ways};
use tortie::lab::spec::{Spec, Uplink, Workload, Xdp};

const INTERFACE: usize = 9100;
const MB: usize = 1_000_000;
const PODS: [&str; 2] = ["n1-p1", "n2-p1"];

fn lab(workload: Workload, uplink: Uplink, xdp: Xdp) -> Lab {
    Lab::up(Spec { nodes: 1, kernel_nodes: 1, ..spec(workload, uplink, xdp) })
}

/// Everything, in both directions; `bulk` bytes of TCP with the pods' offloads on, and as many without.
fn everything(lab: &Lab, bulk: usize) {
    let [a, b] = PODS;
    for (from, to) in [(a, b), (b, a), (a, "n2"), (b, "n1"), ("n1", b), ("n2", a), (a, "n1"), ("n1", a)] {
        ping(lab, from, to);
    }
    in_order(lab, a, b);
    sizes(lab, a, b);
    sizes(lab, b, a);
    tcp_both_ways(lab, a, b, bulk);
    // Once more, now without offloads.
    sizes(lab, a, b);
    sizes(lab, b, a);
    path_mtu(lab);
    lab.expect_balance("n1");
}

/// Both pods' interfaces take more than the tunnel: the nodes have to say so, or to fragment.
fn path_mtu(lab: &Lab) {
    for (node, pod) in [("n1", "n1-p1"), ("n2", "n2-p1")] {
        lab.sh(node, &format!("ip link set {} mtu {INTERFACE}", lab.interface(pod)));
        lab.sh(pod, &format!("ip link set eth0 mtu {INTERFACE}"));
    }
    let [a, b] = PODS;
    lab.wait("the pod answers with its longer interface", std::time::Duration::from_secs(30), || {
        lab.try_sh(b, &format!("ping -c 1 -W 1 {}", lab.address(a))).0
    });
    let own = |node: &str| lab.node(node).tunnel.unwrap();
    mtu_sweep(lab, a, b, own("n1"));
    // The kernel answers from the address of the interface that the pod is behind, or any other of its own.
    mtu_sweep(lab, b, a, lab.address("n2"));
    ping_address(lab, a, own("n2"));
}

fn expect_driver(lab: &Lab, role: &str, driver: &str) {
    let ports = lab.client("n1").ports().unwrap();
    let port = ports.iter().find(|p| p.role == role).unwrap();
    assert_eq!(port.driver.as_deref(), Some(driver), "{port:?}");
}

#[test]
fn over_sockets() {
    let lab = lab(Workload::AfPacket, Uplink::Socket, Xdp::Auto);
    expect_driver(&lab, "uplink", "udp");
    everything(&lab, 100 * MB);
}

#[test]
fn over_af_xdp_native() {
    let lab = lab(Workload::AfXdp, Uplink::AfXdp, Xdp::Native);
    expect_driver(&lab, "uplink", "af-xdp-native");
    everything(&lab, 100 * MB);
}

#[test]
fn over_af_xdp_generic() {
    let lab = lab(Workload::AfXdp, Uplink::AfXdp, Xdp::Generic);
    expect_driver(&lab, "uplink", "af-xdp-generic");
    everything(&lab, 100 * MB);
}
