//! One port: what it should be, what it is, and its numbers.

use super::{Key, Losses, PortFact, Wish};
use crate::control::facts::PortTotals;
use crate::control::plan;
use crate::frame::PortId;
use crate::port::open::{Opened, OpenedUplink, Queues, UplinkPorts};
use std::collections::BTreeSet;
use std::time::Instant;

/// What an open came to, in the order of the entry's numbers.
pub(super) struct Parts {
    pub sets: Vec<Queues>,
    pub driver: &'static str,
    pub refused: Vec<String>,
}

impl From<Opened> for Parts {
    fn from(o: Opened) -> Parts {
        Parts { driver: driver(&o.queues), sets: vec![o.queues], refused: o.refused }
    }
}

impl From<OpenedUplink> for Parts {
    fn from(o: OpenedUplink) -> Parts {
        let (driver, sets) = match o.ports {
            UplinkPorts::Whole(queues) => (driver(&queues), vec![queues]),
            UplinkPorts::Split { vxlan, ipip, direct } => ("socket", vec![vxlan, ipip, direct]),
        };
        Parts { sets, driver, refused: o.refused }
    }
}

fn driver(queues: &Queues) -> &'static str {
    queues.first().map_or("none", |p| p.caps().driver)
}

pub(super) enum State {
    /// Open; per number the port's capabilities, `None` where the number has no port.
    Up {
        outs: Vec<Option<plan::Out>>,
    },
    /// Waiting for workers to let go; then down, to be tried again.
    Closing {
        pending: BTreeSet<(PortId, usize)>,
        since: Instant,
        retry: Instant,
        attempts: u32,
        why: String,
    },
    Down {
        why: String,
        retry: Instant,
        attempts: u32,
    },
}

pub(super) struct Entry {
    pub ids: Vec<PortId>,
    /// Per number.
    pub bases: Vec<PortTotals>,
    pub wish: Wish,
    pub state: State,
    pub driver: Option<&'static str>,
    pub refused: Vec<String>,
    /// How often it was opened.
    pub openings: u64,
    /// Of the sockets that were opened last, by number.
    pub losses: Vec<(PortId, Losses)>,
}

impl Entry {
    pub fn new(ids: Vec<PortId>, bases: Vec<PortTotals>, wish: Wish, now: Instant) -> Entry {
        let state = State::Down { why: "not opened yet".into(), retry: now, attempts: 0 };
        Entry { ids, bases, wish, state, driver: None, refused: Vec::new(), openings: 0, losses: Vec::new() }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// The device has the wish's MTU now.
    pub fn resized(&mut self) {
        if let State::Up { outs } = &mut self.state {
            outs.iter_mut().flatten().for_each(|o| o.mtu = plan::mtu16(self.wish.mtu));
        }
    }

    /// The port for the n-th purpose: one port set alone serves for all.
    pub fn out(&self, n: usize) -> Option<plan::Out> {
        match &self.state {
            State::Up { outs } if outs.len() == 1 => outs[0],
            State::Up { outs } => outs.get(n).copied().flatten(),
            _ => None,
        }
    }

    pub fn facts(&self, key: &Key, workers: usize) -> Vec<PortFact> {
        let row = |id: PortId, name: String, driver: Option<&'static str>, state: String, open: bool| PortFact {
            id,
            name,
            role: key.role(),
            workload: if let Key::Workload(name) = key { Some(name.clone()) } else { None },
            driver,
            refused: self.refused.clone(),
            state,
            mtu: u16::try_from(self.wish.mtu).ok().filter(|m| open && *m > 0),
            queues: if open { workers as u16 } else { 0 },
            base: self.ids.iter().position(|i| *i == id).and_then(|i| self.bases.get(i)).copied().unwrap_or_default(),
            losses: self.losses.iter().find(|(i, _)| *i == id).map_or_else(|| Losses(Default::default()), |(_, l)| l.clone()),
        };
        let name = self.wish.interface.clone();
        match &self.state {
            State::Up { outs } => outs.iter().flatten().map(|o| row(o.id, name.clone(), Some(o.driver), "up".into(), true)).collect(),
            State::Closing { why, .. } | State::Down { why, .. } => {
                self.ids.first().map(|id| row(*id, name, None, why.clone(), false)).into_iter().collect()
            }
        }
    }
}
