//! Across nodes: both encapsulations, on every medium of the uplink.

use super::{ME, PEER, delivered, from_pod, udp};
use std::collections::BTreeSet;
use tortie::drop::{DropReason, PuntReason};
use tortie::frame::PortId;
use tortie::port::Medium;
use tortie::port::mem::Wired;
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::build::{self, Ip4, OuterCheck, VxlanWrap};
use tortie::testing::check;
use tortie::testing::net::{Node, Setup, Via};

/// A pod, an uplink of the medium and a route to the peer.
fn site(medium: Medium, via: Via) -> (Setup, PortId, PortId) {
    let mut s = Setup::new(ME);
    let (a, up) = (s.pod(1), s.uplink(medium));
    s.route(PEER.block(), via);
    (s, a, up)
}

/// The outer packet of a frame on the uplink.
fn outer(medium: Medium, w: &Wired) -> check::Outer {
    if medium == Medium::Ethernet {
        let (dst, src, kind, rest) = check::ethernet(&w.bytes).unwrap();
        assert_eq!((dst, src, kind), (PEER.link_mac(), ME.link_mac(), 0x0800));
        check::outer(rest).unwrap()
    } else {
        check::outer(&w.bytes).unwrap()
    }
}

/// What an uplink of the medium delivers for the tunnel packet.
fn arriving(medium: Medium, w: &VxlanWrap, inner: &[u8]) -> Wired {
    match medium {
        Medium::Ethernet => w.frame(inner).into(),
        Medium::Ip => w.packet(inner).into(),
        Medium::VxlanUdp => Wired { peer: w.outer.src.into(), outer_tos: w.outer.tos, ..Wired::from(w.payload(inner)) },
    }
}

