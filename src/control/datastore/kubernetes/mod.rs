//! The Kubernetes API server as the datastore: Kubernetes' own objects and Calico's definitions.

mod access;
mod backoff;
mod connect;
mod failure;
mod group;
mod items;
mod kinds;
mod report;
pub mod rights;
mod store;
pub(super) mod translate;
mod watch;

pub use access::KubeObjects;
pub use connect::Source;
pub use group::{Group, plural};
pub use store::KubeStore;

use super::OpenError;
use std::path::Path;

/// The objects of the API server that a kubeconfig names; without one, of the cluster that this process is a pod of.
/// Inside a runtime; nothing is asked of the server yet.
pub async fn open_objects(kubeconfig: Option<&Path>) -> Result<KubeObjects, OpenError> {
    KubeObjects::open(Source::new(kubeconfig)).await
}
