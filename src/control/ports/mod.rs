//! The port manager: keeps open ports in line with the endpoints and with the links that are there.
//!
//! A port goes through: wanted → open in every worker → (failed, changed or gone) → closed in every worker →
//! opened again or forgotten. It is not opened again before every worker has let go of it, because most
//! methods allow one owner only.

mod carry;
mod entry;
mod slots;
mod wish;

pub use wish::{Fixed, Key, Wish, Wishes};

use super::desired::{Desired, ThisNode};
use super::facts::PortTotals;
use super::netlink::View;
use super::plan::{self, Underlay};
use crate::frame::PortId;
use crate::port::losses::LossReader;
use crate::port::open::{Opened, OpenedUplink};
use crate::wire::Mac;
use crate::worker::{Command, Counters, Mailbox};
use entry::{Entry, Parts, State};
use slots::Slots;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A worker that does not confirm a close within this time is taken to have done it.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Ports that are opened in one go. To attach a program to an interface the kernel waits for an RCU grace period, some ten
/// milliseconds: what is open is put in force before the next ones, or the routes would wait for a node's last pod.
const OPENED_AT_ONCE: usize = 8;

/// Opens ports: the kernel in the daemon, memory in tests. An error is the list of methods that were refused.
pub trait Opener {
    /// One queue per worker.
    fn workload(&mut self, wish: &Wish) -> Result<Opened, Vec<String>>;
    fn uplink(&mut self, wish: &Wish) -> Result<OpenedUplink, Vec<String>>;
    fn host(&mut self, wish: &Wish) -> Result<Opened, Vec<String>>;
    /// Gives the device that was made for the port the wish's MTU, the port staying open; false if it cannot.
    fn resize(&mut self, wish: &Wish) -> bool;
    /// Removes the device that was made for the port, if one was.
    fn discard(&mut self, wish: &Wish);
}

/// The readers of a port's sockets. Equal if they read the same sockets.
#[derive(Clone, Debug)]
pub struct Losses(pub Arc<[LossReader]>);

impl PartialEq for Losses {
    fn eq(&self, other: &Losses) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Losses {}

/// One port as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFact {
    pub id: PortId,
    pub name: String,
    /// uplink, workload or host.
    pub role: &'static str,
    /// `namespace/pod` where known, else the endpoint's name; workloads' ports only.
    pub workload: Option<String>,
    pub driver: Option<&'static str>,
    pub refused: Vec<String>,
    pub state: String,
    pub mtu: Option<u16>,
    pub queues: u16,
    /// What the number's counters stood at when the port got it.
    pub base: PortTotals,
    /// Where to read what the kernel lost.
    pub losses: Losses,
}

/// All ports of this node.
pub struct PortManager<O> {
    opener: O,
    mailboxes: Vec<Arc<Mailbox>>,
    counters: Vec<Arc<Counters>>,
    /// What did not fit into a worker's mailbox yet, in order.
    outbox: Vec<VecDeque<Command>>,
    slots: Slots,
    entries: BTreeMap<Key, Entry>,
    /// MACs that ARP showed, by endpoint.
    learned: BTreeMap<String, Mac>,
    problems: Vec<String>,
    /// What ports that are gone had done, by role.
    past: BTreeMap<&'static str, PortTotals>,
    /// How many may still be opened this time.
    room: usize,
}

impl<O: Opener> PortManager<O> {
    pub fn new(opener: O, mailboxes: Vec<Arc<Mailbox>>, counters: Vec<Arc<Counters>>) -> PortManager<O> {
        let outbox = mailboxes.iter().map(|_| VecDeque::new()).collect();
        PortManager {
            opener,
            mailboxes,
            counters,
            outbox,
            slots: Slots::default(),
            entries: BTreeMap::new(),
            learned: BTreeMap::new(),
            problems: Vec::new(),
            past: BTreeMap::new(),
            room: 0,
        }
    }

    pub fn opener(&mut self) -> &mut O {
        &mut self.opener
    }

    /// Opens what is wanted and possible, closes what is not wanted any more, tries again what is due. True
    /// if what the data plane should know has changed. Where many are to be opened, the rest is due at once.
    pub fn sync(&mut self, wishes: Wishes, now: Instant) -> bool {
        self.room = OPENED_AT_ONCE;
        let mut changed = false;
        self.problems = wishes.problems;
        let gone: Vec<Key> = self.entries.keys().filter(|k| !wishes.by_key.contains_key(*k)).cloned().collect();
        for key in gone {
            self.forget(&key, now);
            changed = true;
        }
        for (key, wish) in wishes.by_key {
            changed |= self.adjust(key, wish, now);
        }
        self.flush();
        changed
    }

