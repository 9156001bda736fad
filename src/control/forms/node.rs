//! Node.

use super::{V3, metadata, text, texts};
use serde_json::{Map, Value, json};

/// Annotation of the core Node (behind `projectcalico.org/`) and field of the Calico Node that hold the same.
const FIELDS: &[(&str, &[&str])] = &[
    ("IPv4Address", &["spec", "bgp", "ipv4Address"]),
    ("IPv6Address", &["spec", "bgp", "ipv6Address"]),
    ("IPv4IPIPTunnelAddr", &["spec", "bgp", "ipv4IPIPTunnelAddr"]),
    ("ASNumber", &["spec", "bgp", "asNumber"]),
    ("RouteReflectorClusterID", &["spec", "bgp", "routeReflectorClusterID"]),
    ("IPv4VXLANTunnelAddr", &["spec", "ipv4VXLANTunnelAddr"]),
    ("VXLANTunnelMACAddr", &["spec", "vxlanTunnelMACAddr"]),
    ("IPv6VXLANTunnelAddr", &["spec", "ipv6VXLANTunnelAddr"]),
    ("VXLANTunnelMACAddrV6", &["spec", "vxlanTunnelMACAddrV6"]),
    ("IPv4WireguardInterfaceAddr", &["spec", "wireguard", "interfaceIPv4Address"]),
    ("IPv6WireguardInterfaceAddr", &["spec", "wireguard", "interfaceIPv6Address"]),
    ("WireguardPublicKey", &["status", "wireguardPublicKey"]),
    ("WireguardPublicKeyV6", &["status", "wireguardPublicKeyV6"]),
];
const PREFIX: &str = "projectcalico.org/";
/// A Calico Node's own labels and annotations, as JSON, in annotations of the core Node.
const LABELS: &str = "projectcalico.org/labels";
const ANNOTATIONS: &str = "projectcalico.org/annotations";
/// The core Node's labels, as JSON, in an annotation of the Calico Node: those are not its own.
const KUBE_LABELS: &str = "projectcalico.org/kube-labels";

/// The Calico Node that a core Node stands for.
pub fn of_core(core: &Value) -> Value {
    let name = core["metadata"]["name"].as_str().unwrap_or_default();
    let mut node = json!({"apiVersion": V3, "kind": "Node", "metadata": metadata(name, core), "spec": {}});
    let kube_labels = Value::Object(texts(&core["metadata"]["labels"]).map(|(k, v)| (k.clone(), json!(v))).collect());
    let mut labels = kube_labels.clone();
    for (key, value) in texts(&embedded(core, LABELS)) {
        labels[key.as_str()] = json!(value);
    }
    let mut annotations = embedded(core, ANNOTATIONS);
    if kube_labels.as_object().is_some_and(|l| !l.is_empty()) {
        annotations[KUBE_LABELS] = json!(kube_labels.to_string());
    }
    for (part, entries) in [("labels", labels), ("annotations", annotations)] {
        if entries.as_object().is_some_and(|e| !e.is_empty()) {
            node["metadata"][part] = entries;
        }
    }
    for (annotation, path) in FIELDS {
        if let Some(value) = text(core, &["metadata", "annotations", &format!("{PREFIX}{annotation}")]) {
            put(&mut node, path, number_if(annotation, value));
        }
    }
    node["spec"]["orchRefs"] = json!([{"nodeName": name, "orchestrator": "k8s"}]);
    let addresses = addresses(&node, core);
    if !addresses.is_empty() {
        node["spec"]["addresses"] = json!(addresses);
    }
    if let Some(cidrs) = core["spec"]["podCIDRs"].as_array().filter(|c| !c.is_empty()) {
        node["status"]["podCIDRs"] = json!(cidrs);
    }
    node
}

/// The core Node with a Calico Node's fields in its annotations. The rest of it, its labels among that, stays.
pub fn into_core(node: &Value, core: &Value) -> Value {
    let mut core = core.clone();
    let mut annotations = core["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    for (annotation, path) in FIELDS {
        set(&mut annotations, &format!("{PREFIX}{annotation}"), field(node, path));
    }
    let inherited = kube_labels(node);
    let own = |labels: &Value| -> Map<String, Value> {
        let all = texts(labels).filter(|(k, v)| inherited[k.as_str()].as_str() != Some(v));
        all.map(|(k, v)| (k.clone(), json!(v))).collect()
    };
    set(&mut annotations, LABELS, json_text(own(&node["metadata"]["labels"])));
    let other = texts(&node["metadata"]["annotations"]).filter(|(k, _)| *k != KUBE_LABELS);
    set(&mut annotations, ANNOTATIONS, json_text(other.map(|(k, v)| (k.clone(), json!(v))).collect()));
    core["metadata"]["annotations"] = Value::Object(annotations);
    core
}

