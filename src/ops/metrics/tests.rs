use super::family::ALL;
use super::*;
use crate::control::desired::{Route, Vtep};
use crate::control::facts::{Facts, PeerFact, PortTotals, RouteFact};
use crate::control::plan::{Peer, PeerTotals};
use crate::control::ports::{Losses, PortFact};
use crate::drop::DropReason;
use crate::fib::{AdjId, PeerId};
use crate::frame::PortId;
use crate::port::losses::{Kind, Observed};
use crate::wire::Mac;
use crate::worker::Counters;
use prometheus_parse::{Scrape, Value as Parsed};
use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;

fn port(id: u16, role: &'static str, workload: Option<String>) -> PortFact {
    PortFact {
        id: PortId(id),
        name: format!("if{id}"),
        role,
        workload,
        driver: Some("udp"),
        refused: Vec::new(),
        state: "up".into(),
        mtu: Some(1500),
        queues: 1,
        base: PortTotals::default(),
        losses: Losses(Default::default()),
    }
}

fn route(id: u32, node: &str) -> RouteFact {
    RouteFact {
        prefix: format!("10.{}.{}.0/26", id >> 8, id & 0xff).parse().unwrap(),
        route: Route::Ipip { node: node.into(), address: [10, 0, 0, 1].into() },
        port: None,
        mtu: None,
        id: AdjId(id),
        base: 0,
    }
}

fn peer(id: u32) -> PeerFact {
    let counted = Peer { id: PeerId(id), base: PeerTotals::default() };
    PeerFact { node: Some(format!("peer-{:04}", id - 1)), address: std::net::Ipv4Addr::from(0x0a01_0000 + id), counted }
}

/// A node with this many pods and peers.
fn sample(pods: u16, peers: u32) -> (Arc<Shared>, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let mut facts = Facts { node: "n1".into(), in_sync: true, generation: 7, pod_mtu: Some(1450), ..Facts::default() };
    facts.ports = vec![port(0, "uplink", None), port(1, "host", None)];
    facts.ports.extend((0..pods).map(|i| port(2 + i, "workload", Some(format!("default/web-{i}")))));
    facts.routes = (0..peers).map(|i| route(i + 1, &format!("peer-{i:04}"))).collect();
    facts.peers = (0..peers).map(|i| peer(i + 1)).collect();
    facts.vteps = vec![Vtep { node: "n2".into(), address: [10, 0, 0, 2].into(), tunnel_address: [10, 1, 0, 0].into(), mac: Mac([2; 6]) }];
    let shared = Shared::new(facts, vec![counters.clone()], tokio::sync::mpsc::unbounded_channel().0);
    // Nobody answers but the tests.
    shared.close();
    (Arc::new(shared), counters)
}

/// What an independent reader makes of the exposition: value by name and labels.
fn scrape(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = metrics.text().unwrap();
    let read = Scrape::parse(text.lines().map(|l| Ok(l.to_owned()))).unwrap();
    let mut out = BTreeMap::new();
    for s in read.samples {
        let labels: BTreeMap<String, String> = s.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let value = match s.value {
            Parsed::Counter(n) | Parsed::Gauge(n) | Parsed::Untyped(n) => n,
            // The reader takes a summary's count and sum as samples of their own.
            other => panic!("{}: {other:?}", s.metric),
        };
        let old = out.insert(format!("{}{labels:?}", s.metric), value);
        assert!(old.is_none(), "twice: {} {labels:?}", s.metric);
    }
    out
}

fn names(scrape: &BTreeMap<String, f64>) -> BTreeSet<String> {
    let name = |k: &String| {
        let name = k.split('{').next().unwrap_or_default();
        let base = name.strip_suffix("_sum").or_else(|| name.strip_suffix("_count")).unwrap_or(name);
        base.to_owned()
    };
    scrape.keys().map(name).collect()
}

#[test]
fn an_independent_reader_finds_every_declared_metric_and_no_other() {
    let (shared, _) = sample(3, 2);
    let socket = Observed::new(UdpSocket::bind("127.0.0.1:0").unwrap().into());
    let mut facts = (*shared.facts()).clone();
    facts.ports[0].losses = Losses(Arc::new([socket.reader(Kind::Buffer)]));
    shared.answer(|| facts);
    let found = names(&scrape(&Metrics::new(shared)));
    let own: BTreeSet<&str> = found.iter().map(String::as_str).filter(|n| !n.starts_with("process_")).collect();
    assert_eq!(own, ALL.iter().map(|f| f.name).collect::<BTreeSet<_>>());
    assert!(found.contains("process_cpu_seconds_total") && found.contains("process_resident_memory_bytes"));
}