    fn adjust(&mut self, key: Key, wish: Wish, now: Instant) -> bool {
        if !self.entries.contains_key(&key) {
            let ids = (0..key.ports()).map(|_| self.slots.take()).collect::<Option<Vec<_>>>();
            let Some(ids) = ids else {
                self.problems.push(format!("{key}: more ports than this program can number; it is not connected"));
                return false;
            };
            let bases = ids.iter().map(|id| PortTotals::of(&self.counters, *id)).collect();
            self.entries.insert(key.clone(), Entry::new(ids, bases, wish.clone(), now));
        }
        let Some(entry) = self.entries.get_mut(&key) else { return false };
        let mut changed = false;
        if entry.wish != wish {
            // The device was made for the old wish only if it would not serve the new one.
            let old = std::mem::replace(&mut entry.wish, wish);
            if let Key::Workload(name) = &key
                && old.ifindex != entry.wish.ifindex
            {
                // Another device has another MAC behind it: the pod is asked again.
                self.learned.remove(name);
            }
            if old.differs_in_mtu_alone(&entry.wish) && entry.is_up() && self.opener.resize(&entry.wish) {
                // Nothing in flight is lost, as it would be if the port were opened again.
                entry.resized();
                changed = true;
            } else if entry.is_up() {
                tracing::info!("{key}: {} changed; opening it again", old.interface);
                self.close(&key, None, now);
                changed = true;
            } else if let State::Down { retry, attempts, .. } = &mut entry.state {
                (*retry, *attempts) = (now, 0);
            }
            if let Some(e) = self.entries.get(&key).filter(|e| !old.same_device(&e.wish)) {
                tracing::debug!("{key}: {} replaces {}", e.wish.interface, old.interface);
                self.opener.discard(&old);
            }
        }
        changed | self.advance(&key, now)
    }

    /// Moves one entry on as far as it goes now.
    fn advance(&mut self, key: &Key, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if let State::Closing { pending, since, retry, attempts, why } = &mut entry.state {
            if !pending.is_empty() && now.saturating_duration_since(*since) < CLOSE_WAIT {
                return false;
            }
            entry.state = State::Down { why: std::mem::take(why), retry: *retry, attempts: *attempts };
        }
        let State::Down { retry, attempts, .. } = &entry.state else { return false };
        let attempts = *attempts;
        if let Some(missing) = &entry.wish.missing {
            entry.state = State::Down { why: missing.clone(), retry: now, attempts: 0 };
            entry.driver = None;
            return false;
        }
        if *retry > now || self.room == 0 {
            return false;
        }
        self.room -= 1;
        self.open(key, attempts, now)
    }

    fn open(&mut self, key: &Key, attempts: u32, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let result = match key {
            Key::Uplink => self.opener.uplink(&entry.wish).map(Parts::from),
            Key::Host => self.opener.host(&entry.wish).map(Parts::from),
            Key::Workload(_) => self.opener.workload(&entry.wish).map(Parts::from),
        };
        match result {
            Ok(parts) => {
                tracing::info!("{key}: {} is open by {}", entry.wish.interface, parts.driver);
                parts.refused.iter().for_each(|r| tracing::info!("{key}: not used: {r}"));
                entry.driver = Some(parts.driver);
                entry.refused = parts.refused;
                let mut outs = Vec::with_capacity(entry.ids.len());
                entry.losses.clear();
                for (id, queues) in entry.ids.iter().zip(parts.sets) {
                    entry.losses.push((*id, Losses(queues.iter().flat_map(|p| p.losses()).collect())));
                    outs.push(queues.first().map(|p| plan::Out::new(*id, p.caps(), entry.wish.mtu)));
                    for (worker, port) in queues.into_iter().enumerate().take(self.outbox.len()) {
                        self.outbox[worker].push_back(Command::AddPort { id: *id, port });
                    }
                }
                entry.state = State::Up { outs };
                entry.openings += 1;
                true
            }
            Err(refused) => {
                let why = refused.last().cloned().unwrap_or_else(|| "no method is left".into());
                if attempts == 0 {
                    tracing::warn!("{key}: {} could not be opened: {}", entry.wish.interface, refused.join("; "));
                }
                entry.driver = None;
                entry.refused = refused;
                entry.state = State::Down { why, retry: now + backoff(attempts), attempts: attempts + 1 };
                false
            }
        }
    }

