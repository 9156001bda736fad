//! The port over one or several AF_XDP sockets of one interface.
//!
//! A slot of the pool is with the kernel from `into_kernel` (fill ring, send ring) until it comes back in the
//! receive or the completion ring; a bit per slot remembers it, so that a close returns every slot once and
//! an address that the kernel was never given is not believed.

use super::Attachment;
use super::socket::Socket;
use crate::frame::{BIG_SLOT, BURST, Batch, Csum, Frame, FramePool, HEADROOM, SMALL_SLOT, SlotSet, Umem};
use crate::port::losses::{Kind, LossReader};
use crate::port::{Caps, Handles, Lent, Port, RxReport, TxReport, sys};
use crate::wire::ether;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// Bytes of one descriptor: a slot less the kernel's headroom.
const PIECE: usize = SMALL_SLOT - HEADROOM;
/// Longest packet from L3 on in one descriptor.
pub const MAX_SINGLE_MTU: u32 = (PIECE - ether::HEADER) as u32;
/// The same in several: a socket buffer holds its first piece and up to 17 more (MAX_SKB_FRAGS).
pub const MAX_MTU: u32 = (17 * PIECE - ether::HEADER) as u32;
/// What Ethernet and one VLAN tag add to the MTU: the kernel drops longer frames without a word.
const LINK_HEADER: usize = ether::HEADER + 4;
/// What a fill ring gets even when the pool runs low: enough to keep receiving.
const FILL_LOW: u32 = 32;

/// One worker's share of an interface's queues.
pub struct XskPort {
    caps: Caps,
    csum: Csum,
    max_frame: usize,
    queues: Vec<Queue>,
    /// The queue served first; moves on with each burst.
    first: usize,
    /// Readable when any socket is; only with several.
    epoll: Option<OwnedFd>,
    held: Held,
    attachment: Option<Arc<Attachment>>,
    /// Another process uses the rings, until [`Port::take_up`].
    theirs: bool,
}

struct Queue {
    id: u32,
    socket: Socket,
    /// Descriptors given for sending whose completion is outstanding.
    sending: u32,
}

/// The slots that are with the kernel, by address.
struct Held(SlotSet);

impl Held {
    fn new(umem: Umem) -> Held {
        Held(SlotSet::new(umem.len / SMALL_SLOT))
    }

    #[inline(always)]
    fn add(&mut self, addr: u64) {
        self.0.add(addr as usize / SMALL_SLOT);
    }

    /// Whether the slot was held; it is not any more.
    #[inline(always)]
    fn remove(&mut self, addr: u64) -> bool {
        self.0.remove(addr as usize / SMALL_SLOT)
    }

    /// Gives every held slot back.
    fn release(&mut self, pool: &mut FramePool) {
        self.0.iter().for_each(|slot| pool.reclaim((slot * SMALL_SLOT) as u64));
        self.0.clear();
    }
}

impl XskPort {
    pub(super) fn new(caps: Caps, csum: Csum, sockets: Vec<(u32, Socket)>, attachment: Arc<Attachment>, umem: Umem) -> io::Result<XskPort> {
        let epoll = if sockets.len() > 1 { Some(epoll(&sockets)?) } else { None };
        let queues = sockets.into_iter().map(|(id, socket)| Queue { id, socket, sending: 0 }).collect();
        let max_frame = caps.mtu as usize + LINK_HEADER;
        let (held, attachment) = (Held::new(umem), Some(attachment));
        Ok(XskPort { caps, csum, max_frame, queues, first: 0, epoll, held, attachment, theirs: false })
    }

    /// The same with sockets that another process uses.
    pub(super) fn of_another(self) -> XskPort {
        XskPort { theirs: true, ..self }
    }

    /// Why the program runs in generic mode although native mode was tried; `None` otherwise.
    pub fn refusal(&self) -> Option<&str> {
        self.attachment.as_ref()?.refused.as_deref()
    }

