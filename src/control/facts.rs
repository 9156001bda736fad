//! What is in force, for whoever looks at the daemon from outside: written down when somebody asks, so that updates
//! cost nothing for it. Counters are read live from the workers.

use super::cluster::Cluster;
use super::conflict;
use super::desired::{Route, Vtep};
use super::model::Monitoring;
use super::plan::{self, Peer, PeerTotals};
use super::ports::PortFact;
use super::probe;
use super::tally::Tally;
use super::work::put;
use crate::fib::AdjId;
use crate::flows::Entry;
pub use crate::forward::carry::PortTotals;
use crate::frame::PortId;
use crate::ops::view::{ConfigRow, ConflictRow};
use crate::snapshot::Snapshot;
use crate::wire::Mac;
use crate::worker::Counters;
use crate::worker::tap::{FilterError, Tap};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

/// A control plane that takes longer does not answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// One route in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFact {
    pub prefix: Ipv4Net,
    pub route: Route,
    /// Interface that packets leave by.
    pub port: Option<String>,
    /// Longest packet, bytes; `None` where nothing is sent.
    pub mtu: Option<u16>,
    pub id: AdjId,
    /// The adjacency's count when the route got it.
    pub base: u64,
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighFact {
    pub address: Ipv4Addr,
    pub dev: String,
    pub mac: Option<Mac>,
    pub state: &'static str,
    pub node: Option<String>,
}

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFact {
    /// Of the WorkloadEndpoint, `namespace/name`.
    pub name: String,
    /// `namespace/pod` where known.
    pub workload: String,
    pub interface: String,
    /// Of the interface that is attached to; 0 where we make it.
    pub ifindex: u32,
    /// Where the TAP was made.
    pub netns: Option<PathBuf>,
    pub addresses: Vec<Ipv4Addr>,
    /// Port open, every address routed to it.
    pub ready: bool,
}

/// Another node, or one of FelixConfiguration's externalNodesList.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFact {
    /// `None` for one that is not in the cluster.
    pub node: Option<String>,
    pub address: Ipv4Addr,
    /// What it is counted by.
    pub counted: Peer,
}

/// A port with the addresses of its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUse {
    pub port: PortFact,
    pub addresses: Vec<Ipv4Addr>,
}

/// What counters are kept of: a small part of [`Facts`], for those who look every second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub node: String,
    pub in_sync: bool,
    pub generation: u64,
    pub routes: usize,
    pub ports: Vec<PortUse>,
    pub peers: Vec<PeerFact>,
}

/// The daemon's state at one update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub node: String,
    pub uplink: String,
    pub in_sync: bool,
    pub generation: u64,
    pub address: Option<Ipv4Addr>,
    pub tunnel_address: Option<Ipv4Addr>,
    pub pod_mtu: Option<u16>,
    pub vni: u32,
    pub routes: Vec<RouteFact>,
    pub vteps: Vec<Vtep>,
    pub neighbours: Vec<NeighFact>,
    pub ports: Vec<PortFact>,
    pub endpoints: Vec<EndpointFact>,
    pub problems: Vec<String>,
    pub conflicts: Vec<ConflictRow>,
    /// Every setting with where it comes from.
    pub config: Vec<ConfigRow>,
}

/// Other nodes with metrics of their own: the first by name, so that the choice is stable.
pub const PEERS: usize = 256;

/// What metrics are made from besides counters: no more than that, as it is asked for every few seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub generation: u64,
    pub ports: Vec<PortFact>,
    /// What ports that are gone had done, by role.
    pub past_ports: BTreeMap<&'static str, PortTotals>,
    /// The first [`PEERS`] other nodes by name, and how many are left out.
    pub peers: Vec<PeerFact>,
    pub peers_omitted: usize,
    /// Routes in force by kind.
    pub routes: BTreeMap<&'static str, u64>,
    pub vteps: usize,
    pub pod_mtu: Option<u16>,
    pub problems: usize,
    /// Conflicts that are not over, by kind.
    pub conflicts: [u64; conflict::Kind::ALL.len()],
    /// Cluster-wide: nodes, and workloads that have an address.
    pub nodes: usize,
    pub workloads: usize,
    /// Routes of ours in the kernel's main table.
    pub host_routes: usize,
    /// Entries of the table of flows from the host stack.
    pub host_flows: usize,
}