/// A core Node that says what a Calico Node does, for readers of core Nodes: its labels and annotations are its own.
pub fn as_core(node: &Value) -> Value {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let mut core = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata(name, node)});
    if let Some(labels) = node["metadata"].get("labels") {
        core["metadata"]["labels"] = labels.clone();
    }
    let mut annotations = node["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    for (annotation, path) in FIELDS {
        set(&mut annotations, &format!("{PREFIX}{annotation}"), field(node, path));
    }
    core["metadata"]["annotations"] = Value::Object(annotations);
    core
}

/// The Calico Node after its core form ([`as_core`]) was changed.
pub fn from_core(core: &Value, node: &Value) -> Value {
    let mut node = node.clone();
    let mut annotations = core["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    for (annotation, path) in FIELDS {
        match annotations.remove(&format!("{PREFIX}{annotation}")).as_ref().and_then(Value::as_str).filter(|s| !s.is_empty()) {
            Some(value) => put(&mut node, path, number_if(annotation, value)),
            None => take(&mut node, path),
        }
    }
    let labels = core["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    for (part, entries) in [("labels", labels), ("annotations", annotations)] {
        let Some(metadata) = node["metadata"].as_object_mut() else { continue };
        if entries.is_empty() {
            metadata.remove(part);
        } else {
            metadata.insert(part.into(), Value::Object(entries));
        }
    }
    for key in ["resourceVersion", "uid", "creationTimestamp"] {
        if let Some(v) = core["metadata"].get(key) {
            node["metadata"][key] = v.clone();
        }
    }
    node
}

/// AS numbers are numbers in the object and text in the annotation.
fn number_if(annotation: &str, value: &str) -> Value {
    match value.parse::<u32>() {
        Ok(n) if annotation == "ASNumber" => json!(n),
        _ => json!(value),
    }
}

