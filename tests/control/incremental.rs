//! Random histories: after each step the calculator has what a calculation from nothing gives, and has told exactly
//! what became different.

use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tortie::control::calc::{self, Calculator};
use tortie::control::cluster::{Changed, Cluster};
use tortie::control::desired::{Delta, Desired};
use tortie::control::model::*;

/// One object appears or changes, or goes.
pub type Op = (Key, Option<Object>);

const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];
const CIDRS: [&str; 8] =
    ["10.244.0.0/28", "10.244.0.16/28", "10.244.1.0/28", "10.244.0.3/32", "10.244.0.0/30", "10.244.1.1/32", "10.9.0.0/28", "fd00::/122"];

fn key(kind: Kind, name: impl Into<String>) -> Key {
    Key { kind, name: name.into() }
}

fn node_name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&NODES[..])
}

/// Underlay, tunnel and pod addresses from one small set, so that they collide.
fn ip() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        4 => (0u8..6).prop_map(|i| Ipv4Addr::new(10, 244, 0, i)),
        2 => (0u8..4).prop_map(|i| Ipv4Addr::new(10, 244, 1, i)),
        1 => (1u8..4).prop_map(|i| Ipv4Addr::new(10, 0, 0, i)),
        1 => Just(Ipv4Addr::new(10, 9, 0, 1)),
    ]
}

fn node() -> impl Strategy<Value = Op> {
    let underlay = prop_oneof![
        8 => (1u8..6, proptest::sample::select(&[16u8, 24, 24, 30, 32][..])).prop_map(|(i, len)| Some((Ipv4Addr::new(10, 0, 0, i), len))),
        2 => ip().prop_map(|ip| Some((ip, 24))),
        1 => Just(None),
    ];
    let mac = proptest::option::weighted(0.2, Just("66:00:00:00:00:01".parse().unwrap()));
    let object =
        (underlay, proptest::option::of(ip()), proptest::option::weighted(0.3, ip()), mac).prop_map(|(address, vxlan, ipip, mac)| Node {
            address: address.map(|(ip, len)| ipnet::Ipv4Net::new(ip, len).unwrap()),
            vxlan_address: vxlan,
            ipip_address: ipip,
            vtep_mac: mac,
        });
    (node_name(), any::<bool>(), proptest::option::weighted(0.8, object)).prop_map(|(name, kube, o)| match kube {
        true => (key(Kind::KubeNode, name), o.map(|o| Object::KubeNode(o.into()))),
        false => (key(Kind::Node, name), o.map(|o| Object::Node(o.into()))),
    })
}

fn pool() -> impl Strategy<Value = Op> {
    let encap = prop_oneof![
        Just(Encap::None),
        Just(Encap::Vxlan(Mode::Always)),
        Just(Encap::Vxlan(Mode::CrossSubnet)),
        Just(Encap::Ipip(Mode::Always)),
        Just(Encap::Ipip(Mode::CrossSubnet)),
    ];
    let cidrs = ["10.244.0.0/16", "10.244.0.0/16", "10.244.0.0/24", "10.244.0.4/30", "10.0.0.0/8", "192.0.2.0/30", "fd00::/64"];
    let cidr = proptest::sample::select(cidrs.to_vec());
    let object = (cidr, encap, any::<bool>(), proptest::bool::weighted(0.9)).prop_map(|(cidr, encap, disabled, carries_workloads)| {
        IpPool { cidr: cidr.parse().unwrap(), encap, disabled, block_size: 28, carries_workloads }
    });
    (0..3, proptest::option::weighted(0.85, object))
        .prop_map(|(i, o)| (key(Kind::IpPool, format!("p{i}")), o.map(|o| Object::IpPool(o.into()))))
}

fn felix() -> impl Strategy<Value = Op> {
    let source = prop_oneof![3 => Just(None), 1 => Just(Some(RouteSource::WorkloadIps)), 1 => Just(Some(RouteSource::CalicoIpam))];
    let external = proptest::option::of(Just(vec!["10.0.0.2/31".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]));
    let object =
        (source, external, proptest::option::of(any::<bool>())).prop_map(|(route_source, external_nodes, on)| FelixConfiguration {
            route_source,
            external_nodes,
            vxlan_enabled: on,
            floating_ips: on.or(Some(true)),
            ..FelixConfiguration::default()
        });
    (any::<bool>(), proptest::option::of(object)).prop_map(|(own, o)| {
        (key(Kind::FelixConfiguration, if own { "node.a" } else { "default" }), o.map(|o| Object::FelixConfiguration(o.into())))
    })
}

