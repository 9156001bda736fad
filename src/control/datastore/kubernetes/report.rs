//! What a watch tells the store, and what it must remember to tell it.

use super::failure::Failure;
use super::group::{Group, rbac_rule};
use super::kinds::{Scope, Watched};
use crate::control::model::{self, Key, Kind, Object};
use crate::control::yaml::Field;
use std::collections::{BTreeSet, HashSet};

/// One piece of news about a kind.
#[derive(Debug)]
pub enum Delta {
    Put(Key, Object),
    Gone(Key),
    /// What is wrong with an object; `None`: nothing any more.
    Fault(String, Option<String>),
    /// ClusterInformation's `spec.datastoreReady`.
    Ready(bool),
    /// A complete list has come, or the kind cannot be had and is not needed.
    Complete(Scope),
    Link(Link),
}

/// Whether a kind can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    Up,
    /// No connection, or no good answer.
    Down {
        message: String,
    },
    /// The server answers, but not with this kind.
    Refused {
        message: String,
    },
}

impl Link {
    /// With what to do about it.
    pub fn refused(kind: Watched, group: Group, failure: &Failure) -> Link {
        let resource = kind.resource();
        let effect = if kind.is_required() { "the node needs it to route" } else { "its defaults are used" };
        let remedy = if failure.is_not_found() {
            format!(
                "the API server has no {resource} in {group}: install Calico's definitions, or set CALICO_API_GROUP to the group that has them"
            )
        } else {
            let rule = rbac_rule(resource, group, "", &["get", "list", "watch"]);
            format!("no permission to list and watch {resource}: add the rule {rule} to this node's ClusterRole")
        };
        Link::Refused { message: format!("{remedy}; {effect} ({})", failure.message()) }
    }
}

/// The state of one kind's reading.
pub struct Reading {
    pub kind: Watched,
    /// Names of the objects that the store has.
    held: HashSet<String>,
    /// Names of those that do not validate.
    faulty: BTreeSet<String>,
    waiting: Vec<Delta>,
    was_complete: bool,
}

impl Reading {
    pub fn new(kind: Watched) -> Reading {
        Reading { kind, held: HashSet::new(), faulty: BTreeSet::new(), waiting: Vec::new(), was_complete: false }
    }

    pub fn push(&mut self, delta: Delta) {
        self.waiting.push(delta);
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn take(&mut self) -> Vec<Delta> {
        std::mem::take(&mut self.waiting)
    }

    /// An object as it is now; its name. One that does not validate keeps its last good state.
    pub fn object(&mut self, root: &Field) -> String {
        let Some(kind) = self.kind.kind() else { return self.cluster_information(root, false) };
        match model::object(root, kind) {
            Ok(entry) => {
                let name = entry.key.name.clone();
                match entry.object {
                    Ok(object) => {
                        self.sound(&name);
                        self.held.insert(name.clone());
                        self.waiting.push(Delta::Put(entry.key, object));
                    }
                    Err(e) => self.fault(&name, &e.to_string()),
                }
                name
            }
            Err(e) => {
                let name = String::from("(nameless)");
                self.fault(&name, &e.to_string());
                name
            }
        }
    }

    pub fn deleted(&mut self, root: &Field) -> String {
        let Some(kind) = self.kind.kind() else { return self.cluster_information(root, true) };
        let name = model::object(root, kind).map_or_else(|_| String::from("(nameless)"), |e| e.key.name);
        self.gone(&name);
        name
    }

    fn gone(&mut self, name: &str) {
        self.sound(name);
        if self.held.remove(name)
            && let Some(kind) = self.kind.kind()
        {
            self.waiting.push(Delta::Gone(Key { kind, name: name.to_owned() }));
        }
    }

    fn fault(&mut self, name: &str, message: &str) {
        let note = if self.held.contains(name) { "; its last good state stays in force" } else { "" };
        self.faulty.insert(name.to_owned());
        self.waiting.push(Delta::Fault(name.to_owned(), Some(format!("{message}{note}"))));
    }

    fn sound(&mut self, name: &str) {
        if self.faulty.remove(name) {
            self.waiting.push(Delta::Fault(name.to_owned(), None));
        }
    }

    /// Only `default` counts, and its absence means ready. The object itself is of use even if it says nothing of that.
    fn cluster_information(&mut self, root: &Field, deleted: bool) -> String {
        let text = |keys: &[&str]| root.at(keys).and_then(|f| f.text()).ok().flatten().unwrap_or_default().to_owned();
        let name = text(&["metadata", "name"]);
        if name == "default" {
            let key = Key { kind: Kind::ClusterInformation, name: name.clone() };
            let object = if deleted { None } else { model::object(root, key.kind).ok().and_then(|e| e.object.ok()) };
            self.waiting.push(object.map_or_else(|| Delta::Gone(key.clone()), |object| Delta::Put(key.clone(), object)));
            let ready = if deleted { Ok(None) } else { root.at(&["spec", "datastoreReady"]).and_then(|f| f.boolean()) };
            match ready {
                Ok(ready) => {
                    self.sound(&name);
                    self.waiting.push(Delta::Ready(ready.unwrap_or(true)));
                }
                Err(e) => self.fault(&name, &e.to_string()),
            }
        }
        name
    }

    /// A complete list has these names.
    pub fn complete(&mut self, seen: &HashSet<String>, scope: Scope) {
        let gone: Vec<String> = self.held.iter().chain(&self.faulty).filter(|name| !seen.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.gone(name));
        if self.kind == Watched::ClusterInformation && !seen.contains("default") {
            self.waiting.push(Delta::Gone(Key { kind: Kind::ClusterInformation, name: "default".into() }));
            self.waiting.push(Delta::Ready(true));
        }
        self.was_complete = true;
        self.waiting.push(Delta::Link(Link::Up));
        self.waiting.push(Delta::Complete(scope));
    }

    /// The kind may not be read: one that is not needed counts as empty if nothing was known of it.
    pub fn refused(&mut self) {
        if !self.was_complete && !self.kind.is_required() {
            if self.kind == Watched::ClusterInformation {
                self.waiting.push(Delta::Ready(true));
            }
            self.waiting.push(Delta::Complete(Scope::Own));
        }
    }
}
