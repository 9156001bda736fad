//! What `calc` computes from the cluster and `plan` turns into a snapshot: routes and endpoints in the
//! cluster's own terms, before ports, neighbours and MACs of the underlay come in.

use super::conflict::Conflict;
use crate::control::pattern::Pattern;
use crate::wire::{Mac, vxlan::Vni};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

/// Everything that should be in force on this node. A pure function of the cluster's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// This node; `None` until its Node object with an address is known. Nothing is forwarded before.
    pub node: Option<ThisNode>,
    pub routes: BTreeMap<IpNet, Route>,
    /// Other nodes with both an underlay address and a VXLAN tunnel address, by node name.
    pub vteps: BTreeMap<Arc<str>, Vtep>,
    /// Local workload endpoints by WorkloadEndpoint name (`namespace/name`).
    pub endpoints: BTreeMap<Arc<str>, LocalEndpoint>,
    /// Floating IPs that have a route, with the pod's own address that each stands for.
    pub floating: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Underlay addresses of all nodes, this one too.
    pub nodes: BTreeSet<Ipv4Addr>,
    /// Who tunnel packets are accepted from: other nodes and FelixConfiguration externalNodesList.
    pub senders: BTreeSet<Ipv4Addr>,
    /// CIDRs of all pools that carry workloads: what the host routes to the engine.
    pub pools: BTreeSet<IpNet>,
    /// Oddities in the cluster's state that an operator should hear of, one line each.
    pub warnings: BTreeSet<String>,
    /// What two nodes claim.
    pub conflicts: BTreeSet<Conflict>,
}

/// This node's own parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThisNode {
    pub name: String,
    /// Underlay address with its prefix (CrossSubnet's test).
    pub address: Ipv4Net,
    /// The address for the host device: the VXLAN tunnel address, else the IP-in-IP one.
    pub tunnel_address: Option<Ipv4Addr>,
    pub vtep_mac: Mac,
    pub vni: Vni,
    pub vxlan_port: u16,
    /// FelixConfiguration vxlanMTU and ipipMTU when set (not 0); else they follow from the uplink's MTU.
    pub vxlan_mtu: Option<u16>,
    pub ipip_mtu: Option<u16>,
    pub workloads_may_vxlan: bool,
    pub workloads_may_ipip: bool,
    /// Which encapsulations some pool uses, a disabled one too as its blocks stay routed, or that
    /// FelixConfiguration asks for: the pod MTU is the least of their MTUs, and the uplink's when there is none.
    pub vxlan_enabled: bool,
    pub ipip_enabled: bool,
    /// Links whose MTU counts for pods; `None`: Calico's default.
    pub mtu_links: Option<Pattern>,
}

/// Another node as a VXLAN tunnel endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vtep {
    pub node: Arc<str>,
    pub address: Ipv4Addr,
    pub tunnel_address: Ipv4Addr,
    pub mac: Mac,
}

/// Where packets to a prefix go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a pod on this node; the key into `Desired::endpoints`.
    Local { endpoint: Arc<str> },
    /// To a node in VXLAN, via its tunnel address.
    Vxlan { node: Arc<str>, address: Ipv4Addr, tunnel_address: Ipv4Addr, mac: Mac },
    /// To a node in IP-in-IP.
    Ipip { node: Arc<str>, address: Ipv4Addr },
    /// To a node without encapsulation.
    Direct { node: Arc<str>, address: Ipv4Addr },
    /// A floating IP of a pod on this node: the host translates it to the pod's own address. The key into
    /// `Desired::endpoints`.
    Floating { endpoint: Arc<str>, address: Ipv4Addr },
    /// One of this node's own addresses.
    Host,
    /// A block of this node: what no endpoint owns in it ends here.
    Blackhole,
    /// Known but not reachable now (a node without address or tunnel), or a pool's part that nobody owns:
    /// dropped rather than leaked to the host's default route. `node` is whose it is, if known.
    Drop { node: Option<Arc<str>> },
}

