//! From what should be in force to one snapshot: adjacencies for routes, differences only, one publish.

mod adjacency;
mod numbers;
mod peers;
mod ways;

pub use adjacency::{Out, Ports, Underlay, Workload};
pub use peers::{Peer, PeerTotals};

use super::desired::{Delta, Desired, LocalEndpoint, Parts, Route, ThisNode};
use super::model::DEFAULT_MTU_LINKS;
use super::netlink::{Changes, Link, NextHop, View};
use super::pattern::Pattern;
use crate::drop::PuntReason;
use crate::encap::rewrite::{IPIP_OVERHEAD, VXLAN_OVERHEAD};
use crate::fib::{AdjId, AdjKind, Adjacency, PeerId, Table4};
use crate::flows::Flows;
use crate::frame::PortId;
use crate::snapshot::{AdjTable, Endpoint, PortRole, Publisher, Snapshot, Tunnel};
use crate::worker::Counters;
use adjacency::Context;
use ipnet::{IpNet, Ipv4Net};
use numbers::Numbers;
use peers::Peers;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use ways::Ways;

/// The host's MTU when no link counts, as Calico takes it: what the clouds with the least have.
const UNKNOWN_HOST_MTU: u16 = 1460;

/// One route in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// What it was made from. The default route and the host's own addresses stand as `Route::Host`.
    pub route: Route,
    pub id: AdjId,
    /// What the adjacency's counters stood at when the route got the number: its own count starts there.
    pub base: u64,
}

