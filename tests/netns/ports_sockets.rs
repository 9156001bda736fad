//! The socket underlays against the kernel's VXLAN device, plain UDP sockets and a raw-socket peer.

use etherparse::{IpHeaders, IpNumber, Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tortie::frame::{Batch, Csum, Frame, FramePool, Gso, GsoKind};
use tortie::port::udp::{self, UdpPort, UdpSpec};
use tortie::port::{Caps, Medium, OpenError, Port, TxReport, mmsg, sys};
use tortie::testing::netns::{Namespace, veth};
use tortie::wire::vxlan::{self, Vni};
use tortie::wire::{Mac, ether, ipv4, l4, put16};

pub const A: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const B: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const MAC_A: Mac = Mac([0x66, 0, 0, 0, 0, 1]);
const MAC_B: Mac = Mac([0x66, 0, 0, 0, 0, 2]);
/// A pod behind the port under test and the address of the kernel's VXLAN device.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 1);
const PREFIX: usize = vxlan::HEADER + ether::HEADER;

/// Two nodes on one wire, the port under test on `a`.
pub fn nodes() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new("sa"), Namespace::new("sb"));
    veth(&a, "eth0", &b, "eth0");
    a.sh(&format!("ip addr add {A}/24 dev eth0"));
    b.sh(&format!("ip addr add {B}/24 dev eth0"));
    (a, b)
}

/// The kernel's VXLAN device on `b` as Calico sets it up, knowing node `a` by permanent entries.
fn kernel_vxlan(b: &Namespace) {
    b.sh(&format!("ip link add vxlan.calico address {MAC_B} type vxlan id 4096 dstport 4789 local {B} dev eth0 nolearning"));
    b.sh(&format!("ip addr add {PEER}/32 dev vxlan.calico && ip link set vxlan.calico mtu 1450 up"));
    b.sh(&format!("ip neigh add 10.244.1.0 lladdr {MAC_A} dev vxlan.calico nud permanent"));
    b.sh(&format!("bridge fdb add {MAC_A} dev vxlan.calico dst {A}"));
    b.sh("ip route add 10.244.1.0/26 via 10.244.1.0 dev vxlan.calico onlink");
}

fn open_udp(ns: &Namespace, queues: u16) -> Result<Vec<UdpPort>, OpenError> {
    ns.run(|| udp::open(&UdpSpec { node: A, port: vxlan::PORT, queues, interface: "eth0", whole: false }))
}

/// A port with its pool; checks on drop of the test's success that no slot is missing.
pub struct Rig<P> {
    pub port: P,
    pub pool: FramePool,
    got: Batch,
}

impl<P: Port> Rig<P> {
    pub fn new(port: P) -> Rig<P> {
        Rig { port, pool: FramePool::new(512, 16).unwrap(), got: Batch::new() }
    }

    pub fn caps(&self) -> &Caps {
        self.port.caps()
    }

    /// The next frame that arrives within five seconds.
    pub fn recv(&mut self) -> Frame {
        self.recv_within(Duration::from_secs(5)).expect("a frame within five seconds")
    }

