//! A cluster in memory, and short ways to ask for addresses.

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::cell::Cell;
use std::net::IpAddr;
use tortie::control::datastore::objects::Resource;
use tortie::control::ipam::{Assigned, AutoAssign, Block, Handle, Holder, Ipam, IpamError};
use tortie::testing::objects::MemObjects;

thread_local! {
    /// Seconds since the epoch.
    static CLOCK: Cell<i64> = const { Cell::new(1_800_000_000) };
}

pub fn now() -> Timestamp {
    Timestamp::from_second(CLOCK.get()).unwrap()
}

pub fn advance(seconds: i64) {
    CLOCK.set(CLOCK.get() + seconds);
}

/// A store with these nodes, and a pool `p` if `spec` is not null.
pub fn cluster(nodes: &[&str], spec: Value) -> MemObjects {
    let store = MemObjects::new();
    for node in nodes {
        store.put(Resource::Node, json!({"metadata": {"name": node, "labels": {"name": node}}}));
    }
    if !spec.is_null() {
        pool(&store, "p", spec);
    }
    store
}

pub fn pool(store: &MemObjects, name: &str, spec: Value) {
    store.put(Resource::IpPool, json!({"metadata": {"name": name}, "spec": spec}));
}

pub fn config(store: &MemObjects, spec: Value) {
    store.put(Resource::IpamConfiguration, json!({"metadata": {"name": "default"}, "spec": spec}));
}

pub fn ipam(store: &MemObjects, node: &str) -> Ipam<MemObjects> {
    Ipam::new(store.clone(), node).with_clock(now)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// As the CNI plugin names a pod's holder.
pub fn pod(name: &str, node: &str) -> Holder {
    let attributes = [("namespace", "default"), ("pod", name), ("node", node)];
    let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    Holder { handle: Some(format!("k8s-pod-network.{name}")), attributes }
}

/// One address for a pod.
pub async fn assign(ipam: &Ipam<MemObjects>, name: &str) -> Result<IpAddr, IpamError> {
    let assigned: Assigned = ipam.auto_assign(&AutoAssign::one(4, pod(name, ipam.node()))).await?;
    assigned.complete(4).map(|addresses| addresses[0])
}

pub fn blocks(store: &MemObjects) -> Vec<Block> {
    store.all(Resource::IpamBlock).iter().map(|b| Block::read(b).unwrap()).collect()
}

pub fn handles(store: &MemObjects) -> Vec<Handle> {
    store.all(Resource::IpamHandle).iter().map(|h| Handle::read(h).unwrap()).collect()
}

/// `CIDR owner`, in order of name.
pub fn owners(store: &MemObjects) -> Vec<String> {
    blocks(store).iter().map(|b| format!("{} {}", b.cidr, b.affinity.as_deref().unwrap_or("-"))).collect()
}

/// `NODE CIDR state`, in order of name.
pub fn affinities(store: &MemObjects) -> Vec<String> {
    let text = |a: &Value, key: &str| a["spec"][key].as_str().unwrap().to_owned();
    store.all(Resource::BlockAffinity).iter().map(|a| ["node", "cidr", "state"].map(|k| text(a, k)).join(" ")).collect()
}

/// All addresses in use, in order of block name and address, with their handles.
pub fn in_use(store: &MemObjects) -> Vec<(IpAddr, String)> {
    let held = |b: &Block| -> Vec<_> {
        let holder = |a: tortie::control::ipam::Allocated| (a.address, a.attribute.handle.clone().unwrap_or_default());
        b.allocated().filter(|a| a.attribute.released.is_none()).map(holder).collect()
    };
    blocks(store).iter().flat_map(held).collect()
}
