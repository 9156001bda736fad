//! Where addresses come from: annotations, pools, arguments, other plugins; the address plugin alone.

use crate::support::{Node, PLUGINS, Pod, address, outcome, with_previous};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn annotations_choose_pools_and_addresses() {
    let node = Node::new();
    let conf = node.conf("1.0.0", json!({}));
    node.put(
        "second",
        &json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "second" },
        "spec": { "cidr": "10.9.0.0/24", "blockSize": 28, "vxlanMode": "Never", "nodeSelector": "!all()" } }),
    );
    node.put_pod("pooled", &[("ipv4pools", "[\"second\"]")]);
    let pooled = Pod::new("pooled");
    assert!(address(&pooled.add(&node, &conf)).starts_with("10.9.0."));
    node.put_pod("fixed", &[("ipAddrs", "[\"10.244.7.7\"]"), ("hwAddr", "02:00:00:00:00:07")]);
    let (fixed, mut next) = (Pod::new("fixed"), Pod::new("fixed"));
    next.container = "sandbox-next".into();
    let result = fixed.add(&node, &conf);
    assert_eq!((address(&result).as_str(), &result["interfaces"][1]["mac"]), ("10.244.7.7", &json!("02:00:00:00:00:07")));
    // A new sandbox of the same pod takes the address over; the old one's late clean-up does not take it away.
    let taken = next.add(&node, &conf);
    assert_eq!(address(&taken), "10.244.7.7");
    fixed.del(&node, &conf);
    next.call(&node, "CHECK", &with_previous(&conf, &taken));
    assert!(next.pings("10.1.0.1"));
    // Another pod does not.
    node.put_pod("thief", &[("ipAddrs", "[\"10.244.7.7\"]")]);
    let refused = Pod::new("thief").try_call(&node, "ADD", &conf).unwrap_err();
    assert!(refused["code"] == 102 && refused["msg"].as_str().unwrap().contains("10.244.7.7 is in use"), "{refused}");
    node.put_pod("free", &[("ipAddrsNoIpam", "[\"10.244.200.1\"]")]);
    let free = Pod::new("free");
    assert_eq!(free.try_call(&node, "ADD", &conf).unwrap_err()["code"], 7);
    let allowing = node.conf("1.0.0", json!({ "feature_control": { "ip_addrs_no_ipam": true } }));
    assert_eq!(address(&free.add(&node, &allowing)), "10.244.200.1");
    assert!(free.pings("10.1.0.1"));
    let mac = next.ns.sh("ip link show eth0");
    assert!(mac.contains("02:00:00:00:00:07"), "{mac}");
}

#[test]
fn ipv6_is_refused() {
    let node = Node::new();
    node.put_pod("six", &[("ipAddrs", "[\"fd00::1\"]")]);
    let pod = Pod::new("six");
    for (more, want) in [
        (json!({ "ipam": { "type": "calico-ipam", "assign_ipv6": "true" } }), "assign_ipv6"),
        (json!({ "ipam": { "type": "calico-ipam", "ipv6_pools": ["x"] } }), "ipv6_pools"),
        (json!({}), "ipAddrs"),
    ] {
        let e = pod.try_call(&node, "ADD", &node.conf("1.0.0", more)).unwrap_err();
        assert!(e["code"] == 2 && e["msg"].as_str().unwrap().contains(want), "{e}");
    }
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[test]
fn what_ipam_records_is_calicos() {
    let node = Node::new();
    let pod = Pod::new("web");
    pod.add(&node, &node.conf("1.0.0", json!({})));
    let text: String = std::fs::read_dir(node.store()).unwrap().flatten().filter_map(|e| std::fs::read_to_string(e.path()).ok()).collect();
    for want in ["k8s-pod-network.sandbox-web", "pod: web", "namespace: default", "node: n1", "+0000 UTC"] {
        assert!(text.contains(want), "{want}: {text}");
    }
}

#[test]
fn an_exhausted_pool_says_so_and_leaves_nothing() {
    let node = Node::new();
    node.put(
        "pool",
        &json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "pool" },
        "spec": { "cidr": "10.244.0.0/30", "blockSize": 30, "vxlanMode": "Never", "nodeSelector": "all()" } }),
    );
    let conf = node.conf("1.0.0", json!({}));
    let pods: Vec<Pod> = (0..5).map(|i| Pod::new(&format!("x{i}"))).collect();
    let last = pods.iter().map(|p| p.try_call(&node, "ADD", &conf)).collect::<Vec<_>>();
    assert_eq!(last.iter().filter(|r| r.is_ok()).count(), 4);
    let refused = last[4].as_ref().unwrap_err();
    assert!(refused["code"] == 102 && refused["msg"].as_str().unwrap().contains("0 of 1"), "{refused}");
    pods[0].del(&node, &conf);
    pods[4].add(&node, &conf);
    pods[1..].iter().for_each(|p| p.del(&node, &conf));
    node.expect_nothing_left();
}

