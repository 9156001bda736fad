//! Every drop and punt reason is provoked once. The matches have no wildcard: a new reason needs a case to compile.

use super::{ME, PEER, from_pod, udp};
use std::io;
use std::os::fd::BorrowedFd;
use tortie::drop::{DropReason, PuntReason};
use tortie::encap::rewrite::{self, MacPair};
use tortie::fib::{AdjKind, Adjacency};
use tortie::frame::{Batch, FramePool, Gso, GsoKind, PortId};
use tortie::port::mem::{Wired, caps};
use tortie::port::{Caps, Medium, Port, RxReport, TxReport};
use tortie::snapshot::PortRole;
use tortie::testing::bed::{Bed, Delta, WIRE};
use tortie::testing::build::{self, ArpFrame, Ip4, OuterCheck, repair};
use tortie::testing::net::{Node, POD_MTU, Setup, UPLINK_MTU, Via};
use tortie::wire::Mac;
use tortie::worker::{Command, Event};

/// A port whose every frame meets the same fate.
struct FatefulPort {
    caps: Caps,
    rx: RxReport,
    /// What becomes of each frame to send.
    fate: fn(u32) -> io::Result<TxReport>,
}

impl FatefulPort {
    fn new(fate: fn(u32) -> io::Result<TxReport>) -> Box<FatefulPort> {
        Box::new(FatefulPort { caps: caps(Medium::Ethernet, u32::from(POD_MTU)), rx: RxReport::default(), fate })
    }
}

impl Port for FatefulPort {
    fn caps(&self) -> &Caps {
        &self.caps
    }
    fn rx_burst(&mut self, _: &mut FramePool, _: &mut Batch) -> io::Result<RxReport> {
        Ok(std::mem::take(&mut self.rx))
    }
    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        let n = out.len() as u32;
        let report = (self.fate)(n)?;
        pool.give_all(out);
        Ok(report)
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn release(&mut self, _: &mut FramePool) {}
}

/// Two pods, an Ethernet uplink, a VXLAN route to a peer and all the special routes.
struct Site {
    setup: Setup,
    a: PortId,
    b: PortId,
    up: PortId,
}

fn site() -> Site {
    let mut s = Setup::new(ME);
    let (a, b, up) = (s.pod(1), s.pod(2), s.uplink(Medium::Ethernet));
    s.route(ME.block(), Via::Blackhole);
    s.route(PEER.block(), Via::Vxlan(PEER));
    s.route(Node(3).block(), Via::Drop);
    s.route(Node(4).block(), Via::Glean(Node(4)));
    Site { setup: s, a, b, up }
}

/// One frame into a fresh site's port; it must end under the reason and do nothing else.
fn drops(site: &Site, port: PortId, frame: impl Into<Wired>, reason: DropReason) {
    let mut bed = Bed::new(&site.setup);
    assert_eq!(bed.feed(port, frame), Delta::received(1).dropped(reason, 1), "{reason}");
    for p in [site.a, site.b, site.up] {
        assert_eq!(bed.recv(p), None, "{reason}: nothing leaves");
    }
}

/// A packet from pod 1 whose bytes are changed and whose header checksum is then repaired.
fn bent(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut p = udp(1, ME.pod(2), 64);
    change(&mut p);
    repair(&mut p, 0);
    from_pod(1, &p)
}

/// An inner packet from the peer's pod 1 to pod 1 here.
fn inner() -> Vec<u8> {
    Ip4::new(PEER.pod(1), ME.pod(1)).udp(1, 2, b"inner")
}

