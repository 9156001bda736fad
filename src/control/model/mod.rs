//! Calico's and Kubernetes' objects as far as routing needs them, validated: what leaves this module is
//! right in itself, field by field. Fields that are not read may hold anything.

mod cluster_information;
mod felix_configuration;
mod fields;
mod ip_pool;
mod ipam;
mod monitoring;
mod node;
mod pod;
mod workload_endpoint;

pub use cluster_information::ClusterInformation;
pub use felix_configuration::{DEFAULT_MTU_LINKS, FelixConfiguration, RouteSource, SourceSpoofing};
pub use ip_pool::{Encap, IpPool, Mode};
pub use ipam::{Affinity, AffinityState, Allocation, BlockAffinity, IpamBlock};
pub use monitoring::{Endpoint, Listen, Monitoring};
pub use node::{Node, default_vtep_mac};
pub use pod::{Pod, endpoint_name};
pub use workload_endpoint::{FloatingIp, WorkloadEndpoint, interface_name};

use super::yaml::{self, Field, FieldError, SyntaxError, Value, quoted};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `projectcalico.org/v3` Node.
    Node,
    /// Core `v1` Node.
    KubeNode,
    IpPool,
    FelixConfiguration,
    WorkloadEndpoint,
    /// Core `v1` Pod.
    Pod,
    IpamBlock,
    BlockAffinity,
    ClusterInformation,
}

const CALICO: &str = "projectcalico.org/v3";
const CALICO_STORED: &str = "crd.projectcalico.org/v1";

impl Kind {
    /// `None` for kinds that mean nothing to routing.
    fn find(api_version: &str, kind: &str) -> Option<Kind> {
        match (api_version, kind) {
            (CALICO, "Node") => Some(Kind::Node),
            ("v1", "Node") => Some(Kind::KubeNode),
            (CALICO | CALICO_STORED, "IPPool") => Some(Kind::IpPool),
            (CALICO | CALICO_STORED, "FelixConfiguration") => Some(Kind::FelixConfiguration),
            (CALICO, "WorkloadEndpoint") => Some(Kind::WorkloadEndpoint),
            ("v1", "Pod") => Some(Kind::Pod),
            (CALICO | CALICO_STORED, "IPAMBlock") => Some(Kind::IpamBlock),
            (CALICO | CALICO_STORED, "BlockAffinity") => Some(Kind::BlockAffinity),
            (CALICO | CALICO_STORED, "ClusterInformation") => Some(Kind::ClusterInformation),
            _ => None,
        }
    }

    fn is_namespaced(self) -> bool {
        matches!(self, Kind::WorkloadEndpoint | Kind::Pod)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Kind::Node => "Node",
            Kind::KubeNode => "v1 Node",
            Kind::IpPool => "IPPool",
            Kind::FelixConfiguration => "FelixConfiguration",
            Kind::WorkloadEndpoint => "WorkloadEndpoint",
            Kind::Pod => "Pod",
            Kind::IpamBlock => "IPAMBlock",
            Kind::BlockAffinity => "BlockAffinity",
            Kind::ClusterInformation => "ClusterInformation",
        })
    }
}

/// What an object is called. Both API versions of a Calico kind are the same object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    /// `namespace/name` for namespaced kinds.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A validated object; clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Node(Arc<Node>),
    KubeNode(Arc<Node>),
    IpPool(Arc<IpPool>),
    FelixConfiguration(Arc<FelixConfiguration>),
    WorkloadEndpoint(Arc<WorkloadEndpoint>),
    Pod(Arc<Pod>),
    IpamBlock(Arc<IpamBlock>),
    BlockAffinity(Arc<BlockAffinity>),
    ClusterInformation(Arc<ClusterInformation>),
}

/// An object in a file, read or refused.
#[derive(Clone, Debug)]
pub struct Entry {
    pub line: u32,
    pub key: Key,
    pub object: Result<Object, FieldError>,
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    pub entries: Vec<Entry>,
    /// Documents of which not even kind and name can be read: they could be any object.
    pub nameless: Vec<FieldError>,
    /// Kinds that mean nothing to routing: where the first of them is, and how many there are.
    pub ignored: BTreeMap<String, (u32, usize)>,
}

/// Reads all objects of a text. An error means that it is not YAML at all; faults of single objects are in
/// the result.
pub fn parse(text: &str) -> Result<Manifest, SyntaxError> {
    let mut manifest = Manifest::default();
    for doc in &yaml::documents(text)? {
        manifest.document(doc);
    }
    Ok(manifest)
}

/// apiVersion and kind that the items of a typed list need not repeat.
type Defaults<'a> = Option<(&'a str, &'a str)>;

impl Manifest {
    fn document(&mut self, doc: &Value) {
        self.take(&Field::root(doc), None);
    }

    fn take(&mut self, root: &Field, defaults: Defaults) {
        if let Err(e) = self.try_take(root, defaults) {
            self.nameless.push(e);
        }
    }

    fn try_take(&mut self, root: &Field, defaults: Defaults) -> Result<(), FieldError> {
        let (api_version, kind) = match (root.get("apiVersion")?, root.get("kind")?, defaults) {
            (v, k, Some(defaults)) if !v.is_present() && !k.is_present() => defaults,
            (v, k, _) => (v.required_text()?, k.required_text()?),
        };
        if let (Some(item_kind), None) = (kind.strip_suffix("List"), defaults) {
            for item in root.get("items")?.items()? {
                self.take(&item.as_root(), Some((api_version, item_kind)));
            }
            return Ok(());
        }
        let Some(kind) = Kind::find(api_version, kind) else {
            self.ignored.entry(format!("{api_version} {kind}")).or_insert((root.line(), 0)).1 += 1;
            return Ok(());
        };
        self.entries.push(object(root, kind)?);
        Ok(())
    }
}

