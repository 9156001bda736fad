//! The file datastore on real folders: what is in force after which change, and how soon.

use crate::support::*;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tortie::control::cluster::Cluster;
use tortie::control::datastore::{FileStore, OpenError};
use tortie::control::model::Encap;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A folder, its store and the state that came last.
struct Bench {
    runtime: tokio::runtime::Runtime,
    store: FileStore,
    state: Cluster,
    folder: TempDir,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let (store, state) = FileStore::open(folder.path()).unwrap();
        Bench { runtime: runtime(), store, state, folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Takes states until one is as wished; how long it took. Fails after thirty seconds.
    fn until(&mut self, what: &str, wish: impl Fn(&Cluster, &[String]) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            if wish(&self.state, &self.problems()) {
                return start.elapsed();
            }
            let left = Duration::from_secs(30).saturating_sub(start.elapsed());
            let store = &mut self.store;
            match self.runtime.block_on(async { tokio::time::timeout(left, store.next()).await }) {
                Ok(state) => self.state = state,
                Err(_) => panic!("{what}: not within 30 s; problems {:?}, state {:?}", self.problems(), self.state),
            }
        }
    }

    /// Whether a state comes within the time.
    fn quiet_for(&mut self, time: Duration) -> bool {
        let store = &mut self.store;
        self.runtime.block_on(async { tokio::time::timeout(time, store.next()).await }).is_err()
    }

    fn problems(&self) -> Vec<String> {
        self.store.problems().iter().map(|p| p.to_string()).collect()
    }
}

fn is(state: &Cluster, cidr: &str) -> bool {
    state.pools.get("p").is_some_and(|p| p.cidr.to_string() == cidr)
}

#[test]
fn changes_are_in_force_soon() {
    let mut b = Bench::new(&[("pool.yaml", &pool("p", "10.1.0.0/16", ""))]);
    assert!(is(&b.state, "10.1.0.0/16"));
    let mut slowest = Duration::ZERO;
    let mut took = |what: &str, d: Duration| {
        println!("{what}: {d:?}");
        assert!(d < Duration::from_secs(1), "{what}: {d:?}");
        slowest = slowest.max(d);
    };
    for i in 2..12 {
        b.write("pool.yaml", &pool("p", &format!("10.{i}.0.0/16"), ""));
        took("changed in place", b.until("changed", |c, _| is(c, &format!("10.{i}.0.0/16"))));
    }
    b.write("pool.yaml.tmp", &pool("p", "10.50.0.0/16", ""));
    fs::rename(b.path("pool.yaml.tmp"), b.path("pool.yaml")).unwrap();
    took("renamed over", b.until("renamed over", |c, _| is(c, "10.50.0.0/16")));
    b.write("node.json", "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}");
    took("added", b.until("added", |c, _| c.kube_nodes.contains_key("n")));
    fs::create_dir_all(b.path("sub/deeper")).unwrap();
    b.write("sub/deeper/wep.yml", &endpoint("w", "n", "10.50.0.1"));
    took("added in a new folder", b.until("new folder", |c, _| c.endpoints.contains_key("default/w")));
    b.write("sub/deeper/wep.yml", &endpoint("v", "n", "10.50.0.1"));
    took("changed in a new folder", b.until("in new folder", |c, _| c.endpoints.contains_key("default/v") && c.endpoints.len() == 1));
    fs::remove_dir_all(b.path("sub")).unwrap();
    took("folder removed", b.until("folder removed", |c, _| c.endpoints.is_empty()));
    fs::remove_file(b.path("node.json")).unwrap();
    took("removed", b.until("removed", |c, _| c.kube_nodes.is_empty()));
    println!("slowest: {slowest:?}");
}

