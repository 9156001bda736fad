//! Machines that say that they are this node: dropped, and told to control with their address, a few times a second.

use super::{ME, PEER};
use tortie::drop::DropReason;
use tortie::forward::{Claim, Identity};
use tortie::frame::PortId;
use tortie::port::Medium;
use tortie::port::mem::Wired;
use tortie::testing::bed::{Bed, Delta};
use tortie::testing::build::Ip4;
use tortie::testing::net::{Node, Setup};
use tortie::worker::Event;

const STRANGER: Node = Node(77);

fn site(medium: Medium) -> (Bed, PortId) {
    let mut s = Setup::new(ME);
    s.pod(1);
    let up = s.uplink(medium);
    (Bed::new(&s), up)
}

fn inner() -> Vec<u8> {
    Ip4::new(PEER.pod(1), ME.pod(1)).udp(1, 2, b"inner")
}

/// A VXLAN packet with this node's VTEP MAC as its inner source.
fn with_our_mac(from: Node) -> Vec<u8> {
    let mut w = from.vxlan_to(ME);
    w.inner_src = ME.vtep_mac();
    w.frame(&inner())
}

fn claimed(identity: Identity, from: Node) -> Vec<Event> {
    vec![Event::Claimed(Claim { identity, sender: from.address(), mac: Some(from.link_mac()) })]
}

#[test]
fn each_identity_from_a_node_and_from_a_stranger() {
    let (mut bed, up) = site(Medium::Ethernet);
    let one = |reason| Delta::received(1).dropped(reason, 1);
    assert_eq!(bed.feed(up, with_our_mac(PEER)), one(DropReason::VxlanOwnMac));
    assert_eq!(bed.events(), claimed(Identity::VtepMac, PEER));
    assert_eq!(bed.feed(up, with_our_mac(STRANGER)), one(DropReason::TunnelSenderUnknown));
    assert_eq!(bed.events(), claimed(Identity::VtepMac, STRANGER));
    for (own, identity) in [(ME.address(), Identity::NodeAddress), (ME.tunnel_address(), Identity::TunnelAddress)] {
        let packet = Ip4::new(own, ME.pod(1)).udp(1, 2, b"");
        for frame in [PEER.vxlan_to(ME).frame(&packet), PEER.ipip_to(ME).frame(&packet)] {
            assert_eq!(bed.feed(up, frame), one(DropReason::OwnSource));
            assert_eq!(bed.events(), claimed(identity, PEER));
        }
        assert_eq!(bed.feed(up, STRANGER.ipip_to(ME).frame(&packet)), one(DropReason::TunnelSenderUnknown));
        assert_eq!(bed.events(), claimed(identity, STRANGER));
    }
    bed.advance(1000);
    // Our own address on the outside: who it is shows in the MAC alone.
    let mut w = PEER.vxlan_to(ME);
    w.outer = Ip4::new(ME.address(), ME.address()).may_fragment();
    assert_eq!(bed.feed(up, w.frame(&inner())), one(DropReason::TunnelSenderUnknown));
    let claim = Claim { identity: Identity::NodeAddress, sender: ME.address(), mac: Some(PEER.link_mac()) };
    assert_eq!(bed.events(), [Event::Claimed(claim)]);
}

#[test]
fn a_socket_tells_the_sender() {
    let (mut bed, up) = site(Medium::VxlanUdp);
    for (from, reason) in [(PEER, DropReason::VxlanOwnMac), (STRANGER, DropReason::TunnelSenderUnknown)] {
        // From the VXLAN header on.
        let frame = Wired { peer: from.address().into(), ..Wired::from(with_our_mac(from)[42..].to_vec()) };
        assert_eq!(bed.feed(up, frame), Delta::received(1).dropped(reason, 1));
        assert_eq!(bed.events(), [Event::Claimed(Claim { identity: Identity::VtepMac, sender: from.address(), mac: None })]);
    }
}

#[test]
fn strangers_and_torn_packets_claim_nothing() {
    let (mut bed, up) = site(Medium::Ethernet);
    bed.feed(up, STRANGER.vxlan_to(ME).frame(&inner()));
    bed.feed(up, STRANGER.ipip_to(ME).frame(&inner()));
    bed.feed(up, PEER.vxlan_to(ME).frame(&inner()));
    let mut other = STRANGER.vxlan_to(ME);
    (other.inner_src, other.vni) = (ME.vtep_mac(), 7);
    bed.feed(up, other.frame(&inner()));
    let whole = with_our_mac(STRANGER);
    for n in 0..whole.len() {
        bed.feed(up, whole[..n].to_vec());
    }
    assert_eq!(bed.events(), []);
}

#[test]
fn a_flood_of_claims_is_counted_whole_and_told_in_part() {
    let (mut bed, up) = site(Medium::Ethernet);
    let mut told = 0;
    for _ in 0..500 {
        bed.feed(up, with_our_mac(PEER));
        told += bed.events().len();
    }
    assert_eq!((bed.counters().dropped[DropReason::VxlanOwnMac.index()].get(), told), (500, 8));
    bed.advance(1000);
    bed.feed(up, with_our_mac(PEER));
    assert_eq!(bed.events().len(), 1);
}
