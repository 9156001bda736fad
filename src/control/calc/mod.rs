//! What should be in force on a node, as a function of the cluster's state: the same state gives the same answer
//! however it came about. [`desired`] calculates it from nothing, [`Calculator`] brings it up to date object by
//! object.

mod blocks;
mod calculator;
mod endpoints;
mod floating;
mod nodes;
mod pools;
mod routes;
mod rules;
mod warnings;
mod workloads;

pub use calculator::Calculator;

use super::cluster::Cluster;
use super::desired::Desired;
use nodes::Nodes;
use pools::Pools;

/// Everything that should be in force on node `node`. Without an underlay address of its own nothing is:
/// the answer then only says so.
pub fn desired(cluster: &Cluster, node: &str) -> Desired {
    let (mut warnings, mut conflicts) = (Vec::new(), Vec::new());
    let felix = cluster.felix_for(node);
    let pools = Pools::new(cluster, &mut warnings);
    let nodes = Nodes::new(cluster, node);
    let Some(this) = nodes.this(&felix, &pools, &mut warnings) else {
        return Desired { warnings: [nodes.missing_address()].into(), ..Desired::default() };
    };
    let endpoints = endpoints::local(&cluster.endpoints, &cluster.pods, node, &felix, &mut warnings);
    let mut routes = routes::all(cluster, &nodes, &pools, &felix, &endpoints, &mut warnings, &mut conflicts);
    let floating = routes::floating(&mut routes, cluster, &nodes, &pools, &felix, &endpoints, &mut warnings);
    let external = nodes::external(&felix, &mut warnings);
    conflicts.extend(nodes.contested().iter().filter_map(|s| nodes.conflict(s)));
    Desired {
        node: Some(this),
        routes,
        vteps: nodes.vteps(),
        endpoints,
        floating,
        nodes: nodes.addresses(),
        senders: nodes.senders(&external),
        pools: pools.cidrs(),
        warnings: warnings.into_iter().collect(),
        conflicts: conflicts.into_iter().collect(),
    }
}
