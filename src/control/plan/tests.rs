use super::*;
use crate::control::desired::Vtep;
use crate::control::netlink::{KernelRoute, Link, Neigh, NeighState};
use crate::drop::DropReason;
use crate::frame::GsoSet;
use crate::port::{Medium, TxCsum};
use crate::snapshot::{Reader, channel};
use crate::wire::Mac;

const UPLINK: u32 = 2;
const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 1]);
const MAC_B: Mac = Mac([2, 0, 0, 0, 0, 2]);
const VTEP_B: Mac = Mac([0x66, 0, 0, 0, 0, 2]);

fn ip(s: &str) -> Ipv4Addr {
    s.parse().unwrap()
}

fn net(s: &str) -> Ipv4Net {
    s.parse().unwrap()
}

fn out(id: u16, medium: Medium) -> Out {
    Out { id: PortId(id), driver: "mem", medium, mtu: 1500, gso: GsoSet::NONE, tx_csum: TxCsum::Software }
}

struct World {
    desired: Desired,
    ports: Ports,
    view: View,
    planner: Planner,
    reader: Reader,
    counters: Arc<Counters>,
}

impl World {
    /// Node a (10.1.0.1) with a pod, node b (10.1.0.2) with a block; an Ethernet uplink.
    fn new() -> World {
        let (publisher, mut readers) = channel(1);
        let counters = Arc::new(Counters::default());
        let mut w = World {
            desired: desired(),
            ports: Ports::default(),
            view: View::default(),
            planner: Planner::new(publisher, vec![counters.clone()]),
            reader: readers.remove(0),
            counters,
        };
        let eth = Some(out(0, Medium::Ethernet));
        w.ports.uplink = Some(Underlay { dev: UPLINK, name: "eth0".into(), mac: MAC_A, mtu: 1500, vxlan: eth, ipip: eth, direct: eth });
        w.ports.host = Some(out(1, Medium::Ip));
        w.ports.workloads.insert("ns/pod".into(), Workload { out: out(2, Medium::Ethernet), mac: Some(MAC_A) });
        w.route("10.1.0.0/24", None);
        w
    }

    fn route(&mut self, dst: &str, gateway: Option<&str>) {
        self.view.routes.insert(KernelRoute {
            dst: net(dst),
            metric: 0,
            gateway: gateway.map(ip),
            dev: UPLINK,
            also: None,
            prefsrc: None,
            protocol: 2,
            scope: 253,
            tos: 0,
            onlink: false,
            unicast: true,
        });
    }

    fn neighbour(&mut self, address: &str, mac: Mac) {
        self.view.neighbours.insert((UPLINK, ip(address)), Neigh { mac: Some(mac), state: NeighState::Reachable });
    }

    fn update(&mut self) -> Outcome {
        let inputs = Inputs { desired: &self.desired, ports: &self.ports, view: &self.view };
        let o = self.planner.update(inputs, &Delta::All, &Changes::everything());
        self.reader.refresh();
        o
    }

    fn id(&self, to: &str) -> AdjId {
        self.reader.get().fib.lookup(u32::from(ip(to)))
    }

    fn at(&self, to: &str) -> Adjacency {
        *self.reader.get().adjacencies.get(self.id(to))
    }
}

fn desired() -> Desired {
    let mut d = Desired { node: Some(ThisNode::sample()), ..Desired::default() };
    d.endpoints.insert(
        "ns/pod".into(),
        LocalEndpoint {
            workload: "ns/pod".into(),
            interface: "cali1".into(),
            netns: None,
            limited: false,
            addresses: vec![ip("10.244.1.5")],
            sources: vec![net("10.244.1.5/32")],
            mac: None,
        },
    );
    d.nodes = [ip("10.1.0.1"), ip("10.1.0.2")].into();
    d.senders = [ip("10.1.0.2")].into();
    d.vteps.insert("b".into(), Vtep { node: "b".into(), address: ip("10.1.0.2"), tunnel_address: ip("10.244.2.0"), mac: VTEP_B });
    let to_b = Route::Vxlan { node: "b".into(), address: ip("10.1.0.2"), tunnel_address: ip("10.244.2.0"), mac: VTEP_B };
    for (p, r) in [
        ("10.244.1.5/32", Route::Local { endpoint: "ns/pod".into() }),
        ("10.244.1.0/26", Route::Blackhole),
        ("10.244.1.0/32", Route::Host),
        ("10.244.2.0/26", to_b),
        ("10.244.3.0/26", Route::Drop { node: Some("c".into()) }),
    ] {
        d.routes.insert(p.parse().unwrap(), r);
    }
    d
}

