//! One worker goes on where another one, in another process, has stopped: with its ports, its slots and its flows.

use super::{DRAIN, TURNS_PER_POLL, Worker, now_ms};
use crate::forward::carry::{FlowState, Totals};
use crate::frame::{FramePool, PortId, SlotSet};
use crate::port::{Handles, Lent};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// What another process needs to go on with a worker's ports.
pub struct Bequest {
    pub ports: Vec<PortHandles>,
    /// The memory of the pool, for ports that live in it; `None` if it is this process's alone.
    pub memory: io::Result<Option<OwnedFd>>,
    /// Slots there: (small, big).
    pub slots: (u32, u32),
}

pub struct PortHandles {
    pub id: PortId,
    /// `None` if no other process can go on with it.
    pub handles: io::Result<Option<Handles>>,
    /// Whether it lives in the pool's memory.
    pub in_memory: bool,
}

/// Where a worker has stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    pub flows: FlowState,
    pub slots: Slots,
}

/// Whose the slots of a pool are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// By number, as [`FramePool::free_slots`] has them.
    pub free: SlotSet,
    /// The kernel's, for ports that live in the pool's memory.
    pub lent: Vec<(PortId, Lent)>,
}

impl Worker {
    /// What another process needs to go on with the ports.
    pub(super) fn bequest(&self) -> Bequest {
        let pool = &self.forwarder.pool;
        let open = self.ports.iter().enumerate().filter_map(|(i, p)| Some((PortId(i as u16), p.as_ref()?)));
        let ports = open.map(|(id, p)| PortHandles { id, handles: p.handles(), in_memory: p.lent().is_some() }).collect();
        Bequest { ports, memory: pool.memory().map(|fd| fd.try_clone_to_owned()).transpose(), slots: pool.size() }
    }

    /// Forwards what ports have received and kept, sends what is queued as far as that goes within [`DRAIN`], and leaves
    /// the ports alone from then on.
    pub(super) fn quiesce(&mut self) -> Paused {
        let snap = self.reader.get().clone();
        let end = Instant::now() + DRAIN;
        let mut moved = true;
        while moved || (self.forwarder.touched(0).is_some() && Instant::now() < end) {
            moved = false;
            for i in 0..self.ports.len() {
                let Some(port) = self.ports[i].as_mut() else { continue };
                let result = port.rx_kept(&mut self.forwarder.pool, &mut self.batch);
                moved |= self.take_in(&snap, PortId(i as u16), result);
            }
            self.send();
        }
        self.tell();
        self.forwarder.settle();
        self.paused = true;
        let flows = self.forwarder.export();
        let lent = self.ports.iter().enumerate().filter_map(|(i, p)| Some((PortId(i as u16), p.as_ref()?.lent()?)));
        Paused { flows, slots: Slots { free: self.forwarder.pool.free_slots(), lent: lent.collect() } }
    }

    /// Lives in the memory of another process's pool from now on; without ports, and paused.
    pub(super) fn move_to(&mut self, pool: FramePool) {
        debug_assert!(self.paused && self.forwarder.pool.is_full());
        self.forwarder.pool = pool;
    }

    /// Takes note of whose the slots are now that the other worker has stopped. Errors: what it says cannot be.
    pub(super) fn take_up(&mut self, slots: &Slots) -> Result<(), String> {
        let lent = slots.lent.iter().map(|(_, lent)| &lent.slots);
        self.forwarder.pool.inherit(&slots.free, lent).map_err(|e| format!("worker {}: {e}", self.index))?;
        for (id, lent) in &slots.lent {
            let port = self.ports.get_mut(id.index()).and_then(Option::as_mut);
            let result = port.map_or_else(|| Err(io::ErrorKind::NotFound.into()), |p| p.take_up(lent));
            result.map_err(|e| format!("worker {}: port {}: {e}", self.index, id.0))?;
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, flows: &FlowState) {
        let snap = self.reader.get().clone();
        self.forwarder.set_time(now_ms());
        self.forwarder.import(&snap, flows);
        self.send();
        self.tell();
        self.forwarder.settle();
        self.paused = false;
        self.active.clear();
        // Frames may have come meanwhile.
        self.since_poll = TURNS_PER_POLL;
    }

    /// Ends, another worker having gone on with everything but the ports `left`: those are closed, so that their slots, and
    /// what they are attached to, are free.
    pub(super) fn hand_over(&mut self, left: &[PortId]) -> Totals {
        left.iter().for_each(|id| self.close(*id));
        self.forwarder.hand_over();
        self.counters.totals()
    }
}
