//! What the node's own work and the main loop tell each other.

use super::Daemon;
use crate::control::config::{Config, Datastore};
use crate::control::datastore::{OpenError, kubernetes};
use crate::control::ipam::{self, Ipam};
use crate::control::node::{Files, Local, Task};

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

/// Starts the node's work for the datastore that is configured.
pub(super) fn start(config: &Config) -> Task {
    let files = Files::new(&config.calico.dir);
    match &config.datastore {
        Datastore::File { .. } => Task::of_files(files),
        Datastore::Kubernetes { kubeconfig } => {
            let (kubeconfig, node) = (kubeconfig.clone(), config.node.clone());
            let open = async move || {
                let objects = kubernetes::open_objects(kubeconfig.as_deref()).await?;
                Ok::<_, OpenError>(Ipam::new(objects, node.clone()).with_lock(ipam::LOCK_PATH))
            };
            Task::of_node(open, config.start.clone(), files)
        }
    }
}

/// Names the variables of calico/node that are set and change nothing.
pub(super) fn tell_ignored(config: &Config) {
    for i in config.origins.env.ignored(config.datastore.is_written()) {
        tracing::warn!("environment variable {}={:?} is ignored: {}", i.variable, i.value, i.reason);
    }
}
