//! Objects that do not validate, a datastore that is not ready, and whose pods are watched.

use crate::support::*;
use serde_json::json;
use std::time::Duration;
use tortie::testing::apiserver::{ApiServer, Verb};

#[test]
fn an_object_that_does_not_validate_keeps_its_last_good_state() {
    let mut b = Bed::synced();
    b.server.put(pool("p", "10.244.0.0/99"));
    b.server.put(pool("never", "nope"));
    b.server.put(pool("good", "10.9.0.0/16"));
    b.until_nothing_lost("the good one", |b| b.cluster.pools.contains_key("good"));
    assert_eq!(b.cluster.pools["p"].cidr.to_string(), "10.244.0.0/16");
    assert_eq!(
        b.problems(),
        [
            "IPPool never: spec.cidr: \"nope\" is not a CIDR",
            "IPPool p: spec.cidr: \"10.244.0.0/99\" is not a CIDR; its last good state stays in force",
        ]
    );
    // A new list says the same.
    b.store.rescan();
    b.until_nothing_lost("listed again", |b| b.server.count(Verb::Watch, "ippools") == 2);
    b.run_for(Duration::from_millis(200));
    assert_eq!((b.problems().len(), b.cluster.pools["p"].cidr.to_string().as_str()), (2, "10.244.0.0/16"));
    b.server.put(pool("p", "10.244.0.0/17"));
    b.until("repaired", |b| b.cluster.pools["p"].cidr.to_string() == "10.244.0.0/17");
    b.server.remove(V1, "ippools", "", "never");
    b.until("no problems", |b| b.problems().is_empty());
    // Wrong and then gone, unseen.
    b.server.put(pool("good", "nope"));
    b.until("wrong", |b| b.problems().len() == 1);
    b.server.stop();
    b.server.remove(V1, "ippools", "", "good");
    b.server.compact();
    b.server.start_again();
    b.until("gone", |b| b.problems().is_empty() && !b.cluster.pools.contains_key("good"));
}

#[test]
fn faults_are_told_by_kind_object_and_field() {
    let mut b = Bed::synced();
    let mut bad_block = block("10.244.2.0/26", "n2");
    bad_block["spec"]["allocations"] = json!([7]);
    b.server.put(bad_block);
    b.server.put(pod("a", "n1", "10.0.0.300"));
    b.server.put(node("n2", "0.0.0.0"));
    b.server.put(felix(json!({"vxlanPort": "4789"})));
    b.server.put(cluster_information(json!("yes")));
    b.until_nothing_lost("five problems", |b| b.problems().len() == 5);
    let problems = b.problems().join("\n");
    for start in [
        "Node n2: metadata.annotations[\"projectcalico.org/IPv4Address\"]: ",
        "Pod default/a: status.podIPs[0].ip: ",
        "IPAMBlock 10-244-2-0-26: spec.allocations[0]: 7 is not an index into the 0 attributes",
        "FelixConfiguration default: spec.vxlanPort: a whole number from 1 to 65535 is required, not the text \"4789\"",
        "ClusterInformation default: spec.datastoreReady: true or false is required",
    ] {
        assert!(problems.lines().any(|l| l.starts_with(start)), "{start}\n{problems}");
    }
    b.server.put_all(small());
    b.until_nothing_lost("repaired", |b| b.problems().is_empty());
}

#[test]
fn while_the_datastore_is_not_ready_what_is_known_stays() {
    let mut b = Bed::synced();
    b.server.put(cluster_information(json!(false)));
    b.until_nothing_lost("said", |b| {
        b.problems().iter().any(|p| p.starts_with("ClusterInformation default: spec.datastoreReady is false"))
    });
    b.changed.clear();
    for object in small().iter().filter(|o| o["kind"] == "IPPool" || o["kind"] == "IPAMBlock") {
        let plural = if object["kind"] == "IPPool" { "ippools" } else { "ipamblocks" };
        b.server.remove(V1, plural, "", object["metadata"]["name"].as_str().unwrap());
    }
    b.server.put(pool("q", "10.9.0.0/16"));
    b.server.put(pool("q", "10.10.0.0/16"));
    b.run_for(Duration::from_millis(500));
    assert_eq!((b.cluster.pools.len(), b.cluster.blocks.len(), b.changed.len()), (1, 2, 0), "all of it waits");
    b.server.put(cluster_information(json!(true)));
    b.until("all of it", |b| b.cluster.blocks.is_empty() && b.changed.len() == 4);
    assert_eq!(b.cluster.pools.values().map(|p| p.cidr.to_string()).collect::<Vec<_>>(), ["10.10.0.0/16"]);
    assert_eq!((b.changed.len(), b.problems().len()), (4, 0));
}

#[test]
fn a_datastore_that_is_not_ready_at_the_start_keeps_the_node_out_of_sync() {
    let server = ApiServer::start();
    server.put_all(small());
    server.put(cluster_information(json!(false)));
    let mut b = Bed::open(server, None);
    b.until("said", |b| b.problems().len() == 1);
    b.run_for(Duration::from_millis(500));
    assert!(!b.store.in_sync() && b.cluster.is_empty());
    b.server.remove(V1, "clusterinformations", "", "default");
    b.until("its absence means ready", |b| b.store.in_sync() && b.cluster.pools.len() == 1);
}

#[test]
fn all_pods_are_watched_only_where_routes_follow_from_them() {
    let mut b = Bed::synced();
    b.server.put(felix(json!({"routeSource": "WorkloadIPs"})));
    b.until_nothing_lost("all pods", |b| b.cluster.pods.len() == 2);
    b.until("one watch", |b| b.server.open_watches("pods") == 1);
    b.server.put(pod("c", "n2", "10.244.2.2"));
    b.until_nothing_lost("another node's pod", |b| b.cluster.pods.contains_key("default/c"));
    b.server.put(felix(json!({"routeSource": "CalicoIPAM"})));
    b.until("own pods", |b| b.cluster.pods.keys().collect::<Vec<_>>() == ["default/a"]);
    b.until("one watch", |b| b.server.open_watches("pods") == 1);
    b.server.put(pod("d", "n2", "10.244.2.3"));
    b.server.put(pod("e", "n1", "10.244.1.2"));
    b.until("own new pod", |b| b.cluster.pods.contains_key("default/e"));
    assert_eq!(b.cluster.pods.len(), 2);
}

#[test]
fn in_sync_means_all_pods_where_all_are_needed() {
    let server = ApiServer::start();
    server.put_all(small());
    server.put(felix(json!({"routeSource": "WorkloadIPs"})));
    let mut b = Bed::open(server, None);
    b.until("in sync", |b| b.store.in_sync());
    assert_eq!(b.cluster.pods.len(), 2);
}

#[test]
fn a_pod_that_moves_or_goes_leaves_the_selection() {
    let mut b = Bed::synced();
    b.server.put(pod("x", "", ""));
    b.server.put(pod("x", "n1", "10.244.1.9"));
    b.until("scheduled here", |b| b.cluster.pods.contains_key("default/x"));
    let mut ending = pod("x", "n1", "10.244.1.9");
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    b.server.put(ending.clone());
    b.run_for(Duration::from_millis(100));
    assert_eq!(b.cluster.pods["default/x"].addresses.len(), 1, "a graceful deletion keeps the address at first");
    ending["metadata"]["annotations"] = json!({"cni.projectcalico.org/podIP": ""});
    b.server.put(ending);
    b.until("its address is free", |b| b.cluster.pods["default/x"].addresses.is_empty());
    b.server.remove("v1", "pods", "default", "x");
    b.until("gone", |b| !b.cluster.pods.contains_key("default/x"));
}
