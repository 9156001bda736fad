//! Whom to ask, and which way the packets take: from the cluster's state and the routes in force.

use super::packet::SMALL;
use crate::control::cluster::Cluster;
use crate::control::desired::{Route, ThisNode};
use crate::control::plan::Installed;
use crate::encap::rewrite::{IPIP_OVERHEAD, VXLAN_OVERHEAD};
use crate::wire::vxlan::Vni;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How packets for a peer's pods travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Vxlan { port: u16 },
    Ipip,
    Direct,
}

impl Path {
    pub const fn name(self) -> &'static str {
        match self {
            Path::Vxlan { .. } => "vxlan",
            Path::Ipip => "ipip",
            Path::Direct => "none",
        }
    }

    /// Bytes that the encapsulation adds.
    pub const fn overhead(self) -> u16 {
        match self {
            Path::Vxlan { .. } => VXLAN_OVERHEAD,
            Path::Ipip => IPIP_OVERHEAD,
            Path::Direct => 0,
        }
    }

    /// What a packet filter sees.
    pub fn on_the_wire(self) -> String {
        match self {
            Path::Vxlan { port } => format!("VXLAN (UDP {port})"),
            Path::Ipip => "IP-in-IP (protocol 4)".to_owned(),
            Path::Direct => "unencapsulated packet".to_owned(),
        }
    }
}

/// A peer to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub node: Arc<str>,
    /// On the underlay.
    pub address: Ipv4Addr,
    /// Where probes go: its tunnel address, or its own where it has none.
    pub to: Ipv4Addr,
    /// Where they come from: the like of this node.
    pub from: Ipv4Addr,
    pub path: Path,
    /// Total length of a full packet: what pods may send.
    pub full: u16,
    /// The VNI that FelixConfiguration gives the peer, if it is another one than ours.
    pub vni: Option<u32>,
}

/// All other nodes with an address, in order of name. `uplink_mtu`: of what is not encapsulated.
pub fn targets(
    cluster: &Cluster,
    node: &ThisNode,
    routes: &BTreeMap<Ipv4Net, Installed>,
    pod_mtu: u16,
    mtu_of: impl Fn(&Installed) -> u16,
) -> Vec<Target> {
    let lengths: BTreeSet<u8> = routes.keys().map(Ipv4Net::prefix_len).collect();
    let longest = |ip: Ipv4Addr| {
        let nets = lengths.iter().rev().filter_map(|len| Ipv4Net::new(ip, *len).ok());
        nets.map(|net| net.trunc()).find_map(|net| routes.get(&net))
    };
    let vni = |name: &str| {
        let of = |object: &str| cluster.felix.get(object).and_then(|f| f.vxlan_vni).map(|v| v.get());
        let vni = of(&format!("node.{name}")).or_else(|| of("default")).unwrap_or(Vni::CALICO.get());
        (vni != node.vni.get()).then_some(vni)
    };
    let target = |(name, n): (&str, &Arc<crate::control::model::Node>)| {
        let address = n.address?.addr();
        let tunnels = [n.vxlan_address, n.ipip_address].into_iter().flatten();
        let route = tunnels.filter_map(|ip| Some((ip, longest(ip)?))).find(|(_, i)| i.route.peer() == Some(name));
        let plain = (address, node.address.addr(), Path::Direct, pod_mtu);
        let (to, from, path, full) = match (route, node.tunnel_address) {
            (Some((ip, i)), Some(own)) => {
                let path = match &i.route {
                    Route::Vxlan { .. } => Path::Vxlan { port: node.vxlan_port },
                    Route::Ipip { .. } => Path::Ipip,
                    _ => Path::Direct,
                };
                (ip, own, path, mtu_of(i).min(pod_mtu))
            }
            _ => plain,
        };
        // No link has less (RFC 791: 576), so that a full probe is longer than a small one in any case.
        Some(Target { node: name.into(), address, to, from, path, full: full.max(2 * SMALL), vni: vni(name) })
    };
    cluster.all_nodes().into_iter().filter(|(name, _)| **name != *node.name).filter_map(target).collect()
}
