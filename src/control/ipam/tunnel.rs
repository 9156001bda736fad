//! The address of a node's own end of a tunnel: the source of what the node itself sends to pods of other nodes, and in
//! VXLAN the address of its VTEP.

use super::Ipam;
use super::assign::{AssignIp, AutoAssign};
use super::attribute::{Attribute, Holder};
use super::block::ReleaseRequest;
use super::error::{IpamError, Refusal};
use super::pools::{Labels, Pool, Use};
use crate::control::datastore::objects::{Id, Objects, Resource};
use serde_json::Value;
use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tunnel {
    Vxlan,
    VxlanV6,
    Ipip,
}

impl Tunnel {
    pub const ALL: [Tunnel; 3] = [Tunnel::Vxlan, Tunnel::VxlanV6, Tunnel::Ipip];

    /// Handle of a node's address.
    pub fn handle(self, node: &str) -> String {
        let prefix = match self {
            Tunnel::Vxlan => "vxlan-tunnel-addr",
            Tunnel::VxlanV6 => "vxlan-v6-tunnel-addr",
            Tunnel::Ipip => "ipip-tunnel-addr",
        };
        format!("{prefix}-{node}")
    }

    /// Attribute `type` of the address.
    pub fn type_name(self) -> &'static str {
        match self {
            Tunnel::Vxlan => "vxlanTunnelAddress",
            Tunnel::VxlanV6 => "vxlanV6TunnelAddress",
            Tunnel::Ipip => "ipipTunnelAddress",
        }
    }

    /// Annotation of the Node that holds it.
    pub fn annotation(self) -> &'static str {
        match self {
            Tunnel::Vxlan => "projectcalico.org/IPv4VXLANTunnelAddr",
            Tunnel::VxlanV6 => "projectcalico.org/IPv6VXLANTunnelAddr",
            Tunnel::Ipip => "projectcalico.org/IPv4IPIPTunnelAddr",
        }
    }

    fn version(self) -> u8 {
        if self == Tunnel::VxlanV6 { 6 } else { 4 }
    }

    fn holder(self, node: &str) -> Holder {
        let attributes = [("node", node), ("type", self.type_name())];
        let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        Holder { handle: Some(self.handle(node)), attributes }
    }

    /// The pools that need such an address on a node with these labels.
    pub fn pools<'a>(self, pools: &'a [Pool], labels: &Labels) -> Vec<&'a Pool> {
        let encapsulated = |p: &Pool| if self == Tunnel::Ipip { p.ipip } else { p.vxlan };
        let here = |p: &Pool| p.selects_node(labels).inspect_err(|e| tracing::warn!("{e}")).unwrap_or(false);
        let fits = |p: &&Pool| p.enabled && p.version() == self.version() && p.uses.contains(&Use::Tunnel) && encapsulated(p) && here(p);
        pools.iter().filter(fits).collect()
    }
}

/// What an address that the Node names is worth.
enum Current {
    Keep,
    /// Not the node's any more, or nobody's.
    Replace,
    /// Assigned by versions that wrote neither handle nor attributes.
    Nameless,
}

impl<S: Objects> Ipam<S> {
    /// The address that this node should have, by its Node's annotation and the pools: the one it has if that is still
    /// its own and in a pool that asks for one, else a new one. `None`, and the old one released, if no pool asks for
    /// one. The caller writes the annotation; if that fails, [`Ipam::release_tunnel_address`] or the next call clean
    /// up.
    pub async fn ensure_tunnel_address(&self, tunnel: Tunnel) -> Result<Option<IpAddr>, IpamError> {
        self.exclusively(self.ensure_tunnel_address_unlocked(tunnel)).await
    }

