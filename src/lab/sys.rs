//! The lab's own dealings with the kernel: entering namespaces, signals, and a capture socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn check(r: libc::c_int) -> io::Result<libc::c_int> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// Whether the process may do what a lab needs.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Runs `f` on a thread of its own inside the network namespace at `netns`; this thread stays where it is.
pub fn inside<T: Send>(netns: &Path, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let ns = File::open(netns)?;
    std::thread::scope(|s| {
        s.spawn(move || {
            // SAFETY: the descriptor is open for the length of the call; only this thread changes namespace.
            check(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) })?;
            f()
        })
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

/// Makes `command` run inside the network namespace at `netns`.
pub fn enter(command: &mut Command, netns: &Path) -> io::Result<()> {
    let ns = File::open(netns)?;
    // SAFETY: between fork and exec the closure calls setns alone, which is async-signal-safe; the descriptor
    // is owned by the closure.
    unsafe {
        command.pre_exec(move || check(libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET)).map(drop));
    }
    Ok(())
}

/// Makes `command` start a session of its own: it survives the terminal and its Ctrl-C.
pub fn detach(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and has no preconditions.
    unsafe {
        command.pre_exec(|| check(libc::setsid()).map(drop));
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().filter(|p| *p > 1).ok_or_else(|| io::Error::other("not a process id"))?;
    // SAFETY: kill takes integers only; pid is positive, so it names one process.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// A packet socket that sees every frame of one interface, both directions.
pub struct Capture(OwnedFd);

impl Capture {
    /// Opens on `interface` of the network namespace at `netns`; reads wait at most `timeout`.
    pub fn open(netns: &Path, interface: &str, timeout: Duration) -> io::Result<Capture> {
        let name = std::ffi::CString::new(interface)?;
        inside(netns, move || {
            // SAFETY: the name is NUL-terminated and lives through the call.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            if index == 0 {
                return Err(io::Error::last_os_error());
            }
            let all = (libc::ETH_P_ALL as u16).to_be();
            // SAFETY: socket takes integers; the new descriptor is owned from here on.
            let fd =
                unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all)))?) };
            // SAFETY: sockaddr_ll is plain data for which all zeroes is valid.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = all;
            address.sll_ifindex = index as i32;
            let time = libc::timeval { tv_sec: timeout.as_secs() as _, tv_usec: timeout.subsec_micros() as _ };
            // SAFETY: pointers and lengths describe the two locals, which live through the calls.
            unsafe {
                check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32))?;
                check(libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const time).cast(),
                    size_of::<libc::timeval>() as u32,
                ))?;
            }
            Ok(Capture(fd))
        })
    }

    /// The next frame into `buffer`; its length, cut to the buffer. `WouldBlock` when the time is up.
    pub fn next(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: pointer and length describe `buffer`, which is exclusively borrowed.
        let n = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

/// Clock ticks per second of the times in /proc.
pub fn ticks_per_second() -> f64 {
    // SAFETY: sysconf takes an integer and has no preconditions.
    let n = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if n > 0 { n as f64 } else { 100.0 }
}
