//! What pods do: ping, checksummed TCP, datagrams of every size with and without DF.

use super::lab::Lab;
use crate::wire::transfer_at;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tortie::port::sys;
use tortie::testing::build::pattern;
use tortie::testing::netns;

/// IPv4 and UDP header.
const HEADERS: usize = 28;

/// Pings; panics with what `ping` said unless every one was answered.
pub fn ping(lab: &Lab, from: &str, to: &str) {
    ping_address(lab, from, lab.address(to));
}

pub fn ping_address(lab: &Lab, from: &str, to: Ipv4Addr) {
    lab.sh(from, &format!("ping -n -c 3 -i 0.05 -W 2 {to}"));
}

/// `bytes` of TCP, the data's hash compared at both ends. Says how long it took and what was sent again.
pub fn tcp(lab: &Lab, from: &str, to: &str, bytes: usize) {
    let start = Instant::now();
    let again = transfer_at(&lab.path(from), &lab.path(to), &format!("{}:5999", lab.address(to)), bytes);
    println!("{from} to {to}: {bytes} bytes of TCP in {:.2?}, {again} segments retransmitted", start.elapsed());
}

/// `bytes` of TCP each way, with the pods' offloads as the kernel set them and then without any; they stay off.
pub fn tcp_both_ways(lab: &Lab, a: &str, b: &str, bytes: usize) {
    for offloads in [true, false] {
        // On is how the kernel makes a veth, less what it switches off itself under a native XDP program.
        if !offloads {
            [a, b].into_iter().for_each(|p| netns::offloads(&lab.path(p), "eth0", false));
            println!("without offloads:");
        }
        tcp(lab, a, b, bytes);
        tcp(lab, b, a, bytes);
    }
}

/// How a socket sets DF (ip(7), IP_MTU_DISCOVER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Df {
    /// Never: routers may fragment.
    Clear,
    /// Always, and no path MTU that was learnt before is heeded: every packet meets the router.
    Probe,
    /// Always, by the learnt path MTU.
    Set,
}

/// A connected sender in one pod and a receiver in another.
pub struct Datagrams {
    sender: UdpSocket,
    receiver: UdpSocket,
}

/// What became of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrived,
    /// EMSGSIZE from the sender's own kernel.
    Refused,
    /// An ICMP error from this address about a packet that was too long, with the MTU.
    TooBig {
        from: Ipv4Addr,
        mtu: u32,
    },
    /// Another ICMP error.
    Error {
        from: Ipv4Addr,
        kind: u8,
        code: u8,
    },
    Lost,
}

impl Datagrams {
    pub fn new(lab: &Lab, from: &str, to: &str, df: Df) -> Datagrams {
        let at = SocketAddrV4::new(lab.address(to), 0);
        let receiver = lab.inside(to, || UdpSocket::bind(at).unwrap());
        let peer = receiver.local_addr().unwrap();
        let source = SocketAddrV4::new(lab.address(from), 0);
        let sender = lab.inside(from, || UdpSocket::bind(source).unwrap());
        sender.connect(peer).unwrap();
        let discover = match df {
            Df::Clear => libc::IP_PMTUDISC_DONT,
            Df::Probe => libc::IP_PMTUDISC_PROBE,
            Df::Set => libc::IP_PMTUDISC_DO,
        };
        sys::setsockopt(&sender, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &discover).unwrap();
        sys::setsockopt(&sender, libc::IPPROTO_IP, libc::IP_RECVERR, &1i32).unwrap();
        sys::setsockopt(&receiver, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(4i32 << 20)).unwrap();
        Datagrams { sender, receiver }
    }

    pub fn ttl(&self, ttl: u32) {
        self.sender.set_ttl(ttl).unwrap();
    }

