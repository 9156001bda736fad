//! Files on this host by which the CNI plugin learns the pods' MTU and the node's name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folder that Calico's programs on one host share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    dir: PathBuf,
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; pods made meanwhile may get what it held before", path.display())]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

impl Files {
    pub fn new(dir: impl Into<PathBuf>) -> Files {
        Files { dir: dir.into() }
    }

    pub fn mtu(&self) -> PathBuf {
        self.dir.join("mtu")
    }

    pub fn nodename(&self) -> PathBuf {
        self.dir.join("nodename")
    }

    pub fn set_mtu(&self, mtu: u16) -> Result<(), FileError> {
        set(&self.mtu(), &mtu.to_string())
    }

    pub fn set_nodename(&self, name: &str) -> Result<(), FileError> {
        set(&self.nodename(), name)
    }
}

/// Writes the file unless it holds the text. A reader sees the old text or the new one.
fn set(path: &Path, text: &str) -> Result<(), FileError> {
    if fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    write(path, text).map_err(|source| FileError { path: path.into(), source })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // One that takes over, or a node in another network namespace, may write at the same time.
    let new = path.with_extension(format!("tortie.{}", std::process::id()));
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn written_when_different_only() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("new/calico"));
        files.set_mtu(1450).unwrap();
        files.set_nodename("a").unwrap();
        assert_eq!((fs::read_to_string(files.mtu()).unwrap(), fs::read_to_string(files.nodename()).unwrap()), ("1450".into(), "a".into()));
        let first = fs::metadata(files.mtu()).unwrap().ino();
        files.set_mtu(1450).unwrap();
        assert_eq!(fs::metadata(files.mtu()).unwrap().ino(), first);
        files.set_mtu(1480).unwrap();
        assert_eq!(fs::read_to_string(files.mtu()).unwrap(), "1480");
        assert_eq!(fs::read_dir(dir.path().join("new/calico")).unwrap().count(), 2, "nothing else is left there");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let e = Files::new(dir.path().join("file")).set_mtu(1450).unwrap_err().to_string();
        assert!(e.starts_with("cannot write ") && e.contains("file/mtu: "), "{e}");
    }
}
