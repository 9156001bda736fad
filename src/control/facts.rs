//! What is in force, for whoever looks at the daemon from outside: refreshed with each update, read under a
//! lock that is held for a pointer's copy only. Counters are read live from the workers.

use super::cluster::Cluster;
use super::desired::{Route, Vtep};
use super::plan;
use super::ports::PortFact;
use crate::fib::AdjId;
use crate::frame::PortId;
use crate::ops::view::ConfigRow;
use crate::snapshot::Snapshot;
use crate::wire::Mac;
use crate::worker::Counters;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// A control plane that takes longer does not answer.
const DUMP_WAIT: Duration = Duration::from_secs(10);

/// One route in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFact {
    pub prefix: Ipv4Net,
    pub route: Route,
    /// Interface that packets leave by.
    pub port: Option<String>,
    /// Longest packet, bytes; `None` where nothing is sent.
    pub mtu: Option<u16>,
    pub id: AdjId,
    /// The adjacency's count when the route got it.
    pub base: u64,
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighFact {
    pub address: Ipv4Addr,
    pub dev: String,
    pub mac: Option<Mac>,
    pub state: &'static str,
    pub node: Option<String>,
}

/// The daemon's state at one update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub node: String,
    pub uplink: String,
    pub in_sync: bool,
    pub generation: u64,
    pub address: Option<Ipv4Addr>,
    pub tunnel_address: Option<Ipv4Addr>,
    pub pod_mtu: Option<u16>,
    pub vni: u32,
    pub routes: Vec<RouteFact>,
    pub vteps: Vec<Vtep>,
    pub neighbours: Vec<NeighFact>,
    pub ports: Vec<PortFact>,
    pub problems: Vec<String>,
    /// Every setting with where it comes from.
    pub config: Vec<ConfigRow>,
}

/// A port in use and the interface that it is on.
#[derive(Clone, Debug)]
pub struct DumpPort {
    pub out: plan::Out,
    pub interface: String,
}

/// A route in force.
#[derive(Clone, Debug)]
pub struct DumpRoute {
    pub prefix: Ipv4Net,
    pub route: Route,
    pub adjacency: AdjId,
}

/// Everything that forwarding depends on, and what it follows from.
#[derive(Clone)]
pub struct Dump {
    pub node: String,
    pub snapshot: Arc<Snapshot>,
    pub ports: Vec<DumpPort>,
    pub routes: Vec<DumpRoute>,
    pub cluster: Cluster,
    pub uplink_mtu: Option<u16>,
}

/// Where the answer to a request for a [`Dump`] goes.
pub type DumpRequest = SyncSender<Dump>;

/// Facts and counters, shared with those who look.
pub struct Shared {
    facts: RwLock<Arc<Facts>>,
    counters: Vec<Arc<Counters>>,
    dumps: UnboundedSender<DumpRequest>,
}

impl Shared {
    /// Requests for dumps come out of the other end of `dumps`.
    pub fn new(facts: Facts, counters: Vec<Arc<Counters>>, dumps: UnboundedSender<DumpRequest>) -> Shared {
        Shared { facts: RwLock::new(Arc::new(facts)), counters, dumps }
    }

    /// Asks the control plane for everything that is in force; blocks until it answers, ten seconds at most. Not to be
    /// called on the control plane's own thread.
    pub fn dump(&self) -> Option<Dump> {
        let (sender, receiver) = sync_channel(1);
        self.dumps.send(sender).ok()?;
        receiver.recv_timeout(DUMP_WAIT).ok()
    }

    /// The state at the last update.
    pub fn facts(&self) -> Arc<Facts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, facts: Facts) {
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    /// One per worker.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// Packets that took a route since it was installed; `None` beyond the counted ones.
    pub fn packets(&self, route: &RouteFact) -> Option<u64> {
        plan::hits(&self.counters, route.id).map(|n| n.saturating_sub(route.base))
    }
}

/// What one port did, over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortTotals {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
}

impl PortTotals {
    /// The sum over workers for a port number.
    pub fn of(counters: &[Arc<Counters>], id: PortId) -> PortTotals {
        let mut t = PortTotals::default();
        for c in counters.iter().map(|c| c.port(id)) {
            t.rx_frames += c.rx_frames.get();
            t.rx_bytes += c.rx_bytes.get();
            t.tx_frames += c.tx_frames.get();
            t.tx_bytes += c.tx_bytes.get();
            t.tx_dropped += c.tx_dropped.get();
        }
        t
    }

    /// What was added since `base`.
    pub fn since(self, base: PortTotals) -> PortTotals {
        PortTotals {
            rx_frames: self.rx_frames.saturating_sub(base.rx_frames),
            rx_bytes: self.rx_bytes.saturating_sub(base.rx_bytes),
            tx_frames: self.tx_frames.saturating_sub(base.tx_frames),
            tx_bytes: self.tx_bytes.saturating_sub(base.tx_bytes),
            tx_dropped: self.tx_dropped.saturating_sub(base.tx_dropped),
        }
    }
}
