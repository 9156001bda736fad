//! The rules of route calculation, one by one.

use crate::support::*;
use tortie::control::calc::Calculator;
use tortie::control::cluster::{Changed, Cluster};
use tortie::control::desired::{Desired, Route};

/// Nodes a, b, c on one subnet, each with a /26 block and VXLAN tunnel address; pool with `mode`.
fn three(mode: &str) -> String {
    let mut text = pool("p", "10.244.0.0/16", mode);
    for (i, n) in ["a", "b", "c"].iter().enumerate() {
        text += &node(n, &format!("10.0.0.{}/24", i + 1), Some(&format!("10.244.{i}.0")));
        text += &block(&format!("10.244.{i}.0/26"), &format!("host:{n}"), &[(&format!("10.244.{i}.0"), n)]);
    }
    text
}

/// The text with the block of this CIDR replaced.
fn replace_block(text: &str, cidr: &str, new: &str) -> String {
    let marker = format!("spec: {{cidr: {cidr},");
    let docs: Vec<&str> = text.split_inclusive("\n").collect::<Vec<_>>();
    let mut out = String::new();
    for doc in docs {
        out += if doc.contains(&marker) && doc.contains("IPAMBlock") { new.trim_start_matches("---\n") } else { doc };
    }
    assert_ne!(out, text);
    out
}

#[test]
fn a_borrowed_address_goes_to_its_borrower_in_every_view() {
    let text = three("vxlanMode: Always");
    let text = replace_block(
        &text,
        "10.244.1.0/26",
        &block("10.244.1.0/26", "host:b", &[("10.244.1.0", "b"), ("10.244.1.9", "c"), ("10.244.1.10", "b")]),
    );
    let text = text + &endpoint("lent", "c", "10.244.1.9");
    // A third node: around the block's own route.
    let a = desired(&text, "a");
    assert_eq!(line(&a, "10.244.1.0/26"), "10.244.1.0/26 vxlan via 10.244.1.0");
    assert_eq!(line(&a, "10.244.1.9/32"), "10.244.1.9/32 vxlan via 10.244.2.0");
    assert!(!table(&a).iter().any(|l| l.starts_with("10.244.1.10/32")));
    // The owner: around its own blackhole.
    let b = desired(&text, "b");
    assert_eq!(line(&b, "10.244.1.0/26"), "10.244.1.0/26 blackhole");
    assert_eq!(line(&b, "10.244.1.9/32"), "10.244.1.9/32 vxlan via 10.244.2.0");
    // The borrower: its own endpoint.
    assert!(line(&desired(&text, "c"), "10.244.1.9/32").starts_with("10.244.1.9/32 local dev cali"));
}

#[test]
fn a_borrowed_address_without_its_endpoint_does_not_loop() {
    let text = replace_block(&three("ipipMode: Always"), "10.244.1.0/26", &block("10.244.1.0/26", "host:b", &[("10.244.1.9", "a")]));
    assert_eq!(line(&desired(&text, "a"), "10.244.1.9/32"), "10.244.1.9/32 drop node a");
}

#[test]
fn a_borrowed_tunnel_address_is_routed_in_the_tunnel_and_is_the_hosts_at_home() {
    // c's tunnel address comes from b's block, and CrossSubnet would else go direct.
    let mut text = three("vxlanMode: CrossSubnet").replace("ipv4VXLANTunnelAddr: 10.244.2.0", "ipv4VXLANTunnelAddr: 10.244.1.7");
    text = replace_block(&text, "10.244.1.0/26", &block("10.244.1.0/26", "host:b", &[("10.244.1.7", "c")]));
    let a = desired(&text, "a");
    assert_eq!(line(&a, "10.244.1.7/32"), "10.244.1.7/32 vxlan via 10.244.1.7");
    assert_eq!(line(&a, "10.244.1.0/26"), "10.244.1.0/26 direct via 10.0.0.2");
    assert_eq!(line(&desired(&text, "c"), "10.244.1.7/32"), "10.244.1.7/32 host");
}

