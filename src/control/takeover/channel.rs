//! A connection between two daemons of this machine: messages as JSON, each with the descriptors that belong to it
//! (SCM_RIGHTS, unix(7)).

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Descriptors with one message: the kernel takes 253 (SCM_MAX_FD).
pub const MAX_FDS: usize = 250;
/// Longest message, bytes: the totals of a million routes are a third of it.
const MAX_LEN: usize = 256 << 20;
/// In front of each message: its length, and how many descriptors come with it.
const HEAD: usize = 8;

/// One end.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

/// A received message and its descriptors, in the sender's order.
#[derive(Debug)]
pub struct Received<M> {
    pub message: M,
    pub fds: VecDeque<OwnedFd>,
}

impl Channel {
    pub fn new(stream: UnixStream) -> io::Result<Channel> {
        stream.set_nonblocking(false)?;
        Ok(Channel { stream })
    }

    /// How long each later read or write may take. Errors: zero.
    pub fn patience(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))?;
        self.stream.set_write_timeout(Some(limit))
    }

    /// Errors: the other end is gone, or does not read in time; more than [`MAX_FDS`] descriptors.
    pub fn send<M: Serialize>(&mut self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        if fds.len() > MAX_FDS || body.len() > MAX_LEN {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a message of {} bytes with {} descriptors", body.len(), fds.len()),
            ));
        }
        let mut head = [0u8; HEAD];
        head[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&(fds.len() as u32).to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let n = retry_on_intr(|| sendmsg(&self.stream, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL))?;
        if n != HEAD {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.stream.write_all(&body)
    }

    /// The next message; `None` when the other end has closed. Errors: it takes too long, it is not a message, or
    /// this process has no room for its descriptors.
    pub fn receive<M: DeserializeOwned>(&mut self) -> io::Result<Option<Received<M>>> {
        let mut head = [0u8; HEAD];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // With a time limit a call is interrupted even by being stopped and continued (signal(7)).
        let receive = || recvmsg(&self.stream, &mut [IoSliceMut::new(&mut head)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let got = retry_on_intr(receive)?.bytes;
        let mut fds = VecDeque::new();
        for m in control.drain() {
            if let RecvAncillaryMessage::ScmRights(all) = m {
                fds.extend(all);
            }
        }
        if got == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut head[got..])?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (len, count) = (number(0), number(4));
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if len > MAX_LEN {
            return Err(bad(format!("a message of {len} bytes")));
        }
        if fds.len() != count {
            return Err(bad(format!("{} of {count} descriptors arrived: raise the limit of open files (LimitNOFILE)", fds.len())));
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        let message = serde_json::from_slice(&body)?;
        Ok(Some(Received { message, fds }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::{AsFd, AsRawFd};

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, b) = (Channel::new(a).unwrap(), Channel::new(b).unwrap());
        [&a, &b].into_iter().for_each(|c| c.patience(Duration::from_millis(200)).unwrap());
        (a, b)
    }

    #[test]
    fn messages_arrive_in_order_each_with_its_descriptors() {
        let (mut a, mut b) = pair();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        a.send(&"none", &[]).unwrap();
        a.send(&"two", &[socket.as_fd(), socket.as_fd()]).unwrap();
        a.send(&vec![7u8; 100_000], &[socket.as_fd()]).unwrap_or_else(|e| panic!("{e}"));
        let none = b.receive::<String>().unwrap().unwrap();
        assert_eq!((none.message.as_str(), none.fds.len()), ("none", 0));
        let two = b.receive::<String>().unwrap().unwrap();
        assert_eq!((two.message.as_str(), two.fds.len()), ("two", 2));
        for fd in two.fds {
            assert_ne!(fd.as_raw_fd(), socket.as_raw_fd());
            assert_eq!(UdpSocket::from(fd).local_addr().unwrap(), socket.local_addr().unwrap());
        }
        assert_eq!(b.receive::<Vec<u8>>().unwrap().unwrap().message.len(), 100_000);
        drop(a);
        assert!(b.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn what_is_late_or_no_message_is_an_error() {
        let (mut a, mut b) = pair();
        assert!(matches!(b.receive::<String>().unwrap_err().kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        a.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(b.receive::<String>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut a, mut b) = pair();
        a.send(&7, &[]).unwrap();
        assert!(b.receive::<String>().is_err());
        let many = vec![a.stream.as_fd(); MAX_FDS + 1];
        let mut other = pair().0;
        assert!(other.send(&"x", &many).unwrap_err().to_string().contains("251 descriptors"));
    }
}