#[test]
fn counters_are_read_live_and_named_by_prometheus_rules() {
    let (shared, counters) = sample(1, 1);
    let metrics = Metrics::new(shared);
    let before = scrape(&metrics);
    counters.count_drop(DropReason::NoRoute, 3);
    counters.port(PortId(2)).rx_bytes.add(1000);
    counters.port(PortId(2)).tx_frames.add(4);
    counters.sent_to(PeerId(1), 100);
    counters.received_from(PeerId(1), 60);
    counters.turns.add(5);
    let after = scrape(&metrics);
    let grown = |key: &str| after[key] - before[key];
    assert_eq!(grown("tortie_drops_total{\"reason\": \"no-route\"}"), 3.0);
    assert_eq!(grown("tortie_drops_total{\"reason\": \"blackhole\"}"), 0.0);
    let pod = |direction: &str| {
        format!("{{\"direction\": \"{direction}\", \"interface\": \"if2\", \"namespace\": \"default\", \"pod\": \"web-0\"}}")
    };
    assert_eq!(grown(&format!("tortie_pod_bytes_total{}", pod("from-pod"))), 1000.0);
    assert_eq!(grown(&format!("tortie_pod_packets_total{}", pod("to-pod"))), 4.0);
    assert_eq!(grown("tortie_port_bytes_total{\"direction\": \"received\", \"role\": \"workload\"}"), 1000.0);
    let peer = |what: &str, direction: &str| {
        grown(&format!("tortie_peer_{what}_total{{\"direction\": \"{direction}\", \"peer\": \"peer-0000\"}}"))
    };
    assert_eq!((peer("packets", "to-peer"), peer("packets", "from-peer")), (1.0, 1.0));
    assert_eq!((peer("bytes", "to-peer"), peer("bytes", "from-peer")), (100.0, 60.0));
    assert_eq!(grown("tortie_worker_turns_total{\"worker\": \"0\"}"), 5.0);
    for f in ALL.iter().filter(|f| f.name.starts_with("tortie_")) {
        assert_eq!(f.name.ends_with("_total"), f.kind == Type::Counter, "{}", f.name);
    }
}

#[test]
fn sums_of_a_role_survive_what_they_summed() {
    let (shared, counters) = sample(2, 1);
    let metrics = Metrics::new(shared.clone());
    counters.port(PortId(2)).rx_frames.add(10);
    counters.port(PortId(3)).rx_frames.add(1);
    let key = "tortie_port_packets_total{\"direction\": \"received\", \"role\": \"workload\"}";
    let before = scrape(&metrics)[key];
    // The first pod goes, and what it did is noted as the port manager does.
    let mut facts = (*shared.facts()).clone();
    facts.ports.retain(|p| p.id != PortId(2));
    facts.past_ports.insert("workload", PortTotals { rx_frames: 10, ..PortTotals::default() });
    shared.answer(|| facts);
    assert_eq!(scrape(&metrics)[key], before);
}

#[test]
fn a_thousand_pods_and_peers_stay_within_bounds() {
    let (few, many) = (scrape(&Metrics::new(sample(1, 1).0)), scrape(&Metrics::new(sample(1000, 1000).0)));
    let count = |s: &BTreeMap<String, f64>, name: &str| s.keys().filter(|k| k.starts_with(name)).count();
    assert_eq!((count(&few, "tortie_pod_packets_total"), count(&many, "tortie_pod_packets_total")), (2, 2 * read::PODS));
    assert_eq!(count(&many, "tortie_peer_packets_total"), 2 * read::PEERS);
    assert_eq!((many["tortie_pods_omitted{}"], many["tortie_peers_omitted{}"]), (488.0, 744.0));
    let others = |s: &BTreeMap<String, f64>| s.len() - count(s, "tortie_pod_") - count(s, "tortie_peer_");
    assert_eq!(others(&few), others(&many), "nothing else grows");
    // The help of the two gauges names the bounds.
    assert!(family::PODS_OMITTED.help.contains(&read::PODS.to_string()));
    assert!(family::PEERS_OMITTED.help.contains(&read::PEERS.to_string()));
}

#[test]
fn strange_names_are_escaped() {
    let (shared, _) = sample(0, 0);
    let mut facts = (*shared.facts()).clone();
    facts.ports.push(port(9, "workload", Some("odd\"name\\with\nall".into())));
    shared.answer(|| facts);
    let all = scrape(&Metrics::new(shared));
    assert!(all.keys().any(|k| k.starts_with("tortie_pod_bytes_total") && k.contains("odd")), "{all:?}");
}
