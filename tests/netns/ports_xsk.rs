//! AF_XDP ports on veth pairs, in the driver (native) and in the stack (generic).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use tortie::arp;
use tortie::frame::{Batch, Csum, FramePool, HEADROOM};
use tortie::port::sys::{self, Link};
use tortie::port::xsk::{self, RingSizes, Steering, XskMode, XskPort, XskSpec, ZeroCopy};
use tortie::port::{OpenError, Port};
use tortie::testing::netns::{Namespace, veth};
use tortie::wire::vxlan::{self, Vni};
use tortie::wire::{Mac, be16, ether, ipv4, l4, put16};

const LIMIT: Duration = Duration::from_secs(30);
const MODES: [(XskMode, &str); 2] = [(XskMode::Native, "af-xdp-native"), (XskMode::Generic, "af-xdp-generic")];

fn spec(interface: &str, mode: XskMode) -> XskSpec<'_> {
    XskSpec { interface, steering: Steering::All, mode, umems: &[], zero_copy: ZeroCopy::Try, busy_poll: 0, rings: RingSizes::WORKLOAD }
}

/// A pool and one port on an interface of the namespace.
fn open(ns: &Namespace, spec: XskSpec<'_>) -> (FramePool, XskPort) {
    ns.run(|| {
        let pool = FramePool::new(2048, 16).unwrap();
        let umems = [pool.umem()];
        let spec = XskSpec { umems: &umems, ..spec };
        let mut ports = xsk::open(&spec).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ports.len(), 1);
        (pool, ports.remove(0))
    })
}

/// Two namespaces joined by a veth pair: `h0` in the first, `eth0` in the second.
fn pair() -> (Namespace, Namespace) {
    let (host, pod) = (Namespace::new("xh"), Namespace::new("xp"));
    veth(&host, "h0", &pod, "eth0");
    (host, pod)
}

fn mac(ns: &Namespace, dev: &str) -> Mac {
    ns.run(|| Link::new(dev).unwrap().hardware().unwrap().1)
}

/// Whether a program is attached. After a drop it may be, for a moment: what other tests fork holds copies of the
/// descriptors until it execs, and the kernel frees links and queues later.
fn has_xdp(ns: &Namespace, dev: &str) -> bool {
    ns.sh(&format!("ip -d link show {dev}")).contains("xdp")
}

/// Polls `step` until it says true. Panics with `what` when it takes too long.
fn until(what: &str, mut step: impl FnMut() -> bool) {
    let start = Instant::now();
    while !step() {
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn finish(pool: &mut FramePool, port: &mut impl Port) {
    port.release(pool);
    assert!(pool.is_full(), "slots missing: {:?} of {:?}", pool.free(), pool.size());
}

/// Answers ARP for any address and ICMP echo, editing the frames where they are: the Ethernet header is taken
/// off and put on again. Returns the longest frame seen and how many lay in big slots.
fn responder(pool: &mut FramePool, port: &mut XskPort, end: impl Fn() -> bool) -> (usize, usize) {
    let our = Mac([2, 0, 0, 0, 0, 9]);
    let (mut rx, mut tx) = (Batch::new(), Batch::new());
    let (mut longest, mut big) = (0, 0);
    while !end() {
        port.rx_burst(pool, &mut rx).unwrap();
        for mut f in rx.drain() {
            assert_eq!(f.csum, Csum::MayBePartial);
            longest = longest.max(f.len());
            big += usize::from(!pool.in_umem(&f));
            let data = pool.data_mut(&f);
            if let Ok(request) = arp::parse(data) {
                arp::answer(data, &request, our);
                tx.push(f);
                continue;
            }
            let from = Mac::read(data, 6);
            f.pull(ether::HEADER);
            let p = pool.data_mut(&f);
            if p.len() < 28 || p[0] != 0x45 || p[9] != ipv4::PROTO_ICMP || p[20] != 8 {
                pool.give(f);
                continue;
            }
            let (src, dst) = (ipv4::src(p), ipv4::dst(p));
            p[12..16].copy_from_slice(&dst.to_be_bytes());
            p[16..20].copy_from_slice(&src.to_be_bytes());
            p[20] = 0;
            // RFC 1624: the type went from 8 to 0.
            let sum = u32::from(be16(p, 22)) + 0x0800;
            put16(p, 22, (sum + (sum >> 16)) as u16);
            ether::write(pool.push(&mut f, ether::HEADER), from, our, ether::TYPE_IPV4);
            tx.push(f);
        }
        if !tx.is_empty() {
            port.tx_burst(pool, &mut tx).unwrap();
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    assert!(tx.is_empty());
    (longest, big)
}

/// Pings through the responder; returns what it saw.
fn ping(pod: &Namespace, pool: &mut FramePool, port: &mut XskPort, args: &str) -> (usize, usize) {
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let out = pod.output(&["sh", "-c", &format!("ping -q -i 0.05 -W 3 {args} 10.9.0.1")]);
            done.store(true, std::sync::atomic::Ordering::Release);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(text.contains(" 0% packet loss"), "ping {args}: {text}{}", String::from_utf8_lossy(&out.stderr));
        });
        responder(pool, port, || done.load(std::sync::atomic::Ordering::Acquire))
    })
}

