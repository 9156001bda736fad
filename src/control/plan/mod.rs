//! From what should be in force to one snapshot: adjacencies for routes, differences only, one publish.

mod adjacency;
mod numbers;

pub use adjacency::{Out, Ports, Underlay, Workload};

use super::desired::{Desired, LocalEndpoint, Route, ThisNode};
use super::netlink::{NextHop, View};
use crate::drop::PuntReason;
use crate::encap::rewrite::{IPIP_OVERHEAD, VXLAN_OVERHEAD};
use crate::fib::{AdjId, AdjKind, Adjacency, Table4};
use crate::frame::PortId;
use crate::snapshot::{AdjTable, Endpoint, PortRole, Publisher, Snapshot, Tunnel};
use crate::worker::Counters;
use adjacency::Context;
use ipnet::{IpNet, Ipv4Net};
use numbers::Numbers;
use rustc_hash::FxHashSet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// One route in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// What it was made from. The default route and the host's own addresses stand as `Route::Host`.
    pub route: Route,
    pub id: AdjId,
    pub adjacency: Adjacency,
    /// What the adjacency's counters stood at when the route got the number: its own count starts there.
    pub base: u64,
    /// The same when the route began to send to its node.
    pub node_base: u64,
}

/// What an update came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The generation published; `None` when nothing differed.
    pub published: Option<u64>,
    /// Next hops on the uplink whose MAC matters.
    pub hops: BTreeSet<NextHop>,
    /// Oddities to report, one line each.
    pub warnings: Vec<String>,
}

/// What should be in force, with the means to get there.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub desired: &'a Desired,
    pub ports: &'a Ports,
    pub view: &'a View,
}

/// What is in force.
pub struct Planner {
    publisher: Publisher,
    counters: Vec<Arc<Counters>>,
    table: Table4,
    adjacencies: AdjTable,
    installed: BTreeMap<Ipv4Net, Installed>,
    numbers: Numbers,
    roles: Vec<PortRole>,
    tunnel: Tunnel,
    /// Packets that took routes that are gone, by the node they led to.
    past: BTreeMap<String, u64>,
}

impl Planner {
    /// `counters`: of each worker, for the packet counts of routes.
    pub fn new(publisher: Publisher, counters: Vec<Arc<Counters>>) -> Planner {
        Planner {
            publisher,
            counters,
            table: Table4::new(),
            adjacencies: AdjTable::new(),
            installed: BTreeMap::new(),
            numbers: Numbers::default(),
            roles: Vec::new(),
            tunnel: Tunnel::default(),
            past: BTreeMap::new(),
        }
    }

    /// Routes in force, by prefix.
    pub fn installed(&self) -> &BTreeMap<Ipv4Net, Installed> {
        &self.installed
    }

    /// Packets that took routes that are gone, by the node they led to; nodes that no route leads to are left out.
    pub fn past(&self) -> &BTreeMap<String, u64> {
        &self.past
    }

    /// The oldest generation that a worker still uses.
    pub fn oldest_in_use(&mut self) -> u64 {
        self.publisher.retire();
        self.publisher.oldest_in_use()
    }

    /// A reader for a worker that takes the place of one that died.
    pub fn reader(&self, worker: usize) -> crate::snapshot::Reader {
        self.publisher.reader(worker)
    }

    /// Generation in force.
    pub fn generation(&self) -> u64 {
        self.publisher.current().generation
    }