#[test]
fn blocks_of_one_address() {
    let text = three("vxlanMode: CrossSubnet")
        + &block("10.244.9.1/32", "host:a", &[("10.244.9.1", "a")])
        + &block("10.244.9.2/32", "host:b", &[("10.244.9.2", "b")])
        + &block("10.244.9.3/32", "host:c", &[("10.244.9.3", "c")])
        + &endpoint("pod", "a", "10.244.9.1");
    let text = text.replace("ipv4VXLANTunnelAddr: 10.244.2.0", "ipv4VXLANTunnelAddr: 10.244.9.3");
    let a = desired(&text, "a");
    assert!(line(&a, "10.244.9.1/32").contains(" local "), "no blackhole over it");
    assert_eq!(line(&a, "10.244.9.2/32"), "10.244.9.2/32 direct via 10.0.0.2");
    assert_eq!(line(&a, "10.244.9.3/32"), "10.244.9.3/32 vxlan via 10.244.9.3", "a tunnel address in a pool for tunnels");
    // Without an endpoint the local one has no route but the pool's.
    let without = text.replace(&endpoint("pod", "a", "10.244.9.1"), "");
    assert_eq!(lookup(&desired(&without, "a").routes, "10.244.9.1"), Some(&Route::Drop { node: None }));
}

#[test]
fn virtual_and_absent_affinity_route_addresses_only() {
    for affinity in ["virtual:load-balancer", ""] {
        let text = three("ipipMode: Always") + &block("10.244.7.0/26", affinity, &[("10.244.7.3", "b"), ("10.244.7.4", "")]);
        let a = desired(&text, "a");
        assert_eq!(line(&a, "10.244.7.3/32"), "10.244.7.3/32 ipip via 10.0.0.2");
        assert!(!table(&a).iter().any(|l| l.starts_with("10.244.7.0/26") || l.starts_with("10.244.7.4/32")));
        assert_eq!(warnings(&a), ["IPAMBlock 10-244-7-0-26: 1 allocations do not name their node; they have no route of their own"]);
    }
}

#[test]
fn deleted_blocks_and_orphan_affinities_are_no_routes() {
    let affinity = |name: &str, node: &str, cidr: &str, rest: &str| {
        format!(
            "---\n{{apiVersion: projectcalico.org/v3, kind: BlockAffinity, metadata: {{name: {name}}}, spec: {{node: {node}, cidr: {cidr}, {rest}}}}}\n"
        )
    };
    let gone = block("10.244.8.0/26", "host:b", &[("10.244.8.1", "c")]).replace("deleted: false", "deleted: true");
    let text = three("ipipMode: Always")
        + &gone
        + &affinity("pending", "b", "10.244.10.0/26", "state: pending")
        + &affinity("deleted", "b", "10.244.11.0/26", "state: confirmed, deleted: true")
        + &affinity("orphan", "b", "10.244.12.0/26", "state: confirmed")
        + &affinity("disputed", "c", "10.244.1.0/26", "state: confirmed")
        + &affinity("right", "b", "10.244.1.0/26", "state: confirmed");
    let a = desired(&text, "a");
    for ip in ["10.244.8.1", "10.244.10.1", "10.244.11.1", "10.244.12.1"] {
        assert_eq!(lookup(&a.routes, ip), Some(&Route::Drop { node: None }), "{ip}");
    }
    assert_eq!(line(&a, "10.244.1.0/26"), "10.244.1.0/26 ipip via 10.0.0.2");
    assert_eq!(warnings(&a), ["BlockAffinity orphan: node b claims 10.244.12.0/26, but there is no such block; it is not routed"]);
    let parties = ["node b by the IPAMBlock's affinity", "node c by BlockAffinity disputed"];
    assert_eq!(conflicts(&a), [("block", "10.244.1.0/26", parties.map(String::from).to_vec())]);
}

#[test]
fn two_blocks_of_one_cidr_are_named_with_their_owners() {
    let first = block("10.244.1.0/26", "host:b", &[]);
    let text = three("ipipMode: Always") + &block("10.244.1.0/26", "host:c", &[]).replace("name: 10-244-1-0-26", "name: other");
    assert!(three("ipipMode: Always").contains("10.244.1.0/26") && first.contains("name: 10-244-1-0-26"));
    let a = desired(&text, "a");
    assert_eq!(line(&a, "10.244.1.0/26"), "10.244.1.0/26 ipip via 10.0.0.2");
    let parties = ["node b by IPAMBlock 10-244-1-0-26", "node c by IPAMBlock other"];
    assert_eq!(conflicts(&a), [("block", "10.244.1.0/26", parties.map(String::from).to_vec())]);
}

