//! Services and host ports as kube-proxy and the plugin portmap set them up, in the host's packet filter: pods use them
//! and are answered from the address that they asked.

use crate::daemon::{Node, Pair, pool};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tortie::testing::build::pattern;
use tortie::testing::netns::{Namespace, veth};

const PATIENCE: Duration = Duration::from_secs(30);
/// Where the pods listen, and where nobody does.
const LISTEN: u16 = 8080;
const CLOSED: u16 = 8099;
const BULK: usize = 4 << 20;
/// What is answered after some seconds.
const LATER: &[u8] = b"later";
/// Another pod on the first node.
const WEB: &str = "10.244.1.6";

/// Two nodes with a pod each, and one more on the first.
struct Site {
    pair: Pair,
    web: Namespace,
    _echoes: Vec<Echo>,
}

impl Site {
    fn new(driver: &str, workers: u16, taps: bool) -> Site {
        let mut pair = Pair::new(driver, workers);
        if taps {
            pair.taps();
        }
        let web = Namespace::new("web");
        veth(&pair.a.ns, "cali3", &web, "eth0");
        web.sh(&format!("ip addr add {WEB}/32 dev eth0; ip link set eth0 mtu 1450; ip route add 169.254.1.1 dev eth0 scope link"));
        web.sh("ip route add default via 169.254.1.1");
        pair.file(
            "web.yaml",
            &format!(
                "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{name: node1-k8s-web-eth0, namespace: default}}\n\
                 spec: {{node: node1, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali3, ipNetworks: [{WEB}/32]}}\n"
            ),
        );
        pair.start();
        if taps {
            pair.address_taps();
        }
        let end = Instant::now() + PATIENCE;
        while !web.output(&["ping", "-c", "1", "-W", "1", &pair.b.pod_address()]).status.success() {
            assert!(Instant::now() < end, "{}", pair.a.story());
        }
        let echoes = vec![Echo::new(&pair.a.pod), Echo::new(&pair.b.pod), Echo::new(&web)];
        for n in [&pair.a, &pair.b] {
            n.ns.sh("set -e
                 iptables -w -t nat -N KUBE-SERVICES
                 iptables -w -t nat -A PREROUTING -j KUBE-SERVICES
                 iptables -w -t nat -A OUTPUT -j KUBE-SERVICES
                 iptables -w -t nat -N KUBE-MARK-MASQ
                 iptables -w -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
                 iptables -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully");
            // A Service's address needs a route before it is translated on the host itself.
            let other = if n.index == 1 { pair.b.address() } else { pair.a.address() };
            n.ns.sh(&format!("ip route add default via {other}"));
        }
        // Both directions of everything that this node translates are to be seen by it. Not so on the other one: answers
        // from a node's own address come through the tunnel, past the connection tracking of the pod's host.
        pair.a.ns.sh("iptables -w -A FORWARD -m conntrack --ctstate INVALID -j DROP");
        Site { pair, web, _echoes: echoes }
    }

    fn story(&self) -> String {
        let (a, b) = (&self.pair.a, &self.pair.b);
        let nat = a.ns.sh("iptables -w -t nat -nvL; iptables -w -nvL FORWARD; cat /proc/net/nf_conntrack 2>/dev/null || true");
        format!("{}\n{}\n{:?}\n{nat}", a.story(), b.story(), a.client().counters())
    }

    /// A Service with one endpoint, for what enters at node 1 and what it sends itself.
    fn service(&self, address: &str, target: &str) {
        let ns = &self.pair.a.ns;
        let chain = format!("KUBE-SEP-{}", target.replace('.', "-"));
        ns.sh(&format!("iptables -w -t nat -N {chain} && iptables -w -t nat -A {chain} -s {target}/32 -j KUBE-MARK-MASQ"));
        for (protocol, port, to) in [("tcp", 80, LISTEN), ("udp", 80, LISTEN), ("udp", 81, CLOSED)] {
            ns.sh(&format!(
                "set -e
                 iptables -w -t nat -A KUBE-SERVICES -d {address}/32 -p {protocol} --dport {port} -j {chain}
                 iptables -w -t nat -A {chain} -p {protocol} --dport {port} -j DNAT --to-destination {target}:{to}"
            ));
        }
    }

    /// Everything that a client can do with what listens behind an address.
    fn expect_all(&self, what: &str, from: &Namespace, address: &str, port: u16) {
        let ctx = |e: String| panic!("{what}: {}: {e}\n{}", from.name(), self.story());
        bulk(from, address, port).unwrap_or_else(ctx);
        // The second in fragments. From a host they meet its own idea of the path's MTU, which is not the matter here.
        let own = [&self.pair.a.ns, &self.pair.b.ns].iter().any(|ns| ns.name() == from.name());
        for size in if own { &[100][..] } else { &[100, 4000] } {
            let size = *size;
            datagram(from, address, port, size).unwrap_or_else(ctx);
        }
    }

    fn encapsulate(&self, vxlan: &str, ipip: &str, kind: &str) {
        self.pair.file("pool.yaml", &pool(vxlan, ipip));
        let end = Instant::now() + PATIENCE;
        for n in [&self.pair.a, &self.pair.b] {
            while !n.client().fib().unwrap().iter().any(|r| r.kind == kind) {
                assert!(Instant::now() < end, "{kind}: {}", n.story());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Answers with what it is sent.
struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    fn new(ns: &Namespace) -> Echo {
        let stop = Arc::new(AtomicBool::new(false));
        let tcp = ns.run(|| TcpListener::bind(("0.0.0.0", LISTEN)).unwrap());
        tcp.set_nonblocking(true).unwrap();
        let udp = ns.run(|| UdpSocket::bind(("0.0.0.0", LISTEN)).unwrap());
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (ends, over) = (stop.clone(), stop.clone());
        let streams = std::thread::spawn(move || {
            while !ends.load(Relaxed) {
                match tcp.accept() {
                    Ok((stream, _)) => drop(std::thread::spawn(move || echo_stream(stream))),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        let datagrams = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !over.load(Relaxed) {
                if let Ok((n, from)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&buffer[..n], from);
                }
            }
        });
        Echo { stop, threads: vec![streams, datagrams] }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

fn echo_stream(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    stream.set_nonblocking(false).unwrap();
    while let Ok(n) = stream.read(&mut buffer)
        && n > 0
        && {
            if &buffer[..n] == LATER {
                std::thread::sleep(Duration::from_secs(4));
            }
            true
        }
        && stream.write_all(&buffer[..n]).is_ok()
    {}
}

/// Sends much over TCP and expects the same back.
fn bulk(from: &Namespace, address: &str, port: u16) -> Result<(), String> {
    let to = format!("{address}:{port}").parse().unwrap();
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).map_err(|e| format!("connect to {to}: {e}"))?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        sender.write_all(&pattern(BULK)).and_then(|()| sender.shutdown(Shutdown::Write)).map_err(|e| format!("send: {e}"))
    });
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got).map_err(|e| format!("receive from {to} after {} bytes: {e}", got.len()));
    if read.is_err() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    let sent = sending.join().unwrap();
    read?;
    sent?;
    if got == pattern(BULK) { Ok(()) } else { Err(format!("{} bytes of {BULK}, or others than were sent", got.len())) }
}

/// Sends one datagram and expects the same back, from where it was sent.
fn datagram(from: &Namespace, address: &str, port: u16, size: usize) -> Result<(), String> {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect((address, port)).map(|()| s))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let mut last = String::new();
    for _ in 0..3 {
        match socket.send(&pattern(size)).and_then(|_| socket.recv(&mut buffer)) {
            Ok(n) if buffer[..n] == pattern(size) => return Ok(()),
            Ok(n) => last = format!("{n} bytes of {size}"),
            Err(e) => last = e.to_string(),
        }
    }
    Err(format!("{size} bytes to {address}:{port}: {last}"))
}

/// Nobody listens: the error reaches the socket that sent, which knows only the address that it sent to.
fn expect_refused(from: &Namespace, address: &str) {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect((address, 81)).map(|()| s))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"anybody?").unwrap();
    assert_eq!(socket.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
}

/// Has the plugin portmap open a port of the node for a pod.
fn portmap(node: &Node, pod: &Namespace, address: &str, host_port: u16) {
    let mapping = |protocol: &str| format!(r#"{{"hostPort":{host_port},"containerPort":{LISTEN},"protocol":"{protocol}"}}"#);
    let sandbox = pod.path().display();
    let conf = format!(
        r#"{{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"portmap","snat":true,
           "runtimeConfig":{{"portMappings":[{},{}]}},
           "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"cali"}},{{"name":"eth0","sandbox":"{sandbox}"}}],
             "ips":[{{"address":"{address}/32","interface":1}}]}}}}"#,
        mapping("tcp"),
        mapping("udp")
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", node.ns.name(), "/usr/lib/cni/portmap"]).env("CNI_COMMAND", "ADD").env("CNI_PATH", "/usr/lib/cni");
    command.env("CNI_CONTAINERID", pod.name()).env("CNI_NETNS", pod.path()).env("CNI_IFNAME", "eth0");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(conf.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "portmap: {}", String::from_utf8_lossy(&out.stdout));
}