    /// Brings everything in line and publishes once if anything differs. Without a node nothing is in force
    /// and nothing is published.
    pub fn update(&mut self, inputs: Inputs<'_>) -> Outcome {
        let Some(node) = &inputs.desired.node else {
            return Outcome::default();
        };
        let mut context = Context::new(inputs, node);
        let wanted = wanted(inputs, &mut context);
        let mut outcome = Outcome { warnings: std::mem::take(&mut context.warnings), ..Outcome::default() };
        outcome.hops = std::mem::take(&mut context.hops);
        outcome.warnings.extend(clashes(inputs.desired, node));
        let oldest = self.oldest_in_use();
        let mut dirty = self.remove_unwanted(&wanted);
        for (prefix, (route, adjacency)) in wanted {
            dirty |= self.install(prefix, route, adjacency, oldest);
        }
        let roles = roles(inputs);
        let tunnel = tunnel(inputs.desired, node);
        if dirty && !self.past.is_empty() {
            let nodes: BTreeSet<&str> = self.installed.values().filter_map(|i| i.route.peer()).collect();
            self.past.retain(|node, _| nodes.contains(node.as_str()));
        }
        if dirty || roles != self.roles || tunnel != self.tunnel {
            self.roles = roles;
            self.tunnel = tunnel;
            outcome.published = Some(self.publish());
        }
        outcome
    }

    fn remove_unwanted(&mut self, wanted: &BTreeMap<Ipv4Net, (Route, Adjacency)>) -> bool {
        let gone: Vec<Ipv4Net> = self.installed.keys().filter(|p| !wanted.contains_key(*p)).copied().collect();
        for prefix in &gone {
            self.table.remove(*prefix);
            if let Some(i) = self.installed.remove(prefix) {
                remember(&mut self.past, &i, hits(&self.counters, i.id).unwrap_or(0));
                self.numbers.retire(i.id);
            }
        }
        !gone.is_empty()
    }

    /// Puts one route in force; true if the data plane sees a difference.
    fn install(&mut self, prefix: Ipv4Net, route: Route, adjacency: Adjacency, oldest: u64) -> bool {
        if let Some(i) = self.installed.get_mut(&prefix) {
            if i.route.peer() != route.peer() {
                let taken = hits(&self.counters, i.id).unwrap_or(0);
                remember(&mut self.past, i, taken);
                i.node_base = taken;
            }
            i.route = route;
            if i.adjacency == adjacency {
                return false;
            }
            // In place: the route keeps its number and its packet count.
            i.adjacency = adjacency;
            self.adjacencies.set(i.id, adjacency);
            return true;
        }
        let id = self.numbers.take(oldest);
        let base = hits(&self.counters, id).unwrap_or(0);
        self.adjacencies.set(id, adjacency);
        self.table.insert(prefix, id);
        self.installed.insert(prefix, Installed { route, id, adjacency, base, node_base: base });
        true
    }

    fn publish(&mut self) -> u64 {
        let generation = self.publisher.publish(Snapshot {
            generation: 0,
            fib: self.table.commit(),
            adjacencies: self.adjacencies.clone(),
            ports: self.roles.clone(),
            tunnel: self.tunnel.clone(),
        });
        self.numbers.published(generation);
        generation
    }
}

/// Adds what a route carried to the node that it leads to no longer; `hits` is its adjacency's count.
fn remember(past: &mut BTreeMap<String, u64>, gone: &Installed, hits: u64) {
    let carried = hits.saturating_sub(gone.node_base);
    if let Some(node) = gone.route.peer()
        && carried > 0
    {
        *past.entry(node.to_owned()).or_default() += carried;
    }
}

/// Packets that took an adjacency, over all workers; `None` if it is not counted.
pub fn hits(counters: &[Arc<Counters>], id: AdjId) -> Option<u64> {
    counters.iter().map(|c| c.hits(id)).sum()
}

