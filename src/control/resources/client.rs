//! Resources in a datastore.

use super::schema::{self, Fault};
use super::{Kind, Patch, pools};
use crate::control::datastore::objects::{AccessError, Id, Objects, Preconditions, Resource, revision};
use crate::control::forms::{endpoint, node, profile};
use crate::control::ipam::{Ipam, IpamError};
use crate::control::yaml;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Updates are tried this often while others write the same object.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// How a datastore keeps nodes and workload endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// As `projectcalico.org/v3` objects, or as core ones.
    Both,
    /// As core Nodes and Pods only (Kubernetes).
    CoreOnly,
}

/// Why nothing was done. The texts begin as calicoctl's do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("resource does not exist: {object}")]
    NotFound { object: String },
    #[error("resource already exists: {object}")]
    AlreadyExists { object: String },
    #[error("update conflict: {object}: {reason}")]
    Conflict { object: String, reason: String },
    #[error("operation {operation} is not supported on {object}: {reason}")]
    Unsupported { operation: &'static str, object: String, reason: &'static str },
    #[error("{object}: {}", schema::join(faults))]
    Invalid { object: String, faults: Vec<Fault> },
    #[error("{object}: the patch does not fit: {reason}")]
    Patch { object: String, reason: String },
    #[error("{object} is disabled, but its blocks cannot be released: {source}")]
    Blocks { object: String, source: Box<IpamError> },
    #[error(transparent)]
    Datastore(AccessError),
}

/// What holds for resources of Kubernetes' own objects.
const BY_KUBERNETES: &str = "Kubernetes manages it";
const BY_NODES: &str = "the nodes manage it";

/// Reads and writes resources.
pub struct Client<'a, O> {
    objects: &'a O,
    keeps: Keeps,
}

type Result<T> = std::result::Result<T, Error>;

