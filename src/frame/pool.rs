//! The slot pool: one mapping, small slots first (an AF_XDP UMEM as they lie), then big slots for
//! super-frames. Owned by one worker; no locks, last given is first taken, so that slots stay in cache.

use super::memory::Memory;
use super::{Batch, Csum, Frame, SlotSet};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Size of a small slot, bytes: one AF_XDP chunk (a page).
pub const SMALL_SLOT: usize = 4096;
/// Size of a big slot: headroom, Ethernet and the longest IPv4 packet.
pub const BIG_SLOT: usize = 66 * 1024;
/// Free bytes in front of a newly taken frame: room for the outer headers. Equals the room the kernel keeps
/// in front of an AF_XDP frame (XDP_PACKET_HEADROOM).
pub const HEADROOM: usize = 256;
/// Frames in neighbouring small slots start this many cache lines' worth of offsets apart before it repeats: were
/// they all at the same place of their page, a burst's headers would share one set of the L1 cache and evict
/// each other (8 to 12 ways for 64 frames).
const COLOURS: u32 = 16;
/// Bytes of a small slot that a frame surely has behind its headroom.
const SMALL_ROOM: usize = SMALL_SLOT - HEADROOM - (COLOURS as usize - 1) * LINE;
/// A cache line.
const LINE: usize = 64;
/// What slot positions are counted in: both sizes are multiples.
const UNIT: usize = 1024;
const SMALL_UNITS: u32 = (SMALL_SLOT / UNIT) as u32;
const BIG_UNITS: u32 = (BIG_SLOT / UNIT) as u32;

/// The part of the pool's memory that can be registered as an AF_XDP UMEM. Addresses of small slots, as used
/// in AF_XDP descriptors, are offsets from `base`.
#[derive(Clone, Copy, Debug)]
pub struct Umem {
    pub base: NonNull<u8>,
    /// Length, bytes: a multiple of `SMALL_SLOT`.
    pub len: usize,
}

/// A fixed number of slots. Whoever takes a frame gives it back; `is_full` tells whether all did.
pub struct FramePool {
    memory: Memory,
    small: u32,
    big: u32,
    /// Where the big slots begin, in units.
    small_end: u32,
    /// Positions in units.
    free_small: Vec<u32>,
    free_big: Vec<u32>,
    /// In adopted memory: what neither was free nor with the kernel when this pool went on with it.
    rest: Vec<u32>,
}

impl FramePool {
    /// Maps memory for `small` slots of [`SMALL_SLOT`] and `big` slots of [`BIG_SLOT`] bytes. Pages are
    /// touched when first used. Errors: what mmap(2) says.
    pub fn new(small: u32, big: u32) -> io::Result<FramePool> {
        Ok(FramePool::over(Memory::private(length(small, big))?, small, big).all_free())
    }

    /// The same in memory that another process can go on with: [`FramePool::memory`]. Errors: what memfd_create(2) says, too.
    pub fn shared(small: u32, big: u32) -> io::Result<FramePool> {
        Ok(FramePool::over(Memory::shared(length(small, big))?, small, big).all_free())
    }

    /// Maps the memory of another process's pool with as many slots. No slot is free before [`FramePool::inherit`], and
    /// none is written to. Errors: it has another length.
    pub fn adopt(memory: OwnedFd, small: u32, big: u32) -> io::Result<FramePool> {
        let pool = FramePool::over(Memory::adopt(memory, length(small, big))?, small, big);
        pool.memory.populate(small as usize * SMALL_SLOT);
        Ok(pool)
    }

    fn over(memory: Memory, small: u32, big: u32) -> FramePool {
        let (free_small, free_big) = (Vec::with_capacity(small as usize), Vec::with_capacity(big as usize));
        FramePool { memory, small, big, small_end: small * SMALL_UNITS, free_small, free_big, rest: Vec::new() }
    }

    fn all_free(mut self) -> FramePool {
        (0..self.slots()).rev().for_each(|n| self.give_slot(self.position(n)));
        self
    }