    pub fn recv_within(&mut self, limit: Duration) -> Option<Frame> {
        let until = Instant::now() + limit;
        while self.got.is_empty() {
            self.port.rx_burst(&mut self.pool, &mut self.got).unwrap();
            if Instant::now() > until {
                return None;
            }
            if self.got.is_empty() {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        self.got.drain_front(1).next()
    }

    /// The bytes of the next frame.
    pub fn recv_bytes(&mut self) -> Vec<u8> {
        let f = self.recv();
        let bytes = self.pool.data(&f).to_vec();
        self.pool.give(f);
        bytes
    }

    pub fn frame(&mut self, bytes: &[u8], hash: u32) -> Frame {
        let mut f = self.pool.take_for(bytes.len()).unwrap();
        self.pool.room_mut(&f)[..bytes.len()].copy_from_slice(bytes);
        self.pool.set_len(&mut f, bytes.len());
        f.peer = IpAddr::V4(B);
        f.hash = hash;
        f
    }

    pub fn send(&mut self, out: &mut Batch) -> TxReport {
        self.port.tx_burst(&mut self.pool, out).unwrap()
    }

    pub fn send_one(&mut self, f: Frame) -> TxReport {
        let mut out = Batch::new();
        out.push(f);
        let report = self.send(&mut out);
        assert!(out.is_empty());
        report
    }

    pub fn close(mut self) {
        self.pool.give_all(&mut self.got);
        self.port.release(&mut self.pool);
        assert!(self.pool.is_full(), "slots missing: {:?} of {:?}", self.pool.free(), self.pool.size());
        assert!(self.port.rx_burst(&mut self.pool, &mut self.got).is_err());
    }
}

pub fn sent(n: u32) -> TxReport {
    TxReport { sent: n, ..TxReport::default() }
}

/// VXLAN and inner Ethernet header towards node `b`, and the packet.
pub fn tunnelled(packet: &[u8]) -> Vec<u8> {
    let mut f = vec![0; PREFIX];
    vxlan::write(&mut f, Vni::CALICO);
    ether::write(&mut f[vxlan::HEADER..], MAC_B, MAC_A, ether::TYPE_IPV4);
    f.extend_from_slice(packet);
    f
}

pub fn data(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + (i >> 8)) as u8).collect()
}

pub fn udp_packet(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ipv4(POD.octets(), PEER.octets(), 64).udp(4000, 7000).write(&mut out, payload).unwrap();
    out
}

pub fn tcp_packet(payload: &[u8]) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, POD.octets(), PEER.octets()).unwrap();
    ip.identification = 500;
    let mut tcp = TcpHeader::new(4000, 5001, 1000, 4096);
    (tcp.ack, tcp.psh, tcp.fin) = (true, true, true);
    let mut out = Vec::new();
    PacketBuilder::ip(IpHeaders::Ipv4(ip, Default::default())).tcp_header(tcp).write(&mut out, payload).unwrap();
    out
}

/// A plain UDP socket in place of node `b`'s VXLAN.
fn plain_receiver(b: &Namespace) -> UdpSocket {
    let s = b.run(|| UdpSocket::bind((B, vxlan::PORT)).unwrap());
    s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    mmsg::set_buffer(&s, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, 32 << 20).unwrap();
    s
}

fn recv_from(s: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buf = vec![0; 65_536];
    let (n, from) = s.recv_from(&mut buf).unwrap();
    buf.truncate(n);
    (buf, from)
}

/// A socket that sees every IPv4 packet of protocol UDP with its header, for looking at the outer header.
fn outer_view(b: &Namespace) -> OwnedFd {
    b.run(|| sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP).unwrap())
}

pub fn view_next(view: &OwnedFd) -> Vec<u8> {
    let mut table = mmsg::RecvTable::new(1);
    let until = Instant::now() + Duration::from_secs(5);
    while table.waiting() == 0 {
        table.fill(std::os::fd::AsFd::as_fd(view), 1).unwrap();
        assert!(Instant::now() < until, "no packet seen");
        std::thread::sleep(Duration::from_micros(200));
    }
    table.front().unwrap().bytes.to_vec()
}

#[test]
fn udp_port_answers_a_ping_of_the_kernels_vxlan() {
    let (a, b) = nodes();
    kernel_vxlan(&b);
    let mut rig = Rig::new(open_udp(&a, 1).unwrap().remove(0));
    assert_eq!((rig.caps().medium, rig.caps().mtu, rig.caps().driver), (Medium::VxlanUdp, 1500, "udp"));
    let mut ping = b.spawn(&["ping", "-c", "1", "-W", "4", "-I", &PEER.to_string(), &POD.to_string()]);
    let f = rig.recv();
    assert_eq!((f.peer, f.csum, f.gso, f.outer_tos), (IpAddr::V4(B), Csum::MayBePartial, None, 0));
    let bytes = rig.pool.data(&f).to_vec();
    rig.pool.give(f);
    assert_eq!(vxlan::parse(&bytes), Ok(Vni::CALICO));
    assert_eq!((Mac::read(&bytes, 8), Mac::read(&bytes, 14)), (MAC_A, MAC_B));
    let inner = SlicedPacket::from_ethernet(&bytes[vxlan::HEADER..]).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &inner.net else { panic!("no IPv4: {inner:?}") };
    assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (PEER, POD));
    let Some(TransportSlice::Icmpv4(icmp)) = &inner.transport else { panic!("no ICMP: {inner:?}") };
    let etherparse::Icmpv4Type::EchoRequest(echo) = icmp.icmp_type() else { panic!("no echo: {icmp:?}") };
    let mut reply = Vec::new();
    PacketBuilder::ipv4(POD.octets(), PEER.octets(), 63).icmpv4_echo_reply(echo.id, echo.seq).write(&mut reply, icmp.payload()).unwrap();
    let f = rig.frame(&tunnelled(&reply), 77);
    assert_eq!(rig.send_one(f), sent(1));
    assert_eq!(ping.wait(Duration::from_secs(5)), Some(true));
    rig.close();
}

