//! Objects that a cluster has one of, made by its first node.

use crate::control::datastore::objects::{Access, AccessError, Id, Objects, Resource, revision};
use serde_json::{Map, Value, json};
use std::io::{self, Read};

const NAME: &str = "default";

/// Makes what is missing of ClusterInformation and FelixConfiguration.
pub async fn ensure<O: Objects>(objects: &O, cluster_type: Option<&str>) -> Access<()> {
    cluster_information(objects, cluster_type).await?;
    felix_configuration(objects).await
}

async fn cluster_information<O: Objects>(objects: &O, cluster_type: Option<&str>) -> Access<()> {
    let id = Id::cluster(Resource::ClusterInformation, NAME);
    let Some(found) = objects.get(&id).await? else {
        // The datastore is Kubernetes: calico/node appends this to what it is told.
        let kind = cluster_type.map_or("kdd".into(), |t| format!("{},kdd", t.trim_end_matches(',')));
        let spec = json!({"clusterGUID": guid()?, "clusterType": kind, "datastoreReady": true});
        return create(objects, Resource::ClusterInformation, "ClusterInformation", spec).await;
    };
    let mut missing = Map::new();
    if found["spec"]["clusterGUID"].as_str().is_none_or(str::is_empty) {
        missing.insert("clusterGUID".into(), json!(guid()?));
    }
    if found["spec"]["datastoreReady"].is_null() {
        missing.insert("datastoreReady".into(), json!(true));
    }
    if missing.is_empty() {
        return Ok(());
    }
    // Two nodes at once must not give the cluster two identities.
    let patch = json!({"metadata": {"resourceVersion": revision(&found)}, "spec": missing});
    objects.patch(&id, patch).await.map(drop)
}

/// With what calico/node gives it; what reads the fields are stock components.
async fn felix_configuration<O: Objects>(objects: &O) -> Access<()> {
    let id = Id::cluster(Resource::FelixConfiguration, NAME);
    if objects.get(&id).await?.is_some() {
        return Ok(());
    }
    let spec = json!({"logSeverityScreen": "Info", "reportingInterval": "0s"});
    create(objects, Resource::FelixConfiguration, "FelixConfiguration", spec).await
}

/// Another node may come first.
async fn create<O: Objects>(objects: &O, resource: Resource, kind: &str, spec: Value) -> Access<()> {
    let object = json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": NAME}, "spec": spec});
    match objects.create(resource, object).await {
        Ok(_) => tracing::info!("node: made {kind} {NAME}"),
        Err(AccessError::AlreadyExists { .. }) => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

/// 32 hex digits of a random UUID (RFC 9562, version 4).
fn guid() -> Access<String> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    read.map_err(|e: io::Error| AccessError::Unavailable { what: "/dev/urandom".into(), message: e.to_string() })?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_random_uuids() {
        let (a, b) = (guid().unwrap(), guid().unwrap());
        assert!(a != b && a.len() == 32 && a.as_bytes()[12] == b'4' && b"89ab".contains(&a.as_bytes()[16]), "{a}");
    }
}
