//! Warnings and conflicts by what they are about, so that each can be replaced alone.

use crate::wire::Mac;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What warnings are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Pools, configuration and this node's own parameters.
    Whole,
    /// The endpoints of this node.
    Endpoints,
    /// An underlay address.
    Underlay(Ipv4Addr),
    /// A tunnel address.
    Tunnel(Ipv4Addr),
    /// A VTEP MAC.
    Vtep(Mac),
    /// The blocks and claims of a CIDR.
    Block(Ipv4Net),
    /// An endpoint's address that is a node's.
    Address(Ipv4Addr),
    /// A floating IP.
    Floating(Ipv4Addr),
}

/// Lines, or conflicts.
pub(super) struct Warnings<T> {
    by_source: BTreeMap<Source, Vec<T>>,
    /// How many sources have a line: while a block moves from one CIDR to another it is two.
    holders: BTreeMap<T, u32>,
}

impl<T> Default for Warnings<T> {
    fn default() -> Warnings<T> {
        Warnings { by_source: BTreeMap::new(), holders: BTreeMap::new() }
    }
}

impl<T: Clone + Ord> Warnings<T> {
    /// Replaces a source's lines, in `all` too; true if they differ.
    pub fn set(&mut self, all: &mut BTreeSet<T>, source: Source, lines: Vec<T>) -> bool {
        let same = self.by_source.get(&source).map_or(lines.is_empty(), |old| *old == lines);
        if same {
            return false;
        }
        for line in &lines {
            *self.holders.entry(line.clone()).or_default() += 1;
            all.insert(line.clone());
        }
        for line in self.by_source.remove(&source).unwrap_or_default() {
            if let Some(n) = self.holders.get_mut(&line) {
                *n -= 1;
                if *n == 0 {
                    self.holders.remove(&line);
                    all.remove(&line);
                }
            }
        }
        if !lines.is_empty() {
            self.by_source.insert(source, lines);
        }
        true
    }
}
