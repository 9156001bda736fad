//! The attachment in the datastore, where the daemon and the rest of the cluster see it: a Pod's annotations in
//! Kubernetes, a WorkloadEndpoint elsewhere.

use super::error::CniError;
use super::workload::Workload;
use crate::control::datastore::objects::{Access, AccessError, Id, Objects, Preconditions, Resource, revision, uid};
use crate::wire::Mac;
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;
use std::path::Path;

/// How often a write is tried again when somebody else came first.
const TRIES: usize = 5;
const CONTAINER: &str = "cni.projectcalico.org/containerID";
const POD_IP: &str = "cni.projectcalico.org/podIP";
const POD_IPS: &str = "cni.projectcalico.org/podIPs";
/// Where the daemon is to make a TAP.
const NETNS: &str = "tortie/netns";

/// What is recorded of an attachment.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub workload: &'a Workload,
    pub network: &'a str,
    /// The interface on the host, or the TAP's in the pod.
    pub interface: &'a str,
    pub addresses: &'a [Ipv4Addr],
    pub mac: Option<Mac>,
    /// For a TAP.
    pub netns: Option<&'a Path>,
}

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Pod,
    Endpoint,
}

impl Form {
    fn id(self, workload: &Workload) -> Id {
        match (self, &workload.pod) {
            (Form::Pod, Some(pod)) => Id::namespaced(Resource::Pod, &workload.namespace, pod),
            _ => Id::namespaced(Resource::WorkloadEndpoint, &workload.namespace, workload.endpoint()),
        }
    }
}

/// Records an attachment, over what an earlier one of the same workload left.
pub async fn publish(store: &impl Objects, form: Form, entry: &Entry<'_>, pod: &Value) -> Result<(), CniError> {
    let id = form.id(entry.workload);
    if form == Form::Pod {
        let mut patch = json!({ "metadata": { "annotations": annotations(entry) } });
        // Not a later Pod of the same name.
        if let Some(uid) = uid(pod) {
            patch["metadata"]["uid"] = json!(uid);
        }
        store.patch_status(&id, patch).await?;
        return Ok(());
    }
    let mut last = AccessError::NotFound { id: id.clone() };
    for _ in 0..TRIES {
        let mut object = endpoint(entry, pod);
        let done = match store.get(&id).await? {
            None => store.create(Resource::WorkloadEndpoint, object).await,
            Some(old) => {
                object["metadata"]["resourceVersion"] = json!(revision(&old));
                store.update(Resource::WorkloadEndpoint, object).await
            }
        };
        match done {
            Err(e) if e.is_conflict() || matches!(e, AccessError::NotFound { .. }) => last = e,
            done => return done.map(drop).map_err(CniError::from),
        }
    }
    Err(last.into())
}

fn annotations(entry: &Entry) -> Value {
    let all: Vec<String> = entry.addresses.iter().map(|a| format!("{a}/32")).collect();
    let mut out = json!({ CONTAINER: entry.workload.container, POD_IP: all.first(), POD_IPS: all.join(",") });
    if let Some(netns) = entry.netns {
        out[NETNS] = json!(netns);
    }
    out
}

fn endpoint(entry: &Entry, pod: &Value) -> Value {
    let workload = entry.workload;
    let mut labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert("projectcalico.org/namespace".into(), json!(workload.namespace));
    labels.insert("projectcalico.org/orchestrator".into(), json!(workload.orchestrator()));
    let mut spec = json!({
        "orchestrator": workload.orchestrator(),
        "node": workload.node,
        "containerID": workload.container,
        "endpoint": workload.interface,
        "interfaceName": entry.interface,
        "ipNetworks": entry.addresses.iter().map(|a| format!("{a}/32")).collect::<Vec<_>>(),
        "profiles": [if pod.is_null() { entry.network.to_owned() } else { format!("kns.{}", workload.namespace) }],
    });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            spec[key] = value;
        }
    };
    set("mac", entry.mac.map(|m| json!(m.to_string())));
    match &workload.pod {
        Some(pod) => set("pod", Some(json!(pod))),
        None => set("workload", Some(json!(workload.container))),
    }
    let account = pod["spec"]["serviceAccountName"].as_str().filter(|a| !a.is_empty());
    set("serviceAccountName", account.map(|a| json!(a)));
    if let Some(account) = account {
        labels.insert("projectcalico.org/serviceaccount".into(), json!(account));
    }
    // Which the daemon reads as a list, and Kubernetes keeps as text.
    let prefixes = pod["metadata"]["annotations"]["cni.projectcalico.org/allowedSourcePrefixes"].as_str();
    set("allowSpoofedSourcePrefixes", prefixes.and_then(|p| serde_json::from_str::<Vec<String>>(p).ok()).map(|p| json!(p)));
    let mut metadata = json!({ "name": workload.endpoint(), "namespace": workload.namespace, "labels": Value::Object(labels) });
    if let Some(netns) = entry.netns {
        metadata["annotations"] = Value::Object(Map::from_iter([(NETNS.to_owned(), json!(netns))]));
    }
    json!({ "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": metadata, "spec": spec })
}

