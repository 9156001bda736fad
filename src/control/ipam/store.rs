//! Blocks, affinities and handles in the datastore: read as types, written by compare-and-swap. An object marked as
//! deleted is one that somebody began to delete: whoever meets it finishes that, and it is as if it were not there.

use super::RETRIES;
use super::block::Block;
use super::config::IpamConfig;
use super::documents::{Affinity, Handle};
use super::error::IpamError;
use super::names;
use super::pools::{Labels, Pool};
use super::reservations::Reservations;
use crate::control::datastore::objects::{AccessError, Id, Objects, Preconditions, Resource};
use crate::control::yaml::{self, Field, FieldError};
use ipnet::IpNet;
use serde_json::{Value, json};

/// Name of the only IPAMConfiguration.
const CONFIGURATION: &str = "default";

pub(super) struct Store<S> {
    pub objects: S,
}

/// Reads a document as a type, errors with the object's name.
fn read<T>(resource: Resource, document: &Value, read: impl FnOnce(&Value) -> Result<T, FieldError>) -> Result<T, IpamError> {
    let id = || Id::of(resource, document).unwrap_or_else(|| Id::cluster(resource, ""));
    read(document).map_err(|fault| IpamError::Document { id: id(), fault })
}

fn with_fields<T>(document: &Value, read: impl FnOnce(&Field) -> Result<T, FieldError>) -> Result<T, FieldError> {
    read(&Field::root(&yaml::Value::of_json(document)))
}

