//! ARP on workload ports, and packets that wait for a neighbour.

use super::{ME, from_pod, udp};
use tortie::arp::GATEWAY;
use tortie::drop::DropReason;
use tortie::frame::PortId;
use tortie::port::{Medium, mem};
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::build::{ArpFrame, Ip4};
use tortie::testing::check;
use tortie::testing::net::{POD_MTU, Setup};
use tortie::wire::Mac;
use tortie::worker::Event;

/// A pod whose MAC is known, and one whose MAC is not.
fn site() -> (Setup, PortId, PortId) {
    let mut s = Setup::new(ME);
    let a = s.pod(1);
    let b = s.pod_with(2, None, mem::caps(Medium::Ethernet, u32::from(POD_MTU)));
    (s, a, b)
}

#[test]
fn any_address_is_the_gateways() {
    let (s, a, _) = site();
    let mut bed = Bed::new(&s);
    for target in [GATEWAY, ME.pod(2), [8, 8, 8, 8].into(), ME.address()] {
        let mut request = ArpFrame::request(ME.pod_mac(1), ME.pod(1), target).bytes();
        request.resize(60, 0);
        assert_eq!(bed.feed(a, request), Delta::received(1).sent(1));
        let reply = bed.recv(a).unwrap().bytes;
        let (dst, src, kind, rest) = check::ethernet(&reply).unwrap();
        assert_eq!((dst, src, kind, rest.len()), (ME.pod_mac(1), Mac::GATEWAY, 0x0806, 28));
        let arp = etherparse::ArpPacketSlice::from_slice(rest).unwrap();
        assert_eq!(arp.operation(), etherparse::ArpOperation::REPLY);
        assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&Mac::GATEWAY.0[..], &target.octets()[..]));
        assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&ME.pod_mac(1).0[..], &ME.pod(1).octets()[..]));
    }
    assert_eq!(bed.events(), [], "nothing new was learned");
}

#[test]
fn a_pods_mac_is_learned_from_its_arp_only_for_its_own_address() {
    let (s, a, b) = site();
    let mut bed = Bed::new(&s);
    let mac = ME.pod_mac(2);
    bed.feed(b, ArpFrame::request(mac, ME.pod(1), GATEWAY).bytes());
    bed.feed(b, ArpFrame::request(mac, [0; 4].into(), ME.pod(2)).bytes());
    assert_eq!(bed.events(), []);
    for own in [ArpFrame::request(mac, ME.pod(2), GATEWAY), ArpFrame::request(mac, ME.pod(2), ME.pod(2)), ArpFrame::reply(mac, ME.pod(2))] {
        bed.feed(b, own.bytes());
        assert_eq!(bed.events(), [Event::EndpointMac { id: b, address: ME.pod(2), mac }]);
    }
    // A pod that changed its MAC says so the same way.
    let other = Mac([2, 2, 2, 2, 2, 2]);
    bed.feed(a, ArpFrame::request(other, ME.pod(1), GATEWAY).bytes());
    assert_eq!(bed.events(), [Event::EndpointMac { id: a, address: ME.pod(1), mac: other }]);
}

#[test]
fn packets_wait_for_a_pods_mac_and_leave_in_order() {
    let (mut s, a, b) = site();
    let mut bed = Bed::new(&s);
    for i in 0..5 {
        bed.send(a, from_pod(1, &Ip4::new(ME.pod(1), ME.pod(2)).id(i).udp(1, 2, b"x")));
    }
    bed.turn();
    assert_eq!(bed.delta(), Delta::received(5).generated(1).sent(1).held(5));
    let request = bed.recv(b).unwrap().bytes;
    let (dst, src, _, rest) = check::ethernet(&request).unwrap();
    let arp = etherparse::ArpPacketSlice::from_slice(rest).unwrap();
    assert_eq!((dst, src, arp.target_protocol_addr()), (Mac::BROADCAST, Mac::GATEWAY, &ME.pod(2).octets()[..]));
    assert_eq!((arp.operation(), arp.sender_protocol_addr()), (etherparse::ArpOperation::REQUEST, &GATEWAY.octets()[..]));
    assert_eq!(bed.feed(b, ArpFrame::reply(ME.pod_mac(2), ME.pod(2)).bytes()), Delta::received(1).dropped(DropReason::ArpIgnored, 1));
    assert_eq!(bed.events().len(), 1);
    s.learn(b, ME.pod_mac(2));
    bed.publish(&s);
    bed.turn();
    assert_eq!(bed.delta(), Delta::default().sent(5).held(-5));
    let got: Vec<_> = bed.drain(b).iter().map(|w| super::delivered(2, w)).collect();
    assert_eq!(got.iter().map(|p| p.header.identification).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(got.iter().all(|p| p.ttl() == 63), "the TTL goes down once");
}

#[test]
fn the_question_is_repeated_and_then_given_up() {
    let (s, a, b) = site();
    let mut bed = Bed::new(&s);
    bed.feed(a, from_pod(1, &udp(1, ME.pod(2), 9)));
    assert_eq!(bed.drain(b).len(), 1);
    let mut asked = 0;
    for _ in 0..9 {
        bed.advance(100);
        bed.turn();
        asked += bed.drain(b).len();
    }
    assert_eq!(asked, 4, "every 200 ms");
    assert_eq!(bed.delta(), Delta::default().generated(4).sent(4));
    bed.advance(100);
    bed.turn();
    assert_eq!(bed.delta(), Delta::default().held(-1).dropped(DropReason::NeighbourUnresolved, 1));
}

#[test]
fn a_silent_pod_does_not_fill_the_queue_for_others() {
    let (mut s, a, _) = site();
    for i in 10..20 {
        s.pod_with(i, None, mem::caps(Medium::Ethernet, u32::from(POD_MTU)));
    }
    let mut bed = Bed::new(&s);
    for i in 10..20 {
        (0..33).for_each(|_| bed.send(a, from_pod(1, &udp(1, ME.pod(i), 9))));
    }
    bed.run();
    // 32 a neighbour and 256 in all: eight neighbours fill it, the ninth and tenth find no room.
    assert_eq!(bed.delta(), Delta::received(330).generated(8).sent(8).held(256).dropped(DropReason::NeighbourQueueFull, 74));
}
