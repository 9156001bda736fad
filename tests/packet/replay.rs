//! A saved state answers as the engine that it was saved from, and `explain` says what the engine does.

use super::{ME, PEER, from_pod, udp};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tortie::drop::DropReason;
use tortie::frame::{Gso, GsoKind, PortId};
use tortie::ops::replay::capture::{self, Direction, Record, Writer};
use tortie::ops::replay::explain::{Explanation, From, Protocol, Question, explain};
use tortie::ops::replay::state::{BlockState, ClusterState, NodeState, PoolState, PortState, RouteState};
use tortie::ops::replay::{Engine, State};
use tortie::port::Medium;
use tortie::port::mem::Wired;
use tortie::snapshot::PortRole;
use tortie::testing::bed::Bed;
use tortie::testing::build::Ip4;
use tortie::testing::check;
use tortie::testing::net::{Node, Setup, Via};
use tortie::wire::vxlan;

/// A node with two pods, the host and every way to another node, over one uplink or sockets.
fn setup(uplinks: &[Medium]) -> Setup {
    let mut s = Setup::new(ME);
    s.pod(1);
    s.offload_pod(2);
    for medium in uplinks {
        s.uplink(*medium);
    }
    s.host();
    s.route(ME.block(), Via::Blackhole);
    s.route(PEER.block(), Via::Vxlan(PEER));
    s.route(Node(3).block(), Via::Ipip(Node(3)));
    s.route(Node(5).block(), Via::Glean(Node(5)));
    s
}

fn kind(via: &Via) -> (&'static str, Option<Node>) {
    match via {
        Via::Local(_) => ("local", None),
        Via::Vxlan(n) => ("vxlan", Some(*n)),
        Via::Ipip(n) => ("ipip", Some(*n)),
        Via::Direct(n) | Via::Glean(n) => ("direct", Some(*n)),
        Via::Blackhole => ("blackhole", None),
        Via::Floating => ("floating", None),
        Via::Host | Via::HostRoute => ("host", None),
        Via::Drop | Via::Raw(_) => ("drop", None),
    }
}

fn name(n: Node) -> String {
    format!("node{}", n.0)
}

/// The state that a daemon with this set-up would save.
fn state(s: &Setup) -> State {
    let interface = |i: usize, role: &PortRole| match role {
        PortRole::Uplink => "eth0".to_owned(),
        PortRole::Host => "tunl-tortie".to_owned(),
        _ => format!("cali{i}"),
    };
    let ports = s.ports.iter().enumerate();
    let ports = ports.map(|(i, p)| PortState::new(PortId(i as u16), &interface(i, &p.role), &p.role, &p.caps));
    let routes = s.routes.iter().enumerate().map(|(i, (prefix, via))| RouteState {
        prefix: *prefix,
        adjacency: i as u32 + 2,
        kind: kind(via).0.into(),
        node: kind(via).1.map(name),
        via: kind(via).1.map(|n| n.address().into()),
    });
    let pool = |name: &str, cidr: &str, encapsulation: &str, mode: &str| PoolState {
        name: name.into(),
        cidr: cidr.parse().unwrap(),
        encapsulation: encapsulation.into(),
        mode: mode.into(),
        disabled: false,
    };
    let nodes = (1..6).map(Node);
    let cluster = ClusterState {
        pools: vec![pool("all", "10.244.0.0/16", "vxlan", "Always"), pool("three", "10.244.3.0/24", "ipip", "CrossSubnet")],
        blocks: nodes
            .clone()
            .map(|n| BlockState { cidr: n.block(), affinity: Some(format!("host:{}", name(n))), borrowed: Default::default() })
            .collect(),
        nodes: nodes
            .map(|n| NodeState {
                name: name(n),
                address: Some(ipnet::Ipv4Net::new(n.address(), 30).unwrap()),
                vxlan_address: Some(n.tunnel_address()),
                ipip_address: None,
            })
            .collect(),
        floating: Default::default(),
        uplink_mtu: Some(1500),
    };
    State::new(&name(ME), &s.snapshot(), ports.collect(), routes.collect(), cluster)
}

