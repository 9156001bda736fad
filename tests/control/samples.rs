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

/// Fenced blocks of docs/lab.md in a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lab.md")).unwrap();
    let start = format!("```{language}\n");
    text.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The manifests of docs/lab.md, with those that its own commands make of them, are a cluster in which everybody reaches
/// everybody; and so they are with the other encapsulations that it names.
#[test]
fn the_lab_document_makes_a_whole_cluster() {
    let [pool, a, node] = &blocks("yaml")[..] else { panic!("three YAML blocks") };
    let dir = tempfile::tempdir().unwrap();
    let cluster_dir = dir.path().join("cluster");
    std::fs::create_dir(&cluster_dir).unwrap();
    std::fs::write(dir.path().join("node.yaml"), node).unwrap();
    let c = Config::load(&dir.path().join("node.yaml"), &Environment::default()).unwrap();
    assert_eq!((c.node.as_str(), &c.datastore), ("a", &Datastore::File { path: cluster_dir.clone() }));
    std::fs::write(cluster_dir.join("a.yaml"), a).unwrap();
    let commands: String =
        blocks("sh").iter().flat_map(|b| b.lines()).filter(|l| l.starts_with("sed ")).map(|l| format!("{l}\n")).collect();
    let done = std::process::Command::new("sh").args(["-ec", &commands]).current_dir(&cluster_dir).output().unwrap();
    assert!(done.status.success() && commands.lines().count() == 2, "{commands}{done:?}");
    let modes = |vxlan: &str, ipip: &str| {
        pool.replace("vxlanMode: Always", &format!("vxlanMode: {vxlan}")).replace("ipipMode: Never", &format!("ipipMode: {ipip}"))
    };
    for (vxlan, ipip, kinds) in
        [("Always", "Never", ["vxlan", "vxlan"]), ("Never", "Always", ["ipip", "ipip"]), ("CrossSubnet", "Never", ["direct", "vxlan"])]
    {
        std::fs::write(cluster_dir.join("pool.yaml"), modes(vxlan, ipip)).unwrap();
        let (store, cluster) = FileStore::open(&cluster_dir).unwrap();
        assert!(store.problems().is_empty(), "{:?}", store.problems());
        let d = calc::desired(&cluster, "a");
        assert!(d.warnings.is_empty(), "{:?}", d.warnings);
        assert_eq!(
            d.endpoints.values().map(|e| (e.workload.as_str(), e.interface.as_str())).collect::<Vec<_>>(),
            [("lab/pod-a", "cali-pod-a")]
        );
        let routes = ["10.244.2.0/26", "10.244.3.0/26"].map(|p| &d.routes[&p.parse().unwrap()]);
        assert_eq!(routes.map(|r| (r.kind(), r.node())), [(kinds[0], Some("b")), (kinds[1], Some("c"))]);
        for other in ["b", "c"] {
            let d = calc::desired(&cluster, other);
            assert!(d.warnings.is_empty() && d.endpoints.len() == 1 && d.vteps.len() == 2, "{other}: {d:?}");
        }
    }
}
