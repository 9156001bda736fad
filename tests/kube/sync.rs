//! What a store does while nothing goes wrong.

use crate::support::*;
use serde_json::json;
use std::time::Duration;
use tortie::control::model::Kind;
use tortie::testing::apiserver::{ApiServer, Verb};

#[test]
fn the_first_sync_is_whole_and_then_changes_come_one_by_one() {
    let mut b = Bed::synced();
    let c = &b.cluster;
    assert_eq!((c.kube_nodes.len(), c.pools.len(), c.blocks.len(), c.affinities.len(), c.felix.len()), (2, 1, 2, 2, 1));
    assert_eq!(c.pods.keys().collect::<Vec<_>>(), ["default/a"], "the server selects this node's pods");
    assert!(b.problems().is_empty(), "{:?}", b.problems());
    b.changed.clear();
    b.server.put(pool("q", "10.9.0.0/16"));
    b.until("a new pool", |b| b.cluster.pools.contains_key("q"));
    let changed: Vec<String> = std::mem::take(&mut b.changed).iter().map(ToString::to_string).collect();
    assert_eq!(changed, ["IPPool q"]);
    b.server.remove(V1, "ippools", "", "q");
    b.until("the pool is gone", |b| !b.cluster.pools.contains_key("q"));
    assert_eq!(b.changed.len(), 1);
}

#[test]
fn one_watch_per_kind_and_no_polling() {
    let mut b = Bed::synced();
    b.until("all watches", Bed::watches_all);
    for i in 0..50 {
        b.server.put(node("n2", &format!("10.0.0.{}/24", i + 10)));
    }
    b.until("the last change", |b| b.cluster.kube_nodes["n2"].address.unwrap().to_string() == "10.0.0.59/24");
    b.run_for(Duration::from_millis(500));
    for plural in PLURALS {
        assert_eq!((b.server.count(Verb::Watch, plural), b.server.count(Verb::List, plural)), (1, 0), "{plural}");
        assert_eq!(b.server.open_watches(plural), 1);
    }
    assert_eq!(b.server.counts().values().sum::<u64>(), 8, "discovery and seven watches: {:?}", b.server.counts());
}

#[test]
fn what_routing_does_not_read_is_no_change() {
    let mut b = Bed::synced();
    b.changed.clear();
    let mut same = node("n2", "10.0.0.2/24");
    same["status"] = json!({"conditions": [{"type": "Ready", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]});
    b.server.put(same);
    b.server.put(pool("q", "10.9.0.0/16"));
    b.until("the pool", |b| b.cluster.pools.contains_key("q"));
    b.run_for(Duration::from_millis(100));
    assert_eq!(b.changed.iter().map(|k| k.kind).collect::<Vec<_>>(), [Kind::IpPool]);
}

#[test]
fn lists_come_in_pages_where_the_server_has_no_streaming_lists() {
    let server = ApiServer::start();
    server.set_streaming_lists(false);
    server.put_all(small());
    server.put_all((0..1201).map(|i| block(&format!("10.{}.{}.0/26", 100 + i / 250, i % 250), "n2")));
    let mut b = Bed::open(server, None);
    b.until("in sync", |b| b.store.in_sync());
    assert_eq!(b.cluster.blocks.len(), 1203);
    assert_eq!((b.server.count(Verb::List, "ipamblocks"), b.server.count(Verb::List, "nodes")), (3, 1));
    b.until("all watches", Bed::watches_all);
    b.server.put(pool("q", "10.9.0.0/16"));
    b.until("a change", |b| b.cluster.pools.contains_key("q"));
    assert_eq!(b.server.count(Verb::List, "ippools"), 1);
}
