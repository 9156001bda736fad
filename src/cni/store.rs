//! The datastore that a configuration means.

use super::conf::{Conf, Datastore};
use super::error::CniError;
use super::record::Form;
use crate::control::config;
use crate::control::datastore::kubernetes::Source;
use crate::control::datastore::objects::{Access, Id, Objects, Preconditions, Resource};
use crate::control::datastore::{FolderObjects, KubeObjects};
use serde_json::Value;
use std::path::Path;

/// Either kind.
pub enum Store {
    Folder(FolderObjects),
    Kubernetes(Box<KubeObjects>),
}

/// Opens it; nothing is asked yet.
pub async fn open(conf: &Conf) -> Result<(Store, Form), CniError> {
    match &conf.datastore {
        Datastore::Daemon(config::Datastore::File { path }) => Ok((Store::Folder(FolderObjects::new(path)), Form::Endpoint)),
        Datastore::Daemon(config::Datastore::Kubernetes { kubeconfig }) | Datastore::Kubernetes { kubeconfig } => {
            kubernetes(kubeconfig.as_deref()).await
        }
    }
}

async fn kubernetes(kubeconfig: Option<&Path>) -> Result<(Store, Form), CniError> {
    let source = kubeconfig.map_or(Source::InCluster, |path| Source::Kubeconfig(path.into()));
    let objects = KubeObjects::open(source).await;
    let fault = |e: crate::control::datastore::OpenError| CniError::Refused { what: "datastore".into(), fault: e.to_string() };
    Ok((Store::Kubernetes(Box::new(objects.map_err(fault)?)), Form::Pod))
}

macro_rules! either {
    ($store:expr, $method:ident ( $($argument:expr),* )) => {
        match $store {
            Store::Folder(s) => s.$method($($argument),*).await,
            Store::Kubernetes(s) => s.$method($($argument),*).await,
        }
    };
}

impl Objects for Store {
    async fn get(&self, id: &Id) -> Access<Option<Value>> {
        either!(self, get(id))
    }

    async fn list(&self, resource: Resource, namespace: Option<&str>) -> Access<Vec<Value>> {
        either!(self, list(resource, namespace))
    }

    async fn create(&self, resource: Resource, object: Value) -> Access<Value> {
        either!(self, create(resource, object))
    }

    async fn update(&self, resource: Resource, object: Value) -> Access<Value> {
        either!(self, update(resource, object))
    }

    async fn patch(&self, id: &Id, patch: Value) -> Access<Value> {
        either!(self, patch(id, patch))
    }

    async fn patch_status(&self, id: &Id, patch: Value) -> Access<Value> {
        either!(self, patch_status(id, patch))
    }

    async fn delete(&self, id: &Id, preconditions: &Preconditions) -> Access<()> {
        either!(self, delete(id, preconditions))
    }
}
