//! One epoll set per worker: which ports have something, in one call.

use crate::frame::PortId;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Ports reported by one wait; more stay ready for the next.
const EVENTS: usize = 64;
/// Marks the mailbox's eventfd.
const MAILBOX: u64 = u64::MAX;

/// Has the kernel end the calling thread's sleeps within a microsecond of their time, instead of 50.
pub fn wake_in_time() {
    const SLACK_NS: libc::c_ulong = 1000;
    // SAFETY: no pointers. It cannot fail, and matters for speed only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
}

pub struct Poller {
    fd: OwnedFd,
    events: [libc::epoll_event; EVENTS],
}

/// What a wait found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    pub ports: usize,
    pub mailbox: bool,
}

impl Poller {
    pub fn new() -> io::Result<Poller> {
        // SAFETY: no memory arguments; a non-negative result is a new descriptor.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just created, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Poller { fd, events: [libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }

    pub fn add_mailbox(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.add(fd, MAILBOX)
    }

    /// Adds a port's descriptor; it leaves the set by itself when it is closed.
    pub fn add_port(&self, fd: BorrowedFd<'_>, id: PortId) -> io::Result<()> {
        self.add(fd, u64::from(id.0))
    }

    fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: both descriptors are open, `event` lives through the call.
        let r = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits up to `timeout_ms` (0: not at all) and calls `ready` for each port that has something.
    pub fn wait(&mut self, timeout_ms: i32, mut ready: impl FnMut(PortId)) -> io::Result<Ready> {
        // SAFETY: `events` holds EVENTS entries and lives through the call.
        let n = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), EVENTS as i32, timeout_ms) };
        if n < 0 {
            let e = io::Error::last_os_error();
            return if e.kind() == io::ErrorKind::Interrupted { Ok(Ready::default()) } else { Err(e) };
        }
        let mut found = Ready::default();
        for e in &self.events[..n as usize] {
            if e.u64 == MAILBOX {
                found.mailbox = true;
            } else {
                found.ports += 1;
                ready(PortId(e.u64 as u16));
            }
        }
        Ok(found)
    }
}
