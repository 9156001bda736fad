//! What `ipam show` says, as rows with the numbers that calicoctl prints.

use super::attribute::Attribute;
use super::block::Block;
use super::config::IpamConfig;
use super::listing::Listing;
use super::reservations::size;
use ipnet::IpNet;
use std::net::IpAddr;

/// One row of the table of pools and blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Utilization {
    pub cidr: IpNet,
    pub total: u128,
    /// With those in cooldown.
    pub in_use: u128,
    pub reserved: u128,
    /// Neither in use nor reserved.
    pub free: u128,
    /// Released and not yet to be given out again.
    pub cooling: u128,
}

/// A pool and its blocks, in order of the blocks' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUtilization {
    /// `None` for blocks whose pool is gone.
    pub pool: Option<(String, Utilization)>,
    pub blocks: Vec<Utilization>,
}

/// An address in use on another node than its block's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Borrowed {
    pub address: IpAddr,
    pub node: String,
    pub block: IpNet,
    /// Empty if the block is nobody's.
    pub owner: String,
    /// `pod`, `vmi`, a tunnel's type, or empty.
    pub kind: String,
    /// `NAMESPACE/NAME`, or empty.
    pub holder: String,
}

/// What `ipam show --ip` says.
#[derive(Clone, Debug, PartialEq)]
pub enum AddressState {
    Unassigned,
    Cooling,
    Assigned(Attribute),
}

/// Pools in order of name, and behind them the blocks of no pool, if there are any.
pub fn utilization(listing: &Listing) -> Vec<PoolUtilization> {
    let mut left: Vec<&Block> = listing.blocks.iter().collect();
    let mut out = Vec::new();
    for pool in &listing.pools {
        let (inside, outside): (Vec<&Block>, Vec<&Block>) = left.into_iter().partition(|b| pool.cidr.contains(&b.cidr));
        left = outside;
        let blocks: Vec<Utilization> = inside.iter().map(|b| block_row(b, listing)).collect();
        out.push(PoolUtilization { pool: Some((pool.name.clone(), pool_row(pool.cidr, &blocks, listing))), blocks });
    }
    if !left.is_empty() {
        out.push(PoolUtilization { pool: None, blocks: left.iter().map(|b| block_row(b, listing)).collect() });
    }
    out
}

fn block_row(block: &Block, listing: &Listing) -> Utilization {
    let total = size(block.cidr);
    let in_use = total - block.free(&Default::default()) as u128;
    let reserved = listing.reservations.count_in(block.cidr);
    let cooling = block.allocated().filter(|a| a.attribute.released.is_some()).count() as u128;
    Utilization { cidr: block.cidr, total, in_use, reserved, free: block.free(&listing.reservations) as u128, cooling }
}

fn pool_row(cidr: IpNet, blocks: &[Utilization], listing: &Listing) -> Utilization {
    let sum = |part: fn(&Utilization) -> u128| blocks.iter().map(part).sum::<u128>();
    let (total, reserved, in_use) = (size(cidr), listing.reservations.count_in(cidr), sum(|b| b.in_use));
    // Reserved after they were assigned.
    let both = sum(|b| (b.in_use + b.reserved + b.free).saturating_sub(b.total));
    let free = total.saturating_sub((in_use + reserved).saturating_sub(both));
    Utilization { cidr, total, in_use, reserved, free, cooling: sum(|b| b.cooling) }
}

/// Borrowed addresses, and how many addresses have no node recorded, so that it cannot be told.
pub fn borrowed(listing: &Listing) -> (Vec<Borrowed>, usize) {
    let (mut rows, mut unclassified) = (Vec::new(), 0);
    for block in &listing.blocks {
        let owner = block.affinity.as_deref().map(|a| a.split_once(':').map_or(a, |(_, name)| name)).unwrap_or_default();
        for held in block.allocated().filter(|a| a.attribute.released.is_none()) {
            match held.attribute.active.get("node") {
                None => unclassified += 1,
                Some(node) if node == owner => {}
                Some(node) => {
                    let (kind, holder) = holder(held.attribute);
                    let (node, owner) = (node.clone(), owner.to_owned());
                    rows.push(Borrowed { address: held.address, node, block: block.cidr, owner, kind, holder });
                }
            }
        }
    }
    (rows, unclassified)
}

/// Kind and `NAMESPACE/NAME`.
fn holder(attribute: &Attribute) -> (String, String) {
    let get = |key: &str| attribute.active.get(key).map(String::as_str);
    let namespace = get("namespace").unwrap_or_default();
    match (get("vmi"), get("pod"), get("type")) {
        (Some(name), _, _) => ("vmi".into(), format!("{namespace}/{name}")),
        (_, Some(name), _) => ("pod".into(), format!("{namespace}/{name}")),
        (_, _, Some(kind)) => (kind.to_owned(), String::new()),
        _ => (String::new(), String::new()),
    }
}

pub fn address(listing: &Listing, address: IpAddr) -> AddressState {
    let block = listing.blocks.iter().find(|b| b.cidr.contains(&address));
    match block.and_then(|b| b.holder(address)) {
        None => AddressState::Unassigned,
        Some(held) if held.attribute.released.is_some() => AddressState::Cooling,
        Some(held) => AddressState::Assigned(held.attribute.clone()),
    }
}

/// PROPERTY and VALUE.
pub fn configuration(config: &IpamConfig) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("StrictAffinity", config.strict_affinity.to_string()),
        ("AutoAllocateBlocks", config.auto_allocate_blocks.to_string()),
        ("MaxBlocksPerHost", config.max_blocks_per_host.to_string()),
    ];
    rows.extend(config.kubevirt_persistence.as_ref().map(|p| ("KubeVirtVMAddressPersistence", p.clone())));
    rows.push(("IPCooldownSeconds", config.cooldown_seconds.to_string()));
    rows
}

/// A number as Go's `%.5g` prints it: five significant digits.
pub fn number(n: u128) -> String {
    if n < 100_000 {
        return n.to_string();
    }
    let text = format!("{:.4e}", n as f64);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e+{exponent:0>2}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// A number with its share of the whole: `16 (0%)`.
pub fn share(n: u128, total: u128) -> String {
    let percent = if total == 0 { 0.0 } else { 100.0 * n as f64 / total as f64 };
    format!("{} ({}%)", number(n), percent.round_ties_even())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_go_s() {
        for (n, want) in [
            (0, "0"),
            (65_536, "65536"),
            (99_999, "99999"),
            (100_000, "1e+05"),
            (123_456, "1.2346e+05"),
            (1_048_576, "1.0486e+06"),
            (1 << 80, "1.2089e+24"),
        ] {
            assert_eq!(number(n), want);
        }
        assert_eq!(share(16, 65_536), "16 (0%)");
        assert_eq!(share(4, 64), "4 (6%)");
        assert_eq!(share(60, 64), "60 (94%)");
        assert_eq!(share(1, 8), "1 (12%)", "half to even, as Go prints");
    }
}
