//! Software segmentation of super-frames (GSO): what a device with TSO or USO would put on the wire.
//!
//! [`Segments`] answers where each segment's payload lies and writes its headers, so that a port that gathers
//! sends without copying the payload; [`segment_into`] makes ordinary frames for ports that cannot gather.
//! Header treatment is that of Linux's `tcp_gso_segment`, `__udp_gso_segment` and `inet_gso_segment`.

use crate::drop::DropReason;
use crate::frame::{Csum, Frame, FramePool, Gso, GsoKind, HEADROOM};
use crate::wire::{be32, checksum, ipv4, l4, put16, put32};
use std::ops::Range;

/// Longest headers of a segment: IPv4 and TCP, both with all their options, bytes.
pub const HEADER_MAX: usize = 60 + 60;

const TCP_HEADER: usize = 20;
const TCP_SEQ: usize = 4;
const TCP_DATA_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The segmentation of one super-frame. Holds numbers only; the packet is passed to [`Segments::write_header`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    ip_header: usize,
    header: usize,
    total: usize,
    size: usize,
    count: usize,
    udp: bool,
}

impl Segments {
    /// Plans the segmentation of `packet`, which starts at an IPv4 header; bytes behind its total length are
    /// ignored. A payload that fits one segment gives one, an empty one too.
    ///
    /// [`DropReason::SegmentFailed`]: not IPv4, a fragment, another protocol than `gso.kind` says, headers that
    /// do not fit, a segment size of zero, or SYN set (a sequence number that segments cannot repeat).
    pub fn new(packet: &[u8], gso: Gso) -> Result<Segments, DropReason> {
        Segments::plan(packet, gso).ok_or(DropReason::SegmentFailed)
    }

    fn plan(p: &[u8], gso: Gso) -> Option<Segments> {
        if p.len() < ipv4::HEADER || p[0] >> 4 != 4 || gso.size == 0 {
            return None;
        }
        let (ip_header, total) = (ipv4::header_len(p), ipv4::total_len(p));
        if ip_header < ipv4::HEADER || total > p.len() || ipv4::is_fragment(p) {
            return None;
        }
        let l4_header = match (gso.kind, ipv4::proto(p)) {
            (GsoKind::Tcp4, ipv4::PROTO_TCP) if total >= ip_header + TCP_HEADER => {
                let len = usize::from(p[ip_header + TCP_DATA_OFFSET] >> 4) * 4;
                if len < TCP_HEADER || p[ip_header + TCP_FLAGS] & SYN != 0 {
                    return None;
                }
                len
            }
            (GsoKind::Udp, ipv4::PROTO_UDP) => l4::UDP_HEADER,
            _ => return None,
        };
        let header = ip_header + l4_header;
        let payload = total.checked_sub(header)?;
        let size = usize::from(gso.size);
        Some(Segments { ip_header, header, total, size, count: payload.div_ceil(size).max(1), udp: gso.kind == GsoKind::Udp })
    }