    /// Has every worker close the entry's ports. With a reason it is a failure, and the next try waits.
    fn close(&mut self, key: &Key, why: Option<String>, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        for id in &entry.ids {
            for o in &mut self.outbox {
                o.push_back(Command::RemovePort { id: *id });
            }
        }
        let pending = entry.ids.iter().flat_map(|id| (0..self.mailboxes.len()).map(|w| (*id, w))).collect();
        let failed = why.is_some();
        let retry = if failed { now + backoff(0) } else { now };
        entry.state = State::Closing {
            pending,
            since: now,
            retry,
            attempts: u32::from(failed),
            why: why.unwrap_or_else(|| "being opened again".into()),
        };
    }

    /// The port is not wanted any more: closed, its device removed if it was ours, its number freed in time.
    fn forget(&mut self, key: &Key, now: Instant) {
        if self.entries.get(key).is_some_and(|e| e.is_up()) {
            self.close(key, None, now);
        }
        let Some(entry) = self.entries.remove(key) else { return };
        tracing::info!("{key}: {} detached", entry.wish.interface);
        let past = self.past.entry(key.role()).or_default();
        for (id, base) in entry.ids.iter().zip(&entry.bases) {
            past.add(PortTotals::of(&self.counters, *id).since(*base));
        }
        for id in &entry.ids {
            let pending = match &entry.state {
                State::Closing { pending, .. } => pending.iter().filter(|(i, _)| i == id).map(|(_, w)| *w).collect(),
                _ => BTreeSet::new(),
            };
            self.slots.release(*id, pending);
        }
        if let Key::Workload(name) = key {
            self.learned.remove(name);
        }
        self.opener.discard(&entry.wish);
    }

    /// A worker lost the port. True if the data plane should know.
    pub fn failed(&mut self, worker: usize, id: PortId, error: &str, now: Instant) -> bool {
        let Some(key) = self.key_of(id) else { return false };
        if !self.entries.get(&key).is_some_and(|e| e.is_up()) {
            return false;
        }
        tracing::warn!("{key}: worker {worker}: {error}; opening it again when it can be");
        self.close(&key, Some(error.to_owned()), now);
        self.flush();
        true
    }

    /// A worker closed its queue as told.
    pub fn closed(&mut self, worker: usize, id: PortId) {
        self.slots.closed(id, worker);
        if let Some(State::Closing { pending, .. }) = self.key_of(id).and_then(|k| self.entries.get_mut(&k)).map(|e| &mut e.state) {
            pending.remove(&(id, worker));
        }
    }

    /// A worker died: every port needs a queue in its successor, so all are opened again.
    pub fn worker_gone(&mut self, worker: usize, now: Instant) {
        self.slots.worker_gone(worker);
        self.outbox[worker].clear();
        let up: Vec<Key> = self.entries.iter().filter(|(_, e)| e.is_up()).map(|(k, _)| k.clone()).collect();
        for key in up {
            self.close(&key, None, now);
        }
        self.outbox[worker].clear();
        for entry in self.entries.values_mut() {
            if let State::Closing { pending, .. } = &mut entry.state {
                pending.retain(|(_, w)| *w != worker);
            }
        }
    }

    /// ARP showed an endpoint's MAC. True if it is news.
    pub fn learn(&mut self, id: PortId, mac: Mac) -> bool {
        match self.key_of(id) {
            Some(Key::Workload(name)) if !mac.is_group() => self.learned.insert(name, mac) != Some(mac),
            _ => false,
        }
    }

