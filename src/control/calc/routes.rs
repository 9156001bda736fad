//! The routes of a node: pools, blocks, borrowed addresses, local endpoints, the hosts' own addresses.
//!
//! Written from the least to the most important, each over what stands at the same prefix already.

use super::nodes::Nodes;
use crate::control::cluster::Cluster;
use crate::control::desired::{LocalEndpoint, Route};
use crate::control::model::{Affinity, Encap, FelixConfiguration, IpPool, IpamBlock, Mode, RouteSource};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

type Routes = BTreeMap<IpNet, Route>;

/// The IPv4 pools that carry workloads.
pub(super) struct Pools<'a>(BTreeMap<Ipv4Net, &'a IpPool>);

impl<'a> Pools<'a> {
    /// Of two pools with the same CIDR the first by name counts.
    pub fn new(cluster: &'a Cluster, warnings: &mut Vec<String>) -> Pools<'a> {
        let mut pools = BTreeMap::new();
        for (name, pool) in cluster.pools.iter().filter(|(_, p)| p.carries_workloads) {
            match pool.cidr {
                IpNet::V4(cidr) if pools.contains_key(&cidr) => {
                    warnings.push(format!("IPPool {name}: another pool has the same CIDR {cidr}; {name} is ignored"));
                }
                IpNet::V4(cidr) => drop(pools.insert(cidr, &**pool)),
                IpNet::V6(cidr) => warnings.push(format!("IPPool {name}: {cidr} is IPv6, which is not routed yet")),
            }
        }
        Pools(pools)
    }

    /// The longest pool that a prefix lies in.
    fn covering(&self, net: Ipv4Net) -> Option<&'a IpPool> {
        self.0.iter().filter(|(cidr, _)| cidr.contains(&net)).max_by_key(|(cidr, _)| cidr.prefix_len()).map(|(_, pool)| *pool)
    }

    pub fn cidrs(&self) -> BTreeSet<IpNet> {
        self.0.keys().map(|c| IpNet::V4(*c)).collect()
    }

    /// Disabled pools count: their blocks are still routed.
    pub fn use_vxlan(&self) -> bool {
        self.0.values().any(|p| matches!(p.encap, Encap::Vxlan(_)))
    }

    pub fn use_ipip(&self) -> bool {
        self.0.values().any(|p| matches!(p.encap, Encap::Ipip(_)))
    }
}

pub(super) fn all(
    cluster: &Cluster,
    nodes: &Nodes,
    pools: &Pools,
    felix: &FelixConfiguration,
    endpoints: &BTreeMap<String, LocalEndpoint>,
    warnings: &mut Vec<String>,
) -> Routes {
    // What nobody owns in a pool is dropped here, rather than leaked to the host's default route and back.
    let mut routes: Routes = pools.0.keys().map(|cidr| (IpNet::V4(*cidr), Route::Drop { node: None })).collect();
    match felix.route_source.unwrap_or_default() {
        RouteSource::CalicoIpam => blocks(&mut routes, cluster, nodes, pools, warnings),
        RouteSource::WorkloadIps => workloads(&mut routes, cluster, nodes, pools),
    }
    local_endpoints(&mut routes, endpoints);
    hosts(&mut routes, nodes, pools, warnings);
    routes
}

/// Blocks first, then the addresses borrowed from them, so that a block of a single address does not hide
/// the loan.
fn blocks(routes: &mut Routes, cluster: &Cluster, nodes: &Nodes, pools: &Pools, warnings: &mut Vec<String>) {
    let mut seen: BTreeMap<Ipv4Net, &str> = BTreeMap::new();
    let mut borrowed = Vec::new();
    for (name, block) in &cluster.blocks {
        let (IpNet::V4(cidr), false) = (block.cidr, block.deleted) else { continue };
        if let Some(other) = seen.insert(cidr, name) {
            warnings.push(format!("IPAMBlock {name}: {cidr} is block {other}'s too; {name} is ignored"));
            seen.insert(cidr, other);
            continue;
        }
        let Some(pool) = pools.covering(cidr) else {
            warnings.push(format!("IPAMBlock {name}: no pool for workloads contains {cidr}; it is not routed"));
            continue;
        };
        if let Affinity::Host(owner) = &block.affinity {
            let route = if owner == nodes.me { local_block(cidr) } else { Some(to_block(nodes, pool, owner, cidr)) };
            routes.extend(route.map(|r| (IpNet::V4(cidr), r)));
        }
        borrowed.extend(loans(name, block, cidr, warnings).map(|(ip, holder)| (ip, holder, pool)));
    }
    for (ip, holder, pool) in borrowed {
        routes.insert(Ipv4Net::from(ip).into(), to_borrower(nodes, pool, holder, ip));
    }
    orphans(cluster, &seen, warnings);
}

/// Every pod of another node on its own, the first by name where two have one address. Addresses outside
/// all pools have no encapsulation and so no route.
fn workloads(routes: &mut Routes, cluster: &Cluster, nodes: &Nodes, pools: &Pools) {
    let endpoints = cluster.endpoints.values().map(|e| (e.node.as_str(), &e.addresses));
    let pods = cluster.pods.values().filter(|p| !p.host_network).filter_map(|p| Some((p.node.as_deref()?, &p.addresses)));
    let mut seen = BTreeSet::new();
    for (node, addresses) in endpoints.chain(pods).filter(|(node, _)| *node != nodes.me) {
        for ip in addresses.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(Ipv4Net::from(*ip)) } else { None }) {
            let Some(pool) = pools.covering(ip) else { continue };
            if seen.insert(ip) {
                routes.insert(ip.into(), to_node(nodes, pool, node, false));
            }
        }
    }
}

