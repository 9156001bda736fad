//! The probe on the wire: an IPv4 packet with DF, ICMP type 253 (RFC 4727: for experiments; who does not know it
//! ignores it), code 0 asks and code 1 answers.
//!
//! Behind the 8 bytes of the ICMP header, whose identifier and sequence number are zero, come 64 bytes:
//!
//! | at | field |
//! | --- | --- |
//! | 0 | `tort`, version (1), kind |
//! | 6 | size: total length of the packet that asks; an answer repeats it |
//! | 8 | instance: a random number of the asking process |
//! | 16 | when it was sent, nanoseconds of the asking process's clock |
//! | 24 | sequence number |
//! | 28 | in an answer: nanoseconds between receiving and answering |
//! | 32 | tenths of a second since the sender heard of the receiver last; 65,535: never, or longer |
//! | 34 | why the sender has dropped tunnel packets lately ([`Losses`]) |
//! | 36 | in an answer: what was damaged in the packet that asked ([`Damage`]) |
//! | 37 | bit 0: the sender takes trains ([`train`](super::train)); bit 1: the last one from the receiver came damaged |
//! | 38 | of that one: the low half of its sequence number |
//! | 40 | of that one: bytes that arrived as they were sent |
//! | 42 | zero |
//! | 48 | tag |
//!
//! The tag is HMAC-SHA-256, cut to 16 bytes (RFC 2104, section 5), over both addresses, the code and the 48 bytes
//! before it. The rest of a packet up to its size is padding that everybody knows and the receiver compares: so one with
//! damaged padding is known to be the peer's, and can be answered and counted as damaged, which a tag over everything
//! would not tell from a forgery.

use crate::wire::{be16, be32, checksum, ipv4, put16, put32};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// ICMP type.
pub const ICMP_TYPE: u8 = 253;
const ASK: u8 = 0;
const ANSWER: u8 = 1;
const ICMP: usize = ipv4::HEADER;
const BODY: usize = ICMP + 8;
/// Bytes that the tag is over, and with the tag.
const SIGNED: usize = 48;
pub(super) const BODY_LEN: usize = SIGNED + 16;
const PADDING: usize = BODY + BODY_LEN;
/// Length of an answer, and of the smallest packet that asks.
pub const SMALL: u16 = PADDING as u16;
/// First bytes of a body.
const MAGIC: &[u8; 5] = b"tort\x01";
/// Bits at 37.
const TAKES_TRAINS: u8 = 1;
const TRAIN_DAMAGED: u8 = 2;
/// Never, or longer ago than can be said.
pub const NEVER: u16 = u16::MAX;

/// The padding, over and over: a prime length, so that no power of two is a period of it.
pub(super) const PATTERN: [u8; 251] = {
    let mut p = [0; 251];
    let mut i = 0;
    while i < 251 {
        p[i] = (i * i + 7 * i + 1) as u8;
        i += 1;
    }
    p
};

/// What tells the nodes of a cluster from everybody else.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// From a secret, or whatever the nodes of one cluster have in common.
    pub fn new(secret: &[u8]) -> Key {
        let derived = Sha256::new().chain_update(b"tortie probe 1\0").chain_update(secret).finalize();
        // Padded to the hash's block, as HMAC does (RFC 2104, section 2).
        let mut block = [0; 64];
        block[..32].copy_from_slice(&derived);
        Key(Hmac::new(&block.into()))
    }

    fn over(&self, addresses: [u8; 8], code: u8, body: &[u8]) -> Hmac<Sha256> {
        self.0.clone().chain_update(addresses).chain_update([code]).chain_update(&body[..SIGNED])
    }

    /// Whether a body's tag is right.
    pub(super) fn made(&self, addresses: [u8; 8], code: u8, body: &[u8]) -> bool {
        self.over(addresses, code, body).verify_truncated_left(&body[SIGNED..BODY_LEN]).is_ok()
    }
}

