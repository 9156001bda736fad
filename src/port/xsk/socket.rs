//! One AF_XDP socket: the pool's memory registered as its UMEM, its four rings, bound to one queue.
//!
//! Every socket registers the same memory as a UMEM of its own (the kernel pins the pages once more each time),
//! so sockets of one pool pass frames on without a copy and close in any order.

use super::rings::{Consumer, Producer};
use super::{RingSizes, ZeroCopy};
use crate::frame::{BURST, SMALL_SLOT, Umem};
use crate::port::losses::Observed;
use crate::port::{Handles, OpenError, sys};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const NO_RING: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
const NO_LAYOUT: libc::xdp_mmap_offsets = libc::xdp_mmap_offsets { rx: NO_RING, tx: NO_RING, fr: NO_RING, cr: NO_RING };

// include/uapi/linux/if_xdp.h: descriptors that one send call takes in copy mode; Linux 6.17.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

const FILL: libc::off_t = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
const DONE: libc::off_t = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;

struct Rings {
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    fill: Producer<u64>,
    done: Consumer<u64>,
}

impl Rings {
    fn map(fd: &OwnedFd, sizes: &RingSizes) -> io::Result<Rings> {
        let at = layout(fd)?;
        Ok(Rings {
            rx: Consumer::map(fd, libc::XDP_PGOFF_RX_RING, &at.rx, sizes.rx)?,
            tx: Producer::map(fd, libc::XDP_PGOFF_TX_RING, &at.tx, sizes.tx)?,
            fill: Producer::map(fd, FILL, &at.fr, sizes.fill)?,
            done: Consumer::map(fd, DONE, &at.cr, sizes.completion)?,
        })
    }
}

fn layout(fd: &impl AsRawFd) -> io::Result<libc::xdp_mmap_offsets> {
    getsockopt(fd, libc::XDP_MMAP_OFFSETS, NO_LAYOUT)
}

/// What to bind to.
pub struct Target<'a> {
    pub interface: &'a str,
    pub ifindex: u32,
    pub queue: u32,
    /// `No` whenever the program runs in generic mode: there is no driver to lend its rings.
    pub zero_copy: ZeroCopy,
    /// Microseconds; 0: off.
    pub busy_poll: u16,
}

/// An open and bound socket.
pub struct Socket {
    // The rings stand first: they are unmapped before the descriptor is closed.
    pub rx: Consumer<libc::xdp_desc>,
    pub tx: Producer<libc::xdp_desc>,
    pub fill: Producer<u64>,
    pub done: Consumer<u64>,
    pub fd: Observed,
    /// Whether the driver reads and writes the UMEM itself.
    pub zero_copy: bool,
    /// Whether a packet may take several descriptors (Linux 6.6).
    pub multi_buffer: bool,
    /// Whether [`Socket::kick_rx`] runs the interface's receive processing.
    pub busy_poll: bool,
}

