//! Flows that the host stack may have translated: answers to what came from it go back through it.

use super::{ME, PEER, delivered, from_pod};
use std::net::Ipv4Addr;
use tortie::drop::PuntReason::{HostFlow, HostRoute};
use tortie::frame::{Gso, GsoKind, PortId};
use tortie::port::Medium;
use tortie::port::mem::Wired;
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::build::{self, Ip4};
use tortie::testing::check;
use tortie::testing::net::{Node, Setup, Via, offloads};

/// The address of a Service, outside of every pool.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

struct Site {
    setup: Setup,
    a: PortId,
    b: PortId,
    up: PortId,
    host: PortId,
}

fn site() -> Site {
    let mut s = Setup::new(ME);
    let (a, b, up, host) = (s.pod(1), s.offload_pod(2), s.uplink(Medium::Ethernet), s.host());
    s.ports[host.index()].caps = offloads(Medium::Ip, 1450);
    s.route("10.244.0.0/16".parse().unwrap(), Via::Drop);
    s.route(PEER.block(), Via::Vxlan(PEER));
    s.route(Node(3).block(), Via::Ipip(Node(3)));
    s.route(Node(4).block(), Via::Direct(Node(4)));
    Site { setup: s, a, b, up, host }
}

fn datagram(src: Ipv4Addr, dst: Ipv4Addr, from: u16, to: u16) -> Vec<u8> {
    Ip4::new(src, dst).udp(from, to, b"data")
}

/// Datagrams, without super-frames in between.
fn passed(n: u64) -> Delta {
    Delta::received(n).sent(n)
}

fn diverted() -> Delta {
    Delta::received(1).punted(HostFlow, 1)
}

#[test]
fn a_service_of_a_pod_on_this_node() {
    let s = site();
    let mut bed = Bed::new(&s.setup);
    let (a, b) = (ME.pod(1), ME.pod(2));
    let answer = datagram(b, a, 8080, 4000);
    assert_eq!(bed.feed(s.b, from_pod(2, &answer)), passed(1), "nothing is known yet");
    bed.drain(s.a);
    let asked = datagram(a, SERVICE, 4000, 80);
    assert_eq!(bed.feed(s.a, from_pod(1, &asked)), Delta::received(1).punted(HostRoute, 1));
    // The host has another destination for it.
    assert_eq!(bed.feed(s.host, datagram(a, b, 4000, 8080)), passed(1));
    assert_eq!(delivered(2, &bed.recv(s.b).unwrap()).src(), a);
    bed.drain(s.host);
    assert_eq!(bed.feed(s.b, from_pod(2, &answer)), diverted());
    assert_eq!(bed.recv(s.host).unwrap().bytes, answer, "as it came, TTL too");
    // Translated back, it is from the Service; and a packet from the host is never handed back.
    assert_eq!(bed.feed(s.host, datagram(SERVICE, a, 80, 4000)), passed(1));
    assert_eq!(delivered(1, &bed.recv(s.a).unwrap()).src(), SERVICE);
    // Other flows of the two pods stay on the short way.
    for other in [datagram(b, a, 8080, 4001), datagram(b, a, 8081, 4000)] {
        assert_eq!(bed.feed(s.b, from_pod(2, &other)), passed(1));
    }
    assert_eq!((bed.counters().flows_kept.get(), bed.counters().flows_evicted.get()), (2, 0));
    bed.advance(120_000);
    assert_eq!(bed.feed(s.b, from_pod(2, &answer)), passed(1), "idle for too long");
}

#[test]
fn a_service_of_a_pod_on_another_node() {
    let s = site();
    for (peer, encapsulated) in [(PEER, true), (Node(3), false)] {
        let mut bed = Bed::new(&s.setup);
        let (a, b) = (ME.pod(1), peer.pod(9));
        let answer = datagram(b, a, 8080, 4000);
        let arriving = || if encapsulated { peer.vxlan_to(ME).frame(&answer) } else { peer.ipip_to(ME).frame(&answer) };
        assert_eq!(bed.feed(s.up, arriving()), passed(1));
        assert_eq!(bed.feed(s.host, datagram(a, b, 4000, 8080)), passed(1));
        assert_eq!(bed.feed(s.up, arriving()), diverted());
        assert_eq!(bed.recv(s.host).unwrap().bytes, answer);
    }
}

#[test]
fn a_host_port_that_a_pod_of_another_node_uses() {
    let s = site();
    for peer in [PEER, Node(3), Node(4)] {
        let mut bed = Bed::new(&s.setup);
        let answer = datagram(ME.pod(1), peer.pod(9), 8080, 4000);
        assert_eq!(bed.feed(s.a, from_pod(1, &answer)), passed(1));
        assert_eq!(bed.feed(s.host, datagram(peer.pod(9), ME.pod(1), 4000, 8080)), passed(1));
        assert_eq!(bed.feed(s.a, from_pod(1, &answer)), diverted());
    }
}

