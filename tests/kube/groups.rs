//! Calico's objects in either API group.

use crate::support::*;
use serde_json::{Value, json};
use tortie::testing::apiserver::{ApiServer, Groups, Verb};

/// The small cluster as the newer group stores it.
fn small_v3() -> Vec<Value> {
    let mut objects = small();
    for o in objects.iter_mut().filter(|o| o["apiVersion"] == V1) {
        o["apiVersion"] = json!(V3);
        if o["kind"] == "BlockAffinity" {
            o["spec"]["deleted"] = json!(false);
        }
    }
    objects
}

fn synced(groups: Groups, objects: Vec<Value>) -> Bed {
    let server = ApiServer::start();
    server.set_groups(groups);
    server.put_all(objects);
    let mut b = Bed::open(server, None);
    b.until("in sync", |b| b.store.in_sync());
    b
}

#[test]
fn both_groups_give_the_same_state() {
    let (v1, v3) = (synced(Groups::V1, small()), synced(Groups::V3, small_v3()));
    assert_eq!(v1.cluster, v3.cluster);
    assert_eq!(v1.cluster.len(), 10);
    assert!(v3.problems().is_empty(), "{:?}", v3.problems());
}

#[test]
fn the_older_group_counts_where_both_are_served() {
    let mut both = small();
    let mut other = pool("other", "10.9.0.0/16");
    other["apiVersion"] = json!(V3);
    both.push(other);
    let b = synced(Groups::Both, both);
    assert_eq!(b.cluster.pools.keys().collect::<Vec<_>>(), ["p"]);
}

#[test]
fn plain_http_is_served_too() {
    let server = ApiServer::start_plain();
    server.put_all(small());
    let mut b = Bed::open(server, None);
    b.until("in sync", |b| b.store.in_sync());
    assert_eq!(b.server.count(Verb::Discover, ""), 1);
}
