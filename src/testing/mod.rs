//! What the tests, benches and fuzz targets are made of.
//!
//! [`net`] describes a node (ports, routes, tunnel), [`bed`] runs a worker on it over memory ports, [`build`]
//! makes frames, [`check`] reads them back with etherparse and states what must hold for any input.

pub mod bed;
pub mod build;
pub mod check;
pub mod net;
pub mod netns;