/// An object whose kind is known from where it was read: an API server's lists do not repeat it.
pub fn object(root: &Field, kind: Kind) -> Result<Entry, FieldError> {
    let (namespace, name) = names(root, kind)?;
    let object = read(root, kind, namespace, name);
    let name = if kind.is_namespaced() { format!("{namespace}/{name}") } else { name.to_owned() };
    Ok(Entry { line: root.line(), key: Key { kind, name }, object })
}

/// A core `v1` Pod from JSON: its namespace, its name, and itself.
pub fn pod_of_json(document: &serde_json::Value) -> Result<(String, String, Pod), FieldError> {
    let tree = Value::of_json(document);
    let root = Field::root(&tree);
    let (namespace, name) = names(&root, Kind::Pod)?;
    Ok((namespace.to_owned(), name.to_owned(), pod::read(&root)?))
}

/// Namespace (`default` if none is given) and name.
fn names<'a>(root: &Field<'a>, kind: Kind) -> Result<(&'a str, &'a str), FieldError> {
    let metadata = root.get("metadata")?;
    let name = metadata.get("name")?;
    let text = name.required_text().map_err(|e| FieldError { message: format!("{} ({kind})", e.message), ..e })?;
    let namespace = metadata.get("namespace")?.text()?.filter(|s| !s.is_empty()).unwrap_or("default");
    for (part, field) in [(text, &name), (namespace, &metadata.get("namespace")?)] {
        if part.contains('/') || part.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(field.error(format!("{} is not a name", quoted(part))));
        }
    }
    Ok((namespace, text))
}

fn read(root: &Field, kind: Kind, namespace: &str, name: &str) -> Result<Object, FieldError> {
    Ok(match kind {
        Kind::Node => Object::Node(node::calico(root)?.into()),
        Kind::KubeNode => Object::KubeNode(node::kubernetes(root)?.into()),
        Kind::IpPool => Object::IpPool(ip_pool::read(root)?.into()),
        Kind::FelixConfiguration => {
            if name != "default" && name.strip_prefix("node.").is_none_or(str::is_empty) {
                return Err(root
                    .at(&["metadata", "name"])?
                    .error(format!("{name} is neither default nor node.NAME: it applies to no node")));
            }
            Object::FelixConfiguration(felix_configuration::read(root)?.into())
        }
        Kind::WorkloadEndpoint => Object::WorkloadEndpoint(workload_endpoint::read(root, namespace)?.into()),
        Kind::Pod => Object::Pod(pod::read(root)?.into()),
        Kind::IpamBlock => Object::IpamBlock(ipam::block(root)?.into()),
        Kind::BlockAffinity => Object::BlockAffinity(ipam::block_affinity(root)?.into()),
        Kind::ClusterInformation => Object::ClusterInformation(cluster_information::read(root)?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.244.0.0/16}\n";

    fn keys(text: &str) -> Vec<String> {
        parse(text).unwrap().entries.iter().map(|e| format!("{}:{}", e.line, e.key)).collect()
    }

    #[test]
    fn documents_lists_and_typed_lists() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, namespace: x}\n- apiVersion: v1\n  kind: Node\n  metadata: {name: n}\n";
        let typed = "apiVersion: projectcalico.org/v3\nkind: IPPoolList\nitems:\n- metadata: {name: q}\n  spec: {cidr: 10.9.0.0/16}\n";
        assert_eq!(keys(&format!("{POOL}---\n{list}---\n{typed}")), ["1:IPPool p", "9:Pod x/a", "12:v1 Node n", "19:IPPool q"]);
        assert!(keys("apiVersion: v1\nkind: PodList\nitems: []\n").is_empty());
    }

    #[test]
    fn both_versions_are_one_object() {
        assert_eq!(keys(POOL), keys(&POOL.replace("projectcalico.org/v3", "crd.projectcalico.org/v1")));
        // Node and WorkloadEndpoint are not stored kinds.
        assert!(keys("apiVersion: crd.projectcalico.org/v1\nkind: Node\nmetadata: {name: a}\n").is_empty());
    }

    #[test]
    fn one_fault_leaves_the_others() {
        let m = parse(&format!(
            "{}---\n{POOL}---\nkind: IPPool\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\n",
            POOL.replace("/16", "/99")
        ))
        .unwrap();
        let refused = m.entries[0].object.as_ref().unwrap_err();
        assert_eq!((refused.line, refused.to_string().as_str()), (4, "spec.cidr: \"10.244.0.0/99\" is not a CIDR"));
        assert!(m.entries[1].object.is_ok());
        assert_eq!(m.nameless.len(), 1);
        assert_eq!((m.nameless[0].line, m.nameless[0].to_string().as_str()), (11, "apiVersion: missing; text is required"));
        assert_eq!(m.ignored, BTreeMap::from([("apps/v1 Deployment".to_owned(), (13, 1))]));
    }

    #[test]
    fn names_are_checked() {
        for (text, want) in [
            ("apiVersion: v1\nkind: Pod\n", "metadata.name: missing; text is required (Pod)"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}\n", "metadata.name: \"a/b\" is not a name"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n", "metadata.name: text is required, not the number 7 (Pod)"),
            ("just text\n", "a mapping is required, not the text \"just text\""),
            ("apiVersion: v1\nkind: PodList\nitems: {}\n", "items: a list is required, not a mapping"),
        ] {
            let m = parse(text).unwrap();
            assert_eq!(m.nameless[0].to_string(), want, "{text}");
        }
        let m = parse(&POOL.replace("IPPool", "FelixConfiguration")).unwrap();
        assert!(m.entries[0].object.as_ref().unwrap_err().to_string().starts_with("metadata.name: p is neither default nor node.NAME"));
    }
}
