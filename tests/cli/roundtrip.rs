//! What get prints is what apply takes, for every kind.

use crate::golden::POOL;
use crate::support::Bench;
use serde_json::Value;

fn object(kind: &str, name: &str, spec: &str) -> String {
    let namespace = if ["NetworkPolicy", "NetworkSet", "WorkloadEndpoint"].contains(&kind) { ", namespace: prod" } else { "" };
    format!("---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}{namespace}, labels: {{a: b}}}}\nspec: {spec}\n")
}

const KINDS: &[(&str, &str, &str)] = &[
    ("BGPConfiguration", "default", "{asNumber: 64513, nodeToNodeMeshEnabled: false, serviceClusterIPs: [{cidr: 10.96.0.0/12}]}"),
    ("BGPPeer", "tor", "{peerIP: 192.168.1.1, asNumber: 65000, nodeSelector: rack == 'a'}"),
    ("FelixConfiguration", "default", "{vxlanPort: 4790, reportingInterval: 30s}"),
    ("GlobalNetworkPolicy", "deny", "{order: 10, selector: all(), types: [Ingress], ingress: [{action: Deny}], tier: default}"),
    ("GlobalNetworkSet", "office", "{nets: [192.0.2.0/24, '2001:db8::/32']}"),
    ("HostEndpoint", "h1", "{node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}"),
    ("IPPool", "p", "{cidr: 10.9.0.0/16, vxlanMode: CrossSubnet}"),
    ("IPReservation", "r", "{reservedCIDRs: [10.9.0.0/28]}"),
    ("IPAMConfiguration", "default", "{strictAffinity: true, autoAllocateBlocks: true, maxBlocksPerHost: 3}"),
    (
        "NetworkPolicy",
        "allow",
        "{selector: role == 'db', types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [6379]}}], tier: default}",
    ),
    ("NetworkSet", "s", "{nets: [192.0.2.1]}"),
    ("Node", "n1", "{bgp: {ipv4Address: 192.168.3.1/24, asNumber: 64514}, ipv4VXLANTunnelAddr: 10.9.0.0}"),
    (
        "WorkloadEndpoint",
        "n1-k8s-web-eth0",
        "{node: n1, orchestrator: k8s, pod: web, endpoint: eth0, ipNetworks: [10.9.0.1/32], interfaceName: cali0}",
    ),
];

#[test]
fn get_and_apply_are_inverse() {
    let b = Bench::new("");
    for (kind, name, spec) in KINDS {
        let ran = b.run_with("apply -f -", &object(kind, name, spec));
        assert_eq!(ran.out, format!("Successfully applied 1 '{kind}' resource(s)\n"), "{ran:?}");
    }
    for (kind, name, _) in KINDS {
        for form in ["yaml", "json"] {
            let get = format!("get {kind} {name} -n prod -o {form}");
            let get = if b.run(&get).code == 0 { get } else { get.replace("-n prod ", "") };
            let first = b.out(&get);
            let ran = b.run_with("apply -f -", &first);
            assert_eq!(ran.out, format!("Successfully applied 1 '{kind}' resource(s)\n"), "{first}\n{ran:?}");
            assert_eq!(b.out(&get), first, "{kind}: what is applied unchanged does not change");
            let ran = b.run_with("replace -f -", &b.out(&get.replace(&format!(" {name}"), "").replace("json", "yaml")));
            assert_eq!(ran.code, 0, "a list: {ran:?}");
        }
    }
    let all: Vec<String> = KINDS.iter().map(|(kind, name, spec)| object(kind, name, spec)).collect();
    b.write("all.yaml", &all.concat());
    assert_eq!(b.out("delete -f {}/all.yaml"), format!("Successfully deleted {} resource(s)\n", KINDS.len()));
    assert_eq!(b.out("apply -f {}/all.yaml"), format!("Successfully applied {} resource(s)\n", KINDS.len()));
    assert_eq!(b.run("get -f {}/all.yaml -o name").out.lines().count(), KINDS.len());
}

