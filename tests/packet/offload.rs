//! Super-frames and unfinished checksums: untouched where the port takes them, made right where it does not.

use super::{ME, PEER, delivered, from_pod};
use tortie::drop::DropReason;
use tortie::frame::{Gso, GsoKind, PortId};
use tortie::port::Medium;
use tortie::port::mem::Wired;
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::build::{self, Ip4};
use tortie::testing::check::{self, Packet};
use tortie::testing::net::{Setup, Via};

const TCP: Gso = Gso { kind: GsoKind::Tcp4, size: 1398 };
const USO: Gso = Gso { kind: GsoKind::Udp, size: 1400 };
const BULK: usize = 60_000;

fn superframe(packet: &[u8], gso: Gso) -> Wired {
    Wired { gso: Some(gso), ..build::partial(from_pod(1, packet), 14) }
}

/// A pod with offloads, one with and one without, and an uplink.
fn site() -> (Setup, [PortId; 4]) {
    let mut s = Setup::new(ME);
    let ports = [s.offload_pod(1), s.offload_pod(2), s.pod(3), s.uplink(Medium::Ethernet)];
    s.route(PEER.block(), Via::Vxlan(PEER));
    (s, ports)
}

/// The payload that a run of TCP segments carries, each checked.
fn joined_tcp(parts: &[Packet], first_seq: u32) -> Vec<u8> {
    let mut data = Vec::new();
    for p in parts {
        p.l4().unwrap();
        assert!(p.bytes.len() <= 1450 && p.ttl() == 63 && p.header.dont_fragment);
        let tcp = etherparse::TcpSlice::from_slice(&p.payload).unwrap();
        assert_eq!(tcp.sequence_number(), first_seq + data.len() as u32);
        data.extend_from_slice(tcp.payload());
    }
    data
}

fn inner(w: &Wired) -> Packet {
    assert!(w.bytes.len() <= 1514);
    check::outer(check::ethernet(&w.bytes).unwrap().3).unwrap().inner
}

#[test]
fn a_superframe_travels_whole_to_a_port_that_takes_it() {
    let (s, [a, b, ..]) = site();
    let mut bed = Bed::new(&s);
    for (packet, gso) in [
        (Ip4::new(ME.pod(1), ME.pod(2)).tcp(1, 2, 7, &build::pattern(BULK)), TCP),
        (Ip4::new(ME.pod(1), ME.pod(2)).udp(1, 2, &build::pattern(BULK)), USO),
    ] {
        let sent = superframe(&packet, gso);
        assert_eq!(bed.feed(a, sent.clone()), Delta::received(1).sent(1));
        let got = bed.recv(b).unwrap();
        assert_eq!((got.gso, got.partial), (Some(gso), sent.partial));
        assert_eq!(&got.bytes[26..], &sent.bytes[26..], "behind TTL and header checksum nothing changed");
        assert_eq!(delivered(2, &got).ttl(), 63);
    }
}

#[test]
fn tcp_is_segmented_for_a_port_that_does_not() {
    let (s, [a, _, c, up]) = site();
    let mut bed = Bed::new(&s);
    let count = BULK.div_ceil(1398) as u64;
    let local = Ip4::new(ME.pod(1), ME.pod(3)).tcp(1, 2, 7, &build::pattern(BULK));
    assert_eq!(bed.feed(a, superframe(&local, TCP)), Delta::received(1).generated(count - 1).sent(count));
    let parts: Vec<_> = bed.drain(c).iter().map(|w| delivered(3, w)).collect();
    assert_eq!(joined_tcp(&parts, 7), build::pattern(BULK));
    let remote = Ip4::new(ME.pod(1), PEER.pod(3)).tcp(1, 2, 7, &build::pattern(BULK));
    assert_eq!(bed.feed(a, superframe(&remote, TCP)), Delta::received(1).generated(count - 1).sent(count));
    let parts: Vec<_> = bed.drain(up).iter().map(inner).collect();
    assert_eq!(joined_tcp(&parts, 7), build::pattern(BULK));
}

#[test]
fn udp_segments_are_datagrams_of_their_own() {
    let (s, [a, _, _, up]) = site();
    let mut bed = Bed::new(&s);
    let packet = Ip4::new(ME.pod(1), PEER.pod(3)).udp(1, 2, &build::pattern(14_100));
    assert_eq!(bed.feed(a, superframe(&packet, USO)), Delta::received(1).generated(10).sent(11));
    let mut data = Vec::new();
    for p in bed.drain(up).iter().map(inner) {
        p.l4().unwrap();
        data.extend_from_slice(&p.payload[8..]);
    }
    assert_eq!(data, build::pattern(14_100));
}