/// The state after a round through its document.
fn saved(s: &Setup) -> State {
    let state = state(s);
    let read = State::read(&serde_json::to_vec(&state).unwrap()).unwrap();
    assert_eq!(read, state);
    read
}

/// Frames that meet every stage: all kinds of routes, all kinds of faults.
fn frames() -> Vec<(u16, Wired)> {
    let mut out: Vec<(u16, Wired)> = Vec::new();
    for dst in [ME.pod(2), ME.pod(9), PEER.pod(1), Node(3).pod(1), Node(5).pod(1), ME.address(), [8, 8, 8, 8].into(), Node(8).pod(1)] {
        for size in [0, 100, 1500, 3000] {
            out.push((0, from_pod(1, &udp(1, dst, size)).into()));
        }
        out.push((0, from_pod(1, &Ip4::new(ME.pod(1), dst).ttl(1).udp(1, 2, b"x")).into()));
        out.push((0, from_pod(1, &Ip4::new(ME.pod(1), dst).may_fragment().udp(1, 2, &[7; 4000])).into()));
        let mut big = Wired::from(from_pod(2, &Ip4::new(ME.pod(2), dst).tcp(5, 80, 1000, &[3; 5000])));
        big.gso = Some(Gso { kind: GsoKind::Tcp4, size: 1398 });
        out.push((1, big));
    }
    out.push((0, from_pod(1, &Ip4::new(PEER.pod(1), ME.pod(2)).udp(1, 2, b"spoofed")).into()));
    for to in [ME.pod(1), ME.pod(30), ME.address()] {
        let inner = Ip4::new(PEER.pod(1), to).udp(1, 2, b"from elsewhere");
        out.push((2, PEER.vxlan_to(ME).frame(&inner).into()));
        out.push((2, Node(77).vxlan_to(ME).frame(&inner).into()));
        out.push((2, Node(3).ipip_to(ME).frame(&inner).into()));
        out.push((3, inner.into()));
    }
    out
}

#[test]
fn a_saved_state_gives_the_same_frames_and_verdicts() {
    let s = setup(&[Medium::Ethernet]);
    let mut bed = Bed::new(&s);
    let mut engine = Engine::new(&saved(&s)).unwrap();
    let mut dropped = vec![0; DropReason::COUNT];
    for (i, (port, frame)) in frames().into_iter().enumerate() {
        bed.send(PortId(port), frame.clone());
        bed.turn();
        let interface = engine.interface(PortId(port)).to_owned();
        let verdict = engine.feed(&interface, frame, 0).unwrap();
        let mut want: Vec<(PortId, Wired)> = Vec::new();
        for p in 0..s.ports.len() as u16 {
            want.extend(bed.drain(PortId(p)).into_iter().map(|w| (PortId(p), w)));
        }
        let got: Vec<(PortId, Wired)> = verdict.sent.iter().map(|s| (s.port, s.frame.clone())).collect();
        assert_eq!(got, want, "frame {i}: {verdict}");
        let counted = |bed: &Bed| -> Vec<u64> { DropReason::ALL.iter().map(|r| bed.counters().dropped[r.index()].get()).collect() };
        for (r, n) in &verdict.dropped {
            dropped[r.index()] += n;
        }
        assert_eq!(counted(&bed), dropped, "frame {i}: {verdict}");
    }
}

