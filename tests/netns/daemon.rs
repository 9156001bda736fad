//! The real program on two nodes with a pod each: traffic, restart after kill -9, an interface that comes and
//! goes, a second daemon, and a clean stop.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tortie::ops::api::Client;
use tortie::ops::view::StatusRow;
use tortie::testing::netns::{ChildGuard, Namespace, veth};

pub const TORTIE: &str = env!("CARGO_BIN_EXE_tortie");

/// One node with one pod on a veth named `cali0`, and a datastore of its own.
pub struct Node {
    pub index: u8,
    pub ns: Namespace,
    pub pod: Namespace,
    pub config: PathBuf,
    pub socket: PathBuf,
    pub daemon: Option<ChildGuard>,
}

impl Node {
    fn new(index: u8, dir: &Path, driver: &str, workers: u16) -> Node {
        let (ns, pod) = (Namespace::new(&format!("n{index}")), Namespace::new(&format!("p{index}")));
        ns.sysctl("net.ipv4.ip_forward", "1");
        let socket = dir.join(format!("{index}.sock"));
        let config = dir.join(format!("{index}.yaml"));
        let text = format!(
            "node: node{index}\ndatastore: {{kind: file, path: {}}}\nuplink: {{interface: eth0, driver: {driver}}}\nworkloads: {{driver: auto}}\nworkers: {workers}\napi: {{socket: {}}}\ncalico: {{dir: {}}}\n",
            state(dir, index).display(),
            socket.display(),
            dir.join(format!("calico{index}")).display()
        );
        std::fs::write(&config, text).unwrap();
        let node = Node { index, ns, pod, config, socket, daemon: None };
        node.plug();
        node
    }

    pub fn address(&self) -> String {
        format!("10.1.0.{}", self.index)
    }

    pub fn pod_address(&self) -> String {
        format!("10.244.{}.5", self.index)
    }

    /// Makes the pod's veth pair and configures the pod's end as a CNI plugin would.
    fn plug(&self) {
        veth(&self.ns, "cali0", &self.pod, "eth0");
        self.pod.sh(&format!("ip addr add {}/32 dev eth0; ip link set eth0 mtu 1450", self.pod_address()));
        self.pod.sh("ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1");
    }

    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with more variables (`NAME=VALUE`) in its environment.
    pub fn start_with(&mut self, env: &[&str]) {
        let argv = [&["env"], env, &[TORTIE, "run", "--config", self.config.to_str().unwrap()]].concat();
        self.daemon = Some(self.ns.spawn(&argv));
        self.ready();
    }

    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// Writes the node's configuration anew and has it read.
    pub fn reload(&self, change: impl FnOnce(String) -> String) {
        std::fs::write(&self.config, change(std::fs::read_to_string(&self.config).unwrap())).unwrap();
        let pid = self.daemon.as_ref().unwrap().id();
        self.ns.sh(&format!("kill -HUP {pid}"));
    }

    /// Waits until the node is in sync and all its ports are open.
    pub fn ready(&self) -> StatusRow {
        let client = Client::new(&self.socket);
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let ports = client.ports().unwrap_or_default();
            if let Ok(s) = client.status()
                && s.in_sync
                && ports.len() >= 3
                && ports.iter().all(|p| p.state == "up")
            {
                return s;
            }
            assert!(Instant::now() < end, "node{} is not ready: {:?} {ports:?}", self.index, client.status());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&mut self, name: &str) -> Option<bool> {
        let mut daemon = self.daemon.take()?;
        self.ns.sh(&format!("kill -{name} {}", daemon.id()));
        daemon.wait(Duration::from_secs(30))
    }

    /// Pings from the pod; whether one of `tries` quick ones was answered.
    fn ping(&self, to: &str, tries: u32) -> bool {
        self.pod.output(&["ping", "-c", &tries.to_string(), "-i", "0.2", "-W", "1", to]).status.success()
    }

    pub fn expect_ping(&self, to: &str, what: &str) {
        assert!(self.ping(to, 10), "{what}: {} to {to}\n{}", self.pod_address(), self.story());
    }

