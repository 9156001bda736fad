//! Calico's objects in the form of `projectcalico.org/v3`, and as `crd.projectcalico.org/v1` stores them.
//!
//! The older group keeps `deleted` of a BlockAffinity as text, calls IPAMConfiguration IPAMConfig, and has most of the
//! metadata that Calico sees as JSON in an annotation. Uids are the stored objects' own in both forms; Calico's v3 API
//! shows others.

use super::group::{Group, stored_kind};
use crate::control::datastore::objects::Resource;
use serde_json::{Map, Value, json};
use sha3::{Digest, Sha3_256};

/// Where the older group keeps Calico's metadata.
const METADATA: &str = "projectcalico.org/metadata";
/// Metadata that Kubernetes itself keeps; the rest goes to the annotation.
const KUBERNETES: [&str; 6] = ["name", "namespace", "resourceVersion", "uid", "labels", "annotations"];
/// Metadata that only the API server writes.
const SERVER: [&str; 3] = ["managedFields", "generation", "selfLink"];

/// What a stored object is in the form of `projectcalico.org/v3`; core objects are what they are.
pub fn from_stored(resource: Resource, group: Group, mut object: Value) -> Value {
    object["kind"] = json!(resource.kind());
    if resource.is_core() {
        object["apiVersion"] = json!("v1");
        return object;
    }
    object["apiVersion"] = json!(Group::V3.api_version());
    if group == Group::V1 {
        if resource == Resource::BlockAffinity
            && let Some(text) = object["spec"]["deleted"].as_str()
        {
            object["spec"]["deleted"] = json!(text == "true");
        }
        unfold_metadata(&mut object["metadata"]);
    }
    object
}

/// What an object looks like as the group stores it.
pub fn to_stored(resource: Resource, group: Group, mut object: Value) -> Value {
    if resource.is_core() {
        object["apiVersion"] = json!("v1");
        object["kind"] = json!(resource.kind());
        return object;
    }
    object["apiVersion"] = json!(group.api_version());
    object["kind"] = json!(stored_kind(resource, group));
    if resource == Resource::BlockAffinity {
        label_affinity(&mut object);
    }
    if group == Group::V1 {
        stored_spec(resource, &mut object["spec"]);
        fold_metadata(&mut object["metadata"]);
    }
    object
}

/// The fields that Calico's client always writes.
fn stored_spec(resource: Resource, spec: &mut Value) {
    let Value::Object(spec) = spec else { return };
    match resource {
        Resource::BlockAffinity => {
            let deleted = spec.get("deleted").is_some_and(|d| d == true || d == "true");
            spec.insert("deleted".into(), json!(deleted.to_string()));
        }
        Resource::IpamBlock => {
            spec.entry("deleted").or_insert(json!(false));
            spec.entry("strictAffinity").or_insert(json!(false));
        }
        Resource::IpamHandle => drop(spec.entry("deleted").or_insert(json!(false))),
        _ => {}
    }
}

/// A patch as the group understands it; `None` if it touches what is stored elsewhere, so that the whole object has to
/// be written.
pub fn patch_to_stored(resource: Resource, group: Group, mut patch: Value) -> Option<Value> {
    if resource.is_core() || group == Group::V3 {
        return Some(patch);
    }
    if let Some(metadata) = patch.get("metadata") {
        let keys = metadata.as_object()?;
        let whole = keys.contains_key("annotations") && !metadata["annotations"].is_object();
        if whole || keys.keys().any(|k| !KUBERNETES.contains(&k.as_str())) {
            return None;
        }
    }
    if resource == Resource::BlockAffinity
        && let Some(deleted) = patch.pointer_mut("/spec/deleted")
    {
        *deleted = json!((*deleted == true || *deleted == "true").to_string());
    }
    Some(patch)
}