impl<'a, O: Objects> Client<'a, O> {
    pub fn new(objects: &'a O, keeps: Keeps) -> Client<'a, O> {
        Client { objects, keeps }
    }

    /// An object; [`Error::NotFound`] without one.
    pub async fn get(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Result<Value> {
        let id = kind.id(namespace, name);
        let found = match kind {
            Kind::Node => self.node(name).await?.map(|(_, node)| node),
            Kind::Profile => self.profiles().await?.into_iter().find(|p| p["metadata"]["name"] == name),
            Kind::WorkloadEndpoint => self.endpoint(&id).await?,
            kind if is_policy(kind) => self.get_policy(&id).await?.map(|(_, policy)| policy),
            _ => self.objects.get(&id).await.map_err(|e| error(kind, &id, e))?,
        };
        found.map(|o| with_defaults(kind, o)).ok_or_else(|| Error::NotFound { object: kind.display(namespace, name) })
    }

    /// All objects of a kind in order of namespace and name.
    pub async fn list(&self, kind: Kind, namespace: Option<&str>) -> Result<Vec<Value>> {
        let namespace = namespace.filter(|_| kind.is_namespaced());
        let found = match kind {
            Kind::Node => self.nodes().await?,
            Kind::Profile => self.profiles().await?,
            Kind::WorkloadEndpoint => self.endpoints(namespace).await?,
            _ => self.objects.list(kind.resource(), namespace).await.map_err(Error::Datastore)?,
        };
        Ok(found.into_iter().map(|o| with_defaults(kind, o)).collect())
    }

    /// Writes a new object.
    pub async fn create(&self, kind: Kind, object: Value) -> Result<Value> {
        let (id, what) = name_of(kind, &object);
        match kind {
            Kind::Profile => return Err(unsupported("Create", what, BY_KUBERNETES)),
            Kind::ClusterInformation => return Err(unsupported("Create", what, BY_NODES)),
            Kind::Node | Kind::WorkloadEndpoint if self.keeps == Keeps::CoreOnly => return Err(unsupported("Create", what, BY_KUBERNETES)),
            Kind::Node if self.node(&id.name).await?.is_some() => return Err(Error::AlreadyExists { object: what }),
            kind if is_policy(kind) && self.get_policy(&id).await?.is_some() => return Err(Error::AlreadyExists { object: what }),
            _ => {}
        }
        let object = self.prepared(kind, only_own_metadata(object), None).await?;
        self.objects.create(kind.resource(), object).await.map_err(|e| error(kind, &id, e))
    }

    /// Puts an object in place of the stored one, if that is still of the same resourceVersion where one is given.
    /// Labels and annotations are added to the stored ones, as calicoctl does.
    pub async fn update(&self, kind: Kind, object: Value) -> Result<Value> {
        let (id, what) = name_of(kind, &object);
        self.may_change(kind, &what)?;
        let given = revision(&object).map(str::to_owned);
        self.until_written(kind, &id, |stored: &Value| {
            let latest = revision(stored).unwrap_or_default();
            if let Some(given) = given.as_deref().filter(|g| *g != latest) {
                let reason =
                    format!("resourceVersion '{given}' is out of date (latest: {latest}); get it again, or leave resourceVersion out");
                return Err(Error::Conflict { object: what.clone(), reason });
            }
            let mut new = object.clone();
            new["metadata"] = merged_metadata(stored, &object);
            Ok(new)
        })
        .await
    }

    /// Changes parts of the stored object.
    pub async fn patch(&self, kind: Kind, namespace: Option<&str>, name: &str, patch: &Patch) -> Result<Value> {
        let id = kind.id(namespace, name);
        self.may_change(kind, &kind.display(namespace, name))?;
        self.until_written(kind, &id, |stored: &Value| {
            let mut new = stored.clone();
            patch.apply(&mut new).map_err(|reason| Error::Patch { object: kind.display(namespace, name), reason })?;
            let value = yaml::Value::of_json(&new);
            let mut faults = schema::check(kind, &value);
            for key in ["name", "namespace"] {
                if new["metadata"][key] != stored["metadata"][key] {
                    faults.push(Fault::of(&format!("metadata.{key}"), None, "cannot be changed: it says which object this is"));
                }
            }
            if !faults.is_empty() {
                return Err(Error::Invalid { object: kind.display(namespace, name), faults });
            }
            Ok(new)
        })
        .await
    }

    /// Creates the object, or puts it in place of the stored one.
    pub async fn apply(&self, kind: Kind, object: Value) -> Result<Value> {
        match self.create(kind, object.clone()).await {
            Err(Error::AlreadyExists { .. }) => self.update(kind, object).await,
            // Kubernetes' own objects exist before Calico's part of them.
            Err(Error::Unsupported { .. }) if kind == Kind::Node => self.update(kind, object).await,
            other => other,
        }
    }

    pub async fn delete(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Result<()> {
        let (id, what) = (kind.id(namespace, name), kind.display(namespace, name));
        let unconditional = Preconditions::default();
        let id = match kind {
            Kind::Profile => return Err(unsupported("Delete", what, BY_KUBERNETES)),
            Kind::ClusterInformation => return Err(unsupported("Delete", what, BY_NODES)),
            Kind::Node | Kind::WorkloadEndpoint if self.keeps == Keeps::CoreOnly => return Err(unsupported("Delete", what, BY_KUBERNETES)),
            // In a folder, whichever form it has.
            Kind::Node => Id::cluster(Resource::Node, name),
            _ => id,
        };
        let id = if is_policy(kind) { self.get_policy(&id).await?.map_or(id, |(id, _)| id) } else { id };
        if kind == Kind::IpPool {
            self.empty_pool(&id).await?;
        }
        self.objects.delete(&id, &unconditional).await.map_err(|e| error(kind, &kind.id(namespace, name), e))
    }

    /// Disables a pool and ends the nodes' claims on its blocks, so that nothing is left of it but addresses in use.
    async fn empty_pool(&self, id: &Id) -> Result<()> {
        let object = Kind::IpPool.display(None, &id.name);
        let disabled = self.objects.patch(id, json!({"spec": {"disabled": true}})).await;
        let pool = disabled.map_err(|e| error(Kind::IpPool, id, e))?;
        let Some(cidr) = pool["spec"]["cidr"].as_str().and_then(|c| c.parse().ok()) else { return Ok(()) };
        // Assignments that have begun end before.
        tokio::time::sleep(PAUSE).await;
        let ipam = Ipam::new(self.objects, "");
        ipam.release_pool_affinities(cidr).await.map_err(|source| Error::Blocks { object, source: Box::new(source) })
    }

    /// A policy under its name, or under the one that clusters with `crd.projectcalico.org/v1` store it by.
    async fn get_policy(&self, id: &Id) -> Result<Option<(Id, Value)>> {
        let stored = Id { name: format!("default.{}", id.name), ..id.clone() };
        for id in [id, &stored] {
            if let Some(found) = self.objects.get(id).await.map_err(Error::Datastore)? {
                return Ok(Some((id.clone(), found)));
            }
        }
        Ok(None)
    }

    fn may_change(&self, kind: Kind, what: &str) -> Result<()> {
        match kind {
            Kind::Profile => Err(unsupported("Update", what.into(), BY_KUBERNETES)),
            Kind::ClusterInformation => Err(unsupported("Update", what.into(), BY_NODES)),
            Kind::WorkloadEndpoint if self.keeps == Keeps::CoreOnly => Err(unsupported("Update", what.into(), BY_KUBERNETES)),
            _ => Ok(()),
        }
    }

    /// Reads, changes and writes an object, again if others write it at the same time.
    async fn until_written<F>(&self, kind: Kind, id: &Id, change: F) -> Result<Value>
    where
        F: Fn(&Value) -> Result<Value>,
    {
        let mut attempt = 1;
        loop {
            let stored = self.get(kind, id.namespace.as_deref(), &id.name).await?;
            let new = change(&stored)?;
            let new = self.prepared(kind, new, Some(&stored)).await?;
            match self.write(kind, new).await {
                Err(Error::Conflict { .. }) if attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn write(&self, kind: Kind, object: Value) -> Result<Value> {
        let (id, _) = name_of(kind, &object);
        if kind == Kind::Node
            && let Some((core, _)) = self.node(&id.name).await?
            && core["apiVersion"] == "v1"
        {
            let mut new = node::into_core(&object, &core);
            new["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
            let written = self.objects.update(Resource::Node, new).await.map_err(|e| error(kind, &id, e))?;
            return Ok(node::of_core(&written));
        }
        self.objects.update(kind.resource(), object).await.map_err(|e| error(kind, &id, e))
    }

    /// The object with its defaults, after the checks that need other objects.
    async fn prepared(&self, kind: Kind, object: Value, stored: Option<&Value>) -> Result<Value> {
        let (_, what) = name_of(kind, &object);
        let object = with_defaults(kind, object);
        if kind == Kind::IpPool {
            let others = self.objects.list(Resource::IpPool, None).await.map_err(Error::Datastore)?;
            let blocks =
                if stored.is_none() { self.objects.list(Resource::IpamBlock, None).await.map_err(Error::Datastore)? } else { Vec::new() };
            let faults = pools::check(&object, stored, &others, &blocks);
            if !faults.is_empty() {
                return Err(Error::Invalid { object: what, faults });
            }
        }
        Ok(object)
    }

    /// What is stored of a node, and the Calico Node that it is.
    async fn node(&self, name: &str) -> Result<Option<(Value, Value)>> {
        if self.keeps == Keeps::Both {
            let kept = self.objects.get(&Id::cluster(Resource::CalicoNode, name)).await.map_err(Error::Datastore)?;
            if let Some(kept) = kept {
                return Ok(Some((kept.clone(), kept)));
            }
        }
        let core = self.objects.get(&Id::cluster(Resource::Node, name)).await.map_err(Error::Datastore)?;
        Ok(core.map(|core| (core.clone(), node::of_core(&core))))
    }

    async fn nodes(&self) -> Result<Vec<Value>> {
        let kept = match self.keeps {
            Keeps::Both => self.objects.list(Resource::CalicoNode, None).await.map_err(Error::Datastore)?,
            Keeps::CoreOnly => Vec::new(),
        };
        let core = self.objects.list(Resource::Node, None).await.map_err(Error::Datastore)?;
        let known: Vec<Value> = kept.iter().map(|n| n["metadata"]["name"].clone()).collect();
        let core = core.iter().filter(|n| !known.contains(&n["metadata"]["name"])).map(node::of_core);
        Ok(sorted(kept.into_iter().chain(core.collect::<Vec<_>>()).collect()))
    }

    async fn endpoint(&self, id: &Id) -> Result<Option<Value>> {
        if self.keeps == Keeps::Both
            && let Some(kept) = self.objects.get(id).await.map_err(Error::Datastore)?
        {
            return Ok(Some(kept));
        }
        let (Some(pod), Some(namespace)) = (endpoint::pod_of(&id.name), &id.namespace) else { return Ok(None) };
        let pod = self.objects.get(&Id::namespaced(Resource::Pod, namespace, pod)).await.map_err(Error::Datastore)?;
        let Some(pod) = pod else { return Ok(None) };
        let found = endpoint::of_pod(&pod, &self.interface_prefix().await?);
        Ok(found.filter(|e| e["metadata"]["name"] == *id.name))
    }

    async fn endpoints(&self, namespace: Option<&str>) -> Result<Vec<Value>> {
        let mut all = match self.keeps {
            Keeps::Both => self.objects.list(Resource::WorkloadEndpoint, namespace).await.map_err(Error::Datastore)?,
            Keeps::CoreOnly => Vec::new(),
        };
        let prefix = self.interface_prefix().await?;
        let pods = self.objects.list(Resource::Pod, namespace).await.map_err(Error::Datastore)?;
        let name = |e: &Value| (e["metadata"]["namespace"].clone(), e["metadata"]["name"].clone());
        let kept: Vec<(Value, Value)> = all.iter().map(name).collect();
        all.extend(pods.iter().filter_map(|p| endpoint::of_pod(p, &prefix)).filter(|e| !kept.contains(&name(e))));
        // In order of pods, as Kubernetes lists them, and not of names that begin with the node's.
        let workload = |e: &Value| e["spec"]["pod"].as_str().or(e["spec"]["workload"].as_str()).unwrap_or_default().to_owned();
        let mut all = sorted(all);
        all.sort_by_key(|e| (e["metadata"]["namespace"].as_str().map(str::to_owned), workload(e)));
        Ok(all)
    }

    /// The prefix of pods' interfaces in this cluster.
    async fn interface_prefix(&self) -> Result<String> {
        let felix = self.objects.get(&Id::cluster(Resource::FelixConfiguration, "default")).await.map_err(Error::Datastore)?;
        let prefix = felix.as_ref().and_then(|f| f["spec"]["interfacePrefix"].as_str()).and_then(|p| p.split(',').next());
        Ok(prefix.filter(|p| !p.is_empty()).unwrap_or("cali").to_owned())
    }

    async fn profiles(&self) -> Result<Vec<Value>> {
        let namespaces = self.objects.list(Resource::Namespace, None).await.map_err(Error::Datastore)?;
        let accounts = self.objects.list(Resource::ServiceAccount, None).await.map_err(Error::Datastore)?;
        let all = namespaces.iter().map(profile::of_namespace).chain(accounts.iter().map(profile::of_service_account));
        Ok(sorted(all.chain([profile::default_allow()]).collect()))
    }
}

fn sorted(mut objects: Vec<Value>) -> Vec<Value> {
    let text = |o: &Value, key: &str| o["metadata"][key].as_str().unwrap_or_default().to_owned();
    objects.sort_by_key(|o| (text(o, "namespace"), text(o, "name")));
    objects
}

fn name_of(kind: Kind, object: &Value) -> (Id, String) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str();
    (kind.id(namespace, name), kind.display(namespace, name))
}

fn error(kind: Kind, id: &Id, e: AccessError) -> Error {
    let object = kind.display(id.namespace.as_deref(), &id.name);
    match e {
        AccessError::NotFound { .. } => Error::NotFound { object },
        AccessError::AlreadyExists { .. } => Error::AlreadyExists { object },
        AccessError::Conflict { .. } => Error::Conflict { object, reason: "somebody else wrote it at the same time".into() },
        other => Error::Datastore(other),
    }
}

fn is_policy(kind: Kind) -> bool {
    matches!(kind, Kind::NetworkPolicy | Kind::GlobalNetworkPolicy)
}

fn unsupported(operation: &'static str, object: String, reason: &'static str) -> Error {
    Error::Unsupported { operation, object, reason }
}

/// Of the metadata of a new object only what its author decides.
fn only_own_metadata(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|key, _| ["name", "namespace", "labels", "annotations"].contains(&key.as_str()));
    }
    object
}

fn merged_metadata(stored: &Value, new: &Value) -> Value {
    let mut metadata = stored["metadata"].clone();
    for part in ["labels", "annotations"] {
        let added: &Map<String, Value> = match new["metadata"][part].as_object() {
            Some(added) if !added.is_empty() => added,
            _ => continue,
        };
        for (key, value) in added {
            metadata[part][key.as_str()] = value.clone();
        }
    }
    metadata
}

fn with_defaults(kind: Kind, object: Value) -> Value {
    match kind {
        Kind::IpPool => pools::with_defaults(object),
        Kind::NetworkPolicy | Kind::GlobalNetworkPolicy => policy_defaults(object),
        _ => object,
    }
}

/// The tier; the directions by the rules that there are; an empty selector selects all.
fn policy_defaults(mut policy: Value) -> Value {
    let spec = &mut policy["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    if spec["tier"].as_str().is_none_or(str::is_empty) {
        spec["tier"] = json!("default");
    }
    if spec["types"].as_array().is_none_or(Vec::is_empty) {
        let egress = spec["egress"].as_array().is_some_and(|r| !r.is_empty());
        let ingress = spec["ingress"].as_array().is_some_and(|r| !r.is_empty());
        let types = [("Ingress", ingress || !egress), ("Egress", egress)];
        spec["types"] = types.iter().filter(|(_, there)| *there).map(|(t, _)| *t).collect();
    }
    policy
}
