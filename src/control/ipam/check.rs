//! What is inconsistent in address management, and what to do about it. A pure function over listed objects; while
//! nodes assign and release, findings may be of the moment: what a second look does not show was one of those.

use super::block::{Allocated, Block, ReleaseRequest};
use super::listing::{ListedPod, Listing};
use super::names;
use super::pools;
use super::report;
use super::tunnel::Tunnel;
use crate::control::model::AffinityState;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

/// Share of a pool's addresses in use from which on it is nearly full, per cent.
const NEARLY_FULL: u128 = 90;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Traffic is or will be wrong.
    Error,
    /// Addresses are lost, or something does not fit together.
    Warning,
    /// To know of.
    Note,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Two pods, or a pod and a tunnel, have the same address.
    AddressTwice {
        address: IpAddr,
        holders: Vec<String>,
    },
    OverlappingBlocks {
        blocks: [IpNet; 2],
    },
    /// In use by a pod or node, free in the block.
    Unallocated {
        address: IpAddr,
        user: String,
    },
    /// In use by a pod or node, in the block another's.
    AllocatedToOther {
        address: IpAddr,
        user: String,
        holder: String,
    },
    /// An affinity on a block of another owner, or of none.
    ForeignAffinity {
        node: String,
        block: IpNet,
        owner: Option<String>,
    },
    Unreadable {
        what: String,
    },
    /// A block of a node that has no affinity for it.
    BlockWithoutAffinity {
        block: IpNet,
        node: String,
    },
    /// A claim that has no block, or is not confirmed or ended though there is one.
    UnfinishedAffinity {
        node: String,
        block: IpNet,
        state: &'static str,
        has_block: bool,
    },
    AffinityOfMissingNode {
        node: String,
        block: IpNet,
    },
    /// In use by a pod or tunnel of a node that is gone.
    MissingNode {
        address: IpAddr,
        node: String,
        holder: String,
    },
    /// The pod is gone, runs on another node, or has other addresses.
    MissingPod {
        address: IpAddr,
        pod: String,
    },
    /// A node's tunnel address that its Node does not name.
    LeakedTunnel {
        address: IpAddr,
        node: String,
        tunnel: Tunnel,
    },
    /// What a handle counts in a block, and what is there.
    HandleCount {
        handle: String,
        block: IpNet,
        counted: u64,
        found: u64,
    },
    /// Neither free nor in use: never given out again.
    LostAddresses {
        block: IpNet,
        addresses: usize,
    },
    BlockOutsidePools {
        block: IpNet,
    },
    PoolNearlyFull {
        pool: String,
        in_use: u128,
        total: u128,
    },
    /// Settings that contradict each other.
    Configuration {
        contradiction: Contradiction,
    },
    /// Assigned without saying for which node.
    Unattributed {
        addresses: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contradiction {
    NeitherBlocksNorBorrowing,
    LimitWithoutStrictAffinity,
}

impl Finding {
    /// The address that is in use by nobody, if that is what was found.
    pub fn leaked(&self) -> Option<IpAddr> {
        match self {
            Finding::MissingNode { address, .. } | Finding::MissingPod { address, .. } | Finding::LeakedTunnel { address, .. } => {
                Some(*address)
            }
            _ => None,
        }
    }
}

/// How each leaked address was given out, so that it is released only as long as that holds.
pub fn leaks(listing: &Listing, findings: &[Finding]) -> Vec<ReleaseRequest> {
    let leaked: BTreeSet<IpAddr> = findings.iter().filter_map(Finding::leaked).collect();
    let allocated = listing.blocks.iter().flat_map(Block::allocated).filter(|a| leaked.contains(&a.address));
    allocated.map(|a| ReleaseRequest { address: a.address, handle: a.attribute.handle.clone(), sequence: a.sequence }).collect()
}

/// All findings, the gravest first.
pub fn check(listing: &Listing) -> Vec<Finding> {
    let mut out: Vec<Finding> = listing.unreadable.iter().map(|what| Finding::Unreadable { what: what.clone() }).collect();
    affinities(listing, &mut out);
    blocks(listing, &mut out);
    handles(listing, &mut out);
    allocations(listing, &mut out);
    users(listing, &mut out);
    capacity(listing, &mut out);
    out.sort_by_key(|f| (f.severity(), f.clone()));
    out
}

fn affinities(listing: &Listing, out: &mut Vec<Finding>) {
    let blocks: HashMap<IpNet, &Block> = listing.blocks.iter().map(|b| (b.cidr, b)).collect();
    for affinity in listing.affinities.iter().filter(|a| a.is_host) {
        let (node, block) = (affinity.node.clone(), affinity.cidr);
        let found = blocks.get(&block);
        let owner = found.and_then(|b| b.affinity.clone());
        if !listing.nodes.contains_key(&node) {
            out.push(Finding::AffinityOfMissingNode { node, block });
        } else if found.is_some() && owner != Some(format!("host:{node}")) {
            out.push(Finding::ForeignAffinity { node, block, owner });
        } else if found.is_none() || affinity.state != AffinityState::Confirmed {
            let state = match affinity.state {
                AffinityState::Pending => "pending",
                AffinityState::Confirmed => "confirmed",
                AffinityState::PendingDeletion => "pendingDeletion",
            };
            out.push(Finding::UnfinishedAffinity { node, block, state, has_block: found.is_some() });
        }
    }
}

fn blocks(listing: &Listing, out: &mut Vec<Finding>) {
    let claimed: BTreeSet<(&str, IpNet)> = listing.affinities.iter().map(|a| (a.node.as_str(), a.cidr)).collect();
    // In order of address an overlap is one with a block before that is not over yet.
    let mut sorted: Vec<IpNet> = listing.blocks.iter().map(|b| b.cidr).collect();
    sorted.sort_by_key(|c| (c.network(), c.prefix_len()));
    let mut widest: Option<IpNet> = None;
    for cidr in sorted {
        match widest.filter(|w| w.contains(&cidr)) {
            Some(wide) => out.push(Finding::OverlappingBlocks { blocks: [wide, cidr] }),
            None => widest = Some(cidr),
        }
    }
    for block in &listing.blocks {
        if let Some(node) = block.node().filter(|n| !claimed.contains(&(*n, block.cidr))) {
            out.push(Finding::BlockWithoutAffinity { block: block.cidr, node: node.to_owned() });
        }
        if pools::containing(&listing.pools, block.cidr.addr()).is_none() {
            out.push(Finding::BlockOutsidePools { block: block.cidr });
        }
        let lost = block.size() as usize - block.free(&Default::default()) - block.allocated().count();
        if lost > 0 {
            out.push(Finding::LostAddresses { block: block.cidr, addresses: lost });
        }
    }
}

/// Handles are compared as their objects are named, without regard to case.
fn handles(listing: &Listing, out: &mut Vec<Finding>) {
    let mut counts: BTreeMap<(String, IpNet), (u64, u64)> = BTreeMap::new();
    for block in &listing.blocks {
        for held in in_use(block).filter(|a| !a.attribute.is_windows_reserved()) {
            if let Some(handle) = held.attribute.handle.as_deref().map(super::attribute::clean_handle) {
                counts.entry((names::handle(handle), block.cidr)).or_default().1 += 1;
            }
        }
    }
    for handle in &listing.handles {
        for (block, count) in &handle.blocks {
            counts.entry((names::handle(&handle.id), *block)).or_default().0 = *count;
        }
    }
    for ((handle, block), (counted, found)) in counts {
        if counted != found {
            out.push(Finding::HandleCount { handle, block, counted, found });
        }
    }
}

/// Not those in cooldown.
fn in_use(block: &Block) -> impl Iterator<Item = Allocated<'_>> {
    block.allocated().filter(|a| a.attribute.released.is_none())
}

