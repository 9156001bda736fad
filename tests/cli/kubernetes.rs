//! The verbs on an API server, where nodes and workload endpoints are made of core objects.

use crate::golden::POOL;
use crate::support::Bench;
use serde_json::{Value, json};
use tortie::testing::apiserver::ApiServer;

const V1: &str = "crd.projectcalico.org/v1";

fn server() -> ApiServer {
    let server = ApiServer::start();
    server.put_all([
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "master-c3.myk8s.example.com", "labels": {"zone": "a"},
            "annotations": {"projectcalico.org/IPv4Address": "192.168.3.110/24", "other": "stays"}}, "spec": {"podCIDRs": ["10.1.0.0/24"]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "busybox-deployment-8c7dc8548-btnkv", "namespace": "default"},
            "spec": {"nodeName": "node01"}, "status": {"podIP": "192.168.196.131", "phase": "Running"}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "busybox-deployment-8c7dc8548-x6ljh", "namespace": "default"},
            "spec": {"nodeName": "controlplane"}, "status": {"podIP": "192.168.49.66", "phase": "Running"}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
    ]);
    server
}

#[test]
fn tables_as_documented() {
    let server = server();
    let b = Bench::kubernetes(&server);
    assert_eq!(
        b.out("get node -o wide"),
        "NAME                          ASN       IPV4               IPV6\nmaster-c3.myk8s.example.com   (64512)   192.168.3.110/24\n\n"
    );
    assert_eq!(
        b.out("get workloadendpoints"),
        "WORKLOAD                             NODE           NETWORKS             INTERFACE\n\
         busybox-deployment-8c7dc8548-btnkv   node01         192.168.196.131/32   calib673e730d42\n\
         busybox-deployment-8c7dc8548-x6ljh   controlplane   192.168.49.66/32     cali9861acf9f07\n\n"
    );
    assert_eq!(b.out("get wep node01-k8s-busybox--deployment--8c7dc8548--btnkv-eth0 -o name").lines().count(), 1);
    assert!(b.out("get profiles -o name").contains("profile/kns.default\n"));
}

#[test]
fn pools_are_written_as_the_cluster_stores_them() {
    let server = server();
    let b = Bench::kubernetes(&server);
    let ran = b.run_with("apply -f -", POOL);
    assert_eq!(ran.out, "Successfully applied 1 'IPPool' resource(s)\n", "{ran:?}");
    let stored = server.get(V1, "ippools", "", "default-ipv4-ippool").unwrap();
    assert_eq!((&stored["apiVersion"], &stored["spec"]["blockSize"]), (&json!(V1), &json!(26)));
    let yaml = b.out("get ippool default-ipv4-ippool -o yaml");
    let ran = b.run_with("apply -f -", &yaml.replace("ipipMode: Always", "ipipMode: Never"));
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = b.run_with("apply -f -", &yaml);
    assert!(ran.err.contains("update conflict: IPPool(default-ipv4-ippool)"), "{ran:?}");
    assert_eq!(server.get(V1, "ippools", "", "default-ipv4-ippool").unwrap()["spec"]["ipipMode"], "Never");
    let block = json!({"apiVersion": V1, "kind": "IPAMBlock", "metadata": {"name": "10-244-0-0-30"}, "spec": {"cidr": "10.244.0.0/30", "affinity": "host:n1",
        "allocations": [null, null, null, null], "attributes": [], "unallocated": [0, 1, 2, 3], "deleted": false, "strictAffinity": false,
        "sequenceNumber": 1, "sequenceNumberForAllocation": {}}});
    let affinity = json!({"apiVersion": V1, "kind": "BlockAffinity", "metadata": {"name": "n1-10-244-0-0-30"},
        "spec": {"cidr": "10.244.0.0/30", "node": "n1", "state": "confirmed", "deleted": "false"}});
    server.put_all([block, affinity]);
    assert_eq!(b.out("delete ippool default-ipv4-ippool"), "Successfully deleted 1 'IPPool' resource(s)\n");
    assert!(
        server.all(V1, "ippools").is_empty() && server.all(V1, "ipamblocks").is_empty() && server.all(V1, "blockaffinities").is_empty()
    );
}