fn case(reason: DropReason) {
    use DropReason::*;
    let s = site();
    let wrap = PEER.vxlan_to(ME);
    match reason {
        NoRoute => drops(&s, s.a, from_pod(1, &udp(1, [8, 8, 8, 8].into(), 9)), reason),
        Blackhole => drops(&s, s.a, from_pod(1, &udp(1, ME.pod(60), 9)), reason),
        RouteDrop => drops(&s, s.a, from_pod(1, &udp(1, Node(3).pod(1), 9)), reason),
        EthernetTruncated => (0..14).for_each(|n| {
            drops(&s, s.a, vec![0xee; n], reason);
            drops(&s, s.up, vec![0xee; n], reason);
        }),
        EthertypeUnsupported => drops(&s, s.a, build::ethernet_typed(Mac::GATEWAY, ME.pod_mac(1), 0x88cc, &[0; 50]), reason),
        Ipv6Unsupported => drops(&s, s.a, build::ethernet_typed(Mac::GATEWAY, ME.pod_mac(1), 0x86dd, &[0x60; 50]), reason),
        NotForUs => drops(&s, s.a, build::ethernet(ME.pod_mac(2), ME.pod_mac(1), &udp(1, ME.pod(2), 9)), reason),
        ArpMalformed => {
            let good = ArpFrame::request(ME.pod_mac(1), ME.pod(1), tortie::arp::GATEWAY).bytes();
            (14..good.len()).for_each(|n| drops(&s, s.a, good[..n].to_vec(), reason));
        }
        ArpIgnored => {
            let (mac, own) = (ME.pod_mac(1), ME.pod(1));
            for arp in [ArpFrame::reply(mac, own), ArpFrame::request(mac, [0; 4].into(), own), ArpFrame::request(mac, own, own)] {
                drops(&s, s.a, arp.bytes(), reason);
            }
        }
        ArpSpoofed => drops(&s, s.a, ArpFrame::request(ME.pod_mac(1), ME.pod(2), ME.pod(1)).bytes(), reason),
        IpTruncated => {
            let p = udp(1, ME.pod(2), 64);
            (0..p.len()).for_each(|n| drops(&s, s.a, from_pod(1, &p[..n]), reason));
            (0..inner().len()).for_each(|n| drops(&s, s.up, wrap.frame(&inner()[..n]), reason));
        }
        IpMalformed => {
            drops(&s, s.a, bent(|p| p[0] = 0x65), reason);
            drops(&s, s.a, bent(|p| p[0] = 0x44), reason);
        }
        IpChecksum => {
            let mut p = udp(1, ME.pod(2), 9);
            p[10] ^= 1;
            drops(&s, s.a, from_pod(1, &p), reason);
            let mut outer = wrap.frame(&inner());
            outer[14 + 11] ^= 1;
            drops(&s, s.up, outer, reason);
        }
        IpMartian => {
            for dst in [[0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 5], [240, 0, 0, 1], [255, 255, 255, 255]] {
                drops(&s, s.a, from_pod(1, &udp(1, dst.into(), 9)), reason);
                drops(&s, s.up, wrap.frame(&Ip4::new(dst.into(), ME.pod(1)).udp(1, 2, b"")), reason);
            }
            drops(&s, s.a, build::ethernet(Mac::BROADCAST, ME.pod_mac(1), &udp(1, ME.pod(2), 9)), reason);
        }
        TtlExpired => {
            // No error about an error: nothing but the drop.
            let unreachable = etherparse::Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
            for ttl in [0, 1] {
                let p = Ip4::new(ME.pod(1), ME.pod(2)).ttl(ttl).icmp(unreachable.clone(), &[0; 28]);
                drops(&s, s.a, from_pod(1, &p), reason);
            }
        }
        SourceSpoofed => drops(&s, s.a, from_pod(1, &udp(2, ME.pod(2), 9)), reason),
        WorkloadTunnel => {
            let ip = Ip4::new(ME.pod(1), PEER.address());
            drops(&s, s.a, from_pod(1, &ip.udp(9, 4789, b"vxlan")), reason);
            drops(&s, s.a, from_pod(1, &ip.raw(4, &inner())), reason);
        }
        UnknownPort => {
            let mut s = site();
            s.setup.ports[s.a.index()].role = PortRole::Closed;
            drops(&s, s.a, from_pod(1, &udp(1, ME.pod(2), 9)), reason);
        }
        TunnelSenderUnknown => {
            let stranger = Node(77);
            drops(&s, s.up, stranger.vxlan_to(ME).frame(&inner()), reason);
            drops(&s, s.up, stranger.ipip_to(ME).frame(&inner()), reason);
        }
        OwnSource => {
            for own in [ME.address(), ME.tunnel_address()] {
                let packet = Ip4::new(own, ME.pod(1)).udp(1, 2, b"");
                drops(&s, s.up, wrap.frame(&packet), reason);
                drops(&s, s.up, PEER.ipip_to(ME).frame(&packet), reason);
            }
        }
        OuterNotOurs => {
            drops(&s, s.up, PEER.vxlan_to(Node(3)).frame(&inner()), reason);
            drops(&s, s.up, Ip4::new(PEER.address(), ME.address()).tcp(1, 22, 0, b"ssh").framed(), reason);
            let mut other = wrap.clone();
            other.to = 4790;
            drops(&s, s.up, other.frame(&inner()), reason);
            drops(&s, s.up, ArpFrame::request(PEER.link_mac(), PEER.address(), ME.address()).bytes(), reason);
        }
        OuterUdpLength => {
            for length in [0, 7, 500] {
                let mut w = wrap.clone();
                w.udp_length = Some(length);
                drops(&s, s.up, w.frame(&inner()), reason);
            }
            let cut = Ip4::new(PEER.address(), ME.address()).raw(17, &[0x12, 0xb5, 0x12, 0xb5]);
            drops(&s, s.up, cut.framed(), reason);
        }
        OuterUdpChecksum => {
            let mut w = wrap.clone();
            w.check = OuterCheck::Wrong;
            drops(&s, s.up, w.frame(&inner()), reason);
            drops(&s, s.up, build::maybe_partial(w.frame(&inner())), reason);
        }
        OuterFragment => {
            let mut w = wrap.clone();
            w.outer = w.outer.fragment(0, true);
            drops(&s, s.up, w.frame(&inner()), reason);
            w.outer = w.outer.fragment(1480, false);
            drops(&s, s.up, w.frame(&inner()), reason);
        }
        VxlanTruncated => {
            let payload = wrap.payload(&inner());
            let ip = Ip4::new(PEER.address(), ME.address());
            (0..22).for_each(|n| drops(&s, s.up, ip.udp(33_000, 4789, &payload[..n]).framed(), reason));
        }
        VxlanFlags => {
            let mut w = wrap.clone();
            w.flags = 0xf7;
            drops(&s, s.up, w.frame(&inner()), reason);
        }
        VxlanVni => {
            let mut w = wrap.clone();
            w.vni = 4097;
            drops(&s, s.up, w.frame(&inner()), reason);
        }
        VxlanInnerMac => {
            for mac in [Mac::BROADCAST, PEER.vtep_mac(), Mac::GATEWAY] {
                let mut w = wrap.clone();
                w.inner_dst = mac;
                drops(&s, s.up, w.frame(&inner()), reason);
            }
        }
        VxlanOwnMac => {
            let mut w = wrap.clone();
            w.inner_src = ME.vtep_mac();
            drops(&s, s.up, w.frame(&inner()), reason);
        }
        VxlanInnerType => {
            for kind in [0x0806, 0x86dd, 0x8100] {
                let mut w = wrap.clone();
                w.inner_type = kind;
                drops(&s, s.up, w.frame(&inner()), reason);
            }
        }
        EcnInvalid => {
            let mut w = wrap.clone();
            w.outer.tos = 3;
            drops(&s, s.up, w.frame(&inner()), reason);
            let mut w = PEER.ipip_to(ME);
            w.outer.tos = 3;
            drops(&s, s.up, w.frame(&inner()), reason);
        }
        MtuExceeded => {
            // DF set, and no error about an error.
            let kind = etherparse::Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
            drops(&s, s.a, from_pod(1, &Ip4::new(ME.pod(1), ME.pod(2)).icmp(kind, &[0; 1500])), reason);
        }
        FragmentFailed => {
            // The last fragment of a packet longer than 65,535 bytes.
            let p = Ip4::new(ME.pod(1), ME.pod(2)).fragment(65_528, false).raw(17, &[0; 1500]);
            drops(&s, s.a, from_pod(1, &p), reason);
        }
        SegmentFailed => {
            // A super-frame by its metadata, a SYN by its header.
            let mut syn = etherparse::TcpHeader::new(1, 2, 3, 4);
            syn.syn = true;
            let p = Ip4::new(ME.pod(1), ME.pod(2)).tcp_header(syn, &[0; 3000]);
            let gso = Some(Gso { kind: GsoKind::Tcp4, size: 1000 });
            drops(&s, s.a, Wired { gso, ..build::partial(from_pod(1, &p), 14) }, reason);
        }
        NeighbourUnresolved => {
            let mut bed = Bed::new(&s.setup);
            assert_eq!(bed.feed(s.a, from_pod(1, &udp(1, Node(4).pod(1), 9))), Delta::received(1).held(1));
            bed.advance(999);
            bed.turn();
            assert_eq!(bed.delta(), Delta::default());
            bed.advance(1);
            bed.turn();
            assert_eq!(bed.delta(), Delta::default().held(-1).dropped(reason, 1));
            let miss = Event::NeighbourMiss { next_hop: Node(4).address().into() };
            assert!(bed.events().iter().all(|e| *e == miss));
        }
        NeighbourQueueFull => {
            let mut bed = Bed::new(&s.setup);
            (0..40).for_each(|_| bed.send(s.a, from_pod(1, &udp(1, Node(4).pod(1), 9))));
            bed.turn();
            assert_eq!(bed.delta(), Delta::received(40).held(32).dropped(reason, 8));
        }
        PoolEmpty => {
            // Five fragments are needed, but only three small slots and no big one are there: one holds the packet.
            let mut bed = Bed::with_pool(&s.setup, 3, 0);
            let mut short = s.setup.clone();
            short.ports[s.b.index()].caps.mtu = 300;
            bed.publish(&short);
            let p = Ip4::new(ME.pod(1), ME.pod(2)).may_fragment().udp(1, 2, &[0; 1280]);
            let delta = bed.feed(s.a, from_pod(1, &p));
            assert_eq!(delta, Delta::received(1).generated(4).sent(2).dropped(reason, 3));
        }
        PortGone => {
            let mut bed = Bed::new(&s.setup);
            bed.command(Command::RemovePort { id: s.b });
            assert_eq!(bed.feed(s.a, from_pod(1, &udp(1, ME.pod(2), 9))), Delta::received(1).dropped(reason, 1));
            assert_eq!(bed.events(), [Event::PortClosed { worker: 0, id: s.b }]);
        }
        TxQueueFull => {
            let mut bed = Bed::new(&s.setup);
            // The wire takes WIRE frames, the queue 512 more; whatever comes then is dropped.
            for _ in 0..(WIRE + 512 + 64) / 64 {
                (0..64).for_each(|_| bed.send(s.a, from_pod(1, &udp(1, ME.pod(2), 9))));
                bed.turn();
            }
            let n = WIRE as u64;
            assert_eq!(bed.delta(), Delta::received(n + 576).sent(n).held(512).dropped(reason, 64));
            assert_eq!(bed.drain(s.b).len(), WIRE);
            bed.turn();
            assert_eq!(bed.delta(), Delta::default().sent(512).held(-512));
        }
        TxError => fated(&s, |n| Ok(TxReport { errors: n, ..TxReport::default() }), reason),
        TxTooBig => fated(&s, |n| Ok(TxReport { too_big: n, ..TxReport::default() }), reason),
        RxError => lossy(&s, RxReport { malformed: 3, truncated: 0 }, reason),
        RxTruncated => {
            lossy(&s, RxReport { malformed: 0, truncated: 3 }, reason);
            drops(&s, s.a, vec![0; 80_000], reason);
        }
        HostUnavailable => {
            let mut s = site();
            s.setup.route(ME.address().into(), Via::Host);
            drops(&s, s.a, from_pod(1, &udp(1, ME.address(), 9)), reason);
        }
        WorkerRestart => {
            let mut bed = Bed::new(&s.setup);
            bed.feed(s.a, from_pod(1, &udp(1, Node(4).pod(1), 9)));
            bed.command(Command::Stop);
            bed.turn();
            assert_eq!(bed.delta(), Delta::default().held(-1).dropped(reason, 1));
        }
    }
}

