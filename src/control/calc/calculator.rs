//! Route calculation object by object: indexes tell which prefixes an object has a say in, and only those are
//! decided anew. Every decision looks at the present state alone, never at how it came about.

use super::blocks::{self, Blocks};
use super::endpoints;
use super::floating::{self, Claims, Floating, Taken};
use super::nodes::{self, Nodes};
use super::pools::Pools;
use super::rules;
use super::warnings::{Source, Warnings};
use super::workloads::{self, Object, Workloads};
use crate::control::cluster::{Changed, Cluster};
use crate::control::conflict::Conflict;
use crate::control::desired::{Delta, Desired, Parts, Route};
use crate::control::model::{Affinity, FelixConfiguration, IpamBlock, Key, Kind, Pod, RouteSource, WorkloadEndpoint};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Keeps [`Desired`] in line with a cluster. Pools, configuration and this node's own object recalculate all of
/// it; what any other object costs depends on what it has a say in alone.
pub struct Calculator {
    me: Arc<str>,
    desired: Desired,
    felix: FelixConfiguration,
    pools: Pools,
    nodes: Nodes,
    blocks: Blocks,
    workloads: Workloads,
    /// Nothing where they are not enabled.
    floating: Floating,
    /// The objects that this node's endpoints are made from.
    here: Here,
    /// This node's endpoints by address.
    local: BTreeMap<Ipv4Addr, Arc<str>>,
    external: BTreeSet<Ipv4Addr>,
    users: Users,
    warnings: Warnings<String>,
    conflicts: Warnings<Conflict>,
    /// A state was taken in.
    started: bool,
}

#[derive(Default)]
struct Here {
    endpoints: BTreeMap<String, Arc<WorkloadEndpoint>>,
    pods: BTreeMap<String, Arc<Pod>>,
}

/// Which prefixes depend on what is known of a node, and for how many reasons.
#[derive(Default)]
struct Users(BTreeMap<(Arc<str>, Ipv4Net), u32>);

impl Users {
    fn add(&mut self, node: &Arc<str>, net: Ipv4Net) {
        *self.0.entry((node.clone(), net)).or_default() += 1;
    }

    fn remove(&mut self, node: &Arc<str>, net: Ipv4Net) {
        let key = (node.clone(), net);
        if let Some(reasons) = self.0.get_mut(&key) {
            *reasons -= 1;
            if *reasons == 0 {
                self.0.remove(&key);
            }
        }
    }

    fn of(&self, node: &Arc<str>) -> impl Iterator<Item = Ipv4Net> {
        self.0.range((node.clone(), Ipv4Net::default())..).take_while(move |((n, _), _)| n == node).map(|((_, net), _)| *net)
    }
}

/// What one update has touched so far.
#[derive(Default)]
struct Touched {
    nets: Vec<Ipv4Net>,
    cidrs: BTreeSet<Ipv4Net>,
    parts: Parts,
}

impl Touched {
    fn address(&mut self, ip: Ipv4Addr) {
        self.nets.push(ip.into());
    }
}

impl Calculator {
    /// For node `me`; knows nothing before the first update.
    pub fn new(me: &str) -> Calculator {
        Calculator {
            me: me.into(),
            desired: Desired::default(),
            felix: FelixConfiguration::default(),
            pools: Pools::default(),
            nodes: Nodes::default(),
            blocks: Blocks::default(),
            workloads: Workloads::default(),
            floating: Floating::default(),
            here: Here::default(),
            local: BTreeMap::new(),
            external: BTreeSet::new(),
            users: Users::default(),
            warnings: Warnings::default(),
            conflicts: Warnings::default(),
            started: false,
        }
    }

    /// What should be in force as of the last update.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Takes a new state in; `changed` is what it differs in from the one before.
    pub fn update(&mut self, cluster: &Cluster, changed: &Changed) -> Delta {
        match changed {
            Changed::Keys(keys) if self.started && !keys.iter().any(|key| self.concerns_all(cluster, key)) => {
                if self.desired.node.is_none() {
                    return Delta::Parts(Parts::default());
                }
                let mut touched = Touched::default();
                self.take_keys(cluster, keys, &mut touched);
                Delta::Parts(self.settle(touched))
            }
            _ => {
                self.rebuild(cluster);
                Delta::All
            }
        }
    }

