//! What metrics are made from. Asked for every few seconds: nothing here is written out per route or neighbour.

use super::Daemon;
use crate::control::cluster::Cluster;
use crate::control::facts::{Figures, PEERS, PeerFact};
use crate::control::model::{Pod, WorkloadEndpoint};
use crate::control::netlink::routes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How large the cluster is. Counted anew when its state has changed and somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct Census {
    nodes: usize,
    /// WorkloadEndpoints, and Pods with an address of their own that have none.
    workloads: usize,
}

impl Census {
    fn of(cluster: &Cluster) -> Census {
        let pod = |e: &WorkloadEndpoint| e.pod.as_ref().map(|p| format!("{}/{p}", e.namespace));
        let with_endpoint: BTreeSet<String> = cluster.endpoints.values().filter_map(|e| pod(e)).collect();
        let counts = |(name, p): &(&String, &Arc<Pod>)| !p.host_network && !p.addresses.is_empty() && !with_endpoint.contains(*name);
        let alone = cluster.pods.iter().filter(counts).count();
        Census { nodes: cluster.all_nodes().len(), workloads: cluster.endpoints.len() + alone }
    }
}

impl Daemon {
    /// The figures now.
    pub(super) fn figures(&mut self) -> Figures {
        let census = *self.census.get_or_insert_with(|| Census::of(&self.cluster));
        let desired = self.calculator.desired();
        let (peers, peers_omitted) = self.first_peers();
        let mut kinds: BTreeMap<&'static str, u64> = BTreeMap::new();
        for i in self.planner.installed().values() {
            *kinds.entry(i.route.kind()).or_default() += 1;
        }
        let mut conflicts = [0; _];
        for p in self.conflicts.present() {
            conflicts[p.conflict.kind.index()] += 1;
        }
        Figures {
            generation: self.planner.generation(),
            ports: self.port_uses().map(|u| u.port).collect(),
            past_ports: self.ports.past().clone(),
            peers,
            peers_omitted,
            routes: kinds,
            vteps: desired.vteps.len(),
            pod_mtu: self.pod_mtu(),
            problems: desired.warnings.len() + self.other_problems().count(),
            conflicts,
            nodes: census.nodes,
            workloads: census.workloads,
            host_flows: self.planner.flows().len(),
            host_routes: self.netlink.view().routes.iter().filter(|r| r.protocol == routes::PROTOCOL).count(),
        }
    }

    /// The first by name of the nodes that are counted, and how many more there are.
    fn first_peers(&self) -> (Vec<PeerFact>, usize) {
        let counted = self.planner.peers();
        let nodes = self.cluster.all_nodes().into_iter();
        let mut all = nodes.filter_map(|(name, n)| {
            let address = n.address?.addr();
            Some((name, address, *counted.get(&address)?))
        });
        let first = all.by_ref().take(PEERS).map(|(name, address, counted)| PeerFact { node: Some(name.to_owned()), address, counted });
        let first = first.collect();
        (first, all.count())
    }
}
