//! Releasing addresses and blocks, and what is recorded of an address.

use super::attribute::clean_handle;
use super::block::{Block, ReleaseRequest};
use super::claim::{GiveUp, GivenUp};
use super::error::{IpamError, Refusal};
use super::{Attribute, Ipam, IpamConfig, Listing, RETRIES, pools};
use crate::control::datastore::objects::Objects;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

impl<S: Objects> Ipam<S> {
    /// Releases addresses; those that were not in use are returned. Addresses of one block are released together or, if
    /// one of them is not what its request says, not at all; then other blocks are still done, and the first error
    /// is returned.
    pub async fn release(&self, requests: &[ReleaseRequest]) -> Result<Vec<IpAddr>, IpamError> {
        self.exclusively(self.release_unlocked(requests)).await
    }

    pub(super) async fn release_unlocked(&self, requests: &[ReleaseRequest]) -> Result<Vec<IpAddr>, IpamError> {
        let config = self.store.config().await?;
        let (mut unallocated, mut first) = (Vec::new(), None);
        for (cidr, requests) in self.by_block(requests, &mut unallocated, &config).await? {
            match self.release_from(cidr, &requests, &config).await {
                Ok(mut free) => unallocated.append(&mut free),
                Err(e) => first = first.or(Some(e)),
            }
        }
        first.map_or(Ok(unallocated), Err)
    }

    /// Requests by the block of their address. Pools say which that is, disabled ones as well; for an address in none the
    /// blocks are searched.
    async fn by_block(
        &self,
        requests: &[ReleaseRequest],
        unallocated: &mut Vec<IpAddr>,
        config: &IpamConfig,
    ) -> Result<BTreeMap<IpNet, Vec<ReleaseRequest>>, IpamError> {
        let pools = self.store.pools().await?;
        let mut listed = None;
        let mut out: BTreeMap<IpNet, Vec<ReleaseRequest>> = BTreeMap::new();
        for request in requests {
            let direct = pools::containing(&pools, request.address).map(|p| p.block_of(request.address));
            let exists = match direct {
                Some(cidr) => self.store.block(cidr).await?.map(|b| b.cidr),
                None => None,
            };
            let cidr = match exists {
                Some(cidr) => Some(cidr),
                None => {
                    if listed.is_none() {
                        listed = Some(self.all_blocks(config).await?.by_cidr);
                    }
                    listed.iter().flatten().map(|(cidr, _)| *cidr).find(|c| c.contains(&request.address))
                }
            };
            match cidr {
                Some(cidr) => out.entry(cidr).or_default().push(request.clone()),
                None => unallocated.push(request.address),
            }
        }
        Ok(out)
    }

