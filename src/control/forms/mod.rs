//! `projectcalico.org/v3` objects that Kubernetes does not store as such: Calico reads nodes from the annotations of
//! core Nodes, workload endpoints from Pods, profiles from Namespaces and ServiceAccounts. Names, fields and
//! annotations are Calico's.

pub mod endpoint;
pub mod node;
pub mod profile;

use serde_json::{Map, Value};

pub(crate) const V3: &str = "projectcalico.org/v3";

/// Text at a path of keys, empty text being none.
fn text<'a>(object: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().fold(object, |v, key| &v[*key]).as_str().filter(|s| !s.is_empty())
}

/// The members of a mapping whose values are text.
fn texts(map: &Value) -> impl Iterator<Item = (&String, &str)> {
    map.as_object().into_iter().flatten().filter_map(|(k, v)| Some((k, v.as_str()?)))
}

/// metadata of an object made of another: its own name, the other's identity in the datastore.
fn metadata(name: &str, of: &Value) -> Map<String, Value> {
    let mut out = Map::from_iter([("name".to_owned(), Value::from(name))]);
    for key in ["creationTimestamp", "resourceVersion", "uid"] {
        if let Some(v) = of["metadata"].get(key) {
            out.insert(key.into(), v.clone());
        }
    }
    out
}
