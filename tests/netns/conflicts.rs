//! Others that have what is this node's: machines on the underlay with its MAC, address or name, objects that give it to
//! two, and programs on this host that change its interfaces. Each is named with both parties, and what is ours is put
//! back.

use super::daemon::{Node, Pair, manifest};
use std::time::{Duration, Instant};
use tortie::control::model::default_vtep_mac;
use tortie::ops::view::ConflictRow;

fn conflicts(n: &Node) -> Vec<ConflictRow> {
    n.client().status().map(|s| s.conflicts).unwrap_or_default()
}

fn until(what: &str, n: &Node, ok: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !ok() {
        assert!(Instant::now() < end, "{what}\n{:#?}\n{}", conflicts(n), n.story());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a conflict; its parties.
fn expect(n: &Node, kind: &str, subject: &str) -> ConflictRow {
    let find = || conflicts(n).into_iter().find(|c| c.kind == kind && c.subject == subject);
    until(&format!("{kind} {subject}"), n, || find().is_some());
    find().unwrap()
}

/// A kernel VXLAN device beside the second node's daemon that never was: it sends to node 1 from `local`, with this MAC
/// and this address inside.
fn rogue(p: &Pair, local: &str, mac: &str, inside: &str) {
    let target = default_vtep_mac("node1");
    let ns = &p.b.ns;
    ns.sh(&format!("ip addr replace {local}/24 dev eth0"));
    ns.sh(&format!("ip link add rogue address {mac} type vxlan id 4096 dstport 4789 local {local} remote 10.1.0.1 nolearning"));
    ns.sh(&format!("ip addr add {inside}/32 dev rogue; ip link set rogue up; ip route add 10.244.1.0/26 dev rogue"));
    ns.sh(&format!("ip neigh add 10.244.1.5 lladdr {target} dev rogue"));
    let _ = ns.output(&["ping", "-c", "3", "-i", "0.1", "-W", "1", "-I", inside, "10.244.1.5"]);
    ns.sh("ip link del rogue");
}

#[test]
fn machines_with_this_nodes_mac_address_or_name_are_named() {
    let mut p = Pair::new("socket", 1);
    p.a.start();
    let mac = default_vtep_mac("node1").to_string();
    rogue(&p, "10.1.0.2", &mac, "10.244.2.0");
    let c = expect(&p.a, "vtep-mac", &mac);
    assert_eq!(c.parties, ["node node1 at 10.1.0.1", "node node2 at 10.1.0.2"]);
    assert!(c.times >= 1 && c.remedy.contains("VXLANTunnelMACAddr"), "{c:?}");

    rogue(&p, "10.1.0.2", "66:11:11:11:11:11", "10.244.1.0");
    assert_eq!(expect(&p.a, "tunnel-address", "10.244.1.0").parties[1], "node node2 at 10.1.0.2");

    // A machine that no node is, with the MAC that follows from this node's name: it has the name.
    rogue(&p, "10.1.0.9", &mac, "10.244.9.0");
    assert_eq!(expect(&p.a, "node-name", "node1").parties[1], "a machine at 10.1.0.9");

    let drops = p.a.client().drops().unwrap();
    let of = |reason: &str| drops.iter().find(|d| d.reason == reason).unwrap().packets;
    assert!(of("vxlan-own-mac") >= 3 && of("own-source") >= 3 && of("tunnel-sender-unknown") >= 3, "{drops:?}");
    let text = String::from_utf8_lossy(&p.a.ns.output(&[super::daemon::TORTIE, "status", "--socket", p.a.socket.to_str().unwrap()]).stdout)
        .into_owned();
    assert!(text.starts_with("Conflicts:\n") && text.contains("    To do: ") && text.contains("node1, not well"), "{text}");
    if let Some(dir) = std::env::var_os("TORTIE_KEEP_CONFLICTS") {
        std::fs::write(std::path::Path::new(&dir).join("status.txt"), &text).unwrap();
    }
}

#[test]
fn what_the_datastore_gives_to_two_is_named_and_goes_with_it() {
    let mut p = Pair::new("socket", 1);
    p.a.start();
    let claim = "apiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata: {name: node2-10-244-1-0-26}\n\
                 spec: {node: node2, cidr: 10.244.1.0/26, state: confirmed, deleted: false}\n";
    p.file("claim.yaml", claim);
    let c = expect(&p.a, "block", "10.244.1.0/26");
    assert_eq!(c.parties, ["node node1 by the IPAMBlock's affinity", "node node2 by BlockAffinity node2-10-244-1-0-26"]);
    p.file("claim.yaml", "");
    until("the claim is gone", &p.a, || conflicts(&p.a).is_empty());

    p.file("node2.yaml", &manifest(2).replace("ipv4VXLANTunnelAddr: 10.244.2.0", "ipv4VXLANTunnelAddr: 10.244.1.0"));
    assert_eq!(expect(&p.a, "tunnel-address", "10.244.1.0").parties, ["node node1", "node node2"]);
    p.file("node2.yaml", &manifest(2));
    until("each has its own", &p.a, || conflicts(&p.a).is_empty());

    // Somebody writes another machine's address into this node's object.
    p.file("node1.yaml", &manifest(1).replace("10.1.0.1/24", "10.1.0.77/24"));
    let c = expect(&p.a, "node-name", "node1");
    assert_eq!(c.parties, ["this machine at 10.1.0.1", "a machine at 10.1.0.77"]);
    p.file("node1.yaml", &manifest(1));
    p.a.ready();
}

#[test]
fn a_host_device_that_somebody_changes_is_put_right() {
    let mut p = Pair::new("socket", 1);
    p.a.start();
    p.b.start();
    p.expect_both_ways("before");
    let dev = "tunl-tortie";
    until("the host's routes", &p.a, || p.a.ns.sh("ip route").contains("10.244.0.0/16 dev tunl-tortie"));
    let well = || {
        let link = p.a.ns.sh(&format!("ip -o link show {dev} 2>/dev/null || true"));
        let (address, routes) = (p.a.ns.sh(&format!("ip -o -4 addr show {dev} 2>/dev/null || true")), p.a.ns.sh("ip route"));
        link.contains(",UP")
            && link.contains("mtu 1450")
            && !link.contains("master")
            && address.contains("10.244.1.0/32")
            && !address.contains("192.0.2.1")
            && routes.contains("10.244.0.0/16 dev tunl-tortie")
    };
    until("well", &p.a, well);
    // Long enough for the guard to have seen it so.
    std::thread::sleep(Duration::from_millis(1200));
    for (command, aspect, words) in [
        ("ip link set tunl-tortie down", "state", "was set down; this was undone"),
        ("ip addr flush dev tunl-tortie", "address", "address 10.244.1.0/32 was removed; it was put back"),
        ("ip addr add 192.0.2.1/32 dev tunl-tortie", "address", "address 192.0.2.1/32 was added; it was removed again"),
        ("ip route del 10.244.0.0/16 dev tunl-tortie", "routes", "route 10.244.0.0/16 was removed; put back"),
        ("ip link set tunl-tortie mtu 1300", "MTU", "got an MTU of 1300 instead of 1450; this was undone"),
        ("ip link set tunl-tortie name stolen", "name", "was renamed to stolen; this was undone"),
        ("ip link del tunl-tortie", "state", "was removed; it is made again"),
    ] {
        p.a.ns.sh(command);
        let subject = format!("{dev} {aspect}");
        until(command, &p.a, || conflicts(&p.a).iter().any(|c| c.kind == "interface" && c.subject == subject && c.found.contains(words)));
        until(&format!("{command}: put right"), &p.a, well);
        std::thread::sleep(Duration::from_millis(1100));
    }
    p.expect_both_ways("after");
    let c = expect(&p.a, "interface", "tunl-tortie state");
    assert_eq!((c.times, c.parties[0].as_str()), (2, "tortie"), "{c:?}");
    // Uplink and veths are not touched: nothing else is said.
    assert!(conflicts(&p.a).iter().all(|c| c.subject.starts_with(dev)), "{:#?}", conflicts(&p.a));
    assert_eq!(p.a.client().status().unwrap().problems, [""; 0]);
}

#[test]
fn a_device_for_super_frames_that_somebody_changes_is_put_right() {
    let mut p = Pair::new("socket", 1);
    p.a.start();
    p.b.start();
    p.expect_both_ways("before");
    let dev = "tunl-tortie-gso";
    let up = || p.a.ns.sh(&format!("ip -o link show {dev} 2>/dev/null || true")).contains(",UP");
    if !up() {
        return println!("this kernel has no super-frames for UDP tunnels");
    }
    // Long enough for the guard to have seen it so.
    std::thread::sleep(Duration::from_millis(1200));
    for (command, aspect, words) in [
        ("ip link set tunl-tortie-gso down", "state", "was set down; this was undone"),
        ("ip link set tunl-tortie-gso name stolen", "name", "was renamed to stolen; this was undone"),
        ("ip link del tunl-tortie-gso", "state", "was removed; the uplink is opened again with a new one"),
    ] {
        p.a.ns.sh(command);
        let subject = format!("{dev} {aspect}");
        until(command, &p.a, || conflicts(&p.a).iter().any(|c| c.kind == "interface" && c.subject == subject && c.found.contains(words)));
        until(&format!("{command}: put right"), &p.a, up);
        std::thread::sleep(Duration::from_millis(1100));
    }
    p.expect_both_ways("after");
    assert!(conflicts(&p.a).iter().all(|c| c.subject.starts_with(dev)), "{:#?}", conflicts(&p.a));
    assert_eq!(p.a.client().status().unwrap().problems, [""; 0]);
}

#[test]
fn a_pods_interface_that_somebody_sets_down_is_named_until_it_is_up() {
    let mut p = Pair::new("socket", 1);
    p.a.start();
    std::thread::sleep(Duration::from_millis(1200));
    p.a.ns.sh("ip link set cali0 down");
    let c = expect(&p.a, "interface", "cali0 state");
    assert!(c.parties[0].contains("default/node1-k8s-pod-eth0") && c.remedy.starts_with("ip link set cali0 up"), "{c:?}");
    p.a.ns.sh("ip link set cali0 up");
    until("up again", &p.a, || conflicts(&p.a).is_empty());
    // A pod that goes is nobody's doing.
    p.a.ns.sh("ip link del cali0");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(conflicts(&p.a), []);
}
