//! Joining of packets into super-frames (GRO): the reverse of [`super::segment`], for ports that take
//! super-frames and unfinished checksums. A pod's stack is entered once per super-frame, not once per segment.
//!
//! What may be joined follows Linux's `tcp_gro_receive`, `udp_gro_receive_segment` and `inet_gro_receive`. Only
//! packets of the burst at hand are joined: none waits for company. Packets of one flow never change places.

use crate::fib::AdjId;
use crate::frame::{BURST, Csum, Frame, FramePool, Gso, GsoKind, GsoSet};
use crate::wire::{be16, be32, checksum, flow, ipv4, l4, put16};

/// Most segments in one super-frame: what Linux joins of UDP, and more than a burst has of anything.
const SEGMENTS_MAX: u16 = 64;
/// Longest super-frame: an IPv4 packet that leaves room for the outer headers in one that is as long as they get.
const LENGTH_MAX: usize = u16::MAX as usize - 64;
/// Entries of the table that finds a flow's last train; two flows of a burst seldom share one.
const BUCKETS: usize = 1024;

const TCP_HEADER: usize = 20;
/// Offsets from the IP header, which has no options here.
const TCP_SEQ: usize = ipv4::HEADER + 4;
const TCP_ACK: usize = ipv4::HEADER + 8;
/// Data offset, flags and window, in one word.
const TCP_WORD: usize = ipv4::HEADER + 12;
const TCP_FLAGS: usize = ipv4::HEADER + 13;
const TCP_URGENT: usize = ipv4::HEADER + 18;
const UDP_LENGTH: usize = ipv4::HEADER + 4;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;
/// The bits of [`TCP_WORD`] that may differ between segments.
const WORD_MAY_DIFFER: u32 = ((CWR | FIN | PSH) as u32) << 16;

/// The packets of a burst on their way to ports that take super-frames, in order of arrival, those that follow
/// each other joined.
#[derive(Default)]
pub struct Trains {
    trains: Vec<Train>,
    /// By hash of the flow: one more than the index of the last train there, or zero.
    last: Vec<u8>,
    /// Trains before this index take no more: a fragment of unknown flow came after them.
    barrier: usize,
}

/// One packet, or several that were joined.
pub struct Train {
    frame: Frame,
    adj: AdjId,
    bucket: u16,
    count: u16,
    /// What the next segment must look like; `None` if there can be none.
    open: Option<Next>,
    kind: GsoKind,
    /// Payload bytes of the first segment.
    size: u16,
    /// FIN and PSH, which only the last segment may have.
    flags: u8,
}

struct Next {
    /// IP and L4 header bytes.
    header: usize,
    /// TCP sequence number; zero for UDP.
    seq: u32,
    /// IP identification of the segment before.
    id: u16,
    /// Whether the first segment's checksum was found right.
    verified: bool,
}

/// A packet that may be part of a super-frame.
#[derive(Clone, Copy)]
struct Segment {
    kind: GsoKind,
    header: usize,
    payload: usize,
    seq: u32,
    flags: u8,
    id: u16,
}

impl Segment {
    /// `None` for what is never joined: super-frames, fragments, IP options, other protocols, packets without
    /// payload and UDP without a checksum.
    #[inline(always)]
    fn of(p: &[u8], f: &Frame, takes: GsoSet) -> Option<Segment> {
        let plain = f.gso.is_none() && p[0] == 0x45 && ipv4::frag_word(p) & !ipv4::DF == 0 && ipv4::total_len(p) == p.len();
        if !plain {
            return None;
        }
        let id = ipv4::id(p);
        match ipv4::proto(p) {
            ipv4::PROTO_TCP if takes.tcp4 && p.len() >= ipv4::HEADER + TCP_HEADER => {
                let tcp = usize::from(p[TCP_WORD] >> 4) * 4;
                let header = ipv4::HEADER + tcp;
                let flags = p[TCP_FLAGS];
                let fits = tcp >= TCP_HEADER && p.len() > header && flags & (SYN | RST | URG | ACK) == ACK && located(f, l4::TCP_CHECK);
                fits.then(|| Segment { kind: GsoKind::Tcp4, header, payload: p.len() - header, seq: be32(p, TCP_SEQ), flags, id })
            }
            ipv4::PROTO_UDP if takes.udp => {
                let header = ipv4::HEADER + l4::UDP_HEADER;
                let fits = p.len() > header
                    && usize::from(be16(p, UDP_LENGTH)) == p.len() - ipv4::HEADER
                    && be16(p, ipv4::HEADER + l4::UDP_CHECK) != 0
                    && located(f, l4::UDP_CHECK);
                fits.then(|| Segment { kind: GsoKind::Udp, header, payload: p.len() - header, seq: 0, flags: 0, id })
            }
            _ => None,
        }
    }

