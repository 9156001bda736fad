//! Encapsulation: constant rewrites built once, the few fields that vary per packet, and the splitting of
//! packets that are too long. Super-frames are split by [`segment`] and made by [`coalesce`].

pub mod coalesce;
pub mod ecn;
pub mod fragment;
pub mod push;
pub mod rewrite;
pub mod segment;