    /// How many segments there are; at least one.
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of IP and L4 header that every segment has.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        self.header
    }

    /// Where segment `i`'s payload lies in the packet. Empty beyond the last segment.
    #[inline(always)]
    pub fn payload(&self, i: usize) -> Range<usize> {
        let start = (self.header + i * self.size).min(self.total);
        start..(start + self.size).min(self.total)
    }

    /// Segment `i`'s length from the IP header on, bytes.
    #[inline(always)]
    pub fn segment_len(&self, i: usize) -> usize {
        self.header + self.payload(i).len()
    }

    /// Writes segment `i`'s headers into the first [`Segments::header_len`] bytes of `out`: lengths, IP
    /// identification (counted up, as Linux does), TCP sequence number and flags (FIN and PSH on the last
    /// segment only, CWR on the first only), header checksum and a complete L4 checksum over the payload in
    /// `packet`, whatever the super-frame's own checksum field held.
    ///
    /// `packet` is the one given to [`Segments::new`]; panics if it or `out` is shorter than the headers.
    pub fn write_header(&self, i: usize, packet: &[u8], out: &mut [u8]) {
        let h = &mut out[..self.header];
        h.copy_from_slice(&packet[..self.header]);
        let payload = &packet[self.payload(i)];
        put16(h, 2, (self.header + payload.len()) as u16);
        put16(h, 4, ipv4::id(packet).wrapping_add(i as u16));
        ipv4::write_checksum(h);
        let l4_len = self.header - self.ip_header + payload.len();
        let pseudo = checksum::pseudo_v4(ipv4::src(h), ipv4::dst(h), ipv4::proto(h), l4_len as u32);
        let t = &mut h[self.ip_header..];
        let field = if self.udp {
            put16(t, 4, l4_len as u16);
            l4::UDP_CHECK
        } else {
            self.write_tcp(i, t);
            l4::TCP_CHECK
        };
        put16(t, field, 0);
        // Headers are of even length, so the payload's words are aligned with the header's.
        let c = checksum::finish(pseudo + checksum::sum(t) + checksum::sum(payload));
        put16(t, field, if self.udp && c == 0 { 0xffff } else { c });
    }

    fn write_tcp(&self, i: usize, t: &mut [u8]) {
        put32(t, TCP_SEQ, be32(t, TCP_SEQ).wrapping_add((i * self.size) as u32));
        if i > 0 {
            t[TCP_FLAGS] &= !CWR;
        }
        if i + 1 < self.count {
            t[TCP_FLAGS] &= !(FIN | PSH);
        }
    }
}

/// What became of a super-frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segmented {
    /// Segments handed to the sink.
    pub made: u32,
    /// Segments for which the pool had no slot ([`DropReason::PoolEmpty`]); always the last ones.
    pub lost: u32,
}

/// Splits `frame`, whose bytes start at an IPv4 header, into ordinary frames with [`HEADROOM`] free bytes in
/// front, handed to `sink` in order. They inherit port, peer, hash and outer TOS; their checksums are complete.
/// The frame's own slot is given back, also on error; a frame that needs no splitting keeps its slot.
///
/// A frame without `gso` fails like one that cannot be segmented.
pub fn segment_into(pool: &mut FramePool, mut frame: Frame, mut sink: impl FnMut(Frame)) -> Result<Segmented, DropReason> {
    let plan = frame.gso.ok_or(DropReason::SegmentFailed).and_then(|gso| Segments::new(pool.data(&frame), gso));
    let segments = match plan {
        Ok(s) => s,
        Err(reason) => {
            pool.give(frame);
            return Err(reason);
        }
    };
    frame.csum = Csum::Complete;
    frame.gso = None;
    let count = segments.count() as u32;
    if count == 1 {
        let mut header = [0u8; HEADER_MAX];
        segments.write_header(0, pool.data(&frame), &mut header);
        frame.truncate(segments.segment_len(0));
        pool.data_mut(&frame)[..segments.header].copy_from_slice(&header[..segments.header]);
        sink(frame);
        return Ok(Segmented { made: 1, lost: 0 });
    }
    let mut made = 0;
    while made < count {
        let Some(segment) = copy_segment(pool, &mut frame, &segments, made as usize) else { break };
        sink(segment);
        made += 1;
    }
    pool.give(frame);
    Ok(Segmented { made, lost: count - made })
}

