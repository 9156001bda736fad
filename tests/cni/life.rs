//! Attachments through trouble: a daemon that is down, leftovers, late and repeated calls, garbage collection.

use crate::support::{Node, Pod, address, outcome, with_previous};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const HOST_OF_WEB: &str = "cali68caf03a5f4";

#[test]
fn detaching_needs_no_daemon_and_may_be_repeated() {
    let mut node = Node::new();
    let conf = node.conf("1.1.0", json!({}));
    let (a, b, c) = (Pod::new("a"), Pod::new("b"), Pod::new("c"));
    let one = a.add(&node, &conf);
    b.add(&node, &conf);
    c.add(&node, &conf);
    node.stop();
    a.del(&node, &with_previous(&conf, &one));
    a.del(&node, &conf);
    // The runtime does not know the namespace any more, or it is gone.
    for (pod, netns) in [(&b, ""), (&c, "/run/netns/tt-gone")] {
        let vars =
            pod.vars("DEL", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=x").map(|(k, v)| if k == "CNI_NETNS" { (k, netns) } else { (k, v) });
        let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", pod.name);
        let vars = vars.map(|(k, v)| if k == "CNI_ARGS" { (k, args.as_str()) } else { (k, v) });
        assert_eq!(outcome(node.call(Path::new(crate::support::TORTIE), &vars, &conf)), Ok(Value::Null));
    }
    assert_eq!(node.leftovers(), Vec::<String>::new());
    // A container that was never attached.
    Pod::new("never").del(&node, &conf);
}

#[test]
fn attaching_waits_for_the_daemon_but_not_for_ever() {
    let mut node = Node::without_daemon();
    let pod = Pod::new("web");
    let conf = node.conf("1.1.0", json!({ "policy_setup_timeout_seconds": 1 }));
    let refused = pod.try_call(&node, "ADD", &conf).unwrap_err();
    assert_eq!(refused["code"], 11, "{refused}");
    assert!(refused["msg"].as_str().unwrap().contains("no daemon answers"), "{refused}");
    assert_eq!(node.leftovers(), Vec::<String>::new());
    assert_eq!(node.command("STATUS", &conf).unwrap_err()["code"], 50);
    let conf = node.conf("1.1.0", json!({}));
    let added = std::thread::scope(|s| {
        // The configuration is there before the daemon is; what comes meanwhile is served when it works.
        let starting = s.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            node.spawn_daemon()
        });
        let added = pod.add(&node, &conf);
        let _daemon = starting.join().unwrap();
        assert!(pod.pings("10.1.0.1") && !address(&added).is_empty());
        assert_eq!(node.command("STATUS", &conf), Ok(Value::Null));
        added
    });
    node.start();
    node.wait("the pod is reachable again", || pod.pings("10.1.0.1"));
    pod.call(&node, "CHECK", &with_previous(&conf, &added));
    pod.del(&node, &conf);
    node.expect_nothing_left();
}

#[test]
fn status_asks_daemon_and_datastore() {
    let mut node = Node::new();
    let conf = node.conf("1.1.0", json!({}));
    assert_eq!(node.command("STATUS", &conf), Ok(Value::Null));
    assert_eq!(node.command("STATUS", &node.conf("1.0.0", json!({}))).unwrap_err()["code"], 1);
    let information = |ready: bool| {
        json!({ "apiVersion": "projectcalico.org/v3", "kind": "ClusterInformation",
        "metadata": { "name": "default" }, "spec": { "datastoreReady": ready } })
    };
    node.put("information", &information(false));
    assert_eq!(node.command("STATUS", &conf).unwrap_err()["code"], 50);
    let refused = Pod::new("web").try_call(&node, "ADD", &conf).unwrap_err();
    assert!(refused["code"] == 11 && refused["msg"].as_str().unwrap().contains("datastoreReady"), "{refused}");
    node.put("information", &information(true));
    assert_eq!(node.command("STATUS", &conf), Ok(Value::Null));
    node.stop();
    assert_eq!(node.command("STATUS", &conf).unwrap_err()["code"], 50);
}

