//! Health and metrics of the real program, over TCP as a kubelet and Prometheus ask for them.

use super::daemon::{Node, Pair, TORTIE, manifest};
use prometheus_parse::{Scrape, Value};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use tortie::ops::api::Client;

/// Status and body of GET from inside the node's namespace; `None` while nobody listens.
fn get(node: &Node, port: u16, path: &str) -> Option<(u16, String)> {
    node.ns.run(|| {
        let mut s = TcpStream::connect(("127.0.0.1", port)).ok()?;
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        s.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        s.read_to_string(&mut answer).ok()?;
        let _ = s.shutdown(Shutdown::Both);
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    })
}

fn until(what: &str, node: &Node, mut ok: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !ok() {
        assert!(Instant::now() < end, "{what}\n{}", node.story());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Value of a sample whose labels hold these.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let all = Scrape::parse(text.lines().map(|l| Ok(l.to_owned()))).unwrap();
    let found = all.samples.iter().find(|s| s.metric == name && labels.iter().all(|(k, v)| s.labels.get(k) == Some(v)));
    match found.unwrap_or_else(|| panic!("no {name} {labels:?} in\n{text}")).value {
        Value::Counter(n) | Value::Gauge(n) | Value::Untyped(n) => n,
        ref other => panic!("{other:?}"),
    }
}

const FELIX_ON: &str =
    "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {prometheusMetricsEnabled: true}\n";

#[test]
fn ready_after_the_first_sync_and_metrics_that_switch_while_running() {
    let mut p = Pair::new("socket", 2);
    let text = std::fs::read_to_string(&p.a.config).unwrap();
    std::fs::write(&p.a.config, text + "health: {enabled: true}\n").unwrap();
    // Without its Node object the node knows nothing: alive, not ready.
    p.file("node1.yaml", "");
    p.a.daemon = Some(p.a.ns.spawn(&[TORTIE, "run", "--config", p.a.config.to_str().unwrap()]));
    until("health is served", &p.a, || get(&p.a, 9099, "/liveness").is_some());
    assert_eq!(get(&p.a, 9099, "/liveness").unwrap(), (200, "ok\n".into()));
    let (status, why) = get(&p.a, 9099, "/readiness").unwrap();
    assert!(status == 503 && why.contains("node1"), "{status} {why}");
    p.file("node1.yaml", &manifest(1));
    p.a.ready();
    until("ready", &p.a, || get(&p.a, 9099, "/readiness").unwrap().0 == 200);

    assert_eq!(get(&p.a, 9091, "/metrics"), None, "off unless switched on");
    p.file("felix.yaml", FELIX_ON);
    until("FelixConfiguration switches metrics on", &p.a, || get(&p.a, 9091, "/metrics").is_some());
    p.b.start();
    p.expect_both_ways("before the scrape");
    let before = get(&p.a, 9091, "/metrics").unwrap().1;
    p.expect_both_ways("between two scrapes");
    let after = get(&p.a, 9091, "/metrics").unwrap().1;
    let grew =
        |name: &str, labels: &[(&str, &str)]| assert!(value(&after, name, labels) > value(&before, name, labels), "{name} {labels:?}");
    grew("tortie_peer_packets_total", &[("peer", "node2")]);
    grew("tortie_pod_packets_total", &[("namespace", "default"), ("pod", "pod"), ("direction", "from-pod")]);
    grew("tortie_port_bytes_total", &[("role", "uplink"), ("direction", "sent")]);
    grew("tortie_worker_turns_total", &[("worker", "1")]);
    for (name, want) in [
        ("tortie_ready", 1.0),
        ("felix_active_local_endpoints", 1.0),
        ("felix_cluster_num_hosts", 2.0),
        ("felix_cluster_num_workload_endpoints", 2.0),
        ("felix_resync_state", 3.0),
    ] {
        assert_eq!(value(&after, name, &[]), want, "{name}");
    }
    if let Some(dir) = std::env::var_os("TORTIE_KEEP_SCRAPE") {
        std::fs::write(std::path::Path::new(&dir).join("scrape.txt"), &after).unwrap();
    }

    let status = |check: &[&str]| p.a.ns.output(&[&[TORTIE, "status", "--socket", p.a.socket.to_str().unwrap()], check].concat());
    let well = status(&["--check"]);
    assert!(well.status.success() && String::from_utf8_lossy(&well.stdout).starts_with("Node:             node1, well\n"), "{well:?}");
    p.a.ns.sh("ip link set eth0 down");
    until("a port that is down is a problem", &p.a, || {
        let text = String::from_utf8_lossy(&status(&[]).stdout).into_owned();
        text.starts_with("Problems:\n  uplink: eth0 is not connected: waiting for interface eth0 to be set up")
            && text.contains("node1, not well")
    });
    assert_eq!(status(&["--check"]).status.code(), Some(1));
    p.a.ns.sh("ip link set eth0 up");
    until("well again", &p.a, || status(&["--check"]).status.success());

    // Another port, one that is taken, and off.
    p.file("felix.yaml", &FELIX_ON.replace("true}", "true, prometheusMetricsPort: 19091}"));
    until("another port", &p.a, || get(&p.a, 19091, "/metrics").is_some());
    assert_eq!(get(&p.a, 9091, "/metrics"), None);
    let taken = p.a.ns.run(|| std::net::TcpListener::bind("0.0.0.0:9091").unwrap());
    p.file("felix.yaml", FELIX_ON);
    let client = Client::new(&p.a.socket);
    let told =
        |c: &Client| c.status().unwrap().problems.iter().any(|l| l.starts_with("metrics: cannot listen on all addresses, port 9091"));
    until("a taken port is a problem", &p.a, || told(&client));
    drop(taken);
    until("tried again", &p.a, || get(&p.a, 9091, "/metrics").is_some());
    until("no problem any more", &p.a, || !told(&client));
    p.file("felix.yaml", &FELIX_ON.replace("true", "false"));
    until("off", &p.a, || get(&p.a, 9091, "/metrics").is_none());
}

#[test]
fn a_worker_that_stands_still_costs_the_node_its_liveness() {
    let mut p = Pair::new("socket", 1);
    let text = std::fs::read_to_string(&p.a.config).unwrap();
    std::fs::write(&p.a.config, text + "health: {enabled: true}\n").unwrap();
    p.a.start();
    let pid = p.a.daemon.as_ref().unwrap().id();
    let worker = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
        .find(|t| std::fs::read_to_string(t.path().join("comm")).is_ok_and(|name| name.trim() == "worker-0"));
    let tid = worker.expect("a thread named worker-0").file_name().into_string().unwrap();
    // A tracer that stops one thread and leaves the others running.
    let Ok(tracer) = stop_thread(tid.parse().unwrap()) else { panic!("cannot stop thread {tid}") };
    until("not live", &p.a, || {
        get(&p.a, 9099, "/liveness").is_some_and(|(status, why)| status == 503 && why.starts_with("worker 0 has not turned for 1"))
    });
    drop(tracer);
    until("live again", &p.a, || get(&p.a, 9099, "/liveness").is_some_and(|(status, _)| status == 200));
}

/// A thread that is held; it goes on when this is dropped.
struct Held {
    release: Option<std::sync::mpsc::Sender<()>>,
    tracer: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.release.take());
        let _ = self.tracer.take().map(std::thread::JoinHandle::join);
    }
}

