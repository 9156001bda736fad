//! TUN, TAP and packet-socket ports on real devices.

use crate::wire::{Wire, transfer, wait};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};
use tortie::frame::{Batch, Csum, FramePool, GsoSet};
use tortie::port::packet::{self, PacketPort};
use tortie::port::tun::{self, TunMode, TunPort, TunSpec};
use tortie::port::{Medium, Port, RxReport, TxReport, sys};
use tortie::testing::netns::{Namespace, veth};
use tortie::wire::{Mac, be16, ipv4, put16, put32};

const BULK: usize = 20_000_000;

fn spec(ns: &Namespace, name: &str, mode: TunMode) -> TunSpec {
    TunSpec { name: name.into(), mode, netns: Some(ns.path().to_owned()), queues: 1, mtu: 1450, mac: None, persist: false }
}

fn one<T>(mut ports: Vec<T>) -> T {
    assert_eq!(ports.len(), 1);
    ports.remove(0)
}

fn tap(ns: &Namespace) -> TunPort {
    one(tun::open(&spec(ns, "eth0", TunMode::Tap)).unwrap())
}

fn workload(host: &Namespace, ifname: &str) -> PacketPort {
    one(host.run(|| packet::open_workload(ifname, 1)).unwrap())
}

fn pool() -> FramePool {
    FramePool::new(256, 64).unwrap()
}

/// Two pods that are neighbours on one subnet, without interfaces yet.
fn pods() -> (Namespace, Namespace) {
    (Namespace::new("pa"), Namespace::new("pb"))
}

fn address(a: &Namespace, b: &Namespace) {
    a.sh("ip addr add 10.7.0.1/24 dev eth0");
    b.sh("ip addr add 10.7.0.2/24 dev eth0");
}

/// A pod and the host side of its veth pair, `cali0`.
fn pod_on_veth() -> (Namespace, Namespace) {
    let (host, pod) = (Namespace::new("host"), Namespace::new("pod"));
    veth(&host, "cali0", &pod, "eth0");
    pod.sh("ip addr add 10.7.0.1/24 dev eth0");
    (host, pod)
}

/// Receives until `enough` says so, at most three seconds.
fn receive(port: &mut dyn Port, pool: &mut FramePool, out: &mut Batch, enough: impl Fn(&FramePool, &Batch) -> bool) -> RxReport {
    let until = Instant::now() + Duration::from_secs(3);
    let mut all = RxReport::default();
    while !enough(pool, out) && Instant::now() < until {
        wait(&[port.wait_fd().unwrap()], 50);
        let r = port.rx_burst(pool, out).unwrap();
        all.truncated += r.truncated;
        all.malformed += r.malformed;
    }
    all
}

/// Turns a UDP packet round: addresses and ports swapped. The checksum, finished or not, stays right.
fn turn_round(p: &mut [u8]) {
    let (src, dst) = (ipv4::src(p), ipv4::dst(p));
    put32(p, 12, dst);
    put32(p, 16, src);
    let (sport, dport) = (be16(p, 20), be16(p, 22));
    put16(p, 20, dport);
    put16(p, 22, sport);
}