    /// Sends one with `payload` bytes and finds out what became of it.
    pub fn send(&self, payload: usize) -> Fate {
        let data = pattern(payload);
        // The kernel queues a report and then marks the socket: whoever reads the report in between meets the mark at the
        // next call, which clears it.
        let sent = self.sender.send(&data).or_else(|e| if readable(&[&self.sender], 0) { Err(e) } else { self.sender.send(&data) });
        if let Err(e) = sent {
            return match e.raw_os_error() {
                Some(libc::EMSGSIZE) => self.error().unwrap_or(Fate::Refused),
                // A report of an earlier packet that was still on its way.
                _ => self.error().unwrap_or_else(|| panic!("send {payload} bytes: {e}")),
            };
        }
        for _ in 0..2 {
            if !readable(&[&self.receiver, &self.sender], 1000) {
                break;
            }
            if let Some(error) = self.error() {
                return error;
            }
            self.receiver.set_nonblocking(true).unwrap();
            let mut got = vec![0u8; payload + 1];
            match self.receiver.recv(&mut got) {
                Ok(n) => {
                    assert!(got[..n] == data, "{payload} bytes arrived as {n}, or changed");
                    return Fate::Arrived;
                }
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock, "{e}"),
            }
        }
        Fate::Lost
    }

    /// Sends one of each size and panics unless all arrive as they are. Whole datagrams may come in before
    /// fragments that were sent earlier.
    fn expect_intact(&self, sizes: RangeInclusive<usize>, about: impl Fn(usize) -> String) {
        for size in sizes.clone() {
            self.sender.send(&pattern(size)).unwrap_or_else(|e| panic!("send: {e}, {}", about(size)));
        }
        let mut missing: BTreeSet<usize> = sizes.collect();
        let mut buf = vec![0u8; 1 << 16];
        while let Some(size) = missing.first().copied() {
            assert!(readable(&[&self.receiver], 1000), "lost {missing:?}, {}", about(size));
            let n = self.receiver.recv(&mut buf).unwrap();
            assert!(missing.remove(&n), "{n} bytes arrived, expected {missing:?}, {}", about(size));
            assert!(buf[..n] == pattern(n), "changed, {}", about(n));
        }
    }

    /// The next entry of the socket's error queue (ip(7), IP_RECVERR).
    fn error(&self) -> Option<Fate> {
        let mut control = [0u64; 32];
        // SAFETY: plain data for which zero is valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the header describes `control`, which lives through the call.
        if unsafe { libc::recvmsg(self.sender.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) } < 0 {
            return None;
        }
        // SAFETY: the header was filled in by recvmsg; the macros stay within it.
        unsafe {
            let mut c = libc::CMSG_FIRSTHDR(&raw const header);
            while !c.is_null() {
                if (*c).cmsg_level == libc::IPPROTO_IP && (*c).cmsg_type == libc::IP_RECVERR {
                    // The offending router's address follows the extended error.
                    let at = libc::CMSG_DATA(c).cast::<(libc::sock_extended_err, libc::sockaddr_in)>();
                    let (e, from) = at.read_unaligned();
                    return Some(fate(&e, Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr))));
                }
                c = libc::CMSG_NXTHDR(&raw const header, c);
            }
        }
        None
    }
}

fn fate(e: &libc::sock_extended_err, from: Ipv4Addr) -> Fate {
    match (e.ee_origin, e.ee_type, e.ee_code) {
        (libc::SO_EE_ORIGIN_LOCAL, ..) => Fate::Refused,
        (_, 3, 4) => Fate::TooBig { from, mtu: e.ee_info },
        (_, kind, code) => Fate::Error { from, kind, code },
    }
}

/// Whether one of the sockets has something, an error included, within `ms`.
fn readable(sockets: &[&UdpSocket], ms: i32) -> bool {
    let mut polls: Vec<_> = sockets.iter().map(|s| libc::pollfd { fd: s.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the array is live and of the given length.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, ms) > 0 }
}

/// Longest payload of [`sizes`], bytes.
const LONGEST: usize = 9000;

/// Datagrams of every size from 0 to 9,000 bytes: intact at the other end, in fragments where they are longer than
/// the MTU; with DF the pod's own kernel refuses what is longer than its interface takes.
pub fn sizes(lab: &Lab, from: &str, to: &str) {
    let fits = usize::from(lab.plan.spec.pod_mtu()) - HEADERS;
    let plain = Datagrams::new(lab, from, to, Df::Clear);
    // The first of a flow goes alone: the way has neighbours to find.
    assert_eq!(plain.send(1), Fate::Arrived, "{from} to {to}\n{}", lab.story());
    // A few at a time, so that no queue on the way overflows.
    for first in (0..=LONGEST).step_by(8) {
        plain.expect_intact(first..=(first + 7).min(LONGEST), |size| format!("{from} to {to}: {size} bytes\n{}", lab.story()));
    }
    let kept = Datagrams::new(lab, from, to, Df::Set);
    for size in (0..=fits).step_by(97).chain(fits - 1..=LONGEST) {
        let expected = if size > fits { Fate::Refused } else { Fate::Arrived };
        assert_eq!(kept.send(size), expected, "{from} to {to}: {size} bytes with DF\n{}", lab.story());
    }
}

/// Packets of 1,400 to 9,028 bytes from a pod whose interface takes them all: with DF, those above the path's MTU
/// are answered by `router` with that MTU; without, they arrive all the same.
pub fn mtu_sweep(lab: &Lab, from: &str, to: &str, router: Ipv4Addr) {
    let mtu = usize::from(lab.plan.spec.pod_mtu());
    let lengths =
        || (1400..=1600).step_by(9).chain(mtu - 2..=mtu + 2).chain((1601..9028).step_by(571)).chain([1500, 1501, 1600, LONGEST + HEADERS]);
    let plain = Datagrams::new(lab, from, to, Df::Clear);
    let probe = Datagrams::new(lab, from, to, Df::Probe);
    let mut seen = BTreeMap::new();
    for length in lengths() {
        assert_eq!(plain.send(length - HEADERS), Fate::Arrived, "{from} to {to}: {length} bytes\n{}", lab.story());
        let fate = probe.send(length - HEADERS);
        let expected = if length > mtu { Fate::TooBig { from: router, mtu: mtu as u32 } } else { Fate::Arrived };
        assert_eq!(fate, expected, "{from} to {to}: {length} bytes with DF\n{}", lab.story());
        seen.insert(length, fate);
    }
    assert!(seen.len() > 25);
    // What the answers are for: the kernel has learnt the path's MTU and refuses by itself.
    let kept = Datagrams::new(lab, from, to, Df::Set);
    assert_eq!(kept.send(mtu + 1 - HEADERS), Fate::Refused);
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(kept.send(mtu - HEADERS), Fate::Arrived);
}
