//! The nodes as tunnel endpoints: who has which address, and what that makes of them.

use super::routes::Pools;
use crate::control::cluster::Cluster;
use crate::control::desired::{ThisNode, Vtep};
use crate::control::model::{FelixConfiguration, Node, default_vtep_mac};
use crate::wire::Mac;
use crate::wire::vxlan::{self, Vni};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Widest entry of externalNodesList that is taken: senders are kept address by address.
const SENDERS_MIN_PREFIX: u8 = 20;

/// All nodes, with every underlay address given to one of them only.
pub(super) struct Nodes<'a> {
    pub me: &'a str,
    all: BTreeMap<&'a str, &'a Node>,
    /// Underlay address by node; a node whose address another one holds is not in it.
    addresses: BTreeMap<&'a str, Ipv4Net>,
}

impl<'a> Nodes<'a> {
    /// This node keeps its own address in any case, as a packet to the other one would only come back here;
    /// else the first by name keeps a duplicate.
    pub fn new(cluster: &'a Cluster, me: &'a str, warnings: &mut Vec<String>) -> Nodes<'a> {
        let all = cluster.all_nodes();
        let mut addresses = BTreeMap::new();
        let mut holders: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
        let first = all.get_key_value(me).into_iter();
        for (name, node) in first.chain(all.iter().filter(|(name, _)| **name != me)) {
            let Some(address) = node.address else { continue };
            if let Some(holder) = holders.get(&address.addr()) {
                warnings.push(format!("node {name}: its address {} is node {holder}'s too; nothing is routed to {name}", address.addr()));
                continue;
            }
            holders.insert(address.addr(), name);
            addresses.insert(*name, address);
        }
        Nodes { me, all, addresses }
    }

    pub fn missing_address(&self) -> String {
        let me = self.me;
        match self.all.get(me) {
            Some(_) => format!(
                "node {me}: its Node object has no IPv4 address; set spec.bgp.ipv4Address (v1: annotation projectcalico.org/IPv4Address)"
            ),
            None => {
                let known: Vec<_> = self.all.keys().take(10).copied().collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                format!("node {me}: the datastore has no Node object of this name; known nodes: {known}")
            }
        }
    }

    /// This node's parameters; `None` without an address.
    pub fn this(&self, felix: &FelixConfiguration, pools: &Pools, warnings: &mut Vec<String>) -> Option<ThisNode> {
        let node = self.all.get(self.me)?;
        let enabled = |key: &str, setting: Option<bool>, used: bool, warnings: &mut Vec<String>| {
            if setting == Some(false) && used {
                warnings.push(format!("FelixConfiguration {key} is false, but a pool uses this encapsulation: it stays in use"));
            }
            used || setting == Some(true)
        };
        Some(ThisNode {
            name: self.me.to_owned(),
            address: *self.addresses.get(self.me)?,
            tunnel_address: node.vxlan_address.or(node.ipip_address),
            vtep_mac: vtep_mac(self.me, node),
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

    /// Other nodes with both addresses.
    pub fn vteps(&self, warnings: &mut Vec<String>) -> BTreeMap<String, Vtep> {
        let mut out = BTreeMap::new();
        let mut tunnels: BTreeMap<Ipv4Addr, &str> =
            self.all.get(self.me).and_then(|n| n.vxlan_address).map(|a| (a, self.me)).into_iter().collect();
        for (name, _) in self.addresses.iter().filter(|(name, _)| **name != self.me) {
            let Some(vtep) = self.vtep(name) else { continue };
            if let Some(other) = tunnels.insert(vtep.tunnel_address, name) {
                warnings.push(format!("nodes {other} and {name}: both have the VXLAN tunnel address {}", vtep.tunnel_address));
            }
            out.insert((*name).to_owned(), vtep);
        }
        out
    }

    /// A node as a VXLAN tunnel endpoint; `None` until both its addresses are known.
    pub fn vtep(&self, name: &str) -> Option<Vtep> {
        let node = self.all.get(name)?;
        Some(Vtep { node: name.to_owned(), address: self.address(name)?, tunnel_address: node.vxlan_address?, mac: vtep_mac(name, node) })
    }

    /// A node's underlay address.
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        self.addresses.get(name).map(Ipv4Net::addr)
    }

    /// Whether an address lies in this node's own prefix (CrossSubnet's test). Not symmetric where the
    /// prefixes of two nodes differ.
    pub fn same_subnet(&self, address: Ipv4Addr) -> bool {
        self.addresses.get(self.me).is_some_and(|own| own.contains(&address))
    }

    /// The tunnel addresses of a node.
    pub fn tunnel_addresses(&self, name: &str) -> impl Iterator<Item = Ipv4Addr> {
        self.all.get(name).into_iter().flat_map(|n| n.vxlan_address.into_iter().chain(n.ipip_address))
    }

    pub fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.addresses.values().map(Ipv4Net::addr).collect()
    }

    /// Other nodes and the external nodes list.
    pub fn senders(&self, felix: &FelixConfiguration, warnings: &mut Vec<String>) -> BTreeSet<Ipv4Addr> {
        let others = self.addresses.iter().filter(|(name, _)| **name != self.me);
        let mut out: BTreeSet<Ipv4Addr> = others.map(|(_, address)| address.addr()).collect();
        for net in felix.external_nodes.iter().flatten() {
            match net {
                IpNet::V4(net) if net.prefix_len() >= SENDERS_MIN_PREFIX => out.extend(addresses_of(*net)),
                IpNet::V4(net) => {
                    warnings
                        .push(format!("FelixConfiguration externalNodesList: {net} is wider than /{SENDERS_MIN_PREFIX}; it is not taken"));
                }
                IpNet::V6(_) => {}
            }
        }
        out
    }
}

/// Every address of a prefix, first and last included: they are ordinary ones in an overlay.
fn addresses_of(net: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    (u32::from(net.network())..=u32::from(net.broadcast())).map(Ipv4Addr::from)
}

fn vtep_mac(name: &str, node: &Node) -> Mac {
    node.vtep_mac.unwrap_or_else(|| default_vtep_mac(name))
}
