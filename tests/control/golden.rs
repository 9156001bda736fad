//! Routing tables of published Calico walkthroughs, as desired routes. Every interface name in them follows
//! from namespace and pod, every block and address is as printed there.

use crate::support::*;

/// A two-node kubeadm cluster: controlplane and node01, pool 192.168.0.0/16.
fn kubeadm(mode: &str, master: &str) -> String {
    let pod = |name: &str, namespace: &str, node: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{nodeName: {node}}}\n\
             status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n"
        )
    };
    pool("default-ipv4-ippool", "192.168.0.0/16", mode)
        + &node("controlplane", &format!("{master}/16"), Some("192.168.49.64"))
        + &node("node01", "172.17.0.40/16", Some("192.168.196.128"))
        + &block("192.168.49.64/26", "host:controlplane", &[("192.168.49.65", "controlplane"), ("192.168.49.66", "controlplane")])
        + &block("192.168.196.128/26", "host:node01", &[("192.168.196.131", "node01")])
        + &pod("coredns-66bff467f8-52tkd", "kube-system", "controlplane", "192.168.49.65")
        + &pod("busybox-deployment-8c7dc8548-x6ljh", "default", "controlplane", "192.168.49.66")
        + &pod("busybox-deployment-8c7dc8548-btnkv", "default", "node01", "192.168.196.131")
}

