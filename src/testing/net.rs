//! A node as the data plane sees it, described in a few lines: ports, routes and who the other nodes are. Yields
//! the [`Snapshot`] that control would publish.

use super::build::{Ip4, IpipWrap, OuterCheck, VxlanWrap};
use crate::drop::{DropReason, PuntReason};
use crate::encap::rewrite::{self, IPIP_OVERHEAD, MacPair, VXLAN_OVERHEAD};
use crate::fib::{AdjId, AdjKind, Adjacency, PeerId, Rewrite, Table4};
use crate::frame::{GsoSet, PortId};
use crate::port::{Caps, Medium, TxCsum, mem};
use crate::snapshot::{AdjTable, Endpoint, PortRole, Snapshot, Tunnel};
use crate::wire::{Mac, vxlan};
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The underlay's MTU.
pub const UPLINK_MTU: u16 = 1500;
/// MTU of pods and of VXLAN over [`UPLINK_MTU`].
pub const POD_MTU: u16 = UPLINK_MTU - VXLAN_OVERHEAD;

/// Node number `n`: every address of it follows from the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(pub u8);

impl Node {
    /// Its underlay address.
    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, 0, self.0)
    }
    /// What it is counted under.
    pub const fn peer_id(self) -> PeerId {
        PeerId(self.0 as u32)
    }
    /// Its MAC on the underlay.
    pub const fn link_mac(self) -> Mac {
        Mac([2, 0x42, 172, 18, 0, self.0])
    }
    /// Its VTEP's MAC.
    pub const fn vtep_mac(self) -> Mac {
        Mac([0x66, 0, 0, 0, 0, self.0])
    }
    /// Its tunnel address: the first of its block.
    pub const fn tunnel_address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.0, 0)
    }
    /// Its /26 block.
    pub fn block(self) -> Ipv4Net {
        Ipv4Net::new_assert(self.tunnel_address(), 26)
    }
    /// Pod number `i` (1 to 62) of its block.
    pub const fn pod(self, i: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.0, i)
    }
    /// The MAC of that pod.
    pub const fn pod_mac(self, i: u8) -> Mac {
        Mac([0x92, 0, 0, 0, self.0, i])
    }

    /// A VXLAN packet from this node to `to`, as a sane peer sends it.
    pub fn vxlan_to(self, to: Node) -> VxlanWrap {
        VxlanWrap {
            link_dst: to.link_mac(),
            link_src: self.link_mac(),
            outer: Ip4::new(self.address(), to.address()).may_fragment(),
            from: 33_620,
            to: vxlan::PORT,
            check: OuterCheck::Zero,
            udp_length: None,
            flags: vxlan::FLAG_VNI,
            vni: vxlan::Vni::CALICO.get(),
            inner_dst: to.vtep_mac(),
            inner_src: self.vtep_mac(),
            inner_type: 0x0800,
        }
    }

    /// An IP-in-IP packet from this node to `to`.
    pub fn ipip_to(self, to: Node) -> IpipWrap {
        IpipWrap { link_dst: to.link_mac(), link_src: self.link_mac(), outer: Ip4::new(self.address(), to.address()).may_fragment() }
    }
}

/// Where a prefix leads.
#[derive(Clone, Debug)]
pub enum Via {
    /// To the pod on a port, at the MAC of its endpoint; without one, the neighbour is asked for.
    Local(PortId),
    Vxlan(Node),
    Ipip(Node),
    Direct(Node),
    /// To a node whose MAC on the underlay is not known.
    Glean(Node),
    Blackhole,
    Drop,
    /// The host stack, for this node's own addresses.
    Host,
    /// The host stack, for a floating IP.
    Floating,
    /// The host stack, for everything that no pool covers.
    HostRoute,
    /// Any adjacency at all.
    Raw(Adjacency),
}

/// One port of the node.
#[derive(Clone, Debug)]
pub struct PortSpec {
    pub caps: Caps,
    pub role: PortRole,
}

/// One node: change it at will, then take its [`Setup::snapshot`].
#[derive(Clone, Debug)]
pub struct Setup {
    pub node: Node,
    pub ports: Vec<PortSpec>,
    pub routes: Vec<(Ipv4Net, Via)>,
    pub tunnel: Tunnel,
}

impl Setup {
    /// A node without ports that knows nodes 1 to 9.
    pub fn new(node: Node) -> Setup {
        let all = (1..10).map(|n| u32::from(Node(n).address()));
        let tunnel = Tunnel {
            node: node.address(),
            icmp_source: node.tunnel_address(),
            vtep_mac: node.vtep_mac(),
            // Each node is counted under its own number.
            senders: Arc::new(
                (1..10).map(|n| (u32::from(Node(n).address()), Node(n).peer_id())).filter(|(_, p)| *p != node.peer_id()).collect(),
            ),
            nodes: Arc::new(all.collect()),
            ..Tunnel::default()
        };
        Setup { node, ports: Vec::new(), routes: Vec::new(), tunnel }
    }

