//! The Kubernetes API server as the datastore: Kubernetes' own objects and Calico's definitions.

mod access;
mod backoff;
mod connect;
mod failure;
mod group;
mod items;
mod kinds;
mod report;
mod store;
mod translate;
mod watch;

pub use access::KubeObjects;
pub use connect::Source;
pub use group::Group;
pub use store::KubeStore;
