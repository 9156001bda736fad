//! The folder as a store of objects: writes that touch one document only, compare-and-swap, several writers at once,
//! and what a daemon sees of it.

use crate::support::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tortie::control::datastore::objects::{Access, AccessError, Id, Objects, Preconditions, Resource};
use tortie::control::datastore::{FileStore, FolderObjects};

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

struct Bench {
    folder: TempDir,
    store: FolderObjects,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let store = FolderObjects::new(folder.path());
        Bench { folder, store }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn get(&self, id: &Id) -> Option<Value> {
        run(self.store.get(id)).unwrap()
    }
}

fn pool_id(name: &str) -> Id {
    Id::cluster(Resource::IpPool, name)
}

fn new_pool(name: &str, cidr: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cidr": cidr}})
}

const MIXED: &str = "# pools of the cluster\n---\n# the first\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.1.0.0/16}   # a remark\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: not-ours}\n---\napiVersion: crd.projectcalico.org/v1\nkind: IPPoolList\nitems:\n- metadata: {name: b}\n  spec: {cidr: 10.2.0.0/16}\n- metadata: {name: c}\n  spec: {cidr: 10.3.0.0/16}\n";

#[test]
fn every_object_is_found_and_in_order() {
    let b = Bench::new(&[
        ("z.yaml", MIXED),
        ("sub/d.json", r#"{"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "B2"}, "spec": {}}"#),
    ]);
    let names = |list: Vec<Value>| list.iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(run(b.store.list(Resource::IpPool, None)).unwrap()), ["B2", "a", "b", "c"]);
    let found = b.get(&pool_id("b")).unwrap();
    assert_eq!(
        (&found["apiVersion"], &found["kind"], &found["spec"]["cidr"]),
        (&json!("projectcalico.org/v3"), &json!("IPPool"), &json!("10.2.0.0/16"))
    );
    assert_eq!(b.get(&pool_id("x")), None);
    let both = endpoint("w", "n", "10.1.0.1") + &endpoint("w", "n", "10.1.0.2").replace("namespace: default", "namespace: other");
    let b = Bench::new(&[("w.yaml", &both)]);
    assert_eq!(run(b.store.list(Resource::WorkloadEndpoint, Some("other"))).unwrap().len(), 1);
    assert_eq!(run(b.store.list(Resource::WorkloadEndpoint, None)).unwrap().len(), 2);
}

#[test]
fn a_write_touches_its_document_only() {
    let b = Bench::new(&[("z.yaml", MIXED)]);
    let patched = run(b.store.patch(&pool_id("a"), json!({"spec": {"vxlanMode": "Always"}, "status": {"x": 1}}))).unwrap();
    assert_eq!((&patched["spec"]["vxlanMode"], patched.get("status")), (&json!("Always"), None));
    let want = MIXED.replace(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.1.0.0/16}   # a remark\n",
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: a\nspec:\n  cidr: 10.1.0.0/16\n  vxlanMode: Always\n",
    );
    assert_eq!(b.text("z.yaml"), want);
    run(b.store.patch_status(&pool_id("c"), json!({"status": {"y": 2}, "spec": {"cidr": "no"}}))).unwrap();
    assert_eq!(b.get(&pool_id("c")).unwrap()["status"], json!({"y": 2}));
    assert_eq!(b.get(&pool_id("c")).unwrap()["spec"]["cidr"], "10.3.0.0/16");
    assert!(b.text("z.yaml").starts_with(&want[..want.find("apiVersion: crd").unwrap()]));
    run(b.store.delete(&pool_id("b"), &Preconditions::default())).unwrap();
    run(b.store.delete(&pool_id("c"), &Preconditions::default())).unwrap();
    run(b.store.delete(&pool_id("a"), &Preconditions::default())).unwrap();
    assert_eq!(
        b.text("z.yaml"),
        "# pools of the cluster\n---\n# the first\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: not-ours}\n---\n"
    );
}

