//! `ipam check` and the rows of `ipam show`.

use super::support::*;
use serde_json::{Value, json};
use tortie::control::datastore::objects::Resource;
use tortie::control::ipam::check::{Finding, Severity, check};
use tortie::control::ipam::report::{self, AddressState};
use tortie::control::ipam::{AssignIp, AutoAssign, Holder, Listing, ReleaseRequest, Tunnel, affinity_name, block_name};
use tortie::testing::objects::MemObjects;

async fn listing(store: &MemObjects) -> Listing {
    Listing::read(store).await.unwrap()
}

/// All findings, as text with their severity.
async fn findings(store: &MemObjects) -> Vec<String> {
    let found = check(&listing(store).await);
    assert!(found.iter().all(|f| f.remedy().len() > 10), "every finding has a remedy");
    found.iter().map(|f| format!("{:?}: {f}", f.severity())).collect()
}

fn running(store: &MemObjects, name: &str, node: &str, addresses: &[&str]) {
    let ips: Vec<Value> = addresses.iter().map(|a| json!({"ip": a})).collect();
    let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": node}, "status": {"phase": "Running", "podIPs": ips}});
    store.put(Resource::Pod, pod);
}

/// One pod `a` on n1 with an address, all right.
async fn sound() -> (MemObjects, String) {
    let store = cluster(&["n1", "n2"], json!({"cidr": "10.0.0.0/26", "blockSize": 30, "vxlanMode": "Always"}));
    let address = assign(&ipam(&store, "n1"), "a").await.unwrap().to_string();
    running(&store, "a", "n1", &[&address]);
    (store, address)
}

/// Changes the only object of a kind.
fn edit(store: &MemObjects, resource: Resource, change: impl Fn(&mut Value)) {
    let mut object = store.all(resource).remove(0);
    change(&mut object);
    store.put(resource, object);
}

