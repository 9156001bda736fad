//! The order of changes never matters: scenarios are played through the file datastore forwards, backwards,
//! in pieces, in one piece and interleaved, and every end state gives the same routes.

use crate::support::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tortie::control::calc::{self, Calculator};
use tortie::control::cluster::{Changed, Cluster};
use tortie::control::datastore::FileStore;
use tortie::control::desired::Desired;

/// The content of the folder, by file name.
type Files = BTreeMap<String, String>;

/// One step: files that appear or change, and files that go.
type Step = Vec<(&'static str, Option<String>)>;

fn states(steps: Vec<Step>) -> Vec<Files> {
    let mut files = Files::new();
    let mut out = vec![files.clone()];
    for changes in steps {
        for (name, text) in changes {
            match text {
                Some(text) => drop(files.insert(format!("{name}.yaml"), text)),
                None => drop(files.remove(&format!("{name}.yaml"))),
            }
        }
        out.push(files.clone());
    }
    out
}

/// A cluster's life from first to last.
fn whole_life() -> Vec<Files> {
    states(vec![
        vec![("pool", Some(pool("p", "10.244.0.0/16", "ipipMode: Always"))), ("a", Some(node("a", "10.0.0.1/24", Some("10.244.0.0"))))],
        vec![("b", Some(node("b", "10.0.0.2/24", Some("10.244.1.0")))), ("block-a", Some(block("10.244.0.0/26", "host:a", &[])))],
        vec![("block-b", Some(block("10.244.1.0/26", "host:b", &[("10.244.1.5", "a")])))],
        vec![("pod", Some(endpoint("lent", "a", "10.244.1.5")))],
        vec![("pool", Some(pool("p", "10.244.0.0/16", "vxlanMode: CrossSubnet")))],
        vec![("b", Some(node("b", "10.0.9.2/24", Some("10.244.1.0"))))],
        vec![("c", Some(node("c", "10.0.9.2/24", Some("10.244.2.0")))), ("block-c", Some(block("10.244.2.0/32", "host:c", &[])))],
        vec![("b", None)],
        vec![
            ("pod", Some(endpoint("lent", "b", "10.244.1.5"))),
            ("block-b", Some(block("10.244.1.0/26", "virtual:x", &[("10.244.1.6", "c")]))),
        ],
        vec![("pool", None)],
        vec![("pool", Some(pool("q", "10.244.0.0/15", "")))],
    ])
}

/// A working cluster of two nodes, and then what goes on in it.
fn then(steps: Vec<Step>) -> Vec<Files> {
    let first = vec![
        ("pool", Some(pool("p", "10.244.0.0/16", "vxlanMode: CrossSubnet"))),
        ("a", Some(node("a", "10.0.0.1/24", Some("10.244.0.0")))),
        ("b", Some(node("b", "10.0.0.2/24", Some("10.244.1.0")))),
        ("block-a", Some(block("10.244.0.0/26", "host:a", &[("10.244.0.0", "a"), ("10.244.0.5", "a")]))),
        ("block-b", Some(block("10.244.1.0/26", "host:b", &[("10.244.1.0", "b")]))),
        ("pod", Some(endpoint("here", "a", "10.244.0.5"))),
    ];
    states([vec![first], steps].concat())
}

fn claim(node: &str, cidr: &str, state: &str) -> String {
    format!(
        "---\n{{apiVersion: projectcalico.org/v3, kind: BlockAffinity, metadata: {{name: c}}, spec: {{node: {node}, cidr: {cidr}, state: {state}}}}}\n"
    )
}

fn felix(spec: &str) -> String {
    format!("---\n{{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {{name: default}}, spec: {{{spec}}}}}\n")
}

/// An endpoint with the floating IP 192.0.2.7.
fn floating(pod: &str, node: &str, ip: &str) -> String {
    endpoint(pod, node, ip).replace("ipNetworks:", &format!("ipNATs: [{{internalIP: {ip}, externalIP: 192.0.2.7}}], ipNetworks:"))
}

fn scenarios() -> Vec<(&'static str, Vec<Files>)> {
    let moved = |cidr| Some(node("b", cidr, Some("10.244.1.0")));
    let pools = |mode| Some(pool("p", "10.244.0.0/16", mode));
    vec![
        ("a whole life", whole_life()),
        (
            "a pool flips",
            then(["vxlanMode: Always", "ipipMode: Always", "ipipMode: CrossSubnet", ""].map(|m| vec![("pool", pools(m))]).into()),
        ),
        (
            "a node moves, loses its address and regains it",
            then(vec![
                vec![("b", moved("10.0.9.2/24"))],
                vec![("b", Some(node("b", "''", Some("10.244.1.0"))))],
                vec![("b", moved("10.0.9.2/24"))],
                vec![("a", Some(node("a", "10.0.0.1/16", Some("10.244.0.0"))))],
                vec![("a", Some(node("a", "''", None)))],
                vec![("a", Some(node("a", "10.0.0.1/32", Some("10.244.0.0"))))],
            ]),
        ),
        (
            "two nodes want one address",
            then(vec![
                vec![("c", Some(node("c", "10.0.0.2/24", Some("10.244.1.0"))))],
                vec![("block-c", Some(block("10.244.2.0/26", "host:c", &[])))],
                vec![("b", None)],
                vec![("b", moved("10.0.0.2/24"))],
                vec![("c", Some(node("c", "10.0.0.1/24", None)))],
            ]),
        ),
        (
            "a block changes hands",
            then(vec![
                vec![
                    ("block-b", Some(block("10.244.1.0/26", "", &[("10.244.1.7", "b"), ("10.244.1.8", "a")]))),
                    ("claim", Some(claim("a", "10.244.1.0/26", "pending"))),
                ],
                vec![
                    ("block-b", Some(block("10.244.1.0/26", "host:a", &[("10.244.1.7", "b")]))),
                    ("claim", Some(claim("a", "10.244.1.0/26", "confirmed"))),
                ],
                vec![("claim", Some(claim("b", "10.244.1.0/26", "confirmed")))],
                vec![("block-b", None)],
                vec![("claim", None)],
            ]),
        ),
        (
            "tunnel addresses in a pool of their own",
            then(vec![
                vec![("tunnels", Some(pool("t", "10.245.0.0/24", "vxlanMode: CrossSubnet, blockSize: 32, allowedUses: [Tunnel]")))],
                vec![("tunnel-b", Some(block("10.245.0.2/32", "host:b", &[("10.245.0.2", "b")])))],
                vec![("b", Some(node("b", "10.0.0.2/24", Some("10.245.0.2"))))],
                vec![
                    ("tunnel-a", Some(block("10.245.0.1/32", "host:a", &[("10.245.0.1", "a")]))),
                    ("a", Some(node("a", "10.0.0.1/24", Some("10.245.0.1")))),
                ],
                vec![("tunnels", None)],
            ]),
        ),
        (
            "routes follow from blocks, from pods, from blocks",
            then(vec![
                vec![("there", Some(endpoint("there", "b", "10.244.0.9")))],
                vec![("felix", Some(felix("routeSource: WorkloadIPs")))],
                vec![("there", Some(endpoint("there", "b", "10.244.0.5")))],
                vec![("pod", None)],
                vec![("felix", Some(felix("routeSource: CalicoIPAM, vxlanPort: 4790, externalNodesList: [10.0.0.77, 10.0.0.2]")))],
            ]),
        ),
        (
            "a floating IP moves from pod to pod",
            then(vec![
                vec![("felix", Some(felix("floatingIPs: Enabled"))), ("fips", Some(pool("f", "192.0.2.0/28", "disabled: true")))],
                vec![("pod", Some(floating("here", "a", "10.244.0.5")))],
                vec![("there", Some(floating("there", "b", "10.244.1.5")))],
                vec![("pod", Some(endpoint("here", "a", "10.244.0.5")))],
                vec![("b", moved("10.0.9.2/24"))],
                vec![("pools", Some(block("192.0.2.0/28", "host:b", &[("192.0.2.7", "b")])))],
                vec![("pools", None), ("pod", Some(floating("here", "a", "10.244.0.5"))), ("fips", None)],
                vec![("felix", Some(felix("floatingIPs: Disabled")))],
            ]),
        ),
        (
            "an address passes from one pod to the next",
            then(vec![
                vec![("next", Some(endpoint("next", "a", "10.244.0.5")))],
                vec![("pod", None)],
                vec![("pod", Some(endpoint("here", "b", "10.244.0.5")))],
                vec![("next", None), ("block-a", Some(block("10.244.0.0/26", "host:a", &[("10.244.0.5", "b")])))],
            ]),
        ),
    ]
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

/// Every second state left out, and the last one twice.
fn squash(states: &[Files]) -> Vec<Files> {
    let last = states.last().into_iter().cycle().take(2);
    states.iter().step_by(2).chain(last).cloned().collect()
}

fn reverse(states: &[Files]) -> Vec<Files> {
    states.iter().rev().cloned().collect()
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

type Expander = fn(&[Files]) -> Vec<Files>;

/// Plays states through one calculator and compares each with what it gives alone.
fn calculate(what: &str, states: &[Files]) {
    let mut calculator = Calculator::new("a");
    let mut now = Cluster::default();
    for (i, state) in states.iter().enumerate() {
        let (next, want) = expected(state);
        calculator.update(&next, &Changed::between(&now, &next));
        now = next;
        assert_eq!(calculator.desired(), &want, "{what}, state {i}");
    }
}

#[test]
fn every_expansion_of_every_scenario_ends_the_same() {
    let expanders: [(&str, Expander); 5] =
        [("as it is", <[Files]>::to_vec), ("reversed", reverse), ("split", split), ("squashed", squash), ("interleaved", interleave)];
    for (name, states) in scenarios() {
        for (how, expand) in expanders {
            calculate(&format!("{name}, {how}"), &expand(&states));
            for (and, expand_more) in expanders {
                calculate(&format!("{name}, {how}, then {and}"), &expand_more(&expand(&states)));
            }
        }
    }
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
fn the_scenarios_are_worth_playing() {
    for (name, states) in scenarios() {
        let all: Vec<Desired> = states.iter().map(|s| expected(s).1).collect();
        let same = all.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(same <= 1, "{name}: {same} of {} steps change nothing", all.len() - 1);
    }
}

#[test]
fn forwards() {
    play(&whole_life());
}

#[test]
fn reversed() {
    play(&reverse(&whole_life()));
}

#[test]
fn split_into_single_changes() {
    play(&split(&whole_life()));
}

#[test]
fn squashed_into_one_change() {
    for state in whole_life() {
        play(&[state]);
    }
    let states = whole_life();
    play(&[states[0].clone(), states[states.len() - 1].clone(), states[4].clone()]);
}

#[test]
fn interleaved_with_other_states() {
    play(&interleave(&whole_life()));
}

#[test]
fn one_file_or_many_makes_no_difference() {
    for state in whole_life() {
        let all: String = state.values().map(|t| format!("{t}\n")).collect();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("all.yaml"), &all).unwrap();
        let (_store, got) = FileStore::open(folder.path()).unwrap();
        assert_eq!(got, expected(&state).0);
    }
}
