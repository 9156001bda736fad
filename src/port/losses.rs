//! What the kernel lost before a port saw it, or after the port had given it away: read from the socket by whoever
//! looks at the daemon, on that one's thread, while a worker owns the port.

use super::{sys, tcx};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Weak};

/// A count under the kernel's name for it.
pub type Loss = (&'static str, u64);

/// A socket that a [`LossReader`] may look at. The descriptor is closed when this is dropped, not later: a read
/// that is going on, one system call long, is waited for.
#[derive(Debug)]
pub struct Observed(Option<Arc<OwnedFd>>);

impl Observed {
    pub fn new(fd: OwnedFd) -> Observed {
        Observed(Some(Arc::new(fd)))
    }

    /// A reader with the counters that sockets of this kind have.
    pub fn reader(&self, kind: Kind) -> LossReader {
        LossReader { fd: self.0.as_ref().map_or_else(Weak::new, Arc::downgrade), kind }
    }
}

impl AsRawFd for Observed {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_ref().map_or(-1, |fd| fd.as_raw_fd())
    }
}

impl std::os::fd::AsFd for Observed {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // Empty only within `drop`.
        self.0.as_ref().expect("an open socket").as_fd()
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let mut last = self.0.take();
        while let Some(fd) = last {
            last = Arc::try_unwrap(fd).err();
            if last.is_some() {
                std::thread::yield_now();
            }
        }
    }
}

/// Which counters a socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// XDP_STATISTICS (Documentation/networking/af_xdp.rst).
    Xdp,
    /// Packets for which the receive buffer had no room: SK_MEMINFO_DROPS of SO_MEMINFO. For a packet socket that
    /// is tp_drops of PACKET_STATISTICS, which a read would set to zero. 32 bits wide, wraps. Linux 4.11.
    Buffer,
    /// A counter of the program that sends whole super-frames on ([`super::whole`]): the kernel knew no way.
    Unsent,
}

/// Reads the counters of one socket for as long as that is open.
#[derive(Clone, Debug)]
pub struct LossReader {
    fd: Weak<OwnedFd>,
    kind: Kind,
}

impl LossReader {
    /// Counts since the socket was opened, zeros included; nothing once it is closed.
    pub fn read(&self) -> Vec<Loss> {
        let Some(fd) = self.fd.upgrade() else { return Vec::new() };
        match self.kind {
            Kind::Xdp => xdp(&fd),
            Kind::Buffer => buffer(&fd),
            Kind::Unsent => tcx::read_counter(&fd).map(|n| vec![("super-frame-no-route", n)]),
        }
        .unwrap_or_default()
    }
}

fn xdp(fd: &OwnedFd) -> io::Result<Vec<Loss>> {
    // Before Linux 5.9 three counters only.
    let mut s = [0u64; 6];
    sys::getsockopt(fd, libc::SOL_XDP, libc::XDP_STATISTICS, &mut s)?;
    // The other counters of the structure tell how often a ring was found empty, and no packet was lost by that: one that
    // finds no slot in the fill ring is in rx_dropped.
    let [rx_dropped, _, tx_invalid, rx_ring_full, _, _] = s;
    Ok(vec![("xdp-rx-dropped", rx_dropped), ("xdp-rx-ring-full", rx_ring_full), ("xdp-tx-invalid", tx_invalid)])
}

fn buffer(fd: &OwnedFd) -> io::Result<Vec<Loss>> {
    // include/uapi/linux/sock_diag.h: SK_MEMINFO_DROPS is the ninth and last.
    let mut info = [0u32; 9];
    sys::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut info)?;
    Ok(vec![("socket-buffer-full", info[8].into())])
}

/// The counters of several sockets, name by name.
pub fn sum(readers: &[LossReader]) -> Vec<Loss> {
    let mut total: Vec<Loss> = Vec::new();
    for (name, n) in readers.iter().flat_map(LossReader::read) {
        match total.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => *all += n,
            None => total.push((name, n)),
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_full_buffer_counts_and_a_closed_socket_says_nothing() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = a.local_addr().unwrap();
        let a = Observed::new(a.into());
        sys::setsockopt(&a, libc::SOL_SOCKET, libc::SO_RCVBUF, &1i32).unwrap();
        let reader = a.reader(Kind::Buffer);
        assert_eq!(reader.read(), [("socket-buffer-full", 0)]);
        (0..50).for_each(|_| assert_eq!(b.send_to(&[0; 1000], to).unwrap(), 1000));
        let lost = reader.read()[0].1;
        assert!((1..50).contains(&lost), "{lost}");
        assert_eq!(sum(&[reader.clone(), reader.clone()]), [("socket-buffer-full", 2 * lost)]);
        drop(a);
        assert!(reader.read().is_empty());
    }

    #[test]
    fn the_descriptor_is_closed_when_the_owner_is_gone_even_while_read() {
        let a = Observed::new(UdpSocket::bind("127.0.0.1:0").unwrap().into());
        let reader = a.reader(Kind::Buffer);
        let held = reader.fd.upgrade().unwrap();
        let waited = std::thread::scope(|s| {
            let owner = s.spawn(|| drop(a));
            std::thread::sleep(std::time::Duration::from_millis(20));
            let waited = !owner.is_finished();
            drop(held);
            owner.join().unwrap();
            waited
        });
        assert!(waited && reader.fd.upgrade().is_none());
    }
}
