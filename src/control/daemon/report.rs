//! Tells people: the facts for the API, and each problem once in the log.

use super::Daemon;
use crate::control::cluster::Cluster;
use crate::control::config::Config;
use crate::control::conflict::Present;
use crate::control::desired::{Delta, LocalEndpoint, Route};
use crate::control::facts::{EndpointFact, Facts, Inventory, NeighFact, PeerFact, PortUse, RouteFact};
use crate::control::logging::{self, Level};
use crate::control::model::Monitoring;
use crate::control::netlink::NeighState;
use crate::control::origins;
use crate::control::plan;
use crate::control::ports::{Key, PortFact, Wish};
use crate::frame::PortId;
use crate::ops::view::ConflictRow;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

impl Daemon {
    /// Logs problems that are new and those that are over; says where metrics and health are to be served.
    pub(super) fn report(&mut self, delta: &Delta) {
        self.shared.set_monitoring(monitoring(&self.config, &self.cluster));
        if let Some(log) = logging::get() {
            log.configure(log_level(&self.config, &self.cluster));
        }
        self.tell_node();
        if delta.has_warnings() {
            tell(&mut self.told[0], self.calculator.desired().warnings.clone());
        }
        let others = self.other_problems().collect();
        tell(&mut self.told[1], others);
        self.report_conflicts();
    }

    /// Logs conflicts that are new and those that are over, and has them written to the cluster.
    pub(super) fn report_conflicts(&mut self) {
        let all = self.conflicts.present().map(|p| format!("conflict: {}", p.line)).collect();
        tell(&mut self.told[2], all);
        self.announce_conflicts();
    }

    /// Problems that are not the calculation's.
    pub(super) fn other_problems(&self) -> impl Iterator<Item = String> {
        let store = self.store.problems().iter().map(ToString::to_string);
        let own: Vec<String> = self.node.report().problems().cloned().collect();
        store
            .chain(self.ports.problems())
            .chain(self.plan_problems.iter().chain(self.host.problems()).cloned())
            .chain(own)
            .chain(self.nat.problem())
    }

    /// What is in force now.
    pub(super) fn facts(&self) -> Facts {
        let desired = self.calculator.desired();
        let node = desired.node.as_ref();
        let ports: Vec<PortFact> = self.port_uses().map(|u| u.port).collect();
        Facts {
            node: self.config.node.clone(),
            uplink: self.uplink.clone(),
            in_sync: self.in_sync,
            generation: self.planner.generation(),
            address: node.map(|n| n.address.addr()),
            tunnel_address: node.and_then(|n| n.tunnel_address),
            pod_mtu: self.pod_mtu(),
            vni: node.map_or(0, |n| n.vni.get()),
            routes: self.routes(&ports),
            vteps: desired.vteps.values().cloned().collect(),
            neighbours: self.neighbours(),
            ports,
            endpoints: self.endpoints(),
            config: origins::rows(&self.config, &self.cluster, &self.node.report(), &self.uplink, self.pod_mtu()),
            problems: desired.warnings.iter().cloned().chain(self.other_problems()).collect(),
            conflicts: self.conflicts.present().map(conflict_row).collect(),
        }
    }

    /// What counters are kept of now.
    pub(super) fn inventory(&self) -> Inventory {
        Inventory {
            node: self.config.node.clone(),
            in_sync: self.in_sync,
            generation: self.planner.generation(),
            routes: self.planner.installed().len(),
            ports: self.port_uses().collect(),
            peers: self.peers(),
        }
    }

    /// Ports, those of workloads under the names of their pods.
    pub(super) fn port_uses(&self) -> impl Iterator<Item = PortUse> {
        self.ports.facts().into_iter().map(|mut port| {
            let endpoint = port.workload.as_deref().and_then(|name| self.calculator.desired().endpoints.get(name));
            if let Some(e) = endpoint {
                port.workload = Some(e.workload.clone());
            }
            PortUse { port, addresses: endpoint.map(|e| e.addresses.clone()).unwrap_or_default() }
        })
    }

    fn peers(&self) -> Vec<PeerFact> {
        let nodes = self.cluster.all_nodes();
        let names: BTreeMap<Ipv4Addr, &str> = nodes.iter().filter_map(|(name, n)| Some((n.address?.addr(), *name))).collect();
        let row = |(address, peer): (&Ipv4Addr, &plan::Peer)| PeerFact {
            node: names.get(address).map(|n| (*n).to_owned()),
            address: *address,
            counted: *peer,
        };
        self.planner.peers().iter().map(row).collect()
    }