/// What an update came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The generation published; `None` when nothing differed.
    pub published: Option<u64>,
    /// Whether [`Planner::hops`] and [`Planner::warnings`] may have changed.
    pub ways_changed: bool,
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
    ways: Ways,
    /// The ports at the last update.
    ports: Ports,
    /// This host's addresses at the last update, loopback ones left out.
    own: BTreeSet<Ipv4Addr>,
    peers: Peers,
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
            ways: Ways::default(),
            ports: Ports::default(),
            own: BTreeSet::new(),
            peers: Peers::default(),
        }
    }

    /// Routes in force, by prefix.
    pub fn installed(&self) -> &BTreeMap<Ipv4Net, Installed> {
        &self.installed
    }

    /// Nodes that tunnel packets are accepted from, by underlay address.
    pub fn peers(&self) -> &BTreeMap<Ipv4Addr, Peer> {
        self.peers.all()
    }

    /// Packets that took a route since it was installed.
    pub fn counted(&self, route: &Installed) -> u64 {
        hits(&self.counters, route.id).unwrap_or(0).saturating_sub(route.base)
    }

    /// What passed between this node and those that it knows, by underlay address.
    pub fn peer_totals(&self) -> BTreeMap<Ipv4Addr, PeerTotals> {
        self.peers().iter().map(|(address, p)| (*address, PeerTotals::of(&self.counters, p.id).since(p.base))).collect()
    }

    /// What a packet that takes a route in force meets.
    pub fn adjacency(&self, route: &Installed) -> &Adjacency {
        self.adjacencies.get(route.id)
    }

    /// Next hops on the uplink whose MAC matters.
    pub fn hops(&self) -> impl Iterator<Item = NextHop> {
        self.ways.hops()
    }

    /// Oddities to report, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let Some(uplink) = &self.ports.uplink else { return Vec::new() };
        let line = |address| {
            format!("no route to node {address} out of {}: add one, or correct the node's address; its blocks are dropped", uplink.name)
        };
        self.ways.unreachable().map(line).collect()
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

    /// The flows that the workers share.
    pub fn flows(&self) -> &Arc<Flows> {
        self.publisher.flows()
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<Snapshot> {
        self.publisher.current()
    }

    /// Generation in force.
    pub fn generation(&self) -> u64 {
        self.publisher.current().generation
    }

    /// Takes in that others have changed their routes to some prefixes; those that matter to packets. A route daemon may
    /// change thousands a second that lead to no node: only what is left is a reason for an update.
    pub fn follow(&mut self, view: &View, routes: BTreeSet<Ipv4Net>) -> BTreeSet<Ipv4Net> {
        self.ways.follow(view, self.ports.uplink.as_ref(), routes)
    }

    /// Brings in line what may have changed since the last update and publishes once if anything differs. Without
    /// a node nothing changes: what was in force stays.
    pub fn update(&mut self, inputs: Inputs<'_>, delta: &Delta, host: &Changes) -> Outcome {
        let Some(node) = &inputs.desired.node else {
            return Outcome::default();
        };
        let oldest = self.oldest_in_use();
        let dirty = match delta {
            Delta::Parts(parts) if !self.concerns_all(inputs, host) => {
                let endpoints = self.changed_endpoints(inputs, &parts.endpoints);
                let touched = self.touched(inputs, parts, host, &endpoints);
                // Nodes before the routes to them.
                let mut dirty = self.update_tunnel(inputs.desired, &parts.addresses, oldest);
                dirty |= self.update_prefixes(inputs, node, touched, oldest);
                dirty | (!endpoints.is_empty() && self.update_roles(inputs))
            }
            _ => self.update_all(inputs, node, oldest),
        };
        if self.ports != *inputs.ports {
            self.ports = inputs.ports.clone();
        }
        Outcome { published: dirty.then(|| self.publish()), ways_changed: self.ways.take_changed() }
    }

    /// Whether a change lies under everything that is in force.
    fn concerns_all(&self, inputs: Inputs<'_>, host: &Changes) -> bool {
        host.everything
            || !host.foreign_routes.is_empty()
            || self.generation() == 0
            || self.ports.uplink != inputs.ports.uplink
            || self.ports.host != inputs.ports.host
    }

    /// Endpoints that are different, or whose port is.
    fn changed_endpoints(&self, inputs: Inputs<'_>, endpoints: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        let (old, new) = (&self.ports.workloads, &inputs.ports.workloads);
        let mut out = endpoints.clone();
        if old != new {
            let differ = old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name));
            out.extend(differ.map(|name| name.as_str().into()));
        }
        out
    }

    /// The prefixes to plan anew.
    fn touched(&mut self, inputs: Inputs<'_>, parts: &Parts, host: &Changes, endpoints: &BTreeSet<Arc<str>>) -> BTreeSet<Ipv4Net> {
        let mut out: BTreeSet<Ipv4Net> = parts.routes.iter().filter_map(v4).collect();
        let endpoints = endpoints.iter().filter_map(|name| inputs.desired.endpoints.get(name));
        out.extend(endpoints.flat_map(|e| &e.addresses).map(|ip| Ipv4Net::from(*ip)));
        if host.addresses {
            let last = std::mem::replace(&mut self.own, own(inputs.view));
            out.extend(last.symmetric_difference(&self.own).map(|ip| Ipv4Net::from(*ip)));
        }
        for (dev, address) in &host.neighbours {
            out.extend(self.ways.users(*dev, *address));
        }
        out
    }

    fn update_prefixes(&mut self, inputs: Inputs<'_>, node: &ThisNode, touched: BTreeSet<Ipv4Net>, oldest: u64) -> bool {
        let mut dirty = false;
        for prefix in touched {
            let route = inputs.desired.routes.get(&IpNet::V4(prefix)).cloned();
            dirty |= match route.or_else(|| self.host_route(prefix)) {
                Some(route) => self.install(inputs, node, prefix, route, oldest),
                None => self.uninstall(prefix),
            };
        }
        dirty
    }

    fn update_all(&mut self, inputs: Inputs<'_>, node: &ThisNode, oldest: u64) -> bool {
        self.ways.reset(inputs.view, inputs.ports.uplink.as_ref());
        self.own = own(inputs.view);
        let gone: Vec<Ipv4Addr> = self.peers.all().keys().filter(|a| !inputs.desired.senders.contains(a)).copied().collect();
        gone.into_iter().for_each(|a| self.peers.leave(a));
        for address in &inputs.desired.senders {
            self.peers.join(*address, &self.counters, oldest);
        }
        let tunnel = tunnel(inputs.desired, node, self.peers.senders());
        let mut dirty = tunnel != self.tunnel;
        self.tunnel = tunnel;
        dirty |= self.update_host_flow(inputs, node);
        let host: Vec<Ipv4Net> = self.own.iter().map(|ip| Ipv4Net::from(*ip)).chain([Ipv4Net::default()]).collect();
        let is_wanted = |p: &Ipv4Net| inputs.desired.routes.contains_key(&IpNet::V4(*p)) || host.contains(p);
        let gone: Vec<Ipv4Net> = self.installed.keys().filter(|p| !is_wanted(p)).copied().collect();
        for prefix in gone {
            dirty |= self.uninstall(prefix);
        }
        // New ones are entered together: in order, that takes no search for each of a million.
        let mut fresh = Vec::new();
        for (prefix, route) in &inputs.desired.routes {
            if let Some(prefix) = v4(prefix) {
                let (differs, new) = self.put(inputs, node, prefix, route.clone(), oldest);
                dirty |= differs;
                fresh.extend(new.map(|new| (prefix, new)));
            }
        }
        self.installed.append(&mut fresh.into_iter().collect());
        for prefix in host.into_iter().filter(|p| !inputs.desired.routes.contains_key(&IpNet::V4(*p))) {
            dirty |= self.install(inputs, node, prefix, Route::Host, oldest);
        }
        dirty | self.update_roles(inputs)
    }

    /// The way of flows that are the host's; no prefix leads to it.
    fn update_host_flow(&mut self, inputs: Inputs<'_>, node: &ThisNode) -> bool {
        let punt = Context { inputs, node, ways: &mut self.ways, peers: &self.peers, taken: None }.punt(PuntReason::HostFlow);
        let differs = *self.adjacencies.get(AdjId::HOST_FLOW) != punt;
        self.adjacencies.set(AdjId::HOST_FLOW, punt);
        differs
    }

    /// The host's own: its addresses, and the default route for what leaves the pools.
    fn host_route(&self, prefix: Ipv4Net) -> Option<Route> {
        let is_own = prefix.prefix_len() == 32 && self.own.contains(&prefix.addr());
        (is_own || prefix == Ipv4Net::default()).then_some(Route::Host)
    }

    /// Puts one route in force; true if the data plane sees a difference.
    fn install(&mut self, inputs: Inputs<'_>, node: &ThisNode, prefix: Ipv4Net, route: Route, oldest: u64) -> bool {
        let (differs, new) = self.put(inputs, node, prefix, route, oldest);
        if let Some(new) = new {
            self.installed.insert(prefix, new);
        }
        differs
    }

    /// The same, but a route that is new is returned, for the caller to enter under its prefix.
    fn put(&mut self, inputs: Inputs<'_>, node: &ThisNode, prefix: Ipv4Net, route: Route, oldest: u64) -> (bool, Option<Installed>) {
        let old = self.installed.get_mut(&prefix);
        let mut context = Context { inputs, node, ways: &mut self.ways, peers: &self.peers, taken: None };
        let adjacency = match (&route, prefix.prefix_len()) {
            (Route::Host, 0) => context.punt(PuntReason::HostRoute),
            _ => context.build(prefix, &route),
        };
        let taken = context.taken;
        if let Some(before) = old.as_ref().and_then(|i| i.route.underlay()).filter(|b| taken != Some(*b)) {
            self.ways.release(prefix, before);
        }
        let Some(i) = old else {
            let id = AdjId(self.numbers.take(oldest));
            let base = hits(&self.counters, id).unwrap_or(0);
            self.adjacencies.set(id, adjacency);
            self.table.insert(prefix, id);
            return (true, Some(Installed { route, id, base }));
        };
        i.route = route;
        if *self.adjacencies.get(i.id) == adjacency {
            return (false, None);
        }
        // In place: the route keeps its number and its packet count.
        self.adjacencies.set(i.id, adjacency);
        (true, None)
    }

    fn uninstall(&mut self, prefix: Ipv4Net) -> bool {
        let Some(gone) = self.installed.remove(&prefix) else { return false };
        if let Some(address) = gone.route.underlay() {
            self.ways.release(prefix, address);
        }
        self.table.remove(prefix);
        self.numbers.retire(gone.id.0);
        true
    }

    fn update_roles(&mut self, inputs: Inputs<'_>) -> bool {
        let roles = roles(inputs);
        let differ = roles != self.roles;
        self.roles = roles;
        differ
    }

    fn update_tunnel(&mut self, desired: &Desired, addresses: &BTreeSet<Ipv4Addr>, oldest: u64) -> bool {
        let mut dirty = false;
        for address in addresses {
            let number = u32::from(*address);
            let (nodes, senders) = (&mut self.tunnel.nodes, &mut self.tunnel.senders);
            // Each copied once: the snapshot in force keeps its own.
            match (nodes.contains(&number), desired.nodes.contains(address)) {
                (false, true) => dirty |= Arc::make_mut(nodes).insert(number),
                (true, false) => dirty |= Arc::make_mut(nodes).remove(&number),
                _ => {}
            }
            match (senders.contains_key(&number), desired.senders.contains(address)) {
                (false, true) => {
                    dirty = true;
                    Arc::make_mut(senders).insert(number, self.peers.join(*address, &self.counters, oldest));
                }
                (true, false) => {
                    dirty = true;
                    Arc::make_mut(senders).remove(&number);
                    self.peers.leave(*address);
                }
                _ => {}
            }
        }
        dirty
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
        self.peers.published(generation);
        generation
    }
}

