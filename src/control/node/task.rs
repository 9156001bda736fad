//! The node's work beside the daemon's main loop: passes over the datastore, the files for the CNI plugin, and the
//! condition that follows the daemon's own state. Forwarding never waits for any of it.

use super::Found;
use super::condition::Network;
use super::events::{self, Sighting};
use super::files::Files;
use super::host;
use super::pass::{NodeError, Pass};
use super::settings::Settings;
use crate::control::conflict::{Conflict, Present};
use crate::control::datastore::objects::Objects;
use crate::control::ipam::Ipam;
use crate::control::model::{IpPool, Node};
use crate::control::work::{Work, put};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Wait after a failed pass: at first, and at most; it doubles in between.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Everything is looked at anew this often even if nothing is known to have changed; at the other polls the address
/// alone, which costs the API server one read.
const RESYNC: Duration = Duration::from_secs(300);
/// What changes within this time is looked at together.
const SETTLE: Duration = Duration::from_millis(200);
/// A pass that takes longer has lost the datastore.
const PASS_MAX: Duration = Duration::from_secs(30);
/// The time that the node has for its last word.
const LEAVE_MAX: Duration = Duration::from_secs(2);

/// What the daemon knows and the node's work follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The first state of the cluster is in force: the network of this node is there.
    pub in_sync: bool,
    pub pod_mtu: Option<u16>,
    /// As the daemon sees them in the datastore: their changes are a reason to look anew.
    pub pools: BTreeMap<String, Arc<IpPool>>,
    pub node: Option<Arc<Node>>,
}

/// What the work is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    now: Local,
    stopping: bool,
}

/// What came of it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The node's address, once it is decided.
    pub found: Option<Found>,
    /// What is wrong with the datastore's part, one line each.
    problems: Vec<String>,
    /// What is wrong with the files.
    file_problem: Option<String>,
    /// Why Events are not written.
    event_problem: Option<String>,
    /// Who has this node's name or address besides.
    pub conflicts: Vec<Conflict>,
}

impl Report {
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.iter().chain(&self.file_problem).chain(&self.event_problem)
    }
}

/// The work, and the two ends that the daemon holds. It goes on while [`Task::changed`] is awaited.
pub struct Task {
    told: watch::Sender<Told>,
    report: watch::Receiver<Report>,
    conflicts: watch::Sender<Vec<Sighting>>,
    work: Work,
}

impl Task {
    /// For a datastore that is not ours to write: the MTU file only.
    pub fn of_files(files: Files) -> Task {
        Task::with(async move |told, report, _| keep_mtu(told, report, &files).await)
    }

    /// For a datastore in which the node describes itself, as `open` reaches it.
    pub fn of_node<O, E>(open: impl AsyncFn() -> Result<Ipam<O>, E> + 'static, settings: Settings, files: Files) -> Task
    where
        O: Objects + 'static,
        E: fmt::Display,
    {
        Task::with(async move |told, report, conflicts| {
            // The MTU's part ends with the daemon, the others not by themselves.
            let ipam = tokio::select! {
                () = keep_mtu(told.clone(), report.clone(), &files) => return,
                ipam = opened(open, &report) => ipam,
            };
            let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
            let pass = Pass { ipam: &ipam, settings: &settings, boot_id: boot_id.as_deref().map(str::trim) };
            tokio::select! {
                () = keep_mtu(told.clone(), report.clone(), &files) => {}
                () = keep_node(&pass, told, report.clone(), &files) => {}
                () = events::keep(ipam.objects(), ipam.node(), conflicts, |fault| report.change(|r| r.event_problem = fault)) => {}
            }
            if let Err(e) = pass.network(Network::Down).await {
                tracing::warn!("{e}");
            }
        })
    }

    fn with(work: impl AsyncFnOnce(watch::Receiver<Told>, Reporter, watch::Receiver<Vec<Sighting>>) + 'static) -> Task {
        let (told, tellings) = watch::channel(Told::default());
        let (reports, report) = watch::channel(Report::default());
        let (conflicts, sightings) = watch::channel(Vec::new());
        let work = async move { work(tellings, Reporter(Arc::new(reports)), sightings).await };
        Task { told, report, conflicts, work: Work::new(work) }
    }

    /// Tells the work what is so now.
    pub fn tell(&self, now: Local) {
        self.told.send_if_modified(|told| put(&mut told.now, now));
    }

    /// Says which conflicts there are now: new ones become Events where the datastore has such.
    pub fn announce<'a>(&self, present: impl Iterator<Item = &'a Present>) {
        let all: Vec<Sighting> = present.map(Sighting::from).collect();
        self.conflicts.send_if_modified(|old| put(old, all));
    }

    /// Does the work; returns when there is a new report. Cancel-safe.
    pub async fn changed(&mut self) {
        self.work.changed(&mut self.report).await;
    }

    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Takes the node out of service, in so far as that can be said within two seconds.
    pub async fn leave(&mut self) {
        self.told.send_modify(|told| told.stopping = true);
        if self.work.finish(LEAVE_MAX).await == Some(false) {
            tracing::warn!("the datastore did not take it that this node stops");
        }
    }
}

