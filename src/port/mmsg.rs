//! Many datagrams per system call: tables for `sendmmsg` and `recvmmsg` over IPv4 sockets, allocated once,
//! with the control messages that UDP segmentation offload, UDP GRO and the TOS byte need.

use super::sys;
use std::io;
use std::marker::PhantomData;
use std::mem::{offset_of, size_of};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Longest UDP payload over IPv4, bytes: 65535 - 20 - 8.
pub const UDP_PAYLOAD_MAX: usize = 65_507;

/// `UDP_SEGMENT` and `UDP_GRO` of linux/udp.h: socket options and control message types at level `SOL_UDP`.
pub const UDP_SEGMENT: libc::c_int = 103;
pub const UDP_GRO: libc::c_int = 104;

#[cfg(any(test, feature = "testing"))]
/// One datagram's buffer: the longest IP packet fits. The odd cache lines at the end keep the buffers' first
/// bytes from all falling into the same cache set.
const BUFFER: usize = 65_536 + 9 * 64;

/// Bytes of control data per received datagram; TOS and GRO size take 48 on 64-bit machines.
const RECV_CONTROL: usize = 128;

/// A control message as it lies in memory: `repr(C)` pads exactly as CMSG_LEN and CMSG_SPACE do.
#[repr(C)]
#[derive(Clone, Copy)]
struct Cmsg<T> {
    header: libc::cmsghdr,
    value: T,
}

impl<T> Cmsg<T> {
    fn new(level: libc::c_int, kind: libc::c_int, value: T) -> Cmsg<T> {
        // SAFETY: all-zero bytes are a valid cmsghdr, a structure of integers.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (offset_of!(Cmsg<T>, value) + size_of::<T>()) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        Cmsg { header, value }
    }
}

/// Both control messages a datagram may need; the pointer given to the kernel skips what is not needed.
#[repr(C)]
#[derive(Clone, Copy)]
struct SendControl {
    segment: Cmsg<u16>,
    tos: Cmsg<libc::c_int>,
}

fn sockaddr(to: SocketAddrV4) -> libc::sockaddr_in {
    // SAFETY: all-zero bytes are a valid sockaddr_in.
    let mut sa: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    sa.sin_family = libc::AF_INET as libc::sa_family_t;
    sa.sin_port = to.port().to_be();
    sa.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    sa
}

/// Binds an IPv4 socket. Port 0 lets the kernel choose; raw sockets ignore the port.
pub fn bind(fd: &impl AsRawFd, at: SocketAddrV4) -> io::Result<()> {
    let sa = sockaddr(at);
    // SAFETY: the kernel reads one live sockaddr_in of the length given.
    sys::check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const sa).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t) }).map(drop)
}

/// Sets a buffer size by `force`, which needs CAP_NET_ADMIN, else by `plain` up to the system's limit.
pub fn set_buffer(fd: &impl AsRawFd, force: libc::c_int, plain: libc::c_int, bytes: libc::c_int) -> io::Result<()> {
    sys::setsockopt(fd, libc::SOL_SOCKET, force, &bytes).or_else(|_| sys::setsockopt(fd, libc::SOL_SOCKET, plain, &bytes))
}

/// Attaches a classic BPF program that decides which datagrams the socket receives.
pub fn attach_filter(fd: &impl AsRawFd, program: &[libc::sock_filter]) -> io::Result<()> {
    // The kernel copies the program and only reads it.
    let prog = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut() };
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &prog)
}

/// Messages to be sent by one system call; the storage of [`Outgoing`].
pub struct SendTable {
    msgs: Box<[libc::mmsghdr]>,
    addrs: Box<[libc::sockaddr_in]>,
    control: Box<[SendControl]>,
    iov: Box<[libc::iovec]>,
}

// SAFETY: the pointers in `msgs` and `iov` are only followed between filling and sending, by the thread that
// holds the `Outgoing`, whose lifetimes keep what they point to alive.
unsafe impl Send for SendTable {}

impl SendTable {
    /// Room for so many messages and buffers; at most 1024 of either are of use (UIO_MAXIOV).
    pub fn new(messages: usize, buffers: usize) -> SendTable {
        let control = SendControl { segment: Cmsg::new(libc::SOL_UDP, UDP_SEGMENT, 0), tos: Cmsg::new(libc::IPPROTO_IP, libc::IP_TOS, 0) };
        // SAFETY: all-zero bytes are valid for these structures of integers and null pointers.
        let (msg, addr) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        SendTable {
            msgs: vec![msg; messages].into_boxed_slice(),
            addrs: vec![addr; messages].into_boxed_slice(),
            control: vec![control; messages].into_boxed_slice(),
            iov: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; buffers].into_boxed_slice(),
        }
    }

    /// An empty list of messages over this table; `'d` is how long the bytes to be sent stay as they are.
    pub fn start<'t, 'd>(&'t mut self) -> Outgoing<'t, 'd> {
        Outgoing { table: self, messages: 0, buffers: 0, open: 0, data: PhantomData }
    }
}

