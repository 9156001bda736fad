//! Random and mutated frames into every role and medium: no panic, the law holds, the pool is full at the end, and
//! whatever comes out is well-formed to etherparse.

use super::{ME, PEER, from_pod};
use proptest::prelude::*;
use tortie::frame::{Gso, GsoKind, PortId};
use tortie::port::Medium;
use tortie::port::mem::Wired;
use tortie::testing::bed::Bed;
use tortie::testing::build::{self, ArpFrame, Ip4, OuterCheck};
use tortie::testing::check;
use tortie::testing::net::{Node, Setup, Via};

/// Every role on every medium that it can have, and every kind of route.
fn setup() -> Setup {
    let mut s = Setup::new(ME);
    s.pod(1);
    s.offload_pod(2);
    s.pod_with(3, None, tortie::port::mem::caps(Medium::Ethernet, 576));
    s.pod_with(4, None, tortie::port::mem::caps(Medium::Ip, 1450));
    for medium in [Medium::Ethernet, Medium::VxlanUdp, Medium::Ip] {
        s.uplink(medium);
    }
    s.host();
    s.route(ME.block(), Via::Blackhole);
    s.route(PEER.block(), Via::Vxlan(PEER));
    s.route(Node(3).block(), Via::Ipip(Node(3)));
    s.route(Node(4).block(), Via::Direct(Node(4)));
    s.route(Node(5).block(), Via::Glean(Node(5)));
    s
}

const PORTS: u16 = 8;

fn address() -> impl Strategy<Value = std::net::Ipv4Addr> {
    prop_oneof![
        (1u8..6, 0u8..6).prop_map(|(n, i)| Node(n).pod(i)),
        (1u8..4).prop_map(|n| Node(n).address()),
        any::<u32>().prop_map(Into::into)
    ]
}

/// A packet that is valid but for what random field values break.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let ip = (
        address(),
        address(),
        0u8..4,
        any::<u8>(),
        any::<bool>(),
        prop_oneof![4 => Just(None), 1 => (0u16..8000, any::<bool>()).prop_map(Some)],
        0usize..11,
    );
    let body = (0u8..5, prop_oneof![8 => 0usize..200, 2 => 1300usize..1600, 1 => 2000usize..60_000], any::<u8>());
    (ip, body).prop_map(|((src, dst, ttl, tos, df, fragment, options), (kind, len, proto))| {
        let mut p = Ip4::new(src, dst).ttl([0, 1, 2, 64][usize::from(ttl)]).tos(tos).options(&vec![1; options * 4]);
        p.df = df;
        if let Some((offset, more)) = fragment {
            p = p.fragment(offset * 8, more);
        }
        let payload = build::pattern(len);
        match kind {
            0 => p.udp(1000, 2000, &payload),
            1 => p.tcp(1000, 2000, 1, &payload),
            2 => p.ping(1, 2, &payload),
            3 => p.udp(1000, 4789, &payload),
            _ => p.raw(proto, &payload),
        }
    })
}

/// The packet as a port might deliver it.
fn frame() -> impl Strategy<Value = (PortId, Wired)> {
    let meta = (
        any::<bool>(),
        prop_oneof![3 => Just(None), 1 => (0u32..200, any::<u16>()).prop_map(Some)],
        prop_oneof![
            3 => Just(None),
            1 => (0u8..2, 0u16..3000).prop_map(|(k, size)| Some(Gso { kind: if k == 0 { GsoKind::Tcp4 } else { GsoKind::Udp }, size }))
        ],
    );
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let cut = prop_oneof![4 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    (0..PORTS, 0u8..6, packet(), meta, damage, cut, any::<bool>(), 0u8..4).prop_map(
        |(port, wrap, inner, (may_be_partial, partial, gso), damage, cut, unfinish, tos)| {
            let mut inner = inner;
            if unfinish && [6, 17].contains(&inner[9]) && inner[6] & 0x3f == 0 && inner[7] == 0 && inner.len() > 80 {
                build::unfinish(&mut inner);
            }
            let room = inner.len() < 60_000;
            let mut vxlan = PEER.vxlan_to(ME);
            vxlan.outer.tos = tos;
            if unfinish {
                vxlan.check = OuterCheck::Unfinished;
            }
            let bytes = match wrap {
                1 if room => vxlan.frame(&inner),
                2 if room => vxlan.packet(&inner),
                3 if room => vxlan.payload(&inner),
                4 if room => Node(3).ipip_to(ME).frame(&inner),
                5 => inner,
                _ => from_pod(1, &inner),
            };
            let bytes = mutate(bytes, &damage, cut);
            (PortId(port), Wired { partial, may_be_partial, gso, peer: PEER.address().into(), outer_tos: tos, bytes })
        },
    )
}

fn mutate(mut bytes: Vec<u8>, damage: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) -> Vec<u8> {
    for (at, v) in damage {
        // Mostly headers: that is where decisions are made.
        let n = bytes.len().min(100);
        bytes[at.index(n)] ^= v;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_and_mutated_frames(frames in proptest::collection::vec(frame(), 1..40)) {
        let s = setup();
        let mut bed = Bed::new(&s);
        for (port, w) in frames {
            let shown = format!("{port:?} {w:02x?}");
            if let Err(e) = check::survives(&mut bed, &s, port, w) {
                return Err(TestCaseError::fail(format!("{e}\nafter {shown}")));
            }
            bed.advance(100);
        }
    }

    #[test]
    fn random_bytes(frames in proptest::collection::vec((0..PORTS, proptest::collection::vec(any::<u8>(), 0..200)), 1..60)) {
        let s = setup();
        let mut bed = Bed::new(&s);
        for (port, bytes) in frames {
            let w = Wired { peer: PEER.address().into(), ..Wired::from(bytes) };
            check::survives(&mut bed, &s, PortId(port), w).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn a_scarce_pool_loses_only_frames(frames in proptest::collection::vec(frame(), 1..40)) {
        let s = setup();
        let mut bed = Bed::with_pool(&s, 4, 2);
        for (port, w) in frames {
            check::survives(&mut bed, &s, port, w).map_err(TestCaseError::fail)?;
            bed.advance(300);
        }
    }

    #[test]
    fn arp(op in 0u16..4, sender in address(), target in address(), at in 0usize..42, v: u8, pad in 0usize..30) {
        let s = setup();
        let mut bed = Bed::new(&s);
        let mut bytes = ArpFrame { op, sender_mac: ME.pod_mac(1), sender, target_mac: ME.pod_mac(2), target }.bytes();
        bytes[at] ^= v;
        bytes.resize(bytes.len() + pad, 0);
        for port in 0..PORTS {
            let gso = Some(Gso { kind: GsoKind::Tcp4, size: 100 });
            let w = Wired { gso, partial: Some((0, 6)), ..Wired::from(bytes.clone()) };
            check::survives(&mut bed, &s, PortId(port), w).map_err(TestCaseError::fail)?;
        }
    }
}
