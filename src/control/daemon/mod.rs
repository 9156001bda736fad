//! The one task that owns the control plane of a running node: it listens to the datastore, to the kernel and to
//! the workers, and brings ports, host and data plane in line, 10 ms after the first of several changes.
//!
//! Whatever happens here, the workers go on forwarding by the last snapshot.

mod conflicts;
mod figures;
mod flush;
mod guard;
mod handover;
mod host;
mod node;
mod notify;
mod opener;
mod panicked;
mod probes;
mod report;
mod requests;
mod start;
mod successor;
mod takeover;
mod transition;
mod watch;
mod workers;

use super::calc::Calculator;
use super::cluster::{Changed, Cluster};
use super::config::{self, Config};
use super::conflict::{Conflicts, Home};
use super::conntrack;
use super::datastore::{self, Store};
use super::desired::Delta;
use super::env::Environment;
use super::facts::{Facts, Request, Shared};
use super::logging;
use super::nat::Nat;
use super::netlink::Netlink;
use super::netlink::neigh::Resolver;
use super::node::Task;
use super::plan::Planner;
use super::ports::PortManager;
use super::probe::Prober;
use crate::snapshot;
use crate::worker::Event;
use crate::worker::tap::Tap;
use flush::Dirty;
use opener::KernelOpener;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use successor::Successor;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use transition::Transitions;
use workers::Workers;

/// Changes within this time are put in force together.
const FLUSH: Duration = Duration::from_millis(10);
/// Neighbours are looked after this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Answers those who look at the daemon, until it is dropped.
pub type Service = Pin<Box<dyn Future<Output = io::Result<()>>>>;
/// Starts the service on the API socket. What stands above the control plane provides it.
pub type Serve = fn(&Path, Arc<Shared>) -> Result<Service, Box<dyn std::error::Error + Send + Sync>>;

/// Why the daemon did not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error("missing {missing}: run as root, or give the process these capabilities")]
    Rights { missing: String },
    #[error("another daemon{} serves {what}: stop it first", pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Running { pid: Option<u32>, what: String },
    #[error("takeover: {why}; the running daemon stays in charge")]
    Takeover { why: String },
    #[error("cannot take the lock {}: {source}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Datastore(#[from] datastore::OpenError),
    #[error("{0}")]
    Api(Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("workers panicked three times within a minute; the last message: {message}")]
    Workers { message: String },
}

fn fail(what: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::Io { what, source }
}

/// Runs the node until SIGTERM or SIGINT. Logging must have been set up. Blocks the calling thread; what it
/// opens is in that thread's network namespace. `takeover`: in the place of the daemon that runs there, if one does.
pub fn run(config_path: &Path, takeover: bool, serve: Serve) -> Result<(), DaemonError> {
    let config = Config::load(config_path, &Environment::of_process())?;
    start::check_rights()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail("start the runtime"))?;
    runtime.block_on(async {
        let before = if takeover { start::running().map_err(fail("look for the running daemon"))? } else { None };
        let claim = if before.is_none() { Some(start::Claim::take(&config.api.socket)?) } else { None };
        tracing::info!("tortie {} on node {}", env!("CARGO_PKG_VERSION"), config.node);
        if !start::ip_forward() {
            tracing::warn!(
                "net.ipv4.ip_forward is 0: packets between pods and what lies beyond this node will not be forwarded; set it to 1"
            );
        }
        let mut daemon = Daemon::new(config_path, config, claim)?;
        if let Some(before) = before
            && let Err(e) = daemon.take_over(before).await
        {
            // What would be undone by dropping it belongs to the running daemon.
            std::mem::forget(daemon);
            return Err(e);
        }
        daemon.offer(serve)?;
        let (result, sound) = daemon.supervised().await;
        if sound {
            daemon.node.leave().await;
            daemon.nat.leave().await;
        }
        daemon.shut_down();
        result
    })
}

