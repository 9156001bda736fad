//! The rows that the unix-socket API serves and the CLI prints. Field names are the API: scripts read them.

use super::replay::State;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// One FIB entry. `kind` is one of local, vxlan, ipip, direct, host, blackhole, drop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FibRow {
    pub prefix: String,
    pub kind: String,
    pub via: Option<IpAddr>,
    pub node: Option<String>,
    /// Interface that the packet leaves by.
    pub port: Option<String>,
    /// Longest packet, bytes; `null` where nothing is sent.
    pub mtu: Option<u16>,
    /// Packets since the route was installed; `null` beyond 65,536 routes.
    pub packets: Option<u64>,
}

/// One remote VTEP: the engine's answer to `bridge fdb show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbRow {
    pub mac: String,
    pub dst: Ipv4Addr,
    pub node: String,
    pub vni: u32,
}

/// One neighbour: overlay (a VTEP's tunnel address, a pod) or underlay (a next hop on the uplink).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighRow {
    pub address: IpAddr,
    /// Interface or port that the neighbour is behind.
    pub dev: String,
    pub mac: Option<String>,
    /// `permanent` (from the cluster's state), `reachable`, `stale`, `incomplete`, `failed`.
    pub state: String,
    pub node: Option<String>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    pub id: u16,
    /// Interface name.
    pub name: String,
    /// uplink, workload or host.
    pub role: String,
    /// The I/O method in use; `null` while the port is not open.
    pub driver: Option<String>,
    /// Why better methods were not used, and why the port is not open if it is not; one line each.
    pub refused: Vec<String>,
    /// up, or why not.
    pub state: String,
    pub mtu: Option<u16>,
    pub queues: u16,
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
    /// What the kernel lost on the port's sockets since they were opened, by its own names.
    #[serde(default)]
    pub kernel_drops: Vec<DropRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    pub reason: String,
    pub packets: u64,
}

/// One worker's counters, or their sum. `received + generated = sent + punted + dropped + coalesced +
/// held`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    /// Worker number, or `total`.
    pub worker: String,
    pub received: u64,
    pub generated: u64,
    pub sent: u64,
    pub punted: u64,
    pub dropped: u64,
    pub coalesced: u64,
    pub held: u64,
    pub turns: u64,
    pub idle_turns: u64,
    pub sleeps: u64,
    pub spins: u64,
    pub spins_found: u64,
    pub spins_contended: u64,
    pub events_lost: u64,
}

/// The daemon's own state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRow {
    pub node: String,
    pub version: String,
    pub pid: u32,
    /// Whether the datastore was read completely at least once.
    pub in_sync: bool,
    pub generation: u64,
    pub workers: u16,
    pub uplink: String,
    pub address: Option<Ipv4Addr>,
    pub tunnel_address: Option<Ipv4Addr>,
    pub pod_mtu: Option<u16>,
    /// Objects that are not in force, and why; warnings of the route calculation.
    pub problems: Vec<String>,
}

/// One setting in force, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRow {
    /// A key of the configuration file, an environment variable, a field of FelixConfiguration, or what is detected.
    pub key: String,
    pub value: String,
    /// `FILE:LINE`, `environment NAME`, `FelixConfiguration NAME`, `detected: ...`, `default`, or `ignored: ...`.
    pub source: String,
}

/// What the API asks of the daemon. Called from a tokio task; must not block.
pub trait Source: Send + Sync + 'static {
    fn fib(&self) -> Vec<FibRow>;
    fn fdb(&self) -> Vec<FdbRow>;
    fn neigh(&self) -> Vec<NeighRow>;
    fn ports(&self) -> Vec<PortRow>;
    fn drops(&self) -> Vec<DropRow>;
    fn counters(&self) -> Vec<CounterRow>;
    fn status(&self) -> StatusRow;
    fn config(&self) -> Vec<ConfigRow>;
    /// The data plane's state; `None` if the control plane does not answer.
    fn state(&self) -> Option<State>;
}
