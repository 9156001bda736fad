//! Death at every access. Each operation is cut off after its first access, its second, and so on; the documents must
//! be sound then, and nothing may be lost that a repetition, a release, or Calico's garbage collection does not bring
//! back.

use super::invariants::assert_sound;
use super::support::*;
use serde_json::{Value, json};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use tortie::control::datastore::objects::{AccessError, Resource};
use tortie::control::ipam::{AssignIp, AutoAssign, Ipam, IpamError, Listing, ReleaseRequest, Tunnel};
use tortie::testing::gc::{GRACE, GarbageCollector};
use tortie::testing::objects::{MemObjects, Op};

type Store = MemObjects;

/// How an operation dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// The task is dropped at its n-th wait.
    Dropped,
    /// From the n-th access on nothing answers.
    Unreachable,
    /// The n-th access takes effect, and from its answer on nothing arrives.
    Unanswered,
}

/// Runs `work` on a store that dies at step `n`; whether it got to its end.
async fn dies<F: Future<Output = Result<(), IpamError>>>(store: &Store, death: Death, n: usize, work: impl Fn(Store) -> F) -> bool {
    if let Death::Dropped = death {
        let mut work = pin!(work(store.clone()));
        return (0..n).any(|_| work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
    let (left, died) = (Rc::new(Cell::new(n)), Rc::new(Cell::new(false)));
    let (hook_died, hook_left) = (died.clone(), left);
    let hook = move |op: &Op| {
        hook_left.set(hook_left.get().saturating_sub(1));
        if hook_left.get() > 0 {
            return Ok(());
        }
        hook_died.set(true);
        Err(AccessError::Unavailable { what: format!("{op:?}"), message: "connection lost".into() })
    };
    let store = if let Death::Unreachable = death { store.before(hook) } else { store.after(hook) };
    let result = work(store).await;
    assert!(result.is_ok() || died.get(), "{result:?}");
    !died.get()
}

/// Two nodes, four blocks of two addresses, n1's block full.
async fn busy(store: &Store) {
    let one = ipam(store, "n1");
    for name in ["x", "y"] {
        assign(&one, name).await.unwrap();
    }
}

/// All that is assigned to pods that do not exist is found and released; then every address can be assigned.
async fn recovers(store: &Store, context: &str) {
    let ipam = ipam(store, "n1");
    pool(store, "p", json!({"cidr": "10.0.0.0/29", "blockSize": 31, "vxlanMode": "Always"}));
    let mut gc = GarbageCollector::default();
    for _ in 0..2 {
        let listing = Listing::read(store).await.unwrap();
        let leaks = gc.observe(&listing, now());
        ipam.release(&leaks).await.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_sound(store, context);
        advance(GRACE.as_secs() + 1);
    }
    let left: Vec<_> = in_use(store).into_iter().filter(|(_, handle)| !handle.contains("tunnel")).collect();
    assert!(left.is_empty(), "{context}: {left:?} stay assigned");
    let tunnels = in_use(store).len();
    let all = AutoAssign { count: 8 - tunnels, max_blocks: 8, ..AutoAssign::one(4, pod("all", "n1")) };
    let got = ipam.auto_assign(&all).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(got.addresses.len(), 8 - tunnels, "{context}: {:?} {:?}", owners(store), affinities(store));
    assert_sound(store, context);
}

/// Kills `work` at every step, in every way, each time on a new cluster.
async fn at_every_step<F, P>(name: &str, prepare: impl Fn(Store) -> P, work: impl Fn(Store) -> F)
where
    F: Future<Output = Result<(), IpamError>>,
    P: Future<Output = ()>,
{
    for death in [Death::Dropped, Death::Unreachable, Death::Unanswered] {
        let mut steps = 0;
        for n in 1.. {
            let store = cluster(&["n1", "n2"], json!({"cidr": "10.0.0.0/29", "blockSize": 31, "vxlanMode": "Always"}));
            prepare(store.clone()).await;
            let context = format!("{name}, {death:?} at {n}");
            let done = dies(&store, death, n, &work).await;
            assert_sound(&store, &context);
            if n % 2 == 0 {
                // Its node tries again: nothing stands in the way.
                work(store.clone()).await.unwrap_or_else(|e| panic!("{context}, again: {e}"));
                assert_sound(&store, &context);
            }
            recovers(&store, &context).await;
            steps = n;
            if done {
                break;
            }
        }
        assert!(steps > 4, "{name}: only {steps} steps");
    }
}

async fn assigned(ipam: Ipam<Store>, name: &str) -> Result<(), IpamError> {
    assign(&ipam, name).await.map(drop)
}

#[tokio::test]
async fn assigning_from_a_new_block() {
    at_every_step("first block", |_| async {}, |s| assigned(ipam(&s, "n1"), "a")).await;
    let second = |s: Store| async move { busy(&s).await };
    at_every_step("second block", second, |s| assigned(ipam(&s, "n1"), "a")).await;
}

#[tokio::test]
async fn assigning_from_the_own_block() {
    let prepare = |s: Store| async move { assigned(ipam(&s, "n1"), "x").await.unwrap() };
    at_every_step("own block", prepare, |s| assigned(ipam(&s, "n1"), "a")).await;
}

#[tokio::test]
async fn borrowing_and_taking_over() {
    let full = |s: Store| async move {
        let request = AutoAssign { count: 8, max_blocks: 8, ..AutoAssign::one(4, pod("x", "n1")) };
        ipam(&s, "n1").auto_assign(&request).await.unwrap();
    };
    // Two addresses are free: an attempt that dies may keep one.
    let nearly = |s: Store| async move {
        full(s.clone()).await;
        ipam(&s, "n1").release(&["10.0.0.1", "10.0.0.5"].map(|a| ReleaseRequest::any(ip(a)))).await.unwrap();
    };
    let old = |s: Store| async move {
        full(s.clone()).await;
        ipam(&s, "n1").release_by_handle("k8s-pod-network.x").await.unwrap();
        advance(61);
    };
    at_every_step("borrow", nearly, |s| assigned(ipam(&s, "n2"), "a")).await;
    at_every_step("take over", old, |s| assigned(ipam(&s, "n2"), "a")).await;
}

#[tokio::test]
async fn an_address_that_is_asked_for() {
    let request = || AssignIp { address: ip("10.0.0.5"), holder: pod("a", "n1"), usage: None };
    let work = |s: Store| async move {
        match ipam(&s, "n1").assign_ip(&request()).await {
            // By an attempt before, for the same pod.
            Err(IpamError::Refused(_)) => Ok(()),
            result => result,
        }
    };
    at_every_step("assign_ip", |_| async {}, work).await;
}

#[tokio::test]
async fn releasing() {
    let by_handle = |s: Store| async move { ipam(&s, "n1").release_by_handle("k8s-pod-network.x").await.map(drop) };
    at_every_step("by handle", |s: Store| async move { busy(&s).await }, by_handle).await;
    let by_address = |s: Store| async move { ipam(&s, "n1").release(&[ReleaseRequest::any(ip("10.0.0.0"))]).await.map(drop) };
    let full = |s: Store| async move {
        let request = AutoAssign { count: 8, max_blocks: 8, ..AutoAssign::one(4, pod("x", "n1")) };
        ipam(&s, "n1").auto_assign(&request).await.unwrap();
    };
    at_every_step("by address", full, by_address).await;
    let affinities = |s: Store| async move { ipam(&s, "n1").release_host_affinities("n1", false).await };
    at_every_step("affinities in use", |s: Store| async move { busy(&s).await }, affinities).await;
    let node = |s: Store| async move { ipam(&s, "n2").release_node("n1").await.map(drop) };
    at_every_step("node", |s: Store| async move { busy(&s).await }, node).await;
}

#[tokio::test]
async fn blocks_that_their_pool_no_longer_gives_the_node() {
    let prepare = |s: Store| async move {
        assigned(ipam(&s, "n1"), "x").await.unwrap();
        pool(&s, "p", json!({"cidr": "10.0.0.0/29", "blockSize": 31, "nodeSelector": "name == 'n2'"}));
    };
    let work = |s: Store| async move { ipam(&s, "n1").release_by_handle("k8s-pod-network.x").await.map(drop) };
    at_every_step("settle", prepare, work).await;
}

#[tokio::test]
async fn the_tunnel_address() {
    let work = |s: Store| async move {
        let Some(address) = ipam(&s, "n1").ensure_tunnel_address(Tunnel::Vxlan).await? else { panic!("a pool asks for one") };
        // As the node's start does.
        let annotations = json!({Tunnel::Vxlan.annotation(): address});
        s.put(Resource::Node, json!({"metadata": {"name": "n1", "annotations": annotations}}));
        Ok(())
    };
    at_every_step("tunnel", |_| async {}, work).await;
    let other = |s: Store| async move {
        assigned(ipam(&s, "n1"), "x").await.unwrap();
        let annotations: Value = json!({Tunnel::Vxlan.annotation(): in_use(&s)[0].0});
        s.put(Resource::Node, json!({"metadata": {"name": "n1", "annotations": annotations}}));
    };
    at_every_step("tunnel, a pod has its address", other, work).await;
}