struct Daemon {
    config_path: PathBuf,
    config: Config,
    /// This process's right to be here, from its start or from the end of a takeover on.
    claim: Option<start::Claim>,
    /// Dropped on the way out: its socket goes with it.
    api: Option<Service>,
    store: Store,
    cluster: Cluster,
    calculator: Calculator,
    netlink: Netlink,
    resolver: Resolver,
    ports: PortManager<KernelOpener>,
    /// The interface towards the other nodes; empty until it is known.
    uplink: String,
    planner: Planner,
    workers: Workers,
    shared: Arc<Shared>,
    requests: UnboundedReceiver<Request>,
    /// The packets that are written down now, if any.
    tap: Option<Arc<Tap>>,
    /// What this node says of itself, in the datastore and on this host.
    node: Task,
    nat: Nat,
    prober: Prober,
    /// What is measured may be different from what was ordered; neighbours that did not answer then.
    probes_dirty: bool,
    failed_last: BTreeSet<Ipv4Addr>,
    dirty: Dirty,
    /// First state of the cluster is in force.
    in_sync: bool,
    /// The generation that put it in force.
    first_generation: u64,
    next_housekeeping: Instant,
    /// Problems by where they come from, each replaced as a whole.
    plan_problems: Vec<String>,
    host: host::Host,
    transitions: Transitions,
    guard: guard::Guard,
    suspects: conflicts::Suspects,
    home: Home,
    conflicts: Conflicts,
    /// Of the cluster's state, if somebody asked for it since it changed.
    census: Option<figures::Census>,
    /// Of the calculation, all others, and conflicts.
    told: [BTreeSet<String>; 3],
}

/// When the service ends, if there is one.
async fn ended(api: &mut Option<Service>) -> io::Result<()> {
    match api {
        Some(api) => api.await,
        None => std::future::pending().await,
    }
}

/// In test builds alone: SIGUSR1 has the control plane panic.
fn panic_signal() -> Result<Option<Signal>, DaemonError> {
    if cfg!(feature = "testing") { on(SignalKind::user_defined1()).map(Some) } else { Ok(None) }
}

