//! How many packets went to each node by routes that lead there no longer, so that a node's count never goes down.

use crate::control::desired::Route;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
struct Peer {
    /// Routes that lead to it.
    routes: usize,
    /// Packets that took routes which led to it.
    past: u64,
}

/// Nodes by name.
#[derive(Debug, Default)]
pub(super) struct Peers {
    nodes: BTreeMap<String, Peer>,
    /// Those that lost a route since they were last looked through.
    lost: Vec<String>,
}

impl Peers {
    /// A route begins to lead to its node.
    pub(super) fn join(&mut self, route: &Route) {
        let Some(node) = route.peer() else { return };
        match self.nodes.get_mut(node) {
            Some(peer) => peer.routes += 1,
            None => drop(self.nodes.insert(node.to_owned(), Peer { routes: 1, past: 0 })),
        }
    }

    /// A route that carried so many packets to its node leads there no longer.
    pub(super) fn leave(&mut self, route: &Route, carried: u64) {
        let Some((node, peer)) = route.peer().and_then(|n| Some((n, self.nodes.get_mut(n)?))) else { return };
        peer.routes = peer.routes.saturating_sub(1);
        peer.past += carried;
        if peer.routes == 0 {
            self.lost.push(node.to_owned());
        }
    }

    /// Packets went to a node by routes that nobody here knows.
    pub(super) fn add(&mut self, node: &str, packets: u64) {
        if let Some(peer) = self.nodes.get_mut(node) {
            peer.past += packets;
        }
    }

    /// Forgets nodes that no route leads to: once all routes of an update are in force.
    pub(super) fn settle(&mut self) {
        for node in std::mem::take(&mut self.lost) {
            if self.nodes.get(&node).is_some_and(|p| p.routes == 0) {
                self.nodes.remove(&node);
            }
        }
    }

    /// Packets, where there were any.
    pub(super) fn past(&self) -> BTreeMap<String, u64> {
        self.nodes.iter().filter(|(_, p)| p.past > 0).map(|(node, p)| (node.clone(), p.past)).collect()
    }
}
