//! The server away, slow, overloaded, or its answers cut short: what is known stays, and what changed meanwhile comes.

use crate::support::*;
use serde_json::json;
use std::time::{Duration, Instant};
use tortie::testing::apiserver::{ApiServer, Fault, Refusal, Verb};

#[test]
fn without_a_server_the_store_waits_and_says_so_once() {
    let server = ApiServer::start();
    server.put_all(small());
    server.stop();
    let mut b = Bed::open(server, None);
    b.until("a problem", |b| !b.problems().is_empty());
    b.run_for(Duration::from_secs(1));
    let url = b.server.url();
    let problems = b.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with(&format!("{url}: Connection refused")), "{problems:?}");
    assert!(problems[0].ends_with("trying again, nothing is put in force until it answers"), "{problems:?}");
    assert!(!b.store.in_sync() && b.cluster.is_empty());
    b.server.start_again();
    b.until("in sync", |b| b.store.in_sync());
    b.until("no problems", |b| b.problems().is_empty());
    assert_eq!(b.cluster.kube_nodes.len(), 2);
}

#[test]
fn a_server_that_goes_and_comes_back_changes_only_what_changed() {
    let mut b = Bed::synced();
    b.until("all watches", Bed::watches_all);
    b.server.stop();
    b.until_nothing_lost("one problem for seven watches", |b| b.problems().len() == 1);
    assert!(b.problems()[0].contains("Connection refused") && b.problems()[0].ends_with("what is known stays in force"));
    b.server.put(node("n3", "10.0.0.3/24"));
    b.server.put(pool("p", "10.244.0.0/17"));
    b.changed.clear();
    b.server.start_again();
    b.until_nothing_lost("what changed meanwhile", |b| b.cluster.kube_nodes.contains_key("n3") && b.problems().is_empty());
    b.until_nothing_lost("all watches", Bed::watches_all);
    let changed: Vec<String> = b.changed.iter().map(ToString::to_string).collect();
    assert_eq!(changed, ["v1 Node n3", "IPPool p"]);
    // The watches went on where they were: nothing was listed again.
    assert!(PLURALS.iter().all(|p| b.server.count(Verb::List, p) == 0));
}

#[test]
fn a_watch_that_breaks_off_goes_on_where_it_was() {
    let mut b = Bed::synced();
    b.until("all watches", Bed::watches_all);
    for round in 0..3u64 {
        b.server.cut_watches("");
        b.server.put(pool("q", &format!("10.{round}.0.0/16")));
        b.server.remove(V1, "ippools", "", "q");
        b.server.put(pool("r", &format!("10.{round}.0.0/16")));
        b.until_nothing_lost("the change", |b| {
            b.cluster.pools.get("r").is_some_and(|p| p.cidr.to_string() == format!("10.{round}.0.0/16"))
        });
        b.until_nothing_lost("all watches", Bed::watches_all);
        assert_eq!(b.server.count(Verb::Watch, "ippools"), round + 2);
    }
    // The server knows of a watch before the client has its head.
    b.until_nothing_lost("no problem is left", |b| b.problems().is_empty());
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let server = ApiServer::start();
    server.set_streaming_lists(false);
    server.put_all(small());
    server.put_all((0..700).map(|i| block(&format!("10.{}.{}.0/26", 100 + i / 250, i % 250), "n2")));
    let mut b = Bed::open(server, None);
    b.until("in sync", |b| b.store.in_sync());
    b.until("all watches", Bed::watches_all);
    b.server.remove(V1, "ipamblocks", "", "10-100-0-0-26");
    b.until("the block is gone", |b| b.cluster.blocks.len() == 701);
    // The next list stops in its first page, the one after it in its second.
    for fault in [Fault::CutAfter(1000), Fault::Delay(Duration::ZERO), Fault::CutAfter(1000)] {
        b.server.fault(Verb::List, "ipamblocks", 1, fault);
    }
    b.server.put(block("10.100.0.0/26", "n2"));
    b.store.rescan();
    // Two pages at first; half a page; a page and a half; two pages.
    b.until_nothing_lost("the whole list", |b| b.cluster.blocks.len() == 702 && b.server.count(Verb::List, "ipamblocks") == 2 + 3 + 2);
    b.until_nothing_lost("all watches", Bed::watches_all);
}

#[test]
fn a_streaming_list_that_breaks_off_takes_nothing_away() {
    let mut b = Bed::synced();
    b.until("all watches", Bed::watches_all);
    for after in [10, 300, 700] {
        b.server.fault(Verb::Watch, "nodes", 1, Fault::CutAfter(after));
    }
    b.server.put(node("n3", "10.0.0.3/24"));
    b.store.rescan();
    b.until_nothing_lost("the new node", |b| b.cluster.kube_nodes.contains_key("n3") && b.server.count(Verb::Watch, "nodes") >= 5);
    b.until_nothing_lost("all watches", Bed::watches_all);
}