#[test]
fn pings_are_answered_in_place() {
    for (mode, driver) in MODES {
        let (host, pod) = pair();
        pod.sh("ip addr add 10.9.0.2/24 dev eth0");
        let (mut pool, mut port) = open(&host, spec("h0", mode));
        assert_eq!((port.caps().driver, port.caps().mtu, port.refusal()), (driver, 1500, None));
        assert!(port.wait_fd().is_some());
        let (longest, big) = ping(&pod, &mut pool, &mut port, "-c 20");
        assert_eq!((longest, big), (98, 0), "{driver}");
        ping(&pod, &mut pool, &mut port, "-c 3 -s 1472 -M do");
        assert!(has_xdp(&host, "h0"));
        finish(&mut pool, &mut port);
        until("the program is gone", || !has_xdp(&host, "h0"));
    }
}

#[test]
fn jumbo_frames_arrive_in_big_slots_and_leave_in_pieces() {
    for (mode, driver) in MODES {
        let (host, pod) = pair();
        host.sh("ip link set h0 mtu 9000");
        pod.sh("ip link set eth0 mtu 9000; ip addr add 10.9.0.2/24 dev eth0");
        let (mut pool, mut port) = open(&host, spec("h0", mode));
        assert_eq!(port.caps().mtu, 9000);
        let (longest, big) = ping(&pod, &mut pool, &mut port, "-c 5 -s 8972 -M do");
        assert_eq!((longest, big), (9014, 5), "{driver}");
        ping(&pod, &mut pool, &mut port, "-c 5 -s 3798");
        ping(&pod, &mut pool, &mut port, "-c 5 -s 3799");
        finish(&mut pool, &mut port);
    }
}

/// A frame of `len` bytes from one veth end to the other that carries a number.
fn numbered(pool: &mut FramePool, out: &mut Batch, n: u32, len: usize) {
    let mut f = pool.take().unwrap();
    let b = &mut pool.room_mut(&f)[..len];
    b.fill(0);
    ether::write(b, Mac::BROADCAST, Mac([2, 0, 0, 0, 0, 1]), 0x88b5);
    b[14..18].copy_from_slice(&n.to_be_bytes());
    pool.set_len(&mut f, len);
    out.push(f);
}

