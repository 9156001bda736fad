//! The node's start against a datastore in memory: what is written, what never is, and what others do meanwhile.

use serde_json::{Value, json};
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use tortie::control::datastore::objects::{AccessError, Id, Objects, Resource};
use tortie::control::env::Environment;
use tortie::control::ipam::Ipam;
use tortie::control::node::detect::{Host, Interface};
use tortie::control::node::settings::Settings;
use tortie::control::node::{Network, NodeError, Pass};
use tortie::testing::objects::{MemObjects, Op};

const BOOT: &str = "boot-of-this-kernel";

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub fn settings(env: &[(&str, &str)]) -> Settings {
    env.iter().copied().collect::<Environment>().settings().unwrap()
}

fn host(interfaces: &[(&str, &str)]) -> Host {
    let interface = |(i, (name, address)): (usize, &(&str, &str))| Interface {
        index: i as u32 + 1,
        name: (*name).into(),
        addresses: vec![address.parse().unwrap()],
    };
    Host { interfaces: interfaces.iter().enumerate().map(interface).collect(), ..Host::default() }
}

fn here() -> Host {
    host(&[("lo", "127.0.0.1/8"), ("eth0", "10.0.0.1/24")])
}

/// A core `v1` Node as kubelet makes it.
pub fn kube_node(name: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}, "annotations": annotations},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"bootID": BOOT},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

pub fn store() -> MemObjects {
    let store = MemObjects::new();
    store.put(Resource::Node, kube_node("a", json!({})));
    store
}

/// A pass of node `a`; the faults beside the address, one line each.
fn run(store: &MemObjects, env: &[(&str, &str)], host: &Host) -> Result<Vec<String>, NodeError> {
    run_on(BOOT, store, env, host)
}

fn run_on(boot: &str, store: &MemObjects, env: &[(&str, &str)], host: &Host) -> Result<Vec<String>, NodeError> {
    let (ipam, settings) = (Ipam::new(store.clone(), "a"), settings(env));
    let outcome = block_on(Pass { ipam: &ipam, settings: &settings, boot_id: Some(boot) }.run(host))?;
    Ok(outcome.faults.iter().map(ToString::to_string).collect())
}

fn condition(store: &MemObjects, env: &[(&str, &str)], network: Network) -> Result<(), NodeError> {
    let (ipam, settings) = (Ipam::new(store.clone(), "a"), settings(env));
    block_on(Pass { ipam: &ipam, settings: &settings, boot_id: None }.network(network))
}

pub fn get(store: &MemObjects, resource: Resource, name: &str) -> Value {
    block_on(store.get(&Id::cluster(resource, name))).unwrap().unwrap_or(Value::Null)
}

pub fn annotation(store: &MemObjects, name: &str) -> Option<String> {
    get(store, Resource::Node, "a")["metadata"]["annotations"][format!("projectcalico.org/{name}")].as_str().map(str::to_owned)
}

const VXLAN: &[(&str, &str)] = &[("CALICO_IPV4POOL_CIDR", "10.244.0.0/16"), ("CALICO_IPV4POOL_VXLAN", "Always")];

#[test]
fn the_first_start_writes_everything_and_the_second_nothing() {
    let store = store();
    let env = [VXLAN, &[("AS", "64513"), ("CLUSTER_TYPE", "k8s,")]].concat();
    assert_eq!(run(&store, &env, &here()).unwrap(), [""; 0]);
    assert_eq!(annotation(&store, "IPv4Address").as_deref(), Some("10.0.0.1/24"));
    assert_eq!(annotation(&store, "ASNumber").as_deref(), Some("64513"));
    assert_eq!((annotation(&store, "IPv4IPIPTunnelAddr"), annotation(&store, "VXLANTunnelMACAddr")), (None, None));
    let tunnel = annotation(&store, "IPv4VXLANTunnelAddr").unwrap();
    assert!(tunnel.starts_with("10.244."), "{tunnel}");
    let block = &store.all(Resource::IpamBlock)[0]["spec"];
    assert_eq!(
        (&block["affinity"], &block["attributes"][0]["secondary"]),
        (&json!("host:a"), &json!({"node": "a", "type": "vxlanTunnelAddress"}))
    );
    let pool = &get(&store, Resource::IpPool, "default-ipv4-ippool")["spec"];
    assert_eq!(
        *pool,
        json!({
            "cidr": "10.244.0.0/16", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Always", "natOutgoing": true,
            "nodeSelector": "all()", "disableBGPExport": false, "allowedUses": ["Workload", "Tunnel"],
        })
    );
    let cluster = &get(&store, Resource::ClusterInformation, "default")["spec"];
    assert_eq!(
        (&cluster["clusterType"], &cluster["datastoreReady"], &cluster["calicoVersion"]),
        (&json!("k8s,kdd"), &json!(true), &Value::Null)
    );
    assert_eq!(cluster["clusterGUID"].as_str().unwrap().len(), 32);
    assert_eq!(
        get(&store, Resource::FelixConfiguration, "default")["spec"],
        json!({"logSeverityScreen": "Info", "reportingInterval": "0s"})
    );
    let writes = store.writes();
    assert_eq!(run(&store, &env, &here()).unwrap(), [""; 0]);
    assert_eq!(store.writes(), writes);
}

