//! Which API group holds Calico's objects, and where in the API each kind is.

use super::connect::Connection;
use super::failure::Failure;
use crate::control::datastore::objects::Resource;
use kube::core::Request;
use kube::core::params::ListParams;
use std::fmt;

/// The environment variable that decides, as for Calico.
pub const VARIABLE: &str = "CALICO_API_GROUP";

/// The group and version that Calico's definitions are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// `crd.projectcalico.org/v1`
    #[default]
    V1,
    /// `projectcalico.org/v3`
    V3,
}

impl Group {
    pub fn api_version(self) -> &'static str {
        match self {
            Group::V1 => "crd.projectcalico.org/v1",
            Group::V3 => "projectcalico.org/v3",
        }
    }

    /// By the environment's word, if there is one.
    pub fn from_word(word: Option<&str>) -> Option<Group> {
        let word = word.filter(|w| !w.is_empty())?;
        // Any other word than the newer group's means the older one, as for Calico.
        Some(if word.eq_ignore_ascii_case(Group::V3.api_version()) { Group::V3 } else { Group::V1 })
    }

    /// The newer group only where the older is not served: with both, `projectcalico.org/v3` may be the aggregated
    /// API server's view of the older.
    pub async fn detect(connection: &Connection) -> Result<Group, Undetected> {
        let word = std::env::var(VARIABLE).ok();
        if let Some(group) = Group::from_word(word.as_deref()) {
            return Ok(group);
        }
        let request = Request::new("/apis").list(&ListParams::default());
        match connection.json(request).await {
            Ok(answer) => {
                let groups = answer["groups"].as_array().map_or(&[][..], Vec::as_slice);
                let serves = |name: &str| groups.iter().any(|g| g["name"] == name);
                match (serves("crd.projectcalico.org"), serves("projectcalico.org")) {
                    (true, _) => Ok(Group::V1),
                    (false, true) => Ok(Group::V3),
                    (false, false) => Err(Undetected::Missing),
                }
            }
            // The server is there and does not say.
            Err(f) if f.is_forbidden() || f.is_not_found() => Ok(Group::V1),
            Err(f) => Err(Undetected::Failed(f)),
        }
    }
}

/// Why no group was found.
#[derive(Debug)]
pub enum Undetected {
    /// The server serves neither.
    Missing,
    Failed(Failure),
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.api_version())
    }
}

/// The resource's name in paths and RBAC rules.
pub fn plural(resource: Resource, group: Group) -> &'static str {
    match resource {
        Resource::Node | Resource::CalicoNode => "nodes",
        Resource::WorkloadEndpoint => "workloadendpoints",
        Resource::Pod => "pods",
        Resource::Namespace => "namespaces",
        Resource::ServiceAccount => "serviceaccounts",
        Resource::ConfigMap => "configmaps",
        Resource::IpPool => "ippools",
        Resource::IpReservation => "ipreservations",
        Resource::IpamBlock => "ipamblocks",
        Resource::BlockAffinity => "blockaffinities",
        Resource::IpamHandle => "ipamhandles",
        Resource::IpamConfiguration => match group {
            Group::V1 => "ipamconfigs",
            Group::V3 => "ipamconfigurations",
        },
        Resource::FelixConfiguration => "felixconfigurations",
        Resource::ClusterInformation => "clusterinformations",
        Resource::BgpConfiguration => "bgpconfigurations",
        Resource::BgpPeer => "bgppeers",
        Resource::HostEndpoint => "hostendpoints",
        Resource::NetworkPolicy => "networkpolicies",
        Resource::GlobalNetworkPolicy => "globalnetworkpolicies",
        Resource::NetworkSet => "networksets",
        Resource::GlobalNetworkSet => "globalnetworksets",
    }
}

/// Whether Kubernetes has such objects: Calico's Nodes and WorkloadEndpoints are annotations of its own there.
pub fn is_stored(resource: Resource) -> bool {
    !matches!(resource, Resource::CalicoNode | Resource::WorkloadEndpoint)
}

/// `kind` as the group stores it.
pub fn stored_kind(resource: Resource, group: Group) -> &'static str {
    match (resource, group) {
        (Resource::IpamConfiguration, Group::V1) => "IPAMConfig",
        _ => resource.kind(),
    }
}

/// The path of all objects of a kind, or of those in a namespace.
pub fn path(resource: Resource, group: Group, namespace: Option<&str>) -> String {
    let root = if resource.is_core() { "/api/v1".to_owned() } else { format!("/apis/{}", group.api_version()) };
    let plural = plural(resource, group);
    match namespace {
        Some(namespace) if resource.is_namespaced() => format!("{root}/namespaces/{namespace}/{plural}"),
        _ => format!("{root}/{plural}"),
    }
}

/// The rule that a role must hold for these verbs on a resource or its `part` (`/status`), as it stands in a manifest.
pub fn rbac_rule(resource: Resource, group: Group, part: &str, verbs: &[&str]) -> String {
    let api_group = if resource.is_core() { "" } else { group.api_version().split('/').next().unwrap_or("") };
    format!("{{apiGroups: [\"{api_group}\"], resources: [\"{}{part}\"], verbs: [{}]}}", plural(resource, group), quoted(verbs))
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_decides() {
        assert_eq!(Group::from_word(None), None);
        assert_eq!(Group::from_word(Some("")), None);
        assert_eq!(Group::from_word(Some("projectcalico.org/v3")), Some(Group::V3));
        assert_eq!(Group::from_word(Some("ProjectCalico.org/V3")), Some(Group::V3));
        assert_eq!(Group::from_word(Some("crd.projectcalico.org/v1")), Some(Group::V1));
    }

    #[test]
    fn paths_and_rules() {
        assert_eq!(path(Resource::Pod, Group::V1, None), "/api/v1/pods");
        assert_eq!(path(Resource::Pod, Group::V3, Some("x")), "/api/v1/namespaces/x/pods");
        assert_eq!(path(Resource::IpamConfiguration, Group::V1, None), "/apis/crd.projectcalico.org/v1/ipamconfigs");
        assert_eq!(path(Resource::IpamConfiguration, Group::V3, Some("x")), "/apis/projectcalico.org/v3/ipamconfigurations");
        assert_eq!(
            rbac_rule(Resource::IpPool, Group::V1, "", &["get", "list"]),
            "{apiGroups: [\"crd.projectcalico.org\"], resources: [\"ippools\"], verbs: [\"get\", \"list\"]}"
        );
        assert_eq!(
            rbac_rule(Resource::Node, Group::V3, "/status", &["patch"]),
            "{apiGroups: [\"\"], resources: [\"nodes/status\"], verbs: [\"patch\"]}"
        );
    }
}
