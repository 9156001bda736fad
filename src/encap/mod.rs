//! Encapsulation: what is done to packets between lookup and port. Super-frames are split by [`segment`].

pub mod segment;