#[test]
fn nothing_is_published_without_a_node() {
    let mut w = World::new();
    w.desired.node = None;
    assert_eq!(w.update(), Outcome::default());
    assert_eq!(w.planner.generation(), 0);
}

#[test]
fn lookups_answer_by_kind() {
    let mut w = World::new();
    w.neighbour("10.1.0.2", MAC_B);
    w.view.addresses.insert((5, net("172.17.0.1/16")));
    w.view.addresses.insert((1, net("127.0.0.1/8")));
    assert_eq!(w.update().published, Some(1));
    let remote = w.at("10.244.2.9");
    assert_eq!((remote.kind, remote.port, remote.mtu), (AdjKind::Vxlan, PortId(0), 1450));
    assert_eq!(remote.peer, ip("10.1.0.2"));
    let bytes = remote.rewrite.as_slice();
    assert_eq!((bytes.len(), &bytes[..6], &bytes[6..12]), (64, &MAC_B.0[..], &MAC_A.0[..]));
    assert_eq!((&bytes[26..34], &bytes[36..38]), (&[10, 1, 0, 1, 10, 1, 0, 2][..], &4789u16.to_be_bytes()[..]));
    assert_eq!((&bytes[50..56], &bytes[56..62]), (&VTEP_B.0[..], &[0x66, 0, 0, 0, 0, 1][..]));
    let pod = w.at("10.244.1.5");
    assert_eq!((pod.kind, pod.port, pod.mtu), (AdjKind::Deliver, PortId(2), 1500));
    assert_eq!(pod.rewrite.as_slice(), [&MAC_A.0[..], &[0xee; 6], &[8, 0]].concat());
    assert_eq!(w.at("10.244.1.6").kind, AdjKind::Drop(DropReason::Blackhole));
    assert_eq!(w.at("10.244.3.6").kind, AdjKind::Drop(DropReason::RouteDrop));
    assert_eq!(w.at("10.244.1.0").kind, AdjKind::Punt(PuntReason::HostAddress));
    assert_eq!(w.at("172.17.0.1").kind, AdjKind::Punt(PuntReason::HostAddress));
    assert_eq!(w.at("172.17.0.2").kind, AdjKind::Punt(PuntReason::HostRoute));
    assert_eq!(w.at("127.0.0.1").kind, AdjKind::Punt(PuntReason::HostRoute));
    assert_eq!(w.at("8.8.8.8").port, PortId(1));
    let snapshot = w.reader.get();
    assert_eq!((snapshot.role(PortId(0)), snapshot.role(PortId(1))), (&PortRole::Uplink, &PortRole::Host));
    assert!(matches!(snapshot.role(PortId(2)), PortRole::Workload(e) if e.name == "ns/pod" && e.mac == Some(MAC_A)));
    assert_eq!((snapshot.tunnel.icmp_source, snapshot.tunnel.node), (ip("10.244.1.0"), ip("10.1.0.1")));
    assert!(snapshot.tunnel.senders.contains_key(&u32::from(ip("10.1.0.2"))) && snapshot.tunnel.senders.len() == 1);
}

#[test]
fn an_unresolved_neighbour_gleans_and_then_keeps_its_number() {
    let mut w = World::new();
    let o = w.update();
    assert!(o.ways_changed);
    assert_eq!(w.planner.hops().collect::<Vec<_>>(), [NextHop { address: ip("10.1.0.2"), dev: UPLINK }]);
    let glean = w.at("10.244.2.9");
    assert_eq!((glean.kind, glean.peer, glean.port), (AdjKind::Glean, ip("10.1.0.2").into(), PortId::NONE));
    let before = w.id("10.244.2.9");
    w.neighbour("10.1.0.2", MAC_B);
    assert_eq!(w.update().published, Some(2));
    assert_eq!((w.id("10.244.2.9"), w.at("10.244.2.9").kind), (before, AdjKind::Vxlan));
    assert_eq!(w.update().published, None, "no difference, no generation");
}

#[test]
fn a_gateway_is_the_neighbour_and_no_route_is_a_drop_with_a_warning() {
    let mut w = World::new();
    w.view.routes.clear();
    w.update();
    assert_eq!(w.at("10.244.2.9").kind, AdjKind::Drop(DropReason::RouteDrop));
    let warnings = w.planner.warnings();
    assert!(warnings.iter().any(|l| l.contains("10.1.0.2") && l.contains("eth0")), "{warnings:?}");
    w.route("0.0.0.0/0", Some("10.1.0.254"));
    w.neighbour("10.1.0.254", MAC_B);
    w.update();
    assert!(w.planner.warnings().is_empty());
    assert_eq!(w.at("10.244.2.9").rewrite.as_slice()[..6], MAC_B.0);
}

