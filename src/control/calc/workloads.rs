//! The pods of other nodes address by address, for clusters whose routes follow from them.

use crate::control::cluster::Cluster;
use crate::control::model::{Pod, WorkloadEndpoint};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Where an address was found. Endpoints count before pods, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Object {
    Endpoint(String),
    Pod(String),
}

/// An address and the node that it is on.
pub(super) type Held = Vec<(Ipv4Addr, Arc<str>)>;

#[derive(Default)]
pub(super) struct Workloads {
    by_object: FxHashMap<Object, Held>,
    by_address: BTreeMap<(Ipv4Addr, Object), Arc<str>>,
}

/// What an object on a node holds.
fn held(node: &str, addresses: &[IpAddr]) -> Held {
    let node: Arc<str> = node.into();
    addresses.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some((*ip, node.clone())) } else { None }).collect()
}

/// What an endpoint on a node that is not `me` holds.
pub(super) fn of_endpoint(e: &WorkloadEndpoint, me: &str) -> Held {
    if *e.node == *me { Held::new() } else { held(&e.node, &e.addresses) }
}

/// The same of a pod.
pub(super) fn of_pod(p: &Pod, me: &str) -> Held {
    match p.node.as_deref().filter(|node| *node != me && !p.host_network) {
        Some(node) => held(node, &p.addresses),
        None => Held::new(),
    }
}

impl Workloads {
    /// All that is on other nodes than `me`.
    pub fn elsewhere(cluster: &Cluster, me: &str) -> Workloads {
        let mut all = Workloads::default();
        for (name, e) in &cluster.endpoints {
            all.set(&Object::Endpoint(name.clone()), &of_endpoint(e, me));
        }
        for (name, p) in &cluster.pods {
            all.set(&Object::Pod(name.clone()), &of_pod(p, me));
        }
        all
    }

    /// Replaces what an object holds; what it held.
    pub fn set(&mut self, object: &Object, new: &Held) -> Held {
        let old = self.by_object.remove(object).unwrap_or_default();
        for (ip, _) in &old {
            self.by_address.remove(&(*ip, object.clone()));
        }
        for (ip, node) in new {
            self.by_address.insert((*ip, object.clone()), node.clone());
        }
        if !new.is_empty() {
            self.by_object.insert(object.clone(), new.clone());
        }
        old
    }

    pub fn get(&self, object: &Object) -> Option<&Held> {
        self.by_object.get(object)
    }

    /// The node that an address is on.
    pub fn node(&self, ip: Ipv4Addr) -> Option<&Arc<str>> {
        let from = (ip, Object::Endpoint(String::new()));
        self.by_address.range(from..).next().filter(|((a, _), _)| *a == ip).map(|(_, node)| node)
    }
}
