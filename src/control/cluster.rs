//! The cluster's state as last known: one validated value per object, by kind and name.

use super::model::{BlockAffinity, FelixConfiguration, IpPool, IpamBlock, Key, Kind, Node, Object, Pod, WorkloadEndpoint};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What an update touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Anything may be different.
    All,
    /// Nothing but these objects, which may be new, different or gone.
    Keys(BTreeSet<Key>),
}

/// A consistent state. Clones share the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// `projectcalico.org/v3` Nodes.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// Core `v1` Nodes; one of the same name in `nodes` counts instead.
    pub kube_nodes: BTreeMap<String, Arc<Node>>,
    pub pools: BTreeMap<String, Arc<IpPool>>,
    /// `default` and `node.<name>`.
    pub felix: BTreeMap<String, Arc<FelixConfiguration>>,
    /// What the environment of this node's daemon sets: goes over both, here only.
    pub felix_here: FelixConfiguration,
    /// By `namespace/name`.
    pub endpoints: BTreeMap<String, Arc<WorkloadEndpoint>>,
    /// By `namespace/name`.
    pub pods: BTreeMap<String, Arc<Pod>>,
    pub blocks: BTreeMap<String, Arc<IpamBlock>>,
    pub affinities: BTreeMap<String, Arc<BlockAffinity>>,
}

impl Cluster {
    /// Adds an object or puts it in place of the one of the same kind and name; whether that changed anything.
    pub fn insert(&mut self, key: Key, object: Object) -> bool {
        let name = key.name;
        match object {
            Object::Node(o) => replace(&mut self.nodes, name, o),
            Object::KubeNode(o) => replace(&mut self.kube_nodes, name, o),
            Object::IpPool(o) => replace(&mut self.pools, name, o),
            Object::FelixConfiguration(o) => replace(&mut self.felix, name, o),
            Object::WorkloadEndpoint(o) => replace(&mut self.endpoints, name, o),
            Object::Pod(o) => replace(&mut self.pods, name, o),
            Object::IpamBlock(o) => replace(&mut self.blocks, name, o),
            Object::BlockAffinity(o) => replace(&mut self.affinities, name, o),
        }
    }

    /// Takes an object away; whether it was there.
    pub fn remove(&mut self, key: &Key) -> bool {
        let name = &key.name;
        match key.kind {
            Kind::Node => self.nodes.remove(name).is_some(),
            Kind::KubeNode => self.kube_nodes.remove(name).is_some(),
            Kind::IpPool => self.pools.remove(name).is_some(),
            Kind::FelixConfiguration => self.felix.remove(name).is_some(),
            Kind::WorkloadEndpoint => self.endpoints.remove(name).is_some(),
            Kind::Pod => self.pods.remove(name).is_some(),
            Kind::IpamBlock => self.blocks.remove(name).is_some(),
            Kind::BlockAffinity => self.affinities.remove(name).is_some(),
        }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
            + self.kube_nodes.len()
            + self.pools.len()
            + self.felix.len()
            + self.endpoints.len()
            + self.pods.len()
            + self.blocks.len()
            + self.affinities.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of a node: the `projectcalico.org/v3` object, else the core one.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).or_else(|| self.kube_nodes.get(name)).map(|n| &**n)
    }

    /// All nodes in order of name.
    pub fn all_nodes(&self) -> BTreeMap<&str, &Node> {
        let both = self.kube_nodes.iter().chain(&self.nodes);
        both.map(|(name, node)| (name.as_str(), &**node)).collect()
    }

    /// FelixConfiguration as it applies to the node that this daemon serves: its environment over the node's own object
    /// over the cluster's.
    pub fn felix_for(&self, node: &str) -> FelixConfiguration {
        let none = FelixConfiguration::default();
        let get = |name: &str| self.felix.get(name).map_or(&none, |f| &**f);
        self.felix_here.over(&get(&format!("node.{node}")).over(get("default")))
    }
}

/// An equal object leaves the one that is there, with whoever shares it.
fn replace<T: PartialEq>(map: &mut BTreeMap<String, Arc<T>>, name: String, object: Arc<T>) -> bool {
    match map.entry(name) {
        Entry::Occupied(e) if *e.get() == object => return false,
        Entry::Occupied(mut e) => drop(e.insert(object)),
        Entry::Vacant(e) => drop(e.insert(object)),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::model;

    fn cluster(text: &str) -> Cluster {
        let mut c = Cluster::default();
        for e in model::parse(text).unwrap().entries {
            c.insert(e.key, e.object.unwrap());
        }
        c
    }

    #[test]
    fn calicos_node_counts_before_kubernetes() {
        let c = cluster(
            "{apiVersion: v1, kind: Node, metadata: {name: a, annotations: {projectcalico.org/IPv4Address: 10.0.0.1/24}}}\n---\n\
             {apiVersion: v1, kind: Node, metadata: {name: b, annotations: {projectcalico.org/IPv4Address: 10.0.0.2/24}}}\n---\n\
             {apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: a}, spec: {bgp: {ipv4Address: 10.0.0.9/24}}}\n",
        );
        let addresses: Vec<_> = c.all_nodes().into_iter().map(|(n, v)| (n, v.address.unwrap().addr().to_string())).collect();
        assert_eq!(addresses, [("a", "10.0.0.9".to_owned()), ("b", "10.0.0.2".to_owned())]);
        assert_eq!(c.node("a"), c.all_nodes().get("a").copied());
        assert_eq!((c.len(), c.node("c")), (3, None));
    }

    #[test]
    fn felix_per_node_goes_over_the_default() {
        let f = |name: &str, spec: &str| {
            format!("---\n{{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {{name: {name}}}, spec: {spec}}}\n")
        };
        let c = cluster(&(f("default", "{vxlanPort: 1, vxlanVNI: 7}") + &f("node.a", "{vxlanPort: 2}")));
        assert_eq!((c.felix_for("a").vxlan_port, c.felix_for("b").vxlan_port), (Some(2), Some(1)));
        assert_eq!(c.felix_for("a").vxlan_vni, c.felix_for("b").vxlan_vni);
    }
}