    /// Adds a port with any capabilities.
    pub fn port(&mut self, caps: Caps, role: PortRole) -> PortId {
        self.ports.push(PortSpec { caps, role });
        PortId((self.ports.len() - 1) as u16)
    }

    /// Adds an uplink without offloads.
    pub fn uplink(&mut self, medium: Medium) -> PortId {
        self.port(mem::caps(medium, u32::from(UPLINK_MTU)), PortRole::Uplink)
    }

    /// Adds pod number `i` of this node with its route: an Ethernet port without offloads, MAC known.
    pub fn pod(&mut self, i: u8) -> PortId {
        self.pod_with(i, Some(self.node.pod_mac(i)), mem::caps(Medium::Ethernet, u32::from(POD_MTU)))
    }

    /// The same on a port that takes super-frames and unfinished checksums.
    pub fn offload_pod(&mut self, i: u8) -> PortId {
        self.pod_with(i, Some(self.node.pod_mac(i)), offloads(Medium::Ethernet, u32::from(POD_MTU)))
    }

    /// The same with everything to choose.
    pub fn pod_with(&mut self, i: u8, mac: Option<Mac>, caps: Caps) -> PortId {
        let address = self.node.pod(i);
        let endpoint = Endpoint { name: format!("default/pod-{i}"), sources: vec![address.into()], addresses: vec![address], mac };
        let id = self.port(caps, PortRole::Workload(Arc::new(endpoint)));
        self.route(address.into(), Via::Local(id));
        id
    }

    /// Adds the host device, the routes to this node's own addresses and the way out of the pools.
    pub fn host(&mut self) -> PortId {
        let id = self.port(mem::caps(Medium::Ip, u32::from(POD_MTU)), PortRole::Host);
        self.route(self.node.address().into(), Via::Host);
        self.route(self.node.tunnel_address().into(), Via::Host);
        self.route(Ipv4Net::default(), Via::HostRoute);
        id
    }

    /// Adds a route; the last one for a prefix wins.
    pub fn route(&mut self, prefix: Ipv4Net, via: Via) {
        self.routes.retain(|(p, _)| *p != prefix);
        self.routes.push((prefix, via));
    }

    /// Routes the blocks of all other nodes from 1 to `nodes`.
    pub fn route_to_all(&mut self, nodes: u8, via: fn(Node) -> Via) {
        let me = self.node;
        for peer in (1..=nodes).map(Node).filter(|n| *n != me) {
            self.route(peer.block(), via(peer));
        }
    }

    /// Sets the MAC of the pod on a port, as control does when it has learned it.
    pub fn learn(&mut self, port: PortId, mac: Mac) {
        if let PortRole::Workload(e) = &mut self.ports[port.index()].role {
            Arc::make_mut(e).mac = Some(mac);
        }
    }

    /// What control would publish.
    pub fn snapshot(&self) -> Snapshot {
        let mut fib = Table4::new();
        let mut adjacencies = AdjTable::new();
        adjacencies.set(AdjId::HOST_FLOW, self.punt(PuntReason::HostFlow));
        for (i, (prefix, via)) in self.routes.iter().enumerate() {
            let id = AdjId(AdjId::HOST_FLOW.0 + 1 + i as u32);
            adjacencies.set(id, self.adjacency(prefix, via));
            fib.insert(*prefix, id);
        }
        let ports = self.ports.iter().map(|p| p.role.clone()).collect();
        Snapshot { generation: 0, fib: fib.commit(), adjacencies, ports, tunnel: self.tunnel.clone() }
    }

    fn adjacency(&self, prefix: &Ipv4Net, via: &Via) -> Adjacency {
        match via {
            Via::Local(port) => self.local(*port, prefix.addr()),
            Via::Vxlan(peer) => self.vxlan(*peer),
            Via::Ipip(peer) => self.ipip(*peer),
            Via::Direct(peer) => {
                let port = self.find(&[Medium::Ethernet, Medium::Ip]);
                let rewrite = self.on_link(port, rewrite::ethernet(self.link(*peer)));
                self.through(port, AdjKind::Direct, rewrite, UPLINK_MTU, *peer)
            }
            Via::Glean(peer) => {
                Adjacency { kind: AdjKind::Glean, mtu: POD_MTU, peer: peer.address().into(), ..Adjacency::drop(DropReason::NoRoute) }
            }
            Via::Blackhole => Adjacency::drop(DropReason::Blackhole),
            Via::Drop => Adjacency::drop(DropReason::RouteDrop),
            Via::Host => self.punt(PuntReason::HostAddress),
            Via::Floating => self.punt(PuntReason::FloatingIp),
            Via::HostRoute => self.punt(PuntReason::HostRoute),
            Via::Raw(adj) => *adj,
        }
    }