#[test]
fn segments_that_do_not_fit_are_told_or_fragmented() {
    let (s, [a, _, _, up]) = site();
    let mut bed = Bed::new(&s);
    let big = Gso { kind: GsoKind::Tcp4, size: 1411 };
    let packet = Ip4::new(ME.pod(1), PEER.pod(3)).tcp(1, 2, 7, &build::pattern(3 * 1411));
    let delta = bed.feed(a, superframe(&packet, big));
    assert_eq!(delta, Delta::received(1).generated(1).sent(1).dropped(DropReason::MtuExceeded, 1));
    delivered(1, &bed.recv(a).unwrap()).icmp().unwrap();
    let packet = Ip4::new(ME.pod(1), PEER.pod(3)).may_fragment().tcp(1, 2, 7, &build::pattern(3 * 1411));
    assert_eq!(bed.feed(a, superframe(&packet, big)), Delta::received(1).generated(5).sent(6));
    assert!(bed.drain(up).iter().map(inner).all(|p| p.header.is_fragmenting_payload()));
    // One byte less per segment fits.
    let fits = Gso { kind: GsoKind::Tcp4, size: 1410 };
    let packet = Ip4::new(ME.pod(1), PEER.pod(3)).tcp(1, 2, 7, &build::pattern(3 * 1410));
    assert_eq!(bed.feed(a, superframe(&packet, fits)), Delta::received(1).generated(2).sent(3));
}

#[test]
fn an_implied_superframe_is_segmented_too() {
    // From a pod over AF_XDP, and from a stock node whose VXLAN device sits on a veth.
    let (s, [a, _, c, up]) = site();
    let mut bed = Bed::new(&s);
    let data = build::pattern(30_000);
    let count = data.len().div_ceil(1450 - 40) as u64;
    let packet = Ip4::new(ME.pod(1), PEER.pod(3)).tcp(1, 2, 7, &data);
    assert_eq!(bed.feed(a, build::silently_partial(from_pod(1, &packet), 14)), Delta::received(1).generated(count - 1).sent(count));
    let parts: Vec<_> = bed.drain(up).iter().map(inner).collect();
    assert_eq!(joined_tcp(&parts, 7), data);
    let mut packet = Ip4::new(PEER.pod(3), ME.pod(3)).tcp(1, 2, 7, &data);
    build::unfinish(&mut packet);
    let frame = build::maybe_partial(PEER.vxlan_to(ME).frame(&packet));
    assert_eq!(bed.feed(up, frame), Delta::received(1).generated(count - 1).sent(count));
    let parts: Vec<_> = bed.drain(c).iter().map(|w| delivered(3, w)).collect();
    assert_eq!(joined_tcp(&parts, 7), data);
}

#[test]
fn an_unfinished_checksum_is_finished_only_where_it_must_be() {
    let (s, [a, b, c, up]) = site();
    let mut bed = Bed::new(&s);
    for l4 in [6, 17] {
        let make = |dst| {
            let ip = Ip4::new(ME.pod(1), dst);
            from_pod(1, &if l4 == 6 { ip.tcp(1, 2, 7, b"odd") } else { ip.udp(1, 2, b"odd") })
        };
        for (to, i) in [(b, 2), (c, 3)] {
            for frame in
                [build::partial(make(ME.pod(i)), 14), build::silently_partial(make(ME.pod(i)), 14), build::maybe_partial(make(ME.pod(i)))]
            {
                let unfinished = frame.partial.is_some() || frame.bytes != make(ME.pod(i));
                assert_eq!(bed.feed(a, frame), Delta::received(1).sent(1));
                let got = bed.recv(to).unwrap();
                assert!(!got.may_be_partial);
                assert_eq!(got.partial.is_some(), i == 2 && unfinished);
                if got.partial.is_none() {
                    delivered(i, &got).l4().unwrap();
                }
            }
        }
        // Whatever the pod's offload settings are, what leaves the node is right.
        assert_eq!(bed.feed(a, build::silently_partial(make(PEER.pod(1)), 14)), Delta::received(1).sent(1));
        inner(&bed.recv(up).unwrap()).l4().unwrap();
    }
}

