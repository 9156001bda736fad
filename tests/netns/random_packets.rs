//! Random IPv4 packets from a seed: whatever a pod may send, well-formed unless damaged on purpose.

use std::net::Ipv4Addr;
use tortie::wire::{ipv4, l4, put16};

/// SplitMix64: every seed gives its own sequence.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number of the range, both ends included.
    pub fn within(&mut self, first: usize, last: usize) -> usize {
        first + (self.next() % (last - first + 1) as u64) as usize
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.within(0, from.len() - 1)]
    }
    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

/// What a random packet must be like; everything else about it is random.
#[derive(Clone, Debug)]
pub struct Shape {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    /// Total length, bytes.
    pub len: (usize, usize),
    pub ttl: (u8, u8),
    /// Don't Fragment; `None`: either.
    pub df: Option<bool>,
    /// Whether options that routers write into (record route, timestamp) may occur.
    pub written_options: bool,
}

const PORTS: [u16; 5] = [53, 80, 4789, 8080, 41_000];

/// One packet of that shape.
pub fn packet(rng: &mut Rng, shape: &Shape) -> Vec<u8> {
    let options = if rng.chance(25) { options(rng, shape.written_options) } else { Vec::new() };
    let header = ipv4::HEADER + options.len();
    let total = rng.within(shape.len.0.max(header), shape.len.1.max(header));
    let mut p: Vec<u8> = (0..total).map(|_| rng.byte()).collect();
    p[0] = 0x40 | (header / 4) as u8;
    put16(&mut p, 2, total as u16);
    let df = shape.df.unwrap_or_else(|| rng.chance(50));
    let fragment = if rng.chance(15) { fragment(rng, total - header) } else { 0 };
    put16(&mut p, 6, fragment | if df { ipv4::DF } else { 0 });
    p[8] = rng.within(shape.ttl.0.into(), shape.ttl.1.into()) as u8;
    let other = rng.byte();
    p[9] = rng.pick(&[1, 6, 6, 6, 17, 17, 17, 2, 4, 41, 47, 50, 132, other]);
    p[12..16].copy_from_slice(&shape.src.octets());
    p[16..20].copy_from_slice(&shape.dst.octets());
    p[20..header].copy_from_slice(&options);
    l4_header(rng, &mut p, header);
    ipv4::write_checksum(&mut p);
    p
}

/// A flags and offset word of a fragment with that much payload, not beyond the longest packet.
fn fragment(rng: &mut Rng, payload: usize) -> u16 {
    let offset = if rng.chance(30) { 0 } else { rng.within(0, (65_535 - 60 - payload) / 8) as u16 };
    let more = if offset == 0 || rng.chance(50) { ipv4::MF } else { 0 };
    // The reserved bit, which routers leave as it is.
    offset | more | if rng.chance(5) { 0x8000 } else { 0 }
}

/// Well-formed options, padded to a multiple of four bytes.
fn options(rng: &mut Rng, written: bool) -> Vec<u8> {
    let mut o = Vec::new();
    for _ in 0..rng.within(1, 3) {
        match rng.within(0, if written { 6 } else { 4 }) {
            0 => o.extend([1; 3]),
            1 => o.extend([148, 4, 0, 0]),
            2 => o.extend([130, 11, 0xf1, 0x35, 0, 0, 0, 0, 0, 0, 0]),
            3 => o.extend([136, 4, rng.byte(), rng.byte()]),
            4 => o.extend([rng.pick(&[94, 222]), 6, rng.byte(), rng.byte(), 0, 0]),
            5 if !o.contains(&7) => o.extend([7, 7, 4, 0, 0, 0, 0]),
            _ if !o.contains(&68) => o.extend([68, 8, 5, 0, 0, 0, 0, 0]),
            _ => {}
        }
    }
    if rng.chance(30) {
        o.push(0);
    }
    o.resize(o.len().next_multiple_of(4), 0);
    o
}

/// Ports of few flows; lengths right; the checksum right, zero or nonsense.
fn l4_header(rng: &mut Rng, p: &mut [u8], at: usize) {
    let (proto, room) = (p[9], p.len() - at);
    if ipv4::is_later_fragment(p) {
        return;
    }
    if proto == 1 && room > 0 {
        p[at] = rng.pick(&[0, 8, 13, 14, 3, 4, 5, 11, 12, 15, 17, 40]);
    }
    let (tcp, udp) = (proto == 6 && room >= 20, proto == 17 && room >= 8);
    if !tcp && !udp {
        return;
    }
    put16(p, at, rng.pick(&PORTS));
    put16(p, at + 2, rng.pick(&PORTS));
    if tcp {
        p[at + 12] = 0x50 | (p[at + 12] & 0x0f);
    } else {
        put16(p, at + 4, room as u16);
    }
    let total = p.len();
    match rng.within(0, 3) {
        0 => put16(p, at + if tcp { l4::TCP_CHECK } else { l4::UDP_CHECK }, 0),
        1 => {}
        _ => l4::write(p, total),
    }
}

/// Whether a router may write into the packet's options.
pub fn has_written_options(p: &[u8]) -> bool {
    let o = &p[ipv4::HEADER..ipv4::header_len(p)];
    let mut at = 0;
    while at < o.len() {
        match o[at] {
            0 => return false,
            1 => at += 1,
            7 | 68 => return true,
            _ => at += usize::from(*o.get(at + 1).unwrap_or(&0)).max(2),
        }
    }
    false
}