#[test]
fn another_address_plugin_is_run() {
    let node = Node::new();
    let state = node.dir.path().join("host-local");
    let ipam = json!({ "type": "host-local", "subnet": "10.244.3.0/24", "dataDir": state, "routes": [{ "dst": "10.244.0.0/16" }, { "dst": "10.1.0.0/24" }] });
    let conf = node.conf("0.4.0", json!({ "ipam": ipam }));
    let pod = Pod::new("web");
    let result = pod.add(&node, &conf);
    assert!(address(&result).starts_with("10.244.3."), "a /32 whatever the plugin says: {result}");
    assert_eq!(result["routes"], json!([{ "dst": "10.244.0.0/16", "gw": "169.254.1.1" }, { "dst": "10.1.0.0/24", "gw": "169.254.1.1" }]));
    let routes = pod.ns.sh("ip route");
    assert!(!routes.contains("default") && routes.contains("10.1.0.0/24 via 169.254.1.1 dev eth0"), "{routes}");
    assert!(pod.pings("10.1.0.1"));
    pod.call(&node, "CHECK", &with_previous(&conf, &result));
    pod.del(&node, &conf);
    assert!(
        std::fs::read_dir(state.join("k8s-pod-network")).unwrap().flatten().all(|e| !e.file_name().to_string_lossy().starts_with("10."))
    );
    let missing = pod.try_call(&node, "ADD", &node.conf("1.0.0", json!({ "ipam": { "type": "nope" } }))).unwrap_err();
    assert!(missing["code"] == 5 && missing["msg"].as_str().unwrap().contains(PLUGINS), "{missing}");
    node.expect_nothing_left();
}

#[test]
fn the_address_plugin_serves_others() {
    let node = Node::new();
    let program = node.dir.path().join("tortie-ipam");
    std::os::unix::fs::symlink(crate::support::TORTIE, &program).unwrap();
    let pod = Pod::new("web");
    let conf = node.conf("1.1.0", json!({ "type": "ptp" }));
    let call = |command: &str, conf: &Value| outcome(node.call(Path::new(&program), &pod.vars(command, "IP=10.244.1.9"), conf));
    let result = call("ADD", &conf).unwrap();
    assert_eq!(result["ips"], json!([{ "address": "10.244.1.9/32" }]));
    assert_eq!(result.get("interfaces"), None);
    assert_eq!(call("CHECK", &with_previous(&conf, &result)), Ok(Value::Null));
    assert_eq!(call("STATUS", &conf), Ok(Value::Null));
    assert_eq!(call("DEL", &conf), Ok(Value::Null));
    assert_eq!(call("CHECK", &with_previous(&conf, &result)).unwrap_err()["code"], 100);
    let mut gc = conf.clone();
    call("ADD", &conf).unwrap();
    gc["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(call("GC", &gc), Ok(Value::Null));
    node.expect_nothing_left();
}
