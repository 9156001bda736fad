//! The blocks by CIDR, what is borrowed from them, and who claims them.

use super::rules;
use crate::control::conflict::Conflict;
use crate::control::model::{BlockAffinity, IpamBlock};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Blocks and block affinities.
#[derive(Default)]
pub(super) struct Blocks {
    /// Those of IPv4 that are not deleted.
    all: BTreeMap<String, Arc<IpamBlock>>,
    by_cidr: BTreeMap<Ipv4Net, BTreeSet<String>>,
    /// Borrowed address, the block object that says so, who holds it.
    lent: BTreeSet<(Ipv4Addr, String, Arc<str>)>,
    claims: BTreeMap<String, Arc<BlockAffinity>>,
    claims_by_cidr: BTreeMap<Ipv4Net, BTreeSet<String>>,
}

fn v4(net: IpNet) -> Option<Ipv4Net> {
    if let IpNet::V4(net) = net { Some(net) } else { None }
}

fn leave(index: &mut BTreeMap<Ipv4Net, BTreeSet<String>>, cidr: Ipv4Net, name: &str) {
    if let Some(names) = index.get_mut(&cidr) {
        names.remove(name);
        if names.is_empty() {
            index.remove(&cidr);
        }
    }
}

/// The CIDR of a block that counts.
pub(super) fn cidr_of(block: &IpamBlock) -> Option<Ipv4Net> {
    v4(block.cidr).filter(|_| !block.deleted)
}

impl Blocks {
    pub fn get(&self, name: &str) -> Option<&Arc<IpamBlock>> {
        self.all.get(name)
    }

    pub fn cidrs(&self) -> impl Iterator<Item = Ipv4Net> {
        self.by_cidr.keys().copied()
    }

    pub fn claimed(&self) -> impl Iterator<Item = Ipv4Net> {
        self.claims_by_cidr.keys().copied()
    }

    /// Puts a block in place of what was known under its name; what it lends is the caller's to [`Blocks::lend`].
    pub fn set(&mut self, name: &str, block: Option<&Arc<IpamBlock>>) {
        if let Some(cidr) = self.all.remove(name).and_then(|old| cidr_of(&old)) {
            leave(&mut self.by_cidr, cidr, name);
        }
        if let Some(block) = block
            && let Some(cidr) = cidr_of(block)
        {
            self.by_cidr.entry(cidr).or_default().insert(name.to_owned());
            self.all.insert(name.to_owned(), block.clone());
        }
    }

    /// Puts a claim in place of what was known under its name; the CIDRs of both.
    pub fn set_claim(&mut self, name: &str, claim: Option<&Arc<BlockAffinity>>) -> [Option<Ipv4Net>; 2] {
        let old = self.claims.remove(name).and_then(|c| v4(c.cidr));
        if let Some(cidr) = old {
            leave(&mut self.claims_by_cidr, cidr, name);
        }
        let new = claim.and_then(|c| v4(c.cidr));
        if let (Some(claim), Some(cidr)) = (claim, new) {
            self.claims_by_cidr.entry(cidr).or_default().insert(name.to_owned());
            self.claims.insert(name.to_owned(), claim.clone());
        }
        [old, new]
    }

    pub fn claim(&self, name: &str) -> Option<&Arc<BlockAffinity>> {
        self.claims.get(name)
    }

    /// The block object that counts for a CIDR: the first by name.
    pub fn at(&self, cidr: Ipv4Net) -> Option<(&str, &Arc<IpamBlock>)> {
        let name = self.by_cidr.get(&cidr)?.first()?;
        Some((name, self.all.get(name)?))
    }

    /// The block object by whose word an address is in use, of those whose CIDR is `routed`.
    pub fn in_use(&self, ip: Ipv4Addr, routed: impl Fn(Ipv4Net) -> bool) -> Option<&str> {
        let prefixes = (0..=32).rev().filter_map(|len| Ipv4Net::new(ip, len).ok()).map(|net| net.trunc());
        prefixes.filter_map(|cidr| Some((cidr, self.at(cidr)?))).filter(|(cidr, _)| routed(*cidr)).find_map(|(cidr, (name, block))| {
            let ordinal = u32::from(ip) - u32::from(cidr.network());
            block.allocations.iter().any(|a| a.ordinal == ordinal && !a.reserved).then_some(name)
        })
    }

    /// Notes that a block object lends an address, or that it does no more.
    pub fn lend(&mut self, ip: Ipv4Addr, name: &str, holder: &Arc<str>) {
        self.lent.insert((ip, name.to_owned(), holder.clone()));
    }

    pub fn unlend(&mut self, ip: Ipv4Addr, name: &str, holder: &Arc<str>) {
        self.lent.remove(&(ip, name.to_owned(), holder.clone()));
    }

    /// Who holds an address that is borrowed; of several blocks that lend it the last by name tells.
    pub fn borrower(&self, ip: Ipv4Addr) -> Option<&Arc<str>> {
        let from = (ip, String::new(), Arc::default());
        self.lent.range(from..).take_while(|(a, _, _)| *a == ip).last().map(|(_, _, holder)| holder)
    }

    /// What is odd about the blocks of a CIDR and the claims to it, and who has it besides its owner; `pooled`: whether
    /// a pool contains it.
    pub fn warnings(&self, cidr: Ipv4Net, pooled: bool) -> (Vec<String>, Vec<Conflict>) {
        let (mut lines, mut conflicts) = (Vec::new(), Vec::new());
        let counting = self.at(cidr);
        if let Some((name, block)) = counting {
            lines.extend(if pooled { rules::homeless(name, block) } else { Some(rules::poolless(name, cidr)) });
            let others = self.by_cidr.get(&cidr).into_iter().flatten().skip(1).filter_map(|o| Some((o, self.all.get(o)?)));
            conflicts.extend(others.map(|(other, ignored)| rules::doubled(cidr, name, block, other, ignored)));
        }
        let claims = self.claims_by_cidr.get(&cidr).into_iter().flatten();
        for (name, claim) in claims.filter_map(|name| Some((name, self.claims.get(name)?))) {
            let block = counting.map(|(_, b)| &**b);
            lines.extend(rules::orphan(name, claim, block));
            conflicts.extend(rules::contested(name, claim, block));
        }
        (lines, conflicts)
    }
}