    /// Something on the host changed: what is down is tried again at once.
    pub fn hurry(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            if let State::Down { retry, .. } | State::Closing { retry, .. } = &mut entry.state {
                *retry = now;
            }
        }
    }

    /// Closes and opens again every port, to put a changed choice of methods into force.
    pub fn reopen(&mut self, now: Instant) {
        let keys: Vec<Key> = self.entries.keys().cloned().collect();
        for key in keys {
            if self.entries.get(&key).is_some_and(|e| e.is_up()) {
                self.close(&key, None, now);
            }
        }
        self.hurry(now);
        self.flush();
    }

    /// Closes a port and opens it again.
    pub fn reopen_one(&mut self, key: &Key, now: Instant) {
        if self.entries.get(key).is_some_and(|e| e.is_up()) {
            self.close(key, None, now);
            self.flush();
        }
    }

    /// Which opening of the port this is; `None` if it is not open.
    pub fn opening(&self, key: &Key) -> Option<u64> {
        self.entries.get(key).filter(|e| e.is_up()).map(|e| e.openings)
    }

    /// A generation was published that knows the present ports.
    pub fn published(&mut self, generation: u64) {
        self.slots.published(generation);
    }

    /// Frees numbers, moves closing ports on, sends what waits. True if the data plane should know.
    pub fn tick(&mut self, oldest_in_use: u64, now: Instant) -> bool {
        self.slots.reap(oldest_in_use);
        self.room = OPENED_AT_ONCE;
        let keys: Vec<Key> = self.entries.keys().cloned().collect();
        let mut changed = false;
        for key in keys {
            changed |= self.advance(&key, now);
        }
        self.flush();
        changed
    }

    /// Whether commands wait for room in a worker's mailbox.
    pub fn is_sending(&self) -> bool {
        self.outbox.iter().any(|o| !o.is_empty())
    }

    /// When `tick` has something to do, if it has.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let busy = self.slots.is_draining() || self.is_sending();
        let soon = busy.then(|| now + Duration::from_millis(20));
        let entries = self.entries.values().filter_map(|e| match &e.state {
            State::Up { .. } => None,
            State::Closing { pending, retry, since, .. } => Some(if pending.is_empty() { *retry } else { *since + CLOSE_WAIT }),
            State::Down { retry, .. } => e.wish.missing.is_none().then_some(*retry),
        });
        entries.chain(soon).min()
    }

    /// Ports for the plan.
    pub fn ports(&self) -> plan::Ports {
        let mut out = plan::Ports::default();
        for (key, entry) in &self.entries {
            if !entry.is_up() {
                continue;
            }
            match key {
                Key::Uplink => {
                    out.uplink = Some(Underlay {
                        dev: entry.wish.ifindex,
                        name: entry.wish.interface.clone(),
                        mac: entry.wish.mac.unwrap_or_default(),
                        mtu: plan::mtu16(entry.wish.mtu),
                        vxlan: entry.out(0),
                        ipip: entry.out(1),
                        direct: entry.out(2),
                    });
                }
                Key::Host => out.host = entry.out(0),
                Key::Workload(name) => {
                    let set = entry.wish.mac.filter(|_| entry.wish.netns.is_some());
                    let mac = set.or_else(|| self.learned.get(name).copied());
                    if let Some(o) = entry.out(0) {
                        out.workloads.insert(name.clone(), plan::Workload { out: o, mac });
                    }
                }
            }
        }
        out
    }

    /// Whether the uplink is open.
    pub fn is_up(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|e| e.is_up())
    }

    /// All ports for people; one row per number in use.
    pub fn facts(&self) -> Vec<PortFact> {
        self.entries.iter().flat_map(|(key, e)| e.facts(key, self.mailboxes.len())).collect()
    }

    /// What ports that are gone had done, by role. Together with the facts' totals it never goes down.
    pub fn past(&self) -> &BTreeMap<&'static str, PortTotals> {
        &self.past
    }

    /// What keeps ports from being open, one line each.
    pub fn problems(&self) -> Vec<String> {
        let down = self.entries.iter().filter_map(|(key, e)| match &e.state {
            State::Down { why, .. } => Some(format!("{key}: {} is not connected: {why}", e.wish.interface)),
            _ => None,
        });
        self.problems.iter().cloned().chain(down).collect()
    }

    /// Removes the devices that were made for the host's side. A pod's TAP is the pod's: it stays with its
    /// addresses for the next daemon, and goes with its endpoint or its namespace. The workers must have been
    /// stopped.
    pub fn shut_down(&mut self) {
        for (key, entry) in std::mem::take(&mut self.entries) {
            if !matches!(key, Key::Workload(_)) {
                self.opener.discard(&entry.wish);
            }
        }
    }

    /// The interfaces that are waited for or in use, to tell whether a change on the host matters.
    pub fn wishes(&self) -> impl Iterator<Item = (&Key, &Wish)> {
        self.entries.iter().map(|(k, e)| (k, &e.wish))
    }

    fn key_of(&self, id: PortId) -> Option<Key> {
        self.entries.iter().find(|(_, e)| e.ids.contains(&id)).map(|(k, _)| k.clone())
    }

    fn flush(&mut self) {
        for (mailbox, queue) in self.mailboxes.iter().zip(&mut self.outbox) {
            while let Some(c) = queue.pop_front() {
                if let Err(back) = mailbox.command(c) {
                    queue.push_front(back);
                    break;
                }
            }
        }
    }
}

/// 100 ms, doubled with each try, at most 5 s.
fn backoff(attempts: u32) -> Duration {
    Duration::from_millis(100u64 << attempts.min(6)).min(Duration::from_secs(5))
}

/// What ports there should be, from the cluster's state and the links that exist.
pub fn wishes(desired: &Desired, node: &ThisNode, view: &View, fixed: &Fixed) -> Wishes {
    wish::collect(desired, node, view, fixed)
}

#[cfg(test)]
mod tests;