/// What a table shows besides the demos' lines: the pool's drop and this host's own addresses.
fn with_own(lines: &[&str], pool: &str, own: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = lines.iter().map(|l| l.to_string()).collect();
    all.push(format!("{pool} drop"));
    all.extend(own.iter().map(|a| format!("{a}/32 host")));
    all.sort();
    all
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn master_in_ipip_then_never_then_vxlan() {
    let local = ["192.168.49.64/26 blackhole", "192.168.49.65/32 local dev calic22dbe57533", "192.168.49.66/32 local dev cali9861acf9f07"];
    for (mode, master, remote) in [
        ("ipipMode: Always, vxlanMode: Never", "172.17.0.32", "192.168.196.128/26 ipip via 172.17.0.40"),
        ("ipipMode: Never, vxlanMode: Never", "172.17.0.32", "192.168.196.128/26 direct via 172.17.0.40"),
        ("ipipMode: Never, vxlanMode: Always", "172.17.0.15", "192.168.196.128/26 vxlan via 192.168.196.128"),
    ] {
        let d = desired(&kubeadm(mode, master), "controlplane");
        let want = with_own(&[local[0], local[1], local[2], remote], "192.168.0.0/16", &[master, "192.168.49.64"]);
        assert_eq!(sorted(table(&d)), want, "{mode}");
        assert!(d.warnings.is_empty(), "{:?}", d.warnings);
    }
}

#[test]
fn node01_sees_the_mirror_image() {
    let d = desired(&kubeadm("ipipMode: Always", "172.17.0.32"), "node01");
    let lines = ["192.168.49.64/26 ipip via 172.17.0.32", "192.168.196.128/26 blackhole", "192.168.196.131/32 local dev calib673e730d42"];
    assert_eq!(sorted(table(&d)), with_own(&lines, "192.168.0.0/16", &["172.17.0.40", "192.168.196.128"]));
}

#[test]
fn the_peers_vtep_has_the_printed_mac() {
    let d = desired(&kubeadm("vxlanMode: Always", "172.17.0.15"), "controlplane");
    let vtep = &d.vteps["node01"];
    assert_eq!((vtep.mac.to_string(), vtep.tunnel_address.to_string()), ("66:aa:99:2f:dc:24".into(), "192.168.196.128".into()));
    let this = d.node.unwrap();
    assert_eq!((this.tunnel_address.unwrap().to_string(), this.vni.get(), this.vxlan_port), ("192.168.49.64".into(), 4096, 4789));
    assert!(this.vxlan_enabled && !this.ipip_enabled);
}

#[test]
fn worker3_c1_with_ipip_always() {
    let name = |n: &str| format!("{n}.myk8s.example.com");
    let mut text = pool("default-ipv4-ippool", "10.244.0.0/16", "ipipMode: Always, vxlanMode: Never, natOutgoing: true");
    for (n, address, cidr) in [
        ("master-c1", "192.168.3.125", "10.244.174.192/26"),
        ("worker1-c1", "192.168.3.126", "10.244.92.128/26"),
        ("worker2-c1", "192.168.3.127", "10.244.71.64/26"),
        ("worker3-c1", "192.168.3.128", "10.244.208.0/26"),
    ] {
        text += &node(&name(n), &format!("{address}/24"), None);
        text += &block(cidr, &format!("host:{}", name(n)), &[]);
    }
    text += &endpoint("client-6d96c457bc-4jrds", &name("worker3-c1"), "10.244.208.1");
    text += &endpoint("client-6d96c457bc-krmcv", &name("worker1-c1"), "10.244.92.131");
    text += &endpoint("nginx-deployment-66b6c48dd5-8wrxc", &name("worker1-c1"), "10.244.92.130");
    let lines = [
        "10.244.71.64/26 ipip via 192.168.3.127",
        "10.244.92.128/26 ipip via 192.168.3.126",
        "10.244.174.192/26 ipip via 192.168.3.125",
        "10.244.208.0/26 blackhole",
        "10.244.208.1/32 local dev cali573926084b2",
    ];
    assert_eq!(sorted(table(&desired(&text, &name("worker3-c1")))), with_own(&lines, "10.244.0.0/16", &["192.168.3.128"]));
    // The other side of the same capture: worker1-c1's `route -n`.
    let lines = [
        "10.244.71.64/26 ipip via 192.168.3.127",
        "10.244.92.128/26 blackhole",
        "10.244.92.130/32 local dev calia3c74f30c95",
        "10.244.92.131/32 local dev caliab181ed4113",
        "10.244.174.192/26 ipip via 192.168.3.125",
        "10.244.208.0/26 ipip via 192.168.3.128",
    ];
    assert_eq!(sorted(table(&desired(&text, &name("worker1-c1")))), with_own(&lines, "10.244.0.0/16", &["192.168.3.126"]));
}

#[test]
fn worker2_k8s_with_vxlan_cross_subnet_on_one_subnet() {
    let name = |n: &str| format!("{n}.myk8s.example.com");
    let mut text = pool("default-ipv4-ippool", "10.244.0.0/16", "vxlanMode: CrossSubnet, natOutgoing: true");
    for (n, address, cidr, tunnel) in [
        ("master1-k8s", "192.168.3.141", "10.244.218.64/26", "10.244.218.64"),
        ("worker1-k8s", "192.168.3.144", "10.244.56.64/26", "10.244.56.64"),
        ("worker2-k8s", "192.168.3.145", "10.244.238.192/26", "10.244.238.192"),
        ("worker3-k8s", "192.168.3.146", "10.244.202.128/26", "10.244.202.128"),
    ] {
        text += &node(&name(n), &format!("{address}/24"), Some(tunnel));
        text += &block(cidr, &format!("host:{}", name(n)), &[(tunnel, &name(n))]);
    }
    text += &endpoint("client-6d96c457bc-prsd2", &name("worker2-k8s"), "10.244.238.197");
    text += &endpoint("client-6d96c457bc-v7qh4", &name("worker2-k8s"), "10.244.238.198");
    let d = desired(&text, &name("worker2-k8s"));
    let lines = [
        "10.244.56.64/26 direct via 192.168.3.144",
        "10.244.202.128/26 direct via 192.168.3.146",
        "10.244.218.64/26 direct via 192.168.3.141",
        "10.244.238.192/26 blackhole",
        "10.244.238.197/32 local dev cali5026b88a962",
        "10.244.238.198/32 local dev cali32ee8688a3d",
    ];
    assert_eq!(sorted(table(&d)), with_own(&lines, "10.244.0.0/16", &["192.168.3.145", "10.244.238.192"]));
    assert_eq!(d.node.unwrap().vtep_mac.to_string(), "66:b6:a5:9d:e1:c9");
    // A node elsewhere is reached in VXLAN, at the same time.
    text += &node("far", "192.168.4.9/24", Some("10.244.1.0"));
    text += &block("10.244.1.0/26", "host:far", &[("10.244.1.0", "far")]);
    assert_eq!(line(&desired(&text, &name("worker2-k8s")), "10.244.1.0/26"), "10.244.1.0/26 vxlan via 10.244.1.0");
}
