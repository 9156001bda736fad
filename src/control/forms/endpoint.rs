//! WorkloadEndpoint: of a Pod that has a network of its own, a node and addresses.

use super::{V3, metadata, text, texts};
use crate::control::model::{endpoint_name, interface_name, pod_of_json};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The endpoint of a Pod's `eth0`; `None` if it has none (now). `prefix` names interfaces (FelixConfiguration
/// interfacePrefix).
pub fn of_pod(pod: &Value, prefix: &str) -> Option<Value> {
    let (namespace, name, read) = pod_of_json(pod).ok()?;
    let node = read.node.as_deref()?;
    if read.host_network || read.addresses.is_empty() {
        return None;
    }
    let mut endpoint = json!({
        "apiVersion": V3,
        "kind": "WorkloadEndpoint",
        "metadata": metadata(&endpoint_name(node, &name), pod),
        "spec": {
            "orchestrator": "k8s",
            "node": node,
            "pod": name,
            "endpoint": "eth0",
            "interfaceName": interface_name(prefix, &namespace, &name),
            "ipNetworks": read.addresses.iter().map(network).collect::<Vec<_>>(),
            "profiles": profiles(pod, &namespace),
        },
    });
    endpoint["metadata"]["namespace"] = json!(namespace);
    if let Some(generated) = pod["metadata"].get("generateName") {
        endpoint["metadata"]["generateName"] = generated.clone();
    }
    endpoint["metadata"]["labels"] = labels(pod, &namespace);
    let spec = &mut endpoint["spec"];
    if let Some(account) = text(pod, &["spec", "serviceAccountName"]) {
        spec["serviceAccountName"] = json!(account);
    }
    if let Some(container) = text(pod, &["metadata", "annotations", "cni.projectcalico.org/containerID"]) {
        spec["containerID"] = json!(container);
    }
    if !read.spoofed_sources.is_empty() {
        spec["allowSpoofedSourcePrefixes"] = json!(read.spoofed_sources);
    }
    let nats = nats(&read.addresses, &read.floating_ips);
    if !nats.is_empty() {
        spec["ipNATs"] = json!(nats);
    }
    let ports = ports(pod);
    if !ports.is_empty() {
        spec["ports"] = json!(ports);
    }
    Some(endpoint)
}

/// Pod, node and interface that an endpoint's name stands for (`n1-k8s-web--1-eth0`); `None` for other names.
pub fn pod_of(name: &str) -> Option<String> {
    let parts: Vec<String> = parts(name);
    match parts.as_slice() {
        [_, orchestrator, pod, _] if orchestrator == "k8s" => Some(pod.clone()),
        _ => None,
    }
}

/// The parts between single dashes; doubled ones stand for one inside a part.
fn parts(name: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '-' if chars.peek() == Some(&'-') => {
                chars.next();
                out.last_mut().into_iter().for_each(|p| p.push('-'));
            }
            '-' => out.push(String::new()),
            c => out.last_mut().into_iter().for_each(|p| p.push(c)),
        }
    }
    out
}