    /// Sequence number of the segment behind it; zero for UDP.
    #[inline(always)]
    fn next_seq(&self) -> u32 {
        if self.kind == GsoKind::Udp { 0 } else { self.seq.wrapping_add(self.payload as u32) }
    }

    /// Whether another may follow behind it.
    #[inline(always)]
    fn may_be_followed(&self) -> bool {
        self.flags & (FIN | PSH) == 0
    }
}

/// Whether the checksum's state is known and about the packet's own L4 checksum.
#[inline(always)]
fn located(f: &Frame, field: usize) -> bool {
    match f.csum {
        Csum::Complete => true,
        Csum::Partial { start, offset } => start == f.head() + ipv4::HEADER as u32 && usize::from(offset) == field,
        Csum::MayBePartial => false,
    }
}

/// Whether the checksum is right; an unfinished one is, as far as anybody can tell.
#[inline(always)]
fn right(p: &[u8], csum: Csum) -> bool {
    csum != Csum::Complete || l4::verify(p, p.len())
}

impl Trains {
    /// Space for one burst, reserved once.
    pub fn new() -> Trains {
        Trains { trains: Vec::with_capacity(BURST), last: vec![0; BUCKETS], barrier: 0 }
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// Whether [`Trains::drain`] must come before the next packet.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.trains.len() == BURST
    }

    /// Takes a packet that starts at a validated IPv4 header, its checksum state not
    /// [`Csum::MayBePartial`], for an adjacency that takes the super-frames `takes`. True if it was joined to one
    /// before it: then its slot is back in the pool.
    #[inline]
    pub fn add(&mut self, pool: &mut FramePool, f: Frame, adj: AdjId, takes: GsoSet) -> bool {
        let p = pool.data(&f);
        let bucket = flow::hash(p) as usize % BUCKETS;
        let segment = Segment::of(p, &f, takes);
        let fragment = ipv4::is_fragment(p);
        let before = usize::from(self.last[bucket]);
        if let Some(s) = segment
            && before > self.barrier
            && self.trains[before - 1].join(pool, &f, s)
        {
            pool.give(f);
            return true;
        }
        self.trains.push(Train::new(f, adj, bucket, segment));
        self.last[bucket] = self.trains.len() as u8;
        if fragment {
            self.barrier = self.trains.len();
        }
        false
    }

    /// Removes and returns all trains, in the order of their first packets; each is to be
    /// [finished](Train::finish).
    #[inline(always)]
    pub fn drain(&mut self) -> std::vec::Drain<'_, Train> {
        for t in &self.trains {
            self.last[usize::from(t.bucket)] = 0;
        }
        self.barrier = 0;
        self.trains.drain(..)
    }
}

impl Train {
    #[inline(always)]
    fn new(frame: Frame, adj: AdjId, bucket: usize, segment: Option<Segment>) -> Train {
        let next = |s: Segment| Next { header: s.header, seq: s.next_seq(), id: s.id, verified: false };
        Train {
            frame,
            adj,
            bucket: bucket as u16,
            count: 1,
            open: segment.filter(Segment::may_be_followed).map(next),
            kind: segment.map_or(GsoKind::Tcp4, |s| s.kind),
            size: segment.map_or(0, |s| s.payload as u16),
            flags: 0,
        }
    }

