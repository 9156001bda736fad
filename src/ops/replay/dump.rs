//! A running node's state as a document.

use super::state::{BlockState, ClusterState, NodeState, PoolState, PortState, RouteState, State};
use crate::control::facts::{Dump, DumpPort};
use crate::control::model::{Affinity, Encap, IpamBlock, Mode};
use crate::port::Caps;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

impl From<&Dump> for State {
    fn from(d: &Dump) -> State {
        let ports = d.ports.iter().map(|p| PortState::new(p.out.id, &p.interface, d.snapshot.role(p.out.id), &caps(p))).collect();
        let routes = d.routes.iter().map(|r| RouteState {
            prefix: r.prefix,
            adjacency: r.adjacency.0,
            kind: r.route.kind().into(),
            node: r.route.node().map(Into::into),
            via: r.route.via(),
        });
        let state = State::new(&d.node, &d.snapshot, ports, routes.collect(), cluster(d));
        State { flows: super::flow::saved(&d.flows), ..state }
    }
}

fn caps(p: &DumpPort) -> Caps {
    Caps { driver: p.out.driver, medium: p.out.medium, mtu: p.out.mtu.into(), gso: p.out.gso, tx_csum: p.out.tx_csum, queue: 0 }
}

fn cluster(d: &Dump) -> ClusterState {
    let c = &d.cluster;
    let pools = c.pools.iter().filter_map(|(name, p)| {
        let IpNet::V4(cidr) = p.cidr else { return None };
        let (encapsulation, mode) = match p.encap {
            Encap::None => ("none", Mode::Never),
            Encap::Vxlan(mode) => ("vxlan", mode),
            Encap::Ipip(mode) => ("ipip", mode),
        };
        let mode = match mode {
            Mode::Never => "Never",
            Mode::Always => "Always",
            Mode::CrossSubnet => "CrossSubnet",
        };
        Some(PoolState { name: name.clone(), cidr, encapsulation: encapsulation.into(), mode: mode.into(), disabled: p.disabled })
    });
    let nodes = c.all_nodes().into_iter().map(|(name, n)| NodeState {
        name: name.to_owned(),
        address: n.address,
        vxlan_address: n.vxlan_address,
        ipip_address: n.ipip_address,
    });
    ClusterState {
        pools: pools.collect(),
        blocks: c.blocks.values().filter_map(|b| block(b)).collect(),
        nodes: nodes.collect(),
        floating: d.floating.clone(),
        uplink_mtu: d.uplink_mtu,
    }
}

fn block(b: &IpamBlock) -> Option<BlockState> {
    let (IpNet::V4(cidr), false) = (b.cidr, b.deleted) else { return None };
    let (affinity, owner) = match &b.affinity {
        Affinity::Host(node) => (Some(format!("host:{node}")), Some(node)),
        Affinity::Virtual(name) => (Some(format!("virtual:{name}")), None),
        Affinity::None => (None, None),
    };
    let loans = b.allocations.iter().filter_map(|a| {
        let holder = a.node.as_ref().filter(|n| Some(*n) != owner)?;
        Some((Ipv4Addr::from(u32::from(cidr.network()) | a.ordinal), holder.to_string()))
    });
    let borrowed: BTreeMap<Ipv4Addr, String> = loans.collect();
    Some(BlockState { cidr, affinity, borrowed })
}