fn network(ip: &IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

/// Each floating IP with the pod's address of the same version.
fn nats(own: &[IpAddr], floating: &[IpAddr]) -> Vec<Value> {
    let inside = |ip: &IpAddr| own.iter().find(|o| o.is_ipv4() == ip.is_ipv4());
    floating.iter().filter_map(|ip| Some(json!({"internalIP": inside(ip)?, "externalIP": ip}))).collect()
}

fn profiles(pod: &Value, namespace: &str) -> Vec<String> {
    let account = text(pod, &["spec", "serviceAccountName"]).map(|a| format!("ksa.{namespace}.{a}"));
    std::iter::once(format!("kns.{namespace}")).chain(account).collect()
}

fn labels(pod: &Value, namespace: &str) -> Value {
    let mut labels = json!({});
    for (key, value) in texts(&pod["metadata"]["labels"]) {
        labels[key.as_str()] = json!(value);
    }
    labels["projectcalico.org/namespace"] = json!(namespace);
    labels["projectcalico.org/orchestrator"] = json!("k8s");
    // A label's value has at most 63 characters.
    if let Some(account) = text(pod, &["spec", "serviceAccountName"]).filter(|a| a.len() <= 63) {
        labels["projectcalico.org/serviceaccount"] = json!(account);
    }
    labels
}

fn ports(pod: &Value) -> Vec<Value> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let port = |p: &Value| {
        let mut port = json!({"name": p["name"].as_str().unwrap_or_default(), "port": p["containerPort"].as_u64()?, "protocol": p["protocol"].as_str().unwrap_or("TCP")});
        port["hostPort"] = json!(p["hostPort"].as_u64().unwrap_or(0));
        port["hostIP"] = json!(p["hostIP"].as_str().unwrap_or_default());
        Some(port)
    };
    // Without a name and without a host port there is nothing that policy or NAT could refer to.
    ports
        .filter(|p| p["name"].as_str().is_some_and(|n| !n.is_empty()) || p["hostPort"].as_u64().is_some_and(|h| h > 0))
        .filter_map(port)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "client-6d96c457bc-bd2p9", "namespace": "default", "generateName": "client-6d96c457bc-", "resourceVersion": "5",
                "labels": {"app": "client"}, "annotations": {"cni.projectcalico.org/containerID": "abc"}},
            "spec": {"nodeName": "worker1-k8s.myk8s.example.com", "serviceAccountName": "default", "containers": [
                {"ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}]}]},
            "status": {"podIP": "10.244.56.65", "podIPs": [{"ip": "10.244.56.65"}]}})
    }

    #[test]
    fn a_pods_endpoint() {
        let e = of_pod(&pod(), "cali").unwrap();
        assert_eq!(
            e,
            json!({"apiVersion": V3, "kind": "WorkloadEndpoint",
                "metadata": {"name": "worker1--k8s.myk8s.example.com-k8s-client--6d96c457bc--bd2p9-eth0", "namespace": "default",
                    "generateName": "client-6d96c457bc-", "resourceVersion": "5",
                    "labels": {"app": "client", "projectcalico.org/namespace": "default", "projectcalico.org/orchestrator": "k8s",
                        "projectcalico.org/serviceaccount": "default"}},
                "spec": {"orchestrator": "k8s", "node": "worker1-k8s.myk8s.example.com", "pod": "client-6d96c457bc-bd2p9", "endpoint": "eth0",
                    "interfaceName": "cali3745790aa7e", "ipNetworks": ["10.244.56.65/32"], "profiles": ["kns.default", "ksa.default.default"],
                    "serviceAccountName": "default", "containerID": "abc",
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP", "hostPort": 0, "hostIP": ""}]}})
        );
        assert_eq!(pod_of(e["metadata"]["name"].as_str().unwrap()).as_deref(), Some("client-6d96c457bc-bd2p9"));
    }

    #[test]
    fn floating_ips() {
        let mut p = pod();
        p["metadata"]["annotations"]["cni.projectcalico.org/floatingIPs"] = json!("[\"192.0.2.7\", \"fd00::7\"]");
        let nats = &of_pod(&p, "cali").unwrap()["spec"]["ipNATs"];
        assert_eq!(*nats, json!([{"internalIP": "10.244.56.65", "externalIP": "192.0.2.7"}]), "it has no IPv6 address");
    }

    #[test]
    fn pods_without_one() {
        for (key, value) in [("nodeName", json!(null)), ("hostNetwork", json!(true))] {
            let mut p = pod();
            p["spec"][key] = value;
            assert_eq!(of_pod(&p, "cali"), None, "{key}");
        }
        let mut p = pod();
        p["status"] = json!({});
        assert_eq!(of_pod(&p, "cali"), None);
        assert_eq!((pod_of("web"), pod_of("n-other-web-eth0")), (None, None));
    }
}
