//! Headers on and off, beside the two crates that a plain implementation would use; checksums, beside theirs; ARP;
//! software segmentation.
//!
//! `etherparse` builds the headers and copies the packet behind them, `smoltcp` writes into a buffer where the
//! packet already is; both compute every header anew, ours copies a prebuilt one and fixes what varies.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket};
use std::hint::black_box;
use std::time::Duration;
use support::{Encap, LINK, NODE, PEER, POD, POD_MAC, VTEP, node, packet, remote};
use tortie::arp;
use tortie::encap::{push, segment};
use tortie::fib::Adjacency;
use tortie::forward::decap;
use tortie::frame::{Batch, Csum, Frame, FramePool, Gso, GsoKind};
use tortie::snapshot::Tunnel;
use tortie::wire::{Mac, checksum, ether, flow, ipv4, put16, vxlan};

const SIZES: [usize; 3] = [64, 512, 1400];
const ETHER_IP_UDP_VXLAN: usize = 14 + 20 + 8 + 8;

fn load(pool: &mut FramePool, bytes: &[u8]) -> Frame {
    let mut f = pool.take_for(bytes.len()).expect("a slot");
    pool.room_mut(&f)[..bytes.len()].copy_from_slice(bytes);
    pool.set_len(&mut f, bytes.len());
    f
}

fn push(pool: &mut FramePool, f: &mut Frame, adj: &Adjacency, encap: Encap, id: u16) {
    match encap {
        Encap::Vxlan => push::vxlan_ethernet(pool, f, &adj.rewrite, 0, id),
        Encap::Ipip => push::ipip(pool, f, &adj.rewrite, 0, id),
    }
}

/// The tunnel packet as the remote node sends it to us.
fn received(inner: &[u8], encap: Encap) -> Vec<u8> {
    let mut pool = FramePool::new(1, 0).expect("memory");
    let mut f = load(&mut pool, inner);
    push(&mut pool, &mut f, &remote(encap, NODE), encap, 7);
    let mut bytes = pool.data(&f).to_vec();
    tortie::wire::put32(&mut bytes[14..], 12, PEER.into());
    ipv4::write_checksum(&mut bytes[14..]);
    bytes
}

fn encap(c: &mut Criterion) {
    let mut g = c.benchmark_group("encap");
    g.sample_size(30).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    let tunnel: Tunnel = node(&[], Encap::Vxlan).tunnel;
    let mut pool = FramePool::new(4, 0).expect("memory");
    for size in SIZES {
        let inner = packet(POD.into(), 0x0a00_0041, size);
        for (name, kind) in [("vxlan", Encap::Vxlan), ("ipip", Encap::Ipip)] {
            let adj = remote(kind, PEER);
            let mut f = load(&mut pool, &inner);
            let mut id = 0u16;
            let headers = adj.rewrite.as_slice().len();
            g.bench_function(format!("{name}/{size}"), |b| {
                b.iter(|| {
                    id = id.wrapping_add(1);
                    f.hash = flow::hash(pool.data(&f));
                    push(&mut pool, &mut f, black_box(&adj), kind, id);
                    black_box(pool.data(&f));
                    f.pull(headers);
                });
            });
            pool.give(f);
            let bytes = received(&inner, kind);
            let mut f = load(&mut pool, &bytes);
            g.bench_function(format!("{name}-decap/{size}"), |b| {
                b.iter(|| {
                    decap::ethernet(&mut pool, &mut f, black_box(&tunnel)).expect("a good packet");
                    black_box(pool.data(&f));
                    pool.push(&mut f, headers);
                });
            });
            pool.give(f);
        }
        others(&mut g, size, &inner);
    }
    g.finish();
}

fn others(g: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>, size: usize, inner: &[u8]) {
    let mut payload = vec![0u8; vxlan::HEADER + ether::HEADER];
    vxlan::write(&mut payload, vxlan::Vni::CALICO);
    ether::write(&mut payload[8..], VTEP.dst, VTEP.src, ether::TYPE_IPV4);
    payload.extend_from_slice(inner);
    let mut out = Vec::with_capacity(2048);
    g.bench_function(format!("vxlan-etherparse/{size}"), |b| {
        b.iter(|| {
            out.clear();
            let builder = PacketBuilder::ethernet2(LINK.src.0, LINK.dst.0)
                .ipv4(black_box(NODE).octets(), PEER.octets(), 64)
                .udp(flow::source_port(flow::hash(&payload[22..])), 4789);
            builder.write(&mut out, &payload).expect("fits");
            black_box(&out);
        });
    });
    let mut buffer = vec![0u8; ETHER_IP_UDP_VXLAN - 8];
    buffer.extend_from_slice(&payload);
    g.bench_function(format!("vxlan-smoltcp/{size}"), |b| b.iter(|| smoltcp_emit(black_box(&mut buffer), inner)));
}

