//! Many pods at once.

use crate::support::{Node, Pod, address};
use serde_json::json;
use std::collections::BTreeSet;

const PODS: usize = 200;

#[test]
fn two_hundred_at_once_come_and_go() {
    let node = Node::new();
    let conf = node.conf("1.0.0", json!({ "policy_setup_timeout_seconds": 300 }));
    let pods: Vec<Pod> = (0..PODS).map(|i| Pod::new(&format!("m{i}"))).collect();
    let results: Vec<_> = std::thread::scope(|s| {
        let all: Vec<_> = pods.iter().map(|p| s.spawn(|| p.add(&node, &conf))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let addresses: BTreeSet<String> = results.iter().map(address).collect();
    assert_eq!(addresses.len(), PODS, "every pod has an address of its own");
    let endpoints = node.client().endpoints().unwrap();
    assert!(endpoints.len() == PODS && endpoints.iter().all(|e| e.ready));
    assert!(pods[0].pings(&address(&results[PODS - 1])) && pods[PODS / 2].pings(&address(&results[0])));
    std::thread::scope(|s| {
        pods.iter().for_each(|p| drop(s.spawn(|| p.del(&node, &conf))));
    });
    node.expect_nothing_left();
}
