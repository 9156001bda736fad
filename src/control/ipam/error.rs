use crate::control::datastore::objects::{AccessError, Id};
use crate::control::selector::SelectorError;
use crate::control::yaml::FieldError;
use ipnet::IpNet;
use std::net::IpAddr;

/// Why an address cannot be assigned or released.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("{id}: {fault}")]
    Document { id: Id, fault: FieldError },
    #[error("IPPool {pool}: spec.{field}: {fault}")]
    Selector { pool: String, field: &'static str, fault: SelectorError },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0} does not exist: IPAM needs its labels")]
    NoNode(Id),
    #[error("there is no enabled IPv{version} IPPool; create one, or enable one")]
    NoEnabledPool { version: u8 },
    #[error("the IPPool {pool} that was asked for does not exist, is disabled, or is not IPv{version}")]
    UnknownPool { pool: String, version: u8 },
    #[error("no IPv{version} IPPool is for node {node} and this namespace: nodeSelector, namespaceSelector or assignmentMode exclude all")]
    NoPoolForNode { node: String, version: u8 },
    #[error("no IPv{version} IPPool for node {node} has {wanted} among its allowedUses")]
    NoPoolForUse { node: String, wanted: &'static str, version: u8 },
    #[error("{address} is in no enabled IPPool")]
    NoPoolForAddress { address: IpAddr },
    #[error("{address} is in IPPool {pool}, whose allowedUses exclude {wanted}")]
    PoolForOtherUse { address: IpAddr, pool: String, wanted: &'static str },
    #[error("node {node} has {owned} blocks without a free address and may have {limit} (IPAMConfiguration maxBlocksPerHost; 0 means 20)")]
    BlockLimit { node: String, owned: usize, limit: usize },
    #[error("node {node} has no block with a free address, and IPAMConfiguration autoAllocateBlocks is off: claim a block for it")]
    NoAutoAllocation { node: String },
    #[error("the blocks were changed by others too often; {attempts} attempts failed")]
    Contention { attempts: usize },
    #[error("not done within {seconds} s; what was assigned until then is released by its handle")]
    Timeout { seconds: u64 },
    #[error("assigned {got} of {wanted} IPv{version} addresses; {why}")]
    Exhausted { got: usize, wanted: usize, version: u8, why: String },
}

/// Why a block does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{address} is not in block {block}")]
    NotInBlock { address: IpAddr, block: IpNet },
    #[error("{address} is in use, with handle {handle:?}")]
    InUse { address: IpAddr, handle: String },
    #[error("{address} was released a moment ago and is in cooldown (IPAMConfiguration ipCooldownSeconds)")]
    InCooldown { address: IpAddr },
    #[error("block {block} belongs to {}, and strictAffinity forbids borrowing", owner.as_deref().unwrap_or("nobody"))]
    NotOurs { block: IpNet, owner: Option<String> },
    #[error("{address} was assigned anew meanwhile: its sequence number is {found}, not {wanted}")]
    OtherAllocation { address: IpAddr, wanted: u64, found: u64 },
    #[error("{address} has handle {found:?}, not {wanted:?}")]
    OtherHandle { address: IpAddr, wanted: String, found: String },
}

impl IpamError {
    /// Whether a write took effect is not known.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, IpamError::Access(AccessError::Unavailable { .. }))
    }

    /// Somebody else wrote first: read again, decide again.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, IpamError::Access(e) if e.is_conflict() || matches!(e, AccessError::NotFound { .. }))
    }
}
