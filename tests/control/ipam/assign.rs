//! Each rule of assignment by itself.

use super::support::*;
use serde_json::json;
use std::collections::BTreeSet;
use tortie::control::datastore::objects::{AccessError, Resource};
use tortie::control::ipam::{AssignIp, AutoAssign, Holder, IpamError, Refusal, ReleaseRequest, Use};
use tortie::testing::objects::{MemObjects, Op};

/// Blocks of four addresses.
const SMALL: &str = "10.0.0.0/28";

#[tokio::test]
async fn a_node_claims_its_block_and_fills_it() {
    let store = cluster(&["worker1-c1.myk8s.example.com"], json!({"cidr": "10.244.0.0/16"}));
    let ipam = ipam(&store, "worker1-c1.myk8s.example.com");
    assert_eq!(assign(&ipam, "a").await.unwrap(), ip("10.244.92.128"));
    assert_eq!(assign(&ipam, "b").await.unwrap(), ip("10.244.92.129"));
    assert_eq!(owners(&store), ["10.244.92.128/26 host:worker1-c1.myk8s.example.com"]);
    assert_eq!(affinities(&store), ["worker1-c1.myk8s.example.com 10.244.92.128/26 confirmed"]);
    let block = &store.all(Resource::IpamBlock)[0]["spec"];
    let attribute = |pod: &str| json!({"handle_id": format!("k8s-pod-network.{pod}"), "secondary": {"namespace": "default", "node": ipam.node(), "pod": pod}});
    assert_eq!(block["attributes"], json!([attribute("a"), attribute("b")]));
    let start = now().as_nanosecond() as u64;
    assert_eq!(block["sequenceNumber"], start + 2);
    assert_eq!(block["sequenceNumberForAllocation"], json!({"0": start, "1": start + 1}));
    let handle = json!({"handleID": "k8s-pod-network.a", "block": {"10.244.92.128/26": 1}, "deleted": false});
    assert_eq!(store.all(Resource::IpamHandle)[0]["spec"], handle);
}