#[test]
fn what_the_host_answers_anyway_is_not_kept() {
    let s = site();
    let mut bed = Bed::new(&s.setup);
    // From this node, from outside, from an address of the pool that nobody has.
    for src in [ME.address(), ME.tunnel_address(), [8, 8, 8, 8].into(), Node(5).pod(1)] {
        assert_eq!(bed.feed(s.host, datagram(src, ME.pod(1), 4000, 8080)), passed(1), "{src}");
    }
    assert_eq!(bed.counters().flows_kept.get(), 0);
}

#[test]
fn a_flow_that_the_host_does_not_translate_returns_to_the_short_way() {
    // Node 4's pods come by the host as long as its block is reached without a tunnel.
    let mut s = site();
    let mut bed = Bed::new(&s.setup);
    let (a, b) = (Node(4).pod(1), ME.pod(1));
    let answer = datagram(b, a, 8080, 4000);
    assert_eq!(bed.feed(s.host, datagram(a, b, 4000, 8080)), passed(1));
    assert_eq!(bed.feed(s.a, from_pod(1, &answer)), diverted());
    s.setup.route(Node(4).block(), Via::Vxlan(Node(4)));
    bed.publish(&s.setup);
    assert_eq!(bed.feed(s.a, from_pod(1, &answer)), diverted());
    assert_eq!(bed.feed(s.host, answer.clone()), passed(1), "the host's way leads here again");
    assert_eq!(bed.feed(s.a, from_pod(1, &answer)), passed(1));
    assert_eq!(bed.feed(s.up, Node(4).vxlan_to(ME).frame(&datagram(a, b, 4000, 8080))), passed(1));
}

#[test]
fn what_is_dropped_or_punted_anyway_stays_so() {
    let mut s = site();
    let mut bed = Bed::new(&s.setup);
    let (a, b) = (ME.pod(1), ME.pod(2));
    bed.feed(s.host, datagram(a, b, 4000, 8080));
    let answer = || from_pod(2, &datagram(b, a, 8080, 4000));
    assert_eq!(bed.feed(s.b, answer()), diverted());
    s.setup.route(a.into(), Via::Blackhole);
    bed.publish(&s.setup);
    assert_eq!(bed.feed(s.b, answer()), Delta::received(1).dropped(tortie::drop::DropReason::Blackhole, 1));
    // A flow of a pod that is gone is not kept either.
    bed.feed(s.host, datagram(a, b, 4001, 8080));
    assert_eq!(bed.counters().flows_kept.get(), 2);
}

#[test]
fn super_frames_go_back_whole() {
    let s = site();
    let mut bed = Bed::new(&s.setup);
    let (a, b) = (ME.pod(1), ME.pod(2));
    bed.feed(s.host, Ip4::new(a, b).tcp(4000, 8080, 7, b""));
    bed.drain(s.b);
    let packet = Ip4::new(b, a).tcp(8080, 4000, 9, &build::pattern(30_000));
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1398 });
    let sent = Wired { gso, ..build::partial(from_pod(2, &packet), 14) };
    assert_eq!(bed.feed(s.b, sent), diverted());
    let got = bed.recv(s.host).unwrap();
    assert_eq!((got.gso, got.bytes.len()), (gso, packet.len()));
    // One that came over a path without segment sizes gets one, or the host would take it for a packet that is too long.
    let long = Ip4::new(PEER.pod(1), a).tcp(8080, 4001, 9, &build::pattern(20_000));
    bed.feed(s.host, Ip4::new(a, PEER.pod(1)).tcp(4001, 8080, 7, b""));
    let mut unfinished = long.clone();
    build::unfinish(&mut unfinished);
    assert_eq!(bed.feed(s.up, build::maybe_partial(PEER.vxlan_to(ME).frame(&unfinished))), diverted());
    let got = bed.recv(s.host).unwrap();
    assert_eq!((got.gso, got.bytes.len()), (Some(Gso { kind: GsoKind::Tcp4, size: 1450 - 40 }), long.len()));
    // Segments of one burst are joined on the way to the host as they are on any other.
    for i in 0..4 {
        bed.send(s.up, PEER.vxlan_to(ME).frame(&Ip4::new(PEER.pod(1), a).id(i as u16).tcp(8080, 4000, i * 100, &[0; 100])));
    }
    bed.feed(s.host, Ip4::new(a, PEER.pod(1)).tcp(4000, 8080, 7, b""));
    bed.run();
    let before = bed.counters().ends();
    for i in 0..4 {
        bed.send(s.up, PEER.vxlan_to(ME).frame(&Ip4::new(PEER.pod(1), a).id(i as u16).tcp(8080, 4000, i * 100, &[0; 100])));
    }
    bed.run();
    let (punted, dropped) = bed.counters().ends().since(&before);
    assert_eq!((punted, dropped), (vec![(HostFlow, 1)], vec![]), "four in one");
    assert_eq!(bed.drain(s.host).last().unwrap().bytes.len(), 440);
}

