//! Super-frames that the sockets' ports send whole: what leaves on an interface that can neither segment nor compute
//! checksums, what happens where there is no device for it, and where there is no way.

use super::kernel_node::Tap;
use super::ports_sockets::{A, B, Rig, data, nodes, sent, tcp_packet, tunnelled, udp_packet};
use std::net::{IpAddr, Ipv4Addr};
use tortie::frame::{Batch, Csum, FramePool, Gso, GsoKind};
use tortie::port::open::{self, UplinkMethod, UplinkPorts, UplinkSpec};
use tortie::port::raw::{self, RawPort, RawSpec};
use tortie::port::udp::{self, UdpPort, UdpSpec};
use tortie::port::xsk::XskMode;
use tortie::port::{Port, TxCsum, losses};
use tortie::testing::build::unfinish;
use tortie::testing::netns::Namespace;
use tortie::wire::vxlan::{self, Vni};
use tortie::wire::{be16, ether, ipv4, l4, put16};

/// Outer Ethernet, IPv4, UDP and VXLAN, inner Ethernet.
const VXLAN: usize = 14 + 20 + 8 + 8 + 14;
const IPIP: usize = 14 + 20;

fn open_udp(ns: &Namespace) -> Rig<UdpPort> {
    let spec = UdpSpec { node: A, port: vxlan::PORT, queues: 1, interface: "eth0", whole: true };
    Rig::new(ns.run(|| udp::open(&spec)).unwrap().remove(0))
}

fn open_raw(ns: &Namespace) -> Rig<RawPort> {
    let spec = RawSpec { node: A, queues: 1, interface: "eth0", whole: true };
    Rig::new(ns.run(|| raw::open(&spec)).unwrap().remove(0))
}

/// Two nodes on a wire without offloads, which the kernel cuts super-frames for, and all that arrives at the second.
fn plain_wire() -> (Namespace, Namespace, Tap) {
    let (a, b) = nodes();
    for ns in [&a, &b] {
        ns.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1");
        ns.offloads("eth0", false);
        ns.sh("ethtool -K eth0 tx-udp-segmentation off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off");
        ns.sh("ethtool -K eth0 tx-ipxip4-segmentation off");
    }
    // The neighbour is known before the first packet: ARP is not what is captured here.
    let mac = b.sh("cat /sys/class/net/eth0/address");
    a.sh(&format!("ip neigh replace {B} lladdr {} dev eth0 nud permanent", mac.trim()));
    let tap = Tap::new(&b, "eth0");
    while tap.recv(50).is_some() {}
    (a, b, tap)
}

/// The next IPv4 packet to node `b` of a protocol, from Ethernet on.
fn next(tap: &Tap, proto: u8) -> Vec<u8> {
    loop {
        let f = tap.recv(2000).expect("a packet");
        if be16(&f, 12) == ether::TYPE_IPV4 && f[23] == proto && Ipv4Addr::from(ipv4::dst(&f[14..])) == B {
            return f;
        }
    }
}

/// Checks an outer IPv4 header: addresses, lengths and checksum (`validate`), TTL, DF and fragments, TOS.
fn check_outer(p: &[u8], tos: u8, frag: u16) {
    assert_eq!(ipv4::validate(p), Ok(p.len()), "{:02x?}", &p[..20]);
    assert!(p.len() <= 1500, "{} bytes", p.len());
    assert_eq!((Ipv4Addr::from(ipv4::src(p)), Ipv4Addr::from(ipv4::dst(p))), (A, B));
    assert_eq!((p[8], p[1], ipv4::frag_word(p)), (64, tos, frag));
}

/// Checks the segments of `packet`, which are taken from `next`; `headers` is the length of IP and L4.
fn check_inner(packet: &[u8], headers: usize, size: usize, mut next: impl FnMut() -> Vec<u8>) {
    for (i, chunk) in packet[headers..].chunks(size).enumerate() {
        let p = next();
        assert_eq!(ipv4::validate(&p), Ok(p.len()), "segment {i}");
        assert!(l4::verify(&p, p.len()), "checksum of segment {i}");
        assert!(&p[headers..] == chunk, "payload of segment {i}");
        assert_eq!((&p[8..10], &p[12..24]), (&packet[8..10], &packet[12..24]), "TTL, protocol, addresses, ports");
    }
}

