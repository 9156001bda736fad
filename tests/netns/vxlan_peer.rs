//! The kernel's VXLAN device as the other node of a worker with real ports: UDP sockets for the underlay, a
//! packet socket for the pod.

use crate::kernel_node::{NODE, POD, configure};
use crate::router::{Mode, ROUTER, ROUTER_POD, Router, add_address, first_site, node_and_pod, ping, second_site, underlay};
use crate::wire::transfer;
use tortie::drop::DropReason;
use tortie::port::udp::{self, UdpSpec};

const MTU: u16 = 1450;
const BULK: usize = 20_000_000;

#[test]
fn pods_talk_over_the_kernels_device() {
    let (kernel, kernel_pod) = node_and_pod(first_site(), MTU);
    let (node, pod) = node_and_pod(second_site(), MTU);
    underlay(&kernel, &node);
    add_address(&node, second_site());
    configure(&kernel, MTU);
    // Proxy ARP wants a route to the gateway that leads elsewhere; a Calico node's default route is one.
    kernel.sh(&format!("ip route add default via {ROUTER} dev eth0"));
    let spec = UdpSpec { node: ROUTER, port: 4789, queues: 1, interface: "eth0", whole: false };
    let uplink = node.run(|| udp::open(&spec)).unwrap().remove(0);
    let router = Router::start(&node, (second_site(), first_site()), Mode::Vxlan, Box::new(uplink), MTU);
    ping(&pod, "-c 5", POD);
    ping(&kernel_pod, "-c 5", ROUTER_POD);
    // As long as fits, and one byte more in two fragments.
    ping(&pod, "-c 2 -M do -s 1422", POD);
    ping(&kernel_pod, "-c 2 -M do -s 1422", ROUTER_POD);
    ping(&pod, "-c 2 -M dont -s 4000", POD);
    for offloads in [true, false] {
        pod.offloads("eth0", offloads);
        kernel_pod.offloads("eth0", offloads);
        transfer(&pod, &kernel_pod, &format!("{POD}:5001"), BULK);
        transfer(&kernel_pod, &pod, &format!("{ROUTER_POD}:5001"), BULK);
    }
    let lost = [DropReason::SegmentFailed, DropReason::TxError, DropReason::TxTooBig, DropReason::RxError, DropReason::MtuExceeded];
    assert!(lost.iter().all(|r| router.dropped(*r) == 0), "{NODE} to {ROUTER}: {}", router.drops());
    router.stop();
}