    pub fn story(&self) -> String {
        let c = Client::new(&self.socket);
        let drops: Vec<_> = c.drops().unwrap_or_default().into_iter().filter(|d| d.packets > 0).collect();
        let kernel = self.ns.sh("ip route; ip -br addr; ip neigh");
        format!("{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{kernel}", c.status(), c.fib(), c.neigh(), c.ports(), drops)
    }
}

pub struct Pair {
    pub a: Node,
    pub b: Node,
    pub dir: tempfile::TempDir,
}

/// Where node `index` reads the cluster's state from.
fn state(dir: &Path, index: u8) -> PathBuf {
    dir.join(format!("state{index}"))
}

pub fn manifest(index: u8) -> String {
    format!(
        r#"
apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: node{index}}}
spec: {{bgp: {{ipv4Address: 10.1.0.{index}/24}}, ipv4VXLANTunnelAddr: 10.244.{index}.0}}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {{name: node{index}-10-244-{index}-0-26}}
spec: {{node: node{index}, cidr: 10.244.{index}.0/26, state: confirmed, deleted: false}}
---
apiVersion: projectcalico.org/v3
kind: IPAMBlock
metadata: {{name: 10-244-{index}-0-26}}
spec:
  cidr: 10.244.{index}.0/26
  affinity: host:node{index}
  deleted: false
  allocations: [0]
  attributes: [{{handle_id: vxlan-tunnel-addr-node{index}, secondary: {{node: node{index}, type: vxlanTunnelAddress}}}}]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: node{index}-k8s-pod-eth0, namespace: default}}
spec: {{node: node{index}, orchestrator: k8s, pod: pod, endpoint: eth0, interfaceName: cali0, ipNetworks: [10.244.{index}.5/32]}}
"#
    )
}

pub fn pool(vxlan: &str, ipip: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: pool}}\nspec: {{cidr: 10.244.0.0/16, blockSize: 26, vxlanMode: {vxlan}, ipipMode: {ipip}, natOutgoing: false, nodeSelector: all()}}\n"
    )
}

impl Pair {
    pub fn new(driver: &str, workers: u16) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        (1..=2).for_each(|i| std::fs::create_dir(state(dir.path(), i)).unwrap());
        let (a, b) = (Node::new(1, dir.path(), driver, workers), Node::new(2, dir.path(), driver, workers));
        let pair = Pair { a, b, dir };
        pair.file("node1.yaml", &manifest(1));
        pair.file("node2.yaml", &manifest(2));
        pair.file("pool.yaml", &pool("Always", "Never"));
        pair.join();
        pair
    }

    /// Both nodes learn of a change.
    pub fn file(&self, name: &str, text: &str) {
        (1..=2).for_each(|i| self.file_at(i, name, text));
    }

    /// One node learns of a change.
    pub fn file_at(&self, index: u8, name: &str, text: &str) {
        let path = state(self.dir.path(), index).join(name);
        let unfinished = path.with_extension("new");
        std::fs::write(&unfinished, text).unwrap();
        std::fs::rename(unfinished, path).unwrap();
    }

    fn join(&self) {
        veth(&self.a.ns, "eth0", &self.b.ns, "eth0");
        for n in [&self.a, &self.b] {
            n.ns.sh(&format!("ip addr add {}/24 dev eth0", n.address()));
        }
    }

    /// The pods get TAPs instead of their veths.
    pub fn taps(&self) {
        for n in [&self.a, &self.b] {
            n.ns.sh("ip link del cali0");
            let name = format!("name: node{}-k8s-pod-eth0", n.index);
            let annotated = format!("{name}, annotations: {{tortie/netns: {}}}", n.pod.path().display());
            self.file(&format!("node{}.yaml", n.index), &manifest(n.index).replace(&name, &annotated));
        }
    }

    /// Gives the TAPs that the daemons made their addresses, as a CNI plugin would.
    pub fn address_taps(&self) {
        for n in [&self.a, &self.b] {
            n.pod.sh(&format!("ip addr add {}/32 dev eth0; ip route add 169.254.1.1 dev eth0 scope link", n.pod_address()));
            n.pod.sh("ip route add default via 169.254.1.1");
        }
    }

    pub fn start(&mut self) {
        self.a.start();
        self.b.start();
    }

    pub fn expect_both_ways(&self, what: &str) {
        self.a.expect_ping(&self.b.pod_address(), what);
        self.b.expect_ping(&self.a.pod_address(), what);
    }
}