/// What a probe measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Small = 0,
    Full = 1,
    /// One of the sizes between, when full ones do not pass.
    Search = 2,
    /// A TCP super-frame ([`train`](super::train)).
    Train = 3,
}

/// What arrived of the last train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The low half of its sequence number.
    pub seq: u16,
    /// As they were sent.
    pub bytes: u16,
    /// Something came that was not as it was sent.
    pub damaged: bool,
}

/// Reasons for which a node has dropped tunnel packets lately, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses(pub u16);

impl Losses {
    pub const VNI: Losses = Losses(1);
    pub const OUTER_CHECKSUM: Losses = Losses(2);
    pub const SENDER: Losses = Losses(4);
    pub const INNER_MAC: Losses = Losses(8);
    pub const FRAGMENT: Losses = Losses(16);
    pub const INNER_CHECKSUM: Losses = Losses(32);

    pub fn has(self, other: Losses) -> bool {
        self.0 & other.0 != 0
    }
}

/// What was wrong with a packet that its tag shows to be a peer's, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage(pub u8);

impl Damage {
    pub const CHECKSUM: Damage = Damage(1);
    pub const PADDING: Damage = Damage(2);

    pub fn any(self) -> bool {
        self.0 != 0
    }
}

/// What a probe says, whichever way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub is_answer: bool,
    pub kind: Kind,
    /// Total length of the packet that asks.
    pub size: u16,
    pub instance: u64,
    pub sent_ns: u64,
    pub seq: u32,
    pub held_ns: u32,
    /// Tenths of a second since the sender heard of the receiver last.
    pub heard: u16,
    pub losses: Losses,
    pub damage: Damage,
    /// Of the receiver's trains; `None` if the sender takes none.
    pub trains: Option<Arrival>,
}

impl Probe {
    /// Total length of the packet: answers are small.
    pub fn packet_len(&self) -> usize {
        usize::from(if self.is_answer { SMALL } else { self.size.max(SMALL) })
    }
}

/// A packet as it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub probe: Probe,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    /// What is wrong with this packet.
    pub damage: Damage,
}

/// Why a packet is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No probe of this version.
    Foreign,
    /// A probe, or what is left of one, whose ICMP checksum is wrong too.
    Mangled { from: Ipv4Addr },
    /// Sound, but made with another key.
    Unauthenticated { from: Ipv4Addr },
}

/// A packet of the largest size to be sent, with the padding in place.
pub fn buffer(size: usize) -> Vec<u8> {
    (0..size).map(|i| PATTERN[i.saturating_sub(PADDING) % PATTERN.len()]).collect()
}

/// Writes a probe into a [`buffer`] of at least its length; the packet.
pub fn write<'a>(buffer: &'a mut [u8], key: &Key, probe: &Probe, source: Ipv4Addr, to: Ipv4Addr) -> &'a [u8] {
    let len = probe.packet_len();
    let p = &mut buffer[..len];
    let ecn = match probe.kind {
        Kind::Small => NOT_ECT,
        Kind::Full => ECT0,
        Kind::Search | Kind::Train => ECT1,
    };
    header(p, source, to, ecn);
    p[ICMP..BODY].fill(0);
    let code = if probe.is_answer { ANSWER } else { ASK };
    (p[ICMP], p[ICMP + 1]) = (ICMP_TYPE, code);
    let addresses = addresses(p);
    write_body(&mut p[BODY..PADDING], key, probe, addresses, code);
    let sum = checksum::finish(checksum::sum(&p[ICMP..]));
    put16(p, ICMP + 2, sum);
    p
}

/// Source and destination of a packet.
pub(super) fn addresses(packet: &[u8]) -> [u8; 8] {
    std::array::from_fn(|i| packet[12 + i])
}

