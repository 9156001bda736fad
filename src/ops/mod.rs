//! Operations: what people and machines see of a running node.

pub mod api;
pub mod view;