    /// Appends the packet if it is the next segment.
    #[inline]
    fn join(&mut self, pool: &mut FramePool, f: &Frame, s: Segment) -> bool {
        let Some(next) = &mut self.open else { return false };
        let length = self.frame.len() + s.payload;
        let (first, p) = (pool.data(&self.frame), pool.data(f));
        let follows = s.kind == self.kind
            && s.header == next.header
            && s.seq == next.seq
            && s.payload <= usize::from(self.size)
            && length <= LENGTH_MAX
            && same_flow(first, p)
            && (ipv4::dont_fragment(p) || s.id == next.id.wrapping_add(1))
            && (s.kind == GsoKind::Udp || same_tcp(first, p, s));
        if !follows || !right(p, f.csum) {
            return false;
        }
        next.verified = next.verified || right(first, self.frame.csum);
        if !next.verified || !make_room(pool, &mut self.frame, length) {
            self.open = None;
            return false;
        }
        pool.copy_range(f, &mut self.frame, length - s.payload, s.header..s.header + s.payload);
        self.count += 1;
        self.flags = s.flags & (FIN | PSH);
        next.id = s.id;
        next.seq = s.next_seq();
        if s.payload < usize::from(self.size) || !s.may_be_followed() || self.count == SEGMENTS_MAX {
            self.open = None;
        }
        true
    }

    /// The packet as it is, or the super-frame with lengths, flags and the unfinished checksum in place; and the
    /// adjacency it was added for.
    #[inline]
    pub fn finish(self, pool: &mut FramePool) -> (Frame, AdjId) {
        let mut f = self.frame;
        if self.count > 1 {
            let p = pool.data_mut(&f);
            let total = p.len();
            put16(p, 2, total as u16);
            ipv4::write_checksum(p);
            let offset = if self.kind == GsoKind::Udp {
                put16(p, UDP_LENGTH, (total - ipv4::HEADER) as u16);
                l4::UDP_CHECK
            } else {
                p[TCP_FLAGS] |= self.flags;
                l4::TCP_CHECK
            };
            let seed = checksum::fold(l4::pseudo(p, total));
            put16(p, ipv4::HEADER + offset, seed);
            f.csum = Csum::Partial { start: f.head() + ipv4::HEADER as u32, offset: offset as u16 };
            f.gso = Some(Gso { kind: self.kind, size: self.size });
        }
        (f, self.adj)
    }
}

/// TOS, DF, TTL, protocol, addresses and ports.
#[inline(always)]
fn same_flow(a: &[u8], b: &[u8]) -> bool {
    a[1] == b[1] && a[6..10] == b[6..10] && a[12..24] == b[12..24]
}

/// Acknowledgement, header length, flags, window, urgent pointer and options (so timestamps, too), with what
/// Linux lets differ: FIN and PSH, which end a train, and CWR on the first.
#[inline(always)]
fn same_tcp(first: &[u8], p: &[u8], s: Segment) -> bool {
    first[TCP_ACK..TCP_WORD] == p[TCP_ACK..TCP_WORD]
        && (be32(first, TCP_WORD) ^ be32(p, TCP_WORD)) & !WORD_MAY_DIFFER == 0
        && s.flags & CWR == 0
        && first[TCP_URGENT..s.header] == p[TCP_URGENT..s.header]
}

