//! AF_PACKET: all frames of an interface, with virtio-net headers, so that super-frames and unfinished checksums
//! come and go as they are. Used on the host side of a pod's veth pair, and to send on the uplink.
//!
//! Kernel behaviour (net/packet/af_packet.c): an interface that goes down or away leaves ENETDOWN on the socket,
//! once; sending to one that is gone gives ENXIO. Before Linux 6.2 the kernel cannot describe UDP super-frames
//! here: a pod's are lost on receive (EINVAL, counted as malformed).

mod ingress_drop;
mod socket;

use super::losses::{Kind, LossReader, Observed};
use super::pair::Pair;
use super::sys::{self, Link};
use super::{Caps, Handles, Medium, OpenError, Port, RxReport, TxCsum, TxReport, vnet};
use crate::frame::{Batch, FramePool, GsoSet};
use ingress_drop::IngressDrop;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

const DRIVER: &str = "af-packet";
/// Messages per system call. All slots that one call did not fill go back to the pool at once.
const MESSAGES: usize = 32;
/// Header, small slot, rest of the big slot.
const PIECES: usize = 3;

/// Takes over the host side of a pod's veth pair: `queues` ports that share its frames by flow, while the host's
/// own stack sees none of them. Frames with a VLAN tag are not received.
///
/// Errors: no such interface, down, not Ethernet, no permission.
pub fn open_workload(ifname: &str, queues: u16) -> Result<Vec<PacketPort>, OpenError> {
    let (index, mtu) = interface(ifname)?;
    let queues = queues.max(1);
    let sockets = receivers(index, queues).map_err(|(step, e)| OpenError::io(format!("{ifname}: packet socket: {step}"), e))?;
    let block = Arc::new(IngressDrop::attach(ifname, index)?);
    Ok(sockets.into_iter().zip(0..).map(|(s, queue)| PacketPort::new(s, caps(mtu, queue), Some(block.clone()))).collect())
}

/// `queues` ports that only send on the interface; the host's own traffic there is not touched.
///
/// Errors: as for [`open_workload`].
pub fn open_sender(ifname: &str, queues: u16) -> Result<Vec<PacketPort>, OpenError> {
    let (index, mtu) = interface(ifname)?;
    let open = |queue| {
        let socket = socket::open().and_then(|s| socket::bind(&s, index, 0).map(|()| s));
        let socket = socket.map_err(|e| OpenError::io(format!("{ifname}: packet socket for sending"), e))?;
        Ok(PacketPort::new(socket, caps(mtu, queue), None))
    };
    (0..queues.max(1)).map(open).collect()
}

/// Goes on with the ports of another process on the same interface, from [`open_workload`] or [`open_sender`].
pub fn adopt(ifname: &str, queues: Vec<Handles>) -> Result<Vec<PacketPort>, OpenError> {
    if queues.is_empty() {
        return Ok(Vec::new());
    }
    let (_, mtu) = interface(ifname)?;
    let mut block: Option<Arc<IngressDrop>> = None;
    let adopt = |(mut h, queue): (Handles, u16)| {
        h.expect(DRIVER)?;
        if block.is_none() {
            block = IngressDrop::adopt(ifname, &mut h)?.map(Arc::new);
        }
        Ok(PacketPort::new(h.take("socket")?, caps(mtu, queue), block.clone()))
    };
    queues.into_iter().zip(0..).map(adopt).collect()
}

/// Index and MTU of an Ethernet interface that is up.
fn interface(ifname: &str) -> Result<(u32, u32), OpenError> {
    let fail = |e| OpenError::io(format!("{ifname}: look up"), e);
    let mut link = Link::new(ifname).map_err(fail)?;
    let index = link.index().map_err(fail)?;
    if link.hardware().map_err(fail)?.0 != libc::ARPHRD_ETHER {
        return Err(OpenError::Refused {
            what: format!("{ifname}: not an Ethernet interface"),
            hint: "packet sockets serve veth pairs and Ethernet uplinks only",
        });
    }
    if link.flags().map_err(fail)? & libc::IFF_UP == 0 {
        return Err(fail(io::Error::from_raw_os_error(libc::ENETDOWN)));
    }
    Ok((index, link.mtu().map_err(fail)?))
}

fn caps(mtu: u32, queue: u16) -> Caps {
    let gso = GsoSet { udp: sys::kernel_at_least(6, 2), ..GsoSet::ALL };
    Caps { driver: DRIVER, medium: Medium::Ethernet, mtu, gso, tx_csum: TxCsum::Port, queue }
}

