//! What the daemon changes on the host, and nothing else: the address and state of its own device, and its own
//! routes.

use crate::control::desired::{Delta, Desired};
use crate::control::netlink::routes::{self, Devices, HostRoute};
use crate::control::netlink::{Changes, KernelRoute, Netlink, View};
use crate::control::plan::Ports;
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Something of ours on the host that somebody else changed, and that was put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// address or routes.
    pub aspect: &'static str,
    pub what: String,
}

/// Keeps the host in line with what should be in force.
#[derive(Default)]
pub struct Host {
    devices: Devices,
    /// Where both ways of other nodes' packets are right, and whether that is new.
    overlap: Vec<Ipv4Net>,
    overlap_changed: bool,
    /// The device's addresses that were there as they should be, on the interface of this index.
    placed: (u32, BTreeSet<Ipv4Net>),
    /// Routes of ours that were there as they should be.
    installed: BTreeMap<Ipv4Net, HostRoute>,
    touched: Vec<Touched>,
    /// The kernel has taken routes and addresses along with something else.
    pub shaken: bool,
    address_problems: Vec<String>,
    /// Prefixes without the route of ours that should be there, and why.
    route_problems: BTreeMap<Ipv4Net, String>,
}

impl Host {
    /// Brings the device's addresses in line. The routes' source must be there before them: let the kernel's answers
    /// in before [`Host::routes`].
    pub fn addresses(&mut self, netlink: &mut Netlink, desired: &Desired, ports: &Ports, device: &str) {
        let problems = &mut self.address_problems;
        problems.clear();
        let Some((dev, _)) = host_link(netlink, ports, device) else { return };
        let wanted: BTreeSet<Ipv4Net> = desired.node.iter().filter_map(|n| n.tunnel_address).map(Ipv4Net::from).collect();
        let present: BTreeSet<Ipv4Net> = netlink.view().addresses_of(dev).collect();
        let (known, mut touched) = ((self.placed.0 == dev).then_some(&self.placed.1), Vec::new());
        for a in present.difference(&wanted) {
            if known.is_some_and(|k| !k.contains(a)) {
                touched.push(format!("address {a} was added; it was removed again"));
            }
            problems.extend(fault(&format!("{device}: remove address {a}"), netlink.del_address(dev, *a)));
        }
        for a in wanted.difference(&present) {
            if known.is_some_and(|k| k.contains(a)) {
                touched.push(format!("address {a} was removed; it was put back"));
            }
            problems.extend(fault(&format!("{device}: add address {a}"), netlink.add_address(dev, *a)));
        }
        self.placed = (dev, wanted.intersection(&present).copied().collect());
        if !self.shaken {
            self.touched.extend(touched.into_iter().map(|what| Touched { aspect: "address", what }));
        }
    }

    /// Says for which pools both ways of other nodes' packets are right now.
    pub fn overlap(&mut self, nets: Vec<Ipv4Net>) {
        self.overlap_changed |= self.overlap != nets;
        self.overlap = nets;
    }

    /// Brings our routes in line, as far as they may have changed; what failed is tried again.
    pub fn routes(&mut self, netlink: &mut Netlink, desired: &Desired, delta: &Delta, changes: &Changes, ports: &Ports, device: &str) {
        let host = host_link(netlink, ports, device).filter(|(_, up)| *up).map(|(dev, _)| dev);
        let devices = Devices { host, uplink: ports.uplink.as_ref().map(|u| u.dev) };
        let mut touched: BTreeSet<Ipv4Net> = match delta {
            Delta::Parts(parts) if devices == self.devices && !changes.everything && !self.overlap_changed => {
                let v4 = |n: &IpNet| if let IpNet::V4(n) = n { Some(*n) } else { None };
                parts.routes.iter().filter_map(v4).chain(changes.routes.iter().copied()).collect()
            }
            _ => routes::concerned(desired, &self.overlap, netlink.view()),
        };
        self.overlap_changed = false;
        // Without its device or its source address the kernel drops a route by itself.
        let shaken = std::mem::take(&mut self.shaken) || self.devices != devices || !self.touched.is_empty();
        self.devices = devices;
        touched.extend(self.route_problems.keys());
        let mut gone = Vec::new();
        for dst in touched {
            let wanted = routes::wanted(desired, devices, &self.overlap, dst);
            let known = self.installed.get(&dst);
            match route(netlink, wanted.clone(), dst) {
                // Routes out of the uplink go with its link.
                Ok(Done::Added) if known.is_some_and(|k| k.via.is_none()) && known == wanted.as_ref() => gone.push(dst),
                Ok(_) => {}
                Err(problem) => {
                    self.installed.remove(&dst);
                    self.route_problems.insert(dst, problem);
                    continue;
                }
            }
            self.route_problems.remove(&dst);
            match wanted {
                Some(r) => drop(self.installed.insert(dst, r)),
                None => drop(self.installed.remove(&dst)),
            }
        }
        if let (Some(first), false) = (gone.first(), shaken) {
            let others = if gone.len() > 1 { format!(" and {} others were", gone.len() - 1) } else { " was".into() };
            self.touched.push(Touched { aspect: "routes", what: format!("route {first}{others} removed; put back") });
        }
    }

    /// Whether a route to this prefix is a matter of ours: one that is or should be there, or stands in the way.
    pub fn concerns(&self, desired: &Desired, view: &View, dst: Ipv4Net) -> bool {
        self.installed.contains_key(&dst)
            || self.route_problems.contains_key(&dst)
            || routes::wanted(desired, self.devices, &self.overlap, dst).is_some()
            || view.routes_to(dst).any(|r| r.protocol == routes::PROTOCOL)
    }

    /// What others changed since the last call.
    pub fn take_touched(&mut self) -> Vec<Touched> {
        std::mem::take(&mut self.touched)
    }

    /// What stands in the way, one line each.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        self.address_problems.iter().chain(self.route_problems.values())
    }
}

enum Done {
    Added,
    Other,
}

/// Brings the route to one prefix in line; an error is what stands in the way.
fn route(netlink: &mut Netlink, wanted: Option<HostRoute>, dst: Ipv4Net) -> Result<Done, String> {
    let diff = routes::diff(wanted, dst, netlink.view());
    // In between there would be none.
    if let ([_], Some(new)) = (&*diff.remove, &diff.add) {
        let replaced = fault(&format!("replace route {dst}"), netlink.replace_route(new));
        return replaced.map_or(Ok(Done::Other), Err);
    }
    let mut problem = diff.conflict;
    for r in &diff.remove {
        problem = fault(&format!("remove route {dst}"), netlink.del_route(r)).or(problem);
    }
    if let Some(r) = &diff.add {
        problem = fault(&format!("add route {dst}"), netlink.add_route(r)).or(problem);
    }
    match problem {
        Some(problem) => Err(problem),
        None if diff.add.is_some() => Ok(Done::Added),
        None => Ok(Done::Other),
    }
}

/// Index of the host device if it is there and open, and whether it is up.
fn host_link(netlink: &Netlink, ports: &Ports, device: &str) -> Option<(u32, bool)> {
    ports.host.and_then(|_| netlink.view().link_by_name(device).map(|l| (l.index, l.up)))
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

fn fault(what: &str, result: io::Result<()>) -> Option<String> {
    result.err().map(|e| format!("{what}: {e}"))
}
