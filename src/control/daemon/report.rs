//! Tells people: the facts for the API, and each problem once in the log.

use super::Daemon;
use crate::control::cluster::Cluster;
use crate::control::facts::{Facts, NeighFact, RouteFact};
use crate::control::model::{Monitoring, Pod};
use crate::control::netlink::{NeighState, routes};
use crate::control::plan;
use crate::control::ports::{Key, PortFact};
use crate::frame::PortId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How large the cluster is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub nodes: usize,
    /// WorkloadEndpoints, and Pods with an address of their own that have none.
    pub workloads: usize,
}

impl Census {
    pub fn of(cluster: &Cluster) -> Census {
        let pod = |e: &crate::control::model::WorkloadEndpoint| e.pod.as_ref().map(|p| format!("{}/{p}", e.namespace));
        let with_endpoint: BTreeSet<String> = cluster.endpoints.values().filter_map(|e| pod(e)).collect();
        let counts = |(name, p): &(&String, &Arc<Pod>)| !p.host_network && !p.addresses.is_empty() && !with_endpoint.contains(*name);
        let alone = cluster.pods.iter().filter(counts).count();
        Census { nodes: cluster.all_nodes().len(), workloads: cluster.endpoints.len() + alone }
    }
}

impl Daemon {
    /// Refreshes the facts; logs problems that are new and those that are over.
    pub(super) fn report(&mut self) {
        let problems = self.problems();
        let now: BTreeSet<String> = problems.iter().cloned().collect();
        now.difference(&self.told).for_each(|p| tracing::warn!("{p}"));
        self.told.difference(&now).for_each(|p| tracing::info!("no longer: {p}"));
        self.told = now;
        let facts = self.facts(problems);
        self.shared.set(facts);
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let store = self.store.problems().iter().map(ToString::to_string);
        let all = store.chain(self.desired.warnings.iter().cloned()).chain(self.ports.problems());
        all.chain(self.plan_problems.iter().cloned()).chain(self.host_problems.iter().cloned()).collect()
    }

    fn facts(&self, problems: Vec<String>) -> Facts {
        let node = self.desired.node.as_ref();
        let mut ports = self.ports.facts();
        for name in ports.iter_mut().filter_map(|p| p.workload.as_mut()) {
            if let Some(e) = self.desired.endpoints.get(name) {
                name.clone_from(&e.workload);
            }
        }
        let uplink_mtu = self.netlink.view().link_by_name(&self.config.uplink.interface).map(|l| plan::mtu16(l.mtu));
        Facts {
            node: self.config.node.clone(),
            uplink: self.config.uplink.interface.clone(),
            in_sync: self.in_sync,
            generation: self.planner.generation(),
            address: node.map(|n| n.address.addr()),
            tunnel_address: node.and_then(|n| n.tunnel_address),
            pod_mtu: node.zip(uplink_mtu).map(|(n, mtu)| plan::pod_mtu(n, mtu)),
            vni: node.map_or(0, |n| n.vni.get()),
            routes: self.routes(&ports),
            vteps: self.desired.vteps.values().cloned().collect(),
            neighbours: self.neighbours(),
            ports,
            problems,
            nodes: self.census.nodes,
            workloads: self.census.workloads,
            host_routes: self.netlink.view().routes.iter().filter(|r| r.protocol == routes::PROTOCOL).count(),
            past_ports: self.ports.past().clone(),
            past_peers: self.planner.past().clone(),
            monitoring: self.monitoring(),
        }
    }

    /// The node's own configuration over the cluster's.
    pub(super) fn monitoring(&self) -> Monitoring {
        self.config.monitoring.over(&self.cluster.felix_for(&self.config.node).monitoring)
    }

    fn routes(&self, ports: &[PortFact]) -> Vec<RouteFact> {
        let names: BTreeMap<PortId, &str> = ports.iter().map(|p| (p.id, p.name.as_str())).collect();
        let row = |(prefix, i): (&ipnet::Ipv4Net, &plan::Installed)| RouteFact {
            prefix: *prefix,
            route: i.route.clone(),
            port: names.get(&i.adjacency.port).map(|n| (*n).to_owned()),
            mtu: plan::sends(&i.adjacency).then_some(i.adjacency.mtu).filter(|m| *m != u16::MAX),
            id: i.id,
            base: i.base,
            node_base: i.node_base,
        };
        self.planner.installed().iter().map(row).collect()
    }

    /// VTEPs, then what the kernel knows of other nodes on the uplink, then pods.
    fn neighbours(&self) -> Vec<NeighFact> {
        let uplink = &self.config.uplink.interface;
        let mut out = Vec::new();
        for v in self.desired.vteps.values() {
            out.push(NeighFact {
                address: v.tunnel_address,
                dev: uplink.clone(),
                mac: Some(v.mac),
                state: NeighState::Permanent.name(),
                node: Some(v.node.clone()),
            });
        }
        let names: BTreeMap<Ipv4Addr, &str> = self.desired.routes.values().filter_map(|r| r.underlay().zip(r.node())).collect();
        let view = self.netlink.view();
        if let Some(dev) = view.link_by_name(uplink).map(|l| l.index) {
            let used = |a: &Ipv4Addr| self.desired.nodes.contains(a) || self.resolver.uses(dev, *a);
            for ((_, address), n) in view.neighbours.iter().filter(|((d, a), _)| *d == dev && used(a)) {
                out.push(NeighFact {
                    address: *address,
                    dev: uplink.clone(),
                    mac: n.mac,
                    state: n.state.name(),
                    node: names.get(address).map(|n| (*n).to_owned()),
                });
            }
        }
        let known = self.ports.ports();
        for (key, wish) in self.ports.wishes() {
            let Key::Workload(name) = key else { continue };
            let Some(e) = self.desired.endpoints.get(name) else { continue };
            let open = known.workloads.get(name);
            let fixed = e.mac.filter(|_| open.is_none_or(|w| w.mac.is_none()));
            let mac = open.and_then(|w| w.mac).or(fixed);
            let state = match mac {
                Some(_) if fixed.is_some() || wish.netns.is_some() => NeighState::Permanent,
                Some(_) => NeighState::Reachable,
                None => NeighState::Incomplete,
            };
            for address in &e.addresses {
                let node = Some(self.config.node.clone());
                out.push(NeighFact { address: *address, dev: wish.interface.clone(), mac, state: state.name(), node });
            }
        }
        out
    }
}
