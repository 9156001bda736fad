//! Ports over memory: a wire with two ends, for tests, benches and fuzzing. Deterministic, no kernel.

use super::{Caps, Medium, Port, RxReport, TxReport};
use crate::frame::{Batch, Csum, Frame, FramePool, Gso};
use crossbeam::queue::ArrayQueue;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A frame's bytes and metadata outside any pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wired {
    pub bytes: Vec<u8>,
    /// Offset of the L4 header from the first byte and of the field from there, if the checksum is unfinished.
    pub partial: Option<(u32, u16)>,
    /// Whether the receiver must find out for itself if the checksum is finished (a veth pair).
    pub may_be_partial: bool,
    pub gso: Option<Gso>,
    pub peer: IpAddr,
    pub outer_tos: u8,
}

impl From<Vec<u8>> for Wired {
    fn from(bytes: Vec<u8>) -> Wired {
        Wired { bytes, partial: None, may_be_partial: false, gso: None, peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED), outer_tos: 0 }
    }
}

impl Wired {
    /// A copy of a frame in a pool.
    pub fn copy(pool: &FramePool, f: &Frame) -> Wired {
        Wired {
            bytes: pool.data(f).to_vec(),
            partial: match f.csum {
                Csum::Partial { start, offset } => Some((start - f.head(), offset)),
                _ => None,
            },
            may_be_partial: f.csum == Csum::MayBePartial,
            gso: f.gso,
            peer: f.peer,
            outer_tos: f.outer_tos,
        }
    }
}

/// One direction of a wire; full means the sender keeps its frames.
pub type Lane = Arc<ArrayQueue<Wired>>;

/// The port end of a wire.
pub struct MemPort {
    caps: Caps,
    rx: Lane,
    tx: Lane,
}

/// The free end of a wire: what a test or a simulated host holds.
#[derive(Clone)]
pub struct MemPeer {
    pub to_port: Lane,
    pub from_port: Lane,
}

impl MemPort {
    /// A port with the given capabilities and the other end of its wire; `depth` frames fit in each direction.
    pub fn pair(caps: Caps, depth: usize) -> (MemPort, MemPeer) {
        let (a, b): (Lane, Lane) = (Arc::new(ArrayQueue::new(depth)), Arc::new(ArrayQueue::new(depth)));
        (MemPort { caps, rx: a.clone(), tx: b.clone() }, MemPeer { to_port: a, from_port: b })
    }

    /// Two ports joined back to back: what one sends the other receives.
    pub fn joined(a: Caps, b: Caps, depth: usize) -> (MemPort, MemPort) {
        let (port, peer) = MemPort::pair(a, depth);
        (port, MemPort { caps: b, rx: peer.from_port, tx: peer.to_port })
    }
}

impl MemPeer {
    /// Puts a frame on the wire; false when it is full.
    pub fn send(&self, frame: impl Into<Wired>) -> bool {
        self.to_port.push(frame.into()).is_ok()
    }

    /// Takes the next frame that the port sent.
    pub fn recv(&self) -> Option<Wired> {
        self.from_port.pop()
    }
}

impl Port for MemPort {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let mut report = RxReport::default();
        while out.room() > 0 && !self.rx.is_empty() {
            let Some(mut small) = pool.take() else { break };
            let Some(w) = self.rx.pop() else {
                pool.give(small);
                break;
            };
            let room = pool.capacity(&small);
            if w.bytes.len() > room {
                pool.give(small);
                let Some(big) = pool.take_for(w.bytes.len()) else {
                    report.truncated += 1;
                    continue;
                };
                small = big;
            }
            let mut f = small;
            pool.room_mut(&f)[..w.bytes.len()].copy_from_slice(&w.bytes);
            pool.set_len(&mut f, w.bytes.len());
            f.csum = match w.partial {
                Some((start, offset)) => Csum::Partial { start: f.head() + start, offset },
                None if w.may_be_partial => Csum::MayBePartial,
                None => Csum::Complete,
            };
            f.gso = w.gso;
            f.peer = w.peer;
            f.outer_tos = w.outer_tos;
            out.push(f);
        }
        Ok(report)
    }

    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        let n = out.len().min(self.tx.capacity() - self.tx.len());
        let mut report = TxReport::default();
        for f in out.drain_front(n) {
            let wired = Wired::copy(pool, &f);
            pool.give(f);
            match self.tx.push(wired) {
                Ok(()) => report.sent += 1,
                Err(_) => report.errors += 1,
            }
        }
        Ok(report)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(&mut self, _pool: &mut FramePool) {}
}

/// Capabilities of an ordinary memory port: no offloads.
pub fn caps(medium: Medium, mtu: u32) -> Caps {
    Caps { driver: "mem", medium, mtu, gso: crate::frame::GsoSet::NONE, tx_csum: super::TxCsum::Software, queue: 0 }
}
