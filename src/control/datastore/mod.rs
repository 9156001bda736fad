//! Where the cluster's state comes from. A folder of manifests, or Kubernetes.

mod any;
pub mod file;
mod folder;
pub mod kubernetes;
pub mod manifests;
pub mod objects;
mod walk;

pub use any::{AnyObjects, Place, PlaceError};
pub use file::FileStore;
pub use kubernetes::{KubeObjects, KubeStore};
pub use manifests::FolderObjects;

use super::cluster::{Changed, Cluster};
use super::config::Datastore;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The cluster's state as it comes, whatever keeps it.
pub enum Store {
    File(FileStore),
    Kubernetes(KubeStore),
}

impl Store {
    /// Opens the datastore for a node. A folder's state is there at once, an API server's comes with [`Store::next`].
    pub fn open(datastore: &Datastore, node: &str) -> Result<(Store, Cluster), OpenError> {
        match datastore {
            Datastore::File { path } => FileStore::open(path).map(|(store, cluster)| (Store::File(store), cluster)),
            Datastore::Kubernetes { kubeconfig } => {
                let store = KubeStore::open(kubernetes::Source::new(kubeconfig.as_deref()), node)?;
                Ok((Store::Kubernetes(store), Cluster::default()))
            }
        }
    }

    /// Waits for news, puts them in the cluster's state and says what they touched: maybe nothing, if only
    /// [`Store::problems`] or [`Store::in_sync`] are different. Cancel-safe.
    pub async fn next(&mut self, cluster: &mut Cluster) -> Changed {
        match self {
            Store::File(store) => {
                let now = store.next().await;
                let changed = Changed::between(cluster, &now);
                // What this host's environment says is not the folder's.
                let felix_here = std::mem::take(&mut cluster.felix_here);
                *cluster = Cluster { felix_here, ..now };
                changed
            }
            Store::Kubernetes(store) => store.next(cluster).await,
        }
    }

    /// Whether the state has been read completely once. Before that nothing may be put in force, and nothing swept.
    pub fn in_sync(&self) -> bool {
        match self {
            Store::File(_) => true,
            Store::Kubernetes(store) => store.in_sync(),
        }
    }

    /// What is not in force as it stands.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Store::File(store) => store.problems(),
            Store::Kubernetes(store) => store.problems(),
        }
    }

    /// Reads everything anew.
    pub fn rescan(&self) {
        match self {
            Store::File(store) => store.rescan(),
            Store::Kubernetes(store) => store.rescan(),
        }
    }
}

/// Why a datastore cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("datastore {}: no such folder; create it, or set datastore.path to the folder of manifests", path.display())]
    Missing { path: PathBuf },
    #[error("datastore {}: not a folder; datastore.path is the folder that holds the manifests", path.display())]
    NotAFolder { path: PathBuf },
    #[error("datastore {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("datastore: kubeconfig {}: {message}; datastore.kubeconfig names the file, without it the pod's service account is used", path.display())]
    Kubeconfig { path: PathBuf, message: String },
    #[error("datastore: no service account of a pod: {message}; outside a cluster set datastore.kubeconfig")]
    InCluster { message: String },
    #[error("datastore: token {}: {source}; the kubeconfig or the pod's service account names this file", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("datastore: cannot start its thread: {source}")]
    Thread { source: io::Error },
}

/// Why an object, a file, or the datastore as a whole is not in force as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// A file's path below the folder, an object's kind and name, or a server's URL.
    pub place: String,
    /// 0 where no line is to blame.
    pub line: u32,
    pub message: String,
}

impl Problem {
    /// Without a line.
    pub fn of(place: &str, message: impl Into<String>) -> Problem {
        Problem { place: place.to_owned(), line: 0, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.place, self.message),
            line => write!(f, "{}:{line}: {}", self.place, self.message),
        }
    }
}
