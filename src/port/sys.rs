//! System calls that several ports need: sockets, interface ioctls, work in another network namespace.
//! Every function checks the kernel's answer and returns it as `io::Error`.

use crate::wire::Mac;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// A negative return value as the thread's errno.
pub fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// A new socket, close-on-exec and non-blocking.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative return value is a descriptor that nobody else owns yet.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(domain, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol))?)) }
}

/// Sets a socket option whose value is a plain C structure or integer.
pub fn setsockopt<T: Copy>(fd: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads size_of::<T>() bytes of a live value and keeps no pointer.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t) })
        .map(drop)
}

/// Reads a socket option whose value is integers without padding; what the kernel does not fill stays as it is.
pub fn getsockopt<const N: usize, I: Integer>(fd: &impl AsRawFd, level: i32, name: i32, value: &mut [I; N]) -> io::Result<()> {
    let mut len = size_of::<[I; N]>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a live array, for whose elements any bytes are valid.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &mut len) }).map(drop)
}

/// Types of which any bytes are a value.
pub trait Integer: Copy {}
impl Integer for u32 {}
impl Integer for u64 {}

/// Runs `f` on a fresh thread inside the network namespace at `path` (a file like `/run/netns/NAME` or
/// `/proc/PID/ns/net`) and returns what it returns; sockets opened there stay there. A panic of `f` is passed
/// on. Errors: the namespace cannot be opened or entered (CAP_SYS_ADMIN).
pub fn in_netns<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let ns = File::open(path).map_err(|e| io::Error::new(e.kind(), format!("network namespace {}: {e}", path.display())))?;
    let enter = move || {
        // SAFETY: no pointers; changes the namespace of this thread alone, which ends after `f`.
        check(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) })?;
        Ok(f())
    };
    std::thread::scope(|s| match s.spawn(enter).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The same in a new and empty network namespace, which goes with the last of what was made in it. Errors: it cannot
/// be made (CAP_SYS_ADMIN).
pub fn in_new_netns<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let enter = move || {
        // SAFETY: no pointers; changes the namespace of this thread alone, which ends after `f`.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        Ok(f())
    };
    std::thread::scope(|s| match s.spawn(enter).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Whether the kernel takes its clock to be synchronised (adjtimex(2)).
pub fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: all-zero bytes are a valid timex, and a mode of 0 only reads.
    let mut t: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `t` is a timex of ours.
    check(unsafe { libc::adjtimex(&raw mut t) })?;
    Ok(t.status & libc::STA_UNSYNC == 0)
}

/// An interface request for `ioctl`: the name is set, all else is zero. Fails for a name that is empty, too
/// long (15 bytes) or contains a NUL.
pub fn ifreq(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/', ' ']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not an interface name (1 to 15 bytes)")));
    }
    // SAFETY: all-zero bytes are a valid ifreq (a union of integers, arrays and a null pointer).
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(req)
}

/// One `ioctl` with an interface request.
pub fn ioctl_ifreq(fd: &impl AsRawFd, request: libc::c_ulong, req: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one ifreq, which is live and exclusively borrowed.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, std::ptr::from_mut(req)) }).map(drop)
}

/// What this kernel takes from userspace that may be newer than the oldest one supported: whether its version
/// is at least `major.minor`.
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    version(&release) >= (major, minor)
}

/// `6.18.44-name` as (6, 18); what cannot be read counts as zero.
fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// An interface of the calling thread's network namespace, for the old interface ioctls.
pub struct Link {
    sock: OwnedFd,
    req: libc::ifreq,
}

impl Link {
    /// Names an interface; whether it exists shows at the first request.
    pub fn new(name: &str) -> io::Result<Link> {
        Ok(Link { req: ifreq(name)?, sock: socket(libc::AF_INET, libc::SOCK_DGRAM, 0)? })
    }

    fn call(&mut self, request: libc::c_ulong) -> io::Result<()> {
        ioctl_ifreq(&self.sock, request, &mut self.req)
    }

