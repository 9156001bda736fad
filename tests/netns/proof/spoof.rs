//! What must not pass: foreign sources, tunnels from pods, tunnel packets from strangers, and garbage.

use super::lab::{Lab, spec};
use super::traffic::ping;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;
use tortie::lab::spec::{Encap, Spec, Uplink, Workload, Xdp};
use tortie::port::sys;
use tortie::testing::build::{Ip4, pattern};

/// Not a node and not a pod.
const STRANGER: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 77);

/// A socket for whole IPv4 packets, source address included; the kernel fills in checksum and link layer.
struct Raw(OwnedFd);

impl Raw {
    fn new(lab: &Lab, place: &str) -> Raw {
        Raw(lab.inside(place, || sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW).unwrap()))
    }

    fn send(&self, packet: &[u8]) {
        // SAFETY: plain data for which zero is valid.
        let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        to.sin_family = libc::AF_INET as u16;
        to.sin_addr.s_addr = u32::from_ne_bytes([packet[16], packet[17], packet[18], packet[19]]);
        // SAFETY: reads `packet` and a sockaddr_in of the given length.
        let n = unsafe {
            libc::sendto(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, (&raw const to).cast(), size_of_val(&to) as u32)
        };
        assert_eq!(n, packet.len() as isize, "send {} bytes: {}", packet.len(), std::io::Error::last_os_error());
    }
}

/// VXLAN header of a VNI, and what follows.
fn vxlan(flags: u8, vni: u32, rest: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, 0][..], &(vni << 8).to_be_bytes(), rest].concat()
}

/// An inner frame to the VTEP of `node` from that of `from`.
fn inner_frame(lab: &Lab, from: &str, node: &str, packet: &[u8]) -> Vec<u8> {
    [&lab.node(node).vtep_mac().0[..], &lab.node(from).vtep_mac().0, &[8, 0], packet].concat()
}

/// Does something and waits until `node` has counted `n` more drops for the reason.
fn expect_drops(lab: &Lab, node: &str, reason: &str, n: u64, act: impl FnOnce()) {
    let before = lab.dropped(node, reason);
    act();
    lab.wait(&format!("{n} x {reason} on {node}"), Duration::from_secs(30), || lab.dropped(node, reason) >= before + n);
    assert_eq!(lab.dropped(node, reason), before + n, "{reason}");
}

fn pods_are_held_to_their_addresses(uplink: Uplink, workload: Workload) {
    // What arrives is counted.
    let lab = Lab::up(Spec { pods: 2, probes: false, ..spec(workload, uplink, Xdp::Auto) });
    let (own, neighbour, far) = (lab.address("n1-p1"), lab.address("n1-p2"), lab.address("n2-p1"));
    ping(&lab, "n1-p1", "n2-p1");
    ping(&lab, "n1-p1", "n1-p2");
    let pod = Raw::new(&lab, "n1-p1");
    let received = |lab: &Lab| lab.client("n2").counters().unwrap().pop().unwrap().received;
    let before = received(&lab);
    // Another pod of this node, one of the other node, the other node itself, a stranger.
    for source in [neighbour, far, lab.address("n2"), STRANGER, Ipv4Addr::new(8, 8, 8, 8)] {
        expect_drops(&lab, "n1", "source-spoofed", 1, || pod.send(&Ip4::new(source, far).udp(9, 9, b"x")));
    }
    let (n1, n2) = (lab.address("n1"), lab.address("n2"));
    let tunnel = vxlan(8, 4096, &inner_frame(&lab, "n1", "n2", &Ip4::new(neighbour, far).udp(9, 9, b"x")));
    for node in [n1, n2] {
        expect_drops(&lab, "n1", "workload-tunnel", 1, || pod.send(&Ip4::new(own, node).udp(9, 4789, &tunnel)));
        expect_drops(&lab, "n1", "workload-tunnel", 1, || pod.send(&Ip4::new(own, node).raw(4, &Ip4::new(own, far).udp(9, 9, b"x"))));
    }
    assert_eq!(received(&lab), before, "something got through to the other node");
    lab.expect_balance("n1");
}

#[test]
fn from_veths() {
    pods_are_held_to_their_addresses(Uplink::Socket, Workload::AfPacket);
}

#[test]
fn from_taps() {
    pods_are_held_to_their_addresses(Uplink::AfXdp, Workload::Tap);
}