    /// The receive queues that this port serves.
    pub fn queues(&self) -> impl Iterator<Item = u32> {
        self.queues.iter().map(|q| q.id)
    }
}

/// One descriptor that is readable when any of the sockets is.
fn epoll(sockets: &[(u32, Socket)]) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the returned descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(sys::check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
    for (_, socket) in sockets {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: the kernel reads one live event.
        sys::check(unsafe { libc::epoll_ctl(fd.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.fd.as_raw_fd(), &mut event) })?;
    }
    Ok(fd)
}

impl Port for XskPort {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let mut report = RxReport::default();
        let n = self.queues.len();
        for i in 0..n {
            let queue = &mut self.queues[(self.first + i) % n];
            queue.reap(pool, &mut self.held);
            if queue.socket.busy_poll && queue.socket.rx.available() == 0 {
                queue.socket.kick_rx()?;
            }
            queue.receive(pool, &mut self.held, out, self.csum, &mut report);
            queue.refill(pool, &mut self.held)?;
            // What the kernel could not take when it was sent.
            if queue.socket.tx.used() > 0 {
                queue.kick()?;
            }
        }
        self.first = if self.first + 1 < n { self.first + 1 } else { 0 };
        Ok(report)
    }

    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        let mut report = TxReport::default();
        // One queue for all that this worker sends: a flow's frames stay in order.
        let Some(queue) = self.queues.first_mut() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        queue.reap(pool, &mut self.held);
        let n = queue.admit(pool, out, self.max_frame);
        for f in out.drain_front(n) {
            if f.len() > self.max_frame {
                pool.give(f);
                report.too_big += 1;
            } else if f.len() < ether::HEADER {
                // The kernel would drop the descriptor without completing it.
                pool.give(f);
                report.errors += 1;
            } else {
                queue.send(pool, &mut self.held, f);
                report.sent += 1;
            }
        }
        queue.socket.tx.publish();
        queue.kick()?;
        queue.reap(pool, &mut self.held);
        Ok(report)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.epoll {
            Some(fd) => Some(fd.as_fd()),
            None => self.queues.first().map(|q| q.socket.fd.as_fd()),
        }
    }

    fn losses(&self) -> Vec<LossReader> {
        self.queues.iter().map(|q| q.socket.fd.reader(Kind::Xdp)).collect()
    }

    fn handles(&self) -> io::Result<Option<Handles>> {
        let Some(attachment) = self.attachment.as_ref().filter(|_| self.queues.iter().all(|q| q.socket.can_be_adopted())) else {
            return Ok(None);
        };
        let mut h = Handles::new(self.caps.driver);
        attachment.handles(&mut h)?;
        h.note("queues", self.queues.len() as u64);
        for (i, queue) in self.queues.iter().enumerate() {
            h.note(format!("queue-{i}"), queue.id.into());
            queue.socket.handles(&mut h, i)?;
        }
        Ok(Some(h))
    }

    fn lent(&self) -> Option<Lent> {
        Some(Lent { slots: self.held.0.clone(), sending: self.queues.iter().map(|q| q.sending).collect() })
    }

    fn take_up(&mut self, lent: &Lent) -> io::Result<()> {
        if !self.theirs || !self.held.0.fits(&lent.slots) || lent.sending.len() != self.queues.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "slots of another port"));
        }
        for (queue, sending) in self.queues.iter_mut().zip(&lent.sending) {
            queue.socket.catch_up()?;
            queue.sending = *sending;
        }
        self.held.0.clone_from(&lent.slots);
        self.theirs = false;
        Ok(())
    }

    fn release(&mut self, pool: &mut FramePool) {
        if let Some(attachment) = self.attachment.as_ref().filter(|_| !self.theirs) {
            // From here on the frames of these queues take the program's fallback. Fails only if the kernel has
            // removed the socket from the map already.
            self.queues.iter().for_each(|q| drop(attachment.map.remove(q.id)));
        }
        self.epoll = None;
        // Closing a socket waits until no driver and no softirq uses its memory.
        self.queues.clear();
        self.attachment = None;
        self.held.release(pool);
    }
}