#[test]
fn the_outer_headers_of_sockets_are_those_of_the_wire() {
    let s = setup(&[Medium::VxlanUdp, Medium::Ip]);
    let mut engine = Engine::new(&saved(&s)).unwrap();
    let v = engine.feed("cali0", from_pod(1, &udp(1, PEER.pod(1), 64)).into(), 0).unwrap();
    let [sent] = &v.sent[..] else { panic!("{v:?}") };
    assert!(sent.reconstructed);
    let (_, _, outer) = check::ethernet_ipv4(&sent.frame.bytes).unwrap();
    outer.l4().unwrap();
    assert_eq!((outer.src(), outer.dst(), outer.ttl()), (ME.address(), PEER.address(), 64));
    assert_eq!(outer.payload[2..4], vxlan::PORT.to_be_bytes());
    // What one node sends the other takes.
    let mut there = Setup::new(PEER);
    there.pod(1);
    for medium in [Medium::VxlanUdp, Medium::Ip] {
        there.uplink(medium);
    }
    let mut there = Engine::new(&saved(&there)).unwrap();
    let v = there.feed("eth0", sent.frame.clone(), 0).unwrap();
    assert_eq!(v.to_string(), "sent");
    assert_eq!(there.interface(v.sent[0].port), "cali0");
    let v = engine.feed("cali0", from_pod(1, &udp(1, Node(3).pod(1), 64)).into(), 0).unwrap();
    let (_, _, outer) = check::ethernet_ipv4(&v.sent[0].frame.bytes).unwrap();
    assert_eq!((outer.dst(), u8::from(outer.header.protocol)), (Node(3).address(), 4));
}

#[test]
fn the_kernels_own_packets_are_left_to_it() {
    let s = setup(&[Medium::VxlanUdp, Medium::Ip]);
    let mut engine = Engine::new(&saved(&s)).unwrap();
    let plain =
        tortie::testing::build::ethernet(ME.link_mac(), PEER.link_mac(), &Ip4::new(PEER.address(), ME.address()).udp(1, 53, b"dns"));
    let v = engine.feed("eth0", plain.into(), 0).unwrap();
    assert!(v.left_to_host && v.sent.is_empty());
}

fn ask(s: &Setup, src: std::net::Ipv4Addr, dst: std::net::Ipv4Addr, change: impl Fn(&mut Question)) -> Explanation {
    let mut q = Question { src, dst, protocol: Protocol::Icmp, port: 80, size: 84, from: From::Source };
    change(&mut q);
    explain(&saved(s), &q).unwrap()
}

#[test]
fn explain_names_route_pool_block_owner_and_reason() {
    let s = setup(&[Medium::VxlanUdp, Medium::Ip]);
    let e = ask(&s, ME.pod(1), PEER.pod(7), |_| {});
    assert_eq!(e.entry, "from pod default/pod-1 by cali0 (mem), which may send from 10.244.1.1");
    assert_eq!(e.decision.route, "10.244.2.0/26 vxlan node node2 via 172.18.0.2");
    assert_eq!(e.decision.pool.as_deref(), Some("all 10.244.0.0/16 vxlan Always"));
    assert_eq!(e.decision.block.as_deref(), Some("10.244.2.0/26 of host:node2"));
    assert_eq!(e.decision.encapsulation, "vxlan: pool all says Always");
    assert_eq!(e.decision.mtu, "84 bytes fits 1450 = 1500 (uplink) - 50 (VXLAN)");
    assert_eq!((e.verdict.as_str(), e.remedies.len()), ("sent", 0));
    let layers: Vec<&str> = e.out[0].headers.iter().map(|h| h.layer).collect();
    assert_eq!(layers, ["ethernet", "ipv4", "udp", "vxlan", "ethernet", "ipv4"]);
    assert_eq!(e.out[0].headers[3].hex, "08 00 00 00 00 10 00 00");
    let e = ask(&s, ME.pod(1), Node(3).pod(7), |q| q.protocol = Protocol::Tcp);
    // 172.18.0.1/30 holds .1 to .3, so the test says same subnet; the route in force still says IP-in-IP.
    assert_eq!(e.decision.encapsulation, "ipip: pool three says CrossSubnet, and this node's 172.18.0.0/30 contains node3's 172.18.0.3");
    let layers: Vec<&str> = e.out[0].headers.iter().map(|h| h.layer).collect();
    assert_eq!(layers, ["ethernet", "ipv4", "ipv4", "tcp"]);
}

