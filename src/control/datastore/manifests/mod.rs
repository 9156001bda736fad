//! The objects of a folder of manifests, read and written one by one.
//!
//! Every access reads what changed since the last one. A write happens under a lock between processes, replaces one
//! file by rename, and changes in it the document of that object only. An object's revision is the hash of what it
//! says, so a file edited by hand is a new revision too.

pub mod documents;
mod stored;

use super::objects::{self, Access, AccessError, Id, Objects, Preconditions, Resource};
use super::walk::{self, Stamp, Walk};
use crate::control::forms::node;
use documents::{Documents, Place};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Held while a file is replaced. Its name hides it from readers of manifests.
const LOCK: &str = ".tortie.lock";
/// How long others' writes are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(2);
/// Longest file name, bytes.
const NAME_MAX: usize = 255;

/// Whether objects of a kind are read and written here.
pub fn keeps(api_version: &str, kind: &str) -> bool {
    stored::resource(&json!({"apiVersion": api_version, "kind": kind})).is_some()
}

/// A folder of manifests. What a daemon reads there is what this writes.
pub struct FolderObjects {
    root: PathBuf,
    /// By path below the folder, as read last.
    files: Mutex<BTreeMap<PathBuf, Known>>,
}

struct Known {
    stamp: Option<Stamp>,
    held: Arc<Held>,
}

/// What a file holds.
struct Held {
    documents: Documents,
    /// As the file has them.
    objects: Vec<(Id, Place, Value)>,
}

type Files = BTreeMap<PathBuf, Arc<Held>>;

impl FolderObjects {
    pub fn new(root: impl Into<PathBuf>) -> FolderObjects {
        FolderObjects { root: root.into(), files: Mutex::default() }
    }

    /// All files. One that cannot be read may hold anything, so it is an error.
    fn read(&self) -> Access<Files> {
        let walk = Walk::of(&self.root).map_err(|e| fault(&self.root, &e))?;
        if let Some((path, e)) = walk.unreadable.iter().next() {
            return Err(fault(&self.root.join(path), e));
        }
        let mut known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|path, _| walk.files.contains_key(path));
        let mut out = Files::new();
        for (path, metadata) in walk.files {
            let stamp = Stamp::of(&metadata);
            let held = match known.get(&path) {
                Some(read) if read.stamp == Some(stamp) => read.held.clone(),
                _ => {
                    let full = self.root.join(&path);
                    let bytes = match walk::read(&full, &metadata) {
                        Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                        other => other.map_err(|e| fault(&full, &e))?,
                    };
                    let held = Arc::new(Held::parse(&path, bytes)?);
                    known.insert(path.clone(), Known { stamp: stamp.is_settled().then_some(stamp), held: held.clone() });
                    held
                }
            };
            out.insert(path, held);
        }
        Ok(out)
    }

    async fn lock(&self) -> Access<File> {
        let path = self.root.join(LOCK);
        // Readers watch for files closed after writing; this one is opened for writing only when it is made.
        let open = || File::open(&path).or_else(|_| fs::OpenOptions::new().create(true).append(true).open(&path));
        let file = open().map_err(|e| fault(&self.root, &e))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(fault(&path, &e)),
                Err(TryLockError::WouldBlock) if start.elapsed() > PATIENCE => {
                    let message = format!("locked by somebody else for {} s", PATIENCE.as_secs());
                    return Err(AccessError::Unavailable { what: path.display().to_string(), message });
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Changes the object that is in force by `change`, which gets and gives it in `projectcalico.org/v3` form.
    async fn change(&self, id: &Id, expect: Preconditions, change: impl FnOnce(Value) -> Value) -> Access<Value> {
        let _lock = self.lock().await?;
        let files = self.read()?;
        let (path, held, at) = find(&files, id).ok_or_else(|| AccessError::NotFound { id: id.clone() })?;
        let (stored_id, place, document) = &held.objects[at];
        let old = shown(id.resource, stored_id.resource, document);
        check(id, &old, &expect)?;
        let mut new = change(old.clone());
        same_identity(id, &mut new, &old)?;
        let new_document = written(id.resource, stored_id.resource, new, document);
        if new_document != *document {
            let mut documents = held.documents.clone();
            documents.replace(*place, new_document.clone());
            self.write(path, documents.text())?;
        }
        Ok(shown(id.resource, stored_id.resource, &new_document))
    }

    /// Puts a file's new text in place of the old; `None` removes it.
    fn write(&self, path: &Path, text: Option<String>) -> Access<()> {
        let full = self.root.join(path);
        // A link's target is replaced, not the link.
        let full = fs::canonicalize(&full).unwrap_or(full);
        let result = match text {
            Some(text) => replace_file(&full, &text),
            None => fs::remove_file(&full),
        };
        result.map_err(|e| fault(&full, &e))
    }
}

impl Held {
    fn parse(path: &Path, bytes: Vec<u8>) -> Access<Held> {
        let invalid = |message: String| AccessError::Invalid { what: path.display().to_string(), message };
        let text = String::from_utf8(bytes).map_err(|_| invalid("not UTF-8".into()))?;
        let documents = Documents::parse(&text).map_err(|e| invalid(format!("line {}: not YAML: {}", e.line, e.message)))?;
        let objects = documents.objects().into_iter().filter_map(|(place, document)| {
            let resource = stored::resource(&document)?;
            let mut id = Id::of(resource, &document)?;
            if resource.is_namespaced() && id.namespace.as_deref().is_none_or(str::is_empty) {
                id.namespace = Some("default".into());
            }
            Some((id, place, document))
        });
        let objects = objects.collect();
        Ok(Held { documents, objects })
    }
}

/// The object in force: the first by path. A `projectcalico.org/v3` Node counts before a core one.
fn find<'a>(files: &'a Files, id: &Id) -> Option<(&'a Path, &'a Held, usize)> {
    let of = |id: &Id| {
        files.iter().find_map(|(path, held)| Some((path.as_path(), &**held, held.objects.iter().position(|(found, ..)| found == id)?)))
    };
    match id.resource {
        Resource::Node => of(&Id { resource: Resource::CalicoNode, ..id.clone() }).or_else(|| of(id)),
        _ => of(id),
    }
}