#[test]
fn fragments_and_errors_go_with_their_flow() {
    let s = site();
    let mut bed = Bed::new(&s.setup);
    let (a, b) = (ME.pod(1), ME.pod(2));
    let forward = datagram(a, b, 4000, 8080);
    bed.feed(s.host, forward.clone());
    bed.drain(s.b);
    let whole = Ip4::new(b, a).may_fragment().udp(8080, 4000, &build::pattern(1200))[20..].to_vec();
    let parts = [(0, &whole[..800], true), (100, &whole[800..], false)];
    for (offset, bytes, more) in parts {
        let part = Ip4::new(b, a).fragment(offset, more).raw(17, bytes);
        assert_eq!(bed.feed(s.b, from_pod(2, &part)), diverted(), "offset {offset}");
    }
    // The serving pod has nothing on that port; a router on the way says that it is too long.
    let about = |from| {
        Ip4::new(from, a)
            .icmp(etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port), &forward[..28])
    };
    assert_eq!(bed.feed(s.b, from_pod(2, &about(b))), diverted());
    assert_eq!(bed.feed(s.up, PEER.vxlan_to(ME).frame(&about(PEER.tunnel_address()))), diverted());
    // An error about what did not come from the host is the pod's own.
    let direct = datagram(a, b, 4001, 8080);
    let own =
        Ip4::new(b, a).icmp(etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port), &direct[..28]);
    assert_eq!(bed.feed(s.b, from_pod(2, &own)), passed(1));
    let echo = |src, dst, kind: fn(etherparse::IcmpEchoHeader) -> etherparse::Icmpv4Type, id| {
        Ip4::new(src, dst).icmp(kind(etherparse::IcmpEchoHeader { id, seq: 1 }), b"ping")
    };
    bed.feed(s.host, echo(a, b, etherparse::Icmpv4Type::EchoRequest, 77));
    assert_eq!(bed.feed(s.b, from_pod(2, &echo(b, a, etherparse::Icmpv4Type::EchoReply, 77))), diverted());
    assert_eq!(bed.feed(s.b, from_pod(2, &echo(b, a, etherparse::Icmpv4Type::EchoReply, 78))), passed(1));
}

#[test]
fn a_packet_that_waits_for_its_host_device_is_dropped_by_name() {
    let mut s = Setup::new(ME);
    let (a, b, host) = (s.pod(1), s.pod(2), s.host());
    let mut bed = Bed::new(&s);
    assert_eq!(bed.feed(host, datagram(ME.pod(1), ME.pod(2), 4000, 8080)), passed(1));
    bed.command(tortie::worker::Command::RemovePort { id: host });
    let delta = bed.feed(b, from_pod(2, &datagram(ME.pod(2), ME.pod(1), 8080, 4000)));
    assert_eq!(delta, Delta::received(1).dropped(tortie::drop::DropReason::HostUnavailable, 1));
    assert_eq!(bed.recv(a), None);
}

#[test]
fn answers_come_back_translated_even_if_they_are_the_first_for_their_pod() {
    // The pod's MAC is not known yet: an answer does not wait for it, the translated one does.
    let mut s = Setup::new(ME);
    let (a, b) = (s.pod_with(1, None, tortie::port::mem::caps(Medium::Ethernet, 1450)), s.pod(2));
    let host = s.host();
    let mut bed = Bed::new(&s);
    bed.feed(host, datagram(ME.pod(1), ME.pod(2), 4000, 8080));
    assert_eq!(bed.feed(b, from_pod(2, &datagram(ME.pod(2), ME.pod(1), 8080, 4000))), diverted());
    assert_eq!(bed.feed(host, datagram(SERVICE, ME.pod(1), 80, 4000)), Delta::received(1).generated(1).sent(1).held(1));
    let (_, _, kind, _) = check::ethernet(&bed.recv(a).unwrap().bytes).map(|(d, s, k, r)| (d, s, k, r.to_vec())).unwrap();
    assert_eq!(kind, 0x0806);
}
