//! What the tests and benches are made of.

pub mod netns;
