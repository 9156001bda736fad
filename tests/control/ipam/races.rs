//! Many allocators at once, on a store that refuses, loses replies and lets others come first; seeded.

use super::invariants::assert_sound;
use super::support::*;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use tokio::task::LocalSet;
use tortie::control::datastore::objects::{AccessError, Resource};
use tortie::control::ipam::{AutoAssign, Ipam, Listing, ReleaseRequest};
use tortie::testing::gc::{GRACE, GarbageCollector};
use tortie::testing::objects::{MemObjects, Op};

/// xorshift64.
#[derive(Clone)]
pub struct Random(Rc<Cell<u64>>);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(Rc::new(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)))
    }

    pub fn below(&self, limit: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        (x >> 11) % limit
    }
}

/// Faults per thousand accesses.
#[derive(Clone, Copy)]
struct Faults {
    conflict: u64,
    unreachable: u64,
    lost: u64,
}

fn faulty(store: &MemObjects, random: &Random, faults: Faults) -> MemObjects {
    let (before, after) = (random.clone(), random.clone());
    let lost = |op: &Op| AccessError::Unavailable { what: format!("{op:?}"), message: "injected".into() };
    let conflicts = |op: &Op| match op {
        Op::Update(id) | Op::Delete(id) => Some(AccessError::Conflict { id: id.clone() }),
        _ => None,
    };
    let store = store.before(move |op| match before.below(1000) {
        n if n < faults.conflict => conflicts(op).map_or(Ok(()), Err),
        n if n < faults.conflict + faults.unreachable => Err(lost(op)),
        _ => Ok(()),
    });
    store.after(move |op| if op.is_write() && after.below(1000) < faults.lost { Err(lost(op)) } else { Ok(()) })
}

/// Who has which address, as the allocators were told.
#[derive(Default)]
struct Ledger {
    held: BTreeMap<IpAddr, String>,
    log: Vec<String>,
}

/// One task: pods come and go on one node.
struct Allocator {
    ipam: Ipam<MemObjects>,
    store: MemObjects,
    random: Random,
    ledger: Rc<RefCell<Ledger>>,
    number: usize,
    /// Handle and addresses.
    pods: Vec<(String, Vec<IpAddr>)>,
}

impl Allocator {
    async fn run(mut self, steps: usize) {
        for step in 0..steps {
            for _ in 0..self.random.below(4) {
                tokio::task::yield_now().await;
            }
            match self.random.below(10) {
                0..5 => self.assign(step).await,
                5..8 => self.release_by_handle().await,
                8 => self.release_by_address().await,
                _ => drop(self.ipam.release_host_affinities(self.ipam.node(), true).await),
            }
            // Reading all documents is most of the work.
            if self.random.below(6) == 0 {
                assert_sound(&self.store, &format!("{} {step}", self.ipam.node()));
            }
        }
    }

    async fn assign(&mut self, step: usize) {
        let name = format!("{}-{step}", self.number);
        let request = AutoAssign { count: 1 + self.random.below(3) as usize, ..AutoAssign::one(4, pod(&name, self.ipam.node())) };
        let Ok(got) = self.ipam.auto_assign(&request).await else { return };
        let handle = request.holder.handle.unwrap();
        let mut ledger = self.ledger.borrow_mut();
        for address in &got.addresses {
            let other = ledger.held.insert(*address, handle.clone());
            assert_eq!(other, None, "{address} was given to {handle}: {:#?}", ledger.log);
            ledger.log.push(format!("{address} to {handle}"));
        }
        drop(ledger);
        self.pods.push((handle, got.addresses));
    }

    fn leave(&mut self) -> Option<(String, Vec<IpAddr>)> {
        if self.pods.is_empty() {
            return None;
        }
        let index = self.random.below(self.pods.len() as u64) as usize;
        let (handle, addresses) = self.pods.swap_remove(index);
        let mut ledger = self.ledger.borrow_mut();
        addresses.iter().for_each(|a| drop(ledger.held.remove(a)));
        ledger.log.push(format!("{handle} leaves"));
        drop(ledger);
        Some((handle, addresses))
    }

    async fn release_by_handle(&mut self) {
        if let Some((handle, _)) = self.leave() {
            // Errors leave a leak for the garbage collection.
            drop(self.ipam.release_by_handle(&handle).await);
        }
    }

    async fn release_by_address(&mut self) {
        if let Some((handle, addresses)) = self.leave() {
            let request = |address| ReleaseRequest { handle: Some(handle.clone()), ..ReleaseRequest::any(address) };
            let requests: Vec<_> = addresses.into_iter().map(request).collect();
            drop(self.ipam.release(&requests).await);
        }
    }
}

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