impl Socket {
    /// Registers `umem`, makes the rings and binds. Errors name the step.
    pub fn open(target: &Target<'_>, umem: Umem, sizes: &RingSizes) -> Result<Socket, OpenError> {
        let step = |what: &str| format!("AF_XDP socket on {} queue {}: {what}", target.interface, target.queue);
        let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).map_err(|e| match e.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => OpenError::with_hint(step("socket"), e, "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"),
            _ => OpenError::io(step("socket"), e),
        })?;
        register(&fd, umem).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOBUFS | libc::ENOMEM) => OpenError::with_hint(
                step("register UMEM"),
                e,
                "give CAP_IPC_LOCK or raise the locked memory limit (ulimit -l), or use a smaller pool",
            ),
            _ => OpenError::io(step("register UMEM"), e),
        })?;
        for (name, option, size) in [
            ("receive ring", libc::XDP_RX_RING, sizes.rx),
            ("send ring", libc::XDP_TX_RING, sizes.tx),
            ("fill ring", libc::XDP_UMEM_FILL_RING, sizes.fill),
            ("completion ring", libc::XDP_UMEM_COMPLETION_RING, sizes.completion),
        ] {
            sys::setsockopt(&fd, libc::SOL_XDP, option, &size).map_err(|e| OpenError::io(step(name), e))?;
        }
        let rings = Rings::map(&fd, sizes).map_err(|e| OpenError::io(step("map rings"), e))?;
        // Before Linux 6.17 the budget is 32 and not to be changed: `kick` repeats the call then.
        let _ = sys::setsockopt(&fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &sizes.tx);
        if target.busy_poll > 0 {
            busy_poll(&fd, target.busy_poll).map_err(|e| busy_poll_error(step("busy polling"), e))?;
        }
        let multi_buffer = bind(&fd, target).map_err(|e| bind_error(step("bind"), e))?;
        Socket::over(fd, rings, multi_buffer, target.busy_poll > 0).map_err(|e| OpenError::io(step("options"), e))
    }

    fn over(fd: OwnedFd, rings: Rings, multi_buffer: bool, busy_poll: bool) -> io::Result<Socket> {
        let options: libc::xdp_options = getsockopt(&fd, libc::XDP_OPTIONS, libc::xdp_options { flags: 0 })?;
        let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        let Rings { rx, tx, fill, done } = rings;
        Ok(Socket { rx, tx, fill, done, fd: Observed::new(fd), zero_copy, multi_buffer, busy_poll })
    }

    /// The `i`-th socket of a port of another process. Its rings are mapped, where that one maps them, and are not to be
    /// used before [`Socket::catch_up`].
    pub fn adopt(interface: &str, h: &mut Handles, i: usize, busy_poll: bool) -> Result<Socket, OpenError> {
        let step = |what: &str| format!("AF_XDP socket {i} on {interface}, of the running daemon: {what}");
        let sizes = RingSizes { rx: h.word("rx")?, tx: h.word("tx")?, fill: h.word("fill")?, completion: h.word("completion")? };
        let fd = h.take(&format!("socket-{i}"))?;
        let rings = Rings::map(&fd, &sizes).map_err(|e| OpenError::io(step("map rings"), e))?;
        let multi_buffer = h.number(&format!("multi-buffer-{i}"))? != 0;
        Socket::over(fd, rings, multi_buffer, busy_poll).map_err(|e| OpenError::io(step("options"), e))
    }

    /// Adds what [`Socket::adopt`] wants. Sockets of a port have rings of the same sizes.
    pub fn handles(&self, h: &mut Handles, i: usize) -> io::Result<()> {
        let sizes = [("rx", self.rx.size()), ("tx", self.tx.size()), ("fill", self.fill.size()), ("completion", self.done.size())];
        sizes.into_iter().for_each(|(name, size)| h.note(name, size.into()));
        h.note(format!("multi-buffer-{i}"), self.multi_buffer.into());
        h.add(format!("socket-{i}"), &self.fd)
    }

    /// Whether another process could map the rings of the bound socket: Linux 6.4 and later let it.
    pub fn can_be_adopted(&self) -> bool {
        let fill = layout(&self.fd).and_then(|at| Producer::<u64>::map(&self.fd, FILL, &at.fr, self.fill.size()));
        fill.is_ok()
    }

    /// Goes on with the rings where the process before has stopped. Errors: they are not as it would have left them.
    pub fn catch_up(&mut self) -> io::Result<()> {
        self.rx.catch_up()?;
        self.tx.catch_up()?;
        self.fill.catch_up()?;
        self.done.catch_up()
    }

    /// Makes the kernel look at the send ring. `Ok(false)`: it could not take all of it now.
    pub fn kick_tx(&self) -> io::Result<bool> {
        // SAFETY: no buffers and no address.
        let ret = unsafe { libc::sendto(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
        transient(ret)
    }

    /// Makes the driver look at the fill ring (zero-copy), and with busy polling runs the queue's receive
    /// processing once, up to a burst.
    pub fn kick_rx(&self) -> io::Result<bool> {
        // SAFETY: no buffers and no address.
        let ret = unsafe {
            libc::recvfrom(self.fd.as_raw_fd(), std::ptr::null_mut(), 0, libc::MSG_DONTWAIT, std::ptr::null_mut(), std::ptr::null_mut())
        };
        transient(ret)
    }
}

/// Errors that only mean "not now". EAGAIN: 32 frames done, more to do (copy mode); EBUSY: the device's queue is
/// full or it dropped one; ENOBUFS, ENOMEM: no socket buffer.
fn transient(ret: isize) -> io::Result<bool> {
    if ret >= 0 {
        return Ok(true);
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Ok(false),
        _ => Err(e),
    }
}

/// Lets receive calls run the queue's NAPI, and asks the kernel to leave it to them (Documentation/networking/napi.rst).
/// Errors: EPERM without CAP_NET_ADMIN, ENOPROTOOPT or EOPNOTSUPP before Linux 5.11 and without busy polling in the kernel.
fn busy_poll(fd: &OwnedFd, microseconds: u16) -> io::Result<()> {
    let set = |name, value: i32| sys::setsockopt(fd, libc::SOL_SOCKET, name, &value);
    set(libc::SO_PREFER_BUSY_POLL, 1)?;
    set(libc::SO_BUSY_POLL, i32::from(microseconds))?;
    set(libc::SO_BUSY_POLL_BUDGET, BURST as i32)
}

fn busy_poll_error(what: String, e: io::Error) -> OpenError {
    OpenError::with_hint(what, e, "set xdp.busy-poll to 0: it needs Linux 5.11 with CONFIG_NET_RX_BUSY_POLL, and CAP_NET_ADMIN")
}

fn register(fd: &OwnedFd, umem: Umem) -> io::Result<()> {
    let reg = libc::xdp_umem_reg {
        addr: umem.base.as_ptr() as u64,
        len: umem.len as u64,
        chunk_size: SMALL_SLOT as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    sys::setsockopt(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &reg)
}

/// Binds with the best that the driver and the kernel take; returns whether packets may span descriptors.
/// A refused bind leaves the socket as it was.
fn bind(fd: &OwnedFd, target: &Target<'_>) -> io::Result<bool> {
    let copies: &[u16] = match target.zero_copy {
        ZeroCopy::Try => &[libc::XDP_ZEROCOPY, libc::XDP_COPY],
        ZeroCopy::Require => &[libc::XDP_ZEROCOPY],
        ZeroCopy::No => &[libc::XDP_COPY],
    };
    let mut result = Err(io::ErrorKind::InvalidInput.into());
    for copy in copies {
        for multi_buffer in [libc::XDP_USE_SG, 0] {
            let address = libc::sockaddr_xdp {
                sxdp_family: libc::AF_XDP as u16,
                sxdp_flags: copy | multi_buffer | libc::XDP_USE_NEED_WAKEUP,
                sxdp_ifindex: target.ifindex,
                sxdp_queue_id: target.queue,
                sxdp_shared_umem_fd: 0,
            };
            let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
            // SAFETY: the kernel reads `len` bytes of a live address.
            result = sys::check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) });
            match &result {
                Ok(_) => return Ok(multi_buffer != 0),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
                Err(_) => break,
            }
        }
        // Only what the driver lacks is worth another try; EBUSY stays EBUSY.
        if matches!(&result, Err(e) if e.raw_os_error() == Some(libc::EBUSY)) {
            break;
        }
    }
    result.map(|_| false)
}

