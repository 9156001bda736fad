//! The nodes as tunnel endpoints: who has which address, and what that makes of them.

use super::pools::Pools;
use super::warnings::Source;
use crate::control::cluster::Cluster;
use crate::control::conflict::Conflict;
use crate::control::desired::{ThisNode, Vtep};
use crate::control::model::{FelixConfiguration, Node, default_vtep_mac};
use crate::wire::Mac;
use crate::wire::vxlan::{self, Vni};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Widest entry of externalNodesList that is taken: senders are kept address by address.
const SENDERS_MIN_PREFIX: u8 = 20;

/// All nodes, and who claims which address.
#[derive(Default)]
pub(super) struct Nodes {
    pub me: Arc<str>,
    all: BTreeMap<Arc<str>, Arc<Node>>,
    /// Underlay addresses with the nodes that say they have them.
    claims: BTreeMap<Ipv4Addr, BTreeSet<Arc<str>>>,
    /// Tunnel addresses likewise, of both encapsulations.
    tunnels: BTreeMap<Ipv4Addr, BTreeSet<Arc<str>>>,
    /// VTEP MACs of nodes with a VXLAN tunnel address.
    macs: BTreeMap<Mac, BTreeSet<Arc<str>>>,
}

impl Nodes {
    pub fn new(cluster: &Cluster, me: &str) -> Nodes {
        let mut nodes = Nodes { me: me.into(), ..Nodes::default() };
        for (name, node) in cluster.all_nodes() {
            nodes.set(name, Some(node));
        }
        nodes
    }

    /// Puts a node in, in place of what was known of it, or takes it out.
    pub fn set(&mut self, name: &str, node: Option<&Arc<Node>>) {
        if let Some((name, old)) = self.all.remove_entry(name) {
            leave(&mut self.claims, old.address.map(|a| a.addr()), &name);
            tunnels_of(&old).for_each(|ip| leave(&mut self.tunnels, Some(ip), &name));
            leave(&mut self.macs, mac_in_use(&name, &old), &name);
        }
        let Some(node) = node else { return };
        let name: Arc<str> = name.into();
        join(&mut self.claims, node.address.map(|a| a.addr()), &name);
        tunnels_of(node).for_each(|ip| join(&mut self.tunnels, Some(ip), &name));
        join(&mut self.macs, mac_in_use(&name, node), &name);
        self.all.insert(name, node.clone());
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Node>> {
        self.all.get(name)
    }

    /// The nodes that say they have this underlay address.
    pub fn claimants(&self, address: Ipv4Addr) -> impl Iterator<Item = &Arc<str>> {
        self.claims.get(&address).into_iter().flatten()
    }

    /// Whose an underlay address is. This node keeps its own in any case, as a packet to another one would only
    /// come back here; else it is the first's by name.
    pub fn holder(&self, address: Ipv4Addr) -> Option<&Arc<str>> {
        let claimants = self.claims.get(&address)?;
        claimants.get(&self.me).or_else(|| claimants.first())
    }

    /// A node's underlay address with its prefix; `None` if another node holds it.
    fn net(&self, name: &str) -> Option<Ipv4Net> {
        let net = self.all.get(name)?.address?;
        (**self.holder(net.addr())? == *name).then_some(net)
    }

    /// A node's underlay address.
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        self.net(name).map(|a| a.addr())
    }