#[test]
fn an_overloaded_server_is_left_alone_as_long_as_it_asks() {
    let mut b = Bed::synced();
    b.until("all watches", Bed::watches_all);
    let busy = Refusal::new(429, "TooManyRequests", "storage is (re)initializing").retry_after(2);
    b.server.fault(Verb::Watch, "ippools", 2, Fault::Refuse(busy));
    b.server.put(pool("q", "10.9.0.0/16"));
    let (started, before) = (Instant::now(), b.server.count(Verb::Watch, "ippools"));
    b.server.cut_watches("ippools");
    b.until_nothing_lost("said", |b| b.problems().iter().any(|p| p.contains("storage is (re)initializing")));
    b.until_nothing_lost("watched again", |b| b.cluster.pools.contains_key("q") && b.problems().is_empty());
    assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(b.server.count(Verb::Watch, "ippools"), before + 3);
}

#[test]
fn errors_of_the_server_pass() {
    let server = ApiServer::start();
    server.put_all(small());
    for (code, reason) in [(500, "InternalError"), (503, "ServiceUnavailable"), (429, "TooManyRequests")] {
        server.fault(Verb::Watch, "ipamblocks", 1, Fault::Refuse(Refusal::new(code, reason, "etcdserver: request timed out")));
        server.fault(Verb::Discover, "", 1, Fault::Refuse(Refusal::new(code, reason, "not yet")));
    }
    let mut b = Bed::open(server, None);
    b.until("in sync", |b| b.store.in_sync() && b.problems().is_empty());
    assert_eq!(b.cluster.blocks.len(), 2);
    // The same in the middle of a watch.
    let broken = Refusal::new(500, "InternalError", "an error on the server");
    b.server.fault(Verb::Watch, "nodes", 2, Fault::ErrorEvent(broken));
    b.server.cut_watches("nodes");
    b.server.put(node("n3", "10.0.0.3/24"));
    b.until_nothing_lost("the new node", |b| b.cluster.kube_nodes.contains_key("n3"));
}

#[test]
fn a_slow_server_is_waited_for() {
    let server = ApiServer::start();
    server.put_all(small());
    for plural in PLURALS {
        server.fault(Verb::Watch, plural, 1, Fault::Delay(Duration::from_millis(700)));
    }
    let started = Instant::now();
    let mut b = Bed::open(server, None);
    b.until("in sync", |b| b.store.in_sync());
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(3), "all at once: {took:?}");
    b.until("no problems", |b| b.problems().is_empty());
}

#[test]
fn a_token_that_expired_is_replaced_by_the_one_on_disk() {
    let server = ApiServer::start();
    server.put_all(small());
    server.set_tokens(&["first"]);
    let mut b = Bed::open(server, Some("first\n"));
    b.until("in sync", |b| b.store.in_sync());
    b.until("all watches", Bed::watches_all);
    // Rotated on disk before the old one expires: nobody notices.
    std::fs::write(b.folder.path().join("token"), "second\n").unwrap();
    b.server.set_tokens(&["second"]);
    b.server.cut_watches("");
    b.server.put(pool("q", "10.9.0.0/16"));
    b.until_nothing_lost("the new pool", |b| b.cluster.pools.contains_key("q") && b.problems().is_empty());
    b.until("all watches", Bed::watches_all);
    // Expired before there is a new one.
    b.server.set_tokens(&["third"]);
    b.server.cut_watches("");
    b.until_nothing_lost("said", |b| b.problems().iter().any(|p| p.contains("HTTP 401")));
    b.server.put(pool("r", "10.10.0.0/16"));
    std::fs::write(b.folder.path().join("token"), "third").unwrap();
    b.until_nothing_lost("the next pool", |b| b.cluster.pools.contains_key("r") && b.problems().is_empty());
}

#[test]
fn a_store_can_be_dropped_at_any_time() {
    for wait in [0, 5, 50, 300] {
        let server = ApiServer::start_plain();
        server.put_all(small());
        let mut b = Bed::open(server, None);
        b.run_for(Duration::from_millis(wait));
        let started = Instant::now();
        drop(b);
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    // Nobody takes what comes.
    let server = ApiServer::start_plain();
    server.put_all(
        (0..30_000)
            .map(|i| json!({"apiVersion": V1, "kind": "IPPool", "metadata": {"name": format!("p{i}")}, "spec": {"cidr": "10.0.0.0/8"}})),
    );
    let b = Bed::open(server, None);
    std::thread::sleep(Duration::from_millis(500));
    let started = Instant::now();
    drop(b.store);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