/// A port in use and the interface that it is on.
#[derive(Clone, Debug)]
pub struct DumpPort {
    pub out: plan::Out,
    pub interface: String,
}

/// A route in force.
#[derive(Clone, Debug)]
pub struct DumpRoute {
    pub prefix: Ipv4Net,
    pub route: Route,
    pub adjacency: AdjId,
}

/// Everything that forwarding depends on, and what it follows from.
#[derive(Clone)]
pub struct Dump {
    pub node: String,
    pub snapshot: Arc<Snapshot>,
    pub ports: Vec<DumpPort>,
    pub routes: Vec<DumpRoute>,
    pub cluster: Cluster,
    /// Floating IPs that have a route, with the pod's own address that each stands for.
    pub floating: BTreeMap<Ipv4Addr, Ipv4Addr>,
    pub uplink_mtu: Option<u16>,
    pub flows: Vec<Entry>,
}

/// What can be asked of the control plane itself, with the place for its answer.
pub enum Request {
    Dump(SyncSender<Dump>),
    /// Write down the first `count` packets that match.
    Tap {
        filter: String,
        count: u64,
        answer: SyncSender<Result<Arc<Tap>, TapError>>,
    },
}

/// Why packets are not written down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("another trace or capture is running: stop it first")]
    Busy,
    #[error("a worker does not take commands")]
    Worker,
    #[error("the control plane does not answer")]
    Silent,
}

/// How long somebody who asks waits for the control plane; then the last answer must do.
const PATIENCE: Duration = Duration::from_secs(1);

/// A question that the control plane answers anew when somebody asks.
pub struct Board<T> {
    state: Mutex<State<T>>,
    /// Somebody asks.
    asked: Notify,
    /// There is an answer, or there will be none any more.
    answered: Condvar,
}

struct State<T> {
    last: Arc<T>,
    /// Questions so far, and how many of them `last` is younger than.
    questions: u64,
    answers: u64,
    /// Since when there is a question without an answer.
    waiting: Option<Instant>,
    /// Nobody answers.
    closed: bool,
}

