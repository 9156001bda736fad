//! The rows that the unix-socket API serves and the CLI prints. Field names are the API: scripts read them.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// One FIB entry. `kind` is one of local, vxlan, ipip, direct, floating, host, blackhole, drop.
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
    /// Flows kept because their answers are the host stack's, and those given up for want of room.
    pub flows_kept: u64,
    pub flows_evicted: u64,
    pub turns: u64,
    pub idle_turns: u64,
    pub sleeps: u64,
    pub spins: u64,
    pub spins_found: u64,
    pub spins_contended: u64,
    pub events_lost: u64,
}

/// What a node has done up to one moment, by whom it did it for: two of these make rates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityRow {
    pub node: String,
    pub version: String,
    /// Another process id means that all counters started anew.
    pub pid: u32,
    /// Milliseconds on a clock that does not go back, of the daemon's machine.
    pub at_ms: u64,
    pub in_sync: bool,
    /// Generation of the snapshot in force.
    pub generation: u64,
    pub routes: usize,
    pub workers: Vec<WorkerActivity>,
    pub ports: Vec<PortActivity>,
    pub peers: Vec<PeerActivity>,
    /// Reasons that packets were dropped for, those without packets left out.
    pub drops: Vec<DropRow>,
}

/// One worker's packets and time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerActivity {
    pub worker: usize,
    pub received: u64,
    pub sent: u64,
    pub punted: u64,
    pub dropped: u64,
    /// Packets that wait; a gauge.
    pub held: u64,
    pub turns: u64,
    pub idle_turns: u64,
    pub sleeps: u64,
    /// Nanoseconds that it neither slept nor looked for packets in vain.
    pub busy_ns: u64,
}

/// Traffic in both directions; packets from the first byte that the port shows, or from the inner IP header of a
/// peer. A super-frame is one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
}

/// One port, or one pod: a pod's port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortActivity {
    pub id: u16,
    /// Interface name.
    pub name: String,
    /// uplink, workload or host.
    pub role: String,
    /// `namespace/pod` where known.
    pub pod: Option<String>,
    pub addresses: Vec<Ipv4Addr>,
    pub driver: Option<String>,
    pub state: String,
    pub mtu: Option<u16>,
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Packets received here that were dropped, and packets meant for it that it did not take.
    pub rx_dropped: u64,
    pub tx_dropped: u64,
    /// Both by reason, since the port was opened.
    pub drops: Vec<DropRow>,
    /// What the kernel lost on the port's sockets.
    pub kernel_drops: Vec<DropRow>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerActivity {
    /// `null` for one that is not in the cluster.
    pub node: Option<String>,
    pub address: Ipv4Addr,
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Packets for it and from it that were dropped, where it was known whose they were: not at a full queue of the uplink's.
    #[serde(default)]
    pub dropped: u64,
}

/// One frame of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceFrame {
    /// Number of the port, which tells several on one interface apart.
    pub port: u16,
    pub interface: String,
    /// Hexadecimal, from the first byte that the port shows.
    pub bytes: String,
    /// Where an unfinished L4 checksum is to be made: start, and the field's offset from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<(u32, u16)>,
    /// Whether the checksum may be unfinished without saying so.
    #[serde(default)]
    pub may_be_partial: bool,
    /// Of a super-frame: `tcp4`, `tcp6` or `udp`, and payload bytes per segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<(String, u16)>,
    /// The other node, on a port that does not show the outer header, and the TOS of that header.
    pub peer: IpAddr,
    pub outer_tos: u8,
}

/// What became of one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRow {
    pub worker: usize,
    /// Nanoseconds since the epoch.
    pub at: u64,
    pub generation: u64,
    pub received: TraceFrame,
    pub verdict: String,
    /// Drop reasons with counts.
    pub dropped: Vec<DropRow>,
    pub punted: Vec<DropRow>,
    pub held: bool,
    pub sent: Vec<TraceFrame>,
}

/// The latest packets of the trace or capture that wrote some down last, headers only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTraceRow {
    /// `null` if there was none since the daemon started.
    pub filter: Option<String>,
    pub packets: Vec<TraceRow>,
}

