//! The cluster's state by watches: a thread of its own lists, watches and validates; what changed comes out.

use super::backoff::Backoff;
use super::connect::{Connection, Source};
use super::group::{Group, Undetected};
use super::kinds::{Scope, Watched};
use super::report::{Delta, Link};
use super::watch::{Orders, Watcher};
use crate::control::cluster::{Changed, Cluster};
use crate::control::datastore::{OpenError, Problem};
use crate::control::model::{Key, Object, RouteSource};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Batches on their way; beyond that the watches wait.
const QUEUE: usize = 64;
/// Batches that are put in the cluster's state in one step.
const AT_ONCE: usize = 256;
type News = (Watched, Vec<Delta>);

/// Watches on an API server. Dropping it ends them.
pub struct KubeStore {
    node: String,
    url: String,
    news: mpsc::Receiver<News>,
    scope: watch::Sender<Scope>,
    again: watch::Sender<u64>,
    synced: bool,
    /// The last complete list of each kind was in this scope.
    complete: BTreeMap<Watched, Scope>,
    /// ClusterInformation's `spec.datastoreReady`; `None` until that has been read.
    ready: Option<bool>,
    /// What has changed and waits for the datastore to be ready; `None`: gone.
    pending: BTreeMap<Key, Option<Object>>,
    faults: BTreeMap<(Watched, String), String>,
    links: BTreeMap<Watched, Link>,
    problems: Vec<Problem>,
    /// Ends the thread by being dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl KubeStore {
    /// Reads the client's configuration; the server need not be there.
    pub fn open(source: Source, node: &str) -> Result<KubeStore, OpenError> {
        let (stop, stopped) = oneshot::channel();
        let (deltas, news) = mpsc::channel(QUEUE);
        let (scope, scope_seen) = watch::channel(Scope::Own);
        let (again, again_seen) = watch::channel(0);
        let (opened, result) = std::sync::mpsc::channel();
        let orders = Orders { scope: scope_seen, again: again_seen };
        let name = node.to_owned();
        let run = move || run(source, name, &orders, &deltas, stopped, &opened);
        let thread = thread::Builder::new().name("datastore".into()).spawn(run).map_err(|e| OpenError::Thread { source: e })?;
        // The thread answers first of all, or is gone.
        let gone = || OpenError::Thread { source: io::Error::other("it ended at once") };
        let url = result.recv().map_err(|_| gone())??;
        Ok(KubeStore {
            node: node.to_owned(),
            url,
            news,
            scope,
            again,
            synced: false,
            complete: BTreeMap::new(),
            ready: None,
            pending: BTreeMap::new(),
            faults: BTreeMap::new(),
            links: BTreeMap::new(),
            problems: Vec::new(),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Puts the next changes in the cluster's state and says which they were; none, if only problems or
    /// [`KubeStore::in_sync`] are different. Cancel-safe.
    pub async fn next(&mut self, cluster: &mut Cluster) -> Changed {
        match self.news.recv().await {
            Some(first) => {
                let mut next = Some(first);
                for _ in 0..AT_ONCE {
                    let Some((kind, deltas)) = next else { break };
                    deltas.into_iter().for_each(|d| self.take(kind, d));
                    next = self.news.try_recv().ok();
                }
                if let Some((kind, deltas)) = next {
                    deltas.into_iter().for_each(|d| self.take(kind, d));
                }
            }
            // The thread ends only with this value.
            None => std::future::pending().await,
        }
        let changed = self.put(cluster);
        self.adjust_scope(cluster);
        self.synced |= self.is_complete();
        self.collect_problems();
        changed
    }

    fn take(&mut self, kind: Watched, delta: Delta) {
        match delta {
            Delta::Put(key, object) => drop(self.pending.insert(key, Some(object))),
            Delta::Gone(key) => drop(self.pending.insert(key, None)),
            Delta::Fault(name, Some(message)) => drop(self.faults.insert((kind, name), message)),
            Delta::Fault(name, None) => drop(self.faults.remove(&(kind, name))),
            Delta::Ready(ready) => self.ready = Some(ready),
            Delta::Complete(scope) => drop(self.complete.insert(kind, scope)),
            Delta::Link(Link::Up) => drop(self.links.remove(&kind)),
            Delta::Link(link) => drop(self.links.insert(kind, link)),
        }
    }

    /// While the datastore is not ready, everything waits.
    fn put(&mut self, cluster: &mut Cluster) -> Changed {
        let mut keys = BTreeSet::new();
        if self.ready != Some(true) {
            return Changed::Keys(keys);
        }
        for (key, object) in std::mem::take(&mut self.pending) {
            let changed = match object {
                Some(object) => cluster.insert(key.clone(), object),
                None => cluster.remove(&key),
            };
            if changed {
                keys.insert(key);
            }
        }
        Changed::Keys(keys)
    }

    /// All pods are needed only where routes follow from their addresses.
    fn adjust_scope(&mut self, cluster: &Cluster) {
        let source = cluster.felix_for(&self.node).route_source.unwrap_or_default();
        let wanted = if source == RouteSource::WorkloadIps { Scope::All } else { Scope::Own };
        self.scope.send_if_modified(|scope| std::mem::replace(scope, wanted) != wanted);
    }

    /// Whether every kind has been read completely once, for good. A kind that may not be read keeps the node out of
    /// sync if there is no routing without it.
    pub fn in_sync(&self) -> bool {
        self.synced
    }

    fn is_complete(&self) -> bool {
        let wanted = *self.scope.borrow();
        self.ready == Some(true)
            && Watched::ALL.iter().all(|kind| match self.complete.get(kind) {
                Some(scope) => *kind != Watched::Pod || wanted == Scope::Own || *scope == Scope::All,
                None => false,
            })
    }

    /// What is wrong, as of the last [`KubeStore::next`].
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Lists everything anew.
    pub fn rescan(&self) {
        self.again.send_modify(|n| *n += 1);
    }

    fn collect_problems(&mut self) {
        let mut problems = Vec::new();
        let mut told = BTreeSet::new();
        for link in self.links.values() {
            match link {
                Link::Up => {}
                // One cause, one line, however many watches it ended.
                Link::Down { message } => drop(told.insert(message.as_str())),
                Link::Refused { message } => problems.push(Problem::of(&self.url, message.clone())),
            }
        }
        if let Some(message) = told.first() {
            let effect = if self.in_sync() { "what is known stays in force" } else { "nothing is put in force until it answers" };
            problems.push(Problem::of(&self.url, format!("{message}; trying again, {effect}")));
        }
        if self.ready == Some(false) {
            let message = "spec.datastoreReady is false: the datastore is being worked on; what is known stays in force, changes wait";
            problems.push(Problem::of("ClusterInformation default", message));
        }
        for ((kind, name), message) in &self.faults {
            problems.push(Problem::of(&format!("{kind} {name}"), message.clone()));
        }
        self.problems = problems;
    }
}

impl Drop for KubeStore {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread.
fn run(
    source: Source,
    node: String,
    orders: &Orders,
    deltas: &mpsc::Sender<News>,
    stopped: oneshot::Receiver<()>,
    opened: &std::sync::mpsc::Sender<Result<String, OpenError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(r) => r,
        Err(source) => return drop(opened.send(Err(OpenError::Thread { source }))),
    };
    runtime.block_on(async {
        let connection = match Connection::open(source).await {
            Ok(c) => Arc::new(c),
            Err(e) => return drop(opened.send(Err(e))),
        };
        let _ = opened.send(Ok(connection.url().to_owned()));
        tokio::select! {
            () = watch_all(connection, node, orders, deltas) => {}
            _ = stopped => {}
        }
    });
    // Name resolution may hang in a thread of its own.
    runtime.shutdown_background();
}

async fn watch_all(connection: Arc<Connection>, node: String, orders: &Orders, deltas: &mpsc::Sender<News>) {
    let Some(group) = find_group(&connection, orders, deltas).await else { return };
    let mut watches = JoinSet::new();
    for kind in Watched::ALL {
        let watcher = Watcher::new(kind, connection.clone(), group, node.clone(), orders.clone(), deltas.clone());
        watches.spawn(watcher.run());
    }
    while watches.join_next().await.is_some() {}
}

/// Until the server says which group it has; `None` if nobody waits for it any more.
async fn find_group(connection: &Connection, orders: &Orders, deltas: &mpsc::Sender<News>) -> Option<Group> {
    let mut backoff = Backoff::default();
    let mut again = orders.again.clone();
    loop {
        let link = match Group::detect(connection).await {
            Ok(group) => {
                deltas.send((Watched::IpPool, vec![Delta::Link(Link::Up)])).await.ok()?;
                return Some(group);
            }
            Err(Undetected::Missing) => Link::Refused {
                message: "the API server has neither crd.projectcalico.org nor projectcalico.org: install Calico's definitions".into(),
            },
            Err(Undetected::Failed(f)) => Link::Down { message: f.message() },
        };
        let wait = backoff.next(None);
        if backoff.failures() > 1 || matches!(link, Link::Refused { .. }) {
            deltas.send((Watched::IpPool, vec![Delta::Link(link)])).await.ok()?;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = again.changed() => backoff.reset(),
        }
    }
}
