//! One node with the daemon and a folder as its datastore, and pods' namespaces to attach.

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tortie::ops::api::Client;
use tortie::testing::netns::{ChildGuard, Namespace, veth};

pub const TORTIE: &str = env!("CARGO_BIN_EXE_tortie");
/// Where Debian's containernetworking-plugins are.
pub const PLUGINS: &str = "/usr/lib/cni";

/// A node named n1 at 10.1.0.1/24, alone on its wire.
pub struct Node {
    pub ns: Namespace,
    /// The other end of the uplink's wire, 10.1.0.2/24.
    pub wire: Namespace,
    pub dir: tempfile::TempDir,
    pub config: PathBuf,
    pub socket: PathBuf,
    daemon: Option<ChildGuard>,
}

impl Node {
    /// With one pool of 10.244.0.0/16 in blocks of 64; the daemon runs.
    pub fn new() -> Node {
        let mut node = Node::without_daemon();
        node.start();
        node
    }

    pub fn without_daemon() -> Node {
        let (ns, wire) = (Namespace::new("node"), Namespace::new("wire"));
        veth(&ns, "eth0", &wire, "eth0");
        ns.sh("ip addr add 10.1.0.1/24 dev eth0");
        ns.sysctl("net.ipv4.ip_forward", "1");
        wire.sh("ip addr add 10.1.0.2/24 dev eth0; ip route add 10.244.0.0/16 via 10.1.0.1");
        let dir = tempfile::tempdir().unwrap();
        let (config, socket) = (dir.path().join("node.yaml"), dir.path().join("api.sock"));
        let text = "node: n1\ndatastore: {path: store}\nuplink: {interface: eth0, driver: socket}\napi: {socket: api.sock}\n";
        std::fs::write(&config, text).unwrap();
        let node = Node { ns, wire, dir, config, socket, daemon: None };
        std::fs::create_dir(node.store()).unwrap();
        node.put(
            "node",
            &json!({
                "apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": { "name": "n1" },
                "spec": { "bgp": { "ipv4Address": "10.1.0.1/24" } },
            }),
        );
        node.put(
            "pool",
            &json!({
                "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "pool" },
                "spec": { "cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": "Never", "ipipMode": "Never", "nodeSelector": "all()" },
            }),
        );
        node
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Writes a manifest.
    pub fn put(&self, file: &str, object: &Value) {
        let path = self.store().join(format!("{file}.json"));
        let new = self.store().join(format!(".{file}.new"));
        std::fs::write(&new, object.to_string()).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// A Pod with annotations of the prefix `cni.projectcalico.org/`.
    pub fn put_pod(&self, name: &str, annotations: &[(&str, &str)]) {
        let all: serde_json::Map<String, Value> =
            annotations.iter().map(|(k, v)| (format!("cni.projectcalico.org/{k}"), json!(v))).collect();
        self.put(
            &format!("pod-{name}"),
            &json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default", "annotations": all },
                "spec": { "nodeName": "n1", "containers": [] },
            }),
        );
    }

    pub fn start(&mut self) {
        self.daemon = Some(self.spawn_daemon());
        self.wait("the daemon is in sync", || self.client().status().is_ok_and(|s| s.in_sync));
    }

    /// Its log goes to a file: a pipe that nobody empties would stop it.
    pub fn spawn_daemon(&self) -> ChildGuard {
        let log = self.dir.path().join("daemon.log");
        self.ns.spawn(&["sh", "-c", &format!("exec {TORTIE} run --config {} 2>>{}", self.config.display(), log.display())])
    }

