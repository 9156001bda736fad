//! A train: a probe that travels as bulk TCP does, in one super-frame that is cut into packets by whatever cuts a pod's.
//! What offloads break of segmented packets, and of no others, shows in trains alone.
//!
//! On the wire it is a TCP segment from and to the discard port with RST set, which no stack answers (RFC 9293, 3.10.7.1)
//! and no connection has. Its sequence number is the place in the train. The payload begins with the body of a probe; the
//! acknowledgement number is the beginning of that body's tag, so that each packet is known to be the train's. The rest
//! is padding that everybody knows. A train is not answered: answers to other probes tell what arrived of the last one.

use super::packet::{self, Arrival, BODY_LEN, Key, Kind, PATTERN, Probe};
use crate::wire::{be16, be32, checksum, ipv4, l4, put16, put32};
use std::net::Ipv4Addr;

/// Where trains come from and go to: a port that nobody connects from (RFC 863).
pub const DISCARD: u16 = 9;
/// IPv4 and TCP header.
const HEAD: usize = ipv4::HEADER + TCP_HEADER;
const TCP_HEADER: usize = 20;
const TCP_FLAGS: usize = 13;
const RST: u8 = 0x04;
/// Under the tag, in the place of an ICMP probe's code.
const CODE: u8 = 2;
/// Segments of a train, the last of them half as long; fewer if they are so long that more do not fit a super-frame.
const SEGMENTS: usize = 8;
const LONGEST: usize = 60_000;
/// A train goes with every so many rounds; as soon as the fate of the one before is known while trains fail.
const EVERY: u32 = 2;

/// Payload of a segment and of the whole, bytes, where packets of `full` bytes pass; `None` if two are too many for a
/// super-frame.
fn shape(full: u16) -> Option<(usize, usize)> {
    let segment = usize::from(full).checked_sub(HEAD).filter(|s| *s > BODY_LEN)?;
    let n = SEGMENTS.min(LONGEST / segment);
    (n >= 2).then(|| (segment, n * segment - segment / 2))
}

/// A super-frame to be sent.
pub struct Train<'a> {
    /// From the IPv4 header on; its TCP checksum is unfinished.
    pub packet: &'a [u8],
    /// Payload of a segment, bytes.
    pub segment: u16,
    /// Payload of the whole.
    pub bytes: u16,
}

/// For trains to peers that are sent full packets of at most `full` bytes, with the padding in place.
pub fn buffer(full: u16) -> Vec<u8> {
    let len = HEAD + (SEGMENTS * usize::from(full)).min(LONGEST);
    (0..len).map(|i| PATTERN[i.saturating_sub(HEAD) % PATTERN.len()]).collect()
}

/// Writes one into a [`buffer`]; the probe's size is that of a full packet. `None` where there are none.
pub fn write<'a>(buffer: &'a mut [u8], key: &Key, probe: &Probe, source: Ipv4Addr, to: Ipv4Addr) -> Option<Train<'a>> {
    const TTL: u8 = 64;
    let (segment, payload) = shape(probe.size)?;
    let p = buffer.get_mut(..HEAD + payload)?;
    let len = p.len() as u16;
    let proto = ipv4::PROTO_TCP;
    ipv4::Header { tos: 0, len, id: 0, frag: ipv4::DF, ttl: TTL, proto, src: source.into(), dst: to.into() }.write(p);
    let addresses = packet::addresses(p);
    packet::write_body(&mut p[HEAD..HEAD + BODY_LEN], key, probe, addresses, CODE);
    let id = be32(p, HEAD + BODY_LEN - 16);
    let seed = checksum::fold(l4::pseudo(p, p.len()));
    let t = &mut p[ipv4::HEADER..HEAD];
    t.fill(0);
    put16(t, 0, DISCARD);
    put16(t, 2, DISCARD);
    put32(t, 8, id);
    (t[12], t[TCP_FLAGS]) = ((TCP_HEADER as u8 / 4) << 4, RST);
    put16(t, l4::TCP_CHECK, seed);
    Some(Train { packet: p, segment: segment as u16, bytes: payload as u16 })
}

