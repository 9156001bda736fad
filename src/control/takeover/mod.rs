//! What a running daemon and its successor tell each other, over the abstract socket that the running one holds as its
//! claim to the network namespace.
//!
//! ```text
//! successor                     running daemon
//! Hello              ->                           is refused if it comes from another version or configuration
//!                    <-         State, Memory..., Queue..., End   descriptors of all ports, of listeners, of the lock
//! (opens, plans, publishes; its workers are paused)
//! Pause              ->                           its workers forward what they have and stop reading
//!                    <-         Paused            what they know of flows, and whose the slots of their pools are
//! (its workers take note)
//! Ready              ->
//!                    <-         Yours             its workers will not use anything again
//! (its workers resume)
//!                    <-         Gone              what they have counted; it ends, and cleans nothing up
//! ```
//!
//! Until it has said `Yours` the running daemon is in charge: when the connection closes or a deadline passes, its workers
//! go on with the descriptors that it has kept. Nothing that both could use is used by both: the rings of an AF_XDP socket
//! know one user only.

mod channel;

pub use channel::{Channel, MAX_FDS, Received};

use crate::flows::Entry;
use crate::frame::{BIG_SLOT, PortId, SMALL_SLOT};
use crate::worker::{Paused, PeerTotal, PortTotals, Reasons, Totals};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Of these messages and of what the descriptors mean.
pub const VERSION: u32 = 2;

/// How long the running daemon waits for each message before it has paused: its control plane stands still meanwhile.
pub const PREPARE: Duration = Duration::from_secs(10);
/// The same once it has paused: then packets wait in the kernel's buffers.
pub const SWITCH: Duration = Duration::from_secs(1);

/// What the successor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Say {
    Hello(Hello),
    Pause,
    /// It goes on with these ports of [`State::ports`], by key. What was passed on of the others is closed again.
    Ready(Vec<String>),
}

/// What the running daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Refused(String),
    /// With the descriptors of the lock file, the claim's socket and [`State::services`], in this order.
    State(State),
    /// With one descriptor.
    Memory(Memory),
    /// With the descriptors [`Queue::fds`].
    Queue(Queue),
    End,
    /// Worker by worker, and entries of the table of flows from the host that were not in [`State::flows`].
    Paused(Vec<Paused>, Vec<Entry>),
    /// The successor is in charge.
    Yours,
    Gone(Books),
    /// The running daemon is in charge again.
    Aborted(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    /// The program's version, for people.
    pub program: String,
    /// Settings that both must have alike, by name.
    pub settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The program's version, for people.
    pub program: String,
    pub ports: Vec<Port>,
    /// MACs that ARP showed, by endpoint.
    pub learned: BTreeMap<String, [u8; 6]>,
    /// The table of flows from the host.
    pub flows: Vec<Entry>,
    /// Listeners by name.
    pub services: Vec<String>,
}

/// An open port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// What it is for, as in log lines.
    pub key: String,
    pub interface: String,
    pub netns: Option<std::path::PathBuf>,
    /// Everything of it that cannot change while it is open.
    pub identity: String,
    /// Its numbers; each has a queue per worker, or none.
    pub ids: Vec<PortId>,
    pub refused: Vec<String>,
    /// Whether it lives in the memory of the workers' pools, and goes with it.
    pub in_memory: bool,
    /// It cannot be passed on: the successor opens it anew once the running daemon is gone.
    pub stays: bool,
}

/// The memory of one worker's pool; they come worker by worker, if any port lives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Slots.
    pub small: u32,
    pub big: u32,
    /// Bytes of one.
    pub small_slot: usize,
    pub big_slot: usize,
}

impl Memory {
    pub fn new((small, big): (u32, u32)) -> Memory {
        Memory { small, big, small_slot: SMALL_SLOT, big_slot: BIG_SLOT }
    }
}

/// One queue of one number of a port; they come worker by worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Place in [`State::ports`].
    pub port: usize,
    pub set: usize,
    pub driver: String,
    pub notes: BTreeMap<String, u64>,
    /// Names of the descriptors.
    pub fds: Vec<String>,
}

/// What was counted, so that no count goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Worker by worker.
    pub workers: Vec<Totals>,
    /// By the port's key, number by number.
    pub ports: BTreeMap<String, Vec<PortTotals>>,
    /// The same for drops by reason.
    #[serde(default)]
    pub port_reasons: BTreeMap<String, Vec<Reasons>>,
    /// Of ports that are gone, by role.
    pub past_ports: BTreeMap<String, PortTotals>,
    pub routes: Vec<RouteTotal>,
    /// By underlay address.
    pub peers: BTreeMap<Ipv4Addr, PeerTotal>,
}

/// Packets that took a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTotal {
    pub prefix: Ipv4Net,
    pub packets: u64,
}

/// Why a successor with these settings cannot go on with what this daemon has; `None` if it can.
pub fn objection(own: &BTreeMap<String, String>, hello: &Hello) -> Option<String> {
    if hello.version != VERSION {
        return Some(format!(
            "the running daemon ({}) hands over by version {VERSION}, this program ({}) takes over by version {}: restart instead (`systemctl restart tortie`)",
            env!("CARGO_PKG_VERSION"),
            hello.program,
            hello.version
        ));
    }
    let absent = String::from("absent");
    let differs = own.keys().chain(hello.settings.keys()).find(|k| own.get(*k) != hello.settings.get(*k))?;
    let show = |m: &BTreeMap<String, String>| m.get(differs).unwrap_or(&absent).clone();
    Some(format!(
        "{differs} is {} in the running daemon and {} here, and cannot change in a takeover: set it back, or restart instead (`systemctl restart tortie`)",
        show(own),
        show(&hello.settings)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_taken_over_is_named() {
        let own = BTreeMap::from([("workers".to_owned(), "2".to_owned()), ("node".to_owned(), "a".to_owned())]);
        let hello = Hello { version: VERSION, program: "0.9".into(), settings: own.clone() };
        assert_eq!(objection(&own, &hello), None);
        let mut other = hello.clone();
        other.settings.insert("workers".into(), "4".into());
        let text = objection(&own, &other).unwrap();
        assert!(text.starts_with("workers is 2 in the running daemon and 4 here"), "{text}");
        let newer = Hello { version: VERSION + 1, ..hello.clone() };
        assert!(objection(&own, &newer).unwrap().contains("version 2, this program (0.9) takes over by version 3"));
        let mut more = hello;
        more.settings.insert("colour".into(), "red".into());
        assert!(objection(&own, &more).unwrap().starts_with("colour is absent in the running daemon"));
    }
}
