//! Operations: what people and machines see of a running node.

pub mod api;
mod source;
pub mod view;

pub use source::run;
