//! Where one receive call puts a frame whose length is not known beforehand: a small slot followed by the rest
//! of a big one. An ordinary frame uses up the small slot alone; a super-frame's start is copied in front of
//! its rest, so that a frame is always contiguous and big slots go to those that need them.

use crate::frame::{Frame, FramePool};
use std::sync::atomic::AtomicU8;

/// Takes the byte that shows a frame to be longer than its slot, when a pool has no big slots.
static SPILL: AtomicU8 = AtomicU8::new(0);

/// One small slot and, if the pool has any, one big slot, armed for one receive call.
pub(super) struct Pair {
    small: Frame,
    big: Option<Frame>,
}

impl Pair {
    /// Takes the slots. `None` when one kind is used up: then nothing should be received.
    #[inline]
    pub fn take(pool: &mut FramePool) -> Option<Pair> {
        let small = pool.take()?;
        if pool.size().1 == 0 {
            return Some(Pair { small, big: None });
        }
        match pool.take_big() {
            Some(big) => Some(Pair { small, big: Some(big) }),
            None => {
                pool.give(small);
                None
            }
        }
    }

    /// The two pieces of memory to receive into, in this order.
    #[inline]
    pub fn iovecs(&self, pool: &mut FramePool) -> [libc::iovec; 2] {
        let (small, small_len) = pool.room_ptr(&self.small);
        let rest = match &self.big {
            Some(big) => {
                let (at, len) = pool.room_ptr(big);
                libc::iovec { iov_base: at.wrapping_add(small_len).cast(), iov_len: len - small_len }
            }
            None => libc::iovec { iov_base: SPILL.as_ptr().cast(), iov_len: 1 },
        };
        [libc::iovec { iov_base: small.cast(), iov_len: small_len }, rest]
    }

    /// Gives both slots back: nothing was received.
    #[inline]
    pub fn give(self, pool: &mut FramePool) {
        pool.give(self.small);
        if let Some(big) = self.big {
            pool.give(big);
        }
    }

    /// The frame of `len` bytes that was received, contiguous; the unused slot goes back. `None` (both slots
    /// back) if it was longer than its slot.
    #[inline]
    pub fn finish(self, pool: &mut FramePool, len: usize) -> Option<Frame> {
        let Pair { mut small, big } = self;
        let small_len = pool.capacity(&small);
        if len <= small_len {
            pool.set_len(&mut small, len);
            if let Some(big) = big {
                pool.give(big);
            }
            return Some(small);
        }
        let Some(mut big) = big else {
            pool.give(small);
            return None;
        };
        pool.set_len(&mut small, small_len);
        let fits = len <= pool.capacity(&big) && pool.copy(&small, &mut big).is_some();
        pool.give(small);
        if !fits {
            pool.give(big);
            return None;
        }
        pool.set_len(&mut big, len);
        Some(big)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{BIG_SLOT, HEADROOM, SMALL_SLOT};

    /// Scatters `len` numbered bytes into the pair as a receive call would.
    fn fill(pool: &mut FramePool, pair: &Pair, len: usize) {
        let [a, b] = pair.iovecs(pool);
        for i in 0..len {
            let (base, at) = if i < a.iov_len { (a.iov_base, i) } else { (b.iov_base, i - a.iov_len) };
            assert!(at < a.iov_len.max(b.iov_len));
            // SAFETY: within the iovec, which lies in a slot taken from the pool.
            unsafe { *base.cast::<u8>().add(at) = (i % 251) as u8 };
        }
    }

    #[test]
    fn every_length_is_contiguous_and_slots_come_back() {
        const SMALL: usize = SMALL_SLOT - HEADROOM;
        let mut pool = FramePool::new(1, 1).unwrap();
        for len in [0, 1, 60, SMALL - 1, SMALL, SMALL + 1, 9000, BIG_SLOT - HEADROOM] {
            let pair = Pair::take(&mut pool).unwrap();
            assert!(Pair::take(&mut pool).is_none());
            fill(&mut pool, &pair, len);
            let frame = pair.finish(&mut pool, len).unwrap();
            assert_eq!(pool.free(), if len <= SMALL { (0, 1) } else { (1, 0) });
            assert!(pool.data(&frame).iter().enumerate().all(|(i, b)| *b == (i % 251) as u8) && frame.len() == len);
            assert_eq!(frame.head(), HEADROOM as u32);
            pool.give(frame);
            assert!(pool.is_full());
        }
        let pair = Pair::take(&mut pool).unwrap();
        assert!(pair.finish(&mut pool, BIG_SLOT).is_none() && pool.is_full());
    }

    #[test]
    fn without_big_slots_long_frames_are_truncated() {
        let mut pool = FramePool::new(1, 0).unwrap();
        let pair = Pair::take(&mut pool).unwrap();
        assert_eq!(pair.iovecs(&mut pool)[1].iov_len, 1);
        assert!(pair.finish(&mut pool, SMALL_SLOT - HEADROOM + 1).is_none() && pool.is_full());
    }

    #[test]
    fn a_used_up_kind_gives_nothing() {
        let mut pool = FramePool::new(2, 1).unwrap();
        let big = pool.take_big().unwrap();
        assert!(Pair::take(&mut pool).is_none());
        pool.give(big);
        let pair = Pair::take(&mut pool).unwrap();
        pair.give(&mut pool);
        assert!(pool.is_full());
    }
}
