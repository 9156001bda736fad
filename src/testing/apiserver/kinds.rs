//! What the server serves: groups, resources, and paths to them.

use super::status::Refusal;
use serde_json::{Value, json};

/// One kind of object in one group and version.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    pub api_version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    /// Whether `PUT` without a resourceVersion replaces in any case, as for Kubernetes' own kinds.
    pub unconditional: bool,
    /// Whether `status` is written by its own path only.
    pub has_status: bool,
}

/// The group and version of Kubernetes' own kinds, and the two of Calico's.
pub const CORE: &str = "v1";
pub const V1: &str = "crd.projectcalico.org/v1";
pub const V3: &str = "projectcalico.org/v3";

impl Resource {
    /// Empty for Kubernetes' own.
    pub fn group(&self) -> &'static str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// As messages name it: `ippools.crd.projectcalico.org`.
    pub fn full_name(&self) -> String {
        match self.group() {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// By `apiVersion` and `kind` of an object.
    pub fn of(object: &Value) -> Option<&'static Resource> {
        let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        RESOURCES.iter().find(|r| r.api_version == version && r.kind == kind)
    }

    pub fn find(api_version: &str, plural: &str) -> Option<&'static Resource> {
        RESOURCES.iter().find(|r| r.api_version == api_version && r.plural == plural)
    }
}

const fn core(plural: &'static str, kind: &'static str, namespaced: bool, has_status: bool) -> Resource {
    Resource { api_version: CORE, plural, kind, namespaced, unconditional: true, has_status }
}

const fn crd(api_version: &'static str, plural: &'static str, kind: &'static str) -> Resource {
    Resource { api_version, plural, kind, namespaced: false, unconditional: false, has_status: false }
}

const fn namespaced(resource: Resource) -> Resource {
    Resource { namespaced: true, ..resource }
}

const fn with_status(resource: Resource) -> Resource {
    Resource { has_status: true, ..resource }
}

/// All that is served, as Calico's own definitions have it.
pub static RESOURCES: &[Resource] = &[
    core("nodes", "Node", false, true),
    core("pods", "Pod", true, true),
    core("namespaces", "Namespace", false, true),
    core("serviceaccounts", "ServiceAccount", true, false),
    core("configmaps", "ConfigMap", true, false),
    core("events", "Event", true, false),
    crd(V1, "ippools", "IPPool"),
    crd(V1, "ipreservations", "IPReservation"),
    crd(V1, "ipamblocks", "IPAMBlock"),
    crd(V1, "blockaffinities", "BlockAffinity"),
    crd(V1, "ipamhandles", "IPAMHandle"),
    crd(V1, "ipamconfigs", "IPAMConfig"),
    crd(V1, "felixconfigurations", "FelixConfiguration"),
    crd(V1, "clusterinformations", "ClusterInformation"),
    crd(V1, "bgpconfigurations", "BGPConfiguration"),
    crd(V1, "bgppeers", "BGPPeer"),
    crd(V1, "hostendpoints", "HostEndpoint"),
    crd(V1, "globalnetworkpolicies", "GlobalNetworkPolicy"),
    crd(V1, "globalnetworksets", "GlobalNetworkSet"),
    namespaced(crd(V1, "networkpolicies", "NetworkPolicy")),
    namespaced(crd(V1, "networksets", "NetworkSet")),
    with_status(crd(V3, "ippools", "IPPool")),
    crd(V3, "ipreservations", "IPReservation"),
    crd(V3, "ipamblocks", "IPAMBlock"),
    crd(V3, "blockaffinities", "BlockAffinity"),
    crd(V3, "ipamhandles", "IPAMHandle"),
    crd(V3, "ipamconfigurations", "IPAMConfiguration"),
    crd(V3, "felixconfigurations", "FelixConfiguration"),
    crd(V3, "clusterinformations", "ClusterInformation"),
    crd(V3, "bgpconfigurations", "BGPConfiguration"),
    crd(V3, "bgppeers", "BGPPeer"),
    crd(V3, "hostendpoints", "HostEndpoint"),
    crd(V3, "globalnetworkpolicies", "GlobalNetworkPolicy"),
    crd(V3, "globalnetworksets", "GlobalNetworkSet"),
    namespaced(crd(V3, "networkpolicies", "NetworkPolicy")),
    namespaced(crd(V3, "networksets", "NetworkSet")),
];

/// Which of Calico's groups are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Groups {
    #[default]
    V1,
    V3,
    Both,
    /// Calico's definitions are not installed.
    Neither,
}