/// Holds one thread of another process by ptrace(2). The kernel lets it go when its tracer ends.
fn stop_thread(tid: i32) -> std::io::Result<Held> {
    let (release, released) = std::sync::mpsc::channel();
    let (started, start) = std::sync::mpsc::channel();
    let tracer = std::thread::spawn(move || {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests read and write no memory of ours but `status`.
        let held = unsafe {
            let mut status = 0;
            libc::ptrace(libc::PTRACE_SEIZE, tid, none, none) == 0
                && libc::ptrace(libc::PTRACE_INTERRUPT, tid, none, none) == 0
                && libc::waitpid(tid, &raw mut status, libc::__WALL) == tid
        };
        let error = std::io::Error::last_os_error();
        let _ = started.send(if held { Ok(()) } else { Err(error) });
        let _: Result<(), _> = released.recv();
    });
    start.recv().expect("the tracer says how it went")?;
    Ok(Held { release: Some(release), tracer: Some(tracer) })
}

/// A route daemon on the same host: what it does elsewhere makes the node plan nothing.
#[test]
fn routes_that_lead_to_no_node_are_not_planned() {
    let mut p = Pair::new("af-xdp", 1);
    p.file("felix.yaml", FELIX_ON);
    p.start();
    p.expect_both_ways("before");
    until("metrics are served", &p.a, || get(&p.a, 9091, "/metrics").is_some());
    let applied = || value(&get(&p.a, 9091, "/metrics").unwrap().1, "felix_int_dataplane_apply_time_seconds_count", &[]);
    let before = applied();
    for i in 0..100 {
        p.a.ns.sh(&format!("ip route add 172.16.{i}.0/24 via 10.1.0.2 && sleep 0.015"));
    }
    // One that counts comes after all the others, and is seen after them.
    p.a.ns.sh("ip route add 10.1.0.2/32 via 10.1.0.77 onlink dev eth0");
    until("the new next hop", &p.a, || p.a.client().neigh().unwrap().iter().any(|n| n.address.to_string() == "10.1.0.77"));
    let planned = applied() - before;
    assert!(planned < 20.0, "{planned} updates for 101 routes, of which one counts");
    p.a.ns.sh("ip route del 10.1.0.2/32");
    p.expect_both_ways("after");
}
