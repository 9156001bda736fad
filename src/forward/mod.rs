//! To come.
pub mod decap;