/// Successive segments of `len` bytes each from a pod of the peer.
fn segments(n: usize, len: usize, change: impl Fn(usize, &mut Vec<u8>)) -> Vec<Vec<u8>> {
    let data = build::pattern(n * len);
    let make = |(i, part)| {
        let mut p = Ip4::new(PEER.pod(1), ME.pod(2)).id(i as u16).tcp(1, 2, 7 + (i * len) as u32, part);
        change(i, &mut p);
        p
    };
    data.chunks(len).enumerate().map(make).collect()
}

#[test]
fn segments_from_the_tunnel_are_joined_for_a_pod_that_takes_superframes() {
    let (s, [_, b, c, up]) = site();
    let mut bed = Bed::new(&s);
    for p in segments(44, 1398, |_, _| ()) {
        bed.send(up, PEER.vxlan_to(ME).frame(&p));
    }
    bed.run();
    assert_eq!(bed.delta(), Delta::received(44).sent(1).coalesced(43));
    let got = bed.recv(b).unwrap();
    assert_eq!((got.gso, got.partial), (Some(TCP), Some((34, 16))));
    let mut finished = got.bytes.clone();
    build::finish(&mut finished[14..]);
    let packet = delivered(2, &Wired { bytes: finished, partial: None, ..got });
    packet.l4().unwrap();
    assert_eq!((packet.ttl(), &packet.payload[20..]), (63, &build::pattern(44 * 1398)[..]));
    // The other pod's port does not take them: each goes on its own.
    for i in 0..3 {
        bed.send(up, PEER.vxlan_to(ME).frame(&Ip4::new(PEER.pod(1), ME.pod(3)).tcp(1, 2, i * 10, &[0; 10])));
    }
    bed.run();
    assert_eq!(bed.delta(), Delta::received(3).sent(3));
    assert_eq!(bed.drain(c).len(), 3);
}

#[test]
fn a_damaged_segment_reaches_the_pod_as_it_is() {
    let (s, [_, b, _, up]) = site();
    let mut bed = Bed::new(&s);
    let damage = |i, p: &mut Vec<u8>| {
        if i == 5 {
            p[60] ^= 1;
        }
    };
    for p in segments(10, 1000, damage) {
        bed.send(up, PEER.vxlan_to(ME).frame(&p));
    }
    bed.run();
    assert_eq!(bed.delta(), Delta::received(10).sent(3).coalesced(7));
    let got = bed.drain(b);
    assert_eq!(got.iter().map(|w| w.bytes.len()).collect::<Vec<_>>(), [54 + 5000, 54 + 1000, 54 + 4000]);
    assert_eq!((got[1].partial, got[1].gso), (None, None));
    delivered(2, &got[1]).l4().unwrap_err();
}

#[test]
fn datagrams_are_joined_and_what_is_too_long_keeps_its_place() {
    let (s, [a, b, ..]) = site();
    let mut bed = Bed::new(&s);
    for (i, len) in [500, 500, 200, 2000, 500, 500].into_iter().enumerate() {
        let ip = Ip4::new(ME.pod(1), ME.pod(2)).may_fragment().id(i as u16);
        bed.send(a, from_pod(1, &ip.udp(1, 2, &build::pattern(len))));
    }
    bed.run();
    assert_eq!(bed.delta(), Delta::received(6).generated(1).sent(4).coalesced(3));
    let lengths: Vec<_> = bed.drain(b).iter().map(|w| w.bytes.len()).collect();
    assert_eq!((lengths[0], lengths[3], lengths.len()), (42 + 1200, 42 + 1000, 4));
}

#[test]
fn the_host_stack_takes_joined_packets_too() {
    let mut s = Setup::new(ME);
    let (a, host) = (s.pod(1), s.host());
    s.ports[host.index()].caps = tortie::testing::net::offloads(Medium::Ip, 1450);
    let mut bed = Bed::new(&s);
    for i in 0..4 {
        bed.send(a, from_pod(1, &Ip4::new(ME.pod(1), ME.address()).id(i as u16).tcp(1, 2, i * 100, &[0; 100])));
    }
    bed.run();
    assert_eq!(bed.delta(), Delta::received(4).punted(tortie::drop::PuntReason::HostAddress, 1).coalesced(3));
    assert_eq!(bed.recv(host).unwrap().bytes.len(), 440);
}
