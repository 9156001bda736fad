//! Address management on a datastore in memory.

mod assign;
mod support;