/// The container that a record is of.
fn container(form: Form, object: &Value) -> Option<&str> {
    let of = match form {
        Form::Pod => &object["metadata"]["annotations"][CONTAINER],
        Form::Endpoint => &object["spec"]["containerID"],
    };
    of.as_str().filter(|c| !c.is_empty())
}

/// The container that holds the workload's record now, and its addresses.
pub async fn holder(store: &impl Objects, form: Form, workload: &Workload) -> Access<Option<(String, Vec<String>)>> {
    let Some(object) = store.get(&form.id(workload)).await? else { return Ok(None) };
    let addresses = match form {
        Form::Pod => object["metadata"]["annotations"][POD_IPS].as_str().unwrap_or_default().split(',').map(str::to_owned).collect(),
        Form::Endpoint => {
            object["spec"]["ipNetworks"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)).collect()
        }
    };
    Ok(container(form, &object).map(|c| (c.to_owned(), addresses)))
}

/// Takes an attachment's record away; one of a later container of the same workload stays. That there is none is no
/// error.
pub async fn withdraw(store: &impl Objects, form: Form, workload: &Workload) -> Result<(), CniError> {
    let id = form.id(workload);
    let mut last = AccessError::NotFound { id: id.clone() };
    for _ in 0..TRIES {
        let Some(object) = store.get(&id).await? else { return Ok(()) };
        if container(form, &object).is_some_and(|c| c != workload.container) {
            tracing::info!("{id} is a later container's; left as it is");
            return Ok(());
        }
        match remove(store, form, &id, &object).await {
            Err(AccessError::NotFound { .. }) => return Ok(()),
            Err(e) if e.is_conflict() => last = e,
            done => return done.map_err(CniError::from),
        }
    }
    Err(last.into())
}

/// Empty addresses say that they are free again, while the Pod itself lives on for a while.
async fn remove(store: &impl Objects, form: Form, id: &Id, object: &Value) -> Access<()> {
    match form {
        Form::Endpoint => store.delete(id, &Preconditions::same(object)).await,
        Form::Pod if container(form, object).is_none() => Ok(()),
        Form::Pod => {
            let annotations = json!({ POD_IP: "", POD_IPS: "", NETNS: null });
            let patch = json!({ "metadata": { "uid": uid(object), "resourceVersion": revision(object), "annotations": annotations } });
            store.patch_status(id, patch).await.map(drop)
        }
    }
}

/// Takes the records of this node's attachments away that are not to stay; of folders only, as a Pod's goes with it.
pub async fn sweep(store: &impl Objects, node: &str, network: &str, stays: impl Fn(&str, &str) -> bool) -> Access<usize> {
    let mut gone = 0;
    for object in store.list(Resource::WorkloadEndpoint, None).await? {
        let spec = |key: &str| object["spec"][key].as_str().unwrap_or_default();
        let ours = spec("node") == node && !spec("containerID").is_empty() && network_of(&object).is_none_or(|n| n == network);
        if !ours || stays(spec("containerID"), spec("endpoint")) {
            continue;
        }
        let Some(id) = Id::of(Resource::WorkloadEndpoint, &object) else { continue };
        match store.delete(&id, &Preconditions::same(&object)).await {
            // Changed meanwhile: in use again.
            Err(e) if e.is_conflict() || matches!(e, AccessError::NotFound { .. }) => {}
            done => done.map(|()| gone += 1)?,
        }
    }
    Ok(gone)
}

/// The network is the profile where there is no pod.
fn network_of(object: &Value) -> Option<&str> {
    object["spec"]["profiles"][0].as_str().filter(|p| !p.starts_with("kns."))
}
