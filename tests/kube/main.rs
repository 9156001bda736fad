//! The Kubernetes datastore against an API server that goes wrong in every way that real ones do.

mod faults;
mod support;
mod sync;
