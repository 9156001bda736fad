//! `tortie ipam`, and `tortie version`.

use crate::golden::POOL;
use crate::support::Bench;
use ipnet::Ipv4Net;
use serde_json::{Value, json};

/// A block of a node with its tunnel address and some pods, in the stored form.
fn block(cidr: &str, node: &str, pods: &[&str]) -> String {
    let net: Ipv4Net = cidr.parse().unwrap();
    let name = cidr.replace(['.', '/'], "-");
    let mut allocations: Vec<Value> = vec![Value::Null; 1 << (32 - net.prefix_len())];
    let mut attributes =
        vec![json!({"handle_id": format!("vxlan-tunnel-addr-{node}"), "secondary": {"node": node, "type": "vxlanTunnelAddress"}})];
    for pod in pods {
        attributes
            .push(json!({"handle_id": format!("k8s-pod-network.{pod}"), "secondary": {"namespace": "default", "node": node, "pod": pod}}));
    }
    for (i, slot) in allocations.iter_mut().enumerate().take(attributes.len()) {
        *slot = json!(i);
    }
    let free: Vec<usize> = (attributes.len()..allocations.len()).collect();
    let block = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock", "metadata": {"name": name},
        "spec": {"cidr": cidr, "affinity": format!("host:{node}"), "allocations": allocations, "attributes": attributes, "unallocated": free,
            "deleted": false, "strictAffinity": false, "sequenceNumber": 1, "sequenceNumberForAllocation": {}}});
    let affinity = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity", "metadata": {"name": format!("{node}-{name}")},
        "spec": {"cidr": cidr, "node": node, "state": "confirmed", "deleted": "false"}});
    format!("---\n{block}\n---\n{affinity}\n")
}

fn cluster() -> String {
    let blocks = [
        ("10.244.56.64/26", "worker1-k8s"),
        ("10.244.238.192/26", "worker2-k8s"),
        ("10.244.202.128/26", "worker3-k8s"),
        ("10.244.218.64/26", "master1-k8s"),
    ];
    let blocks: String = blocks.iter().map(|(cidr, node)| block(cidr, node, &["a", "b", "c"])).collect();
    format!("{POOL}{blocks}")
}

#[test]
fn utilization_as_documented() {
    let b = Bench::new(&cluster());
    assert_eq!(
        b.out("ipam show --show-blocks"),
        "+----------+-------------------+-----------+------------+--------------+\n\
         | GROUPING |       CIDR        | IPS TOTAL | IPS IN USE |   IPS FREE   |\n\
         +----------+-------------------+-----------+------------+--------------+\n\
         | IP Pool  | 10.244.0.0/16     |     65536 | 16 (0%)    | 65520 (100%) |\n\
         | Block    | 10.244.202.128/26 |        64 | 4 (6%)     | 60 (94%)     |\n\
         | Block    | 10.244.218.64/26  |        64 | 4 (6%)     | 60 (94%)     |\n\
         | Block    | 10.244.238.192/26 |        64 | 4 (6%)     | 60 (94%)     |\n\
         | Block    | 10.244.56.64/26   |        64 | 4 (6%)     | 60 (94%)     |\n\
         +----------+-------------------+-----------+------------+--------------+\n"
    );
    assert_eq!(b.out("ipam show").lines().count(), 5);
    b.write(
        "datastore/r.yaml",
        "{apiVersion: projectcalico.org/v3, kind: IPReservation, metadata: {name: r}, spec: {reservedCIDRs: [10.244.56.120]}}",
    );
    assert!(b.out("ipam show").contains("| IPS IN USE | IPS RESERVED |   IPS FREE   |"), "{}", b.out("ipam show"));
}

#[test]
fn who_has_an_address() {
    let b = Bench::new(&cluster());
    assert_eq!(
        b.out("ipam show --ip=10.244.56.65"),
        "IP 10.244.56.65 is in use\nHandle ID: k8s-pod-network.a\nActive Owner Attributes:\n  namespace: default\n  node: worker1-k8s\n  pod: a\n"
    );
    assert_eq!(b.out("ipam show --ip=10.244.56.100"), "10.244.56.100 is not assigned\n");
    assert_eq!(b.out("ipam show --ip=192.0.2.1"), "192.0.2.1 is not assigned\n");
    assert_eq!(b.run("ipam show --ip=10.244.56").code, 2);
    assert_eq!(b.run("ipam show --ip=10.244.56.1 --show-blocks").code, 2);
}

#[test]
fn addresses_are_released_unless_they_are_used() {
    let b = Bench::new(&cluster());
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: default}, spec: {nodeName: worker1-k8s}, status: {podIP: 10.244.56.65}}\n---\n\
               {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: worker1-k8s}, spec: {ipv4VXLANTunnelAddr: 10.244.56.64}}\n";
    b.write("datastore/pod.yaml", pod);
    assert_eq!(
        b.err("ipam release --ip=10.244.56.65"),
        "tortie: IP address 10.244.56.65 is in use by default/a; --force releases it nevertheless\n"
    );
    assert!(b.err("ipam release --ip=10.244.56.64").contains("is in use by a tunnel of node worker1-k8s"));
    assert_eq!(b.out("ipam release --ip=10.244.56.66"), "Successfully released IP address 10.244.56.66\n");
    assert_eq!(b.out("ipam show --ip=10.244.56.66"), "10.244.56.66 is not assigned\n");
    assert_eq!(b.err("ipam release --ip=10.244.56.66"), "tortie: IP address 10.244.56.66 is not assigned\n");
    assert_eq!(b.out("ipam release --ip=10.244.56.65 --force"), "Successfully released IP address 10.244.56.65\n");
    assert!(b.out("ipam show --show-blocks").contains("| Block    | 10.244.56.64/26   |        64 | 2 (3%)     | 62 (97%)     |"));
}