/// Services of pods on this node, on another, and of the client itself.
fn services(site: &Site, names: [&str; 3]) {
    let (a, b) = (&site.pair.a, &site.pair.b);
    let (own, other) = (a.pod_address(), b.pod_address());
    for (name, target) in names.into_iter().zip([WEB, &other, &own]) {
        site.expect_all(&format!("the Service of {target}"), &a.pod, name, 80);
        expect_refused(&a.pod, name);
    }
    // The other way round, and from the host.
    site.expect_all("the Service of the other pod here", &site.web, names[2], 80);
    site.expect_all("a Service from the host", &a.ns, names[1], 80);
    // Past the Service nothing has changed.
    for target in [WEB, &other] {
        site.expect_all("the pod itself", &a.pod, target, LISTEN);
    }
}

const NAMES: [&str; 3] = ["10.96.0.11", "10.96.0.12", "10.96.0.13"];

fn site_with_services(driver: &str, workers: u16, taps: bool) -> Site {
    let site = Site::new(driver, workers, taps);
    for (name, target) in NAMES.into_iter().zip([WEB, &site.pair.b.pod_address(), &site.pair.a.pod_address()]) {
        site.service(name, target);
    }
    site
}

#[test]
fn services_answer_from_their_address() {
    let site = site_with_services("socket", 1, false);
    services(&site, NAMES);
    let total = site.pair.a.client().counters().unwrap().pop().unwrap();
    assert!(total.flows_kept > 0 && total.flows_evicted == 0, "{total:?}");
    // The table is part of the state that is saved, and answers are explained by it.
    let (node, own) = (&site.pair.a, site.pair.a.pod_address());
    let argv = [crate::daemon::TORTIE, "state", "--socket", node.socket.to_str().unwrap()];
    let out = node.ns.output(&argv);
    let state: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let flows = state["flows"].as_array().unwrap();
    assert!(flows.iter().any(|f| f["source"] == WEB && f["destination"] == own.as_str() && f["ports"][0] == LISTEN), "{flows:?}");
}