#[test]
fn a_file_written_in_pieces_is_one_change() {
    use std::io::Write;
    let text = pool("p", "10.1.0.0/16", "") + &pool("q", "10.2.0.0/16", "") + &node("n", "10.0.0.1/24", None);
    let mut b = Bench::new(&[("all.yaml", &text)]);
    let new = text.replace("10.1.0.0", "10.9.0.0").replace("10.2.0.0", "10.8.0.0");
    let mut f = fs::File::create(b.path("all.yaml")).unwrap();
    for piece in new.as_bytes().chunks(40) {
        f.write_all(piece).unwrap();
        f.flush().unwrap();
        std::thread::sleep(Duration::from_millis(8));
    }
    drop(f);
    let before = b.state.clone();
    let next = b.runtime.block_on(b.store.next());
    assert_ne!(before, next);
    assert!(is(&next, "10.9.0.0/16") && next.pools["q"].cidr.to_string() == "10.8.0.0/16" && next.nodes.len() == 1, "{next:?}");
    assert!(b.problems().is_empty());
    // A writer that never closes is not waited for without end.
    let mut f = fs::File::create(b.path("all.yaml")).unwrap();
    f.write_all(text.as_bytes()).unwrap();
    let took = b.until("kept open", |c, _| is(c, "10.1.0.0/16"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    drop(f);
}

#[test]
fn what_is_not_wanted_is_not_read() {
    let mut b = Bench::new(&[("pool.yaml", &pool("p", "10.1.0.0/16", ""))]);
    b.write(".pool.yaml.swp", &pool("p", "10.2.0.0/16", ""));
    b.write("README.md", "apiVersion: v1");
    b.write("pool.yaml~", "x: [");
    b.write("pool.yaml", &(pool("p", "10.1.0.0/16", "") + "# a comment changes nothing\n"));
    assert!(b.quiet_for(Duration::from_millis(300)), "{:?} {:?}", b.state, b.problems());
}

#[test]
fn a_broken_object_keeps_its_last_good_state_and_leaves_the_others() {
    let good = pool("p", "10.1.0.0/16", "") + &endpoint("a", "n", "10.244.0.3");
    let mut b = Bench::new(&[("pods.yaml", &good)]);
    b.write(
        "pods.yaml",
        &(good.replace("10.244.0.3", "10.244.0.300").replace("10.1.0.0", "10.2.0.0") + &endpoint("new", "n", "10.244.0.999")),
    );
    b.until("one object broken", |c, p| is(c, "10.2.0.0/16") && p.len() == 2);
    assert_eq!(b.state.endpoints["default/a"].addresses, ["10.244.0.3".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!b.state.endpoints.contains_key("default/new"), "it never was good");
    assert_eq!(
        b.problems(),
        [
            "pods.yaml:4: WorkloadEndpoint default/a: spec.ipNetworks[0]: \"10.244.0.300/32\" is not a CIDR; its last good state stays in force",
            "pods.yaml:6: WorkloadEndpoint default/new: spec.ipNetworks[0]: \"10.244.0.999/32\" is not a CIDR",
        ]
    );
    // No longer named: gone, broken or not.
    b.write("pods.yaml", &pool("p", "10.2.0.0/16", ""));
    b.until("no longer named", |c, p| c.endpoints.is_empty() && p.is_empty());
}

#[test]
fn a_file_that_is_not_yaml_keeps_all_it_held() {
    let good = pool("p", "10.1.0.0/16", "") + &endpoint("a", "n", "10.244.0.3");
    let mut b = Bench::new(&[("all.yaml", &good), ("other.yaml", &node("n", "10.0.0.1/24", None))]);
    for bad in ["a: [1,\n---\n", "\u{1}", "x: *nothing\n", "a: 1\na: 2\n", "'"] {
        b.write("all.yaml", bad);
        b.until(bad, |_, p| p.len() == 1 && p[0].starts_with("all.yaml") && p[0].ends_with("; what it held stays in force"));
        assert!(is(&b.state, "10.1.0.0/16") && b.state.len() == 3);
        b.write("all.yaml", &good);
        b.until("repaired", |_, p| p.is_empty());
    }
    fs::write(b.path("all.yaml"), b"a: 1\nb: \xff\xfe\n").unwrap();
    b.until("not UTF-8", |_, p| p == ["all.yaml:2: not YAML: not UTF-8; what it held stays in force"]);
    assert_eq!(b.state.len(), 3);
    // A document without a name could be any of the missing ones: those stay. What is named follows the file.
    b.write("all.yaml", &(pool("p", "10.9.0.0/16", "") + "---\nkind: WorkloadEndpoint\n"));
    b.until("a nameless document", |c, p| is(c, "10.9.0.0/16") && c.endpoints.len() == 1 && p.len() == 1);
    // An emptied file holds nothing, and says so by being valid.
    b.write("all.yaml", "");
    b.until("emptied", |c, p| c.len() == 1 && p.is_empty());
}

#[test]
fn the_same_object_twice_counts_where_it_comes_first() {
    let mut b = Bench::new(&[("a.yaml", &pool("p", "10.1.0.0/16", "")), ("b.yaml", &pool("p", "10.2.0.0/16", "vxlanMode: Always"))]);
    assert!(is(&b.state, "10.1.0.0/16"));
    assert_eq!(b.problems(), ["b.yaml:2: IPPool p: a.yaml holds it too and comes first; this one is ignored"]);
    fs::remove_file(b.path("a.yaml")).unwrap();
    b.until("the first removed", |c, p| is(c, "10.2.0.0/16") && p.is_empty());
    assert!(matches!(b.state.pools["p"].encap, Encap::Vxlan(_)));
    b.write("b.yaml", &(pool("p", "10.3.0.0/16", "") + &pool("p", "10.4.0.0/16", "")));
    b.until("twice in one file", |c, p| is(c, "10.3.0.0/16") && p == ["b.yaml:4: IPPool p: already at line 2; this one is ignored"]);
}

#[test]
fn foreign_kinds_are_reported_and_harmless() {
    let foreign = "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n";
    let b = Bench::new(&[("all.yaml", &(pool("p", "10.1.0.0/16", "") + foreign + foreign))]);
    assert!(is(&b.state, "10.1.0.0/16"));
    assert_eq!(b.problems(), ["all.yaml:4: apps/v1 Deployment is not read here; ignored (2 objects)"]);
}

#[test]
fn links_are_followed_and_their_swap_is_seen() {
    // As a ConfigMap is mounted: links through ..data, which is replaced by rename.
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mount");
    let version = |name: &str, cidr: &str| {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("pool.yaml"), pool("p", cidr, "")).unwrap();
    };
    fs::create_dir(&root).unwrap();
    version("..v1", "10.1.0.0/16");
    std::os::unix::fs::symlink("..v1", root.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/pool.yaml", root.join("pool.yaml")).unwrap();
    std::os::unix::fs::symlink(".", root.join("loop")).unwrap();
    let (store, state) = FileStore::open(&root).unwrap();
    let mut b = Bench { runtime: runtime(), store, state, folder };
    assert!(is(&b.state, "10.1.0.0/16") && b.problems().is_empty(), "{:?}", b.problems());
    version("..v2", "10.2.0.0/16");
    std::os::unix::fs::symlink("..v2", root.join("..tmp")).unwrap();
    fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    let took = b.until("swapped", |c, _| is(c, "10.2.0.0/16"));
    println!("..data swapped: {took:?}");
    assert!(took < Duration::from_secs(1));
}

#[test]
fn the_folder_itself_may_be_replaced_or_go_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let fill = |dir: &Path, cidr: &str| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("pool.yaml"), pool("p", cidr, "")).unwrap();
    };
    fill(&at("live"), "10.1.0.0/16");
    let (store, state) = FileStore::open(&at("live")).unwrap();
    let (live, old, new) = (at("live"), at("old"), at("new"));
    let mut b = Bench { runtime: runtime(), store, state, folder };
    fill(&new, "10.2.0.0/16");
    fs::rename(&live, &old).unwrap();
    fs::rename(&new, &live).unwrap();
    println!("folder replaced: {:?}", b.until("replaced", |c, p| is(c, "10.2.0.0/16") && p.is_empty()));
    fs::write(live.join("pool.yaml"), pool("p", "10.3.0.0/16", "")).unwrap();
    println!("changed in the new one: {:?}", b.until("changed in it", |c, _| is(c, "10.3.0.0/16")));
    fs::rename(&live, &new).unwrap();
    b.until("gone", |_, p| p.len() == 1 && p[0].ends_with("the last state stays in force"));
    assert!(is(&b.state, "10.3.0.0/16"), "{:?}", b.state);
    fill(&live, "10.4.0.0/16");
    println!("back: {:?}", b.until("back", |c, p| is(c, "10.4.0.0/16") && p.is_empty()));
}