#[test]
fn vxlan_super_frames_leave_a_plain_interface_as_valid_tunnel_packets() {
    let (a, _b, tap) = plain_wire();
    let mut rig = open_udp(&a);
    assert_eq!((rig.port.refusal(), rig.caps().tx_csum), (None, TxCsum::SuperFrames));
    let payload = data(30_000);
    let cases = [(tcp_packet(&payload), GsoKind::Tcp4, 1398, 40, 16), (udp_packet(&payload), GsoKind::Udp, 1410, 28, 6)];
    for (mut packet, kind, size, headers, offset) in cases {
        unfinish(&mut packet);
        let mut out = Batch::new();
        // An ordinary frame in front and one behind: the order must hold.
        for i in 0..3 {
            let bytes = if i == 1 { tunnelled(&packet) } else { tunnelled(&udp_packet(&[i])) };
            let mut f = rig.frame(&bytes, 3);
            f.outer_tos = 0xb9;
            if i == 1 {
                f.gso = Some(Gso { kind, size });
                f.csum = Csum::Partial { start: f.head() + (VXLAN - 42) as u32 + 20, offset };
            }
            out.push(f);
        }
        assert_eq!(rig.send(&mut out), sent(3));
        let (mut ports, mut ids) = (Vec::new(), Vec::new());
        let mut inner = || {
            let f = next(&tap, ipv4::PROTO_UDP);
            check_outer(&f[14..], 0xb9, 0);
            assert!(be16(&f, 40) != 0 && l4::verify(&f[14..], f.len() - 14), "outer UDP checksum");
            assert_eq!((be16(&f, 36), vxlan::parse(&f[42..])), (vxlan::PORT, Ok(Vni::CALICO)));
            assert_eq!(f[42..VXLAN], tunnelled(&[])[..]);
            ports.push(be16(&f, 34));
            ids.push(ipv4::id(&f[14..]));
            f[VXLAN..].to_vec()
        };
        assert!(inner() == udp_packet(&[0]));
        check_inner(&packet, headers, usize::from(size), &mut inner);
        assert!(inner() == udp_packet(&[2]));
        ports.dedup();
        assert_eq!(ports.len(), 1, "one flow, one source port");
        let segments = &ids[1..ids.len() - 1];
        assert!(segments.windows(2).all(|w| w[1] == w[0].wrapping_add(1)), "{segments:?}");
    }
    assert!(losses::sum(&rig.port.losses()).contains(&("super-frame-no-route", 0)));
    rig.close();
}

/// An outer header as the rewrite makes it, and the packet.
fn ipip(to: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let mut p = vec![0; 20];
    let len = (20 + inner.len()) as u16;
    let frag = ipv4::frag_word(inner) & ipv4::DF;
    ipv4::Header { tos: 1, len, id: 77, frag, ttl: 64, proto: ipv4::PROTO_IPIP, src: A.into(), dst: to.into() }.write(&mut p);
    p.extend_from_slice(inner);
    p
}

/// A TCP super-frame of segments of 1398 bytes, its checksum unfinished.
fn super_frame<P: Port>(rig: &mut Rig<P>, bytes: &[u8], l4_at: u32) -> tortie::frame::Frame {
    let mut f = rig.frame(bytes, 3);
    f.gso = Some(Gso { kind: GsoKind::Tcp4, size: 1398 });
    f.csum = Csum::Partial { start: f.head() + l4_at, offset: 16 };
    f
}