    /// What another process needs for [`FramePool::adopt`]; `None` if the memory is this one's alone.
    pub fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.memory.file()
    }

    /// Small and big ones together.
    fn slots(&self) -> usize {
        self.small as usize + self.big as usize
    }

    /// Where the slot with a number begins, in units.
    fn position(&self, number: usize) -> u32 {
        match (number as u32).checked_sub(self.small) {
            None => number as u32 * SMALL_UNITS,
            Some(big) => self.small_end + big * BIG_UNITS,
        }
    }

    /// The free slots, by number.
    pub fn free_slots(&self) -> SlotSet {
        let mut set = SlotSet::new(self.slots());
        self.free_small.iter().for_each(|s| set.add((s / SMALL_UNITS) as usize));
        self.free_big.iter().for_each(|s| set.add((self.small + (s - self.small_end) / BIG_UNITS) as usize));
        set
    }

    /// Goes on where the pool that the memory was adopted from has stopped: `free` slots are free here, slots `lent` to the
    /// kernel come back from there. The rest is still the other's, until [`FramePool::inherit_rest`].
    /// Errors: a slot is named twice or there is no such slot; nothing is free then.
    pub fn inherit<'a>(&mut self, free: &SlotSet, lent: impl Iterator<Item = &'a SlotSet>) -> io::Result<()> {
        let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if self.free() != (0, 0) || !self.rest.is_empty() {
            return wrong("slots are free here already");
        }
        let mut kernel = SlotSet::new(self.slots());
        for slot in lent.flat_map(SlotSet::iter) {
            if slot >= self.small as usize || kernel.contains(slot) || free.contains(slot) {
                return wrong("a slot that cannot be with the kernel, or is there twice");
            }
            kernel.add(slot);
        }
        if free.iter().any(|slot| slot >= self.slots()) {
            return wrong("a free slot that the pool does not have");
        }
        for slot in (0..self.slots()).rev() {
            let position = self.position(slot);
            if free.contains(slot) {
                self.give_slot(position);
            } else if !kernel.contains(slot) {
                self.rest.push(position);
            }
        }
        Ok(())
    }

    /// The process that the memory was adopted from is gone, and what it still had is free.
    pub fn inherit_rest(&mut self) {
        for slot in std::mem::take(&mut self.rest) {
            self.give_slot(slot);
        }
    }

    #[inline(always)]
    fn base(&self) -> *mut u8 {
        self.memory.base().as_ptr()
    }

    /// Where a slot starts, bytes from the base.
    #[inline(always)]
    fn offset(slot: u32) -> usize {
        slot as usize * UNIT
    }

    #[inline(always)]
    fn slot_size(&self, slot: u32) -> usize {
        if slot < self.small_end { SMALL_SLOT } else { BIG_SLOT }
    }

    /// An empty frame in a small slot with at least [`HEADROOM`] in front, or `None` when all are in use.
    #[inline(always)]
    pub fn take(&mut self) -> Option<Frame> {
        let colour = |slot: u32| slot / SMALL_UNITS % COLOURS * LINE as u32;
        self.free_small.pop().map(|s| Frame::new(s, HEADROOM as u32 + colour(s), 0))
    }

    /// The same in a big slot.
    #[inline(always)]
    pub fn take_big(&mut self) -> Option<Frame> {
        self.free_big.pop().map(|s| Frame::new(s, HEADROOM as u32, 0))
    }

    /// An empty frame in the smallest free slot that holds `len` bytes behind the headroom.
    pub fn take_for(&mut self, len: usize) -> Option<Frame> {
        if len <= SMALL_SLOT - HEADROOM {
            let small = self.take().map(|mut f| {
                if len > SMALL_ROOM {
                    f.head = HEADROOM as u32;
                }
                f
            });
            small.or_else(|| self.take_big())
        } else if len <= BIG_SLOT - HEADROOM {
            self.take_big()
        } else {
            None
        }
    }

    /// Gives a slot back.
    #[inline(always)]
    pub fn give(&mut self, f: Frame) {
        self.give_slot(f.slot);
    }

    /// Gives back every frame of a batch.
    pub fn give_all(&mut self, b: &mut Batch) {
        for f in b.drain() {
            self.give(f);
        }
    }

    #[inline(always)]
    fn give_slot(&mut self, slot: u32) {
        debug_assert!(Self::offset(slot) < self.memory.len());
        if slot < self.small_end { self.free_small.push(slot) } else { self.free_big.push(slot) }
    }

    /// The frame's bytes.
    #[inline(always)]
    pub fn data(&self, f: &Frame) -> &[u8] {
        debug_assert!(f.head as usize + f.len as usize <= self.slot_size(f.slot));
        // SAFETY: a Frame is only made for a slot of this pool and its head + len never leave the slot (pull,
        // truncate, push and set_len check); a slot with a Frame is in no kernel ring, so nobody else writes.
        unsafe { std::slice::from_raw_parts(self.base().add(Self::offset(f.slot) + f.head as usize), f.len as usize) }
    }

    /// The frame's bytes, to be changed.
    #[inline(always)]
    pub fn data_mut(&mut self, f: &Frame) -> &mut [u8] {
        debug_assert!(f.head as usize + f.len as usize <= self.slot_size(f.slot));
        // SAFETY: as in `data`; `&mut self` makes this the only slice into the pool.
        unsafe { std::slice::from_raw_parts_mut(self.base().add(Self::offset(f.slot) + f.head as usize), f.len as usize) }
    }

    /// Every byte from the frame's head to the end of its slot: where a receive call writes.
    #[inline(always)]
    pub fn room_mut(&mut self, f: &Frame) -> &mut [u8] {
        let len = self.slot_size(f.slot) - f.head as usize;
        // SAFETY: head is within the slot; as in `data_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.base().add(Self::offset(f.slot) + f.head as usize), len) }
    }

    /// Raw address of the frame's first byte and the bytes up to the end of the slot, for iovecs of several
    /// frames at once. Valid while the frame is alive.
    #[inline(always)]
    pub fn room_ptr(&mut self, f: &Frame) -> (*mut u8, usize) {
        let room = self.room_mut(f);
        (room.as_mut_ptr(), room.len())
    }

    /// How many bytes the frame can be long where its head is.
    #[inline(always)]
    pub fn capacity(&self, f: &Frame) -> usize {
        self.slot_size(f.slot) - f.head as usize
    }

    /// Sets the length after bytes were written into `room_mut`. Panics beyond the slot.
    #[inline(always)]
    pub fn set_len(&self, f: &mut Frame, len: usize) {
        assert!(len <= self.capacity(f), "frame longer than its slot");
        f.len = len as u32;
    }

    /// Moves the head of an empty frame: the distance from the slot's start. Panics beyond the slot.
    pub fn set_head(&self, f: &mut Frame, head: usize) {
        assert!(f.len == 0 && head <= self.slot_size(f.slot), "head of a frame with bytes, or beyond the slot");
        f.head = head as u32;
    }

    /// Puts `n` bytes in front of the frame and returns the frame's bytes from the new head on; what they
    /// hold is unspecified. Panics when the headroom is used up (the forward path never stacks more than 64
    /// of its 256 bytes).
    #[inline(always)]
    pub fn push(&mut self, f: &mut Frame, n: usize) -> &mut [u8] {
        assert!(n <= f.head as usize, "no headroom left");
        f.head -= n as u32;
        f.len += n as u32;
        self.data_mut(f)
    }

    /// Copies `from`'s bytes and metadata into `to`, whose head stays. `None`, and nothing copied, if they do
    /// not fit.
    #[must_use]
    pub fn copy(&mut self, from: &Frame, to: &mut Frame) -> Option<()> {
        if from.len as usize > self.capacity(to) || from.slot == to.slot {
            return None;
        }
        let (src, dst) = (Self::offset(from.slot) + from.head as usize, Self::offset(to.slot) + to.head as usize);
        // SAFETY: both ranges lie in the mapping, each within its own slot (checked above), and the slots differ.
        unsafe { std::ptr::copy_nonoverlapping(self.base().add(src), self.base().add(dst), from.len as usize) };
        to.len = from.len;
        to.port = from.port;
        to.gso = from.gso;
        to.peer = from.peer;
        to.outer_tos = from.outer_tos;
        to.hash = from.hash;
        to.csum = match from.csum {
            Csum::Partial { start, offset } => Csum::Partial { start: start - from.head + to.head, offset },
            other => other,
        };
        Some(())
    }

    /// The bytes of one frame to read and of another to write.
    pub fn pair_mut(&mut self, read: &Frame, write: &Frame) -> (&[u8], &mut [u8]) {
        assert!(read.slot != write.slot, "two frames of one slot");
        let r = Self::offset(read.slot) + read.head as usize;
        let w = Self::offset(write.slot) + write.head as usize;
        // SAFETY: as in `data` and `data_mut`; the slots differ, so the slices do not overlap, and both borrow
        // the pool.
        unsafe {
            (
                std::slice::from_raw_parts(self.base().add(r), read.len as usize),
                std::slice::from_raw_parts_mut(self.base().add(w), write.len as usize),
            )
        }
    }

    /// Copies `range` of `from`'s bytes to position `at` of `to`, which grows to hold them. Panics when the
    /// range is not in `from` or does not fit `to`'s slot.
    #[inline]
    pub fn copy_range(&mut self, from: &Frame, to: &mut Frame, at: usize, range: std::ops::Range<usize>) {
        let n = range.len();
        assert!(range.end <= from.len() && at + n <= self.capacity(to) && from.slot != to.slot, "copy outside the frames");
        let (src, dst) = (Self::offset(from.slot) + from.head as usize + range.start, Self::offset(to.slot) + to.head as usize + at);
        // SAFETY: both ranges lie in the mapping, each within its own slot (asserted), and the slots differ.
        unsafe { std::ptr::copy_nonoverlapping(self.base().add(src), self.base().add(dst), n) };
        to.len = to.len.max((at + n) as u32);
    }

    /// Whether the frame lies in the UMEM part, so that AF_XDP can send it where it is.
    #[inline(always)]
    pub fn in_umem(&self, f: &Frame) -> bool {
        f.slot < self.small_end
    }

    /// The part to register with AF_XDP.
    pub fn umem(&self) -> Umem {
        Umem { base: self.memory.base(), len: self.small as usize * SMALL_SLOT }
    }

    /// Turns a frame of the UMEM part into its descriptor address and length: from here on the kernel owns the
    /// slot, until [`FramePool::from_kernel`] or [`FramePool::reclaim`] names it again.
    #[inline(always)]
    pub fn into_kernel(&self, f: Frame) -> (u64, u32) {
        debug_assert!(self.in_umem(&f));
        ((Self::offset(f.slot) + f.head as usize) as u64, f.len)
    }

    /// The frame for a descriptor that the kernel handed back with data. `None` for an address or length
    /// outside the UMEM or across slots: a kernel that does that is not to be believed.
    #[inline(always)]
    pub fn from_kernel(&self, addr: u64, len: u32) -> Option<Frame> {
        let slot = addr / SMALL_SLOT as u64;
        let head = (addr % SMALL_SLOT as u64) as u32;
        (slot < u64::from(self.small) && head as usize + len as usize <= SMALL_SLOT)
            .then(|| Frame::new(slot as u32 * SMALL_UNITS, head, len))
    }

    /// Gives back the slot that holds UMEM address `addr` (from a completion ring, or on close).
    #[inline(always)]
    pub fn reclaim(&mut self, addr: u64) {
        let slot = addr / SMALL_SLOT as u64;
        if slot < u64::from(self.small) {
            self.free_small.push(slot as u32 * SMALL_UNITS);
        }
    }

    /// Free slots: (small, big).
    pub fn free(&self) -> (usize, usize) {
        (self.free_small.len(), self.free_big.len())
    }

    /// Total slots: (small, big).
    pub fn size(&self) -> (u32, u32) {
        (self.small, self.big)
    }

    /// Whether every slot has been given back.
    pub fn is_full(&self) -> bool {
        self.free() == (self.small as usize, self.big as usize)
    }
}

