//! Tables and texts as they are documented for calicoctl, byte for byte.

use crate::support::Bench;

pub const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: default-ipv4-ippool}\nspec: {cidr: 10.244.0.0/16, ipipMode: Always, natOutgoing: true}\n";

#[test]
fn ippools() {
    let b = Bench::new(POOL);
    assert_eq!(
        b.out("get ippool -o wide"),
        "NAME                  CIDR            NAT    IPIPMODE   VXLANMODE   DISABLED   DISABLEBGPEXPORT   SELECTOR\n\
         default-ipv4-ippool   10.244.0.0/16   true   Always     Never       false      false              all()\n\n"
    );
    b.write("datastore/cluster.yaml", &POOL.replace("ipipMode", "vxlanMode"));
    assert_eq!(
        b.out("get ippool -o wide"),
        "NAME                  CIDR            NAT    IPIPMODE   VXLANMODE   DISABLED   DISABLEBGPEXPORT   SELECTOR\n\
         default-ipv4-ippool   10.244.0.0/16   true   Never      Always      false      false              all()\n\n"
    );
    assert_eq!(
        b.out("get pools --allow-version-mismatch"),
        "NAME                  CIDR            SELECTOR\ndefault-ipv4-ippool   10.244.0.0/16   all()\n\n"
    );
    assert_eq!(
        b.out("get ippool -o custom-columns=NAME,ASSIGNMENTMODE"),
        "NAME                  ASSIGNMENTMODE\ndefault-ipv4-ippool   Automatic\n\n"
    );
    assert_eq!(b.out("get ippool -o name"), "ippool/default-ipv4-ippool\n");
}

#[test]
fn nodes() {
    let node = |name: &str, ip: &str| {
        format!(
            "---\n{{apiVersion: projectcalico.org/v3, kind: Node, metadata: {{name: {name}.myk8s.example.com}}, spec: {{bgp: {{ipv4Address: {ip}/24}}}}}}\n"
        )
    };
    let core = "---\n{apiVersion: v1, kind: Node, metadata: {name: worker3-c3.myk8s.example.com, annotations: {projectcalico.org/IPv4Address: 192.168.3.113/24}}}\n";
    let all = node("worker2-c3", "192.168.3.112") + &node("master-c3", "192.168.3.110") + &node("worker1-c3", "192.168.3.111") + core;
    let b = Bench::new(&all);
    assert_eq!(
        b.out("get node -o wide"),
        "NAME                           ASN       IPV4               IPV6\n\
         master-c3.myk8s.example.com    (64512)   192.168.3.110/24\n\
         worker1-c3.myk8s.example.com   (64512)   192.168.3.111/24\n\
         worker2-c3.myk8s.example.com   (64512)   192.168.3.112/24\n\
         worker3-c3.myk8s.example.com   (64512)   192.168.3.113/24\n\n"
    );
    b.write(
        "datastore/bgp.yaml",
        "{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {asNumber: 65001}}",
    );
    assert!(b.out("get node -o wide").contains("(65001)"));
    assert!(b.out("get bgpconfig").ends_with("default                 -             65001\n\n"), "{}", b.out("get bgpconfig"));
}

fn pod(namespace: &str, name: &str, node: &str, ip: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{nodeName: {node}}}, status: {{podIP: {ip}}}}}\n"
    )
}

#[test]
fn workload_endpoints() {
    let b = Bench::new("");
    assert_eq!(b.out("get workloadendpoints"), "WORKLOAD   NODE   NETWORKS   INTERFACE\n\n");
    let pods = [
        ("client-6d96c457bc-bd2p9", "worker1-k8s.myk8s.example.com", "10.244.56.65"),
        ("client-6d96c457bc-c4g2d", "worker1-k8s.myk8s.example.com", "10.244.56.66"),
        ("client-6d96c457bc-nn2m6", "worker3-k8s.myk8s.example.com", "10.244.202.130"),
        ("client-6d96c457bc-prsd2", "worker2-k8s.myk8s.example.com", "10.244.238.195"),
        ("client-6d96c457bc-rb45h", "worker3-k8s.myk8s.example.com", "10.244.202.131"),
        ("client-6d96c457bc-v7qh4", "worker2-k8s.myk8s.example.com", "10.244.238.194"),
        ("nginx-deployment-66b6c48dd5-hfqkp", "worker1-k8s.myk8s.example.com", "10.244.56.67"),
    ];
    let all: String = pods.iter().map(|(name, node, ip)| pod("default", name, node, ip)).collect();
    b.write("datastore/pods.yaml", &(all + &pod("kube-system", "coredns-66bff467f8-52tkd", "n1", "10.244.218.65")));
    assert_eq!(
        b.out("get workloadendpoints"),
        "WORKLOAD                            NODE                            NETWORKS            INTERFACE\n\
         client-6d96c457bc-bd2p9             worker1-k8s.myk8s.example.com   10.244.56.65/32     cali3745790aa7e\n\
         client-6d96c457bc-c4g2d             worker1-k8s.myk8s.example.com   10.244.56.66/32     cali125b553761d\n\
         client-6d96c457bc-nn2m6             worker3-k8s.myk8s.example.com   10.244.202.130/32   calibe7f2613b91\n\
         client-6d96c457bc-prsd2             worker2-k8s.myk8s.example.com   10.244.238.195/32   cali5026b88a962\n\
         client-6d96c457bc-rb45h             worker3-k8s.myk8s.example.com   10.244.202.131/32   cali6dcb580d758\n\
         client-6d96c457bc-v7qh4             worker2-k8s.myk8s.example.com   10.244.238.194/32   cali32ee8688a3d\n\
         nginx-deployment-66b6c48dd5-hfqkp   worker1-k8s.myk8s.example.com   10.244.56.67/32     calieae43b83db8\n\n"
    );
    assert_eq!(
        b.out("get wep -n kube-system"),
        "NAMESPACE     WORKLOAD                   NODE   NETWORKS           INTERFACE\nkube-system   coredns-66bff467f8-52tkd   n1     10.244.218.65/32   calic22dbe57533\n\n"
    );
    assert_eq!(b.out("get wep -A -o name").lines().count(), 8);
    let wide = b.out("get wep n1-k8s-coredns--66bff467f8--52tkd-eth0 -n kube-system -o wide");
    assert!(wide.contains("NAME ") && wide.contains("   PROFILES          NATS\n") && wide.contains("kns.kube-system\n"), "{wide}");
}