async fn history(seed: u64, faults: Faults) {
    let store = cluster(&NODES, json!({"cidr": "10.0.0.0/26", "blockSize": 30}));
    let (random, ledger) = (Random::new(seed), Rc::new(RefCell::new(Ledger::default())));
    let tasks = LocalSet::new();
    for number in 0..8 {
        let watched = faulty(&store, &random, faults);
        let ipam = ipam(&watched, NODES[number % NODES.len()]);
        let (random, ledger, store) = (random.clone(), ledger.clone(), store.clone());
        let allocator = Allocator { ipam, store, random, ledger, number, pods: Vec::new() };
        tasks.spawn_local(async move {
            let task = tokio::task::spawn_local(allocator.run(40));
            if let Err(e) = task.await {
                std::panic::resume_unwind(e.into_panic());
            }
        });
    }
    let clock = {
        let random = random.clone();
        async move {
            for _ in 0..200 {
                tokio::task::yield_now().await;
                advance(random.below(30) as i64);
            }
        }
    };
    tasks.spawn_local(clock);
    tasks.await;
    let held = ledger.borrow().held.clone();
    settle(&store, &held, seed).await;
}

/// Every address that somebody was told to have is recorded as his; what else is in use is leaked and found as such;
/// then all is assigned once more.
async fn settle(store: &MemObjects, held: &BTreeMap<IpAddr, String>, seed: u64) {
    let context = format!("seed {seed}");
    for handle in held.values().collect::<BTreeSet<_>>() {
        let name = handle.strip_prefix("k8s-pod-network.").unwrap();
        let number: usize = name.split('-').next().unwrap().parse().unwrap();
        let addresses: Vec<_> = held.iter().filter(|(_, h)| *h == handle).map(|(a, _)| json!({"ip": a})).collect();
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": NODES[number % 4]}, "status": {"podIPs": addresses}});
        store.put(Resource::Pod, pod);
    }
    let mut gc = GarbageCollector::default();
    let node = ipam(store, "n1");
    for _ in 0..2 {
        let leaks = gc.observe(&Listing::read(store).await.unwrap(), now());
        node.release(&leaks).await.unwrap_or_else(|e| panic!("{context}: {e}"));
        advance(GRACE.as_secs() + 1);
    }
    let recorded: BTreeMap<IpAddr, String> = in_use(store).into_iter().collect();
    assert_eq!(recorded, *held, "{context}");
    let rest = AutoAssign { count: 64, max_blocks: 64, ..AutoAssign::one(4, pod("rest", "n1")) };
    let got = node.auto_assign(&rest).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(got.addresses.len() + held.len(), 64, "{context}: no address is lost");
    assert_sound(store, &context);
}

#[tokio::test(flavor = "current_thread")]
async fn many_allocators_without_faults() {
    for seed in 0..12 {
        history(seed, Faults { conflict: 0, unreachable: 0, lost: 0 }).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn many_allocators_with_faults() {
    for seed in 100..120 {
        history(seed, Faults { conflict: 50, unreachable: 15, lost: 15 }).await;
    }
}

/// Tasks with the same handle: it comes and goes as the last of them releases and the next assigns.
#[tokio::test(flavor = "current_thread")]
async fn one_handle_of_many() {
    for seed in 0..10 {
        let store = cluster(&["n1"], json!({"cidr": "10.0.0.0/28", "blockSize": 30}));
        let (random, tasks) = (Random::new(seed), LocalSet::new());
        for _ in 0..4 {
            let (store, random) = (store.clone(), random.clone());
            let task = async move {
                let ipam = ipam(&store, "n1");
                for step in 0..20 {
                    let address = assign(&ipam, "shared").await.unwrap();
                    for _ in 0..random.below(3) {
                        tokio::task::yield_now().await;
                    }
                    assert_sound(&store, &format!("seed {seed}, {step} assigned"));
                    ipam.release(&[ReleaseRequest::any(address)]).await.unwrap();
                    assert_sound(&store, &format!("seed {seed}, {step} released"));
                }
            };
            tasks.spawn_local(async move {
                if let Err(e) = tokio::task::spawn_local(task).await {
                    std::panic::resume_unwind(e.into_panic());
                }
            });
        }
        tasks.await;
        assert!(in_use(&store).is_empty() && handles(&store).is_empty(), "seed {seed}: {:?}", handles(&store));
    }
}
