//! The datastore that a configuration means.

use super::conf::{Conf, Datastore};
use super::error::CniError;
use super::record::Form;
use crate::control::config;
use crate::control::datastore::kubernetes::Source;
use crate::control::datastore::{AnyObjects, FolderObjects, KubeObjects, OpenError};
use std::path::Path;

/// Opens it; nothing is asked yet.
pub async fn open(conf: &Conf) -> Result<(AnyObjects, Form), CniError> {
    match &conf.datastore {
        Datastore::Daemon(config::Datastore::File { path }) => Ok((AnyObjects::Folder(FolderObjects::new(path)), Form::Endpoint)),
        Datastore::Daemon(config::Datastore::Kubernetes { kubeconfig }) | Datastore::Kubernetes { kubeconfig } => {
            kubernetes(kubeconfig.as_deref()).await
        }
    }
}

async fn kubernetes(kubeconfig: Option<&Path>) -> Result<(AnyObjects, Form), CniError> {
    let objects = KubeObjects::open(Source::new(kubeconfig)).await;
    let fault = |e: OpenError| CniError::Refused { what: "datastore".into(), fault: e.to_string() };
    Ok((AnyObjects::Kubernetes(Box::new(objects.map_err(fault)?)), Form::Pod))
}
