//! TTL expiry and packets that are too long: the ICMP errors, who gets one, and fragments that reassemble.

use super::{ME, PEER, delivered, from_pod};
use etherparse::Icmpv4Type;
use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use tortie::drop::DropReason;
use tortie::frame::PortId;
use tortie::port::Medium;
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::build::{self, Ip4};
use tortie::testing::check;
use tortie::testing::net::{POD_MTU, Setup, Via};

fn site(via: Via) -> (Setup, PortId, PortId) {
    let mut s = Setup::new(ME);
    let (a, up) = (s.pod(1), s.uplink(Medium::Ethernet));
    s.route(PEER.block(), via);
    (s, a, up)
}

#[test]
fn ttl_expiry_is_told() {
    let (s, a, up) = site(Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    for ttl in [0, 1] {
        for offender in [
            Ip4::new(ME.pod(1), PEER.pod(1)).ttl(ttl).udp(1, 33_434, &build::pattern(800)),
            Ip4::new(ME.pod(1), PEER.pod(1)).ttl(ttl).ping(1, 2, b"traceroute"),
            Ip4::new(ME.pod(1), PEER.pod(1)).ttl(ttl).fragment(0, true).udp(1, 2, &[0; 64]),
        ] {
            let delta = bed.feed(a, from_pod(1, &offender));
            assert_eq!(delta, Delta::received(1).generated(1).sent(1).dropped(DropReason::TtlExpired, 1));
            let p = delivered(1, &bed.recv(a).unwrap());
            assert_eq!((p.src(), p.dst(), p.ttl(), p.tos()), (ME.tunnel_address(), ME.pod(1), 64, 0xc0));
            let (kind, quoted) = p.icmp().unwrap();
            assert_eq!(kind, Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit));
            assert_eq!(quoted, offender[..offender.len().min(548)], "the offender as it came");
        }
    }
    assert_eq!(bed.recv(up), None);
}

