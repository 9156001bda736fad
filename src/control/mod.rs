//! The control plane: from the cluster's state to one snapshot. Nothing here is on a packet's way.

pub mod desired;
pub mod netlink;
pub mod plan;
pub mod ports;