#[test]
fn frames_move_between_two_ports_of_one_pool_without_a_copy() {
    const FRAMES: u32 = 10_000;
    for (mode, driver) in MODES {
        let (a, host, b) = (Namespace::new("xa"), Namespace::new("xh"), Namespace::new("xb"));
        veth(&host, "ha", &a, "eth0");
        veth(&host, "hb", &b, "eth0");
        let (mut a_pool, mut a_port) = open(&a, spec("eth0", mode));
        let (mut b_pool, mut b_port) = open(&b, spec("eth0", mode));
        let (mut pool, mut ha, mut hb) = host.run(|| {
            let pool = FramePool::new(2048, 2).unwrap();
            let umems = [pool.umem()];
            let port = |interface| xsk::open(&XskSpec { umems: &umems, ..spec(interface, mode) }).unwrap().remove(0);
            let (ha, hb) = (port("ha"), port("hb"));
            (pool, ha, hb)
        });
        let (mut sent, mut received) = (0, 0);
        let (mut out, mut way, mut back) = (Batch::new(), Batch::new(), Batch::new());
        let mut slots = std::collections::HashSet::new();
        // The first burst gives the kernel slots to receive into.
        ha.rx_burst(&mut pool, &mut way).unwrap();
        b_port.rx_burst(&mut b_pool, &mut back).unwrap();
        until("frames got lost", || {
            while sent < FRAMES && sent - received < 128 && out.room() > 0 {
                numbered(&mut a_pool, &mut out, sent, 60 + sent as usize % 1400);
                sent += 1;
            }
            a_port.tx_burst(&mut a_pool, &mut out).unwrap();
            a_port.rx_burst(&mut a_pool, &mut Batch::new()).unwrap();
            ha.rx_burst(&mut pool, &mut way).unwrap();
            for f in way.as_slice() {
                // What leaves by `hb` is the slot that the kernel filled for `ha`: there is no other to copy to.
                assert!(pool.in_umem(f) && f.head() as usize == HEADROOM);
                slots.insert(f.slot());
            }
            let before = pool.free();
            let report = hb.tx_burst(&mut pool, &mut way).unwrap();
            assert!(report.errors + report.too_big == 0 && pool.free() >= before, "a slot was taken for sending");
            b_port.rx_burst(&mut b_pool, &mut back).unwrap();
            for f in back.drain() {
                let d = b_pool.data(&f);
                let n = u32::from_be_bytes([d[14], d[15], d[16], d[17]]);
                assert_eq!((n, d.len()), (received, 60 + received as usize % 1400), "{driver}");
                received += 1;
                b_pool.give(f);
            }
            received == FRAMES
        });
        assert!(slots.len() > 100, "slots go round");
        finish(&mut a_pool, &mut a_port);
        finish(&mut b_pool, &mut b_port);
        // Both hold slots of one pool; closed in the order of opening.
        ha.release(&mut pool);
        finish(&mut pool, &mut hb);
    }
}

/// Ethernet and IPv4 to the node around `payload`.
fn to_node(pool: &mut FramePool, out: &mut Batch, macs: (Mac, Mac), protocol: u8, payload: &[u8]) {
    let mut f = pool.take().unwrap();
    let b = &mut pool.room_mut(&f)[..34 + payload.len()];
    b[..34].fill(0);
    ether::write(b, macs.0, macs.1, ether::TYPE_IPV4);
    b[14] = 0x45;
    put16(b, 16, 20 + payload.len() as u16);
    (b[22], b[23]) = (64, protocol);
    b[26..34].copy_from_slice(&[10, 9, 0, 2, 10, 9, 0, 1]);
    ipv4::write_checksum(&mut b[14..34]);
    b[34..].copy_from_slice(payload);
    pool.set_len(&mut f, 34 + payload.len());
    out.push(f);
}

fn vxlan_payload(vni: Vni, mark: u8) -> Vec<u8> {
    let mut b = vec![mark; 8 + 60];
    vxlan::write(&mut b, vni);
    b
}

