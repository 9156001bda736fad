//! The data plane's state as a document: one snapshot, with the ports it was made for. Whoever has it can run the
//! same packets through the same code, on any machine.

use super::flow::FlowState;
use crate::drop::{DropReason, PuntReason};
use crate::fib::{AdjId, AdjKind, Adjacency, PeerId, Rewrite, Table4};
use crate::frame::{GsoSet, PortId};
use crate::port::{Caps, Medium, TxCsum};
use crate::snapshot::{AdjTable, Endpoint, PortRole, Snapshot, Tunnel};
use crate::wire::Mac;
use crate::wire::vxlan::Vni;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Form of the document; a reader refuses any other.
pub const FORMAT: u32 = 1;
/// Most ports and adjacencies that a document may number: what a snapshot can hold.
const NUMBERS_MAX: usize = 1 << 20;

/// Why a document is not a state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("not a saved state: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("format {found}, but this version reads format {FORMAT}: it was saved by tortie {version}")]
    Format { found: u32, version: String },
    #[error("{field}: {message}")]
    Field { field: String, message: String },
}

pub(super) fn fault(field: impl Into<String>, message: impl Into<String>) -> StateError {
    StateError::Field { field: field.into(), message: message.into() }
}

/// All that forwarding depends on, but for the packets and the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct State {
    pub format: u32,
    /// Of the program that saved it.
    pub version: String,
    pub node: String,
    pub generation: u64,
    pub tunnel: TunnelState,
    pub ports: Vec<PortState>,
    /// By number.
    pub adjacencies: BTreeMap<u32, AdjacencyState>,
    pub routes: Vec<RouteState>,
    /// Flows whose answers are the host stack's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowState>,
    /// What the routes follow from, for whoever asks why.
    #[serde(default)]
    pub cluster: ClusterState,
}

/// This node as a tunnel endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TunnelState {
    pub node: Ipv4Addr,
    pub icmp_source: Ipv4Addr,
    pub vtep_mac: Mac,
    pub vni: u32,
    pub port: u16,
    /// Who tunnel packets are accepted from.
    pub senders: Vec<Ipv4Addr>,
    /// Where workloads may not send tunnel packets.
    pub nodes: Vec<Ipv4Addr>,
    pub workloads_may_vxlan: bool,
    pub workloads_may_ipip: bool,
}

/// What a port is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleState {
    Closed,
    Uplink,
    Host,
    Workload(EndpointState),
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointState {
    pub name: String,
    pub addresses: Vec<Ipv4Addr>,
    pub sources: Vec<Ipv4Net>,
    pub mac: Option<Mac>,
}

/// One port. Several may share an interface: sockets for VXLAN, IP-in-IP and what is sent unencapsulated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortState {
    pub id: u16,
    pub interface: String,
    pub driver: String,
    pub role: RoleState,
    pub medium: Medium,
    /// Longest packet, bytes from L3 on.
    pub mtu: u32,
    pub gso: GsoSet,
    pub checksum: TxCsum,
}

/// What a lookup answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdjacencyState {
    /// `deliver`, `vxlan`, `ipip`, `direct`, `glean`, `drop` or `punt`.
    pub kind: String,
    /// Of a drop or punt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Bytes put in front, hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rewrite: String,
    pub mtu: u16,
    pub gso: GsoSet,
    pub partial_checksum: bool,
    pub joins: bool,
    pub peer: IpAddr,
}

/// One route in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteState {
    pub prefix: Ipv4Net,
    pub adjacency: u32,
    /// As `tortie fib` shows it.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

/// The objects that routes follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterState {
    pub pools: Vec<PoolState>,
    pub blocks: Vec<BlockState>,
    pub nodes: Vec<NodeState>,
    /// Floating IPs that have a route, with the pod's own address that each stands for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floating: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// MTU of the uplink's interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink_mtu: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolState {
    pub name: String,
    pub cidr: Ipv4Net,
    /// `none`, `vxlan` or `ipip`.
    pub encapsulation: String,
    /// `Never`, `Always` or `CrossSubnet`.
    pub mode: String,
    pub disabled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BlockState {
    pub cidr: Ipv4Net,
    /// `host:NODE`, `virtual:NAME`, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Addresses in use on a node that is not the owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub borrowed: BTreeMap<Ipv4Addr, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeState {
    pub name: String,
    /// With its prefix, which CrossSubnet asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Net>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_address: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_address: Option<Ipv4Addr>,
}

