//! The pods on this node: WorkloadEndpoint objects, and Pods that have none.

use crate::control::desired::LocalEndpoint;
use crate::control::model::{FelixConfiguration, Pod, SourceSpoofing, WorkloadEndpoint, endpoint_name, interface_name};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Whether a pod should have a port on node `me`.
pub(super) fn is_local_pod(pod: &Pod, me: &str) -> bool {
    pod.node.as_deref() == Some(me) && !pod.host_network && !pod.addresses.is_empty()
}

/// The endpoints of node `me` by name, from objects that may be other nodes' too. An interface and an address
/// belong to one endpoint only, the first by name.
pub(super) fn local(
    endpoints: &BTreeMap<String, Arc<WorkloadEndpoint>>,
    pods: &BTreeMap<String, Arc<Pod>>,
    me: &str,
    felix: &FelixConfiguration,
    warnings: &mut Vec<String>,
) -> BTreeMap<Arc<str>, LocalEndpoint> {
    let mut all: BTreeMap<Arc<str>, LocalEndpoint> = BTreeMap::new();
    let mut pods_with_endpoint = BTreeSet::new();
    for (name, endpoint) in endpoints.iter().filter(|(_, e)| e.node == me) {
        if let Some(pod) = &endpoint.pod {
            pods_with_endpoint.insert(format!("{}/{pod}", endpoint.namespace));
        }
        all.insert(name.as_str().into(), from_endpoint(name, endpoint, felix));
    }
    for (name, pod) in pods.iter().filter(|(name, p)| is_local_pod(p, me) && !pods_with_endpoint.contains(*name)) {
        // The key of a namespaced object has both parts.
        let (namespace, pod_name) = name.split_once('/').unwrap_or(("default", name));
        let key = format!("{namespace}/{}", endpoint_name(me, pod_name));
        all.insert(key.into(), from_pod(name, interface_name(felix.interface_prefix(), namespace, pod_name), pod, felix));
    }
    without_duplicates(all, warnings)
}

fn from_endpoint(name: &str, endpoint: &WorkloadEndpoint, felix: &FelixConfiguration) -> LocalEndpoint {
    let addresses = ipv4(&endpoint.addresses);
    LocalEndpoint {
        workload: endpoint.workload_name(name),
        interface: endpoint.interface_name(felix.interface_prefix()),
        netns: endpoint.netns.clone(),
        limited: endpoint.limited,
        sources: sources(&addresses, &endpoint.spoofed_sources, felix),
        addresses,
        mac: endpoint.mac,
    }
}

fn from_pod(name: &str, interface: String, pod: &Pod, felix: &FelixConfiguration) -> LocalEndpoint {
    let addresses = ipv4(&pod.addresses);
    LocalEndpoint {
        workload: name.to_owned(),
        interface,
        netns: pod.netns.clone(),
        limited: pod.limited,
        sources: sources(&addresses, &pod.spoofed_sources, felix),
        addresses,
        mac: pod.mac,
    }
}

fn ipv4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    addresses.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).collect()
}

/// Its own addresses, and what it asks for besides if the cluster lets workloads ask.
fn sources(addresses: &[Ipv4Addr], spoofed: &[IpNet], felix: &FelixConfiguration) -> Vec<Ipv4Net> {
    let mut out: Vec<Ipv4Net> = addresses.iter().map(|a| Ipv4Net::from(*a)).collect();
    if felix.source_spoofing == Some(SourceSpoofing::Any) {
        out.extend(spoofed.iter().filter_map(|n| if let IpNet::V4(n) = n { Some(*n) } else { None }));
    }
    out
}

fn without_duplicates(all: BTreeMap<Arc<str>, LocalEndpoint>, warnings: &mut Vec<String>) -> BTreeMap<Arc<str>, LocalEndpoint> {
    let mut interfaces: BTreeMap<String, Arc<str>> = BTreeMap::new();
    let mut holders: BTreeMap<Ipv4Addr, Arc<str>> = BTreeMap::new();
    let mut out = BTreeMap::new();
    for (name, mut endpoint) in all {
        if let Some(other) = interfaces.get(&endpoint.interface) {
            warnings.push(format!("WorkloadEndpoint {name}: its interface {} is {other}'s; it is left out", endpoint.interface));
            continue;
        }
        let (lost, kept) = endpoint.addresses.iter().partition::<Vec<_>, _>(|ip| holders.contains_key(*ip));
        for ip in &lost {
            warnings.push(format!("WorkloadEndpoint {name}: its address {ip} is {}'s; it goes there", holders[ip]));
        }
        endpoint.sources.retain(|s| s.prefix_len() < 32 || !lost.contains(&s.addr()));
        endpoint.addresses = kept;
        interfaces.insert(endpoint.interface.clone(), name.clone());
        holders.extend(endpoint.addresses.iter().map(|ip| (*ip, name.clone())));
        out.insert(name, endpoint);
    }
    out
}