#[test]
fn leftovers_of_the_name_are_replaced_and_other_devices_are_not() {
    let node = Node::new();
    let conf = node.conf("1.0.0", json!({}));
    node.ns.sh(&format!("ip tuntap add dev {HOST_OF_WEB} mode tap"));
    let pod = Pod::new("web");
    let refused = pod.try_call(&node, "ADD", &conf).unwrap_err();
    assert!(refused["code"] == 7 && refused["msg"].as_str().unwrap().contains("no veth (tun)"), "{refused}");
    assert!(node.ns.sh("ip -o link").contains(HOST_OF_WEB));
    node.ns.sh(&format!("ip link del {HOST_OF_WEB}; ip link add {HOST_OF_WEB} type veth peer name stale"));
    let result = pod.add(&node, &conf);
    assert_eq!(result["interfaces"][0]["name"], HOST_OF_WEB);
    assert!(pod.pings("10.1.0.1") && !node.ns.sh("ip -o link").contains("stale"));
    // The name inside is taken: refused, and what is there stays.
    let again = pod.try_call(&node, "ADD", &conf).unwrap_err();
    assert!(again["code"] == 7 && again["msg"].as_str().unwrap().contains("CNI_IFNAME eth0"), "{again}");
    // A pod has one interface on this network; the call for another takes nothing from it, nor does its clean-up.
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";
    for (command, code) in [("ADD", Some(7)), ("DEL", None)] {
        let vars = pod.vars(command, args).map(|(k, v)| if k == "CNI_IFNAME" { (k, "eth1") } else { (k, v) });
        let answer = outcome(node.call(Path::new(crate::support::TORTIE), &vars, &conf));
        assert_eq!(answer.err().map(|e| e["code"].as_i64().unwrap()), code);
    }
    pod.call(&node, "CHECK", &with_previous(&conf, &result));
    assert!(pod.pings("10.1.0.1"));
}

#[test]
fn a_late_call_for_an_old_sandbox_leaves_the_new_one_alone() {
    let node = Node::new();
    let conf = node.conf("1.0.0", json!({}));
    let (old, mut new) = (Pod::new("web"), Pod::new("web"));
    new.container = "sandbox-new".into();
    let first = old.add(&node, &conf);
    let second = new.add(&node, &conf);
    assert_ne!(address(&first), address(&second), "the old one holds its address until it is deleted");
    assert!(!old.ns.sh("ip -o link").contains("eth0"), "its interface gave way");
    old.del(&node, &conf);
    assert!(new.pings("10.1.0.1"));
    new.call(&node, "CHECK", &with_previous(&conf, &second));
    new.del(&node, &conf);
    node.expect_nothing_left();
}

#[test]
fn garbage_is_collected_by_what_the_runtime_lists() {
    let node = Node::new();
    let conf = node.conf("1.1.0", json!({}));
    let pods: Vec<Pod> = ["a", "b", "c"].into_iter().map(Pod::new).collect();
    let results: Vec<Value> = pods.iter().map(|p| p.add(&node, &conf)).collect();
    let refused = node.command("GC", &conf).unwrap_err();
    assert!(refused["code"] == 7 && refused["msg"].as_str().unwrap().contains("cni.dev/valid-attachments"), "{refused}");
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "sandbox-b", "ifname": "eth0" }]);
    for _ in 0..2 {
        assert_eq!(node.command("GC", &gc), Ok(Value::Null));
    }
    assert!(pods[1].pings("10.1.0.1"));
    pods[1].call(&node, "CHECK", &with_previous(&conf, &results[1]));
    let gone = pods[0].try_call(&node, "CHECK", &with_previous(&conf, &results[0])).unwrap_err();
    assert!(gone["code"] == 100 && gone["msg"].as_str().unwrap().contains("missing"), "{gone}");
    node.wait("only b is left", || node.client().endpoints().unwrap().len() == 1);
    gc["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(node.command("GC", &gc), Ok(Value::Null));
    node.expect_nothing_left();
}

#[test]
fn a_check_names_what_is_wrong() {
    let node = Node::new();
    let conf = node.conf("1.1.0", json!({}));
    let pod = Pod::new("web");
    let result = pod.add(&node, &conf);
    let ip = address(&result);
    let checked = with_previous(&conf, &result);
    let fault = |harm: &str, repair: &str, want: &str| {
        pod.ns.sh(harm);
        let e = pod.try_call(&node, "CHECK", &checked).unwrap_err();
        assert!(e["code"] == 100 && e["msg"].as_str().unwrap().contains(want), "{harm}: {e}");
        pod.ns.sh(repair);
        pod.call(&node, "CHECK", &checked);
    };
    fault("ip route del default", "ip route add default via 169.254.1.1 dev eth0", "route 0.0.0.0/0 is missing");
    // The kernel drops the routes with the last address.
    let again = format!("ip addr add {ip}/32 dev eth0; ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1");
    fault(&format!("ip addr del {ip}/32 dev eth0"), &again, &format!("address {ip}/32 is missing"));
    let up = "ip link set eth0 up; ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1 dev eth0";
    fault("ip link set eth0 down", up, "is down, not up");
    node.ns.sh(&format!("ip link set {HOST_OF_WEB} alias other"));
    assert_eq!(pod.try_call(&node, "CHECK", &checked).unwrap_err()["code"], 100);
    assert_eq!(pod.try_call(&node, "CHECK", &conf).unwrap_err()["code"], 7, "without a result to compare with");
}