    /// What pods are to use; `None` until this node and its uplink are known.
    pub(super) fn pod_mtu(&self) -> Option<u16> {
        let (view, uplink) = (self.netlink.view(), &self.uplink);
        let node = self.calculator.desired().node.as_ref().filter(|_| view.link_by_name(uplink).is_some())?;
        Some(plan::pod_mtu(node, plan::host_mtu(node, view, uplink)))
    }

    fn routes(&self, ports: &[PortFact]) -> Vec<RouteFact> {
        let names: BTreeMap<PortId, &str> = ports.iter().map(|p| (p.id, p.name.as_str())).collect();
        let row = |(prefix, i): (&ipnet::Ipv4Net, &plan::Installed)| RouteFact {
            prefix: *prefix,
            route: i.route.clone(),
            port: names.get(&self.planner.adjacency(i).port).map(|n| (*n).to_owned()),
            mtu: plan::sends(self.planner.adjacency(i)).then_some(self.planner.adjacency(i).mtu).filter(|m| *m != u16::MAX),
            id: i.id,
            base: i.base,
        };
        self.planner.installed().iter().map(row).collect()
    }

    fn endpoints(&self) -> Vec<EndpointFact> {
        let wishes: BTreeMap<&Key, &Wish> = self.ports.wishes().collect();
        let row = |(name, e): (&std::sync::Arc<str>, &LocalEndpoint)| {
            let key = Key::Workload(name.to_string());
            let wish = wishes.get(&key);
            let routed = |a: &Ipv4Addr| {
                let installed = self.planner.installed().get(&Ipv4Net::from(*a));
                installed.is_some_and(|i| matches!(&i.route, Route::Local { endpoint } if **endpoint == **name))
            };
            EndpointFact {
                name: name.to_string(),
                workload: e.workload.clone(),
                interface: e.interface.clone(),
                ifindex: wish.map_or(0, |w| w.ifindex),
                netns: wish.and_then(|w| w.netns.clone()),
                addresses: e.addresses.clone(),
                ready: self.ports.is_up(&key) && e.addresses.iter().all(routed),
            }
        };
        self.calculator.desired().endpoints.iter().map(row).collect()
    }

    /// VTEPs, then what the kernel knows of other nodes on the uplink, then pods.
    fn neighbours(&self) -> Vec<NeighFact> {
        let uplink = &self.uplink;
        let desired = self.calculator.desired();
        let mut out = Vec::new();
        for v in desired.vteps.values() {
            out.push(NeighFact {
                address: v.tunnel_address,
                dev: uplink.clone(),
                mac: Some(v.mac),
                state: NeighState::Permanent.name(),
                node: Some(v.node.to_string()),
            });
        }
        let names: BTreeMap<Ipv4Addr, &str> = desired.routes.values().filter_map(|r| r.underlay().zip(r.node())).collect();
        let view = self.netlink.view();
        if let Some(dev) = view.link_by_name(uplink).map(|l| l.index) {
            let used = |a: &Ipv4Addr| desired.nodes.contains(a) || self.resolver.uses(dev, *a);
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
            let Some(e) = desired.endpoints.get(name.as_str()) else { continue };
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

fn conflict_row(p: &Present) -> ConflictRow {
    let c = &p.conflict;
    ConflictRow {
        kind: c.kind.name().into(),
        subject: c.subject.clone(),
        parties: c.parties.clone(),
        found: c.found.clone(),
        remedy: c.remedy.clone(),
        times: p.times,
        age: p.since.elapsed().map_or(0, |d| d.as_secs()),
    }
}

/// Where metrics and health are to be served: the environment over the configuration over FelixConfiguration.
pub(super) fn monitoring(config: &Config, cluster: &Cluster) -> Monitoring {
    config.felix.monitoring.over(&config.monitoring).over(&cluster.felix_for(&config.node).monitoring)
}

/// What the log is to show: the environment over the configuration over FelixConfiguration.
pub(super) fn log_level(config: &Config, cluster: &Cluster) -> Level {
    config.felix.log.or(config.log.level).or(cluster.felix_for(&config.node).log).unwrap_or_default()
}

/// Replaces what was told, saying what is new and what is over.
fn tell(told: &mut BTreeSet<String>, now: BTreeSet<String>) {
    now.difference(told).for_each(|p| tracing::warn!("{p}"));
    told.difference(&now).for_each(|p| tracing::info!("no longer: {p}"));
    *told = now;
}
