//! The same super-frames cut by the kernel and by `encap::segment`: the same bytes must come out. The kernel gets
//! them through a packet socket with virtio-net headers on a veth without any offload, so that its software
//! segmentation runs (`skb_gso_segment`), and the segments are captured at the other end.

use crate::kernel_node::{Tap, stay_on_one_cpu};
use crate::random_packets::Rng;
use etherparse::TcpHeader;
use std::net::Ipv4Addr;
use tortie::encap::segment::{Segments, segment_into};
use tortie::frame::{Csum, FramePool, Gso, GsoKind};
use tortie::testing::build::{Ip4, ethernet, unfinish};
use tortie::testing::netns::{Namespace, veth};
use tortie::wire::{Mac, be16, ipv4, l4, put16};

const SEED: u64 = 0x5e9_3e47;
const SRC: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const DST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 9, 1]), Mac([2, 0, 0, 0, 9, 2])];
const ETHERNET: usize = 14;
/// The veth's, so that the longest segment of these tests fits.
const MTU: usize = 9000;
/// Longest IPv4 packet.
const LONGEST: usize = 65_535;

/// A veth without offloads: super-frames go in here, and segments come out there.
struct Kernel {
    near: Tap,
    far: Tap,
    _namespaces: [Namespace; 2],
}

impl Kernel {
    fn new() -> Kernel {
        const STUSO: &str = "tx-udp-segmentation";
        // Captured in order of sending only where one CPU's backlog takes them all.
        stay_on_one_cpu();
        let (a, b) = (Namespace::new("near"), Namespace::new("far"));
        veth(&a, "eth0", &b, "eth0");
        for ns in [&a, &b] {
            ns.sh(&format!("ip link set eth0 mtu {MTU}"));
            // Nobody else speaks on it.
            ns.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1");
            ns.offloads("eth0", false);
            ns.sh(&format!("ethtool -K eth0 {STUSO} off"));
        }
        let features = a.sh("ethtool -k eth0");
        for name in ["tx-tcp-segmentation", STUSO, "generic-segmentation-offload", "tx-checksum-ip-generic"] {
            let line = features.lines().find(|l| l.trim_start().starts_with(&format!("{name}:"))).unwrap_or_else(|| panic!("no {name}"));
            assert!(line.contains(": off"), "{line}");
        }
        let (near, far) = (Tap::new(&a, "eth0").with_vnet_headers(), Tap::new(&b, "eth0"));
        while far.recv(50).is_some() {}
        Kernel { near, far, _namespaces: [a, b] }
    }

    /// What the kernel makes of a super-frame with a complete checksum, from the IP header on; `count` are expected.
    fn split(&self, packet: &[u8], gso: Gso, count: usize) -> Vec<Vec<u8>> {
        let mut packet = packet.to_vec();
        unfinish(&mut packet);
        self.near.send(&[&vnet_header(&packet, gso)[..], &ethernet(MACS[1], MACS[0], &packet)].concat());
        let mut out = Vec::new();
        while out.len() < count
            && let Some(f) = self.far.recv(1000)
        {
            assert_eq!(f[..ETHERNET], ethernet(MACS[1], MACS[0], &packet)[..ETHERNET]);
            out.push(f[ETHERNET..].to_vec());
        }
        // Sending is done when the call returns: what is not there now does not come.
        out.extend(std::iter::from_fn(|| self.far.recv(0)).map(|f| f[ETHERNET..].to_vec()));
        out
    }
}

/// `struct virtio_net_hdr` (linux/virtio_net.h) for a packet with an unfinished checksum, in the host's byte order.
fn vnet_header(packet: &[u8], gso: Gso) -> [u8; 10] {
    const NEEDS_CSUM: u8 = 1;
    const GSO_TCPV4: u8 = 1;
    const GSO_UDP_L4: u8 = 5;
    const GSO_ECN: u8 = 0x80;
    let at = ipv4::header_len(packet);
    let (kind, header, field) = match gso.kind {
        GsoKind::Udp => (GSO_UDP_L4, l4::UDP_HEADER, l4::UDP_CHECK),
        _ => {
            let cwr = if packet[at + 13] & 0x80 != 0 { GSO_ECN } else { 0 };
            (GSO_TCPV4 | cwr, usize::from(packet[at + 12] >> 4) * 4, l4::TCP_CHECK)
        }
    };
    // The kernel refuses a super-frame of one segment with TCP options; what fits one is nobody's super-frame.
    let several = packet.len() - at - header > gso.size.into();
    let (kind, size) = if several { (kind, gso.size) } else { (0, 0) };
    let mut h = [0; 10];
    (h[0], h[1]) = (NEEDS_CSUM, kind);
    for (i, value) in [ETHERNET + at + header, size.into(), ETHERNET + at, field].into_iter().enumerate() {
        h[2 + 2 * i..4 + 2 * i].copy_from_slice(&(value as u16).to_ne_bytes());
    }
    h
}

/// As a port that gathers sends them: header and payload apart.
fn gathered(packet: &[u8], gso: Gso) -> Vec<Vec<u8>> {
    let s = Segments::new(packet, gso).unwrap();
    let segment = |i| {
        let mut out = vec![0xaa; s.header_len()];
        s.write_header(i, packet, &mut out);
        out.extend_from_slice(&packet[s.payload(i)]);
        out
    };
    (0..s.count()).map(segment).collect()
}

