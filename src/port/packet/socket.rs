//! Packet sockets: options, filter and fanout (packet(7), include/uapi/linux/if_packet.h).

use super::super::sys::{self, check};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const VNET_HDR: i32 = 15;
const FANOUT: i32 = 18;
const IGNORE_OUTGOING: i32 = 23;
const FANOUT_HASH: u32 = 0;
const FANOUT_UNIQUE_ID: u32 = 0x2000;
const FANOUT_IGNORE_OUTGOING: u32 = 0x4000;
/// Bytes of frames (with the kernel's overhead) that may wait in one socket; the kernel doubles it.
const BUFFER: libc::c_int = 4 << 20;

/// What a socket lets through.
#[derive(Clone, Copy)]
pub(super) enum Filter {
    Nothing,
    /// The kernel takes a VLAN tag out of the frame and keeps it aside; without the tag the frame would pass
    /// for one of the untagged network. No endpoint speaks VLAN, so such frames stay out.
    Untagged,
}

/// A raw packet socket with virtio-net headers that receives nothing yet.
pub(super) fn open() -> io::Result<OwnedFd> {
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    sys::setsockopt(&fd, libc::SOL_PACKET, VNET_HDR, &1i32)?;
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        // Without CAP_NET_ADMIN the limit of net.core.{r,w}mem_max applies.
        if sys::setsockopt(&fd, libc::SOL_SOCKET, force, &BUFFER).is_err() {
            sys::setsockopt(&fd, libc::SOL_SOCKET, plain, &BUFFER)?;
        }
    }
    Ok(fd)
}

/// Never shows the socket what the host itself sends on the interface.
pub(super) fn ignore_outgoing(fd: &OwnedFd) -> io::Result<()> {
    sys::setsockopt(fd, libc::SOL_PACKET, IGNORE_OUTGOING, &1i32)
}

/// Binds to an interface; `protocol` is `ETH_P_ALL` to receive everything, 0 to receive nothing.
pub(super) fn bind(fd: &OwnedFd, index: u32, protocol: i32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: the kernel reads one sockaddr_ll, which is live.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
        .map(drop)
}

/// Sets, or replaces, the socket's classic BPF filter.
pub(super) fn filter(fd: &OwnedFd, which: Filter) -> io::Result<()> {
    const LOAD_ANCILLARY: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let all = [
        op(LOAD_ANCILLARY, 0, 0, (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32),
        op(JUMP_IF_EQUAL, 0, 1, 0),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ];
    let code = match which {
        Filter::Nothing => &all[3..],
        Filter::Untagged => &all[..],
    };
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Joins bound sockets into a group that shares the interface's frames by flow hash. `group` is what an earlier
/// call returned; `None` founds a group.
pub(super) fn join(fd: &OwnedFd, group: Option<u32>) -> io::Result<u32> {
    let mode = FANOUT_HASH | FANOUT_IGNORE_OUTGOING;
    if let Some(id) = group {
        sys::setsockopt(fd, libc::SOL_PACKET, FANOUT, &(id | mode << 16))?;
        return Ok(id);
    }
    sys::setsockopt(fd, libc::SOL_PACKET, FANOUT, &((mode | FANOUT_UNIQUE_ID) << 16))?;
    let mut value = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live u32.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_PACKET, FANOUT, std::ptr::from_mut(&mut value).cast(), &mut len) })?;
    Ok(value & 0xffff)
}
