//! tortie: Calico's pod network in userspace.
//!
//! Three planes in one crate. The data plane moves frames and knows nothing of clusters; the control
//! plane turns the cluster's state into one immutable [`snapshot::Snapshot`]; operations look at both.
//!
//! Vocabulary: a *port* is where frames enter and leave; a *frame* is bytes from L2 on in a pool slot, a
//! *packet* from L3 on; a *super-frame* is longer than the MTU and carries its segment size (GSO); the
//! *uplink* is the port towards other nodes; a *workload endpoint* is one pod's port and addresses; an
//! *adjacency* is the data plane's answer to a lookup: rewrite, port and MTU; a *rewrite* is the constant
//! bytes put in front of a packet, *fixups* are its fields that vary per packet; *glean* means that the
//! neighbour is not resolved yet; to *punt* is to hand a packet to the host stack; a *snapshot* is all that
//! a worker may read, one generation at a time.
//!
//! Layering, lowest first; a module uses only what stands before it (`tests/rules.rs` enforces it):
//! `drop`, `wire` → `flows`, `frame` → `encap`, `fib` → `arp`, `icmp`, `port` → `snapshot` → `forward` → `worker` →
//! `control` → `ops` → `cni`, `lab` → `cli`.

// Data plane.
pub mod arp;
pub mod drop;
pub mod encap;
pub mod fib;
pub mod flows;
pub mod forward;
pub mod frame;
pub mod icmp;
pub mod port;
pub mod snapshot;
pub mod wire;
pub mod worker;

// Control plane.
pub mod control;

// Operations.
pub mod cli;
pub mod cni;
pub mod lab;
pub mod ops;

#[cfg(feature = "testing")]
pub mod testing;