    /// Whether an object decides about everything.
    fn concerns_all(&self, cluster: &Cluster, key: &Key) -> bool {
        match key.kind {
            Kind::IpPool => true,
            Kind::FelixConfiguration => self.felix != cluster.felix_for(&self.me),
            // Without an own address there is nothing but a line that names the nodes.
            Kind::Node | Kind::KubeNode if self.desired.node.is_none() => true,
            Kind::Node | Kind::KubeNode => *key.name == *self.me && self.nodes.get(&self.me) != cluster.node(&self.me),
            _ => false,
        }
    }

    fn rebuild(&mut self, cluster: &Cluster) {
        *self = Calculator { felix: cluster.felix_for(&self.me), started: true, ..Calculator::new(&self.me) };
        let mut lines = Vec::new();
        self.pools = Pools::new(cluster, &mut lines);
        self.nodes = Nodes::new(cluster, &self.me);
        self.desired.node = self.nodes.this(&self.felix, &self.pools, &mut lines);
        self.external = nodes::external(&self.felix, &mut lines);
        if self.desired.node.is_none() {
            self.desired.warnings.insert(self.nodes.missing_address());
            return;
        }
        self.warn(Source::Whole, lines);
        self.desired.pools = self.pools.cidrs();
        self.desired.vteps = self.nodes.vteps();
        self.desired.nodes = self.nodes.addresses();
        self.desired.senders = self.nodes.senders(&self.external);
        let mut touched = Touched::default();
        for source in self.nodes.contested() {
            self.contend(source);
        }
        self.take_objects(cluster, &mut touched);
        touched.nets.extend(self.pools.iter());
        self.nodes.addresses().into_iter().chain(self.nodes.tunnel_addresses(&self.me)).for_each(|ip| touched.address(ip));
        self.settle(touched);
    }

    /// All blocks, claims, endpoints and pods, into empty indexes.
    fn take_objects(&mut self, cluster: &Cluster, touched: &mut Touched) {
        for (name, claim) in &cluster.affinities {
            self.blocks.set_claim(name, Some(claim));
        }
        for (name, block) in &cluster.blocks {
            self.blocks.set(name, Some(block));
        }
        if self.source() == RouteSource::CalicoIpam {
            let cidrs: Vec<Ipv4Net> = self.blocks.cidrs().collect();
            cidrs.iter().for_each(|cidr| self.contribute(*cidr, touched));
            touched.cidrs.extend(cidrs.into_iter().chain(self.blocks.claimed()));
        }
        for name in cluster.endpoints.keys() {
            self.take_endpoint(cluster, name, touched);
        }
        for name in cluster.pods.keys() {
            self.take_pod(cluster, name, touched);
        }
        self.take_local(touched);
    }

    fn take_keys(&mut self, cluster: &Cluster, keys: &BTreeSet<Key>, touched: &mut Touched) {
        let mut local = false;
        for key in keys {
            match key.kind {
                Kind::IpPool | Kind::FelixConfiguration => {}
                Kind::Node | Kind::KubeNode => self.take_node(cluster, &key.name, touched),
                Kind::IpamBlock => self.take_block(cluster, &key.name, touched),
                Kind::BlockAffinity => self.take_claim(cluster, &key.name, touched),
                // Says nothing about routes.
                Kind::ClusterInformation => {}
                Kind::WorkloadEndpoint => local |= self.take_endpoint(cluster, &key.name, touched),
                Kind::Pod => local |= self.take_pod(cluster, &key.name, touched),
            }
        }
        if local {
            self.take_local(touched);
        }
    }

    fn source(&self) -> RouteSource {
        self.felix.route_source.unwrap_or_default()
    }

    fn take_node(&mut self, cluster: &Cluster, name: &str, touched: &mut Touched) {
        let (old, new) = (self.nodes.get(name).cloned(), cluster.node(name));
        if old.as_ref() == new {
            return;
        }
        let tunnels: BTreeSet<Ipv4Addr> = old.iter().chain(new).flat_map(|n| nodes::tunnels_of(n)).collect();
        let underlay: BTreeSet<Ipv4Addr> = [&old.as_ref(), &new].iter().filter_map(|n| n.as_ref()?.address).map(|a| a.addr()).collect();
        let both = old.iter().chain(new);
        let contested: BTreeSet<Source> = both.flat_map(|n| nodes::contested_by(name, n)).collect();
        // Whoever shares an address may gain or lose it by this.
        let mut affected: BTreeSet<Arc<str>> = [name.into()].into();
        affected.extend(underlay.iter().flat_map(|ip| self.nodes.claimants(*ip)).cloned());
        self.nodes.set(name, new);
        affected.extend(underlay.iter().flat_map(|ip| self.nodes.claimants(*ip)).cloned());
        for node in affected {
            touched.nets.extend(self.users.of(&node));
            self.settle_vtep(&node, touched);
        }
        for source in contested {
            touched.parts.warnings |= self.contend(source);
        }
        tunnels.into_iter().for_each(|ip| touched.address(ip));
        for ip in underlay {
            touched.address(ip);
            self.settle_address(ip, touched);
        }
    }

