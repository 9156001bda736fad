//! One route and what is known of ports and neighbours make one adjacency. Pure.

use super::peers::Peers;
use super::ways::{Way, Ways};
use super::{Inputs, ipip_mtu, vxlan_mtu};
use crate::control::desired::{Route, ThisNode};
use crate::drop::{DropReason, PuntReason};
use crate::encap::rewrite::{self, MacPair};
use crate::fib::{AdjKind, Adjacency, PeerId, Rewrite};
use crate::frame::{GsoSet, PortId};
use crate::port::{Caps, Medium, TxCsum};
use crate::wire::Mac;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A port that frames can leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    pub id: PortId,
    /// The I/O method's name.
    pub driver: &'static str,
    pub medium: Medium,
    /// Interface's MTU, bytes from L3 on.
    pub mtu: u16,
    pub gso: GsoSet,
    pub tx_csum: TxCsum,
}

impl Out {
    /// A port with these capabilities under this number, on an interface with this MTU.
    pub fn new(id: PortId, caps: &Caps, mtu: u32) -> Out {
        Out { id, driver: caps.driver, medium: caps.medium, mtu: super::mtu16(mtu), gso: caps.gso, tx_csum: caps.tx_csum }
    }
}

/// The interface towards other nodes and the ports on it; one port may serve for all three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    pub dev: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu: u16,
    pub vxlan: Option<Out>,
    pub ipip: Option<Out>,
    pub direct: Option<Out>,
}

/// A pod's open port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    pub out: Out,
    /// The pod's MAC, where we set it or learned it.
    pub mac: Option<Mac>,
}

/// The ports that are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub uplink: Option<Underlay>,
    pub host: Option<Out>,
    /// By endpoint name, as in `Desired::endpoints`.
    pub workloads: BTreeMap<String, Workload>,
}

/// What adjacencies are built from.
pub(super) struct Context<'a> {
    pub inputs: Inputs<'a>,
    pub node: &'a ThisNode,
    pub ways: &'a mut Ways,
    pub peers: &'a Peers,
    /// The node whose way the adjacency took.
    pub taken: Option<Ipv4Addr>,
}

impl Context<'_> {
    /// The adjacency for one route.
    pub fn build(&mut self, prefix: Ipv4Net, route: &Route) -> Adjacency {
        match route {
            Route::Local { endpoint } => self.local(prefix, endpoint),
            Route::Vxlan { address, mac, .. } => self.remote(
                AdjKind::Vxlan,
                prefix,
                |u| u.vxlan,
                vxlan_mtu,
                *address,
                |n, out, link| {
                    let vtep = MacPair { dst: *mac, src: n.vtep_mac };
                    match out.medium {
                        Medium::Ethernet => rewrite::vxlan_ethernet(link, n.address.addr(), *address, n.vxlan_port, n.vni, vtep),
                        Medium::VxlanUdp | Medium::Ip => rewrite::vxlan_udp(n.vni, vtep),
                    }
                },
            ),
            Route::Ipip { address, .. } => self.remote(
                AdjKind::Ipip,
                prefix,
                |u| u.ipip,
                ipip_mtu,
                *address,
                |n, out, link| match out.medium {
                    Medium::Ethernet => rewrite::ipip_ethernet(link, n.address.addr(), *address),
                    Medium::VxlanUdp | Medium::Ip => rewrite::ipip_ip(n.address.addr(), *address),
                },
            ),
            Route::Direct { address, .. } => self.remote(
                AdjKind::Direct,
                prefix,
                |u| u.direct,
                |_, mtu| mtu,
                *address,
                |_, out, link| match out.medium {
                    Medium::Ethernet => rewrite::ethernet(link),
                    Medium::VxlanUdp | Medium::Ip => Rewrite::EMPTY,
                },
            ),
            Route::Host => self.punt(PuntReason::HostAddress),
            Route::Floating { .. } => self.punt(PuntReason::FloatingIp),
            Route::Blackhole => Adjacency::drop(DropReason::Blackhole),
            Route::Drop { .. } => Adjacency::drop(DropReason::RouteDrop),
        }
    }

    /// Hand to the host stack. Without a host device the worker counts host-unavailable.
    pub fn punt(&self, reason: PuntReason) -> Adjacency {
        let kind = AdjKind::Punt(reason);
        match &self.inputs.ports.host {
            Some(out) => towards(kind, out, out.mtu, Rewrite::EMPTY),
            None => Adjacency { kind, ..Adjacency::drop(DropReason::HostUnavailable) },
        }
    }

    fn local(&self, prefix: Ipv4Net, endpoint: &str) -> Adjacency {
        let Some(w) = self.inputs.ports.workloads.get(endpoint) else {
            return Adjacency::drop(DropReason::PortGone);
        };
        let known = w.mac.or_else(|| self.inputs.desired.endpoints.get(endpoint).and_then(|e| e.mac));
        match (w.out.medium, known) {
            (Medium::Ethernet, Some(mac)) => {
                towards(AdjKind::Deliver, &w.out, w.out.mtu, rewrite::ethernet(MacPair { dst: mac, src: Mac::GATEWAY }))
            }
            (Medium::Ethernet, None) => {
                Adjacency { peer: prefix.addr().into(), ..towards(AdjKind::Glean, &w.out, w.out.mtu, Rewrite::EMPTY) }
            }
            _ => towards(AdjKind::Deliver, &w.out, w.out.mtu, Rewrite::EMPTY),
        }
    }

    /// Towards a node: `pick` chooses the uplink's port, `mtu` and `rewrite` what the encapsulation makes of it.
    fn remote(
        &mut self,
        kind: AdjKind,
        prefix: Ipv4Net,
        pick: impl Fn(&Underlay) -> Option<Out>,
        mtu: impl Fn(&ThisNode, u16) -> u16,
        address: Ipv4Addr,
        rewrite: impl Fn(&ThisNode, &Out, MacPair) -> Rewrite,
    ) -> Adjacency {
        let Some((uplink, out)) = self.inputs.ports.uplink.as_ref().and_then(|u| pick(u).map(|o| (u, o))) else {
            return Adjacency::drop(DropReason::PortGone);
        };
        let mtu = mtu(self.node, uplink.mtu);
        self.taken = (out.medium == Medium::Ethernet).then_some(address);
        match self.ways.take(self.inputs.view, uplink, &out, prefix, address) {
            Way::Ready(link) => {
                let node = self.peers.id(address);
                Adjacency { peer: address.into(), node, ..towards(kind, &out, mtu, rewrite(self.node, &out, link)) }
            }
            Way::Unresolved(hop) => {
                Adjacency { kind: AdjKind::Glean, mtu, peer: hop.into(), ..Adjacency::drop(DropReason::NeighbourUnresolved) }
            }
            Way::Unreachable => Adjacency::drop(DropReason::RouteDrop),
        }
    }
}

fn towards(kind: AdjKind, out: &Out, mtu: u16, rewrite: Rewrite) -> Adjacency {
    let partial_csum = out.tx_csum == TxCsum::Port;
    let joins = out.tx_csum.joins(kind);
    Adjacency {
        rewrite,
        kind,
        port: out.id,
        mtu,
        gso: out.gso,
        partial_csum,
        joins,
        peer: Ipv4Addr::UNSPECIFIED.into(),
        node: PeerId::NONE,
    }
}
