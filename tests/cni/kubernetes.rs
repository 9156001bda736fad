//! The same against an API server: the record of an attachment is the Pod's annotations.

use crate::support::{Node, Pod, address, with_previous};
use serde_json::{Value, json};
use tortie::testing::apiserver::ApiServer;

const V1: &str = "crd.projectcalico.org/v1";

fn objects() -> [Value; 5] {
    let pod = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }] }, "status": { "phase": "Pending" } })
    };
    [
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1",
            "annotations": { "projectcalico.org/IPv4Address": "10.1.0.1/24" } }, "spec": {}, "status": {} }),
        json!({ "apiVersion": V1, "kind": "IPPool", "metadata": { "name": "pool" },
            "spec": { "cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": "Never", "ipipMode": "Never", "nodeSelector": "all()" } }),
        pod("web"),
        pod("other"),
        pod("tapped"),
    ]
}

#[test]
fn pods_of_kubernetes_are_attached_and_detached() {
    let mut node = Node::without_daemon();
    let server = node.ns.run(|| ApiServer::start_at("127.0.0.1:0".parse().unwrap(), true));
    server.put_all(objects());
    let kubeconfig = server.kubeconfig(node.dir.path(), None);
    let text = format!(
        "node: n1\ndatastore: {{kind: kubernetes, kubeconfig: {}}}\nuplink: {{interface: eth0, driver: socket}}\napi: {{socket: api.sock}}\n",
        kubeconfig.display()
    );
    std::fs::write(&node.config, text).unwrap();
    node.start();
    let mut conf = node.conf(
        "1.1.0",
        json!({ "datastore_type": "kubernetes", "kubernetes": { "kubeconfig": kubeconfig },
        "nodename": "n1", "api_socket": node.socket }),
    );
    conf.as_object_mut().unwrap().remove("config");
    let (web, other) = (Pod::new("web"), Pod::new("other"));
    let (one, two) = (web.add(&node, &conf), other.add(&node, &conf));
    let annotation = |key: &str| {
        let pod = server.get("v1", "pods", "default", "web").unwrap();
        pod["metadata"]["annotations"][format!("cni.projectcalico.org/{key}")].clone()
    };
    let ip = format!("{}/32", address(&one));
    assert_eq!((annotation("podIP"), annotation("podIPs"), annotation("containerID")), (json!(ip), json!(ip), json!("sandbox-web")));
    assert!(web.pings(&address(&two)) && other.pings(&address(&one)) && web.pings("10.1.0.1"), "{}", node.story());
    web.call(&node, "CHECK", &with_previous(&conf, &one));
    // A TAP, which the daemon makes where the Pod's annotation says.
    let mut tap = conf.clone();
    tap["device_type"] = json!("tap");
    let tapped = Pod::new("tapped");
    let three = tapped.add(&node, &tap);
    assert!(tapped.ns.sh("ip -d link show eth0").contains("tun type tap"));
    assert!(tapped.pings(&address(&one)) && web.pings(&address(&three)) && tapped.pings("10.1.0.1"), "{}", node.story());
    assert_eq!(tapped.call(&node, "CHECK", &with_previous(&tap, &three)), Value::Null);
    let netns = || server.get("v1", "pods", "default", "tapped").unwrap()["metadata"]["annotations"]["tortie/netns"].clone();
    assert_eq!(netns(), json!(tapped.ns.path()));
    tapped.del(&node, &tap);
    assert_eq!(netns(), Value::Null);
    node.wait("the TAP is gone", || !tapped.ns.sh("ip -o link").contains("eth0"));
    let missing = Pod::new("nobody").try_call(&node, "ADD", &conf).unwrap_err();
    assert!(missing["code"] == 11 && missing["msg"].as_str().unwrap().contains("Pod default/nobody does not exist"), "{missing}");
    web.del(&node, &conf);
    assert_eq!((annotation("podIP"), annotation("podIPs")), (json!(""), json!("")));
    assert_eq!(server.all(V1, "ipamhandles").len(), 1, "the other's");
    // Without its API server nothing can be attached, and what is attached cannot be given back: try again later.
    server.stop();
    assert_eq!(web.try_call(&node, "ADD", &conf).unwrap_err()["code"], 11);
    assert_eq!(other.try_call(&node, "DEL", &conf).unwrap_err()["code"], 11);
    assert_eq!(node.command("STATUS", &conf).unwrap_err()["code"], 50);
    server.start_again();
    other.del(&node, &conf);
    assert!(server.all(V1, "ipamhandles").is_empty());
    node.expect_nothing_left();
}
