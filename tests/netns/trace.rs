//! A look at packets on their way through a running node: `tortie trace` and `tortie capture`, read back by tshark.

use crate::daemon::Pair;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tortie::ops::api::Client;

const TORTIE: &str = env!("CARGO_BIN_EXE_tortie");

fn running() -> Pair {
    let mut p = Pair::new("socket", 1);
    for ns in [&p.a.pod, &p.b.pod] {
        ns.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    }
    p.start();
    p.expect_both_ways("before");
    p
}

/// A verb against node a's daemon.
fn spawn(p: &Pair, args: &[&str]) -> Child {
    let mut c = Command::new(TORTIE);
    c.args(args).arg("--socket").arg(&p.a.socket).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The verb's end, within ten seconds.
fn end(mut child: Child) -> Output {
    let end = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("{:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn text(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).unwrap() + &String::from_utf8_lossy(&o.stderr)
}

/// Sends pings until the verb has seen enough.
fn pinged(p: &Pair, mut child: Child) -> Output {
    let end_at = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end_at {
            child.kill().unwrap();
            panic!("{:?}\n{}", child.wait_with_output(), p.a.story());
        }
        p.a.pod.output(&["ping", "-c", "1", "-W", "1", &p.b.pod_address()]);
        p.a.pod.output(&["ping", "-c", "1", "-W", "0.05", "10.244.1.40"]);
    }
    end(child)
}

/// Fields of every packet of a capture, as tshark reads them.
fn tshark(file: &Path, fields: &[&str]) -> Vec<Vec<String>> {
    let mut c = Command::new("tshark");
    c.arg("-r").arg(file).args(["-n", "-T", "fields", "-E", "separator=|"]);
    for f in fields {
        c.args(["-e", f]);
    }
    let out = c.output().expect("tshark is installed");
    assert!(out.status.success(), "{}", text(&out));
    String::from_utf8(out.stdout).unwrap().lines().map(|l| l.split('|').map(str::to_owned).collect()).collect()
}

#[test]
fn trace_tells_each_stage() {
    let p = running();
    let filter = "icmp and host 10.244.2.5";
    let out = pinged(&p, spawn(&p, &["trace", "--filter", filter, "--count", "2", "-o", "json"]));
    assert!(out.status.success(), "{}", text(&out));
    let rows: Vec<Value> = String::from_utf8(out.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    // Pings are under way when the trace begins, so it may see a reply first.
    let from = |interface: &str| rows.iter().find(|r| r["received"]["interface"] == interface).unwrap_or_else(|| panic!("{rows:?}"));
    let (request, reply) = (from("cali0"), from("eth0"));
    assert_eq!((rows.len(), &request["sent"][0]["interface"]), (2, &"eth0".into()));
    assert_eq!(request["decision"]["route"], "10.244.2.0/26 vxlan node node2 via 10.244.2.0");
    assert_eq!(reply["sent"][0]["interface"], "cali0");
    assert_eq!((&reply["verdict"], &reply["received"]["peer"]), (&"sent".into(), &"10.1.0.2".into()));
    // For people.
    let out = pinged(&p, spawn(&p, &["trace", "--filter", "pod default/pod and reason blackhole or reason route-drop", "--count", "1"]));
    let told = text(&out);
    assert!(told.contains("received:      cali0 10.244.1.5 > 10.244.1.40 icmp, 98 bytes"), "{told}");
    assert!(told.contains("verdict:       dropped blackhole") && told.contains("route:         10.244.1.0/26 blackhole"), "{told}");
    // Who looks later finds it, without what was behind the headers.
    let last = Client::new(&p.a.socket).last_trace().unwrap();
    assert_eq!((last.filter.as_deref(), last.packets.len()), (Some("pod default/pod and reason blackhole or reason route-drop"), 1));
    let packet = &last.packets[0];
    assert!(packet.verdict.starts_with("dropped blackhole") && packet.received.bytes.len() == 84, "{packet:?}");
    let diags = tortie::ops::diags::Bundle::collect(Path::new("/nonexistent"), &p.a.socket);
    assert!(diags.files.contains_key("last-trace.json") && !diags.files.contains_key("trace.json"), "{:?}", diags.missing);
    // Nothing stays armed, and the law holds.
    let total = Client::new(&p.a.socket).counters().unwrap().pop().unwrap();
    assert_eq!(total.received + total.generated, total.sent + total.punted + total.dropped + total.coalesced + total.held, "{total:?}");
}

#[test]
fn a_second_look_and_a_bad_filter_are_refused() {
    let p = running();
    let mut first = spawn(&p, &["trace", "--filter", "port 1", "--count", "1"]);
    let until = Instant::now() + Duration::from_secs(30);
    // Busy from the moment that the first one is armed.
    loop {
        let second = end(spawn(&p, &["capture", "-w", "/dev/null", "--count", "0"]));
        if text(&second).contains("another trace or capture is running") {
            assert_eq!(second.status.code(), Some(1));
            break;
        }
        assert!(Instant::now() < until, "{}", text(&second));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    // Its place is free again soon after.
    loop {
        let third = end(spawn(&p, &["trace", "--count", "0"]));
        if third.status.success() {
            break;
        }
        assert!(Instant::now() < until, "{}", text(&third));
    }
    for (args, want) in [
        (&["trace", "--filter", "host nobody"][..], "\"nobody\" at word 2"),
        (&["trace", "--filter", "pod x/y"], "no pod \"x/y\" on this node"),
        (&["capture", "-w", "/dev/null", "--at", "cali9"], "--at cali9: neither an interface nor a pod of this node; interfaces are eth0"),
    ] {
        let out = end(spawn(&p, args));
        assert!(out.status.code() == Some(1) && text(&out).contains(want), "{args:?}: {}", text(&out));
    }
}

#[test]
fn captures_open_in_tshark_with_names_directions_and_reasons() {
    let p = running();
    let file = p.dir.path().join("uplink.pcapng");
    let name = file.to_str().unwrap();
    let out = pinged(&p, spawn(&p, &["capture", "-w", name, "--at", "uplink", "--filter", "icmp", "--count", "4"]));
    assert!(out.status.success(), "{}", text(&out));
    let fields = ["frame.interface_name", "vxlan.vni", "ip.src", "ip.dst", "frame.comment", "icmp.type"];
    let rows = tshark(&file, &fields);
    assert!(rows.len() >= 2, "{rows:?}");
    let out_row = rows.iter().find(|r| r[2].starts_with("10.1.0.1")).unwrap();
    assert_eq!(out_row[..4], ["eth0", "4096", "10.1.0.1,10.244.1.5", "10.1.0.2,10.244.2.5"], "{rows:?}");
    assert!(out_row[4].starts_with("received on cali0; outer headers reconstructed"), "{out_row:?}");
    let in_row = rows.iter().find(|r| r[2].starts_with("10.1.0.2")).unwrap();
    assert!(in_row[4].starts_with("sent; outer headers reconstructed"), "{in_row:?}");
    // tcpdump's own filter finds inner and outer headers whole: no packet is malformed.
    let bad = Command::new("tshark").arg("-r").arg(&file).args(["-n", "-Y", "_ws.malformed"]).output().unwrap();
    assert!(bad.status.success() && bad.stdout.is_empty(), "{}", text(&bad));
    let file = p.dir.path().join("drops.pcapng");
    let out = pinged(&p, spawn(&p, &["capture", "-w", file.to_str().unwrap(), "--at", "drops", "--count", "3"]));
    assert!(out.status.success(), "{}", text(&out));
    let rows = tshark(&file, &fields);
    assert!(rows.iter().any(|r| r[0] == "cali0" && r[3] == "10.244.1.40" && r[4].starts_with("dropped blackhole")), "{rows:?}");
}

#[test]
fn the_ring_is_written_when_something_happens() {
    let p = running();
    let ring = |name: &str, more: &[&str]| {
        let file = p.dir.path().join(name);
        let args = [&["capture", "-w", file.to_str().unwrap(), "--ring", "4K"], more].concat();
        (spawn(&p, &args), file)
    };
    // A burst of drops.
    let (child, file) = ring("burst.pcapng", &["--burst", "3"]);
    let out = pinged(&p, child);
    assert!(text(&out).contains("drops within a second"), "{}", text(&out));
    assert!(!tshark(&file, &["frame.number"]).is_empty());
    // A signal; no more than the size is kept.
    let (mut child, file) = ring("signal.pcapng", &["--burst", "1000000"]);
    std::thread::sleep(Duration::from_millis(500));
    p.a.pod.output(&["ping", "-c", "30", "-i", "0.01", "-W", "1", &p.b.pod_address()]);
    std::thread::sleep(Duration::from_millis(300));
    p.a.ns.sh(&format!("kill -USR1 {}", child.id()));
    assert!(child.try_wait().is_ok());
    let out = end(child);
    assert!(text(&out).contains("signal SIGUSR1"), "{}", text(&out));
    let lengths: Vec<usize> = tshark(&file, &["frame.len"]).iter().map(|r| r[0].parse().unwrap()).collect();
    assert!(lengths.len() > 20 && lengths.iter().sum::<usize>() <= 4096, "{lengths:?}");
    // The pod's interface goes.
    let (child, _) = ring("gone.pcapng", &["--burst", "1000000"]);
    std::thread::sleep(Duration::from_millis(500));
    p.a.ns.sh("ip link del cali0");
    let out = end(child);
    assert!(text(&out).contains("port cali0 went away"), "{}", text(&out));
}
