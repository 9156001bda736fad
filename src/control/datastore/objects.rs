//! The datastore's objects one by one: read, and written by compare-and-swap. IPAM, the node's own start and the
//! verbs speak to this interface only; Kubernetes stands behind it, or a map in tests.
//!
//! Objects are JSON in the form of `projectcalico.org/v3` (and core `v1`), whichever API group stores them: an
//! implementation for another form translates. Fields that this program does not know travel along untouched.

use serde_json::{Map, Value};
use std::fmt;
use std::future::Future;

/// The kinds of objects that are read or written one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Core `v1`.
    Node,
    /// Core `v1`.
    Pod,
    /// Core `v1`.
    Namespace,
    /// Core `v1`.
    ServiceAccount,
    /// Core `v1`.
    ConfigMap,
    /// Core `v1`.
    Event,
    IpPool,
    IpReservation,
    IpamBlock,
    BlockAffinity,
    IpamHandle,
    IpamConfiguration,
    FelixConfiguration,
    ClusterInformation,
    BgpConfiguration,
    BgpPeer,
    HostEndpoint,
    NetworkPolicy,
    GlobalNetworkPolicy,
    NetworkSet,
    GlobalNetworkSet,
    /// `projectcalico.org/v3` Node. Kept as such by folders only; Kubernetes has it in the annotations of `Node`.
    CalicoNode,
    /// Kept as such by folders only; Kubernetes has it in `Pod`.
    WorkloadEndpoint,
}

impl Resource {
    pub const ALL: [Resource; 23] = [
        Resource::Node,
        Resource::Pod,
        Resource::Namespace,
        Resource::ServiceAccount,
        Resource::ConfigMap,
        Resource::Event,
        Resource::IpPool,
        Resource::IpReservation,
        Resource::IpamBlock,
        Resource::BlockAffinity,
        Resource::IpamHandle,
        Resource::IpamConfiguration,
        Resource::FelixConfiguration,
        Resource::ClusterInformation,
        Resource::BgpConfiguration,
        Resource::BgpPeer,
        Resource::HostEndpoint,
        Resource::NetworkPolicy,
        Resource::GlobalNetworkPolicy,
        Resource::NetworkSet,
        Resource::GlobalNetworkSet,
        Resource::CalicoNode,
        Resource::WorkloadEndpoint,
    ];

    /// As in the `kind` field of `projectcalico.org/v3` or core `v1`.
    pub fn kind(self) -> &'static str {
        match self {
            Resource::Node | Resource::CalicoNode => "Node",
            Resource::Pod => "Pod",
            Resource::Namespace => "Namespace",
            Resource::ServiceAccount => "ServiceAccount",
            Resource::ConfigMap => "ConfigMap",
            Resource::Event => "Event",
            Resource::IpPool => "IPPool",
            Resource::IpReservation => "IPReservation",
            Resource::IpamBlock => "IPAMBlock",
            Resource::BlockAffinity => "BlockAffinity",
            Resource::IpamHandle => "IPAMHandle",
            Resource::IpamConfiguration => "IPAMConfiguration",
            Resource::FelixConfiguration => "FelixConfiguration",
            Resource::ClusterInformation => "ClusterInformation",
            Resource::BgpConfiguration => "BGPConfiguration",
            Resource::BgpPeer => "BGPPeer",
            Resource::HostEndpoint => "HostEndpoint",
            Resource::NetworkPolicy => "NetworkPolicy",
            Resource::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Resource::NetworkSet => "NetworkSet",
            Resource::GlobalNetworkSet => "GlobalNetworkSet",
            Resource::WorkloadEndpoint => "WorkloadEndpoint",
        }
    }

    /// Whether it is Kubernetes' own (`v1`) and not Calico's.
    pub fn is_core(self) -> bool {
        matches!(
            self,
            Resource::Node | Resource::Pod | Resource::Namespace | Resource::ServiceAccount | Resource::ConfigMap | Resource::Event
        )
    }

    pub fn is_namespaced(self) -> bool {
        matches!(
            self,
            Resource::Pod
                | Resource::ServiceAccount
                | Resource::ConfigMap
                | Resource::Event
                | Resource::NetworkPolicy
                | Resource::NetworkSet
                | Resource::WorkloadEndpoint
        )
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// What an object is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub resource: Resource,
    /// Only for namespaced kinds.
    pub namespace: Option<String>,
    pub name: String,
}

impl Id {
    /// Of a kind without namespaces.
    pub fn cluster(resource: Resource, name: impl Into<String>) -> Id {
        Id { resource, namespace: None, name: name.into() }
    }

    pub fn namespaced(resource: Resource, namespace: impl Into<String>, name: impl Into<String>) -> Id {
        Id { resource, namespace: Some(namespace.into()), name: name.into() }
    }

