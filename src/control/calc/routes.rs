//! All routes of a node in one go: pools, blocks, borrowed addresses, local endpoints, the hosts' own addresses.
//!
//! Written from the least to the most important, each over what stands at the same prefix already.

use super::blocks::Blocks;
use super::floating::{self, Floating, Taken};
use super::nodes::Nodes;
use super::pools::Pools;
use super::rules;
use super::workloads::Workloads;
use crate::control::cluster::Cluster;
use crate::control::conflict::Conflict;
use crate::control::desired::{LocalEndpoint, Route};
use crate::control::model::{Affinity, FelixConfiguration, RouteSource};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

type Routes = BTreeMap<IpNet, Route>;

pub(super) fn all(
    cluster: &Cluster,
    nodes: &Nodes,
    pools: &Pools,
    felix: &FelixConfiguration,
    endpoints: &BTreeMap<Arc<str>, LocalEndpoint>,
    warnings: &mut Vec<String>,
    conflicts: &mut Vec<Conflict>,
) -> Routes {
    // What nobody owns in a pool is dropped here, rather than leaked to the host's default route and back.
    let mut routes: Routes = pools.iter().map(|cidr| (IpNet::V4(cidr), Route::Drop { node: None })).collect();
    match felix.route_source.unwrap_or_default() {
        RouteSource::CalicoIpam => blocks(&mut routes, cluster, nodes, pools, warnings, conflicts),
        RouteSource::WorkloadIps => workloads(&mut routes, cluster, nodes, pools),
    }
    for (name, endpoint) in endpoints {
        routes.extend(endpoint.addresses.iter().map(|ip| (Ipv4Net::from(*ip).into(), Route::Local { endpoint: name.clone() })));
    }
    hosts(&mut routes, nodes, pools, warnings);
    routes
}

/// Blocks first, then the addresses borrowed from them, so that a block of a single address does not hide
/// the loan.
fn blocks(routes: &mut Routes, cluster: &Cluster, nodes: &Nodes, pools: &Pools, warnings: &mut Vec<String>, conflicts: &mut Vec<Conflict>) {
    let mut seen: BTreeMap<Ipv4Net, &str> = BTreeMap::new();
    let mut borrowed = Vec::new();
    for (name, block) in &cluster.blocks {
        let (IpNet::V4(cidr), false) = (block.cidr, block.deleted) else { continue };
        if let Some(first) = seen.get(&cidr) {
            if let Some(counting) = cluster.blocks.get(*first) {
                conflicts.push(rules::doubled(cidr, first, counting, name, block));
            }
            continue;
        }
        seen.insert(cidr, name);
        let Some(pool) = pools.covering(cidr) else {
            warnings.push(rules::poolless(name, cidr));
            continue;
        };
        if let Affinity::Host(owner) = &block.affinity {
            routes.extend(rules::to_block(nodes, pool, owner, cidr).map(|r| (IpNet::V4(cidr), r)));
        }
        warnings.extend(rules::homeless(name, block));
        borrowed.extend(rules::loans(block, cidr));
    }
    for (ip, holder) in borrowed {
        if let Some(pool) = pools.covering(ip.into()) {
            routes.insert(Ipv4Net::from(ip).into(), rules::to_borrower(nodes, pool, holder, ip));
        }
    }
    for (name, claim) in &cluster.affinities {
        if let IpNet::V4(cidr) = claim.cidr {
            let block = seen.get(&cidr).and_then(|block| cluster.blocks.get(*block)).map(|b| &**b);
            warnings.extend(rules::orphan(name, claim, block));
            conflicts.extend(rules::contested(name, claim, block));
        }
    }
}

/// Every pod of another node on its own, the first by name where two have one address. Addresses outside
/// all pools have no encapsulation and so no route.
fn workloads(routes: &mut Routes, cluster: &Cluster, nodes: &Nodes, pools: &Pools) {
    let endpoints = cluster.endpoints.values().map(|e| (e.node.as_str(), &*e.addresses));
    let pods = cluster.pods.values().filter(|p| !p.host_network).filter_map(|p| Some((p.node.as_deref()?, &*p.addresses)));
    let mut seen = BTreeSet::new();
    for (node, addresses) in endpoints.chain(pods).filter(|(node, _)| *node != &*nodes.me) {
        for ip in addresses.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(Ipv4Net::from(*ip)) } else { None }) {
            let Some(pool) = pools.covering(ip) else { continue };
            if seen.insert(ip) {
                routes.insert(ip.into(), rules::to_node(nodes, pool, &node.into(), false));
            }
        }
    }
}

/// Where floating IPs go that nobody has as an ordinary address; what they stand for.
pub(super) fn floating(
    routes: &mut Routes,
    cluster: &Cluster,
    nodes: &Nodes,
    pools: &Pools,
    felix: &FelixConfiguration,
    endpoints: &BTreeMap<Arc<str>, LocalEndpoint>,
    warnings: &mut Vec<String>,
) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    let all = if felix.floating_ips == Some(true) { Floating::new(cluster) } else { Floating::default() };
    let local: BTreeMap<Ipv4Addr, Arc<str>> =
        endpoints.iter().flat_map(|(name, e)| e.addresses.iter().map(|ip| (*ip, name.clone()))).collect();
    let (mut blocks, mut pods) = (Blocks::default(), Workloads::default());
    if !all.is_empty() {
        match felix.route_source.unwrap_or_default() {
            RouteSource::CalicoIpam => cluster.blocks.iter().for_each(|(name, block)| blocks.set(name, Some(block))),
            RouteSource::WorkloadIps => pods = Workloads::elsewhere(cluster, &nodes.me),
        }
    }
    let mut out = BTreeMap::new();
    for ip in all.addresses() {
        let taken = if nodes.has(ip) {
            Some(Taken::Node)
        } else if let Some(endpoint) = local.get(&ip) {
            Some(Taken::Endpoint(endpoint.clone()))
        } else {
            floating::in_block(&blocks, pools, ip).or_else(|| pods.node(ip).cloned().map(Taken::Workload))
        };
        let (route, lines) = all.decide(ip, taken.as_ref(), nodes, pools, &local);
        warnings.extend(lines);
        if let Some((route, to)) = route {
            routes.insert(Ipv4Net::from(ip).into(), route);
            out.insert(ip, to);
        }
    }
    out
}

/// This node's own addresses, and other nodes' underlay addresses where a pool covers them: those are the
/// host stack's business, never the tunnels'.
fn hosts(routes: &mut Routes, nodes: &Nodes, pools: &Pools, warnings: &mut Vec<String>) {
    let own: BTreeSet<Ipv4Addr> = nodes.address(&nodes.me).into_iter().chain(nodes.tunnel_addresses(&nodes.me)).collect();
    let covered = nodes.addresses().into_iter().filter(|ip| pools.covering(Ipv4Net::from(*ip)).is_some());
    for ip in own.iter().copied().chain(covered) {
        if let Some(Route::Local { endpoint }) = routes.insert(Ipv4Net::from(ip).into(), Route::Host) {
            warnings.push(rules::taken_by_host(&endpoint, ip));
        }
    }
}