fn allocations(listing: &Listing, out: &mut Vec<Finding>) {
    let pods: HashMap<(&str, &str), &ListedPod> = listing.pods.iter().map(|p| ((p.namespace.as_str(), p.name.as_str()), p)).collect();
    let mut unattributed = 0;
    for held in listing.blocks.iter().flat_map(in_use).filter(|a| !a.attribute.is_windows_reserved()) {
        let (address, attribute) = (held.address, held.attribute);
        let get = |key: &str| attribute.active.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let Some(node) = attribute.node() else {
            unattributed += usize::from(get("service").is_none());
            continue;
        };
        let tunnel = Tunnel::ALL.into_iter().find(|t| get("type") == Some(t.type_name()));
        let pod = get("namespace").zip(get("pod"));
        if !listing.nodes.contains_key(node) {
            out.push(Finding::MissingNode { address, node: node.to_owned(), holder: holder(&held) });
        } else if let Some(tunnel) = tunnel {
            if listing.nodes[node].get(&tunnel) != Some(&address) {
                out.push(Finding::LeakedTunnel { address, node: node.to_owned(), tunnel });
            }
        } else if let Some((namespace, name)) = pod
            && !pods.get(&(namespace, name)).is_some_and(|p| has(p, node, address))
        {
            out.push(Finding::MissingPod { address, pod: format!("{namespace}/{name}") });
        }
    }
    if unattributed > 0 {
        out.push(Finding::Unattributed { addresses: unattributed });
    }
}

