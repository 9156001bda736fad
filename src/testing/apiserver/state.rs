//! The objects, every change to them in order, and the rules by which they may be changed.

use super::kinds::Resource;
use super::schema;
use super::status::Refusal;
use crate::control::datastore::objects::merge;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Changes that are remembered for watches.
const HISTORY: usize = 200_000;

/// One object at one revision.
#[derive(Debug)]
pub struct Stored {
    pub revision: u64,
    /// The object as JSON text.
    pub text: String,
    pub uid: String,
    labels: BTreeMap<String, String>,
    node: String,
    name: String,
    namespace: String,
}

impl Stored {
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text).expect("what was stored is JSON")
    }
}

/// Which objects of a kind are asked for.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    pub namespace: Option<String>,
    /// Field and value; `metadata.name`, `metadata.namespace` and, for Pods, `spec.nodeName`.
    pub fields: Vec<(String, String)>,
    pub labels: Vec<(String, String)>,
}

impl Selector {
    pub fn matches(&self, object: &Stored) -> bool {
        let field = |name: &str| match name {
            "metadata.name" => &object.name,
            "metadata.namespace" => &object.namespace,
            _ => &object.node,
        };
        self.namespace.as_ref().is_none_or(|n| *n == object.namespace)
            && self.fields.iter().all(|(f, v)| field(f) == v)
            && self.labels.iter().all(|(k, v)| object.labels.get(k) == Some(v))
    }
}

/// Who an object is: resource, namespace (empty without), name.
pub type Key = (&'static str, &'static str, String, String);

fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    (resource.api_version, resource.plural, namespace.to_owned(), name.to_owned())
}

/// What happened at a revision.
pub struct Change {
    pub revision: u64,
    resource: (&'static str, &'static str),
    before: Option<Arc<Stored>>,
    after: Option<Arc<Stored>>,
}

impl Change {
    /// The event that a watch with this selector sees: its type, and the object's text.
    pub fn event(&self, resource: &Resource, selector: &Selector) -> Option<(&'static str, Arc<Stored>)> {
        if self.resource != (resource.api_version, resource.plural) {
            return None;
        }
        let fits = |o: &Option<Arc<Stored>>| o.as_ref().filter(|o| selector.matches(o)).cloned();
        match (fits(&self.before), fits(&self.after)) {
            (None, Some(now)) => Some(("ADDED", now)),
            (Some(_), Some(now)) => Some(("MODIFIED", now)),
            // The last state, at the revision of the deletion.
            (Some(last), None) => Some(("DELETED", Arc::new(at_revision(&last, self.revision)))),
            (None, None) => None,
        }
    }
}

fn at_revision(object: &Stored, revision: u64) -> Stored {
    let mut value = object.value();
    value["metadata"]["resourceVersion"] = json!(revision.to_string());
    stored(value, revision)
}

