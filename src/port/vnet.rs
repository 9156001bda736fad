//! The virtio-net header in front of every frame of a TUN/TAP queue and of a packet socket with
//! PACKET_VNET_HDR: checksum state and segmentation, both ways.
//!
//! Source: virtio 1.2, 5.1.6 "Device Operation" and the kernel's include/linux/virtio_net.h. The fields are in the
//! machine's own byte order, which is what both kinds of descriptor use unless told otherwise.

use crate::frame::{Csum, Frame, Gso, GsoKind};

/// Length of the header without the buffer count, bytes.
pub const LEN: usize = 10;

/// The checksum field holds the pseudo-header sum; `csum_start` and `csum_offset` say where it is.
pub(super) const F_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Linux 6.2.
const GSO_UDP_L4: u8 = 5;
/// The TCP super-frame carries CWR in its first segment only (RFC 3168).
pub(super) const GSO_ECN: u8 = 0x80;

const TCP_CHECK: u16 = 16;
const UDP_CHECK: u16 = 6;
const UDP_HEADER: u32 = 8;

/// The header contradicts itself or the frame, or names a kind of super-frame that was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Sets `frame.csum` and `frame.gso` from the header that came with it; `frame` already has its length.
#[inline]
pub fn parse(h: &[u8; LEN], frame: &mut Frame) -> Result<(), Malformed> {
    let field = |at: usize| u16::from_ne_bytes([h[at], h[at + 1]]);
    let (start, offset) = (field(6), field(8));
    frame.csum = Csum::Complete;
    if h[0] & F_NEEDS_CSUM != 0 {
        if usize::from(start) + usize::from(offset) + 2 > frame.len() {
            return Err(Malformed);
        }
        frame.csum = Csum::Partial { start: frame.head() + u32::from(start), offset };
    }
    let kind = match h[1] & !GSO_ECN {
        GSO_NONE => {
            frame.gso = None;
            return Ok(());
        }
        GSO_TCPV4 => GsoKind::Tcp4,
        GSO_TCPV6 => GsoKind::Tcp6,
        GSO_UDP_L4 => GsoKind::Udp,
        _ => return Err(Malformed),
    };
    // Segmentation writes each segment's checksum from the pseudo-header sum, so it must be there.
    let size = field(4);
    if size == 0 || h[0] & F_NEEDS_CSUM == 0 || offset != check_offset(kind) {
        return Err(Malformed);
    }
    frame.gso = Some(Gso { kind, size });
    Ok(())
}

/// The header for a frame with the bytes `data`. `None` when metadata and bytes contradict each other: a
/// checksum position outside the frame, or a super-frame without an unfinished checksum, which the
/// receiver would verify as it stands and drop.
#[inline]
pub fn emit(frame: &Frame, data: &[u8]) -> Option<[u8; LEN]> {
    let mut h = [0u8; LEN];
    let Csum::Partial { start, offset } = frame.csum else {
        return frame.gso.is_none().then_some(h);
    };
    let start = start.checked_sub(frame.head())?;
    if start as usize + usize::from(offset) + 2 > data.len() {
        return None;
    }
    let mut header_len = start + u32::from(offset) + 2;
    if let Some(gso) = frame.gso {
        header_len = start + l4_header(gso.kind, &data[start as usize..], offset)?;
        h[1] = gso_type(gso.kind);
        h[4..6].copy_from_slice(&gso.size.to_ne_bytes());
    }
    h[0] = F_NEEDS_CSUM;
    h[2..4].copy_from_slice(&u16::try_from(header_len).ok()?.to_ne_bytes());
    h[6..8].copy_from_slice(&u16::try_from(start).ok()?.to_ne_bytes());
    h[8..10].copy_from_slice(&offset.to_ne_bytes());
    Some(h)
}

/// The kind as the header names it.
pub(super) const fn gso_type(kind: GsoKind) -> u8 {
    match kind {
        GsoKind::Tcp4 => GSO_TCPV4,
        GsoKind::Tcp6 => GSO_TCPV6,
        GsoKind::Udp => GSO_UDP_L4,
    }
}

const fn check_offset(kind: GsoKind) -> u16 {
    match kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => TCP_CHECK,
        GsoKind::Udp => UDP_CHECK,
    }
}

