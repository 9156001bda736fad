//! Debian's portmap and bandwidth behind ours, as in Calico's list.

use crate::support::{Node, PLUGINS, Pod, address, with_previous};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use tortie::testing::netns::Namespace;

const CONNECT: Duration = Duration::from_secs(30);

/// Runs a plugin of the chain for a pod.
fn chained(node: &Node, pod: &Pod, plugin: &str, command: &str, conf: &Value) -> Value {
    let vars = pod.vars(command, "");
    crate::support::outcome(node.call(&Path::new(PLUGINS).join(plugin), &vars, conf)).unwrap_or_else(|e| panic!("{plugin}: {e}"))
}

/// What a server at `port` says to whoever connects from a namespace to an address.
fn said(from: &Namespace, to: &str) -> Option<String> {
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), CONNECT).ok()?;
        stream.set_read_timeout(Some(CONNECT)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

#[test]
fn host_ports_lead_to_the_pod() {
    let node = Node::new();
    let conf = node.conf("1.0.0", json!({}));
    let (pod, other) = (Pod::new("web"), Pod::new("other"));
    let result = pod.add(&node, &conf);
    let there = address(&other.add(&node, &conf));
    let mut portmap = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "portmap", "snat": true,
        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] } });
    chained(&node, &pod, "portmap", "ADD", &with_previous(&portmap, &result));
    let server = pod.ns.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    std::thread::scope(|s| {
        s.spawn(|| {
            for stream in server.incoming().take(5) {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_string();
                stream.write_all(peer.as_bytes()).unwrap();
            }
        });
        // From outside and from another pod with the client's own address, from the node, from the node's loopback, and
        // from the pod itself.
        assert_eq!(said(&node.wire, "10.1.0.1:8080").as_deref(), Some("10.1.0.2"));
        assert_eq!(said(&node.ns, "10.1.0.1:8080").as_deref(), Some("10.1.0.1"));
        assert!(said(&node.ns, "127.0.0.1:8080").is_some(), "{}", node.story());
        assert!(said(&pod.ns, "10.1.0.1:8080").is_some());
        assert_eq!(said(&other.ns, "10.1.0.1:8080"), Some(there), "{}", node.story());
    });
    pod.call(&node, "CHECK", &with_previous(&conf, &result));
    portmap["prevResult"] = result;
    chained(&node, &pod, "portmap", "DEL", &portmap);
    assert!(said(&node.wire, "10.1.0.1:8080").is_none());
    pod.del(&node, &conf);
    other.del(&node, &conf);
    node.expect_nothing_left();
}

/// Megabits sent over TCP as fast as it goes, and the seconds that it took until the last byte was read.
fn bulk(from: &Namespace, to: &Namespace, address: &str) -> (f64, f64) {
    const BYTES: usize = 2 << 20;
    let server = to.run(|| TcpListener::bind((address, 5001)).unwrap());
    let start = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut stream = from.run(|| TcpStream::connect((address, 5001)).unwrap());
            stream.write_all(&vec![7; BYTES]).unwrap();
        });
        let (mut stream, _) = server.accept().unwrap();
        let mut buffer = vec![0; 64 << 10];
        while stream.read(&mut buffer).unwrap() > 0 {}
    });
    (BYTES as f64 * 8.0 / 1e6, start.elapsed().as_secs_f64())
}

/// A limit in Mbit/s with a burst of 1 Mbit was kept, and used: a busy machine only makes the time longer.
fn expect_limit(what: &str, limit: f64, (sent, seconds): (f64, f64)) {
    let allowed = limit * seconds * 1.06 + 1.0;
    assert!(sent <= allowed, "{what}: {sent} Mbit in {seconds} s, more than {limit} Mbit/s and its burst allow");
    assert!(sent >= limit * seconds * 0.3, "{what}: only {sent} Mbit in {seconds} s at {limit} Mbit/s");
}

#[test]
fn bandwidth_limits_hold_both_ways() {
    let node = Node::new();
    let limits = json!({ "bandwidth": { "ingressRate": 10_000_000, "ingressBurst": 1_000_000, "egressRate": 20_000_000, "egressBurst": 1_000_000 } });
    let conf = node.conf("1.0.0", json!({ "runtimeConfig": limits }));
    let (pod, other) = (Pod::new("slow"), Pod::new("other"));
    let result = pod.add(&node, &conf);
    let peer = other.add(&node, &node.conf("1.0.0", json!({})));
    let bandwidth = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "bandwidth", "runtimeConfig": limits });
    let after = chained(&node, &pod, "bandwidth", "ADD", &with_previous(&bandwidth, &result));
    expect_limit("to the pod", 10.0, bulk(&other.ns, &pod.ns, &address(&result)));
    expect_limit("from the pod", 20.0, bulk(&pod.ns, &other.ns, &address(&peer)));
    pod.call(&node, "CHECK", &with_previous(&conf, &after));
    chained(&node, &pod, "bandwidth", "DEL", &with_previous(&bandwidth, &after));
    pod.del(&node, &conf);
    other.del(&node, &conf);
    node.expect_nothing_left();
}

/// AF_XDP passes the interface's queue by, in which the limit is: a pod with a limit gets another port.
#[test]
fn a_limit_holds_whatever_driver_is_configured() {
    let mut node = Node::without_daemon();
    let text = std::fs::read_to_string(&node.config).unwrap();
    std::fs::write(&node.config, text + "workloads: {driver: af-xdp}\n").unwrap();
    node.start();
    let limits = json!({ "bandwidth": { "ingressRate": 10_000_000, "ingressBurst": 1_000_000 } });
    let conf = node.conf("1.0.0", json!({ "runtimeConfig": limits }));
    let (pod, other) = (Pod::new("slow"), Pod::new("other"));
    let result = pod.add(&node, &conf);
    other.add(&node, &node.conf("1.0.0", json!({})));
    let bandwidth = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "bandwidth", "runtimeConfig": limits });
    chained(&node, &pod, "bandwidth", "ADD", &with_previous(&bandwidth, &result));
    let ports = node.client().ports().unwrap();
    let drivers: Vec<_> = ports.iter().filter(|p| p.role == "workload").map(|p| (p.driver.as_deref().unwrap(), p.refused.len())).collect();
    let (limited, free) = (ports.iter().find(|p| p.refused.iter().any(|r| r.contains("ingress bandwidth"))).unwrap(), "af-xdp");
    assert!(limited.driver.as_deref().is_some_and(|d| d.starts_with("af-packet")), "{limited:?}");
    assert_eq!(drivers.iter().filter(|(d, _)| d.starts_with(free)).count(), 1, "{drivers:?}");
    expect_limit("to the pod", 10.0, bulk(&other.ns, &pod.ns, &address(&result)));
}