#[test]
fn a_tunnel_address_that_two_nodes_have_is_named_with_both() {
    let text = three("vxlanMode: Always").replace("ipv4VXLANTunnelAddr: 10.244.2.0", "ipv4VXLANTunnelAddr: 10.244.1.0");
    let parties = vec!["node b".to_owned(), "node c".into()];
    for me in ["a", "b", "c"] {
        assert_eq!(conflicts(&desired(&text, me)), [("tunnel-address", "10.244.1.0", parties.clone())], "{me}");
    }
}

#[test]
fn a_duplicate_address_belongs_to_the_first_by_name_but_always_to_this_node() {
    let text = three("ipipMode: Always").replace("10.0.0.3/24", "10.0.0.2/24");
    let a = desired(&text, "a");
    assert_eq!(line(&a, "10.244.1.0/26"), "10.244.1.0/26 ipip via 10.0.0.2");
    assert_eq!(line(&a, "10.244.2.0/26"), "10.244.2.0/26 drop node c");
    assert_eq!(conflicts(&a), [("node-address", "10.0.0.2", vec!["node b".into(), "node c".into()])]);
    assert!(a.conflicts.first().unwrap().found.contains("it counts as b's"));
    let c = desired(&text, "c");
    assert_eq!(line(&c, "10.244.1.0/26"), "10.244.1.0/26 drop node b");
    assert_eq!(c.node.unwrap().address.to_string(), "10.0.0.2/24");
    assert!(!c.senders.contains(&"10.0.0.2".parse().unwrap()));
}

#[test]
fn cross_subnet_is_decided_by_ones_own_prefix() {
    let text = |own: &str| {
        pool("p", "10.244.0.0/16", "ipipMode: CrossSubnet")
            + &node("a", own, None)
            + &node("b", "10.0.1.2/16", None)
            + &block("10.244.0.0/26", "host:a", &[])
            + &block("10.244.1.0/26", "host:b", &[])
    };
    // a's /24 does not hold b, but b's /16 holds a.
    assert_eq!(line(&desired(&text("10.0.0.1/24"), "a"), "10.244.1.0/26"), "10.244.1.0/26 ipip via 10.0.1.2");
    assert_eq!(line(&desired(&text("10.0.0.1/24"), "b"), "10.244.0.0/26"), "10.244.0.0/26 direct via 10.0.0.1");
    // An address without prefix is a /32: everyone is elsewhere.
    assert_eq!(line(&desired(&text("10.0.1.1"), "a"), "10.244.1.0/26"), "10.244.1.0/26 ipip via 10.0.1.2");
    assert_eq!(line(&desired(&text("10.0.1.1/23"), "a"), "10.244.1.0/26"), "10.244.1.0/26 direct via 10.0.1.2");
}

#[test]
fn unknown_next_hops_are_drops_that_name_the_node() {
    let text = three("vxlanMode: Always")
        + &block("10.244.5.0/26", "host:ghost", &[])
        + &node("d", "10.0.0.4/24", None)
        + &block("10.244.6.0/26", "host:d", &[]);
    let a = desired(&text, "a");
    assert_eq!(line(&a, "10.244.5.0/26"), "10.244.5.0/26 drop node ghost");
    assert_eq!(line(&a, "10.244.6.0/26"), "10.244.6.0/26 drop node d", "no tunnel address");
    assert!(!a.vteps.contains_key("d") && a.senders.contains(&"10.0.0.4".parse().unwrap()));
    // IP-in-IP needs the node's address only.
    assert_eq!(line(&desired(&text.replace("vxlanMode", "ipipMode"), "a"), "10.244.6.0/26"), "10.244.6.0/26 ipip via 10.0.0.4");
}

#[test]
fn pools_decide_and_the_longest_one_counts() {
    let text = three("vxlanMode: Always")
        + &pool("inner", "10.244.1.0/24", "ipipMode: Always, disabled: true")
        + &pool("balancers", "10.7.0.0/16", "allowedUses: [LoadBalancer]")
        + &block("10.7.0.0/26", "host:b", &[])
        + &block("10.8.0.0/26", "host:b", &[]);
    let a = desired(&text, "a");
    assert_eq!(line(&a, "10.244.1.0/26"), "10.244.1.0/26 ipip via 10.0.0.2", "disabled pools' blocks stay routed");
    assert_eq!(line(&a, "10.244.2.0/26"), "10.244.2.0/26 vxlan via 10.244.2.0");
    assert_eq!(a.pools.iter().map(|p| p.to_string()).collect::<Vec<_>>(), ["10.244.0.0/16", "10.244.1.0/24"]);
    assert_eq!((lookup(&a.routes, "10.7.0.1"), lookup(&a.routes, "10.8.0.1"), lookup(&a.routes, "9.9.9.9")), (None, None, None));
    assert_eq!(lookup(&a.routes, "10.244.77.1"), Some(&Route::Drop { node: None }));
    assert_eq!(a.warnings.len(), 2, "{:?}", a.warnings);
    let this = a.node.unwrap();
    assert!(this.vxlan_enabled && this.ipip_enabled);
}

