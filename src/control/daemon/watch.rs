//! Descriptors that somebody else reads, watched by the runtime for readability only.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a duplicate, so that it stays open as long as it is watched. Must run inside the runtime.
pub fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = fd.try_clone_to_owned()?;
    // SAFETY: the value owns the descriptor, which stays open and the same until the `AsyncFd` is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?)
}
