//! Receiving tunnel packets from a socket, straight into slots: a datagram that is one tunnel packet, or holds one
//! whole super-frame, is the frame; only tunnel packets that the kernel joined are copied, each into a slot of its own.

use super::RxReport;
use super::mmsg::{Messages, Meta};
use super::pair::Pair;
use crate::frame::{Batch, Csum, Frame, FramePool, Gso};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

/// Datagrams per receive call at most, and at least: a call asks for twice as many as came the last time.
const MESSAGES: usize = 32;
const MESSAGES_MIN: usize = 4;

/// Datagrams received by one system call, and what of them was not delivered yet.
pub struct Receiver {
    messages: Messages,
    iov: Box<[[libc::iovec; 2]; MESSAGES]>,
    /// The slots of the messages, from `next` on.
    pairs: [Option<Pair>; MESSAGES],
    next: usize,
    filled: usize,
    /// How many to ask for.
    ask: usize,
    train: Option<Train>,
    joined: fn(&[u8], Option<usize>) -> Joined,
}

/// What a received datagram consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Bytes per tunnel packet.
    pub step: usize,
    pub gso: Option<Gso>,
}

impl Joined {
    /// One tunnel packet.
    pub const NOT: Joined = Joined { step: usize::MAX, gso: None };
}

// SAFETY: the pointers in `iov` are written anew before each system call and are not followed at any other time.
unsafe impl Send for Receiver {}

/// Tunnel packets that came joined.
struct Train {
    /// All of them, behind each other, with the metadata that each one gets.
    frame: Frame,
    /// Bytes of each; the last may be shorter.
    step: usize,
    /// Bytes that were delivered.
    taken: usize,
}

impl Receiver {
    /// `joined` tells from a datagram and its GRO size (`UDP_GRO`) what it consists of.
    pub fn new(joined: fn(&[u8], Option<usize>) -> Joined) -> Receiver {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Receiver {
            messages: Messages::new(MESSAGES),
            iov: Box::new([[empty; 2]; MESSAGES]),
            pairs: [const { None }; MESSAGES],
            next: 0,
            filled: 0,
            ask: MESSAGES_MIN,
            train: None,
            joined,
        }
    }

    /// Whether something was received that is not delivered.
    pub fn holds(&self) -> bool {
        self.train.is_some() || self.next < self.filled
    }

    /// Appends frames to `out` until it is full, the socket is empty or the pool is.
    pub fn burst(&mut self, fd: BorrowedFd<'_>, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let mut report = RxReport::default();
        let mut more = true;
        while out.room() > 0 {
            if !self.holds() {
                if !more {
                    break;
                }
                // Without slots even for one datagram they are better off in the socket's buffer.
                more = self.fill(fd, pool, out.room())?;
            } else if !self.deliver(pool, out, &mut report) {
                break;
            }
        }
        Ok(report)
    }

    /// As [`Receiver::burst`] from what was received already.
    pub fn rest(&mut self, pool: &mut FramePool, out: &mut Batch) -> RxReport {
        let mut report = RxReport::default();
        while out.room() > 0 && self.holds() && self.deliver(pool, out, &mut report) {}
        report
    }

    /// Receives up to `room` datagrams; false if the socket has no more, or the pool no slots.
    fn fill(&mut self, fd: BorrowedFd<'_>, pool: &mut FramePool, room: usize) -> io::Result<bool> {
        let mut armed = 0;
        while armed < self.ask.min(room)
            && let Some(pair) = Pair::take(pool)
        {
            self.iov[armed] = pair.iovecs(pool);
            self.messages.place(armed, &mut self.iov[armed]);
            self.pairs[armed] = Some(pair);
            armed += 1;
        }
        (self.next, self.filled) = (0, 0);
        if armed == 0 {
            return Ok(false);
        }
        // SAFETY: the messages were just placed in slots that belong to `pairs`.
        let result = unsafe { self.messages.receive(fd, armed) };
        let got = result.as_ref().map_or(0, |(got, _)| *got);
        for pair in self.pairs[got..armed].iter_mut().rev().filter_map(Option::take) {
            pair.give(pool);
        }
        self.filled = got;
        self.ask = (2 * got).clamp(MESSAGES_MIN, MESSAGES);
        result.map(|(_, more)| more)
    }

    /// Passes on the next datagram, or what is left of a train. False when the pool has no slot for the next piece
    /// or `out` is full; the rest stays.
    fn deliver(&mut self, pool: &mut FramePool, out: &mut Batch, report: &mut RxReport) -> bool {
        if self.train.is_none() {
            let (meta, pair) = (self.messages.meta(self.next), self.pairs[self.next].take());
            self.next += 1;
            let Some(frame) = pair.and_then(|p| p.finish(pool, meta.len)) else {
                report.truncated += 1;
                return true;
            };
            match self.frame(pool, frame, meta) {
                Ok(None) => {}
                Ok(Some(frame)) => out.push(frame),
                Err(()) => report.malformed += 1,
            }
        }
        self.train.as_mut().is_none_or(|t| t.split(pool, out)) && self.end_train(pool)
    }