#[test]
fn vxlan_on_ethernet() {
    let (s, a, up) = site(Medium::Ethernet, Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    for ecn in 0..4 {
        let sent = Ip4::new(ME.pod(1), PEER.pod(9)).tos(0xb8 | ecn).udp(4000, 5000, b"across");
        assert_eq!(bed.feed(a, from_pod(1, &sent)), Delta::received(1).sent(1));
        let o = outer(Medium::Ethernet, &bed.recv(up).unwrap());
        let h = &o.packet.header;
        assert_eq!((o.packet.src(), o.packet.dst(), h.time_to_live), (ME.address(), PEER.address(), 64));
        assert_eq!((h.dont_fragment, h.more_fragments, o.packet.tos()), (false, false, ecn));
        let (from, to, checksum) = o.udp.unwrap();
        assert!((32_768..=60_999).contains(&from));
        assert_eq!((to, checksum), (4789, 0));
        let v = o.vxlan.unwrap();
        assert_eq!((v.flags, v.vni, v.inner_dst, v.inner_src), (8, 4096, PEER.vtep_mac(), ME.vtep_mac()));
        assert_eq!((v.inner.ttl(), v.inner.tos()), (63, 0xb8 | ecn));
        assert_eq!(&v.inner.bytes[12..], &sent[12..]);
    }
}

#[test]
fn the_source_port_is_the_flows() {
    let (s, a, up) = site(Medium::Ethernet, Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    let mut port_of = |p: Vec<u8>| {
        bed.feed(a, from_pod(1, &p));
        outer(Medium::Ethernet, &bed.recv(up).unwrap()).udp.unwrap().0
    };
    let ip = Ip4::new(ME.pod(1), PEER.pod(9));
    let first = port_of(ip.udp(1, 2, b"a"));
    assert!((0..20).all(|i| port_of(ip.clone().id(i).udp(1, 2, &build::pattern(usize::from(i)))) == first));
    let ports: BTreeSet<u16> = (1..200).map(|i| port_of(ip.udp(i, 2, b"a"))).collect();
    assert!(ports.len() > 190, "{} ports for 199 flows", ports.len());
    // All fragments of one packet go the same way.
    let f = Ip4::new(ME.pod(1), PEER.pod(9)).fragment(0, true).udp(1, 2, &[0; 64]);
    let g = Ip4::new(ME.pod(1), PEER.pod(9)).fragment(72, false).raw(17, &[0; 64]);
    assert_eq!(port_of(f), port_of(g));
}

#[test]
fn vxlan_on_a_udp_socket() {
    let (s, a, up) = site(Medium::VxlanUdp, Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    let sent = Ip4::new(ME.pod(1), PEER.pod(9)).tos(2).udp(1, 2, b"across");
    assert_eq!(bed.feed(a, from_pod(1, &sent)), Delta::received(1).sent(1));
    let w = bed.recv(up).unwrap();
    assert_eq!((w.peer, w.outer_tos), (PEER.address().into(), 2));
    let v = check::vxlan(&w.bytes).unwrap();
    assert_eq!((v.flags, v.vni, v.inner_dst, v.inner_src, v.inner.ttl()), (8, 4096, PEER.vtep_mac(), ME.vtep_mac(), 63));
}

#[test]
fn ipip_copies_df_and_ecn() {
    for medium in [Medium::Ethernet, Medium::Ip] {
        let (s, a, up) = site(medium, Via::Ipip(PEER));
        let mut bed = Bed::new(&s);
        for df in [false, true] {
            let mut ip = Ip4::new(ME.pod(1), PEER.pod(9)).tos(0x21);
            ip.df = df;
            assert_eq!(bed.feed(a, from_pod(1, &ip.udp(1, 2, b"x"))), Delta::received(1).sent(1));
            let o = outer(medium, &bed.recv(up).unwrap());
            assert_eq!((o.packet.src(), o.packet.dst(), o.packet.ttl()), (ME.address(), PEER.address(), 64));
            assert_eq!((o.packet.header.dont_fragment, o.packet.tos(), o.inner.ttl()), (df, 1, 63));
        }
    }
}

#[test]
fn direct_is_only_routed() {
    let (s, a, up) = site(Medium::Ethernet, Via::Direct(PEER));
    let mut bed = Bed::new(&s);
    let sent = udp(1, PEER.pod(9), 100);
    assert_eq!(bed.feed(a, from_pod(1, &sent)), Delta::received(1).sent(1));
    let (dst, src, p) = check::ethernet_ipv4(&bed.recv(up).unwrap().bytes).unwrap();
    assert_eq!((dst, src, p.ttl(), &p.bytes[12..]), (PEER.link_mac(), ME.link_mac(), 63, &sent[12..]));
}

#[test]
fn both_encapsulations_are_taken_whatever_is_sent() {
    for via in [Via::Vxlan(PEER), Via::Ipip(PEER), Via::Direct(PEER)] {
        let (s, a, up) = site(Medium::Ethernet, via);
        let mut bed = Bed::new(&s);
        let inner = Ip4::new(PEER.pod(3), ME.pod(1)).udp(1, 2, b"hello");
        for frame in [PEER.vxlan_to(ME).frame(&inner), PEER.ipip_to(ME).frame(&inner)] {
            assert_eq!(bed.feed(up, frame), Delta::received(1).sent(1));
            let p = delivered(1, &bed.recv(a).unwrap());
            assert_eq!((p.ttl(), &p.bytes[12..]), (63, &inner[12..]));
            p.l4().unwrap();
        }
    }
}

#[test]
fn decapsulation_on_every_medium() {
    for medium in [Medium::Ethernet, Medium::Ip, Medium::VxlanUdp] {
        let mut s = Setup::new(ME);
        let (a, up) = (s.pod(1), s.uplink(medium));
        let mut bed = Bed::new(&s);
        let inner = Ip4::new(PEER.pod(3), ME.pod(1)).tos(2).tcp(1, 2, 7, &build::pattern(1000));
        let mut w = PEER.vxlan_to(ME);
        assert_eq!(bed.feed(up, arriving(medium, &w, &inner)), Delta::received(1).sent(1));
        assert_eq!(delivered(1, &bed.recv(a).unwrap()).payload, inner[20..]);
        // RFC 6040, figure 4: congestion outside shows inside.
        w.outer.tos = 3;
        assert_eq!(bed.feed(up, arriving(medium, &w, &inner)), Delta::received(1).sent(1));
        assert_eq!(delivered(1, &bed.recv(a).unwrap()).tos(), 3);
        w.outer.src = Node(77).address();
        assert_eq!(bed.feed(up, arriving(medium, &w, &inner)), Delta::received(1).dropped(DropReason::TunnelSenderUnknown, 1));
    }
}

#[test]
fn ecn_table() {
    let mut s = Setup::new(ME);
    let (a, up) = (s.pod(1), s.uplink(Medium::Ethernet));
    let mut bed = Bed::new(&s);
    // RFC 6040, figure 4. Rows: inner; columns: outer 00, 01, 10, 11.
    let table =
        [[Some(0), Some(0), Some(0), None], [Some(1), Some(1), Some(1), Some(3)], [Some(2), Some(1), Some(2), Some(3)], [Some(3); 4]];
    for (inner, row) in table.into_iter().enumerate() {
        for (outer, want) in row.into_iter().enumerate() {
            let p = Ip4::new(PEER.pod(3), ME.pod(1)).tos(0x48 | inner as u8).udp(1, 2, b"x");
            let (mut v, mut i) = (PEER.vxlan_to(ME), PEER.ipip_to(ME));
            (v.outer.tos, i.outer.tos) = (outer as u8, outer as u8);
            for frame in [v.frame(&p), i.frame(&p)] {
                let delta = bed.feed(up, frame);
                match want {
                    Some(ecn) => {
                        assert_eq!(delta, Delta::received(1).sent(1));
                        assert_eq!(delivered(1, &bed.recv(a).unwrap()).tos(), 0x48 | ecn, "inner {inner} outer {outer}");
                    }
                    None => assert_eq!(delta, Delta::received(1).dropped(DropReason::EcnInvalid, 1)),
                }
            }
        }
    }
}

#[test]
fn outer_checksums() {
    let mut s = Setup::new(ME);
    let (a, up) = (s.pod(1), s.uplink(Medium::Ethernet));
    let mut bed = Bed::new(&s);
    let inner = Ip4::new(PEER.pod(3), ME.pod(1)).tcp(1, 2, 7, &build::pattern(501));
    let mut w = PEER.vxlan_to(ME);
    for check in [OuterCheck::Zero, OuterCheck::Right] {
        w.check = check;
        for frame in [w.frame(&inner).into(), build::maybe_partial(w.frame(&inner))] {
            assert_eq!(bed.feed(up, frame), Delta::received(1).sent(1), "{check:?}");
            delivered(1, &bed.recv(a).unwrap()).l4().unwrap();
        }
    }
    // What a stock node's device sends over a veth: checksums are left to a device that is none.
    let mut unfinished = inner.clone();
    build::unfinish(&mut unfinished);
    for (check, inner) in [(OuterCheck::Unfinished, &inner), (OuterCheck::Zero, &unfinished), (OuterCheck::ForFinishedInner, &unfinished)] {
        w.check = check;
        assert_eq!(bed.feed(up, build::maybe_partial(w.frame(inner))), Delta::received(1).sent(1), "{check:?}");
        delivered(1, &bed.recv(a).unwrap()).l4().unwrap();
    }
    // The same with metadata: the field to finish is the inner one, or the outer one.
    let frame = w.frame(&unfinished);
    let start = 14 + 20 + 8 + 8 + 14 + 20;
    let inner_partial = Wired { partial: Some((start, 16)), ..Wired::from(frame) };
    assert_eq!(bed.feed(up, inner_partial), Delta::received(1).sent(1));
    delivered(1, &bed.recv(a).unwrap()).l4().unwrap();
    w.check = OuterCheck::Unfinished;
    let outer_partial = Wired { partial: Some((34, 6)), ..Wired::from(w.frame(&inner)) };
    assert_eq!(bed.feed(up, outer_partial), Delta::received(1).sent(1));
    delivered(1, &bed.recv(a).unwrap()).l4().unwrap();
}

#[test]
fn one_level_of_tunnel_only() {
    let mut s = Setup::new(ME);
    let (up, host) = (s.uplink(Medium::Ethernet), s.host());
    let mut bed = Bed::new(&s);
    let inner = Ip4::new(PEER.pod(3), ME.pod(1)).udp(1, 2, b"x");
    let nested = PEER.vxlan_to(ME).packet(&inner);
    // The inner packet is a packet to this node like any other: the host stack's.
    let delta = bed.feed(up, PEER.vxlan_to(ME).frame(&nested));
    assert_eq!(delta, Delta::received(1).punted(PuntReason::HostAddress, 1));
    assert_eq!(bed.recv(host).unwrap().bytes, nested);
}

#[test]
fn padding_is_cut_and_reserved_bits_ignored() {
    let (s, a, up) = site(Medium::Ethernet, Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    let p = Ip4::new(ME.pod(1), PEER.pod(3)).udp(1, 2, b"");
    let mut padded = from_pod(1, &p);
    padded.resize(60, 0xaa);
    assert_eq!(bed.feed(a, padded), Delta::received(1).sent(1));
    assert_eq!(bed.recv(up).unwrap().bytes.len(), 50 + 14 + p.len());
    let inner = Ip4::new(PEER.pod(3), ME.pod(1)).udp(1, 2, b"");
    let mut w = PEER.vxlan_to(ME);
    w.flags = 0xff;
    let mut padded = w.frame(&[&inner[..], &[0xaa; 18]].concat());
    padded.resize(padded.len() + 30, 0xbb);
    assert_eq!(bed.feed(up, padded), Delta::received(1).sent(1));
    assert_eq!(delivered(1, &bed.recv(a).unwrap()).bytes.len(), inner.len());
}

#[test]
fn pods_may_tunnel_where_configured() {
    let ip = Ip4::new(ME.pod(1), PEER.address());
    let vxlan = from_pod(1, &ip.udp(9, 4789, b"vxlan"));
    let ipip = from_pod(1, &ip.raw(4, b"ipip"));
    let first = from_pod(1, &ip.clone().fragment(0, true).udp(9, 4789, &[0; 64]));
    let blocked = Delta::received(1).dropped(DropReason::WorkloadTunnel, 1);
    let passed = Delta::received(1).punted(PuntReason::HostRoute, 1);
    for (may_vxlan, may_ipip) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut s = Setup::new(ME);
        let (a, _) = (s.pod(1), s.host());
        (s.tunnel.workloads_may_vxlan, s.tunnel.workloads_may_ipip) = (may_vxlan, may_ipip);
        let mut bed = Bed::new(&s);
        for (frame, allowed) in [(&vxlan, may_vxlan), (&first, may_vxlan), (&ipip, may_ipip)] {
            assert_eq!(&bed.feed(a, frame.clone()), if allowed { &passed } else { &blocked });
        }
        // To no node, or to another port: a pod's own business.
        for p in [Ip4::new(ME.pod(1), [1, 2, 3, 4].into()).udp(9, 4789, b""), ip.udp(9, 4790, b"")] {
            assert_eq!(bed.feed(a, from_pod(1, &p)), passed);
        }
    }
}