/// A line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceLine {
    Packet(Box<TraceRow>),
    /// How many records were lost so far because the reader was too slow. Also sent now and then without a packet, to
    /// find out whether the reader is still there.
    Lost(u64),
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
    #[serde(default)]
    pub conflicts: Vec<ConflictRow>,
}

/// What the daemon's log shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelRow {
    /// off, error, warn, info, debug or trace; or directives of `TORTIE_LOG`.
    pub level: String,
    /// `configuration`, `tortie log-level` or `TORTIE_LOG`.
    pub source: String,
}

/// Two that claim what only one can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictRow {
    /// node-name, node-address, tunnel-address, vtep-mac, block or interface.
    pub kind: String,
    /// What is claimed.
    pub subject: String,
    /// Who claims it.
    pub parties: Vec<String>,
    /// What was found, and what follows from it.
    pub found: String,
    pub remedy: String,
    /// How often it was seen.
    pub times: u64,
    /// Since it was seen first, seconds.
    pub age: u64,
}

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Of the WorkloadEndpoint, `namespace/name`.
    pub name: String,
    /// `namespace/pod` where known.
    pub workload: String,
    /// On the host, or the TAP in the pod.
    pub interface: String,
    /// Index of the interface that is attached to; 0 for a TAP.
    pub ifindex: u32,
    /// Network namespace that the TAP was made in.
    pub netns: Option<String>,
    pub addresses: Vec<Ipv4Addr>,
    /// Whether the port is open and packets to every address are sent to it.
    pub ready: bool,
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

/// What the probes say of one other node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    pub node: String,
    /// On the underlay.
    pub address: Ipv4Addr,
    /// Where probes go: the peer's tunnel address, or its own where it has none.
    pub probed: Ipv4Addr,
    /// vxlan, ipip or none.
    pub encapsulation: String,
    /// up, no-probes, measuring; or, with `problem`, lossy, damaged, small-only, one-way, other-key, wrong-vni, filtered,
    /// not-listening, down, not-sent.
    pub state: String,
    pub problem: bool,
    /// Small and full probes without an answer, of the last 64 of each.
    pub loss_percent: Option<f64>,
    pub full_loss_percent: Option<f64>,
    /// Of the last 32 small probes that were answered, without the time that the peer took to answer.
    pub rtt_last_ms: Option<f64>,
    pub rtt_min_ms: Option<f64>,
    pub rtt_mean_ms: Option<f64>,
    /// Total length of a full probe: what pods may send.
    pub full_bytes: u16,
    /// Largest packet that passes; `null` while that is not known.
    pub largest_bytes: Option<u16>,
    /// Payload of the last TCP super-frame that was sent as a probe, and how much of it arrived as it was sent; `null` where
    /// none was yet: unencapsulated, or the peer knows none.
    pub super_frame_bytes: Option<u16>,
    pub super_frame_arrived_bytes: Option<u16>,
    /// Probes that the peer received damaged, and probes of the peer that arrived damaged here.
    pub damaged_there: u64,
    pub damaged_here: u64,
    /// Seconds since the peer answered, and since it was heard of at all.
    pub answered_s: Option<f64>,
    pub heard_s: Option<f64>,
    pub diagnosis: Option<String>,
    pub remedy: Option<String>,
}

/// All other nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeersRow {
    /// Why there are no probes.
    pub off: Option<String>,
    /// Between two rounds to one peer: longer than configured where there are many peers.
    pub interval_ms: u64,
    /// Probes sent and answered, probes of others answered, and packets that were not taken: made with another key,
    /// repeated or late, beyond the limit, damaged.
    pub sent: u64,
    pub answered: u64,
    pub answers_sent: u64,
    pub unauthenticated: u64,
    pub stale: u64,
    pub limited: u64,
    pub damaged: u64,
    /// TCP super-frames sent as probes.
    #[serde(default)]
    pub super_frames_sent: u64,
    pub peers: Vec<PeerRow>,
}
