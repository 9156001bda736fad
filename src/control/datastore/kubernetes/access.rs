//! The objects one by one.

use super::connect::{Connection, Source};
use super::failure::Failure;
use super::group::{self, Group, Undetected, rbac_rule};
use super::translate::{from_stored, patch_to_stored, to_stored};
use crate::control::datastore::OpenError;
use crate::control::datastore::objects::{self, Access, AccessError, Id, Objects, Preconditions, Resource};
use kube::core::Request;
use kube::core::params::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::Value;
use tokio::sync::OnceCell;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// Times that a change without a revision is tried against other writers.
const TRIES: usize = 10;

/// An API server's objects, in whichever group Calico's are.
pub struct KubeObjects {
    connection: Connection,
    group: OnceCell<Group>,
}

impl KubeObjects {
    /// Reads the client's configuration; the server is asked when something is wanted of it.
    pub async fn open(source: Source) -> Result<KubeObjects, OpenError> {
        Ok(KubeObjects { connection: Connection::open(source).await?, group: OnceCell::new() })
    }

    async fn ask(&self, what: &Ask<'_>, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> Access<Value> {
        self.connection.json(request).await.map_err(|f| what.error(&f))
    }

    /// Kubernetes' own kinds are where they are.
    async fn group(&self, resource: Resource) -> Access<Group> {
        if resource.is_core() {
            return Ok(Group::default());
        }
        if !group::is_stored(resource) {
            let message = "Kubernetes has no such objects: they are annotations of its own Nodes and Pods".into();
            return Err(AccessError::Invalid { what: resource.to_string(), message });
        }
        let found = self.group.get_or_try_init(|| Group::detect(&self.connection)).await;
        found.copied().map_err(|why| {
            let message = match why {
                Undetected::Missing => {
                    "the API server has neither crd.projectcalico.org nor projectcalico.org: install Calico's definitions".into()
                }
                Undetected::Failed(f) => f.message(),
            };
            AccessError::Unavailable { what: resource.to_string(), message }
        })
    }

    /// Changes the whole object, again and again until nobody comes first; once only if the patch has a revision.
    async fn patch_whole(&self, id: &Id, patch: &Value) -> Access<Value> {
        let once = objects::revision(patch).is_some();
        let mut tries = 0;
        loop {
            let mut object = self.get(id).await?.ok_or_else(|| AccessError::NotFound { id: id.clone() })?;
            objects::merge(&mut object, patch);
            tries += 1;
            match self.update(id.resource, object).await {
                Err(AccessError::Conflict { .. }) if !once && tries < TRIES => {}
                done => return done,
            }
        }
    }

    /// A list, page by page.
    async fn pages(&self, resource: Resource, namespace: Option<&str>, params: ListParams) -> Access<Vec<Value>> {
        if !group::is_stored(resource) {
            return Ok(Vec::new());
        }
        let group = self.group(resource).await?;
        let id = Id { resource, namespace: namespace.map(str::to_owned), name: String::new() };
        let ask = Ask { verb: "list", id: &id, group, part: "" };
        let (mut objects, mut params) = (Vec::new(), params.limit(PAGE));
        loop {
            let mut page = match self.ask(&ask, at(&id, group).list(&params)).await {
                // Such a list's continuation is too old: once more from the start.
                Err(AccessError::Unavailable { .. }) if params.continue_token.take().is_some() => {
                    objects.clear();
                    continue;
                }
                other => other?,
            };
            if let Value::Array(items) = page["items"].take() {
                objects.extend(items.into_iter().map(|o| from_stored(resource, group, o)));
            }
            match page["metadata"]["continue"].as_str().filter(|t| !t.is_empty()) {
                Some(token) => params = params.continue_token(token),
                None => return Ok(objects),
            }
        }
    }

    async fn put(&self, group: Group, id: &Id, object: Value) -> Access<Value> {
        let ask = Ask { verb: "update", id, group, part: "" };
        let body = to_stored(id.resource, group, object).to_string().into_bytes();
        let answer = self.ask(&ask, at(id, group).replace(&id.name, &PostParams::default(), body)).await?;
        Ok(from_stored(id.resource, group, answer))
    }
}

/// What was asked for, for messages.
struct Ask<'a> {
    verb: &'static str,
    id: &'a Id,
    group: Group,
    /// `/status`, or nothing.
    part: &'static str,
}

impl Ask<'_> {
    fn error(&self, f: &Failure) -> AccessError {
        let (id, what) = (self.id.clone(), self.what());
        match (f.code(), f.reason()) {
            (404, _) if f.names_an_object() => AccessError::NotFound { id },
            (404, _) => AccessError::Unavailable {
                what,
                message: format!(
                    "the API server has no {} in {}: install Calico's definitions, or set CALICO_API_GROUP",
                    id.resource, self.group
                ),
            },
            (409, "AlreadyExists") => AccessError::AlreadyExists { id },
            (409, _) => AccessError::Conflict { id },
            (403, _) => {
                let rule = rbac_rule(self.id.resource, self.group, self.part, &[self.verb]);
                AccessError::Forbidden { what, message: format!("{}; the rule {rule} in its ClusterRole allows it", f.message()) }
            }
            (400 | 413 | 415 | 422, _) => AccessError::Invalid { what, message: f.message() },
            _ => AccessError::Unavailable { what, message: f.message() },
        }
    }

    fn what(&self) -> String {
        match self.verb {
            "list" => format!("list {}", self.id.resource),
            verb => format!("{verb} {}", self.id),
        }
    }
}

