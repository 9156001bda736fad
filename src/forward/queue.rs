//! Output queues: frames in order per port, until the port takes them.

use super::{Forwarder, taken};
use crate::drop::{DropReason, PuntReason};
use crate::frame::{Batch, Frame, PortId};
use crate::port::{Port, TxReport};
use std::io;

/// Frames that may wait for one port.
pub(super) const QUEUE_MAX: usize = 512;

#[derive(Default)]
pub(super) struct TxQueue {
    pub batch: Batch,
    open: bool,
    touched: bool,
    /// How many of the queued frames are punts, by reason: those count as punted, not as sent.
    punts: [u32; PuntReason::COUNT],
}

impl Forwarder {
    /// Frames that wait for their ports, by port.
    pub fn queued(&self) -> impl Iterator<Item = (PortId, &Batch)> {
        self.touched.iter().map(|id| (*id, &self.queues[id.index()].batch))
    }

    /// Packets handed to the host stack by reason, those that wait for its port included.
    pub fn punts(&self) -> Vec<u64> {
        let waiting = |i: usize| self.queues.iter().map(|q| u64::from(q.punts[i])).sum::<u64>();
        self.counters.punted.iter().enumerate().map(|(i, n)| n.get() + waiting(i)).collect()
    }

    /// Makes a port known as an output.
    pub fn open_queue(&mut self, id: PortId) {
        if self.queues.len() <= id.index() {
            self.queues.resize_with(id.index() + 1, TxQueue::default);
        }
        self.counters.port(id).open();
        let q = &mut self.queues[id.index()];
        q.open = true;
        if q.batch.room() == 0 && q.batch.is_empty() {
            q.batch = Batch::with_capacity(QUEUE_MAX);
        }
    }

    /// Forgets a port; what waits for it is dropped as port-gone.
    pub fn close_queue(&mut self, id: PortId) {
        self.drop_queue(id, DropReason::PortGone);
        if let Some(q) = self.queues.get_mut(id.index()) {
            q.open = false;
        }
    }

    pub(super) fn drop_queue(&mut self, id: PortId, reason: DropReason) {
        let Some(q) = self.queues.get_mut(id.index()) else { return };
        let n = q.batch.len() as u64;
        q.punts = [0; PuntReason::COUNT];
        self.pool.give_all(&mut q.batch);
        self.counters.count_tx_drop(id, reason, n);
    }

    /// Puts a complete frame on a port's queue.
    #[inline(always)]
    pub(super) fn enqueue(&mut self, id: PortId, f: Frame) {
        match self.queues.get_mut(id.index()) {
            Some(q) if q.open && q.batch.room() > 0 => {
                q.batch.push(f);
                if !q.touched {
                    q.touched = true;
                    self.touched.push(id);
                }
            }
            Some(q) if q.open => {
                self.counters.count_tx_drop(id, DropReason::TxQueueFull, 1);
                self.pool.give(f);
            }
            _ => self.discard(f, DropReason::PortGone),
        }
    }

    /// Puts `n` complete frames on a port's queue.
    #[inline(always)]
    pub(super) fn enqueue_run(&mut self, id: PortId, frames: impl Iterator<Item = Frame>, n: usize) {
        match self.queues.get_mut(id.index()) {
            Some(q) if q.open && q.batch.room() >= n => {
                q.batch.extend(frames);
                if !q.touched {
                    q.touched = true;
                    self.touched.push(id);
                }
            }
            _ => frames.for_each(|f| self.enqueue(id, f)),
        }
    }

    /// Puts a packet for the host stack on the host port's queue.
    pub(super) fn enqueue_punt(&mut self, id: PortId, f: Frame, reason: PuntReason) {
        match self.queues.get_mut(id.index()) {
            Some(q) if q.open => {
                if q.batch.room() > 0 {
                    q.punts[reason.index()] += 1;
                }
                self.enqueue(id, f);
            }
            _ => self.discard(f, DropReason::HostUnavailable),
        }
    }

    /// The `i`-th port with frames to send.
    pub fn touched(&self, i: usize) -> Option<PortId> {
        self.touched.get(i).copied()
    }

    /// Lets a port send what waits for it; true if frames are left. An error is the port's: the caller closes it.
    pub fn flush(&mut self, id: PortId, port: &mut dyn Port) -> io::Result<bool> {
        let q = &mut self.queues[id.index()];
        let bytes: usize = q.batch.as_slice().iter().map(Frame::len).sum();
        let frames = q.batch.len();
        let result = port.tx_burst(&mut self.pool, &mut q.batch);
        // What a failing call took without a report is gone, and counted as refused.
        let gone = (frames - q.batch.len()) as u32;
        let report = result.as_ref().map_or(TxReport { errors: gone, ..TxReport::default() }, |r| *r);
        debug_assert_eq!(taken(report), gone);
        let left: usize = q.batch.as_slice().iter().map(Frame::len).sum();
        self.account(id, report, (bytes - left) as u64);
        result.map(|_| !self.queues[id.index()].batch.is_empty())
    }

    fn account(&mut self, id: PortId, report: TxReport, bytes: u64) {
        let q = &mut self.queues[id.index()];
        let mut sent = report.sent;
        let mut gone = taken(report);
        for reason in PuntReason::ALL {
            let punted = q.punts[reason.index()].min(gone);
            q.punts[reason.index()] -= punted;
            gone -= punted;
            let delivered = punted.min(sent);
            sent -= delivered;
            self.counters.count_punt(*reason, u64::from(delivered));
        }
        self.counters.sent.add(u64::from(sent));
        let port = self.counters.port(id);
        port.tx_frames.add(u64::from(report.sent));
        port.tx_bytes.add(bytes);
        for (reason, n) in report.drops() {
            if n > 0 {
                self.counters.count_tx_drop(id, reason, u64::from(n));
            }
        }
    }

    /// After all touched ports were flushed: keeps those with frames left.
    pub fn retain_touched(&mut self) {
        let queues = &mut self.queues;
        self.touched.retain(|id| {
            let q = &mut queues[id.index()];
            q.touched = !q.batch.is_empty();
            q.touched
        });
    }
}
