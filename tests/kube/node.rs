//! The node's start against an API server, in both of Calico's groups: what a patch, a creation and the status really
//! are there.

use crate::support::{V1, V3};
use serde_json::{Value, json};
use tortie::control::datastore::kubernetes::open_objects;
use tortie::control::env::Environment;
use tortie::control::ipam::Ipam;
use tortie::control::node::detect::{Host, Interface};
use tortie::control::node::{Network, Pass};
use tortie::testing::apiserver::{ApiServer, Groups, Verb};

const WRITES: [Verb; 4] = [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete];

fn writes(server: &ApiServer) -> u64 {
    server.counts().iter().filter(|((verb, _), _)| WRITES.contains(verb)).map(|(_, n)| n).sum()
}

/// One pass and the condition, as one start of a daemon on `n1` with the address 10.0.0.1/24.
fn start(server: &ApiServer) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = server.kubeconfig(folder.path(), None);
    let variables = [("CALICO_IPV4POOL_CIDR", "10.244.0.0/16"), ("CALICO_IPV4POOL_VXLAN", "Always"), ("AS", "64513")];
    let settings = variables.into_iter().collect::<Environment>().settings().unwrap();
    let eth0 = Interface { index: 2, name: "eth0".into(), addresses: vec!["10.0.0.1/24".parse().unwrap()] };
    let host = Host { interfaces: vec![eth0], ..Host::default() };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let ipam = Ipam::new(open_objects(Some(&path)).await.unwrap(), "n1");
        let pass = Pass { ipam: &ipam, settings: &settings, boot_id: None };
        let outcome = pass.run(&host).await.unwrap();
        pass.network(Network::Up).await.unwrap();
        outcome.faults.iter().map(ToString::to_string).collect()
    })
}

#[test]
fn a_new_cluster_gets_what_it_needs_once() {
    for (groups, version) in [(Groups::V1, V1), (Groups::V3, V3)] {
        let server = ApiServer::start();
        server.set_groups(groups);
        let ready = json!({"type": "Ready", "status": "True"});
        server.put(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": {"kept": "x"}},
            "status": {"conditions": [ready]},
        }));
        assert_eq!(start(&server), [""; 0], "{version}");
        let node = server.get("v1", "nodes", "", "n1").unwrap();
        let annotation = |key: &str| node["metadata"]["annotations"][format!("projectcalico.org/{key}")].clone();
        assert_eq!((annotation("IPv4Address"), annotation("ASNumber")), (json!("10.0.0.1/24"), json!("64513")));
        assert_eq!(node["metadata"]["annotations"]["kept"], "x");
        assert!(annotation("IPv4VXLANTunnelAddr").as_str().unwrap().starts_with("10.244."));
        let conditions = node["status"]["conditions"].as_array().unwrap();
        assert_eq!((&conditions[0], &conditions[1]["reason"], conditions.len()), (&ready, &json!("CalicoIsUp"), 2));
        let spec = |plural: &str, name: &str| server.get(version, plural, "", name).unwrap_or(Value::Null)["spec"].clone();
        assert_eq!(
            (&spec("ippools", "default-ipv4-ippool")["cidr"], &spec("ippools", "default-ipv4-ippool")["vxlanMode"]),
            (&json!("10.244.0.0/16"), &json!("Always"))
        );
        assert_eq!(spec("clusterinformations", "default")["datastoreReady"], true);
        assert_eq!(spec("felixconfigurations", "default")["logSeverityScreen"], "Info");
        let before = writes(&server);
        assert_eq!(start(&server), [""; 0], "{version}");
        assert_eq!(writes(&server), before, "{version}: the second start writes nothing: {:?}", server.counts());
    }
}

#[test]
fn a_right_that_lacks_is_named_and_the_rest_is_done() {
    let server = ApiServer::start();
    server.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    server.forbid("clusterinformations");
    let faults = start(&server);
    assert!(faults.len() == 1 && faults[0].starts_with("default objects: ") && faults[0].contains("no permission"), "{faults:?}");
    let node = server.get("v1", "nodes", "", "n1").unwrap();
    assert!(node["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"].is_string());
}
