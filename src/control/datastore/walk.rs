//! The manifests below a folder: which files there are, and whether one changed since it was read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Largest file that is read, bytes.
const FILE_MAX: u64 = 256 << 20;
/// File systems stamp changes with the clock of the last tick. A stamp younger than this when the file was
/// read does not exclude a further change under the same stamp.
const STAMP_SETTLED: Duration = Duration::from_secs(1);

/// Changes whenever the file does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(m: &Metadata) -> Stamp {
        Stamp {
            device: m.dev(),
            inode: m.ino(),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        }
    }

    pub fn is_settled(&self) -> bool {
        let changed = SystemTime::UNIX_EPOCH + Duration::new(self.changed.0.max(0) as u64, self.changed.1 as u32);
        SystemTime::now().duration_since(changed).is_ok_and(|age| age > STAMP_SETTLED)
    }
}

/// A manifest's bytes.
pub(super) fn read(full: &Path, metadata: &Metadata) -> io::Result<Vec<u8>> {
    // Opening a named pipe would wait for a writer.
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > FILE_MAX {
        return Err(io::Error::other(format!("{} bytes; at most {FILE_MAX} are read", metadata.len())));
    }
    fs::read(full)
}

/// All manifests below a folder.
#[derive(Default)]
pub(super) struct Walk {
    /// By path below the folder, links followed.
    pub files: BTreeMap<PathBuf, Metadata>,
    pub unreadable: BTreeMap<PathBuf, io::Error>,
}

impl Walk {
    /// Fails only if the folder itself cannot be read.
    pub fn of(root: &Path) -> io::Result<Walk> {
        let mut walk = Walk::default();
        walk.directory(root, Path::new(""), &mut Vec::new())?;
        Ok(walk)
    }

    /// `above` are the folders on the way here, so that a link to one of them ends the walk.
    fn directory(&mut self, full: &Path, relative: &Path, above: &mut Vec<(u64, u64)>) -> io::Result<()> {
        let metadata = fs::metadata(full)?;
        let id = (metadata.dev(), metadata.ino());
        if above.contains(&id) {
            return Ok(());
        }
        above.push(id);
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(full)? {
            names.insert(entry?.file_name());
        }
        for name in names {
            // Editors' scratch files, and what the links of a mounted ConfigMap point to.
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let (full, relative) = (full.join(&name), relative.join(&name));
            // Gone meanwhile, or a link to nowhere.
            let Ok(metadata) = fs::metadata(&full) else { continue };
            if metadata.is_dir() {
                match self.directory(&full, &relative, above) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => drop(self.unreadable.insert(relative, e)),
                    _ => {}
                }
            } else if is_manifest(&relative) {
                self.files.insert(relative, metadata);
            }
        }
        above.pop();
        Ok(())
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}
