//! Route calculation and planning at the size of a large cluster: 5,000 nodes, 20,000 blocks, 250,000 pods of which 200
//! are local. From nothing, and object by object as updates come in; and a million routes: in the plan alone, and as the
//! addresses of a million pods, from the object that changed to the worker that took the new snapshot up.

use criterion::{Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tortie::control::calc::{self, Calculator};
use tortie::control::cluster::{Changed, Cluster};
use tortie::control::desired::{Delta, Desired, Parts, Route, ThisNode};
use tortie::control::model::*;
use tortie::control::netlink::{Changes, View};
use tortie::control::plan::{Inputs, Out, Planner, Ports, Underlay, Workload};
use tortie::frame::PortId;
use tortie::port::{Medium, mem};
use tortie::snapshot::{Reader, channel};
use tortie::wire::Mac;

const NODES: u32 = 5_000;
const BLOCKS: u32 = 20_000;
const PODS: u32 = 250_000;
/// Pods of one node; those of this node are in its four blocks.
const LOCAL: u32 = 200;
const ME: &str = "node-00000.example.com";
const MILLION: u32 = 1_000_000;
const POD_NET: u32 = 10 << 24;
const BLOCK_SIZE: u32 = 64;

fn node_name(i: u32) -> String {
    format!("node-{i:05}.example.com")
}

fn underlay(i: u32) -> Ipv4Addr {
    Ipv4Addr::from((172 << 24) + (16 << 16) + 1 + i)
}

/// Block `b` belongs to node `b % NODES`.
fn block_net(b: u32) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(POD_NET + b * BLOCK_SIZE), 26).expect("a prefix length")
}

fn key(kind: Kind, name: String) -> Key {
    Key { kind, name }
}

fn node(i: u32) -> (Key, Object) {
    let node = Node { address: Ipv4Net::new(underlay(i), 12).ok(), vxlan_address: Some(block_net(i).network()), ..Node::default() };
    (key(Kind::Node, node_name(i)), Object::Node(node.into()))
}

/// With its first `used` addresses in use on its own node, and perhaps one on another.
fn block(b: u32, used: u32, lent: Option<u32>) -> (Key, Object) {
    let owner: Arc<str> = node_name(b % NODES).into();
    let mut allocations: Vec<Allocation> =
        (0..used).map(|ordinal| Allocation { ordinal, node: Some(owner.clone()), reserved: false }).collect();
    allocations.extend(lent.map(|n| Allocation { ordinal: used, node: Some(node_name(n).into()), reserved: false }));
    let net = block_net(b);
    let name = format!("{}-26", net.network().to_string().replace('.', "-"));
    (
        key(Kind::IpamBlock, name),
        Object::IpamBlock(IpamBlock { cidr: net.into(), affinity: Affinity::Host(owner), allocations, deleted: false }.into()),
    )
}

fn pod(i: u32) -> (Key, Object) {
    let (node, ip) = if i < LOCAL {
        (0, u32::from(block_net((i / 50) * NODES).network()) + 1 + i % 50)
    } else {
        let b = 1 + i % (NODES - 1);
        (b, u32::from(block_net(b).network()) + 1 + (i / NODES) % 60)
    };
    let pod = Pod {
        node: Some(node_name(node).into()),
        host_network: false,
        addresses: [IpAddr::from(Ipv4Addr::from(ip))].into(),
        mac: None,
        spoofed_sources: Box::default(),
        floating_ips: Box::default(),
        netns: None,
        limited: false,
    };
    (key(Kind::Pod, format!("namespace-{:03}/deployment-{i:06}-abcde", i % 500)), Object::Pod(pod.into()))
}

fn pool() -> IpPool {
    IpPool {
        cidr: "10.0.0.0/8".parse().expect("a CIDR"),
        encap: Encap::Vxlan(Mode::Always),
        disabled: false,
        block_size: 26,
        carries_workloads: true,
    }
}

fn cluster() -> Cluster {
    let mut c = Cluster::default();
    c.insert(key(Kind::IpPool, "pool".into()), Object::IpPool(pool().into()));
    let used = PODS / BLOCKS;
    let objects = (0..NODES).map(node).chain((0..BLOCKS).map(|b| block(b, used, None))).chain((0..PODS).map(pod));
    for (key, object) in objects {
        c.insert(key, object);
    }
    c
}

/// The ports of this node, all pods connected.
fn ports(desired: &Desired, medium: Medium) -> Ports {
    let out = |id: u16, medium| Out::new(PortId(id), &mem::caps(medium, 1500), 1500);
    let uplink = Some(out(0, medium));
    let mac = Some(Mac([2, 0, 0, 0, 0, 1]));
    let pods = (2..).zip(desired.endpoints.keys());
    Ports {
        uplink: Some(Underlay {
            dev: 2,
            name: "eth0".into(),
            mac: Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1500,
            vxlan: uplink,
            ipip: uplink,
            direct: uplink,
        }),
        host: Some(out(1, Medium::Ip)),
        workloads: pods.map(|(id, name)| (name.to_string(), Workload { out: out(id, Medium::Ethernet), mac })).collect(),
    }
}