#[test]
fn new_objects_have_files_of_their_own() {
    let b = Bench::new(&[]);
    let made = run(b.store.create(Resource::IpPool, new_pool("p", "10.1.0.0/16"))).unwrap();
    assert_eq!(b.files(), [".tortie.lock", "ippool_p.yaml"]);
    assert!(
        made["metadata"]["uid"].as_str().unwrap().len() == 36 && made["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'),
        "{made}"
    );
    assert_eq!(b.get(&pool_id("p")), Some(made.clone()));
    assert!(!b.text("ippool_p.yaml").contains("resourceVersion"));
    let again = run(b.store.create(Resource::IpPool, new_pool("p", "10.2.0.0/16")));
    assert_eq!(again, Err(AccessError::AlreadyExists { id: pool_id("p") }));
    let policy = json!({"metadata": {"name": "x", "namespace": "prod"}, "spec": {}});
    run(b.store.create(Resource::NetworkPolicy, policy)).unwrap();
    fs::write(b.folder.path().join("ippool_q.yaml"), pool("other", "10.9.0.0/16", "")).unwrap();
    run(b.store.create(Resource::IpPool, new_pool("q", "10.3.0.0/16"))).unwrap();
    let long = "n".repeat(253);
    run(b.store.create(Resource::IpPool, new_pool(&long, "10.4.0.0/16"))).unwrap();
    assert!(b.get(&pool_id(&long)).is_some());
    let files = b.files();
    assert!(files.contains(&"networkpolicy_prod_x.yaml".to_owned()) && files.contains(&"ippool_q.2.yaml".to_owned()), "{files:?}");
    run(b.store.delete(&pool_id("p"), &Preconditions::same(&made))).unwrap();
    assert!(!b.files().contains(&"ippool_p.yaml".to_owned()));
    let bad = run(b.store.create(Resource::IpPool, new_pool("../up", "10.3.0.0/16"))).unwrap_err();
    assert!(matches!(&bad, AccessError::Invalid { message, .. } if message.contains("metadata.name")), "{bad}");
}

#[test]
fn stale_writes_are_refused() {
    let b = Bench::new(&[("z.yaml", MIXED)]);
    let old = b.get(&pool_id("a")).unwrap();
    let mut new = old.clone();
    new["spec"]["disabled"] = json!(true);
    let written = run(b.store.update(Resource::IpPool, new.clone())).unwrap();
    assert_ne!(written["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
    let conflict = AccessError::Conflict { id: pool_id("a") };
    assert_eq!(run(b.store.update(Resource::IpPool, new.clone())), Err(conflict.clone()));
    assert_eq!(run(b.store.delete(&pool_id("a"), &Preconditions::same(&old))), Err(conflict.clone()));
    let stale = json!({"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "spec": {"disabled": false}});
    assert_eq!(run(b.store.patch(&pool_id("a"), stale)), Err(conflict));
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(run(b.store.update(Resource::IpPool, new)), Ok(written.clone()), "what is there already is not another revision");
    // Edited by hand: another revision.
    fs::write(b.folder.path().join("z.yaml"), MIXED).unwrap();
    assert!(run(b.store.update(Resource::IpPool, written)).unwrap_err().is_conflict());
    let renamed = json!({"metadata": {"name": "z"}});
    assert!(
        matches!(run(b.store.patch(&pool_id("a"), renamed)), Err(AccessError::Invalid { message, .. }) if message.contains("metadata.name"))
    );
    assert_eq!(run(b.store.patch(&pool_id("nope"), json!({}))), Err(AccessError::NotFound { id: pool_id("nope") }));
}

#[test]
fn both_forms_are_written_as_they_were() {
    let affinity = "apiVersion: crd.projectcalico.org/v1\nkind: BlockAffinity\nmetadata: {name: n-10-1-0-0-26}\nspec: {cidr: 10.1.0.0/26, deleted: 'false', node: n, state: pending}\n";
    let b = Bench::new(&[("a.yaml", affinity)]);
    let id = Id::cluster(Resource::BlockAffinity, "n-10-1-0-0-26");
    assert_eq!(b.get(&id).unwrap()["spec"]["deleted"], json!(false));
    run(b.store.patch(&id, json!({"spec": {"deleted": true, "state": "confirmed"}, "metadata": {"labels": {"l": "v"}}}))).unwrap();
    let text = b.text("a.yaml");
    assert!(text.contains("apiVersion: crd.projectcalico.org/v1") && text.contains("deleted: \"true\""), "{text}");
    assert_eq!(b.get(&id).unwrap()["metadata"]["labels"]["l"], "v");
}

#[test]
fn a_calico_node_is_a_core_node_too() {
    let b = Bench::new(&[
        ("n.yaml", &node("n", "10.0.0.1/24", Some("10.1.0.0"))),
        ("z.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: z}\n"),
    ]);
    let id = Id::cluster(Resource::Node, "n");
    let core = b.get(&id).unwrap();
    assert_eq!(core["metadata"]["annotations"]["projectcalico.org/IPv4Address"], "10.0.0.1/24");
    let patch = json!({"metadata": {"resourceVersion": core["metadata"]["resourceVersion"],
        "annotations": {"projectcalico.org/IPv4VXLANTunnelAddr": "10.1.0.64", "projectcalico.org/IPv4Address": null}}});
    run(b.store.patch(&id, patch)).unwrap();
    let kept = b.get(&Id::cluster(Resource::CalicoNode, "n")).unwrap();
    assert_eq!(kept["spec"], json!({"ipv4VXLANTunnelAddr": "10.1.0.64"}));
    let names: Vec<_> = run(b.store.list(Resource::Node, None)).unwrap().iter().map(|n| n["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["n", "z"]);
    assert_eq!(run(b.store.list(Resource::CalicoNode, None)).unwrap().len(), 1);
    run(b.store.delete(&id, &Preconditions::default())).unwrap();
    assert_eq!(b.get(&id), None);
}

#[test]
fn a_second_copy_does_not_come_into_force() {
    let b = Bench::new(&[
        ("a.yaml", &pool("p", "10.1.0.0/16", "")),
        ("b.yaml", &(pool("p", "10.2.0.0/16", "") + &pool("q", "10.3.0.0/16", ""))),
    ]);
    assert_eq!(b.get(&pool_id("p")).unwrap()["spec"]["cidr"], "10.1.0.0/16");
    run(b.store.delete(&pool_id("p"), &Preconditions::default())).unwrap();
    assert_eq!((b.get(&pool_id("p")), b.get(&pool_id("q")).is_some()), (None, true));
}

#[test]
fn faults_are_named() {
    let b = Bench::new(&[("good.yaml", MIXED), ("bad.yaml", "a: 1\n---\nb: 1\n  c: 2\n")]);
    let e = run(b.store.list(Resource::IpPool, None)).unwrap_err().to_string();
    assert!(e.starts_with("bad.yaml: refused: line 4: not YAML: "), "{e}");
    let nowhere = FolderObjects::new("/nonexistent/folder");
    assert!(matches!(run(nowhere.get(&pool_id("a"))), Err(AccessError::Unavailable { what, .. }) if what == "/nonexistent/folder"));
    assert!(matches!(run(nowhere.create(Resource::IpPool, new_pool("a", "x"))), Err(AccessError::Unavailable { .. })));
}

fn count_up(folder: &Path, times: usize) {
    let store = FolderObjects::new(folder);
    let add = async || -> Access<()> {
        let mut object = store.get(&pool_id("a")).await?.unwrap();
        object["spec"]["count"] = json!(object["spec"]["count"].as_u64().unwrap_or(0) + 1);
        store.update(Resource::IpPool, object).await.map(drop)
    };
    run(async {
        for _ in 0..times {
            while let Err(e) = add().await {
                assert!(e.is_conflict(), "{e}");
            }
        }
    });
}

/// Four writers count in one object, and make objects of their own meanwhile, under a daemon's eyes.
#[test]
fn no_update_is_lost_and_no_half_file_is_seen() {
    let b = Bench::new(&[("z.yaml", MIXED)]);
    let (mut watch, first) = FileStore::open(b.folder.path()).unwrap();
    assert_eq!(first.pools.len(), 3);
    let folder = b.folder.path().to_owned();
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let folder = folder.clone();
            std::thread::spawn(move || {
                count_up(&folder, 25);
                let store = FolderObjects::new(&folder);
                for i in 0..5 {
                    run(store.create(Resource::IpPool, new_pool(&format!("w{w}-{i}"), &format!("10.{}.{i}.0/24", 100 + w)))).unwrap();
                }
            })
        })
        .collect();
    let mut states = 0;
    let seen = run(async {
        loop {
            match tokio::time::timeout(Duration::from_secs(10), watch.next()).await {
                Err(_) => panic!("never all pools: {:?}", watch.problems()),
                Ok(state) => {
                    states += 1;
                    let faults: Vec<&str> = watch.problems().iter().map(|p| p.message.as_str()).collect();
                    assert_eq!(faults, ["v1 ConfigMap is not read here; ignored"]);
                    assert!(["a", "b", "c"].iter().all(|p| state.pools.contains_key(*p)), "{:?}", state.pools.keys());
                    if state.pools.len() == 23 {
                        return state;
                    }
                }
            }
        }
    });
    writers.into_iter().for_each(|w| w.join().unwrap());
    println!("{states} states seen");
    assert_eq!(seen.pools["w3-4"].cidr.to_string(), "10.103.4.0/24");
    assert_eq!(b.get(&pool_id("a")).unwrap()["spec"]["count"], 100);
    assert!(b.files().iter().all(|f| !f.starts_with('.') || f == ".tortie.lock"), "{:?}", b.files());
}
