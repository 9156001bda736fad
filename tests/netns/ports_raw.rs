//! The raw-socket underlay against a raw-socket peer (there is no IP-in-IP device in every kernel).

use super::ports_sockets::{A, B, POD, Rig, data, nodes, sent, udp_packet, view_next};
use etherparse::PacketBuilder;
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tortie::frame::{BURST, Batch, Csum, Gso, GsoKind};
use tortie::port::raw::{self, RawPort, RawSpec};
use tortie::port::{Medium, TxReport, mmsg, sys};
use tortie::testing::netns::Namespace;
use tortie::wire::{ipv4, put16};

fn open_raw(ns: &Namespace, queues: u16) -> Vec<Rig<RawPort>> {
    let ports = ns.run(|| raw::open(&RawSpec { node: A, queues, interface: "eth0", whole: false })).unwrap();
    ports.into_iter().map(Rig::new).collect()
}

fn ipip(from: Ipv4Addr, to: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let mut p = vec![0; 20];
    let len = (20 + inner.len()) as u16;
    ipv4::Header { tos: 1, len, id: 9, frag: ipv4::DF, ttl: 64, proto: ipv4::PROTO_IPIP, src: from.into(), dst: to.into() }.write(&mut p);
    p.extend_from_slice(inner);
    p
}

/// A raw-socket peer on node `b`: sends whole packets, receives protocol `kind`.
struct RawPeer {
    tx: OwnedFd,
    rx: OwnedFd,
}

impl RawPeer {
    fn new(b: &Namespace, kind: u8) -> RawPeer {
        b.run(|| RawPeer {
            tx: sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW).unwrap(),
            rx: sys::socket(libc::AF_INET, libc::SOCK_RAW, kind.into()).unwrap(),
        })
    }

    fn send(&self, packet: &[u8]) {
        let mut table = mmsg::SendTable::new(1, 1);
        let mut out = table.start();
        out.gather(packet);
        out.finish(std::net::SocketAddrV4::new(A, 0), 0, None);
        assert_eq!(out.send(std::os::fd::AsFd::as_fd(&self.tx)).unwrap(), 1);
    }
}

#[test]
fn raw_port_talks_to_a_raw_socket_peer() {
    let (a, b) = nodes();
    let peer = RawPeer::new(&b, ipv4::PROTO_IPIP);
    let icmp = RawPeer::new(&b, ipv4::PROTO_ICMP);
    let mut rig = open_raw(&a, 1).remove(0);
    assert_eq!((rig.caps().medium, rig.caps().mtu, rig.caps().driver), (Medium::Ip, 1500, "raw"));
    let there = ipip(B, A, &udp_packet(b"there"));
    peer.send(&there);
    let f = rig.recv();
    assert_eq!((rig.pool.data(&f), f.csum), (&there[..], Csum::MayBePartial));
    rig.pool.give(f);
    let back = ipip(A, B, &udp_packet(b"back"));
    let f = rig.frame(&back, 1);
    assert_eq!(rig.send_one(f), sent(1));
    assert_eq!(view_next(&peer.rx), back);
    // A packet that the network fragmented comes whole, in a big slot.
    let long = ipip(B, A, &udp_packet(&data(9000)));
    for (offset, end) in [(0usize, 1480usize), (1480, 2960), (2960, 4440), (4440, 5920), (5920, 7400), (7400, 8880), (8880, 9028)] {
        let mut part = ipip(B, A, &long[20 + offset..20 + end]);
        let more = if end < 9028 { ipv4::MF } else { 0 };
        put16(&mut part, 6, more | (offset / 8) as u16);
        ipv4::write_checksum(&mut part);
        peer.send(&part);
    }
    let got = rig.recv_bytes();
    assert_eq!((got.len(), ipv4::is_fragment(&got)), (9048, false));
    assert!(got[20..] == long[20..]);
    // Refusals: too long, no packet at all, a super-frame, no route.
    let mut out = Batch::new();
    for bytes in [ipip(A, B, &data(1480)), ipip(A, B, &data(1481)), vec![0x45; 19], ipip(A, Ipv4Addr::new(198, 51, 100, 1), &data(9))] {
        let f = rig.frame(&bytes, 1);
        out.push(f);
    }
    let mut f = rig.frame(&back, 1);
    f.gso = Some(Gso { kind: GsoKind::Tcp4, size: 100 });
    out.push(f);
    let f = rig.frame(&back, 1);
    out.push(f);
    assert_eq!(rig.send(&mut out), TxReport { sent: 2, errors: 3, too_big: 1 });
    assert_eq!(view_next(&peer.rx).len(), 1500);
    assert_eq!(view_next(&peer.rx), back);
    // No "protocol unreachable" came back for any of it, but one does once the port is closed.
    let mut seen = mmsg::RecvTable::new(4);
    seen.fill(std::os::fd::AsFd::as_fd(&icmp.rx), 4).unwrap();
    assert_eq!(seen.front(), None);
    rig.close();
    // Programs that other tests start hold copies of all descriptors for a moment, so ask until there is an answer.
    let until = Instant::now() + Duration::from_secs(5);
    while seen.waiting() == 0 && Instant::now() < until {
        peer.send(&there);
        std::thread::sleep(Duration::from_millis(10));
        seen.fill(std::os::fd::AsFd::as_fd(&icmp.rx), 4).unwrap();
    }
    let answer = seen.front().expect("an ICMP error").bytes;
    assert_eq!((answer[20], answer[21]), (3, 2), "destination unreachable, protocol unreachable");
}

#[test]
fn raw_queues_split_by_inner_addresses_without_loss_or_copies() {
    let (a, b) = nodes();
    let peer = RawPeer::new(&b, ipv4::PROTO_IPIP);
    let icmp = RawPeer::new(&b, ipv4::PROTO_ICMP);
    let mut rigs = open_raw(&a, 2);
    for i in 0..BURST as u8 {
        let mut inner = Vec::new();
        PacketBuilder::ipv4([10, 244, 2, i], POD.octets(), 64).udp(1, 2).write(&mut inner, &[i]).unwrap();
        peer.send(&ipip(B, A, &inner));
    }
    let seen: Vec<HashSet<u8>> = rigs
        .iter_mut()
        .map(|r| {
            let mut set = HashSet::new();
            while let Some(f) = r.recv_within(Duration::from_millis(100)) {
                assert!(set.insert(*r.pool.data(&f).last().unwrap()), "a copy");
                r.pool.give(f);
            }
            set
        })
        .collect();
    assert!(seen[0].is_disjoint(&seen[1]));
    assert_eq!(seen[0].len() + seen[1].len(), BURST);
    assert!(seen.iter().all(|s| s.len() > 10));
    let mut answers = mmsg::RecvTable::new(4);
    answers.fill(std::os::fd::AsFd::as_fd(&icmp.rx), 4).unwrap();
    assert_eq!(answers.front(), None);
    rigs.into_iter().for_each(Rig::close);
}
