//! Pods on a TAP that the daemon makes.

use crate::support::{Node, Pod, address, with_previous};
use serde_json::{Value, json};

#[test]
fn a_tap_is_attached_checked_and_removed() {
    let mut node = Node::new();
    let conf = node.conf("1.1.0", json!({ "device_type": "tap" }));
    let (a, b) = (Pod::new("a"), Pod::new("b"));
    let one = a.add(&node, &conf);
    let two = b.add(&node, &node.conf("1.1.0", json!({})));
    assert_eq!(one["interfaces"].as_array().unwrap().len(), 1);
    assert_eq!((&one["interfaces"][0]["name"], &one["ips"][0]["interface"]), (&json!("eth0"), &json!(0)));
    assert!(a.ns.sh("ip -d link show eth0").contains("tun type tap"));
    assert_eq!(a.ns.sh("ip route").lines().count(), 2);
    assert!(a.pings(&address(&two)) && b.pings(&address(&one)) && a.pings("10.1.0.1"), "{}", node.story());
    assert_eq!(a.call(&node, "CHECK", &with_previous(&conf, &one)), Value::Null);
    node.stop();
    node.start();
    node.wait("the pod on a TAP outlives the daemon", || a.pings("10.1.0.1"));
    a.del(&node, &conf);
    b.del(&node, &conf);
    node.wait("the TAP is gone", || !a.ns.sh("ip -o link").contains("eth0"));
    node.expect_nothing_left();
    let args = a.vars("ADD", "").map(|(k, v)| if k == "CNI_IFNAME" { (k, "net1") } else { (k, v) });
    let refused = crate::support::outcome(node.call(std::path::Path::new(crate::support::TORTIE), &args, &conf)).unwrap_err();
    assert!(refused["code"] == 7 && refused["msg"].as_str().unwrap().contains("a TAP is always eth0"), "{refused}");
}
