//! The lock between the processes of one host.

use std::fs::{File, create_dir_all};
use std::io;
use std::path::{Path, PathBuf};

/// Waits for the lock; it is held until the file is dropped. That there is no lock to be had is logged and no reason
/// to fail.
pub(super) async fn acquire(path: &Path) -> Option<File> {
    let owned = path.to_owned();
    let taken = tokio::task::spawn_blocking(move || take(&owned)).await.unwrap_or_else(|e| Err(io::Error::other(e)));
    taken.inspect_err(|e| tracing::warn!("{}: going on without this lock: {e}", path.display())).ok()
}

fn take(path: &PathBuf) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        create_dir_all(folder)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calico/ipam.lock");
        let first = acquire(&path).await.unwrap();
        let second = acquire(&path);
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err(), "the lock is held");
        drop(first);
        assert!(second.await.is_some());
    }

    #[tokio::test]
    async fn without_a_place_for_the_lock_work_goes_on() {
        assert!(acquire(Path::new("/proc/nowhere/ipam.lock")).await.is_none());
    }
}