/// A pod's UDP socket asks an address that only this test answers for.
fn echo(ns: &Namespace, port: &mut TunPort, l2: usize) {
    let mut pool = pool();
    let mut batch = Batch::new();
    let socket = ns.run(|| UdpSocket::bind("10.7.0.1:4000").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    // A device that was just attached drops what it is sent until the kernel has noticed its carrier.
    let until = Instant::now() + Duration::from_secs(5);
    while !wait(&[port.wait_fd().unwrap()], 100) {
        assert!(Instant::now() < until, "the device passes nothing on");
        socket.send_to(&[0], "10.7.0.9:9").unwrap();
    }
    while wait(&[port.wait_fd().unwrap()], 200) {
        port.rx_burst(&mut pool, &mut batch).unwrap();
        pool.give_all(&mut batch);
    }
    for len in [1usize, 100, 1400] {
        socket.send_to(&vec![len as u8; len], "10.7.0.9:7").unwrap();
        let report = receive(port, &mut pool, &mut batch, |_, b| !b.is_empty());
        assert_eq!((batch.len(), report), (1, RxReport::default()));
        let frame = &batch.as_slice()[0];
        assert_eq!(frame.len(), l2 + 28 + len);
        assert_eq!(frame.csum, Csum::Partial { start: frame.head() + l2 as u32 + 20, offset: 6 });
        let bytes = pool.data_mut(frame);
        if l2 > 0 {
            let (dst, src) = (Mac::read(bytes, 0), Mac::read(bytes, 6));
            bytes[..6].copy_from_slice(&src.0);
            bytes[6..12].copy_from_slice(&dst.0);
        }
        turn_round(&mut bytes[l2..]);
        assert_eq!(port.tx_burst(&mut pool, &mut batch).unwrap(), TxReport { sent: 1, ..TxReport::default() });
        let mut buf = [0u8; 2000];
        let (n, from) = socket.recv_from(&mut buf).unwrap();
        assert_eq!((n, from.to_string().as_str()), (len, "10.7.0.9:7"));
        assert!(buf[..n].iter().all(|b| *b == len as u8));
    }
    port.release(&mut pool);
    assert!(pool.is_full());
}

#[test]
fn tap_echo() {
    let ns = Namespace::new("tap");
    let mac = "02:00:00:00:00:07".parse().unwrap();
    let mut port = one(tun::open(&TunSpec { mac: Some(mac), ..spec(&ns, "eth0", TunMode::Tap) }).unwrap());
    assert_eq!((port.caps().medium, port.caps().driver, port.caps().mtu), (Medium::Ethernet, "tap", 1450));
    assert_eq!(port.caps().gso, GsoSet { udp: sys::kernel_at_least(6, 2), ..GsoSet::ALL });
    assert!(ns.sh("ip link show eth0").contains("mtu 1450") && ns.sh("ip link show eth0").contains("02:00:00:00:00:07"));
    ns.sh("ip addr add 10.7.0.1/24 dev eth0; ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev eth0");
    echo(&ns, &mut port, 14);
}

#[test]
fn tun_echo() {
    let ns = Namespace::new("tun");
    let mut port = one(tun::open(&spec(&ns, "tun0", TunMode::Tun)).unwrap());
    assert_eq!((port.caps().medium, port.caps().driver), (Medium::Ip, "tun"));
    ns.sh("ip addr add 10.7.0.1/24 dev tun0");
    echo(&ns, &mut port, 0);
}

#[test]
fn tcp_between_taps_travels_in_super_frames() {
    let (a, b) = pods();
    let wire = Wire::new(Box::new(tap(&a)), Box::new(tap(&b)));
    address(&a, &b);
    transfer(&a, &b, "10.7.0.2:5000", BULK);
    let seen = wire.finish();
    assert!(seen.tcp_super > 100 && seen.longest > 20_000 && seen.partial > 0, "{seen:?}");
    assert_eq!((seen.errors, seen.too_big, seen.lost), (0, 0, 0), "{seen:?}");
    // Far fewer frames than segments: nothing was segmented on the way.
    assert!(seen.frames < (BULK / 1450) as u64, "{seen:?}");
}

fn tcp_between_veths(offloads: bool) {
    let (a, b) = pods();
    let host = Namespace::new("host");
    veth(&host, "cali0", &a, "eth0");
    veth(&host, "cali1", &b, "eth0");
    for (ns, dev) in [(&a, "eth0"), (&b, "eth0")] {
        ns.offloads(dev, offloads);
    }
    let wire = Wire::new(Box::new(workload(&host, "cali0")), Box::new(workload(&host, "cali1")));
    address(&a, &b);
    transfer(&a, &b, "10.7.0.2:5000", BULK);
    let seen = wire.finish();
    assert_eq!((seen.errors, seen.too_big, seen.lost), (0, 0, 0), "{seen:?}");
    if offloads {
        assert!(seen.tcp_super > 100 && seen.longest > 20_000 && seen.partial > 0, "{seen:?}");
    } else {
        assert!(seen.tcp_super == 0 && seen.longest <= 1514 && seen.partial == 0, "{seen:?}");
    }
}

#[test]
fn tcp_between_veths_with_offloads() {
    tcp_between_veths(true);
}

#[test]
fn tcp_between_veths_without_offloads() {
    tcp_between_veths(false);
}

#[test]
fn tcp_between_tap_and_veth_both_ways() {
    let (a, b) = pods();
    let host = Namespace::new("host");
    veth(&host, "cali1", &b, "eth0");
    b.sh("ip link set eth0 mtu 1450");
    let wire = Wire::new(Box::new(tap(&a)), Box::new(workload(&host, "cali1")));
    address(&a, &b);
    transfer(&a, &b, "10.7.0.2:5000", BULK / 4);
    transfer(&b, &a, "10.7.0.1:5001", BULK / 4);
    let seen = wire.finish();
    assert!(seen.tcp_super > 50, "{seen:?}");
    assert_eq!((seen.errors, seen.too_big, seen.lost), (0, 0, 0), "{seen:?}");
}

/// One send with UDP_SEGMENT crosses as one super-frame and arrives as its datagrams.
fn udp_super_frames(a: &Namespace, b: &Namespace, wire: Wire) {
    address(a, b);
    let to = b.run(|| UdpSocket::bind("10.7.0.2:6000").unwrap());
    to.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let from = a.run(|| UdpSocket::bind("10.7.0.1:6000").unwrap());
    const UDP_SEGMENT: i32 = 103;
    sys::setsockopt(&from, libc::SOL_UDP, UDP_SEGMENT, &1000i32).unwrap();
    let data: Vec<u8> = (0..20_500).map(|i| (i / 1000) as u8).collect();
    assert_eq!(from.send_to(&data, "10.7.0.2:6000").unwrap(), data.len());
    for i in 0..21u8 {
        let mut buf = [0u8; 2000];
        let n = to.recv(&mut buf).unwrap();
        assert!(n == if i == 20 { 500 } else { 1000 } && buf[..n].iter().all(|b| *b == i), "datagram {i}: {n} bytes");
    }
    let seen = wire.finish();
    assert!(seen.udp_super == 1 && seen.longest > 20_000 && seen.errors == 0, "{seen:?}");
}

#[test]
fn udp_super_frame_between_taps() {
    let (a, b) = pods();
    let wire = Wire::new(Box::new(tap(&a)), Box::new(tap(&b)));
    udp_super_frames(&a, &b, wire);
}

#[test]
fn udp_super_frame_between_veths() {
    let (a, b) = pods();
    let host = Namespace::new("host");
    veth(&host, "cali0", &a, "eth0");
    veth(&host, "cali1", &b, "eth0");
    let wire = Wire::new(Box::new(workload(&host, "cali0")), Box::new(workload(&host, "cali1")));
    udp_super_frames(&a, &b, wire);
}

/// Whether the host's kernel answers a datagram to a closed port: that takes ARP and ICMP of it.
fn host_answers(pod: &Namespace) -> bool {
    pod.sh("ip neigh flush dev eth0");
    let socket = pod.run(|| UdpSocket::bind("10.7.0.1:0").unwrap());
    socket.connect("10.7.0.254:9").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    socket.send(b"x").unwrap();
    matches!(socket.recv(&mut [0; 8]), Err(e) if e.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn host_stack_is_silent_while_the_port_is_open() {
    let (host, pod) = pod_on_veth();
    host.sh("ip addr add 10.7.0.254/24 dev cali0");
    assert!(host_answers(&pod));
    let mut ports = host.run(|| packet::open_workload("cali0", 2)).unwrap();
    assert!(!host_answers(&pod));
    assert!(!pod.sh("ip neigh show 10.7.0.254 dev eth0").contains("lladdr"));
    let (mut pool, mut batch) = (pool(), Batch::new());
    for port in &mut ports {
        port.rx_burst(&mut pool, &mut batch).unwrap();
    }
    let arp = batch.as_slice().iter().filter(|f| be16(pool.data(f), 12) == 0x0806).count();
    assert!(arp >= 1, "the port sees what the host does not");
    pool.give_all(&mut batch);
    ports[0].release(&mut pool);
    assert!(!host_answers(&pod), "the second queue still holds it");
    ports[1].release(&mut pool);
    assert!((0..10).any(|_| host_answers(&pod)));
    assert!(ports[0].rx_burst(&mut pool, &mut batch).is_err() && pool.is_full());
}

#[test]
fn queues_share_the_frames_and_none_comes_twice() {
    const FLOWS: u16 = 300;
    let (host, pod) = pod_on_veth();
    pod.sh("ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev eth0");
    let mut ports = host.run(|| packet::open_workload("cali0", 2)).unwrap();
    assert_eq!((ports[0].caps().queue, ports[1].caps().queue), (0, 1));
    pod.run(|| {
        for i in 0..FLOWS {
            UdpSocket::bind(("10.7.0.1", 20_000 + i)).unwrap().send_to(&i.to_be_bytes(), "10.7.0.9:7").unwrap();
        }
    });
    let mut pool = FramePool::new(1024, 64).unwrap();
    let mut seen = vec![0; FLOWS.into()];
    for port in &mut ports {
        let mut batch = Batch::with_capacity(1000);
        port.rx_burst(&mut pool, &mut batch).unwrap();
        let udp = |b: &[u8]| b.len() >= 44 && be16(b, 12) == 0x0800 && be16(b, 36) == 7;
        let mine: Vec<u16> = batch.as_slice().iter().map(|f| pool.data(f)).filter(|b| udp(b)).map(|b| be16(b, 42)).collect();
        assert!(mine.len() > usize::from(FLOWS) / 10, "one queue got {} of {FLOWS}", mine.len());
        mine.iter().for_each(|i| seen[usize::from(*i)] += 1);
        pool.give_all(&mut batch);
        port.release(&mut pool);
    }
    assert!(seen.iter().all(|n| *n == 1), "{seen:?}");
    assert!(pool.is_full());
}

#[test]
fn tap_with_two_queues() {
    let ns = Namespace::new("mq");
    let two = TunSpec { queues: 2, ..spec(&ns, "eth0", TunMode::Tap) };
    let mut ports = tun::open(&two).unwrap();
    assert_eq!(ports.len(), 2);
    ns.sh("ip addr add 10.7.0.1/24 dev eth0; ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev eth0");
    ns.run(|| {
        for i in 0..200 {
            UdpSocket::bind(("10.7.0.1", 20_000 + i)).unwrap().send_to(b"x", "10.7.0.9:7").unwrap();
        }
    });
    let mut pool = pool();
    let mut total = 0;
    for port in &mut ports {
        let mut batch = Batch::with_capacity(250);
        port.rx_burst(&mut pool, &mut batch).unwrap();
        assert!(batch.len() > 20, "{}", batch.len());
        total += batch.len();
        pool.give_all(&mut batch);
    }
    assert!(total >= 200 && pool.is_full());
    let e = tun::open(&spec(&ns, "eth0", TunMode::Tap)).err().expect("made with several queues").to_string();
    assert!(e.contains("eth0") && e.contains("number of queues"), "{e}");
}

/// A frame of `len` bytes from L2 on, zero but for addresses and type.
fn plain_frame(pool: &mut FramePool, batch: &mut Batch, len: usize, ethertype: u16) {
    let mut frame = pool.take_for(len).unwrap();
    pool.set_len(&mut frame, len);
    pool.data_mut(&frame).fill(0);
    tortie::wire::ether::write(pool.data_mut(&frame), Mac::BROADCAST, Mac([2, 0, 0, 0, 0, 1]), ethertype);
    batch.push(frame);
}

#[test]
fn vlan_frames_stay_out_and_too_long_ones_are_named() {
    let (host, pod) = pod_on_veth();
    let mut port = workload(&host, "cali0");
    let mut sender = one(pod.run(|| packet::open_sender("eth0", 1)).unwrap());
    let (mut pool, mut batch) = (pool(), Batch::new());
    port.rx_burst(&mut pool, &mut batch).unwrap();
    pool.give_all(&mut batch);
    for (len, kind) in [(60, 0x8100), (1515, 0x88b5), (60, 0x88b5), (1514, 0x88b5)] {
        plain_frame(&mut pool, &mut batch, len, kind);
    }
    let report = sender.tx_burst(&mut pool, &mut batch).unwrap();
    assert_eq!((report, batch.len()), (TxReport { sent: 3, errors: 0, too_big: 1 }, 0));
    receive(&mut port, &mut pool, &mut batch, |_, b| b.len() == 2);
    let got: Vec<_> = batch.as_slice().iter().map(|f| (f.len(), be16(pool.data(f), 12))).collect();
    assert_eq!(got, [(60, 0x88b5), (1514, 0x88b5)]);
    pool.give_all(&mut batch);
    // The sender is deaf: what comes its way stays with its host.
    plain_frame(&mut pool, &mut batch, 60, 0x88b5);
    assert_eq!(port.tx_burst(&mut pool, &mut batch).unwrap().sent, 1);
    assert_eq!(sender.rx_burst(&mut pool, &mut batch).unwrap(), RxReport::default());
    assert!(batch.is_empty() && pool.is_full());
}

/// A frame that contradicts its own metadata costs itself only, wherever it stands.
fn contradictory_frame(port: &mut dyn Port) {
    let (mut pool, mut batch) = (pool(), Batch::new());
    for _ in 0..3 {
        plain_frame(&mut pool, &mut batch, 60, 0x88b5);
    }
    batch.as_mut_slice()[1].csum = Csum::Partial { start: 5000, offset: 6 };
    let report = port.tx_burst(&mut pool, &mut batch).unwrap();
    assert_eq!(report, TxReport { sent: 2, errors: 1, too_big: 0 });
    assert!(batch.is_empty() && pool.is_full());
}

#[test]
fn contradictory_frames_are_errors() {
    let (host, _pod) = pod_on_veth();
    contradictory_frame(&mut workload(&host, "cali0"));
    let ns = Namespace::new("tap");
    contradictory_frame(&mut tap(&ns));
}

/// The port reports that its interface is gone, on both directions, and holds no slot.
fn is_gone(port: &mut dyn Port, receives: bool) {
    let (mut pool, mut batch) = (pool(), Batch::new());
    if receives {
        assert!(wait(&[port.wait_fd().unwrap()], 2000), "a worker that sleeps is woken");
        // Frames that came before are delivered first.
        let until = Instant::now() + Duration::from_secs(2);
        while port.rx_burst(&mut pool, &mut batch).is_ok() {
            assert!(Instant::now() < until, "still no error");
            pool.give_all(&mut batch);
        }
    }
    plain_frame(&mut pool, &mut batch, 60, 0x88b5);
    assert!(port.tx_burst(&mut pool, &mut batch).is_err());
    pool.give_all(&mut batch);
    port.release(&mut pool);
    assert!(pool.is_full());
}

#[test]
fn deleted_interfaces_are_errors() {
    let (host, pod) = pod_on_veth();
    let mut port = workload(&host, "cali0");
    let mut sender = one(pod.run(|| packet::open_sender("eth0", 1)).unwrap());
    host.sh("ip link del cali0");
    is_gone(&mut port, true);
    is_gone(&mut sender, false);
    let ns = Namespace::new("tap");
    let mut port = tap(&ns);
    ns.sh("ip link del eth0");
    is_gone(&mut port, true);
}

#[test]
fn packet_port_reports_that_its_interface_went_down() {
    let (host, pod) = pod_on_veth();
    let mut port = workload(&host, "cali0");
    host.sh("ip link set cali0 down");
    is_gone(&mut port, true);
    let e = host.run(|| packet::open_workload("cali0", 1)).err().expect("down").to_string();
    assert!(e.contains("cali0") && e.contains("up"), "{e}");
    host.sh("ip link set cali0 up");
    let mut port = workload(&host, "cali0");
    pod.sh("ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev eth0");
    pod.run(|| UdpSocket::bind("10.7.0.1:0").unwrap().send_to(b"x", "10.7.0.9:7").unwrap());
    let (mut pool, mut batch) = (pool(), Batch::new());
    receive(&mut port, &mut pool, &mut batch, |_, b| !b.is_empty());
    assert!(!batch.is_empty());
}

#[test]
fn tap_that_is_down_drops_and_comes_back() {
    let ns = Namespace::new("down");
    let mut port = tap(&ns);
    ns.sh("ip link set eth0 down");
    let (mut pool, mut batch) = (pool(), Batch::new());
    plain_frame(&mut pool, &mut batch, 60, 0x88b5);
    assert_eq!(port.tx_burst(&mut pool, &mut batch).unwrap(), TxReport { errors: 1, ..TxReport::default() });
    assert_eq!(port.rx_burst(&mut pool, &mut batch).unwrap(), RxReport::default());
    ns.sh("ip link set eth0 up");
    plain_frame(&mut pool, &mut batch, 60, 0x88b5);
    assert_eq!(port.tx_burst(&mut pool, &mut batch).unwrap(), TxReport { sent: 1, ..TxReport::default() });
    assert!(pool.is_full());
}

#[test]
fn persistent_tap_survives_its_daemon() {
    let ns = Namespace::new("keep");
    let keep = TunSpec { persist: true, ..spec(&ns, "eth0", TunMode::Tap) };
    let first = one(tun::open(&keep).unwrap());
    ns.sh("ip addr add 10.7.0.1/24 dev eth0; ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent");
    let busy = tun::open(&keep).err().expect("attached already").to_string();
    assert!(busy.contains("eth0") && busy.contains("another process"), "{busy}");
    // What a kill leaves behind: the descriptor closed, nothing else done.
    drop(first);
    assert!(ns.sh("ip addr show eth0").contains("10.7.0.1"));
    let e = tun::open(&spec(&ns, "eth0", TunMode::Tun)).err().expect("the other kind").to_string();
    assert!(e.contains("other kind"), "{e}");
    let mut second = one(tun::open(&keep).unwrap());
    echo(&ns, &mut second, 14);
    second.unpersist().unwrap();
    drop(second);
    assert!(!ns.output(&["ip", "link", "show", "eth0"]).status.success());
    // For good, also while a descriptor is open.
    let third = one(tun::open(&keep).unwrap());
    tun::remove("eth0", Some(ns.path())).unwrap();
    assert!(!ns.output(&["ip", "link", "show", "eth0"]).status.success());
    drop(third);
    tun::remove("eth0", Some(ns.path())).unwrap();
}

#[test]
fn foreign_interfaces_and_namespaces_are_refused() {
    let (host, pod) = pod_on_veth();
    let e = tun::open(&spec(&pod, "eth0", TunMode::Tap)).err().expect("a veth").to_string();
    assert!(e.contains("eth0 exists and is not a TUN or TAP"), "{e}");
    let e = tun::remove("cali0", Some(host.path())).unwrap_err().to_string();
    assert!(e.contains("cali0 exists and is not"), "{e}");
    let mut gone = spec(&pod, "tap0", TunMode::Tap);
    gone.netns = Some(Path::new("/run/netns/no-such-namespace").to_owned());
    let e = tun::open(&gone).err().expect("no namespace").to_string();
    assert!(e.contains("tap0") && e.contains("no-such-namespace"), "{e}");
    let e = host.run(|| packet::open_workload("cali9", 1)).err().expect("absent").to_string();
    assert!(e.contains("cali9") && e.contains("no such interface"), "{e}");
}

/// With slots short, frames wait in the kernel; nothing is lost and nothing leaks.
#[test]
fn an_empty_pool_loses_nothing() {
    let (host, pod) = pod_on_veth();
    pod.sh("ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev eth0");
    let mut port = workload(&host, "cali0");
    pod.run(|| {
        let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
        for i in 0..50u16 {
            socket.send_to(&i.to_be_bytes(), "10.7.0.9:7").unwrap();
        }
    });
    let mut pool = FramePool::new(8, 2).unwrap();
    let mut batch = Batch::new();
    let mut next = 0;
    let until = Instant::now() + Duration::from_secs(3);
    while next < 50 && Instant::now() < until {
        assert_eq!(port.rx_burst(&mut pool, &mut batch).unwrap(), RxReport::default());
        assert!(batch.len() <= 8);
        for f in batch.as_slice() {
            let bytes = pool.data(f);
            if be16(bytes, 12) == 0x0800 && be16(bytes, 36) == 7 {
                assert_eq!(be16(bytes, 42), next);
                next += 1;
            }
        }
        pool.give_all(&mut batch);
    }
    assert_eq!(next, 50);
    assert!(pool.is_full());
}
