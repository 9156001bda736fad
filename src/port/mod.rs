//! Ports: where frames enter and leave. One value of a `Port` type is one queue, owned by one worker.
//!
//! The forwarding code sees only [`Port`], [`Caps`] and the [`Medium`]; what a port needs from the kernel
//! stays in its own file. [`open`] chooses among them.

pub mod error;
pub mod handles;
pub mod icmp;
pub mod losses;
pub mod mem;
pub mod mmsg;
mod nl;
pub mod open;
pub mod packet;
mod pair;
pub mod probe;
pub mod raw;
mod receive;
pub mod shape;
pub mod sys;
mod tcx;
pub mod tun;
mod tun_steer;
pub mod udp;
pub mod vnet;
mod whole;
pub mod xsk;

pub use error::OpenError;
pub use handles::{Handles, Lent};

use crate::drop::DropReason;
use crate::fib::AdjKind;
use crate::frame::{Batch, FramePool, GsoSet};
use std::io;
use std::os::fd::BorrowedFd;

/// What the first byte of a frame on this port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// An Ethernet header.
    Ethernet,
    /// An IP header (TUN; a raw socket for IP-in-IP).
    Ip,
    /// A VXLAN header: the kernel handles outer IP and UDP, the other node's address is in `Frame::peer`.
    VxlanUdp,
}

/// Who finishes the L4 checksum of a frame that is sent with an unfinished one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TxCsum {
    /// The forward path, before the frame reaches the port.
    Software,
    /// The same for ordinary frames; super-frames come with it unfinished, and the fewer and longer they are the
    /// better, so packets of a flow are joined.
    SuperFrames,
    /// The port takes frames with `Csum::Partial` (a virtio-net header says so to the other side).
    Port,
}

impl TxCsum {
    /// Whether packets are worth joining before they leave by an adjacency of this kind: into a local stack, or
    /// through a port that says so.
    pub fn joins(self, kind: AdjKind) -> bool {
        match self {
            TxCsum::Software => false,
            TxCsum::SuperFrames => matches!(kind, AdjKind::Vxlan | AdjKind::Ipip),
            TxCsum::Port => matches!(kind, AdjKind::Deliver | AdjKind::Punt(_)),
        }
    }
}

/// What a port can do; constant while it is open.
#[derive(Clone, Debug)]
pub struct Caps {
    /// The I/O method's name as users see it: `af-xdp-native`, `af-packet`, `tap`, `udp`, ...
    pub driver: &'static str,
    pub medium: Medium,
    /// Longest packet from L3 on that one ordinary (not super-) frame may carry, bytes.
    pub mtu: u32,
    /// Super-frames it takes for sending.
    pub gso: GsoSet,
    pub tx_csum: TxCsum,
    /// Which queue of the interface this is.
    pub queue: u16,
}

/// What a receive call lost; frames that were received are in the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxReport {
    /// Longer than any slot.
    pub truncated: u32,
    /// An offload header that makes no sense.
    pub malformed: u32,
}

/// What became of the frames given to `tx_burst`. Frames not mentioned are still in the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxReport {
    pub sent: u32,
    /// Refused by the kernel (`DropReason::TxError`); their slots are back in the pool.
    pub errors: u32,
    /// Longer than the port can carry (`DropReason::TxTooBig`); their slots are back in the pool.
    pub too_big: u32,
}

impl TxReport {
    /// The losses as (reason, count) pairs.
    pub fn drops(&self) -> [(DropReason, u32); 2] {
        [(DropReason::TxError, self.errors), (DropReason::TxTooBig, self.too_big)]
    }
}

/// One queue of one port.
///
/// Frames come from and go back to the calling worker's pool. A frame handed to `tx_burst` belongs to the port
/// until the kernel has taken the bytes; the port gives the slot back itself, at once or at a later call.
pub trait Port: Send {
    fn caps(&self) -> &Caps;

    /// Appends up to `out.room()` frames. Takes slots first and dequeues second, so an empty pool loses
    /// nothing. Sets `csum`, `gso`, `peer` and `outer_tos` of each frame; the worker sets `port`.
    /// An error means that the interface is gone or broken: the port is closed and reported.
    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport>;

    /// Sends from the front of `out`, in order; frames that the kernel has no room for stay in it.
    /// An error means the same as for `rx_burst`; what is left in `out` is dropped by the caller.
    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport>;

    /// Readable when `rx_burst` would return frames. `None`: the port must be polled (memory ports).
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// As `rx_burst`, but asks the kernel for nothing: only what this port has received and still keeps.
    fn rx_kept(&mut self, _pool: &mut FramePool, _out: &mut Batch) -> io::Result<RxReport> {
        Ok(RxReport::default())
    }

    /// What another process needs to go on with this queue; `None` if it cannot. Errors: too many open descriptors.
    fn handles(&self) -> io::Result<Option<Handles>> {
        Ok(None)
    }

    /// For a port that goes with the pool's memory: what the kernel has of it. `None`: it keeps nothing beyond a call.
    fn lent(&self) -> Option<Lent> {
        None
    }

    /// Goes on where another process has stopped: that one's [`Port::lent`], for a port made from its [`Port::handles`].
    /// Before this such a port does nothing. Errors: both do not fit together.
    fn take_up(&mut self, _lent: &Lent) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Where to read what the kernel lost on this queue; asked before a worker gets the port.
    fn losses(&self) -> Vec<losses::LossReader> {
        Vec::new()
    }

    /// Stops I/O and gives every slot that the port or the kernel still holds back to the pool.
    fn release(&mut self, pool: &mut FramePool);
}