impl<T> Board<T> {
    fn new(first: T) -> Board<T> {
        let state = State { last: Arc::new(first), questions: 0, answers: 0, waiting: None, closed: false };
        Board { state: Mutex::new(state), asked: Notify::new(), answered: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state as it is. Waits for the control plane: not to be called from its own thread.
    fn ask(&self) -> Arc<T> {
        let mut state = self.lock();
        state.questions += 1;
        let question = state.questions;
        if !state.closed {
            state.waiting.get_or_insert_with(Instant::now);
        }
        self.asked.notify_one();
        let open = |s: &mut State<T>| s.answers < question && !s.closed;
        let (state, _) = self.answered.wait_timeout_while(state, PATIENCE, open).unwrap_or_else(PoisonError::into_inner);
        state.last.clone()
    }

    /// Until somebody asks. Cancel-safe.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Answers all who asked so far.
    pub fn answer(&self, answer: impl FnOnce() -> T) {
        let questions = self.lock().questions;
        let last = Arc::new(answer());
        let mut state = self.lock();
        (state.last, state.answers) = (last, questions);
        if state.questions == questions {
            state.waiting = None;
        }
        self.answered.notify_all();
    }

    /// No answers any more: the last one stands.
    fn close(&self) {
        let mut state = self.lock();
        (state.closed, state.waiting) = (true, None);
        self.answered.notify_all();
    }
}

/// Facts and counters, shared with those who look.
pub struct Shared {
    node: String,
    facts: Board<Facts>,
    inventory: Board<Inventory>,
    figures: Board<Figures>,
    counters: Vec<Arc<Counters>>,
    requests: UnboundedSender<Request>,
    tally: Tally,
    probes: Arc<probe::Board>,
    monitoring: watch::Sender<Monitoring>,
    /// What keeps a service from being offered, by the service.
    faults: RwLock<BTreeMap<&'static str, String>>,
    /// What the services listen on, by service: where, and a duplicate for a successor.
    listeners: Mutex<BTreeMap<String, (String, OwnedFd)>>,
}

impl Shared {
    /// With the facts that hold until the first answer. Requests come out of the other end of `requests`.
    pub fn new(facts: Facts, counters: Vec<Arc<Counters>>, requests: UnboundedSender<Request>) -> Shared {
        let inventory = Inventory { node: facts.node.clone(), ..Inventory::default() };
        Shared {
            node: facts.node.clone(),
            facts: Board::new(facts),
            inventory: Board::new(inventory),
            figures: Board::new(Figures::default()),
            counters,
            requests,
            tally: Tally::default(),
            probes: Arc::default(),
            monitoring: watch::Sender::default(),
            faults: RwLock::default(),
            listeners: Mutex::default(),
        }
    }

    /// Asks the control plane for everything that is in force; blocks until it answers, ten seconds at most. Not to be
    /// called on the control plane's own thread.
    pub fn dump(&self) -> Option<Dump> {
        let (answer, receiver) = sync_channel(1);
        self.requests.send(Request::Dump(answer)).ok()?;
        receiver.recv_timeout(ANSWER_WAIT).ok()
    }

    /// Has the workers write down the first `count` packets that match a filter. Blocks as [`Shared::dump`] does.
    pub fn tap(&self, filter: String, count: u64) -> Result<Arc<Tap>, TapError> {
        let (answer, receiver) = sync_channel(1);
        self.requests.send(Request::Tap { filter, count, answer }).map_err(|_| TapError::Silent)?;
        receiver.recv_timeout(ANSWER_WAIT).unwrap_or(Err(TapError::Silent))
    }

    /// Everything that is in force, as it is. Waits for the control plane, a second at most: not to be called from its
    /// own thread.
    pub fn facts(&self) -> Arc<Facts> {
        self.facts.ask()
    }

    /// What counters are kept of. Waits as [`Shared::facts`] does.
    pub fn inventory(&self) -> Arc<Inventory> {
        self.inventory.ask()
    }

    /// What metrics are made from. Waits as [`Shared::facts`] does.
    pub fn figures(&self) -> Arc<Figures> {
        self.figures.ask()
    }

    /// Where the control plane answers [`Shared::figures`].
    pub fn figures_board(&self) -> &Board<Figures> {
        &self.figures
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Until somebody asks for the facts. Cancel-safe.
    pub async fn asked(&self) {
        self.facts.asked().await;
    }

    /// Answers all who asked for the facts so far.
    pub fn answer(&self, facts: impl FnOnce() -> Facts) {
        self.facts.answer(facts);
    }

    /// Where the control plane answers [`Shared::inventory`].
    pub fn inventory_board(&self) -> &Board<Inventory> {
        &self.inventory
    }

    /// No answers any more: the last ones stand.
    pub fn close(&self) {
        self.facts.close();
        self.inventory.close();
        self.figures.close();
    }

    /// One per worker.
    pub fn counters(&self) -> &[Arc<Counters>] {
        &self.counters
    }

    /// What control counts of its own work.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What the probes of other nodes say.
    pub fn probes(&self) -> &Arc<probe::Board> {
        &self.probes
    }

    /// Where metrics and health are to be served, now and whenever that changes.
    pub fn monitoring(&self) -> watch::Receiver<Monitoring> {
        self.monitoring.subscribe()
    }

    pub fn set_monitoring(&self, wanted: Monitoring) {
        self.monitoring.send_if_modified(|m| put(m, wanted));
    }

    /// Takes the listener that the daemon before had for a service, if it was there; forgets one that was elsewhere.
    pub fn take_listener(&self, service: &str, at: &str) -> Option<OwnedFd> {
        let (there, fd) = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(service)?;
        (there == at).then_some(fd)
    }

    /// Keeps a service's listener for a successor.
    pub fn keep_listener(&self, service: &str, at: &str, fd: OwnedFd) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(service.to_owned(), (at.to_owned(), fd));
    }

    /// Duplicates of all that are kept, by `service at`.
    pub fn listeners(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let kept = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|(service, (at, fd))| Ok((format!("{service} {at}"), fd.try_clone()?))).collect()
    }

    /// Says why a service is not offered, or that it is.
    pub fn fault(&self, service: &'static str, why: Option<String>) {
        let mut faults = self.faults.write().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(faults.insert(service, why)),
            None => drop(faults.remove(service)),
        }
    }

