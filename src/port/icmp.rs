//! Sockets for the probes between nodes: whole IPv4 packets and TCP super-frames out, ICMP of a few types and segments of
//! such super-frames in.
//!
//! A packet for this host that came out of a tunnel is taken where the host device hands it to the kernel, before the
//! packet filter: connection tracking knows no ICMP type but the common ones, takes the rest for invalid, and many
//! hosts drop what is invalid. The kernel ignores those types (RFC 1122, 3.2.2).

use super::sys::{self, check};
use super::{mmsg, vnet};
use crate::frame::GsoKind;
use crate::wire::{ipv4, l4};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes that may wait in a receiving socket: some hundred packets.
const BUFFER: libc::c_int = 512 << 10;

/// Sends packets that bring their own IPv4 header.
pub struct Sender(OwnedFd);

impl Sender {
    /// Errors: no permission (CAP_NET_RAW).
    pub fn open() -> io::Result<Sender> {
        // IPPROTO_RAW: every packet brings its own header (IP_HDRINCL), and nothing is received.
        let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        // What the kernel believes of the path must not stand in a measurement's way.
        sys::setsockopt(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_PROBE)?;
        Ok(Sender(fd))
    }

    /// Sends one packet the kernel's way to `to`; it fills in the header's checksum. Errors: EMSGSIZE beyond the
    /// device's MTU, EPERM from a packet filter, no route, no room.
    pub fn send(&self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid sockaddr_in.
        let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_addr.s_addr = u32::from(to).to_be();
        let (at, len) = (std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t);
        // SAFETY: the kernel reads a live buffer and a live sockaddr_in, and keeps neither.
        let sent = unsafe { libc::sendto(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, at, len) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Sends TCP super-frames out of a device without a link-layer header, past the host's packet filter: no socket above IP
/// sends a super-frame of one's own making.
pub struct SuperSender {
    socket: OwnedFd,
    index: u32,
}

impl SuperSender {
    /// Errors: no permission (CAP_NET_RAW).
    pub fn at_device(index: u32) -> io::Result<SuperSender> {
        const VNET_HDR: libc::c_int = 15;
        // Protocol 0: nothing is received.
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        sys::setsockopt(&socket, libc::SOL_PACKET, VNET_HDR, &1i32)?;
        Ok(SuperSender { socket, index })
    }

    /// Sends a packet with 20 bytes each of IPv4 and TCP header, its TCP checksum unfinished, to be cut into segments with
    /// `segment` bytes of payload. Errors: the device is down or gone, or has no room.
    pub fn send(&self, packet: &[u8], segment: u16) -> io::Result<()> {
        const HEADERS: u16 = ipv4::HEADER as u16 + 20;
        let mut header = [0u8; vnet::LEN];
        (header[0], header[1]) = (vnet::F_NEEDS_CSUM, vnet::gso_type(GsoKind::Tcp4));
        for (at, value) in [(2, HEADERS), (4, segment), (6, ipv4::HEADER as u16), (8, l4::TCP_CHECK as u16)] {
            header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        let mut address = link_address(self.index);
        let mut iov = [&header[..], packet].map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() });
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = std::ptr::from_mut(&mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        (message.msg_iov, message.msg_iovlen) = (iov.as_mut_ptr(), iov.len() as _);
        // SAFETY: the kernel reads a live msghdr, the address and the two live buffers that it points to, and keeps nothing.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// IPv4 at an interface.
fn link_address(index: u32) -> libc::sockaddr_ll {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    address.sll_ifindex = index as i32;
    address
}

/// Receives packets from their IPv4 header on.
pub struct Receiver(OwnedFd);

impl Receiver {
    /// ICMP packets of type `icmp`, and TCP resets from and to the port `reset`, as they come in at an interface, whoever
    /// they are for.
    pub fn at_device(index: u32, icmp: u8, reset: u16) -> io::Result<Receiver> {
        // Nothing comes before it is bound, so nothing gets past the filter.
        let fd = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
        mmsg::attach_filter(&fd, &of_probes(icmp, reset))?;
        mmsg::set_buffer(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, BUFFER)?;
        let address = link_address(index);
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel reads one sockaddr_ll, which is live.
        check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) })?;
        Ok(Receiver(fd))
    }

    /// What this host is answered: echo replies to the identifier `echo`, and destinations that are unreachable.
    pub fn of_answers(echo: u16) -> io::Result<Receiver> {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
        mmsg::attach_filter(&fd, &of_answers(echo))?;
        mmsg::set_buffer(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, BUFFER)?;
        Ok(Receiver(fd))
    }

    /// The next packet; `None` if there is none. What does not fit the buffer is cut.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        // SAFETY: the kernel writes at most `len` bytes into an exclusively borrowed buffer.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(got) {
            Ok(n) => Ok(buffer.get(..n)),
            Err(_) => match io::Error::last_os_error() {
                e if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
                e => Err(e),
            },
        }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of the descriptors can be read, or for so many milliseconds; which ones can.
pub fn wait<const N: usize>(fds: [Option<BorrowedFd<'_>>; N], timeout_ms: i32) -> io::Result<[bool; N]> {
    // The kernel passes over negative descriptors.
    let mut polled = fds.map(|fd| libc::pollfd { fd: fd.map_or(-1, |f| f.as_raw_fd()), events: libc::POLLIN, revents: 0 });
    // SAFETY: the kernel reads and writes N live pollfd.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout_ms) }) {
        Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
        _ => Ok(polled.map(|p| p.revents != 0)),
    }
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H;
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn op(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on behind the next `jt` or `jf` instructions as the accumulator equals `k` or not.
fn equals(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k }
}

fn of_probes(icmp: u8, reset: u16) -> [libc::sock_filter; 13] {
    const TCP_FLAGS: u32 = 13;
    const RST: u32 = 4;
    let port = u32::from(reset);
    [
        op(LOAD_BYTE | libc::BPF_ABS, 9),
        equals(u32::from(ipv4::PROTO_ICMP), 0, 3),
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        op(LOAD_BYTE | libc::BPF_IND, 0),
        equals(u32::from(icmp), 6, 7),
        equals(u32::from(ipv4::PROTO_TCP), 0, 6),
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        op(LOAD_WORD | libc::BPF_IND, 0),
        equals(port << 16 | port, 0, 3),
        op(LOAD_BYTE | libc::BPF_IND, TCP_FLAGS),
        equals(RST, 0, 1),
        op(RETURN, u32::MAX),
        op(RETURN, 0),
    ]
}

fn of_answers(echo: u16) -> [libc::sock_filter; 8] {
    const ECHO_REPLY: u32 = 0;
    const UNREACHABLE: u32 = 3;
    [
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        op(LOAD_BYTE | libc::BPF_IND, 0),
        equals(UNREACHABLE, 3, 0),
        equals(ECHO_REPLY, 0, 3),
        op(LOAD_HALF | libc::BPF_IND, 4),
        equals(u32::from(echo), 0, 1),
        op(RETURN, u32::MAX),
        op(RETURN, 0),
    ]
}
