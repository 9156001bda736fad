//! Who packets are counted for: the port they came by or were meant for, and the other node.

use super::{ME, PEER, from_pod, udp};
use tortie::drop::DropReason;
use tortie::frame::{Gso, GsoKind, PortId};
use tortie::port::Medium;
use tortie::port::mem::Wired;
use tortie::testing::bed::Bed;
use tortie::testing::build::{self, Ip4};
use tortie::testing::net::{Node, Setup, Via};

/// Packets and bytes to a node and from it.
fn peer(bed: &Bed, node: Node) -> [u64; 4] {
    let p = bed.counters().peer(node.peer_id()).unwrap();
    [&p.to.packets, &p.to.bytes, &p.from.packets, &p.from.bytes].map(|c| c.get())
}

/// Drops of what came by the port and of what it was to send, and those for one reason.
fn drops(bed: &Bed, port: PortId, reason: DropReason) -> [u64; 3] {
    let p = bed.counters().port(port);
    [p.rx_dropped.get(), p.tx_dropped.get(), p.reasons()[reason.index()].get()]
}

#[test]
fn a_node_is_counted_for_what_is_encapsulated_to_it_and_decapsulated_from_it() {
    const OTHER: Node = Node(3);
    for (medium, via) in [
        (Medium::Ethernet, Via::Vxlan(PEER)),
        (Medium::VxlanUdp, Via::Vxlan(PEER)),
        (Medium::Ethernet, Via::Ipip(PEER)),
        (Medium::Ip, Via::Ipip(PEER)),
    ] {
        let mut s = Setup::new(ME);
        let (a, b, up) = (s.pod(1), s.pod(2), s.uplink(medium));
        s.route(PEER.block(), via);
        let mut bed = Bed::new(&s);
        // 28 bytes of headers; the last one does not fit and is refused, the one to a pod is no other node's.
        for (dst, payload) in [(PEER.pod(1), 100), (PEER.pod(1), 200), (PEER.pod(1), 1460), (ME.pod(2), 100)] {
            bed.feed(a, from_pod(1, &udp(1, dst, payload)));
        }
        assert_eq!(peer(&bed, PEER), [2, 128 + 228, 0, 0], "{medium:?}");
        let inner = Ip4::new(PEER.pod(1), ME.pod(2)).udp(1, 2, &[0; 72]);
        let ipip = |p| if medium == Medium::Ethernet { PEER.ipip_to(ME).frame(p) } else { PEER.ipip_to(ME).packet(p) };
        let frame: Wired = match medium {
            Medium::VxlanUdp => Wired { peer: PEER.address().into(), ..Wired::from(PEER.vxlan_to(ME).payload(&inner)) },
            _ => ipip(&inner).into(),
        };
        bed.feed(up, frame);
        // Decapsulated, but with this node's own address as its source.
        let martian = Ip4::new(ME.address(), ME.pod(2)).udp(1, 2, &[0; 72]);
        if medium == Medium::Ethernet {
            bed.feed(up, PEER.vxlan_to(ME).frame(&martian));
        }
        assert_eq!(bed.drain(b).len(), 2, "{medium:?}");
        assert_eq!((peer(&bed, PEER), peer(&bed, OTHER)), ([2, 356, 1, 100], [0; 4]), "{medium:?}");
        // The refused one, and the one with our address.
        let dropped = [PEER, OTHER].map(|n| bed.counters().peer_drops(n.peer_id()));
        assert_eq!(dropped, [if medium == Medium::Ethernet { 2 } else { 1 }, 0], "{medium:?}");
    }
}

#[test]
fn a_superframe_is_one_packet_to_its_node_or_as_many_as_it_is_cut_into() {
    const TCP: Gso = Gso { kind: GsoKind::Tcp4, size: 1400 };
    let packet = Ip4::new(ME.pod(1), PEER.pod(1)).tcp(1, 2, 7, &build::pattern(14_000));
    let sent = Wired { gso: Some(TCP), ..build::partial(from_pod(1, &packet), 14) };
    for (whole, expected) in [(true, [1, 40 + 14_000, 0, 0]), (false, [10, 10 * 40 + 14_000, 0, 0])] {
        let mut s = Setup::new(ME);
        let a = s.offload_pod(1);
        s.uplink(Medium::Ethernet);
        if whole {
            s.ports[1].caps = tortie::testing::net::offloads(Medium::Ethernet, 1500);
        }
        s.route(PEER.block(), Via::Vxlan(PEER));
        let mut bed = Bed::new(&s);
        bed.feed(a, sent.clone());
        assert_eq!(peer(&bed, PEER), expected, "whole: {whole}");
    }
}

#[test]
fn a_drop_counts_at_the_port_that_it_came_by_or_at_the_one_that_refused_it() {
    let mut s = Setup::new(ME);
    let (a, b) = (s.pod(1), s.pod(2));
    let mut bed = Bed::new(&s);
    bed.feed(a, from_pod(1, &Ip4::new(ME.pod(9), ME.pod(2)).udp(1, 2, b"spoofed")));
    bed.feed(a, from_pod(1, &udp(1, PEER.pod(1), 10)));
    assert_eq!(drops(&bed, a, DropReason::SourceSpoofed), [2, 0, 1]);
    assert_eq!(drops(&bed, a, DropReason::NoRoute), [2, 0, 1]);
    assert_eq!(drops(&bed, b, DropReason::NoRoute), [0; 3]);
    // The second pod stops taking frames: its wire fills up, then its queue.
    bed.delta();
    for _ in 0..30 {
        for _ in 0..64 {
            bed.send(a, from_pod(1, &udp(1, ME.pod(2), 10)));
        }
        bed.turn();
    }
    let full = bed.counters().dropped[DropReason::TxQueueFull.index()].get();
    assert!(full > 0);
    assert_eq!(drops(&bed, b, DropReason::TxQueueFull), [0, full, full]);
    assert_eq!(drops(&bed, a, DropReason::TxQueueFull), [2, 0, 0]);
    bed.drain(b);
    bed.run();
}

#[test]
fn reasons_of_a_port_start_from_zero_when_it_is_opened_again() {
    let mut s = Setup::new(ME);
    let a = s.pod(1);
    let mut bed = Bed::new(&s);
    bed.feed(a, from_pod(1, &udp(1, PEER.pod(1), 10)));
    assert_eq!(drops(&bed, a, DropReason::NoRoute), [1, 0, 1]);
    let (port, _wire) = tortie::port::mem::MemPort::pair(s.ports[0].caps.clone(), 8);
    bed.open(a, Box::new(port));
    bed.turn();
    assert_eq!(drops(&bed, a, DropReason::NoRoute), [1, 0, 0]);
}