#[test]
fn defaults_are_written() {
    let b = Bench::new("");
    b.write("p.yaml", &POOL.replace("spec: {cidr: 10.244.0.0/16, ipipMode: Always, natOutgoing: true}", "spec: {cidr: 10.244.0.0/16}"));
    b.out("create -f {}/p.yaml");
    let stored: Value = serde_json::from_str(&b.out("get ippool default-ipv4-ippool -o json")).unwrap();
    let want = serde_json::json!({"cidr": "10.244.0.0/16", "blockSize": 26, "nodeSelector": "all()", "ipipMode": "Never", "vxlanMode": "Never",
        "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic"});
    assert_eq!(stored["spec"], want);
    let file = std::fs::read_to_string(b.path("datastore/ippool_default-ipv4-ippool.yaml")).unwrap();
    assert!(file.contains("blockSize: 26") && file.contains("nodeSelector: all()"), "{file}");
    let ran = b.run_with("create -f -", &object("NetworkPolicy", "np", "{egress: [{action: Allow}]}"));
    assert_eq!(ran.code, 0, "{ran:?}");
    let yaml = b.out("get np np -n prod -o yaml");
    assert!(yaml.ends_with("spec:\n  egress:\n  - action: Allow\n  tier: default\n  types:\n  - Egress\n"), "{yaml}");
}

#[test]
fn folders_lists_and_export() {
    let b = Bench::new("");
    std::fs::create_dir_all(b.path("in/deeper")).unwrap();
    b.write("in/a.yaml", &object("IPPool", "a", "{cidr: 10.1.0.0/16}"));
    b.write(
        "in/deeper/b.json",
        r#"[{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"b"},"spec":{"cidr":"10.2.0.0/16"}}]"#,
    );
    b.write("in/note.txt", "not a manifest");
    assert_eq!(b.out("apply -f {}/in"), "Successfully applied 1 'IPPool' resource(s)\n");
    assert_eq!(b.out("apply -R -f {}/in"), "Successfully applied 2 'IPPool' resource(s)\n");
    let list = b.out("get ippool -o yaml");
    assert!(
        list.starts_with("apiVersion: projectcalico.org/v3\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: IPPool\n")
            && list.contains("\nkind: IPPoolList\n"),
        "{list}"
    );
    let two: Value = serde_json::from_str(&b.out("get ippool a b -o json")).unwrap();
    assert_eq!(two.as_array().map(Vec::len), Some(2));
    let exported = b.out("get ippool a -o yaml --export");
    assert!(!exported.contains("uid") && !exported.contains("resourceVersion") && exported.contains("name: a"), "{exported}");
    b.write("empty.yaml", "# nothing\n");
    assert_eq!(b.out("apply --skip-empty -f {}/empty.yaml"), "No resources specified\n");
}

/// The sequence of a mode change: get, edit, apply; a second apply of the same file is out of date.
#[test]
fn a_mode_is_changed_by_hand() {
    let b = Bench::new(&format!("# kept by hand\n{POOL}"));
    let file = b.write("ippool.yaml", &b.out("get ippool default-ipv4-ippool -o yaml").replace("ipipMode: Always", "ipipMode: Never"));
    assert_eq!(b.out(&format!("apply -f {file}")), "Successfully applied 1 'IPPool' resource(s)\n");
    let datastore = std::fs::read_to_string(b.path("datastore/cluster.yaml")).unwrap();
    assert!(datastore.starts_with("# kept by hand\n") && datastore.contains("ipipMode: Never"), "{datastore}");
    let e = b.err(&format!("apply -f {file}"));
    assert!(
        e.contains("Failed to apply 'IPPool' resource: [") && e.contains("update conflict: IPPool(default-ipv4-ippool): resourceVersion '"),
        "{e}"
    );
}
