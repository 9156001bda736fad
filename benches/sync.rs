//! The whole daemon at the size of a large cluster: 5,000 nodes, 20,000 blocks and 250,000 pods, 200 of them on this node
//! and attached to it. It reads them from the test server on the same machine: time and CPU from its start until it
//! forwards by them, CPU at 1,000 updates a second, memory. One JSON object on standard output. Needs root: the node is a
//! network namespace.
//!
//! `cargo bench --features testing --bench sync`; `-- --small` for a tenth of the size.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tortie::control::model::interface_name;
use tortie::ops::api::Client;
use tortie::testing::apiserver::{ApiServer, Verb};
use tortie::testing::netns::{ChildGuard, Namespace, veth};

const TORTIE: &str = env!("CARGO_BIN_EXE_tortie");
const NODE: &str = "node-00000";
/// How long updates go on, and how many there are in a second.
const STEADY: Duration = Duration::from_secs(10);
const RATE: u32 = 1000;
/// Updates that are made together.
const TICK: Duration = Duration::from_millis(10);
/// Longest wait for a daemon to be in sync.
const PATIENCE: Duration = Duration::from_secs(120);
const OWN_PODS: u32 = 200;
/// Of each of the node's blocks.
const OWN_PODS_PER_BLOCK: u32 = 50;

#[derive(Clone, Copy)]
struct Size {
    nodes: u32,
    blocks: u32,
    pods: u32,
}

fn main() {
    let scale = if std::env::args().any(|a| a == "--small") { 10 } else { 1 };
    println!("{:#}", measure(Size { nodes: 5000 / scale, blocks: 20_000 / scale, pods: 250_000 / scale }));
}

fn measure(size: Size) -> Value {
    let site = Site::new(size);
    let mut out = json!({"nodes": size.nodes, "blocks": size.blocks, "pods": size.pods, "own_pods": OWN_PODS});
    for (name, streaming) in [("streaming", true), ("pages", false)] {
        site.server.set_streaming_lists(streaming);
        let daemon = Daemon::start(&site);
        out["first_sync"][name] = daemon.first_sync();
        if streaming {
            out["steady"] = steady(&site.server, &daemon, size);
        }
    }
    out["requests"] = json!(site.server.counts().iter().map(|((v, p), n)| (format!("{v:?} {p}"), *n)).collect::<Vec<_>>());
    out["watches"] = json!(site.server.count(Verb::Watch, "ipamblocks"));
    out
}

/// Seven in ten change a block, one of them a route; two change a node's status only, one changes a pod of another node or
/// this one.
fn steady(server: &ApiServer, daemon: &Daemon, size: Size) -> Value {
    let generation = || daemon.client.status().map_or(0, |s| s.generation);
    let (cpu, since, first, mut made) = (daemon.cpu_seconds(), Instant::now(), generation(), 0u32);
    while since.elapsed() < STEADY {
        let due = (since.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
        server.put_all((made..due).map(|i| match i % 10 {
            0 | 1 => node(i % size.nodes),
            2 => pod(i % size.pods, size),
            _ => block(1 + i.wrapping_mul(7919) % (size.blocks - 1), size, i),
        }));
        made = due;
        std::thread::sleep(TICK);
    }
    let (used, seconds) = (daemon.cpu_seconds() - cpu, since.elapsed().as_secs_f64());
    json!({
        "seconds": seconds, "updates": made, "cpu_percent_of_a_core": 100.0 * used / seconds,
        "generations": generation() - first, "rss_mb": daemon.memory_mb("VmRSS:"), "peak_rss_mb": daemon.memory_mb("VmHWM:"),
    })
}

/// The node, its pods' ends of their links, and the server with all objects.
struct Site {
    ns: Namespace,
    _pods: Namespace,
    server: ApiServer,
    folder: tempfile::TempDir,
}

impl Site {
    fn new(size: Size) -> Site {
        let (ns, pods) = (Namespace::new("sync"), Namespace::new("syncpods"));
        ns.sysctl("net.ipv4.ip_forward", "1");
        veth(&ns, "eth0", &pods, "underlay");
        ns.sh("ip addr add 172.16.0.1/12 dev eth0");
        let links = (0..OWN_PODS).map(|i| {
            let name = interface_name("cali", "default", &format!("pod-{i}"));
            format!("link add {name} up type veth peer name p{i} netns {}\n", pods.name())
        });
        let folder = tempfile::tempdir().expect("a folder");
        let batch = folder.path().join("links");
        std::fs::write(&batch, links.collect::<String>()).expect("write the links");
        ns.sh(&format!("ip -batch {}", batch.display()));
        let server = ns.run(|| ApiServer::start_at(([127, 0, 0, 1], 0).into(), true));
        server.put_all((0..size.nodes).map(node));
        server.put_all((0..size.blocks).flat_map(|i| [block(i, size, 0), affinity(i, size.nodes)]));
        server.put_all((0..size.pods).map(|i| pod(i, size)));
        server.put_all([
            json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "p"}, "spec": {
                "cidr": "10.0.0.0/8", "blockSize": 26, "vxlanMode": "Always", "ipipMode": "Never", "nodeSelector": "all()",
            }}),
            json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration", "metadata": {"name": "default"}, "spec": {}}),
        ]);
        Site { ns, _pods: pods, server, folder }
    }

    fn configuration(&self, socket: &Path) -> PathBuf {
        let (path, folder) = (self.folder.path().join("node.yaml"), self.folder.path());
        let kubeconfig = self.server.kubeconfig(folder, None);
        let text = format!(
            "node: {NODE}\ndatastore: {{kind: kubernetes, kubeconfig: {}}}\nuplink: {{interface: eth0, driver: socket}}\napi: {{socket: {}}}\ncalico: {{dir: {}}}\n",
            kubeconfig.display(),
            socket.display(),
            folder.join("calico").display()
        );
        std::fs::write(&path, text).expect("write the configuration");
        path
    }
}

