//! What an interface's driver offers to XDP, by the kernel's `netdev` family (Linux 6.3; Documentation/netlink/specs/netdev.yaml).

use rtnetlink::sys::{Socket, SocketAddr};
use std::io;

const NETLINK_GENERIC: isize = 16;
/// Kind of message and command that ask for a family by its name (include/uapi/linux/genetlink.h).
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// Command and attributes of `netdev`.
const GET_DEVICE: u8 = 1;
const IFINDEX: u16 = 1;
const FEATURES: u16 = 3;

const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// Of the netlink header and the generic one.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// Bits of `xdp-features`.
const BASIC: u64 = 1;
const ZERO_COPY: u64 = 8;

/// The modes in which AF_XDP works on an interface. Generic mode does on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures {
    /// The driver runs XDP programs.
    pub native: bool,
    /// It hands frames over without a copy.
    pub zero_copy: bool,
}

/// Asks for one interface, in the current network namespace. Errors: a kernel that cannot say (ENOENT), no such interface.
pub fn features(index: u32) -> io::Result<XdpFeatures> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let family = ask(&socket, CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let id = attribute(&family, FAMILY_ID).and_then(|b| Some(u16::from_ne_bytes(b.get(..2)?.try_into().ok()?)));
    let id = id.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the kernel has no netdev family"))?;
    let device = ask(&socket, id, GET_DEVICE, IFINDEX, &index.to_ne_bytes())?;
    let bits = attribute(&device, FEATURES).and_then(|b| Some(u64::from_ne_bytes(b.get(..8)?.try_into().ok()?)));
    let bits = bits.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer without xdp-features"))?;
    Ok(XdpFeatures { native: bits & BASIC != 0, zero_copy: bits & ZERO_COPY != 0 })
}

/// Sends one request with one attribute; the attributes of the answer.
fn ask(socket: &Socket, kind: u16, command: u8, name: u16, value: &[u8]) -> io::Result<Vec<u8>> {
    socket.send(&request(kind, command, name, value), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    answered(&answer)
}

fn request(kind: u16, command: u8, name: u16, value: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[4..6].copy_from_slice(&kind.to_ne_bytes());
    out[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    out.extend([command, 1, 0, 0]);
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(name.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    let length = out.len() as u32;
    out[..4].copy_from_slice(&length.to_ne_bytes());
    out
}

fn answered(answer: &[u8]) -> io::Result<Vec<u8>> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a netlink answer that is cut off");
    let word = |at: usize| answer.get(at..at + 4).map(|b| [b[0], b[1], b[2], b[3]]);
    let kind = word(4).map(|b| u16::from_ne_bytes([b[0], b[1]])).ok_or_else(short)?;
    if kind == ERROR {
        let code = i32::from_ne_bytes(word(HEADER).ok_or_else(short)?);
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    answer.get(HEADER + GENERIC..).map(<[u8]>::to_vec).ok_or_else(short)
}

/// The value of an attribute.
fn attribute(mut rest: &[u8], name: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]);
        let value = rest.get(4..length)?;
        if kind == name {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_back_as_attributes_and_torn_answers_are_errors() {
        let r = request(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0");
        assert_eq!((r.len() % 4, u32::from_ne_bytes(r[..4].try_into().unwrap()) as usize), (0, r.len()));
        assert_eq!(attribute(&r[HEADER + GENERIC..], FAMILY_NAME), Some(&b"netdev\0"[..]));
        assert_eq!(attribute(&r[HEADER + GENERIC..], 9), None);
        for n in 0..r.len() {
            // Whatever comes of it, it ends.
            let _ = answered(&r[..n]).map(|a| attribute(&a, FAMILY_NAME).map(<[u8]>::to_vec));
        }
        let mut refused = vec![0; 20];
        refused[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        refused[HEADER..].copy_from_slice(&(-libc::ENODEV).to_ne_bytes());
        assert_eq!(answered(&refused).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
