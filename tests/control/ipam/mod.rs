//! Address management on a datastore in memory.

mod assign;
mod check;
mod crash;
mod documents;
mod invariants;
mod races;
mod release;
mod stock;
mod support;
mod tunnel;