/// Whether the pod is on this node with this address, or may yet report it.
fn has(listed: &ListedPod, node: &str, address: IpAddr) -> bool {
    let here = listed.pod.node.as_deref().is_none_or(|n| n == node);
    here && !listed.finished && (listed.pod.addresses.is_empty() || listed.pod.addresses.contains(&address))
}

fn holder(held: &Allocated) -> String {
    let get = |key: &str| held.attribute.active.get(key).map(String::as_str);
    match (get("namespace"), get("pod"), get("type"), &held.attribute.handle) {
        (namespace, Some(pod), _, _) => format!("pod {}/{pod}", namespace.unwrap_or_default()),
        (_, _, Some(kind), _) => format!("{kind} of node {}", get("node").unwrap_or_default()),
        (_, _, _, Some(handle)) => format!("handle {handle}"),
        _ => "nobody".into(),
    }
}

/// Addresses by who uses them, against the blocks.
fn users(listing: &Listing, out: &mut Vec<Finding>) {
    let mut users: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for ListedPod { namespace, name, pod, .. } in listing.pods.iter().filter(|p| !p.pod.host_network) {
        for address in &pod.addresses {
            users.entry(*address).or_default().push(format!("pod {namespace}/{name}"));
        }
    }
    for (node, tunnels) in &listing.nodes {
        for (tunnel, address) in tunnels {
            users.entry(*address).or_default().push(format!("{} of node {node}", tunnel.type_name()));
        }
    }
    let held: HashMap<IpAddr, Allocated> = listing.blocks.iter().flat_map(in_use).map(|a| (a.address, a)).collect();
    for (address, users) in users {
        if pools::containing(&listing.pools, address).is_none() {
            continue;
        }
        match held.get(&address) {
            None => out.extend(users.iter().map(|user| Finding::Unallocated { address, user: user.clone() })),
            Some(held) if held.attribute.active.is_empty() => {}
            Some(held) => {
                let holder = holder(held);
                let others = users.iter().filter(|user| **user != holder && is_told(held));
                out.extend(others.map(|user| Finding::AllocatedToOther { address, user: user.clone(), holder: holder.clone() }));
            }
        }
        if users.len() > 1 {
            out.push(Finding::AddressTwice { address, holders: users });
        }
    }
}

/// Whether the attributes say who holds the address in a way that can be compared.
fn is_told(held: &Allocated) -> bool {
    let has = |key: &str| held.attribute.active.contains_key(key);
    has("namespace") && has("pod") || has("node") && has("type")
}

fn capacity(listing: &Listing, out: &mut Vec<Finding>) {
    for row in report::utilization(listing) {
        let Some((pool, row)) = row.pool else { continue };
        // What is reserved cannot be given out either.
        let in_use = row.total - row.free;
        if in_use > row.total / 100 * NEARLY_FULL + row.total % 100 * NEARLY_FULL / 100 {
            out.push(Finding::PoolNearlyFull { pool, in_use, total: row.total });
        }
    }
    let config = &listing.config;
    if !config.strict_affinity && !config.auto_allocate_blocks {
        out.push(Finding::Configuration { contradiction: Contradiction::NeitherBlocksNorBorrowing });
    }
    if !config.strict_affinity && config.max_blocks_per_host > 0 {
        out.push(Finding::Configuration { contradiction: Contradiction::LimitWithoutStrictAffinity });
    }
}