fn stored(value: Value, revision: u64) -> Stored {
    let metadata = &value["metadata"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let labels = metadata["labels"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect();
    Stored {
        revision,
        uid: text(&metadata["uid"]),
        labels,
        node: text(&value["spec"]["nodeName"]),
        name: text(&metadata["name"]),
        namespace: text(&metadata["namespace"]),
        text: value.to_string(),
    }
}

/// A list being handed out page by page.
struct Snapshot {
    revision: u64,
    items: Vec<Arc<Stored>>,
}

#[derive(Default)]
pub struct State {
    pub revision: u64,
    /// The oldest revision that a watch may start from.
    pub oldest: u64,
    objects: BTreeMap<Key, Arc<Stored>>,
    history: VecDeque<Change>,
    snapshots: BTreeMap<u64, Snapshot>,
    uids: u64,
}

/// A page of a list, and the token for the next.
pub struct Page {
    pub revision: u64,
    pub items: Vec<Arc<Stored>>,
    pub next: Option<String>,
    pub remaining: usize,
}

impl State {
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Stored>, Refusal> {
        self.objects.get(&key(resource, namespace, name)).cloned().ok_or_else(|| Refusal::not_found(resource, name))
    }

    pub fn select(&self, resource: &Resource, selector: &Selector) -> Vec<Arc<Stored>> {
        let first = key(resource, "", "");
        let of_kind = self.objects.range(first..).take_while(|(k, _)| (k.0, k.1) == (resource.api_version, resource.plural));
        of_kind.map(|(_, o)| o).filter(|o| selector.matches(o)).cloned().collect()
    }

    /// A whole list, or its first page.
    pub fn list(&mut self, resource: &Resource, selector: &Selector, limit: usize) -> Page {
        let items = self.select(resource, selector);
        let revision = self.revision;
        if limit == 0 || items.len() <= limit {
            return Page { revision, items, next: None, remaining: 0 };
        }
        let id = self.snapshots.last_key_value().map_or(1, |(id, _)| id + 1);
        self.snapshots.insert(id, Snapshot { revision, items });
        self.page(id, 0, limit)
    }

    /// A further page. Tokens are `snapshot/position`.
    pub fn more(&mut self, token: &str, limit: usize) -> Result<Page, Refusal> {
        let parsed = token.split_once('/').and_then(|(id, at)| Some((id.parse().ok()?, at.parse().ok()?)));
        let (id, at) = parsed.ok_or_else(|| Refusal::bad_request("continue key is not valid"))?;
        if !self.snapshots.contains_key(&id) {
            let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";
            return Err(Refusal::new(410, "Expired", message));
        }
        Ok(self.page(id, at, limit))
    }

    fn page(&mut self, id: u64, at: usize, limit: usize) -> Page {
        let snapshot = &self.snapshots[&id];
        let (revision, all) = (snapshot.revision, snapshot.items.len());
        let end = if limit == 0 { all } else { (at + limit).min(all) };
        let items = snapshot.items[at.min(all)..end].to_vec();
        if end == all {
            self.snapshots.remove(&id);
            return Page { revision, items, next: None, remaining: 0 };
        }
        Page { revision, items, next: Some(format!("{id}/{end}")), remaining: all - end }
    }

    /// Everything that happened after a revision, oldest first.
    pub fn since(&self, revision: u64) -> impl Iterator<Item = &Change> {
        let at = self.history.partition_point(|c| c.revision <= revision);
        self.history.range(at..)
    }

    /// Forgets what happened before now, and every list in pages.
    pub fn compact(&mut self) {
        self.history.clear();
        self.snapshots.clear();
        self.oldest = self.revision;
    }

    /// Writes an object over whatever is there. Its metadata gets a uid and a revision.
    pub fn put(&mut self, resource: &Resource, mut value: Value) -> Arc<Stored> {
        let metadata = &value["metadata"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let key = key(resource, &text(&metadata["namespace"]), &text(&metadata["name"]));
        let before = self.objects.get(&key).cloned();
        self.revision += 1;
        value["apiVersion"] = json!(resource.api_version);
        value["kind"] = json!(resource.kind);
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        value["metadata"]["uid"] = match &before {
            Some(b) => json!(b.uid),
            None => {
                self.uids += 1;
                json!(format!("00000000-0000-4000-8000-{:012}", self.uids))
            }
        };
        if value["metadata"]["creationTimestamp"].is_null() {
            value["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let after = Arc::new(stored(value, self.revision));
        self.objects.insert(key, after.clone());
        self.remember(resource, before, Some(after.clone()));
        after
    }

    pub fn remove(&mut self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        let before = self.objects.remove(&key(resource, namespace, name))?;
        self.revision += 1;
        self.remember(resource, Some(before.clone()), None);
        Some(before)
    }

    fn remember(&mut self, resource: &Resource, before: Option<Arc<Stored>>, after: Option<Arc<Stored>>) {
        self.history.push_back(Change { revision: self.revision, resource: (resource.api_version, resource.plural), before, after });
        if self.history.len() > HISTORY {
            self.oldest = self.history.pop_front().map_or(self.oldest, |c| c.revision);
        }
    }

    pub fn create(&mut self, resource: &Resource, namespace: &str, mut value: Value) -> Result<Arc<Stored>, Refusal> {
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(Refusal::invalid(resource, "", "metadata.name: Required value: name or generateName is required"));
        }
        if value["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
            return Err(Refusal::bad_request("resourceVersion should not be set on objects to be created"));
        }
        checked(resource, namespace, &name, &mut value)?;
        if self.get(resource, namespace, &name).is_ok() {
            return Err(Refusal::already_exists(resource, &name));
        }
        if resource.has_status && resource.api_version != super::kinds::CORE {
            drop(value.as_object_mut().and_then(|o| o.remove("status")));
        }
        Ok(self.put(resource, value))
    }

    pub fn update(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        mut value: Value,
        status: bool,
    ) -> Result<Arc<Stored>, Refusal> {
        let old = self.get(resource, namespace, name)?;
        let version = value["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if version.is_empty() && !resource.unconditional {
            return Err(Refusal::invalid(resource, name, "metadata.resourceVersion: Invalid value: 0: must be specified for an update"));
        }
        unchanged(resource, name, &old, &value)?;
        if value["metadata"]["name"].as_str() != Some(name) {
            return Err(Refusal::bad_request("the name of the object does not match the name on the URL"));
        }
        checked(resource, namespace, name, &mut value)?;
        self.replace(resource, &old, value, status)
    }

    pub fn patch(&mut self, resource: &Resource, namespace: &str, name: &str, patch: &Value, status: bool) -> Result<Arc<Stored>, Refusal> {
        let old = self.get(resource, namespace, name)?;
        unchanged(resource, name, &old, patch)?;
        let mut value = old.value();
        merge(&mut value, patch);
        checked(resource, namespace, name, &mut value)?;
        self.replace(resource, &old, value, status)
    }

    /// The part that the path covers comes from the new value, the rest stays. What changes nothing makes no revision.
    fn replace(&mut self, resource: &Resource, old: &Arc<Stored>, mut value: Value, status: bool) -> Result<Arc<Stored>, Refusal> {
        let before = old.value();
        if status {
            let new = value["status"].take();
            let metadata = value["metadata"].take();
            value = before.clone();
            value["status"] = new;
            // Nodes and pods may be annotated and labelled this way, as their agents do; definitions may not.
            if resource.api_version == super::kinds::CORE {
                for part in ["annotations", "labels"] {
                    value["metadata"][part] = metadata[part].clone();
                }
            }
        } else if resource.has_status {
            match before.get("status") {
                Some(s) => value["status"] = s.clone(),
                None => drop(value.as_object_mut().and_then(|o| o.remove("status"))),
            }
        }
        prune(&mut value["metadata"]);
        for server_side in ["resourceVersion", "uid", "creationTimestamp"] {
            value["metadata"][server_side] = before["metadata"][server_side].clone();
        }
        if value == before {
            return Ok(old.clone());
        }
        Ok(self.put(resource, value))
    }

    pub fn delete(&mut self, resource: &Resource, namespace: &str, name: &str, preconditions: &Value) -> Result<Arc<Stored>, Refusal> {
        let old = self.get(resource, namespace, name)?;
        if let Some(uid) = preconditions["uid"].as_str().filter(|uid| *uid != old.uid) {
            return Err(Refusal::precondition(resource, name, "UID", uid, &old.uid));
        }
        let revision = old.revision.to_string();
        if let Some(version) = preconditions["resourceVersion"].as_str().filter(|v| *v != revision) {
            return Err(Refusal::precondition(resource, name, "ResourceVersion", version, &revision));
        }
        drop(self.remove(resource, namespace, name));
        Ok(old)
    }
}

/// Absent and null annotations and labels are the same.
fn prune(metadata: &mut Value) {
    let Some(map) = metadata.as_object_mut() else { return };
    map.retain(|_, v| !v.is_null() && v.as_object().is_none_or(|o| !o.is_empty()));
}

fn checked(resource: &Resource, namespace: &str, name: &str, value: &mut Value) -> Result<(), Refusal> {
    for (field, want) in [("apiVersion", resource.api_version), ("kind", resource.kind)] {
        if value[field].as_str().is_some_and(|v| v != want) {
            return Err(Refusal::bad_request(format!("{field} {} does not match {want}", value[field])));
        }
    }
    if resource.namespaced {
        value["metadata"]["namespace"] = json!(namespace);
    }
    schema::check(resource, value).map_err(|fault| Refusal::invalid(resource, name, fault))
}

/// The revision and the uid that are given are those that are stored.
fn unchanged(resource: &Resource, name: &str, old: &Stored, value: &Value) -> Result<(), Refusal> {
    if let Some(uid) = value["metadata"]["uid"].as_str().filter(|u| !u.is_empty() && *u != old.uid) {
        return Err(Refusal::precondition(resource, name, "UID", uid, &old.uid));
    }
    let version = value["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && version != old.revision.to_string() {
        return Err(Refusal::modified(resource, name));
    }
    Ok(())
}