/// The work's end of the report, in two parts.
#[derive(Clone)]
struct Reporter(Arc<watch::Sender<Report>>);

impl Reporter {
    fn change(&self, f: impl FnOnce(&mut Report)) {
        self.0.send_if_modified(|report| {
            let before = report.clone();
            f(report);
            *report != before
        });
    }
}

/// Until the datastore's client can be made; nothing is asked of the server for that.
async fn opened<O, E: fmt::Display>(open: impl AsyncFn() -> Result<Ipam<O>, E>, report: &Reporter) -> Ipam<O> {
    let mut retry = RETRY;
    loop {
        match open().await {
            Ok(ipam) => return ipam,
            Err(e) => report.change(|r| r.problems = vec![e.to_string()]),
        }
        sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Keeps the MTU file current; ends when the daemon stops.
async fn keep_mtu(mut told: watch::Receiver<Told>, report: Reporter, files: &Files) {
    loop {
        let (mtu, stopping) = {
            let told = told.borrow_and_update();
            (told.now.pod_mtu, told.stopping)
        };
        if stopping {
            return;
        }
        let fault = mtu.and_then(|mtu| files.set_mtu(mtu).err()).map(|e| e.to_string());
        let failed = fault.is_some();
        report.change(|r| r.file_problem = fault);
        let again = async { if failed { sleep(RETRY_MAX).await } else { std::future::pending().await } };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Pass after pass: every poll interval, when something changed, and sooner after failures.
async fn keep_node<O: Objects>(pass: &Pass<'_, O>, mut told: watch::Receiver<Told>, report: Reporter, files: &Files) {
    let mut retry = RETRY;
    // When everything was last as it should be; `None` after a change or a failure.
    let mut whole: Option<Instant> = None;
    loop {
        let in_sync = told.borrow_and_update().now.in_sync;
        let brief = whole.is_some_and(|at| at.elapsed() < RESYNC);
        let work = async { if brief { look(pass).await } else { one(pass, in_sync, files).await } };
        let Looked { found, problems, conflicts } = match timeout(PASS_MAX, work).await {
            Ok(result) => result,
            Err(_) => Looked::problem(format!("the datastore did not answer within {} s", PASS_MAX.as_secs())),
        };
        let well = problems.is_empty() && conflicts.is_empty();
        whole = if well { whole.filter(|_| brief).or_else(|| Some(Instant::now())) } else { None };
        let wait = if well { pass.settings.poll } else { retry };
        retry = if well { RETRY } else { (retry * 2).min(RETRY_MAX) };
        report.change(|r| {
            // The address that was found stays known while the datastore is away.
            r.found = found.or_else(|| r.found.take());
            r.problems = r.found.iter().filter_map(|f| f.note.clone()).chain(problems).collect();
            r.conflicts = conflicts;
        });
        tokio::select! {
            changed = told.changed() => {
                if changed.is_err() {
                    return;
                }
                whole = None;
                sleep(SETTLE).await;
            }
            () = sleep(wait) => {}
        }
    }
}

/// What one look came to.
#[derive(Default)]
struct Looked {
    found: Option<Found>,
    /// One line each.
    problems: Vec<String>,
    conflicts: Vec<Conflict>,
}

impl Looked {
    fn problem(line: String) -> Looked {
        Looked { problems: vec![line], ..Looked::default() }
    }

    /// What keeps the node from its address.
    fn error(e: &NodeError) -> Looked {
        match e.conflict() {
            Some(conflict) => Looked { conflicts: vec![conflict], ..Looked::default() },
            None => Looked::problem(e.to_string()),
        }
    }
}

/// The address alone.
async fn look<O: Objects>(pass: &Pass<'_, O>) -> Looked {
    let host = match host::read(&pass.settings.method).await {
        Ok(host) => host,
        Err(e) => return Looked::problem(format!("this host's interfaces cannot be read: {e}")),
    };
    pass.look(&host).await.map_or_else(|e| Looked::error(&e), |found| Looked { found, ..Looked::default() })
}

/// One pass and what follows from it.
async fn one<O: Objects>(pass: &Pass<'_, O>, in_sync: bool, files: &Files) -> Looked {
    let host = match host::read(&pass.settings.method).await {
        Ok(host) => host,
        Err(e) => return Looked::problem(format!("this host's interfaces cannot be read: {e}")),
    };
    let outcome = match pass.run(&host).await {
        Ok(outcome) => outcome,
        Err(e) => return Looked::error(&e),
    };
    let mut problems: Vec<String> = outcome.faults.iter().map(ToString::to_string).collect();
    problems.extend(files.set_nodename(pass.name()).err().map(|e| e.to_string()));
    // Without its tunnels' addresses the node's pods cannot be reached: Kubernetes is not to send any here.
    if in_sync && !outcome.faults.iter().any(|f| matches!(f, NodeError::Tunnel { .. })) {
        problems.extend(pass.network(Network::Up).await.err().map(|e| e.to_string()));
    }
    Looked { found: outcome.found, problems, conflicts: Vec::new() }
}