#[test]
fn node_addresses_inside_a_pool_are_the_hosts_business() {
    let text = three("vxlanMode: Always").replace("10.0.0.2/24", "10.244.1.50/24");
    let a = desired(&text, "a");
    assert_eq!(line(&a, "10.244.1.50/32"), "10.244.1.50/32 host");
    assert_eq!(line(&a, "10.0.0.1/32"), "10.0.0.1/32 host");
    assert!(!table(&a).iter().any(|l| l.starts_with("10.0.0.3/32")), "a node outside all pools needs no route");
    assert!(!table(&a).iter().any(|l| l.starts_with("10.244.2.0/32")), "a tunnel address in its own node's block needs none");
}

#[test]
fn pods_stand_in_for_missing_endpoints() {
    let pod = |name: &str, node: &str, spec: &str, status: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: ns, annotations: {{cni.projectcalico.org/allowedSourcePrefixes: '[\"10.9.0.0/16\"]'}}}}, spec: {{nodeName: {node}{spec}}}, status: {{{status}}}}}\n"
        )
    };
    let text = three("vxlanMode: Always")
        + &pod("here", "a", "", "phase: Running, podIP: 10.244.0.5")
        + &pod("elsewhere", "b", "", "phase: Running, podIP: 10.244.1.5")
        + &pod("host", "a", ", hostNetwork: true", "phase: Running, podIP: 10.0.0.1")
        + &pod("done", "a", "", "phase: Succeeded, podIP: 10.244.0.6")
        + &pod("waiting", "a", "", "phase: Pending")
        + &pod("both", "a", "", "phase: Running, podIP: 10.244.0.7")
        + "---\n{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: w, namespace: ns}, spec: {node: a, pod: both, interfaceName: veth7, mac: '02:00:00:00:00:07', ipNetworks: [10.244.0.7/32]}}\n";
    let a = desired(&text, "a");
    assert_eq!(a.endpoints.keys().map(|n| &**n).collect::<Vec<_>>(), ["ns/a-k8s-here-eth0", "ns/w"]);
    let here = &a.endpoints["ns/a-k8s-here-eth0"];
    assert_eq!((here.workload.as_str(), here.sources.len(), here.interface.len()), ("ns/here", 1, 15));
    assert_eq!(a.endpoints["ns/w"].mac.unwrap().to_string(), "02:00:00:00:00:07");
    assert_eq!(line(&a, "10.244.0.7/32"), "10.244.0.7/32 local dev veth7");
    // What the annotation asks for counts only where the cluster lets pods ask.
    let any = text.clone()
        + "---\n{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {workloadSourceSpoofing: Any, interfacePrefix: tap}}\n";
    let here = &desired(&any, "a").endpoints["ns/a-k8s-here-eth0"];
    assert_eq!(here.sources.iter().map(|s| s.to_string()).collect::<Vec<_>>(), ["10.244.0.5/32", "10.9.0.0/16"]);
    assert!(here.interface.starts_with("tap"));
}

#[test]
fn an_interface_and_an_address_have_one_owner() {
    let wep = |name: &str, dev: &str, ips: &str| {
        format!(
            "---\n{{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {{name: {name}}}, spec: {{node: a, interfaceName: {dev}, ipNetworks: [{ips}]}}}}\n"
        )
    };
    let text = three("vxlanMode: Always")
        + &wep("one", "v1", "10.244.0.5")
        + &wep("three", "v1", "10.244.0.7")
        + &wep("two", "v2", "10.244.0.5, 10.244.0.6, 10.244.0.0");
    let a = desired(&text, "a");
    assert_eq!(a.endpoints.keys().map(|n| &**n).collect::<Vec<_>>(), ["default/one", "default/two"]);
    assert_eq!(line(&a, "10.244.0.5/32"), "10.244.0.5/32 local dev v1");
    assert_eq!(a.endpoints["default/two"].sources.iter().map(|s| s.to_string()).collect::<Vec<_>>(), ["10.244.0.6/32", "10.244.0.0/32"]);
    assert_eq!(line(&a, "10.244.0.0/32"), "10.244.0.0/32 host", "the node's tunnel address stays the node's");
    assert_eq!(a.warnings.len(), 3, "{:?}", a.warnings);
}

