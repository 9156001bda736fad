//! Everything that address management and its users have in the datastore, read once, to look at.

use super::block::Block;
use super::config::IpamConfig;
use super::documents::{Affinity, Handle};
use super::error::IpamError;
use super::pools::Pool;
use super::reservations::Reservations;
use super::store::Store;
use super::tunnel::{self, Tunnel};
use crate::control::datastore::objects::{Objects, Resource};
use crate::control::model::{self, Pod};
use crate::control::yaml::FieldError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A pod, and whether it has no addresses because it has given them back.
#[derive(Clone, Debug)]
pub struct ListedPod {
    pub namespace: String,
    pub name: String,
    pub pod: Pod,
    pub finished: bool,
}

/// Objects marked as deleted are left out.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub pools: Vec<Pool>,
    /// In order of name.
    pub blocks: Vec<Block>,
    pub affinities: Vec<Affinity>,
    pub handles: Vec<Handle>,
    pub reservations: Reservations,
    pub config: IpamConfig,
    /// Addresses that each Node names as those of its tunnels.
    pub nodes: BTreeMap<String, BTreeMap<Tunnel, IpAddr>>,
    pub pods: Vec<ListedPod>,
    /// Objects that cannot be read: which, and why.
    pub unreadable: Vec<String>,
}

impl Listing {
    pub async fn read(objects: &impl Objects) -> Result<Listing, IpamError> {
        let store = Store { objects };
        let mut unreadable = Vec::new();
        let mut blocks = parse(objects, Resource::IpamBlock, Block::read, &mut unreadable).await?;
        let mut affinities = parse(objects, Resource::BlockAffinity, Affinity::read, &mut unreadable).await?;
        let mut handles = parse(objects, Resource::IpamHandle, Handle::read, &mut unreadable).await?;
        blocks.retain(|b| !b.deleted);
        affinities.retain(|a| !a.deleted);
        handles.retain(|h| !h.deleted);
        let mut pools = parse(objects, Resource::IpPool, Pool::of_document, &mut unreadable).await?;
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        let pods = parse(objects, Resource::Pod, listed_pod, &mut unreadable).await?;
        let nodes = objects.list(Resource::Node, None).await?.iter().filter_map(node).collect();
        let (reservations, config) = (store.reservations().await?, store.config().await?);
        Ok(Listing { pools, blocks, affinities, handles, reservations, config, nodes, pods, unreadable })
    }
}

/// The objects of a kind that can be read; of the others what is wrong.
async fn parse<T>(
    objects: &impl Objects,
    resource: Resource,
    read: fn(&Value) -> Result<T, FieldError>,
    unreadable: &mut Vec<String>,
) -> Result<Vec<T>, IpamError> {
    let mut out = Vec::new();
    for document in objects.list(resource, None).await? {
        match read(&document) {
            Ok(object) => out.push(object),
            Err(fault) => {
                let name = document["metadata"]["name"].as_str().unwrap_or_default();
                unreadable.push(format!("{resource} {name}: {fault}"));
            }
        }
    }
    Ok(out)
}

fn listed_pod(document: &Value) -> Result<ListedPod, FieldError> {
    let (namespace, name, pod) = model::pod_of_json(document)?;
    let over = matches!(document["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let finished = pod.addresses.is_empty() && (over || !document["metadata"]["deletionTimestamp"].is_null());
    Ok(ListedPod { namespace, name, pod, finished })
}

fn node(document: &Value) -> Option<(String, BTreeMap<Tunnel, IpAddr>)> {
    let name = document["metadata"]["name"].as_str()?.to_owned();
    let tunnels = Tunnel::ALL.into_iter().filter_map(|t| Some((t, tunnel::annotated(document, t)?)));
    Some((name, tunnels.collect()))
}