/// Messages being put together: [`gather`](Outgoing::gather) adds bytes to the message at hand,
/// [`finish`](Outgoing::finish) ends it.
pub struct Outgoing<'t, 'd> {
    table: &'t mut SendTable,
    messages: usize,
    buffers: usize,
    /// Where the buffers of the message at hand begin.
    open: usize,
    data: PhantomData<&'d [u8]>,
}

impl<'d> Outgoing<'_, 'd> {
    pub fn len(&self) -> usize {
        self.messages
    }
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }
    /// Whether one more message of `buffers` buffers fits.
    pub fn fits(&self, buffers: usize) -> bool {
        self.messages < self.table.msgs.len() && self.buffers + buffers <= self.table.iov.len()
    }

    /// Adds bytes to the message at hand. Panics when the table is full: ask [`Outgoing::fits`] first.
    #[inline]
    pub fn gather(&mut self, bytes: &'d [u8]) {
        self.table.iov[self.buffers] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.buffers += 1;
    }

    /// Ends the message at hand: to whom, with which TOS byte (zero: the socket's own), and how many bytes per
    /// datagram if the kernel shall cut it into several (`UDP_SEGMENT`).
    pub fn finish(&mut self, to: SocketAddrV4, tos: u8, segment: Option<u16>) {
        let i = self.messages;
        self.table.addrs[i] = sockaddr(to);
        let c = &mut self.table.control[i];
        c.segment.value = segment.unwrap_or(0);
        c.tos.value = libc::c_int::from(tos);
        let (control, control_len) = match (segment.is_some(), tos != 0) {
            (true, true) => ((&raw mut *c).cast(), size_of::<SendControl>()),
            (true, false) => ((&raw mut c.segment).cast(), size_of::<Cmsg<u16>>()),
            (false, true) => ((&raw mut c.tos).cast(), size_of::<Cmsg<libc::c_int>>()),
            (false, false) => (std::ptr::null_mut(), 0),
        };
        let h = &mut self.table.msgs[i].msg_hdr;
        h.msg_name = (&raw mut self.table.addrs[i]).cast();
        h.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        h.msg_iov = self.table.iov[self.open..].as_mut_ptr();
        h.msg_iovlen = (self.buffers - self.open) as _;
        h.msg_control = control;
        h.msg_controllen = control_len as _;
        self.messages += 1;
        self.open = self.buffers;
    }

    /// Hands the messages to the kernel, in order, and returns how many it took; the error is that of the
    /// first message and means that none was taken. No message: `Ok(0)`.
    pub fn send(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        if self.messages == 0 {
            return Ok(0);
        }
        // SAFETY: the first `messages` headers point to addresses, control data and iovecs in the table, which
        // is exclusively borrowed, and those to bytes that live for 'd; the kernel only reads all of them.
        let n =
            unsafe { libc::sendmmsg(fd.as_raw_fd(), self.table.msgs.as_mut_ptr(), self.messages as libc::c_uint, libc::MSG_DONTWAIT as _) };
        sys::check(n).map(|n| n as usize)
    }
}

/// Why the kernel did not take a message, as far as the sender acts upon it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Out of buffer space: later, unchanged.
    Busy,
    /// An error left behind by an earlier datagram, cleared by being reported: at once, unchanged.
    Earlier,
    /// Longer than the interface's MTU.
    TooBig,
    /// The kernel cannot segment: no checksum offload on the way (old kernels), or transformed by IPsec.
    NoSegmentation,
    /// This datagram cannot go: no route, a firewall, an address that is not ours any more.
    Never,
}

impl Refusal {
    pub fn of(e: &io::Error) -> Refusal {
        match e.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Refusal::Busy,
            Some(libc::EINTR | libc::ECONNREFUSED) => Refusal::Earlier,
            Some(libc::EMSGSIZE) => Refusal::TooBig,
            Some(libc::EIO) => Refusal::NoSegmentation,
            _ => Refusal::Never,
        }
    }
}