/// Length of a super-frame's L4 header, if the bytes and the checksum's place agree with the kind.
#[inline]
pub(super) fn l4_header(kind: GsoKind, l4: &[u8], offset: u16) -> Option<u32> {
    if offset != check_offset(kind) {
        return None;
    }
    let len = match kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => u32::from(*l4.get(12)? >> 4) * 4,
        GsoKind::Udp => UDP_HEADER,
    };
    let least = if matches!(kind, GsoKind::Udp) { UDP_HEADER } else { 20 };
    (len >= least && len as usize <= l4.len()).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FramePool, HEADROOM};
    use proptest::prelude::*;

    fn header(flags: u8, gso: u8, hdr_len: u16, size: u16, start: u16, offset: u16) -> [u8; LEN] {
        let mut h = [flags, gso, 0, 0, 0, 0, 0, 0, 0, 0];
        for (i, v) in [hdr_len, size, start, offset].into_iter().enumerate() {
            h[2 + 2 * i..4 + 2 * i].copy_from_slice(&v.to_ne_bytes());
        }
        h
    }

    /// Runs `f` on a frame of `len` zero bytes, but for a TCP data offset of 20 bytes where `l4` says.
    fn with_frame<T>(len: usize, l4: usize, f: impl FnOnce(&mut FramePool, &mut Frame) -> T) -> T {
        let mut pool = FramePool::new(1, 1).unwrap();
        let mut frame = pool.take_for(len).unwrap();
        pool.set_len(&mut frame, len);
        if l4 + 12 < len {
            pool.data_mut(&frame)[l4 + 12] = 0x50;
        }
        let result = f(&mut pool, &mut frame);
        pool.give(frame);
        assert!(pool.is_full());
        result
    }

    #[test]
    fn plain_and_verified_frames_are_complete() {
        for flags in [0, 2] {
            with_frame(60, 0, |pool, f| {
                parse(&header(flags, 0, 0, 0, 0, 0), f).unwrap();
                assert_eq!((f.csum, f.gso), (Csum::Complete, None));
                assert_eq!(emit(f, pool.data(f)), Some([0; LEN]));
            });
        }
    }

    #[test]
    fn tcp_super_frame_both_ways() {
        with_frame(30_000, 34, |pool, f| {
            // What a TAP delivers: with the ECN bit, which is not passed on.
            parse(&header(1, GSO_TCPV4 | GSO_ECN, 54, 1448, 34, 16), f).unwrap();
            assert_eq!(f.csum, Csum::Partial { start: HEADROOM as u32 + 34, offset: 16 });
            assert_eq!(f.gso, Some(Gso { kind: GsoKind::Tcp4, size: 1448 }));
            assert_eq!(emit(f, pool.data(f)), Some(header(1, GSO_TCPV4, 54, 1448, 34, 16)));
            // The position survives a pull and a push.
            f.pull(14);
            assert_eq!(emit(f, pool.data(f)), Some(header(1, GSO_TCPV4, 40, 1448, 20, 16)));
            pool.push(f, 64);
            assert_eq!(emit(f, pool.data(f)), Some(header(1, GSO_TCPV4, 104, 1448, 84, 16)));
        });
    }

    #[test]
    fn udp_super_frame_and_unfinished_checksum() {
        with_frame(3000, 100, |pool, f| {
            parse(&header(1, GSO_UDP_L4, 42, 1000, 34, 6), f).unwrap();
            assert_eq!(f.gso, Some(Gso { kind: GsoKind::Udp, size: 1000 }));
            assert_eq!(emit(f, pool.data(f)), Some(header(1, GSO_UDP_L4, 42, 1000, 34, 6)));
        });
        with_frame(60, 34, |pool, f| {
            parse(&header(1, 0, 0, 0, 34, 16), f).unwrap();
            assert_eq!(emit(f, pool.data(f)), Some(header(1, 0, 52, 0, 34, 16)));
        });
    }

    #[test]
    fn contradictions_are_malformed() {
        let bad = [
            header(1, 0, 0, 0, 50, 10),           // field beyond the frame
            header(1, 0, 0, 0, 65_535, 65_535),   // far beyond
            header(0, GSO_TCPV4, 54, 20, 34, 16), // super-frame without unfinished checksum
            header(1, GSO_TCPV4, 54, 0, 34, 16),  // no segment size
            header(1, 3, 42, 20, 34, 6),          // UFO: not asked for
            header(1, 0x20, 42, 20, 34, 6),       // UDP tunnel: not asked for
            header(1, GSO_TCPV4, 54, 20, 34, 6),  // TCP whose checksum lies where UDP's does
        ];
        for h in bad {
            with_frame(60, 34, |_, f| assert_eq!(parse(&h, f), Err(Malformed), "{h:?}"));
        }
    }

    #[test]
    fn contradictory_metadata_is_not_emitted() {
        with_frame(3000, 34, |pool, f| {
            f.gso = Some(Gso { kind: GsoKind::Tcp4, size: 1000 });
            for csum in [Csum::Complete, Csum::MayBePartial, Csum::Partial { start: 0, offset: 16 }] {
                f.csum = csum;
                assert_eq!(emit(f, pool.data(f)), None);
            }
            f.csum = Csum::Partial { start: f.head() + 34, offset: 16 };
            pool.data_mut(f)[46] = 0x40; // data offset below the least TCP header
            assert_eq!(emit(f, pool.data(f)), None);
            f.gso = None;
            f.csum = Csum::Partial { start: f.head() + 2990, offset: 16 };
            assert_eq!(emit(f, pool.data(f)), None);
        });
    }

    proptest! {
        #[test]
        fn any_header_parses_or_is_refused(h: [u8; LEN], len in 0usize..5000) {
            with_frame(len, 34, |pool, f| {
                if parse(&h, f).is_ok() {
                    if let Csum::Partial { start, offset } = f.csum {
                        assert!((start + u32::from(offset) + 2) as usize <= HEADROOM + len && start >= f.head());
                    }
                    assert!(f.gso.is_none() || matches!(f.csum, Csum::Partial { .. }));
                    // Whatever was accepted can be passed on, but for a TCP header that is cut off.
                    if let Some(out) = emit(f, pool.data(f)) {
                        assert_eq!(parse(&out, f), Ok(()));
                    } else {
                        assert!(f.gso.is_some());
                    }
                }
            });
        }
    }
}