#[test]
fn what_exists_is_never_changed() {
    let store = store();
    let put = |resource, name: &str, spec: Value| store.put(resource, json!({"metadata": {"name": name}, "spec": spec}));
    let information = json!({"clusterGUID": "g", "clusterType": "typha", "calicoVersion": "v3.30.0", "datastoreReady": false});
    put(Resource::ClusterInformation, "default", information.clone());
    put(Resource::FelixConfiguration, "default", json!({"vxlanPort": 4790}));
    put(Resource::IpPool, "mine", json!({"cidr": "10.9.0.0/16", "disabled": true}));
    let writes = store.writes();
    assert_eq!(run(&store, &[("CLUSTER_TYPE", "k8s")], &here()).unwrap(), [""; 0]);
    assert_eq!(store.writes(), writes + 1, "the address");
    assert_eq!(get(&store, Resource::ClusterInformation, "default")["spec"], information);
    assert_eq!(store.all(Resource::IpPool).len(), 1);
    // What is missing is filled in.
    put(Resource::ClusterInformation, "default", json!({"clusterGUID": "", "calicoVersion": "v3.30.0"}));
    run(&store, &[], &here()).unwrap();
    let spec = &get(&store, Resource::ClusterInformation, "default")["spec"];
    assert_eq!(
        (spec["clusterGUID"].as_str().unwrap().len(), &spec["datastoreReady"], &spec["calicoVersion"]),
        (32, &json!(true), &json!("v3.30.0"))
    );
}

#[test]
fn an_address_of_another_node_is_refused_with_both_named() {
    let store = store();
    store.put(Resource::Node, kube_node("b", json!({"projectcalico.org/IPv4Address": "10.0.0.1/16"})));
    let writes = store.writes();
    let e = run(&store, &[], &here()).unwrap_err().to_string();
    assert!(e.starts_with("node a: its address 10.0.0.1 is node b's too; one of the two must have another"), "{e}");
    assert_eq!(store.writes(), writes, "nothing is written, no pool either");
    run(&store, &[("DISABLE_NODE_IP_CHECK", "true")], &here()).unwrap();
    assert_eq!(annotation(&store, "IPv4Address").as_deref(), Some("10.0.0.1/24"));
    // An address that stays is not looked for among thousands of nodes.
    let watched = store.before(|op| if *op == Op::List(Resource::Node) { Err(unavailable()) } else { Ok(()) });
    run(&watched, &[("IP", "autodetect")], &here()).unwrap();
    // It changes to one of another node: refused, and the old one stays.
    store.put(Resource::Node, kube_node("b", json!({"projectcalico.org/IPv4Address": "10.0.0.2/24"})));
    let moved = host(&[("eth0", "10.0.0.2/24")]);
    assert!(matches!(run(&store, &[("IP", "autodetect")], &moved), Err(NodeError::DuplicateAddress { other, .. }) if other == "b"));
    assert_eq!(annotation(&store, "IPv4Address").as_deref(), Some("10.0.0.1/24"));
}

