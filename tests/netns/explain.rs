//! What the engine says about packets on a saved state is what the running node then does with them.

use crate::daemon::Pair;
use crate::kernel_node::Tap;
use crate::random_packets::{Rng, Shape, packet};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};
use tortie::ops::api::Client;
use tortie::ops::replay::{Engine, State};
use tortie::testing::build::ethernet;
use tortie::wire::Mac;

const SEED: u64 = 0xe4_91a1;
const PACKETS: usize = 10_000;
/// Sent between two looks at whether the node has read them all.
const AT_ONCE: usize = 32;

/// Reasons that other traffic of this network leads to.
const OTHERS: [&str; 2] = ["ipv6-unsupported", "arp-ignored"];

fn drops(c: &Client) -> BTreeMap<String, u64> {
    let rows = c.drops().unwrap().into_iter().filter(|d| !OTHERS.contains(&d.reason.as_str()));
    rows.map(|d| (d.reason, d.packets)).collect()
}

fn rx_frames(c: &Client, port: &str) -> u64 {
    c.ports().unwrap().into_iter().filter(|p| p.name == port).map(|p| p.rx_frames).sum()
}

fn shape(rng: &mut Rng, own: Ipv4Addr) -> Shape {
    let any = Ipv4Addr::from(rng.next() as u32);
    let dst = rng.pick(&[
        [10, 244, 2, 5].into(),
        [10, 244, 2, 40].into(),
        [10, 244, 1, 9].into(),
        [10, 244, 77, 1].into(),
        [10, 1, 0, 1].into(),
        [198, 51, 100, 1].into(),
        any,
    ]);
    let src = if rng.chance(85) { own } else { rng.pick(&[any, [10, 244, 2, 5].into(), [127, 0, 0, 1].into()]) };
    let ttl = rng.pick(&[(0, 2), (64, 64), (255, 255)]);
    Shape { src, dst, len: rng.pick(&[(20, 100), (1300, 1500), (1440, 1900)]), ttl, df: None, written_options: false }
}

#[test]
fn the_node_does_with_random_packets_what_the_saved_state_says() {
    let mut p = Pair::new("socket", 1);
    for ns in [&p.a.pod, &p.b.pod, &p.a.ns] {
        ns.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    }
    p.a.ns.sh("ip link set cali0 mtu 2000");
    p.a.pod.sh("ip link set eth0 mtu 2000");
    p.start();
    p.expect_both_ways("before");
    // Nobody answers: what comes in is what the test sends.
    p.b.pod.sh("ip link set eth0 down");
    let client = Client::new(&p.a.socket);
    let state = client.state().unwrap();
    assert_eq!(State::read(&serde_json::to_vec(&state).unwrap()).unwrap(), state);
    let mut engine = Engine::new(&state).unwrap();
    let pod = Tap::new(&p.a.pod, "eth0");
    let mut rng = Rng(SEED);
    let own: Ipv4Addr = p.a.pod_address().parse().unwrap();
    let mac: Mac = p.a.pod.sh("cat /sys/class/net/eth0/address").trim().parse().unwrap();
    let (before, first) = (drops(&client), rx_frames(&client, "cali0"));
    let mut said: BTreeMap<String, u64> = BTreeMap::new();
    let mut sent = 0;
    for i in 0..PACKETS {
        let shape = shape(&mut rng, own);
        let mut bytes = packet(&mut rng, &shape);
        if rng.chance(3) {
            let at = rng.within(0, bytes.len() - 1);
            bytes[at] ^= 1 << rng.within(0, 7);
        }
        let to = if rng.chance(98) { Mac::GATEWAY } else { Mac([2, 1, 1, 1, 1, 1]) };
        let frame = ethernet(to, mac, &bytes);
        let verdict = engine.feed("cali0", frame.clone().into(), i as u64).unwrap();
        for (reason, n) in &verdict.dropped {
            *said.entry(reason.name().to_owned()).or_default() += n;
        }
        sent += usize::from(!verdict.sent.is_empty());
        pod.send(&frame);
        if i % AT_ONCE == AT_ONCE - 1 || i + 1 == PACKETS {
            let end = Instant::now() + Duration::from_secs(5);
            while rx_frames(&client, "cali0") < first + i as u64 + 1 {
                assert!(Instant::now() < end, "packet {i} was not received\n{}", p.a.story());
            }
        }
    }
    let did: BTreeMap<String, u64> = drops(&client).into_iter().map(|(r, n)| (r.clone(), n - before[&r])).filter(|(_, n)| *n > 0).collect();
    assert_eq!(said, did, "left: what the state says; right: what the node did");
    // The packets are of many kinds.
    assert!(said.len() >= 8 && sent > PACKETS / 10, "{said:?}, {sent} sent");
}

#[test]
fn explain_answers_from_the_running_node_and_from_a_file() {
    let mut p = Pair::new("socket", 1);
    p.start();
    p.expect_both_ways("before");
    let tortie = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_tortie")).args(args).output().unwrap();
        (out.status.success(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap())
    };
    let socket = p.a.socket.to_str().unwrap().to_owned();
    let (ok, text) = tortie(&["explain", "10.244.1.5", "10.244.2.5", "--socket", &socket]);
    assert!(ok, "{text}");
    for part in [
        "enters:        from pod default/pod by cali0",
        "route:         10.244.2.0/26 vxlan node node2 via 10.244.2.0",
        "pool:          pool 10.244.0.0/16 vxlan Always",
        "block:         10.244.2.0/26 of host:node2",
        "encapsulation: vxlan: pool pool says Always",
        "mtu:           84 bytes fits 1450 = 1500 (uplink) - 50 (VXLAN)",
        "verdict:       sent",
        "10.1.0.1 > 10.1.0.2, protocol 17, TTL 64",
        "flags 0x08, VNI 4096",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let (ok, state) = tortie(&["state", "--socket", &socket]);
    assert!(ok, "{state}");
    let file = p.dir.path().join("saved.json");
    std::fs::write(&file, state).unwrap();
    let again = tortie(&["explain", "10.244.1.5", "10.244.2.5", "--state", file.to_str().unwrap()]);
    assert_eq!(again, (true, text));
    let (ok, text) = tortie(&["explain", "10.244.1.5", "10.244.1.77", "--state", file.to_str().unwrap()]);
    assert!(ok && text.contains("verdict:       dropped route-drop"), "{text}");
    let (ok, text) = tortie(&["explain", "1.2.3.4", "10.244.1.5", "--state", file.to_str().unwrap()]);
    assert!(!ok && text.starts_with("tortie: 1.2.3.4 is neither a pod's address on this node"), "{text}");
}
