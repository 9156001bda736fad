//! Operations: what people and machines see of a running node.

pub mod api;
pub mod replay;
mod source;
pub mod view;

pub use source::run;