#[test]
fn a_second_machine_of_the_same_name_is_refused_with_both_addresses() {
    let store = store();
    run(&store, &[], &here()).unwrap();
    let second = host(&[("eth0", "10.0.0.7/24")]);
    let e = run_on("another-boot", &store, &[("IP", "autodetect")], &second).unwrap_err().to_string();
    assert!(e.starts_with("node a is another machine, which has 10.0.0.1; this one has 10.0.0.7: two machines have one name"), "{e}");
    assert_eq!(annotation(&store, "IPv4Address").as_deref(), Some("10.0.0.1/24"));
    // The same machine after a reboot that kept its address, and one whose kubelet does not report any more.
    run_on("another-boot", &store, &[("IP", "autodetect")], &here()).unwrap();
    let mut silent = get(&store, Resource::Node, "a");
    silent["status"]["conditions"][0]["status"] = json!("Unknown");
    store.put(Resource::Node, silent);
    run_on("another-boot", &store, &[("IP", "autodetect")], &second).unwrap();
    assert_eq!(annotation(&store, "IPv4Address").as_deref(), Some("10.0.0.7/24"));
}

fn unavailable() -> AccessError {
    AccessError::Unavailable { what: "test".into(), message: "away".into() }
}

#[test]
fn somebody_else_writing_meanwhile_loses_nothing() {
    let store = store();
    let others = Rc::new(Cell::new(0));
    let (inner, count) = (store.clone(), others.clone());
    let busy = store.before(move |op| {
        // kubelet writes just before each of our first two.
        if *op == Op::Patch(Id::cluster(Resource::Node, "a")) && count.get() < 2 {
            count.set(count.get() + 1);
            let mut node = inner.all(Resource::Node).remove(0);
            node["metadata"]["annotations"]["kubelet"] = json!(count.get().to_string());
            inner.put(Resource::Node, node);
        }
        Ok(())
    });
    assert_eq!(run(&busy, VXLAN, &here()).unwrap(), [""; 0]);
    let node = get(&store, Resource::Node, "a");
    assert_eq!((&node["metadata"]["annotations"]["kubelet"], others.get()), (&json!("2"), 2));
    assert!(annotation(&store, "IPv4Address").is_some() && annotation(&store, "IPv4VXLANTunnelAddr").is_some());
}

/// Without what is random or counts.
fn essence(store: &MemObjects) -> Vec<Value> {
    let kinds = [Resource::Node, Resource::IpPool, Resource::ClusterInformation, Resource::FelixConfiguration];
    let strip = |mut o: Value| {
        o["metadata"]["resourceVersion"] = Value::Null;
        o["metadata"]["uid"] = Value::Null;
        o["spec"]["clusterGUID"] = Value::Null;
        // An address whose assignment was not heard of is released and another one taken.
        if let Some(tunnel) = o["metadata"]["annotations"].get_mut("projectcalico.org/IPv4VXLANTunnelAddr") {
            *tunnel = json!("set");
        }
        o
    };
    kinds.iter().flat_map(|k| store.all(*k)).map(strip).collect()
}

/// Addresses that the blocks have given out.
fn assigned(store: &MemObjects) -> usize {
    let blocks = store.all(Resource::IpamBlock);
    blocks.iter().flat_map(|b| b["spec"]["allocations"].as_array().unwrap()).filter(|a| !a.is_null()).count()
}

#[test]
fn a_crash_between_any_two_writes_is_completed_by_the_next_start() {
    let whole = store();
    run(&whole, VXLAN, &here()).unwrap();
    let mut crashes = 0;
    for n in 0.. {
        let store = store();
        let writes = Rc::new(Cell::new(0));
        let count = writes.clone();
        // From the n-th write on nothing is heard of the datastore any more.
        let failing = store.after(move |op| {
            count.set(count.get() + u64::from(op.is_write() || count.get() > n));
            if count.get() > n { Err(unavailable()) } else { Ok(()) }
        });
        let complete = run(&failing, VXLAN, &here()).is_ok_and(|faults| faults.is_empty());
        assert_eq!(run(&store, VXLAN, &here()).unwrap(), [""; 0], "after a crash at write {n}");
        assert_eq!(essence(&store), essence(&whole), "after a crash at write {n}");
        assert_eq!(assigned(&store), 1, "after a crash at write {n}");
        if complete {
            break;
        }
        crashes += 1;
    }
    assert!(crashes >= 6, "{crashes}");
}