/// An interface's MTU as adjacencies carry it; 65,535 stands for anything longer.
pub fn mtu16(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// MTU of packets inside VXLAN, given the uplink's.
pub fn vxlan_mtu(node: &ThisNode, uplink: u16) -> u16 {
    node.vxlan_mtu.unwrap_or(uplink.saturating_sub(VXLAN_OVERHEAD))
}

/// MTU of packets inside IP-in-IP, given the uplink's.
pub fn ipip_mtu(node: &ThisNode, uplink: u16) -> u16 {
    node.ipip_mtu.unwrap_or(uplink.saturating_sub(IPIP_OVERHEAD))
}

/// What pods are to use: the least of the encapsulations that some pool uses, else the uplink's own MTU.
pub fn pod_mtu(node: &ThisNode, uplink: u16) -> u16 {
    let vxlan = node.vxlan_enabled.then(|| vxlan_mtu(node, uplink));
    let ipip = node.ipip_enabled.then(|| ipip_mtu(node, uplink));
    vxlan.into_iter().chain(ipip).min().unwrap_or(uplink)
}

/// Every route that should be in force. The cluster's own come first, then this host's addresses, then what
/// leaves the pools.
fn wanted(inputs: Inputs<'_>, context: &mut Context<'_>) -> BTreeMap<Ipv4Net, (Route, Adjacency)> {
    let mut out = BTreeMap::new();
    for (prefix, route) in &inputs.desired.routes {
        if let IpNet::V4(prefix) = prefix {
            out.insert(*prefix, (route.clone(), context.build(*prefix, route)));
        }
    }
    for (_, address) in inputs.view.addresses.iter().filter(|(_, a)| !a.addr().is_loopback()) {
        let prefix = Ipv4Net::from(address.addr());
        out.entry(prefix).or_insert_with(|| (Route::Host, context.punt(PuntReason::HostAddress)));
    }
    out.entry(Ipv4Net::default()).or_insert_with(|| (Route::Host, context.punt(PuntReason::HostRoute)));
    out
}

fn roles(inputs: Inputs<'_>) -> Vec<PortRole> {
    let mut roles = Vec::new();
    let mut set = |id: PortId, role: PortRole| {
        if roles.len() <= id.index() {
            roles.resize(id.index() + 1, PortRole::Closed);
        }
        roles[id.index()] = role;
    };
    if let Some(u) = &inputs.ports.uplink {
        [u.vxlan, u.ipip, u.direct].iter().flatten().for_each(|o| set(o.id, PortRole::Uplink));
    }
    if let Some(h) = &inputs.ports.host {
        set(h.id, PortRole::Host);
    }
    for (name, w) in &inputs.ports.workloads {
        if let Some(e) = inputs.desired.endpoints.get(name) {
            set(w.out.id, PortRole::Workload(Arc::new(endpoint(e, w))));
        }
    }
    roles
}

fn endpoint(e: &LocalEndpoint, w: &Workload) -> Endpoint {
    Endpoint { name: e.workload.clone(), sources: e.sources.clone(), addresses: e.addresses.clone(), mac: w.mac.or(e.mac) }
}

fn tunnel(desired: &Desired, node: &ThisNode) -> Tunnel {
    let set = |s: &BTreeSet<Ipv4Addr>| Arc::new(s.iter().map(|a| u32::from(*a)).collect::<FxHashSet<u32>>());
    Tunnel {
        node: node.address.addr(),
        icmp_source: node.tunnel_address.unwrap_or(node.address.addr()),
        vtep_mac: node.vtep_mac,
        vni: node.vni,
        port: node.vxlan_port,
        senders: set(&desired.senders),
        nodes: set(&desired.nodes),
        workloads_may_vxlan: node.workloads_may_vxlan,
        workloads_may_ipip: node.workloads_may_ipip,
    }
}

/// Other nodes that claim what is ours.
fn clashes(desired: &Desired, node: &ThisNode) -> Vec<String> {
    let mut out = Vec::new();
    for v in desired.vteps.values().filter(|v| v.node != node.name) {
        if v.address == node.address.addr() {
            out.push(format!("node {} has the same address {} as this node: one of the two must change", v.node, v.address));
        }
        if v.mac == node.vtep_mac {
            out.push(format!("node {} has the same VTEP MAC {} as this node: one of the two must change", v.node, v.mac));
        }
    }
    out
}

/// Whether a packet that takes the adjacency is sent somewhere (and an MTU means something).
pub fn sends(adjacency: &Adjacency) -> bool {
    !matches!(adjacency.kind, AdjKind::Drop(_))
}

#[cfg(test)]
mod tests;