/// As frames of their own.
fn copied(pool: &mut FramePool, packet: &[u8], gso: Gso) -> Vec<Vec<u8>> {
    let mut f = pool.take_big().unwrap();
    pool.room_mut(&f)[..packet.len()].copy_from_slice(packet);
    pool.set_len(&mut f, packet.len());
    f.gso = Some(gso);
    let mut frames = Vec::new();
    let done = segment_into(pool, f, |s| frames.push(s)).unwrap();
    assert_eq!((done.made as usize, done.lost), (frames.len(), 0));
    let mut out = Vec::new();
    for f in frames {
        assert_eq!((f.csum, f.gso), (Csum::Complete, None));
        out.push(pool.data(&f).to_vec());
        pool.give(f);
    }
    assert!(pool.is_full());
    out
}

/// Cuts one super-frame three times; how many segments it has.
fn compare(kernel: &Kernel, pool: &mut FramePool, packet: &[u8], gso: Gso) -> usize {
    let ours = gathered(packet, gso);
    assert!(ours == copied(pool, packet, gso), "gathered and copied differ, {gso:?}");
    let theirs = kernel.split(packet, gso, ours.len());
    let about = || format!("{} bytes, {gso:?}, headers {:02x?}", packet.len(), &packet[..packet.len().min(120)]);
    assert_eq!(theirs.len(), ours.len(), "segments of {}", about());
    for (i, (k, o)) in theirs.iter().zip(&ours).enumerate() {
        let at = k.iter().zip(o).position(|(k, o)| k != o);
        let head = |p: &[u8]| format!("{:02x?}", &p[..p.len().min(120)]);
        assert!(k == o, "segment {i} of {}\n  differs at {at:?} of {} and {}\n  {}\n  {}", about(), k.len(), o.len(), head(k), head(o));
    }
    ours.len()
}

/// An IP header in which all is random that segments share, the identification more often close to its end.
fn ip(rng: &mut Rng) -> Ip4 {
    let id = if rng.chance(30) { 65_520 + rng.within(0, 15) } else { rng.within(0, 65_535) };
    let mut ip = Ip4::new(SRC, DST).ttl(rng.byte().max(1)).tos(rng.byte()).id(id as u16);
    if rng.chance(30) {
        ip = ip.may_fragment();
    }
    let options = 4 * rng.pick(&[0, 0, 0, 1, 3, 10]);
    ip.options(&vec![1; options])
}

/// A payload and a segment size: 1 to 64 segments, the last often short.
fn payload(rng: &mut Rng, headers: usize) -> (Vec<u8>, u16) {
    let size = rng.pick(&[1, 2, 7, 536, 999, 1398, 1448, 1460, 4001, MTU - headers]).min(MTU - headers);
    let most = (LONGEST - headers).min(64 * size);
    let len = if rng.chance(25) { most / size * size } else { rng.within(1, most) };
    ((0..len).map(|_| rng.byte()).collect(), size as u16)
}

#[test]
fn tcp_segments_are_the_kernels() {
    let (kernel, mut pool, mut rng) = (Kernel::new(), FramePool::new(128, 80).unwrap(), Rng(SEED));
    let (mut total, mut single) = (0, 0);
    for _ in 0..400 {
        let ip = ip(&mut rng);
        let seq = if rng.chance(30) { u32::MAX - rng.within(0, 60_000) as u32 } else { rng.next() as u32 };
        let mut t = TcpHeader::new(rng.next() as u16, rng.next() as u16, seq, rng.next() as u16);
        (t.acknowledgment_number, t.urgent_pointer) = (rng.next() as u32, rng.next() as u16);
        for flag in [&mut t.fin, &mut t.psh, &mut t.ack, &mut t.urg, &mut t.ece, &mut t.cwr] {
            *flag = rng.chance(50);
        }
        let options: Vec<u8> = match rng.within(0, 2) {
            0 => Vec::new(),
            1 => [&[1, 1, 8, 10][..], &rng.next().to_be_bytes()].concat(),
            _ => vec![1; 4 * rng.within(1, 10)],
        };
        t.set_options_raw(&options).unwrap();
        let (data, size) = payload(&mut rng, 20 + ip.options.len() + t.header_len());
        let n = compare(&kernel, &mut pool, &ip.tcp_header(t, &data), Gso { kind: GsoKind::Tcp4, size });
        total += n;
        single += usize::from(n == 1);
    }
    println!("{total} segments, {single} packets that needed no cut");
    assert!(total > 4000 && single > 0);
}

#[test]
fn udp_segments_are_the_kernels() {
    let (kernel, mut pool, mut rng) = (Kernel::new(), FramePool::new(128, 80).unwrap(), Rng(SEED + 1));
    let (mut total, mut zero) = (0, 0);
    for _ in 0..400 {
        let ip = ip(&mut rng);
        let (mut data, size) = payload(&mut rng, 20 + ip.options.len() + l4::UDP_HEADER);
        let gso = Gso { kind: GsoKind::Udp, size };
        let ports = (rng.next() as u16, rng.next() as u16);
        let make = |data: &[u8]| ip.udp(ports.0, ports.1, data);
        // Some get a segment whose checksum comes to zero, which is sent as all ones (RFC 768).
        if rng.chance(30) && size >= 2 && data.len() >= 2 {
            let at = rng.within(0, (data.len() - 2) / usize::from(size)) * usize::from(size);
            put16(&mut data, at, 0);
            let segment = &gathered(&make(&data), gso)[at / usize::from(size)];
            let check = be16(segment, ipv4::header_len(segment) + l4::UDP_CHECK);
            put16(&mut data, at, check);
            let segment = &gathered(&make(&data), gso)[at / usize::from(size)];
            zero += u32::from(be16(segment, ipv4::header_len(segment) + l4::UDP_CHECK) == 0xffff);
        }
        total += compare(&kernel, &mut pool, &make(&data), gso);
    }
    println!("{total} segments, {zero} checksums of zero");
    assert!(total > 4000 && zero > 50);
}
