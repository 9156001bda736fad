//! The command line as users run it: the program itself, on a folder of manifests or an API server.

mod errors;
mod golden;
mod ipam;
mod kubernetes;
mod node;
mod roundtrip;
mod support;
