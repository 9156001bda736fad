//! The one task that owns the control plane of a running node: it listens to the datastore, to the kernel and to
//! the workers, and brings ports, host and data plane in line, 10 ms after the first of several changes.
//!
//! Whatever happens here, the workers go on forwarding by the last snapshot.

mod host;
mod opener;
mod report;
mod start;
mod watch;
mod workers;

use super::calc;
use super::cluster::Cluster;
use super::config::{self, Config, Datastore, WorkloadDriver};
use super::datastore::{self, FileStore};
use super::desired::Desired;
use super::facts::{Facts, Shared};
use super::netlink::neigh::Resolver;
use super::netlink::{Changes, Netlink};
use super::plan::{Inputs, Planner};
use super::ports::{self, Fixed, PortManager};
use crate::snapshot;
use crate::worker::Event;
use opener::KernelOpener;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
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
/// opens is in that thread's network namespace.
pub fn run(config_path: &Path, serve: Serve) -> Result<(), DaemonError> {
    let config = Config::load(config_path)?;
    start::check_rights()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail("start the runtime"))?;
    runtime.block_on(async {
        let _claim = start::Claim::take(&config.api.socket)?;
        tracing::info!("tortie {} on node {}, uplink {}", env!("CARGO_PKG_VERSION"), config.node, config.uplink.interface);
        if !start::ip_forward() {
            tracing::warn!(
                "net.ipv4.ip_forward is 0: packets between pods and what lies beyond this node will not be forwarded; set it to 1"
            );
        }
        let mut daemon = Daemon::new(config_path, config, serve)?;
        let result = daemon.main_loop().await;
        daemon.shut_down();
        result
    })
}

/// What has to be done at the next flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dirty {
    /// The cluster's state changed: calculate anew.
    cluster: bool,
    since: Option<Instant>,
}

impl Dirty {
    fn plan(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn cluster(&mut self) {
        self.cluster = true;
        self.plan();
    }
}

struct Daemon {
    config_path: PathBuf,
    config: Config,
    /// Dropped on the way out: its socket goes with it.
    api: Option<Service>,
    store: FileStore,
    cluster: Cluster,
    desired: Desired,
    netlink: Netlink,
    resolver: Resolver,
    ports: PortManager<KernelOpener>,
    planner: Planner,
    workers: Workers,
    shared: Arc<Shared>,
    dirty: Dirty,
    census: report::Census,
    /// First state of the cluster is in force.
    in_sync: bool,
    /// The generation that put it in force.
    first_generation: u64,
    next_housekeeping: Instant,
    /// Problems by where they come from, each replaced as a whole.
    plan_problems: Vec<String>,
    host_problems: Vec<String>,
    told: BTreeSet<String>,
}

fn on(kind: SignalKind) -> Result<Signal, DaemonError> {
    signal(kind).map_err(fail("handle signals"))
}

impl Daemon {
    fn new(config_path: &Path, config: Config, serve: Serve) -> Result<Daemon, DaemonError> {
        let Datastore::File { path } = &config.datastore;
        let (store, cluster) = FileStore::open(path)?;
        let netlink = Netlink::open().map_err(fail("read the host's network configuration by netlink"))?;
        let (publisher, readers) = snapshot::channel(usize::from(config.workers));
        let workers = Workers::start(readers, config.spin).map_err(fail("start the workers"))?;
        let opener = KernelOpener::new(&config, workers.umems());
        let monitoring = config.monitoring.over(&cluster.felix_for(&config.node).monitoring);
        let facts = Facts { node: config.node.clone(), uplink: config.uplink.interface.clone(), monitoring, ..Facts::default() };
        let shared = Arc::new(Shared::new(facts, workers.counters()));
        shared.tally().resync();
        let api = serve(&config.api.socket, shared.clone()).map_err(DaemonError::Api)?;
        let mut dirty = Dirty::default();
        dirty.cluster();
        Ok(Daemon {
            config_path: config_path.into(),
            api: Some(api),
            store,
            cluster,
            desired: Desired::default(),
            netlink,
            resolver: Resolver::default(),
            ports: PortManager::new(opener, workers.mailboxes(), workers.counters()),
            planner: Planner::new(publisher, workers.counters()),
            workers,
            shared,
            dirty,
            census: report::Census::default(),
            in_sync: false,
            first_generation: u64::MAX,
            next_housekeeping: Instant::now(),
            plan_problems: Vec::new(),
            host_problems: Vec::new(),
            told: BTreeSet::new(),
            config,
        })
    }