#[test]
fn explain_names_the_drop_and_what_to_do() {
    let s = setup(&[Medium::Ethernet]);
    for (e, reason) in [
        (ask(&s, ME.pod(1), ME.pod(9), |_| {}), DropReason::Blackhole),
        (ask(&s, ME.pod(2), PEER.pod(1), |q| q.from = From::Pod("default/pod-1".into())), DropReason::SourceSpoofed),
        (ask(&s, ME.pod(1), PEER.pod(1), |q| q.size = 1451), DropReason::MtuExceeded),
        (ask(&s, PEER.pod(1), ME.pod(9), |_| {}), DropReason::Blackhole),
    ] {
        assert!(e.verdict.contains(reason.name()), "{e:?}");
        assert!(e.remedies[0].starts_with(reason.name()) && e.remedies[0].len() > 60, "{e:?}");
    }
    // The refusal of what is too large goes back to the pod.
    let e = ask(&s, ME.pod(1), PEER.pod(1), |q| q.size = 1451);
    assert_eq!(
        (e.out[0].interface.as_str(), e.decision.mtu.as_str()),
        ("cali0", "1451 bytes does not fit 1450 = 1500 (uplink) - 50 (VXLAN)")
    );
    let e = ask(&s, ME.pod(1), Node(5).pod(1), |_| {});
    assert_eq!(e.verdict, "held for a neighbour");
    let e = ask(&s, PEER.pod(1), ME.pod(1), |_| {});
    assert_eq!((e.entry.as_str(), e.verdict.as_str()), ("from node 172.18.0.2 (a known sender) by eth0 in vxlan", "sent"));
    assert_eq!(e.decision.encapsulation, "none: the destination is on this node");
}

#[test]
fn what_cannot_be_explained_is_said() {
    let s = saved(&setup(&[Medium::Ethernet]));
    let q = |change: &dyn Fn(&mut Question)| {
        let mut q = Question { src: ME.pod(1), dst: PEER.pod(1), protocol: Protocol::Udp, port: 1, size: 84, from: From::Source };
        change(&mut q);
        explain(&s, &q).unwrap_err().to_string()
    };
    assert_eq!(q(&|q| q.size = 27), "--size 27: 28 to 65535 bytes, IP and transport header included");
    assert!(q(&|q| q.src = [8, 8, 8, 8].into()).starts_with("8.8.8.8 is neither a pod's address on this node"));
    assert_eq!(q(&|q| q.from = From::Pod("x".into())), "--from x: no such pod on this node; it has default/pod-1, default/pod-2");
    assert!(q(&|q| (q.src, q.from) = ([8, 8, 8, 8].into(), From::Uplink)).starts_with("--from uplink: nobody owns 8.8.8.8"));
}

#[test]
fn damaged_states_are_refused_by_field() {
    let good = serde_json::to_value(saved(&setup(&[Medium::Ethernet]))).unwrap();
    let damage = |pointer: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        match State::read(&serde_json::to_vec(&bad).unwrap()).and_then(|s| s.snapshot().map(|_| ())) {
            Ok(()) => panic!("{pointer} was taken"),
            Err(e) => e.to_string(),
        }
    };
    assert!(damage("/format", 9.into()).starts_with("format 9, but this version reads format 1"));
    assert_eq!(damage("/tunnel/vni", (1 << 24).into()), "tunnel.vni: 16777216 is not a VNI, which has 24 bits");
    assert_eq!(damage("/routes/0/adjacency", 99_999.into()), "routes[0].adjacency: there is no adjacency 99999");
    assert!(damage("/adjacencies/2/rewrite", "zz".into()).starts_with("adjacencies.2.rewrite: not at most 64 bytes"));
    assert!(damage("/adjacencies/2/rewrite", "aé".into()).starts_with("adjacencies.2.rewrite"));
    assert!(damage("/adjacencies/2/kind", "fly".into()).starts_with("adjacencies.2.kind: \"fly\" is not one of"));
    assert_eq!(damage("/ports/1/id", 0.into()), "ports[1].id: 0 is another port's number");
    assert!(State::read(b"{}").unwrap_err().to_string().starts_with("not a saved state"));
}

