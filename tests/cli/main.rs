//! The command line as users run it: the program itself, on a folder of manifests.

mod errors;
mod golden;
mod ipam;
mod node;
mod roundtrip;
mod support;
