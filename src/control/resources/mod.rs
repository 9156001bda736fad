//! Calico's resources as users handle them: checked field by field, defaults filled in, and translated to what the
//! datastore keeps.

mod client;
mod kind;
mod patch;
mod pools;
pub mod schema;

pub use client::{Client, Error, Keeps};
pub use kind::{API_VERSION, Kind};
pub use patch::Patch;