#[test]
fn routes_may_follow_from_the_pods_instead_of_the_blocks() {
    let pod = |name: &str, node: &str, ip: &str| {
        format!("---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}}}, status: {{podIP: {ip}}}}}\n")
    };
    let text = three("vxlanMode: Always")
        + &endpoint("w", "b", "10.244.1.5")
        + &pod("p", "c", "10.244.1.6")
        + &pod("q", "c", "10.244.1.5")
        + &pod("outside", "c", "10.99.0.1")
        + &endpoint("here", "a", "10.244.0.5")
        + "---\n{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {routeSource: WorkloadIPs}}\n";
    let mut got = table(&desired(&text, "a"));
    got.retain(|l| !l.contains(" local "));
    assert_eq!(
        got,
        [
            "10.0.0.1/32 host",
            "10.244.0.0/16 drop",
            "10.244.0.0/32 host",
            "10.244.1.5/32 vxlan via 10.244.1.0",
            "10.244.1.6/32 vxlan via 10.244.2.0"
        ]
    );
}

#[test]
fn felix_parameters_arrive() {
    let text = three("vxlanMode: Always")
        + "---\n{apiVersion: crd.projectcalico.org/v1, kind: FelixConfiguration, metadata: {name: default}, spec: {vxlanPort: 4790, vxlanVNI: 7, vxlanMTU: 0, ipipMTU: 1400, \
           vxlanEnabled: false, ipipEnabled: true, allowIPIPPacketsFromWorkloads: true, externalNodesList: [192.0.2.1, 192.0.2.8/31, 10.0.0.0/8]}}\n\
           ---\n{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: node.a}, spec: {vxlanPort: 4791, allowVXLANPacketsFromWorkloads: true}}\n";
    let a = desired(&text, "a");
    let this = a.node.unwrap();
    assert_eq!((this.vxlan_port, this.vni.get(), this.vxlan_mtu, this.ipip_mtu), (4791, 7, None, Some(1400)));
    assert!(this.workloads_may_vxlan && this.workloads_may_ipip && this.vxlan_enabled && this.ipip_enabled);
    assert_eq!(
        a.senders.iter().map(|s| s.to_string()).collect::<Vec<_>>(),
        ["10.0.0.2", "10.0.0.3", "192.0.2.1", "192.0.2.8", "192.0.2.9"]
    );
    assert_eq!(a.nodes.len(), 3);
    assert_eq!(a.warnings.len(), 2, "{:?}", a.warnings);
    assert_eq!(desired(&text, "b").node.unwrap().vxlan_port, 4790);
}

#[test]
fn a_large_cluster_is_calculated_in_one_go() {
    let mut text = pool("p", "10.0.0.0/8", "vxlanMode: Always");
    for i in 0..5000u32 {
        let base = std::net::Ipv4Addr::from(0x0a00_0000 + i * 64);
        let underlay = std::net::Ipv4Addr::from(0xac10_0001 + i);
        text += &node(&format!("n{i}"), &format!("{underlay}/16"), Some(&base.to_string()));
        text += &block(&format!("{base}/26"), &format!("host:n{i}"), &[(&base.to_string(), &format!("n{i}"))]);
    }
    let state = cluster(&text);
    let start = std::time::Instant::now();
    let d = tortie::control::calc::desired(&state, "n7");
    println!("5000 nodes: {:?}", start.elapsed());
    assert_eq!((d.vteps.len(), d.routes.len(), d.warnings.len()), (4999, 5003, 0));
}

#[test]
fn without_an_own_address_nothing_is_in_force() {
    let text = three("vxlanMode: Always");
    let d = desired(&text, "nobody");
    assert!(d.node.is_none() && d.routes.is_empty() && d.endpoints.is_empty() && d.senders.is_empty());
    assert_eq!(warnings(&d), ["node nobody: the datastore has no Node object of this name; known nodes: a, b, c"]);
    let d = desired(&text.replace("bgp: {ipv4Address: 10.0.0.1/24}", "bgp: {}"), "a");
    assert!(d.node.is_none() && warnings(&d)[0].contains("set spec.bgp.ipv4Address"), "{:?}", d.warnings);
}