fn bind_error(what: String, e: io::Error) -> OpenError {
    let hint = match e.raw_os_error() {
        Some(libc::EBUSY) => "another AF_XDP socket is bound to this queue: stop that program first",
        Some(libc::EOPNOTSUPP) => "the driver has no zero-copy AF_XDP: allow copy mode",
        Some(libc::EINVAL) => "the interface has no such queue (ethtool -l) or the kernel is older than 5.4",
        _ => return OpenError::io(what, e),
    };
    OpenError::with_hint(what, e, hint)
}

fn getsockopt<T: Copy>(fd: &impl AsRawFd, name: libc::c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live value of integers.
    sys::check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, std::ptr::from_mut(&mut value).cast(), &mut len) })?;
    if len as usize != size_of::<T>() {
        // Before Linux 5.4 the layout had no flags word.
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("option {name} has {len} bytes: Linux 5.4 or newer is needed")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET_ADMIN: u32 = 12;

    /// Takes a capability from the calling thread.
    fn renounce(capability: u32) {
        // include/uapi/linux/capability.h: version 3 and the thread itself; effective, permitted, inheritable.
        let header = [0x2008_0522u32, 0];
        let mut data = [[0u32; 3]; 2];
        // SAFETY: `struct __user_cap_header_struct` and two `struct __user_cap_data_struct`, all integers.
        let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
        assert_eq!(got, 0);
        data[0][0] &= !(1 << capability);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }, 0);
    }

    #[test]
    fn refused_busy_polling_names_the_key() {
        let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).unwrap();
        busy_poll(&fd, 50).unwrap();
        // The kernel does not tell the budget.
        let mut value = [0u32; 1];
        for (name, want) in [(libc::SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, 50)] {
            sys::getsockopt(&fd, libc::SOL_SOCKET, name, &mut value).unwrap();
            assert_eq!(value, [want]);
        }
        let refused = std::thread::spawn(|| {
            renounce(NET_ADMIN);
            let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).unwrap();
            busy_poll(&fd, 50).map_err(|e| busy_poll_error("step".into(), e)).unwrap_err()
        });
        let e = refused.join().unwrap();
        assert_eq!(e.errno(), Some(libc::EPERM));
        assert!(e.to_string().contains("set xdp.busy-poll to 0"), "{e}");
    }
}
