//! The datastore that a configuration means.

use super::conf::{Conf, Datastore};
use super::error::CniError;
use super::record::Form;
use crate::control::config;
use crate::control::datastore::FolderObjects;

/// Opens it; nothing is asked yet.
pub async fn open(conf: &Conf) -> Result<(FolderObjects, Form), CniError> {
    match &conf.datastore {
        Datastore::Daemon(config::Datastore::File { path }) => Ok((FolderObjects::new(path), Form::Endpoint)),
        Datastore::Kubernetes { .. } => Err(CniError::Unsupported { key: "datastore_type".into(), value: "kubernetes".into(), why: "not there" }),
    }
}