/// A part of a train as it came in: a packet, or several that were joined.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    id: u32,
    offset: usize,
    addresses: [u8; 8],
    payload: &'a [u8],
    /// Whether the TCP checksum is right, or unfinished.
    sound: bool,
}

impl<'a> Piece<'a> {
    /// Reads what may be one. The packet starts at its IPv4 header.
    pub fn read(packet: &'a [u8]) -> Option<Piece<'a>> {
        let total = ipv4::validate(packet).ok()?;
        let p = &packet[..total];
        let known = ipv4::proto(p) == ipv4::PROTO_TCP && ipv4::header_len(p) == ipv4::HEADER && !ipv4::is_fragment(p) && total > HEAD;
        let t = p.get(ipv4::HEADER..HEAD).filter(|_| known)?;
        if be16(t, 0) != DISCARD || be16(t, 2) != DISCARD || t[12] >> 4 != TCP_HEADER as u8 / 4 || t[TCP_FLAGS] != RST {
            return None;
        }
        Some(Piece {
            from: ipv4::src(p).into(),
            to: ipv4::dst(p).into(),
            id: be32(t, 8),
            offset: be32(t, 4) as usize,
            addresses: packet::addresses(p),
            payload: &p[HEAD..],
            sound: l4::unfinished(p, total).is_some() || l4::verify(p, total),
        })
    }

    /// What a train says of itself, if this is the beginning of an authentic one.
    pub fn beginning(&self, key: &Key) -> Option<Probe> {
        let body = self.payload.get(..BODY_LEN).filter(|_| self.offset == 0)?;
        let authentic = key.made(self.addresses, CODE, body) && be32(body, BODY_LEN - 16) == self.id;
        packet::read_body(body, false).filter(|p| authentic && p.kind == Kind::Train)
    }

    /// Whether all of it is as it was sent, but for the body.
    fn intact(&self) -> bool {
        let start = if self.offset == 0 { BODY_LEN.min(self.payload.len()) } else { 0 };
        let expected = PATTERN.iter().cycle().skip((self.offset + start) % PATTERN.len());
        self.sound && self.payload[start..].iter().zip(expected).all(|(is, expected)| is == expected)
    }
}

/// A peer's last train, as far as it has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arriving {
    id: u32,
    seq: u32,
    instance: u64,
    /// Where the next piece begins; what comes later than its turn does not count.
    next: usize,
    pub arrival: Arrival,
}

impl Arriving {
    /// Whether it is the train of this number, or a later one, of that process.
    pub fn is_not_before(&self, probe: &Probe) -> bool {
        self.instance == probe.instance && probe.seq.wrapping_sub(self.seq).wrapping_sub(1) > u32::MAX / 2
    }

    pub fn new(probe: &Probe, piece: &Piece) -> Arriving {
        let arrival = Arrival { seq: probe.seq as u16, ..Arrival::default() };
        Arriving { id: piece.id, seq: probe.seq, instance: probe.instance, next: 0, arrival }
    }

    /// Takes a piece of it. False if that is damaged.
    pub fn take(&mut self, piece: &Piece) -> bool {
        if piece.id != self.id || piece.offset < self.next {
            return true;
        }
        self.next = piece.offset.saturating_add(piece.payload.len());
        let intact = piece.intact();
        if intact {
            self.arrival.bytes = self.arrival.bytes.saturating_add(piece.payload.len() as u16);
        } else {
            self.arrival.damaged = true;
        }
        intact
    }
}