/// A packet for a port that does with it what `fate` says.
fn fated(s: &Site, fate: fn(u32) -> io::Result<TxReport>, reason: DropReason) {
    let mut bed = Bed::new(&s.setup);
    bed.open(s.b, FatefulPort::new(fate));
    let delta = bed.feed(s.a, from_pod(1, &udp(1, ME.pod(2), 9)));
    assert_eq!(delta, Delta::received(1).dropped(reason, 1));
    assert_eq!(bed.counters().port(s.b).tx_dropped.get(), 1);
}

/// A port that loses frames while receiving.
fn lossy(s: &Site, rx: RxReport, reason: DropReason) {
    let mut bed = Bed::new(&s.setup);
    let mut port = FatefulPort::new(|_| Ok(TxReport::default()));
    port.rx = rx;
    bed.open(s.a, port);
    bed.turn();
    assert_eq!(bed.delta(), Delta::received(3).dropped(reason, 3));
}

/// An underlay frame around an outer packet from the peer.
trait Framed {
    fn framed(&self) -> Vec<u8>;
}

impl Framed for Vec<u8> {
    fn framed(&self) -> Vec<u8> {
        build::ethernet(ME.link_mac(), PEER.link_mac(), self)
    }
}

#[test]
fn every_drop_reason() {
    DropReason::ALL.iter().for_each(|r| case(*r));
}

