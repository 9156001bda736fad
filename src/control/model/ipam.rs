//! IPAMBlock and BlockAffinity: which node owns which block, and who holds each of its addresses.

use super::fields::{flag, prefix};
use crate::control::yaml::{Field, FieldError, quoted};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whose a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    None,
    Host(Arc<str>),
    /// Not a node's: load-balancer addresses and the like.
    Virtual(String),
}

/// One address in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Position in the block.
    pub ordinal: u32,
    /// Attribute `node`: the node that the address is in use on.
    pub node: Option<Arc<str>>,
    /// Set aside by IPAM, not in use by anyone (Windows nodes).
    pub reserved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpamBlock {
    pub cidr: IpNet,
    pub affinity: Affinity,
    /// In order of ordinal; addresses in cooldown after release left out.
    pub allocations: Vec<Allocation>,
    /// Marked for deletion: as good as gone.
    pub deleted: bool,
}

/// State of a claim on a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinityState {
    /// Wished for: the block may be another node's in the end.
    Pending,
    Confirmed,
    PendingDeletion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockAffinity {
    pub node: String,
    pub cidr: IpNet,
    pub state: AffinityState,
    /// `type: virtual` is not a node's claim.
    pub is_host: bool,
    pub deleted: bool,
}

/// Handle of the addresses that Windows nodes keep free.
const RESERVED_HANDLE: &str = "windows-reserved-ipam-handle";

pub(super) fn block(root: &Field) -> Result<IpamBlock, FieldError> {
    let spec = root.get("spec")?;
    let cidr = block_cidr(&spec.get("cidr")?)?;
    let affinity = affinity(&spec.get("affinity")?)?;
    let mut names: BTreeSet<Arc<str>> = if let Affinity::Host(owner) = &affinity { [owner.clone()].into() } else { BTreeSet::new() };
    let holders = spec.get("attributes")?.items()?.iter().map(|f| holder(f, &mut names)).collect::<Result<Vec<_>, _>>()?;
    Ok(IpamBlock {
        cidr,
        affinity,
        allocations: allocations(&spec.get("allocations")?, cidr, &holders)?,
        deleted: flag(&spec.get("deleted")?)?,
    })
}

pub(super) fn block_affinity(root: &Field) -> Result<BlockAffinity, FieldError> {
    let spec = root.get("spec")?;
    let states = [
        ("", AffinityState::Confirmed),
        ("pending", AffinityState::Pending),
        ("confirmed", AffinityState::Confirmed),
        ("pendingDeletion", AffinityState::PendingDeletion),
    ];
    Ok(BlockAffinity {
        node: spec.get("node")?.required_text()?.to_owned(),
        cidr: block_cidr(&spec.get("cidr")?)?,
        state: spec.get("state")?.one_of(&states)?.unwrap_or(AffinityState::Confirmed),
        is_host: spec.get("type")?.one_of(&[("host", true), ("virtual", false), ("", true)])?.unwrap_or(true),
        deleted: flag(&spec.get("deleted")?)?,
    })
}

/// A block has at most 4096 addresses.
fn block_cidr(f: &Field) -> Result<IpNet, FieldError> {
    let cidr = prefix(f)?.ok_or_else(|| f.error("missing; a CIDR is required"))?;
    let least = cidr.max_prefix_len() - 12;
    if cidr.prefix_len() < least {
        return Err(f.error(format!("{cidr} is larger than any block; /{least} is the largest")));
    }
    Ok(cidr)
}

fn affinity(f: &Field) -> Result<Affinity, FieldError> {
    let Some(text) = f.text()?.filter(|s| !s.is_empty()) else { return Ok(Affinity::None) };
    match text.split_once(':') {
        Some(("host", node)) if !node.is_empty() => Ok(Affinity::Host(node.into())),
        Some(("virtual", name)) if !name.is_empty() => Ok(Affinity::Virtual(name.to_owned())),
        _ => Err(f.error(format!("{} is neither host:NODE nor virtual:NAME", quoted(text)))),
    }
}

/// What an attribute says about the addresses that refer to it.
struct Holder {
    node: Option<Arc<str>>,
    reserved: bool,
    released: bool,
}

/// `names` holds each node's name once, however many addresses it has in the block.
fn holder(f: &Field, names: &mut BTreeSet<Arc<str>>) -> Result<Holder, FieldError> {
    let mut shared = |name: &str| {
        names.get(name).cloned().unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            names.insert(name.clone());
            name
        })
    };
    Ok(Holder {
        node: f.at(&["secondary", "node"])?.text()?.filter(|s| !s.is_empty()).map(&mut shared),
        reserved: f.get("handle_id")?.text()? == Some(RESERVED_HANDLE),
        released: f.get("releasedAt")?.is_present(),
    })
}