/// Out of the annotation, over what Kubernetes has.
fn unfold_metadata(metadata: &mut Value) {
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else { return };
    let Some(folded) = annotations.remove(METADATA) else { return };
    if annotations.is_empty()
        && let Value::Object(m) = metadata
    {
        m.remove("annotations");
    }
    let folded: Map<String, Value> = folded.as_str().and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
    let Value::Object(metadata) = metadata else { return };
    for (key, value) in folded {
        if !KUBERNETES.contains(&key.as_str()) && !value.is_null() {
            metadata.insert(key, value);
        }
    }
}

/// Into the annotation, as Calico's client writes it.
fn fold_metadata(metadata: &mut Value) {
    let Value::Object(all) = metadata else { return };
    let (kept, mut folded): (Map<_, _>, Map<_, _>) = std::mem::take(all).into_iter().partition(|(k, _)| KUBERNETES.contains(&k.as_str()));
    folded.retain(|key, _| !SERVER.contains(&key.as_str()));
    folded.entry("creationTimestamp").or_insert(Value::Null);
    *all = kept;
    let annotations = all.entry("annotations").or_insert(Value::Null);
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[METADATA] = json!(Value::Object(folded).to_string());
}

/// Calico looks affinities up by these labels.
fn label_affinity(object: &mut Value) {
    let text = |key: &str| object["spec"][key].as_str().unwrap_or_default().to_owned();
    let (node, kind, cidr) = (text("node"), text("type"), text("cidr"));
    let labels = &mut object["metadata"]["labels"];
    if !labels.is_object() {
        *labels = json!({});
    }
    labels["projectcalico.org/hostname-hash"] = json!(base32(&Sha3_256::digest(node.as_bytes())));
    labels["projectcalico.org/affinity-type"] = json!(kind);
    labels["projectcalico.org/ip-version"] = json!(if cidr.contains(':') { "6" } else { "4" });
}