impl<S: Objects> Store<S> {
    async fn find<T>(&self, id: &Id, parse: fn(&Value) -> Result<T, FieldError>, deleted: fn(&T) -> bool) -> Result<Option<T>, IpamError> {
        for _ in 0..RETRIES {
            let Some(document) = self.objects.get(id).await? else { return Ok(None) };
            let found = read(id.resource, &document, parse)?;
            if !deleted(&found) {
                return Ok(Some(found));
            }
            match self.objects.delete(id, &Preconditions::same(&document)).await {
                Ok(()) | Err(AccessError::NotFound { .. }) => return Ok(None),
                // Removed by somebody else, and perhaps made again.
                Err(AccessError::Conflict { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// Marks by compare-and-swap, then removes. With the mark the object is gone for all who read it; should the removal
    /// fail, one of them does it.
    async fn delete(&self, id: Id, mut document: Value) -> Result<(), IpamError> {
        document["spec"]["deleted"] = json!(true);
        let marked = self.objects.update(id.resource, document).await?;
        if let Err(e) = self.objects.delete(&id, &Preconditions::same(&marked)).await {
            tracing::debug!("{id} is marked as deleted and not yet removed: {e}");
        }
        Ok(())
    }

    pub async fn block(&self, cidr: IpNet) -> Result<Option<Block>, IpamError> {
        self.find(&Id::cluster(Resource::IpamBlock, names::block(cidr)), Block::read, |b| b.deleted).await
    }

    /// All blocks, and the names of those that cannot be read.
    pub async fn blocks(&self) -> Result<(Vec<Block>, Vec<String>), IpamError> {
        let (mut blocks, mut broken) = (Vec::new(), Vec::new());
        for document in self.objects.list(Resource::IpamBlock, None).await? {
            match read(Resource::IpamBlock, &document, Block::read) {
                Ok(block) if block.deleted => {}
                Ok(block) => blocks.push(block),
                Err(e) => {
                    tracing::warn!("{e}");
                    broken.extend(document["metadata"]["name"].as_str().map(str::to_owned));
                }
            }
        }
        Ok((blocks, broken))
    }

    pub async fn create_block(&self, block: &Block) -> Result<Block, IpamError> {
        let stored = self.objects.create(Resource::IpamBlock, block.document()).await?;
        read(Resource::IpamBlock, &stored, Block::read)
    }

    /// Every write takes the next sequence number.
    pub async fn update_block(&self, block: &Block) -> Result<Block, IpamError> {
        let mut next = block.clone();
        next.sequence += 1;
        let stored = self.objects.update(Resource::IpamBlock, next.document()).await?;
        read(Resource::IpamBlock, &stored, Block::read)
    }

    pub async fn delete_block(&self, block: &Block) -> Result<(), IpamError> {
        self.delete(Id::cluster(Resource::IpamBlock, names::block(block.cidr)), block.document()).await
    }

    pub async fn affinity(&self, node: &str, cidr: IpNet) -> Result<Option<Affinity>, IpamError> {
        self.find(&Id::cluster(Resource::BlockAffinity, names::affinity(node, cidr)), Affinity::read, |a| a.deleted).await
    }

    /// All of one node, in order of name; those that cannot be read are left out.
    pub async fn affinities_of(&self, node: &str) -> Result<Vec<Affinity>, IpamError> {
        Ok(affinities(node, &self.objects.list(Resource::BlockAffinity, None).await?))
    }

    /// The same, by the label that says whose they are: one that has no labels is not found.
    pub async fn labelled_affinities_of(&self, node: &str) -> Result<Vec<Affinity>, IpamError> {
        let label = names::node_label(node);
        Ok(affinities(node, &self.objects.list_labelled(Resource::BlockAffinity, &[(names::NODE_LABEL, &label)]).await?))
    }

    pub async fn create_affinity(&self, affinity: &Affinity) -> Result<Affinity, IpamError> {
        let stored = self.objects.create(Resource::BlockAffinity, affinity.document()).await?;
        read(Resource::BlockAffinity, &stored, Affinity::read)
    }

    pub async fn update_affinity(&self, affinity: &Affinity) -> Result<Affinity, IpamError> {
        let stored = self.objects.update(Resource::BlockAffinity, affinity.document()).await?;
        read(Resource::BlockAffinity, &stored, Affinity::read)
    }

    pub async fn delete_affinity(&self, affinity: &Affinity) -> Result<(), IpamError> {
        let id = Id::cluster(Resource::BlockAffinity, names::affinity(&affinity.node, affinity.cidr));
        self.delete(id, affinity.document()).await
    }

    pub async fn handle(&self, id: &str) -> Result<Option<Handle>, IpamError> {
        self.find(&Id::cluster(Resource::IpamHandle, names::handle(id)), Handle::read, |h| h.deleted).await
    }

    /// Creates it, or replaces the one that was read.
    pub async fn write_handle(&self, handle: &Handle) -> Result<(), IpamError> {
        let document = handle.document();
        match handle.is_new() {
            true => self.objects.create(Resource::IpamHandle, document).await?,
            false => self.objects.update(Resource::IpamHandle, document).await?,
        };
        Ok(())
    }

    pub async fn delete_handle(&self, handle: &Handle) -> Result<(), IpamError> {
        self.delete(Id::cluster(Resource::IpamHandle, names::handle(&handle.id)), handle.document()).await
    }

    /// All pools that can be read, in order of name.
    pub async fn pools(&self) -> Result<Vec<Pool>, IpamError> {
        let mut pools = Vec::new();
        for document in self.objects.list(Resource::IpPool, None).await? {
            match read(Resource::IpPool, &document, Pool::of_document) {
                Ok(pool) => pools.push(pool),
                Err(e) => tracing::warn!("{e}"),
            }
        }
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pools)
    }

    /// One that cannot be read is an error: its addresses must not be given out.
    pub async fn reservations(&self) -> Result<Reservations, IpamError> {
        let mut reservations = Reservations::default();
        for document in self.objects.list(Resource::IpReservation, None).await? {
            read(Resource::IpReservation, &document, |d| with_fields(d, |root| reservations.add(root)))?;
        }
        Ok(reservations)
    }

    pub async fn config(&self) -> Result<IpamConfig, IpamError> {
        let found = self.objects.get(&Id::cluster(Resource::IpamConfiguration, CONFIGURATION)).await?;
        let parse = |document: Value| read(Resource::IpamConfiguration, &document, |d| with_fields(d, IpamConfig::read));
        found.map_or_else(|| Ok(IpamConfig::default()), parse)
    }

    /// `None` if there is no such node.
    pub async fn node(&self, name: &str) -> Result<Option<Value>, IpamError> {
        Ok(self.objects.get(&Id::cluster(Resource::Node, name)).await?)
    }

    pub async fn node_labels(&self, name: &str) -> Result<Option<Labels>, IpamError> {
        Ok(self.node(name).await?.map(|node| labels(&node)))
    }

    /// An unknown namespace has no labels.
    pub async fn namespace_labels(&self, name: &str) -> Result<Labels, IpamError> {
        let found = self.objects.get(&Id::cluster(Resource::Namespace, name)).await?;
        Ok(found.map(|namespace| labels(&namespace)).unwrap_or_default())
    }
}

/// Those of one node.
fn affinities(node: &str, documents: &[Value]) -> Vec<Affinity> {
    let parsed = documents.iter().filter_map(|document| {
        let parsed = read(Resource::BlockAffinity, document, Affinity::read);
        parsed.inspect_err(|e| tracing::warn!("{e}")).ok()
    });
    parsed.filter(|a| a.node == node && a.is_host && !a.deleted).collect()
}

fn labels(object: &Value) -> Labels {
    let pairs = object["metadata"]["labels"].as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}