#[tokio::test]
async fn several_at_once_cross_blocks() {
    let store = cluster(&["n1"], json!({"cidr": SMALL, "blockSize": 30}));
    let request = AutoAssign { count: 6, ..AutoAssign::one(4, pod("a", "n1")) };
    let got = ipam(&store, "n1").auto_assign(&request).await.unwrap();
    assert_eq!(got.addresses.iter().collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(handles(&store)[0].blocks.values().copied().collect::<Vec<_>>(), [4, 2]);
    let request = AutoAssign { count: 20, ..request };
    let got = ipam(&store, "n1").auto_assign(&request).await.unwrap();
    assert_eq!((got.addresses.len(), got.why.clone()), (10, vec!["no address is free in pools 10.0.0.0/28".to_owned()]));
    let e = got.complete(4).unwrap_err();
    assert_eq!(e.to_string(), "assigned 10 of 20 IPv4 addresses; no address is free in pools 10.0.0.0/28");
}

#[tokio::test]
async fn a_full_pool_is_borrowed_from() {
    let store = cluster(&["n1", "n2"], json!({"cidr": SMALL, "blockSize": 30}));
    let (one, two) = (ipam(&store, "n1"), ipam(&store, "n2"));
    // n1 has three blocks, n2 has one.
    assign(&two, "two").await.unwrap();
    for i in 0..9 {
        assign(&one, &format!("one{i}")).await.unwrap();
    }
    assert_eq!(blocks(&store).len(), 4);
    let more: Vec<_> = {
        let mut out = Vec::new();
        for i in 0..6 {
            out.push(assign(&two, &format!("two{i}")).await.unwrap());
        }
        out
    };
    let foreign = |a: &std::net::IpAddr| blocks(&store).iter().any(|b| b.cidr.contains(a) && b.node() == Some("n1"));
    assert_eq!(more.iter().filter(|a| foreign(a)).count(), 3, "three of its own block, three borrowed");
    assert!(matches!(assign(&two, "x").await.unwrap_err(), IpamError::Exhausted { got: 0, wanted: 1, .. }));
    assert_eq!(in_use(&store).len(), 16);
    config(&store, json!({"strictAffinity": true, "autoAllocateBlocks": true}));
    one.release_by_handle("k8s-pod-network.one0").await.unwrap();
    let e = assign(&two, "x").await.unwrap_err();
    assert!(e.to_string().contains("strictAffinity forbids borrowing"), "{e}");
    assert!(assign(&one, "x").await.is_ok());
}

#[tokio::test]
async fn an_empty_block_of_another_node_is_taken_after_a_minute() {
    let store = cluster(&["n1", "n2"], json!({"cidr": "10.0.0.0/30", "blockSize": 30}));
    let (one, two) = (ipam(&store, "n1"), ipam(&store, "n2"));
    let first = assign(&one, "a").await.unwrap();
    one.release_by_handle("k8s-pod-network.a").await.unwrap();
    assert_eq!(owners(&store), ["10.0.0.0/30 host:n1"]);
    advance(59);
    assert!(assign(&two, "b").await.is_ok());
    assert_eq!(owners(&store), ["10.0.0.0/30 host:n1"], "borrowed, not taken");
    two.release_by_handle("k8s-pod-network.b").await.unwrap();
    advance(1);
    assert_eq!(assign(&two, "c").await.unwrap(), first);
    assert_eq!(owners(&store), ["10.0.0.0/30 host:n2"]);
    assert_eq!(affinities(&store), ["n2 10.0.0.0/30 confirmed"]);
}

#[tokio::test]
async fn limits_on_blocks() {
    let store = cluster(&["n1"], json!({"cidr": SMALL, "blockSize": 30}));
    let node = ipam(&store, "n1");
    let two = AutoAssign { count: 12, max_blocks: 2, ..AutoAssign::one(4, pod("a", "n1")) };
    assert_eq!(node.auto_assign(&two).await.unwrap_err(), IpamError::BlockLimit { node: "n1".into(), owned: 2, limit: 2 });
    assert!(in_use(&store).is_empty() && handles(&store).is_empty(), "after an error nothing is assigned");
    config(&store, json!({"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 3}));
    let any = AutoAssign { count: 13, ..AutoAssign::one(4, pod("a", "n1")) };
    assert!(matches!(node.auto_assign(&any).await.unwrap_err(), IpamError::BlockLimit { owned: 3, limit: 3, .. }));
    config(&store, json!({"strictAffinity": true, "autoAllocateBlocks": false}));
    assert_eq!(node.auto_assign(&any).await.unwrap_err(), IpamError::NoAutoAllocation { node: "n1".into() });
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/24", "blockSize": 30}));
    let many = AutoAssign { count: 81, ..AutoAssign::one(4, pod("a", "n1")) };
    let e = ipam(&store, "n1").auto_assign(&many).await.unwrap_err();
    assert!(matches!(e, IpamError::BlockLimit { owned: 20, limit: 20, .. }), "twenty without configuration: {e}");
}

#[tokio::test]
async fn reserved_addresses_are_not_given_out() {
    let store = cluster(&["n1"], json!({"cidr": SMALL, "blockSize": 30}));
    store.put(Resource::IpReservation, json!({"metadata": {"name": "r"}, "spec": {"reservedCIDRs": ["10.0.0.0/29", "10.0.0.9"]}}));
    let request = AutoAssign { count: 16, ..AutoAssign::one(4, pod("a", "n1")) };
    let mut got = ipam(&store, "n1").auto_assign(&request).await.unwrap().addresses;
    got.sort();
    assert_eq!(got, ["10.0.0.8", "10.0.0.10", "10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14", "10.0.0.15"].map(ip));
    let asked = AssignIp { address: ip("10.0.0.9"), holder: pod("b", "n1"), usage: None };
    ipam(&store, "n1").assign_ip(&asked).await.expect("a reserved address may be asked for");
    store.put(Resource::IpReservation, json!({"metadata": {"name": "r"}, "spec": {"reservedCIDRs": ["x"]}}));
    let e = assign(&ipam(&store, "n1"), "c").await.unwrap_err();
    assert_eq!(e.to_string(), "IPReservation r: spec.reservedCIDRs[0]: \"x\" is not a CIDR");
}

#[tokio::test]
async fn an_address_that_is_asked_for() {
    let store = cluster(&["n1", "n2"], json!({"cidr": SMALL, "blockSize": 30, "allowedUses": ["Workload"]}));
    let (one, two) = (ipam(&store, "n1"), ipam(&store, "n2"));
    let request = |address, name: &str, node| AssignIp { address: ip(address), holder: pod(name, node), usage: Some(Use::Workload) };
    one.assign_ip(&request("10.0.0.6", "a", "n1")).await.unwrap();
    assert_eq!(owners(&store), ["10.0.0.4/30 host:n1"]);
    let refused = |r: Refusal| IpamError::Refused(r);
    let e = two.assign_ip(&request("10.0.0.6", "b", "n2")).await.unwrap_err();
    assert_eq!(e, refused(Refusal::InUse { address: ip("10.0.0.6"), handle: "k8s-pod-network.a".into() }));
    assert_eq!(handles(&store).len(), 1, "no handle for an address that was refused");
    two.assign_ip(&request("10.0.0.7", "b", "n2")).await.expect("borrowed");
    let e = one.assign_ip(&request("10.0.1.1", "c", "n1")).await.unwrap_err();
    assert_eq!(e, IpamError::NoPoolForAddress { address: ip("10.0.1.1") });
    let tunnel = AssignIp { usage: Some(Use::Tunnel), ..request("10.0.0.5", "c", "n1") };
    assert!(one.assign_ip(&tunnel).await.unwrap_err().to_string().contains("allowedUses exclude Tunnel"));
    config(&store, json!({"strictAffinity": true, "autoAllocateBlocks": true}));
    let e = two.assign_ip(&request("10.0.0.5", "c", "n2")).await.unwrap_err();
    assert_eq!(e, refused(Refusal::NotOurs { block: net("10.0.0.4/30"), owner: Some("host:n1".into()) }));
    assert_eq!(one.attributes_of(ip("10.0.0.7")).await.unwrap().unwrap().node(), Some("n2"));
    assert_eq!(one.attributes_of(ip("10.0.0.5")).await.unwrap(), None);
}

#[tokio::test]
async fn released_addresses_come_back_last_and_after_their_rest() {
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/30", "blockSize": 30}));
    let node = ipam(&store, "n1");
    let a = assign(&node, "a").await.unwrap();
    node.release(&[ReleaseRequest { handle: Some("k8s-pod-network.a".into()), ..ReleaseRequest::any(a) }]).await.unwrap();
    assert!(handles(&store).is_empty() && in_use(&store).is_empty());
    let order = [assign(&node, "b").await.unwrap(), assign(&node, "c").await.unwrap(), assign(&node, "d").await.unwrap()];
    assert!(!order.contains(&a));
    assert_eq!(assign(&node, "e").await.unwrap(), a);
    config(&store, json!({"strictAffinity": false, "autoAllocateBlocks": true, "ipCooldownSeconds": 30}));
    assert_eq!(node.release_by_handle("k8s-pod-network.e").await.unwrap(), 1);
    assert!(assign(&node, "f").await.is_err());
    assert!(node.attributes_of(a).await.unwrap().unwrap().released.is_some());
    advance(30);
    assert_eq!(assign(&node, "f").await.unwrap(), a);
}

#[tokio::test]
async fn stale_releases_free_nothing() {
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/30", "blockSize": 32}));
    let node = ipam(&store, "n1");
    let a = assign(&node, "a").await.unwrap();
    let held = |address| blocks(&store).iter().find_map(|b| b.holder(address).and_then(|h| h.sequence));
    let stale = ReleaseRequest { address: a, handle: None, sequence: held(a) };
    node.release(std::slice::from_ref(&stale)).await.unwrap();
    node.assign_ip(&AssignIp { address: a, holder: pod("b", "n1"), usage: None }).await.unwrap();
    assert!(matches!(node.release(&[stale]).await.unwrap_err(), IpamError::Refused(Refusal::OtherAllocation { .. })));
    let other = ReleaseRequest { handle: Some("k8s-pod-network.a".into()), ..ReleaseRequest::any(a) };
    assert!(matches!(node.release(&[other]).await.unwrap_err(), IpamError::Refused(Refusal::OtherHandle { .. })));
    assert_eq!(in_use(&store).len(), 1);
    assert_eq!(node.release(&[ReleaseRequest::any(ip("192.0.2.1"))]).await.unwrap(), [ip("192.0.2.1")]);
    assert_eq!(node.release_by_handle("nobody").await.unwrap(), 0);
}

#[tokio::test]
async fn pools_by_node_and_namespace() {
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/24", "nodeSelector": "name == 'n2'"}));
    pool(&store, "red", json!({"cidr": "10.1.0.0/24", "namespaceSelector": "team == 'red'"}));
    store.put(Resource::Namespace, json!({"metadata": {"name": "paint", "labels": {"team": "red"}}}));
    let node = ipam(&store, "n1");
    let request = |namespace: &str, pools: &[&str]| AutoAssign {
        namespace: Some(namespace.into()),
        pools: pools.iter().map(|p| (*p).to_owned()).collect(),
        ..AutoAssign::one(4, Holder::default())
    };
    let got = |r: Result<tortie::control::ipam::Assigned, IpamError>| r.map(|a| a.addresses[0].to_string());
    assert!(got(node.auto_assign(&request("paint", &[])).await).unwrap().starts_with("10.1.0."));
    assert!(matches!(node.auto_assign(&request("other", &[])).await, Err(IpamError::NoPoolForNode { .. })));
    assert!(got(node.auto_assign(&request("other", &["p"])).await).unwrap().starts_with("10.0.0."));
    assert!(handles(&store).is_empty(), "no handle was given");
    let e = ipam(&store, "n9").auto_assign(&request("paint", &[])).await.unwrap_err();
    assert_eq!(e.to_string(), "Node n9 does not exist: IPAM needs its labels");
}

#[tokio::test]
async fn empty_blocks_go_when_their_pool_no_longer_selects_the_node() {
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/24"}));
    let node = ipam(&store, "n1");
    assign(&node, "a").await.unwrap();
    pool(&store, "p", json!({"cidr": "10.0.0.0/24", "nodeSelector": "name == 'n2'"}));
    pool(&store, "q", json!({"cidr": "10.1.0.0/24"}));
    assign(&node, "b").await.unwrap();
    assert_eq!(blocks(&store).len(), 2, "an address is in use");
    node.release_by_handle("k8s-pod-network.a").await.unwrap();
    assert_eq!(owners(&store).len(), 1, "{:?}", owners(&store));
    assert_eq!(affinities(&store).len(), 1);
}

#[tokio::test]
async fn leftovers_of_claims_are_taken_up_or_removed() {
    let store = cluster(&["n1", "n2"], json!({"cidr": "10.0.0.0/30", "blockSize": 31}));
    let affinity = |node: &str, cidr: &str, state: &str| {
        let name = tortie::control::ipam::affinity_name(node, net(cidr));
        store.put(
            Resource::BlockAffinity,
            json!({"metadata": {"name": name}, "spec": {"node": node, "cidr": cidr, "state": state, "deleted": false}}),
        );
    };
    // A claim without a block, one on another's block, and one whose deletion was begun.
    affinity("n1", "10.0.0.0/31", "pending");
    affinity("n2", "10.0.0.0/31", "confirmed");
    assert_eq!(assign(&ipam(&store, "n1"), "a").await.unwrap(), ip("10.0.0.0"));
    assert_eq!(assign(&ipam(&store, "n2"), "b").await.unwrap(), ip("10.0.0.2"));
    assert_eq!(affinities(&store), ["n1 10.0.0.0/31 confirmed", "n2 10.0.0.2/31 confirmed"]);
    let mut document = store.all(Resource::BlockAffinity)[1].clone();
    document["spec"]["deleted"] = json!(true);
    store.put(Resource::BlockAffinity, document);
    assert_eq!(assign(&ipam(&store, "n2"), "c").await.unwrap(), ip("10.0.0.3"));
    assert_eq!(affinities(&store).len(), 2);
}

#[tokio::test]
async fn blocks_of_another_size_are_not_overlapped() {
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/26", "blockSize": 28}));
    let node = ipam(&store, "n1");
    node.assign_ip(&AssignIp { address: ip("10.0.0.5"), holder: pod("a", "n1"), usage: None }).await.unwrap();
    pool(&store, "p", json!({"cidr": "10.0.0.0/26", "blockSize": 30}));
    let asked = AssignIp { address: ip("10.0.0.5"), holder: pod("b", "n1"), usage: None };
    assert!(matches!(node.assign_ip(&asked).await.unwrap_err(), IpamError::Refused(Refusal::InUse { .. })));
    let all = AutoAssign { count: 63, ..AutoAssign::one(4, pod("c", "n1")) };
    let got = node.auto_assign(&all).await.unwrap().addresses;
    assert_eq!((got.len(), got.contains(&ip("10.0.0.5"))), (63, false));
    assert_eq!(node.release(&[ReleaseRequest::any(ip("10.0.0.5"))]).await.unwrap(), Vec::<std::net::IpAddr>::new());
}

#[tokio::test]
async fn ipv6() {
    let store = cluster(&["n1"], json!({"cidr": "fd00:10::/48"}));
    let node = ipam(&store, "n1");
    let one = AutoAssign::one(6, pod("a", "n1"));
    let got = node.auto_assign(&one).await.unwrap().addresses[0];
    let block = blocks(&store)[0].cidr;
    assert_eq!((block.network(), block.prefix_len()), (got, 122));
    assert_eq!(affinities(&store), [format!("n1 {block} confirmed")]);
    assert_eq!(node.addresses_of_handle("k8s-pod-network.a").await.unwrap(), [got]);
    assert_eq!(node.auto_assign(&AutoAssign::one(4, pod("b", "n1"))).await.unwrap_err(), IpamError::NoEnabledPool { version: 4 });
    node.release(&[ReleaseRequest::any(got)]).await.unwrap();
    assert!(in_use(&store).is_empty() && handles(&store).is_empty());
}

/// Those who hold the host's lock are not interrupted by others of the host.
#[tokio::test]
async fn the_lock_keeps_a_host_s_processes_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/24"}));
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let tasks = tokio::task::LocalSet::new();
    for number in 0..5 {
        let seen = seen.clone();
        let watched = store.before(move |_| {
            seen.borrow_mut().push(number);
            Ok(())
        });
        let ipam = ipam(&watched, "n1").with_lock(dir.path().join("ipam.lock"));
        tasks.spawn_local(async move { assign(&ipam, &format!("p{number}")).await.unwrap() });
    }
    tasks.await;
    let mut order = seen.borrow().clone();
    order.dedup();
    assert_eq!((order.len(), in_use(&store).len()), (5, 5), "{order:?}");
}

/// A claim as Calico wrote it before it looked them up by labels.
fn unlabelled(store: &MemObjects, node: &str, cidr: &str) {
    let name = format!("{node}-{}", cidr.replace(['.', '/'], "-"));
    store.put(
        Resource::BlockAffinity,
        json!({"metadata": {"name": name}, "spec": {"node": node, "cidr": cidr, "state": "confirmed", "type": "host", "deleted": false}}),
    );
    let block = json!({"cidr": cidr, "affinity": format!("host:{node}"), "allocations": [null, null, null, null], "unallocated": [0, 1, 2, 3],
        "attributes": [], "strictAffinity": false, "deleted": false});
    store.put(Resource::IpamBlock, json!({"metadata": {"name": cidr.replace(['.', '/'], "-")}, "spec": block}));
}

#[tokio::test]
async fn claims_are_looked_up_by_label_once_all_have_them() {
    let store = cluster(&["n1", "n2"], json!({"cidr": SMALL, "blockSize": 30}));
    unlabelled(&store, "n1", "10.0.0.8/30");
    unlabelled(&store, "n2", "10.0.0.12/30");
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("cni/ipam_upgraded");
    let marked = || ipam(&store, "n1").with_mark(&mark);
    let labels = |node: &str| {
        let all = store.all(Resource::BlockAffinity);
        all.iter().filter(|a| a["spec"]["node"] == node).map(|a| a["metadata"]["labels"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(assign(&marked(), "a").await.unwrap(), ip("10.0.0.8"), "the block that is there");
    assert!(mark.exists());
    assert_eq!(labels("n1"), [tortie::control::ipam::affinity_labels("n1", "host", net("10.0.0.8/30"))]);
    assert_eq!(labels("n2"), [serde_json::Value::Null], "another node's are its own matter");
    assert_eq!(assign(&marked(), "b").await.unwrap(), ip("10.0.0.9"), "found by its label");
    // By labels alone from now on. One that loses them does no harm: the block says whose it is.
    let mut first = store.all(Resource::BlockAffinity).remove(0);
    first["metadata"].as_object_mut().unwrap().remove("labels");
    store.put(Resource::BlockAffinity, first);
    assert_eq!(assign(&marked(), "c").await.unwrap(), ip("10.0.0.10"));
}

#[tokio::test]
async fn claims_that_cannot_be_labelled_leave_no_mark() {
    let store = cluster(&["n1"], json!({"cidr": SMALL, "blockSize": 30}));
    unlabelled(&store, "n1", "10.0.0.8/30");
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("ipam_upgraded");
    let contended = store.before(|op| match op {
        Op::Update(id) if id.resource == Resource::BlockAffinity => Err(AccessError::Conflict { id: id.clone() }),
        _ => Ok(()),
    });
    let ipam = ipam(&contended, "n1").with_mark(&mark);
    assert_eq!(assign(&ipam, "a").await.unwrap(), ip("10.0.0.8"));
    assert!(!mark.exists());
}