fn field(node: &Value, path: &[&str]) -> Option<String> {
    match path.iter().fold(node, |v, key| &v[*key]) {
        Value::String(s) if !s.is_empty() => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

fn put(node: &mut Value, path: &[&str], value: Value) {
    let place = path.iter().fold(node, |v, key| {
        if !v.is_object() {
            *v = json!({});
        }
        &mut v[*key]
    });
    *place = value;
}

/// Removes a field, and the mapping around it if that is empty then.
fn take(node: &mut Value, path: &[&str]) {
    let [first, rest @ ..] = path else { return };
    let Some(map) = node.as_object_mut() else { return };
    if rest.is_empty() {
        map.remove(*first);
    } else if let Some(child) = map.get_mut(*first) {
        let had = child.as_object().is_some_and(|c| !c.is_empty());
        take(child, rest);
        if had && child.as_object().is_some_and(Map::is_empty) && *first != "spec" {
            map.remove(*first);
        }
    }
}

fn set(map: &mut Map<String, Value>, key: &str, value: Option<String>) {
    match value {
        Some(value) => drop(map.insert(key.to_owned(), json!(value))),
        None => drop(map.remove(key)),
    }
}

fn json_text(entries: Map<String, Value>) -> Option<String> {
    if entries.is_empty() { None } else { Some(Value::Object(entries).to_string()) }
}

/// JSON in an annotation; an empty mapping without it, or if it is none.
fn embedded(core: &Value, annotation: &str) -> Value {
    let parsed = text(core, &["metadata", "annotations", annotation]).and_then(|t| serde_json::from_str::<Value>(t).ok());
    parsed.filter(Value::is_object).unwrap_or_else(|| json!({}))
}

fn kube_labels(node: &Value) -> Value {
    embedded(node, KUBE_LABELS)
}

fn addresses(node: &Value, core: &Value) -> Vec<Value> {
    let own = ["ipv4Address", "ipv6Address"].into_iter().filter_map(|key| text(node, &["spec", "bgp", key]));
    let own = own.map(|a| json!({"address": a, "type": "CalicoNodeIP"}));
    let kube = core["status"]["addresses"].as_array().into_iter().flatten();
    let kube = kube.filter(|a| matches!(a["type"].as_str(), Some("InternalIP" | "ExternalIP")));
    own.chain(kube.map(|a| json!({"address": a["address"], "type": a["type"]}))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> Value {
        json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "resourceVersion": "7", "uid": "u", "labels": {"zone": "a"}, "annotations": {
                "projectcalico.org/IPv4Address": "192.168.3.110/24", "projectcalico.org/ASNumber": "64513",
                "projectcalico.org/IPv4VXLANTunnelAddr": "10.244.1.0", "projectcalico.org/WireguardPublicKey": "k",
                "projectcalico.org/labels": "{\"own\":\"x\"}", "other/annotation": "stays"}},
            "spec": {"podCIDRs": ["10.1.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.3.110"}, {"type": "Hostname", "address": "n1"}]}})
    }

    #[test]
    fn a_core_node_as_calico_shows_it() {
        assert_eq!(
            of_core(&core()),
            json!({"apiVersion": V3, "kind": "Node",
                "metadata": {"name": "n1", "resourceVersion": "7", "uid": "u", "labels": {"own": "x", "zone": "a"},
                    "annotations": {"projectcalico.org/kube-labels": "{\"zone\":\"a\"}"}},
                "spec": {"bgp": {"ipv4Address": "192.168.3.110/24", "asNumber": 64513}, "ipv4VXLANTunnelAddr": "10.244.1.0",
                    "orchRefs": [{"nodeName": "n1", "orchestrator": "k8s"}],
                    "addresses": [{"address": "192.168.3.110/24", "type": "CalicoNodeIP"}, {"address": "192.168.3.110", "type": "InternalIP"}]},
                "status": {"wireguardPublicKey": "k", "podCIDRs": ["10.1.0.0/24"]}})
        );
        let bare = of_core(&json!({"metadata": {"name": "n"}}));
        assert_eq!(bare["spec"], json!({"orchRefs": [{"nodeName": "n", "orchestrator": "k8s"}]}));
    }

    #[test]
    fn writing_back_what_was_read_changes_nothing() {
        assert_eq!(into_core(&of_core(&core()), &core()), core());
    }

    #[test]
    fn changes_reach_the_annotations_and_nothing_else() {
        let mut node = of_core(&core());
        node["spec"]["bgp"] = json!({"ipv4Address": "192.168.3.111/24", "routeReflectorClusterID": "244.0.0.1"});
        node["metadata"]["labels"]["route-reflector"] = json!("true");
        node["metadata"]["annotations"]["mine"] = json!("y");
        let changed = into_core(&node, &core());
        let a = &changed["metadata"]["annotations"];
        assert_eq!(
            (&a["projectcalico.org/IPv4Address"], &a["projectcalico.org/RouteReflectorClusterID"]),
            (&json!("192.168.3.111/24"), &json!("244.0.0.1"))
        );
        assert_eq!((a.get("projectcalico.org/ASNumber"), &a["other/annotation"]), (None, &json!("stays")));
        assert_eq!(a["projectcalico.org/labels"], json!("{\"own\":\"x\",\"route-reflector\":\"true\"}"));
        assert_eq!(a["projectcalico.org/annotations"], json!("{\"mine\":\"y\"}"));
        assert_eq!(
            (&changed["metadata"]["labels"], &changed["spec"], &changed["status"]),
            (&core()["metadata"]["labels"], &core()["spec"], &core()["status"])
        );
        assert_eq!(of_core(&changed)["metadata"], node["metadata"]);
    }

    #[test]
    fn a_calico_node_behind_its_core_form() {
        let node = json!({"apiVersion": V3, "kind": "Node", "metadata": {"name": "n", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"bgp": {"ipv4Address": "10.0.0.1/24", "asNumber": 64513}, "ipv4VXLANTunnelAddr": "10.1.0.0", "unknown": [1]}});
        let mut core = as_core(&node);
        assert_eq!(core["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(from_core(&core, &node), node);
        core["metadata"]["annotations"]["projectcalico.org/IPv4IPIPTunnelAddr"] = json!("10.1.0.1");
        core["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"] = json!("");
        let changed = from_core(&core, &node);
        let mut want = node.clone();
        want["spec"] = json!({"bgp": {"ipv4Address": "10.0.0.1/24", "asNumber": 64513, "ipv4IPIPTunnelAddr": "10.1.0.1"}, "unknown": [1]});
        assert_eq!(changed, want);
    }
}