fn at(id: &Id, group: Group) -> Request {
    Request::new(group::path(id.resource, group, id.namespace.as_deref()))
}

fn named(resource: Resource, object: &Value) -> Access<Id> {
    let fault = |field: &str| AccessError::Invalid { what: resource.to_string(), message: format!("{field}: missing") };
    let id = Id::of(resource, object).ok_or_else(|| fault("metadata.name"))?;
    if resource.is_namespaced() && id.namespace.is_none() { Err(fault("metadata.namespace")) } else { Ok(id) }
}

impl Objects for KubeObjects {
    async fn get(&self, id: &Id) -> Access<Option<Value>> {
        if !group::is_stored(id.resource) {
            return Ok(None);
        }
        let group = self.group(id.resource).await?;
        let ask = Ask { verb: "get", id, group, part: "" };
        match self.ask(&ask, at(id, group).get(&id.name, &GetParams::default())).await {
            Ok(object) => Ok(Some(from_stored(id.resource, group, object))),
            Err(AccessError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn list(&self, resource: Resource, namespace: Option<&str>) -> Access<Vec<Value>> {
        self.pages(resource, namespace, ListParams::default()).await
    }

    async fn list_labelled(&self, resource: Resource, labels: &[(&str, &str)]) -> Access<Vec<Value>> {
        let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.pages(resource, None, ListParams::default().labels(&selector.join(","))).await
    }

    async fn create(&self, resource: Resource, mut object: Value) -> Access<Value> {
        let id = named(resource, &object)?;
        let group = self.group(resource).await?;
        if let Value::Object(metadata) = &mut object["metadata"] {
            metadata.retain(|key, _| key != "resourceVersion" && key != "uid");
        }
        let ask = Ask { verb: "create", id: &id, group, part: "" };
        let body = to_stored(resource, group, object).to_string().into_bytes();
        let answer = self.ask(&ask, at(&id, group).create(&PostParams::default(), body)).await?;
        Ok(from_stored(resource, group, answer))
    }

    async fn update(&self, resource: Resource, mut object: Value) -> Access<Value> {
        let id = named(resource, &object)?;
        let group = self.group(resource).await?;
        if objects::revision(&object).is_some_and(|r| !r.is_empty()) {
            return self.put(group, &id, object).await;
        }
        // Definitions are replaced by revision only.
        let mut tries = 0;
        loop {
            let stored = self.get(&id).await?.ok_or_else(|| AccessError::NotFound { id: id.clone() })?;
            object["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
            tries += 1;
            match self.put(group, &id, object.clone()).await {
                // A uid that is not the stored one's is no race.
                Err(AccessError::Conflict { .. })
                    if tries < TRIES && objects::uid(&object).is_none_or(|u| Some(u) == objects::uid(&stored)) => {}
                done => return done,
            }
        }
    }

    async fn patch(&self, id: &Id, mut patch: Value) -> Access<Value> {
        let group = self.group(id.resource).await?;
        if let Value::Object(parts) = &mut patch {
            parts.remove("status");
        }
        let Some(stored) = patch_to_stored(id.resource, group, patch.clone()) else { return self.patch_whole(id, &patch).await };
        let ask = Ask { verb: "patch", id, group, part: "" };
        let answer = self.ask(&ask, at(id, group).patch(&id.name, &PatchParams::default(), &Patch::Merge(stored))).await?;
        Ok(from_stored(id.resource, group, answer))
    }

    async fn patch_status(&self, id: &Id, patch: Value) -> Access<Value> {
        let group = self.group(id.resource).await?;
        let parts = patch.as_object().into_iter().flatten().filter(|(key, _)| *key == "status" || *key == "metadata");
        let patch = Patch::Merge(Value::Object(parts.map(|(k, v)| (k.clone(), v.clone())).collect()));
        let request = at(id, group);
        // The older group's definitions have no path of its own for the status: there it is a part like others.
        let (part, request) = if id.resource.is_core() || group == Group::V3 {
            ("/status", request.patch_subresource("status", &id.name, &PatchParams::default(), &patch))
        } else {
            ("", request.patch(&id.name, &PatchParams::default(), &patch))
        };
        let answer = self.ask(&Ask { verb: "patch", id, group, part }, request).await?;
        Ok(from_stored(id.resource, group, answer))
    }

    async fn delete(&self, id: &Id, preconditions: &Preconditions) -> Access<()> {
        let group = self.group(id.resource).await?;
        let conditions =
            kube::core::params::Preconditions { resource_version: preconditions.revision.clone(), uid: preconditions.uid.clone() };
        let params = DeleteParams { preconditions: Some(conditions), ..DeleteParams::default() };
        let ask = Ask { verb: "delete", id, group, part: "" };
        self.ask(&ask, at(id, group).delete(&id.name, &params)).await.map(drop)
    }
}
