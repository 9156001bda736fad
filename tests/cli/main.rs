//! The command line as users run it: the program itself, on a folder of manifests.

mod errors;
mod golden;
mod roundtrip;
mod support;
