//! What a node must be allowed to do with the cluster's objects, and whether it is.

use super::connect::{Connection, Source};
use super::failure::Failure;
use super::group::{Group, Undetected, plural};
use crate::control::datastore::OpenError;
use crate::control::datastore::objects::Resource;
use kube::core::Request;
use kube::core::params::PostParams;
use serde_json::{Value, json};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Who needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    Daemon,
    CniPlugin,
}

/// Verbs on a kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub resource: Resource,
    /// `/status`, or nothing.
    pub part: &'static str,
    pub verbs: &'static [&'static str],
    /// What does not work without it.
    pub lost: &'static str,
    /// Whether nothing works without it.
    pub essential: bool,
}

const fn need(resource: Resource, part: &'static str, verbs: &'static [&'static str], lost: &'static str, essential: bool) -> Need {
    Need { resource, part, verbs, lost, essential }
}

const WATCH: &[&str] = &["get", "list", "watch"];
const KEEP: &[&str] = &["get", "list", "create", "update", "delete"];

/// The daemon's.
const DAEMON: &[Need] = &[
    need(Resource::Node, "", WATCH, "no routes", true),
    need(Resource::Pod, "", WATCH, "no endpoints", true),
    need(Resource::IpPool, "", WATCH, "no routes", true),
    need(Resource::IpamBlock, "", WATCH, "no routes", true),
    need(Resource::BlockAffinity, "", WATCH, "blocks with two owners are not seen", false),
    need(Resource::FelixConfiguration, "", WATCH, "defaults instead of the cluster's settings", false),
    need(Resource::ClusterInformation, "", WATCH, "changes are taken in while the datastore is not ready", false),
    need(Resource::Node, "", &["patch"], "the node's address and tunnel addresses are not written", true),
    need(Resource::Node, "/status", &["patch"], "Kubernetes keeps pods away: NetworkUnavailable stays", true),
    need(Resource::IpPool, "", &["create"], "the first node of a new cluster makes no default pool", false),
    need(Resource::FelixConfiguration, "", &["create"], "the first node of a new cluster makes no FelixConfiguration", false),
    need(Resource::ClusterInformation, "", &["create", "update"], "the first node of a new cluster makes no ClusterInformation", false),
    need(Resource::IpamBlock, "", KEEP, "no tunnel address", true),
    need(Resource::BlockAffinity, "", KEEP, "no tunnel address", true),
    need(Resource::IpamHandle, "", KEEP, "no tunnel address", true),
    need(Resource::IpamConfiguration, "", &["get"], "no tunnel address", true),
    need(Resource::IpReservation, "", &["list"], "no tunnel address", true),
    need(Resource::Event, "", &["get", "create", "patch"], "conflicts are not told as Events", false),
];

/// The plugin's, which runs with the daemon's account unless its kubeconfig names another.
const CNI_PLUGIN: &[Need] = &[
    need(Resource::ClusterInformation, "", &["get"], "pods cannot be attached", true),
    need(Resource::Namespace, "", &["get"], "pods cannot be attached", true),
    need(Resource::Pod, "", &["get"], "pods cannot be attached", true),
    need(Resource::Pod, "/status", &["patch"], "pods' addresses are not written down", true),
    need(Resource::Node, "", &["get"], "pods cannot be attached", true),
    need(Resource::IpPool, "", &["list"], "pods get no addresses", true),
    need(Resource::IpReservation, "", &["list"], "pods get no addresses", true),
    need(Resource::IpamConfiguration, "", &["get"], "pods get no addresses", true),
    need(Resource::IpamBlock, "", KEEP, "pods get no addresses", true),
    need(Resource::BlockAffinity, "", KEEP, "pods get no addresses", true),
    need(Resource::IpamHandle, "", KEEP, "pods get no addresses", true),
];

impl User {
    pub fn needs(self) -> &'static [Need] {
        match self {
            User::Daemon => DAEMON,
            User::CniPlugin => CNI_PLUGIN,
        }
    }
}

impl Need {
    /// Objects without a namespace have their Events in this one; everything else is asked for in all.
    fn namespace(&self) -> &'static str {
        if self.resource == Resource::Event { "default" } else { "" }
    }

    fn review(&self, group: Group, verb: &str) -> Value {
        let api_group = if self.resource.is_core() { "" } else { group.api_version().split('/').next().unwrap_or("") };
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "group": api_group, "resource": plural(self.resource, group), "subresource": self.part.trim_start_matches('/'),
                "verb": verb, "namespace": self.namespace(),
            }},
        })
    }
}

/// A need, and the verbs that are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub need: Need,
    pub verbs: Vec<&'static str>,
    pub group: Group,
}

impl Missing {
    /// The rule that allows it, as it stands in a ClusterRole.
    pub fn rule(&self) -> String {
        super::group::rbac_rule(self.need.resource, self.group, self.need.part, &self.verbs)
    }
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0}")]
    Failed(String),
}

impl From<Failure> for ReviewError {
    fn from(f: Failure) -> ReviewError {
        ReviewError::Failed(f.message())
    }
}

/// Asks the server what of a user's needs its credentials are refused. Inside a runtime.
pub async fn missing(source: Source, user: User) -> Result<Vec<Missing>, ReviewError> {
    let connection = Connection::open(source).await?;
    let group = Group::detect(&connection).await.map_err(|why| match why {
        Undetected::Missing => ReviewError::Failed("the API server has none of Calico's definitions: install them".into()),
        Undetected::Failed(f) => f.into(),
    })?;
    let mut out = Vec::new();
    for need in user.needs() {
        let mut verbs = Vec::new();
        for verb in need.verbs {
            let body = need.review(group, verb).to_string().into_bytes();
            let answer = connection.json(Request::new(REVIEWS).create(&PostParams::default(), body)).await?;
            let allowed = answer["status"]["allowed"].as_bool();
            let allowed =
                allowed.ok_or_else(|| ReviewError::Failed("a SelfSubjectAccessReview was answered without status.allowed".into()))?;
            if !allowed {
                verbs.push(*verb);
            }
        }
        if !verbs.is_empty() {
            out.push(Missing { need: *need, verbs, group });
        }
    }
    Ok(out)
}