    pub fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            self.ns.sh(&format!("kill -TERM {}", daemon.id()));
            assert_eq!(daemon.wait(Duration::from_secs(30)), Some(true));
        }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    pub fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < end, "{what}: not within 10 s\n{}", self.story());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn story(&self) -> String {
        let c = self.client();
        format!("{:?}\n{:?}\n{:?}\n{}", c.status(), c.endpoints(), c.ports(), self.ns.sh("ip -br link; ip route"))
    }

    /// A network configuration of a version, with more keys.
    pub fn conf(&self, version: &str, more: Value) -> Value {
        let mut conf = json!({
            "cniVersion": version, "name": "k8s-pod-network", "type": "tortie", "config": self.config,
            "ipam": { "type": "tortie-ipam" }, "ipam_lock_file": self.dir.path().join("ipam.lock"),
            "mtu_file": self.dir.path().join("mtu"), "policy_setup_timeout_seconds": 10,
        });
        more.as_object().into_iter().flatten().for_each(|(k, v)| conf[k] = v.clone());
        conf
    }

    /// Runs a plugin on the node; whether it succeeded, and what it answered.
    pub fn call(&self, program: &Path, vars: &[(&str, &str)], conf: &Value) -> (bool, Value) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.ns.name()]).arg(program).env("CNI_PATH", PLUGINS).envs(vars.iter().copied());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        // One that does not read its input at all ends early.
        let _ = child.stdin.take().unwrap().write_all(conf.to_string().as_bytes());
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let answer =
            if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")) };
        (out.status.success(), answer)
    }

    /// A command without a container: STATUS, GC, VERSION.
    pub fn command(&self, name: &str, conf: &Value) -> Result<Value, Value> {
        outcome(self.call(Path::new(TORTIE), &[("CNI_COMMAND", name)], conf))
    }

    /// What is left of attachments: interfaces, routes, endpoints, addresses, handles.
    pub fn leftovers(&self) -> Vec<String> {
        let mut out: Vec<String> = self.ns.sh("ip -o link").lines().filter(|l| l.contains(": cali")).map(str::to_owned).collect();
        out.extend(self.ns.sh("ip route").lines().filter(|l| l.contains("cali")).map(str::to_owned));
        for entry in std::fs::read_dir(self.store()).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let kept = ["kind: WorkloadEndpoint", "kind: IPAMHandle", "handle_id"].iter().any(|k| text.replace('"', "").contains(k));
            if kept {
                out.push(format!("{}:\n{text}", entry.path().display()));
            }
        }
        out.extend(self.client().endpoints().unwrap_or_default().into_iter().map(|e| e.name));
        out
    }

    pub fn expect_nothing_left(&self) {
        self.wait("nothing is left", || self.leftovers().is_empty());
    }
}

pub fn outcome((good, answer): (bool, Value)) -> Result<Value, Value> {
    if good { Ok(answer) } else { Err(answer) }
}

/// A pod that is to be attached, or is.
pub struct Pod {
    pub ns: Namespace,
    pub name: String,
    pub container: String,
}

impl Pod {
    pub fn new(name: &str) -> Pod {
        Pod { ns: Namespace::new(name), name: name.into(), container: format!("sandbox-{name}") }
    }

    /// A command for this pod.
    pub fn try_call(&self, node: &Node, command: &str, conf: &Value) -> Result<Value, Value> {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", self.name);
        outcome(node.call(Path::new(TORTIE), &self.vars(command, &args), conf))
    }

    pub fn vars<'a>(&'a self, command: &'a str, args: &'a str) -> [(&'static str, &'a str); 5] {
        [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &self.container),
            ("CNI_NETNS", self.ns.path().to_str().unwrap()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", args),
        ]
    }

    pub fn call(&self, node: &Node, command: &str, conf: &Value) -> Value {
        self.try_call(node, command, conf).unwrap_or_else(|e| panic!("{command} {}: {e}\n{}", self.name, node.story()))
    }

    /// Attaches it; the result.
    pub fn add(&self, node: &Node, conf: &Value) -> Value {
        self.call(node, "ADD", conf)
    }

    pub fn del(&self, node: &Node, conf: &Value) {
        assert_eq!(self.call(node, "DEL", conf), Value::Null);
    }

    /// Whether one ping is answered: the first, as what is attached is reachable.
    pub fn pings(&self, to: &str) -> bool {
        self.ns.output(&["ping", "-c", "1", "-W", "2", to]).status.success()
    }
}

/// The pod's address in a result.
pub fn address(result: &Value) -> String {
    let text = result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("no address: {result}"));
    text.strip_suffix("/32").unwrap_or_else(|| panic!("not a /32: {text}")).to_owned()
}

/// A configuration with an earlier result.
pub fn with_previous(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}