#[test]
fn kubernetes_nodes_serve_too_and_calicos_count_first() {
    let kube = |name: &str, address: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}, annotations: {{projectcalico.org/IPv4Address: {address}, projectcalico.org/IPv4VXLANTunnelAddr: 10.244.1.0}}}}, status: {{addresses: [{{type: InternalIP, address: 9.9.9.9}}]}}}}\n"
        )
    };
    let base = pool("p", "10.244.0.0/16", "vxlanMode: Always") + &node("a", "10.0.0.1/24", None) + &block("10.244.1.0/26", "host:b", &[]);
    let d = desired(&(base.clone() + &kube("b", "10.0.0.2/24") + &kube("a", "10.0.0.77/24")), "a");
    assert_eq!((d.vteps["b"].address.to_string(), d.node.unwrap().address.to_string()), ("10.0.0.2".into(), "10.0.0.1/24".into()));
}

#[test]
fn a_vtep_mac_that_two_nodes_have_is_named_with_both() {
    let mut text = three("vxlanMode: Always");
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        text = text.replace(
            &format!("{{name: {name}}}, spec: {{bgp: {{ipv4Address: {address}/24}}"),
            &format!("{{name: {name}}}, spec: {{vxlanTunnelMACAddr: '66:00:00:00:00:09', bgp: {{ipv4Address: {address}/24}}"),
        );
    }
    // Stock nodes tell nodes apart by it: the third one says so too.
    for me in ["a", "b", "c"] {
        let want = [("vtep-mac", "66:00:00:00:00:09", vec!["node a".to_owned(), "node b".into()])];
        assert_eq!(conflicts(&desired(&text, me)), want, "{me}");
    }
    assert!(desired(&three("vxlanMode: Always"), "a").conflicts.is_empty());
}

#[test]
fn a_pool_for_load_balancers_routes_nothing_and_one_for_tunnels_alone_does() {
    let pools = pool("lb", "10.7.0.0/16", "allowedUses: [LoadBalancer]")
        + &pool("tunnels", "10.8.0.0/16", "allowedUses: [Tunnel], ipipMode: Always");
    let text = three("vxlanMode: Always")
        + &pools
        + &block("10.7.0.0/26", "virtual:lb", &[("10.7.0.1", "b")])
        + &block("10.8.0.1/32", "host:b", &[]);
    let a = desired(&text, "a");
    assert_eq!((lookup(&a.routes, "10.7.0.1"), lookup(&a.routes, "10.7.0.9")), (None, None));
    assert_eq!(line(&a, "10.8.0.1/32"), "10.8.0.1/32 ipip via 10.0.0.2");
    assert_eq!(a.pools.iter().map(|p| p.to_string()).collect::<Vec<_>>(), ["10.8.0.0/16", "10.244.0.0/16"]);
    assert_eq!(warnings(&a), ["IPAMBlock 10-7-0-0-26: no pool for workloads contains 10.7.0.0/26; it is not routed"]);
}

#[test]
fn a_pools_node_selector_is_allocations_business_and_no_routes() {
    let with = desired(&three("vxlanMode: Always, nodeSelector: \"zone == 'elsewhere'\""), "a");
    assert_eq!(with, desired(&three("vxlanMode: Always"), "a"));
}

/// One more state into a calculator, object by object.
fn next(calculator: &mut Calculator, last: &mut Cluster, text: &str) -> Desired {
    let now = cluster(text);
    calculator.update(&now, &Changed::between(last, &now));
    *last = now;
    calculator.desired().clone()
}

#[test]
fn a_changed_own_prefix_decides_cross_subnet_anew() {
    let text = three("ipipMode: CrossSubnet").replace("10.0.0.2/24", "10.0.1.2/24");
    let (mut c, mut last) = (Calculator::new("a"), Cluster::default());
    assert_eq!(line(&next(&mut c, &mut last, &text), "10.244.1.0/26"), "10.244.1.0/26 ipip via 10.0.1.2");
    let wider = text.replace("10.0.0.1/24", "10.0.0.1/23");
    assert_eq!(line(&next(&mut c, &mut last, &wider), "10.244.1.0/26"), "10.244.1.0/26 direct via 10.0.1.2");
    // b's own prefix is nothing to a.
    let other = wider.replace("10.0.1.2/24", "10.0.1.2/32");
    assert_eq!(next(&mut c, &mut last, &other).routes, next(&mut c, &mut last, &wider).routes);
    let alone = text.replace("10.0.0.1/24", "10.0.0.1/32");
    let d = next(&mut c, &mut last, &alone);
    assert_eq!(line(&d, "10.244.1.0/26"), "10.244.1.0/26 ipip via 10.0.1.2");
    assert_eq!(line(&d, "10.244.2.0/26"), "10.244.2.0/26 ipip via 10.0.0.3", "a /32 has no neighbours");
}

