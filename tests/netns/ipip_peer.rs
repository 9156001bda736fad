//! A node that speaks IP-in-IP, written here over a raw socket with headers by etherparse, as the other end of a
//! worker with real ports; and two such workers with TCP between their pods.

use crate::kernel_node::{NODE, POD};
use crate::router::{Mode, ROUTER, ROUTER_POD, Router, Site, add_address, first_site, node_and_pod, ping, second_site, underlay};
use crate::wire::transfer;
use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header, Ipv4HeaderSlice};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tortie::drop::DropReason;
use tortie::port::raw::{self, RawSpec};
use tortie::port::sys;
use tortie::testing::netns::Namespace;

const MTU: u16 = 1480;
/// A pod behind the peer, which the peer itself plays.
const FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 9);

/// Answers pings to any address behind it and keeps what it received.
struct Peer {
    socket: Arc<OwnedFd>,
    /// Outer and inner header of each packet.
    seen: Arc<Mutex<Vec<(Ipv4Header, Ipv4Header)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start(ns: &Namespace) -> Peer {
        let open = || -> std::io::Result<OwnedFd> {
            let s = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_IPIP)?;
            sys::setsockopt(&s, libc::IPPROTO_IP, libc::IP_HDRINCL, &1i32)?;
            Ok(s)
        };
        let socket = Arc::new(ns.run(open).unwrap());
        let (seen, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (socket, seen, stop) = (socket.clone(), Arc::clone(&seen), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(p) = receive(&socket) {
                        answer(&socket, &p, &seen);
                    }
                }
            }
        });
        Peer { socket, seen, stop, thread: Some(thread) }
    }

    /// Sends `packet` in a tunnel packet of its own.
    fn send(&self, src: Ipv4Addr, packet: &[u8]) {
        send(&self.socket, src, packet);
    }

    fn take(&self) -> Vec<(Ipv4Header, Ipv4Header)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn receive(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut buf = vec![0u8; 65_536];
    // SAFETY: one live pollfd; recv writes within `buf`.
    let n = unsafe {
        if libc::poll(&raw mut poll, 1, 50) <= 0 {
            return None;
        }
        libc::recv(socket.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT)
    };
    buf.truncate(usize::try_from(n).ok()?);
    Some(buf)
}

fn send(socket: &OwnedFd, src: Ipv4Addr, packet: &[u8]) {
    let outer = Ipv4Header::new(packet.len() as u16, 64, IpNumber::IPV4, src.octets(), ROUTER.octets()).unwrap();
    let mut bytes = Vec::new();
    outer.write(&mut bytes).unwrap();
    bytes.extend_from_slice(packet);
    // SAFETY: integers only, for which zero is valid.
    let mut to: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    to.sin_family = libc::AF_INET as u16;
    to.sin_addr.s_addr = u32::from(ROUTER).to_be();
    // SAFETY: reads `bytes` and a sockaddr_in of the given length.
    let n =
        unsafe { libc::sendto(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, (&raw const to).cast(), size_of_val(&to) as u32) };
    assert_eq!(n, bytes.len() as isize, "send: {}", std::io::Error::last_os_error());
}

/// Notes the headers; a ping is sent back.
fn answer(socket: &OwnedFd, p: &[u8], seen: &Mutex<Vec<(Ipv4Header, Ipv4Header)>>) {
    let outer = Ipv4HeaderSlice::from_slice(p).unwrap();
    let inner = Ipv4HeaderSlice::from_slice(&p[outer.slice().len()..]).unwrap();
    let (mut ip, l4) = (inner.to_header(), &p[outer.slice().len() + inner.slice().len()..]);
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    seen.lock().unwrap().push((outer.to_header(), ip.clone()));
    if ip.protocol != IpNumber::ICMP || ip.is_fragmenting_payload() {
        return;
    }
    let (icmp, payload) = Icmpv4Header::from_slice(l4).unwrap();
    let Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq }) = icmp.icmp_type else { return };
    std::mem::swap(&mut ip.source, &mut ip.destination);
    ip.time_to_live = 60;
    let mut packet = Vec::new();
    ip.write(&mut packet).unwrap();
    Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(IcmpEchoHeader { id, seq }), payload).write(&mut packet).unwrap();
    packet.extend_from_slice(payload);
    send(socket, NODE, &packet);
}

fn start_router(node: &Namespace, own: Site, other: Site) -> Router {
    let spec = RawSpec { node: own.node, queues: 1, interface: "eth0", whole: false };
    let uplink = node.run(|| raw::open(&spec)).unwrap().remove(0);
    Router::start(node, (own, other), Mode::Ipip, Box::new(uplink), MTU)
}