fn allocations(f: &Field, cidr: IpNet, holders: &[Holder]) -> Result<Vec<Allocation>, FieldError> {
    let items = f.items()?;
    let size = 1usize << (cidr.max_prefix_len() - cidr.prefix_len());
    if items.len() > size {
        return Err(f.error(format!("{} entries, but {cidr} has {size} addresses", items.len())));
    }
    let mut out = Vec::new();
    for (ordinal, item) in (0..).zip(&items) {
        let Some(index) = item.number::<u32>(0, u32::MAX)? else { continue };
        let holder = holders
            .get(index as usize)
            .ok_or_else(|| item.error(format!("{index} is not an index into the {} attributes", holders.len())))?;
        if !holder.released {
            out.push(Allocation { ordinal, node: holder.node.clone(), reserved: holder.reserved });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    fn read_block(spec: &str) -> Result<IpamBlock, String> {
        let docs = documents(&format!("spec: {{{spec}}}")).unwrap();
        block(&Field::root(&docs[0])).map_err(|e| e.to_string())
    }
    fn read_affinity(spec: &str) -> Result<BlockAffinity, String> {
        let docs = documents(&format!("spec: {{{spec}}}")).unwrap();
        block_affinity(&Field::root(&docs[0])).map_err(|e| e.to_string())
    }

    #[test]
    fn allocations_point_at_their_holders() {
        let b = read_block(
            "cidr: 10.244.0.64/29, affinity: 'host:n1', deleted: false, strictAffinity: false, unallocated: [4,5,6,7], \
             allocations: [0, 1, null, 2, 3], attributes: [{handle_id: vxlan-tunnel-addr-n1, secondary: {node: n1, type: vxlanTunnelAddress}}, \
             {handle_id: h, secondary: {node: n2, pod: p}}, {handle_id: windows-reserved-ipam-handle}, {secondary: {node: n1}, releasedAt: '2026-01-01T00:00:00Z'}]",
        )
        .unwrap();
        let got: Vec<_> = b.allocations.iter().map(|a| (a.ordinal, a.node.as_deref(), a.reserved)).collect();
        assert_eq!(got, [(0, Some("n1"), false), (1, Some("n2"), false), (3, None, true)]);
        assert_eq!((b.affinity, b.deleted), (Affinity::Host("n1".into()), false));
        assert_eq!(read_block("cidr: 10.244.0.64/32").unwrap().affinity, Affinity::None);
        assert_eq!(
            read_block("cidr: 10.244.0.64/32, affinity: 'virtual:lb', deleted: 'true'").unwrap().affinity,
            Affinity::Virtual("lb".into())
        );
    }

    #[test]
    fn affinity_states_and_both_forms_of_deleted() {
        let a = read_affinity("node: n1, cidr: 10.244.0.64/26, state: pending, deleted: 'false'").unwrap();
        assert_eq!((a.state, a.is_host, a.deleted), (AffinityState::Pending, true, false));
        let a = read_affinity("node: lb, cidr: 10.244.0.64/26, state: '', deleted: true, type: virtual").unwrap();
        assert_eq!((a.state, a.is_host, a.deleted), (AffinityState::Confirmed, false, true));
        assert!(read_affinity("node: n1, cidr: 10.244.0.64/26, state: maybe").unwrap_err().contains("is not one of"));
        assert!(read_affinity("cidr: 10.244.0.64/26").unwrap_err().starts_with("spec.node: missing"));
    }

    #[test]
    fn faults() {
        for (spec, want) in [
            ("affinity: 'host:a'", "spec.cidr: missing"),
            ("cidr: 10.0.0.0/19", "spec.cidr: 10.0.0.0/19 is larger than any block; /20 is the largest"),
            ("cidr: 10.0.0.1/26", "spec.cidr: 10.0.0.1/26 has bits beyond"),
            ("cidr: 10.0.0.0/26, affinity: n1", "spec.affinity: \"n1\" is neither host:NODE nor virtual:NAME"),
            ("cidr: 10.0.0.0/26, affinity: 'host:'", "spec.affinity: \"host:\" is neither"),
            ("cidr: 10.0.0.0/31, allocations: [null, null, null]", "spec.allocations: 3 entries, but 10.0.0.0/31 has 2 addresses"),
            ("cidr: 10.0.0.0/26, allocations: [null, 1], attributes: [{}]", "spec.allocations[1]: 1 is not an index into the 1 attributes"),
            ("cidr: 10.0.0.0/26, allocations: [-1]", "spec.allocations[0]: a whole number from 0"),
            ("cidr: 10.0.0.0/26, deleted: 7", "spec.deleted: text is required, not the number 7"),
        ] {
            let got = read_block(spec).unwrap_err();
            assert!(got.starts_with(want), "{spec}: {got}");
        }
    }
}