/// Bytes of so many slots.
fn length(small: u32, big: u32) -> usize {
    (small as usize * SMALL_SLOT + big as usize * BIG_SLOT).max(SMALL_SLOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_write_push_pull_give() {
        let mut pool = FramePool::new(4, 2).unwrap();
        let mut f = pool.take().unwrap();
        pool.room_mut(&f)[..4].copy_from_slice(b"abcd");
        pool.set_len(&mut f, 4);
        pool.push(&mut f, 2).copy_within(2..3, 0);
        pool.data_mut(&f)[1] = b'_';
        assert_eq!(pool.data(&f), b"a_abcd");
        f.pull(3);
        f.truncate(2);
        assert_eq!(pool.data(&f), b"bc");
        assert!(!pool.is_full());
        pool.give(f);
        assert!(pool.is_full());
    }

    #[test]
    fn sizes_are_chosen_and_exhausted() {
        let mut pool = FramePool::new(1, 1).unwrap();
        let a = pool.take_for(1500).unwrap();
        assert!(pool.in_umem(&a));
        let b = pool.take_for(1500).unwrap();
        assert!(!pool.in_umem(&b));
        assert!(pool.take_for(1).is_none() && pool.take_for(BIG_SLOT).is_none());
        pool.give(a);
        assert!(pool.take_for(60_000).is_none());
        pool.give(b);
        assert!(pool.is_full());
    }

    #[test]
    fn copy_moves_the_checksum_position() {
        let mut pool = FramePool::new(2, 1).unwrap();
        let mut a = pool.take_big().unwrap();
        pool.set_len(&mut a, 100);
        a.pull(10);
        a.csum = Csum::Partial { start: a.head() + 20, offset: 6 };
        let mut b = pool.take().unwrap();
        pool.copy(&a, &mut b).unwrap();
        assert_eq!(b.csum, Csum::Partial { start: b.head() + 20, offset: 6 });
        assert_eq!(b.len(), 90);
        pool.set_len(&mut a, 5000);
        assert!(pool.copy(&a, &mut b).is_none());
        pool.give(a);
        pool.give(b);
    }

    #[test]
    fn kernel_addresses_are_checked() {
        let mut pool = FramePool::new(2, 1).unwrap();
        assert!(pool.from_kernel(2 * SMALL_SLOT as u64, 1).is_none());
        assert!(pool.from_kernel(SMALL_SLOT as u64 - 10, 11).is_none());
        let mut f = pool.take().unwrap();
        pool.set_len(&mut f, 60);
        let slot = f.slot();
        let (addr, len) = pool.into_kernel(f);
        let f = pool.from_kernel(addr, len).unwrap();
        assert_eq!((f.slot(), f.head(), f.len()), (slot, HEADROOM as u32, 60));
        let _ = f;
        pool.reclaim(addr);
        assert!(pool.is_full());
    }

    /// A pool in the memory of another, as another process would have it.
    fn second(first: &FramePool) -> io::Result<FramePool> {
        let (small, big) = first.size();
        FramePool::adopt(first.memory().expect("shared").try_clone_to_owned()?, small, big)
    }

    #[test]
    fn a_pool_goes_on_in_the_memory_of_another() {
        let mut old = FramePool::shared(4, 2).unwrap();
        let (mut received, kept, big) = (old.take().unwrap(), old.take().unwrap(), old.take_big().unwrap());
        old.room_mut(&received)[..4].copy_from_slice(b"abcd");
        old.set_len(&mut received, 4);
        let mut lent = SlotSet::new(4);
        let (addr, len) = old.into_kernel(received);
        lent.add(addr as usize / SMALL_SLOT);
        let mut new = second(&old).unwrap();
        assert!(new.take().is_none() && new.take_big().is_none());
        new.inherit(&old.free_slots(), [&lent].into_iter()).unwrap();
        assert_eq!(new.free(), (2, 1));
        // Nobody writes where the other keeps something.
        let others = [kept.slot(), big.slot()];
        let mine: Vec<Frame> = std::iter::from_fn(|| new.take_for(1)).collect();
        assert!(mine.len() == 3 && mine.iter().all(|f| !others.contains(&f.slot())));
        let f = new.from_kernel(addr, len).unwrap();
        assert_eq!(new.data(&f), b"abcd");
        mine.into_iter().chain([f]).for_each(|f| new.give(f));
        old.give(kept);
        old.give(big);
        drop(old);
        new.inherit_rest();
        new.inherit_rest();
        assert!(new.is_full());
        assert!(second(&new).is_ok(), "and so on");
    }

    #[test]
    fn what_another_says_of_its_slots_is_checked() {
        let old = FramePool::shared(4, 2).unwrap();
        let set = |slots: &[usize]| {
            let mut s = SlotSet::new(128);
            slots.iter().for_each(|n| s.add(*n));
            s
        };
        let (free, none) = (set(&[0, 1, 4]), set(&[]));
        for (free, lent) in [
            (&free, [set(&[2]), set(&[2])]),
            (&free, [set(&[1]), set(&[])]),
            (&free, [set(&[5]), set(&[])]),
            (&set(&[6]), [none.clone(), none.clone()]),
        ] {
            let mut new = second(&old).unwrap();
            assert!(new.inherit(free, lent.iter()).is_err());
            new.inherit_rest();
            assert_eq!(new.free(), (0, 0), "{free:?} {lent:?}");
        }
        let mut new = second(&old).unwrap();
        new.inherit(&free, [&set(&[2]), &set(&[3])].into_iter()).unwrap();
        assert!(new.inherit(&free, std::iter::empty()).is_err(), "once");
        assert!(FramePool::new(4, 2).unwrap().memory().is_none());
        let file = old.memory().unwrap().try_clone_to_owned().unwrap();
        assert!(FramePool::adopt(file, 5, 2).err().expect("too short").to_string().contains("another length"));
    }
}
