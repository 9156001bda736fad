//! The ways to other nodes over an Ethernet uplink: which next hop leads to which node, and which routes use it.

use super::adjacency::{Out, Underlay};
use crate::control::netlink::view::next_hop;
use crate::control::netlink::{NextHop, View, routes};
use crate::encap::rewrite::MacPair;
use crate::port::Medium;
use crate::wire::Mac;
use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The way to a node over the underlay.
pub(super) enum Way {
    /// The medium needs no MAC, or it is known: (next hop's, ours).
    Ready(MacPair),
    /// The next hop's MAC is not known yet.
    Unresolved(Ipv4Addr),
    /// No route leads there.
    Unreachable,
}

/// A node's underlay address in use.
struct Peer {
    hop: Option<NextHop>,
    prefixes: BTreeSet<Ipv4Net>,
}

/// Filled as routes are planned, by the kernel's routes as of the last [`Ways::reset`] or [`Ways::follow`].
#[derive(Default)]
pub(super) struct Ways {
    routes: PrefixMap<Ipv4Net, Option<Ipv4Addr>>,
    peers: BTreeMap<Ipv4Addr, Peer>,
    /// Next hops in use, with the nodes that they lead to.
    hops: BTreeMap<NextHop, BTreeSet<Ipv4Addr>>,
    unreachable: BTreeSet<Ipv4Addr>,
    /// Whether the hops or the unreachable nodes differ from what was told last.
    changed: bool,
}

impl Ways {
    /// Forgets everything and reads the kernel's routes out of the uplink.
    pub fn reset(&mut self, view: &View, uplink: Option<&Underlay>) {
        // Our own routes for unencapsulated blocks say nothing about how to reach a node.
        let routes = uplink.map(|u| view.routes_by(u.dev, routes::PROTOCOL)).unwrap_or_default();
        *self = Ways { routes, changed: true, ..Ways::default() };
    }

    /// Takes in what the kernel's routes to some prefixes are now; those by which a node in use has another next hop.
    pub fn follow(&mut self, view: &View, uplink: Option<&Underlay>, mut changed: BTreeSet<Ipv4Net>) -> BTreeSet<Ipv4Net> {
        let Some(dev) = uplink.map(|u| u.dev) else { return BTreeSet::new() };
        for dst in &changed {
            match view.route_by(dev, routes::PROTOCOL, *dst) {
                Some(gateway) => drop(self.routes.insert(*dst, gateway)),
                None => drop(self.routes.remove(dst)),
            }
        }
        let differs = |(address, peer): (&Ipv4Addr, &Peer)| next_hop(&self.routes, dev, *address) != peer.hop;
        changed.retain(|dst| self.peers.range(dst.network()..=dst.broadcast()).any(differs));
        changed
    }

    /// The way for a prefix to a node. On an Ethernet port the prefix counts as a user of it until it is released.
    pub fn take(&mut self, view: &View, uplink: &Underlay, out: &Out, prefix: Ipv4Net, address: Ipv4Addr) -> Way {
        if out.medium != Medium::Ethernet {
            return Way::Ready(MacPair { dst: Mac::default(), src: Mac::default() });
        }
        let Ways { routes, peers, hops, unreachable, changed } = self;
        let peer = peers.entry(address).or_insert_with(|| {
            let hop = next_hop(routes, uplink.dev, address);
            *changed = true;
            match hop {
                Some(hop) => drop(hops.entry(hop).or_default().insert(address)),
                None => drop(unreachable.insert(address)),
            }
            Peer { hop, prefixes: BTreeSet::new() }
        });
        peer.prefixes.insert(prefix);
        let Some(hop) = peer.hop else { return Way::Unreachable };
        match view.neighbours.get(&(hop.dev, hop.address)).and_then(|n| n.mac) {
            Some(mac) => Way::Ready(MacPair { dst: mac, src: uplink.mac }),
            None => Way::Unresolved(hop.address),
        }
    }

    /// A prefix does not lead to this node any more.
    pub fn release(&mut self, prefix: Ipv4Net, address: Ipv4Addr) {
        let Some(peer) = self.peers.get_mut(&address) else { return };
        peer.prefixes.remove(&prefix);
        if !peer.prefixes.is_empty() {
            return;
        }
        self.changed = true;
        self.unreachable.remove(&address);
        if let Some(hop) = self.peers.remove(&address).and_then(|p| p.hop)
            && let Some(addresses) = self.hops.get_mut(&hop)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.hops.remove(&hop);
            }
        }
    }

    /// The prefixes that lead over a neighbour.
    pub fn users(&self, dev: u32, address: Ipv4Addr) -> impl Iterator<Item = Ipv4Net> {
        let nodes = self.hops.get(&NextHop { address, dev }).into_iter().flatten();
        nodes.filter_map(|a| self.peers.get(a)).flat_map(|p| p.prefixes.iter().copied())
    }

    pub fn hops(&self) -> impl Iterator<Item = NextHop> {
        self.hops.keys().copied()
    }

    pub fn unreachable(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.unreachable.iter().copied()
    }

    /// Whether hops or unreachable nodes changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}
