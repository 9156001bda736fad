//! Sending over the UDP underlay: which socket, which frames join into one message, what becomes of refusals.

use super::PREFIX;
use super::tunnel::{To, Tunnel};
use crate::encap::segment::{HEADER_MAX, Segments};
use crate::frame::{BURST, Batch, Frame, FramePool};
use crate::port::losses::LossReader;
use crate::port::mmsg::{Outgoing, Refusal, SendTable, UDP_PAYLOAD_MAX};
use crate::port::whole::Outcome;
use crate::port::{Handles, TxReport};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

/// Sending sockets per queue: so many source ports the tunnel packets of one queue have.
pub const SOURCES: usize = 16;

/// Datagrams in one message: UDP_MAX_SEGMENTS of kernels before 6.9, which later ones take as well.
const SEGMENTS_MAX: usize = 64;

/// Messages and buffers per system call: a burst of ordinary frames, or about ten super-frames of 64 KB.
const MESSAGES: usize = BURST;
const BUFFERS: usize = 1024;

/// Bytes of headers made for the segments of one system call: half of the buffers are headers.
const HEADERS: usize = BUFFERS / 2 * (PREFIX + HEADER_MAX);

/// Which of the sending sockets a flow uses: the one whose share of the port range holds the source port that
/// [`crate::wire::flow::source_port`] gives it.
#[inline(always)]
pub fn source_of(hash: u32) -> usize {
    ((hash as u64 * SOURCES as u64) >> 32) as usize
}

/// A position in the frames of one socket: the frame's place in the list, and the segment within a super-frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    place: usize,
    segment: usize,
}

impl At {
    fn next_frame(self) -> At {
        At { place: self.place + 1, segment: 0 }
    }
}

/// A super-frame of which only the first segments were sent when the socket was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partly {
    slot: u32,
    len: usize,
    hash: u32,
    segment: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Left,
    Sent,
    Error,
    TooBig,
}

/// The frames of one burst, sorted out before anything is sent.
struct Plan {
    /// Per frame: where to and, for a super-frame, how it is cut.
    peer: [Ipv4Addr; BURST],
    segments: [Option<Segments>; BURST],
    fate: [Fate; BURST],
    source: [u8; BURST],
    /// Frames that go through the device.
    whole: [bool; BURST],
}

/// One sending socket and the port that it is bound to.
pub struct Source {
    pub socket: OwnedFd,
    pub port: u16,
}

/// The sending half of a port.
pub struct Sender {
    sockets: Vec<Source>,
    port: u16,
    /// Where super-frames go as they are, if the kernel has it.
    tunnel: Option<Tunnel>,
    table: SendTable,
    headers: Box<[u8]>,
    plan: Plan,
    /// Where each message being built ends.
    ends: [At; MESSAGES],
    partly: [Option<Partly>; SOURCES],
    /// Whether the kernel takes `UDP_SEGMENT`.
    offload: bool,
}

impl Sender {
    /// The sockets with their ports, and the device.
    pub fn handles(&self, h: &mut Handles) -> io::Result<()> {
        for (i, source) in self.sockets.iter().enumerate() {
            h.add(super::sender_name(i), &source.socket)?;
            h.note(super::port_name(i), source.port.into());
        }
        self.tunnel.as_ref().map_or(Ok(()), |t| t.handles(h))
    }

    /// `sockets`: [`SOURCES`] of them. `port`: the other nodes' VXLAN port. `offload`: whether to try
    /// `UDP_SEGMENT`.
    pub fn new(sockets: Vec<Source>, port: u16, offload: bool, tunnel: Option<Tunnel>) -> Sender {
        Sender {
            sockets,
            port,
            table: SendTable::new(MESSAGES, BUFFERS),
            headers: vec![0; HEADERS].into_boxed_slice(),
            tunnel,
            plan: Plan {
                peer: [Ipv4Addr::UNSPECIFIED; BURST],
                segments: [None; BURST],
                fate: [Fate::Left; BURST],
                source: [0; BURST],
                whole: [false; BURST],
            },
            ends: [At::default(); MESSAGES],
            partly: [None; SOURCES],
            offload,
        }
    }

    /// Where to read what the kernel lost of the super-frames that went whole.
    pub fn losses(&self) -> Option<LossReader> {
        self.tunnel.as_ref()?.losses()
    }

    /// Sends from the front of `out`, burst by burst, until all is sent or a socket is full.
    pub fn send(&mut self, pool: &mut FramePool, out: &mut Batch) -> TxReport {
        let mut report = TxReport::default();
        while !out.is_empty() {
            let n = out.len().min(BURST);
            self.burst(pool, &out.as_slice()[..n]);
            if !self.settle(pool, out, n, &mut report) {
                break;
            }
        }
        report
    }