    /// Describes a received datagram; one that is several tunnel packets becomes the train.
    fn frame(&mut self, pool: &mut FramePool, mut frame: Frame, meta: Meta) -> Result<Option<Frame>, ()> {
        let Some(from) = meta.from else {
            pool.give(frame);
            return Err(());
        };
        let joined = (self.joined)(pool.data(&frame), meta.segment);
        describe(&mut frame, from.into(), meta.tos, joined.gso);
        if joined.step >= frame.len() {
            return Ok(Some(frame));
        }
        self.train = Some(Train { frame, step: joined.step, taken: 0 });
        Ok(None)
    }

    fn end_train(&mut self, pool: &mut FramePool) -> bool {
        if let Some(t) = self.train.take() {
            pool.give(t.frame);
        }
        true
    }

    /// Gives back every slot.
    pub fn release(&mut self, pool: &mut FramePool) {
        self.end_train(pool);
        self.pairs.iter_mut().filter_map(Option::take).for_each(|p| p.give(pool));
        (self.next, self.filled) = (0, 0);
    }
}

impl Train {
    /// Copies tunnel packets into slots of their own; true when all are.
    fn split(&mut self, pool: &mut FramePool, out: &mut Batch) -> bool {
        while self.taken < self.frame.len() {
            let end = (self.taken + self.step).min(self.frame.len());
            if out.room() == 0 {
                return false;
            }
            let Some(mut f) = pool.take_for(end - self.taken) else { return false };
            pool.copy_range(&self.frame, &mut f, 0, self.taken..end);
            describe(&mut f, self.frame.peer, self.frame.outer_tos, self.frame.gso);
            out.push(f);
            self.taken = end;
        }
        true
    }
}

fn describe(f: &mut Frame, from: IpAddr, tos: u8, gso: Option<Gso>) {
    f.peer = from;
    f.outer_tos = tos;
    f.gso = gso;
    f.csum = Csum::MayBePartial;
}

#[cfg(test)]
mod tests {
    use super::super::mmsg::{SendTable, UDP_GRO};
    use super::super::sys;
    use super::*;
    use std::net::SocketAddr;
    use std::os::fd::{AsFd, OwnedFd};

    fn receiver() -> Receiver {
        Receiver::new(|_, segment| segment.map_or(Joined::NOT, |step| Joined { step, gso: None }))
    }

    /// Two sockets, the second of which joins what it receives, and its address.
    fn sockets() -> (OwnedFd, OwnedFd, std::net::SocketAddrV4) {
        let [a, b] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let SocketAddr::V4(to) = b.local_addr().unwrap() else { unreachable!() };
        sys::setsockopt(&b, libc::SOL_UDP, UDP_GRO, &1i32).unwrap();
        (a.into(), b.into(), to)
    }

    #[test]
    fn a_train_waits_for_slots_and_room_and_nothing_is_lost() {
        let (a, b, to) = sockets();
        let train: Vec<u8> = (0..40u8).flat_map(|i| [i; 1000]).collect();
        let mut table = SendTable::new(4, 4);
        let mut out = table.start();
        for (bytes, segment) in [(&train[..], Some(1000)), (&[50; 3000], None), (&[51; 60_000], None)] {
            out.gather(bytes);
            out.finish(to, 0, segment);
        }
        assert_eq!(out.send(a.as_fd()).unwrap(), 3);
        // Four pairs of slots: while the train waits for small slots it keeps a big one.
        let (mut pool, mut rx) = (FramePool::new(4, 4).unwrap(), receiver());
        let mut got = Vec::new();
        let mut batch = Batch::with_capacity(2);
        for _ in 0..100 {
            assert_eq!(rx.burst(b.as_fd(), &mut pool, &mut batch).unwrap(), RxReport::default());
            for f in batch.drain() {
                assert_eq!((f.peer, f.gso), (IpAddr::from([127, 0, 0, 1]), None));
                let bytes = pool.data(&f);
                assert!(bytes.iter().all(|b| *b == bytes[0]));
                got.push((bytes[0], bytes.len()));
                pool.give(f);
            }
        }
        let expect: Vec<_> = (0..40).map(|i| (i, 1000)).chain([(50, 3000), (51, 60_000)]).collect();
        assert_eq!(got, expect);
        assert!(pool.is_full() && !rx.holds());
    }

    #[test]
    fn what_is_held_comes_back_on_release() {
        let (a, b, to) = sockets();
        let mut table = SendTable::new(2, 2);
        let mut out = table.start();
        let bytes = [7; 30_000];
        for segment in [Some(1000), None] {
            out.gather(&bytes);
            out.finish(to, 0, segment);
        }
        assert_eq!(out.send(a.as_fd()).unwrap(), 2);
        let (mut pool, mut rx) = (FramePool::new(64, 8).unwrap(), receiver());
        let mut batch = Batch::with_capacity(3);
        rx.burst(b.as_fd(), &mut pool, &mut batch).unwrap();
        assert!(batch.len() == 3 && rx.holds());
        pool.give_all(&mut batch);
        assert!(!pool.is_full());
        rx.release(&mut pool);
        assert!(pool.is_full() && !rx.holds());
    }
}