    /// Underlay addresses of all nodes.
    pub fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.claims.keys().copied().collect()
    }

    /// A node as a VXLAN tunnel endpoint; `None` until both its addresses are known.
    pub fn vtep(&self, name: &str) -> Option<Vtep> {
        let (name, node) = self.all.get_key_value(name)?;
        Some(Vtep { node: name.clone(), address: self.address(name)?, tunnel_address: node.vxlan_address?, mac: vtep_mac(name, node) })
    }

    /// Other nodes with both addresses.
    pub fn vteps(&self) -> BTreeMap<Arc<str>, Vtep> {
        let others = self.all.keys().filter(|name| **name != self.me);
        others.filter_map(|name| Some((name.clone(), self.vtep(name)?))).collect()
    }

    /// Whether an address lies in this node's own prefix (CrossSubnet's test). Not symmetric where the
    /// prefixes of two nodes differ.
    pub fn same_subnet(&self, address: Ipv4Addr) -> bool {
        self.all.get(&self.me).and_then(|n| n.address).is_some_and(|own| own.contains(&address))
    }

    /// The tunnel addresses of a node.
    pub fn tunnel_addresses(&self, name: &str) -> impl Iterator<Item = Ipv4Addr> {
        self.all.get(name).into_iter().flat_map(|n| n.vxlan_address.into_iter().chain(n.ipip_address))
    }

    /// Whether an address is one of this node's own.
    pub fn is_own(&self, ip: Ipv4Addr) -> bool {
        self.address(&self.me) == Some(ip) || self.tunnel_addresses(&self.me).any(|t| t == ip)
    }

    /// Whether an address is any node's, on the underlay or in a tunnel.
    pub fn has(&self, ip: Ipv4Addr) -> bool {
        self.claims.contains_key(&ip) || self.tunnels.contains_key(&ip)
    }

    /// That several nodes have one address or MAC.
    pub fn conflict(&self, source: &Source) -> Option<Conflict> {
        match source {
            Source::Underlay(a) => Some(Conflict::node_address(*a, &several(self.claims.get(a)?)?, self.holder(*a)?)),
            Source::Tunnel(a) => Some(Conflict::tunnel_address(*a, &several(self.tunnels.get(a)?)?)),
            Source::Vtep(mac) => Some(Conflict::vtep_mac(*mac, &several(self.macs.get(mac)?)?)),
            _ => None,
        }
    }

    /// Everything that several nodes have.
    pub fn contested(&self) -> Vec<Source> {
        fn shared<K: Copy>(index: &BTreeMap<K, BTreeSet<Arc<str>>>) -> impl Iterator<Item = K> {
            index.iter().filter(|(_, names)| names.len() > 1).map(|(key, _)| *key)
        }
        let (claims, tunnels) = (shared(&self.claims).map(Source::Underlay), shared(&self.tunnels).map(Source::Tunnel));
        claims.chain(tunnels).chain(shared(&self.macs).map(Source::Vtep)).collect()
    }

    pub fn missing_address(&self) -> String {
        let me = &self.me;
        match self.all.get(me) {
            Some(_) => format!(
                "node {me}: its Node object has no IPv4 address; set spec.bgp.ipv4Address (v1: annotation projectcalico.org/IPv4Address)"
            ),
            None => {
                let known: Vec<&str> = self.all.keys().take(10).map(|n| &**n).collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                format!("node {me}: the datastore has no Node object of this name; known nodes: {known}")
            }
        }
    }

    /// This node's parameters; `None` without an address.
    pub fn this(&self, felix: &FelixConfiguration, pools: &Pools, warnings: &mut Vec<String>) -> Option<ThisNode> {
        let node = self.all.get(&self.me)?;
        let address = self.net(&self.me)?;
        let enabled = |key: &str, setting: Option<bool>, used: bool, warnings: &mut Vec<String>| {
            if setting == Some(false) && used {
                warnings.push(format!("FelixConfiguration {key} is false, but a pool uses this encapsulation: it stays in use"));
            }
            used || setting == Some(true)
        };
        Some(ThisNode {
            name: (*self.me).to_owned(),
            address,
            tunnel_address: node.vxlan_address.or(node.ipip_address),
            vtep_mac: vtep_mac(&self.me, node),
            vni: felix.vxlan_vni.unwrap_or(Vni::CALICO),
            vxlan_port: felix.vxlan_port.unwrap_or(vxlan::PORT),
            vxlan_mtu: felix.vxlan_mtu.filter(|m| *m != 0),
            ipip_mtu: felix.ipip_mtu.filter(|m| *m != 0),
            workloads_may_vxlan: felix.workloads_may_vxlan.unwrap_or(false),
            workloads_may_ipip: felix.workloads_may_ipip.unwrap_or(false),
            vxlan_enabled: enabled("vxlanEnabled", felix.vxlan_enabled, pools.use_vxlan(), warnings),
            ipip_enabled: enabled("ipipEnabled", felix.ipip_enabled, pools.use_ipip(), warnings),
            mtu_links: felix.mtu_links.clone(),
        })
    }

    /// Who tunnel packets are accepted from: other nodes and the external ones.
    pub fn senders(&self, external: &BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
        let others = self.claims.keys().filter(|a| self.holder(**a) != Some(&self.me));
        others.chain(external).copied().collect()
    }

    /// Whether tunnel packets are accepted from an address.
    pub fn is_sender(&self, address: Ipv4Addr, external: &BTreeSet<Ipv4Addr>) -> bool {
        external.contains(&address) || self.holder(address).is_some_and(|h| *h != self.me)
    }
}

/// The names, if there are two at least.
fn several(names: &BTreeSet<Arc<str>>) -> Option<Vec<&str>> {
    (names.len() > 1).then(|| names.iter().map(|n| &**n).collect())
}

/// What a node may have in common with others.
pub(super) fn contested_by(name: &str, node: &Node) -> impl Iterator<Item = Source> {
    let address = node.address.map(|a| Source::Underlay(a.addr()));
    let mac = mac_in_use(name, node).map(Source::Vtep);
    address.into_iter().chain(tunnels_of(node).map(Source::Tunnel)).chain(mac)
}

/// A node's tunnel addresses of both encapsulations.
pub(super) fn tunnels_of(node: &Node) -> impl Iterator<Item = Ipv4Addr> {
    node.vxlan_address.into_iter().chain(node.ipip_address)
}

/// The VTEP MAC of a node that is one.
fn mac_in_use(name: &str, node: &Node) -> Option<Mac> {
    node.vxlan_address.map(|_| vtep_mac(name, node))
}

fn join<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Arc<str>>>, key: Option<K>, name: &Arc<str>) {
    if let Some(key) = key {
        index.entry(key).or_default().insert(name.clone());
    }
}

fn leave<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Arc<str>>>, key: Option<K>, name: &Arc<str>) {
    if let Some(key) = key
        && let Some(names) = index.get_mut(&key)
    {
        names.remove(name);
        if names.is_empty() {
            index.remove(&key);
        }
    }
}

/// The addresses of FelixConfiguration externalNodesList.
pub(super) fn external(felix: &FelixConfiguration, warnings: &mut Vec<String>) -> BTreeSet<Ipv4Addr> {
    let mut out = BTreeSet::new();
    for net in felix.external_nodes.iter().flatten() {
        match net {
            IpNet::V4(net) if net.prefix_len() >= SENDERS_MIN_PREFIX => out.extend(addresses_of(*net)),
            IpNet::V4(net) => {
                warnings.push(format!("FelixConfiguration externalNodesList: {net} is wider than /{SENDERS_MIN_PREFIX}; it is not taken"));
            }
            IpNet::V6(_) => {}
        }
    }
    out
}

/// Every address of a prefix, first and last included: they are ordinary ones in an overlay.
fn addresses_of(net: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    (u32::from(net.network())..=u32::from(net.broadcast())).map(Ipv4Addr::from)
}

fn vtep_mac(name: &str, node: &Node) -> Mac {
    node.vtep_mac.unwrap_or_else(|| default_vtep_mac(name))
}