    async fn main_loop(&mut self) -> Result<(), DaemonError> {
        let (mut term, mut int, mut hup) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
        let netlink = watch::readable(self.netlink.as_fd()).map_err(fail("watch netlink"))?;
        let events = watch::readable(self.workers.as_fd()).map_err(fail("watch the workers"))?;
        let mut api = self.api.take().unwrap_or_else(|| Box::pin(std::future::pending()));
        loop {
            self.shared.tally().beat();
            self.due()?;
            let until = tokio::time::Instant::from_std(self.next_deadline());
            tokio::select! {
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
                _ = hup.recv() => self.reload(),
                ready = netlink.readable() => {
                    ready.map_err(fail("wait for netlink"))?.clear_ready();
                    self.host_changed();
                }
                ready = events.readable() => {
                    ready.map_err(fail("wait for workers"))?.clear_ready();
                    self.worker_events()?;
                }
                cluster = self.store.next() => {
                    self.cluster = cluster;
                    self.dirty.cluster();
                }
                result = &mut api => {
                    result.map_err(fail("serve the API"))?;
                    api = Box::pin(std::future::pending());
                }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// When there is something to do without being told.
    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let flush = self.dirty.since.map(|s| s + FLUSH);
        flush.into_iter().chain(self.ports.due(now)).chain([self.next_housekeeping]).min().unwrap_or(now)
    }

    /// Does what is due.
    fn due(&mut self) -> Result<(), DaemonError> {
        let now = Instant::now();
        if self.ports.due(now).is_some_and(|t| t <= now) {
            let oldest = self.planner.oldest_in_use();
            if self.ports.tick(oldest, now) {
                self.dirty.plan();
            } else if self.problems().into_iter().collect::<BTreeSet<_>>() != self.told {
                self.report();
            }
        }
        if self.next_housekeeping <= now {
            self.next_housekeeping = now + HOUSEKEEPING;
            if let Err(e) = self.resolver.tick(&mut self.netlink, now) {
                tracing::warn!("neighbours: {e}");
            }
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

    /// Puts the present state of cluster, host and ports in force.
    fn flush(&mut self, now: Instant) {
        // What the kernel has said meanwhile is part of this state, not a reason for the next.
        self.host_changed();
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.cluster {
            let started = Instant::now();
            self.desired = calc::desired(&self.cluster, &self.config.node);
            self.shared.tally().calculations.add(started.elapsed());
            self.census = report::Census::of(&self.cluster);
        }
        if let Some(node) = &self.desired.node {
            let wishes = ports::wishes(&self.desired, node, self.netlink.view(), &self.fixed());
            self.ports.sync(wishes, now);
        }
        let known = self.ports.ports();
        let outcome = self.planner.update(Inputs { desired: &self.desired, ports: &known, view: self.netlink.view() });
        self.ports.published(self.planner.generation());
        if outcome.published.is_some() {
            self.workers.wake();
        }
        self.plan_problems = outcome.warnings;
        self.resolver.set(outcome.hops);
        if let Err(e) = self.resolver.tick(&mut self.netlink, now) {
            tracing::warn!("neighbours: {e}");
        }
        if self.desired.node.is_some() {
            let device = self.config.host.interface.clone();
            self.host_problems = host::reconcile_addresses(&mut self.netlink, &self.desired, &known, &device);
            // Whatever comes in here (the device itself, just made) leads to another flush.
            self.host_changed();
            self.host_problems.extend(host::reconcile_routes(&mut self.netlink, &self.desired, &known, &device));
            if !self.host_problems.is_empty() {
                self.shared.tally().failure();
            }
            if !self.in_sync {
                self.in_sync = true;
                self.first_generation = self.planner.generation();
                let d = &self.desired;
                tracing::info!("in sync: {} routes, {} endpoints, {} other nodes", d.routes.len(), d.endpoints.len(), d.senders.len());
            }
        }
        self.report();
    }

    fn fixed(&self) -> Fixed {
        Fixed {
            uplink: self.config.uplink.interface.clone(),
            host: self.config.host.interface.clone(),
            tap_only: self.config.workloads.driver == WorkloadDriver::Tap,
            veth_only: matches!(self.config.workloads.driver, WorkloadDriver::Veth | WorkloadDriver::AfPacket | WorkloadDriver::AfXdp),
        }
    }

    fn host_changed(&mut self) {
        let changes = match self.netlink.drain() {
            Ok(c) => c,
            Err(e) => {
                tracing::warn!("netlink: {e}; reading everything again");
                match self.netlink.resync() {
                    Ok(()) => Changes::ALL,
                    Err(e) => return tracing::error!("netlink: {e}; changes on this host are not seen until it recovers"),
                }
            }
        };
        if changes.links || changes.addresses {
            self.ports.hurry(Instant::now());
        }
        if changes.any() {
            self.dirty.plan();
        }
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
        let new = match Config::load(&self.config_path) {
            Ok(c) => c,
            Err(e) => return tracing::error!("reload: {e}; the configuration in force stays"),
        };
        let old = &self.config;
        let fixed = [
            ("node", old.node != new.node),
            ("uplink.interface", old.uplink.interface != new.uplink.interface),
            ("host.interface", old.host.interface != new.host.interface),
            ("workers", old.workers != new.workers),
            ("api.socket", old.api.socket != new.api.socket),
        ];
        for (key, _) in fixed.iter().filter(|(_, changed)| *changed) {
            tracing::warn!("reload: {key} cannot change while running: restart for that");
        }
        if old.datastore != new.datastore {
            let Datastore::File { path } = &new.datastore;
            match FileStore::open(path) {
                Ok((store, cluster)) => {
                    (self.store, self.cluster) = (store, cluster);
                    self.shared.tally().resync();
                    self.config.datastore = new.datastore.clone();
                    self.dirty.cluster();
                }
                Err(e) => tracing::error!("reload: {e}; the datastore in force stays"),
            }
        }
        let methods = |c: &Config| (c.uplink.driver, c.workloads.driver, c.xdp);
        if methods(&self.config) != methods(&new) {
            (self.config.uplink.driver, self.config.workloads, self.config.xdp) = (new.uplink.driver, new.workloads, new.xdp);
            *self.ports.opener() = KernelOpener::new(&self.config, self.workers.umems());
            self.ports.reopen(Instant::now());
            self.dirty.plan();
        }
        self.config.monitoring = new.monitoring;
        self.report();
        tracing::info!("configuration reloaded");
    }

    /// Leaves the host as it was found.
    fn shut_down(&mut self) {
        tracing::info!("stopping");
        self.workers.stop();
        host::clear(&mut self.netlink);
        self.ports.shut_down();
    }
}