fn v4(net: &IpNet) -> Option<Ipv4Net> {
    if let IpNet::V4(net) = net { Some(*net) } else { None }
}

/// This host's addresses, loopback ones left out.
fn own(view: &View) -> BTreeSet<Ipv4Addr> {
    view.addresses.iter().map(|(_, a)| a.addr()).filter(|a| !a.is_loopback()).collect()
}

/// Packets that took an adjacency, over all workers; `None` if it is not counted.
pub fn hits(counters: &[Arc<Counters>], id: AdjId) -> Option<u64> {
    counters.iter().map(|c| c.hits(id)).sum()
}

/// An interface's MTU as adjacencies carry it; 65,535 stands for anything longer.
pub fn mtu16(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

/// The MTU that the pods' follows from: the smallest of the uplink's and of the other links' that are up and match the
/// node's pattern, as Calico's agents on the host and the CNI plugin count it.
pub fn host_mtu(node: &ThisNode, view: &View, uplink: &str) -> u16 {
    static DEFAULT: LazyLock<Option<Pattern>> = LazyLock::new(|| DEFAULT_MTU_LINKS.parse().ok());
    let pattern = node.mtu_links.as_ref().or(DEFAULT.as_ref());
    let counts = |l: &&Link| l.name == uplink || (l.up && pattern.is_some_and(|p| p.matches(&l.name)));
    view.links.values().filter(counts).map(|l| mtu16(l.mtu)).min().unwrap_or(UNKNOWN_HOST_MTU)
}

/// MTU of packets inside VXLAN, given the uplink's.
pub fn vxlan_mtu(node: &ThisNode, uplink: u16) -> u16 {
    node.vxlan_mtu.unwrap_or(uplink.saturating_sub(VXLAN_OVERHEAD))
}

/// MTU of packets inside IP-in-IP, given the uplink's.
pub fn ipip_mtu(node: &ThisNode, uplink: u16) -> u16 {
    node.ipip_mtu.unwrap_or(uplink.saturating_sub(IPIP_OVERHEAD))
}

/// What pods are to use: the least of the encapsulations that some pool uses, else the host's own MTU
/// ([`host_mtu`]).
pub fn pod_mtu(node: &ThisNode, host: u16) -> u16 {
    let vxlan = node.vxlan_enabled.then(|| vxlan_mtu(node, host));
    let ipip = node.ipip_enabled.then(|| ipip_mtu(node, host));
    vxlan.into_iter().chain(ipip).min().unwrap_or(host)
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
        if let Some(e) = inputs.desired.endpoints.get(name.as_str()) {
            set(w.out.id, PortRole::Workload(Arc::new(endpoint(e, w))));
        }
    }
    roles
}

fn endpoint(e: &LocalEndpoint, w: &Workload) -> Endpoint {
    Endpoint { name: e.workload.clone(), sources: e.sources.clone(), addresses: e.addresses.clone(), mac: w.mac.or(e.mac) }
}

fn tunnel(desired: &Desired, node: &ThisNode, senders: FxHashMap<u32, PeerId>) -> Tunnel {
    Tunnel {
        node: node.address.addr(),
        icmp_source: node.tunnel_address.unwrap_or(node.address.addr()),
        vtep_mac: node.vtep_mac,
        vni: node.vni,
        port: node.vxlan_port,
        senders: Arc::new(senders),
        nodes: Arc::new(desired.nodes.iter().map(|a| u32::from(*a)).collect()),
        workloads_may_vxlan: node.workloads_may_vxlan,
        workloads_may_ipip: node.workloads_may_ipip,
    }
}

/// Whether a packet that takes the adjacency is sent somewhere (and an MTU means something).
pub fn sends(adjacency: &Adjacency) -> bool {
    !matches!(adjacency.kind, AdjKind::Drop(_))
}

#[cfg(test)]
mod tests;