fn traffic(driver: &str, workers: u16) {
    let mut p = Pair::new(driver, workers);
    p.start();
    p.expect_both_ways(driver);
    // Host to pods, its own and the other's, and pod to host.
    for to in [p.a.pod_address(), p.b.pod_address()] {
        let out = p.a.ns.output(&["ping", "-c", "5", "-i", "0.2", "-W", "1", &to]);
        assert!(out.status.success(), "host to {to}\n{}\n{}", p.a.story(), p.b.story());
    }
    p.a.expect_ping(&p.a.address(), "pod to its host");
    // The pool changes its encapsulation while running.
    p.file("pool.yaml", &pool("Never", "Always"));
    let client = Client::new(&p.a.socket);
    let end = Instant::now() + Duration::from_secs(5);
    while !client.fib().unwrap().iter().any(|r| r.kind == "ipip") {
        assert!(Instant::now() < end, "{}", p.a.story());
        std::thread::sleep(Duration::from_millis(10));
    }
    p.expect_both_ways("over IP-in-IP");
    p.file("pool.yaml", &pool("Never", "Never"));
    while !client.fib().unwrap().iter().any(|r| r.kind == "direct") {
        assert!(Instant::now() < end + Duration::from_secs(20), "{}", p.a.story());
        std::thread::sleep(Duration::from_millis(10));
    }
    p.expect_both_ways("without encapsulation");
    let total = client.counters().unwrap().pop().unwrap();
    assert!(total.received > 0 && total.worker == "total", "{total:?}");
}

#[test]
fn pods_and_hosts_talk_over_sockets() {
    traffic("socket", 1);
}

#[test]
fn pods_and_hosts_talk_over_af_xdp() {
    traffic("af-xdp", 1);
}

#[test]
fn two_workers_share_the_traffic() {
    let mut p = Pair::new("auto", 2);
    p.start();
    p.expect_both_ways("two workers");
    let ports = Client::new(&p.a.socket).ports().unwrap();
    let uplink = ports.iter().find(|p| p.role == "uplink").unwrap();
    assert_eq!(uplink.queues, 2);
    assert!(uplink.refused.iter().any(|l| l.starts_with("af-xdp: driver veth has no zero-copy")), "{uplink:?}");
}

#[test]
fn a_killed_daemon_comes_back_in_a_second() {
    let mut p = Pair::new("socket", 1);
    p.start();
    p.expect_both_ways("before");
    p.a.signal("KILL");
    let started = Instant::now();
    p.a.start();
    while !p.a.pod.output(&["ping", "-c", "1", "-W", "1", &p.b.pod_address()]).status.success() {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", p.a.story());
    }
    let took = started.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(p.a.ns.sh("ip route show 10.244.0.0/16").lines().count(), 1);
}