#[test]
fn every_punt_reason() {
    for reason in PuntReason::ALL {
        let mut s = site();
        let host = s.setup.host();
        let dst = match reason {
            PuntReason::HostAddress => ME.address(),
            PuntReason::HostRoute => [8, 8, 8, 8].into(),
            PuntReason::FloatingIp => [192, 0, 2, 7].into(),
            PuntReason::HostFlow => ME.pod(2),
        };
        if *reason == PuntReason::FloatingIp {
            s.setup.route(dst.into(), Via::Floating);
        }
        let mut bed = Bed::new(&s.setup);
        let p = udp(1, dst, 9);
        if *reason == PuntReason::HostFlow {
            assert_eq!(bed.feed(host, Ip4::new(dst, ME.pod(1)).udp(5000, 4000, b"")), Delta::received(1).sent(1));
        }
        assert_eq!(bed.feed(s.a, from_pod(1, &p)), Delta::received(1).punted(*reason, 1));
        assert_eq!(bed.recv(host).unwrap().bytes, p, "as it came, TTL too");
        // The host stack is this same hop: what it routed here is not handed back.
        let back = Ip4::new(ME.address(), [8, 8, 8, 8].into()).udp(1, 2, b"");
        assert_eq!(bed.feed(host, back), Delta::received(1).dropped(DropReason::NoRoute, 1));
    }
}