impl Groups {
    pub fn serves(self, api_version: &str) -> bool {
        match api_version {
            V1 => matches!(self, Groups::V1 | Groups::Both),
            V3 => matches!(self, Groups::V3 | Groups::Both),
            version => version == CORE,
        }
    }
}

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// Discovery: the whole answer.
    Document(Value),
    /// A SelfSubjectAccessReview.
    Review,
    Objects {
        resource: &'static Resource,
        namespace: Option<String>,
        name: Option<String>,
        /// The sub-resource `status`.
        status: bool,
    },
}

impl Target {
    pub fn parse(path: &str, groups: Groups) -> Result<Target, Refusal> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        match parts.as_slice() {
            ["version"] => Ok(Target::Document(json!({"major": "1", "minor": "33", "gitVersion": "v1.33.0"}))),
            ["api"] => Ok(Target::Document(json!({"kind": "APIVersions", "versions": ["v1"]}))),
            ["apis"] => Ok(Target::Document(group_list(groups))),
            ["api", "v1"] => Ok(Target::Document(resource_list(CORE))),
            ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => Ok(Target::Review),
            ["api", "v1", rest @ ..] => objects(CORE, rest),
            ["apis", group, version, rest @ ..] => {
                let api_version = format!("{group}/{version}");
                if !groups.serves(&api_version) {
                    return Err(Refusal::no_such_path());
                }
                if rest.is_empty() { Ok(Target::Document(resource_list(&api_version))) } else { objects(&api_version, rest) }
            }
            _ => Err(Refusal::no_such_path()),
        }
    }
}

fn objects(api_version: &str, rest: &[&str]) -> Result<Target, Refusal> {
    let find = |plural: &str| Resource::find(api_version, plural).ok_or_else(Refusal::no_such_path);
    let (resource, namespace, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => (find(plural)?, Some((*namespace).to_owned()), rest),
        [plural, rest @ ..] => (find(plural)?, None, rest),
        [] => return Err(Refusal::no_such_path()),
    };
    let (name, status) = match rest {
        [] => (None, false),
        [name] => (Some((*name).to_owned()), false),
        [name, "status"] if resource.has_status => (Some((*name).to_owned()), true),
        _ => return Err(Refusal::no_such_path()),
    };
    // An object of a namespaced kind has no path without its namespace, and the other way round.
    if (name.is_some() && resource.namespaced != namespace.is_some()) || (namespace.is_some() && !resource.namespaced) {
        return Err(Refusal::no_such_path());
    }
    Ok(Target::Objects { resource, namespace, name, status })
}

fn group_list(groups: Groups) -> Value {
    let group = |api_version: &str| {
        let (name, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let version = json!({"groupVersion": api_version, "version": version});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    let served: Vec<Value> = ["apps/v1", V1, V3].into_iter().filter(|v| *v == "apps/v1" || groups.serves(v)).map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": served})
}

fn resource_list(api_version: &str) -> Value {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let resources: Vec<Value> = RESOURCES
        .iter()
        .filter(|r| r.api_version == api_version)
        .map(|r| json!({"name": r.plural, "kind": r.kind, "namespaced": r.namespaced, "singularName": "", "verbs": verbs}))
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let parse = |path: &str| Target::parse(path, Groups::V1);
        let named = |path: &str| match parse(path).unwrap() {
            Target::Objects { resource, namespace, name, status } => (resource.full_name(), namespace, name, status),
            other => panic!("{path}: {other:?}"),
        };
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(named("/api/v1/nodes/a"), ("nodes".into(), None, some("a"), false));
        assert_eq!(named("/api/v1/nodes/a/status"), ("nodes".into(), None, some("a"), true));
        assert_eq!(named("/api/v1/namespaces"), ("namespaces".into(), None, None, false));
        assert_eq!(named("/api/v1/namespaces/x"), ("namespaces".into(), None, some("x"), false));
        assert_eq!(named("/api/v1/namespaces/x/pods/p"), ("pods".into(), some("x"), some("p"), false));
        assert_eq!(named("/api/v1/pods"), ("pods".into(), None, None, false));
        assert_eq!(named("/apis/crd.projectcalico.org/v1/ippools"), ("ippools.crd.projectcalico.org".into(), None, None, false));
        for wrong in [
            "/api/v1/pods/p",
            "/api/v1/namespaces/x/nodes",
            "/apis/projectcalico.org/v3/ippools",
            "/apis/crd.projectcalico.org/v1/ippools/p/status",
            "/x",
        ] {
            assert_eq!(parse(wrong), Err(Refusal::no_such_path()), "{wrong}");
        }
        assert!(matches!(
            Target::parse("/apis/projectcalico.org/v3/ippools/p/status", Groups::Both),
            Ok(Target::Objects { status: true, .. })
        ));
    }
}
