//! Assigning addresses: the next free ones, or one that is asked for.

use super::attribute::Holder;
use super::block::{Block, ReleaseRequest};
use super::claim::GiveUp;
use super::error::{IpamError, Refusal};
use super::pools::{self, Labels, Pool, Use, Wanted};
use super::reservations::Reservations;
use super::{Ipam, IpamConfig, RETRIES};
use crate::control::datastore::objects::{Id, Objects, Resource};
use ipnet::IpNet;
use std::collections::VecDeque;
use std::net::IpAddr;

/// A request for any addresses.
#[derive(Clone, Debug, Default)]
pub struct AutoAssign {
    pub count: usize,
    /// 4 or 6.
    pub version: u8,
    pub holder: Holder,
    /// Pools by name or CIDR ([`super::precedence`]); empty for any that selects the node and the namespace.
    pub pools: Vec<String>,
    pub usage: Use,
    /// Most blocks that the node may have; 0: as configured.
    pub max_blocks: usize,
    /// Of the pod, for the pools' namespaceSelector.
    pub namespace: Option<String>,
}

impl AutoAssign {
    /// One address for a workload.
    pub fn one(version: u8, holder: Holder) -> AutoAssign {
        AutoAssign { count: 1, version, holder, ..AutoAssign::default() }
    }
}

/// A request for one address.
#[derive(Clone, Debug)]
pub struct AssignIp {
    pub address: IpAddr,
    pub holder: Holder,
    /// The pool must allow it; `None` does not ask.
    pub usage: Option<Use>,
}

/// What a request got; it may be less than was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    pub addresses: Vec<IpAddr>,
    pub wanted: usize,
    /// Why it is not all.
    pub why: Vec<String>,
}

impl Assigned {
    /// An error if it is less than was asked for. The addresses stay assigned: release them by their handle.
    pub fn complete(self, version: u8) -> Result<Vec<IpAddr>, IpamError> {
        let (got, wanted) = (self.addresses.len(), self.wanted);
        if got < wanted {
            return Err(IpamError::Exhausted { got, wanted, version, why: self.why.join("; ") });
        }
        Ok(self.addresses)
    }
}

/// One request on its way.
struct Run<'a> {
    request: &'a AutoAssign,
    config: IpamConfig,
    reservations: Reservations,
    pools: Vec<Pool>,
    /// The node's blocks that were not tried yet.
    own: VecDeque<IpNet>,
    owned: usize,
    got: Vec<ReleaseRequest>,
    why: Vec<String>,
}

impl Run<'_> {
    fn missing(&self) -> usize {
        self.request.count.saturating_sub(self.got.len())
    }
}

impl<S: Objects> Ipam<S> {
    /// Assigns the next free addresses. Fewer than asked for is no error ([`Assigned::complete`]); after an error none
    /// are, but where the datastore did not answer: release by the handle then.
    pub async fn auto_assign(&self, request: &AutoAssign) -> Result<Assigned, IpamError> {
        self.exclusively(self.auto_assign_unlocked(request)).await
    }

    pub(super) async fn auto_assign_unlocked(&self, request: &AutoAssign) -> Result<Assigned, IpamError> {
        let mut run = self.prepare(request).await?;
        if let Err(e) = self.fill(&mut run).await {
            if !run.got.is_empty()
                && let Err(again) = self.release_unlocked(&run.got).await
            {
                tracing::warn!("{} addresses stay assigned after an error: {again}", run.got.len());
            }
            return Err(e);
        }
        let addresses = run.got.iter().map(|r| r.address).collect();
        Ok(Assigned { addresses, wanted: request.count, why: run.why })
    }