#[test]
fn pools_by_the_environment() {
    let made = |env: &[(&str, &str)], host: &Host| {
        let store = store();
        assert_eq!(run(&store, env, host).unwrap(), [""; 0]);
        store.all(Resource::IpPool).iter().map(|p| p["spec"]["cidr"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(made(&[], &here()), ["192.168.0.0/16"]);
    assert_eq!(made(&[], &host(&[("eth0", "192.168.1.1/24"), ("docker0", "172.16.0.1/24")])), ["172.17.0.0/16"]);
    assert_eq!(made(&[("CALICO_IPV4POOL_CIDR", "192.168.0.0/16")], &host(&[("eth0", "192.168.1.1/24")])), ["192.168.0.0/16"]);
    assert!(made(&[("NO_DEFAULT_POOLS", "true")], &here()).is_empty() && made(&[("CALICO_IPV4POOL_CIDR", "none")], &here()).is_empty());
    // What kubeadm knows goes before what is free; without the right to read it the node goes on.
    let kubeadm = || {
        let (store, known) = (store(), json!({"ClusterConfiguration": "networking:\n  podSubnet: 10.32.0.0/16\n"}));
        store.put(Resource::ConfigMap, json!({"metadata": {"namespace": "kube-system", "name": "kubeadm-config"}, "data": known}));
        store
    };
    let cidr = |store: &MemObjects| get(store, Resource::IpPool, "default-ipv4-ippool")["spec"]["cidr"].clone();
    let refused = kubeadm().before(|op| match op {
        Op::Get(id) if id.resource == Resource::ConfigMap => Err(AccessError::Forbidden { what: "get".into(), message: "no".into() }),
        _ => Ok(()),
    });
    assert_eq!((run(&refused, &[], &here()).unwrap(), cidr(&refused)), (vec![], json!("192.168.0.0/16")));
    let open = kubeadm();
    assert_eq!((run(&open, &[], &here()).unwrap(), cidr(&open)), (vec![], json!("10.32.0.0/16")));
    // A pool of IPv6 does not stand for one of IPv4, and another node may come first.
    let store = store();
    store.put(Resource::IpPool, json!({"metadata": {"name": "v6"}, "spec": {"cidr": "fd00::/48"}}));
    let (inner, pool) = (store.clone(), json!({"metadata": {"name": "default-ipv4-ippool"}, "spec": {"cidr": "10.1.0.0/16"}}));
    let raced = store.before(move |op| {
        if matches!(op, Op::Create(id) if id.resource == Resource::IpPool) {
            inner.put(Resource::IpPool, pool.clone());
        }
        Ok(())
    });
    assert_eq!(run(&raced, &[], &here()).unwrap(), [""; 0]);
    assert_eq!(get(&store, Resource::IpPool, "default-ipv4-ippool")["spec"]["cidr"], "10.1.0.0/16");
}

fn set_modes(store: &MemObjects, name: &str, vxlan: &str, ipip: &str) {
    let mut pool = get(store, Resource::IpPool, name);
    pool["spec"]["vxlanMode"] = json!(vxlan);
    pool["spec"]["ipipMode"] = json!(ipip);
    store.put(Resource::IpPool, pool);
}

#[test]
fn tunnel_addresses_follow_the_pools() {
    let store = store();
    run(&store, VXLAN, &here()).unwrap();
    let first = annotation(&store, "IPv4VXLANTunnelAddr").unwrap();
    set_modes(&store, "default-ipv4-ippool", "Never", "CrossSubnet");
    run(&store, VXLAN, &here()).unwrap();
    assert_eq!(annotation(&store, "IPv4VXLANTunnelAddr"), None);
    assert!(annotation(&store, "IPv4IPIPTunnelAddr").is_some_and(|a| a != first), "the released address is the last to be used again");
    set_modes(&store, "default-ipv4-ippool", "Never", "Never");
    run(&store, VXLAN, &here()).unwrap();
    assert_eq!((annotation(&store, "IPv4VXLANTunnelAddr"), annotation(&store, "IPv4IPIPTunnelAddr")), (None, None));
    assert!(store.all(Resource::IpamHandle).is_empty(), "both are released");
}

#[test]
fn a_tunnel_address_of_another_node_is_refused_with_both_named() {
    let store = store();
    store.put(Resource::Node, kube_node("b", json!({})));
    let (theirs, settings) = (Ipam::new(store.clone(), "b"), settings(VXLAN));
    block_on(Pass { ipam: &theirs, settings: &settings, boot_id: None }.run(&host(&[("eth0", "10.0.0.2/24")]))).unwrap();
    let address = get(&store, Resource::Node, "b")["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"].clone();
    store.put(Resource::Node, kube_node("a", json!({"projectcalico.org/IPv4VXLANTunnelAddr": address})));
    let faults = run(&store, VXLAN, &here()).unwrap();
    assert!(
        faults[0].starts_with(&format!("node a: its VXLAN tunnel address {} belongs to node b", address.as_str().unwrap())),
        "{faults:?}"
    );
    assert_eq!(annotation(&store, "IPv4VXLANTunnelAddr").as_deref(), address.as_str());
}

#[test]
fn one_right_that_lacks_does_not_stop_the_rest() {
    let store = store();
    let forbidden = |id: &Id| AccessError::Forbidden { what: format!("create {id}"), message: "not yours".into() };
    store.put(Resource::IpPool, json!({"metadata": {"name": "p"}, "spec": {"cidr": "10.9.0.0/16", "ipipMode": "Always"}}));
    let limited = store.before(move |op| match op {
        Op::Create(id) if id.resource == Resource::ClusterInformation => Err(forbidden(id)),
        _ => Ok(()),
    });
    let faults = run(&limited, &[], &here()).unwrap();
    assert_eq!(faults, ["default objects: create ClusterInformation default: no permission: not yours"]);
    assert!(annotation(&store, "IPv4IPIPTunnelAddr").is_some());
}

#[test]
fn the_condition_is_set_once_and_beside_the_others() {
    let store = store();
    condition(&store, &[], Network::Up).unwrap();
    let writes = store.writes();
    condition(&store, &[], Network::Up).unwrap();
    assert_eq!(store.writes(), writes);
    let conditions = |store: &MemObjects| get(store, Resource::Node, "a")["status"]["conditions"].clone();
    let all = conditions(&store);
    assert_eq!((all.as_array().unwrap().len(), &all[0]["type"]), (2, &json!("Ready")));
    assert_eq!(
        (&all[1]["type"], &all[1]["status"], &all[1]["reason"]),
        (&json!("NetworkUnavailable"), &json!("False"), &json!("CalicoIsUp"))
    );
    condition(&store, &[], Network::Down).unwrap();
    assert_eq!((&conditions(&store)[1]["status"], &conditions(&store)[1]["reason"]), (&json!("True"), &json!("CalicoIsDown")));
    // Policy only, and a node of another name in Kubernetes.
    condition(&store, &[("CALICO_NETWORKING_BACKEND", "none")], Network::Up).unwrap();
    store.put(Resource::Node, kube_node("kube-a", json!({})));
    condition(&store, &[("CALICO_K8S_NODE_REF", "kube-a")], Network::Up).unwrap();
    assert_eq!(conditions(&store)[1]["status"], "True");
    assert_eq!(get(&store, Resource::Node, "kube-a")["status"]["conditions"][1]["status"], "False");
}

#[test]
fn a_node_that_kubernetes_does_not_have() {
    let e = run(&MemObjects::new(), &[], &here()).unwrap_err().to_string();
    assert!(e.starts_with("Kubernetes has no node a: set NODENAME"), "{e}");
    let e = run(&store(), &[], &host(&[("lo", "127.0.0.1/8")])).unwrap_err().to_string();
    assert!(e.starts_with("node a: no IPv4 address found: no interface") && e.contains("(interfaces here: lo)"), "{e}");
}

#[test]
fn without_networking_the_node_says_nothing_of_itself() {
    let store = store();
    run(&store, &[("CALICO_NETWORKING_BACKEND", "none"), ("AS", "64513"), ("NO_DEFAULT_POOLS", "true")], &here()).unwrap();
    assert_eq!((annotation(&store, "IPv4Address"), annotation(&store, "ASNumber")), (None, None));
}
