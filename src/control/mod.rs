//! The control plane: from the cluster's state to one snapshot. Nothing here is on a packet's way.

pub mod calc;
pub mod cluster;
pub mod config;
pub mod desired;
pub mod model;
pub mod yaml;
