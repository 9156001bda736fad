//! Probes: each node measures the way to each other node, in the tunnel itself, and says what stands in it.
//!
//! [`packet`] and [`train`] are the forms, [`peer`] what is known of one peer, [`diagnose`] what that means, [`field`] all peers
//! and whose turn it is; those are pure. [`thread`](mod@thread) has the sockets.

pub mod diagnose;
pub mod field;
mod limit;
pub mod packet;
pub mod peer;
mod rounds;
mod search;
pub mod settings;
pub mod target;
mod thread;
pub mod train;

#[cfg(test)]
pub mod tests;

pub use field::Summary;
pub use settings::Settings;
pub use target::{Path, Target};
pub use thread::Prober;

use crate::ops::view::PeersRow;
use field::Field;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is to be measured.
#[derive(Clone, PartialEq, Eq)]
pub struct Orders {
    /// Why nothing is to be.
    pub off: Option<String>,
    /// What the key is made of.
    pub secret: Option<Arc<[u8]>>,
    pub interval: Duration,
    /// Whether a full probe alone has to do where nothing is in doubt.
    pub lean: bool,
    /// Interfaces on which probes for this host come in: the host device, and the uplink where some peers are reached
    /// without encapsulation.
    pub devices: [Option<u32>; 2],
    pub address: Option<Ipv4Addr>,
    pub tunnel_address: Option<Ipv4Addr>,
    pub vni: u32,
    pub targets: Vec<Target>,
    /// Underlay addresses whose neighbour entry is FAILED.
    pub failed: BTreeSet<Ipv4Addr>,
}

impl Default for Orders {
    fn default() -> Orders {
        Orders {
            off: Some("the cluster's state is not known yet".into()),
            secret: None,
            interval: settings::INTERVAL,
            lean: false,
            devices: [None; 2],
            address: None,
            tunnel_address: None,
            vni: 0,
            targets: Vec::new(),
            failed: BTreeSet::new(),
        }
    }
}

/// What is known of all peers, for whoever looks.
pub struct Board {
    field: Mutex<Field>,
    started: Instant,
}

impl Default for Board {
    fn default() -> Board {
        // A hasher of std's is seeded at random.
        Board { field: Mutex::new(Field::new(RandomState::new().build_hasher().finish())), started: Instant::now() }
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Field> {
        self.field.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    pub fn rows(&self) -> PeersRow {
        self.lock().rows(self.now())
    }

    pub fn summary(&self) -> Summary {
        self.lock().summary(self.now())
    }
}
