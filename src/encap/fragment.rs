//! IPv4 fragmentation of inner packets (RFC 791, 3.2): what a packet without DF gets when the tunnel's MTU is
//! too small. The outer packet is never fragmented.

use crate::drop::DropReason;
use crate::frame::{Frame, FramePool};
use crate::wire::{ipv4, put16};

/// Copied flag of an option type.
const OPT_COPIED: u8 = 0x80;
const OPT_NOP: u8 = 1;
const OPT_END: u8 = 0;

/// Most fragments of one packet: enough for the longest one at IPv4's customary least MTU, 576.
pub const FRAGMENTS_MAX: usize = 128;

/// How many fragments were made and how many could not be, for want of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragmented {
    pub made: u32,
    pub lost: u32,
}

/// Splits the frame (an IPv4 packet without DF, its L4 checksum complete) into fragments of at most `mtu`
/// bytes, passed to `sink` in order with the frame's metadata. The frame's slot goes back to the pool. On an
/// error the frame is returned untouched.
pub fn fragment(pool: &mut FramePool, f: Frame, mtu: usize, mut sink: impl FnMut(Frame)) -> Result<Fragmented, (Frame, DropReason)> {
    let p = pool.data(&f);
    let header = ipv4::header_len(p);
    let payload = p.len() - header;
    let step = mtu.saturating_sub(header) & !7;
    let word = ipv4::frag_word(p);
    let offset = usize::from(word & ipv4::OFFSET_MASK) * 8;
    if step == 0 || word & ipv4::DF != 0 || offset + payload > 65_535 || payload.div_ceil(step) > FRAGMENTS_MAX {
        return Err((f, DropReason::FragmentFailed));
    }
    let mut result = Fragmented { made: 0, lost: 0 };
    let mut next = 0;
    while next < payload {
        let start = next;
        // Only the last fragment's length need not be a multiple of 8.
        let end = if payload - start <= mtu - header { payload } else { start + step };
        next = end;
        let Some(mut part) = pool.take_for(header + end - start) else {
            result.lost += 1;
            continue;
        };
        copy_part(pool, &f, &mut part, header, start..end);
        let more = end < payload || word & ipv4::MF != 0;
        let q = pool.data_mut(&part);
        put16(q, 6, ((offset + start) / 8) as u16 | if more { ipv4::MF } else { 0 });
        put16(q, 2, (header + end - start) as u16);
        // Later fragments have got rid of such options already.
        if start > 0 && offset == 0 {
            blank_uncopied_options(&mut q[ipv4::HEADER..header]);
        }
        ipv4::write_checksum(q);
        sink(part);
        result.made += 1;
    }
    pool.give(f);
    Ok(result)
}

/// Copies header and payload range of `from` into `to`, with the metadata that travels with a packet.
fn copy_part(pool: &mut FramePool, from: &Frame, to: &mut Frame, header: usize, range: std::ops::Range<usize>) {
    pool.copy_range(from, to, 0, 0..header);
    pool.copy_range(from, to, header, header + range.start..header + range.end);
    to.port = from.port;
    to.peer = from.peer;
    to.outer_tos = from.outer_tos;
    to.hash = from.hash;
}

/// Options without the copied flag stay in the first fragment only; in the others NOPs keep the length.
fn blank_uncopied_options(options: &mut [u8]) {
    let mut at = 0;
    while at < options.len() {
        let kind = options[at];
        if kind == OPT_END {
            return;
        }
        let len = if kind == OPT_NOP { 1 } else { usize::from(*options.get(at + 1).unwrap_or(&0)) };
        if len == 0 || at + len > options.len() || (kind != OPT_NOP && len < 2) {
            return;
        }
        if kind & OPT_COPIED == 0 {
            options[at..at + len].fill(OPT_NOP);
        }
        at += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(pool: &mut FramePool, payload: &[u8], frag: u16) -> Frame {
        let total = 20 + payload.len();
        let mut f = pool.take_for(total).unwrap();
        pool.set_len(&mut f, total);
        let p = pool.data_mut(&f);
        ipv4::Header { tos: 0, len: total as u16, id: 99, frag, ttl: 9, proto: 17, src: 1, dst: 2 }.write(p);
        p[20..].copy_from_slice(payload);
        f
    }

    proptest! {
        #[test]
        fn fragments_reassemble(len in 0usize..9000, mtu in 28usize..1500, mf: bool) {
            let mut pool = FramePool::new(1200, 2).unwrap();
            let payload: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            let f = packet(&mut pool, &payload, if mf { ipv4::MF } else { 0 });
            let mut parts = Vec::new();
            let r = match fragment(&mut pool, f, mtu, |p| parts.push(p)) {
                Ok(r) => r,
                Err((f, reason)) => {
                    prop_assert!(reason == DropReason::FragmentFailed && len.div_ceil((mtu - 20) & !7) > FRAGMENTS_MAX);
                    pool.give(f);
                    return Ok(());
                }
            };
            prop_assert_eq!((r.made as usize, r.lost), (parts.len(), 0));
            let mut seen = Vec::new();
            let last = parts.len().saturating_sub(1);
            for (i, part) in parts.iter().enumerate() {
                let p = pool.data(part);
                prop_assert_eq!(ipv4::validate(p), Ok(p.len()));
                prop_assert!(p.len() <= mtu);
                prop_assert_eq!(usize::from(ipv4::frag_word(p) & ipv4::OFFSET_MASK) * 8, seen.len());
                prop_assert_eq!(ipv4::frag_word(p) & ipv4::MF != 0, mf || i != last);
                seen.extend_from_slice(&p[20..]);
            }
            prop_assert_eq!(seen, payload);
            for p in parts { pool.give(p); }
            prop_assert!(pool.is_full());
        }
    }

    #[test]
    fn refuses_df_and_tiny_mtu() {
        let mut pool = FramePool::new(4, 0).unwrap();
        for (frag, mtu) in [(ipv4::DF, 100), (0, 27)] {
            let f = packet(&mut pool, &[0; 200], frag);
            let (f, reason) = fragment(&mut pool, f, mtu, |_| panic!("no fragment expected")).unwrap_err();
            assert_eq!(reason, DropReason::FragmentFailed);
            pool.give(f);
        }
    }

    #[test]
    fn uncopied_options_are_blanked() {
        // NOP, record route (7, not copied), loose source route (131, copied), end.
        let mut o = [1, 7, 3, 4, 131, 3, 4, 0];
        blank_uncopied_options(&mut o);
        assert_eq!(o, [1, 1, 1, 1, 131, 3, 4, 0]);
    }
}
