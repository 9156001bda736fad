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
/// By which the daemon knows that the interface's queue limits what the pod receives.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";

/// What is recorded of an attachment.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub workload: &'a Workload,
    pub network: &'a str,
    /// The interface on the host, or the TAP's in the pod.
    pub interface: &'a str,
    pub addresses: &'a [Ipv4Addr],
    /// A Pod has them in an annotation already.
    pub floating: &'a [Ipv4Addr],
    pub mac: Option<Mac>,
    /// For a TAP.
    pub netns: Option<&'a Path>,
    /// Bits per second that the pod may receive.
    pub ingress: Option<u64>,
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
    let nats: Vec<Value> = entry.floating.iter().map(|ip| json!({ "internalIP": entry.addresses.first(), "externalIP": ip })).collect();
    set("ipNATs", (!nats.is_empty()).then(|| json!(nats)));
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
    let mut annotations = Map::new();
    annotations.extend(entry.netns.map(|netns| (NETNS.to_owned(), json!(netns))));
    annotations.extend(entry.ingress.map(|rate| (INGRESS.to_owned(), json!(rate.to_string()))));
    if !annotations.is_empty() {
        metadata["annotations"] = Value::Object(annotations);
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

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::objects::{MemObjects, Op};

    fn workload(container: &str) -> Workload {
        Workload {
            node: "n1".into(),
            namespace: "default".into(),
            pod: Some("web-0".into()),
            container: container.into(),
            interface: "eth0".into(),
        }
    }

    fn run<T>(f: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
    }

    fn pod() -> Value {
        json!({
            "metadata": { "name": "web-0", "namespace": "default", "labels": { "app": "web" },
                          "annotations": { "cni.projectcalico.org/allowedSourcePrefixes": "[\"10.9.0.0/16\"]" } },
            "spec": { "serviceAccountName": "runner" },
        })
    }

    fn record(store: &MemObjects, form: Form, container: &str, addresses: &[Ipv4Addr], pod: &Value) -> Result<(), CniError> {
        let workload = workload(container);
        let mac = Some(Mac([2, 0, 0, 0, 0, 1]));
        let entry = Entry {
            workload: &workload,
            network: "net",
            interface: "cali1",
            addresses,
            floating: &[Ipv4Addr::new(192, 0, 2, 7)],
            mac,
            netns: Some(Path::new("/run/netns/x")),
            ingress: Some(10_000_000),
        };
        run(publish(store, form, &entry, pod))
    }

    #[test]
    fn a_pods_record_is_its_annotations() {
        let store = MemObjects::new();
        store.put(Resource::Pod, pod());
        let stored = || store.all(Resource::Pod).remove(0);
        let annotation = |key: &str| stored()["metadata"]["annotations"][format!("cni.projectcalico.org/{key}")].clone();
        record(&store, Form::Pod, "c1", &[[10, 244, 0, 5].into()], &stored()).unwrap();
        assert_eq!((annotation("podIP"), annotation("podIPs")), (json!("10.244.0.5/32"), json!("10.244.0.5/32")));
        assert_eq!((annotation("containerID"), stored()["metadata"]["annotations"][NETNS].clone()), (json!("c1"), json!("/run/netns/x")));
        // A later sandbox of the same pod: what comes for the earlier one changes nothing.
        record(&store, Form::Pod, "c2", &[[10, 244, 0, 6].into()], &stored()).unwrap();
        run(withdraw(&store, Form::Pod, &workload("c1"))).unwrap();
        assert_eq!(annotation("podIP"), "10.244.0.6/32");
        run(withdraw(&store, Form::Pod, &workload("c2"))).unwrap();
        assert_eq!((annotation("podIP"), annotation("podIPs"), annotation("containerID")), (json!(""), json!(""), json!("c2")));
        assert_eq!(stored()["metadata"]["annotations"].get(NETNS), None);
        // Another Pod of the name, made anew, is not written to.
        let old = stored();
        run(store.delete(&Id::of(Resource::Pod, &old).unwrap(), &Preconditions::default())).unwrap();
        store.put(Resource::Pod, pod());
        assert_eq!(record(&store, Form::Pod, "c3", &[[10, 244, 0, 7].into()], &old).unwrap_err().code(), 11);
        run(withdraw(&store, Form::Pod, &Workload { pod: Some("gone".into()), ..workload("c1") })).unwrap();
    }

    #[test]
    fn an_endpoint_has_what_the_pod_says() {
        let store = MemObjects::new();
        record(&store, Form::Endpoint, "c1", &[[10, 244, 0, 5].into()], &pod()).unwrap();
        let stored = || store.all(Resource::WorkloadEndpoint).remove(0);
        let spec = |key: &str| stored()["spec"][key].clone();
        assert_eq!(stored()["metadata"]["name"], "n1-k8s-web--0-eth0");
        assert_eq!(
            (spec("ipNetworks"), spec("interfaceName"), spec("mac")),
            (json!(["10.244.0.5/32"]), json!("cali1"), json!("02:00:00:00:00:01"))
        );
        assert_eq!((spec("profiles"), spec("allowSpoofedSourcePrefixes")), (json!(["kns.default"]), json!(["10.9.0.0/16"])));
        assert_eq!(stored()["metadata"]["labels"]["projectcalico.org/serviceaccount"], "runner");
        assert_eq!(spec("ipNATs"), json!([{"internalIP": "10.244.0.5", "externalIP": "192.0.2.7"}]));
        let read = crate::control::model::parse(&stored().to_string()).unwrap().entries.remove(0);
        assert!(read.object.is_ok(), "{:?}", read.object);
        assert_eq!(
            stored()["metadata"]["annotations"],
            json!({ "tortie/netns": "/run/netns/x", "kubernetes.io/ingress-bandwidth": "10000000" })
        );
        record(&store, Form::Endpoint, "c2", &[[10, 244, 0, 6].into()], &pod()).unwrap();
        assert_eq!(run(holder(&store, Form::Endpoint, &workload("c2"))).unwrap(), Some(("c2".into(), vec!["10.244.0.6/32".into()])));
        run(withdraw(&store, Form::Endpoint, &workload("c1"))).unwrap();
        assert_eq!(store.all(Resource::WorkloadEndpoint).len(), 1);
        run(withdraw(&store, Form::Endpoint, &workload("c2"))).unwrap();
        run(withdraw(&store, Form::Endpoint, &workload("c2"))).unwrap();
        assert!(store.all(Resource::WorkloadEndpoint).is_empty());
    }

    #[test]
    fn others_may_come_first() {
        let store = MemObjects::new();
        let left = std::rc::Rc::new(std::cell::Cell::new(3));
        let contended = store.before(move |op| match op {
            Op::Create(id) | Op::Update(id) | Op::Delete(id) if left.get() > 0 => {
                left.set(left.get() - 1);
                Err(AccessError::Conflict { id: id.clone() })
            }
            _ => Ok(()),
        });
        record(&contended, Form::Endpoint, "c1", &[], &Value::Null).unwrap();
        assert_eq!(store.all(Resource::WorkloadEndpoint)[0]["spec"]["profiles"], json!(["net"]));
        let never =
            store.before(|op| if op.is_write() { Err(AccessError::Conflict { id: Id::cluster(Resource::Pod, "x") }) } else { Ok(()) });
        assert_eq!(record(&never, Form::Endpoint, "c1", &[], &Value::Null).unwrap_err().code(), 11);
        assert_eq!(run(withdraw(&never, Form::Endpoint, &workload("c1"))).unwrap_err().code(), 11);
    }

    #[test]
    fn what_a_runtime_does_not_list_is_swept() {
        let store = MemObjects::new();
        for (pod, container, node, network) in
            [("a", "c1", "n1", "net"), ("b", "c2", "n1", "net"), ("c", "c3", "n2", "net"), ("d", "c4", "n1", "other")]
        {
            let workload = Workload { pod: Some(pod.into()), node: node.into(), ..workload(container) };
            let entry = Entry {
                workload: &workload,
                network,
                interface: "cali1",
                addresses: &[],
                floating: &[],
                mac: None,
                netns: None,
                ingress: None,
            };
            run(publish(&store, Form::Endpoint, &entry, &Value::Null)).unwrap();
        }
        assert_eq!(run(sweep(&store, "n1", "net", |c, i| c == "c1" && i == "eth0")).unwrap(), 1);
        let left: Vec<_> =
            store.all(Resource::WorkloadEndpoint).iter().map(|o| o["spec"]["containerID"].as_str().unwrap().to_owned()).collect();
        assert_eq!(left, ["c1", "c4", "c3"]);
    }
}