#[test]
fn udp_batches_arrive_as_separate_datagrams_from_ports_in_range() {
    let (a, b) = nodes();
    let rx = plain_receiver(&b);
    let mut rig = Rig::new(open_udp(&a, 1).unwrap().remove(0));
    // One flow: 40 equal frames, a shorter one, and longer ones again.
    let lengths: Vec<usize> = (0..60)
        .map(|i| {
            if i < 40 {
                900
            } else if i == 40 {
                500
            } else {
                901
            }
        })
        .collect();
    let mut out = Batch::new();
    let frames: Vec<_> = lengths.iter().map(|n| tunnelled(&udp_packet(&data(*n)))).collect();
    for f in &frames {
        let f = rig.frame(f, 5);
        out.push(f);
    }
    assert_eq!(rig.send(&mut out), sent(60));
    let mut ports = HashSet::new();
    for f in &frames {
        let (bytes, from) = recv_from(&rx);
        assert!(bytes == *f, "datagram of {} bytes", bytes.len());
        ports.insert(from.port());
    }
    assert_eq!(ports.len(), 1, "one flow, one source port");
    // Many flows interleaved: order within each is kept, ports differ and lie in their shares.
    for i in 0..64u32 {
        let f = rig.frame(&tunnelled(&udp_packet(&i.to_be_bytes())), (i % 16) << 28);
        out.push(f);
    }
    assert_eq!(rig.send(&mut out), sent(64));
    let mut last = std::collections::HashMap::new();
    for _ in 0..64 {
        let (bytes, from) = recv_from(&rx);
        let i = u32::from_be_bytes(bytes[bytes.len() - 4..].try_into().unwrap());
        assert!((32_768..=60_999).contains(&from.port()));
        assert_eq!(u32::from(from.port() - 32_768) / (28_232 / 16), i % 16);
        assert!(last.insert(from.port(), i).is_none_or(|before| before < i));
    }
    assert_eq!(last.len(), udp::SOURCES);
    // Nothing that is sent to a sending socket is received or answered by it.
    let to = *last.keys().next().unwrap();
    rx.send_to(b"stray", (A, to)).unwrap();
    assert!(rig.recv_within(Duration::from_millis(50)).is_none());
    rig.close();
}