struct Daemon {
    process: ChildGuard,
    client: Client,
    started: Instant,
    log: PathBuf,
}

impl Daemon {
    fn start(site: &Site) -> Daemon {
        let (socket, log) = (site.folder.path().join("api.sock"), site.folder.path().join("log"));
        let config = site.configuration(&socket);
        let command = format!("exec {TORTIE} run --config {} >{} 2>&1", config.display(), log.display());
        let started = Instant::now();
        Daemon { process: site.ns.spawn(&["sh", "-c", &command]), client: Client::new(&socket), started, log }
    }

    /// Until routes are in force, and until every pod can be reached.
    fn first_sync(&self) -> Value {
        let forwards = self.when(|| self.client.status().is_ok_and(|s| s.in_sync));
        let (cpu, rss) = (self.cpu_seconds(), self.memory_mb("VmRSS:"));
        let attached = self.when(|| self.client.ports().is_ok_and(|all| all.iter().filter(|p| p.state == "up").count() as u32 >= OWN_PODS));
        json!({
            "seconds": forwards, "seconds_until_pods_are_attached": attached, "cpu_seconds": cpu,
            "routes": self.client.fib().map_or(0, |all| all.len()), "rss_mb": rss, "peak_rss_mb": self.memory_mb("VmHWM:"),
        })
    }

    /// Seconds from the start until something holds.
    fn when(&self, holds: impl Fn() -> bool) -> f64 {
        while !holds() {
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(self.started.elapsed() < PATIENCE, "the daemon is not ready:\n{}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.started.elapsed().as_secs_f64()
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).unwrap_or_default()
    }

    /// User and system time so far.
    fn cpu_seconds(&self) -> f64 {
        let stat = self.proc("stat");
        // After the name in parentheses: field 3 on; 14 and 15 are the times in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }

    fn memory_mb(&self, key: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    }
}

fn node_name(i: u32) -> String {
    format!("node-{i:05}")
}

/// About 4 KB, most of it images, as real ones.
fn node(i: u32) -> Value {
    let images: Vec<Value> = (0..20)
        .map(|n| json!({"names": [format!("registry.example.com/team/image-{n}@sha256:{:064x}", n), format!("registry.example.com/team/image-{n}:v1.{n}")], "sizeBytes": 12345678}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": node_name(i), "labels": {"kubernetes.io/hostname": node_name(i), "kubernetes.io/os": "linux"},
            "annotations": {
                "projectcalico.org/IPv4Address": format!("172.16.{}.{}/12", i / 250, i % 250 + 1),
                "projectcalico.org/IPv4VXLANTunnelAddr": address(i * 4),
            },
        },
        "spec": {"podCIDR": "192.168.0.0/24"},
        "status": {"images": images, "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]},
    })
}

/// The first address of a block of 64.
fn address(block: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(0x0a00_0000 + block * 64)
}

/// With 13 addresses in use; `turn` changes which, and lends one to another node at every tenth. The first block's address
/// 0 is this node's tunnel address.
fn block(i: u32, size: Size, turn: u32) -> Value {
    let node = node_name(i % size.nodes);
    let used = |slot: u32| (slot + turn).is_multiple_of(5);
    let allocations: Vec<Value> = (0..64).map(|s| if used(s) { json!((s + turn) % 64 / 5) } else { Value::Null }).collect();
    let mut attributes: Vec<Value> = (0..13)
        .map(|a| json!({"handle_id": format!("k8s-pod-network.{:064x}", i * 16 + a), "secondary": {"namespace": "default", "node": node, "pod": format!("pod-{i}-{a}"), "timestamp": "2026-01-01 00:00:00 +0000 UTC"}}))
        .collect();
    if turn % 10 == 4 {
        attributes[0]["secondary"]["node"] = json!(node_name((i + 1) % size.nodes));
    }
    if i == 0 {
        attributes[0] =
            json!({"handle_id": format!("vxlan-tunnel-addr-{node}"), "secondary": {"node": node, "type": "vxlanTunnelAddress"}});
    }
    let cidr = format!("{}/26", address(i));
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock", "metadata": {"name": cidr.replace(['.', '/'], "-")},
        "spec": {
            "cidr": cidr, "affinity": format!("host:{node}"), "allocations": allocations, "attributes": attributes,
            "unallocated": (0..64).filter(|s| !used(*s)).collect::<Vec<u32>>(), "strictAffinity": false, "deleted": false,
            "sequenceNumber": 1_700_000_000_000_000_000u64 + u64::from(turn),
        },
    })
}

fn affinity(i: u32, nodes: u32) -> Value {
    let (node, cidr) = (node_name(i % nodes), format!("{}/26", address(i)));
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
        "metadata": {"name": format!("{node}-{}", cidr.replace(['.', '/'], "-"))},
        "spec": {"cidr": cidr, "node": node, "state": "confirmed", "deleted": "false", "type": "host"},
    })
}

fn pod(i: u32, size: Size) -> Value {
    let (node, block, slot) = if i < OWN_PODS {
        (0, i / OWN_PODS_PER_BLOCK * size.nodes, 1 + i % OWN_PODS_PER_BLOCK)
    } else {
        let other = 1 + i % (size.nodes - 1);
        (other, other, 1 + i / size.nodes % 60)
    };
    let (node, ip) = (node_name(node), std::net::Ipv4Addr::from(u32::from(address(block)) + slot));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{i}"), "namespace": "default", "labels": {"app": "x"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "registry.example.com/team/image:v1"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}