#[test]
fn ipip_super_frames_leave_a_plain_interface_as_valid_tunnel_packets() {
    let (a, _b, tap) = plain_wire();
    let mut rig = open_raw(&a);
    assert_eq!((rig.port.refusal(), rig.caps().tx_csum), (None, TxCsum::SuperFrames));
    let payload = data(60_000);
    for df in [0, ipv4::DF] {
        let mut packet = tcp_packet(&payload);
        unfinish(&mut packet);
        put16(&mut packet, 6, df);
        ipv4::write_checksum(&mut packet);
        let mut out = Batch::new();
        for i in 0..3 {
            let f = match i {
                1 => super_frame(&mut rig, &ipip(B, &packet), 40),
                _ => rig.frame(&ipip(B, &udp_packet(&[i])), 3),
            };
            out.push(f);
        }
        assert_eq!(rig.send(&mut out), sent(3));
        let mut frags = Vec::new();
        let mut inner = || {
            let f = next(&tap, ipv4::PROTO_IPIP);
            frags.push(ipv4::frag_word(&f[14..]));
            check_outer(&f[14..], 1, frags[frags.len() - 1]);
            f[IPIP..].to_vec()
        };
        assert!(inner() == udp_packet(&[0]));
        check_inner(&packet, 40, 1398, &mut inner);
        assert!(inner() == udp_packet(&[2]));
        assert!(frags[1..frags.len() - 1].iter().all(|f| *f == df), "{frags:04x?}");
    }
    // What the other end could not cut again, and what contradicts itself, is refused.
    let mut udp = super_frame(&mut rig, &ipip(B, &udp_packet(&payload)), 40);
    udp.gso = Some(Gso { kind: GsoKind::Udp, size: 1410 });
    let mut finished = super_frame(&mut rig, &ipip(B, &tcp_packet(&payload)), 40);
    finished.csum = Csum::Complete;
    let outside = super_frame(&mut rig, &ipip(B, &tcp_packet(&payload)), 65_000);
    for f in [udp, finished, outside] {
        assert_eq!(rig.send_one(f).errors, 1);
    }
    rig.close();
}

#[test]
fn super_frames_without_a_way_are_counted() {
    const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    let (a, _b) = nodes();
    let mut packet = tcp_packet(&data(20_000));
    unfinish(&mut packet);
    let (mut udp, mut raw) = (open_udp(&a), open_raw(&a));
    let mut f = super_frame(&mut udp, &tunnelled(&packet), 22 + 20);
    f.peer = IpAddr::V4(NOWHERE);
    assert_eq!(udp.send_one(f), sent(1));
    let f = super_frame(&mut raw, &ipip(NOWHERE, &packet), 40);
    assert_eq!(raw.send_one(f), sent(1));
    for found in [losses::sum(&udp.port.losses()), losses::sum(&raw.port.losses())] {
        assert_eq!(found, [("socket-buffer-full", 0), ("super-frame-no-route", 1)]);
    }
    udp.close();
    raw.close();
}

/// Opens the uplink by sockets in a namespace: what was refused, and whether VXLAN and IP-in-IP take super-frames whole.
fn uplink(ns: &Namespace, whole: bool) -> (Vec<String>, [bool; 2]) {
    ns.run(|| {
        // Sockets do not look at it.
        let pool = FramePool::new(8, 1).unwrap();
        let spec = UplinkSpec {
            interface: "eth0",
            method: UplinkMethod::Socket,
            mode: XskMode::Auto,
            busy_poll: 0,
            node: A,
            port: vxlan::PORT,
            vni: Vni::CALICO,
            whole,
            umems: &[pool.umem()],
        };
        let opened = open::uplink(&spec).unwrap_or_else(|e| panic!("{e:?}"));
        let UplinkPorts::Split { vxlan, ipip, .. } = opened.ports else { panic!("not sockets") };
        let takes = [&vxlan, &ipip].map(|queues| queues[0].caps().tx_csum == TxCsum::SuperFrames);
        (opened.refused, takes)
    })
}

#[test]
fn a_refused_device_is_said_and_sockets_carry_on() {
    let (a, _b) = nodes();
    assert_eq!(uplink(&a, true), (vec![], [true, true]));
    // Names that are taken by something else.
    for device in [udp::SUPER_FRAME_DEVICE, raw::SUPER_FRAME_DEVICE] {
        a.sh(&format!("ip link add {device} type veth peer name x{}", &device[12..]));
    }
    let (refused, takes) = uplink(&a, true);
    assert_eq!(takes, [false, false]);
    for (line, (method, device)) in refused.iter().zip([("udp", udp::SUPER_FRAME_DEVICE), ("raw", raw::SUPER_FRAME_DEVICE)]) {
        assert!(line.starts_with(&format!("{method}: super-frames are cut in userspace: {device} exists and is not")), "{line}");
    }
    assert_eq!(refused.len(), 2);
    // Switched off: nothing is tried and nothing is said.
    assert_eq!(uplink(&a, false), (vec![], [false, false]));
}