#[test]
fn udp_outer_header_and_tos_both_ways() {
    let (a, b) = nodes();
    let rx = plain_receiver(&b);
    let view = outer_view(&b);
    let mut rig = Rig::new(open_udp(&a, 1).unwrap().remove(0));
    for tos in [0u8, 1, 2, 3, 0xb8] {
        let mut f = rig.frame(&tunnelled(&udp_packet(b"x")), 9);
        f.outer_tos = tos;
        assert_eq!(rig.send_one(f), sent(1));
        let p = view_next(&view);
        assert_eq!(ipv4::validate(&p), Ok(p.len()));
        assert_eq!((ipv4::tos(&p), ipv4::ttl(&p), ipv4::frag_word(&p)), (tos, 64, 0), "TOS, TTL, DF and fragment bits");
        recv_from(&rx);
        sys::setsockopt(&rx, libc::IPPROTO_IP, libc::IP_TOS, &i32::from(tos)).unwrap();
        rx.send_to(&tunnelled(&udp_packet(b"y")), (A, vxlan::PORT)).unwrap();
        let f = rig.recv();
        assert_eq!(f.outer_tos, tos);
        rig.pool.give(f);
    }
    // What fits leaves whole and unfragmented, one byte more is refused and counted, also within a batch.
    let mut out = Batch::new();
    for len in [1472, 1473, 1472] {
        let f = rig.frame(&vec![8; len], 9);
        out.push(f);
    }
    assert_eq!(rig.send(&mut out), TxReport { sent: 2, errors: 0, too_big: 1 });
    for _ in 0..2 {
        let p = view_next(&view);
        assert_eq!((p.len(), ipv4::frag_word(&p)), (1500, 0));
    }
    // Two that are too long join to one message, which is taken apart again.
    for len in [1600, 1600, 1500] {
        let f = rig.frame(&vec![8; len], 9);
        out.push(f);
    }
    assert_eq!(rig.send(&mut out), TxReport { sent: 0, errors: 0, too_big: 3 });
    // No route, and an address family that the port does not speak.
    let mut f = rig.frame(&[8; 100], 9);
    f.peer = "198.51.100.1".parse().unwrap();
    out.push(f);
    let mut f = rig.frame(&[8; 100], 9);
    f.peer = "2001:db8::1".parse().unwrap();
    out.push(f);
    let f = rig.frame(&[8; 100], 9);
    out.push(f);
    assert_eq!(rig.send(&mut out), TxReport { sent: 1, errors: 2, too_big: 0 });
    rig.close();
}