#[test]
fn settings() {
    let b = Bench::new(POOL);
    let shown = b.out("ipam show --show-configuration");
    assert!(
        shown.starts_with("+--------------------+-------+\n|      PROPERTY      | VALUE |\n")
            && shown.contains("| StrictAffinity     | false |\n"),
        "{shown}"
    );
    assert_eq!(b.out("ipam configure --strictaffinity=true"), "Successfully set StrictAffinity to: true\n");
    assert_eq!(b.out("ipam configure --max-blocks-per-host=4"), "Successfully set MaxBlocksPerHost to: 4\n");
    let shown = b.out("ipam show --show-configuration");
    assert!(shown.contains("| StrictAffinity     | true  |\n") && shown.contains("| MaxBlocksPerHost   |     4 |\n"), "{shown}");
    assert_eq!(
        b.out("get ipamconfig -o wide"),
        "NAME      STRICTAFFINITY   AUTOALLOCATEBLOCKS   MAXBLOCKSPERHOST\ndefault   true             true                 4\n\n"
    );
    assert!(b.err("ipam configure").contains("at least one configuration option must be specified"));
    assert_eq!(b.run("ipam configure --strictaffinity=perhaps").code, 2);
}

#[test]
fn borrowed_addresses() {
    let foreign = block("10.244.0.0/30", "n1", &["a"])
        .replace("\"namespace\":\"default\",\"node\":\"n1\"", "\"namespace\":\"default\",\"node\":\"n2\"");
    let b = Bench::new(&format!("{POOL}{foreign}"));
    let shown = b.out("ipam show --show-borrowed");
    assert_eq!(
        shown,
        "+------------+----------------+---------------+-------------+------+--------------+\n\
         |     IP     | BORROWING-NODE |     BLOCK     | BLOCK OWNER | TYPE | ALLOCATED-TO |\n\
         +------------+----------------+---------------+-------------+------+--------------+\n\
         | 10.244.0.1 | n2             | 10.244.0.0/30 | n1          | pod  | default/a    |\n\
         +------------+----------------+---------------+-------------+------+--------------+\n"
    );
}

#[test]
fn check_tells_what_is_lost() {
    let b = Bench::new(&cluster());
    let ran = b.run("ipam check -o {}/report.json");
    assert!(ran.code == 1 && ran.out.starts_with("Checked 1 pools, 4 blocks, 4 affinities, "), "{ran:?}");
    assert!(ran.out.contains("10.244.56.65 is allocated to ") && ran.out.contains("\n  to do: "), "{ran:?}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(b.path("report.json")).unwrap()).unwrap();
    let count = report.as_array().unwrap().len();
    assert!(count > 0 && ran.out.ends_with(&format!("Check complete; found {count} problems.\n")), "{ran:?}");
    // What is reported is released, but for what has changed meanwhile.
    let leaked: Vec<&str> = report.as_array().unwrap().iter().filter_map(|r| r["leaked"]["address"].as_str()).collect();
    assert!(leaked.len() > 1 && leaked.contains(&"10.244.56.65"), "{report}");
    assert!(b.out("ipam release --ip=10.244.56.65").starts_with("Successfully released"));
    let said = b.out("ipam release --from-report={}/report.json");
    let want = format!(
        "Left as it is: 10.244.56.65, which is free by now, or in use, or given out anew\nReleased {} addresses\n",
        leaked.len() - 1
    );
    assert_eq!(said, want);
    for address in &leaked {
        assert_eq!(b.out(&format!("ipam show --ip={address}")), format!("{address} is not assigned\n"));
    }
    assert!(b.err("ipam release --from-report={}/nothing.json").contains("cannot read"));
    assert_eq!((b.run("ipam release").code, b.run("ipam release --ip=10.0.0.1 --from-report={}/report.json").code), (2, 2));
    let clean = Bench::new(POOL);
    assert_eq!(
        clean.out("ipam check"),
        "Checked 1 pools, 0 blocks, 0 affinities, 0 handles: 0 addresses in use\nCheck complete; found 0 problems.\n"
    );
}

#[test]
fn versions() {
    let info = "{apiVersion: projectcalico.org/v3, kind: ClusterInformation, metadata: {name: default}, spec: {calicoVersion: v3.33.0, clusterType: 'k8s,bgp', datastoreReady: true}}\n";
    let b = Bench::new(info);
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(b.out("version"), format!("Client Version:    v{own}\nCluster Version:   v3.33.0\nCluster Type:      k8s,bgp\n"));
    let ran = Bench::new("").run("version");
    assert_eq!((ran.code, ran.out), (1, format!("Client Version:    v{own}\n")));
    assert_eq!(ran.err, "tortie: Unable to retrieve Cluster Version or Type: resource does not exist: ClusterInformation(default)\n");
}