#[test]
fn ttl_expiry_of_a_packet_from_another_node_goes_back_through_the_tunnel() {
    let (s, a, up) = site(Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    let offender = Ip4::new(PEER.pod(3), ME.pod(1)).ttl(1).udp(1, 2, b"x");
    let delta = bed.feed(up, PEER.vxlan_to(ME).frame(&offender));
    assert_eq!(delta, Delta::received(1).generated(1).sent(1).dropped(DropReason::TtlExpired, 1));
    let (_, _, _, rest) = check::ethernet(&bed.wire(up).recv().unwrap().bytes).map(|(a, b, c, d)| (a, b, c, d.to_vec())).unwrap();
    let inner = check::outer(&rest).unwrap().inner;
    assert_eq!((inner.src(), inner.dst()), (ME.tunnel_address(), PEER.pod(3)));
    assert_eq!(inner.icmp().unwrap().1, offender);
    assert_eq!(bed.recv(a), None);
}

#[test]
fn who_gets_no_error() {
    let (s, a, _) = site(Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    let ip = Ip4::new(ME.pod(1), PEER.pod(1)).ttl(1);
    let unreachable = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
    for p in
        [ip.icmp(unreachable, &[0; 28]), ip.clone().fragment(64, true).raw(17, &[0; 64]), ip.clone().fragment(64, false).raw(1, &[8; 64])]
    {
        assert_eq!(bed.feed(a, from_pod(1, &p)), Delta::received(1).dropped(DropReason::TtlExpired, 1));
    }
    // A node without an address for them sends none.
    let mut silent = s.clone();
    silent.tunnel.icmp_source = [0; 4].into();
    bed.publish(&silent);
    assert_eq!(bed.feed(a, from_pod(1, &ip.udp(1, 2, b""))), Delta::received(1).dropped(DropReason::TtlExpired, 1));
}

#[test]
fn errors_are_limited_in_rate() {
    let (s, a, _) = site(Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    let p = from_pod(1, &Ip4::new(ME.pod(1), PEER.pod(1)).ttl(1).udp(1, 2, b""));
    let burst = |bed: &mut Bed, n: usize| {
        (0..n).for_each(|_| bed.send(a, p.clone()));
        bed.run();
        bed.drain(a).len()
    };
    assert_eq!(burst(&mut bed, 100), 50);
    assert_eq!(bed.delta(), Delta::received(100).generated(50).sent(50).dropped(DropReason::TtlExpired, 100));
    assert_eq!(burst(&mut bed, 10), 0);
    bed.advance(10);
    assert_eq!(burst(&mut bed, 20), 10);
}

#[test]
fn df_and_too_long_is_told_with_the_right_mtu() {
    for (via, mtu) in [(Via::Vxlan(PEER), 1450), (Via::Ipip(PEER), 1480), (Via::Direct(PEER), 1500)] {
        let (s, a, up) = site(via);
        let mut bed = Bed::new(&s);
        let fits = Ip4::new(ME.pod(1), PEER.pod(1)).udp(1, 2, &build::pattern(mtu - 28));
        assert_eq!(bed.feed(a, from_pod(1, &fits)), Delta::received(1).sent(1));
        assert!(bed.recv(up).unwrap().bytes.len() <= 1514);
        let long = Ip4::new(ME.pod(1), PEER.pod(1)).udp(1, 2, &build::pattern(mtu - 27));
        let delta = bed.feed(a, from_pod(1, &long));
        assert_eq!(delta, Delta::received(1).generated(1).sent(1).dropped(DropReason::MtuExceeded, 1));
        let p = delivered(1, &bed.recv(a).unwrap());
        let (kind, quoted) = p.icmp().unwrap();
        let want = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu as u16 };
        assert_eq!(kind, Icmpv4Type::DestinationUnreachable(want));
        assert_eq!((quoted[..8].to_vec(), quoted[12..].to_vec()), (long[..8].to_vec(), long[12..548].to_vec()));
        assert_eq!(bed.recv(up), None);
    }
}

/// Puts the fragments back together, in whatever order they came.
fn reassembled(parts: &[check::Packet]) -> Vec<u8> {
    let end = parts.iter().map(|p| usize::from(p.header.fragment_offset.value()) * 8 + p.payload.len()).max().unwrap();
    let mut payload = vec![None; end];
    for p in parts {
        let at = usize::from(p.header.fragment_offset.value()) * 8;
        p.payload.iter().enumerate().for_each(|(i, b)| assert_eq!(payload[at + i].replace(*b), None, "overlap"));
    }
    payload.into_iter().map(|b| b.expect("no hole")).collect()
}

#[test]
fn without_df_the_inner_packet_is_fragmented() {
    for via in [Via::Vxlan(PEER), Via::Ipip(PEER)] {
        let (s, a, up) = site(via);
        let mut bed = Bed::new(&s);
        for silent in [false, true] {
            let whole = Ip4::new(ME.pod(1), PEER.pod(1)).may_fragment().udp(1, 2, &build::pattern(3500));
            let frame = from_pod(1, &whole);
            // The checksum covers all fragments: it must be finished before they are made.
            let frame = if silent { build::silently_partial(frame, 14) } else { frame.into() };
            assert_eq!(bed.feed(a, frame), Delta::received(1).generated(2).sent(3));
            let parts: Vec<_> = bed
                .drain(up)
                .iter()
                .map(|w| {
                    assert!(w.bytes.len() <= 1514);
                    let o = check::outer(check::ethernet(&w.bytes).unwrap().3).unwrap();
                    assert!(!o.packet.header.is_fragmenting_payload(), "the outer packet is whole");
                    o.inner
                })
                .collect();
            assert!(parts.iter().all(|p| p.ttl() == 63 && p.header.identification == 0x4242));
            let more: Vec<_> = parts.iter().map(|p| p.header.more_fragments).collect();
            assert_eq!((more, reassembled(&parts)), (vec![true, true, false], whole[20..].to_vec()));
        }
    }
}

#[test]
fn options_stay_with_whole_packets() {
    let (s, a, up) = site(Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    let p = Ip4::new(ME.pod(1), PEER.pod(1)).options(&[7, 7, 4, 0, 0, 0, 0, 0]).udp(1, 2, b"recorded");
    assert_eq!(bed.feed(a, from_pod(1, &p)), Delta::received(1).sent(1));
    let o = check::outer(check::ethernet(&bed.recv(up).unwrap().bytes).unwrap().3).unwrap();
    assert_eq!(&o.inner.bytes[12..], &p[12..]);
    o.inner.l4().unwrap();
}

#[test]
fn host_traffic_keeps_its_ttl() {
    let mut s = Setup::new(ME);
    let (a, up, host) = (s.pod(1), s.uplink(Medium::Ethernet), s.host());
    s.route(PEER.block(), Via::Vxlan(PEER));
    let mut bed = Bed::new(&s);
    for ttl in [1, 64] {
        let p = Ip4::new(ME.tunnel_address(), ME.pod(1)).ttl(ttl).udp(1, 2, b"host");
        assert_eq!(bed.feed(host, p), Delta::received(1).sent(1));
        assert_eq!(delivered(1, &bed.recv(a).unwrap()).ttl(), ttl);
    }
    let p = Ip4::new(ME.tunnel_address(), PEER.pod(1)).udp(1, 2, b"host");
    assert_eq!(bed.feed(host, p), Delta::received(1).sent(1));
    let o = check::outer(check::ethernet(&bed.recv(up).unwrap().bytes).unwrap().3).unwrap();
    assert_eq!(o.inner.ttl(), 64);
    // Too long for the tunnel: the host's own path MTU discovery is told.
    let long = Ip4::new(ME.tunnel_address(), PEER.pod(1)).udp(1, 2, &[0; POD_MTU as usize]);
    let delta = bed.feed(host, long);
    let told = Delta::received(1).generated(1).dropped(DropReason::MtuExceeded, 1).punted(tortie::drop::PuntReason::HostAddress, 1);
    assert_eq!(delta, told);
    let p = check::ipv4(&bed.recv(host).unwrap().bytes).unwrap();
    assert_eq!((p.src(), p.dst()), (ME.tunnel_address(), ME.tunnel_address()));
}