/// Every folder below `tests/replay`: a state, frames that enter, the frames and verdicts that must come out. With
/// TORTIE_BLESS=1 the expected files are written instead.
#[test]
fn recorded_cases_replay() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay");
    let bless = std::env::var_os("TORTIE_BLESS").is_some();
    if bless {
        write_cases(&root);
    }
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 2, "no cases in {}", root.display());
    for case in cases {
        let state = State::read(&std::fs::read(case.join("state.json")).unwrap()).unwrap();
        let records = capture::read(&std::fs::read(case.join("in.pcapng")).unwrap()[..], None).unwrap();
        let (out, verdicts) = replayed(&state, &records);
        if bless {
            std::fs::write(case.join("out.pcapng"), &out).unwrap();
            std::fs::write(case.join("verdicts.txt"), &verdicts).unwrap();
        }
        assert_eq!(verdicts, std::fs::read_to_string(case.join("verdicts.txt")).unwrap(), "{}", case.display());
        assert!(out == std::fs::read(case.join("out.pcapng")).unwrap(), "{}: other frames left", case.display());
        // Twice the same: nothing but the input goes in.
        assert!(replayed(&state, &records) == (out, verdicts));
    }
}

fn replayed(state: &State, records: &[Record]) -> (Vec<u8>, String) {
    let mut engine = Engine::new(state).unwrap();
    let mut w = Writer::new(Vec::new()).unwrap();
    let mut verdicts = String::new();
    for (i, r) in records.iter().enumerate() {
        let v = engine.feed(&r.interface, r.frame.clone(), (r.at - records[0].at).as_millis() as u64).unwrap();
        for s in &v.sent {
            let interface = engine.interface(s.port).to_owned();
            let ethernet = engine.is_ethernet(&interface);
            w.write(&Record { interface, at: r.at, direction: Some(Direction::Out), frame: s.frame.clone() }, ethernet, "").unwrap();
        }
        let out: Vec<&str> = v.sent.iter().map(|s| engine.interface(s.port)).collect();
        verdicts += &format!("{} {}: {v} [{}]\n", i + 1, r.interface, out.join(" "));
    }
    (w.into_inner(), verdicts)
}

/// The two cases that come with the source: one uplink for everything, and sockets.
fn write_cases(root: &Path) {
    for (name, uplinks) in [("ethernet", &[Medium::Ethernet][..]), ("sockets", &[Medium::VxlanUdp, Medium::Ip])] {
        let s = setup(uplinks);
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("state.json"), serde_json::to_string_pretty(&state(&s)).unwrap() + "\n").unwrap();
        let engine = Engine::new(&state(&s)).unwrap();
        let mut w = Writer::new(Vec::new()).unwrap();
        for (i, (port, frame)) in frames().into_iter().enumerate() {
            // The host's port follows the uplinks.
            let port = if port == 3 { 2 + uplinks.len() as u16 } else { port };
            let interface = engine.interface(PortId(port)).to_owned();
            let ethernet = engine.is_ethernet(&interface);
            let at = Duration::from_secs(1_700_000_000) + Duration::from_millis(i as u64);
            w.write(&Record { interface, at, direction: Some(Direction::In), frame }, ethernet, "").unwrap();
        }
        std::fs::write(folder.join("in.pcapng"), w.into_inner()).unwrap();
    }
}

