//! The addresses of the node's tunnels: IPAM gives them out, the node's annotations name them.

use super::object::NodeObject;
use crate::control::datastore::objects::Objects;
use crate::control::ipam::{Ipam, IpamError, Tunnel};
use std::net::IpAddr;

/// The tunnels that this program has.
const TUNNELS: [Tunnel; 2] = [Tunnel::Vxlan, Tunnel::Ipip];

/// Why the tunnels have no addresses.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error(
        "its {kind} tunnel address {address} belongs to node {other}: remove the annotation {annotation} from the node that should have another"
    )]
    Taken { kind: &'static str, address: IpAddr, other: String, annotation: &'static str },
    #[error(transparent)]
    Ipam(#[from] IpamError),
}

/// Every annotation as it should be, with what IPAM has for this node: addresses that pools ask for are assigned,
/// others released.
pub async fn wanted<O: Objects>(ipam: &Ipam<O>, node: &NodeObject) -> Result<Vec<(&'static str, Option<String>)>, TunnelError> {
    let mut out = Vec::new();
    for tunnel in TUNNELS {
        own(ipam, node, tunnel).await?;
        let address = ipam.ensure_tunnel_address(tunnel).await?;
        out.push((tunnel.annotation(), address.map(|a| a.to_string())));
    }
    Ok(out)
}

/// Refuses an address that IPAM has for another node's tunnel. One that a pod has got is given up for a new one.
async fn own<O: Objects>(ipam: &Ipam<O>, node: &NodeObject, tunnel: Tunnel) -> Result<(), TunnelError> {
    let Some(address) = node.annotation(tunnel.annotation()).and_then(|a| a.parse().ok()) else { return Ok(()) };
    let Some(held) = ipam.attributes_of(address).await? else { return Ok(()) };
    let of_a_tunnel = held.active.get("type").is_some_and(|t| Tunnel::ALL.iter().any(|k| k.type_name() == t));
    match held.node() {
        Some(other) if of_a_tunnel && other != ipam.node() => {
            let kind = if tunnel == Tunnel::Ipip { "IP-in-IP" } else { "VXLAN" };
            Err(TunnelError::Taken { kind, address, other: other.into(), annotation: tunnel.annotation() })
        }
        _ => Ok(()),
    }
}