/// Moves the frame to a big slot if its own cannot hold `length` bytes; false if there is none.
#[inline(always)]
fn make_room(pool: &mut FramePool, f: &mut Frame, length: usize) -> bool {
    if length <= pool.capacity(f) {
        return true;
    }
    let Some(mut big) = pool.take_big() else { return false };
    if pool.copy(f, &mut big).is_none() {
        pool.give(big);
        return false;
    }
    pool.give(std::mem::replace(f, big));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encap::segment::segment_into;
    use etherparse::{PacketBuilder, TcpHeader};
    use proptest::prelude::*;

    const ADJ: AdjId = AdjId::NO_ROUTE;
    const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7];

    fn header(seq: u32) -> TcpHeader {
        let mut t = TcpHeader::new(40000, 5001, seq, 4096);
        (t.ack, t.acknowledgment_number) = (true, 77);
        t
    }

    fn tcp(id: u16, t: TcpHeader, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 63).tcp_header(t).write(&mut out, payload).unwrap();
        put16(&mut out, 4, id);
        put16(&mut out, 6, 0);
        ipv4::write_checksum(&mut out);
        out
    }

    fn udp(from: u16, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 63).udp(from, 53).write(&mut out, payload).unwrap();
        put16(&mut out, 4, id);
        put16(&mut out, 6, 0);
        ipv4::write_checksum(&mut out);
        out
    }

    /// Segments of 1000 bytes from sequence number 0 on.
    fn stream(n: u16) -> Vec<Vec<u8>> {
        (0..n).map(|i| tcp(i, header(u32::from(i) * 1000), &[i as u8; 1000])).collect()
    }

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 31 + i / 253) as u8).collect()
    }

    fn frame(pool: &mut FramePool, packet: &[u8]) -> Frame {
        let mut f = pool.take_for(packet.len()).unwrap();
        pool.room_mut(&f)[..packet.len()].copy_from_slice(packet);
        pool.set_len(&mut f, packet.len());
        f
    }

    type Out = (Vec<u8>, Option<u16>, Csum);

    /// Runs one burst: bytes, segment size and checksum state of what comes out. All slots come back.
    fn burst_of(takes: GsoSet, packets: &[(Vec<u8>, Csum)]) -> Vec<Out> {
        let mut pool = FramePool::new(128, 16).unwrap();
        let mut trains = Trains::new();
        let mut joined = 0;
        for (p, csum) in packets {
            let mut f = frame(&mut pool, p);
            f.csum = match *csum {
                Csum::Partial { start, offset } => Csum::Partial { start: start + f.head(), offset },
                other => other,
            };
            joined += usize::from(trains.add(&mut pool, f, ADJ, takes));
        }
        let mut out = Vec::new();
        for t in trains.drain() {
            let (f, adj) = t.finish(&mut pool);
            assert_eq!(adj, ADJ);
            let csum = match f.csum {
                Csum::Partial { start, offset } => Csum::Partial { start: start - f.head(), offset },
                other => other,
            };
            out.push((pool.data(&f).to_vec(), f.gso.map(|g| g.size), csum));
            pool.give(f);
        }
        assert_eq!(out.len() + joined, packets.len());
        assert!(pool.is_full() && trains.is_empty() && trains.last.iter().all(|b| *b == 0));
        out
    }

    fn burst(packets: &[Vec<u8>]) -> Vec<Out> {
        let packets: Vec<_> = packets.iter().map(|p| (p.clone(), Csum::Complete)).collect();
        burst_of(GsoSet::ALL, &packets)
    }

    fn lengths(out: &[Out]) -> Vec<usize> {
        out.iter().map(|o| o.0.len()).collect()
    }

    /// Splits a super-frame in software, joins the pieces, and expects what was there before.
    fn there_and_back(packet: &[u8], kind: GsoKind, size: u16) {
        let mut pool = FramePool::new(80, 72).unwrap();
        let mut f = pool.take_big().unwrap();
        pool.room_mut(&f)[..packet.len()].copy_from_slice(packet);
        pool.set_len(&mut f, packet.len());
        f.gso = Some(Gso { kind, size });
        let mut parts = Vec::new();
        segment_into(&mut pool, f, |s| parts.push(s)).unwrap();
        let several = parts.len() > 1;
        let mut trains = Trains::new();
        for (i, part) in parts.into_iter().enumerate() {
            assert_eq!(trains.add(&mut pool, part, ADJ, GsoSet::ALL), i > 0);
        }
        let mut out: Vec<_> = trains.drain().map(|t| t.finish(&mut pool).0).collect();
        assert_eq!(out.len(), 1);
        let f = out.remove(0);
        let field = if kind == GsoKind::Udp { l4::UDP_CHECK } else { l4::TCP_CHECK };
        let mut got = pool.data(&f).to_vec();
        if several {
            assert_eq!(f.gso, Some(Gso { kind, size }));
            assert_eq!(f.csum, Csum::Partial { start: f.head() + 20, offset: field as u16 });
            assert_eq!(l4::unfinished(&got, got.len()), Some((20, field)));
            let total = got.len();
            l4::finish(&mut got, total, 20, field);
        } else {
            assert_eq!((f.gso, f.csum), (None, Csum::Complete));
        }
        assert_eq!(got, packet);
        pool.give(f);
        assert!(pool.is_full());
    }

    #[test]
    fn a_full_train_is_one_super_frame() {
        let mut t = header(u32::MAX - 5000); // wraps within
        t.set_options_raw(&TIMESTAMPS).unwrap();
        (t.fin, t.psh, t.cwr, t.ece) = (true, true, true, true);
        there_and_back(&tcp(65_530, t, &bytes(44 * 1398)), GsoKind::Tcp4, 1398);
        there_and_back(&udp(9, 65_530, &bytes(64_000)), GsoKind::Udp, 1400);
    }

    #[test]
    fn sixty_four_segments_and_65535_bytes_are_the_limit() {
        let small: Vec<_> = (0..64).map(|i| udp(9, i, b"x")).collect();
        assert_eq!(lengths(&burst(&small)), [28 + 64]);
        let big: Vec<_> = (0..30).map(|i| udp(9, i, &[7; 3000])).collect();
        assert_eq!(lengths(&burst(&big)), [28 + 21 * 3000, 28 + 9 * 3000]);
    }

    #[test]
    fn interleaved_flows_are_joined_each_and_keep_their_order() {
        let mut packets = Vec::new();
        for i in 0..16u16 {
            packets.push(udp(1, i, &[i as u8; 100]));
            packets.push(tcp(i, header(u32::from(i) * 100), &[i as u8; 100]));
            packets.push(udp(2, i, &vec![i as u8; 116 - usize::from(i)])); // shorter and shorter: pairs
        }
        let out = burst(&packets);
        assert_eq!(lengths(&out)[..3], [1628, 1640, 28 + 116 + 115]);
        assert_eq!(out.len(), 2 + 8);
        let order: Vec<u8> = out[0].0[28..].iter().step_by(100).copied().collect();
        assert_eq!(order, (0..16).collect::<Vec<u8>>());
        let pairs: Vec<u8> = out[2..].iter().flat_map(|o| [o.0[28], *o.0.last().unwrap()]).collect();
        assert_eq!(pairs, (0..16).collect::<Vec<u8>>());
    }

    /// Changes the third packet of five by `change`, repairs its header checksum and, if `repair`, the TCP one.
    fn third(repair: bool, change: impl Fn(&mut Vec<u8>)) -> Vec<usize> {
        let mut packets = stream(5);
        change(&mut packets[2]);
        let total = packets[2].len() as u16;
        put16(&mut packets[2], 2, total);
        ipv4::write_checksum(&mut packets[2]);
        if repair {
            l4::write(&mut packets[2], usize::from(total));
        }
        let out = burst(&packets);
        // Whatever was joined: each stays in its place, and the odd one is untouched where it is alone.
        let marks: Vec<u8> = out.iter().filter(|o| o.0[0] == 0x45).flat_map(|o| o.0[40..].iter().step_by(1000).copied()).collect();
        assert!(marks.is_sorted(), "{marks:?}");
        lengths(&out)
    }

    #[test]
    fn what_does_not_follow_goes_on_its_own() {
        assert_eq!(lengths(&burst(&stream(5))), [5040]);
        // 2 joined, then the odd one, which may lead what follows it if that suits.
        let alone = [2040, 1040, 2040];
        assert_eq!(third(false, |p| p[100] ^= 1), alone, "wrong checksum");
        assert_eq!(third(true, |p| p[27] ^= 4), alone, "sequence gap");
        assert_eq!(third(true, |p| p[31] ^= 1), alone, "another acknowledgement");
        assert_eq!(third(true, |p| p[35] ^= 1), alone, "another window");
        assert_eq!(third(true, |p| p[33] |= CWR), [2040, 3040], "CWR, which only a first may have");
        for flags in [SYN | ACK, RST | ACK, URG | ACK, 0] {
            assert_eq!(third(true, |p| p[33] = flags), alone, "flags {flags:#x}");
        }
        assert_eq!(third(true, |p| p[1] = 1), alone, "another TOS");
        assert_eq!(third(true, |p| p[8] = 62), alone, "another TTL");
        assert_eq!(third(true, |p| p[6] = 0x40), alone, "DF");
        assert_eq!(third(true, |p| p[5] = 9), alone, "identification that jumps");
        assert_eq!(third(true, |p| p[39] = 1), alone, "another urgent pointer");
        assert_eq!(third(false, |p| p[6] = 0x20), alone, "a fragment");
        assert_eq!(third(true, |p| p[23] ^= 1), alone, "another port");
        let grown = |p: &mut Vec<u8>| {
            p.splice(40..40, TIMESTAMPS);
            p[32] = 0x80;
        };
        assert_eq!(third(true, grown), [2040, 1052, 2040], "options");
        let optioned = |p: &mut Vec<u8>| {
            p.splice(20..20, [1, 1, 1, 1]);
            p[0] = 0x46;
        };
        assert_eq!(third(true, optioned), [2040, 1044, 2040], "IP options");
        assert_eq!(third(true, |p| p.truncate(900)), [40 + 2860, 2040], "a short one ends the train");
        assert_eq!(third(true, |p| p.push(2)), [2040, 1041, 2040], "a longer one");
        assert_eq!(third(true, |p| p[33] |= PSH), [3040, 2040], "PSH ends the train");
        assert_eq!(third(true, |p| p[33] |= FIN), [3040, 2040], "FIN ends the train");
        assert_eq!(third(true, |p| p.truncate(40)), [2040, 40, 2040], "an acknowledgement");
    }

    #[test]
    fn a_first_with_a_wrong_checksum_is_left_alone() {
        let mut packets = stream(4);
        packets[0][100] ^= 1;
        let out = burst(&packets);
        assert_eq!(lengths(&out), [1040, 3040]);
        assert_eq!((&out[0].0, out[0].1, out[0].2), (&packets[0], None, Csum::Complete));
    }

    #[test]
    fn with_df_the_identification_does_not_matter() {
        let mut packets = stream(3);
        for p in &mut packets {
            (p[4], p[5], p[6]) = (0, 0, 0x40);
            ipv4::write_checksum(p);
        }
        assert_eq!(lengths(&burst(&packets)), [3040]);
    }

    #[test]
    fn unfinished_checksums_count_as_right_where_they_belong() {
        let mut packets = stream(3);
        for p in &mut packets {
            let seed = checksum::fold(l4::pseudo(p, p.len()));
            put16(p, 36, seed);
        }
        let with = |start, offset| packets.iter().map(|p| (p.clone(), Csum::Partial { start, offset })).collect::<Vec<_>>();
        let out = burst_of(GsoSet::ALL, &with(20, 16));
        assert_eq!((out.len(), out[0].1, out[0].2), (1, Some(1000), Csum::Partial { start: 20, offset: 16 }));
        assert_eq!(l4::unfinished(&out[0].0, 3040), Some((20, 16)));
        assert_eq!(burst_of(GsoSet::ALL, &with(24, 16)).len(), 3);
        assert_eq!(burst(&packets).len(), 3, "the same bytes without the word that they are unfinished");
    }

    #[test]
    fn only_what_the_port_takes_is_joined() {
        let all: Vec<_> = stream(3).into_iter().chain((0..3).map(|i| udp(1, i, b"abc"))).map(|p| (p, Csum::Complete)).collect();
        assert_eq!(burst_of(GsoSet { udp: false, ..GsoSet::ALL }, &all).len(), 4);
        assert_eq!(burst_of(GsoSet { tcp4: false, ..GsoSet::ALL }, &all).len(), 4);
        let mut unchecked: Vec<_> = (0..3).map(|i| udp(1, i, b"abc")).collect();
        unchecked.iter_mut().for_each(|p| put16(p, 26, 0));
        assert_eq!(burst(&unchecked).len(), 3);
        assert_eq!(burst(&[udp(1, 0, b""), udp(1, 1, b"")]).len(), 2);
    }

    #[test]
    fn a_fragment_is_not_overtaken() {
        let mut packets: Vec<_> = (0..4).map(|i| udp(1, i, b"abc")).collect();
        let mut fragment = udp(1, 9, b"abcd");
        fragment[6] = 0x20;
        ipv4::write_checksum(&mut fragment);
        packets.insert(2, fragment);
        assert_eq!(lengths(&burst(&packets)), [34, 32, 34]);
    }

    #[test]
    fn without_a_big_slot_the_train_ends() {
        let mut pool = FramePool::new(16, 0).unwrap();
        let mut trains = Trains::new();
        for p in stream(8) {
            let f = frame(&mut pool, &p);
            trains.add(&mut pool, f, ADJ, GsoSet::ALL);
        }
        let out: Vec<_> = trains.drain().map(|t| t.finish(&mut pool).0).collect();
        // Three fit a small slot; the one that did not fit begins anew.
        assert_eq!(out.iter().map(Frame::len).collect::<Vec<_>>(), [3040, 3040, 2040]);
        out.into_iter().for_each(|f| pool.give(f));
        assert!(pool.is_full());
    }

    proptest! {
        #[test]
        fn joining_undoes_segmentation(
            size in prop_oneof![1u16..200, 200u16..9000], count in 1usize..=64, last in 1u16..9000, seed: u32, id: u16, df: bool, tos: u8,
            seq: u32, options in proptest::collection::vec(any::<u8>(), 0..=10), end: bool, ecn: bool, uso: bool,
        ) {
            // Up to 64 segments of `size`, the last of any length up to that, of random bytes.
            let count = count.min((LENGTH_MAX - 80) / usize::from(size)).max(1);
            let len = (count - 1) * usize::from(size) + usize::from(last.min(size));
            let data: Vec<u8> = (0..len as u32).map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
            let mut packet = if uso {
                udp(7, id, &data)
            } else {
                let mut t = header(seq);
                // Timestamps' bytes may be anything; the engine does not read options.
                t.set_options_raw(&options.iter().flat_map(|o| [*o, 1, 2, !*o]).collect::<Vec<u8>>()).unwrap();
                (t.psh, t.fin, t.ece, t.cwr, t.window_size) = (end, end && ecn, ecn, ecn, id);
                tcp(id, t, &data)
            };
            (packet[1], packet[6]) = (tos, if df { 0x40 } else { 0 });
            ipv4::write_checksum(&mut packet);
            there_and_back(&packet, if uso { GsoKind::Udp } else { GsoKind::Tcp4 }, size);
        }

        #[test]
        fn a_flow_keeps_its_bytes_in_order(
            parts in proptest::collection::vec((0u8..4, 0u8..3, 0u8..8, 1usize..1500), 1..64),
        ) {
            // Random flows, sizes, gaps and flags: each flow's payload comes out as it went in.
            let mut seqs = [0u32; 4];
            let mut want: [Vec<u8>; 4] = Default::default();
            let mut packets = Vec::new();
            for (i, (flow, gap, flags, len)) in parts.into_iter().enumerate() {
                let at = usize::from(flow);
                let len = if len > 600 { 1000 } else { len };
                let mut t = header(seqs[at]);
                t.source_port += u16::from(flow);
                (t.psh, t.fin) = (flags == 1, flags == 2);
                let payload = vec![i as u8; len];
                packets.push(tcp(i as u16, t, &payload));
                let p = packets.last_mut().unwrap();
                p[6] = 0x40;
                ipv4::write_checksum(p);
                want[at].extend(&payload);
                seqs[at] += len as u32 + u32::from(gap == 2);
            }
            let mut got: [Vec<u8>; 4] = Default::default();
            for (p, ..) in burst(&packets) {
                prop_assert_eq!(ipv4::validate(&p), Ok(p.len()));
                got[usize::from(be16(&p, 20) - 40_000)].extend(&p[40..]);
            }
            prop_assert_eq!(got, want);
        }
    }
}
