//! The few rtnetlink requests that ports make themselves: one message out, one acknowledgement back.
//!
//! Source: netlink(7), rtnetlink(7), include/uapi/linux/{netlink,rtnetlink,pkt_sched,pkt_cls}.h.

use super::sys;
use std::fs::File;
use std::io::{self, Read, Write};

/// A netlink socket; it stays in the network namespace it was opened in.
pub(super) struct Netlink(File);

/// A request being written: header, fixed part, attributes.
pub(super) struct Request(Vec<u8>);

const HEADER: usize = 16;

impl Request {
    /// A request that asks for an acknowledgement; `flags` are those beyond NLM_F_REQUEST and NLM_F_ACK.
    pub fn new(kind: u16, flags: i32, fixed: &[u8]) -> Request {
        let mut b = vec![0u8; HEADER];
        b[4..6].copy_from_slice(&kind.to_ne_bytes());
        b[6..8].copy_from_slice(&((flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
        b.extend_from_slice(fixed);
        Request(b)
    }

    /// An attribute, padded to four bytes.
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An attribute that holds the attributes added by `f`.
    pub fn nest(mut self, kind: u16, f: impl FnOnce(Request) -> Request) -> Request {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        let mut inner = f(self);
        let len = (inner.0.len() - at) as u16;
        inner.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        inner.0[at + 2..at + 4].copy_from_slice(&kind.to_ne_bytes());
        inner
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Netlink> {
        // A blocking socket would do as well; the kernel answers rtnetlink requests before send returns.
        sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).map(|fd| Netlink(File::from(fd)))
    }

    /// Sends one request and returns the kernel's verdict.
    pub fn request(&mut self, request: Request) -> io::Result<()> {
        let mut b = request.0;
        let len = b.len() as u32;
        b[0..4].copy_from_slice(&len.to_ne_bytes());
        self.0.write_all(&b)?;
        let mut answer = [0u8; 4096];
        let n = self.0.read(&mut answer)?;
        verdict(&answer[..n])
    }
}

/// The error number in an NLMSG_ERROR message: zero is an acknowledgement.
fn verdict(answer: &[u8]) -> io::Result<()> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "unexpected answer on a netlink socket");
    let kind = answer.get(4..6).ok_or_else(bad)?;
    let code = answer.get(HEADER..HEADER + 4).ok_or_else(bad)?;
    if u16::from_ne_bytes([kind[0], kind[1]]) != libc::NLMSG_ERROR as u16 {
        return Err(bad());
    }
    match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(-e)),
    }
}

/// `struct ifinfomsg` for an interface index.
pub(super) fn ifinfo(index: u32) -> [u8; 16] {
    let mut b = [0u8; 16];
    b[4..8].copy_from_slice(&index.to_ne_bytes());
    b
}

/// `struct tcmsg` for an interface index.
pub(super) fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut b = [0u8; 20];
    for (i, v) in [index, handle, parent, info].into_iter().enumerate() {
        b[4 + 4 * i..8 + 4 * i].copy_from_slice(&v.to_ne_bytes());
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_pad() {
        let r = Request::new(40, 0, &[]).attr(1, b"abcde").nest(2, |r| r.attr(7, &[9]));
        let expected: Vec<u8> = [
            &9u16.to_ne_bytes()[..],
            &1u16.to_ne_bytes(),
            b"abcde\0\0\0", // padded to 12
            &12u16.to_ne_bytes(),
            &2u16.to_ne_bytes(),
            &5u16.to_ne_bytes(),
            &7u16.to_ne_bytes(),
            &[9, 0, 0, 0],
        ]
        .concat();
        assert_eq!(&r.0[HEADER..], &expected[..]);
    }

    #[test]
    fn the_kernel_answers() {
        // An interface index that cannot exist.
        let e = Netlink::open().unwrap().request(Request::new(libc::RTM_DELLINK, 0, &ifinfo(0x7fff_fff0))).unwrap_err();
        assert!(matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{e}");
        assert!(verdict(&[]).is_err() && verdict(&[0; 20]).is_err());
    }
}
