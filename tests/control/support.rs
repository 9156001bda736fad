//! Short ways to write clusters and to read what comes out.

use ipnet::{IpNet, Ipv4Net};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use tortie::control::calc;
use tortie::control::cluster::Cluster;
use tortie::control::desired::{Desired, Route};
use tortie::control::model;

/// The state that a text of manifests describes; every object in it must be right.
pub fn cluster(text: &str) -> Cluster {
    let manifest = model::parse(text).unwrap();
    assert!(manifest.nameless.is_empty() && manifest.ignored.is_empty(), "{manifest:?}");
    let mut out = Cluster::default();
    for entry in manifest.entries {
        out.insert(entry.key.clone(), entry.object.unwrap_or_else(|e| panic!("{}: {e}", entry.key)));
    }
    out
}

pub fn desired(text: &str, node: &str) -> Desired {
    calc::desired(&cluster(text), node)
}

/// The warnings in order.
pub fn warnings(d: &Desired) -> Vec<&str> {
    d.warnings.iter().map(String::as_str).collect()
}

/// Kind, subject and parties of each conflict.
pub fn conflicts(d: &Desired) -> Vec<(&str, &str, Vec<String>)> {
    d.conflicts.iter().map(|c| (c.kind.name(), c.subject.as_str(), c.parties.clone())).collect()
}

/// A `projectcalico.org/v3` Node.
pub fn node(name: &str, address: &str, vxlan: Option<&str>) -> String {
    let tunnel = vxlan.map_or(String::new(), |a| format!(", ipv4VXLANTunnelAddr: {a}"));
    format!(
        "---\n{{apiVersion: projectcalico.org/v3, kind: Node, metadata: {{name: {name}}}, spec: {{bgp: {{ipv4Address: {address}}}{tunnel}}}}}\n"
    )
}

/// An IPPool; `mode` is further fields of its spec.
pub fn pool(name: &str, cidr: &str, mode: &str) -> String {
    format!("---\n{{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {{name: {name}}}, spec: {{cidr: {cidr}, {mode}}}}}\n")
}

/// An IPAMBlock with the given affinity (empty for none) and addresses in use, each with its node.
pub fn block(cidr: &str, affinity: &str, used: &[(&str, &str)]) -> String {
    let net: Ipv4Net = cidr.parse().unwrap();
    let mut slots = vec!["null".to_owned(); 1 << (32 - net.prefix_len())];
    let mut attributes = Vec::new();
    for (ip, node) in used {
        let ordinal = u32::from(ip.parse::<Ipv4Addr>().unwrap()) - u32::from(net.network());
        slots[ordinal as usize] = attributes.len().to_string();
        attributes.push(if node.is_empty() {
            "{handle_id: h}".to_owned()
        } else {
            format!("{{handle_id: h, secondary: {{node: {node}}}}}")
        });
    }
    let affinity = if affinity.is_empty() { String::new() } else { format!("affinity: '{affinity}', ") };
    format!(
        "---\n{{apiVersion: crd.projectcalico.org/v1, kind: IPAMBlock, metadata: {{name: {}}}, spec: {{cidr: {cidr}, {affinity}deleted: false, strictAffinity: false, \
         allocations: [{}], attributes: [{}], unallocated: []}}}}\n",
        cidr.replace(['.', '/'], "-"),
        slots.join(", "),
        attributes.join(", ")
    )
}

/// A WorkloadEndpoint in namespace `default` whose interface is derived from its pod.
pub fn endpoint(pod: &str, node: &str, ip: &str) -> String {
    format!(
        "---\n{{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {{name: {pod}, namespace: default}}, \
         spec: {{node: {node}, pod: {pod}, endpoint: eth0, ipNetworks: [{ip}/32]}}}}\n"
    )
}

/// `ip route`'s columns: prefix, kind, via; the interface for local endpoints.
pub fn table(d: &Desired) -> Vec<String> {
    let mut out = Vec::new();
    for (prefix, route) in &d.routes {
        let mut line = format!("{prefix} {}", route.kind());
        if let Some(via) = route.via() {
            write!(line, " via {via}").unwrap();
        }
        match route {
            Route::Local { endpoint } => write!(line, " dev {}", d.endpoints[endpoint].interface).unwrap(),
            Route::Drop { node: Some(node) } => write!(line, " node {node}").unwrap(),
            _ => {}
        }
        out.push(line);
    }
    out
}

/// The longest route for an address.
pub fn lookup<'a>(routes: &'a BTreeMap<IpNet, Route>, ip: &str) -> Option<&'a Route> {
    let ip: std::net::IpAddr = ip.parse().unwrap();
    routes.iter().filter(|(net, _)| net.contains(&ip)).max_by_key(|(net, _)| net.prefix_len()).map(|(_, route)| route)
}

/// The whole line of `table` for a prefix.
pub fn line(d: &Desired, prefix: &str) -> String {
    let lines = table(d);
    lines.iter().find(|l| l.split(' ').next() == Some(prefix)).cloned().unwrap_or_else(|| format!("{prefix} has no route in {lines:#?}"))
}