/// What recvmmsg(2) is told and tells about datagrams, but for where their bytes go.
pub(super) struct Messages {
    msgs: Box<[libc::mmsghdr]>,
    addrs: Box<[libc::sockaddr_in]>,
    control: Box<[[u64; RECV_CONTROL / 8]]>,
}

// SAFETY: the pointers in `msgs` lead to the table's own boxes, which move with it, and to what `place` was given,
// which is followed only within `receive`.
unsafe impl Send for Messages {}

/// What came with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub len: usize,
    /// As in [`Received`].
    pub from: Option<Ipv4Addr>,
    pub tos: u8,
    pub segment: Option<usize>,
}

impl Messages {
    pub fn new(messages: usize) -> Messages {
        // SAFETY: all-zero bytes are valid for these structures of integers and null pointers.
        let (msg, addr): (libc::mmsghdr, libc::sockaddr_in) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut t = Messages {
            msgs: vec![msg; messages].into_boxed_slice(),
            addrs: vec![addr; messages].into_boxed_slice(),
            control: vec![[0; RECV_CONTROL / 8]; messages].into_boxed_slice(),
        };
        for i in 0..messages {
            let h = &mut t.msgs[i].msg_hdr;
            h.msg_name = (&raw mut t.addrs[i]).cast();
            h.msg_control = (&raw mut t.control[i]).cast();
        }
        t
    }

    /// Says where the bytes of datagram `i` go.
    pub fn place(&mut self, i: usize, pieces: &mut [libc::iovec]) {
        let h = &mut self.msgs[i].msg_hdr;
        h.msg_iov = pieces.as_mut_ptr();
        h.msg_iovlen = pieces.len() as _;
    }

    /// Receives up to `n` datagrams: how many came, and whether the socket may have more.
    ///
    /// # Safety
    /// The pieces that the first `n` messages were [placed](Messages::place) in last are alive, and so is the memory
    /// that they name, to which nothing else refers.
    pub unsafe fn receive(&mut self, fd: BorrowedFd<'_>, n: usize) -> io::Result<(usize, bool)> {
        for m in &mut self.msgs[..n] {
            m.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            m.msg_hdr.msg_controllen = RECV_CONTROL as _;
        }
        // SAFETY: addresses and control data are the table's own, with their lengths; the rest is the caller's word.
        let got = unsafe {
            libc::recvmmsg(fd.as_raw_fd(), self.msgs.as_mut_ptr(), n as libc::c_uint, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        match sys::check(got) {
            Ok(got) => Ok((got as usize, got as usize == n)),
            Err(e) => match e.raw_os_error() {
                Some(libc::EAGAIN) => Ok((0, false)),
                // Left behind by an earlier datagram and cleared by being reported.
                Some(libc::EINTR | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EMSGSIZE) => Ok((0, true)),
                _ => Err(e),
            },
        }
    }

    /// What came with datagram `i` of those received last.
    pub fn meta(&self, i: usize) -> Meta {
        let (m, addr) = (&self.msgs[i], &self.addrs[i]);
        let named =
            m.msg_hdr.msg_namelen as usize >= size_of::<libc::sockaddr_in>() && addr.sin_family == libc::AF_INET as libc::sa_family_t;
        let control = &self.control[i];
        // SAFETY: any bytes are valid u8s; the slice covers exactly the live array of u64s.
        let control = unsafe { std::slice::from_raw_parts(control.as_ptr().cast::<u8>(), RECV_CONTROL) };
        // A usize in glibc, a u32 in musl.
        #[allow(clippy::unnecessary_cast)]
        let (tos, segment) = parse_control(&control[..(m.msg_hdr.msg_controllen as usize).min(RECV_CONTROL)]);
        let from = named.then(|| Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr)));
        Meta { len: m.msg_len as usize, from, tos, segment }
    }
}

/// Datagrams received by one system call, in the table's own memory: for whoever has no slots, as tests. Those not yet
/// taken stay for the next round.
#[cfg(any(test, feature = "testing"))]
pub struct RecvTable {
    messages: Messages,
    iov: Box<[libc::iovec]>,
    buffers: Box<[u8]>,
    next: usize,
    filled: usize,
}

// SAFETY: the pointers in `iov` only lead to the table's own box, which moves with it.
#[cfg(any(test, feature = "testing"))]
unsafe impl Send for RecvTable {}

/// One received datagram.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    pub bytes: &'a [u8],
    /// The sender; `None` if the kernel named no IPv4 address.
    pub from: Option<Ipv4Addr>,
    /// TOS byte of the IP header (`IP_RECVTOS`), zero if not told.
    pub tos: u8,
    /// Length of each datagram if several were joined (`UDP_GRO`), the last may be shorter.
    pub segment: Option<usize>,
}