async fn asked_to_panic(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn on(kind: SignalKind) -> Result<Signal, DaemonError> {
    signal(kind).map_err(fail("handle signals"))
}

impl Daemon {
    /// Without a claim its workers leave ports alone until they are told otherwise.
    fn new(config_path: &Path, config: Config, claim: Option<start::Claim>) -> Result<Daemon, DaemonError> {
        let (store, mut cluster) = Store::open(&config.datastore, &config.node)?;
        cluster.felix_here = config.felix.clone();
        let node = node::start(&config);
        node::tell_ignored(&config);
        let netlink = Netlink::open().map_err(fail("read the host's network configuration by netlink"))?;
        let (publisher, readers) = snapshot::channel(usize::from(config.workers));
        match conntrack::recover(publisher.flows(), crate::worker::now_ms()) {
            Ok(0) => {}
            Ok(n) => tracing::info!("the host's connection tracking knows {n} flows whose answers go through the host"),
            Err(e) => tracing::info!("{}: {e}; flows that the host translates are known from their next packet on", conntrack::TABLE),
        }
        let workers = Workers::start(readers, config.spin, claim.is_none()).map_err(fail("start the workers"))?;
        let opener = KernelOpener::new(&config, workers.umems());
        let uplink = config.uplink.interface.clone().unwrap_or_default();
        let facts = Facts { node: config.node.clone(), uplink: uplink.clone(), ..Facts::default() };
        let (sender, requests) = unbounded_channel();
        let shared = Arc::new(Shared::new(facts, workers.counters(), sender));
        shared.set_monitoring(report::monitoring(&config, &cluster));
        shared.tally().resync();
        let prober = Prober::start(shared.probes().clone(), workers.counters()).map_err(fail("start the probes"))?;
        let mut dirty = Dirty::default();
        dirty.cluster(Changed::All);
        Ok(Daemon {
            config_path: config_path.into(),
            claim,
            api: None,
            store,
            cluster,
            calculator: Calculator::new(&config.node),
            netlink,
            resolver: Resolver::default(),
            ports: PortManager::new(opener, workers.mailboxes(), workers.counters()),
            uplink,
            planner: Planner::new(publisher, workers.counters()),
            workers,
            shared,
            requests,
            tap: None,
            node,
            nat: Nat::default(),
            prober,
            probes_dirty: true,
            failed_last: BTreeSet::new(),
            dirty,
            in_sync: false,
            first_generation: u64::MAX,
            next_housekeeping: Instant::now(),
            plan_problems: Vec::new(),
            host: host::Host::default(),
            transitions: Transitions::default(),
            guard: guard::Guard::default(),
            suspects: conflicts::Suspects::default(),
            home: Home::default(),
            conflicts: Conflicts::default(),
            census: None,
            told: Default::default(),
            config,
        })
    }

    /// Starts to answer those who look.
    fn offer(&mut self, serve: Serve) -> Result<(), DaemonError> {
        self.api = Some(serve(&self.config.api.socket, self.shared.clone()).map_err(DaemonError::Api)?);
        Ok(())
    }

    async fn main_loop(&mut self) -> Result<(), DaemonError> {
        let claim = self.claim.as_ref().map(start::Claim::listen).transpose().map_err(fail("listen for a successor"))?;
        let mut successor = Successor::default();
        let (mut usr2, mut usr1) = (on(SignalKind::user_defined2())?, panic_signal()?);
        let (mut term, mut int, mut hup) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
        let netlink = watch::readable(self.netlink.as_fd()).map_err(fail("watch netlink"))?;
        let events = watch::readable(self.workers.as_fd()).map_err(fail("watch the workers"))?;
        loop {
            self.shared.tally().beat();
            self.due()?;
            let until = tokio::time::Instant::from_std(self.next_deadline());
            tokio::select! {
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
                _ = hup.recv() => self.reload(),
                _ = usr2.recv() => successor.start(),
                () = asked_to_panic(&mut usr1) => panic!("asked to by SIGUSR1"),
                Some(stream) = successor::connection(claim.as_ref()) => self.hand_over(stream),
                ready = netlink.readable() => {
                    ready.map_err(fail("wait for netlink"))?.clear_ready();
                    self.host_changed();
                }
                ready = events.readable() => {
                    ready.map_err(fail("wait for workers"))?.clear_ready();
                    self.worker_events()?;
                }
                Some(request) = self.requests.recv() => self.answer(request),
                changed = self.store.next(&mut self.cluster) => self.dirty.cluster(changed),
                () = self.shared.asked() => self.shared.answer(|| self.facts()),
                () = self.shared.inventory_board().asked() => self.shared.inventory_board().answer(|| self.inventory()),
                () = self.shared.figures_board().asked() => {
                    let shared = self.shared.clone();
                    shared.figures_board().answer(|| self.figures());
                }
                () = self.node.changed() => self.report(&Delta::none()),
                () = self.nat.changed() => self.report(&Delta::none()),
                result = ended(&mut self.api) => {
                    result.map_err(fail("serve the API"))?;
                    self.api = None;
                }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// When there is something to do without being told.
    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let flush = self.dirty.since.map(|s| s + FLUSH);
        let transition = self.transitions.due().filter(|_| flush.is_none());
        flush.into_iter().chain(transition).chain(self.ports.due(now)).chain([self.next_housekeeping]).min().unwrap_or(now)
    }

    /// Does what is due.
    fn due(&mut self) -> Result<(), DaemonError> {
        let now = Instant::now();
        if self.ports.due(now).is_some_and(|t| t <= now) {
            let oldest = self.planner.oldest_in_use();
            if self.ports.tick(oldest, now) {
                self.dirty.plan();
            } else {
                // A port may have a new problem.
                self.report(&Delta::none());
            }
        }
        if self.next_housekeeping <= now {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.planner.flows().sweep(crate::worker::now_ms());
            if let Err(e) = self.resolver.tick(&mut self.netlink, now) {
                tracing::warn!("neighbours: {e}");
            }
            self.order_probes();
            self.look_for_conflicts(now);
        }
        if self.transitions.due().is_some_and(|t| t <= now) {
            self.dirty.plan();
        }
        if self.dirty.since.is_some_and(|s| now >= s + FLUSH) {
            self.flush(now);
            self.shared.tally().applies.add(now.elapsed());
        }
        if self.in_sync && !self.shared.tally().is_programmed() && self.planner.oldest_in_use() >= self.first_generation {
            self.shared.tally().set_programmed();
        }
        Ok(())
    }

    fn worker_events(&mut self) -> Result<(), DaemonError> {
        let now = Instant::now();
        for event in self.workers.events() {
            match event {
                Event::PortFailed { worker, id, error } => {
                    if self.ports.failed(worker, id, &error, now) {
                        self.dirty.plan();
                    }
                }
                Event::PortClosed { worker, id } => self.ports.closed(worker, id),
                Event::NeighbourMiss { next_hop: IpAddr::V4(a) } => {
                    if let Err(e) = self.resolver.miss(&mut self.netlink, a, now) {
                        tracing::warn!("neighbour {a}: {e}");
                    }
                }
                Event::NeighbourMiss { .. } => {}
                Event::EndpointMac { id, mac, .. } => {
                    if self.ports.learn(id, mac) {
                        self.dirty.plan();
                    }
                }
                Event::Claimed(claim) => self.claimed(&claim, now),
                Event::Panicked { worker, message } => self.replace_worker(worker, message, now)?,
            }
        }
        Ok(())
    }

    fn replace_worker(&mut self, worker: usize, message: String, now: Instant) -> Result<(), DaemonError> {
        tracing::error!("worker {worker} panicked: {message}; starting it again with fresh ports");
        if !self.workers.may_restart(now) {
            return Err(DaemonError::Workers { message });
        }
        let reader = self.planner.reader(worker);
        self.workers.restart(worker, reader).map_err(fail("start a worker again"))?;
        *self.ports.opener() = KernelOpener::new(&self.config, self.workers.umems());
        self.ports.worker_gone(worker, now);
        self.dirty.plan();
        Ok(())
    }

    /// SIGHUP: what can change while running does; the datastore is read again.
    fn reload(&mut self) {
        self.store.rescan();
        let new = match Config::load(&self.config_path, &self.config.origins.env) {
            Ok(c) => c,
            Err(e) => return tracing::error!("reload: {e}; the configuration in force stays"),
        };
        let old = &self.config;
        let fixed = [
            ("node", old.node != new.node),
            ("uplink.interface", old.uplink.interface != new.uplink.interface),
            ("host.interface", old.host.interface != new.host.interface),
            ("workers", old.workers != new.workers),
            ("spin", old.spin != new.spin),
            ("api.socket", old.api.socket != new.api.socket),
            ("calico.dir", old.calico.dir != new.calico.dir),
            ("log.format", old.log.format != new.log.format),
        ];
        let stayed: Vec<&str> = fixed.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key).collect();
        for key in &stayed {
            tracing::warn!("reload: {key} cannot change while running: restart for that");
        }
        self.config.origins.renew(&new.origins, &stayed);
        if self.config.datastore != new.datastore {
            match Store::open(&new.datastore, &self.config.node) {
                Ok((store, cluster)) => {
                    self.store = store;
                    self.shared.tally().resync();
                    self.config.datastore = new.datastore.clone();
                    self.config.start = new.start.clone();
                    self.node = node::start(&self.config);
                    let felix_here = std::mem::take(&mut self.cluster.felix_here);
                    self.cluster = Cluster { felix_here, ..cluster };
                    self.dirty.cluster(Changed::All);
                }
                Err(e) => tracing::error!("reload: {e}; the datastore in force stays"),
            }
        }
        let methods = |c: &Config| (c.uplink.driver, c.workloads.driver, c.xdp);
        if methods(&self.config) != methods(&new) {
            (self.config.uplink.driver, self.config.workloads, self.config.xdp) = (new.uplink.driver, new.workloads, new.xdp);
            *self.ports.opener() = KernelOpener::new(&self.config, self.workers.umems());
            self.ports.reopen(Instant::now());
            self.dirty.wishes();
        }
        self.config.monitoring = new.monitoring;
        self.config.probes = new.probes;
        self.probes_dirty = true;
        self.config.log.level = new.log.level;
        if let Some(log) = logging::get() {
            log.choose(None);
        }
        self.report(&Delta::none());
        tracing::info!("configuration reloaded");
    }

    /// Leaves the host as it was found.
    fn shut_down(&mut self) {
        tracing::info!("stopping");
        self.shared.close();
        self.workers.stop();
        host::clear(&mut self.netlink);
        self.ports.shut_down();
    }
}