#[test]
fn a_node_that_loses_its_address_is_held_and_comes_back() {
    let text = three("vxlanMode: Always");
    let without = text.replace("bgp: {ipv4Address: 10.0.0.2/24}, ", "");
    let (mut c, mut last) = (Calculator::new("a"), Cluster::default());
    let before = next(&mut c, &mut last, &text);
    let d = next(&mut c, &mut last, &without);
    assert_eq!(line(&d, "10.244.1.0/26"), "10.244.1.0/26 drop node b");
    assert!(!d.vteps.contains_key("b") && d.senders.len() == 1 && d.nodes.len() == 2);
    assert_eq!(next(&mut c, &mut last, &text), before);
    // This node's own: nothing is decided without it, and all is as before with it again.
    let d = next(&mut c, &mut last, &text.replace("bgp: {ipv4Address: 10.0.0.1/24}, ", ""));
    assert!(d.node.is_none() && d.routes.is_empty());
    assert_eq!(next(&mut c, &mut last, &text), before);
}

/// A pod with a floating IP on a node.
fn floating(pod: &str, node: &str, ip: &str, floating: &str) -> String {
    let annotation = format!("cni.projectcalico.org/floatingIPs: '[\"{floating}\"]'");
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, namespace: ns, annotations: {{{annotation}}}}}, spec: {{nodeName: {node}}}, status: {{podIP: {ip}}}}}\n"
    )
}

fn floating_enabled(value: &str) -> String {
    format!(
        "---\n{{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {{name: default}}, spec: {{floatingIPs: {value}}}}}\n"
    )
}

#[test]
fn floating_ips_lead_to_the_host_or_to_the_pods_node() {
    let wep = "---\n{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: w, namespace: ns}, spec: {node: a, pod: q, ipNetworks: [10.244.0.6, 10.244.0.7], ipNATs: [{internalIP: 10.244.0.7, externalIP: 192.0.2.8}]}}\n";
    let fips = pool("fips", "192.0.2.0/28", "disabled: true");
    let text = three("vxlanMode: CrossSubnet") + &floating("p", "a", "10.244.0.5", "192.0.2.7") + wep;
    for felix in [String::new(), floating_enabled("Disabled")] {
        let d = desired(&(text.clone() + &felix), "a");
        assert!(d.warnings.is_empty() && d.floating.is_empty() && lookup(&d.routes, "192.0.2.7").is_none(), "not enabled: not asked for");
    }
    let text = text + &fips + &floating_enabled("Enabled");
    let a = desired(&text, "a");
    let endpoint = |name: &str| -> std::sync::Arc<str> { name.into() };
    assert_eq!(
        lookup(&a.routes, "192.0.2.7"),
        Some(&Route::Floating { endpoint: endpoint("ns/a-k8s-p-eth0"), address: [10, 244, 0, 5].into() })
    );
    assert_eq!(lookup(&a.routes, "192.0.2.8"), Some(&Route::Floating { endpoint: endpoint("ns/w"), address: [10, 244, 0, 7].into() }));
    assert_eq!((warnings(&a), a.floating.len(), &a.translations()), (vec![], 2, &a.floating));
    let own = &a.endpoints["ns/a-k8s-p-eth0"];
    assert_eq!(own.sources, ["10.244.0.5/32".parse().unwrap()], "a pod never sends from it");
    // Elsewhere as the pod's own address, whatever the pool of the floating one says.
    let b = desired(&text, "b");
    assert_eq!(line(&b, "192.0.2.7/32"), "192.0.2.7/32 direct via 10.0.0.1");
    assert_eq!((b.floating.len(), b.translations().len()), (2, 0));
    let b = desired(&text.replace("vxlanMode: CrossSubnet", "vxlanMode: Always"), "b");
    assert_eq!(line(&b, "192.0.2.7/32"), "192.0.2.7/32 vxlan via 10.244.0.0");
    // What no pool contains is routed by the pod's own node alone, which says so.
    let outside = text.replace("192.0.2.7", "198.51.100.7");
    let (a, b) = (desired(&outside, "a"), desired(&outside, "b"));
    assert_eq!(line(&a, "198.51.100.7/32"), "198.51.100.7/32 floating via 10.244.0.5");
    assert_eq!(
        warnings(&a),
        ["WorkloadEndpoint ns/a-k8s-p-eth0: its floating IP 198.51.100.7 is in no IPPool: other nodes do not route it to the pod"]
    );
    assert!(lookup(&b.routes, "198.51.100.7").is_none() && b.warnings.is_empty());
}