    /// Of an object, by its metadata; `None` without a name.
    pub fn of(resource: Resource, object: &Value) -> Option<Id> {
        let text = |key: &str| object["metadata"][key].as_str().map(str::to_owned);
        Some(Id { resource, namespace: text("namespace").filter(|_| resource.is_namespaced()), name: text("name")? })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.resource, self.name),
            None => write!(f, "{} {}", self.resource, self.name),
        }
    }
}

/// What must hold for a deletion to happen; `None` is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    pub revision: Option<String>,
    pub uid: Option<String>,
}

impl Preconditions {
    /// Exactly the object as it was read.
    pub fn same(object: &Value) -> Preconditions {
        Preconditions { revision: revision(object).map(str::to_owned), uid: uid(object).map(str::to_owned) }
    }
}

/// `metadata.resourceVersion`.
pub fn revision(object: &Value) -> Option<&str> {
    object["metadata"]["resourceVersion"].as_str()
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> Option<&str> {
    object["metadata"]["uid"].as_str()
}

/// Why an object could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("{id} does not exist")]
    NotFound { id: Id },
    #[error("{id} exists already")]
    AlreadyExists { id: Id },
    /// Somebody else wrote it since it was read, or put another one in its place: read again, decide again.
    #[error("{id} was changed by somebody else meanwhile")]
    Conflict { id: Id },
    #[error("{what}: no permission: {message}")]
    Forbidden { what: String, message: String },
    #[error("{what}: refused: {message}")]
    Invalid { what: String, message: String },
    /// The datastore cannot be asked now: no connection, overload, an internal error. It may be tried again.
    #[error("{what}: {message}")]
    Unavailable { what: String, message: String },
}

impl AccessError {
    pub fn is_conflict(&self) -> bool {
        matches!(self, AccessError::Conflict { .. } | AccessError::AlreadyExists { .. })
    }
}

/// A JSON merge patch (RFC 7386).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

pub type Access<T> = Result<T, AccessError>;

/// A datastore's objects.
pub trait Objects {
    /// `None` if there is no such object.
    fn get(&self, id: &Id) -> impl Future<Output = Access<Option<Value>>>;

    /// All objects of a kind, in order of namespace and name; of one namespace if one is given.
    fn list(&self, resource: Resource, namespace: Option<&str>) -> impl Future<Output = Access<Vec<Value>>>;

    /// All objects of a kind that have these labels, in order of namespace and name. A datastore that cannot select reads
    /// them all.
    fn list_labelled(&self, resource: Resource, labels: &[(&str, &str)]) -> impl Future<Output = Access<Vec<Value>>> {
        async move {
            let mut all = self.list(resource, None).await?;
            all.retain(|object| labels.iter().all(|(key, value)| object["metadata"]["labels"][*key] == *value));
            Ok(all)
        }
    }

    /// Writes a new object and returns it with its revision and uid.
    fn create(&self, resource: Resource, object: Value) -> impl Future<Output = Access<Value>>;

    /// Replaces an object if its `metadata.resourceVersion` (and uid, if given) is still the stored one; without one
    /// it is replaced in any case. Returns it with the new revision.
    fn update(&self, resource: Resource, object: Value) -> impl Future<Output = Access<Value>>;

    /// Changes parts of an object by a JSON merge patch (RFC 7386). `metadata.resourceVersion` in the patch makes it
    /// a compare-and-swap.
    fn patch(&self, id: &Id, patch: Value) -> impl Future<Output = Access<Value>>;

    /// The same for the `status` part, which other patches do not touch.
    fn patch_status(&self, id: &Id, patch: Value) -> impl Future<Output = Access<Value>>;

    fn delete(&self, id: &Id, preconditions: &Preconditions) -> impl Future<Output = Access<()>>;
}

/// A borrowed store is a store.
impl<O: Objects> Objects for &O {
    fn get(&self, id: &Id) -> impl Future<Output = Access<Option<Value>>> {
        (**self).get(id)
    }

    fn list(&self, resource: Resource, namespace: Option<&str>) -> impl Future<Output = Access<Vec<Value>>> {
        (**self).list(resource, namespace)
    }

    fn list_labelled(&self, resource: Resource, labels: &[(&str, &str)]) -> impl Future<Output = Access<Vec<Value>>> {
        (**self).list_labelled(resource, labels)
    }

    fn create(&self, resource: Resource, object: Value) -> impl Future<Output = Access<Value>> {
        (**self).create(resource, object)
    }

    fn update(&self, resource: Resource, object: Value) -> impl Future<Output = Access<Value>> {
        (**self).update(resource, object)
    }

    fn patch(&self, id: &Id, patch: Value) -> impl Future<Output = Access<Value>> {
        (**self).patch(id, patch)
    }

    fn patch_status(&self, id: &Id, patch: Value) -> impl Future<Output = Access<Value>> {
        (**self).patch_status(id, patch)
    }

    fn delete(&self, id: &Id, preconditions: &Preconditions) -> impl Future<Output = Access<()>> {
        (**self).delete(id, preconditions)
    }
}