/// Writes a body of [`BODY_LEN`] bytes with its tag.
pub(super) fn write_body(b: &mut [u8], key: &Key, probe: &Probe, addresses: [u8; 8], code: u8) {
    b[..SIGNED].fill(0);
    b[..5].copy_from_slice(MAGIC);
    b[5] = probe.kind as u8;
    put16(b, 6, probe.size);
    b[8..16].copy_from_slice(&probe.instance.to_be_bytes());
    b[16..24].copy_from_slice(&probe.sent_ns.to_be_bytes());
    put32(b, 24, probe.seq);
    put32(b, 28, probe.held_ns);
    put16(b, 32, probe.heard);
    put16(b, 34, probe.losses.0);
    b[36] = probe.damage.0;
    if let Some(a) = probe.trains {
        b[37] = TAKES_TRAINS | if a.damaged { TRAIN_DAMAGED } else { 0 };
        put16(b, 38, a.seq);
        put16(b, 40, a.bytes);
    }
    let tag = key.over(addresses, code, b).finalize().into_bytes();
    b[SIGNED..BODY_LEN].copy_from_slice(&tag[..BODY_LEN - SIGNED]);
}

/// An ICMP echo request (RFC 792) of so many bytes in all.
pub fn write_echo(buffer: &mut [u8], size: u16, id: u16, seq: u16, source: Ipv4Addr, to: Ipv4Addr) -> &[u8] {
    const ECHO: u8 = 8;
    let p = &mut buffer[..usize::from(size.max(SMALL))];
    header(p, source, to, if size > SMALL + 4 { ECT1 } else { NOT_ECT });
    p[ICMP..PADDING].fill(0);
    p[ICMP] = ECHO;
    put16(p, ICMP + 4, id);
    put16(p, ICMP + 6, seq);
    let sum = checksum::finish(checksum::sum(&p[ICMP..]));
    put16(p, ICMP + 2, sum);
    p
}

/// Congestion bits (RFC 3168). Packets to one node that follow one another in equal or falling length leave as one
/// super-frame (UDP_SEGMENT), which a virtual link passes whatever its MTU; but only those with equal bits do.
const NOT_ECT: u8 = 0b00;
const ECT1: u8 = 0b01;
const ECT0: u8 = 0b10;

fn header(p: &mut [u8], source: Ipv4Addr, to: Ipv4Addr, ecn: u8) {
    const TTL: u8 = 64;
    p[..ICMP].fill(0);
    (p[0], p[1]) = (0x45, ecn);
    put16(p, 2, p.len() as u16);
    put16(p, 6, ipv4::DF);
    (p[8], p[9]) = (TTL, ipv4::PROTO_ICMP);
    put32(p, 12, source.into());
    put32(p, 16, to.into());
}

/// Reads what may be a probe. The packet starts at its IPv4 header.
pub fn read(packet: &[u8], key: &Key) -> Result<Received, Refused> {
    let total = ipv4::validate(packet).map_err(|_| Refused::Foreign)?;
    let p = &packet[..total];
    // No options: those that we send have none.
    if ipv4::header_len(p) != ICMP || ipv4::is_fragment(p) || total < PADDING || p[ICMP] != ICMP_TYPE {
        return Err(Refused::Foreign);
    }
    let from = Ipv4Addr::from(ipv4::src(p));
    let sound = checksum::fold(checksum::sum(&p[ICMP..])) == 0xffff;
    if !key.made(addresses(p), p[ICMP + 1], &p[BODY..PADDING]) {
        return Err(match p[BODY..BODY + 5] == *MAGIC {
            true if sound => Refused::Unauthenticated { from },
            true => Refused::Mangled { from },
            false => Refused::Foreign,
        });
    }
    let is_answer = match p[ICMP + 1] {
        ASK => false,
        ANSWER => true,
        _ => return Err(Refused::Foreign),
    };
    let probe = read_body(&p[BODY..PADDING], is_answer).ok_or(Refused::Foreign)?;
    let as_long = total == probe.packet_len();
    let pattern = p[PADDING..].chunks(PATTERN.len()).all(|c| *c == PATTERN[..c.len()]);
    let mut damage = Damage::default();
    if !sound {
        damage.0 |= Damage::CHECKSUM.0;
    }
    if !as_long || !pattern {
        damage.0 |= Damage::PADDING.0;
    }
    Ok(Received { probe, from, to: ipv4::dst(p).into(), damage })
}