    async fn release_from(&self, cidr: IpNet, requests: &[ReleaseRequest], config: &IpamConfig) -> Result<Vec<IpAddr>, IpamError> {
        for _ in 0..RETRIES {
            let Some(mut block) = self.block(cidr, config).await? else {
                return Ok(requests.iter().map(|r| r.address).collect());
            };
            let released = block.release(requests, self.now())?;
            if released.count == 0 {
                return Ok(released.unallocated);
            }
            if self.write_released(block, config).await? {
                for (handle, count) in &released.handles {
                    self.try_decrement(handle, cidr, *count).await;
                }
                self.settle(cidr).await;
                return Ok(released.unallocated);
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// Writes a block of which addresses were released; one that is empty and nobody's goes. False after a conflict.
    async fn write_released(&self, mut block: Block, config: &IpamConfig) -> Result<bool, IpamError> {
        block.end_cooldown(self.now(), config.cooldown());
        let result = match block.is_empty() && block.affinity.is_none() {
            true => self.store.delete_block(&block).await,
            false => self.store.update_block(&block).await.map(drop),
        };
        match result {
            Ok(()) => Ok(true),
            Err(e) if e.is_conflict() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Gives a block up if it is empty and its pool no longer selects its node. That this fails does not matter now.
    async fn settle(&self, cidr: IpNet) {
        if let Err(e) = self.try_settle(cidr).await {
            tracing::warn!("block {cidr} may stay with a node that its pool no longer selects: {e}");
        }
    }

    async fn try_settle(&self, cidr: IpNet) -> Result<(), IpamError> {
        let pools = self.store.pools().await?;
        let Some(pool) = pools.iter().find(|p| p.enabled && p.cidr.contains(&cidr.addr())) else { return Ok(()) };
        if pool.node_selector.is_empty() || pool.node_selector == "all()" {
            return Ok(());
        }
        let Some(block) = self.store.block(cidr).await? else { return Ok(()) };
        let Some(node) = block.node().map(str::to_owned) else { return Ok(()) };
        let Some(labels) = self.store.node_labels(&node).await? else { return Ok(()) };
        if !pool.selects_node(&labels)? {
            self.give_up_patiently(&node, cidr, GiveUp::IfEmpty).await?;
        }
        Ok(())
    }

    /// Releases all addresses of a handle; how many there were. An unknown handle has none.
    pub async fn release_by_handle(&self, handle: &str) -> Result<u64, IpamError> {
        self.exclusively(self.release_by_handle_unlocked(handle)).await
    }

    pub(super) async fn release_by_handle_unlocked(&self, handle: &str) -> Result<u64, IpamError> {
        let handle = clean_handle(handle);
        let Some(stored) = self.store.handle(handle).await? else { return Ok(0) };
        let config = self.store.config().await?;
        let mut count = 0;
        for cidr in stored.blocks.keys() {
            count += self.release_handle_from(handle, *cidr, &config).await?;
        }
        Ok(count)
    }

    async fn release_handle_from(&self, handle: &str, cidr: IpNet, config: &IpamConfig) -> Result<u64, IpamError> {
        for _ in 0..RETRIES {
            let Some(mut block) = self.block(cidr, config).await? else { return Ok(0) };
            let count = block.release_handle(handle, self.now());
            if count == 0 {
                return Ok(0);
            }
            if self.write_released(block, config).await? {
                self.try_decrement(handle, cidr, count).await;
                self.settle(cidr).await;
                return Ok(count);
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// Addresses that were assigned with a handle, in order.
    pub async fn addresses_of_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let handle = clean_handle(handle);
        let Some(stored) = self.store.handle(handle).await? else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for cidr in stored.blocks.keys() {
            if let Some(block) = self.store.block(*cidr).await? {
                out.extend(block.addresses_of(handle));
            }
        }
        Ok(out)
    }

    /// What is recorded of an address; `None` if it is free. An address in cooldown has `released` set and no holder.
    pub async fn attributes_of(&self, address: IpAddr) -> Result<Option<Attribute>, IpamError> {
        let config = self.store.config().await?;
        let pools = self.store.pools().await?;
        let direct = pools::containing(&pools, address).map(|p| p.block_of(address));
        let block = match direct {
            Some(cidr) => self.block(cidr, &config).await?,
            None => None,
        };
        let block = match block {
            Some(block) => Some(block),
            None => self.all_blocks(&config).await?.by_cidr.into_values().find(|b| b.cidr.contains(&address)),
        };
        Ok(block.and_then(|b| b.holder(address).map(|held| held.attribute.clone())))
    }

    /// Ends the claims of a node on its blocks, of the empty ones only if `must_be_empty`. Addresses in use stay assigned.
    /// All blocks are tried; the first error is returned.
    pub async fn release_host_affinities(&self, node: &str, must_be_empty: bool) -> Result<(), IpamError> {
        let when = if must_be_empty { GiveUp::IfEmpty } else { GiveUp::Anyway };
        let mut first = None;
        for affinity in self.store.affinities_of(node).await? {
            match self.give_up_patiently(node, affinity.cidr, when).await {
                Ok(GivenUp::InUse | GivenUp::Done | GivenUp::Absent | GivenUp::NotOwned | GivenUp::Changed) => {}
                Err(e) => first = first.or(Some(e)),
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Ends all claims on blocks of a pool that is going away. Empty blocks go; addresses in use stay assigned. All blocks
    /// are tried; the first error is returned.
    pub async fn release_pool_affinities(&self, pool: IpNet) -> Result<(), IpamError> {
        let mut first = None;
        for affinity in Listing::read(self.objects()).await?.affinities {
            if pool.contains(&affinity.cidr)
                && let Err(e) = self.give_up_patiently(&affinity.node, affinity.cidr, GiveUp::Anyway).await
            {
                first = first.or(Some(e));
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Releases all addresses in use on a node, whoever's block they are in, and ends its claims: for a node that is
    /// gone. How many addresses there were.
    pub async fn release_node(&self, node: &str) -> Result<u64, IpamError> {
        let config = self.store.config().await?;
        let (mut requests, mut cidrs) = (Vec::new(), BTreeSet::new());
        for block in self.all_blocks(&config).await?.by_cidr.into_values() {
            for held in block.allocated().filter(|a| a.attribute.node() == Some(node)) {
                let handle = held.attribute.handle.clone();
                requests.push(ReleaseRequest { address: held.address, handle, sequence: held.sequence });
                cidrs.insert(block.cidr);
            }
        }
        let before = requests.len();
        let free = match self.release(&requests).await {
            // Assigned anew since they were listed: no longer that node's.
            Err(IpamError::Refused(Refusal::OtherAllocation { .. } | Refusal::OtherHandle { .. })) => Vec::new(),
            result => result?,
        };
        self.release_host_affinities(node, false).await?;
        Ok((before - free.len().min(before)) as u64)
    }
}
