//! What should be in force on a node, as a pure function of the cluster's state: the same state gives the
//! same answer however it came about.

mod endpoints;
mod nodes;
mod routes;

use super::cluster::Cluster;
use super::desired::Desired;
use nodes::Nodes;
use routes::Pools;

/// Everything that should be in force on node `node`. Without an underlay address of its own nothing is:
/// the answer then only says so.
pub fn desired(cluster: &Cluster, node: &str) -> Desired {
    let mut warnings = Vec::new();
    let felix = cluster.felix_for(node);
    let pools = Pools::new(cluster, &mut warnings);
    let nodes = Nodes::new(cluster, node, &mut warnings);
    let Some(this) = nodes.this(&felix, &pools, &mut warnings) else {
        warnings.push(nodes.missing_address());
        return Desired { warnings, ..Desired::default() };
    };
    let endpoints = endpoints::local(cluster, node, &felix, &mut warnings);
    let routes = routes::all(cluster, &nodes, &pools, &felix, &endpoints, &mut warnings);
    Desired {
        node: Some(this),
        routes,
        vteps: nodes.vteps(&mut warnings),
        endpoints,
        nodes: nodes.addresses(),
        senders: nodes.senders(&felix, &mut warnings),
        pools: pools.cidrs(),
        warnings,
    }
}
