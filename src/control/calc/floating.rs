//! Floating IPs: addresses that stand for a pod's own. The pod's node has its packet filter translate them, other nodes
//! send to that node. Pods ask for them freely, so they never take the place of an address that somebody has.

use super::blocks::Blocks;
use super::nodes::Nodes;
use super::pools::Pools;
use super::rules;
use super::workloads::Object;
use crate::control::cluster::Cluster;
use crate::control::desired::Route;
use crate::control::model::{Pod, WorkloadEndpoint, endpoint_name};
use ipnet::Ipv4Net;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What a floating IP is to stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// Where the pod is.
    pub node: Arc<str>,
    /// The pod's own address.
    pub to: Ipv4Addr,
}

/// An object's claims by floating IP.
pub(super) type Claims = BTreeMap<Ipv4Addr, Claim>;

/// All claims.
#[derive(Default)]
pub(super) struct Floating {
    by_object: FxHashMap<Object, Claims>,
    by_address: BTreeMap<Ipv4Addr, BTreeMap<Object, Claim>>,
}

/// What an address is besides.
pub(super) enum Taken {
    Node,
    Endpoint(Arc<str>),
    /// A pod's on this node, which is another one.
    Workload(Arc<str>),
    /// In use by an IPAMBlock's word.
    Block(String),
}

/// Of several for one address the first in `ipNATs` counts.
pub(super) fn of_endpoint(e: &WorkloadEndpoint) -> Claims {
    let node: Arc<str> = e.node.as_str().into();
    let mut out = Claims::new();
    for nat in &e.floating_ips {
        if let (IpAddr::V4(external), IpAddr::V4(to)) = (nat.external, nat.internal) {
            out.entry(external).or_insert_with(|| Claim { node: node.clone(), to });
        }
    }
    out
}

/// They stand for the pod's first IPv4 address.
pub(super) fn of_pod(p: &Pod) -> Claims {
    let v4 = |ip: &IpAddr| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None };
    let (Some(node), Some(to), false) = (p.node.as_deref(), p.addresses.iter().find_map(v4), p.host_network) else { return Claims::new() };
    let node: Arc<str> = node.into();
    p.floating_ips.iter().filter_map(v4).map(|ip| (ip, Claim { node: node.clone(), to })).collect()
}

impl Floating {
    /// Of all objects.
    pub fn new(cluster: &Cluster) -> Floating {
        let mut all = Floating::default();
        for (name, e) in &cluster.endpoints {
            all.set(&Object::Endpoint(name.clone()), of_endpoint(e));
        }
        for (name, p) in &cluster.pods {
            all.set(&Object::Pod(name.clone()), of_pod(p));
        }
        all
    }

    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Replaces an object's claims; what they were.
    pub fn set(&mut self, object: &Object, new: Claims) -> Claims {
        let old = self.by_object.remove(object).unwrap_or_default();
        for ip in old.keys() {
            if let Some(claims) = self.by_address.get_mut(ip) {
                claims.remove(object);
                if claims.is_empty() {
                    self.by_address.remove(ip);
                }
            }
        }
        for (ip, claim) in &new {
            self.by_address.entry(*ip).or_default().insert(object.clone(), claim.clone());
        }
        if !new.is_empty() {
            self.by_object.insert(object.clone(), new);
        }
        old
    }

    pub fn of(&self, object: &Object) -> Option<&Claims> {
        self.by_object.get(object)
    }

    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.by_address.keys().copied()
    }

    pub fn within(&self, net: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
        self.by_address.range(net.network()..=net.broadcast()).map(|(ip, _)| *ip)
    }

    /// The route of a floating IP with the address that it stands for, and what this node has to say about it. The first
    /// object counts, endpoints before pods, then by name; `local` are this node's endpoints by address.
    pub fn decide(
        &self,
        ip: Ipv4Addr,
        taken: Option<&Taken>,
        nodes: &Nodes,
        pools: &Pools,
        local: &BTreeMap<Ipv4Addr, Arc<str>>,
    ) -> (Option<(Route, Ipv4Addr)>, Vec<String>) {
        let Some(claims) = self.by_address.get(&ip) else { return (None, Vec::new()) };
        let Some((first, counting)) = claims.first_key_value() else { return (None, Vec::new()) };
        let pooled = pools.covering(ip.into()).is_some();
        let route = if taken.is_some() {
            None
        } else if counting.node == nodes.me {
            local.get(&counting.to).map(|endpoint| Route::Floating { endpoint: endpoint.clone(), address: counting.to })
        } else {
            // What the pools do not contain is not the cluster's to give away on every node.
            let pool = pools.covering(counting.to.into()).filter(|_| pooled);
            pool.map(|pool| rules::to_node(nodes, pool, &counting.node, false))
        };
        let fault = |claim: &Claim| match taken {
            Some(Taken::Node) => Some("is a node's address; it goes to the node".into()),
            Some(Taken::Endpoint(other)) => Some(format!("is the address of WorkloadEndpoint {other}; it goes there")),
            Some(Taken::Workload(node)) => Some(format!("is the address of a pod on node {node}; it goes there")),
            Some(Taken::Block(block)) => Some(format!("is in use by IPAMBlock {block}; it goes there")),
            None if claim != counting => Some(format!("is {}'s; it goes there", name(first, counting))),
            None if !pooled => Some("is in no IPPool: other nodes do not route it to the pod".into()),
            None => None,
        };
        let own = claims.iter().filter(|(_, c)| c.node == nodes.me);
        let lines = own.filter_map(|(object, c)| Some(format!("WorkloadEndpoint {}: its floating IP {ip} {}", name(object, c), fault(c)?)));
        (route.map(|r| (r, counting.to)), lines.collect())
    }
}

/// The name of the endpoint that an object is, or stands for.
fn name(object: &Object, claim: &Claim) -> String {
    match object {
        Object::Endpoint(name) => name.clone(),
        Object::Pod(name) => {
            let (namespace, pod) = name.split_once('/').unwrap_or(("default", name));
            format!("{namespace}/{}", endpoint_name(&claim.node, pod))
        }
    }
}

/// What an address is besides a floating one, where routes follow from blocks.
pub(super) fn in_block(blocks: &Blocks, pools: &Pools, ip: Ipv4Addr) -> Option<Taken> {
    blocks.in_use(ip, |cidr| pools.covering(cidr).is_some()).map(|name| Taken::Block(name.to_owned()))
}