impl State {
    /// A snapshot with what is known around it. `routes` are those in force, by prefix.
    pub fn new(node: &str, snapshot: &Snapshot, ports: Vec<PortState>, routes: Vec<RouteState>, cluster: ClusterState) -> State {
        let used: BTreeSet<u32> = routes.iter().map(|r| r.adjacency).chain([AdjId::HOST_FLOW.0]).collect();
        State {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            node: node.to_owned(),
            generation: snapshot.generation,
            tunnel: (&snapshot.tunnel).into(),
            ports,
            adjacencies: used.into_iter().map(|id| (id, snapshot.adjacencies.get(AdjId(id)).into())).collect(),
            routes,
            flows: Vec::new(),
            cluster,
        }
    }

    /// Reads a document.
    pub fn read(text: &[u8]) -> Result<State, StateError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            #[serde(default)]
            version: String,
        }
        let head: Head = serde_json::from_slice(text)?;
        if head.format != FORMAT {
            return Err(StateError::Format { found: head.format, version: head.version });
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// The snapshot that the document describes.
    pub fn snapshot(&self) -> Result<Snapshot, StateError> {
        let mut ports = Vec::new();
        for (i, p) in self.ports.iter().enumerate() {
            let at = usize::from(p.id);
            if ports.len() <= at {
                ports.resize(at + 1, PortRole::Closed);
            }
            if self.ports[..i].iter().any(|other| other.id == p.id) {
                return Err(fault(format!("ports[{i}].id"), format!("{} is another port's number", p.id)));
            }
            ports[at] = p.role.role();
        }
        let mut adjacencies = AdjTable::new();
        for (number, a) in &self.adjacencies {
            if *number as usize >= NUMBERS_MAX {
                return Err(fault(format!("adjacencies.{number}"), format!("numbers end at {}", NUMBERS_MAX - 1)));
            }
            adjacencies.set(AdjId(*number), a.adjacency().map_err(|(f, message)| fault(format!("adjacencies.{number}.{f}"), message))?);
        }
        let mut table = Table4::new();
        for (i, r) in self.routes.iter().enumerate() {
            if r.adjacency as usize >= adjacencies.len() {
                return Err(fault(format!("routes[{i}].adjacency"), format!("there is no adjacency {}", r.adjacency)));
            }
            table.insert(r.prefix.trunc(), AdjId(r.adjacency));
        }
        Ok(Snapshot { generation: self.generation, fib: table.commit(), adjacencies, ports, tunnel: self.tunnel.tunnel()? })
    }
}

impl TunnelState {
    fn tunnel(&self) -> Result<Tunnel, StateError> {
        Ok(Tunnel {
            node: self.node,
            icmp_source: self.icmp_source,
            vtep_mac: self.vtep_mac,
            vni: Vni::new(self.vni).ok_or_else(|| fault("tunnel.vni", format!("{} is not a VNI, which has 24 bits", self.vni)))?,
            port: self.port,
            senders: Arc::new(self.senders.iter().map(|a| (u32::from(*a), PeerId::NONE)).collect()),
            nodes: Arc::new(self.nodes.iter().map(|a| u32::from(*a)).collect()),
            workloads_may_vxlan: self.workloads_may_vxlan,
            workloads_may_ipip: self.workloads_may_ipip,
        })
    }
}

impl From<&Tunnel> for TunnelState {
    fn from(t: &Tunnel) -> TunnelState {
        fn sorted<'a>(all: impl Iterator<Item = &'a u32>) -> Vec<Ipv4Addr> {
            let mut all: Vec<Ipv4Addr> = all.map(|a| Ipv4Addr::from(*a)).collect();
            all.sort_unstable();
            all
        }
        TunnelState {
            node: t.node,
            icmp_source: t.icmp_source,
            vtep_mac: t.vtep_mac,
            vni: t.vni.get(),
            port: t.port,
            senders: sorted(t.senders.keys()),
            nodes: sorted(t.nodes.iter()),
            workloads_may_vxlan: t.workloads_may_vxlan,
            workloads_may_ipip: t.workloads_may_ipip,
        }
    }
}

