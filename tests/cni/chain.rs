//! Debian's portmap and bandwidth behind ours, as in Calico's list.

use crate::support::{Node, PLUGINS, Pod, address, with_previous};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use tortie::testing::netns::Namespace;

const CONNECT: Duration = Duration::from_secs(5);

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
    let pod = Pod::new("web");
    let result = pod.add(&node, &conf);
    let mut portmap = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "portmap", "snat": true,
        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] } });
    chained(&node, &pod, "portmap", "ADD", &with_previous(&portmap, &result));
    let server = pod.ns.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    std::thread::scope(|s| {
        s.spawn(|| {
            for stream in server.incoming().take(4) {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_string();
                stream.write_all(peer.as_bytes()).unwrap();
            }
        });
        // From outside with the client's own address, from the node, from the node's loopback, and from the pod itself.
        assert_eq!(said(&node.wire, "10.1.0.1:8080").as_deref(), Some("10.1.0.2"));
        assert_eq!(said(&node.ns, "10.1.0.1:8080").as_deref(), Some("10.1.0.1"));
        assert!(said(&node.ns, "127.0.0.1:8080").is_some(), "{}", node.story());
        assert!(said(&pod.ns, "10.1.0.1:8080").is_some());
    });
    pod.call(&node, "CHECK", &with_previous(&conf, &result));
    portmap["prevResult"] = result;
    chained(&node, &pod, "portmap", "DEL", &portmap);
    assert!(said(&node.wire, "10.1.0.1:8080").is_none());
    pod.del(&node, &conf);
    node.expect_nothing_left();
}

/// Megabits per second over TCP from one namespace to an address in another, once the burst is used up.
fn rate(from: &Namespace, to: &Namespace, address: &str) -> f64 {
    const BYTES: usize = 2 << 20;
    const SKIP: usize = 512 << 10;
    let server = to.run(|| TcpListener::bind((address, 5001)).unwrap());
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut stream = from.run(|| TcpStream::connect((address, 5001)).unwrap());
            stream.write_all(&vec![7; BYTES]).unwrap();
        });
        let (mut stream, _) = server.accept().unwrap();
        let mut buffer = vec![0; 64 << 10];
        let (mut total, mut start) = (0, None);
        loop {
            let n = stream.read(&mut buffer).unwrap();
            if n == 0 {
                break;
            }
            total += n;
            if total > SKIP && start.is_none() {
                start = Some((Instant::now(), total));
            }
        }
        let (since, skipped) = start.unwrap();
        (total - skipped) as f64 * 8.0 / since.elapsed().as_secs_f64() / 1e6
    })
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
    let (to, from) = (rate(&other.ns, &pod.ns, &address(&result)), rate(&pod.ns, &other.ns, &address(&peer)));
    assert!((7.0..12.0).contains(&to), "to the pod: {to} Mbit/s of 10");
    assert!((14.0..24.0).contains(&from), "from the pod: {from} Mbit/s of 20");
    pod.call(&node, "CHECK", &with_previous(&conf, &after));
    chained(&node, &pod, "bandwidth", "DEL", &with_previous(&bandwidth, &after));
    pod.del(&node, &conf);
    other.del(&node, &conf);
    node.expect_nothing_left();
}