#[test]
fn only_routes_by_which_nodes_are_reached_are_a_reason_to_plan() {
    let mut w = World::new();
    w.neighbour("10.1.0.2", MAC_B);
    w.update();
    let follow = |w: &mut World, dst: &str| w.planner.follow(&w.view, [net(dst)].into()).len();
    for dst in ["172.16.0.0/16", "10.1.0.3/32", "10.9.0.0/16", "10.1.0.0/16"] {
        w.route(dst, Some("10.1.0.254"));
        assert_eq!(follow(&mut w, dst), 0, "{dst} leads to no node, or a longer one does");
    }
    w.route("10.1.0.2/32", Some("10.1.0.254"));
    assert_eq!(follow(&mut w, "10.1.0.2/32"), 1);
    // A node that comes later is reached by the routes that were of no interest before.
    w.view.routes.retain(|r| r.dst != net("10.1.0.2/32"));
    assert_eq!(follow(&mut w, "10.1.0.2/32"), 0, "back before anything was planned");
    let to_c = Route::Direct { node: "c".into(), address: ip("10.9.0.1") };
    w.desired.routes.insert("10.244.3.0/26".parse().unwrap(), to_c);
    let delta = Delta::Parts(Parts { routes: vec!["10.244.3.0/26".parse().unwrap()], ..Parts::default() });
    let inputs = Inputs { desired: &w.desired, ports: &w.ports, view: &w.view };
    w.planner.update(inputs, &delta, &Changes::default());
    assert!(w.planner.hops().any(|h| h.address == ip("10.1.0.254")), "{:?}", w.planner.hops().collect::<Vec<_>>());
}

#[test]
fn socket_media_need_no_neighbour() {
    let mut w = World::new();
    let u = w.ports.uplink.as_mut().unwrap();
    u.vxlan = Some(out(3, Medium::VxlanUdp));
    u.ipip = Some(out(4, Medium::Ip));
    w.desired.routes.insert("10.244.4.0/26".parse().unwrap(), Route::Ipip { node: "b".into(), address: ip("10.1.0.2") });
    let direct = Route::Direct { node: "b".into(), address: ip("10.1.0.2") };
    w.desired.routes.insert("10.244.5.0/26".parse().unwrap(), direct);
    w.update();
    let (vxlan, ipip) = (w.at("10.244.2.1"), w.at("10.244.4.1"));
    assert_eq!((vxlan.kind, vxlan.port, vxlan.rewrite.as_slice().len(), vxlan.mtu), (AdjKind::Vxlan, PortId(3), 22, 1450));
    assert_eq!((ipip.kind, ipip.port, ipip.rewrite.as_slice().len(), ipip.mtu), (AdjKind::Ipip, PortId(4), 20, 1480));
    assert_eq!(w.at("10.244.5.1").kind, AdjKind::Glean, "the packet socket needs a MAC");
    assert_eq!(w.planner.hops().count(), 1);
    w.neighbour("10.1.0.2", MAC_B);
    w.update();
    let direct = w.at("10.244.5.1");
    assert_eq!((direct.kind, direct.mtu, direct.rewrite.as_slice().len()), (AdjKind::Direct, 1500, 14));
}

#[test]
fn closed_ports_drop_by_name_and_unknown_pods_glean_on_theirs() {
    let mut w = World::new();
    w.ports.workloads.get_mut("ns/pod").unwrap().mac = None;
    w.update();
    let glean = w.at("10.244.1.5");
    assert_eq!((glean.kind, glean.port, glean.peer), (AdjKind::Glean, PortId(2), ip("10.244.1.5").into()));
    w.ports = Ports::default();
    w.update();
    assert_eq!(w.at("10.244.1.5").kind, AdjKind::Drop(DropReason::PortGone));
    assert_eq!(w.at("10.244.2.5").kind, AdjKind::Drop(DropReason::PortGone));
    assert_eq!((w.at("8.8.8.8").kind, w.at("8.8.8.8").port), (AdjKind::Punt(PuntReason::HostRoute), PortId::NONE));
    assert_eq!(w.reader.get().role(PortId(2)), &PortRole::Closed);
}