    /// Sends the frames, at most [`BURST`], socket by socket; afterwards `plan.fate` tells what became of each.
    fn burst(&mut self, pool: &FramePool, frames: &[Frame]) {
        let mut used = 0u32;
        for (i, f) in frames.iter().enumerate() {
            let whole = self.tunnel.as_ref().is_some_and(|t| t.takes(f));
            used |= self.plan.classify(i, f, pool, whole);
        }
        while used != 0 {
            let source = used.trailing_zeros() as usize;
            used &= used - 1;
            self.send_source(pool, frames, source);
        }
    }

    /// Gives back what is done with and keeps the rest, in order, at the front of `out`. False if any is left.
    fn settle(&mut self, pool: &mut FramePool, out: &mut Batch, n: usize, report: &mut TxReport) -> bool {
        let frames = out.as_mut_slice();
        let mut done = n;
        // Backwards, frames that are left move up against those not looked at; the others gather in front.
        for i in (0..n).rev() {
            match self.plan.fate[i] {
                Fate::Sent => report.sent += 1,
                Fate::Error => report.errors += 1,
                Fate::TooBig => report.too_big += 1,
                Fate::Left => {
                    done -= 1;
                    frames.swap(i, done);
                }
            }
        }
        out.drain_front(done).for_each(|f| pool.give(f));
        done == n
    }

    /// Sends the frames of one source socket until all have a fate or the socket is full.
    fn send_source(&mut self, pool: &FramePool, frames: &[Frame], source: usize) {
        let mut list = [0u8; BURST];
        let mut count = 0;
        for i in 0..frames.len() {
            if self.plan.fate[i] == Fate::Left && usize::from(self.plan.source[i]) == source {
                list[count] = i as u8;
                count += 1;
            }
        }
        let list = &list[..count];
        let mut at = self.resume(frames, usize::from(list[0]), source);
        let mut singly_to = At::default();
        let mut repeated = false;
        while at.place < list.len() {
            let first = usize::from(list[at.place]);
            if self.plan.whole[first] && at.segment == 0 {
                match self.send_whole(pool, &frames[first], first, source) {
                    Some(true) => {
                        self.plan.fate[first] = Fate::Sent;
                        at = at.next_frame();
                        continue;
                    }
                    Some(false) => break,
                    None => self.plan.whole[first] = false,
                }
            }
            let mut builder = Builder {
                out: self.table.start(),
                headers: &mut self.headers,
                ends: &mut self.ends,
                plan: &self.plan,
                pool,
                frames,
                list,
                port: self.port,
                singly_to: if self.offload { singly_to } else { At { place: usize::MAX, segment: 0 } },
            };
            let segmented = builder.build(at);
            match builder.out.send(self.sockets[source].socket.as_fd()) {
                Ok(n) if n > 0 => {
                    let to = self.ends[n - 1];
                    list[at.place..to.place].iter().for_each(|i| self.plan.fate[usize::from(*i)] = Fate::Sent);
                    at = to;
                    repeated = false;
                }
                Ok(_) => break,
                Err(e) => match Refusal::of(&e) {
                    Refusal::Busy => break,
                    Refusal::Earlier if !repeated => repeated = true,
                    refusal if segmented => {
                        // The kernel cannot segment at all, or a segment does not fit the route's MTU: each
                        // datagram of this message by itself shows which.
                        self.offload &= refusal != Refusal::NoSegmentation;
                        singly_to = self.ends[0];
                    }
                    refusal => {
                        let fate = if refusal == Refusal::TooBig { Fate::TooBig } else { Fate::Error };
                        self.plan.fate[usize::from(list[at.place])] = fate;
                        at = at.next_frame();
                        repeated = false;
                    }
                },
            }
        }
        if at.place < list.len() && at.segment > 0 {
            let f = &frames[usize::from(list[at.place])];
            self.partly[source] = Some(Partly { slot: f.slot(), len: f.len(), hash: f.hash, segment: at.segment });
        }
    }

    /// Sends a super-frame through the device: whether it went, or `None` if it is to be segmented instead.
    fn send_whole(&mut self, pool: &FramePool, f: &Frame, i: usize, source: usize) -> Option<bool> {
        let to = To { peer: self.plan.peer[i], source_port: self.sockets[source].port };
        match self.tunnel.as_mut()?.send(f, pool.data(f), to) {
            Outcome::Sent => Some(true),
            Outcome::Busy => Some(false),
            Outcome::Gone => {
                self.tunnel = None;
                None
            }
            // The sockets say what is wrong, if anything.
            Outcome::Refused => None,
        }
    }

    /// Where to begin with a socket's frames, the first of which is number `first`: within it if it was partly
    /// sent before.
    fn resume(&mut self, frames: &[Frame], first: usize, source: usize) -> At {
        let f = &frames[first];
        let count = self.plan.segments[first].map_or(0, |s| s.count());
        match self.partly[source].take() {
            Some(p) if (p.slot, p.len, p.hash) == (f.slot(), f.len(), f.hash) && p.segment < count => At { place: 0, segment: p.segment },
            _ => At::default(),
        }
    }
}

