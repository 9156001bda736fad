//! The control plane: from the cluster's state to one snapshot. Nothing here is on a packet's way.

pub mod calc;
pub mod cluster;
pub mod cni;
pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod datastore;
pub mod desired;
pub mod env;
pub mod facts;
pub mod forms;
pub mod ipam;
pub mod model;
pub mod netlink;
pub mod node;
pub mod origins;
pub mod pattern;
pub mod plan;
pub mod ports;
pub mod probe;
pub mod resources;
pub mod selector;
pub mod takeover;
pub mod tally;
pub mod yaml;