#[test]
fn a_port_that_fails_is_closed_and_reported() {
    let s = site();
    let mut bed = Bed::new(&s.setup);
    bed.open(s.b, FatefulPort::new(|_| Err(io::Error::other("gone"))));
    let delta = bed.feed(s.a, from_pod(1, &udp(1, ME.pod(2), 9)));
    assert_eq!(delta, Delta::received(1).dropped(DropReason::PortGone, 1));
    assert_eq!(bed.events(), [Event::PortFailed { worker: 0, id: s.b, error: "gone".into() }]);
    assert_eq!(bed.feed(s.a, from_pod(1, &udp(1, ME.pod(2), 9))), Delta::received(1).dropped(DropReason::PortGone, 1));
}

#[test]
fn an_adjacency_on_a_missing_port_drops() {
    let mut s = site();
    let link = MacPair { dst: PEER.link_mac(), src: ME.link_mac() };
    let nowhere =
        Adjacency { kind: AdjKind::Direct, rewrite: rewrite::ethernet(link), mtu: UPLINK_MTU, ..Adjacency::drop(DropReason::NoRoute) };
    s.setup.route(Node(5).block(), Via::Raw(nowhere));
    drops(&s, s.a, from_pod(1, &udp(1, Node(5).pod(1), 9)), DropReason::PortGone);
}
