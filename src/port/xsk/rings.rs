//! The four rings of an AF_XDP socket: memory shared with the kernel, one side producing, the other consuming.
//!
//! Producer and consumer are free-running 32-bit counters; an entry's place is the counter modulo the size, a
//! power of two. A side publishes its own counter with release and reads the other's with acquire, so that the
//! entries are seen whole (Documentation/networking/af_xdp.rst; tools/lib/xdp keeps the same protocol).

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// A shared mapping of the kernel's; unmapped on drop.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(fd: libc::c_int, offset: libc::off_t, len: usize, flags: libc::c_int) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(p.cast::<u8>()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Mapping { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; the ring that holds it hands out no references to it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// What both sides share. `T` is `u64` (fill, completion) or `xdp_desc` (receive, send).
struct Ring<T> {
    map: Mapping,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    size: u32,
    of: PhantomData<T>,
}

// SAFETY: a ring owns its mapping, which is not tied to a thread; the kernel's side is synchronised by the counters.
unsafe impl<T> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// `size` must be a power of two and the offsets those that the kernel reported for this ring.
    fn new(fd: libc::c_int, flags: libc::c_int, page: libc::off_t, at: &libc::xdp_ring_offset, size: u32) -> io::Result<Ring<T>> {
        let [producer, consumer, word, entries] = [at.producer, at.consumer, at.flags, at.desc].map(|v| v as usize);
        let len = entries + size as usize * size_of::<T>();
        let words_fit = [producer, consumer, word].iter().all(|o| o % 4 == 0 && o + 4 <= len);
        if !size.is_power_of_two() || !words_fit || entries % align_of::<T>() != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("ring of {size} entries with layout {at:?}")));
        }
        Ok(Ring { map: Mapping::new(fd, page, len, flags)?, producer, consumer, flags: word, entries, size, of: PhantomData })
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `new` checked that an aligned u32 at this offset lies in the mapping, which lives as long as
        // self; both sides access the word atomically only.
        unsafe { AtomicU32::from_ptr(self.map.base.as_ptr().add(offset).cast()) }
    }

    fn torn(&self) -> io::Error {
        let [producer, consumer] = [self.producer, self.consumer].map(|o| self.word(o).load(Ordering::Relaxed));
        io::Error::new(io::ErrorKind::InvalidData, format!("ring of {} entries at {producer} and {consumer}", self.size))
    }

    #[inline(always)]
    fn entry(&self, counter: u32) -> *mut T {
        let index = (counter & (self.size - 1)) as usize;
        // SAFETY: index < size, and `new` mapped `size` aligned entries from this offset on.
        unsafe { self.map.base.as_ptr().add(self.entries).cast::<T>().add(index) }
    }
}

/// The producing end: fill and send rings.
pub struct Producer<T> {
    ring: Ring<T>,
    /// Next counter to write; published by `publish`.
    next: u32,
    /// The other side's counter as last seen.
    seen: u32,
}

impl<T: Copy> Producer<T> {
    /// Maps a ring of the socket: `page` is the ring's XDP_PGOFF, `at` its part of XDP_MMAP_OFFSETS.
    pub fn map(fd: &impl AsRawFd, page: libc::off_t, at: &libc::xdp_ring_offset, size: u32) -> io::Result<Producer<T>> {
        Ring::new(fd.as_raw_fd(), libc::MAP_SHARED | libc::MAP_POPULATE, page, at, size).map(Producer::of)
    }

    fn of(ring: Ring<T>) -> Producer<T> {
        Producer { next: 0, seen: 0, ring }
    }

    /// Goes on where the process before has stopped, all that it wrote being published. Errors: the counters cannot be true.
    pub fn catch_up(&mut self) -> io::Result<()> {
        self.next = self.ring.word(self.ring.producer).load(Ordering::Acquire);
        if self.used() > self.ring.size { Err(self.ring.torn()) } else { Ok(()) }
    }

    #[inline(always)]
    pub fn size(&self) -> u32 {
        self.ring.size
    }

    /// Entries written that the kernel has not taken yet; reads the kernel's counter.
    #[inline(always)]
    pub fn used(&mut self) -> u32 {
        self.seen = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.next.wrapping_sub(self.seen)
    }

    /// How many more may be written, at least `want` if there is room for that many.
    #[inline(always)]
    pub fn room(&mut self, want: u32) -> u32 {
        let known = self.ring.size.saturating_sub(self.next.wrapping_sub(self.seen));
        if known >= want { known } else { self.ring.size.saturating_sub(self.used()) }
    }