    fn settle_vtep(&mut self, node: &Arc<str>, touched: &mut Touched) {
        let vtep = self.nodes.vtep(node).filter(|_| *node != self.me);
        if self.desired.vteps.get(node) == vtep.as_ref() {
            return;
        }
        touched.parts.vteps.insert(node.clone());
        match vtep {
            Some(vtep) => drop(self.desired.vteps.insert(node.clone(), vtep)),
            None => drop(self.desired.vteps.remove(node)),
        }
    }

    fn settle_address(&mut self, ip: Ipv4Addr, touched: &mut Touched) {
        let is_node = self.nodes.holder(ip).is_some();
        let is_sender = self.nodes.is_sender(ip, &self.external);
        let mut put = |set: &mut BTreeSet<Ipv4Addr>, is: bool| {
            if if is { set.insert(ip) } else { set.remove(&ip) } {
                touched.parts.addresses.insert(ip);
            }
        };
        put(&mut self.desired.nodes, is_node);
        put(&mut self.desired.senders, is_sender);
    }

    fn take_block(&mut self, cluster: &Cluster, name: &str, touched: &mut Touched) {
        let (old, new) = (self.blocks.get(name).cloned(), cluster.blocks.get(name));
        if old.as_ref() == new {
            return;
        }
        let of = |b: Option<&Arc<_>>| b.and_then(|b| blocks::cidr_of(b));
        let cidrs: BTreeSet<Ipv4Net> = [of(old.as_ref()), of(new)].into_iter().flatten().collect();
        let routed = self.source() == RouteSource::CalicoIpam;
        if routed {
            cidrs.iter().for_each(|cidr| self.withdraw(*cidr, touched));
        }
        self.blocks.set(name, new);
        if routed {
            cidrs.iter().for_each(|cidr| self.contribute(*cidr, touched));
            cidrs.iter().flat_map(|cidr| self.floating.within(*cidr)).for_each(|ip| touched.address(ip));
            touched.cidrs.extend(cidrs);
        }
    }

    fn take_claim(&mut self, cluster: &Cluster, name: &str, touched: &mut Touched) {
        let new = cluster.affinities.get(name);
        if self.blocks.claim(name) == new {
            return;
        }
        let cidrs = self.blocks.set_claim(name, new);
        if self.source() == RouteSource::CalicoIpam {
            touched.cidrs.extend(cidrs.into_iter().flatten());
        }
    }

    /// The block that counts for a CIDR in a pool.
    fn routed_block(&self, cidr: Ipv4Net) -> Option<(String, Arc<IpamBlock>)> {
        self.pools.covering(cidr)?;
        self.blocks.at(cidr).map(|(name, block)| (name.to_owned(), block.clone()))
    }

    /// Undoes what [`Calculator::contribute`] did for the block that counts for a CIDR.
    fn withdraw(&mut self, cidr: Ipv4Net, touched: &mut Touched) {
        let Some((name, block)) = self.routed_block(cidr) else { return };
        touched.nets.push(cidr);
        if let Affinity::Host(owner) = &block.affinity {
            self.users.remove(owner, cidr);
        }
        for (ip, holder) in rules::loans(&block, cidr) {
            self.blocks.unlend(ip, &name, holder);
            self.users.remove(holder, ip.into());
            touched.address(ip);
        }
    }

    /// Enters the block that counts for a CIDR into the indexes.
    fn contribute(&mut self, cidr: Ipv4Net, touched: &mut Touched) {
        let Some((name, block)) = self.routed_block(cidr) else { return };
        touched.nets.push(cidr);
        if let Affinity::Host(owner) = &block.affinity {
            self.users.add(owner, cidr);
        }
        for (ip, holder) in rules::loans(&block, cidr) {
            self.blocks.lend(ip, &name, holder);
            self.users.add(holder, ip.into());
            touched.address(ip);
        }
    }