    async fn prepare<'a>(&self, request: &'a AutoAssign) -> Result<Run<'a>, IpamError> {
        let reservations = self.store.reservations().await?;
        let (all, config) = (self.store.pools().await?, self.store.config().await?);
        let node = Id::cluster(Resource::Node, &self.node);
        let labels = self.store.node_labels(&self.node).await?.ok_or(IpamError::NoNode(node))?;
        let namespace = match &request.namespace {
            Some(name) if all.iter().any(|p| !p.namespace_selector.is_empty()) => Some(self.store.namespace_labels(name).await?),
            _ => None,
        };
        let pools = pools::choose(
            &all,
            &Wanted {
                version: request.version,
                usage: request.usage,
                pools: &request.pools,
                node: &self.node,
                node_labels: &labels,
                namespace_labels: namespace.as_ref(),
            },
        )?;
        let affine = self.own_claims().await?.into_iter().map(|a| a.cidr);
        let affine: Vec<IpNet> = affine.filter(|c| pools::version(c.addr()) == request.version).collect();
        let (own, others): (Vec<IpNet>, Vec<IpNet>) = affine.into_iter().partition(|c| pools::containing(&pools, c.addr()).is_some());
        self.give_up_unselected(&others, &all, &labels).await;
        let owned = own.len();
        Ok(Run { request, config, reservations, pools, own: own.into(), owned, got: Vec::new(), why: Vec::new() })
    }

    /// Gives up empty blocks of this node in pools that no longer select it. That this fails does not matter now.
    async fn give_up_unselected(&self, blocks: &[IpNet], pools: &[Pool], labels: &Labels) {
        for cidr in blocks {
            let pool = pools.iter().find(|p| p.enabled && p.cidr.contains(&cidr.addr()));
            if pool.is_some_and(|p| matches!(p.selects_node(labels), Ok(false)))
                && let Err(e) = self.give_up_patiently(&self.node, *cidr, GiveUp::IfEmpty).await
            {
                tracing::warn!("block {cidr} stays with {}: {e}", self.node);
            }
        }
    }

    async fn fill(&self, run: &mut Run<'_>) -> Result<(), IpamError> {
        for _ in 0..RETRIES + run.owned {
            if run.missing() == 0 {
                return Ok(());
            }
            let Some(block) = self.next_block(run).await? else {
                return self.borrow(run).await;
            };
            let strict = run.config.strict_affinity;
            self.take(run, block, strict).await?;
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// A block of this node with a free address; `None` if there is none to be had.
    async fn next_block(&self, run: &mut Run<'_>) -> Result<Option<Block>, IpamError> {
        while let Some(cidr) = run.own.pop_front() {
            if run.reservations.cover(cidr) {
                continue;
            }
            match self.own_block(cidr).await {
                Ok(Some(block)) => {
                    let block = self.thawed(block, &run.config);
                    if block.free(&run.reservations) > 0 {
                        return Ok(Some(block));
                    }
                }
                Ok(None) => {}
                Err(e @ IpamError::Document { .. }) => tracing::warn!("{e}"),
                Err(e) => return Err(e),
            }
        }
        let limit = run.config.max_blocks(run.request.max_blocks);
        if run.owned >= limit {
            return Err(IpamError::BlockLimit { node: self.node.clone(), owned: run.owned, limit });
        }
        if !run.config.auto_allocate_blocks {
            return Err(IpamError::NoAutoAllocation { node: self.node.clone() });
        }
        let claimed = self.claim_new(&run.pools, &run.reservations, &run.config).await?;
        run.owned += usize::from(claimed.is_some());
        Ok(claimed)
    }

    /// Takes what is missing from any block of the pools, in this node's order.
    async fn borrow(&self, run: &mut Run<'_>) -> Result<(), IpamError> {
        if run.config.strict_affinity {
            run.why.push("the node's blocks are full, no block is left to claim, and strictAffinity forbids borrowing".into());
            return Ok(());
        }
        let mut blocks = self.all_blocks(&run.config).await?.by_cidr;
        for pool in run.pools.clone() {
            for cidr in self.walk(&pool).filter(|c| !run.reservations.cover(*c)).collect::<Vec<_>>() {
                if run.missing() == 0 {
                    return Ok(());
                }
                if let Some(block) = blocks.remove(&cidr).filter(|b| b.free(&run.reservations) > 0) {
                    self.take(run, block, false).await?;
                }
            }
        }
        if run.missing() > 0 {
            let pools: Vec<String> = run.pools.iter().map(|p| p.cidr.to_string()).collect();
            run.why.push(format!("no address is free in pools {}", pools.join(", ")));
        }
        Ok(())
    }

    /// Assigns from a block as much as is missing and free.
    async fn take(&self, run: &mut Run<'_>, mut block: Block, strict: bool) -> Result<(), IpamError> {
        for _ in 0..RETRIES {
            if strict && block.affinity.as_ref() != Some(&self.owner()) {
                return Ok(());
            }
            let mut next = block.clone();
            let addresses = next.assign_next(run.missing(), &run.request.holder, &run.reservations);
            if addresses.is_empty() {
                return Ok(());
            }
            match self.commit(&next, &run.request.holder, &addresses, &run.config).await? {
                Commit::Done => {
                    let handle = run.request.holder.handle.clone();
                    let sequence = Some(next.sequence);
                    run.got.extend(addresses.into_iter().map(|address| ReleaseRequest { address, handle: handle.clone(), sequence }));
                    return Ok(());
                }
                Commit::Lost(Some(now)) => block = *now,
                Commit::Lost(None) => return Ok(()),
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// Counts in the handle, then writes the block.
    async fn commit(&self, next: &Block, holder: &Holder, addresses: &[IpAddr], config: &IpamConfig) -> Result<Commit, IpamError> {
        let count = addresses.len() as u64;
        if let Some(handle) = &holder.handle {
            self.increment(handle, next.cidr, count).await?;
        }
        let Err(fault) = self.store.update_block(next).await else { return Ok(Commit::Done) };
        // Without an answer the write may have taken effect, or still may: the handle then counts too many rather than
        // too few, and the addresses are found by it.
        if let Some(handle) = holder.handle.as_ref().filter(|_| !fault.is_unanswered()) {
            self.try_decrement(handle, next.cidr, count).await;
        }
        if fault.is_conflict() { Ok(Commit::Lost(self.block(next.cidr, config).await?.map(Box::new))) } else { Err(fault) }
    }

    /// Assigns the address that is asked for, claiming its block if nobody has it.
    pub async fn assign_ip(&self, request: &AssignIp) -> Result<(), IpamError> {
        self.exclusively(self.assign_ip_unlocked(request)).await
    }

    pub(super) async fn assign_ip_unlocked(&self, request: &AssignIp) -> Result<(), IpamError> {
        let address = request.address;
        let pools: Vec<Pool> = self.store.pools().await?.into_iter().filter(|p| p.enabled).collect();
        let pool = pools::containing(&pools, address).ok_or(IpamError::NoPoolForAddress { address })?;
        if let Some(usage) = request.usage.filter(|u| !pool.uses.contains(u)) {
            return Err(IpamError::PoolForOtherUse { address, pool: pool.name.clone(), wanted: usage.name() });
        }
        let (config, cidr) = (self.store.config().await?, pool.block_of(address));
        for _ in 0..RETRIES {
            let Some(mut block) = self.block_for(address, cidr, &config).await? else { continue };
            if config.strict_affinity && block.affinity.as_ref() != Some(&self.owner()) {
                return Err(Refusal::NotOurs { block: block.cidr, owner: block.affinity }.into());
            }
            block.assign(address, &request.holder)?;
            if let Commit::Done = self.commit(&block, &request.holder, &[address], &config).await? {
                return Ok(());
            }
        }
        Err(IpamError::Contention { attempts: RETRIES })
    }

    /// An address's block, claimed if it does not exist; `None` if somebody else claimed it at that moment.
    async fn block_for(&self, address: IpAddr, cidr: IpNet, config: &IpamConfig) -> Result<Option<Block>, IpamError> {
        if let Some(block) = self.block(cidr, config).await? {
            return Ok(Some(block));
        }
        // One of another size, if the pool was made again with another block size.
        let blocks = self.all_blocks(config).await?.by_cidr;
        match blocks.into_values().find(|b| b.cidr.contains(&address)) {
            Some(block) => Ok(Some(block)),
            None => self.claim(cidr).await,
        }
    }
}

/// How writing a block ended.
enum Commit {
    Done,
    /// Somebody else wrote first; the block as it is now.
    Lost(Option<Box<Block>>),
}
