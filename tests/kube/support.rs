//! A server, a store that watches it, and the cluster's state that comes of it.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tortie::control::cluster::{Changed, Cluster};
use tortie::control::datastore::KubeStore;
use tortie::control::datastore::kubernetes::Source;
use tortie::control::model::Key;
use tortie::testing::apiserver::ApiServer;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

pub const V1: &str = "crd.projectcalico.org/v1";
pub const V3: &str = "projectcalico.org/v3";
/// The plurals that are watched.
pub const PLURALS: [&str; 7] = ["nodes", "pods", "ippools", "ipamblocks", "blockaffinities", "felixconfigurations", "clusterinformations"];

pub struct Bed {
    pub server: ApiServer,
    pub store: KubeStore,
    pub cluster: Cluster,
    /// Keys that were said to have changed, since they were last taken.
    pub changed: BTreeSet<Key>,
    pub folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Bed {
    /// A store on node `n1` that has not been waited for.
    pub fn open(server: ApiServer, token: Option<&str>) -> Bed {
        let folder = tempfile::tempdir().unwrap();
        let path = server.kubeconfig(folder.path(), token);
        let store = KubeStore::open(Source::Kubeconfig(path), "n1").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Bed { server, store, cluster: Cluster::default(), changed: BTreeSet::new(), folder, runtime }
    }

    /// In sync with a server that has a small cluster.
    pub fn synced() -> Bed {
        let server = ApiServer::start();
        server.put_all(small());
        let mut bed = Bed::open(server, None);
        bed.until("in sync", |b| b.store.in_sync());
        bed
    }

    /// Takes what comes for a while.
    pub fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while self.step(end) {}
    }

    fn step(&mut self, end: Instant) -> bool {
        let (store, cluster) = (&mut self.store, &mut self.cluster);
        let left = end.saturating_duration_since(Instant::now());
        let next = self.runtime.block_on(async { tokio::time::timeout(left, store.next(cluster)).await });
        match next {
            Ok(Changed::Keys(keys)) => self.changed.extend(keys),
            Ok(Changed::All) => panic!("a store that watches knows what changed"),
            Err(_) => return false,
        }
        true
    }

    /// Takes what comes until the condition holds.
    pub fn until(&mut self, what: &str, condition: impl Fn(&Bed) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(self) {
            // Not all conditions are about what the store says.
            self.step(end.min(Instant::now() + Duration::from_millis(20)));
            assert!(Instant::now() < end, "{what}: {:?}\n{:?}\n{:#?}", self.problems(), self.server.counts(), self.cluster);
        }
    }

    /// The same, and at no time is any of the present objects missing.
    pub fn until_nothing_lost(&mut self, what: &str, condition: impl Fn(&Bed) -> bool) {
        let before = self.cluster.clone();
        let lost = |b: &Bed| {
            let gone = |old: Vec<&String>, new: Vec<&String>| old.into_iter().find(|n| !new.contains(n)).cloned();
            let c = &b.cluster;
            gone(before.kube_nodes.keys().collect(), c.kube_nodes.keys().collect())
                .or_else(|| gone(before.pools.keys().collect(), c.pools.keys().collect()))
                .or_else(|| gone(before.blocks.keys().collect(), c.blocks.keys().collect()))
                .or_else(|| gone(before.affinities.keys().collect(), c.affinities.keys().collect()))
                .or_else(|| gone(before.pods.keys().collect(), c.pods.keys().collect()))
                .or_else(|| gone(before.felix.keys().collect(), c.felix.keys().collect()))
        };
        self.until(what, |b| {
            if let Some(name) = lost(b) {
                panic!("{what}: {name} was lost");
            }
            assert!(b.store.in_sync(), "{what}: in sync once, in sync for good");
            condition(b)
        });
    }

    pub fn problems(&self) -> Vec<String> {
        self.store.problems().iter().map(ToString::to_string).collect()
    }

    /// Watches open for all kinds.
    pub fn watches_all(&self) -> bool {
        PLURALS.iter().all(|p| self.server.open_watches(p) == 1)
    }
}

pub fn pool(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": V1, "kind": "IPPool", "metadata": {"name": name}, "spec": {"cidr": cidr, "vxlanMode": "Always", "blockSize": 26}})
}

pub fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"projectcalico.org/IPv4Address": address}},
        "status": {"images": [{"names": ["a", "b"]}]},
    })
}

pub fn pod(name: &str, node: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

/// A /26 of a node without allocations.
pub fn block(cidr: &str, node: &str) -> Value {
    json!({
        "apiVersion": V1, "kind": "IPAMBlock", "metadata": {"name": cidr.replace(['.', '/'], "-")},
        "spec": {
            "cidr": cidr, "affinity": format!("host:{node}"), "allocations": [null, null], "attributes": [], "unallocated": [0, 1],
            "strictAffinity": false, "deleted": false, "sequenceNumber": 1,
        },
    })
}

pub fn affinity(cidr: &str, node: &str) -> Value {
    json!({
        "apiVersion": V1, "kind": "BlockAffinity", "metadata": {"name": format!("{node}-{}", cidr.replace(['.', '/'], "-"))},
        "spec": {"cidr": cidr, "node": node, "state": "confirmed", "deleted": "false", "type": "host"},
    })
}

pub fn felix(spec: Value) -> Value {
    json!({"apiVersion": V1, "kind": "FelixConfiguration", "metadata": {"name": "default"}, "spec": spec})
}

pub fn cluster_information(ready: Value) -> Value {
    json!({"apiVersion": V1, "kind": "ClusterInformation", "metadata": {"name": "default"}, "spec": {"datastoreReady": ready}})
}

/// Two nodes with a block and a pod each.
pub fn small() -> Vec<Value> {
    vec![
        node("n1", "10.0.0.1/24"),
        node("n2", "10.0.0.2/24"),
        pool("p", "10.244.0.0/16"),
        block("10.244.1.0/26", "n1"),
        block("10.244.2.0/26", "n2"),
        affinity("10.244.1.0/26", "n1"),
        affinity("10.244.2.0/26", "n2"),
        pod("a", "n1", "10.244.1.1"),
        pod("b", "n2", "10.244.2.1"),
        felix(json!({"vxlanVNI": 4096})),
        cluster_information(json!(true)),
    ]
}
