//! The node's work as the daemon runs it: in time, through failures, to its last word.

use crate::node::{settings, store};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tortie::control::datastore::objects::{AccessError, Id, Resource};
use tortie::control::ipam::Ipam;
use tortie::control::node::{Files, Local, Report, Task};
use tortie::testing::objects::{MemObjects, Op};

const ENV: &[(&str, &str)] = &[
    ("IP", "10.0.0.1/24"),
    ("CALICO_IPV4POOL_CIDR", "10.244.0.0/16"),
    ("CALICO_IPV4POOL_VXLAN", "Always"),
    ("DISABLE_NODE_IP_CHECK", "true"),
];

fn task(store: &MemObjects, dir: &std::path::Path) -> Task {
    let store = store.clone();
    Task::of_node(async move || Ok::<_, String>(Ipam::new(store.clone(), "a")), settings(ENV), Files::new(dir))
}

/// Does the work until `ok`, at most 20 s.
async fn until(task: &mut Task, what: &str, ok: impl Fn(&Report) -> bool) {
    let work = async {
        while !ok(&task.report()) {
            tokio::select! { () = task.changed() => {}, () = tokio::time::sleep(Duration::from_millis(20)) => {} }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), work).await.is_ok(), "{what}: {:?}", task.report());
}

fn status(store: &MemObjects) -> Option<String> {
    let node = store.all(Resource::Node).remove(0);
    let all = node["status"]["conditions"].as_array().unwrap().clone();
    all.iter().find(|c| c["type"] == "NetworkUnavailable").map(|c| c["status"].as_str().unwrap().to_owned())
}

fn problems(r: &Report) -> Vec<&str> {
    // The address is on no interface of the machine that runs the test.
    r.problems().map(String::as_str).filter(|p| !p.ends_with("is on no interface of this host")).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn from_the_start_to_the_end() {
    let (store, dir) = (store(), tempfile::tempdir().unwrap());
    let mut task = task(&store, dir.path());
    until(&mut task, "the first pass", |r| r.found.is_some()).await;
    assert_eq!((problems(&task.report()), status(&store)), (vec![], None), "the network is not there yet");
    assert_eq!(std::fs::read_to_string(dir.path().join("nodename")).unwrap(), "a");
    task.tell(Local { in_sync: true, pod_mtu: Some(1450), ..Local::default() });
    until(&mut task, "the condition", |_| status(&store).as_deref() == Some("False")).await;
    assert_eq!(std::fs::read_to_string(dir.path().join("mtu")).unwrap(), "1450");
    task.tell(Local { in_sync: true, pod_mtu: Some(1400), ..Local::default() });
    until(&mut task, "the file", |_| std::fs::read_to_string(dir.path().join("mtu")).unwrap() == "1400").await;
    task.leave().await;
    assert_eq!(status(&store).as_deref(), Some("True"));
}

#[tokio::test(flavor = "current_thread")]
async fn a_datastore_that_is_away_is_said_and_tried_again() {
    let (store, dir) = (store(), tempfile::tempdir().unwrap());
    let (away, asked) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(0)));
    let (hook, count) = (away.clone(), asked.clone());
    let broken = store.before(move |_| {
        count.set(count.get() + 1);
        if hook.get() { Err(AccessError::Unavailable { what: "10.96.0.1".into(), message: "connection refused".into() }) } else { Ok(()) }
    });
    let mut task = task(&broken, dir.path());
    task.tell(Local { in_sync: true, pod_mtu: Some(1450), ..Local::default() });
    until(&mut task, "the problem", |r| r.problems().any(|p| p == "read the node: 10.96.0.1: connection refused")).await;
    assert_eq!(std::fs::read_to_string(dir.path().join("mtu")).unwrap(), "1450", "the file does not wait");
    assert!(asked.get() <= 3, "{} accesses: it waits between tries", asked.get());
    away.set(false);
    until(&mut task, "the recovery", |r| problems(r).is_empty() && r.found.is_some()).await;
    assert!(status(&store).is_some());
    away.set(true);
    let start = std::time::Instant::now();
    task.leave().await;
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "current_thread")]
async fn a_quiet_cluster_is_read_once_per_poll() {
    let (store, dir) = (store(), tempfile::tempdir().unwrap());
    let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
    let log = seen.clone();
    let watched = store.before(move |op| {
        log.borrow_mut().push(op.clone());
        Ok(())
    });
    let env = [ENV, &[("AUTODETECT_POLL_INTERVAL", "1s")]].concat();
    let open = async move || Ok::<_, String>(Ipam::new(watched.clone(), "a"));
    let mut task = Task::of_node(open, settings(&env), Files::new(dir.path()));
    until(&mut task, "the first pass", |r| r.found.is_some()).await;
    seen.borrow_mut().clear();
    let end = std::time::Instant::now() + Duration::from_millis(2500);
    until(&mut task, "two polls", |_| std::time::Instant::now() > end).await;
    let accesses = seen.borrow().clone();
    let one = Op::Get(Id::cluster(Resource::Node, "a"));
    assert!((1..=3).contains(&accesses.len()) && accesses.iter().all(|op| *op == one), "{accesses:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn what_somebody_takes_away_comes_back() {
    let (store, dir) = (store(), tempfile::tempdir().unwrap());
    let mut task = task(&store, dir.path());
    until(&mut task, "the first pass", |r| r.found.is_some()).await;
    let mut node = store.all(Resource::Node).remove(0);
    node["metadata"]["annotations"] = serde_json::json!({});
    store.put(Resource::Node, node);
    // The daemon sees the change of the node in its own watch.
    task.tell(Local { node: Some(Default::default()), ..Local::default() });
    let back = |_: &Report| store.all(Resource::Node)[0]["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"].is_string();
    until(&mut task, "the annotations", back).await;
    assert!(store.all(Resource::Node)[0]["metadata"]["annotations"]["projectcalico.org/IPv4Address"].is_string());
}

#[tokio::test(flavor = "current_thread")]
async fn a_folder_of_manifests_gets_the_file_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("taken"), "").unwrap();
    let mut task = Task::of_files(Files::new(dir.path().join("calico")));
    task.tell(Local { pod_mtu: Some(1480), ..Local::default() });
    until(&mut task, "the file", |_| dir.path().join("calico/mtu").exists()).await;
    assert_eq!(std::fs::read_dir(dir.path().join("calico")).unwrap().count(), 1);
    task.leave().await;
    let mut task = Task::of_files(Files::new(dir.path().join("taken")));
    task.tell(Local { pod_mtu: Some(1480), ..Local::default() });
    until(&mut task, "the problem", |r| r.problems().any(|p| p.starts_with("cannot write ") && p.contains("taken/mtu"))).await;
}