impl Finding {
    pub fn severity(&self) -> Severity {
        match self {
            Finding::AddressTwice { .. }
            | Finding::OverlappingBlocks { .. }
            | Finding::Unallocated { .. }
            | Finding::AllocatedToOther { .. }
            | Finding::Unreadable { .. } => Severity::Error,
            Finding::HandleCount { counted, found, .. } if counted < found => Severity::Error,
            Finding::UnfinishedAffinity { .. } | Finding::BlockOutsidePools { .. } | Finding::Unattributed { .. } => Severity::Note,
            Finding::HandleCount { found: 0, .. } => Severity::Note,
            _ => Severity::Warning,
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Finding::AddressTwice { .. } => "delete the younger of the pods: it gets another address".into(),
            Finding::OverlappingBlocks { blocks: [_, small] } => {
                format!("move the pods out of {small} (delete them), then delete IPAMBlock {}", names::block(*small))
            }
            Finding::Unallocated { .. } => "delete the pod, or restart the node's agent for a tunnel: it gets an address anew".into(),
            Finding::AllocatedToOther { .. } => "delete the pod that uses it, or restart the node's agent for a tunnel".into(),
            Finding::ForeignAffinity { node, block, .. } | Finding::AffinityOfMissingNode { node, block } => {
                format!("delete BlockAffinity {}", names::affinity(node, *block))
            }
            Finding::Unreadable { .. } => "correct or delete the object; its addresses are not used until then".into(),
            Finding::BlockWithoutAffinity { node, .. } => {
                format!("none while node {node} exists: it claims the block again when it needs it; else release its addresses")
            }
            Finding::UnfinishedAffinity { node, .. } => format!("none: node {node} finishes or removes it when it needs a block"),
            Finding::MissingNode { address, .. } | Finding::MissingPod { address, .. } => format!("release {address}"),
            Finding::LeakedTunnel { address, node, .. } => format!("restart the agent of node {node}, or release {address}"),
            Finding::HandleCount { handle, counted, found, .. } if counted < found => {
                format!("release the addresses of {handle} one by one when their pod is gone: by its handle they are not found")
            }
            Finding::HandleCount { handle, found: 0, .. } => format!("delete IPAMHandle {handle} if nothing is being assigned"),
            Finding::HandleCount { .. } => "none: it counts too many, which only takes a longer search".into(),
            Finding::LostAddresses { block, .. } => {
                format!("add the missing ordinals to spec.unallocated of IPAMBlock {}", names::block(*block))
            }
            Finding::BlockOutsidePools { .. } => "make the pool again, or move the pods out of it; their routes stay until then".into(),
            Finding::PoolNearlyFull { .. } => "add a pool, or release what is leaked".into(),
            Finding::Configuration { contradiction: Contradiction::NeitherBlocksNorBorrowing } => {
                "set strictAffinity or autoAllocateBlocks in IPAMConfiguration default".into()
            }
            Finding::Configuration { contradiction: Contradiction::LimitWithoutStrictAffinity } => {
                "set strictAffinity as well, or maxBlocksPerHost to 0, in IPAMConfiguration default".into()
            }
            Finding::Unattributed { .. } => "none: assigned by old versions; whether they are in use cannot be told".into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Finding::AddressTwice { address, holders } => write!(f, "{address} is in use by {}", holders.join(" and ")),
            Finding::OverlappingBlocks { blocks: [a, b] } => write!(f, "blocks {a} and {b} overlap"),
            Finding::Unallocated { address, user } => write!(f, "{address} of {user} is not allocated: it can be given to another"),
            Finding::AllocatedToOther { address, user, holder } => write!(f, "{address} of {user} is allocated to {holder}"),
            Finding::ForeignAffinity { node, block, owner } => {
                write!(f, "node {node} has an affinity for block {block} of {}", owner.as_deref().unwrap_or("nobody"))
            }
            Finding::Unreadable { what } => f.write_str(what),
            Finding::BlockWithoutAffinity { block, node } => write!(f, "block {block} of node {node} has no affinity"),
            Finding::UnfinishedAffinity { node, block, state, has_block: true } => {
                write!(f, "the affinity of node {node} for its block {block} is {state}")
            }
            Finding::UnfinishedAffinity { node, block, state, .. } => {
                write!(f, "node {node} has an affinity ({state}) for block {block}, which does not exist")
            }
            Finding::AffinityOfMissingNode { node, block } => write!(f, "block {block} is claimed by node {node}, which does not exist"),
            Finding::MissingNode { address, node, holder } => {
                write!(f, "{address} is allocated to {holder} on node {node}, which does not exist")
            }
            Finding::MissingPod { address, pod } => write!(f, "{address} is allocated to pod {pod}, which does not have it"),
            Finding::LeakedTunnel { address, node, tunnel } => {
                write!(f, "{address} is allocated as {} of node {node}, which does not name it", tunnel.type_name())
            }
            Finding::HandleCount { handle, block, counted, found } => {
                write!(f, "handle {handle} counts {counted} addresses in block {block}, which has {found}")
            }
            Finding::LostAddresses { block, addresses } => write!(f, "{addresses} addresses of block {block} are neither free nor in use"),
            Finding::BlockOutsidePools { block } => write!(f, "block {block} is in no IPPool"),
            Finding::PoolNearlyFull { pool, in_use, total } => {
                write!(f, "IPPool {pool}: {in_use} of {total} addresses are in use or reserved")
            }
            Finding::Configuration { contradiction: Contradiction::NeitherBlocksNorBorrowing } => {
                f.write_str("IPAMConfiguration default: strictAffinity and autoAllocateBlocks are both off")
            }
            Finding::Configuration { contradiction: Contradiction::LimitWithoutStrictAffinity } => {
                f.write_str("IPAMConfiguration default: maxBlocksPerHost without strictAffinity")
            }
            Finding::Unattributed { addresses } => write!(f, "{addresses} addresses are allocated without a node"),
        }
    }
}
