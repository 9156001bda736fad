//! Kinds that may not be read.

use crate::support::*;
use std::time::Duration;
use tortie::testing::apiserver::{ApiServer, Groups, Verb};

#[test]
fn a_kind_that_is_not_needed_is_named_and_the_rest_works() {
    let server = ApiServer::start();
    server.put_all(small());
    server.forbid("blockaffinities");
    let mut b = Bed::open(server, None);
    b.until("in sync", |b| b.store.in_sync());
    let problems = b.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let rule = r#"add the rule {apiGroups: ["crd.projectcalico.org"], resources: ["blockaffinities"], verbs: ["get", "list", "watch"]} to this node's ClusterRole"#;
    assert!(problems[0].contains(rule), "{problems:?}");
    assert!(problems[0].contains("no permission to list and watch BlockAffinity") && problems[0].contains("its defaults are used"));
    assert_eq!((b.cluster.pools.len(), b.cluster.affinities.len()), (1, 0));
    // It is not hammered, and named once.
    let asked = b.server.count(Verb::Watch, "blockaffinities");
    b.run_for(Duration::from_secs(2));
    assert_eq!((b.problems(), b.server.count(Verb::Watch, "blockaffinities")), (problems, asked));
    b.server.allow("blockaffinities");
    b.store.rescan();
    b.until("the affinities", |b| b.cluster.affinities.len() == 2 && b.problems().is_empty());
}

#[test]
fn a_kind_without_which_there_is_no_routing_keeps_the_node_out_of_sync() {
    for plural in ["nodes", "pods", "ippools", "ipamblocks"] {
        let server = ApiServer::start();
        server.put_all(small());
        server.forbid(plural);
        let mut b = Bed::open(server, None);
        b.until("said", |b| b.problems().iter().any(|p| p.contains(&format!("resources: [\"{plural}\"]"))));
        b.until("the rest", |b| b.cluster.affinities.len() == 2 && b.cluster.felix.len() == 1);
        b.run_for(Duration::from_millis(500));
        assert!(!b.store.in_sync(), "{plural}");
        assert!(b.problems()[0].contains("the node needs it to route"));
        b.server.allow(plural);
        b.store.rescan();
        b.until("in sync", |b| b.store.in_sync() && b.problems().is_empty());
    }
}

#[test]
fn rights_that_are_taken_away_take_no_object_away() {
    let mut b = Bed::synced();
    b.until("all watches", Bed::watches_all);
    for plural in PLURALS {
        b.server.forbid(plural);
    }
    b.server.cut_watches("");
    b.until_nothing_lost("said for each", |b| b.problems().len() == PLURALS.len());
    for plural in PLURALS {
        b.server.allow(plural);
    }
    b.server.put(pool("q", "10.9.0.0/16"));
    b.store.rescan();
    b.until_nothing_lost("all of it", |b| b.cluster.pools.contains_key("q") && b.problems().is_empty());
}

#[test]
fn without_calicos_definitions_the_node_waits_for_them() {
    let server = ApiServer::start();
    server.set_groups(Groups::Neither);
    server.put_all(small());
    let mut b = Bed::open(server, None);
    b.until("said", |b| b.problems().iter().any(|p| p.contains("neither crd.projectcalico.org nor projectcalico.org: install")));
    assert!(!b.store.in_sync());
    b.server.set_groups(Groups::V1);
    b.store.rescan();
    b.until("in sync", |b| b.store.in_sync() && b.problems().is_empty());
}