/// Receiving sockets. Each lets nothing in until it has joined the group, or frames would arrive twice.
fn receivers(index: u32, queues: u16) -> Result<Vec<OwnedFd>, (&'static str, io::Error)> {
    let mut group = None;
    let mut sockets = Vec::with_capacity(queues.into());
    for _ in 0..queues {
        let s = socket::open().map_err(|e| ("open", e))?;
        socket::ignore_outgoing(&s).map_err(|e| ("PACKET_IGNORE_OUTGOING", e))?;
        socket::filter(&s, socket::Filter::Nothing).map_err(|e| ("filter", e))?;
        socket::bind(&s, index, libc::ETH_P_ALL).map_err(|e| ("bind", e))?;
        if queues > 1 {
            group = Some(socket::join(&s, group).map_err(|e| ("PACKET_FANOUT", e))?);
        }
        socket::filter(&s, socket::Filter::Untagged).map_err(|e| ("filter", e))?;
        sockets.push(s);
    }
    Ok(sockets)
}

/// One packet socket.
pub struct PacketPort {
    caps: Caps,
    socket: Observed,
    /// Keeps the host stack off the interface; shared by its queues. `None`: a port that only sends.
    block: Option<Arc<IngressDrop>>,
    /// The error that closed the port; the socket itself tells only once.
    broken: Option<i32>,
    scratch: Box<Scratch>,
    pairs: Vec<Pair>,
}

/// What recvmmsg(2) and sendmmsg(2) are told, one element per message.
struct Scratch {
    headers: [[u8; vnet::LEN]; MESSAGES],
    pieces: [[libc::iovec; PIECES]; MESSAGES],
    messages: [libc::mmsghdr; MESSAGES],
}

// SAFETY: the pointers in `pieces` and `messages` are written anew before each system call and are not followed
// at any other time; all else is owned.
unsafe impl Send for Scratch {}

impl Scratch {
    fn new() -> Box<Scratch> {
        // SAFETY: integers and pointers, for which zero bytes are valid.
        unsafe { Box::new(std::mem::zeroed()) }
    }

    /// Points message `i` at its header and `pieces`.
    #[inline]
    fn set(&mut self, i: usize, pieces: &[libc::iovec]) {
        let header = &mut self.headers[i];
        self.pieces[i][0] = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() };
        self.pieces[i][1..=pieces.len()].copy_from_slice(pieces);
        let message = &mut self.messages[i].msg_hdr;
        message.msg_iov = self.pieces[i].as_mut_ptr();
        message.msg_iovlen = (1 + pieces.len()) as _;
        message.msg_flags = 0;
    }
}

/// What to do after a failed call.
enum Failure {
    /// Nothing there, or no room: later.
    Later,
    /// Again at once.
    Retry,
    /// One frame was lost.
    Frame,
    /// The same, because it is too long.
    TooBig,
    Broken,
}

fn classify(errno: i32) -> Failure {
    match errno {
        libc::EAGAIN => Failure::Later,
        libc::EINTR => Failure::Retry,
        libc::EMSGSIZE => Failure::TooBig,
        libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EBADF | libc::ESHUTDOWN => Failure::Broken,
        // On send this includes ENOBUFS: the kernel took the frame and the device dropped it. Trying again would
        // hold up all frames behind one that the other end never takes.
        _ => Failure::Frame,
    }
}

impl PacketPort {
    fn new(socket: OwnedFd, caps: Caps, block: Option<Arc<IngressDrop>>) -> PacketPort {
        PacketPort {
            caps,
            socket: Observed::new(socket),
            block,
            broken: None,
            scratch: Scratch::new(),
            pairs: Vec::with_capacity(MESSAGES),
        }
    }