    /// Writes the next entry; the kernel sees it after `publish`. Panics without room.
    #[inline(always)]
    pub fn write(&mut self, value: T) {
        assert!(self.next.wrapping_sub(self.seen) < self.ring.size, "ring overrun");
        // SAFETY: the place is in the mapping (`entry`) and, by the check, not yet the kernel's to read.
        unsafe { self.ring.entry(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
    }

    #[inline(always)]
    pub fn publish(&mut self) {
        self.ring.word(self.ring.producer).store(self.next, Ordering::Release);
    }

    /// Whether the kernel waits for a system call before it looks at the ring. Asked after `publish`: the fence
    /// keeps the load from passing the published counter, or both sides could wait for each other.
    #[inline(always)]
    pub fn needs_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        self.ring.word(self.ring.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The consuming end: receive and completion rings.
pub struct Consumer<T> {
    ring: Ring<T>,
    next: u32,
}

impl<T: Copy> Consumer<T> {
    /// As [`Producer::map`].
    pub fn map(fd: &impl AsRawFd, page: libc::off_t, at: &libc::xdp_ring_offset, size: u32) -> io::Result<Consumer<T>> {
        Ring::new(fd.as_raw_fd(), libc::MAP_SHARED | libc::MAP_POPULATE, page, at, size).map(Consumer::of)
    }

    fn of(ring: Ring<T>) -> Consumer<T> {
        Consumer { next: 0, ring }
    }

    /// As [`Producer::catch_up`].
    pub fn catch_up(&mut self) -> io::Result<()> {
        self.next = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        let produced = self.ring.word(self.ring.producer).load(Ordering::Acquire);
        if produced.wrapping_sub(self.next) > self.ring.size { Err(self.ring.torn()) } else { Ok(()) }
    }

    #[inline(always)]
    pub fn size(&self) -> u32 {
        self.ring.size
    }

    /// Entries that can be read; reads the kernel's counter.
    #[inline(always)]
    pub fn available(&self) -> u32 {
        self.ring.word(self.ring.producer).load(Ordering::Acquire).wrapping_sub(self.next).min(self.ring.size)
    }

    /// The `i`-th entry that is not released yet; meaningful below `available`.
    #[inline(always)]
    pub fn peek(&self, i: u32) -> T {
        // SAFETY: the place is in the mapping (`entry`), whose every bit pattern is a valid T (integers); the
        // kernel does not write there before `release`.
        unsafe { self.ring.entry(self.next.wrapping_add(i)).read() }
    }

    /// Gives the places of the first `n` entries back to the kernel.
    #[inline(always)]
    pub fn release(&mut self, n: u32) {
        self.next = self.next.wrapping_add(n);
        self.ring.word(self.ring.consumer).store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 64, desc: 128, flags: 192 - 64 - 4 };

    /// Both ends over the same plain memory, the counters close to their wrap.
    fn pair(size: u32) -> (Producer<u64>, Consumer<u64>) {
        let mut p: Producer<u64> = Producer::of(Ring::new(-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS, 0, &AT, size).unwrap());
        let start = u32::MAX - 2;
        p.ring.word(p.ring.producer).store(start, Ordering::Relaxed);
        p.ring.word(p.ring.consumer).store(start, Ordering::Relaxed);
        (p.next, p.seen) = (start, start);
        // SAFETY: mremap with old size 0 makes a second view of a shared mapping.
        let second = unsafe { libc::mremap(p.ring.map.base.as_ptr().cast(), 0, p.ring.map.len, libc::MREMAP_MAYMOVE) };
        assert_ne!(second, libc::MAP_FAILED);
        let map = Mapping { base: NonNull::new(second.cast()).unwrap(), len: p.ring.map.len };
        let ring = Ring {
            map,
            producer: p.ring.producer,
            consumer: p.ring.consumer,
            flags: p.ring.flags,
            entries: p.ring.entries,
            size,
            of: PhantomData,
        };
        (p, Consumer { next: start, ring })
    }

    #[test]
    fn entries_arrive_in_order_over_the_wrap() {
        let (mut p, mut c) = pair(8);
        let (mut sent, mut received) = (0u64, 0u64);
        for round in 0..20u32 {
            let n = p.room(8).min(round % 8 + 1);
            (0..n).for_each(|_| {
                p.write(sent);
                sent += 1;
            });
            let before = c.available();
            p.publish();
            assert_eq!(c.available(), before + n);
            let take = c.available().min(round % 5 + 1);
            for i in 0..take {
                assert_eq!(c.peek(i), received);
                received += 1;
            }
            c.release(take);
            assert_eq!(u64::from(p.used()), sent - received);
        }
        assert!(received > 40, "{received}");
    }

    #[test]
    fn a_full_ring_takes_nothing_and_room_returns() {
        let (mut p, mut c) = pair(4);
        (0..4).for_each(|i| p.write(i));
        p.publish();
        assert_eq!((p.room(1), p.used(), c.available()), (0, 4, 4));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| p.write(9))).is_err());
        c.release(3);
        assert_eq!((p.room(1), p.used()), (3, 1));
        assert_eq!(c.peek(0), 3);
    }

    #[test]
    fn another_goes_on_where_one_has_stopped() {
        let (mut p, mut c) = pair(8);
        (0..7).for_each(|i| p.write(i));
        p.publish();
        c.release(3);
        // As mapped anew by another process.
        (p.next, p.seen, c.next) = (0, 0, 0);
        p.catch_up().unwrap();
        c.catch_up().unwrap();
        assert_eq!((p.used(), p.room(1), c.available(), c.peek(0)), (4, 4, 4, 3));
        p.write(7);
        p.publish();
        assert_eq!((c.available(), c.peek(4)), (5, 7));
        c.ring.word(c.ring.consumer).store(p.next.wrapping_sub(9), Ordering::Relaxed);
        assert!(p.catch_up().is_err() && c.catch_up().unwrap_err().to_string().contains("ring of 8 entries"));
    }

    #[test]
    fn wakeup_flag_is_read_where_the_kernel_puts_it() {
        let (p, c) = pair(4);
        assert!(!p.needs_wakeup());
        c.ring.word(c.ring.flags).store(libc::XDP_RING_NEED_WAKEUP, Ordering::Relaxed);
        assert!(p.needs_wakeup());
    }

    #[test]
    fn layouts_that_make_no_sense_are_refused() {
        let new = |at: libc::xdp_ring_offset, size| Ring::<u64>::new(-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS, 0, &at, size).is_err();
        assert!(new(AT, 6));
        assert!(new(libc::xdp_ring_offset { producer: 1 << 20, ..AT }, 8));
        assert!(new(libc::xdp_ring_offset { desc: 132, ..AT }, 8));
    }
}
