//! Operations: what people and machines see of a running node.

pub mod api;
pub mod diags;
pub mod doctor;
pub mod health;
mod http;
pub mod metrics;
mod monitor;
mod service;
mod source;
pub mod view;

pub use service::run;
