//! Conflicts as Events on the node: made once, counted up, with the rule named where they may not be written.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tortie::control::conflict::{Conflict, Conflicts};
use tortie::control::datastore::kubernetes::open_objects;
use tortie::control::env::Environment;
use tortie::control::ipam::Ipam;
use tortie::control::node::{Files, Task};
use tortie::control::tally::Tally;
use tortie::testing::apiserver::{ApiServer, Verb};

struct Bed {
    server: ApiServer,
    task: Task,
    conflicts: Conflicts,
    tally: Tally,
    _folder: tempfile::TempDir,
}

fn conflict(n: u8) -> Conflict {
    Conflict::tunnel_address([10, 244, n, 0].into(), &["n1", "n2"])
}

impl Bed {
    fn new(server: ApiServer) -> Bed {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = server.kubeconfig(folder.path(), None);
        let open = async move || open_objects(Some(&kubeconfig)).await.map(|o| Ipam::new(o, "n1"));
        let settings = [("NO_DEFAULT_POOLS", "true"), ("CALICO_NETWORKING_BACKEND", "none")].into_iter().collect::<Environment>();
        let task = Task::of_node(open, settings.settings().unwrap(), Files::new(folder.path()));
        Bed { server, task, conflicts: Conflicts::default(), tally: Tally::default(), _folder: folder }
    }

    fn sight(&mut self, n: u8) {
        self.conflicts.sight(conflict(n), Instant::now(), &self.tally);
        self.task.announce(self.conflicts.present());
    }

    async fn until(&mut self, what: &str, ok: impl Fn(&Bed) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !ok(self) {
            assert!(Instant::now() < end, "{what}: {:#?} {:?}", self.events(), self.task.report());
            tokio::select! { () = self.task.changed() => {}, () = tokio::time::sleep(Duration::from_millis(20)) => {} }
        }
    }

    fn events(&self) -> Vec<Value> {
        self.server.all("v1", "events")
    }
}

fn server() -> ApiServer {
    let server = ApiServer::start();
    server.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
    server
}

#[tokio::test(flavor = "current_thread")]
async fn one_event_per_conflict_on_the_node() {
    let mut b = Bed::new(server());
    b.sight(1);
    b.until("the Event", |b| b.events().len() == 1).await;
    let e = b.events().remove(0);
    let node = b.server.get("v1", "nodes", "", "n1").unwrap();
    assert_eq!(e["involvedObject"], json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node["metadata"]["uid"]}));
    assert_eq!((&e["reason"], &e["type"], &e["count"]), (&json!("DuplicateTunnelAddress"), &json!("Warning"), &json!(1)));
    let message = e["message"].as_str().unwrap();
    assert!(message.starts_with("10.244.1.0: node n1 and node n2: ") && message.contains("To do: "), "{message}");
    assert_eq!((&e["metadata"]["namespace"], &e["source"]["component"]), (&json!("default"), &json!("tortie")));

    // Seen again at once: counted, but not written more often than once a minute.
    let writes = |b: &Bed| b.server.count(Verb::Create, "events") + b.server.count(Verb::Patch, "events");
    for _ in 0..50 {
        b.sight(1);
    }
    b.sight(2);
    b.until("another one", |b| b.events().len() == 2).await;
    assert_eq!(writes(&b), 2);

    // After a restart the Event that is there goes on.
    let server = b.server;
    drop(b.task);
    let mut b = Bed { server, ..Bed::new(ApiServer::start()) };
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = b.server.kubeconfig(folder.path(), None);
    let open = async move || open_objects(Some(&kubeconfig)).await.map(|o| Ipam::new(o, "n1"));
    let settings = [("NO_DEFAULT_POOLS", "true"), ("CALICO_NETWORKING_BACKEND", "none")].into_iter().collect::<Environment>();
    b.task = Task::of_node(open, settings.settings().unwrap(), Files::new(folder.path()));
    b.sight(1);
    b.until("counted up", |b| b.events().iter().any(|e| e["count"] == 2)).await;
    assert_eq!(b.events().len(), 2);
}

#[tokio::test(flavor = "current_thread")]
async fn many_at_once_are_spread() {
    let mut b = Bed::new(server());
    for n in 0..25 {
        b.sight(n);
    }
    let start = Instant::now();
    b.until("all", |b| b.events().len() == 25).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "ten a second: {:?}", start.elapsed());
}

#[tokio::test(flavor = "current_thread")]
async fn without_the_right_the_rule_is_named_and_nothing_is_hammered() {
    let server = server();
    server.forbid("events");
    let mut b = Bed::new(server);
    b.sight(1);
    let rule = r#"{apiGroups: [""], resources: ["events"], verbs: ["create"]}"#;
    b.until("said", |b| b.task.report().problems().any(|p| p.starts_with("conflicts cannot be told to the cluster: ") && p.contains(rule)))
        .await;
    let end = Instant::now() + Duration::from_secs(2);
    b.until("a while", |_| Instant::now() > end).await;
    assert!(b.server.count(Verb::Create, "events") <= 3, "{:?}", b.server.counts());
    b.server.allow("events");
    b.until("written", |b| b.events().len() == 1).await;
    b.until("no problem any more", |b| b.task.report().problems().next().is_none()).await;
}
