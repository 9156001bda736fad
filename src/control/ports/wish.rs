//! What ports there should be: one wish per key, with everything that, when it changes, means opening again.

use crate::control::desired::{Desired, LocalEndpoint, ThisNode};
use crate::control::netlink::View;
use crate::control::plan;
use crate::wire::{Mac, vxlan::Vni};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Name of the interface inside the pod.
const POD_INTERFACE: &str = "eth0";
/// MTU of an uplink that is not there yet.
const DEFAULT_MTU: u32 = 1500;

/// What a port is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Uplink,
    Host,
    /// By endpoint name, as in `Desired::endpoints`.
    Workload(String),
}

impl Key {
    /// How many numbers it takes: the uplink may need one each for VXLAN, IP-in-IP and unencapsulated packets.
    pub(super) fn ports(&self) -> usize {
        if *self == Key::Uplink { 3 } else { 1 }
    }

    /// The role that the text of a key, or of a role, begins with.
    pub(super) fn role_of(key: &str) -> &'static str {
        match key.split(' ').next() {
            Some("uplink") => "uplink",
            Some("host") => "host",
            _ => "workload",
        }
    }

    pub(super) fn role(&self) -> &'static str {
        match self {
            Key::Uplink => "uplink",
            Key::Host => "host",
            Key::Workload(_) => "workload",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Uplink | Key::Host => f.write_str(self.role()),
            Key::Workload(name) => write!(f, "workload {name}"),
        }
    }
}

/// What one port should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Interface to attach to or to make.
    pub interface: String,
    /// Of the interface that is there; 0 where we make it.
    pub ifindex: u32,
    /// Of the interface, bytes from L3 on.
    pub mtu: u32,
    /// Uplink: its own MAC. TAP: the MAC for the pod's end.
    pub mac: Option<Mac>,
    /// Namespace to make the pod's TAP in; `None`: attach to `interface`.
    pub netns: Option<PathBuf>,
    /// Whether frames to it must go by the interface's queue, which limits them.
    pub limited: bool,
    /// Uplink only: what tunnel packets for us look like.
    pub tunnel: Option<(Ipv4Addr, u16, Vni)>,
    /// Why it cannot be opened now, if it cannot.
    pub missing: Option<String>,
}

impl Wish {
    /// Whether it is a device that we make, and the same but for its MTU.
    pub(super) fn differs_in_mtu_alone(&self, other: &Wish) -> bool {
        self.ifindex == 0 && Wish { mtu: other.mtu, ..self.clone() } == *other
    }

    /// Everything that cannot change while the port is open, for another version of this program to compare.
    pub fn identity(&self) -> String {
        let text = |what: Option<String>| what.unwrap_or_else(|| "-".into());
        let tunnel = self.tunnel.map(|(node, port, vni)| format!("{node} port {port} VNI {}", vni.get()));
        let limited = if self.limited { " limited" } else { "" };
        format!("interface {} mac {} tunnel {}{limited}", self.ifindex, text(self.mac.map(|m| m.to_string())), text(tunnel))
    }

    /// Whether a device made for one serves for the other.
    pub(super) fn same_device(&self, other: &Wish) -> bool {
        (&self.interface, &self.netns) == (&other.interface, &other.netns)
    }
}

/// What the configuration says and the cluster does not.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// Empty: not known yet.
    pub uplink: String,
    pub host: String,
    /// Workloads are to be TAPs: an endpoint without a namespace cannot be connected.
    pub tap_only: bool,
    /// Workloads are never TAPs.
    pub veth_only: bool,
}

/// All wishes, and what stands against some of them.
#[derive(Debug, Default)]
pub struct Wishes {
    pub by_key: BTreeMap<Key, Wish>,
    pub problems: Vec<String>,
}

