//! The uplink stays the kernel's while the engine runs: only tunnel packets are taken from it.

use super::lab::{Lab, spec};
use super::traffic::{ping, tcp};
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;
use tortie::lab::spec::{Spec, Uplink, Workload, Xdp};
use tortie::testing::build::pattern;

/// A datagram between the nodes themselves, and its answer.
fn udp(lab: &Lab, port: u16, size: usize) {
    let far = lab.inside("n2", || UdpSocket::bind(SocketAddrV4::new(lab.address("n2"), port)).unwrap());
    let near = lab.inside("n1", || UdpSocket::bind(SocketAddrV4::new(lab.address("n1"), 0)).unwrap());
    let (data, mut got) = (pattern(size), vec![0; size + 1]);
    near.send_to(&data, far.local_addr().unwrap()).unwrap();
    for s in [&far, &near] {
        s.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    }
    let (n, from) = far.recv_from(&mut got).unwrap_or_else(|e| panic!("port {port}, {size} bytes: {e}\n{}", lab.story()));
    assert_eq!(got[..n], data);
    far.send_to(&got[..n], from).unwrap();
    assert_eq!(near.recv(&mut got).unwrap(), size);
}

fn nodes_talk(uplink: Uplink, xdp: Xdp) -> Lab {
    // What the engine takes is counted.
    let lab = Lab::up(Spec { probes: false, ..spec(Workload::AfPacket, uplink, xdp) });
    ping(&lab, "n1-p1", "n2-p1");
    let taken = |lab: &Lab| lab.client("n2").ports().unwrap().iter().filter(|p| p.role == "uplink").map(|p| p.rx_frames).sum::<u64>();
    let before = taken(&lab);
    ping(&lab, "n1", "n2");
    ping(&lab, "n2", "n1");
    tcp(&lab, "n1", "n2", 5_000_000);
    tcp(&lab, "n2", "n1", 5_000_000);
    // Beside the VXLAN port, and in fragments of which all but the first show no port at all.
    for (port, size) in [(53, 100), (4788, 100), (4790, 1400), (8472, 9000), (65_535, 0)] {
        udp(&lab, port, size);
    }
    assert_eq!(taken(&lab), before, "the engine took packets of the node's own");
    ping(&lab, "n1-p1", "n2-p1");
    assert!(taken(&lab) > before);
    lab.expect_balance("n2");
    lab
}

#[test]
fn over_sockets() {
    nodes_talk(Uplink::Socket, Xdp::Auto);
}

#[test]
fn under_native_xdp_and_a_foreign_vni_is_the_kernels() {
    foreign_vni(&nodes_talk(Uplink::AfXdp, Xdp::Native));
}

#[test]
fn under_generic_xdp_and_a_foreign_vni_is_the_kernels() {
    foreign_vni(&nodes_talk(Uplink::AfXdp, Xdp::Generic));
}

/// With AF_XDP the VXLAN port is free for another user of the node.
fn foreign_vni(lab: &Lab) {
    let other = lab.inside("n2", || UdpSocket::bind(SocketAddrV4::new(lab.address("n2"), 4789)).unwrap());
    other.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let sender = lab.inside("n1", || UdpSocket::bind(SocketAddrV4::new(lab.address("n1"), 0)).unwrap());
    let datagram = |vni: u32| [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), &pattern(64)].concat();
    let mut got = [0; 256];
    for vni in [4095, 4097, 0, 1] {
        sender.send_to(&datagram(vni), other.local_addr().unwrap()).unwrap();
        let n = other.recv(&mut got).unwrap_or_else(|e| panic!("VNI {vni}: {e}"));
        assert_eq!(got[..n], datagram(vni));
    }
    // Calico's own is not: the next that arrives is one sent after it.
    sender.send_to(&datagram(4096), other.local_addr().unwrap()).unwrap();
    sender.send_to(&datagram(7), other.local_addr().unwrap()).unwrap();
    let n = other.recv(&mut got).unwrap();
    assert_eq!(got[..n], datagram(7));
}