impl Queue {
    /// Takes sent slots back.
    #[inline]
    fn reap(&mut self, pool: &mut FramePool, held: &mut Held) {
        let n = self.socket.done.available();
        for i in 0..n {
            let addr = self.socket.done.peek(i);
            if held.remove(addr) {
                pool.reclaim(addr);
            }
        }
        if n > 0 {
            self.socket.done.release(n);
            self.sending = self.sending.saturating_sub(n);
        }
    }

    /// Moves received frames to `out`.
    #[inline]
    fn receive(&mut self, pool: &mut FramePool, held: &mut Held, out: &mut Batch, csum: Csum, report: &mut RxReport) {
        let available = self.socket.rx.available();
        let mut i = 0;
        while i < available && out.room() > 0 {
            let desc = self.socket.rx.peek(i);
            if desc.options & libc::XDP_PKT_CONTD != 0 {
                let Some((pieces, len)) = self.extent(i, available) else { break };
                let Some(to) = big_slot(pool, len) else { break };
                self.gather(pool, held, i, pieces, to, |f| match f {
                    Some(mut f) => {
                        f.csum = csum;
                        out.push(f);
                    }
                    None => report.truncated += 1,
                });
                i += pieces;
                continue;
            }
            i += 1;
            match take_back(pool, held, &desc) {
                Some(mut f) => {
                    f.csum = csum;
                    out.push(f);
                }
                None => report.malformed += 1,
            }
        }
        if i > 0 {
            self.socket.rx.release(i);
        }
    }

    /// Descriptors and bytes of the packet that begins at entry `from`; `None` while its end is not there.
    /// A packet that fills the whole ring has no end to wait for.
    fn extent(&self, from: u32, available: u32) -> Option<(u32, usize)> {
        let mut len = 0;
        for i in from..available {
            let desc = self.socket.rx.peek(i);
            len += desc.len as usize;
            if desc.options & libc::XDP_PKT_CONTD == 0 {
                return Some((i - from + 1, len));
            }
        }
        (available - from == self.socket.rx.size()).then_some((available - from, usize::MAX))
    }

    /// Copies the pieces of one packet together and gives their slots back; `done` gets the frame, or `None` if
    /// it is lost.
    #[cold]
    fn gather(&mut self, pool: &mut FramePool, held: &mut Held, from: u32, pieces: u32, to: Room, done: impl FnOnce(Option<Frame>)) {
        let mut to = match to {
            Room::Slot(f) => Some(f),
            Room::TooLong => None,
        };
        let mut len = 0;
        for i in from..from + pieces {
            let piece = take_back(pool, held, &self.socket.rx.peek(i));
            to = to.and_then(|f| match &piece {
                Some(piece) => append(pool, f, &mut len, piece),
                None => {
                    pool.give(f);
                    None
                }
            });
            if let Some(piece) = piece {
                pool.give(piece);
            }
        }
        if let Some(f) = &mut to {
            pool.set_head(f, HEADROOM);
            pool.set_len(f, len);
        }
        done(to);
    }

    /// Gives empty slots to the kernel for receiving: up to the fill ring's size together with what is received
    /// and not taken yet, a few only when the pool runs low, so that other ports get theirs.
    #[inline]
    fn refill(&mut self, pool: &mut FramePool, held: &mut Held) -> io::Result<()> {
        let fill = &mut self.socket.fill;
        let given = fill.used() + self.socket.rx.available();
        let reserve = (pool.size().0 as usize / 8).max(BURST);
        let free = pool.free().0;
        let (want, spare) = if free > reserve { (fill.size(), free - reserve) } else { (FILL_LOW.min(fill.size()), free) };
        let n = (want.saturating_sub(given) as usize).min(spare);
        for _ in 0..n {
            let Some(f) = pool.take() else { break };
            let (addr, _) = pool.into_kernel(f);
            held.add(addr);
            fill.write(addr);
        }
        if n > 0 {
            fill.publish();
        }
        if self.socket.zero_copy && self.socket.fill.needs_wakeup() {
            self.socket.kick_rx()?;
        }
        Ok(())
    }