impl Route {
    /// The kind as the API shows it.
    pub fn kind(&self) -> &'static str {
        match self {
            Route::Local { .. } => "local",
            Route::Vxlan { .. } => "vxlan",
            Route::Ipip { .. } => "ipip",
            Route::Direct { .. } => "direct",
            Route::Floating { .. } => "floating",
            Route::Host => "host",
            Route::Blackhole => "blackhole",
            Route::Drop { .. } => "drop",
        }
    }

    /// The next hop shown as `via`: the tunnel address for VXLAN, the pod's address for its floating IP, the node's address
    /// otherwise.
    pub fn via(&self) -> Option<IpAddr> {
        match self {
            Route::Vxlan { tunnel_address, .. } => Some((*tunnel_address).into()),
            Route::Ipip { address, .. } | Route::Direct { address, .. } | Route::Floating { address, .. } => Some((*address).into()),
            _ => None,
        }
    }

    /// Underlay address of the node it leads to.
    pub fn underlay(&self) -> Option<Ipv4Addr> {
        match self {
            Route::Vxlan { address, .. } | Route::Ipip { address, .. } | Route::Direct { address, .. } => Some(*address),
            _ => None,
        }
    }

    /// The node it leads to.
    pub fn node(&self) -> Option<&str> {
        match self {
            Route::Vxlan { node, .. } | Route::Ipip { node, .. } | Route::Direct { node, .. } => Some(node),
            Route::Drop { node } => node.as_deref(),
            _ => None,
        }
    }

    /// The node that packets are sent to.
    pub fn peer(&self) -> Option<&str> {
        self.underlay().and(self.node())
    }
}

/// A pod on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// `namespace/pod` where known, else the endpoint's name.
    pub workload: String,
    /// Host-side interface, or the name of the TAP to make.
    pub interface: String,
    /// Network namespace to make the pod's TAP in (annotation `tortie/netns` of the WorkloadEndpoint or Pod).
    pub netns: Option<PathBuf>,
    /// Whether what it receives is limited, by the queue of its interface on the host.
    pub limited: bool,
    pub addresses: Vec<Ipv4Addr>,
    /// Addresses and allowed source prefixes.
    pub sources: Vec<Ipv4Net>,
    pub mac: Option<Mac>,
}

/// How one state differs from the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Anything may be different.
    All,
    Parts(Parts),
}

/// Nothing else is different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Prefixes whose route came, changed or went; sorted, each once.
    pub routes: Vec<IpNet>,
    /// Endpoints that came, changed or went.
    pub endpoints: BTreeSet<Arc<str>>,
    /// Underlay addresses that may have joined or left `nodes` or `senders`.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Nodes that may have come, changed or gone as VTEPs.
    pub vteps: BTreeSet<Arc<str>>,
    /// Whether warnings or conflicts may have come or gone.
    pub warnings: bool,
    /// Whether floating IPs have come, changed or gone, or what they stand for.
    pub floating: bool,
}

impl Delta {
    /// No difference.
    pub fn none() -> Delta {
        Delta::Parts(Parts::default())
    }

    /// Whether endpoints may have come, changed or gone.
    pub fn has_endpoints(&self) -> bool {
        !matches!(self, Delta::Parts(p) if p.endpoints.is_empty())
    }

    /// Whether floating IPs may have come, changed or gone.
    pub fn has_floating(&self) -> bool {
        !matches!(self, Delta::Parts(p) if !p.floating)
    }

    /// Whether warnings or conflicts may have come or gone.
    pub fn has_warnings(&self) -> bool {
        !matches!(self, Delta::Parts(p) if !p.warnings)
    }
}

impl Parts {
    pub fn is_empty(&self) -> bool {
        *self == Parts::default()
    }
}

impl Desired {
    /// Floating IPs of pods on this node, with the address that the host translates each to.
    pub fn translations(&self) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
        let is_local = |ip: &Ipv4Addr| matches!(self.routes.get(&IpNet::V4((*ip).into())), Some(Route::Floating { .. }));
        self.floating.iter().filter(|(ip, _)| is_local(ip)).map(|(ip, to)| (*ip, *to)).collect()
    }
}

#[cfg(test)]
impl ThisNode {
    /// Node `a` of the control plane's unit tests: 10.1.0.1/24, tunnel address 10.244.1.0, VXLAN in use.
    pub fn sample() -> ThisNode {
        ThisNode {
            name: "a".into(),
            address: Ipv4Net::new_assert([10, 1, 0, 1].into(), 24),
            tunnel_address: Some([10, 244, 1, 0].into()),
            vtep_mac: Mac([0x66, 0, 0, 0, 0, 1]),
            vni: Vni::CALICO,
            vxlan_port: 4789,
            vxlan_mtu: None,
            ipip_mtu: None,
            workloads_may_vxlan: false,
            workloads_may_ipip: false,
            vxlan_enabled: true,
            ipip_enabled: false,
            mtu_links: None,
        }
    }
}