#[test]
fn a_link_to_the_folder_may_be_pointed_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, cidr) in [("v1", "10.1.0.0/16"), ("v2", "10.2.0.0/16")] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("pool.yaml"), pool("p", cidr, "")).unwrap();
    }
    std::os::unix::fs::symlink("v1", at("live")).unwrap();
    let (store, state) = FileStore::open(&at("live")).unwrap();
    std::os::unix::fs::symlink("v2", at("tmp")).unwrap();
    fs::rename(at("tmp"), at("live")).unwrap();
    let live = at("live");
    let mut b = Bench { runtime: runtime(), store, state, folder };
    println!("link swapped: {:?}", b.until("swapped", |c, _| is(c, "10.2.0.0/16")));
    fs::write(live.join("pool.yaml"), pool("p", "10.3.0.0/16", "")).unwrap();
    println!("changed behind the link: {:?}", b.until("behind", |c, _| is(c, "10.3.0.0/16")));
}

#[test]
fn files_that_cannot_be_read_are_reported() {
    let mut b = Bench::new(&[("a.yaml", &pool("p", "10.1.0.0/16", ""))]);
    fs::create_dir(b.path("dir.yaml")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(b.path("socket.yaml")).unwrap();
    b.until("a socket", |_, p| p == ["socket.yaml: not a regular file"]);
    // Replaced by something that cannot be read, an object stays.
    fs::remove_file(b.path("a.yaml")).unwrap();
    fs::rename(b.path("socket.yaml"), b.path("a.yaml")).unwrap();
    b.until("in place of a good file", |_, p| p.len() == 1 && p[0].starts_with("a.yaml: not a regular file"));
}

#[test]
fn a_folder_that_is_not_there_is_an_error_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none");
    let e = FileStore::open(&missing).err().unwrap();
    assert!(matches!(e, OpenError::Missing { .. }));
    assert_eq!(
        e.to_string(),
        format!("datastore {}: no such folder; create it, or set datastore.path to the folder of manifests", missing.display())
    );
    fs::write(&missing, "x").unwrap();
    assert!(matches!(FileStore::open(&missing).err().unwrap(), OpenError::NotAFolder { .. }));
}

#[test]
fn a_thousand_files_are_read_in_reasonable_time() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..1000 {
        fs::write(folder.path().join(format!("{i}.yaml")), endpoint(&format!("w{i}"), "n", "10.244.0.1")).unwrap();
    }
    let start = Instant::now();
    let (store, state) = FileStore::open(folder.path()).unwrap();
    println!("1000 files opened in {:?}", start.elapsed());
    assert_eq!(state.endpoints.len(), 1000);
    let mut b = Bench { runtime: runtime(), store, state, folder };
    b.write("500.yaml", &endpoint("changed", "n", "10.244.0.1"));
    let took = b.until("changed", |c, _| c.endpoints.contains_key("default/changed"));
    println!("one of 1000 files changed: {took:?}");
    assert!(took < Duration::from_secs(1));
}