    /// Whether the object has a say in this node's endpoints.
    fn take_endpoint(&mut self, cluster: &Cluster, name: &str, touched: &mut Touched) -> bool {
        let new = cluster.endpoints.get(name);
        if self.source() == RouteSource::WorkloadIps {
            let held = new.map(|e| workloads::of_endpoint(e, &self.me)).unwrap_or_default();
            self.take_workload(&Object::Endpoint(name.to_owned()), held, touched);
        }
        if self.floats() {
            let claims = new.map(|e| floating::of_endpoint(e)).unwrap_or_default();
            self.take_floating(&Object::Endpoint(name.to_owned()), claims, touched);
        }
        let new = new.filter(|e| *e.node == *self.me);
        replace(&mut self.here.endpoints, name, new)
    }

    fn take_pod(&mut self, cluster: &Cluster, name: &str, touched: &mut Touched) -> bool {
        let new = cluster.pods.get(name);
        if self.source() == RouteSource::WorkloadIps {
            let held = new.map(|p| workloads::of_pod(p, &self.me)).unwrap_or_default();
            self.take_workload(&Object::Pod(name.to_owned()), held, touched);
        }
        if self.floats() {
            let claims = new.map(|p| floating::of_pod(p)).unwrap_or_default();
            self.take_floating(&Object::Pod(name.to_owned()), claims, touched);
        }
        let new = new.filter(|p| endpoints::is_local_pod(p, &self.me));
        replace(&mut self.here.pods, name, new)
    }

    fn take_workload(&mut self, object: &Object, new: workloads::Held, touched: &mut Touched) {
        if self.workloads.get(object).map_or(new.is_empty(), |old| *old == new) {
            return;
        }
        let old = self.workloads.set(object, &new);
        for (ip, node) in &old {
            self.users.remove(node, (*ip).into());
            touched.address(*ip);
        }
        for (ip, node) in &new {
            self.users.add(node, (*ip).into());
            touched.address(*ip);
        }
    }

    fn floats(&self) -> bool {
        self.felix.floating_ips == Some(true)
    }

    fn take_floating(&mut self, object: &Object, new: Claims, touched: &mut Touched) {
        if self.floating.of(object).map_or(new.is_empty(), |old| *old == new) {
            return;
        }
        for (ip, claim) in &new {
            self.users.add(&claim.node, (*ip).into());
            touched.address(*ip);
        }
        for (ip, claim) in self.floating.set(object, new) {
            self.users.remove(&claim.node, ip.into());
            touched.address(ip);
        }
    }

    /// This node's endpoints anew: they share interfaces and addresses, and they are few.
    fn take_local(&mut self, touched: &mut Touched) {
        let mut lines = Vec::new();
        let next = endpoints::local(&self.here.endpoints, &self.here.pods, &self.me, &self.felix, &mut lines);
        touched.parts.warnings |= self.warn(Source::Endpoints, lines);
        let last = mem::replace(&mut self.desired.endpoints, next);
        for name in last.keys().chain(self.desired.endpoints.keys()) {
            let (old, new) = (last.get(name), self.desired.endpoints.get(name));
            if old != new {
                touched.parts.endpoints.insert(name.clone());
                [old, new].into_iter().flatten().flat_map(|e| &e.addresses).for_each(|ip| touched.address(*ip));
            }
        }
        // Another endpoint may have the address by now that a floating IP stands for.
        let here = self.here.endpoints.keys().cloned().map(Object::Endpoint).chain(self.here.pods.keys().cloned().map(Object::Pod));
        here.filter_map(|object| self.floating.of(&object)).flat_map(BTreeMap::keys).for_each(|ip| touched.address(*ip));
        let all = self.desired.endpoints.iter();
        self.local = all.flat_map(|(name, e)| e.addresses.iter().map(|ip| (*ip, name.clone()))).collect();
    }

    /// Decides all that was touched.
    fn settle(&mut self, mut touched: Touched) -> Parts {
        let mut parts = mem::take(&mut touched.parts);
        for cidr in mem::take(&mut touched.cidrs) {
            let (lines, conflicts) = self.blocks.warnings(cidr, self.pools.covering(cidr).is_some());
            parts.warnings |= self.warn(Source::Block(cidr), lines);
            parts.warnings |= self.conflicts.set(&mut self.desired.conflicts, Source::Block(cidr), conflicts);
        }
        touched.nets.sort_unstable();
        touched.nets.dedup();
        for net in touched.nets {
            let route = self.decide(net, &mut parts);
            parts.warnings |= self.warn_of_host(net, route.as_ref());
            let key = IpNet::V4(net);
            if self.desired.routes.get(&key) == route.as_ref() {
                continue;
            }
            match route {
                Some(route) => drop(self.desired.routes.insert(key, route)),
                None => drop(self.desired.routes.remove(&key)),
            }
            parts.routes.push(key);
        }
        parts
    }