#[cfg(any(test, feature = "testing"))]
impl RecvTable {
    /// Buffers for so many datagrams of any length; their pages are touched when first used.
    pub fn new(messages: usize) -> RecvTable {
        let mut t = RecvTable {
            messages: Messages::new(messages),
            iov: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: BUFFER }; messages].into_boxed_slice(),
            buffers: vec![0; messages * BUFFER].into_boxed_slice(),
            next: 0,
            filled: 0,
        };
        for (i, buffer) in t.buffers.chunks_exact_mut(BUFFER).enumerate() {
            t.iov[i].iov_base = buffer.as_mut_ptr().cast();
            t.messages.place(i, &mut t.iov[i..=i]);
        }
        t
    }

    /// How many datagrams wait to be taken.
    pub fn waiting(&self) -> usize {
        self.filled - self.next
    }

    /// The datagram to be taken next.
    pub fn front(&self) -> Option<Received<'_>> {
        (self.next < self.filled).then(|| self.message(self.next))
    }

    /// Drops the front datagram.
    pub fn pop(&mut self) {
        self.next = (self.next + 1).min(self.filled);
    }

    /// Drops all.
    pub fn clear(&mut self) {
        (self.next, self.filled) = (0, 0);
    }

    /// Receives up to `max` datagrams and returns whether the socket may have more. To be called when none
    /// wait; what waits would be overwritten.
    pub fn fill(&mut self, fd: BorrowedFd<'_>, max: usize) -> io::Result<bool> {
        self.clear();
        let n = max.min(self.iov.len());
        // SAFETY: the messages were placed in the table's own boxes, which are exclusively borrowed.
        let (got, more) = unsafe { self.messages.receive(fd, n)? };
        self.filled = got;
        Ok(more)
    }

    fn message(&self, i: usize) -> Received<'_> {
        let Meta { len, from, tos, segment } = self.messages.meta(i);
        Received { bytes: &self.buffers[i * BUFFER..][..len.min(BUFFER)], from, tos, segment }
    }
}

/// TOS byte and GRO segment size from received control messages (cmsg(3)); zero and `None` where missing.
fn parse_control(mut c: &[u8]) -> (u8, Option<usize>) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    // cmsg_len is a size_t in glibc and a 32-bit number, followed by padding on 64 bits, in musl; the kernel
    // writes a size_t.
    const LEVEL: usize = offset_of!(libc::cmsghdr, cmsg_level);
    const TYPE: usize = offset_of!(libc::cmsghdr, cmsg_type);
    let int = |b: &[u8], at: usize| i32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (mut tos, mut segment) = (0, None);
    while c.len() >= HEADER {
        let len = usize::from_ne_bytes(c[..size_of::<usize>()].try_into().expect("the length is fixed"));
        if len < HEADER || len > c.len() {
            break;
        }
        let value = &c[HEADER..len];
        match (int(c, LEVEL), int(c, TYPE)) {
            (libc::IPPROTO_IP, libc::IP_TOS) if !value.is_empty() => tos = value[0],
            (libc::SOL_UDP, UDP_GRO) if value.len() >= 4 => segment = usize::try_from(int(value, 0)).ok().filter(|s| *s > 0),
            _ => {}
        }
        c = c.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    (tos, segment)
}

/// A descriptor that is readable while a socket is, or while the port still holds received datagrams: an
/// epoll instance over the socket and an event counter.
pub struct Readiness {
    epoll: OwnedFd,
    event: OwnedFd,
    held: bool,
}

