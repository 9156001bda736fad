//! Documents as objects: which kind they are, and in which of Calico's two groups.

use super::super::kubernetes::Group;
use super::super::kubernetes::translate::{from_stored, to_stored};
use super::super::objects::Resource;
use serde_json::Value;

/// The group that a document is written for.
fn group(document: &Value) -> Group {
    if document["apiVersion"] == Group::V1.api_version() { Group::V1 } else { Group::V3 }
}

/// Which kind a document is; `None` for kinds that are not kept here.
pub fn resource(document: &Value) -> Option<Resource> {
    let (version, kind) = (document["apiVersion"].as_str()?, document["kind"].as_str()?);
    let named = |kind: &str, core: bool| Resource::ALL.into_iter().find(|r| r.kind() == kind && r.is_core() == core);
    let (v1, v3) = (Group::V1.api_version(), Group::V3.api_version());
    match (version, kind) {
        // Kubernetes alone has a use for these.
        ("v1", "ConfigMap" | "Event") => None,
        ("v1", kind) => named(kind, true),
        (version, "IPAMConfig") if version == v1 => Some(Resource::IpamConfiguration),
        (version, "Node" | "WorkloadEndpoint" | "IPAMConfiguration") if version == v1 => None,
        (version, kind) if version == v1 || version == v3 => named(kind, false),
        _ => None,
    }
}

/// The object as `projectcalico.org/v3` (or core `v1`) has it.
pub fn to_v3(resource: Resource, document: Value) -> Value {
    from_stored(resource, group(&document), document)
}

/// An object in the form of the document that it takes the place of.
pub fn like(old: &Value, resource: Resource, object: Value) -> Value {
    to_stored(resource, group(old), object)
}

/// A new object's document.
pub fn new(resource: Resource, object: Value) -> Value {
    to_stored(resource, Group::V3, object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_of_both_groups() {
        let (v1, v3) = ("crd.projectcalico.org/v1", "projectcalico.org/v3");
        let find = |version: &str, kind: &str| resource(&json!({"apiVersion": version, "kind": kind}));
        assert_eq!((find("v1", "Node"), find(v3, "Node"), find(v1, "Node")), (Some(Resource::Node), Some(Resource::CalicoNode), None));
        assert_eq!((find(v1, "IPAMConfig"), find(v3, "IPAMConfig")), (Some(Resource::IpamConfiguration), None));
        assert_eq!((find(v1, "IPPool"), find("v1", "IPPool"), find("apps/v1", "Pod")), (Some(Resource::IpPool), None, None));
    }

    #[test]
    fn documents_keep_their_group() {
        let config = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMConfig", "metadata": {"name": "default"}, "spec": {}});
        let v3 = to_v3(Resource::IpamConfiguration, config.clone());
        assert_eq!((&v3["apiVersion"], &v3["kind"]), (&json!("projectcalico.org/v3"), &json!("IPAMConfiguration")));
        let back = like(&config, Resource::IpamConfiguration, v3);
        assert_eq!((&back["apiVersion"], &back["kind"], &back["spec"]), (&config["apiVersion"], &config["kind"], &config["spec"]));
    }
}