#[test]
fn interfaces_go_and_come_back() {
    let mut p = Pair::new("socket", 1);
    p.start();
    p.expect_both_ways("before");
    let client = Client::new(&p.a.socket);
    let state = |role: &str| client.ports().unwrap().into_iter().find(|r| r.role == role).map(|r| r.state).unwrap_or_default();
    let wait = |role: &str, up: bool| {
        let end = Instant::now() + Duration::from_secs(5);
        while (state(role) == "up") != up {
            assert!(Instant::now() < end, "{role} up={up}: {:?}", client.ports());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    p.a.ns.sh("ip link del cali0");
    wait("workload", false);
    p.a.plug();
    wait("workload", true);
    p.expect_both_ways("after the pod's veth was made anew");
    p.a.ns.sh("ip link del eth0");
    wait("uplink", false);
    p.join();
    wait("uplink", true);
    p.b.ready();
    p.expect_both_ways("after the uplink was made anew");
    p.a.ns.sh("ip link set eth0 down");
    wait("uplink", false);
    p.a.ns.sh("ip link set eth0 up");
    wait("uplink", true);
    p.b.ready();
    p.expect_both_ways("after the uplink was down");
}

#[test]
fn a_second_daemon_is_refused_by_name() {
    let mut p = Pair::new("socket", 1);
    p.a.start();
    let pid = p.a.daemon.as_ref().unwrap().id();
    let refused = |config: &Path| {
        let out = p.a.ns.output(&[TORTIE, "run", "--config", config.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains("another daemon") && text.contains(&pid.to_string()), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    };
    refused(&p.a.config);
    // Another socket does not help: the namespace is taken.
    let other = p.dir.path().join("other.yaml");
    std::fs::write(&other, std::fs::read_to_string(&p.a.config).unwrap().replace("1.sock", "9.sock")).unwrap();
    refused(&other);
    p.a.ready();
}

#[test]
fn sigterm_leaves_nothing() {
    let mut p = Pair::new("socket", 1);
    // A packet socket's drop rule, an XDP program, a TUN device and routes: all gone afterwards.
    for driver in ["socket", "af-xdp"] {
        let text = std::fs::read_to_string(&p.a.config).unwrap();
        std::fs::write(&p.a.config, text.replace("driver: socket", &format!("driver: {driver}"))).unwrap();
        let shape = |n: &Namespace| n.sh("ip -o link | sed 's/qlen.*//'; ip route; ip -o addr; tc qdisc; tc filter show dev cali0 ingress");
        let before = shape(&p.a.ns);
        p.a.start();
        let end = Instant::now() + Duration::from_secs(5);
        while !(p.a.ns.sh("ip link").contains("tunl-tortie") && p.a.ns.sh("ip route").contains("proto 116")) {
            assert!(Instant::now() < end, "{}", p.a.story());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(p.a.signal("TERM"), Some(true), "a clean exit");
        // Programs that other tests fork hold copies of the test's descriptors, not of the daemon's; but the kernel
        // takes its time to free a device.
        let end = Instant::now() + Duration::from_secs(2);
        while shape(&p.a.ns) != before && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(shape(&p.a.ns), before);
        assert!(!p.a.socket.exists());
    }
}

#[test]
fn reload_changes_the_method_and_a_bad_configuration_changes_nothing() {
    let mut p = Pair::new("socket", 1);
    p.start();
    let pid = p.a.daemon.as_ref().unwrap().id();
    let good = std::fs::read_to_string(&p.a.config).unwrap();
    std::fs::write(&p.a.config, "node: [").unwrap();
    p.a.ns.sh(&format!("kill -HUP {pid}"));
    p.expect_both_ways("with a broken file");
    std::fs::write(&p.a.config, good.replace("driver: socket", "driver: af-xdp")).unwrap();
    p.a.ns.sh(&format!("kill -HUP {pid}"));
    let client = Client::new(&p.a.socket);
    let end = Instant::now() + Duration::from_secs(5);
    while !client.ports().unwrap().iter().any(|r| r.driver.as_deref().is_some_and(|d| d.starts_with("af-xdp"))) {
        assert!(Instant::now() < end, "{}", p.a.story());
        std::thread::sleep(Duration::from_millis(10));
    }
    p.expect_both_ways("over the new method");
}

#[test]
fn a_tap_is_made_in_the_pods_namespace_and_survives_a_crash() {
    let mut p = Pair::new("socket", 1);
    p.taps();
    p.start();
    p.address_taps();
    p.expect_both_ways("over TAP");
    let row = Client::new(&p.a.socket).ports().unwrap().into_iter().find(|r| r.role == "workload").unwrap();
    assert_eq!((row.driver.as_deref(), row.mtu), (Some("tap"), Some(1450)));
    p.a.signal("KILL");
    assert!(p.a.pod.sh("ip addr show eth0").contains(&p.a.pod_address()), "the pod keeps its device and address");
    p.a.start();
    p.expect_both_ways("after the crash");
    assert_eq!(p.a.signal("TERM"), Some(true));
    assert!(p.a.pod.sh("ip addr show eth0").contains(&p.a.pod_address()), "an upgrade does not disconnect the pod");
    p.a.start();
    p.expect_both_ways("after the stop");
    // The endpoint goes, and its device with it.
    let whole = manifest(p.a.index);
    p.file(&format!("node{}.yaml", p.a.index), &whole[..whole.rfind("---").unwrap()]);
    let end = Instant::now() + Duration::from_secs(5);
    while p.a.pod.sh("ip -o link").contains("eth0") {
        assert!(Instant::now() < end, "{}", p.a.story());
        std::thread::sleep(Duration::from_millis(10));
    }
}