#[test]
fn connections_outlive_the_daemon() {
    let mut site = site_with_services("socket", 1, false);
    let to = format!("{}:80", NAMES[0]).parse().unwrap();
    let mut stream = site.pair.a.pod.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    stream.write_all(LATER).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // The pod that serves speaks first after the new start: its answer must not reach the client by the short way.
    site.pair.a.signal("KILL");
    site.pair.a.start();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap_or_else(|e| panic!("{e}\n{}", site.story()));
    assert_eq!(answer, LATER);
    let total = site.pair.a.client().counters().unwrap().pop().unwrap();
    assert_eq!(total.flows_kept, 0, "the flow was known before a packet of it came: {total:?}");
}

#[test]
fn services_with_several_workers() {
    services(&site_with_services("socket", 3, false), NAMES);
}

#[test]
fn services_of_pods_on_taps() {
    services(&site_with_services("socket", 2, true), NAMES);
}

#[test]
fn services_over_af_xdp() {
    services(&site_with_services("af-xdp", 1, false), NAMES);
}

#[test]
fn services_and_host_ports_in_every_encapsulation() {
    let site = site_with_services("socket", 1, false);
    let (a, b) = (&site.pair.a, &site.pair.b);
    portmap(a, &site.web, WEB, 9090);
    for (vxlan, ipip, kind) in [("Always", "Never", "vxlan"), ("Never", "Always", "ipip"), ("Never", "Never", "direct")] {
        site.encapsulate(vxlan, ipip, kind);
        for name in &NAMES[..2] {
            site.expect_all(&format!("a Service, {kind}"), &a.pod, name, 80);
        }
        let clients =
            [("a pod here", &a.pod), ("a pod there", &b.pod), ("this host", &a.ns), ("another host", &b.ns), ("itself", &site.web)];
        for (who, from) in clients {
            site.expect_all(&format!("the host port from {who}, {kind}"), from, &a.address(), 9090);
        }
    }
}
