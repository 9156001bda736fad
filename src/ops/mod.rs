//! Operations: what people and machines see of a running node.

pub mod api;
pub mod diags;
pub mod doctor;
pub mod health;
pub mod metrics;
mod monitor;
pub mod replay;
mod server;
mod service;
mod source;
pub mod trace;
pub mod view;

pub use service::run;