/// A document as the asker wants to see it, with its revision.
fn shown(asked: Resource, stored: Resource, document: &Value) -> Value {
    let mut object = stored::to_v3(stored, document.clone());
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    if stored.is_namespaced() && object["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
        object["metadata"]["namespace"] = json!("default");
    }
    let revision = revision(&object);
    object["metadata"]["resourceVersion"] = json!(revision);
    if asked == Resource::Node && stored == Resource::CalicoNode { node::as_core(&object) } else { object }
}

/// The document that holds an object from now on.
fn written(asked: Resource, kept: Resource, object: Value, old: &Value) -> Value {
    let mut object = if asked == Resource::Node && kept == Resource::CalicoNode {
        node::from_core(&object, &stored::to_v3(kept, old.clone()))
    } else {
        object
    };
    let had = &old["metadata"];
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        if had.get("namespace").is_none() {
            metadata.remove("namespace");
        }
    }
    stored::like(old, kept, object)
}

fn revision(object: &Value) -> String {
    digest(&object.to_string())
}

/// 16 hex digits of the SHA-1.
fn digest(text: &str) -> String {
    hex::encode(&Sha1::digest(text.as_bytes())[..8])
}

fn check(id: &Id, stored: &Value, expect: &Preconditions) -> Access<()> {
    let same = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|w| Some(w) == found);
    if same(&expect.revision, objects::revision(stored)) && same(&expect.uid, objects::uid(stored)) {
        Ok(())
    } else {
        Err(AccessError::Conflict { id: id.clone() })
    }
}

/// Name, uid and time of creation do not change.
fn same_identity(id: &Id, new: &mut Value, old: &Value) -> Access<()> {
    if !new["metadata"].is_object() {
        new["metadata"] = json!({});
    }
    for key in ["name", "namespace", "uid", "creationTimestamp"] {
        let (was, is) = (old["metadata"].get(key), new["metadata"].get(key));
        if is.is_some() && was.is_some() && is != was && key != "creationTimestamp" {
            let message = format!("metadata.{key}: cannot be changed");
            return Err(AccessError::Invalid { what: id.to_string(), message });
        }
        if let Some(was) = was.cloned() {
            new["metadata"][key] = was;
        }
    }
    Ok(())
}

fn replace_file(full: &Path, text: &str) -> io::Result<()> {
    let name = full.file_name().unwrap_or_default().to_string_lossy();
    let scratch = full.with_file_name(format!(".{}.{}", digest(&name), std::process::id()));
    let result = (|| {
        let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o644).open(&scratch)?;
        file.write_all(text.as_bytes())?;
        if let Ok(old) = fs::metadata(full) {
            file.set_permissions(old.permissions())?;
        }
        file.sync_all()?;
        drop(file);
        fs::rename(&scratch, full)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&scratch);
    }
    result
}

/// A file of its own for a new object: kind, namespace and name.
fn new_file(root: &Path, id: &Id) -> PathBuf {
    let parts: Vec<&str> = id.namespace.as_deref().into_iter().chain([id.name.as_str()]).collect();
    let plain = format!("{}_{}", id.resource.kind().to_lowercase(), parts.join("_"));
    let stem = if plain.len() + 16 > NAME_MAX { format!("{}_{}", id.resource.kind().to_lowercase(), digest(&plain)) } else { plain };
    let mut name = format!("{stem}.yaml");
    let mut n = 2;
    while root.join(&name).symlink_metadata().is_ok() {
        name = format!("{stem}.{n}.yaml");
        n += 1;
    }
    PathBuf::from(name)
}

fn fault(path: &Path, e: &io::Error) -> AccessError {
    let (what, message) = (path.display().to_string(), e.to_string());
    match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => AccessError::Forbidden { what, message },
        _ => AccessError::Unavailable { what, message },
    }
}

