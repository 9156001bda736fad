//! What the node's own work and the main loop tell each other.

use super::Daemon;
use crate::control::config::Config;
use crate::control::node::Local;

impl Daemon {
    /// Tells the node's work what is so now.
    pub(super) fn tell_node(&self) {
        self.node.tell(Local {
            in_sync: self.in_sync,
            pod_mtu: self.pod_mtu(),
            pools: self.cluster.pools.clone(),
            node: self.cluster.kube_nodes.get(&self.config.node).cloned(),
        });
    }
}

/// Names the variables of calico/node that are set and change nothing.
pub(super) fn tell_ignored(config: &Config) {
    for i in config.origins.env.ignored(config.datastore.is_written()) {
        tracing::warn!("environment variable {}={:?} is ignored: {}", i.variable, i.value, i.reason);
    }
}