#[test]
fn flows_from_the_host_are_part_of_the_state() {
    use tortie::flows::Flows;
    let s = setup(&[Medium::VxlanUdp, Medium::Ip]);
    let flows = Flows::default();
    for (to, port) in [(ME.pod(2), 80), (PEER.pod(7), 53)] {
        flows.keep(&Ip4::new(ME.pod(1), to).udp(32_768, port, b""), 1000);
    }
    let mut state = saved(&s);
    state.flows = tortie::ops::replay::flow::saved(&flows.entries(11_000));
    let state = State::read(&serde_json::to_vec(&state).unwrap()).unwrap();
    let phases: Vec<_> = state.flows.iter().map(|f| (f.source, f.ports, &*f.phase, f.milliseconds_left)).collect();
    let [local, remote] = [ME.pod(2), PEER.pod(7)];
    let want = [(local, None, 590_000), (local, Some((80, 32_768)), 20_000), (remote, None, 590_000), (remote, Some((53, 32_768)), 20_000)];
    assert_eq!(phases, want.map(|(source, ports, left)| (source, ports, "opening", left)));
    // The answer as the serving pod sends it, at once and when the flow has been idle for long.
    let answer = || from_pod(2, &Ip4::new(ME.pod(2), ME.pod(1)).udp(80, 32_768, b""));
    for (at, want) in [(19_999, "punted host-flow"), (20_000, "sent")] {
        let mut engine = Engine::new(&state).unwrap();
        assert_eq!(engine.feed("cali1", answer().into(), at).unwrap().to_string(), want);
        // What the host sends is kept as in a node.
        engine.feed("tunl-tortie", Ip4::new(ME.pod(1), ME.pod(2)).udp(32_768, 80, b"").into(), at).unwrap();
        assert_eq!(engine.feed("cali1", answer().into(), at).unwrap().to_string(), "punted host-flow");
    }
    let mut wrong = state.clone();
    wrong.flows[1].phase = "shut".into();
    assert_eq!(Engine::new(&wrong).err().unwrap().to_string(), "flows[1].phase: \"shut\" is not one of opening, open, closing");
    let q = Question { src: PEER.pod(7), dst: ME.pod(1), protocol: Protocol::Udp, port: 32_768, size: 60, from: From::Source };
    let mut asked = state.clone();
    asked.flows[3].ports = Some((32_768, 32_768));
    let e = explain(&asked, &q).unwrap();
    assert_eq!(e.verdict, "punted host-flow");
    assert!(e.decision.next_hop.starts_with("this host's network stack (host-flow)"), "{}", e.decision.next_hop);
}

#[test]
fn a_floating_ip_is_explained_by_the_address_that_it_stands_for() {
    let [here, there] = [7, 8].map(|i| std::net::Ipv4Addr::new(192, 0, 2, i));
    let mut s = setup(&[Medium::Ethernet]);
    s.route(ipnet::Ipv4Net::from(here), Via::Floating);
    s.route(ipnet::Ipv4Net::from(there), Via::Vxlan(PEER));
    let mut state = saved(&s);
    state.cluster.floating = [(here, ME.pod(2)), (there, PEER.pod(7))].into();
    let state = State::read(&serde_json::to_vec(&state).unwrap()).unwrap();
    let ask = |dst| explain(&state, &Question { src: ME.pod(1), dst, protocol: Protocol::Icmp, port: 0, size: 84, from: From::Source });
    let e = ask(here).unwrap();
    assert_eq!((&*e.verdict, &*e.decision.route), ("punted floating-ip", "192.0.2.7/32 floating"));
    assert!(e.decision.next_hop.ends_with("(floating-ip), which translates 192.0.2.7 to 10.244.1.2 of pod default/pod-2"), "{e:?}");
    assert_eq!(e.decision.encapsulation, "none: the destination is on this node (as for 10.244.1.2, which 192.0.2.7 stands for)");
    let e = ask(there).unwrap();
    assert_eq!(e.verdict, "sent");
    assert!(e.decision.next_hop.ends_with("whose network stack translates 192.0.2.8 to 10.244.2.7"), "{e:?}");
    assert_eq!(e.decision.encapsulation, "vxlan: pool all says Always (as for 10.244.2.7, which 192.0.2.8 stands for)");
}