fn block() -> impl Strategy<Value = Op> {
    let affinity = prop_oneof![
        6 => node_name().prop_map(|n| Affinity::Host(n.into())),
        1 => Just(Affinity::None),
        1 => Just(Affinity::Virtual("v".into())),
    ];
    let used =
        proptest::collection::btree_map(0u32..6, (proptest::option::weighted(0.9, node_name()), proptest::bool::weighted(0.1)), 0..4);
    let object = (proptest::sample::select(&CIDRS[..]), affinity, used, proptest::bool::weighted(0.1)).prop_map(
        |(cidr, affinity, used, deleted)| {
            let cidr: IpNet = cidr.parse().unwrap();
            let size = 1u64 << (cidr.max_prefix_len() - cidr.prefix_len());
            let fits = used.into_iter().filter(|(ordinal, _)| u64::from(*ordinal) < size);
            let allocations =
                fits.map(|(ordinal, (node, reserved))| Allocation { ordinal, node: node.map(Into::into), reserved }).collect();
            IpamBlock { cidr, affinity, allocations, deleted }
        },
    );
    (0..7, proptest::option::weighted(0.8, object))
        .prop_map(|(i, o)| (key(Kind::IpamBlock, format!("b{i}")), o.map(|o| Object::IpamBlock(o.into()))))
}

fn claim() -> impl Strategy<Value = Op> {
    let state = prop_oneof![Just(AffinityState::Pending), Just(AffinityState::Confirmed), Just(AffinityState::Confirmed)];
    let object = (proptest::sample::select(&CIDRS[..]), node_name(), state, any::<bool>(), proptest::bool::weighted(0.1));
    let object = object.prop_map(|(cidr, node, state, is_host, deleted)| BlockAffinity {
        node: node.into(),
        cidr: cidr.parse().unwrap(),
        state,
        is_host,
        deleted,
    });
    (0..4, proptest::option::weighted(0.8, object))
        .prop_map(|(i, o)| (key(Kind::BlockAffinity, format!("c{i}")), o.map(|o| Object::BlockAffinity(o.into()))))
}

fn ips() -> impl Strategy<Value = Vec<IpAddr>> {
    proptest::collection::vec(ip().prop_map(IpAddr::V4), 0..3)
}

/// Few, so that several want the same; in and outside of pools, and some that others have.
fn floating() -> impl Strategy<Value = Vec<IpAddr>> {
    let one = prop_oneof![
        3 => (1u8..4).prop_map(|i| Ipv4Addr::new(192, 0, 2, i)),
        3 => (8u8..11).prop_map(|i| Ipv4Addr::new(10, 244, 0, i)),
        1 => ip(),
    ];
    proptest::collection::vec(one.prop_map(IpAddr::V4), 0..3)
}

fn workload() -> impl Strategy<Value = Op> {
    let object = (node_name(), 0..4, ips(), proptest::option::weighted(0.2, Just("cali7".to_owned())), floating());
    let object = object.prop_map(|(node, pod, mut addresses, interface, floating)| {
        addresses.sort();
        addresses.dedup();
        let inside = addresses.first().copied();
        WorkloadEndpoint {
            namespace: "ns".into(),
            node: node.into(),
            pod: Some(format!("pod{pod}")),
            workload: None,
            interface,
            mac: None,
            addresses,
            spoofed_sources: vec![],
            floating_ips: floating.into_iter().filter_map(|external| Some(FloatingIp { external, internal: inside? })).collect(),
            netns: None,
            limited: false,
        }
    });
    (0..5, proptest::option::weighted(0.8, object))
        .prop_map(|(i, o)| (key(Kind::WorkloadEndpoint, format!("ns/w{i}")), o.map(|o| Object::WorkloadEndpoint(o.into()))))
}

fn pod() -> impl Strategy<Value = Op> {
    let object = (proptest::option::weighted(0.9, node_name()), ips(), proptest::bool::weighted(0.1), floating());
    let object = object.prop_map(|(node, addresses, host_network, floating)| Pod {
        node: node.map(Into::into),
        host_network,
        addresses: addresses.into(),
        mac: None,
        spoofed_sources: Box::default(),
        floating_ips: floating.into(),
        netns: None,
        limited: false,
    });
    (0..5, proptest::option::weighted(0.8, object))
        .prop_map(|(i, o)| (key(Kind::Pod, format!("ns/pod{i}")), o.map(|o| Object::Pod(o.into()))))
}

pub fn history() -> impl Strategy<Value = Vec<Vec<Op>>> {
    let op = prop_oneof![20 => node(), 4 => pool(), 3 => felix(), 30 => block(), 10 => claim(), 20 => workload(), 15 => pod()];
    proptest::collection::vec(proptest::collection::vec(op, 1..5), 1..40)
}

/// What the history starts from: most steps should meet a working cluster.
pub fn beginning() -> Cluster {
    let mut c = Cluster::default();
    let address = |i| ipnet::Ipv4Net::new(Ipv4Addr::new(10, 0, 0, i), 24).ok();
    for (i, n) in (1..).zip(["a", "b", "c"]) {
        let node = Node { address: address(i), vxlan_address: Some(Ipv4Addr::new(10, 244, 1, i)), ..Node::default() };
        c.insert(key(Kind::Node, n), Object::Node(node.into()));
    }
    let cidr = "10.244.0.0/16".parse().unwrap();
    let pool = IpPool { cidr, encap: Encap::Vxlan(Mode::CrossSubnet), disabled: false, block_size: 28, carries_workloads: true };
    c.insert(key(Kind::IpPool, "p0"), Object::IpPool(pool.into()));
    c
}