impl Readiness {
    pub fn new(socket: &OwnedFd) -> io::Result<Readiness> {
        // SAFETY: no pointers; a non-negative return value is a descriptor that nobody else owns yet.
        let epoll = unsafe { OwnedFd::from_raw_fd(sys::check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        // SAFETY: as above.
        let event = unsafe { OwnedFd::from_raw_fd(sys::check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?) };
        for fd in [socket, &event] {
            let mut e = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            // SAFETY: the kernel reads one live epoll_event.
            sys::check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut e) })?;
        }
        Ok(Readiness { epoll, event, held: false })
    }

    /// Says whether the port holds datagrams; a system call only when that changes.
    pub fn set_held(&mut self, held: bool) {
        if held == self.held {
            return;
        }
        self.held = held;
        let mut count = 1u64;
        let p = (&raw mut count).cast();
        // SAFETY: the kernel reads or writes the eight bytes of a live counter. The result does not matter: a
        // write fails only at 2^64 - 1, a read only at zero, and neither occurs.
        unsafe {
            if held {
                libc::write(self.event.as_raw_fd(), p, 8)
            } else {
                libc::read(self.event.as_raw_fd(), p, 8)
            };
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp() -> (OwnedFd, SocketAddrV4) {
        let s = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(at) = s.local_addr().unwrap() else { unreachable!() };
        (s.into(), at)
    }

    fn readable(fd: BorrowedFd<'_>) -> bool {
        let mut p = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd.
        unsafe { libc::poll(&mut p, 1, 0) == 1 }
    }

    #[test]
    fn gathered_segments_with_tos_arrive_as_datagrams() {
        let ((a, from), (b, to)) = (udp(), udp());
        sys::setsockopt(&b, libc::IPPROTO_IP, libc::IP_RECVTOS, &1i32).unwrap();
        let mut table = SendTable::new(4, 8);
        let mut out = table.start();
        assert_eq!(out.send(a.as_fd()).unwrap(), 0);
        for part in [&b"aa"[..], b"1", b"bb", b"2", b"c"] {
            out.gather(part);
        }
        out.finish(to, 0xb9, Some(3));
        out.gather(b"plain");
        out.finish(to, 0, None);
        assert!(out.fits(2) && !out.fits(3));
        assert_eq!(out.send(a.as_fd()).unwrap(), 2);
        let mut rx = RecvTable::new(8);
        assert!(!rx.fill(b.as_fd(), 8).unwrap());
        let expect = [(&b"aa1"[..], 0xb9), (b"bb2", 0xb9), (b"c", 0xb9), (b"plain", 0)];
        for (i, (bytes, tos)) in expect.into_iter().enumerate() {
            assert_eq!(rx.waiting(), 4 - i);
            assert_eq!(rx.front(), Some(Received { bytes, from: Some(*from.ip()), tos, segment: None }));
            rx.pop();
        }
        assert!(rx.front().is_none());
        assert!(!rx.fill(b.as_fd(), 8).unwrap());
    }

    #[test]
    fn joined_datagrams_tell_their_length() {
        let ((a, _), (b, to)) = (udp(), udp());
        sys::setsockopt(&b, libc::SOL_UDP, UDP_GRO, &1i32).unwrap();
        let mut table = SendTable::new(1, 1);
        let mut out = table.start();
        let bytes = [7; 250];
        out.gather(&bytes);
        out.finish(to, 0, Some(100));
        assert_eq!(out.send(a.as_fd()).unwrap(), 1);
        let mut rx = RecvTable::new(2);
        rx.fill(b.as_fd(), 2).unwrap();
        let got = rx.front().unwrap();
        assert_eq!((got.bytes.len(), got.segment), (250, Some(100)));
    }

    #[test]
    fn broken_control_data_is_ignored() {
        assert_eq!(parse_control(&[]), (0, None));
        let mut c = [0u8; 48];
        assert_eq!(parse_control(&c), (0, None));
        c[..8].copy_from_slice(&1000usize.to_ne_bytes());
        assert_eq!(parse_control(&c), (0, None));
        c[..8].copy_from_slice(&20usize.to_ne_bytes());
        c[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        c[12..16].copy_from_slice(&UDP_GRO.to_ne_bytes());
        c[16..20].copy_from_slice(&(-5i32).to_ne_bytes());
        assert_eq!(parse_control(&c), (0, None));
        c[16..20].copy_from_slice(&1400i32.to_ne_bytes());
        assert_eq!(parse_control(&c), (0, Some(1400)));
    }

    #[test]
    fn held_datagrams_are_readable() {
        let (b, _) = udp();
        let mut r = Readiness::new(&b).unwrap();
        assert!(!readable(r.fd()));
        for _ in 0..2 {
            r.set_held(true);
            r.set_held(true);
            assert!(readable(r.fd()));
            r.set_held(false);
            assert!(!readable(r.fd()));
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |n| Refusal::of(&io::Error::from_raw_os_error(n));
        assert_eq!(of(libc::EAGAIN), Refusal::Busy);
        assert_eq!(of(libc::ECONNREFUSED), Refusal::Earlier);
        assert_eq!(of(libc::EMSGSIZE), Refusal::TooBig);
        assert_eq!(of(libc::EIO), Refusal::NoSegmentation);
        assert_eq!(of(libc::EPERM), Refusal::Never);
    }
}
