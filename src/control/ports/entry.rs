//! One port: what it should be, what it is, and its numbers.

use super::{Key, PortFact, Wish};
use crate::control::plan;
use crate::frame::PortId;
use crate::port::Port;
use crate::wire::Mac;
use std::collections::BTreeSet;
use std::time::Instant;

/// One port set: a queue per worker.
pub struct Opened {
    pub queues: Vec<Box<dyn Port>>,
    /// Better methods that did not work, one line each.
    pub refused: Vec<String>,
    /// The pod's MAC, where we set it.
    pub mac: Option<Mac>,
}

/// The uplink's port sets: either one that carries everything, or one per way of reaching a node.
pub enum OpenedUplink {
    Whole(Opened),
    Split { vxlan: Vec<Box<dyn Port>>, ipip: Vec<Box<dyn Port>>, direct: Vec<Box<dyn Port>>, refused: Vec<String> },
}

/// What an open came to, in the order of the entry's numbers.
pub(super) struct Parts {
    pub sets: Vec<Vec<Box<dyn Port>>>,
    pub driver: &'static str,
    pub refused: Vec<String>,
    pub mac: Option<Mac>,
}

impl Opened {
    pub(super) fn into_parts(self, sets: usize) -> Parts {
        let driver = self.queues.first().map_or("none", |p| p.caps().driver);
        let mut all = vec![self.queues];
        all.resize_with(sets, Vec::new);
        Parts { sets: all, driver, refused: self.refused, mac: self.mac }
    }
}

impl OpenedUplink {
    pub(super) fn into_parts(self) -> Parts {
        match self {
            OpenedUplink::Whole(o) => o.into_parts(3),
            OpenedUplink::Split { vxlan, ipip, direct, refused } => {
                Parts { sets: vec![vxlan, ipip, direct], driver: "socket", refused, mac: None }
            }
        }
    }
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
    pub wish: Wish,
    pub state: State,
    pub driver: Option<&'static str>,
    pub refused: Vec<String>,
    pub mac: Option<Mac>,
}

impl Entry {
    pub fn new(ids: Vec<PortId>, wish: Wish) -> Entry {
        let state = State::Down { why: "not opened yet".into(), retry: Instant::now(), attempts: 0 };
        Entry { ids, wish, state, driver: None, refused: Vec::new(), mac: None }
    }

    /// Whether the first port set serves for all purposes.
    pub fn shared(&self) -> bool {
        matches!(&self.state, State::Up { outs } if outs.iter().skip(1).all(Option::is_none))
    }

    pub fn facts(&self, key: &Key, workers: usize) -> Vec<PortFact> {
        let row = |id: PortId, name: String, driver: Option<&'static str>, state: String, open: bool| PortFact {
            id,
            name,
            role: key.role(),
            driver,
            refused: self.refused.clone(),
            state,
            mtu: u16::try_from(self.wish.mtu).ok().filter(|m| open && *m > 0),
            queues: if open { workers as u16 } else { 0 },
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