/// Tunnel packets from the underlay that are not in order, each under its name; and the engine forwards on.
fn the_underlay_is_not_trusted(uplink: Uplink) {
    let lab = Lab::up(spec(Workload::AfPacket, uplink, Xdp::Auto));
    ping(&lab, "n2-p1", "n1-p1");
    lab.sh("n2", &format!("ip addr add {STRANGER}/24 dev eth0"));
    let (n1, n2) = (lab.address("n1"), lab.address("n2"));
    let (to, from) = (lab.address("n1-p1"), lab.address("n2-p1"));
    let node = Raw::new(&lab, "n2");
    let good = Ip4::new(from, to).udp(9, 9, b"payload");
    let frame = inner_frame(&lab, "n2", "n1", &good);
    let whole = vxlan(8, 4096, &frame);
    let udp = |source: Ipv4Addr, payload: &[u8]| Ip4::new(source, n1).udp(40_000, 4789, payload);
    let wrong_mac = [&[2, 0, 0, 0, 0, 9][..], &frame[6..]].concat();
    let arp = [&frame[..12], &[8, 6], &frame[14..]].concat();
    // A tunnel in the tunnel: its inner packet comes from no pod.
    let nested = inner_frame(&lab, "n2", "n1", &udp(n2, &whole));
    for (reason, packet) in [
        ("tunnel-sender-unknown", udp(STRANGER, &whole)),
        ("vxlan-flags", udp(n2, &vxlan(0, 4096, &frame))),
        ("vxlan-inner-mac", udp(n2, &vxlan(8, 4096, &wrong_mac))),
        ("vxlan-inner-type", udp(n2, &vxlan(8, 4096, &arp))),
        ("vxlan-truncated", udp(n2, &vxlan(8, 4096, &frame[..13]))),
        ("ip-truncated", udp(n2, &vxlan(8, 4096, &frame[..20]))),
        ("ip-truncated", udp(n2, &vxlan(8, 4096, &frame[..frame.len() - 1]))),
        ("ip-checksum", udp(n2, &vxlan(8, 4096, &inner_frame(&lab, "n2", "n1", &spoil(&good))))),
        ("tunnel-sender-unknown", Ip4::new(STRANGER, n1).raw(4, &good)),
        ("ip-truncated", Ip4::new(n2, n1).raw(4, &good[..19])),
        ("ip-checksum", Ip4::new(n2, n1).raw(4, &spoil(&good))),
    ] {
        // AF_XDP leaves to the kernel what is not plainly a tunnel packet of ours; a socket gets it all.
        if uplink == Uplink::AfXdp && reason == "vxlan-flags" {
            continue;
        }
        expect_drops(&lab, "n1", reason, 1, || node.send(&packet));
    }
    node.send(&udp(n2, &vxlan(8, 4096, &nested)));
    node.send(&udp(n2, &vxlan(8, 4096, &inner_frame(&lab, "n2", "n1", &Ip4::new(n2, n1).raw(4, &good)))));
    garbage(&node, n2, n1);
    ping(&lab, "n2-p1", "n1-p1");
    ping(&lab, "n1-p1", "n2-p1");
    lab.expect_balance("n1");
}

/// The packet with its header checksum wrong.
fn spoil(packet: &[u8]) -> Vec<u8> {
    let mut p = packet.to_vec();
    p[10] ^= 0x55;
    p
}

/// Tunnel packets of every short length, filled with what looks like nothing, some of it behind a right header.
fn garbage(node: &Raw, from: Ipv4Addr, to: Ipv4Addr) {
    for len in (0..120).chain([500, 1400]) {
        let junk: Vec<u8> = pattern(len).iter().map(|b| b.wrapping_mul(167) ^ 0xa5).collect();
        node.send(&Ip4::new(from, to).udp(40_001, 4789, &junk));
        node.send(&Ip4::new(from, to).udp(40_001, 4789, &vxlan(8, 4096, &junk)));
        node.send(&Ip4::new(from, to).raw(4, &junk));
    }
}

#[test]
fn at_sockets() {
    the_underlay_is_not_trusted(Uplink::Socket);
}

#[test]
fn at_af_xdp() {
    the_underlay_is_not_trusted(Uplink::AfXdp);
}

#[test]
fn ipip_from_strangers_is_dropped_where_it_is_the_pools_way() {
    let lab = Lab::up(Spec { encap: Encap::Ipip, ..spec(Workload::AfPacket, Uplink::Socket, Xdp::Auto) });
    lab.sh("n2", &format!("ip addr add {STRANGER}/24 dev eth0"));
    let node = Raw::new(&lab, "n2");
    let (from, to) = (lab.address("n2-p1"), lab.address("n1-p1"));
    let receiver = lab.inside("n1-p1", || std::net::UdpSocket::bind(SocketAddrV4::new(to, 9)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let inner = Ip4::new(from, to).udp(9, 9, b"payload");
    expect_drops(&lab, "n1", "tunnel-sender-unknown", 1, || node.send(&Ip4::new(STRANGER, lab.address("n1")).raw(4, &inner)));
    // The same from the node arrives, and nothing before it did.
    node.send(&Ip4::new(lab.address("n2"), lab.address("n1")).raw(4, &Ip4::new(from, to).udp(9, 9, b"right")));
    let mut got = [0; 16];
    assert_eq!(receiver.recv(&mut got).unwrap(), 5);
    assert_eq!(&got[..5], b"right");
}