    /// Everything that is wrong, one line each: what the facts and the probes say, and what keeps services from being
    /// offered.
    pub fn problems(&self, facts: &Facts) -> Vec<String> {
        let faults = self.faults.read().unwrap_or_else(PoisonError::into_inner);
        let own = faults.iter().map(|(service, why)| format!("{service}: {why}"));
        facts.problems.iter().cloned().chain(own).chain(self.silence()).chain(self.probes.summary().problems).collect()
    }

    /// That the control plane does not answer, if it does not.
    fn silence(&self) -> Option<String> {
        let since = self.facts.lock().waiting?.elapsed();
        (since >= PATIENCE).then(|| {
            let seconds = since.as_secs();
            format!(
                "control plane: no answer for {seconds} s; packets are forwarded by what it said last; if it goes on, restart (`systemctl restart tortie`)"
            )
        })
    }

    /// How many services are not offered.
    pub fn faults(&self) -> usize {
        self.faults.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Packets that took a route since it was installed; `None` beyond the counted ones.
    pub fn packets(&self, route: &RouteFact) -> Option<u64> {
        plan::hits(&self.counters, route.id).map(|n| n.saturating_sub(route.base))
    }

    /// What passed to and from a node since it is known; nothing beyond the counted ones.
    pub fn peer(&self, peer: Peer) -> PeerTotals {
        PeerTotals::of(&self.counters, peer.id).since(peer.base)
    }
}

impl PortTotals {
    /// The sum over workers for a port number.
    pub fn of(counters: &[Arc<Counters>], id: PortId) -> PortTotals {
        let mut t = PortTotals::default();
        for c in counters.iter().map(|c| c.port(id)) {
            t.rx_frames += c.rx_frames.get();
            t.rx_bytes += c.rx_bytes.get();
            t.tx_frames += c.tx_frames.get();
            t.tx_bytes += c.tx_bytes.get();
            t.tx_dropped += c.tx_dropped.get();
            t.rx_dropped += c.rx_dropped.get();
        }
        t
    }

    pub fn add(&mut self, more: PortTotals) {
        self.rx_frames += more.rx_frames;
        self.rx_bytes += more.rx_bytes;
        self.tx_frames += more.tx_frames;
        self.tx_bytes += more.tx_bytes;
        self.tx_dropped += more.tx_dropped;
        self.rx_dropped += more.rx_dropped;
    }

    /// What was added since `base`.
    pub fn since(self, base: PortTotals) -> PortTotals {
        PortTotals {
            rx_frames: self.rx_frames.saturating_sub(base.rx_frames),
            rx_bytes: self.rx_bytes.saturating_sub(base.rx_bytes),
            tx_frames: self.tx_frames.saturating_sub(base.tx_frames),
            tx_bytes: self.tx_bytes.saturating_sub(base.tx_bytes),
            tx_dropped: self.tx_dropped.saturating_sub(base.tx_dropped),
            rx_dropped: self.rx_dropped.saturating_sub(base.rx_dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn who_asks_gets_an_answer_younger_than_the_question() {
        let shared = Arc::new(Shared::new(Facts::default(), Vec::new(), tokio::sync::mpsc::unbounded_channel().0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for generation in 1..50 {
            let asker = shared.clone();
            let asks = thread::spawn(move || asker.facts().generation);
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(5), shared.asked()).await.unwrap();
                shared.answer(|| Facts { generation, ..Facts::default() });
            });
            assert_eq!(asks.join().unwrap(), generation);
        }
        shared.close();
        assert_eq!(shared.facts().generation, 49, "the last answer stands");
    }
}
