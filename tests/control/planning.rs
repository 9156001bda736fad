//! Random histories of cluster and host: after each step the planner has in force what a planner that starts from
//! nothing puts in force.

use crate::incremental::{Op, apply, beginning, history};
use ipnet::Ipv4Net;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tortie::control::calc::Calculator;
use tortie::control::cluster::{Changed, Cluster};
use tortie::control::desired::{Delta, Desired};
use tortie::control::netlink::{Changes, KernelRoute, Neigh, NeighState, NextHop, View};
use tortie::control::plan::{Inputs, Out, Planner, Ports, Underlay, Workload};
use tortie::fib::{AdjKind, Adjacency, PeerId};
use tortie::frame::PortId;
use tortie::port::{Medium, mem};
use tortie::snapshot::{PortRole, Reader, Tunnel, channel};
use tortie::wire::Mac;

const UPLINK: u32 = 2;

/// What happens on the host.
#[derive(Clone, Debug)]
enum HostOp {
    Neighbour(Ipv4Addr, Option<u8>),
    Address(Ipv4Addr),
    Route(Ipv4Net, Option<Ipv4Addr>),
    /// The ports of the uplink and of the pods open with these media, or close.
    Uplink(Option<(Medium, Medium)>),
    Host(bool),
    /// Pods whose place in the order is in the mask have ports, with this MAC.
    Pods(u8, Option<u8>),
}

fn underlay() -> impl Strategy<Value = Ipv4Addr> {
    (1u8..6).prop_map(|i| Ipv4Addr::new(10, 0, 0, i))
}

fn host_op() -> impl Strategy<Value = HostOp> {
    let medium = || prop_oneof![3 => Just(Medium::Ethernet), 1 => Just(Medium::VxlanUdp), 1 => Just(Medium::Ip)];
    let net = prop_oneof![Just("10.0.0.0/24"), Just("10.0.0.4/30"), Just("10.0.0.4/32"), Just("172.16.0.0/16"), Just("0.0.0.0/0")];
    prop_oneof![
        8 => (underlay(), proptest::option::weighted(0.7, any::<u8>())).prop_map(|(a, m)| HostOp::Neighbour(a, m)),
        2 => (0u8..4).prop_map(|i| HostOp::Address(Ipv4Addr::new(10, 244, 0, i))),
        2 => (net, proptest::option::of(underlay())).prop_map(|(n, via)| HostOp::Route(n.parse().unwrap(), via)),
        1 => proptest::option::weighted(0.8, (medium(), medium())).prop_map(HostOp::Uplink),
        1 => any::<bool>().prop_map(HostOp::Host),
        4 => (any::<u8>(), proptest::option::of(0u8..3)).prop_map(|(mask, mac)| HostOp::Pods(mask, mac)),
    ]
}

#[derive(Default)]
struct Host {
    view: View,
    uplink: Option<(Medium, Medium)>,
    host: bool,
    pods: (u8, Option<u8>),
    changes: Changes,
}

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

impl Host {
    fn apply(&mut self, op: HostOp) {
        let mut changes = Changes::default();
        match op {
            HostOp::Neighbour(address, n) => {
                let key = (UPLINK, address);
                let new = Neigh { mac: n.map(mac), state: NeighState::Reachable };
                if self.view.neighbours.insert(key, new).and_then(|o| o.mac) != new.mac {
                    changes.neighbours.insert(key);
                }
            }
            HostOp::Address(ip) => {
                let key = (5, Ipv4Net::from(ip));
                if !self.view.addresses.remove(&key) {
                    self.view.addresses.insert(key);
                }
                changes.addresses = true;
            }
            HostOp::Route(dst, gateway) => {
                let r = KernelRoute {
                    dst,
                    metric: 0,
                    gateway,
                    dev: UPLINK,
                    also: None,
                    prefsrc: None,
                    protocol: 2,
                    scope: 253,
                    tos: 0,
                    onlink: false,
                    unicast: true,
                };
                if !self.view.routes.remove(&r) {
                    self.view.routes.insert(r);
                }
                (changes.foreign_routes, changes.routes) = ([dst].into(), [dst].into());
            }
            HostOp::Uplink(media) => self.uplink = media,
            HostOp::Host(open) => self.host = open,
            HostOp::Pods(mask, mac) => self.pods = (mask, mac),
        }
        self.changes.merge(changes);
    }

    fn ports(&self, desired: &Desired) -> Ports {
        let out = |id: u16, medium| Out::new(PortId(id), &mem::caps(medium, 1500), 1500);
        let uplink = self.uplink.map(|(tunnels, direct)| Underlay {
            dev: UPLINK,
            name: "eth0".into(),
            mac: mac(99),
            mtu: 1500,
            vxlan: Some(out(0, tunnels)),
            ipip: Some(out(1, tunnels)),
            direct: Some(out(2, direct)),
        });
        let open = (0u16..).zip(desired.endpoints.keys()).filter(|(i, _)| self.pods.0 & (1 << (i % 8)) != 0);
        let workload = |i: u16| Workload { out: out(4 + i, Medium::Ethernet), mac: self.pods.1.map(mac) };
        Ports {
            uplink,
            host: self.host.then(|| out(3, Medium::Ip)),
            workloads: open.map(|(i, name)| (name.to_string(), workload(i))).collect(),
        }
    }
}