/// All of the control plane's share of an update, with a worker that keeps up.
struct Control {
    cluster: Cluster,
    calculator: Calculator,
    planner: Planner,
    reader: Reader,
    ports: Ports,
    view: View,
}

impl Control {
    fn new(cluster: Cluster) -> Control {
        let (publisher, mut readers) = channel(1);
        let calculator = Calculator::new(ME);
        let reader = readers.remove(0);
        let planner = Planner::new(publisher, Vec::new());
        Control { cluster, calculator, planner, reader, ports: Ports::default(), view: View::default() }
    }

    fn first(&mut self) {
        self.calculator.update(&self.cluster, &Changed::All);
        self.ports = ports(self.calculator.desired(), Medium::VxlanUdp);
        self.plan(&Delta::All);
    }

    fn plan(&mut self, delta: &Delta) {
        let inputs = Inputs { desired: self.calculator.desired(), ports: &self.ports, view: &self.view };
        self.planner.update(inputs, delta, &Changes::default());
        self.reader.refresh();
    }

    fn put(&mut self, objects: impl IntoIterator<Item = (Key, Object)>) {
        let mut keys = BTreeSet::new();
        for (key, object) in objects {
            keys.insert(key.clone());
            self.cluster.insert(key, object);
        }
        let delta = self.calculator.update(&self.cluster, &Changed::Keys(keys));
        assert_ne!(delta, Delta::All);
        self.plan(&delta);
    }
}

/// Resident memory of this process, MB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 4096 / 1_000_000
}

/// By how much it has grown.
fn more(before: u64) -> String {
    match resident().checked_sub(before) {
        Some(grown) => format!("{grown} MB resident"),
        None => "not told, as earlier benches left memory behind; run this one alone".into(),
    }
}

/// Ten updates as they come within 10 ms at 1,000 a second: pods that come and change elsewhere, addresses taken
/// from blocks, one borrowed, one node.
fn ten(round: u32) -> Vec<(Key, Object)> {
    let mut out: Vec<(Key, Object)> = (0..6).map(|i| pod(LOCAL + (round * 6 + i) % (PODS - LOCAL))).collect();
    let b = (round * 3) % BLOCKS;
    out.push(block(b, 12 + round % 2, None));
    out.push(block((b + 1) % BLOCKS, 13 - round % 2, None));
    out.push(block((b + 2) % BLOCKS, 12, Some((b + 7 + round) % NODES)));
    out.push(node(1 + round % (NODES - 1)));
    out
}

fn large_cluster(c: &mut Criterion) {
    let mut g = c.benchmark_group("calc");
    g.sample_size(10).measurement_time(Duration::from_secs(4));
    let before = resident();
    let state = cluster();
    println!("objects: {}", more(before));
    g.bench_function("all at once, from nothing", |b| b.iter(|| black_box(calc::desired(&state, ME))));
    g.bench_function("first sync: calculation and plan", |b| {
        b.iter_custom(|n| {
            let mut spent = Duration::ZERO;
            for _ in 0..n {
                let mut control = Control::new(state.clone());
                let start = Instant::now();
                control.first();
                spent += start.elapsed();
            }
            spent
        });
    });
    let mut control = Control::new(state);
    control.first();
    println!("objects, indexes and plan: {}; {} routes", more(before), control.planner.installed().len());
    g.sample_size(50);
    let mut round = 0;
    g.bench_function("flush of ten updates", |b| {
        b.iter(|| {
            round += 1;
            control.put(ten(round));
        });
    });
    let mut lent = 0;
    g.bench_function("one block: an address is borrowed", |b| {
        b.iter(|| {
            lent += 1;
            control.put([block(77, 12, Some(lent % 4_000))]);
        });
    });
    let mut moved = 0;
    g.bench_function("one node: its address moves", |b| {
        b.iter(|| {
            moved += 1;
            let new = Node { address: Ipv4Net::new(underlay(100_000 + moved % 2), 12).ok(), ..Node::default() };
            control.put([(key(Kind::Node, node_name(4_321)), Object::Node(new.into()))]);
        });
    });
    g.bench_function("one pod elsewhere", |b| b.iter(|| control.put([pod(200_000)])));
    let mut local = 0;
    g.bench_function("one pod here", |b| {
        b.iter(|| {
            local += 1;
            let (key, object) = pod(7);
            let Object::Pod(p) = object else { return };
            let mac = Some(Mac([2, 0, 0, 0, 1, local as u8]));
            control.put([(key, Object::Pod(Pod { mac, ..(*p).clone() }.into()))]);
        });
    });
    g.finish();
}

/// A plan alone, with `n` routes to 5,000 nodes.
fn million(n: u32) -> Desired {
    let mut d = Desired { node: Some(this()), ..Desired::default() };
    let names: Vec<Arc<str>> = (0..NODES).map(|i| node_name(i).into()).collect();
    let route = |i: u32| Route::Ipip { node: names[(i % NODES) as usize].clone(), address: underlay(i % NODES) };
    d.routes = (0..n).map(|i| (IpNet::from(Ipv4Net::from(Ipv4Addr::from(POD_NET + i))), route(i))).collect::<BTreeMap<_, _>>();
    d
}

