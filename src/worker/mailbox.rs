//! What crosses between control and a worker besides snapshots: port commands down, events up. Both bounded.

use super::handover::{Bequest, Paused, Slots};
use super::tap::Tap;
use crate::forward::Claim;
use crate::forward::carry::{Carried, FlowState, Totals};
use crate::frame::{FramePool, PortId};
use crate::port::Port;
use crate::wire::Mac;
use crossbeam::queue::ArrayQueue;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

/// From control to one worker. Carried out at the start of a turn, in order.
pub enum Command {
    /// Own this queue from now on. A port already open under the number is closed first.
    AddPort { id: PortId, port: Box<dyn Port> },
    /// Close it; frames that wait for it are dropped as port-gone. Answered by `Event::PortClosed`.
    RemovePort { id: PortId },
    /// Write down packets, in the place of an earlier tap.
    Tap(Arc<Tap>),
    /// Say what another process needs to go on with each port.
    Bequest(SyncSender<Bequest>),
    /// Forward what was received, then leave the ports alone; say where that is.
    Pause(SyncSender<Paused>),
    /// Live in the memory of another process's pool: for a worker that is paused and has no ports yet.
    MoveTo(Box<FramePool>),
    /// The other process's worker has stopped there; its ports and slots are not to be used before `Resume`.
    TakeUp(Slots, SyncSender<Result<(), String>>),
    /// Use the ports again, going on with another worker's flows.
    Resume(FlowState, SyncSender<()>),
    /// Another process goes on with flows and ports, but for these: close them, drop what waits, and say what was counted.
    HandOver(Vec<PortId>, SyncSender<Totals>),
    /// The worker of the other process is gone: count this as done here, and take the slots that it still had.
    Carry(Box<Carried>),
    /// Close all ports and end the thread.
    Stop,
}

/// From a worker to control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The port failed (interface gone or down) and was closed. Control opens it again when it can.
    PortFailed { worker: usize, id: PortId, error: String },
    /// A `RemovePort` was carried out.
    PortClosed { worker: usize, id: PortId },
    /// Packets wait for this underlay neighbour.
    NeighbourMiss { next_hop: IpAddr },
    /// ARP showed an endpoint's MAC that the snapshot does not have.
    EndpointMac { id: PortId, address: Ipv4Addr, mac: Mac },
    /// Somebody on the underlay says that it is this node.
    Claimed(Claim),
    /// The thread panicked and is gone; its ports are closed.
    Panicked { worker: usize, message: String },
}

/// An eventfd: whoever polls it wakes up.
pub struct Waker(OwnedFd);

impl Waker {
    pub fn new() -> io::Result<Waker> {
        // SAFETY: eventfd has no memory arguments; a non-negative result is a new descriptor that nobody else owns.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(Waker(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: writes 8 bytes from a local. A full counter (EAGAIN) is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        let mut n = 0u64;
        // SAFETY: reads 8 bytes into a local.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut n).cast(), 8) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Both directions between control and one worker.
pub struct Mailbox {
    pub commands: ArrayQueue<Command>,
    pub events: ArrayQueue<Event>,
    /// Wakes the worker.
    pub worker_waker: Waker,
    /// Wakes control; one for all workers.
    pub control_waker: Arc<Waker>,
}

impl Mailbox {
    pub fn new(control_waker: Arc<Waker>) -> io::Result<Mailbox> {
        Ok(Mailbox { commands: ArrayQueue::new(1024), events: ArrayQueue::new(1024), worker_waker: Waker::new()?, control_waker })
    }

    /// Sends a command; gives it back when the worker does not keep up.
    pub fn command(&self, c: Command) -> Result<(), Command> {
        let result = self.commands.push(c);
        self.worker_waker.wake();
        result
    }

    /// Sends an event; false if control does not keep up and it was lost.
    pub fn event(&self, e: Event) -> bool {
        let ok = self.events.push(e).is_ok();
        self.control_waker.wake();
        ok
    }
}
