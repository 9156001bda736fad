//! The control plane up to what should be in force: manifests in, desired routes out.

mod calc;
mod faults;
mod golden;
mod history;
mod incremental;
mod ipam;
mod manifests;
mod node;
mod node_task;
mod planning;
mod samples;
mod store;
mod support;
