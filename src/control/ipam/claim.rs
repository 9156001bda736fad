//! Claiming blocks for the node, and giving them up.

use super::block::Block;
use super::documents::Affinity;
use super::error::IpamError;
use super::pools::Pool;
use super::reservations::Reservations;
use super::walk::Walk;
use super::{Ipam, IpamConfig, RETRIES, names};
use crate::control::datastore::objects::{AccessError, Objects};
use crate::control::model::AffinityState;
use ipnet::IpNet;
use jiff::SignedDuration;
use std::collections::{HashMap, HashSet};

/// How long a block stays with a node though it is empty: long enough for the node to use what it claimed.
const RECLAIM_AGE: SignedDuration = SignedDuration::from_mins(1);

/// All blocks of the cluster, to look for one.
pub(super) struct Blocks {
    pub by_cidr: HashMap<IpNet, Block>,
    /// Names of blocks that exist but cannot be read.
    broken: HashSet<String>,
}

impl Blocks {
    /// Whether there is something at this place.
    fn taken(&self, cidr: IpNet) -> bool {
        self.by_cidr.contains_key(&cidr) || self.broken.contains(&names::block(cidr))
    }

    /// A block of another size that shares addresses: the pool was made again with another block size.
    fn overlapping(&self, cidr: IpNet) -> Option<IpNet> {
        let differs = |b: &&IpNet| b.prefix_len() != cidr.prefix_len() && (b.contains(&cidr) || cidr.contains(*b));
        self.by_cidr.keys().find(differs).copied()
    }
}

/// What must hold for a block to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    Anyway,
    IfEmpty,
    /// Empty, and unchanged since this sequence number.
    IfUnchanged(u64),
}

/// How giving up a block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    Done,
    /// There is no such affinity, or no such block.
    Absent,
    /// The block belongs to somebody else.
    NotOwned,
    InUse,
    Changed,
}