#[test]
fn a_number_is_reused_only_after_every_worker_moved_on_and_counts_from_zero() {
    let mut w = World::new();
    w.update();
    let old = w.id("10.244.3.1");
    w.counters.hit(old);
    w.desired.routes.remove(&"10.244.3.0/26".parse::<IpNet>().unwrap());
    // The worker has not taken the new generation up yet.
    let inputs = Inputs { desired: &w.desired, ports: &w.ports, view: &w.view };
    w.planner.update(inputs, &Delta::All, &Changes::default());
    let mut more = w.desired.clone();
    more.routes.insert("10.244.7.0/26".parse().unwrap(), Route::Blackhole);
    w.planner.update(Inputs { desired: &more, ..inputs }, &Delta::All, &Changes::default());
    assert_ne!(w.planner.installed()[&net("10.244.7.0/26")].id, old);
    w.reader.refresh();
    more.routes.insert("10.244.8.0/26".parse().unwrap(), Route::Blackhole);
    w.planner.update(Inputs { desired: &more, ports: &w.ports, view: &w.view }, &Delta::All, &Changes::default());
    let again = &w.planner.installed()[&net("10.244.8.0/26")];
    assert_eq!((again.id, again.base), (old, 1));
    assert_eq!(hits(std::slice::from_ref(&w.counters), again.id).unwrap() - again.base, 0);
}

#[test]
fn mtus_follow_the_configuration_before_the_uplink() {
    let mut node = desired().node.unwrap();
    assert_eq!((vxlan_mtu(&node, 1500), ipip_mtu(&node, 1500), pod_mtu(&node, 1500)), (1450, 1480, 1450));
    node.ipip_enabled = true;
    node.vxlan_enabled = false;
    assert_eq!(pod_mtu(&node, 9000), 8980);
    node.ipip_mtu = Some(1400);
    assert_eq!((ipip_mtu(&node, 9000), pod_mtu(&node, 9000)), (1400, 1400));
    node.ipip_enabled = false;
    assert_eq!(pod_mtu(&node, 1500), 1500);
}

#[test]
fn the_host_mtu_is_the_least_of_the_links_that_count() {
    let mut node = desired().node.unwrap();
    let mut view = View::default();
    let mut add = |index: u32, name: &str, mtu: u32, up: bool| {
        view.links.insert(index, Link { index, name: name.into(), mac: None, mtu, up, running: up, master: None });
    };
    add(1, "lo", 65_536, true);
    add(2, "bond0", 9000, true);
    add(3, "cali1", 100, true);
    add(4, "eth1", 1400, false);
    assert_eq!(host_mtu(&node, &view, "bond0"), 9000, "the uplink counts whatever its name");
    assert_eq!(host_mtu(&node, &view, "gone"), 1460, "nothing counts");
    view.links.get_mut(&4).unwrap().up = true;
    assert_eq!(host_mtu(&node, &view, "bond0"), 1400);
    node.mtu_links = Some("^(bond|ens).*".parse().unwrap());
    assert_eq!((host_mtu(&node, &view, "bond0"), host_mtu(&node, &view, "eth1")), (9000, 1400));
}

#[test]
fn a_node_keeps_its_number_while_routes_move_and_starts_from_zero_with_a_new_one() {
    let mut w = World::new();
    w.neighbour("10.1.0.2", MAC_B);
    w.neighbour("10.1.0.3", MAC_B);
    w.update();
    let (b, c) = (ip("10.1.0.2"), ip("10.1.0.3"));
    let prefix: IpNet = "10.244.2.0/26".parse().unwrap();
    let first = w.planner.peers()[&b].id;
    assert_eq!((w.at("10.244.2.5").node, w.reader.get().tunnel.senders[&u32::from(b)]), (first, first));
    assert_ne!(first, PeerId::NONE);
    w.counters.sent_to(first, 100);
    w.counters.received_from(first, 60);
    // The block moves to a node that comes with it.
    w.desired.routes.insert(prefix, Route::Direct { node: "c".into(), address: c });
    w.desired.nodes.insert(c);
    w.desired.senders.insert(c);
    w.update();
    let second = w.planner.peers()[&c].id;
    assert_eq!((w.at("10.244.2.5").node, w.planner.peers()[&b].id), (second, first));
    assert_ne!(first, second);
    let all = std::slice::from_ref(&w.counters).to_vec();
    let totals = |p: &Peer| PeerTotals::of(&all, p.id).since(p.base);
    let expected = PeerTotals { tx_packets: 1, tx_bytes: 100, rx_packets: 1, rx_bytes: 60, dropped: 0 };
    assert_eq!((totals(&w.planner.peers()[&b]), totals(&w.planner.peers()[&c])), (expected, PeerTotals::default()));
    // It goes; another gets its number once no worker uses it, and counts from zero.
    w.desired.senders.remove(&b);
    w.update();
    assert_eq!(w.planner.peers().get(&b), None);
    w.desired.senders.insert(ip("10.1.0.4"));
    w.update();
    let third = w.planner.peers()[&ip("10.1.0.4")];
    assert_eq!((third.id, totals(&third)), (first, PeerTotals::default()));
}