impl RoleState {
    fn role(&self) -> PortRole {
        match self {
            RoleState::Closed => PortRole::Closed,
            RoleState::Uplink => PortRole::Uplink,
            RoleState::Host => PortRole::Host,
            RoleState::Workload(e) => PortRole::Workload(Arc::new(Endpoint {
                name: e.name.clone(),
                sources: e.sources.clone(),
                addresses: e.addresses.clone(),
                mac: e.mac,
            })),
        }
    }
}

impl From<&PortRole> for RoleState {
    fn from(role: &PortRole) -> RoleState {
        match role {
            PortRole::Closed => RoleState::Closed,
            PortRole::Uplink => RoleState::Uplink,
            PortRole::Host => RoleState::Host,
            PortRole::Workload(e) => RoleState::Workload(EndpointState {
                name: e.name.clone(),
                addresses: e.addresses.clone(),
                sources: e.sources.clone(),
                mac: e.mac,
            }),
        }
    }
}

impl PortState {
    pub fn new(id: PortId, interface: &str, role: &PortRole, caps: &Caps) -> PortState {
        PortState {
            id: id.0,
            interface: interface.to_owned(),
            driver: caps.driver.into(),
            role: role.into(),
            medium: caps.medium,
            mtu: caps.mtu,
            gso: caps.gso,
            checksum: caps.tx_csum,
        }
    }

    /// The port as forwarding sees it.
    pub fn caps(&self) -> Caps {
        Caps { driver: "replay", medium: self.medium, mtu: self.mtu, gso: self.gso, tx_csum: self.checksum, queue: 0 }
    }
}

impl AdjacencyState {
    /// The error is the field and what is wrong with it.
    fn adjacency(&self) -> Result<Adjacency, (&'static str, String)> {
        let bytes = hex::decode(&self.rewrite).ok().filter(|b| b.len() <= crate::fib::REWRITE_MAX);
        let rewrite = bytes.ok_or_else(|| ("rewrite", format!("not at most {} bytes in hexadecimal", crate::fib::REWRITE_MAX)))?;
        Ok(Adjacency {
            rewrite: Rewrite::new(&rewrite),
            kind: self.kind()?,
            port: self.port.map_or(PortId::NONE, PortId),
            mtu: self.mtu,
            gso: self.gso,
            partial_csum: self.partial_checksum,
            joins: self.joins,
            peer: self.peer,
            node: PeerId::NONE,
        })
    }

    fn kind(&self) -> Result<AdjKind, (&'static str, String)> {
        let reason = self.reason.as_deref().unwrap_or_default();
        let unknown = || ("reason", format!("{reason:?} is not a reason for a {}", self.kind));
        Ok(match self.kind.as_str() {
            "deliver" => AdjKind::Deliver,
            "vxlan" => AdjKind::Vxlan,
            "ipip" => AdjKind::Ipip,
            "direct" => AdjKind::Direct,
            "glean" => AdjKind::Glean,
            "drop" => AdjKind::Drop(DropReason::ALL.iter().copied().find(|r| r.name() == reason).ok_or_else(unknown)?),
            "punt" => AdjKind::Punt(PuntReason::ALL.iter().copied().find(|r| r.name() == reason).ok_or_else(unknown)?),
            other => return Err(("kind", format!("{other:?} is not one of deliver, vxlan, ipip, direct, glean, drop, punt"))),
        })
    }
}

impl From<&Adjacency> for AdjacencyState {
    fn from(a: &Adjacency) -> AdjacencyState {
        let (kind, reason) = match a.kind {
            AdjKind::Drop(r) => ("drop", Some(r.name())),
            AdjKind::Punt(r) => ("punt", Some(r.name())),
            AdjKind::Deliver => ("deliver", None),
            AdjKind::Vxlan => ("vxlan", None),
            AdjKind::Ipip => ("ipip", None),
            AdjKind::Direct => ("direct", None),
            AdjKind::Glean => ("glean", None),
        };
        AdjacencyState {
            kind: kind.into(),
            reason: reason.map(Into::into),
            port: (a.port != PortId::NONE).then_some(a.port.0),
            rewrite: format!("{:?}", a.rewrite),
            mtu: a.mtu,
            gso: a.gso,
            partial_checksum: a.partial_csum,
            joins: a.joins,
            peer: a.peer,
        }
    }
}