    /// The route of a prefix, from the most to the least important reason for one.
    fn decide(&mut self, net: Ipv4Net, parts: &mut Parts) -> Option<Route> {
        let address = (net.prefix_len() == 32).then(|| net.addr());
        let floating = address.and_then(|ip| self.decide_floating(ip, parts));
        let single = floating.or_else(|| address.and_then(|ip| self.decide_address(ip)));
        single.or_else(|| self.block(net)).or_else(|| self.pools.has(net).then_some(Route::Drop { node: None }))
    }

    /// A floating IP's route, which there is only where nothing below gives the address one.
    fn decide_floating(&mut self, ip: Ipv4Addr, parts: &mut Parts) -> Option<Route> {
        let taken = if self.floating.is_empty() { None } else { self.taken(ip) };
        let (route, lines) = self.floating.decide(ip, taken.as_ref(), &self.nodes, &self.pools, &self.local);
        parts.warnings |= self.warn(Source::Floating(ip), lines);
        let (route, to) = route.unzip();
        if self.desired.floating.get(&ip) != to.as_ref() {
            parts.floating = true;
            match to {
                Some(to) => drop(self.desired.floating.insert(ip, to)),
                None => drop(self.desired.floating.remove(&ip)),
            }
        }
        parts.floating |= route.is_some() && self.desired.routes.get(&IpNet::V4(ip.into())) != route.as_ref();
        route
    }

    /// What an address is besides a floating one.
    fn taken(&self, ip: Ipv4Addr) -> Option<Taken> {
        if self.nodes.has(ip) {
            return Some(Taken::Node);
        }
        if let Some(endpoint) = self.local.get(&ip) {
            return Some(Taken::Endpoint(endpoint.clone()));
        }
        match self.source() {
            RouteSource::CalicoIpam => floating::in_block(&self.blocks, &self.pools, ip),
            RouteSource::WorkloadIps => self.workloads.node(ip).cloned().map(Taken::Workload),
        }
    }

    fn decide_address(&self, ip: Ipv4Addr) -> Option<Route> {
        let pool = self.pools.covering(ip.into());
        if self.nodes.is_own(ip) || (pool.is_some() && self.nodes.holder(ip).is_some()) {
            return Some(Route::Host);
        }
        if let Some(endpoint) = self.local.get(&ip) {
            return Some(Route::Local { endpoint: endpoint.clone() });
        }
        match self.source() {
            RouteSource::CalicoIpam => self.blocks.borrower(ip).map(|holder| Some(rules::to_borrower(&self.nodes, pool?, holder, ip)))?,
            RouteSource::WorkloadIps => self.workloads.node(ip).map(|node| Some(rules::to_node(&self.nodes, pool?, node, false)))?,
        }
    }

    fn block(&self, cidr: Ipv4Net) -> Option<Route> {
        if self.source() != RouteSource::CalicoIpam {
            return None;
        }
        let (_, block) = self.blocks.at(cidr)?;
        let Affinity::Host(owner) = &block.affinity else { return None };
        rules::to_block(&self.nodes, self.pools.covering(cidr)?, owner, cidr)
    }

    fn warn_of_host(&mut self, net: Ipv4Net, route: Option<&Route>) -> bool {
        if net.prefix_len() < 32 {
            return false;
        }
        let ip = net.addr();
        let taken = self.local.get(&ip).filter(|_| route == Some(&Route::Host));
        let lines = taken.map(|endpoint| rules::taken_by_host(endpoint, ip)).into_iter().collect();
        self.warn(Source::Address(ip), lines)
    }

    /// Looks anew at what nodes contend for.
    fn contend(&mut self, source: Source) -> bool {
        let conflict = self.nodes.conflict(&source);
        self.conflicts.set(&mut self.desired.conflicts, source, conflict.into_iter().collect())
    }

    fn warn(&mut self, source: Source, lines: Vec<String>) -> bool {
        self.warnings.set(&mut self.desired.warnings, source, lines)
    }
}

/// Puts a value in, in place of what was there, or takes it out; true if that makes a difference.
fn replace<T: PartialEq>(map: &mut BTreeMap<String, Arc<T>>, name: &str, new: Option<&Arc<T>>) -> bool {
    if map.get(name) == new {
        return false;
    }
    match new {
        Some(new) => drop(map.insert(name.to_owned(), new.clone())),
        None => drop(map.remove(name)),
    }
    true
}