/// Ethernet, IPv4, UDP, VXLAN and inner Ethernet with smoltcp's setters; UDP checksum zero as ours.
fn smoltcp_emit(buffer: &mut [u8], inner: &[u8]) {
    let caps = ChecksumCapabilities::default();
    let behind_ip = buffer.len() - 34;
    let ethernet =
        EthernetRepr { src_addr: EthernetAddress(LINK.src.0), dst_addr: EthernetAddress(LINK.dst.0), ethertype: EthernetProtocol::Ipv4 };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut buffer[..]));
    let ip = Ipv4Repr { src_addr: NODE, dst_addr: PEER, next_header: IpProtocol::Udp, payload_len: behind_ip, hop_limit: 64 };
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut buffer[14..]), &caps);
    let mut udp = UdpPacket::new_unchecked(&mut buffer[34..]);
    udp.set_src_port(flow::source_port(flow::hash(inner)));
    udp.set_dst_port(4789);
    udp.set_len(behind_ip as u16);
    udp.set_checksum(0);
    vxlan::write(&mut buffer[42..], vxlan::Vni::CALICO);
    let inner_ethernet =
        EthernetRepr { src_addr: EthernetAddress(VTEP.src.0), dst_addr: EthernetAddress(VTEP.dst.0), ethertype: EthernetProtocol::Ipv4 };
    inner_ethernet.emit(&mut EthernetFrame::new_unchecked(&mut buffer[50..]));
}

fn arp_answer(c: &mut Criterion) {
    let mut g = c.benchmark_group("arp");
    g.sample_size(30).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    let mut request = [0u8; 64];
    arp::request(&mut request, arp::GATEWAY.into());
    request[22..28].copy_from_slice(&POD_MAC.0);
    request[28..32].copy_from_slice(&POD.octets());
    let mut frame = request;
    g.bench_function("answer", |b| {
        b.iter(|| {
            frame = black_box(request);
            let a = arp::parse(&frame).expect("a request");
            assert_eq!(arp::judge(&a, |x| x == u32::from(POD)), Ok(arp::Verdict::Answer));
            arp::answer(&mut frame, &a, Mac::GATEWAY);
            black_box(&frame);
        });
    });
    g.finish();
}

fn segmentation(c: &mut Criterion) {
    const LEN: usize = 65_480;
    let mut g = c.benchmark_group("segment");
    g.sample_size(30).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    let mut whole = packet(POD.into(), 0x0a00_0041, LEN);
    whole[9] = ipv4::PROTO_TCP;
    whole[20..40].fill(0);
    put16(&mut whole, 32, 0x5010);
    ipv4::write_checksum(&mut whole);
    let mut pool = FramePool::new(64, 1).expect("memory");
    let mut out = Batch::with_capacity(64);
    g.throughput(Throughput::Bytes(LEN as u64));
    // The super-frame is written into its slot for each round, as a receive would: `copy` is that alone.
    let take = |pool: &mut FramePool| {
        let mut f = load(pool, &whole);
        f.gso = Some(Gso { kind: GsoKind::Tcp4, size: 1398 });
        f.csum = Csum::Partial { start: f.head() + 20, offset: 16 };
        f
    };
    g.bench_function("copy-64k", |b| {
        b.iter(|| {
            let f = take(&mut pool);
            black_box(pool.data(&f));
            pool.give(f);
        });
    });
    g.bench_function("segment-into-64k", |b| {
        b.iter(|| {
            let f = take(&mut pool);
            let done = segment::segment_into(&mut pool, f, |s| out.push(s)).expect("can be segmented");
            assert_eq!(done.made, 47);
            pool.give_all(&mut out);
        });
    });
    g.finish();
    assert!(pool.is_full());
}

/// One's-complement sums over data in the cache, beside both crates' and the loop of RFC 1071.
fn checksums(c: &mut Criterion) {
    let mut g = c.benchmark_group("checksum");
    g.sample_size(30).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    for len in [20, 64, 1460, 65_000] {
        g.throughput(Throughput::Bytes(len as u64));
        // As a UDP packet, which is how smoltcp takes it.
        let mut bytes = vec![0x5au8; len];
        put16(&mut bytes, 4, len as u16);
        g.bench_function(format!("sum/{len}"), |b| b.iter(|| checksum::fold(checksum::sum(black_box(&bytes)))));
        g.bench_function(format!("smoltcp/{len}"), |b| {
            let (src, dst) = (NODE.into(), PEER.into());
            b.iter(|| UdpPacket::new_unchecked(black_box(&bytes[..])).verify_checksum(&src, &dst));
        });
        g.bench_function(format!("etherparse/{len}"), |b| {
            b.iter(|| etherparse::checksum::Sum16BitWords::new().add_slice(black_box(&bytes)).ones_complement());
        });
        g.bench_function(format!("loop/{len}"), |b| b.iter(|| plain_sum(black_box(&bytes))));
    }
    g.finish();
}

/// RFC 1071, section 4.1.
fn plain_sum(data: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in data.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

criterion_group!(benches, encap, checksums, arp_answer, segmentation);
criterion_main!(benches);