#[test]
fn a_floating_ip_takes_nobodys_place() {
    let fips = pool("fips", "192.0.2.0/28", "disabled: true");
    let with = |text: &str| desired(&(three("vxlanMode: Always") + &fips + &floating_enabled("Enabled") + text), "a");
    // The first by name, on every node that knows of both.
    let d = with(&(floating("x", "a", "10.244.0.5", "192.0.2.7") + &floating("w", "b", "10.244.1.5", "192.0.2.7")));
    assert_eq!(line(&d, "192.0.2.7/32"), "192.0.2.7/32 vxlan via 10.244.1.0");
    assert_eq!(warnings(&d), ["WorkloadEndpoint ns/a-k8s-x-eth0: its floating IP 192.0.2.7 is ns/b-k8s-w-eth0's; it goes there"]);
    // A node's, another pod's here, one that IPAM has given out elsewhere, and one in this node's block that it will not.
    let block = block("10.244.9.0/26", "host:b", &[("10.244.9.9", "b")]);
    for (ip, fault) in [
        ("10.0.0.2", "is a node's address; it goes to the node"),
        ("10.244.1.0", "is a node's address; it goes to the node"),
        ("10.244.0.6", "is the address of WorkloadEndpoint default/other; it goes there"),
        ("10.244.9.9", "is in use by IPAMBlock 10-244-9-0-26; it goes there"),
    ] {
        let text = block.clone() + &endpoint("other", "a", "10.244.0.6");
        let d = with(&(text.clone() + &floating("x", "a", "10.244.0.5", ip)));
        let clean = with(&(text + &endpoint("x", "a", "10.244.0.5")));
        assert_eq!(warnings(&d), [format!("WorkloadEndpoint ns/a-k8s-x-eth0: its floating IP {ip} {fault}")]);
        assert_eq!((lookup(&d.routes, ip), d.floating.len()), (lookup(&clean.routes, ip), 0), "{ip}");
    }
    let d = with(&floating("x", "a", "10.244.0.5", "10.244.0.40"));
    assert_eq!(line(&d, "10.244.0.40/32"), "10.244.0.40/32 floating via 10.244.0.5");
}

#[test]
fn a_finished_pods_address_is_free() {
    let pod = |phase: &str, node: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{nodeName: {node}}}, status: {{phase: {phase}, podIP: 10.244.0.5}}}}\n"
        )
    };
    let by_pods =
        "---\n{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: default}, spec: {routeSource: WorkloadIPs}}\n";
    for phase in ["Succeeded", "Failed"] {
        let a = desired(&(three("vxlanMode: Always") + &pod(phase, "a")), "a");
        assert!(a.endpoints.is_empty() && lookup(&a.routes, "10.244.0.5") == Some(&Route::Blackhole), "{phase}");
        let a = desired(&(three("vxlanMode: Always") + by_pods + &pod(phase, "b")), "a");
        assert_eq!(lookup(&a.routes, "10.244.0.5"), Some(&Route::Drop { node: None }), "{phase}");
    }
    let a = desired(&(three("vxlanMode: Always") + by_pods + &pod("Running", "b")), "a");
    assert_eq!(line(&a, "10.244.0.5/32"), "10.244.0.5/32 vxlan via 10.244.1.0");
}

#[test]
fn a_claim_that_is_going_or_only_wished_for_claims_nothing() {
    let claim = |state: &str| {
        format!(
            "---\n{{apiVersion: projectcalico.org/v3, kind: BlockAffinity, metadata: {{name: c}}, spec: {{node: b, cidr: 10.244.10.0/26, state: {state}}}}}\n"
        )
    };
    for state in ["pending", "pendingDeletion"] {
        assert_eq!(desired(&(three("ipipMode: Always") + &claim(state)), "a"), desired(&three("ipipMode: Always"), "a"), "{state}");
    }
    // The old form of confirmed.
    assert_eq!(desired(&(three("ipipMode: Always") + &claim("''")), "a").warnings.len(), 1);
}