    /// How many frames from the front of `out` can leave it now: ring places, completions to come and, for
    /// those in big slots, small slots to copy to.
    fn admit(&mut self, pool: &FramePool, out: &Batch, max_frame: usize) -> usize {
        let want = out.len() as u32;
        let completions = self.socket.done.size().saturating_sub(self.sending);
        let mut room = self.socket.tx.room(want).min(completions) as usize;
        let mut slots = pool.free().0;
        for (i, f) in out.as_slice().iter().enumerate() {
            let copied = !pool.in_umem(f);
            let pieces = match f.len() {
                n if n > max_frame => 0,
                n if copied => n.div_ceil(PIECE),
                _ => 1,
            };
            if pieces > room || (copied && pieces > slots) {
                return i;
            }
            room -= pieces;
            slots -= if copied { pieces } else { 0 };
        }
        out.len()
    }

    /// Writes the descriptors of one admitted frame.
    #[inline]
    fn send(&mut self, pool: &mut FramePool, held: &mut Held, f: Frame) {
        if pool.in_umem(&f) {
            let (addr, len) = pool.into_kernel(f);
            self.describe(held, addr, len, 0);
        } else {
            self.send_copy(pool, held, f);
        }
    }

    /// Copies a frame from its big slot to as many small ones as it takes.
    #[cold]
    fn send_copy(&mut self, pool: &mut FramePool, held: &mut Held, mut f: Frame) {
        while !f.is_empty() {
            let (left, piece) = (f.len(), f.len().min(PIECE));
            let Some(mut small) = pool.take() else { break };
            // A piece wants all that the kernel's own headroom leaves.
            pool.set_head(&mut small, HEADROOM);
            pool.set_len(&mut f, piece);
            let copied = pool.copy(&f, &mut small);
            debug_assert!(copied.is_some(), "a piece fits a small slot");
            pool.set_len(&mut f, left);
            f.pull(piece);
            let (addr, len) = pool.into_kernel(small);
            self.describe(held, addr, len, if f.is_empty() { 0 } else { libc::XDP_PKT_CONTD });
        }
        pool.give(f);
    }

    #[inline(always)]
    fn describe(&mut self, held: &mut Held, addr: u64, len: u32, options: u32) {
        held.add(addr);
        self.socket.tx.write(libc::xdp_desc { addr, len, options });
        self.sending += 1;
    }

    /// Has the kernel take the send ring. In copy mode before Linux 6.17 one call takes 32 descriptors, so it is
    /// repeated while that helps; what is left then waits for the next burst.
    fn kick(&mut self) -> io::Result<()> {
        let mut left = self.socket.tx.used();
        if left == 0 || (self.socket.zero_copy && !self.socket.tx.needs_wakeup()) {
            return Ok(());
        }
        let mut idle = 0;
        for _ in 0..8 + left / 32 {
            let complete = self.socket.kick_tx()?;
            let now = self.socket.tx.used();
            idle = if now == left { idle + 1 } else { 0 };
            left = now;
            if left == 0 || idle == 2 || (complete && self.socket.zero_copy) {
                break;
            }
        }
        Ok(())
    }
}

/// Where a packet of several descriptors goes.
enum Room {
    Slot(Frame),
    /// No slot of the pool is that long.
    TooLong,
}

