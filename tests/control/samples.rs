//! What the repository ships in config/ is right.

use std::path::{Path, PathBuf};
use tortie::control::calc;
use tortie::control::config::{Config, Datastore};
use tortie::control::datastore::FileStore;
use tortie::control::env::Environment;

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

#[test]
fn the_documented_configuration_is_read_and_names_every_key() {
    let c = Config::load(&config("node.yaml"), &Environment::default()).unwrap();
    assert_eq!(c.datastore, Datastore::File { path: config("samples") });
    let text = std::fs::read_to_string(config("node.yaml")).unwrap();
    for key in [
        "node:",
        "datastore:",
        "kind:",
        "path:",
        "# kubeconfig:",
        "uplink:",
        "interface:",
        "driver:",
        "workloads:",
        "host:",
        "workers:",
        "api:",
        "socket:",
        "calico:",
        "dir:",
        "xdp:",
        "mode:",
    ] {
        assert!(text.lines().any(|l| l.trim_start().starts_with(key)), "{key} is not in config/node.yaml");
    }
}

#[test]
fn the_configuration_for_kubernetes_is_read() {
    let c = Config::load(&config("node-kubernetes.yaml"), &Environment::default()).unwrap();
    assert_eq!(c.datastore, Datastore::Kubernetes { kubeconfig: Some("/etc/tortie/kubeconfig".into()) });
}

#[test]
fn the_sample_cluster_is_whole() {
    let (store, cluster) = FileStore::open(&config("samples")).unwrap();
    assert!(store.problems().is_empty(), "{:?}", store.problems());
    for (me, other, remote) in [("node-a", "node-b", "10.244.1.0/26"), ("node-b", "node-a", "10.244.0.0/26")] {
        let d = calc::desired(&cluster, me);
        assert!(d.warnings.is_empty(), "{:?}", d.warnings);
        assert_eq!(d.endpoints.len(), 2);
        assert_eq!(d.vteps.keys().map(|n| &**n).collect::<Vec<_>>(), [other]);
        let route = &d.routes[&remote.parse().unwrap()];
        assert_eq!((route.kind(), route.node()), ("vxlan", Some(other)));
    }
}