    fn local(&self, port: PortId, address: Ipv4Addr) -> Adjacency {
        let spec = &self.ports[port.index()];
        let mac = match &spec.role {
            PortRole::Workload(e) => e.mac,
            _ => None,
        };
        let (kind, rewrite) = match (spec.caps.medium, mac) {
            (Medium::Ethernet, Some(dst)) => (AdjKind::Deliver, rewrite::ethernet(MacPair { dst, src: Mac::GATEWAY })),
            (Medium::Ethernet, None) => (AdjKind::Glean, Rewrite::EMPTY),
            _ => (AdjKind::Deliver, Rewrite::EMPTY),
        };
        Adjacency { peer: address.into(), ..self.out(port, kind, rewrite, spec.caps.mtu as u16) }
    }

    fn vxlan(&self, peer: Node) -> Adjacency {
        let port = self.find(&[Medium::Ethernet, Medium::VxlanUdp]);
        let vtep = MacPair { dst: peer.vtep_mac(), src: self.node.vtep_mac() };
        let t = &self.tunnel;
        let rewrite = match self.ports[port.index()].caps.medium {
            Medium::VxlanUdp => rewrite::vxlan_udp(t.vni, vtep),
            _ => rewrite::vxlan_ethernet(self.link(peer), t.node, peer.address(), t.port, t.vni, vtep),
        };
        self.through(port, AdjKind::Vxlan, rewrite, UPLINK_MTU - VXLAN_OVERHEAD, peer)
    }

    fn ipip(&self, peer: Node) -> Adjacency {
        let port = self.find(&[Medium::Ethernet, Medium::Ip]);
        let rewrite = match self.ports[port.index()].caps.medium {
            Medium::Ethernet => rewrite::ipip_ethernet(self.link(peer), self.tunnel.node, peer.address()),
            _ => rewrite::ipip_ip(self.tunnel.node, peer.address()),
        };
        self.through(port, AdjKind::Ipip, rewrite, UPLINK_MTU - IPIP_OVERHEAD, peer)
    }

    fn punt(&self, reason: PuntReason) -> Adjacency {
        let port = self.ports.iter().position(|p| p.role == PortRole::Host).map_or(PortId::NONE, |i| PortId(i as u16));
        match self.ports.get(port.index()) {
            Some(_) => self.out(port, AdjKind::Punt(reason), Rewrite::EMPTY, POD_MTU),
            None => Adjacency { kind: AdjKind::Punt(reason), ..Adjacency::drop(DropReason::NoRoute) },
        }
    }

    fn through(&self, port: PortId, kind: AdjKind, rewrite: Rewrite, mtu: u16, peer: Node) -> Adjacency {
        Adjacency { peer: IpAddr::V4(peer.address()), node: peer.peer_id(), ..self.out(port, kind, rewrite, mtu) }
    }

    fn out(&self, port: PortId, kind: AdjKind, rewrite: Rewrite, mtu: u16) -> Adjacency {
        let caps = &self.ports[port.index()].caps;
        Adjacency {
            rewrite,
            kind,
            port,
            mtu,
            gso: caps.gso,
            partial_csum: caps.tx_csum == TxCsum::Port,
            joins: caps.tx_csum.joins(kind),
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            node: PeerId::NONE,
        }
    }

    fn link(&self, peer: Node) -> MacPair {
        MacPair { dst: peer.link_mac(), src: self.node.link_mac() }
    }

    fn on_link(&self, port: PortId, ethernet: Rewrite) -> Rewrite {
        if self.ports[port.index()].caps.medium == Medium::Ethernet { ethernet } else { Rewrite::EMPTY }
    }

    /// The first uplink of one of the media. Panics without one: such a route cannot be.
    fn find(&self, media: &[Medium]) -> PortId {
        let fits = |p: &PortSpec| p.role == PortRole::Uplink && media.contains(&p.caps.medium);
        PortId(self.ports.iter().position(fits).expect("an uplink that can carry the route") as u16)
    }
}

/// Capabilities of a port that takes whole super-frames and unfinished checksums.
pub fn offloads(medium: Medium, mtu: u32) -> Caps {
    Caps { gso: GsoSet::ALL, tx_csum: TxCsum::Port, ..mem::caps(medium, mtu) }
}