    fn check_broken(&self) -> io::Result<()> {
        self.broken.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Remembers a fatal error; it is returned at once only if the call has achieved nothing to report.
    fn fatal<T>(&mut self, errno: i32, report: T, progress: bool) -> io::Result<T> {
        self.broken = Some(errno);
        if progress { Ok(report) } else { Err(io::Error::from_raw_os_error(errno)) }
    }

    /// Receives into up to `want` pairs of slots, which are then in `self.pairs`. Returns how many are filled.
    fn receive(&mut self, pool: &mut FramePool, want: usize) -> Result<usize, i32> {
        for i in 0..want.min(MESSAGES) {
            let Some(pair) = Pair::take(pool) else { break };
            self.scratch.set(i, &pair.iovecs(pool));
            self.pairs.push(pair);
        }
        if self.pairs.is_empty() {
            return Ok(0);
        }
        // SAFETY: the first `pairs.len()` messages point at headers in `scratch` and at slots that belong to
        // `pairs`; all outlive the call.
        let n = unsafe {
            let messages = self.scratch.messages.as_mut_ptr();
            libc::recvmmsg(self.socket.as_raw_fd(), messages, self.pairs.len() as _, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        if n < 0 { Err(last_errno()) } else { Ok(n as usize) }
    }

    /// Turns the first `n` pairs into frames and gives the others back.
    fn collect(&mut self, n: usize, pool: &mut FramePool, out: &mut Batch, report: &mut RxReport) {
        for (i, pair) in self.pairs.drain(..).enumerate() {
            if i >= n {
                pair.give(pool);
                continue;
            }
            let message = &self.scratch.messages[i];
            let truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            let Some(len) = (message.msg_len as usize).checked_sub(vnet::LEN).filter(|_| !truncated) else {
                pair.give(pool);
                if truncated {
                    report.truncated += 1
                } else {
                    report.malformed += 1
                }
                continue;
            };
            match pair.finish(pool, len) {
                None => report.truncated += 1,
                Some(mut frame) => match vnet::parse(&self.scratch.headers[i], &mut frame) {
                    Ok(()) => out.push(frame),
                    Err(vnet::Malformed) => {
                        pool.give(frame);
                        report.malformed += 1;
                    }
                },
            }
        }
    }

    /// Sends from position `from` of the batch on. `Ok(0)`: the frame there contradicts itself.
    fn send(&mut self, pool: &FramePool, out: &Batch, from: usize) -> Result<usize, i32> {
        let mut count = 0;
        for frame in out.as_slice()[from..].iter().take(MESSAGES) {
            let data = pool.data(frame);
            let Some(header) = vnet::emit(frame, data) else { break };
            self.scratch.headers[count] = header;
            self.scratch.set(count, &[libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }]);
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: the first `count` messages point at headers in `scratch` and at bytes of frames in `out`, which
        // the kernel only reads; all outlive the call.
        let n = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), self.scratch.messages.as_mut_ptr(), count as _, libc::MSG_DONTWAIT as _) };
        if n < 0 { Err(last_errno()) } else { Ok(n as usize) }
    }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

impl Port for PacketPort {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        self.check_broken()?;
        let mut report = RxReport::default();
        let before = out.len();
        while self.block.is_some() && out.room() > 0 {
            let received = self.receive(pool, out.room());
            let armed = self.pairs.len();
            self.collect(received.unwrap_or(0), pool, out, &mut report);
            match received {
                Ok(n) if n < armed || armed == 0 => break,
                Ok(_) => {}
                Err(errno) => match classify(errno) {
                    Failure::Later => break,
                    Failure::Retry => {}
                    Failure::Broken => {
                        let progress = out.len() > before || report != RxReport::default();
                        return self.fatal(errno, report, progress);
                    }
                    // The kernel could not describe the frame and dropped it; leave the rest for the next turn.
                    Failure::Frame | Failure::TooBig => {
                        report.malformed += 1;
                        break;
                    }
                },
            }
        }
        Ok(report)
    }

    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        self.check_broken()?;
        let mut report = TxReport::default();
        let mut done = 0;
        let mut broken = None;
        while done < out.len() {
            match self.send(pool, out, done) {
                Ok(0) => {
                    report.errors += 1;
                    done += 1;
                }
                Ok(n) => {
                    report.sent += n as u32;
                    done += n;
                }
                Err(errno) => match classify(errno) {
                    Failure::Later => break,
                    Failure::Retry => {}
                    Failure::Frame => {
                        report.errors += 1;
                        done += 1;
                    }
                    Failure::TooBig => {
                        report.too_big += 1;
                        done += 1;
                    }
                    Failure::Broken => {
                        broken = Some(errno);
                        break;
                    }
                },
            }
        }
        for frame in out.drain_front(done) {
            pool.give(frame);
        }
        match broken {
            Some(errno) => self.fatal(errno, report, done > 0),
            None => Ok(report),
        }
    }

    fn handles(&self) -> io::Result<Option<Handles>> {
        let mut h = Handles::new(DRIVER);
        h.add("socket", &self.socket)?;
        self.block.as_ref().map_or(Ok(()), |b| b.handles(&mut h))?;
        Ok(Some(h))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn losses(&self) -> Vec<LossReader> {
        vec![self.socket.reader(Kind::Buffer)]
    }

    fn release(&mut self, _pool: &mut FramePool) {
        // No slot is held between calls. With the last queue's share the host stack gets the interface back.
        self.block = None;
        self.broken = Some(libc::ESHUTDOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_interface_and_remedy() {
        let e = open_workload("no-such-if", 1).err().expect("absent").to_string();
        assert!(e.contains("no-such-if") && e.contains("no such interface"), "{e}");
        let e = open_sender("lo", 1).err().expect("loopback").to_string();
        assert!(e.contains("lo: not an Ethernet interface"), "{e}");
    }
}
