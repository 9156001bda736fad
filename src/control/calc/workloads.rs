//! The pods of other nodes address by address, for clusters whose routes follow from them.

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
pub(super) fn held(node: &str, addresses: &[IpAddr]) -> Held {
    let node: Arc<str> = node.into();
    addresses.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some((*ip, node.clone())) } else { None }).collect()
}

impl Workloads {
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
