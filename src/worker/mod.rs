//! The worker: a thread that owns one queue of every port and forwards between them, run to completion.

pub mod counters;
pub mod mailbox;

pub use counters::Counters;
pub use mailbox::{Command, Event, Mailbox};