/// The trains that a peer is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trains {
    /// Number and bytes of one whose fate is not known yet, and whether it is late.
    open: Option<(u32, u16)>,
    pub late: bool,
    /// Rounds since the last one.
    since: u32,
    /// How many have failed in a row.
    pub failed: u32,
    pub passed: bool,
    /// Of the last one: bytes that arrived as they were sent, and bytes that were sent.
    pub last: Option<(u16, u16)>,
    pub damaged_at: Option<u64>,
}

impl Trains {
    /// A round is begun: whether it should have a train.
    pub fn due(&mut self) -> bool {
        self.since = self.since.saturating_add(1);
        self.open.is_none() && (self.failed > 0 || self.since >= EVERY)
    }

    /// There can be none now.
    pub fn reset(&mut self) {
        *self = Trains::default();
    }

    /// One has left.
    pub fn sent(&mut self, seq: u32, bytes: u16) {
        (self.open, self.since, self.late) = (Some((seq, bytes)), 0, false);
    }

    /// The full packet of round `seq` was answered with this word. It may have overtaken the train of its own round. True if
    /// the train was damaged.
    pub fn answered(&mut self, now: u64, seq: u32, arrival: Arrival) -> bool {
        let Some((number, sent)) = self.open.filter(|(number, _)| seq.wrapping_sub(*number) <= u32::MAX / 2) else { return false };
        let known = arrival.seq == number as u16;
        let bytes = if known { arrival.bytes } else { 0 };
        let damaged = known && arrival.damaged;
        // A packet or two that a full queue dropped say nothing of offloads.
        let passes = bytes > sent / 2;
        if !passes && !damaged && seq == number {
            self.late = true;
            return false;
        }
        (self.open, self.late, self.last) = (None, false, Some((bytes, sent)));
        if passes {
            (self.failed, self.passed) = (0, true);
        } else {
            self.failed += 1;
        }
        if damaged {
            self.damaged_at = Some(now);
        }
        damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encap::segment::Segments;
    use crate::frame::{Gso, GsoKind};
    use proptest::prelude::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
    const B: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 0);

    fn probe(full: u16, seq: u32) -> Probe {
        super::super::peer::question(Kind::Train, full, seq, 77, 1 << 40, 3, packet::Losses::default())
    }

    /// The packet and its payload per segment and in all.
    fn packet(full: u16, seq: u32) -> (Vec<u8>, u16, u16) {
        let mut b = buffer(9000);
        let t = write(&mut b, &Key::new(b"k"), &probe(full, seq), A, B).unwrap();
        (t.packet.to_vec(), t.segment, t.bytes)
    }

    fn cut(packet: &[u8], segment: u16) -> Vec<Vec<u8>> {
        let s = Segments::new(packet, Gso { kind: GsoKind::Tcp4, size: segment }).unwrap();
        let piece = |i| {
            let mut p = vec![0; s.header_len()];
            s.write_header(i, packet, &mut p);
            [&p[..], &packet[s.payload(i)]].concat()
        };
        (0..s.count()).map(piece).collect()
    }

    fn arrive(pieces: &[Vec<u8>]) -> Option<Arriving> {
        let mut arriving: Option<Arriving> = None;
        for p in pieces {
            let Some(piece) = Piece::read(p) else { continue };
            if let Some(probe) = piece.beginning(&Key::new(b"k")) {
                arriving = Some(Arriving::new(&probe, &piece));
            }
            arriving.iter_mut().for_each(|a| {
                a.take(&piece);
            });
        }
        arriving
    }

    #[test]
    fn whole_and_cut_it_arrives_as_it_was_sent() {
        for (full, segments) in [(1450, 8), (576, 8), (8950, 6), (105, 8)] {
            let (whole, segment, bytes) = packet(full, 9);
            let all = cut(&whole, segment);
            assert_eq!((all.len(), all[0].len()), (segments, usize::from(full)));
            for pieces in [vec![whole], all] {
                assert_eq!(arrive(&pieces).unwrap().arrival, Arrival { seq: 9, bytes, damaged: false });
            }
        }
        assert!([0, 104, 40_000, u16::MAX].into_iter().all(|full| shape(full).is_none()));
    }