/// Carries the operations out; the keys that they touched.
pub fn apply(cluster: &mut Cluster, step: Vec<Op>) -> BTreeSet<Key> {
    let keys = step.iter().map(|(k, _)| k.clone()).collect();
    for (key, object) in step {
        if let Some(object) = object {
            cluster.insert(key, object);
        } else {
            cluster.remove(&key);
        }
    }
    keys
}

/// Keys whose values differ.
fn differing<K: Ord + Clone, V: PartialEq>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> BTreeSet<K> {
    a.keys().chain(b.keys()).filter(|k| a.get(k) != b.get(k)).cloned().collect()
}

/// The delta says what is different. What comes and goes within one step may be in it too, but for routes and endpoints,
/// which cost something further on.
fn check_delta(delta: &Delta, old: &Desired, new: &Desired) -> Result<(), TestCaseError> {
    let Delta::Parts(p) = delta else { return Ok(()) };
    prop_assert_eq!(p.routes.iter().copied().collect::<BTreeSet<_>>(), differing(&old.routes, &new.routes));
    prop_assert!(p.routes.is_sorted());
    prop_assert_eq!(&p.endpoints, &differing(&old.endpoints, &new.endpoints));
    prop_assert!(p.vteps.is_superset(&differing(&old.vteps, &new.vteps)));
    let both = |d: &Desired| d.nodes.iter().map(|a| (*a, 0)).chain(d.senders.iter().map(|a| (*a, 1))).collect::<BTreeSet<_>>();
    let addresses: BTreeSet<Ipv4Addr> = both(old).symmetric_difference(&both(new)).map(|(a, _)| *a).collect();
    prop_assert!(p.addresses.is_superset(&addresses));
    prop_assert!(p.floating || (&old.floating, old.translations()) == (&new.floating, new.translations()));
    prop_assert!(p.warnings || (&old.warnings, &old.conflicts) == (&new.warnings, &new.conflicts));
    prop_assert_eq!((&old.node, &old.pools), (&new.node, &new.pools), "only a whole calculation changes these");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn object_by_object_gives_what_all_at_once_gives(history in history()) {
        let mut cluster = beginning();
        let mut calculator = Calculator::new("a");
        prop_assert_eq!(calculator.update(&cluster, &Changed::All), Delta::All);
        for (i, step) in history.into_iter().enumerate() {
            let keys = apply(&mut cluster, step);
            let old = calculator.desired().clone();
            let delta = calculator.update(&cluster, &Changed::Keys(keys));
            let full = calc::desired(&cluster, "a");
            prop_assert_eq!(calculator.desired(), &full, "step {}", i);
            check_delta(&delta, &old, &full)?;
        }
    }
}

/// Small objects must not recalculate everything, and the same object again is no change.
#[test]
fn only_what_decides_about_everything_recalculates_everything() {
    let mut cluster = beginning();
    let mut calculator = Calculator::new("a");
    calculator.update(&cluster, &Changed::All);
    let block =
        IpamBlock { cidr: "10.244.0.0/28".parse().unwrap(), affinity: Affinity::Host("b".into()), allocations: vec![], deleted: false };
    let mut put = |key: Key, object: Object| {
        cluster.insert(key.clone(), object);
        calculator.update(&cluster, &Changed::Keys([key].into()))
    };
    let b = Arc::new(block);
    let Delta::Parts(p) = put(key(Kind::IpamBlock, "b0"), Object::IpamBlock(b.clone())) else { panic!("a block") };
    assert_eq!(p.routes, ["10.244.0.0/28".parse().unwrap()]);
    let Delta::Parts(p) = put(key(Kind::IpamBlock, "b0"), Object::IpamBlock(b)) else { panic!("a block again") };
    assert!(p.is_empty());
    let other = Node { address: "10.0.0.9/24".parse().ok(), ..Node::default() };
    let Delta::Parts(p) = put(key(Kind::Node, "b"), Object::Node(other.into())) else { panic!("another node") };
    assert_eq!((p.routes.len(), p.addresses.len(), p.vteps.len()), (1, 2, 1));
    let own = Node { address: "10.0.0.1/16".parse().ok(), ..Node::default() };
    assert_eq!(put(key(Kind::Node, "a"), Object::Node(own.clone().into())), Delta::All);
    assert_eq!(put(key(Kind::Node, "a"), Object::Node(own.into())), Delta::Parts(Default::default()));
    assert_eq!(put(key(Kind::FelixConfiguration, "node.b"), Object::FelixConfiguration(Arc::default())), Delta::Parts(Default::default()));
}
