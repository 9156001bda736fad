//! What is in force, for whoever looks at the daemon from outside: refreshed with each update, read under a
//! lock that is held for a pointer's copy only. Counters are read live from the workers.

use super::desired::{Route, Vtep};
use super::model::Monitoring;
use super::plan;
use super::ports::PortFact;
use super::tally::Tally;
use crate::fib::AdjId;
use crate::frame::PortId;
use crate::wire::Mac;
use crate::worker::Counters;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

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
    /// The adjacency's count when the route got it, and when the route began to send to its node.
    pub base: u64,
    pub node_base: u64,
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
    /// Cluster-wide: nodes, and workloads that have an address.
    pub nodes: usize,
    pub workloads: usize,
    /// Routes of ours in the kernel's main table.
    pub host_routes: usize,
    /// What ports that are gone had done, by role.
    pub past_ports: BTreeMap<&'static str, PortTotals>,
    /// Packets that took routes that are gone, by the node they led to.
    pub past_peers: BTreeMap<String, u64>,
    pub monitoring: Monitoring,
}

/// Facts and counters, shared with those who look.
pub struct Shared {
    facts: RwLock<Arc<Facts>>,
    counters: Vec<Arc<Counters>>,
    tally: Tally,
    monitoring: watch::Sender<Monitoring>,
    /// What keeps a service from being offered, by the service.
    faults: RwLock<BTreeMap<&'static str, String>>,
}

impl Shared {
    pub fn new(facts: Facts, counters: Vec<Arc<Counters>>) -> Shared {
        let monitoring = watch::Sender::new(facts.monitoring.clone());
        Shared { facts: RwLock::new(Arc::new(facts)), counters, tally: Tally::default(), monitoring, faults: RwLock::default() }
    }

    /// The state at the last update.
    pub fn facts(&self) -> Arc<Facts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, facts: Facts) {
        self.monitoring.send_if_modified(|m| {
            let changed = *m != facts.monitoring;
            if changed {
                *m = facts.monitoring.clone();
            }
            changed
        });
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    /// One per worker.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// What control counts of its own work.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Where metrics and health are to be served, now and whenever that changes.
    pub fn monitoring(&self) -> watch::Receiver<Monitoring> {
        self.monitoring.subscribe()
    }

    /// Says why a service is not offered, or that it is.
    pub fn fault(&self, service: &'static str, why: Option<String>) {
        let mut faults = self.faults.write().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(faults.insert(service, why)),
            None => drop(faults.remove(service)),
        }
    }

    /// Everything that is wrong, one line each.
    pub fn problems(&self) -> Vec<String> {
        let faults = self.faults.read().unwrap_or_else(PoisonError::into_inner);
        let own = faults.iter().map(|(service, why)| format!("{service}: {why}"));
        self.facts().problems.iter().cloned().chain(own).collect()
    }

    /// Packets that took a route since it was installed; `None` beyond the counted ones.
    pub fn packets(&self, route: &RouteFact) -> Option<u64> {
        plan::hits(&self.counters, route.id).map(|n| n.saturating_sub(route.base))
    }

    /// Packets that took a route since it leads to its node; 0 beyond the counted ones.
    pub fn packets_to_node(&self, route: &RouteFact) -> u64 {
        plan::hits(&self.counters, route.id).map_or(0, |n| n.saturating_sub(route.node_base))
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

    pub fn add(&mut self, more: PortTotals) {
        self.rx_frames += more.rx_frames;
        self.rx_bytes += more.rx_bytes;
        self.tx_frames += more.tx_frames;
        self.tx_bytes += more.tx_bytes;
        self.tx_dropped += more.tx_dropped;
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
