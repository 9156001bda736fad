//! The order of changes never matters: scenarios are played through the file datastore forwards, backwards,
//! in pieces, in one piece and interleaved, and every end state gives the same routes.

use crate::support::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tortie::control::calc;
use tortie::control::cluster::Cluster;
use tortie::control::datastore::FileStore;
use tortie::control::desired::Desired;

/// The content of the folder, by file name.
type Files = BTreeMap<String, String>;

/// A cluster's life: one file per object, state after state.
fn scenario() -> Vec<Files> {
    let mut files = Files::new();
    let mut out = vec![files.clone()];
    let mut step = |changes: &[(&str, Option<String>)]| {
        for (name, text) in changes {
            match text {
                Some(text) => drop(files.insert(format!("{name}.yaml"), text.clone())),
                None => drop(files.remove(&format!("{name}.yaml"))),
            }
        }
        out.push(files.clone());
    };
    step(&[("pool", Some(pool("p", "10.244.0.0/16", "ipipMode: Always"))), ("a", Some(node("a", "10.0.0.1/24", Some("10.244.0.0"))))]);
    step(&[("b", Some(node("b", "10.0.0.2/24", Some("10.244.1.0")))), ("block-a", Some(block("10.244.0.0/26", "host:a", &[])))]);
    step(&[("block-b", Some(block("10.244.1.0/26", "host:b", &[("10.244.1.5", "a")])))]);
    step(&[("pod", Some(endpoint("lent", "a", "10.244.1.5")))]);
    step(&[("pool", Some(pool("p", "10.244.0.0/16", "vxlanMode: CrossSubnet")))]);
    step(&[("b", Some(node("b", "10.0.9.2/24", Some("10.244.1.0"))))]);
    step(&[("c", Some(node("c", "10.0.9.2/24", Some("10.244.2.0")))), ("block-c", Some(block("10.244.2.0/32", "host:c", &[])))]);
    step(&[("b", None)]);
    step(&[
        ("pod", Some(endpoint("lent", "b", "10.244.1.5"))),
        ("block-b", Some(block("10.244.1.0/26", "virtual:x", &[("10.244.1.6", "c")]))),
    ]);
    step(&[("pool", None)]);
    step(&[("pool", Some(pool("q", "10.244.0.0/15", "")))]);
    out
}

/// Each state as its own sequence of single-file changes.
fn split(states: &[Files]) -> Vec<Files> {
    let mut out = vec![states[0].clone()];
    for pair in states.windows(2) {
        let mut now = pair[0].clone();
        let names: Vec<String> = pair[0].keys().chain(pair[1].keys()).cloned().collect();
        for name in names {
            let old = now.clone();
            match pair[1].get(&name) {
                Some(text) => drop(now.insert(name, text.clone())),
                None => drop(now.remove(&name)),
            }
            if now != old {
                out.push(now.clone());
            }
        }
    }
    out
}

/// After each state, all the files go and another state comes in between.
fn interleave(states: &[Files]) -> Vec<Files> {
    states
        .iter()
        .enumerate()
        .flat_map(|(i, s)| [s.clone(), states[(i * 7 + 3) % states.len()].clone(), s.clone(), Files::new(), s.clone()])
        .collect()
}

fn put(folder: &Path, now: &Files, next: &Files) {
    for name in now.keys().filter(|n| !next.contains_key(*n)) {
        fs::remove_file(folder.join(name)).unwrap();
    }
    for (name, text) in next.iter().filter(|(n, t)| now.get(*n) != Some(*t)) {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// What a state alone, without any history, gives.
fn expected(state: &Files) -> (Cluster, Desired) {
    let all: String = state.values().map(|t| format!("{t}\n")).collect();
    let c = cluster(&all);
    let d = calc::desired(&c, "a");
    (c, d)
}

/// Plays states through one store and compares each with what it gives alone.
fn play(states: &[Files]) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut store, mut state) = FileStore::open(folder.path()).unwrap();
    let mut now = Files::new();
    for (i, next) in states.iter().enumerate() {
        put(folder.path(), &now, next);
        now = next.clone();
        let (want, want_desired) = expected(next);
        while state != want {
            let got = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), store.next()).await });
            state = got.unwrap_or_else(|_| panic!("state {i} did not come: {state:?}"));
        }
        assert_eq!(calc::desired(&state, "a"), want_desired, "state {i}");
        assert!(store.problems().is_empty(), "{:?}", store.problems());
    }
}

#[test]
fn the_scenario_is_worth_playing() {
    let tables: Vec<_> = scenario().iter().map(|s| table(&expected(s).1)).collect();
    let mut distinct = tables.clone();
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() >= tables.len() - 2, "{tables:#?}");
}

#[test]
fn forwards() {
    play(&scenario());
}

#[test]
fn reversed() {
    play(&scenario().into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn split_into_single_changes() {
    play(&split(&scenario()));
}

#[test]
fn squashed_into_one_change() {
    for state in scenario() {
        play(&[state]);
    }
    let states = scenario();
    play(&[states[0].clone(), states[states.len() - 1].clone(), states[4].clone()]);
}

#[test]
fn interleaved_with_other_states() {
    play(&interleave(&scenario()));
}

#[test]
fn one_file_or_many_makes_no_difference() {
    for state in scenario() {
        let all: String = state.values().map(|t| format!("{t}\n")).collect();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("all.yaml"), &all).unwrap();
        let (_store, got) = FileStore::open(folder.path()).unwrap();
        assert_eq!(got, expected(&state).0);
    }
}