fn this() -> ThisNode {
    let mut small = Cluster::default();
    let (key, object) = node(0);
    small.insert(key, object);
    calc::desired(&small, ME).node.expect("the node has an address")
}

fn million_routes(c: &mut Criterion) {
    let mut g = c.benchmark_group("plan");
    g.sample_size(10).measurement_time(Duration::from_secs(5));
    let mut d = million(MILLION);
    let ports = ports(&Desired::default(), Medium::Ip);
    let view = View::default();
    let fresh = || {
        let (publisher, mut readers) = channel(1);
        (Planner::new(publisher, Vec::new()), readers.remove(0))
    };
    let before = resident();
    let (mut planner, mut reader) = fresh();
    planner.update(Inputs { desired: &d, ports: &ports, view: &view }, &Delta::All, &Changes::everything());
    reader.refresh();
    println!("plan and snapshot: {} bytes resident a route", (resident() - before) * 1_000_000 / u64::from(MILLION));
    let prefix = IpNet::from(Ipv4Net::from(Ipv4Addr::from(POD_NET + 500_000)));
    let delta = Delta::Parts(Parts { routes: vec![prefix], ..Parts::default() });
    let mut i = 0;
    g.sample_size(50);
    g.bench_function("one route among 1,000,000, published", |b| {
        b.iter(|| {
            i += 1;
            d.routes.insert(prefix, Route::Ipip { node: "other".into(), address: underlay(i % NODES) });
            planner.update(Inputs { desired: &d, ports: &ports, view: &view }, &delta, &Changes::default());
            reader.refresh();
        });
    });
    g.bench_function("one route of 1,000,000 removed and added, published", |b| {
        b.iter(|| {
            let route = d.routes.remove(&prefix);
            planner.update(Inputs { desired: &d, ports: &ports, view: &view }, &delta, &Changes::default());
            reader.refresh();
            d.routes.extend(route.map(|r| (prefix, r)));
            planner.update(Inputs { desired: &d, ports: &ports, view: &view }, &delta, &Changes::default());
            reader.refresh();
        });
    });
    drop((planner, reader));
    g.sample_size(10);
    g.bench_function("1,000,000 routes from nothing", |b| {
        b.iter_custom(|n| {
            let mut spent = Duration::ZERO;
            for _ in 0..n {
                let (mut planner, _reader) = fresh();
                let start = Instant::now();
                planner.update(Inputs { desired: &d, ports: &ports, view: &view }, &Delta::All, &Changes::everything());
                spent += start.elapsed();
            }
            spent
        });
    });
    g.finish();
}

/// A pod of another node with an address of its own; `turn` changes the node.
fn single(i: u32, turn: u32) -> (Key, Object) {
    let pod = Pod {
        node: Some(node_name(1 + (i + turn) % (NODES - 1)).into()),
        host_network: false,
        addresses: [IpAddr::from(Ipv4Addr::from(POD_NET + (1 << 22) + i))].into(),
        mac: None,
        spoofed_sources: Box::default(),
        floating_ips: Box::default(),
        netns: None,
        limited: false,
    };
    (key(Kind::Pod, format!("namespace-{:03}/deployment-{i:07}-abcde", i % 500)), Object::Pod(pod.into()))
}

/// Routes that follow from the pods themselves, each a prefix of its own (FelixConfiguration routeSource WorkloadIPs).
fn million_pods(c: &mut Criterion) {
    let mut state = Cluster::default();
    let felix = FelixConfiguration { route_source: Some(RouteSource::WorkloadIps), ..FelixConfiguration::default() };
    state.insert(key(Kind::IpPool, "pool".into()), Object::IpPool(pool().into()));
    state.insert(key(Kind::FelixConfiguration, "default".into()), Object::FelixConfiguration(felix.into()));
    for (key, object) in (0..NODES).map(node).chain((0..MILLION).map(|i| single(i, 0))) {
        state.insert(key, object);
    }
    let before = resident();
    let start = Instant::now();
    let mut control = Control::new(state);
    control.first();
    let routes = control.planner.installed().len();
    println!("{routes} routes from a million pods: {:.2} s", start.elapsed().as_secs_f64());
    println!("indexes, calculation, plan and snapshot: {} bytes resident a route", (resident() - before) * 1_000_000 / routes as u64);
    let mut g = c.benchmark_group("pods");
    g.sample_size(50).measurement_time(Duration::from_secs(5));
    let mut turn = 0u32;
    g.bench_function("one of 1,000,000 moves: object to snapshot", |b| {
        b.iter(|| {
            turn += 1;
            control.put([single(turn.wrapping_mul(7919) % MILLION, turn)]);
        });
    });
    g.finish();
}

// Those that read their memory from the process go first, while it holds nothing else.
criterion_group!(benches, million_routes, million_pods, large_cluster);
criterion_main!(benches);
