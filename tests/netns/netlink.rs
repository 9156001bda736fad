//! The host's side by netlink: our routes and nobody else's, neighbours on request, the view kept current.

use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tortie::control::netlink::neigh::Resolver;
use tortie::control::netlink::routes::{HostRoute, PROTOCOL, RouteDiff, diff};
use tortie::control::netlink::{NeighState, Netlink, NextHop};
use tortie::testing::netns::{Namespace, veth};

fn until(netlink: &mut Netlink, what: &str, mut ok: impl FnMut(&mut Netlink) -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        netlink.drain().unwrap();
        if ok(netlink) {
            return;
        }
        assert!(Instant::now() < end, "{what} did not happen; view: {:?}", netlink.view());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pair() -> (Namespace, Namespace, Netlink) {
    let (a, b) = (Namespace::new("nla"), Namespace::new("nlb"));
    veth(&a, "eth0", &b, "eth0");
    a.sh("ip addr add 10.9.0.1/24 dev eth0");
    b.sh("ip addr add 10.9.0.2/24 dev eth0");
    let netlink = a.run(Netlink::open).unwrap();
    (a, b, netlink)
}

/// What is to be done for each prefix that is wanted or has a route of ours.
fn differences(netlink: &Netlink, wanted: &[HostRoute]) -> Vec<RouteDiff> {
    let view = netlink.view();
    let ours = view.routes.iter().filter(|r| r.protocol == PROTOCOL).map(|r| r.dst);
    let prefixes: BTreeSet<Ipv4Net> = wanted.iter().map(|w| w.dst).chain(ours).collect();
    prefixes.into_iter().map(|dst| diff(wanted.iter().find(|w| w.dst == dst).cloned(), dst, view)).collect()
}

fn apply(netlink: &mut Netlink, wanted: &[HostRoute]) -> Vec<String> {
    let mut conflicts = Vec::new();
    for d in differences(netlink, wanted) {
        d.remove.iter().for_each(|r| netlink.del_route(r).unwrap());
        d.add.iter().for_each(|r| netlink.add_route(r).unwrap());
        conflicts.extend(d.conflict);
    }
    conflicts
}

fn missing(netlink: &Netlink, wanted: &[HostRoute]) -> usize {
    differences(netlink, wanted).iter().filter(|d| d.add.is_some()).count()
}

#[test]
fn routes_are_reconciled_and_foreign_ones_stay() {
    let (a, _b, mut n) = pair();
    let dev = n.view().link_by_name("eth0").unwrap().index;
    a.sh("ip route add 10.80.0.0/16 via 10.9.0.9 dev eth0 proto 12; ip route add 10.81.0.0/26 via 10.9.0.9 dev eth0 onlink proto 116");
    until(&mut n, "the routes of `ip`", |n| n.view().routes.iter().filter(|r| r.dst.to_string().starts_with("10.8")).count() == 2);
    let pool = HostRoute { dst: "10.244.0.0/16".parse().unwrap(), via: None, dev, src: Some(Ipv4Addr::new(10, 9, 0, 1)) };
    let direct = HostRoute { dst: "10.244.2.0/26".parse().unwrap(), via: Some(Ipv4Addr::new(10, 9, 0, 2)), dev, src: None };
    let taken = HostRoute { dst: "10.80.0.0/16".parse().unwrap(), via: None, dev, src: None };
    let wanted = [pool, direct, taken];
    let conflicts = apply(&mut n, &wanted);
    assert!(conflicts.len() == 1 && conflicts[0].contains("10.80.0.0/16"), "{conflicts:?}");
    let table = a.sh("ip route show");
    assert!(table.contains("10.244.0.0/16 dev eth0 proto 116 scope link src 10.9.0.1"), "{table}");
    assert!(table.contains("10.244.2.0/26 via 10.9.0.2 dev eth0 proto 116 onlink"), "{table}");
    assert!(table.contains("10.80.0.0/16 via 10.9.0.9 dev eth0 proto bird") && !table.contains("10.81."), "{table}");
    n.drain().unwrap();
    assert_eq!(missing(&n, &wanted), 0, "what is there is recognised");
    // Somebody removes one of ours: seen, and put back.
    a.sh("ip route del 10.244.2.0/26");
    until(&mut n, "the removal", |n| missing(n, &wanted) == 1);
    apply(&mut n, &wanted);
    n.drain().unwrap();
    apply(&mut n, &[]);
    let table = a.sh("ip route show");
    assert!(!table.contains("proto 116") && table.contains("10.80.0.0/16") && table.contains("10.9.0.0/24"), "{table}");
}

#[test]
fn the_kernel_drops_routes_silently_with_their_link_and_we_notice() {
    let (a, _b, mut n) = pair();
    let dev = n.view().link_by_name("eth0").unwrap().index;
    let direct = [HostRoute { dst: "10.244.2.0/26".parse().unwrap(), via: Some(Ipv4Addr::new(10, 9, 0, 2)), dev, src: None }];
    apply(&mut n, &direct);
    until(&mut n, "our route", |n| n.view().routes.iter().any(|r| r.protocol == 116));
    a.sh("ip link set eth0 down");
    until(&mut n, "the loss", |n| n.view().routes.is_empty() && !n.view().links[&dev].up);
    a.sh("ip link set eth0 up");
    until(&mut n, "the return", |n| n.view().links[&dev].running && !n.view().routes.is_empty());
    a.sh("ip link set eth0 down; ip link set eth0 name eth9 mtu 1400; ip addr add 10.9.1.1/32 dev eth9");
    until(&mut n, "the rename", |n| n.view().link_by_name("eth9").is_some_and(|l| l.index == dev && l.mtu == 1400));
    until(&mut n, "the address", |n| n.view().addresses_of(dev).any(|x| x.to_string() == "10.9.1.1/32"));
    a.sh("ip link del eth9");
    until(&mut n, "the deletion", |n| !n.view().links.contains_key(&dev) && n.view().addresses_of(dev).next().is_none());
}

#[test]
fn neighbours_resolve_on_request_and_fail_by_name() {
    let (a, b, mut n) = pair();
    let dev = n.view().link_by_name("eth0").unwrap().index;
    let there = NextHop { address: Ipv4Addr::new(10, 9, 0, 2), dev };
    let nobody = NextHop { address: Ipv4Addr::new(10, 9, 0, 77), dev };
    let mut r = Resolver::default();
    r.set([there, nobody]);
    r.tick(&mut n, Instant::now()).unwrap();
    until(&mut n, "an answer", |n| n.view().neighbours.get(&(dev, there.address)).is_some_and(|x| x.mac.is_some()));
    let mac = b.sh("cat /sys/class/net/eth0/address");
    assert_eq!(n.view().neighbours[&(dev, there.address)].mac.unwrap().to_string(), mac.trim());
    until(&mut n, "a failure", |n| {
        n.view().neighbours.get(&(dev, nobody.address)).is_some_and(|x| x.state == NeighState::Failed && x.mac.is_none())
    });
    // The address appears after all: the next try, a second later, finds it.
    b.sh("ip addr add 10.9.0.77/24 dev eth0");
    let later = Instant::now() + Duration::from_secs(2);
    r.miss(&mut n, nobody.address, later).unwrap();
    until(&mut n, "the late answer", |n| n.view().neighbours.get(&(dev, nobody.address)).is_some_and(|x| x.mac.is_some()));
    assert!(a.sh("ip neigh show dev eth0").contains("10.9.0.77 lladdr"));
}

#[test]
fn device_actions_are_idempotent() {
    let (a, _b, mut n) = pair();
    let dev = n.view().link_by_name("eth0").unwrap().index;
    let tunnel = "10.244.1.0/32".parse().unwrap();
    for _ in 0..2 {
        n.add_address(dev, tunnel).unwrap();
        n.set_up(dev, 1450).unwrap();
    }
    let shown = a.sh("ip addr show dev eth0");
    assert!(shown.contains("mtu 1450") && shown.matches("10.244.1.0/32").count() == 1, "{shown}");
    for _ in 0..2 {
        n.del_address(dev, tunnel).unwrap();
    }
    for _ in 0..2 {
        n.del_link(dev).unwrap();
    }
    assert!(!a.sh("ip link").contains("eth0"));
}