#[test]
fn the_tunnel_program_leaves_the_node_on_the_network() {
    for (mode, driver) in MODES {
        let (node, peer) = pair();
        node.sh("ip addr add 10.9.0.1/24 dev h0");
        peer.sh("ip addr add 10.9.0.2/24 dev eth0");
        let steering = Steering::Tunnel { node: Ipv4Addr::new(10, 9, 0, 1), port: 4789, vni: Vni::CALICO };
        let (mut pool, mut port) = open(&node, XskSpec { steering, ..spec("h0", mode) });
        let mut got = Batch::with_capacity(256);
        port.rx_burst(&mut pool, &mut got).unwrap();

        // The node's own traffic.
        assert!(peer.output(&["ping", "-q", "-c", "3", "-i", "0.05", "-W", "2", "10.9.0.1"]).status.success(), "{driver}");
        let listener = node.run(|| TcpListener::bind("10.9.0.1:2222").unwrap());
        let mut client = peer.run(|| TcpStream::connect_timeout(&"10.9.0.1:2222".parse().unwrap(), LIMIT).unwrap());
        let mut server = listener.accept().unwrap().0;
        client.set_write_timeout(Some(LIMIT)).unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        let sender = std::thread::spawn(move || client.write_all(&[7; 200_000]));
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!(bytes.len(), 200_000);

        // VXLAN of another system on the same port reaches its socket; ours does not.
        let kernel = node.run(|| UdpSocket::bind("0.0.0.0:4789").unwrap());
        kernel.set_read_timeout(Some(LIMIT)).unwrap();
        let remote = peer.run(|| UdpSocket::bind("10.9.0.2:0").unwrap());
        let mut buf = [0; 128];
        for mark in 0..10 {
            remote.send_to(&vxlan_payload(Vni::CALICO, mark), "10.9.0.1:4789").unwrap();
            remote.send_to(&vxlan_payload(Vni::new(77).unwrap(), mark), "10.9.0.1:4789").unwrap();
            assert_eq!(kernel.recv(&mut buf).unwrap(), 68);
            assert_eq!((vxlan::parse(&buf).unwrap().get(), buf[67]), (77, mark), "{driver}");
        }
        until("our VXLAN frames", || {
            port.rx_burst(&mut pool, &mut got).unwrap();
            got.len() >= 10
        });
        for (mark, f) in got.as_slice().iter().enumerate() {
            let d = pool.data(f);
            assert_eq!((d.len(), vxlan::parse(&d[42..]), d[109]), (110, Ok(Vni::CALICO), mark as u8));
            assert!(l4::unfinished(&d[14..], 96).is_some(), "a veth leaves the outer UDP checksum unfinished");
        }
        assert_eq!(got.len(), 10);
        pool.give_all(&mut got);

        // IP-in-IP, made by an AF_XDP port at the other end.
        let macs = (mac(&node, "h0"), mac(&peer, "eth0"));
        let (mut peer_pool, mut peer_port) = open(&peer, spec("eth0", mode));
        let mut out = Batch::new();
        let inner = [0x45u8; 60];
        to_node(&mut peer_pool, &mut out, macs, ipv4::PROTO_IPIP, &inner);
        to_node(&mut peer_pool, &mut out, macs, 47, &inner);
        until("frames sent", || {
            peer_port.tx_burst(&mut peer_pool, &mut out).unwrap();
            out.is_empty()
        });
        until("the IPIP frame", || {
            port.rx_burst(&mut pool, &mut got).unwrap();
            !got.is_empty()
        });
        std::thread::sleep(Duration::from_millis(20));
        port.rx_burst(&mut pool, &mut got).unwrap();
        assert_eq!(got.len(), 1, "GRE stays with the kernel");
        let d = pool.data(&got.as_slice()[0]);
        assert_eq!((d[23], &d[34..]), (ipv4::PROTO_IPIP, &inner[..]));
        pool.give_all(&mut got);
        finish(&mut peer_pool, &mut peer_port);
        finish(&mut pool, &mut port);
    }
}

/// Bridges two ports, finishing checksums, until `end`; returns the length of the longest frame from `a`. Frames
/// too long for the other side are dropped there.
fn bridge(pool: &mut FramePool, a: &mut XskPort, b: &mut XskPort, end: impl Fn() -> bool) -> usize {
    let mut longest = 0;
    let (mut ab, mut ba) = (Batch::new(), Batch::new());
    while !end() {
        a.rx_burst(pool, &mut ab).unwrap();
        for f in ab.as_slice() {
            longest = longest.max(f.len());
        }
        b.rx_burst(pool, &mut ba).unwrap();
        for batch in [&mut ab, &mut ba] {
            for f in batch.as_mut_slice() {
                let d = pool.data_mut(f);
                if be16(d, 12) == ether::TYPE_IPV4 {
                    let p = &mut d[ether::HEADER..];
                    let total = ipv4::total_len(p);
                    assert_eq!(total, p.len(), "the IP length covers the super-frame");
                    if let Some((start, offset)) = l4::unfinished(p, total) {
                        l4::finish(p, total, start, offset);
                    }
                }
            }
        }
        b.tx_burst(pool, &mut ab).unwrap();
        a.tx_burst(pool, &mut ba).unwrap();
        std::thread::sleep(Duration::from_micros(100));
    }
    pool.give_all(&mut ab);
    pool.give_all(&mut ba);
    longest
}