#[test]
fn a_raw_socket_peer_is_understood() {
    let other = Namespace::new("peer");
    let (node, pod) = node_and_pod(second_site(), 1500);
    underlay(&other, &node);
    add_address(&other, first_site());
    add_address(&node, second_site());
    let router = start_router(&node, second_site(), first_site());
    let peer = Peer::start(&other);
    // Don't Fragment and the congestion bits of the inner header show outside.
    for (options, df, tos, ecn) in
        [("-M do", true, 0, 0), ("-M dont", false, 0, 0), ("-M do -Q 0x2a", true, 0x2a, 2), ("-M do -s 1452", true, 0, 0)]
    {
        ping(&pod, &format!("-c 3 {options}"), FAR_POD);
        let seen = peer.take();
        assert_eq!(seen.len(), 3, "{options}");
        for (outer, inner) in seen {
            assert_eq!((outer.source, outer.destination), (ROUTER.octets(), NODE.octets()));
            assert_eq!((outer.protocol, outer.time_to_live, outer.header_checksum), (IpNumber::IPV4, 64, outer.calc_header_checksum()));
            assert_eq!((outer.dont_fragment, outer.dscp.value(), outer.ecn.value()), (df, 0, ecn), "{options}");
            assert_eq!((inner.source, inner.destination), (ROUTER_POD.octets(), FAR_POD.octets()));
            assert_eq!((inner.time_to_live, inner.dont_fragment, inner.dscp.value() << 2 | inner.ecn.value()), (63, df, tos));
        }
    }
    // One byte more than fits: refused with the MTU, or sent in fragments.
    let refused = pod.output(&["ping", "-n", "-c", "1", "-W", "3", "-M", "do", "-s", "1453", &FAR_POD.to_string()]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stdout).contains("mtu = 1480"), "{refused:?}");
    router.expect_drops(DropReason::MtuExceeded, 1);
    let _ = pod.output(&["ping", "-n", "-c", "1", "-W", "0.2", "-M", "dont", "-s", "1453", &FAR_POD.to_string()]);
    let lengths: Vec<_> = peer.take().iter().map(|(_, inner)| (inner.payload_len().unwrap(), inner.more_fragments)).collect();
    assert_eq!(lengths, [(1456, true), (5, false)]);
    only_known_senders(&other, &pod, &router, &peer);
    drop(peer);
    router.stop();
}

fn only_known_senders(other: &Namespace, pod: &Namespace, router: &Router, peer: &Peer) {
    let socket = pod.run(|| UdpSocket::bind((ROUTER_POD, 7000)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let say = |text: &[u8]| {
        let mut p = Vec::new();
        etherparse::PacketBuilder::ipv4(FAR_POD.octets(), ROUTER_POD.octets(), 64).udp(7, 7000).write(&mut p, text).unwrap();
        p
    };
    let stranger = Ipv4Addr::new(10, 0, 0, 77);
    other.sh(&format!("ip addr add {stranger}/24 dev eth0"));
    for n in 1..=5 {
        peer.send(stranger, &say(b"wrong"));
        router.expect_drops(DropReason::TunnelSenderUnknown, n);
    }
    peer.send(NODE, &say(b"right"));
    let mut buf = [0; 16];
    let n = socket.recv(&mut buf).unwrap();
    assert_eq!(&buf[..n], b"right");
}

#[test]
fn two_workers_carry_tcp() {
    const BULK: usize = 20_000_000;
    let (first, second) = (first_site(), second_site());
    let ((node_a, pod_a), (node_b, pod_b)) = (node_and_pod(first, MTU), node_and_pod(second, MTU));
    underlay(&node_a, &node_b);
    add_address(&node_a, first);
    add_address(&node_b, second);
    let (a, b) = (start_router(&node_a, first, second), start_router(&node_b, second, first));
    ping(&pod_a, "-c 3 -M do -s 1452", ROUTER_POD);
    for offloads in [true, false] {
        pod_a.offloads("eth0", offloads);
        pod_b.offloads("eth0", offloads);
        transfer(&pod_a, &pod_b, &format!("{ROUTER_POD}:5001"), BULK);
        transfer(&pod_b, &pod_a, &format!("{POD}:5001"), BULK);
    }
    for router in [a, b] {
        let lost = [DropReason::SegmentFailed, DropReason::TxError, DropReason::TxTooBig, DropReason::RxError, DropReason::MtuExceeded];
        assert!(lost.iter().all(|r| router.dropped(*r) == 0), "{}", router.drops());
        router.stop();
    }
}