    #[test]
    fn what_is_missing_damaged_repeated_and_forged() {
        let (whole, segment, bytes) = packet(1450, 9);
        let all = cut(&whole, segment);
        let of = |pieces: &[Vec<u8>]| arrive(pieces).map(|a| (a.arrival.bytes, a.arrival.damaged));
        assert_eq!(of(&all[1..]), None, "without the beginning");
        assert_eq!(of(&all[..2]), Some((2 * segment, false)));
        assert_eq!(of(&[all.clone(), all.clone()].concat()), Some((bytes, false)));
        // As a card does that takes the sequence number of the first segment for all, or does not finish checksums.
        let mut same = all.clone();
        for p in &mut same[1..] {
            put32(p, 24, 0);
            let len = p.len();
            l4::write(p, len);
        }
        assert_eq!(of(&same).unwrap().0, segment);
        let mut unsummed = all.clone();
        unsummed[3][36] ^= 1;
        assert_eq!(of(&unsummed), Some((bytes - segment, true)));
        let mut changed = all.clone();
        changed[5][700] ^= 1;
        l4::write(&mut changed[5], 1450);
        assert_eq!(of(&changed), Some((bytes - segment, true)));
        let mut forged = all[3].clone();
        forged[28] ^= 1;
        assert_eq!(of(&[all[0].clone(), forged]), Some((segment, false)));
        assert!(Piece::read(&all[0]).unwrap().beginning(&Key::new(b"j")).is_none());
    }

    #[test]
    fn old_ones_are_told() {
        let (whole, ..) = packet(1450, 9);
        let a = arrive(&[whole]).unwrap();
        let later = |seq| a.is_not_before(&probe(1450, seq));
        assert!(later(9) && later(8) && later(9u32.wrapping_sub(100)) && !later(10) && !later(1000));
        assert!(!a.is_not_before(&Probe { instance: 78, ..probe(1450, 8) }));
    }

    #[test]
    fn half_of_one_is_enough_and_answers_of_earlier_rounds_say_nothing() {
        let mut t = Trains::default();
        assert!(!t.due() && t.due());
        let word = |seq, bytes| Arrival { seq, bytes, damaged: false };
        t.sent(70_000, 1000);
        assert!(!t.due());
        assert!(!t.answered(1, 69_999, word(0, 0)) && t.last.is_none());
        t.answered(1, 70_000, word(70_000u32 as u16, 501));
        assert_eq!((t.failed, t.passed, t.last), (0, true, Some((501, 1000))));
        t.sent(70_003, 1000);
        t.answered(1, 70_003, word(70_000u32 as u16, 1000));
        assert_eq!((t.late, t.failed, t.due()), (true, 0, false), "it may still come");
        t.answered(1, 70_004, word(70_000u32 as u16, 1000));
        assert_eq!((t.failed, t.last, t.due()), (1, Some((0, 1000)), true), "of the one before");
        t.sent(70_005, 1000);
        assert!(t.answered(5, 70_005, Arrival { seq: 70_005u32 as u16, bytes: 900, damaged: true }));
        assert_eq!((t.failed, t.damaged_at), (0, Some(5)));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_no_train(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..1450, flip in 1u8..) {
            if let Some(piece) = Piece::read(&bytes) {
                prop_assert!(piece.beginning(&Key::new(b"k")).is_none());
            }
            let (whole, segment, bytes) = packet(1450, 9);
            let mut all = cut(&whole, segment);
            all[0][at] ^= flip;
            if at < 20 {
                ipv4::write_checksum(&mut all[0]);
            }
            // TOS, identification, DF and TTL may be changed on the way.
            let sound = (1..12).contains(&at);
            prop_assert!(sound || arrive(&all).is_none_or(|a| a.arrival.bytes < bytes), "{}", at);
        }
    }
}
