//! The Kubernetes datastore at the size of a large cluster: 5,000 nodes, 20,000 blocks and 250,000 pods, 200 of them on
//! this node. A process of its own reads them from the test server: time and CPU until in sync, CPU at 1,000 updates a
//! second, memory. One JSON object on standard output.
//!
//! `cargo bench --features testing --bench sync`; `-- --small` for a tenth of the size.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tortie::control::cluster::{Changed, Cluster};
use tortie::control::datastore::KubeStore;
use tortie::control::datastore::kubernetes::Source;
use tortie::testing::apiserver::{ApiServer, Verb};

const NODE: &str = "node-00000";
/// How long updates go on, and how many there are in a second.
const STEADY: Duration = Duration::from_secs(10);
const RATE: u32 = 1000;
/// Updates that are made together.
const TICK: Duration = Duration::from_millis(10);

#[derive(Clone, Copy)]
struct Size {
    nodes: u32,
    blocks: u32,
    pods: u32,
    own_pods: u32,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().position(|a| a == "--reader") {
        Some(at) => reader(Path::new(&args[at + 1])),
        None => {
            let scale = if args.iter().any(|a| a == "--small") { 10 } else { 1 };
            let size = Size { nodes: 5000 / scale, blocks: 20_000 / scale, pods: 250_000 / scale, own_pods: 200 };
            println!("{}", measure(size));
        }
    }
}

fn measure(size: Size) -> Value {
    let server = ApiServer::start();
    server.put_all((0..size.nodes).map(node));
    server.put_all((0..size.blocks).flat_map(|i| [block(i, size.nodes, 0), affinity(i, size.nodes)]));
    server.put_all((0..size.pods).map(|i| pod(i, size)));
    server.put_all([
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/8"}}),
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration", "metadata": {"name": "default"}, "spec": {}}),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let mut out = json!({"nodes": size.nodes, "blocks": size.blocks, "pods": size.pods, "own_pods": size.own_pods});
    for (name, streaming) in [("streaming", true), ("pages", false)] {
        server.set_streaming_lists(streaming);
        let mut reader = Reader::start(&server.kubeconfig(folder.path(), None));
        out["first_sync"][name] = reader.line();
        if streaming {
            out["steady"] = steady(&server, &mut reader, size);
        }
    }
    out["requests"] = json!(server.counts().iter().map(|((v, p), n)| (format!("{v:?} {p}"), *n)).collect::<Vec<_>>());
    out["watches"] = json!(server.count(Verb::Watch, "ipamblocks"));
    out
}

/// Seven in ten change a block, two change a node's status only, one changes a pod of another node or this one.
fn steady(server: &ApiServer, reader: &mut Reader, size: Size) -> Value {
    reader.order("start");
    let (started, mut made) = (Instant::now(), 0u32);
    while started.elapsed() < STEADY {
        let due = (started.elapsed().as_secs_f64() * f64::from(RATE)) as u32;
        server.put_all((made..due).map(|i| match i % 10 {
            0 | 1 => node(i % size.nodes),
            2 => pod(i % size.pods, size),
            _ => block(i.wrapping_mul(7919) % size.blocks, size.nodes, i),
        }));
        made = due;
        std::thread::sleep(TICK);
    }
    reader.order("stop");
    let mut result = reader.line();
    result["updates"] = json!(made);
    result
}

struct Reader {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Reader {
    fn start(kubeconfig: &Path) -> Reader {
        let exe = std::env::current_exe().expect("this program");
        let mut child = Command::new(exe)
            .arg("--reader")
            .arg(kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the reader");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Reader { child, lines }
    }

    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("a line").expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    fn order(&mut self, word: &str) {
        let input = self.child.stdin.as_mut().expect("its input");
        writeln!(input, "{word}").expect("write to the reader");
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process that is measured.
fn reader(kubeconfig: &Path) {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut store = KubeStore::open(Source::Kubeconfig(kubeconfig.to_owned()), NODE).expect("a store");
    let mut cluster = Cluster::default();
    runtime.block_on(async {
        while !store.in_sync() {
            store.next(&mut cluster).await;
        }
    });
    println!(
        "{}",
        json!({
            "seconds": started.elapsed().as_secs_f64(), "cpu_seconds": cpu_seconds(), "objects": cluster.len(),
            "rss_mb": memory_mb("VmRSS:"), "peak_rss_mb": memory_mb("VmHWM:"),
        })
    );
    let (orders, mut words) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).for_each(|l| drop(orders.send(l))));
    let (mut cpu, mut since, mut changed) = (cpu_seconds(), Instant::now(), 0usize);
    runtime.block_on(async {
        loop {
            tokio::select! {
                word = words.recv() => match word.as_deref() {
                    Some("start") => (cpu, since, changed) = (cpu_seconds(), Instant::now(), 0),
                    Some(_) => {
                        let (used, seconds) = (cpu_seconds() - cpu, since.elapsed().as_secs_f64());
                        println!("{}", json!({
                            "seconds": seconds, "cpu_percent_of_a_core": 100.0 * used / seconds, "changed": changed,
                            "rss_mb": memory_mb("VmRSS:"), "peak_rss_mb": memory_mb("VmHWM:"),
                        }));
                    }
                    None => return,
                },
                news = store.next(&mut cluster) => if let Changed::Keys(keys) = news { changed += keys.len() },
            }
        }
    });
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: field 3 on; 14 and 15 are the times in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn memory_mb(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
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

/// With 13 addresses in use; `turn` changes which.
fn block(i: u32, nodes: u32, turn: u32) -> Value {
    let node = node_name(i % nodes);
    let used = |slot: u32| (slot + turn).is_multiple_of(5);
    let allocations: Vec<Value> = (0..64).map(|s| if used(s) { json!((s + turn) % 64 / 5) } else { Value::Null }).collect();
    let attributes: Vec<Value> = (0..13)
        .map(|a| json!({"handle_id": format!("k8s-pod-network.{:064x}", i * 16 + a), "secondary": {"namespace": "default", "node": node, "pod": format!("pod-{i}-{a}"), "timestamp": "2026-01-01 00:00:00 +0000 UTC"}}))
        .collect();
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
    let node = if i < size.own_pods { NODE.to_owned() } else { node_name(1 + i % (size.nodes - 1)) };
    let ip = std::net::Ipv4Addr::from(0x0a00_0000 + i + 1);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{i}"), "namespace": "default", "labels": {"app": "x"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "registry.example.com/team/image:v1"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}
