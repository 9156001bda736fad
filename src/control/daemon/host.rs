//! What the daemon changes on the host, and nothing else: the address and state of its own device, and its own
//! routes.

use crate::control::desired::Desired;
use crate::control::netlink::routes::{self, HostRoute};
use crate::control::netlink::{KernelRoute, Netlink};
use crate::control::plan::Ports;
use ipnet::Ipv4Net;
use std::collections::BTreeSet;

/// Brings the device's addresses in line; returns what stands in the way, one line each. The routes' source must
/// be there before them: let the kernel's answers in before [`reconcile_routes`].
pub fn reconcile_addresses(netlink: &mut Netlink, desired: &Desired, ports: &Ports, device: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some((dev, _)) = host_link(netlink, ports, device) {
        let wanted: BTreeSet<Ipv4Net> = desired.node.iter().filter_map(|n| n.tunnel_address).map(Ipv4Net::from).collect();
        let present: BTreeSet<Ipv4Net> = netlink.view().addresses_of(dev).collect();
        for a in present.difference(&wanted) {
            note(&mut problems, format!("{device}: remove address {a}"), netlink.del_address(dev, *a));
        }
        for a in wanted.difference(&present) {
            note(&mut problems, format!("{device}: add address {a}"), netlink.add_address(dev, *a));
        }
    }
    problems
}

/// Index of the host device if it is there and open, and whether it is up.
fn host_link(netlink: &Netlink, ports: &Ports, device: &str) -> Option<(u32, bool)> {
    ports.host.and_then(|_| netlink.view().link_by_name(device).map(|l| (l.index, l.up)))
}

/// Brings our routes in line; returns what stands in the way, one line each.
pub fn reconcile_routes(netlink: &mut Netlink, desired: &Desired, ports: &Ports, device: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let up = host_link(netlink, ports, device).filter(|(_, up)| *up).map(|(dev, _)| dev);
    let wanted = routes::wanted(desired, up, ports.uplink.as_ref().map(|u| u.dev));
    let d = routes::diff(&wanted, netlink.view());
    for r in &d.remove {
        note(&mut problems, format!("remove route {}", r.dst), netlink.del_route(r));
    }
    for r in &d.add {
        note(&mut problems, format!("add route {}", r.dst), netlink.add_route(r));
    }
    problems.extend(d.conflicts);
    problems
}

/// Removes every route of ours.
pub fn clear(netlink: &mut Netlink) {
    let _ = netlink.drain();
    let ours = |r: &&KernelRoute| r.protocol == routes::PROTOCOL;
    let all: Vec<HostRoute> = netlink.view().routes.iter().filter(ours).map(HostRoute::from).collect();
    for r in all {
        if let Err(e) = netlink.del_route(&r) {
            tracing::warn!("route {} could not be removed: {e}", r.dst);
        }
    }
}

fn note(problems: &mut Vec<String>, what: String, result: std::io::Result<()>) {
    if let Err(e) = result {
        problems.push(format!("{what}: {e}"));
    }
}
