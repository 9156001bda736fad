//! The two forms of Calico's objects: as users see them (`projectcalico.org/v3`) and as older clusters store them
//! (`crd.projectcalico.org/v1`), which manifests may hold as well.

use super::super::objects::Resource;
use serde_json::{Map, Value, json};

const V3: &str = "projectcalico.org/v3";
const V1: &str = "crd.projectcalico.org/v1";
/// Where the stored form keeps labels and annotations.
const METADATA: &str = "projectcalico.org/metadata";

/// Which kind a document is; `None` for kinds that are not kept here.
pub fn resource(document: &Value) -> Option<Resource> {
    let (version, kind) = (document["apiVersion"].as_str()?, document["kind"].as_str()?);
    let named = |kind: &str, core: bool| Resource::ALL.into_iter().find(|r| r.kind() == kind && r.is_core() == core);
    match (version, kind) {
        ("v1", kind) => named(kind, true),
        (V1, "IPAMConfig") => Some(Resource::IpamConfiguration),
        (V1, "Node" | "WorkloadEndpoint") => None,
        (V3 | V1, kind) => named(kind, false),
        _ => None,
    }
}

/// The object as `projectcalico.org/v3` (or core `v1`) has it.
pub fn to_v3(resource: Resource, mut document: Value) -> Value {
    if document["apiVersion"] == V1 {
        document["apiVersion"] = json!(V3);
        document["kind"] = json!(resource.kind());
        unfold_metadata(&mut document);
        if resource == Resource::BlockAffinity
            && let Some(deleted) = document["spec"]["deleted"].as_str().map(|d| d == "true")
        {
            document["spec"]["deleted"] = json!(deleted);
        }
    }
    document
}

fn unfold_metadata(document: &mut Value) {
    let Some(annotations) = document["metadata"]["annotations"].as_object_mut() else { return };
    let Some(folded) = annotations.remove(METADATA) else { return };
    if annotations.is_empty()
        && let Some(metadata) = document["metadata"].as_object_mut()
    {
        metadata.remove("annotations");
    }
    let folded: Value = folded.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    for part in ["labels", "annotations"] {
        for (key, value) in folded[part].as_object().into_iter().flatten() {
            document["metadata"][part][key.as_str()] = value.clone();
        }
    }
}

/// An object in the form of the document that it takes the place of.
pub fn like(old: &Value, resource: Resource, mut object: Value) -> Value {
    object["apiVersion"] = old["apiVersion"].clone();
    object["kind"] = old["kind"].clone();
    if old["apiVersion"] == V1 {
        fold_metadata(&mut object);
        if resource == Resource::BlockAffinity
            && let Some(deleted) = object["spec"]["deleted"].as_bool()
        {
            object["spec"]["deleted"] = json!(deleted.to_string());
        }
    }
    object
}

fn fold_metadata(object: &mut Value) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    let parts: Map<String, Value> =
        ["labels", "annotations"].into_iter().filter_map(|p| Some((p.to_owned(), metadata.remove(p)?))).collect();
    if !parts.is_empty() {
        metadata.insert("annotations".into(), json!({ METADATA: Value::Object(parts).to_string() }));
    }
}

/// A new object's document.
pub fn new(resource: Resource, mut object: Value) -> Value {
    object["apiVersion"] = json!(if resource.is_core() { "v1" } else { V3 });
    object["kind"] = json!(resource.kind());
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_both_groups() {
        let find = |version: &str, kind: &str| resource(&json!({"apiVersion": version, "kind": kind}));
        assert_eq!((find("v1", "Node"), find(V3, "Node"), find(V1, "Node")), (Some(Resource::Node), Some(Resource::CalicoNode), None));
        assert_eq!((find(V1, "IPAMConfig"), find(V3, "IPAMConfig")), (Some(Resource::IpamConfiguration), None));
        assert_eq!((find(V1, "IPPool"), find("v1", "IPPool"), find("apps/v1", "Pod")), (Some(Resource::IpPool), None, None));
    }

    #[test]
    fn the_stored_form_survives_a_round_trip() {
        let folded = json!({"labels": {"a": "b"}, "annotations": {"c": "d"}}).to_string();
        let stored = json!({"apiVersion": V1, "kind": "BlockAffinity", "metadata": {"name": "n", "annotations": {METADATA: folded}},
            "spec": {"deleted": "false", "cidr": "10.0.0.0/26"}});
        let v3 = to_v3(Resource::BlockAffinity, stored.clone());
        assert_eq!(
            v3,
            json!({"apiVersion": V3, "kind": "BlockAffinity", "metadata": {"name": "n", "labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {"deleted": false, "cidr": "10.0.0.0/26"}})
        );
        let back = like(&stored, Resource::BlockAffinity, v3);
        assert_eq!(to_v3(Resource::BlockAffinity, back.clone()), to_v3(Resource::BlockAffinity, stored));
        assert_eq!((&back["spec"]["deleted"], &back["apiVersion"]), (&json!("false"), &json!(V1)));
        let config = json!({"apiVersion": V1, "kind": "IPAMConfig", "metadata": {"name": "default"}, "spec": {}});
        assert_eq!(like(&config, Resource::IpamConfiguration, to_v3(Resource::IpamConfiguration, config.clone())), config);
    }
}