#[test]
fn super_frames_of_a_pod_with_segmentation_offload() {
    for (mode, driver) in MODES {
        let (a, host, b) = (Namespace::new("xa"), Namespace::new("xh"), Namespace::new("xb"));
        veth(&host, "ha", &a, "eth0");
        veth(&host, "hb", &b, "eth0");
        a.sh("ip addr add 10.9.0.1/24 dev eth0");
        b.sh("ip addr add 10.9.0.2/24 dev eth0");
        let (mut pool, mut ha, mut hb) = host.run(|| {
            let pool = FramePool::new(2048, 16).unwrap();
            let umems = [pool.umem()];
            let port = |interface| xsk::open(&XskSpec { umems: &umems, ..spec(interface, mode) }).unwrap().remove(0);
            let (ha, hb) = (port("ha"), port("hb"));
            (pool, ha, hb)
        });
        let listener = b.run(|| TcpListener::bind("10.9.0.2:7000").unwrap());
        let done = std::sync::atomic::AtomicBool::new(false);
        let longest = std::thread::scope(|s| {
            let client = s.spawn(|| {
                let result = a.run(|| -> std::io::Result<usize> {
                    let mut out = TcpStream::connect_timeout(&"10.9.0.2:7000".parse().unwrap(), LIMIT)?;
                    let mut server = listener.accept()?.0;
                    server.set_read_timeout(Some(LIMIT))?;
                    out.write_all(&[9; 30_000])?;
                    let mut bytes = vec![0; 30_000];
                    server.read_exact(&mut bytes)?;
                    Ok(bytes.len())
                });
                done.store(true, std::sync::atomic::Ordering::Release);
                result
            });
            let longest = bridge(&mut pool, &mut ha, &mut hb, || done.load(std::sync::atomic::Ordering::Acquire));
            assert_eq!(client.join().unwrap().unwrap(), 30_000, "{driver}");
            longest
        });
        eprintln!("{driver}: longest frame from a pod with TSO on: {longest} bytes");
        if mode == XskMode::Generic {
            assert!(longest > 1514 + 1448, "{longest}");
        } else {
            assert!(longest <= 1514, "native XDP switches the peer's segmentation offload off: {longest}");
        }
        ha.release(&mut pool);
        finish(&mut pool, &mut hb);
    }
}

#[test]
fn the_longest_super_frame_arrives_whole_or_is_counted() {
    const BYTES: usize = 65_000;
    for big in [4, 0] {
        let (host, pod) = pair();
        pod.sh("ip addr add 10.9.0.2/24 dev eth0; ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev eth0");
        let (mut pool, mut port) = host.run(|| {
            let pool = FramePool::new(2048, big).unwrap();
            let port = xsk::open(&XskSpec { umems: &[pool.umem()], ..spec("h0", XskMode::Generic) }).unwrap().remove(0);
            (pool, port)
        });
        let mut got = Batch::new();
        port.rx_burst(&mut pool, &mut got).unwrap();
        let socket = pod.run(|| UdpSocket::bind("10.9.0.2:5000").unwrap());
        sys::setsockopt(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, &1400i32).unwrap();
        let payload: Vec<u8> = (0..BYTES).map(|i| (i / 100) as u8).collect();
        socket.send_to(&payload, "10.9.0.1:5000").unwrap();
        let mut truncated = 0;
        until("the super-frame", || {
            truncated += port.rx_burst(&mut pool, &mut got).unwrap().truncated;
            truncated > 0 || !got.is_empty()
        });
        if big == 0 {
            assert_eq!((truncated, got.len()), (1, 0));
        } else {
            let f = &got.as_slice()[0];
            assert!(!pool.in_umem(f) && f.gso.is_none() && f.csum == Csum::MayBePartial);
            assert_eq!((f.head() as usize, f.len()), (HEADROOM, 42 + BYTES));
            assert!(pool.data(f)[42..] == payload);
        }
        pool.give_all(&mut got);
        finish(&mut pool, &mut port);
    }
}

/// A veth whose host end has two receive queues.
fn two_queues() -> (Namespace, Namespace) {
    let (host, pod) = (Namespace::new("xh"), Namespace::new("xp"));
    host.sh(&format!(
        "ip link add h0 numrxqueues 2 numtxqueues 2 type veth peer name eth0 numrxqueues 2 numtxqueues 2 netns {} && ip link set h0 up",
        pod.name()
    ));
    pod.sh("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0");
    (host, pod)
}