#[test]
fn a_node_is_its_annotations() {
    let server = server();
    let b = Bench::kubernetes(&server);
    let name = "master-c3.myk8s.example.com";
    let patch = r#"{"spec":{"bgp":{"routeReflectorClusterID":"244.0.0.1","asNumber":64600}},"metadata":{"labels":{"rr":"true"}}}"#;
    let ran = b.run_words(&["patch", "node", name, "-p", patch], "");
    assert_eq!(ran.out, "Successfully patched 1 'Node' resource\n", "{ran:?}");
    let stored = server.get("v1", "nodes", "", name).unwrap();
    let annotations = &stored["metadata"]["annotations"];
    assert_eq!(
        (&annotations["projectcalico.org/RouteReflectorClusterID"], &annotations["projectcalico.org/ASNumber"]),
        (&json!("244.0.0.1"), &json!("64600"))
    );
    assert_eq!((&annotations["other"], &annotations["projectcalico.org/labels"]), (&json!("stays"), &json!("{\"rr\":\"true\"}")));
    assert_eq!((&stored["metadata"]["labels"], &stored["spec"]["podCIDRs"]), (&json!({"zone": "a"}), &json!(["10.1.0.0/24"])));
    let shown: Value = serde_json::from_str(&b.out(&format!("get node {name} -o json"))).unwrap();
    assert_eq!(shown["metadata"]["labels"], json!({"rr": "true", "zone": "a"}));
    let ran = b.run_with("apply -f -", &shown.to_string());
    assert_eq!((ran.code, ran.out.as_str()), (0, "Successfully applied 1 'Node' resource(s)\n"), "{ran:?}");
    assert_eq!(server.get("v1", "nodes", "", name).unwrap()["metadata"]["annotations"], *annotations);
    for (line, stdin, want) in [
        (
            "create -f -",
            shown.to_string().replace("master", "other"),
            "operation Create is not supported on Node(other-c3.myk8s.example.com): Kubernetes manages it",
        ),
        ("apply -f -", shown.to_string().replace("master", "other"), "resource does not exist: Node(other-c3.myk8s.example.com)"),
        ("delete node x", String::new(), "operation Delete is not supported on Node(x): Kubernetes manages it"),
        ("delete wep x", String::new(), "operation Delete is not supported on WorkloadEndpoint(default/x)"),
    ] {
        let ran = b.run_with(line, &stdin);
        assert!(ran.code == 1 && ran.err.contains(want), "{line}: {ran:?}");
    }
}

/// Clusters with the older definitions store a policy of the default tier under `default.NAME`.
#[test]
fn policies_are_found_by_either_name() {
    let server = server();
    let b = Bench::kubernetes(&server);
    let policy = |name: &str| json!({"apiVersion": V1, "kind": "GlobalNetworkPolicy", "metadata": {"name": name}, "spec": {"order": 1, "selector": "all()"}});
    server.put(policy("default.deny"));
    assert!(b.out("get gnp deny -o yaml").contains("name: default.deny\n"));
    let own = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: deny}\nspec: {order: 5}\n";
    assert_eq!(b.run_with("apply -f -", own).code, 0);
    assert_eq!(server.get(V1, "globalnetworkpolicies", "", "default.deny").unwrap()["spec"]["order"], json!(5));
    assert_eq!(b.out("delete gnp deny"), "Successfully deleted 1 'GlobalNetworkPolicy' resource(s)\n");
    assert!(server.all(V1, "globalnetworkpolicies").is_empty());
}

#[test]
fn refusals_of_the_server_are_passed_on() {
    let server = server();
    server.forbid("ippools");
    let b = Bench::kubernetes(&server);
    let e = b.err("get ippool");
    assert!(e.starts_with("tortie: ") && e.contains("no permission"), "{e}");
    server.stop();
    let e = b.err("get bgpconfig");
    assert!(e.starts_with("tortie: ") && e.len() > 20, "{e}");
}

#[test]
fn a_context_of_the_kubeconfig_is_chosen_by_name() {
    let (server, other) = (server(), ApiServer::start());
    other.put_all([json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "elsewhere"}, "spec": {}})]);
    let b = Bench::kubernetes(&server);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = |dir: &std::path::Path, s: &ApiServer| {
        let text = std::fs::read_to_string(s.kubeconfig(dir, None)).unwrap();
        let from = &text[text.find("server: ").unwrap()..];
        from[..from.find("}}").unwrap()].to_owned()
    };
    let context = |name: &str, cluster: &str| {
        (
            format!(
                "- {{name: {name}, cluster: {{{cluster}}}}}
"
            ),
            format!(
                "- {{name: {name}, context: {{cluster: {name}, user: u}}}}
"
            ),
        )
    };
    let (here, there) = (context("here", &cluster(one.path(), &server)), context("there", &cluster(two.path(), &other)));
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: here
users: [{{name: u, user: {{}}}}]
clusters:
{}{}contexts:
{}{}",
        here.0, there.0, here.1, there.1
    );
    let file = b.write("both", &text);
    let config = b.write("calicoctl.cfg", &format!("kind: CalicoAPIConfig\nspec: {{datastoreType: kubernetes, kubeconfig: {file}}}\n"));
    assert!(b.out(&format!("get node -o name -c {config}")).contains("master-c3"));
    assert!(b.out(&format!("get node -o name -c {config} --context here")).contains("master-c3"));
    assert_eq!(b.out(&format!("get node -o name -c {config} --context there")).trim(), "node/elsewhere");
    let e = b.err(&format!("get node -c {config} --context nowhere"));
    assert!(e.contains("there is no context \"nowhere\"; it has here, there"), "{e}");
    let folder = Bench::new("");
    assert!(folder.err("get node --context here").contains("--context here: contexts are a kubeconfig's"));
}
