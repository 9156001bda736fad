//! The cluster's state as last known: one validated value per object, by kind and name.

use super::model::{
    BlockAffinity, ClusterInformation, FelixConfiguration, IpPool, IpamBlock, Key, Kind, Node, Object, Pod, WorkloadEndpoint,
};
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

impl Changed {
    /// Nothing.
    pub fn none() -> Changed {
        Changed::Keys(BTreeSet::new())
    }

    /// Adds what another update touched.
    pub fn merge(&mut self, other: Changed) {
        match (&mut *self, other) {
            (Changed::Keys(keys), Changed::Keys(mut more)) => keys.append(&mut more),
            _ => *self = Changed::All,
        }
    }

    /// What two states differ in.
    pub fn between(old: &Cluster, new: &Cluster) -> Changed {
        let mut keys = BTreeSet::new();
        differing(&mut keys, Kind::Node, &old.nodes, &new.nodes);
        differing(&mut keys, Kind::KubeNode, &old.kube_nodes, &new.kube_nodes);
        differing(&mut keys, Kind::IpPool, &old.pools, &new.pools);
        differing(&mut keys, Kind::FelixConfiguration, &old.felix, &new.felix);
        differing(&mut keys, Kind::WorkloadEndpoint, &old.endpoints, &new.endpoints);
        differing(&mut keys, Kind::Pod, &old.pods, &new.pods);
        differing(&mut keys, Kind::IpamBlock, &old.blocks, &new.blocks);
        differing(&mut keys, Kind::BlockAffinity, &old.affinities, &new.affinities);
        differing(&mut keys, Kind::ClusterInformation, &old.information, &new.information);
        Changed::Keys(keys)
    }
}

fn differing<T: PartialEq>(keys: &mut BTreeSet<Key>, kind: Kind, old: &BTreeMap<String, Arc<T>>, new: &BTreeMap<String, Arc<T>>) {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let put = new.iter().filter(|(name, object)| old.get(*name) != Some(*object)).map(|(name, _)| name);
    keys.extend(gone.chain(put).map(|name| Key { kind, name: name.clone() }));
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
    /// `default` is the only one that counts.
    pub information: BTreeMap<String, Arc<ClusterInformation>>,
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
            Object::ClusterInformation(o) => replace(&mut self.information, name, o),
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
            Kind::ClusterInformation => self.information.remove(name).is_some(),
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
            + self.information.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of a node: the `projectcalico.org/v3` object, else the core one.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name).or_else(|| self.kube_nodes.get(name))
    }

    /// All nodes in order of name.
    pub fn all_nodes(&self) -> BTreeMap<&str, &Arc<Node>> {
        let both = self.kube_nodes.iter().chain(&self.nodes);
        both.map(|(name, node)| (name.as_str(), node)).collect()
    }

    /// What tells this cluster from others.
    pub fn guid(&self) -> Option<&str> {
        self.information.get("default").and_then(|i| i.guid.as_deref())
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
    fn what_two_states_differ_in() {
        let pool = |name: &str, cidr: &str| {
            format!("---\n{{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {{name: {name}}}, spec: {{cidr: {cidr}}}}}\n")
        };
        let old = cluster(&(pool("gone", "10.1.0.0/16") + &pool("same", "10.2.0.0/16") + &pool("other", "10.3.0.0/16")));
        let new = cluster(&(pool("new", "10.1.0.0/16") + &pool("same", "10.2.0.0/16") + &pool("other", "10.4.0.0/16")));
        let mut changed = Changed::between(&old, &new);
        let key = |name: &str| Key { kind: Kind::IpPool, name: name.into() };
        assert_eq!(changed, Changed::Keys([key("gone"), key("new"), key("other")].into()));
        assert_eq!(Changed::between(&new, &new.clone()), Changed::none());
        changed.merge(Changed::Keys([key("x")].into()));
        assert!(matches!(&changed, Changed::Keys(k) if k.len() == 4));
        changed.merge(Changed::All);
        assert_eq!(changed, Changed::All);
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