/// The fields of an authentic body; `None` for those of another version.
pub(super) fn read_body(b: &[u8], is_answer: bool) -> Option<Probe> {
    let kind = match b[5] {
        0 => Kind::Small,
        1 => Kind::Full,
        2 => Kind::Search,
        3 => Kind::Train,
        _ => return None,
    };
    let be64 = |at: usize| u64::from(be32(b, at)) << 32 | u64::from(be32(b, at + 4));
    let arrival = Arrival { seq: be16(b, 38), bytes: be16(b, 40), damaged: b[37] & TRAIN_DAMAGED != 0 };
    let magic = b[..5] == *MAGIC;
    magic.then(|| Probe {
        is_answer,
        kind,
        size: be16(b, 6),
        instance: be64(8),
        sent_ns: be64(16),
        seq: be32(b, 24),
        held_ns: be32(b, 28),
        heard: be16(b, 32),
        losses: Losses(be16(b, 34)),
        damage: Damage(b[36]),
        trains: (b[37] & TAKES_TRAINS != 0).then_some(arrival),
    })
}

/// What a packet that is not a probe says of one that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Echo {
        from: Ipv4Addr,
        seq: u16,
        size: u16,
    },
    /// `to` was not reached, says `by`, for the reason `code` (RFC 1122, 3.2.2.1; RFC 1812, 5.2.7.1).
    Unreachable {
        by: Ipv4Addr,
        to: Ipv4Addr,
        code: u8,
        proto: u8,
        port: u16,
    },
}

