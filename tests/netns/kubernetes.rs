//! The real program on two nodes of a Kubernetes cluster: pods talk, the API server goes and traffic goes on, and what
//! changed meanwhile comes in force when it is back.

use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tortie::control::model::interface_name;
use tortie::ops::api::Client;
use tortie::testing::apiserver::ApiServer;
use tortie::testing::netns::{ChildGuard, Namespace, veth};

const TORTIE: &str = env!("CARGO_BIN_EXE_tortie");
const GROUP: &str = "crd.projectcalico.org/v1";
/// Where the nodes reach the API server.
const SERVER: &str = "10.2.0.1";

struct Node {
    index: u8,
    ns: Namespace,
    pod: Namespace,
    config: PathBuf,
    client: Client,
    daemon: Option<ChildGuard>,
}

/// Two nodes with a pod each, and a third namespace with the API server.
struct Site {
    a: Node,
    b: Node,
    server: ApiServer,
    _api: Namespace,
    _folder: tempfile::TempDir,
}

fn node(index: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node{index}"), "annotations": {
            "projectcalico.org/IPv4Address": format!("10.1.0.{index}/24"),
            "projectcalico.org/IPv4VXLANTunnelAddr": format!("10.244.{index}.0"),
        }},
    })
}

fn pod(index: u8) -> Value {
    let ip = format!("10.244.{index}.5");
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod{index}"), "namespace": "default"},
        "spec": {"nodeName": format!("node{index}"), "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn pool(vxlan: &str, ipip: &str) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "IPPool", "metadata": {"name": "pool"},
        "spec": {"cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": vxlan, "ipipMode": ipip, "natOutgoing": false, "nodeSelector": "all()"},
    })
}

fn block(index: u8) -> Value {
    let allocations: Vec<Value> = (0..64).map(|i| if i == 0 { json!(0) } else { Value::Null }).collect();
    json!({
        "apiVersion": GROUP, "kind": "IPAMBlock", "metadata": {"name": format!("10-244-{index}-0-26")},
        "spec": {
            "cidr": format!("10.244.{index}.0/26"), "affinity": format!("host:node{index}"), "deleted": false, "strictAffinity": false,
            "allocations": allocations, "unallocated": (1..64).collect::<Vec<u8>>(),
            "attributes": [{"handle_id": format!("vxlan-tunnel-addr-node{index}"), "secondary": {"node": format!("node{index}"), "type": "vxlanTunnelAddress"}}],
        },
    })
}

fn affinity(index: u8) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "BlockAffinity", "metadata": {"name": format!("node{index}-10-244-{index}-0-26")},
        "spec": {"cidr": format!("10.244.{index}.0/26"), "node": format!("node{index}"), "state": "confirmed", "deleted": "false", "type": "host"},
    })
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let api = Namespace::new("api");
        api.sh(&format!("ip addr add {SERVER}/32 dev lo"));
        let server = api.run(|| ApiServer::start_at(format!("{SERVER}:0").parse().unwrap(), true));
        server.set_tokens(&["secret"]);
        let kubeconfig = server.kubeconfig(folder.path(), Some("secret"));
        let make = |index: u8| {
            let (ns, inside) = (Namespace::new(&format!("k{index}")), Namespace::new(&format!("q{index}")));
            ns.sysctl("net.ipv4.ip_forward", "1");
            veth(&api, &format!("node{index}"), &ns, "api0");
            api.sh(&format!("ip addr add 10.2.{index}.1/24 dev node{index}"));
            ns.sh(&format!("ip addr add 10.2.{index}.2/24 dev api0; ip route add {SERVER} via 10.2.{index}.1"));
            let host_side = interface_name("cali", "default", &format!("pod{index}"));
            veth(&ns, &host_side, &inside, "eth0");
            inside.sh(&format!("ip addr add 10.244.{index}.5/32 dev eth0; ip link set eth0 mtu 1450"));
            inside.sh("ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1");
            let socket = folder.path().join(format!("{index}.sock"));
            let config = folder.path().join(format!("{index}.yaml"));
            let text = format!(
                "node: node{index}\ndatastore: {{kind: kubernetes, kubeconfig: {}}}\nuplink: {{interface: eth0, driver: socket}}\napi: {{socket: {}}}\ncalico: {{dir: {}}}\n",
                kubeconfig.display(),
                socket.display(),
                folder.path().join(format!("calico{index}")).display()
            );
            std::fs::write(&config, text).unwrap();
            Node { index, ns, pod: inside, config, client: Client::new(&socket), daemon: None }
        };
        let (a, b) = (make(1), make(2));
        veth(&a.ns, "eth0", &b.ns, "eth0");
        for n in [&a, &b] {
            n.ns.sh(&format!("ip addr add 10.1.0.{}/24 dev eth0", n.index));
            server.put_all([node(n.index), pod(n.index), block(n.index), affinity(n.index)]);
        }
        server.put(pool("Always", "Never"));
        Site { a, b, server, _api: api, _folder: folder }
    }

    fn expect_both_ways(&self, what: &str) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let ping = from.pod.output(&["ping", "-c", "10", "-i", "0.2", "-W", "1", &to.pod_address()]);
            assert!(ping.status.success(), "{what}: pod{} to pod{}\n{}\n{}", from.index, to.index, from.story(), to.story());
        }
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < end, "{what}\n{}\n{}", self.a.story(), self.b.story());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Node {
    fn pod_address(&self) -> String {
        format!("10.244.{}.5", self.index)
    }

    fn start(&mut self) {
        self.daemon = Some(self.ns.spawn(&[TORTIE, "run", "--config", self.config.to_str().unwrap()]));
    }

    fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        self.ns.sh(&format!("kill -KILL {}", daemon.id()));
        daemon.wait(Duration::from_secs(30));
    }

    fn is_ready(&self) -> bool {
        let ports = self.client.ports().unwrap_or_default();
        self.client.status().is_ok_and(|s| s.in_sync) && ports.len() >= 3 && ports.iter().all(|p| p.state == "up")
    }

    fn problems(&self) -> Vec<String> {
        self.client.status().map(|s| s.problems).unwrap_or_default()
    }

    fn remote_kind(&self) -> Option<String> {
        let remote = format!("10.244.{}.0/26", 3 - self.index);
        self.client.fib().ok()?.into_iter().find(|r| r.prefix == remote).map(|r| r.kind)
    }

    fn story(&self) -> String {
        let c = &self.client;
        let drops: Vec<_> = c.drops().unwrap_or_default().into_iter().filter(|d| d.packets > 0).collect();
        format!("{:?}\n{:?}\n{:?}\n{drops:?}\n{}", c.status(), c.fib(), c.ports(), self.ns.sh("ip route; ip -br addr"))
    }
}

