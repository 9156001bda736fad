//! ADD, DEL and CHECK of single pods.

use crate::support::{Node, Pod, address, with_previous};
use serde_json::{Value, json};
use tortie::control::model::interface_name;

#[test]
fn every_version_attaches_checks_and_detaches() {
    let node = Node::new();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let conf = node.conf(version, json!({}));
        let (one, two) = (a.add(&node, &conf), b.add(&node, &conf));
        assert_eq!(one["cniVersion"], version);
        assert_eq!(one["ips"][0]["version"], if version < "1.0.0" { json!("4") } else { Value::Null });
        assert_eq!(one["ips"][0]["interface"], 1);
        assert_eq!(one["interfaces"][0]["name"], interface_name("cali", "default", "a"));
        assert_eq!(one["interfaces"][0]["mac"], "ee:ee:ee:ee:ee:ee");
        assert_eq!((&one["interfaces"][1]["name"], &one["interfaces"][1]["sandbox"]), (&json!("eth0"), &json!(a.ns.path())));
        // Reachable as soon as ADD is back: by the other pod, the host, and itself.
        assert!(a.pings(&address(&two)) && b.pings(&address(&one)), "{}", node.story());
        assert!(node.ns.output(&["ping", "-c", "1", "-W", "2", &address(&one)]).status.success());
        assert!(b.pings("10.1.0.1") && b.pings(&address(&two)));
        let check = a.try_call(&node, "CHECK", &with_previous(&conf, &one));
        match version {
            "0.3.0" | "0.3.1" => assert_eq!(check.unwrap_err()["code"], 1),
            _ => assert_eq!(check, Ok(Value::Null)),
        }
        a.del(&node, &with_previous(&conf, &one));
        b.del(&node, &conf);
        assert!(!a.ns.sh("ip -o link").contains("eth0"));
        node.expect_nothing_left();
    }
}

#[test]
fn the_pod_shows_what_calicos_do() {
    let node = Node::new();
    let pod = Pod::new("busybox-deployment-8c7dc8548-x6ljh");
    let result = pod.add(&node, &node.conf("0.3.1", json!({ "mtu": 1440 })));
    let ip = address(&result);
    let lines = |text: String| text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(lines(pod.ns.sh("ip route")), ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]);
    assert_eq!(pod.ns.sh("busybox arp -n"), "", "nobody was asked yet");
    let ifconfig = pod.ns.sh("busybox ifconfig eth0");
    assert!(ifconfig.contains(&format!("inet addr:{ip}  Bcast:{ip}  Mask:255.255.255.255")), "{ifconfig}");
    assert!(ifconfig.contains("UP BROADCAST RUNNING MULTICAST  MTU:1440"), "{ifconfig}");
    assert!(pod.pings("10.1.0.1"));
    assert_eq!(lines(pod.ns.sh("busybox arp -n")), ["? (169.254.1.1) at ee:ee:ee:ee:ee:ee [ether]  on eth0"]);
    let host = node.ns.sh("ip link show cali9861acf9f07");
    assert!(host.contains("link/ether ee:ee:ee:ee:ee:ee") && host.contains("mtu 1440") && host.contains("UP"), "{host}");
    assert_eq!(node.ns.sh("cat /proc/sys/net/ipv4/conf/cali9861acf9f07/proxy_arp"), "1\n");
    let peer = pod.ns.sh("ip -o link show eth0");
    let index = node.ns.sh("cat /sys/class/net/cali9861acf9f07/ifindex");
    assert!(peer.contains(&format!("eth0@if{}:", index.trim())), "{peer}");
}