/// Reads an echo reply or a destination that is unreachable.
pub fn read_answer(packet: &[u8]) -> Option<Answer> {
    let total = ipv4::validate(packet).ok()?;
    let p = &packet[..total];
    let by = Ipv4Addr::from(ipv4::src(p));
    let icmp = p.get(ipv4::header_len(p)..).filter(|i| i.len() >= 8)?;
    match icmp[0] {
        0 => Some(Answer::Echo { from: by, seq: be16(icmp, 6), size: total as u16 }),
        3 => {
            // What it quotes may be cut, so its length is not checked.
            let quoted = icmp[8..].split_at_checked(ipv4::HEADER).filter(|(q, _)| q[0] >> 4 == 4)?;
            let at = ipv4::header_len(quoted.0);
            let port = icmp.get(8 + at..).filter(|l4| l4.len() >= 4).map_or(0, |l4| be16(l4, 2));
            let (to, proto) = (Ipv4Addr::from(ipv4::dst(quoted.0)), ipv4::proto(quoted.0));
            Some(Answer::Unreachable { by, to, code: icmp[1], proto, port })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
    const B: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 0);

    fn probe() -> Probe {
        Probe {
            is_answer: false,
            kind: Kind::Full,
            size: 1450,
            instance: 0x0123_4567_89ab_cdef,
            sent_ns: 1 << 40,
            seq: 77,
            held_ns: 0,
            heard: 3,
            losses: Losses::VNI,
            damage: Damage::default(),
            trains: Some(Arrival { seq: 9, bytes: 11_000, damaged: true }),
        }
    }

    fn packet(probe: &Probe) -> Vec<u8> {
        let mut b = buffer(9000);
        let mut p = write(&mut b, &Key::new(b"k"), probe, A, B).to_vec();
        // The kernel's part.
        ipv4::write_checksum(&mut p);
        p
    }

    #[test]
    fn what_is_written_is_read() {
        let key = Key::new(b"k");
        for (is_answer, size, len) in [(false, 1450, 1450), (false, SMALL, 92), (false, 0, 92), (false, 9000, 9000), (true, 1450, 92)] {
            let probe = Probe { is_answer, size, ..probe() };
            let p = packet(&probe);
            assert_eq!((p.len(), ipv4::dont_fragment(&p)), (len, true));
            assert_eq!(read(&p, &key), Ok(Received { probe, from: A, to: B, damage: Damage::default() }));
        }
    }

    #[test]
    fn another_key_is_told_from_damage() {
        let p = packet(&probe());
        assert_eq!(read(&p, &Key::new(b"j")), Err(Refused::Unauthenticated { from: A }));
        let mut torn = p.clone();
        torn[BODY + 30] ^= 1;
        assert_eq!(read(&torn, &Key::new(b"k")), Err(Refused::Mangled { from: A }));
        let mut padding = p.clone();
        padding[1400] ^= 0x10;
        let damage = read(&padding, &Key::new(b"k")).unwrap().damage;
        assert_eq!(damage, Damage(Damage::CHECKSUM.0 | Damage::PADDING.0));
        // As a card does that makes the checksum anew over what it has broken.
        padding[ICMP + 2..ICMP + 4].fill(0);
        let sum = checksum::finish(checksum::sum(&padding[ICMP..]));
        put16(&mut padding, ICMP + 2, sum);
        assert_eq!(read(&padding, &Key::new(b"k")).unwrap().damage, Damage::PADDING);
    }

    #[test]
    fn nothing_can_be_sent_back_or_to_somebody_else() {
        let key = Key::new(b"k");
        let mut reflected = packet(&probe());
        reflected[ICMP + 1] = ANSWER;
        assert!(read(&reflected, &key).is_err());
        let mut elsewhere = packet(&probe());
        elsewhere[19] = 9;
        ipv4::write_checksum(&mut elsewhere);
        assert!(read(&elsewhere, &key).is_err());
    }

    #[test]
    fn echo_and_unreachable() {
        let mut b = buffer(1500);
        let mut p = write_echo(&mut b, 1450, 7, 9, A, B).to_vec();
        ipv4::write_checksum(&mut p);
        assert_eq!(read_answer(&p), None, "asks");
        p[ICMP] = 0;
        assert_eq!(read_answer(&p), Some(Answer::Echo { from: A, seq: 9, size: 1450 }));
        let mut e = vec![0; 56];
        e[..20].copy_from_slice(&[0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 172, 31, 1, 2, 172, 31, 1, 1]);
        (e[20], e[21]) = (3, 3);
        e[28..48].copy_from_slice(&[0x45, 0, 5, 220, 0, 0, 0, 0, 64, 17, 0, 0, 172, 31, 1, 1, 172, 31, 1, 2]);
        e[48..52].copy_from_slice(&[200, 0, 0x12, 0xb5]);
        ipv4::write_checksum(&mut e);
        let [by, to] = [Ipv4Addr::new(172, 31, 1, 2); 2];
        assert_eq!(read_answer(&e), Some(Answer::Unreachable { by, to, code: 3, proto: 17, port: 4789 }));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_refused_and_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(read(&bytes, &Key::new(b"k")).is_err());
            let _ = read_answer(&bytes);
        }

        #[test]
        fn one_changed_byte_never_passes_for_sound(at in 0usize..1450, flip in 1u8..=255) {
            let whole = packet(&probe());
            let mut p = whole.clone();
            p[at] ^= flip;
            if at < 20 {
                ipv4::write_checksum(&mut p);
            }
            // TOS, identification, DF and TTL may be changed on the way.
            if let Ok(r) = read(&p, &Key::new(b"k")) {
                prop_assert!(r.damage.any() || (1..12).contains(&at), "{at}");
            }
            let mut short = whole;
            short.truncate(at);
            prop_assert!(read(&short, &Key::new(b"k")).is_err());
        }
    }
}