impl<S: Objects> Ipam<S> {
    /// This node's claims.
    pub(super) async fn own_claims(&self) -> Result<Vec<Affinity>, IpamError> {
        let Some(mark) = &self.mark else { return self.store.affinities_of(&self.node).await };
        if mark.exists() {
            return self.store.labelled_affinities_of(&self.node).await;
        }
        let all = self.store.affinities_of(&self.node).await?;
        for claim in all.iter().filter(|c| !c.is_labelled()) {
            match self.store.update_affinity(&claim.clone().labelled()).await {
                Ok(_) | Err(IpamError::Access(AccessError::NotFound { .. })) => {}
                Err(e) => {
                    tracing::warn!("the claims of {} are not labelled yet: {e}", self.node);
                    return Ok(all);
                }
            }
        }
        let made = mark.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(mark, ""));
        if let Err(e) = made {
            tracing::warn!("{}: {e}; all nodes' claims are read each time", mark.display());
        }
        Ok(all)
    }

    pub(super) async fn all_blocks(&self, config: &IpamConfig) -> Result<Blocks, IpamError> {
        let (blocks, broken) = self.store.blocks().await?;
        let by_cidr = blocks.into_iter().map(|b| (b.cidr, self.thawed(b, config))).collect();
        Ok(Blocks { by_cidr, broken: broken.into_iter().collect() })
    }

    pub(super) fn walk(&self, pool: &Pool) -> Walk {
        let nanoseconds = i64::try_from(self.now().as_nanosecond()).unwrap_or(0);
        Walk::new(pool.cidr, pool.block_size, &self.node, nanoseconds)
    }

    /// Claims a block that nobody has, or one of this node's own that has room; `None` if there is none.
    pub(super) async fn claim_new(
        &self,
        pools: &[Pool],
        reservations: &Reservations,
        config: &IpamConfig,
    ) -> Result<Option<Block>, IpamError> {
        for _ in 0..RETRIES {
            let Some(cidr) = self.find_usable(pools, reservations, config).await? else { return Ok(None) };
            if let Some(block) = self.claim(cidr).await? {
                let block = self.thawed(block, config);
                if block.free(reservations) > 0 {
                    return Ok(Some(block));
                }
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    async fn find_usable(&self, pools: &[Pool], reservations: &Reservations, config: &IpamConfig) -> Result<Option<IpNet>, IpamError> {
        let (blocks, owner) = (self.all_blocks(config).await?, self.owner());
        let mut empty = Vec::new();
        for pool in pools {
            let mixed = blocks.by_cidr.keys().any(|b| b.prefix_len() != pool.block_size && pool.cidr.contains(b));
            for cidr in self.walk(pool).filter(|c| !reservations.cover(*c)) {
                match blocks.by_cidr.get(&cidr) {
                    None if blocks.taken(cidr) || mixed && blocks.overlapping(cidr).is_some() => {}
                    None => return Ok(Some(cidr)),
                    Some(b) if b.free(reservations) == 0 => {}
                    Some(b) if b.affinity.as_ref() == Some(&owner) => return Ok(Some(cidr)),
                    Some(b) if b.is_empty() => empty.push(b),
                    Some(_) => {}
                }
            }
        }
        self.reclaim(&empty).await
    }

    /// Takes the first of these blocks from its node that has had it long enough and still does not use it.
    async fn reclaim(&self, empty: &[&Block]) -> Result<Option<IpNet>, IpamError> {
        for block in empty {
            let old = block.claimed.is_none_or(|at| self.now().duration_since(at) >= RECLAIM_AGE);
            let Some(node) = block.node().filter(|_| old) else { continue };
            match self.give_up(node, block.cidr, GiveUp::IfUnchanged(block.sequence)).await {
                Ok(GivenUp::Done) => return Ok(Some(block.cidr)),
                Ok(_) => {}
                Err(e) if e.is_conflict() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Claims this block; `None` if it is somebody else's.
    pub(super) async fn claim(&self, cidr: IpNet) -> Result<Option<Block>, IpamError> {
        for _ in 0..RETRIES {
            let result = match self.pending(cidr).await {
                Ok(affinity) => self.block_of(affinity).await,
                Err(e) => Err(e),
            };
            match result {
                Err(e) if e.is_conflict() => {}
                result => return result,
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// The block of an affinity that was listed; `None` if that is gone, or somebody else's.
    pub(super) async fn own_block(&self, cidr: IpNet) -> Result<Option<Block>, IpamError> {
        for _ in 0..RETRIES {
            let Some(affinity) = self.store.affinity(&self.node, cidr).await? else { return Ok(None) };
            match self.block_of(affinity).await {
                Err(e) if e.is_conflict() => {}
                result => return result,
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// Announces the claim, or takes up one of before.
    async fn pending(&self, cidr: IpNet) -> Result<Affinity, IpamError> {
        match self.store.create_affinity(&Affinity::pending(&self.node, cidr)).await {
            Err(IpamError::Access(AccessError::AlreadyExists { id })) => {
                // Gone meanwhile: a conflict, which is tried again.
                let conflict = IpamError::Access(AccessError::Conflict { id });
                let mut found = self.store.affinity(&self.node, cidr).await?.ok_or(conflict)?;
                if found.state == AffinityState::Confirmed {
                    return Ok(found);
                }
                found.state = AffinityState::Pending;
                self.store.update_affinity(&found).await
            }
            result => result,
        }
    }

    /// The block that an affinity of this node claims: made if it does not exist; `None`, and the affinity gone, if it is
    /// somebody else's.
    async fn block_of(&self, mut affinity: Affinity) -> Result<Option<Block>, IpamError> {
        let Some(block) = self.store.block(affinity.cidr).await? else {
            affinity.state = AffinityState::Pending;
            let affinity = self.store.update_affinity(&affinity).await?;
            return self.create(affinity).await;
        };
        if block.affinity.as_ref() != Some(&self.owner()) {
            self.store.delete_affinity(&affinity).await?;
            return Ok(None);
        }
        if affinity.state == AffinityState::Confirmed {
            return Ok(Some(block));
        }
        affinity.state = AffinityState::Pending;
        let affinity = self.store.update_affinity(&affinity).await?;
        // A new revision: whoever was about to give the block up has to look again.
        let block = self.store.update_block(&block).await?;
        self.confirm(affinity).await?;
        Ok(Some(block))
    }

    /// Makes the block of a pending affinity.
    async fn create(&self, affinity: Affinity) -> Result<Option<Block>, IpamError> {
        let owner = self.owner();
        match self.store.create_block(&Block::new(affinity.cidr, &owner, self.now())).await {
            Ok(block) => self.confirm(affinity).await.map(|()| Some(block)),
            Err(IpamError::Access(e @ AccessError::AlreadyExists { .. })) => match self.store.block(affinity.cidr).await? {
                None => Err(e.into()),
                Some(block) if block.affinity.as_ref() == Some(&owner) => self.confirm(affinity).await.map(|()| Some(block)),
                Some(_) => {
                    self.store.delete_affinity(&affinity).await?;
                    Ok(None)
                }
            },
            Err(e) => Err(e),
        }
    }

    /// That another process of this node was quicker is success.
    async fn confirm(&self, mut affinity: Affinity) -> Result<(), IpamError> {
        affinity.state = AffinityState::Confirmed;
        let Err(e) = self.store.update_affinity(&affinity).await else { return Ok(()) };
        let found = self.store.affinity(&affinity.node, affinity.cidr).await?;
        if found.is_some_and(|a| a.state == AffinityState::Confirmed) { Ok(()) } else { Err(e) }
    }

    /// Ends a node's claim on a block: an empty block goes, from another its owner.
    pub(super) async fn give_up(&self, node: &str, cidr: IpNet, when: GiveUp) -> Result<GivenUp, IpamError> {
        let Some(mut affinity) = self.store.affinity(node, cidr).await? else { return Ok(GivenUp::Absent) };
        let Some(mut block) = self.store.block(cidr).await? else {
            // Left behind by a claim that got no further. If one is under way, it takes this as a conflict.
            self.store.delete_affinity(&affinity).await?;
            return Ok(GivenUp::Absent);
        };
        if matches!(when, GiveUp::IfUnchanged(sequence) if sequence != block.sequence) {
            return Ok(GivenUp::Changed);
        }
        if block.affinity.as_ref().is_some_and(|owner| *owner != format!("host:{node}")) {
            self.store.delete_affinity(&affinity).await?;
            return Ok(GivenUp::NotOwned);
        }
        let config = self.store.config().await?;
        block = self.thawed(block, &config);
        let empty = block.is_empty();
        if when != GiveUp::Anyway && !empty {
            return Ok(GivenUp::InUse);
        }
        affinity.state = AffinityState::PendingDeletion;
        let affinity = self.store.update_affinity(&affinity).await?;
        if empty {
            match self.store.delete_block(&block).await {
                Err(IpamError::Access(AccessError::NotFound { .. })) => {}
                result => result?,
            }
        } else {
            block.affinity = None;
            block.claimed = None;
            self.store.update_block(&block).await?;
        }
        match self.store.delete_affinity(&affinity).await {
            Err(IpamError::Access(AccessError::NotFound { .. })) => Ok(GivenUp::Done),
            result => result.map(|()| GivenUp::Done),
        }
    }

    /// [`Ipam::give_up`], again after conflicts.
    pub(super) async fn give_up_patiently(&self, node: &str, cidr: IpNet, when: GiveUp) -> Result<GivenUp, IpamError> {
        for _ in 0..RETRIES {
            match self.give_up(node, cidr, when).await {
                Err(e) if e.is_conflict() => {}
                result => return result,
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }
}
