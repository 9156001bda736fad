//! Where the cluster's state comes from. A folder of manifests, or Kubernetes.

pub mod file;
mod folder;
pub mod manifests;
pub mod objects;
mod walk;

pub use file::{FileStore, OpenError};
pub use manifests::FolderObjects;

use std::fmt;

/// Why an object, a file or the whole folder is not in force as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path below the folder.
    pub file: String,
    /// 0 where no line is to blame.
    pub line: u32,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}
