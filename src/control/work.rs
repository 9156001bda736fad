//! Work beside the daemon's main loop: it goes on while its owner waits for what it tells.

use std::future::{self, Future};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Work until it ends by itself.
pub struct Work(Option<Pin<Box<dyn Future<Output = ()>>>>);

impl Work {
    pub fn new(work: impl Future<Output = ()> + 'static) -> Work {
        Work(Some(Box::pin(work)))
    }

    /// Does the work; returns when it has told something new. Cancel-safe.
    pub async fn changed<T>(&mut self, told: &mut watch::Receiver<T>) {
        if let Some(work) = &mut self.0 {
            tokio::select! {
                changed = told.changed() => {
                    if changed.is_ok() {
                        return;
                    }
                }
                () = work => {}
            }
            self.0 = None;
        }
        future::pending().await
    }

    /// Does the rest; false if that takes longer than `limit`, `None` if it has ended before.
    pub async fn finish(&mut self, limit: Duration) -> Option<bool> {
        let work = self.0.take()?;
        Some(timeout(limit, work).await.is_ok())
    }
}

/// Puts a value in another's place; true if they differ. For `send_if_modified`.
pub fn put<T: PartialEq>(old: &mut T, new: T) -> bool {
    let differs = *old != new;
    *old = new;
    differs
}
