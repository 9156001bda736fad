//! Revisions that the server no longer has, or does not have yet.

use crate::support::*;
use std::time::Duration;
use tortie::testing::apiserver::{Fault, Refusal, Verb};

/// What goes on while the watch cannot: one object goes, one comes, one changes.
fn change_all(b: &Bed) {
    b.server.remove(V1, "ippools", "", "gone");
    b.server.put(pool("new", "10.7.0.0/16"));
    b.server.put(pool("p", "10.244.0.0/17"));
}

/// In sync, with a pool that will go.
fn bed() -> Bed {
    let mut b = Bed::synced();
    b.until("all watches", Bed::watches_all);
    b.server.put(pool("gone", "10.6.0.0/16"));
    b.until("the pool", |b| b.cluster.pools.contains_key("gone"));
    b
}

fn changes_are_there(b: &Bed) -> bool {
    let pools = &b.cluster.pools;
    // At no time is the list taken for shorter than it is.
    assert!(pools.contains_key("p") && b.cluster.blocks.len() == 2 && b.cluster.kube_nodes.len() == 2, "{pools:?}");
    !pools.contains_key("gone") && pools.contains_key("new") && pools["p"].cidr.to_string() == "10.244.0.0/17"
}

#[test]
fn an_error_event_410_leads_to_a_new_list() {
    let mut b = bed();
    b.server.stop();
    change_all(&b);
    b.server.compact();
    b.server.start_again();
    b.until("the changes", changes_are_there);
    // From its position: an event ERROR; then anew.
    assert_eq!(b.server.count(Verb::Watch, "ippools"), 3);
    b.until("no problems", |b| b.problems().is_empty());
}

#[test]
fn http_410_leads_to_a_new_list() {
    for streaming in [true, false] {
        let mut b = bed();
        b.server.set_streaming_lists(streaming);
        b.server.fault(Verb::Watch, "ippools", 1, Fault::Refuse(Refusal::expired(5, 9)));
        b.server.stop();
        change_all(&b);
        b.server.start_again();
        b.until("the changes", changes_are_there);
        b.until("all watches", Bed::watches_all);
        assert_eq!(b.server.count(Verb::List, "ippools"), u64::from(!streaming));
    }
}

#[test]
fn a_list_whose_next_page_has_expired_is_begun_again() {
    let mut b = bed();
    b.server.set_streaming_lists(false);
    b.server.put_all((0..600).map(|i| block(&format!("10.{}.{}.0/26", 100 + i / 250, i % 250), "n2")));
    b.until("the blocks", |b| b.cluster.blocks.len() == 602);
    // The first page takes a while, and the second is gone by then.
    b.server.fault(Verb::List, "ipamblocks", 2, Fault::Delay(Duration::from_millis(300)));
    b.store.rescan();
    let listed = b.server.count(Verb::List, "ipamblocks");
    b.until_nothing_lost("the first page", |b| b.server.count(Verb::List, "ipamblocks") == listed + 2);
    b.server.compact();
    b.server.remove(V1, "ipamblocks", "", "10-100-0-0-26");
    b.until("the list", |b| b.cluster.blocks.len() == 601);
    b.until("all watches", Bed::watches_all);
}

#[test]
fn a_server_restored_from_a_backup_is_listed_anew() {
    let mut b = bed();
    b.server.stop();
    change_all(&b);
    b.server.set_revision(3);
    b.server.start_again();
    b.until("the changes", changes_are_there);
    b.until("all watches", Bed::watches_all);
    b.server.put(pool("later", "10.8.0.0/16"));
    b.until("a change after", |b| b.cluster.pools.contains_key("later"));
}

#[test]
fn bookmarks_keep_quiet_watches_fresh() {
    let mut b = Bed::synced();
    b.until("all watches", Bed::watches_all);
    b.server.set_bookmarks(Duration::from_millis(50));
    for i in 0..20 {
        b.server.put(pool("busy", &format!("10.{i}.0.0/16")));
    }
    b.run_for(Duration::from_millis(400));
    // Nothing happened to nodes, yet their watch does not start from where it began.
    b.server.compact();
    b.server.cut_watches("nodes");
    b.server.put(node("n3", "10.0.0.3/24"));
    b.until_nothing_lost("the new node", |b| b.cluster.kube_nodes.contains_key("n3"));
    assert_eq!(b.server.count(Verb::Watch, "nodes"), 2, "without a new list");
}
