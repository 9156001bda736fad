//! The rules by which Calico's kube-controllers find leaked addresses, as an oracle: what they do not find stays lost.

use crate::control::ipam::{Allocated, ListedPod, Listing, ReleaseRequest};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Default of `leakGracePeriod`.
pub const GRACE: SignedDuration = SignedDuration::from_mins(15);

/// Remembers since when an allocation looks leaked.
#[derive(Default)]
pub struct GarbageCollector {
    suspects: BTreeMap<(IpAddr, String, u64), Timestamp>,
}

impl GarbageCollector {
    /// What is to be released now. An allocation must look leaked in two observations, [`GRACE`] apart, unless its node
    /// is gone; and all allocations of a handle must.
    pub fn observe(&mut self, listing: &Listing, now: Timestamp) -> Vec<ReleaseRequest> {
        let mut suspects = BTreeMap::new();
        let (mut leaks, mut valid_handles) = (Vec::new(), BTreeSet::new());
        let held: Vec<Allocated> = listing.blocks.iter().flat_map(|b| b.allocated()).collect();
        let busy = nodes_with_valid_pods(listing, &held);
        for a in held.iter().filter(|a| a.attribute.released.is_none() && !a.attribute.is_windows_reserved()) {
            let handle = a.attribute.handle.clone().unwrap_or_default();
            let id = (a.address, handle.clone(), a.sequence.unwrap_or(0));
            let node_exists = a.attribute.node().is_none_or(|n| listing.nodes.contains_key(n));
            let valid =
                if is_tunnel(a) { node_exists || a.attribute.node().is_some_and(|n| busy.contains(n)) } else { is_valid_pod(listing, a) };
            let since = self.suspects.get(&id).copied().unwrap_or(now);
            if valid {
                valid_handles.insert(handle);
                continue;
            }
            suspects.insert(id, since);
            if !node_exists || now.duration_since(since) > GRACE {
                leaks.push(ReleaseRequest { address: a.address, handle: Some(handle), sequence: a.sequence });
            } else {
                valid_handles.insert(handle);
            }
        }
        self.suspects = suspects;
        leaks.retain(|l| !valid_handles.contains(l.handle.as_deref().unwrap_or_default()));
        leaks
    }
}

fn is_tunnel(a: &Allocated) -> bool {
    a.attribute.active.get("type").is_some_and(|t| t.ends_with("TunnelAddress"))
}

/// A node's tunnel addresses stay as long as anything on it is in use.
fn nodes_with_valid_pods(listing: &Listing, held: &[Allocated]) -> BTreeSet<String> {
    let valid = held.iter().filter(|a| !is_tunnel(a) && is_valid_pod(listing, a));
    valid.filter_map(|a| a.attribute.node().map(str::to_owned)).collect()
}

/// Without the attributes that tell, an allocation is taken for valid.
fn is_valid_pod(listing: &Listing, a: &Allocated) -> bool {
    let get = |key: &str| a.attribute.active.get(key).map(String::as_str).filter(|v| !v.is_empty());
    let (Some(namespace), Some(name)) = (get("namespace"), get("pod")) else { return true };
    let is_it = |p: &&ListedPod| p.namespace == namespace && p.name == name;
    let Some(found) = listing.pods.iter().find(is_it) else { return false };
    let moved = a.attribute.node().zip(found.pod.node.as_deref()).is_some_and(|(was, is)| was != is);
    !moved && !found.finished && (found.pod.addresses.is_empty() || found.pod.addresses.contains(&a.address))
}