/// Nothing for a block of one address: either an endpoint owns it, or the pool's drop answers.
fn local_block(cidr: Ipv4Net) -> Option<Route> {
    (cidr.prefix_len() < 32).then_some(Route::Blackhole)
}

/// To another node's block. A block of one address that is the node's own tunnel address (a pool for tunnels)
/// is reached in the tunnel, also on the same subnet.
fn to_block(nodes: &Nodes, pool: &IpPool, owner: &str, cidr: Ipv4Net) -> Route {
    let is_tunnel = cidr.prefix_len() == 32 && nodes.tunnel_addresses(owner).any(|t| t == cidr.addr());
    to_node(nodes, pool, owner, is_tunnel)
}

/// To an address that its holder took from a block that is not its own.
fn to_borrower(nodes: &Nodes, pool: &IpPool, holder: &str, ip: Ipv4Addr) -> Route {
    if holder == nodes.me {
        // An endpoint's or the host's own route replaces this one. Until then the packet must not follow the
        // block's route to its owner, which would send it back.
        return Route::Drop { node: Some(holder.to_owned()) };
    }
    to_node(nodes, pool, holder, nodes.tunnel_addresses(holder).any(|t| t == ip))
}

/// To a node, by its pool's mode; `in_tunnel` sets CrossSubnet's exemption aside.
fn to_node(nodes: &Nodes, pool: &IpPool, node: &str, in_tunnel: bool) -> Route {
    let unknown = || Route::Drop { node: Some(node.to_owned()) };
    let Some(address) = nodes.address(node) else { return unknown() };
    let is_exempt = |mode: Mode| mode == Mode::CrossSubnet && !in_tunnel && nodes.same_subnet(address);
    match pool.encap {
        Encap::Vxlan(mode) if !is_exempt(mode) => match nodes.vtep(node) {
            Some(v) => Route::Vxlan { node: v.node, address: v.address, tunnel_address: v.tunnel_address, mac: v.mac },
            None => unknown(),
        },
        Encap::Ipip(mode) if !is_exempt(mode) => Route::Ipip { node: node.to_owned(), address },
        _ => Route::Direct { node: node.to_owned(), address },
    }
}

/// Addresses of a block that are in use on a node that is not its owner, and that node.
fn loans<'b>(name: &str, block: &'b IpamBlock, cidr: Ipv4Net, warnings: &mut Vec<String>) -> impl Iterator<Item = (Ipv4Addr, &'b str)> {
    let homeless = block.allocations.iter().filter(|a| a.node.is_none() && !a.reserved).count();
    if homeless > 0 {
        warnings.push(format!("IPAMBlock {name}: {homeless} allocations do not name their node; they have no route of their own"));
    }
    let owner = if let Affinity::Host(owner) = &block.affinity { Some(owner.as_str()) } else { None };
    block.allocations.iter().filter_map(move |a| {
        let holder = a.node.as_deref().filter(|n| Some(*n) != owner)?;
        // Validation keeps ordinals inside the block.
        Some((Ipv4Addr::from(u32::from(cidr.network()) | a.ordinal), holder))
    })
}

/// Claims that their blocks do not bear out: routes come from blocks alone.
fn orphans(cluster: &Cluster, blocks: &BTreeMap<Ipv4Net, &str>, warnings: &mut Vec<String>) {
    use crate::control::model::AffinityState::Confirmed;
    for (name, affinity) in cluster.affinities.iter().filter(|(_, a)| a.state == Confirmed && a.is_host && !a.deleted) {
        let IpNet::V4(cidr) = affinity.cidr else { continue };
        let Some(block) = blocks.get(&cidr).and_then(|block| cluster.blocks.get(*block)) else {
            warnings
                .push(format!("BlockAffinity {name}: node {} claims {cidr}, but there is no such block; it is not routed", affinity.node));
            continue;
        };
        match &block.affinity {
            Affinity::Host(owner) if *owner == affinity.node => {}
            _ => warnings.push(format!(
                "BlockAffinity {name}: node {} claims {cidr}, but the block is not its own; the block counts",
                affinity.node
            )),
        }
    }
}

fn local_endpoints(routes: &mut Routes, endpoints: &BTreeMap<String, LocalEndpoint>) {
    for (name, endpoint) in endpoints {
        for ip in &endpoint.addresses {
            routes.insert(Ipv4Net::from(*ip).into(), Route::Local { endpoint: name.clone() });
        }
    }
}

/// This node's own addresses, and other nodes' underlay addresses where a pool covers them: those are the
/// host stack's business, never the tunnels'.
fn hosts(routes: &mut Routes, nodes: &Nodes, pools: &Pools, warnings: &mut Vec<String>) {
    let own: BTreeSet<Ipv4Addr> = nodes.address(nodes.me).into_iter().chain(nodes.tunnel_addresses(nodes.me)).collect();
    let covered = nodes.addresses().into_iter().filter(|ip| pools.covering(Ipv4Net::from(*ip)).is_some());
    for ip in own.iter().copied().chain(covered) {
        if let Some(Route::Local { endpoint }) = routes.insert(Ipv4Net::from(ip).into(), Route::Host) {
            warnings.push(format!("WorkloadEndpoint {endpoint}: its address {ip} is a node's; it goes to the host"));
        }
    }
}