impl Plan {
    /// Notes all that is to be known about frame `i`; returns its socket's bit, or zero if it cannot be sent.
    fn classify(&mut self, i: usize, f: &Frame, pool: &FramePool, whole: bool) -> u32 {
        self.segments[i] = None;
        self.whole[i] = whole;
        self.fate[i] = Fate::Left;
        let source = source_of(f.hash);
        self.source[i] = source as u8;
        let IpAddr::V4(peer) = f.peer else {
            self.fate[i] = Fate::Error;
            return 0;
        };
        self.peer[i] = peer;
        if let Some(gso) = f.gso {
            // Planned for frames that go whole, too: the device may refuse.
            let packet = pool.data(f).get(PREFIX..).unwrap_or_default();
            match Segments::new(packet, gso) {
                Ok(s) => self.segments[i] = Some(s),
                Err(_) => self.fate[i] = Fate::Error,
            }
        }
        if self.longest(i, f) > UDP_PAYLOAD_MAX {
            self.fate[i] = Fate::TooBig;
        }
        if self.fate[i] == Fate::Left { 1 << source } else { 0 }
    }

    /// Length of frame `i`'s longest datagram, bytes.
    fn longest(&self, i: usize, f: &Frame) -> usize {
        self.segments[i].map_or(f.len(), |s| PREFIX + s.segment_len(0))
    }
}

/// Puts the messages of one system call together.
struct Builder<'a> {
    out: Outgoing<'a, 'a>,
    headers: &'a mut [u8],
    ends: &'a mut [At; MESSAGES],
    plan: &'a Plan,
    pool: &'a FramePool,
    frames: &'a [Frame],
    list: &'a [u8],
    port: u16,
    /// Before this position every datagram is a message of its own.
    singly_to: At,
}

impl Builder<'_> {
    /// Fills the table from `at` on. Returns whether the first message carries several datagrams.
    fn build(&mut self, mut at: At) -> bool {
        let mut first_is_several = false;
        while at.place < self.list.len() {
            let i = usize::from(self.list[at.place]);
            // What goes another way must not be overtaken.
            if self.plan.whole[i] && at.segment == 0 {
                break;
            }
            let limit = if at < self.singly_to { 1 } else { SEGMENTS_MAX };
            let (end, datagrams) = match self.plan.segments[i] {
                Some(s) => self.super_message(i, s, at, limit),
                None => self.frame_message(i, at, limit),
            };
            if datagrams == 0 {
                break;
            }
            let message = self.out.len() - 1;
            self.ends[message] = end;
            first_is_several |= message == 0 && datagrams > 1;
            at = end;
        }
        first_is_several
    }

    /// One message of frames from `at` on that go to the same node with the same TOS and length; the last may
    /// be shorter. Returns its end and how many datagrams it has; none if the table is full.
    fn frame_message(&mut self, i: usize, at: At, limit: usize) -> (At, usize) {
        let first = &self.frames[i];
        let len = first.len();
        let most = limit.min(UDP_PAYLOAD_MAX / len.max(1)).max(1);
        if !self.out.fits(most.min(self.list.len() - at.place)) {
            return (at, 0);
        }
        self.out.gather(self.pool.data(first));
        let mut n = 1;
        for next in self.list[at.place + 1..].iter().map(|next| usize::from(*next)).take(most - 1) {
            let f = &self.frames[next];
            let joins = self.plan.segments[next].is_none()
                && !self.plan.whole[next]
                && self.plan.peer[next] == self.plan.peer[i]
                && f.outer_tos == first.outer_tos
                && (1..=len).contains(&f.len());
            if !joins {
                break;
            }
            self.out.gather(self.pool.data(f));
            n += 1;
            if f.len() < len {
                break;
            }
        }
        self.finish(i, n, len);
        (At { place: at.place + n, segment: 0 }, n)
    }

    /// One message of segments of super-frame `i` from `at` on. Returns as `frame_message`.
    fn super_message(&mut self, i: usize, s: Segments, at: At, limit: usize) -> (At, usize) {
        let frame = &self.frames[i];
        let (prefix, packet) = self.pool.data(frame).split_at(PREFIX);
        let len = PREFIX + s.segment_len(at.segment);
        let n = limit.min(UDP_PAYLOAD_MAX / len).max(1).min(s.count() - at.segment);
        let header = PREFIX + s.header_len();
        if !self.out.fits(2 * n) || self.headers.len() < n * header {
            return (at, 0);
        }
        for segment in at.segment..at.segment + n {
            let (made, rest) = std::mem::take(&mut self.headers).split_at_mut(header);
            self.headers = rest;
            made[..PREFIX].copy_from_slice(prefix);
            s.write_header(segment, packet, &mut made[PREFIX..]);
            self.out.gather(made);
            self.out.gather(&packet[s.payload(segment)]);
        }
        self.finish(i, n, len);
        let segment = at.segment + n;
        (if segment == s.count() { at.next_frame() } else { At { segment, ..at } }, n)
    }

    fn finish(&mut self, i: usize, datagrams: usize, len: usize) {
        let to = SocketAddrV4::new(self.plan.peer[i], self.port);
        self.out.finish(to, self.frames[i].outer_tos, (datagrams > 1).then_some(len as u16));
    }
}