#[tokio::test]
async fn a_sound_cluster_has_no_findings() {
    let (store, _) = sound().await;
    let tunnel = ipam(&store, "n1").ensure_tunnel_address(Tunnel::Vxlan).await.unwrap().unwrap();
    store.put(Resource::Node, json!({"metadata": {"name": "n1", "annotations": {Tunnel::Vxlan.annotation(): tunnel}}}));
    // A pod that has no address yet, one that is over, and one in the host's network.
    assign(&ipam(&store, "n2"), "new").await.unwrap();
    store.put(Resource::Pod, json!({"metadata": {"name": "new", "namespace": "default"}, "spec": {"nodeName": "n2"}}));
    store.put(Resource::Pod, json!({"metadata": {"name": "over", "namespace": "x"}, "spec": {"nodeName": "n2"}, "status": {"phase": "Succeeded", "podIP": "10.0.0.1"}}));
    store.put(Resource::Pod, json!({"metadata": {"name": "host", "namespace": "x"}, "spec": {"nodeName": "n2", "hostNetwork": true}, "status": {"podIP": "10.0.0.1"}}));
    assert_eq!(findings(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn affinities_and_blocks() {
    let (store, _) = sound().await;
    let cidr = blocks(&store)[0].cidr;
    let put = |node: &str, cidr: &str, state: &str| {
        let spec = json!({"node": node, "type": "host", "cidr": cidr, "state": state, "deleted": false});
        store.put(Resource::BlockAffinity, json!({"metadata": {"name": affinity_name(node, net(cidr))}, "spec": spec}));
    };
    put("n2", &cidr.to_string(), "confirmed");
    put("n1", "10.0.0.252/30", "pending");
    put("n9", "10.0.0.248/30", "confirmed");
    put("n1", &cidr.to_string(), "pendingDeletion");
    let got = findings(&store).await;
    let want = [
        format!("Warning: node n2 has an affinity for block {cidr} of host:n1"),
        "Warning: block 10.0.0.248/30 is claimed by node n9, which does not exist".into(),
        format!("Note: the affinity of node n1 for its block {cidr} is pendingDeletion"),
        "Note: node n1 has an affinity (pending) for block 10.0.0.252/30, which does not exist".into(),
    ];
    assert_eq!(got.len(), want.len(), "{got:#?}");
    want.iter().for_each(|w| assert!(got.contains(w), "{w} in {got:#?}"));
    let (other, _) = sound().await;
    let block = json!({"metadata": {"name": block_name(net("10.0.0.0/27"))}, "spec": {"cidr": "10.0.0.0/27", "affinity": "host:n2", "unallocated": [1, 2]}});
    other.put(Resource::IpamBlock, block);
    other.put(
        Resource::IpamBlock,
        json!({"metadata": {"name": "192-168-0-0-26"}, "spec": {"cidr": "192.168.0.0/26", "unallocated": (0..64).collect::<Vec<_>>()}}),
    );
    other.put(Resource::IpamBlock, json!({"metadata": {"name": "x"}, "spec": {"cidr": "10.0.0.9/30"}}));
    let got = findings(&other).await;
    let starts = |text: &str| assert!(got.iter().any(|f| f.starts_with(text)), "{text} in {got:#?}");
    starts("Error: IPAMBlock x: spec.cidr: 10.0.0.9/30 has bits beyond");
    starts("Warning: block 10.0.0.0/27 of node n2 has no affinity");
    starts("Warning: 30 addresses of block 10.0.0.0/27 are neither free nor in use");
    starts("Note: block 192.168.0.0/26 is in no IPPool");
    let cidr = blocks_but(&other, "x");
    let overlap = net("10.0.0.0/27").contains(&cidr);
    assert_eq!(got.iter().any(|f| f.contains("overlap")), overlap);
}

/// The first /30 block.
fn blocks_but(store: &MemObjects, name: &str) -> ipnet::IpNet {
    let good = store.all(Resource::IpamBlock).into_iter().filter(|b| b["metadata"]["name"] != json!(name));
    good.map(|b| net(b["spec"]["cidr"].as_str().unwrap())).find(|c| c.prefix_len() == 30).unwrap()
}

#[tokio::test]
async fn overlapping_blocks() {
    let (store, _) = sound().await;
    for cidr in ["10.0.0.0/28", "10.0.0.4/30", "10.0.0.12/30"] {
        let size = 1 << (32 - net(cidr).prefix_len());
        let spec = json!({"cidr": cidr, "unallocated": (0..size).collect::<Vec<i32>>()});
        store.put(Resource::IpamBlock, json!({"metadata": {"name": block_name(net(cidr))}, "spec": spec}));
    }
    let got = check(&listing(&store).await);
    let overlaps = got.iter().filter(|f| matches!(f, Finding::OverlappingBlocks { .. })).count();
    assert!(overlaps >= 2 && got[0].severity() == Severity::Error, "{got:#?}");
}

#[tokio::test]
async fn handles() {
    let (store, _) = sound().await;
    let cidr = blocks(&store)[0].cidr.to_string();
    edit(&store, Resource::IpamHandle, |h| h["spec"]["block"] = json!({cidr.clone(): 3, "10.0.0.252/30": 1}));
    let got = findings(&store).await;
    assert_eq!(got.len(), 2);
    assert_eq!(got[0], format!("Warning: handle k8s-pod-network.a counts 3 addresses in block {cidr}, which has 1"));
    assert_eq!(got[1], "Note: handle k8s-pod-network.a counts 1 addresses in block 10.0.0.252/30, which has 0");
    edit(&store, Resource::IpamHandle, |h| h["spec"]["block"] = json!({}));
    let got = findings(&store).await;
    assert_eq!(got, [format!("Error: handle k8s-pod-network.a counts 0 addresses in block {cidr}, which has 1")]);
}

#[tokio::test]
async fn allocations_and_their_users() {
    let (store, address) = sound().await;
    let node = ipam(&store, "n1");
    let gone = assign(&node, "gone").await.unwrap();
    let moved = assign(&node, "moved").await.unwrap();
    running(&store, "moved", "n2", &["10.0.0.253"]);
    let lost = AssignIp { address: ip("10.0.0.60"), holder: pod("lost", "n9"), usage: None };
    node.assign_ip(&lost).await.unwrap();
    node.assign_ip(&AssignIp { address: ip("10.0.0.61"), holder: Holder::default(), usage: None }).await.unwrap();
    let tunnel = node.ensure_tunnel_address(Tunnel::Vxlan).await.unwrap().unwrap();
    running(&store, "twin", "n1", &[&address]);
    running(&store, "stray", "n1", &["10.0.0.1"]);
    running(&store, "elsewhere", "n1", &["192.0.2.1"]);
    let got = findings(&store).await;
    let free = blocks(&store).iter().all(|b| b.holder(ip("10.0.0.1")).is_none());
    let want = [
        format!("Error: {address} is in use by pod default/a and pod default/twin"),
        format!("Error: {address} of pod default/twin is allocated to pod default/a"),
        format!("Warning: {gone} is allocated to pod default/gone, which does not have it"),
        format!("Warning: {moved} is allocated to pod default/moved, which does not have it"),
        "Warning: 10.0.0.60 is allocated to pod default/lost on node n9, which does not exist".into(),
        format!("Warning: {tunnel} is allocated as vxlanTunnelAddress of node n1, which does not name it"),
        "Note: 1 addresses are allocated without a node".into(),
    ];
    want.iter().for_each(|w| assert!(got.contains(w), "{w} in {got:#?}"));
    let stray = "Error: 10.0.0.1 of pod default/stray is not allocated: it can be given to another";
    assert_eq!(got.iter().any(|f| f == stray), free, "{got:#?}");
    assert!(!got.iter().any(|f| f.contains("192.0.2.1") || f.contains("10.0.0.253")), "outside the pools: {got:#?}");
}

#[tokio::test]
async fn capacity_and_settings() {
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/28", "blockSize": 30}));
    store.put(Resource::IpReservation, json!({"metadata": {"name": "r"}, "spec": {"reservedCIDRs": ["10.0.0.0/29"]}}));
    let request = AutoAssign { count: 6, ..AutoAssign::one(4, Holder { handle: Some("h".into()), ..Holder::default() }) };
    let got = ipam(&store, "n1").auto_assign(&request).await.unwrap();
    assert_eq!(findings(&store).await, ["Note: 6 addresses are allocated without a node"]);
    ipam(&store, "n1").auto_assign(&AutoAssign { count: 1, ..request }).await.unwrap();
    assert_eq!(findings(&store).await[0], "Warning: IPPool p: 15 of 16 addresses are in use or reserved");
    ipam(&store, "n1").release(&got.addresses.iter().map(|a| ReleaseRequest::any(*a)).collect::<Vec<_>>()).await.unwrap();
    config(&store, json!({"strictAffinity": false, "autoAllocateBlocks": false, "maxBlocksPerHost": 4}));
    let got = findings(&store).await;
    assert!(got[0].ends_with("strictAffinity and autoAllocateBlocks are both off"), "{got:#?}");
    assert!(got[1].ends_with("maxBlocksPerHost without strictAffinity"), "{got:#?}");
}

/// The numbers of calicoctl: four nodes with a tunnel address and three pods each.
#[tokio::test]
async fn rows_of_show() {
    let nodes = ["worker1-k8s", "worker2-k8s", "worker3-k8s", "master1-k8s"].map(|n| format!("{n}.myk8s.example.com"));
    let nodes = [&*nodes[0], &*nodes[1], &*nodes[2], &*nodes[3]];
    let store = cluster(&nodes, json!({"cidr": "10.244.0.0/16", "vxlanMode": "Always"}));
    for node in nodes {
        ipam(&store, node).ensure_tunnel_address(Tunnel::Vxlan).await.unwrap();
        for i in 0..3 {
            assign(&ipam(&store, node), &format!("{node}-{i}")).await.unwrap();
        }
    }
    let rows = report::utilization(&listing(&store).await);
    let line = |u: &report::Utilization| {
        [u.cidr.to_string(), report::number(u.total), report::share(u.in_use, u.total), report::share(u.free, u.total)].join(" | ")
    };
    assert_eq!(line(&rows[0].pool.as_ref().unwrap().1), "10.244.0.0/16 | 65536 | 16 (0%) | 65520 (100%)");
    let blocks: Vec<String> = rows[0].blocks.iter().map(line).collect();
    let block = |at: &str| format!("10.244.{at}/26 | 64 | 4 (6%) | 60 (94%)");
    assert_eq!(blocks, ["202.128", "218.64", "238.192", "56.64"].map(block), "in order of name");
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn reserved_cooling_orphaned_and_borrowed() {
    let store = cluster(&["n1", "n2"], json!({"cidr": "10.0.0.0/30", "blockSize": 30}));
    config(&store, json!({"strictAffinity": false, "autoAllocateBlocks": true, "ipCooldownSeconds": 600}));
    let (one, two) = (ipam(&store, "n1"), ipam(&store, "n2"));
    let first = assign(&one, "a").await.unwrap();
    let borrowed = assign(&two, "b").await.unwrap();
    let rest = assign(&one, "c").await.unwrap();
    one.release_by_handle("k8s-pod-network.c").await.unwrap();
    store.put(Resource::IpReservation, json!({"metadata": {"name": "r"}, "spec": {"reservedCIDRs": [first, "10.0.0.3"]}}));
    store.put(Resource::IpamBlock, json!({"metadata": {"name": "z"}, "spec": {"cidr": "192.168.0.0/31", "unallocated": [0, 1]}}));
    let listing = listing(&store).await;
    let rows = report::utilization(&listing);
    let pool = &rows[0].pool.as_ref().unwrap().1;
    assert_eq!((pool.total, pool.in_use, pool.reserved, pool.free, pool.cooling), (4, 3, 2, 0, 1), "one is reserved and in use");
    assert!(rows[1].pool.is_none() && rows[1].blocks[0].free == 2);
    let (rows, unclassified) = report::borrowed(&listing);
    assert_eq!(unclassified, 0);
    let row = &rows[0];
    assert_eq!((rows.len(), row.address, row.node.as_str(), row.owner.as_str()), (1, borrowed, "n2", "n1"));
    assert_eq!((row.kind.as_str(), row.holder.as_str()), ("pod", "default/b"));
    assert!(matches!(report::address(&listing, first), AddressState::Assigned(a) if a.handle.as_deref() == Some("k8s-pod-network.a")));
    assert_eq!(report::address(&listing, rest), AddressState::Cooling);
    assert_eq!(report::address(&listing, ip("10.0.0.3")), AddressState::Unassigned);
    assert_eq!(report::configuration(&listing.config)[3], ("IPCooldownSeconds", "600".to_owned()));
}
