//! Address management, the same as Calico's: nodes of both may share a cluster, as they write the same documents, in the
//! same order, by compare-and-swap.
//!
//! A pool is cut into blocks. A node claims a block by a BlockAffinity (`pending`), creates the IPAMBlock, and confirms
//! the affinity; then it gives out the block's addresses. When its blocks are full it claims another one, in an order
//! that its name decides, takes over an empty one of another node, or borrows single addresses from
//! any block. An IPAMHandle counts the addresses that are released together; it is written before the block, so that
//! it never counts too few.
//!
//! ```no_run
//! # use tortie::control::{datastore::objects::Objects, ipam::{AutoAssign, Holder, Ipam, IpamError, Tunnel}};
//! # async fn f(store: impl Objects) -> Result<(), IpamError> {
//! let ipam = Ipam::new(store, "n1");
//! let holder = Holder { handle: Some("k8s-pod-network.0123".into()), ..Holder::default() };
//! let got = ipam.auto_assign(&AutoAssign::one(4, holder)).await?;
//! println!("{}", got.addresses[0]);
//! ipam.release_by_handle("k8s-pod-network.0123").await?;
//! let vtep = ipam.ensure_tunnel_address(Tunnel::Vxlan).await?;
//! # Ok(()) }
//! ```
//!
//! An operation may fail or be dropped between any two of its writes. What stays behind is never an address given
//! twice: it is an affinity without a block, a handle that counts too many, or an address whose holder does not exist,
//! all of which are found ([`check`]) and cleaned up by the next claim, a release by handle, or Calico's garbage
//! collection.

mod assign;
mod attribute;
mod block;
pub mod check;
mod claim;
mod config;
mod documents;
mod error;
mod fields;
mod gorand;
mod handles;
mod listing;
mod lock;
mod names;
mod pools;
mod release;
pub mod report;
mod reservations;
mod store;
mod tunnel;
mod walk;

pub use assign::{AssignIp, Assigned, AutoAssign};
pub use attribute::{Attribute, Holder, WINDOWS_RESERVED};
pub use block::{Allocated, Block, ReleaseRequest, Released};
pub use config::IpamConfig;
pub use documents::{Affinity, Handle};
pub use error::{IpamError, Refusal};
pub use listing::{ListedPod, Listing};
pub use names::{affinity as affinity_name, affinity_labels, block as block_name, handle as handle_name};
pub use pools::{Labels, Pool, Use, precedence};
pub use reservations::Reservations;
pub use tunnel::Tunnel;

use crate::control::datastore::objects::Objects;
use ipnet::IpNet;
use jiff::Timestamp;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use store::Store;

/// How often a compare-and-swap is tried again.
const RETRIES: usize = 100;
/// Longest time for one operation, once it has the host's lock.
const TIMEOUT: Duration = Duration::from_secs(90);
/// The lock that Calico's CNI plugin takes, too.
pub const LOCK_PATH: &str = "/var/run/calico/ipam.lock";

/// Address management for one node.
pub struct Ipam<S> {
    store: Store<S>,
    node: String,
    lock: Option<PathBuf>,
    mark: Option<PathBuf>,
    clock: fn() -> Timestamp,
}

impl<S: Objects> Ipam<S> {
    pub fn new(objects: S, node: impl Into<String>) -> Ipam<S> {
        Ipam { store: Store { objects }, node: node.into(), lock: None, mark: None, clock: Timestamp::now }
    }

    /// Only one process of the host at a time assigns and releases: they would have to repeat each other's work. It is
    /// for speed; without the lock nothing goes wrong. Normally [`LOCK_PATH`].
    pub fn with_lock(self, path: impl Into<PathBuf>) -> Ipam<S> {
        Ipam { lock: Some(path.into()), ..self }
    }

    /// A file of this host that is there once all claims of this node have labels by which the server finds them; it is
    /// made when they do. Without it all nodes' claims are read each time. Normally `/var/run/calico/cni/ipam_upgraded`,
    /// which Calico's CNI plugin makes, too.
    pub fn with_mark(self, path: impl Into<PathBuf>) -> Ipam<S> {
        Ipam { mark: Some(path.into()), ..self }
    }

    /// Another clock than the system's.
    pub fn with_clock(self, clock: fn() -> Timestamp) -> Ipam<S> {
        Ipam { clock, ..self }
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    pub fn objects(&self) -> &S {
        &self.store.objects
    }

    /// This node as a block's owner.
    fn owner(&self) -> String {
        format!("host:{}", self.node)
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// A block as it is now: addresses whose cooldown is over are free.
    async fn block(&self, cidr: IpNet, config: &IpamConfig) -> Result<Option<Block>, IpamError> {
        Ok(self.store.block(cidr).await?.map(|block| self.thawed(block, config)))
    }

    fn thawed(&self, mut block: Block, config: &IpamConfig) -> Block {
        block.end_cooldown(self.now(), config.cooldown());
        block
    }

    /// Does `work` under the host's lock, within the timeout that begins once the lock is held.
    async fn exclusively<T>(&self, work: impl Future<Output = Result<T, IpamError>>) -> Result<T, IpamError> {
        let _lock = match &self.lock {
            Some(path) => lock::acquire(path).await,
            None => None,
        };
        tokio::time::timeout(TIMEOUT, work).await.unwrap_or(Err(IpamError::Timeout { seconds: TIMEOUT.as_secs() }))
    }
}

/// The prefix of a length that holds an address.
fn net(address: IpAddr, prefix_len: u8) -> IpNet {
    let net = IpNet::new(address, prefix_len).unwrap_or(IpNet::from(address));
    net.trunc()
}