/// RFC 4648, without padding.
fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (mut out, mut buffer, mut bits) = (String::new(), 0u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(DIGITS[(buffer >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        out.push(char::from(DIGITS[(buffer << (5 - bits)) as usize & 31]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affinity() -> Value {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity",
            "metadata": {"name": "n-10-0-0-0-26"},
            "spec": {"cidr": "10.0.0.0/26", "node": "n", "state": "confirmed", "type": "host", "deleted": false},
        })
    }

    #[test]
    fn an_affinity_as_calicos_client_writes_it() {
        let stored = to_stored(Resource::BlockAffinity, Group::V1, affinity());
        assert_eq!(
            stored,
            json!({
                "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
                "metadata": {
                    "name": "n-10-0-0-0-26",
                    "labels": {
                        "projectcalico.org/hostname-hash": base32(&Sha3_256::digest(b"n")),
                        "projectcalico.org/affinity-type": "host",
                        "projectcalico.org/ip-version": "4",
                    },
                    "annotations": {"projectcalico.org/metadata": "{\"creationTimestamp\":null}"},
                },
                "spec": {"cidr": "10.0.0.0/26", "node": "n", "state": "confirmed", "type": "host", "deleted": "false"},
            })
        );
        let mut back = from_stored(Resource::BlockAffinity, Group::V1, stored);
        assert_eq!(back["metadata"]["labels"].as_object_mut().unwrap().len(), 3);
        back["metadata"].as_object_mut().unwrap().remove("labels");
        assert_eq!(back, affinity());
    }

    #[test]
    fn the_newer_group_stores_what_it_is_given() {
        let stored = to_stored(Resource::BlockAffinity, Group::V3, affinity());
        assert_eq!((&stored["spec"]["deleted"], &stored["metadata"]["annotations"]), (&json!(false), &Value::Null));
        let config = json!({"metadata": {"name": "default"}, "spec": {"strictAffinity": true}});
        assert_eq!(to_stored(Resource::IpamConfiguration, Group::V3, config.clone())["kind"], "IPAMConfiguration");
        let v1 = to_stored(Resource::IpamConfiguration, Group::V1, config);
        assert_eq!((&v1["kind"], &v1["apiVersion"]), (&json!("IPAMConfig"), &json!("crd.projectcalico.org/v1")));
        assert_eq!(from_stored(Resource::IpamConfiguration, Group::V1, v1)["kind"], "IPAMConfiguration");
    }

    #[test]
    fn metadata_travel_through_the_annotation() {
        let pool = json!({
            "metadata": {
                "name": "p", "uid": "u", "resourceVersion": "5", "labels": {"a": "b"}, "annotations": {"x": "y"},
                "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [{"name": "o"}], "managedFields": [1], "generation": 3,
            },
            "spec": {"cidr": "10.0.0.0/16"}, "strange": [1],
        });
        let stored = to_stored(Resource::IpPool, Group::V1, pool.clone());
        let metadata = &stored["metadata"];
        let mut keys: Vec<_> = metadata.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["annotations", "labels", "name", "resourceVersion", "uid"]);
        let folded: Value = serde_json::from_str(metadata["annotations"][METADATA].as_str().unwrap()).unwrap();
        assert_eq!(folded, json!({"creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [{"name": "o"}]}));
        let back = from_stored(Resource::IpPool, Group::V1, stored);
        let mut want = pool;
        for key in SERVER {
            want["metadata"].as_object_mut().unwrap().remove(key);
        }
        (want["apiVersion"], want["kind"]) = (json!("projectcalico.org/v3"), json!("IPPool"));
        assert_eq!(back, want);
    }

    #[test]
    fn a_broken_or_absent_annotation_leaves_kubernetes_metadata() {
        for annotations in [json!({METADATA: "nonsense"}), json!({}), Value::Null] {
            let stored = json!({"metadata": {"name": "p", "creationTimestamp": "t", "annotations": annotations}});
            let v3 = from_stored(Resource::IpPool, Group::V1, stored);
            assert_eq!((&v3["metadata"]["creationTimestamp"], &v3["metadata"]["name"]), (&json!("t"), &json!("p")));
        }
        let stored = json!({"metadata": {"name": "p", "creationTimestamp": "t", "annotations": {METADATA: "{\"creationTimestamp\":null,\"name\":\"q\"}"}}});
        assert_eq!(from_stored(Resource::IpPool, Group::V1, stored)["metadata"], json!({"name": "p", "creationTimestamp": "t"}));
    }

    #[test]
    fn blocks_and_handles_have_what_the_definitions_require() {
        let block = to_stored(Resource::IpamBlock, Group::V1, json!({"metadata": {"name": "b"}, "spec": {"cidr": "c", "deleted": true}}));
        assert_eq!(block["spec"], json!({"cidr": "c", "deleted": true, "strictAffinity": false}));
        let handle = to_stored(Resource::IpamHandle, Group::V1, json!({"metadata": {"name": "h"}, "spec": {"handleID": "H"}}));
        assert_eq!(handle["spec"], json!({"handleID": "H", "deleted": false}));
    }

    #[test]
    fn patches() {
        let of = |group, patch| patch_to_stored(Resource::BlockAffinity, group, patch);
        assert_eq!(of(Group::V1, json!({"spec": {"deleted": true}})), Some(json!({"spec": {"deleted": "true"}})));
        assert_eq!(of(Group::V3, json!({"spec": {"deleted": true}})), Some(json!({"spec": {"deleted": true}})));
        assert_eq!(of(Group::V1, json!({"spec": {"state": "x"}})), Some(json!({"spec": {"state": "x"}})));
        assert_eq!(of(Group::V1, json!({"metadata": {"ownerReferences": []}})), None);
        assert_eq!(of(Group::V1, json!({"metadata": {"annotations": null}})), None);
        let labels = json!({"metadata": {"labels": {"a": null}, "resourceVersion": "1"}});
        assert_eq!(of(Group::V1, labels.clone()), Some(labels));
    }

    /// Vectors of RFC 4648, section 10, without padding.
    #[test]
    fn base32_vectors() {
        for (text, want) in [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("fooba", "MZXW6YTB")] {
            assert_eq!(base32(text.as_bytes()), want);
        }
        assert_eq!(base32(&[0; 32]).len(), 52);
    }
}