#[test]
fn what_writing_verbs_say() {
    let b = Bench::new("");
    b.write("ippool.yaml", POOL);
    assert_eq!(b.out("apply -f {}/ippool.yaml"), "Successfully applied 1 'IPPool' resource(s)\n");
    assert_eq!(b.out("apply -f {}/ippool.yaml"), "Successfully applied 1 'IPPool' resource(s)\n");
    assert_eq!(b.out("replace -f {}/ippool.yaml"), "Successfully replaced 1 'IPPool' resource(s)\n");
    assert_eq!(b.out("create --skip-exists -f {}/ippool.yaml"), "Successfully created 1 'IPPool' resource(s)\n");
    let felix = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {}\n";
    let ran =
        b.run_with("create -f -", &format!("{felix}---\n{}", POOL.replace("default-ipv4-ippool", "other").replace("10.244", "10.245")));
    assert_eq!((ran.code, ran.out.as_str()), (0, "Successfully created 2 resource(s)\n"), "{ran:?}");
    let patch = ["patch", "felixconfiguration", "default", "--patch", r#"{"spec":{"prometheusMetricsEnabled": true}}"#];
    let ran = b.run_words(&patch, "");
    assert_eq!((ran.code, ran.out.as_str()), (0, "Successfully patched 1 'FelixConfiguration' resource\n"), "{ran:?}");
    assert!(b.out("get felixConfiguration default -o yaml").ends_with("spec:\n  prometheusMetricsEnabled: true\n"));
    let operations =
        r#"[{"op":"add","path":"/spec/logSeverityScreen","value":"Info"},{"op":"remove","path":"/spec/prometheusMetricsEnabled"}]"#;
    for (form, patch) in
        [("json", operations), ("merge", r#"{"spec":{"wireguardMTU":1400}}"#), ("strategic", r#"{"spec":{"vxlanMTU":1300}}"#)]
    {
        let ran = b.run_words(&["patch", "felixconfiguration", "default", "--type", form, "-p", patch], "");
        assert_eq!((ran.code, ran.out.as_str()), (0, "Successfully patched 1 'FelixConfiguration' resource\n"), "{ran:?}");
    }
    let yaml = b.out("get felixConfiguration default -o yaml");
    assert!(yaml.ends_with("spec:\n  logSeverityScreen: Info\n  vxlanMTU: 1300\n  wireguardMTU: 1400\n"), "{yaml}");
    let ran = b.run_words(&["patch", "felixconfiguration", "default", "-t", "json", "-p", r#"[{"op":"remove","path":"/spec/x"}]"#], "");
    assert!(ran.code == 1 && ran.err.contains("FelixConfiguration(default): the patch does not fit: "), "{ran:?}");
    assert_eq!(b.out("delete ippool other"), "Successfully deleted 1 'IPPool' resource(s)\n");
    assert_eq!(b.out("delete -s ippool other default-ipv4-ippool"), "Successfully deleted 2 'IPPool' resource(s)\n");
    assert_eq!(b.out("get ippool"), "NAME   CIDR   SELECTOR\n\n");
}

#[test]
fn profiles_of_namespaces() {
    let b = Bench::new(
        "{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {team: a}}}\n---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: default}}\n",
    );
    assert_eq!(
        b.out("get profile -o wide"),
        "NAME                          LABELS\nkns.default                   pcns.projectcalico.org/name=default,pcns.team=a\nksa.default.web               pcsa.projectcalico.org/name=web\nprojectcalico-default-allow\n\n"
    );
}
