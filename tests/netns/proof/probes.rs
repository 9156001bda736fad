//! What probes find: each fault on its way between nodes leads to its name and remedy in `tortie peers` and `tortie
//! status`, within five seconds, and is forgotten when it is over.

use super::lab::{Lab, TORTIE, spec};
use super::traffic::ping;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tortie::lab::spec::{Encap, Mode, Spec, Uplink, Workload, Xdp};
use tortie::ops::view::PeerRow;
use tortie::port::sys;

/// A fault must be named within this time. At most five seconds are what it takes on a machine with nothing else to do, and what
/// is printed; other work may add some.
const FOUND: Duration = Duration::from_secs(15);

fn two(uplink: Uplink) -> Lab {
    Lab::up(spec(Workload::Veth, uplink, Xdp::Auto))
}

fn peer(lab: &Lab, node: &str, peer: &str) -> Option<PeerRow> {
    lab.client(node).peers().unwrap().peers.into_iter().find(|p| p.node == peer)
}

/// Waits until a peer is in a state and has its largest packet. That may be four bytes more: some links let pass what has
/// room for a VLAN tag, too.
fn expect(lab: &Lab, node: &str, of: &str, state: &str, largest: Option<u16>) -> PeerRow {
    let start = Instant::now();
    loop {
        let row = peer(lab, node, of);
        if let Some(row) =
            row.clone().filter(|r| r.state == state && largest.is_none_or(|l| r.largest_bytes.is_some_and(|is| (l..=l + 4).contains(&is))))
        {
            println!("{node} finds {of} {state} after {:.1} s", start.elapsed().as_secs_f64());
            return row;
        }
        assert!(start.elapsed() < FOUND, "{node} does not find {of} {state}: {row:?}\n{}", lab.story());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The same, and that `tortie peers` and `tortie status` say it in these words.
fn expect_told(lab: &Lab, state: &str, largest: Option<u16>, words: &[&str]) {
    expect(lab, "n1", "n2", state, largest);
    let socket = lab.node("n1").socket(&lab.plan.spec.name);
    let run = |verb: &str| {
        let out = Command::new(TORTIE).args([verb, "--socket"]).arg(&socket).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let (peers, status) = (run("peers"), run("status"));
    for word in words.iter().chain(&[state]) {
        assert!(peers.contains(word), "{word:?} is not in\n{peers}");
    }
    for word in words.iter().chain(&["n1, not well", "peer n2 (172.31.1.2)"]) {
        assert!(status.contains(word), "{word:?} is not in\n{status}");
    }
}

fn expect_up(lab: &Lab) {
    for (node, of) in [("n1", "n2"), ("n2", "n1")] {
        let row = expect(lab, node, of, "up", Some(lab.plan.spec.pod_mtu()));
        assert!(!row.problem && row.rtt_mean_ms.is_none_or(|ms| ms < 100.0), "{row:?}");
    }
}

/// Drops what a node is sent and sends over the underlay, by IP protocol and UDP destination port. Classic BPF: accumulator
/// loads and jumps of linux/bpf_common.h, 2 and 0 are TC_ACT_SHOT and TC_ACT_OK.
fn drop_on_the_wire(lab: &Lab, node: &str, directions: &[&str], proto: u8, port: Option<u16>) {
    let code = match port {
        Some(port) => format!("6,48 0 0 23,21 0 3 {proto},40 0 0 36,21 0 1 {port},6 0 0 2,6 0 0 0"),
        None => format!("4,48 0 0 23,21 0 1 {proto},6 0 0 2,6 0 0 0"),
    };
    let filter = |d: &&str| format!("tc filter add dev {node} {d} protocol ip bpf da bytecode '{code}'");
    let filters: Vec<String> = directions.iter().map(filter).collect();
    lab.sh("underlay", &format!("tc qdisc add dev {node} clsact && {}", filters.join(" && ")));
}

fn pass_again(lab: &Lab, node: &str) {
    lab.sh("underlay", &format!("tc qdisc del dev {node} clsact"));
}

#[test]
fn probes_work_from_the_start_and_a_stock_node_does_not_mind() {
    let lab = Lab::up(Spec { kernel_nodes: 1, ..spec(Workload::Veth, Uplink::Auto, Xdp::Auto) });
    let icmp = |node: &str| {
        // The line of numbers of "Icmp:"; InErrors counts the types that the kernel does not know.
        let text = lab.sh(node, "cat /proc/net/snmp");
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("Icmp: ")).collect();
        let value = |name: &str| {
            let at = lines[0].split(' ').position(|w| w == name).unwrap();
            lines[1].split(' ').nth(at).unwrap().parse::<u64>().unwrap()
        };
        [value("InErrors"), value("OutDestUnreachs"), value("OutTimeExcds"), value("OutParmProbs")]
    };
    expect_up(&lab);
    let row = expect(&lab, "n1", "n3", "no-probes", Some(1450));
    assert!(!row.problem && row.rtt_mean_ms.is_some() && row.diagnosis.unwrap().contains("stock Calico node"));
    lab.wait("the stock node is sent probes", FOUND, || icmp("n3")[0] > 4);
    assert_eq!(icmp("n3")[1..], [0, 0, 0], "and sends no error");
    assert!(lab.client("n1").status().unwrap().problems.is_empty());
    let rows = lab.client("n1").peers().unwrap();
    assert!(rows.answered > 0 && rows.answers_sent > 0 && rows.off.is_none() && rows.interval_ms == 1000, "{rows:?}");
    assert_eq!((rows.unauthenticated, rows.stale, rows.limited, rows.damaged), (0, 0, 0, 0), "{rows:?}");
    lab.expect_balance("n1");
}

#[test]
fn probes_take_every_way_between_nodes() {
    for (encap, mode, subnets, kind) in [
        (Encap::Vxlan, Mode::CrossSubnet, 1, "none"),
        (Encap::Vxlan, Mode::CrossSubnet, 2, "vxlan"),
        (Encap::None, Mode::Always, 1, "none"),
        (Encap::Ipip, Mode::Always, 2, "ipip"),
    ] {
        let lab = Lab::up(Spec { encap, mode, subnets, ..spec(Workload::Veth, Uplink::Auto, Xdp::Auto) });
        expect_up(&lab);
        assert_eq!(peer(&lab, "n1", "n2").unwrap().encapsulation, kind);
    }
}

fn find_a_small_mtu(uplink: Uplink) {
    let lab = two(uplink);
    expect_up(&lab);
    lab.sh("underlay", "ip link set n1 mtu 1400; ip link set n2 mtu 1400");
    expect_told(&lab, "small-only", Some(1350), &["the underlay passes 140", "1450 + 50 = 1500 are needed", "vxlanMTU to 135"]);
    expect(&lab, "n2", "n1", "small-only", Some(1350));
    lab.sh("underlay", "ip link set n1 mtu 1500; ip link set n2 mtu 1500");
    expect_up(&lab);
}

#[test]
fn probes_over_af_xdp_find_an_mtu_that_is_too_small() {
    find_a_small_mtu(Uplink::AfXdp);
}

#[test]
fn probes_over_sockets_find_an_mtu_that_is_too_small() {
    find_a_small_mtu(Uplink::Socket);
}

#[test]
fn probes_over_ipip_find_an_mtu_that_is_too_small() {
    let lab = Lab::up(Spec { encap: Encap::Ipip, ..spec(Workload::Veth, Uplink::Auto, Xdp::Auto) });
    expect_up(&lab);
    lab.sh("underlay", "ip link set n1 mtu 1400; ip link set n2 mtu 1400");
    expect_told(&lab, "small-only", Some(1380), &["1480 + 20 = 1500 are needed", "ipipMTU to 138"]);
}

#[test]
fn probes_find_udp_4789_filtered_both_ways_and_one_way() {
    let lab = two(Uplink::Auto);
    expect_up(&lab);
    drop_on_the_wire(&lab, "n2", &["egress", "ingress"], 17, Some(4789));
    expect_told(&lab, "filtered", None, &["172.31.1.2 answers ICMP echo on the underlay, but no VXLAN (UDP 4789) comes back", "vmxnet3"]);
    pass_again(&lab, "n2");
    expect_up(&lab);
    assert!(lab.client("n1").status().unwrap().problems.is_empty());
    // What leaves the port towards n2 is what n1 sends.
    drop_on_the_wire(&lab, "n2", &["egress"], 17, Some(4789));
    expect_told(&lab, "one-way", None, &["nothing of ours arrives there", "let VXLAN (UDP 4789) pass from this node to 172.31.1.2"]);
    expect(&lab, "n2", "n1", "filtered", None);
}

/// A super-frame crosses a veth whole, so what is longer than any packet of its own is one. Classic BPF as above: the length
/// of the packet, and whether it is greater.
#[test]
fn probes_find_super_frames_that_do_not_arrive() {
    let lab = two(Uplink::Auto);
    expect_up(&lab);
    lab.wait("a super-frame arrives", FOUND, || peer(&lab, "n1", "n2").is_some_and(|p| p.super_frame_arrived_bytes == Some(10_575)));
    let drop_long = "tc filter add dev n1 ingress protocol ip bpf da bytecode '4,128 0 0 0,37 0 1 2000,6 0 0 2,6 0 0 0'";
    lab.sh("underlay", &format!("tc qdisc add dev n1 clsact && {drop_long}"));
    expect_told(&lab, "damaged", None, &["offload damage", "of a TCP super-frame of 10575 bytes only 0", "tx-udp_tnl-segmentation off"]);
    expect(&lab, "n2", "n1", "up", Some(1450));
    pass_again(&lab, "n1");
    expect_up(&lab);
}

#[test]
fn probes_find_protocol_4_filtered() {
    let lab = Lab::up(Spec { encap: Encap::Ipip, ..spec(Workload::Veth, Uplink::Auto, Xdp::Auto) });
    expect_up(&lab);
    drop_on_the_wire(&lab, "n2", &["egress", "ingress"], 4, None);
    expect_told(&lab, "filtered", None, &["no IP-in-IP (protocol 4) comes back", "Azure", "use VXLAN"]);
}

#[test]
fn probes_tell_a_dead_engine_from_a_dead_node() {
    let lab = two(Uplink::Auto);
    expect_up(&lab);
    let pid = lab.client("n2").status().unwrap().pid;
    lab.sh("n2", &format!("kill -9 {pid}"));
    expect_told(&lab, "not-listening", None, &["nothing takes VXLAN (UDP 4789) there", "start the engine there"]);
    lab.sh("underlay", "ip link set n2 down");
    expect_told(&lab, "down", None, &["172.31.1.2", "the node is down"]);
}

#[test]
fn probes_name_a_vni_that_differs() {
    let lab = two(Uplink::Auto);
    expect_up(&lab);
    let felix = "{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: node.n2}, spec: {vxlanVNI: 5000}}\n";
    std::fs::write(lab.datastore().join("vni.yaml"), felix).unwrap();
    expect_told(&lab, "wrong-vni", None, &["by FelixConfiguration its VNI is 5000, and this node's is 4096"]);
    let row = expect(&lab, "n2", "n1", "wrong-vni", None);
    assert!(row.diagnosis.unwrap().contains("its VNI is 4096, and this node's is 5000"));
    assert!(lab.dropped("n1", "vxlan-vni") > 0 && lab.dropped("n2", "vxlan-vni") > 0);
}

#[test]
fn probes_that_are_off_on_one_node() {
    let lab = two(Uplink::Auto);
    expect_up(&lab);
    let config = lab.node("n2").dir(&lab.plan.spec.name).join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap().replace("enabled: true", "enabled: false");
    std::fs::write(&config, text).unwrap();
    lab.sh("n2", &format!("kill -HUP {}", lab.client("n2").status().unwrap().pid));
    lab.wait("no probes on n2", FOUND, || lab.client("n2").peers().unwrap().off.is_some_and(|why| why.contains("enabled: false")));
    let row = expect(&lab, "n1", "n2", "no-probes", None);
    assert!(!row.problem, "{row:?}");
    ping(&lab, "n1-p1", "n2-p1");
    assert!(lab.client("n1").status().unwrap().problems.is_empty());
}

/// Carries frames between two ports of the underlay, one byte of each long VXLAN packet changed, until told to stop.
fn damage(stop: &AtomicBool) {
    let ports: Vec<OwnedFd> = ["n1", "n2"].iter().map(|name| socket_on(name)).collect();
    let mut frame = vec![0u8; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (from, to) in [(0, 1), (1, 0)] {
            // SAFETY: the kernel writes at most the buffer's length into it.
            let n = unsafe { libc::recv(ports[from].as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
            let Ok(n) = usize::try_from(n) else { continue };
            idle = false;
            if n > 42 && frame[12..14] == [8, 0] && frame[23] == 17 {
                // Who breaks the payload makes the checksum over what is broken, or none; and it may be unfinished here.
                frame[40..42].fill(0);
                frame[350] ^= if n > 400 { 0x20 } else { 0 };
            }
            // SAFETY: the kernel reads that many bytes of a live buffer.
            unsafe { libc::send(ports[to].as_raw_fd(), frame.as_ptr().cast(), n, 0) };
        }
        if idle {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// All that comes in on an interface of this network namespace.
fn socket_on(name: &str) -> OwnedFd {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(all)).unwrap();
    const IGNORE_OUTGOING: i32 = 23;
    sys::setsockopt(&fd, libc::SOL_PACKET, IGNORE_OUTGOING, &1i32).unwrap();
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    (address.sll_family, address.sll_protocol) = (libc::AF_PACKET as u16, all);
    address.sll_ifindex = sys::Link::new(name).unwrap().index().unwrap() as i32;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads one sockaddr_ll, which is live.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    fd
}

#[test]
fn probes_find_damage_on_the_way() {
    let lab = two(Uplink::Auto);
    expect_up(&lab);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        lab.sh("underlay", "ip link set n1 nomaster; ip link set n2 nomaster; ip link set n1 promisc on; ip link set n2 promisc on");
        s.spawn(|| lab.inside("underlay", || damage(&stop)));
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            expect_told(&lab, "damaged", None, &["damaged: likely by an offload on the way", "ethtool -K"]);
            expect(&lab, "n2", "n1", "damaged", None);
            let counted = || peer(&lab, "n1", "n2").is_some_and(|p| p.damaged_there > 0 && p.damaged_here > 0);
            lab.wait("damage is counted at both ends", FOUND, counted);
        }));
        stop.store(true, Ordering::Relaxed);
        told.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
}
