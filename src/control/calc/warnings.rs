//! Warnings by what they are about, so that each can be replaced alone.

use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What warnings are about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Pools, configuration and this node's own parameters.
    Whole,
    /// The endpoints of this node.
    Endpoints,
    Node(Arc<str>),
    /// A tunnel address.
    Tunnel(Ipv4Addr),
    /// The blocks and claims of a CIDR.
    Block(Ipv4Net),
    /// An endpoint's address that is a node's.
    Address(Ipv4Addr),
}

#[derive(Default)]
pub(super) struct Warnings {
    by_source: BTreeMap<Source, Vec<String>>,
    /// How many sources have a line: while a block moves from one CIDR to another it is two.
    holders: BTreeMap<String, u32>,
}

impl Warnings {
    /// Replaces a source's lines, in `all` too; true if they differ.
    pub fn set(&mut self, all: &mut BTreeSet<String>, source: Source, lines: Vec<String>) -> bool {
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