/// The time as Kubernetes writes it (RFC 3339, UTC, whole seconds).
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random UUID (RFC 9562, version 4).
fn new_uid() -> io::Result<String> {
    let mut b = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut b)?;
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex = hex::encode(b);
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn named(resource: Resource, object: &Value) -> Access<Id> {
    let invalid = |message: &str| AccessError::Invalid { what: resource.to_string(), message: message.into() };
    let mut id = Id::of(resource, object).ok_or_else(|| invalid("metadata.name: missing"))?;
    if resource.is_namespaced() && id.namespace.as_deref().is_none_or(str::is_empty) {
        id.namespace = Some("default".into());
    }
    let bad = |part: &str| part.is_empty() || part.contains('/') || part.chars().any(|c| c.is_control() || c.is_whitespace());
    if bad(&id.name) || id.namespace.as_deref().is_some_and(bad) {
        return Err(invalid("metadata.name: not a name"));
    }
    Ok(id)
}

impl Objects for FolderObjects {
    async fn get(&self, id: &Id) -> Access<Option<Value>> {
        let files = self.read()?;
        Ok(find(&files, id).map(|(_, held, at)| {
            let (stored, _, document) = &held.objects[at];
            shown(id.resource, stored.resource, document)
        }))
    }

    async fn list(&self, resource: Resource, namespace: Option<&str>) -> Access<Vec<Value>> {
        let files = self.read()?;
        let all = files.values().flat_map(|held| held.objects.iter().map(|(id, ..)| id));
        let meant = |id: &&Id| id.resource == resource || resource == Resource::Node && id.resource == Resource::CalicoNode;
        let ids = all.filter(meant).filter(|id| namespace.is_none() || id.namespace.as_deref() == namespace);
        let ids: BTreeSet<Id> = ids.map(|id| Id { resource, ..id.clone() }).collect();
        let found = ids.iter().filter_map(|id| find(&files, id));
        Ok(found
            .map(|(_, held, at)| {
                let (stored, _, document) = &held.objects[at];
                shown(resource, stored.resource, document)
            })
            .collect())
    }

    async fn create(&self, resource: Resource, mut object: Value) -> Access<Value> {
        let id = named(resource, &object)?;
        let _lock = self.lock().await?;
        if find(&self.read()?, &id).is_some() {
            return Err(AccessError::AlreadyExists { id });
        }
        let uid = new_uid().map_err(|e| fault(Path::new("/dev/urandom"), &e))?;
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
            metadata.insert("uid".into(), json!(uid));
            metadata.insert("creationTimestamp".into(), json!(now()));
            if let Some(namespace) = &id.namespace {
                metadata.insert("namespace".into(), json!(namespace));
            }
        }
        let document = stored::new(resource, object);
        self.write(&new_file(&self.root, &id), Some(crate::control::yaml::text(&document)))?;
        Ok(shown(resource, resource, &document))
    }

    async fn update(&self, resource: Resource, object: Value) -> Access<Value> {
        let id = named(resource, &object)?;
        self.change(&id, Preconditions::same(&object), |_| object).await
    }

    async fn patch(&self, id: &Id, mut patch: Value) -> Access<Value> {
        let expect = Preconditions::same(&patch);
        if let Value::Object(parts) = &mut patch {
            parts.remove("status");
        }
        self.change(id, expect, |mut object| {
            objects::merge(&mut object, &patch);
            object
        })
        .await
    }

    async fn patch_status(&self, id: &Id, patch: Value) -> Access<Value> {
        let parts = patch.as_object().into_iter().flatten().filter(|(key, _)| *key == "status" || *key == "metadata");
        let parts = Value::Object(parts.map(|(k, v)| (k.clone(), v.clone())).collect());
        self.change(id, Preconditions::same(&patch), |mut object| {
            objects::merge(&mut object, &parts);
            object
        })
        .await
    }

    /// All copies of the object go: another file's would come into force otherwise.
    async fn delete(&self, id: &Id, preconditions: &Preconditions) -> Access<()> {
        let _lock = self.lock().await?;
        let files = self.read()?;
        let (_, held, at) = find(&files, id).ok_or_else(|| AccessError::NotFound { id: id.clone() })?;
        let (stored, _, document) = &held.objects[at];
        check(id, &shown(id.resource, stored.resource, document), preconditions)?;
        let node = Id { resource: Resource::CalicoNode, ..id.clone() };
        let meant = |found: &Id| found == id || id.resource == Resource::Node && *found == node;
        for (path, held) in &files {
            let mut documents = held.documents.clone();
            // From the last one on, so that the places of the others hold.
            for (_, place, _) in held.objects.iter().rev().filter(|(found, ..)| meant(found)) {
                documents.remove(*place);
            }
            if held.objects.iter().any(|(found, ..)| meant(found)) {
                self.write(path, documents.text())?;
            }
        }
        Ok(())
    }
}
