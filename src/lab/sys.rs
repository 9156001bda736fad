//! The lab's own dealings with the kernel: entering namespaces, signals, and a capture socket.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
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

/// CPU time of a process so far: all its threads, those that ended too. Errors: there is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the kernel's answer goes to a local that lives through the call.
    let result = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above; the clock need not exist any more, which is an error.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Asks for a receive buffer of `bytes` (Linux makes it twice that), past net.core.rmem_max if this process may.
pub fn set_receive_buffer(socket: &UdpSocket, bytes: libc::c_int) -> io::Result<()> {
    let set = |option| {
        // SAFETY: pointer and length describe `bytes`, which lives through the call.
        check(unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const bytes).cast(), size_of::<libc::c_int>() as u32)
        })
    };
    set(libc::SO_RCVBUFFORCE).or_else(|_| set(libc::SO_RCVBUF)).map(drop)
}

/// Datagrams per call of [`Sink::receive`].
const SINK_BATCH: usize = 256;
/// Bytes kept of each; what is longer is cut by the kernel, but counted in full.
const SINK_BYTES: usize = 64;

/// Room for a batch of datagrams that nobody reads.
pub struct Sink(Box<[[u8; SINK_BYTES]; SINK_BATCH]>);

impl Sink {
    pub fn new() -> Sink {
        Sink(Box::new([[0; SINK_BYTES]; SINK_BATCH]))
    }

    /// Takes what has come, and waits for the first by the socket's read timeout: number of datagrams and sum of
    /// their lengths, bytes. Errors: as of recvmmsg(2); `WouldBlock` when the time is up.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<(u64, u64)> {
        let mut rooms = self.0.each_mut().map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: SINK_BYTES });
        let mut headers = rooms.each_mut().map(|room| {
            // SAFETY: mmsghdr is plain data for which all zeroes is valid.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = room;
            header.msg_hdr.msg_iovlen = 1;
            header
        });
        let flags = libc::MSG_WAITFORONE | libc::MSG_TRUNC;
        // SAFETY: each header points to one iovec and that to SINK_BYTES of this sink, which is exclusively borrowed;
        // all of them live through the call.
        let n = check(unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), SINK_BATCH as u32, flags as _, std::ptr::null_mut())
        })?;
        let taken = &headers[..n as usize];
        Ok((taken.len() as u64, taken.iter().map(|h| u64::from(h.msg_len)).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_counts_datagrams_and_bytes() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        set_receive_buffer(&socket, 1 << 20).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(socket.local_addr().unwrap()).unwrap();
        for length in [0, 18, SINK_BYTES, 1000] {
            sender.send(&vec![7; length]).unwrap();
        }
        let mut sink = Sink::new();
        let (mut packets, mut bytes) = (0, 0);
        while packets < 4 {
            let (p, b) = sink.receive(&socket).unwrap();
            packets += p;
            bytes += b;
        }
        assert_eq!((packets, bytes), (4, 18 + 64 + 1000));
        let e = sink.receive(&socket).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_process_has_cpu_time_until_it_is_gone() {
        assert!(cpu_time(std::process::id()).unwrap() > Duration::ZERO);
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(cpu_time(child.id()).is_err());
    }
}