pub(super) fn collect(desired: &Desired, node: &ThisNode, view: &View, fixed: &Fixed) -> Wishes {
    let mut out = Wishes::default();
    let uplink = uplink(node, view, fixed);
    let pod_mtu = u32::from(plan::pod_mtu(node, plan::host_mtu(node, view, &fixed.uplink)));
    out.by_key.insert(Key::Uplink, uplink);
    out.by_key.insert(Key::Host, made(fixed.host.clone(), None, pod_mtu, None));
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, e) in &desired.endpoints {
        let wish = match workload(name, e, pod_mtu, view, fixed) {
            Ok(wish) => wish,
            Err(problem) => {
                out.problems.push(problem);
                continue;
            }
        };
        if wish.netns.is_none() {
            if wish.interface == fixed.uplink || wish.interface == fixed.host {
                out.problems.push(format!("workload {name}: interface {} is this node's own; it is not connected", wish.interface));
                continue;
            }
            if let Some(first) = owners.get(e.interface.as_str()) {
                out.problems
                    .push(format!("workload {name}: interface {} belongs to workload {first} already; it is not connected", e.interface));
                continue;
            }
            owners.insert(&e.interface, name);
        }
        out.by_key.insert(Key::Workload(name.to_string()), wish);
    }
    out
}

fn uplink(node: &ThisNode, view: &View, fixed: &Fixed) -> Wish {
    let tunnel = Some((node.address.addr(), node.vxlan_port, node.vni));
    let mut wish = attached(&fixed.uplink, view);
    // Sockets are bound to the address: without it nothing can be received.
    if (wish.missing.is_none() || fixed.uplink.is_empty()) && !view.addresses.iter().any(|(_, a)| a.addr() == node.address.addr()) {
        wish.missing =
            Some(format!("the node's address {} is not on any interface here: add it, or correct the node's address", node.address.addr()));
    }
    wish.tunnel = tunnel;
    wish
}

fn workload(name: &str, e: &LocalEndpoint, pod_mtu: u32, view: &View, fixed: &Fixed) -> Result<Wish, String> {
    match &e.netns {
        Some(netns) if !fixed.veth_only => {
            let mac = e.mac.unwrap_or_else(|| generated_mac(name));
            Ok(made(POD_INTERFACE.into(), Some(netns.clone()), pod_mtu, Some(mac)))
        }
        None if fixed.tap_only => Err(format!(
            "workload {name}: workloads.driver is tap, but the endpoint has no namespace to make the TAP in: set its annotation tortie/netns; it is not connected"
        )),
        _ => Ok(Wish { mac: None, limited: e.limited, ..attached(&e.interface, view) }),
    }
}

/// An interface that somebody else makes.
fn attached(interface: &str, view: &View) -> Wish {
    let link = view.link_by_name(interface);
    let missing = match link {
        None if interface.is_empty() => Some("no interface is known to lead to the other nodes: set uplink.interface".into()),
        None => Some(format!("waiting for interface {interface} to appear")),
        Some(l) if !l.up => Some(format!("waiting for interface {interface} to be set up (ip link set {interface} up)")),
        Some(_) => None,
    };
    Wish {
        interface: interface.into(),
        ifindex: link.map_or(0, |l| l.index),
        mtu: link.map_or(DEFAULT_MTU, |l| l.mtu),
        mac: link.and_then(|l| l.mac),
        netns: None,
        limited: false,
        tunnel: None,
        missing,
    }
}

/// An interface that we make.
fn made(interface: String, netns: Option<PathBuf>, mtu: u32, mac: Option<Mac>) -> Wish {
    Wish { interface, ifindex: 0, mtu, mac, netns, limited: false, tunnel: None, missing: None }
}

/// A locally administered unicast MAC that is always the same for the same endpoint (FNV-1a of the name).
fn generated_mac(name: &str) -> Mac {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let b = hash.to_be_bytes();
    Mac([0x02, b[3], b[4], b[5], b[6], b[7]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_macs_are_stable_local_and_unicast() {
        let mac = generated_mac("default/web-0");
        assert_eq!(mac, generated_mac("default/web-0"));
        assert_ne!(mac, generated_mac("default/web-1"));
        assert_eq!(mac.0[0], 0x02);
    }
}
