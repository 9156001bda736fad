//! The control plane: from the cluster's state to one snapshot. Nothing here is on a packet's way.

pub mod calc;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod datastore;
pub mod desired;
pub mod facts;
pub mod model;
pub mod netlink;
pub mod plan;
pub mod ports;
pub mod tally;
pub mod yaml;
