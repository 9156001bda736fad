//! Encapsulation: constant rewrites built once, the few fields that vary per packet, and the way back.

pub mod ecn;
pub mod fragment;
pub mod push;
pub mod rewrite;