    /// The interface's number.
    pub fn index(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFINDEX as _)?;
        // SAFETY: SIOCGIFINDEX filled this member.
        Ok(unsafe { self.req.ifr_ifru.ifru_ifindex } as u32)
    }

    /// The MTU, bytes from L3 on.
    pub fn mtu(&mut self) -> io::Result<u32> {
        self.call(libc::SIOCGIFMTU as _)?;
        // SAFETY: SIOCGIFMTU filled this member.
        Ok(unsafe { self.req.ifr_ifru.ifru_mtu } as u32)
    }

    pub fn set_mtu(&mut self, mtu: u32) -> io::Result<()> {
        self.req.ifr_ifru.ifru_mtu = mtu as libc::c_int;
        self.call(libc::SIOCSIFMTU as _)
    }

    /// The hardware type (`ARPHRD_ETHER`, ...) and address.
    pub fn hardware(&mut self) -> io::Result<(u16, Mac)> {
        self.call(libc::SIOCGIFHWADDR as _)?;
        // SAFETY: SIOCGIFHWADDR filled this member.
        let addr = unsafe { self.req.ifr_ifru.ifru_hwaddr };
        Ok((addr.sa_family, Mac(std::array::from_fn(|i| addr.sa_data[i] as u8))))
    }

    pub fn set_mac(&mut self, mac: Mac) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid sockaddr.
        let mut addr: libc::sockaddr = unsafe { std::mem::zeroed() };
        addr.sa_family = libc::ARPHRD_ETHER;
        for (to, from) in addr.sa_data.iter_mut().zip(mac.0) {
            *to = from as libc::c_char;
        }
        self.req.ifr_ifru.ifru_hwaddr = addr;
        self.call(libc::SIOCSIFHWADDR as _)
    }

    /// The interface's flags (`IFF_UP`, ...).
    pub fn flags(&mut self) -> io::Result<i32> {
        self.call(libc::SIOCGIFFLAGS as _)?;
        // SAFETY: SIOCGIFFLAGS filled this member.
        Ok(i32::from(unsafe { self.req.ifr_ifru.ifru_flags }))
    }

    pub fn set_up(&mut self) -> io::Result<()> {
        let flags = self.flags()?;
        self.req.ifr_ifru.ifru_flags = (flags | libc::IFF_UP) as libc::c_short;
        self.call(libc::SIOCSIFFLAGS as _)
    }

    /// The driver's name (`ETHTOOL_GDRVINFO`): `tun`, `veth`, ...
    pub fn driver(&mut self) -> io::Result<String> {
        // struct ethtool_drvinfo: u32 command, then the driver's name in 32 bytes; 196 bytes in all.
        #[repr(C, align(4))]
        struct DriverInfo([u8; 196]);
        const GDRVINFO: u32 = 0x03;
        let mut info = DriverInfo([0; 196]);
        info.0[..4].copy_from_slice(&GDRVINFO.to_ne_bytes());
        self.req.ifr_ifru.ifru_data = std::ptr::from_mut(&mut info).cast();
        let result = self.call(libc::SIOCETHTOOL as _);
        self.req.ifr_ifru.ifru_data = std::ptr::null_mut();
        result?;
        let name = info.0[4..36].split(|b| *b == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// Switches one of the classic offloads by its ethtool set command (`ETHTOOL_STXCSUM`, `ETHTOOL_STSO`, ...).
    pub fn set_offload(&mut self, command: u32, on: u32) -> io::Result<()> {
        #[repr(C)]
        struct EthtoolValue {
            cmd: u32,
            data: u32,
        }
        let mut value = EthtoolValue { cmd: command, data: on };
        self.req.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
        let result = self.call(libc::SIOCETHTOOL as _);
        // No pointer to the stack stays behind.
        self.req.ifr_ifru.ifru_data = std::ptr::null_mut();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused() {
        for bad in ["", "sixteen-bytes-xx", "a b", "a/b", "a\0b"] {
            assert!(ifreq(bad).is_err(), "{bad:?}");
        }
        assert!(ifreq("fifteen-bytes-x").is_ok());
    }

    #[test]
    fn loopback_and_absent_interfaces() {
        let mut lo = Link::new("lo").unwrap();
        assert!(lo.index().unwrap() >= 1);
        assert_eq!(lo.hardware().unwrap().0, libc::ARPHRD_LOOPBACK);
        assert!(lo.mtu().unwrap() >= 1500);
        let e = Link::new("no-such-if").unwrap().index().unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn kernel_versions_compare() {
        assert_eq!(version("6.18.44-fc\n"), (6, 18));
        assert_eq!(version("6.1"), (6, 1));
        assert_eq!(version(""), (0, 0));
        assert!(kernel_at_least(3, 0) && !kernel_at_least(1000, 0));
    }

    #[test]
    fn unknown_namespace_is_named() {
        let e = in_netns(Path::new("/run/netns/no-such-ns"), || ()).unwrap_err();
        assert!(e.to_string().contains("/run/netns/no-such-ns"), "{e}");
    }
}