/// All that the data plane and people see of what is in force.
#[derive(Debug, PartialEq)]
struct Seen {
    routes: Vec<(Ipv4Net, String, Adjacency)>,
    roles: Vec<PortRole>,
    tunnel: Tunnel,
    hops: BTreeSet<NextHop>,
    warnings: Vec<String>,
}

/// But for the numbers of nodes, which follow from who came first: they only have to agree with each other.
fn seen(planner: &Planner, reader: &mut Reader) -> Seen {
    reader.refresh();
    let snapshot = reader.get();
    let peers = planner.peers();
    let number = |address: Option<Ipv4Addr>| address.and_then(|a| peers.get(&a)).map_or(PeerId::NONE, |p| p.id);
    let senders: BTreeSet<(Ipv4Addr, PeerId)> = snapshot.tunnel.senders.iter().map(|(a, id)| ((*a).into(), *id)).collect();
    assert_eq!(senders, peers.iter().map(|(a, p)| (*a, p.id)).collect(), "counted under the number that is looked up");
    let numbers: BTreeSet<PeerId> = senders.iter().map(|(_, id)| *id).collect();
    assert!(numbers.len() == senders.len() && !numbers.contains(&PeerId::NONE), "{senders:?}");
    let mut tunnel = snapshot.tunnel.clone();
    Arc::make_mut(&mut tunnel.senders).values_mut().for_each(|id| *id = PeerId::NONE);
    let route = |(p, i): (&Ipv4Net, &tortie::control::plan::Installed)| {
        assert_eq!(snapshot.adjacencies.get(i.id), planner.adjacency(i), "published");
        let adjacency = *planner.adjacency(i);
        if matches!(adjacency.kind, AdjKind::Vxlan | AdjKind::Ipip | AdjKind::Direct) {
            assert_eq!(adjacency.node, number(i.route.underlay()), "{:?}", i.route);
        }
        (*p, format!("{:?}", i.route), Adjacency { node: PeerId::NONE, ..adjacency })
    };
    for (p, i) in planner.installed().iter().filter(|(p, _)| p.prefix_len() == 32) {
        assert_eq!(snapshot.fib.lookup(u32::from(p.addr())), i.id);
    }
    Seen {
        routes: planner.installed().iter().map(route).collect(),
        roles: snapshot.ports.clone(),
        tunnel,
        hops: planner.hops().collect(),
        warnings: planner.warnings(),
    }
}

fn planner() -> (Planner, Reader) {
    let (publisher, mut readers) = channel(1);
    (Planner::new(publisher, Vec::new()), readers.remove(0))
}

/// What happens between two updates.
type Step = (Vec<Op>, Vec<HostOp>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let host = proptest::collection::vec(proptest::collection::vec(host_op(), 0..3), 1..40);
    (history(), host).prop_map(|(cluster, host)| {
        let n = cluster.len().max(host.len());
        let mut cluster = cluster.into_iter();
        let mut host = host.into_iter();
        (0..n).map(|_| (cluster.next().unwrap_or_default(), host.next().unwrap_or_default())).collect()
    })
}

fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut cluster: Cluster = beginning();
    let mut host = Host { uplink: Some((Medium::Ethernet, Medium::Ethernet)), host: true, pods: (255, Some(1)), ..Host::default() };
    host.apply(HostOp::Route("10.0.0.0/24".parse().unwrap(), None));
    let mut calculator = Calculator::new("a");
    let (mut planner, mut reader) = planner();
    let mut changed = Changed::All;
    let mut last: Option<Seen> = None;
    for (i, (objects, ops)) in steps.into_iter().enumerate() {
        changed.merge(Changed::Keys(apply(&mut cluster, objects)));
        ops.into_iter().for_each(|op| host.apply(op));
        let delta = calculator.update(&cluster, &changed);
        changed = Changed::none();
        let desired = calculator.desired();
        let ports = host.ports(desired);
        let inputs = Inputs { desired, ports: &ports, view: &host.view };
        let mut changes = std::mem::take(&mut host.changes);
        changes.foreign_routes = planner.follow(&host.view, changes.foreign_routes);
        let outcome = planner.update(inputs, &delta, &changes);
        let now = seen(&planner, &mut reader);
        if let Some(last) = &last {
            prop_assert!(outcome.published.is_some() || (&last.roles, &last.tunnel) == (&now.roles, &now.tunnel));
            prop_assert!(outcome.ways_changed || (&last.hops, &last.warnings) == (&now.hops, &now.warnings));
        }
        if desired.node.is_some() {
            let (mut fresh, mut its_reader) = self::planner();
            fresh.update(inputs, &Delta::All, &Changes::everything());
            prop_assert_eq!(&now, &seen(&fresh, &mut its_reader), "step {}", i);
        } else if let Some(last) = last {
            prop_assert_eq!(&now, &last, "what was in force stays");
        }
        last = Some(now);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn what_is_in_force_does_not_depend_on_history(steps in steps()) {
        play(steps)?;
    }
}
