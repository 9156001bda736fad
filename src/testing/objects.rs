//! A datastore in memory: what an API server does with objects, without the network. Every write takes the next
//! revision; a hook may refuse any access or let others come first.

use crate::control::datastore::objects::{self, Access, AccessError, Id, Objects, Preconditions, Resource};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One access, as the hook sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Get(Id),
    List(Resource),
    Create(Id),
    Update(Id),
    Patch(Id),
    Delete(Id),
}

impl Op {
    pub fn is_write(&self) -> bool {
        !matches!(self, Op::Get(_) | Op::List(_))
    }
}

type Hook = Rc<dyn Fn(&Op) -> Access<()>>;

/// Clones are the same store. Between any two accesses other tasks of the same runtime get their turn.
#[derive(Clone, Default)]
pub struct MemObjects {
    inner: Rc<Inner>,
    /// Runs before an access; this clone's own.
    before: Option<Hook>,
    /// Runs after an access took effect, and may hide its success.
    after: Option<Hook>,
}

#[derive(Default)]
struct Inner {
    objects: RefCell<BTreeMap<Id, Value>>,
    revision: Cell<u64>,
    writes: Cell<u64>,
}

impl MemObjects {
    pub fn new() -> MemObjects {
        MemObjects::default()
    }

    /// The same store with its accesses watched: an error from `before` is the answer, and nothing happens.
    pub fn before(&self, hook: impl Fn(&Op) -> Access<()> + 'static) -> MemObjects {
        MemObjects { before: Some(Rc::new(hook)), ..self.clone() }
    }

    /// The same store where an error from `after` is the answer although the access took effect: a lost reply.
    pub fn after(&self, hook: impl Fn(&Op) -> Access<()> + 'static) -> MemObjects {
        MemObjects { after: Some(Rc::new(hook)), ..self.clone() }
    }

    /// Puts an object there as somebody else would, whatever was there.
    pub fn put(&self, resource: Resource, object: Value) {
        let id = Id::of(resource, &object).expect("metadata.name");
        let old = self.inner.objects.borrow().get(&id).and_then(|o| objects::uid(o).map(str::to_owned));
        self.store(id, object, old);
    }

    /// All objects of a kind now.
    pub fn all(&self, resource: Resource) -> Vec<Value> {
        self.inner.objects.borrow().iter().filter(|(id, _)| id.resource == resource).map(|(_, o)| o.clone()).collect()
    }

    /// How many writes took effect.
    pub fn writes(&self) -> u64 {
        self.inner.writes.get()
    }

    fn store(&self, id: Id, mut object: Value, uid: Option<String>) -> Value {
        let revision = self.inner.revision.get() + 1;
        self.inner.revision.set(revision);
        self.inner.writes.set(self.inner.writes.get() + 1);
        object["kind"] = json!(id.resource.kind());
        object["apiVersion"] = json!(if id.resource.is_core() { "v1" } else { "projectcalico.org/v3" });
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        object["metadata"]["uid"] = json!(uid.unwrap_or_else(|| format!("uid-{revision}")));
        self.inner.objects.borrow_mut().insert(id, object.clone());
        object
    }

    async fn access(&self, op: &Op) -> Access<()> {
        tokio::task::yield_now().await;
        self.before.as_ref().map_or(Ok(()), |hook| hook(op))
    }

    fn done<T>(&self, op: &Op, result: T) -> Access<T> {
        self.after.as_ref().map_or(Ok(()), |hook| hook(op))?;
        Ok(result)
    }

    /// The stored object if it is the one that was meant.
    fn expect(&self, id: &Id, revision: Option<&str>, uid: Option<&str>) -> Access<Value> {
        let all = self.inner.objects.borrow();
        let stored = all.get(id).ok_or_else(|| AccessError::NotFound { id: id.clone() })?;
        let same = |given: Option<&str>, stored: Option<&str>| given.is_none_or(|g| Some(g) == stored);
        if same(revision, objects::revision(stored)) && same(uid, objects::uid(stored)) {
            Ok(stored.clone())
        } else {
            Err(AccessError::Conflict { id: id.clone() })
        }
    }

    async fn change(&self, id: &Id, patch: Value) -> Access<Value> {
        let op = Op::Patch(id.clone());
        self.access(&op).await?;
        let mut stored = self.expect(id, objects::revision(&patch), objects::uid(&patch))?;
        let uid = objects::uid(&stored).map(str::to_owned);
        objects::merge(&mut stored, &patch);
        let stored = self.store(id.clone(), stored, uid);
        self.done(&op, stored)
    }
}

fn named(resource: Resource, object: &Value) -> Access<Id> {
    let fault = || AccessError::Invalid { what: resource.to_string(), message: "metadata.name: missing".into() };
    Id::of(resource, object).ok_or_else(fault)
}

impl Objects for MemObjects {
    async fn get(&self, id: &Id) -> Access<Option<Value>> {
        let op = Op::Get(id.clone());
        self.access(&op).await?;
        let found = self.inner.objects.borrow().get(id).cloned();
        self.done(&op, found)
    }

    async fn list(&self, resource: Resource, namespace: Option<&str>) -> Access<Vec<Value>> {
        let op = Op::List(resource);
        self.access(&op).await?;
        let here = |id: &Id| id.resource == resource && (namespace.is_none() || id.namespace.as_deref() == namespace);
        let found = self.inner.objects.borrow().iter().filter(|(id, _)| here(id)).map(|(_, o)| o.clone()).collect();
        self.done(&op, found)
    }

    async fn create(&self, resource: Resource, object: Value) -> Access<Value> {
        let id = named(resource, &object)?;
        let op = Op::Create(id.clone());
        self.access(&op).await?;
        if self.inner.objects.borrow().contains_key(&id) {
            return Err(AccessError::AlreadyExists { id });
        }
        let stored = self.store(id, object, None);
        self.done(&op, stored)
    }

    async fn update(&self, resource: Resource, object: Value) -> Access<Value> {
        let id = named(resource, &object)?;
        let op = Op::Update(id.clone());
        self.access(&op).await?;
        let old = self.expect(&id, objects::revision(&object), objects::uid(&object))?;
        let stored = self.store(id, object, objects::uid(&old).map(str::to_owned));
        self.done(&op, stored)
    }

    async fn patch(&self, id: &Id, mut patch: Value) -> Access<Value> {
        if let Value::Object(parts) = &mut patch {
            parts.remove("status");
        }
        self.change(id, patch).await
    }

    async fn patch_status(&self, id: &Id, patch: Value) -> Access<Value> {
        let parts = patch.as_object().into_iter().flatten().filter(|(key, _)| *key == "status" || *key == "metadata");
        self.change(id, Value::Object(parts.map(|(k, v)| (k.clone(), v.clone())).collect())).await
    }

    async fn delete(&self, id: &Id, preconditions: &Preconditions) -> Access<()> {
        let op = Op::Delete(id.clone());
        self.access(&op).await?;
        self.expect(id, preconditions.revision.as_deref(), preconditions.uid.as_deref())?;
        self.inner.objects.borrow_mut().remove(id);
        self.inner.writes.set(self.inner.writes.get() + 1);
        self.done(&op, ())
    }
}
