//! Frames and where they live: a pool of slots owned by one worker, and the batches that pass between stages.
//!
//! A frame is a token for a slot: not cloned, not copied, given back to the pool exactly once. Its bytes are
//! reached through the pool, so the token stays small and the pool's memory can be an AF_XDP UMEM.

mod memory;
mod pool;
mod slots;

pub use pool::{BIG_SLOT, FramePool, HEADROOM, SMALL_SLOT, Umem};
pub use slots::SlotSet;

use std::net::{IpAddr, Ipv4Addr};

/// How many frames one burst moves at most.
pub const BURST: usize = 64;

/// A port's number: index into every worker's port table and into the snapshot's port list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct PortId(pub u16);

impl PortId {
    /// No port: generated frames before lookup, adjacencies that send nowhere.
    pub const NONE: PortId = PortId(u16::MAX);

    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// State of the L4 checksum of a frame's innermost packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Csum {
    /// As it should be on the wire, or none of our business: leave it alone.
    Complete,
    /// The field holds the pseudo-header sum; the rest is to be added before a port that cannot do it.
    /// `start` is the L4 header's absolute position in the slot (it survives push and pull), `offset` the
    /// field's distance from there.
    Partial { start: u32, offset: u16 },
    /// It came over a veth pair without metadata: complete or partial, the value itself tells
    /// (`wire::l4::unfinished`).
    MayBePartial,
}

/// What kind of super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    Tcp4,
    Tcp6,
    /// UDP datagrams of one flow joined (USO): each segment gets its own UDP header.
    Udp,
}

/// A set of super-frame kinds: what a port takes for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GsoSet {
    pub tcp4: bool,
    pub tcp6: bool,
    pub udp: bool,
}

impl GsoSet {
    pub const NONE: GsoSet = GsoSet { tcp4: false, tcp6: false, udp: false };
    pub const ALL: GsoSet = GsoSet { tcp4: true, tcp6: true, udp: true };

    #[inline(always)]
    pub const fn takes(self, kind: GsoKind) -> bool {
        match kind {
            GsoKind::Tcp4 => self.tcp4,
            GsoKind::Tcp6 => self.tcp6,
            GsoKind::Udp => self.udp,
        }
    }
}

/// A super-frame's segmentation: `None` for an ordinary frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    pub kind: GsoKind,
    /// L4 payload bytes per segment (the last may be shorter).
    pub size: u16,
}

/// One frame: a slot of the pool, the bytes in use there, and what is known about them.
#[derive(Debug)]
pub struct Frame {
    /// Where the slot starts in the pool, in units of 1 KiB.
    slot: u32,
    head: u32,
    len: u32,
    /// Where it entered.
    pub port: PortId,
    pub csum: Csum,
    pub gso: Option<Gso>,
    /// On a port whose kernel strips or adds the outer IP header (medium `VxlanUdp`): the other node's
    /// underlay address, sender on receive and destination on send. Unspecified elsewhere.
    pub peer: IpAddr,
    /// TOS byte of the outer header on such a port.
    pub outer_tos: u8,
    /// Flow hash of the innermost packet; chooses the outer source port. Valid from the lookup on.
    pub hash: u32,
}

impl Frame {
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len as usize
    }
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Position of the first byte in the slot.
    #[inline(always)]
    pub fn head(&self) -> u32 {
        self.head
    }
    /// Names the slot: no two of a pool's have the same number.
    #[inline(always)]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Strips `n` bytes from the front. Panics if the frame is shorter.
    #[inline(always)]
    pub fn pull(&mut self, n: usize) {
        assert!(n <= self.len(), "pull beyond the frame");
        self.head += n as u32;
        self.len -= n as u32;
    }

    /// Gives back what was stripped from the front since the frame began at `head`. Panics if it begins before that.
    pub fn unpull(&mut self, head: u32) {
        assert!(head <= self.head, "unpull beyond what was stripped");
        self.len += self.head - head;
        self.head = head;
    }

    /// Cuts the frame to its first `n` bytes (removes padding). Panics if it is shorter.
    #[inline(always)]
    pub fn truncate(&mut self, n: usize) {
        assert!(n <= self.len(), "truncate beyond the frame");
        self.len = n as u32;
    }

    fn new(slot: u32, head: u32, len: u32) -> Frame {
        Frame {
            slot,
            head,
            len,
            port: PortId::NONE,
            csum: Csum::Complete,
            gso: None,
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            outer_tos: 0,
            hash: 0,
        }
    }
}

/// A run of frames in order: what a burst fills and what waits for a port to send it.
/// Space for [`BURST`] frames (or what was asked for) is reserved once; pushing below that never allocates.
#[derive(Debug, Default)]
pub struct Batch {
    frames: Vec<Frame>,
}

impl Batch {
    pub fn new() -> Batch {
        Batch::with_capacity(BURST)
    }
    pub fn with_capacity(n: usize) -> Batch {
        Batch { frames: Vec::with_capacity(n) }
    }
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.frames.len()
    }
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
    /// How many more a burst may add: up to the reserved capacity.
    #[inline(always)]
    pub fn room(&self) -> usize {
        self.frames.capacity() - self.frames.len()
    }
    #[inline(always)]
    pub fn push(&mut self, f: Frame) {
        self.frames.push(f);
    }
    #[inline(always)]
    pub fn as_slice(&self) -> &[Frame] {
        &self.frames
    }
    #[inline(always)]
    pub fn as_mut_slice(&mut self) -> &mut [Frame] {
        &mut self.frames
    }
    /// Removes and returns all frames, first to last; the reserved space stays.
    #[inline(always)]
    pub fn drain(&mut self) -> std::vec::Drain<'_, Frame> {
        self.frames.drain(..)
    }
    /// Removes and returns the first `n` frames.
    #[inline(always)]
    pub fn drain_front(&mut self, n: usize) -> std::vec::Drain<'_, Frame> {
        self.frames.drain(..n)
    }
    /// Moves up to `n` frames from the front to the end of `to`, which must have room for them.
    #[inline(always)]
    pub fn move_front(&mut self, n: usize, to: &mut Batch) {
        let n = n.min(self.frames.len());
        to.frames.extend(self.frames.drain(..n));
    }
    /// Adds frames at the end; the caller has looked at `room`.
    #[inline(always)]
    pub fn extend(&mut self, frames: impl Iterator<Item = Frame>) {
        self.frames.extend(frames);
    }
    /// Removes and returns the last frame.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<Frame> {
        self.frames.pop()
    }
}
