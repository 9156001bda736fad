//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// One's-complement sum of `data` as big-endian 16-bit words, not folded; an odd last byte is padded with zero.
/// `data` must be under 64 KiB * 2^16 long, which every frame is.
#[inline]
pub fn sum(data: &[u8]) -> u64 {
    // The one's-complement sum does not care in which byte order words are added, as long as the result is
    // swapped once (RFC 1071, 2(B)); so add native 32-bit words in independent lanes, which vectorises.
    let mut lanes = [0u64; 8];
    let mut chunks = data.chunks_exact(32);
    for c in &mut chunks {
        for (lane, w) in lanes.iter_mut().zip(c.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
        }
    }
    let mut acc: u64 = lanes.iter().sum();
    let (words, rest) = chunks.remainder().as_chunks::<4>();
    acc += words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum::<u64>();
    let (words, rest) = rest.as_chunks::<2>();
    acc += words.iter().map(|w| u64::from(u16::from_ne_bytes(*w))).sum::<u64>();
    if let [last] = rest {
        acc += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u64::from(u16::from_be(fold(acc)))
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub const fn fold(mut s: u64) -> u16 {
    s = (s & 0xffff_ffff) + (s >> 32);
    s = (s & 0xffff_ffff) + (s >> 32);
    s = (s & 0xffff) + (s >> 16);
    s = (s & 0xffff) + (s >> 16);
    s as u16
}

/// The checksum field for a region that sums to `s` with the field taken as zero.
#[inline(always)]
pub const fn finish(s: u64) -> u16 {
    !fold(s)
}

/// The checksum after one 16-bit word of the covered data changed from `old` to `new` (RFC 1624, eqn. 3).
#[inline(always)]
pub const fn update(check: u16, old: u16, new: u16) -> u16 {
    !fold((!check as u64) + (!old as u64) + new as u64)
}

/// Sum of the IPv4 pseudo-header (RFC 793, RFC 768); `len` is the L4 length in bytes.
#[inline(always)]
pub const fn pseudo_v4(src: u32, dst: u32, proto: u8, len: u32) -> u64 {
    (src >> 16) as u64 + (src & 0xffff) as u64 + (dst >> 16) as u64 + (dst & 0xffff) as u64 + proto as u64 + len as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(data: &[u8]) -> u16 {
        let mut s: u32 = 0;
        for w in data.chunks(2) {
            s += u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)]));
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    #[test]
    fn rfc1071_example() {
        // RFC 1071, section 3.
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn rfc1624_example() {
        // RFC 1624, section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives 0x0000.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn sum_equals_the_naive_one(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(fold(sum(&data)), naive(&data));
        }

        #[test]
        fn update_equals_recomputation(mut data in proptest::collection::vec(any::<u8>(), 20..60), at in 0usize..9, new: u16) {
            data.truncate(data.len() & !1);
            let before = finish(sum(&data));
            let old = u16::from_be_bytes([data[at * 2], data[at * 2 + 1]]);
            data[at * 2..at * 2 + 2].copy_from_slice(&new.to_be_bytes());
            // 0x0000 and 0xffff are the same number in one's complement; headers never sum to 0x0000 uncomplemented.
            prop_assume!(data.iter().any(|b| *b != 0));
            prop_assert_eq!(fold(u64::from(!update(before, old, new))) % 0xffff, fold(sum(&data)) % 0xffff);
        }
    }
}
