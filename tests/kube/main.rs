//! The Kubernetes datastore against an API server that goes wrong in every way that real ones do.

mod access;
mod connection;
mod events;
mod expiry;
mod groups;
mod node;
mod objects;
mod reviews;
mod rights;
mod support;
mod sync;