    async fn ensure_tunnel_address_unlocked(&self, tunnel: Tunnel) -> Result<Option<IpAddr>, IpamError> {
        let missing = || IpamError::NoNode(Id::cluster(Resource::Node, &self.node));
        let node = self.store.node(&self.node).await?.ok_or_else(missing)?;
        let labels = self.store.node_labels(&self.node).await?.ok_or_else(missing)?;
        let all = self.store.pools().await?;
        let pools = tunnel.pools(&all, &labels);
        let current = annotated(&node, tunnel);
        if pools.is_empty() {
            self.release_tunnel_unlocked(tunnel, current).await?;
            return Ok(None);
        }
        if let Some(address) = current {
            match self.judge(tunnel, address, &pools).await? {
                Current::Keep => return Ok(Some(address)),
                Current::Nameless => {
                    if self.name_address(tunnel, address).await? {
                        return Ok(Some(address));
                    }
                }
                Current::Replace => {}
            }
        }
        // Whatever else has the handle is one that a Node once named and no longer does.
        self.release_by_handle_unlocked(&tunnel.handle(&self.node)).await?;
        let request = AutoAssign {
            count: 1,
            version: tunnel.version(),
            holder: tunnel.holder(&self.node),
            pools: pools.iter().map(|p| p.name.clone()).collect(),
            usage: Use::Tunnel,
            ..AutoAssign::default()
        };
        let assigned = self.auto_assign_unlocked(&request).await?.complete(tunnel.version())?;
        Ok(assigned.first().copied())
    }

    async fn judge(&self, tunnel: Tunnel, address: IpAddr, pools: &[&Pool]) -> Result<Current, IpamError> {
        let Some(held) = self.attributes_of(address).await? else { return Ok(Current::Replace) };
        let own = held.active.get("type").map(String::as_str) == Some(tunnel.type_name()) && held.node() == Some(self.node.as_str());
        Ok(match own {
            true if pools.iter().any(|p| p.cidr.contains(&address)) => Current::Keep,
            false if is_nameless(&held) => Current::Nameless,
            _ => Current::Replace,
        })
    }

    /// Assigns the same address again, with handle and attributes. False if somebody else takes it first.
    async fn name_address(&self, tunnel: Tunnel, address: IpAddr) -> Result<bool, IpamError> {
        self.release_unlocked(&[ReleaseRequest::any(address)]).await?;
        let request = AssignIp { address, holder: tunnel.holder(&self.node), usage: None };
        match self.assign_ip_unlocked(&request).await {
            Ok(()) => Ok(true),
            Err(IpamError::Refused(Refusal::InUse { .. } | Refusal::InCooldown { .. })) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Releases this node's address for a tunnel.
    pub async fn release_tunnel_address(&self, tunnel: Tunnel) -> Result<(), IpamError> {
        self.exclusively(async {
            let node = self.store.node(&self.node).await?;
            self.release_tunnel_unlocked(tunnel, node.and_then(|n| annotated(&n, tunnel))).await
        })
        .await
    }

    async fn release_tunnel_unlocked(&self, tunnel: Tunnel, current: Option<IpAddr>) -> Result<(), IpamError> {
        let handle = tunnel.handle(&self.node);
        self.release_by_handle_unlocked(&handle).await?;
        let Some(address) = current else { return Ok(()) };
        // The handle may be gone, or the address older than handles.
        let Some(held) = self.attributes_of(address).await? else { return Ok(()) };
        if held.has_handle(&handle) || is_nameless(&held) {
            self.release_unlocked(&[ReleaseRequest { handle: held.handle, ..ReleaseRequest::any(address) }]).await?;
        }
        Ok(())
    }
}

fn is_nameless(held: &Attribute) -> bool {
    held.handle.is_none() && held.active.is_empty() && held.released.is_none()
}

/// The address that a Node names. One that is none counts as missing: it is replaced.
pub(super) fn annotated(node: &Value, tunnel: Tunnel) -> Option<IpAddr> {
    let text = node["metadata"]["annotations"][tunnel.annotation()].as_str()?;
    let address = text.split('/').next().unwrap_or(text);
    address.parse().inspect_err(|_| tracing::warn!("Node annotation {}: {text:?} is not an address", tunnel.annotation())).ok()
}
