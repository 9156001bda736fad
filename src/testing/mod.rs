//! What the tests, benches and fuzz targets are made of.
//!
//! [`net`] describes a node (ports, routes, tunnel), [`bed`] runs a worker on it over memory ports, [`build`]
//! makes frames, [`check`] reads them back with etherparse and states what must hold for any input; [`cluster`]
//! joins beds to a network with smoltcp [`host`]s as pods. [`apiserver`] is a Kubernetes API server that goes wrong as told,
//! [`objects`] a datastore in memory.

pub mod apiserver;
pub mod bed;
pub mod build;
pub mod check;
pub mod cluster;
pub mod gc;
pub mod host;
pub mod net;
pub mod netns;
pub mod objects;
