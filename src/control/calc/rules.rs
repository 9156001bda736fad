//! Single decisions of route calculation, each a pure function of what it is given.

use super::nodes::Nodes;
use crate::control::conflict::{self, Conflict};
use crate::control::desired::Route;
use crate::control::model::{Affinity, AffinityState, BlockAffinity, Encap, IpPool, IpamBlock, Mode};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// To a block by its owner. A block of this node ends what no endpoint has; one of a single address has no
/// route: either an endpoint owns it, or the pool's drop answers.
pub(super) fn to_block(nodes: &Nodes, pool: &IpPool, owner: &Arc<str>, cidr: Ipv4Net) -> Option<Route> {
    if *owner == nodes.me {
        return (cidr.prefix_len() < 32).then_some(Route::Blackhole);
    }
    // A block of one address that is the node's own tunnel address (a pool for tunnels) is reached in the
    // tunnel, also on the same subnet.
    let is_tunnel = cidr.prefix_len() == 32 && nodes.tunnel_addresses(owner).any(|t| t == cidr.addr());
    Some(to_node(nodes, pool, owner, is_tunnel))
}

/// To an address that its holder took from a block that is not its own.
pub(super) fn to_borrower(nodes: &Nodes, pool: &IpPool, holder: &Arc<str>, ip: Ipv4Addr) -> Route {
    if *holder == nodes.me {
        // An endpoint's or the host's own route replaces this one. Until then the packet must not follow the
        // block's route to its owner, which would send it back.
        return Route::Drop { node: Some(holder.clone()) };
    }
    to_node(nodes, pool, holder, nodes.tunnel_addresses(holder).any(|t| t == ip))
}

/// To a node, by its pool's mode; `in_tunnel` sets CrossSubnet's exemption aside.
pub(super) fn to_node(nodes: &Nodes, pool: &IpPool, node: &Arc<str>, in_tunnel: bool) -> Route {
    let unknown = || Route::Drop { node: Some(node.clone()) };
    let Some(address) = nodes.address(node) else { return unknown() };
    let is_exempt = |mode: Mode| mode == Mode::CrossSubnet && !in_tunnel && nodes.same_subnet(address);
    match pool.encap {
        Encap::Vxlan(mode) if !is_exempt(mode) => match nodes.vtep(node) {
            Some(v) => Route::Vxlan { node: v.node, address: v.address, tunnel_address: v.tunnel_address, mac: v.mac },
            None => unknown(),
        },
        Encap::Ipip(mode) if !is_exempt(mode) => Route::Ipip { node: node.clone(), address },
        _ => Route::Direct { node: node.clone(), address },
    }
}

/// Addresses of a block that are in use on a node that is not its owner, and that node.
pub(super) fn loans(block: &IpamBlock, cidr: Ipv4Net) -> impl Iterator<Item = (Ipv4Addr, &Arc<str>)> {
    let owner = if let Affinity::Host(owner) = &block.affinity { Some(owner) } else { None };
    block.allocations.iter().filter_map(move |a| {
        let holder = a.node.as_ref().filter(|n| Some(*n) != owner)?;
        // Validation keeps ordinals inside the block.
        Some((Ipv4Addr::from(u32::from(cidr.network()) | a.ordinal), holder))
    })
}

/// That addresses of a block cannot be told whose they are.
pub(super) fn homeless(name: &str, block: &IpamBlock) -> Option<String> {
    let count = block.allocations.iter().filter(|a| a.node.is_none() && !a.reserved).count();
    (count > 0).then(|| format!("IPAMBlock {name}: {count} allocations do not name their node; they have no route of their own"))
}

/// That a block has no pool.
pub(super) fn poolless(name: &str, cidr: Ipv4Net) -> String {
    format!("IPAMBlock {name}: no pool for workloads contains {cidr}; it is not routed")
}

/// That another block object has the same CIDR.
pub(super) fn doubled(cidr: Ipv4Net, first: &str, counting: &IpamBlock, other: &str, ignored: &IpamBlock) -> Conflict {
    let party = |name: &str, block: &IpamBlock| match &block.affinity {
        Affinity::Host(owner) => format!("node {owner} by IPAMBlock {name}"),
        _ => format!("nobody by IPAMBlock {name}"),
    };
    Conflict {
        kind: conflict::Kind::Block,
        subject: cidr.to_string(),
        parties: vec![party(first, counting), party(other, ignored)],
        found: format!("two blocks of one CIDR; {first} counts, {other} is ignored"),
        remedy: format!("delete IPAMBlock {other}, once no pod has an address of it (tortie ipam check)"),
    }
}

/// A claim without a block: routes come from blocks alone.
pub(super) fn orphan(name: &str, claim: &BlockAffinity, block: Option<&IpamBlock>) -> Option<String> {
    let (node, cidr) = (&claim.node, claim.cidr);
    match block.map(|b| &b.affinity) {
        _ if !is_claimed(claim) => None,
        None => Some(format!("BlockAffinity {name}: node {node} claims {cidr}, but there is no such block; it is not routed")),
        Some(Affinity::Host(_)) => None,
        Some(_) => Some(format!("BlockAffinity {name}: node {node} claims {cidr}, but the block is no node's; the block counts")),
    }
}

/// That one node claims a block that is another's.
pub(super) fn contested(name: &str, claim: &BlockAffinity, block: Option<&IpamBlock>) -> Option<Conflict> {
    let Affinity::Host(owner) = &block?.affinity else { return None };
    (is_claimed(claim) && **owner != *claim.node).then(|| Conflict {
        kind: conflict::Kind::Block,
        subject: claim.cidr.to_string(),
        parties: vec![format!("node {owner} by the IPAMBlock's affinity"), format!("node {} by BlockAffinity {name}", claim.node)],
        found: format!("two owners of one block: packets go to {owner}, and {} may give its addresses to pods as well", claim.node),
        remedy: format!("delete BlockAffinity {name}, once no pod on {} has an address of it (tortie ipam check)", claim.node),
    })
}

/// One that is only wished for, or going, claims nothing.
fn is_claimed(claim: &BlockAffinity) -> bool {
    claim.state == AffinityState::Confirmed && claim.is_host && !claim.deleted
}

/// That an endpoint's address is a node's.
pub(super) fn taken_by_host(endpoint: &str, ip: Ipv4Addr) -> String {
    format!("WorkloadEndpoint {endpoint}: its address {ip} is a node's; it goes to the host")
}