#[test]
fn traffic_outlives_the_api_server_and_changes_come_with_it() {
    let mut s = Site::new();
    s.a.start();
    s.b.start();
    // The host's routes follow the device's address by some milliseconds.
    s.until("both ready", || [&s.a, &s.b].iter().all(|n| n.is_ready() && n.problems().is_empty()));
    assert_eq!((s.a.remote_kind().as_deref(), s.a.problems()), (Some("vxlan"), vec![]));
    s.expect_both_ways("with the API server");

    // Not one of 40 packets is lost while the server goes.
    let mut ping = s.a.pod.spawn(&["ping", "-c", "40", "-i", "0.1", "-W", "1", &s.b.pod_address()]);
    std::thread::sleep(Duration::from_millis(500));
    s.server.stop();
    s.until("both say so", || [&s.a, &s.b].iter().all(|n| n.problems().iter().any(|p| p.contains("Connection refused"))));
    assert_eq!(ping.wait(Duration::from_secs(20)), Some(true));
    let mut text = String::new();
    std::io::Read::read_to_string(ping.child().stdout.as_mut().unwrap(), &mut text).unwrap();
    assert!(text.contains(" 0% packet loss"), "{text}\n{}", s.a.story());
    for n in [&s.a, &s.b] {
        assert!(n.client.status().unwrap().in_sync, "what is known stays in force");
        assert_eq!(n.problems().len(), 1, "one problem for seven watches: {:?}", n.problems());
    }

    // What changes meanwhile comes in force when the server is back.
    s.server.put(pool("Never", "Always"));
    s.server.start_again();
    s.until("the new encapsulation", || [&s.a, &s.b].iter().all(|n| n.remote_kind().as_deref() == Some("ipip") && n.problems().is_empty()));
    s.expect_both_ways("over IP-in-IP");
}

#[test]
fn a_daemon_that_starts_before_the_api_server_waits_for_it() {
    let mut s = Site::new();
    s.a.start();
    s.b.start();
    // The host's routes follow the device's address by some milliseconds.
    s.until("both ready", || [&s.a, &s.b].iter().all(|n| n.is_ready() && n.problems().is_empty()));
    s.server.stop();
    s.a.kill();
    let before = s.a.ns.sh("ip route");
    assert!(before.contains("10.244.0.0/16"), "routes of the one that was killed: {before}");
    s.a.start();
    s.until("said", || s.a.problems().iter().any(|p| p.contains("Connection refused") && p.contains("nothing is put in force")));
    std::thread::sleep(Duration::from_millis(500));
    let status = s.a.client.status().unwrap();
    assert!(!status.in_sync && status.generation == 0, "{status:?}");
    assert_eq!(s.a.client.fib().unwrap().len(), 0);
    s.server.start_again();
    s.until("ready", || s.a.is_ready());
    s.expect_both_ways("after the start");
}

#[test]
fn conflicts_are_events_on_the_node_and_the_doctor_knows_the_rules() {
    let mut s = Site::new();
    s.a.start();
    s.until("ready", || s.a.is_ready() && s.a.problems().is_empty());
    // Long enough for the device to have been seen as it should be.
    std::thread::sleep(Duration::from_millis(1200));
    s.a.ns.sh("ip link set tunl-tortie down");
    let event = |reason: &str| {
        let all = s.server.all("v1", "events");
        all.into_iter().find(|e| e["reason"] == reason && e["involvedObject"]["name"] == "node1")
    };
    s.until("the device", || event("InterfaceChanged").is_some());
    let message = event("InterfaceChanged").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("tunl-tortie state: tortie and ") && message.contains("was set down; this was undone"), "{message}");
    // Somebody else's start writes its address into our node.
    let mut other = node(1);
    other["metadata"]["annotations"]["projectcalico.org/IPv4Address"] = json!("10.1.0.77/24");
    s.server.put(other);
    s.until("the name", || event("DuplicateNodeName").is_some());
    let message = event("DuplicateNodeName").unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("node1: this machine at 10.1.0.1 and a machine at 10.1.0.77: "), "{message}");

    s.server.forbid("ipamhandles");
    let doctor = s.a.ns.output(&[TORTIE, "doctor", "--config", s.a.config.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("the daemon may not get, list, create, update, delete IPAMHandle: no tunnel address"), "{text}");
    let rule =
        r#"- {apiGroups: ["crd.projectcalico.org"], resources: ["ipamhandles"], verbs: ["get", "list", "create", "update", "delete"]}"#;
    assert!(text.contains(rule) && text.contains("AF_XDP modes"), "{text}");
}