/// Segment `i` in a slot of its own; `None` when the pool has none. `frame` is unchanged afterwards.
fn copy_segment(pool: &mut FramePool, frame: &mut Frame, segments: &Segments, i: usize) -> Option<Frame> {
    let mut segment = pool.take_for(segments.segment_len(i))?;
    let mut header = [0u8; HEADER_MAX];
    segments.write_header(i, pool.data(frame), &mut header);
    pool.set_head(&mut segment, HEADROOM + segments.header);
    // Narrow the frame to the payload for the copy, then widen it again.
    let (payload, whole) = (segments.payload(i), frame.len());
    frame.pull(payload.start);
    frame.truncate(payload.len());
    let copied = pool.copy(frame, &mut segment);
    pool.set_len(frame, whole - payload.start);
    pool.push(frame, payload.start);
    if copied.is_none() {
        pool.give(segment);
        return None;
    }
    pool.push(&mut segment, segments.header)[..segments.header].copy_from_slice(&header[..segments.header]);
    Some(segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PortId;
    use crate::wire::be16;
    use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv4Options, PacketBuilder, TcpHeader, UdpHeader};
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn ip(id: u16, options: &[u8]) -> Ipv4Header {
        let mut h = Ipv4Header::new(0, 64, IpNumber::TCP, [10, 244, 1, 2], [10, 244, 2, 3]).unwrap();
        h.identification = id;
        h.dscp = 10.try_into().unwrap();
        h.options = Ipv4Options::try_from(options).unwrap();
        h
    }

    fn tcp(seq: u32, options: &[u8], last: bool, first: bool) -> TcpHeader {
        let mut t = TcpHeader::new(40000, 5001, seq, 4096);
        (t.ack, t.acknowledgment_number) = (true, 77);
        (t.fin, t.psh, t.cwr, t.ece) = (last, last, first, true);
        t.set_options_raw(options).unwrap();
        t
    }

    fn tcp_packet(id: u16, ip_options: &[u8], t: TcpHeader, payload: &[u8]) -> Vec<u8> {
        let b = PacketBuilder::ip(IpHeaders::Ipv4(ip(id, ip_options), Default::default())).tcp_header(t);
        let mut out = Vec::new();
        b.write(&mut out, payload).unwrap();
        out
    }

    fn udp_packet(id: u16, payload: &[u8]) -> Vec<u8> {
        let header = PacketBuilder::ip(IpHeaders::Ipv4(ip(id, &[]), Default::default()));
        let mut out = Vec::new();
        header.udp(4000, 5000).write(&mut out, payload).unwrap();
        out
    }

    fn bytes(n: usize, seed: u8) -> Vec<u8> {
        (0..n).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8).collect()
    }

    /// Each segment as the planner and header writer make it.
    fn split(packet: &[u8], gso: Gso) -> Vec<Vec<u8>> {
        let s = Segments::new(packet, gso).unwrap();
        (0..s.count())
            .map(|i| {
                let mut out = vec![0xaa; s.header_len()];
                s.write_header(i, packet, &mut out);
                out.extend_from_slice(&packet[s.payload(i)]);
                assert_eq!(out.len(), s.segment_len(i));
                out
            })
            .collect()
    }

    /// Spoils the L4 checksum: segmentation must not depend on it.
    fn unfinished(mut packet: Vec<u8>, field: usize) -> Vec<u8> {
        put16(&mut packet, field, 0x1234);
        packet
    }

    #[test]
    fn tcp_segments_equal_independent_ones() {
        let options = [1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7]; // NOP, NOP, timestamps (RFC 7323)
        for (ip_options, len, size) in [(&[][..], 60_000, 1398), (&[1, 1, 1, 0], 3001, 1000), (&[], 2000, 1000), (&[], 7, 1)] {
            let data = bytes(len, 3);
            let seq = u32::MAX - 1500; // wraps within the super-frame
            let whole = tcp_packet(65_530, ip_options, tcp(seq, &options, true, true), &data);
            let field = 20 + ip_options.len() + l4::TCP_CHECK;
            let got = split(&unfinished(whole, field), Gso { kind: GsoKind::Tcp4, size: size as u16 });
            let chunks: Vec<_> = data.chunks(size).collect();
            assert_eq!(got.len(), chunks.len());
            for (i, chunk) in chunks.iter().enumerate() {
                let t = tcp(seq.wrapping_add((i * size) as u32), &options, i + 1 == chunks.len(), i == 0);
                assert_eq!(got[i], tcp_packet(65_530u16.wrapping_add(i as u16), ip_options, t, chunk), "segment {i} of {len}/{size}");
            }
        }
    }

    #[test]
    fn udp_segments_equal_independent_ones() {
        for (len, size) in [(64_000, 1400), (1401, 700), (5, 5)] {
            let data = bytes(len, 9);
            let got = split(&unfinished(udp_packet(7, &data), 20 + l4::UDP_CHECK), Gso { kind: GsoKind::Udp, size: size as u16 });
            let expected: Vec<_> = data.chunks(size).enumerate().map(|(i, c)| udp_packet(7 + i as u16, c)).collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn udp_checksum_zero_is_sent_as_ones() {
        // Find the payload word that makes the sum all ones.
        let mut packet = udp_packet(1, &[0, 0, 9, 9]);
        let mut trial = packet.clone();
        l4::write(&mut trial, 32);
        let c = be16(&trial, 26);
        put16(&mut packet, 28, c);
        let got = split(&packet, Gso { kind: GsoKind::Udp, size: 4 });
        assert_eq!(be16(&got[0], 26), 0xffff);
        let (u, _) = UdpHeader::from_slice(&got[0][20..]).unwrap();
        assert_eq!(u.length, 12);
    }

    #[test]
    fn one_segment_and_none() {
        let packet = tcp_packet(1, &[], tcp(5, &[], true, true), &bytes(100, 1));
        let gso = |size| Gso { kind: GsoKind::Tcp4, size };
        for size in [100, 101, u16::MAX] {
            assert_eq!(split(&packet, gso(size)), vec![packet.clone()]);
        }
        let empty = tcp_packet(1, &[], tcp(5, &[], true, true), &[]);
        assert_eq!(split(&empty, gso(1400)), vec![empty.clone()]);
        let mut padded = packet.clone();
        padded.extend_from_slice(&[0; 6]);
        assert_eq!(split(&padded, gso(60)).concat().len(), 100 + 2 * 40);
    }

    #[test]
    fn what_cannot_be_segmented_is_refused() {
        let gso = Gso { kind: GsoKind::Tcp4, size: 100 };
        let good = tcp_packet(1, &[], tcp(5, &[], false, false), &bytes(300, 1));
        let refused = |p: &[u8], gso| assert_eq!(Segments::new(p, gso), Err(DropReason::SegmentFailed));
        assert_eq!(Segments::new(&good, gso).unwrap().count(), 3);
        refused(&good, Gso { size: 0, ..gso });
        refused(&good, Gso { kind: GsoKind::Udp, ..gso });
        refused(&good, Gso { kind: GsoKind::Tcp6, ..gso });
        refused(&good[..good.len() - 1], gso);
        for end in 0..41 {
            refused(&good[..end.min(good.len())], gso);
        }
        for (at, value) in [(0, 0x65), (0, 0x44), (6, 0x20), (7, 0x01), (9, 47), (32, 0x40), (33, 0x02)] {
            let mut bad = good.clone();
            bad[at] = value;
            refused(&bad, gso);
        }
        // Headers that claim more than the packet's total length.
        let mut short = tcp_packet(1, &[], tcp(5, &[], false, false), &[]);
        short[32] = 0xf0;
        refused(&short, gso);
        let mut tiny = udp_packet(1, &[]);
        put16(&mut tiny, 2, 27);
        refused(&tiny, Gso { kind: GsoKind::Udp, size: 5 });
    }

    fn super_frame(pool: &mut FramePool, packet: &[u8], gso: Gso) -> Frame {
        let mut f = pool.take_big().unwrap();
        pool.room_mut(&f)[..packet.len()].copy_from_slice(packet);
        pool.set_len(&mut f, packet.len());
        f.port = PortId(3);
        f.peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        f.hash = 99;
        f.outer_tos = 1;
        f.csum = Csum::Partial { start: f.head() + 20, offset: 16 };
        f.gso = Some(gso);
        f
    }

    #[test]
    fn frames_carry_metadata_and_headroom_and_the_slot_returns() {
        let mut pool = FramePool::new(8, 1).unwrap();
        let gso = Gso { kind: GsoKind::Tcp4, size: 1000 };
        let packet = tcp_packet(1, &[], tcp(5, &[], true, true), &bytes(2500, 1));
        let f = super_frame(&mut pool, &packet, gso);
        let mut out = Vec::new();
        assert_eq!(segment_into(&mut pool, f, |f| out.push(f)), Ok(Segmented { made: 3, lost: 0 }));
        assert_eq!(pool.free(), (5, 1));
        for (f, expected) in out.iter().zip(split(&packet, gso)) {
            assert_eq!(pool.data(f), expected);
            assert_eq!((f.head() as usize, f.port, f.hash, f.outer_tos), (HEADROOM, PortId(3), 99, 1));
            assert_eq!((f.csum, f.gso, f.peer), (Csum::Complete, None, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))));
        }
        out.into_iter().for_each(|f| pool.give(f));
        assert!(pool.is_full());
    }

    #[test]
    fn an_empty_pool_loses_the_tail_and_an_error_loses_no_slot() {
        let mut pool = FramePool::new(2, 1).unwrap();
        let packet = tcp_packet(1, &[], tcp(5, &[], true, true), &bytes(5000, 1));
        let f = super_frame(&mut pool, &packet, Gso { kind: GsoKind::Tcp4, size: 1000 });
        let mut out = Vec::new();
        assert_eq!(segment_into(&mut pool, f, |f| out.push(f)), Ok(Segmented { made: 2, lost: 3 }));
        assert_eq!(be32(pool.data(&out[1]), 20 + TCP_SEQ), 1005);
        out.drain(..).for_each(|f| pool.give(f));
        let f = super_frame(&mut pool, &packet, Gso { kind: GsoKind::Udp, size: 1000 });
        assert_eq!(segment_into(&mut pool, f, |_| unreachable!()), Err(DropReason::SegmentFailed));
        let mut f = super_frame(&mut pool, &packet, Gso { kind: GsoKind::Tcp4, size: 5000 });
        f.gso = None;
        assert_eq!(segment_into(&mut pool, f, |_| unreachable!()), Err(DropReason::SegmentFailed));
        let f = super_frame(&mut pool, &packet, Gso { kind: GsoKind::Tcp4, size: 5000 });
        assert_eq!(segment_into(&mut pool, f, |f| out.push(f)), Ok(Segmented { made: 1, lost: 0 }));
        assert_eq!(pool.data(&out[0]), packet);
        out.drain(..).for_each(|f| pool.give(f));
        assert!(pool.is_full());
    }

    proptest! {
        #[test]
        fn payloads_reassemble_and_checksums_verify(
            data in proptest::collection::vec(any::<u8>(), 0..5000), size in 1u16.., id: u16, seq: u32, opts in 0usize..=10, udp: bool,
        ) {
            let size = size % 1800 + 1;
            let (packet, kind) = if udp {
                (udp_packet(id, &data), GsoKind::Udp)
            } else {
                (tcp_packet(id, &[], tcp(seq, &vec![1; opts * 4], true, true), &data), GsoKind::Tcp4)
            };
            let s = Segments::new(&packet, Gso { kind, size }).unwrap();
            let mut joined = Vec::new();
            for (i, p) in split(&packet, Gso { kind, size }).iter().enumerate() {
                prop_assert_eq!(ipv4::validate(p), Ok(p.len()));
                prop_assert!(l4::verify(p, p.len()));
                prop_assert!(p.len() - s.header_len() == usize::from(size) || i + 1 == s.count());
                joined.extend_from_slice(&p[s.header_len()..]);
            }
            prop_assert_eq!(joined, data);
        }

        #[test]
        fn arbitrary_bytes_never_panic(p in proptest::collection::vec(any::<u8>(), 0..200), first in 0x40u8..0x50, udp: bool, size: u16) {
            let mut p = p;
            if p.len() > 9 {
                p[0] = first;
                p[9] = if udp { ipv4::PROTO_UDP } else { ipv4::PROTO_TCP };
                let len = p.len() as u16;
                put16(&mut p, 2, len);
                put16(&mut p, 6, 0);
            }
            let kind = if udp { GsoKind::Udp } else { GsoKind::Tcp4 };
            if let Ok(s) = Segments::new(&p, Gso { kind, size }) {
                let mut out = [0u8; HEADER_MAX];
                (0..s.count()).for_each(|i| s.write_header(i, &p, &mut out));
            }
        }
    }
}