#[test]
fn udp_port_in_use_is_named_with_the_remedy() {
    let (a, _b) = nodes();
    a.sh(&format!("ip link add vx0 type vxlan id 7 dstport 4789 local {A} dev eth0 && ip link set vx0 up"));
    for queues in [1, 2] {
        let e = open_udp(&a, queues).err().expect("the port is taken");
        assert_eq!(e.errno(), Some(libc::EADDRINUSE));
        let text = e.to_string();
        assert!(text.contains("10.9.0.1:4789") && text.contains("type vxlan") && text.contains("remove it"), "{text}");
    }
    a.sh("ip link del vx0");
    let first = open_udp(&a, 2).unwrap();
    // Not even a second process that shares ports gets in.
    assert_eq!(open_udp(&a, 2).err().and_then(|e| e.errno()), Some(libc::EADDRINUSE));
    drop(first);
    // Programs that other tests start hold copies of all descriptors for a moment, between fork and exec.
    let until = Instant::now() + Duration::from_secs(5);
    while open_udp(&a, 2).is_err() {
        assert!(Instant::now() < until, "the port stays taken");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks that the datagrams received are the segments of a packet with `payload`: valid, in order, complete.
fn check_segments(rx: &UdpSocket, payload: &[u8], size: usize) {
    for (i, chunk) in payload.chunks(size).enumerate() {
        let (bytes, _) = recv_from(rx);
        assert_eq!(bytes[..PREFIX], tunnelled(&[])[..]);
        let p = &bytes[PREFIX..];
        assert_eq!(ipv4::validate(p), Ok(p.len()));
        assert!(l4::verify(p, p.len()), "checksum of segment {i}");
        let parsed = SlicedPacket::from_ip(p).unwrap();
        match parsed.transport.unwrap() {
            TransportSlice::Tcp(t) => {
                let last = (i + 1) * size >= payload.len();
                assert_eq!((t.sequence_number(), t.psh(), t.fin()), (1000 + (i * size) as u32, last, last));
                assert_eq!(ipv4::id(p), 500 + i as u16);
                assert!(t.payload() == chunk, "payload of segment {i}");
            }
            TransportSlice::Udp(u) => assert!(u.payload() == chunk, "payload of segment {i}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn udp_super_frames_leave_as_valid_segments() {
    let (a, b) = nodes();
    let rx = plain_receiver(&b);
    let mut rig = Rig::new(open_udp(&a, 1).unwrap().remove(0));
    let payload = data(60_000);
    let mut tcp = tcp_packet(&payload);
    put16(&mut tcp, 36, 0xbad); // an unfinished checksum
    let udp = udp_packet(&payload);
    let cases = [(&tcp, GsoKind::Tcp4, 1398), (&udp, GsoKind::Udp, 1410), (&tcp, GsoKind::Tcp4, 500), (&tcp, GsoKind::Tcp4, 100)];
    for (packet, kind, size) in cases {
        let mut f = rig.frame(&tunnelled(packet), 3);
        f.gso = Some(Gso { kind, size });
        f.csum = Csum::Partial { start: f.head() + PREFIX as u32 + 20, offset: 16 };
        assert_eq!(rig.send_one(f), sent(1));
        check_segments(&rx, &payload, usize::from(size));
    }
    // Between ordinary frames of the same flow, in order; one that cannot be segmented does not hold them up.
    let small = tunnelled(&udp_packet(b"small"));
    let mut out = Batch::new();
    for i in 0..4 {
        let mut f = if i % 2 == 0 { rig.frame(&small, 3) } else { rig.frame(&tunnelled(&tcp), 3) };
        f.gso = (i % 2 == 1).then_some(Gso { kind: if i == 1 { GsoKind::Tcp4 } else { GsoKind::Udp }, size: 1398 });
        out.push(f);
    }
    assert_eq!(rig.send(&mut out), TxReport { sent: 3, errors: 1, too_big: 0 });
    assert!(recv_from(&rx).0 == small);
    check_segments(&rx, &payload, 1398);
    assert!(recv_from(&rx).0 == small);
    rig.close();
}

#[test]
fn udp_a_full_socket_keeps_frames_and_goes_on_where_it_stopped() {
    let (a, b) = nodes();
    let rx = plain_receiver(&b);
    mmsg::set_buffer(&rx, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, 256 << 20).unwrap();
    let mut rig = Rig::new(open_udp(&a, 1).unwrap().remove(0));
    // Packets for a neighbour that does not answer yet wait charged to the socket, until it is full.
    b.sh("ip link set eth0 arp off");
    a.sh("ip neigh flush dev eth0");
    a.sysctl("net.ipv4.neigh.eth0.unres_qlen_bytes", "268435456");
    a.sysctl("net.ipv4.neigh.eth0.mcast_solicit", "60");
    // Ten messages each, so that the socket fills up in the middle of one.
    let payload = data(60_000);
    let packet = tunnelled(&tcp_packet(&payload));
    let mut out = Batch::new();
    let (mut frames, mut report) = (0, TxReport::default());
    while out.is_empty() {
        for _ in 0..10 {
            let mut f = rig.frame(&packet, 3);
            f.gso = Some(Gso { kind: GsoKind::Tcp4, size: 100 });
            out.push(f);
        }
        frames += 10;
        report.sent += rig.send(&mut out).sent;
        assert!(frames < 1000, "the socket never got full");
    }
    assert_eq!(rig.send(&mut out), TxReport::default());
    assert_eq!(report.sent as usize + out.len(), frames);
    let mac = b.sh("cat /sys/class/net/eth0/address");
    a.sh(&format!("ip neigh replace {B} lladdr {} dev eth0 nud permanent", mac.trim()));
    let until = Instant::now() + Duration::from_secs(5);
    while !out.is_empty() {
        report.sent += rig.send(&mut out).sent;
        assert!(Instant::now() < until);
    }
    assert_eq!(report.sent as usize, frames);
    for _ in 0..frames {
        check_segments(&rx, &payload, 100);
    }
    rx.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(rx.recv(&mut [0; 10]).is_err(), "a segment was sent twice");
    rig.close();
}

#[test]
fn udp_receives_joined_datagrams_and_keeps_what_finds_no_slot() {
    let (a, b) = nodes();
    let tx = plain_receiver(&b);
    let mut port = open_udp(&a, 1).unwrap().remove(0);
    let frames: Vec<Vec<u8>> = (0..100u32).map(|i| tunnelled(&udp_packet(&[&i.to_be_bytes()[..], &data(700)].concat()))).collect();
    sys::setsockopt(&tx, libc::SOL_UDP, mmsg::UDP_SEGMENT, &(frames[0].len() as i32)).unwrap();
    tx.send_to(&frames[..50].concat(), (A, vxlan::PORT)).unwrap();
    tx.send_to(&frames[50..].concat(), (A, vxlan::PORT)).unwrap();
    // What is joined comes in the big slot and leaves in small ones.
    let mut pool = FramePool::new(7, 1).unwrap();
    let mut got = Batch::with_capacity(5);
    let (mut seen, until) = (0, Instant::now() + Duration::from_secs(5));
    while seen < 100 {
        port.rx_burst(&mut pool, &mut got).unwrap();
        assert!(Instant::now() < until, "only {seen} came");
        assert!(got.len() <= 5);
        // While frames are held back the descriptor says so.
        if seen > 0 && seen + got.len() < 100 {
            let mut p = libc::pollfd { fd: std::os::fd::AsRawFd::as_raw_fd(&port.wait_fd().unwrap()), events: libc::POLLIN, revents: 0 };
            // SAFETY: one live pollfd.
            assert_eq!(unsafe { libc::poll(&mut p, 1, 0) }, 1);
        }
        for f in got.as_slice() {
            assert!(pool.data(f) == frames[seen], "frame {seen}");
            seen += 1;
        }
        pool.give_all(&mut got);
    }
    // An empty pool takes nothing, and nothing is lost.
    let held: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    sys::setsockopt(&tx, libc::SOL_UDP, mmsg::UDP_SEGMENT, &0i32).unwrap();
    tx.send_to(&[], (A, vxlan::PORT)).unwrap();
    tx.send_to(&frames[0], (A, vxlan::PORT)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    port.rx_burst(&mut pool, &mut got).unwrap();
    assert!(got.is_empty());
    held.into_iter().for_each(|f| pool.give(f));
    port.rx_burst(&mut pool, &mut got).unwrap();
    assert_eq!(got.as_slice().iter().map(Frame::len).collect::<Vec<_>>(), [0, frames[0].len()]);
    pool.give_all(&mut got);
    port.release(&mut pool);
    assert!(pool.is_full());
}

#[test]
fn udp_queues_share_the_port_by_flow() {
    let (a, b) = nodes();
    let mut rigs: Vec<_> = open_udp(&a, 2).unwrap().into_iter().map(Rig::new).collect();
    assert_eq!(rigs.iter().map(|r| r.caps().queue).collect::<Vec<_>>(), [0, 1]);
    let packet = tunnelled(&udp_packet(b"flow"));
    for _ in 0..64 {
        b.run(|| UdpSocket::bind((B, 0)).unwrap().send_to(&packet, (A, vxlan::PORT)).unwrap());
    }
    let counts: Vec<usize> =
        rigs.iter_mut().map(|r| std::iter::from_fn(|| r.recv_within(Duration::from_millis(100)).map(|f| r.pool.give(f))).count()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 64);
    assert!(counts.iter().all(|n| *n > 10), "{counts:?}");
    rigs.into_iter().for_each(Rig::close);
}

/// A kernel node sends its stack's super-frames over a veth as one datagram each: a TCP stream and UDP segments
/// from a socket behind the kernel's VXLAN device come whole.
#[test]
fn udp_super_frames_of_the_kernels_vxlan_arrive_whole() {
    let (a, b) = nodes();
    kernel_vxlan(&b);
    let mut rig = Rig::new(open_udp(&a, 1).unwrap().remove(0));
    let payload = data(30_000);
    let s = b.run(|| UdpSocket::bind((PEER, 6000)).unwrap());
    sys::setsockopt(&s, libc::SOL_UDP, mmsg::UDP_SEGMENT, &1000i32).unwrap();
    s.send_to(&payload, (POD, 6000)).unwrap();
    let f = rig.recv();
    assert_eq!((f.len(), f.gso), (PREFIX + 28 + 30_000, Some(Gso { kind: GsoKind::Udp, size: 1000 })));
    assert_eq!(f.csum, Csum::MayBePartial);
    let p = &rig.pool.data(&f)[PREFIX..];
    assert!(p[28..] == payload && ipv4::total_len(p) == p.len());
    assert!(l4::unfinished(p, p.len()).is_some() || l4::verify(p, p.len()));
    rig.pool.give(f);
    rig.close();
}

/// A real TCP stream through two kernels' stacks: here a VXLAN device on each side, with the port in the middle
/// copying what it gets from one kernel node to the other.
#[test]
fn udp_tcp_stream_from_one_kernel_vxlan_to_another_through_the_port() {
    let (a, b) = nodes();
    let c = Namespace::new("sc");
    veth(&a, "eth1", &c, "eth0");
    let (a2, c_ip) = (Ipv4Addr::new(10, 9, 1, 1), Ipv4Addr::new(10, 9, 1, 2));
    a.sh(&format!("ip addr add {a2}/24 dev eth1"));
    c.sh(&format!("ip addr add {c_ip}/24 dev eth0"));
    kernel_vxlan(&b);
    // `c` is the node of POD, with `a` as its only peer.
    c.sh(&format!("ip link add vxlan.calico address {MAC_A} type vxlan id 4096 dstport 4789 local {c_ip} dev eth0 nolearning"));
    c.sh(&format!("ip addr add {POD}/32 dev vxlan.calico && ip link set vxlan.calico mtu 1450 up"));
    c.sh(&format!("ip neigh add 10.244.2.0 lladdr {MAC_B} dev vxlan.calico nud permanent"));
    c.sh(&format!("bridge fdb add {MAC_B} dev vxlan.calico dst {a2}"));
    c.sh("ip route add 10.244.2.0/26 via 10.244.2.0 dev vxlan.calico onlink");
    let mut rig_b = Rig::new(open_udp(&a, 1).unwrap().remove(0));
    let spec = UdpSpec { node: a2, port: vxlan::PORT, queues: 1, interface: "eth1", whole: false };
    let mut rig_c = Rig::new(a.run(|| udp::open(&spec)).unwrap().remove(0));
    const BYTES: usize = 8 << 20;
    let listener = c.run(|| TcpListener::bind((POD, 5001)).unwrap());
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all
    });
    let writer = std::thread::spawn({
        let connect = b.path().to_owned();
        move || sys::in_netns(&connect, || TcpStream::connect((POD, 5001)).unwrap().write_all(&data(BYTES)).unwrap()).unwrap()
    });
    let until = Instant::now() + Duration::from_secs(20);
    let mut longest = 0;
    while !reader.is_finished() && Instant::now() < until {
        longest = longest.max(pass(&mut rig_b, &mut rig_c, c_ip));
        pass(&mut rig_c, &mut rig_b, B);
    }
    assert!(reader.is_finished(), "the stream did not come through");
    writer.join().unwrap();
    assert!(reader.join().unwrap() == data(BYTES));
    assert!(longest > 10_000, "super-frames came in pieces of at most {longest} bytes");
    rig_b.close();
    rig_c.close();
}

/// Copies a burst from one port to the other as a forwarder would: checksums finished, super-frames marked.
fn pass(from: &mut Rig<UdpPort>, to: &mut Rig<UdpPort>, peer: Ipv4Addr) -> usize {
    from.port.rx_burst(&mut from.pool, &mut from.got).unwrap();
    let (mut longest, mut out) = (0, Batch::new());
    for f in from.got.drain() {
        let mut bytes = from.pool.data(&f).to_vec();
        from.pool.give(f);
        let p = &mut bytes[PREFIX..];
        let total = p.len();
        longest = longest.max(total);
        if let Some((start, offset)) = l4::unfinished(p, total) {
            l4::finish(p, total, start, offset);
        }
        let size = 1450 - 20 - (p[32] >> 4) as u16 * 4;
        let Some(mut g) = to.pool.take_for(bytes.len()) else { continue };
        to.pool.room_mut(&g)[..bytes.len()].copy_from_slice(&bytes);
        to.pool.set_len(&mut g, bytes.len());
        g.peer = IpAddr::V4(peer);
        g.gso = (total > 1450).then_some(Gso { kind: GsoKind::Tcp4, size });
        out.push(g);
    }
    let until = Instant::now() + Duration::from_secs(1);
    while !out.is_empty() && Instant::now() < until {
        to.send(&mut out);
    }
    to.pool.give_all(&mut out);
    longest
}