#[test]
fn queues_are_shared_out_among_workers() {
    let (host, pod) = two_queues();
    let (mut one, mut two, third, mut ports) = host.run(|| {
        let pools = [(); 3].map(|()| FramePool::new(1024, 2).unwrap());
        let umems: Vec<_> = pools.iter().map(|p| p.umem()).collect();
        let open = |n: usize| xsk::open(&XskSpec { umems: &umems[..n], ..spec("h0", XskMode::Auto) });
        let Err(e) = open(3) else { panic!("three workers on two queues") };
        assert!(matches!(e, OpenError::Refused { .. }) && e.to_string().contains("2 receive queues for 3 workers"), "{e}");
        until("a refused open leaves nothing behind", || !has_xdp(&host, "h0"));
        let ports = open(2).unwrap();
        let [one, two, third] = pools;
        (one, two, third, ports)
    });
    drop(third);
    assert_eq!(ports.iter().map(|p| p.queues().collect::<Vec<_>>()).collect::<Vec<_>>(), [[0], [1]]);
    let mut last = ports.pop().unwrap();
    let mut first = ports.pop().unwrap();
    last.rx_burst(&mut two, &mut Batch::new()).unwrap();
    finish(&mut two, &mut last);
    drop(last);
    assert!(has_xdp(&host, "h0"), "the program stays while a port is open");
    assert!(first.wait_fd().is_some());
    finish(&mut one, &mut first);
    until("the program is gone", || !has_xdp(&host, "h0"));
    drop(first);

    // One worker, both queues: one descriptor to wait for.
    let (mut pool, mut port) = open(&host, spec("h0", XskMode::Auto));
    assert_eq!(port.queues().collect::<Vec<_>>(), [0, 1]);
    let (_, big) = ping(&pod, &mut pool, &mut port, "-c 5");
    assert_eq!(big, 0);
    finish(&mut pool, &mut port);
}

/// Whether the port's descriptor becomes readable in time.
fn readable(port: &XskPort) -> bool {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&port.wait_fd().unwrap());
    let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd.
    unsafe { libc::poll(&mut p, 1, 3000) == 1 && p.revents & libc::POLLIN != 0 }
}

#[test]
fn a_waiting_worker_is_woken_by_any_queue() {
    let (host, pod) = two_queues();
    let (mut pool, mut port) = open(&host, spec("h0", XskMode::Native));
    let mut got = Batch::new();
    port.rx_burst(&mut pool, &mut got).unwrap();
    // Each CPU has a send queue of its own.
    for cpu in 0..2 {
        pod.sh(&format!("taskset -c {cpu} ping -c 1 -W 0.01 10.9.0.{} || true", 10 + cpu));
        assert!(readable(&port), "cpu {cpu}");
        until("the ARP request", || {
            port.rx_burst(&mut pool, &mut got).unwrap();
            !got.is_empty()
        });
        pool.give_all(&mut got);
    }
    finish(&mut pool, &mut port);
}

#[test]
fn a_second_program_is_refused_and_a_dropped_port_detaches() {
    let (host, _pod) = pair();
    let (pool, port) = open(&host, spec("h0", XskMode::Native));
    let text = host.run(|| {
        let pool = FramePool::new(64, 0).unwrap();
        xsk::open(&XskSpec { umems: &[pool.umem()], ..spec("h0", XskMode::Auto) }).map(drop).unwrap_err().to_string()
    });
    assert!(text.contains("h0") && text.contains("native mode: ") && text.contains("generic mode: "), "{text}");
    assert!(text.contains("another XDP program"), "{text}");
    assert!(has_xdp(&host, "h0"));
    drop(port);
    until("the program is gone after a drop without release", || !has_xdp(&host, "h0"));
    drop(pool);
    let mut zero = String::new();
    // The kernel frees a closed socket's queue from a work item.
    until("the queue is free again", || {
        zero = host.run(|| {
            let pool = FramePool::new(64, 0).unwrap();
            let spec = XskSpec { umems: &[pool.umem()], zero_copy: ZeroCopy::Require, ..spec("h0", XskMode::Auto) };
            xsk::open(&spec).map(drop).unwrap_err().to_string()
        });
        !zero.contains("another AF_XDP socket")
    });
    assert!(zero.contains("zero-copy"), "{zero}");
    until("a refused opening leaves no program", || !has_xdp(&host, "h0"));
    let absent = host.run(|| xsk::open(&spec("nope", XskMode::Auto)).map(drop).unwrap_err().to_string());
    assert!(absent.contains("nope") && absent.contains("no such interface"), "{absent}");
}