/// A slot for `len` bytes; `None` while all that are long enough are in use.
fn big_slot(pool: &mut FramePool, len: usize) -> Option<Room> {
    if len > BIG_SLOT - HEADROOM || (len > PIECE && pool.size().1 == 0) {
        return Some(Room::TooLong);
    }
    pool.take_for(len).map(Room::Slot)
}

/// The frame of a descriptor, if it names a slot that is with the kernel and bytes inside it.
#[inline(always)]
fn take_back(pool: &mut FramePool, held: &mut Held, desc: &libc::xdp_desc) -> Option<Frame> {
    if !held.remove(desc.addr) {
        return None;
    }
    let frame = pool.from_kernel(desc.addr, desc.len);
    if frame.is_none() {
        pool.reclaim(desc.addr);
    }
    frame
}

/// Copies `piece` behind the first `len` bytes of `to`, which stays an empty frame until all are there.
fn append(pool: &mut FramePool, mut to: Frame, len: &mut usize, piece: &Frame) -> Option<Frame> {
    to.truncate(0);
    pool.set_head(&mut to, HEADROOM + *len);
    if pool.copy(piece, &mut to).is_none() {
        pool.give(to);
        return None;
    }
    *len += piece.len();
    to.truncate(0);
    Some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_slots_come_back_once() {
        let mut pool = FramePool::new(100, 1).unwrap();
        let mut held = Held::new(pool.umem());
        let addrs: Vec<u64> = (0..70)
            .map(|_| {
                let f = pool.take().unwrap();
                pool.into_kernel(f).0
            })
            .collect();
        addrs.iter().for_each(|a| held.add(*a));
        assert!(!held.remove(99 * SMALL_SLOT as u64) && !held.remove(u64::MAX), "never given");
        assert!(held.remove(addrs[3]) && !held.remove(addrs[3]));
        pool.reclaim(addrs[3]);
        held.release(&mut pool);
        assert!(pool.is_full());
        held.release(&mut pool);
        assert!(pool.is_full());
    }

    #[test]
    fn descriptors_are_believed_only_for_slots_given() {
        let mut pool = FramePool::new(4, 0).unwrap();
        let mut held = Held::new(pool.umem());
        let addr = pool.take().map(|f| pool.into_kernel(f).0).unwrap();
        let desc = |addr, len| libc::xdp_desc { addr, len, options: 0 };
        assert!(take_back(&mut pool, &mut held, &desc(addr, 60)).is_none());
        held.add(addr);
        let f = take_back(&mut pool, &mut held, &desc(addr, 60)).unwrap();
        assert_eq!((f.head() as usize, f.len()), (HEADROOM, 60));
        held.add(pool.into_kernel(f).0);
        assert!(take_back(&mut pool, &mut held, &desc(addr, 4000)).is_none(), "longer than its slot");
        assert!(pool.is_full());
    }

    #[test]
    fn pieces_join_in_one_big_slot() {
        let mut pool = FramePool::new(4, 1).unwrap();
        let Some(Room::Slot(mut to)) = big_slot(&mut pool, 9014) else { panic!("no slot") };
        let mut len = 0;
        for (byte, n) in [(1, PIECE), (2, PIECE), (3, 9014 - 2 * PIECE)] {
            let mut piece = pool.take().unwrap();
            pool.room_mut(&piece)[..n].fill(byte);
            pool.set_len(&mut piece, n);
            to = append(&mut pool, to, &mut len, &piece).unwrap();
            pool.give(piece);
        }
        pool.set_head(&mut to, HEADROOM);
        pool.set_len(&mut to, len);
        let data = pool.data(&to);
        assert_eq!((data.len(), data[0], data[PIECE], data[2 * PIECE], data[9013]), (9014, 1, 2, 3, 3));
        assert!(big_slot(&mut pool, 9014).is_none(), "all in use: wait");
        assert!(matches!(big_slot(&mut pool, BIG_SLOT), Some(Room::TooLong)));
        pool.give(to);
        assert!(pool.is_full());
    }
}