#[test]
fn a_driver_without_native_xdp_gets_the_generic_mode() {
    let (host, pod) = pair();
    pod.sh("ip addr add 10.9.0.2/24 dev eth0");
    host.sh("ip link add br0 address 02:00:00:00:00:09 type bridge && ip link set h0 master br0 && ip link set br0 up");
    let (mut pool, mut port) = open(&host, spec("br0", XskMode::Auto));
    assert_eq!(port.caps().driver, "af-xdp-generic");
    assert!(port.refusal().unwrap().starts_with("native mode: "), "{:?}", port.refusal());
    ping(&pod, &mut pool, &mut port, "-c 3");
    finish(&mut pool, &mut port);
    let native = host.run(|| {
        let pool = FramePool::new(64, 0).unwrap();
        xsk::open(&XskSpec { umems: &[pool.umem()], ..spec("br0", XskMode::Native) }).map(drop).unwrap_err().to_string()
    });
    assert!(native.contains("br0") && native.contains("use the generic mode"), "{native}");
}

#[test]
fn the_interface_goes_away() {
    for (mode, driver) in MODES {
        let (host, _pod) = pair();
        let (mut pool, mut port) = open(&host, spec("h0", mode));
        let mut batch = Batch::new();
        port.rx_burst(&mut pool, &mut batch).unwrap();
        host.sh("ip link del h0");
        port.rx_burst(&mut pool, &mut batch).unwrap();
        numbered(&mut pool, &mut batch, 1, 60);
        let e = port.tx_burst(&mut pool, &mut batch).map(drop).unwrap_err();
        assert!(matches!(e.raw_os_error(), Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV)), "{driver}: {e}");
        pool.give_all(&mut batch);
        finish(&mut pool, &mut port);
        assert!(port.tx_burst(&mut pool, &mut batch).is_err() && port.wait_fd().is_none(), "a released port is closed");
        assert_eq!(port.rx_burst(&mut pool, &mut batch).unwrap(), Default::default());
    }
}

#[test]
fn impossible_frames_are_counted_and_their_slots_returned() {
    let (host, pod) = pair();
    let (mut pool, mut port) = open(&host, spec("h0", XskMode::Generic));
    let (mut pod_pool, mut pod_port) = open(&pod, spec("eth0", XskMode::Generic));
    let mut got = Batch::new();
    pod_port.rx_burst(&mut pod_pool, &mut got).unwrap();
    let mut out = Batch::new();
    numbered(&mut pool, &mut out, 1, 60);
    numbered(&mut pool, &mut out, 2, 1519);
    numbered(&mut pool, &mut out, 3, 13 + 5);
    let mut short = out.pop().unwrap();
    short.truncate(13);
    out.push(short);
    let mut big = pool.take_big().unwrap();
    pool.set_len(&mut big, 60_000);
    out.push(big);
    // In a big slot, but short enough: copied.
    let mut copied = pool.take_big().unwrap();
    pool.room_mut(&copied)[..1514].fill(5);
    pool.set_len(&mut copied, 1514);
    out.push(copied);
    let report = port.tx_burst(&mut pool, &mut out).unwrap();
    assert_eq!((report.sent, report.errors, report.too_big, out.len()), (2, 1, 2, 0));
    until("both frames", || {
        pod_port.rx_burst(&mut pod_pool, &mut got).unwrap();
        got.len() == 2
    });
    assert_eq!(got.as_slice().iter().map(|f| f.len()).collect::<Vec<_>>(), [60, 1514]);
    assert!(pod_pool.data(&got.as_slice()[1]).iter().all(|b| *b == 5));
    pod_pool.give_all(&mut got);
    finish(&mut pod_pool, &mut pod_port);
    finish(&mut pool, &mut port);
}
