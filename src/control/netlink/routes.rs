//! The host's routes that are ours: the pools and the floating IPs of this node's pods towards the host device, and blocks
//! that other nodes are reached for without encapsulation. Ours carry protocol number 116; nobody else's is touched.

use super::{KernelRoute, View};
use crate::control::desired::{Desired, Route};
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{RouteMessageBuilder, RouteNextHopBuilder};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Protocol number of our routes (unassigned in `/etc/iproute2/rt_protos`; 't' in ASCII).
pub const PROTOCOL: u8 = 116;
const SCOPE_LINK: u8 = 253;
const SCOPE_UNIVERSE: u8 = 0;

/// One route of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    pub dst: Ipv4Net,
    /// Next node; `None` on the host device.
    pub via: Option<Ipv4Addr>,
    pub dev: u32,
    /// A second interface, which takes all but a few flows: a strict reverse-path filter accepts what comes by either.
    pub also: Option<u32>,
    /// Source of what the host itself sends.
    pub src: Option<Ipv4Addr>,
}

impl HostRoute {
    /// What identifies it to the kernel, for adding and for deleting.
    pub(super) fn message(&self) -> RouteMessage {
        let mut b = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.dst.network(), self.dst.prefix_len())
            .protocol(RouteProtocol::Other(PROTOCOL));
        if let Some(src) = self.src {
            b = b.pref_source(src);
        }
        match (self.via, self.also) {
            (Some(via), Some(also)) => {
                let hop = RouteNextHopBuilder::new_ipv4().interface(self.dev).onlink().via(via.into()).map(RouteNextHopBuilder::build);
                let other = RouteNextHopBuilder::new_ipv4().interface(also).weight(u8::MAX).build();
                b.scope(RouteScope::Universe).multipath(hop.into_iter().chain([other]).collect()).build()
            }
            (Some(via), None) => b.output_interface(self.dev).gateway(via).scope(RouteScope::Universe).onlink().build(),
            (None, _) => b.output_interface(self.dev).scope(RouteScope::Link).build(),
        }
    }

    fn is(&self, k: &KernelRoute) -> bool {
        let scope = if self.via.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
        (self.dst, self.via, self.dev, self.also, self.src) == (k.dst, k.gateway, k.dev, k.also, k.prefsrc)
            && (k.metric, k.scope, k.onlink) == (0, scope, self.via.is_some())
            && k.unicast
    }
}

impl From<&KernelRoute> for HostRoute {
    fn from(k: &KernelRoute) -> HostRoute {
        HostRoute { dst: k.dst, via: k.gateway, dev: k.dev, also: k.also, src: k.prefsrc }
    }
}

/// The interfaces that our routes lead out of, as far as they are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    pub host: Option<u32>,
    pub uplink: Option<u32>,
}

/// What is to be done for one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteDiff {
    /// Removed first: a changed route is a removal and an addition.
    pub remove: Vec<HostRoute>,
    pub add: Option<HostRoute>,
    /// That somebody else routes it.
    pub conflict: Option<String>,
}

/// The route of ours that should be there for a prefix. In `overlap` lie the prefixes that other nodes send packets for in a
/// tunnel or without encapsulation, as they happen to know.
pub fn wanted(desired: &Desired, devices: Devices, overlap: &[Ipv4Net], dst: Ipv4Net) -> Option<HostRoute> {
    let node = desired.node.as_ref()?;
    // A node behind a router is no next hop on this link; its block stays with the pool's route, and the engine
    // sends towards the router.
    let both = overlap.iter().any(|net| net.contains(&dst));
    let route = desired.routes.get(&IpNet::V4(dst));
    let way = match route {
        Some(Route::Direct { address, .. }) => Some(address),
        Some(Route::Vxlan { address, .. } | Route::Ipip { address, .. }) if both => Some(address),
        _ => None,
    };
    if let (Some(dev), Some(address)) = (devices.uplink, way)
        && node.address.contains(address)
    {
        return Some(HostRoute { dst, via: Some(*address), dev, also: devices.host.filter(|_| both), src: None });
    }
    let floats = matches!(route, Some(Route::Floating { .. }));
    let dev = devices.host.filter(|_| floats || desired.pools.contains(&IpNet::V4(dst)))?;
    Some(HostRoute { dst, via: None, dev, also: None, src: node.tunnel_address })
}

/// Every prefix that a route of ours should be there for, or is.
pub fn concerned(desired: &Desired, overlap: &[Ipv4Net], view: &View) -> BTreeSet<Ipv4Net> {
    let v4 = |n: &IpNet| if let IpNet::V4(n) = n { Some(*n) } else { None };
    let both = |net: &IpNet| v4(net).is_some_and(|net| overlap.iter().any(|o| o.contains(&net)));
    let single = |(net, r): &(&IpNet, &Route)| match r {
        Route::Direct { .. } | Route::Floating { .. } => true,
        Route::Vxlan { .. } | Route::Ipip { .. } => both(net),
        _ => false,
    };
    let direct = desired.routes.iter().filter(single).filter_map(|(n, _)| v4(n));
    let ours = view.routes.iter().filter(|r| r.protocol == PROTOCOL).map(|r| r.dst);
    desired.pools.iter().filter_map(v4).chain(direct).chain(ours).collect()
}

/// Compares what should be there for a prefix with what is. A prefix that somebody else routes is left to them.
pub fn diff(wanted: Option<HostRoute>, dst: Ipv4Net, view: &View) -> RouteDiff {
    let (ours, others): (Vec<_>, Vec<_>) = view.routes_to(dst).partition(|r| r.protocol == PROTOCOL);
    let is_right = |k: &KernelRoute| wanted.as_ref().is_some_and(|w| w.is(k));
    let remove = ours.iter().filter(|k| !is_right(k)).map(|k| HostRoute::from(*k)).collect();
    let missing = wanted.as_ref().filter(|_| !ours.iter().any(|k| is_right(k)));
    match (missing, others.first()) {
        (Some(_), Some(o)) => {
            let dev = view.links.get(&o.dev).map_or("no interface", |l| l.name.as_str());
            let conflict = format!(
                "route {dst} on this host is not ours (dev {dev}, proto {}): it is left alone; remove it if tortie is to serve this prefix for the host",
                o.protocol
            );
            RouteDiff { remove, add: None, conflict: Some(conflict) }
        }
        (missing, _) => RouteDiff { remove, add: missing.cloned(), conflict: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::desired::ThisNode;

    fn desired() -> Desired {
        let mut d = Desired { node: Some(ThisNode::sample()), ..Desired::default() };
        d.pools.insert("10.244.0.0/16".parse().unwrap());
        d.routes.insert("10.244.2.0/26".parse().unwrap(), Route::Direct { node: "b".into(), address: [10, 1, 0, 2].into() });
        d.routes.insert("10.244.1.0/26".parse().unwrap(), Route::Blackhole);
        d
    }

    fn kernel(r: &HostRoute, protocol: u8) -> KernelRoute {
        KernelRoute {
            dst: r.dst,
            metric: 0,
            gateway: r.via,
            dev: r.dev,
            also: r.also,
            prefsrc: r.src,
            protocol,
            scope: if r.via.is_some() { 0 } else { SCOPE_LINK },
            tos: 0,
            onlink: r.via.is_some(),
            unicast: true,
        }
    }

    const DEVICES: Devices = Devices { host: Some(7), uplink: Some(2) };

    fn all(desired: &Desired, devices: Devices) -> Vec<HostRoute> {
        concerned(desired, &[], &View::default()).into_iter().filter_map(|dst| wanted(desired, devices, &[], dst)).collect()
    }

    /// Every prefix's difference, one after the other.
    fn differences(desired: &Desired, view: &View) -> (Vec<HostRoute>, Vec<HostRoute>, Vec<String>) {
        let mut out = (vec![], vec![], vec![]);
        for dst in concerned(desired, &[], view) {
            let d = diff(wanted(desired, DEVICES, &[], dst), dst, view);
            out.0.extend(d.remove);
            out.1.extend(d.add);
            out.2.extend(d.conflict);
        }
        out
    }

    #[test]
    fn wanted_routes_are_the_pools_and_direct_blocks() {
        let w = all(&desired(), DEVICES);
        let text: Vec<_> = w.iter().map(|r| format!("{} {:?} {} {:?}", r.dst, r.via, r.dev, r.src)).collect();
        assert_eq!(text, ["10.244.0.0/16 None 7 Some(10.244.1.0)", "10.244.2.0/26 Some(10.1.0.2) 2 None"]);
        assert!(all(&Desired::default(), DEVICES).is_empty());
        assert_eq!(all(&desired(), Devices { host: None, ..DEVICES }).len(), 1);
    }

    #[test]
    fn a_floating_ip_of_this_node_leads_to_the_host_device() {
        let mut d = desired();
        let dst: Ipv4Net = "192.0.2.7/32".parse().unwrap();
        d.routes.insert(dst.into(), Route::Floating { endpoint: "ns/w".into(), address: [10, 244, 1, 5].into() });
        assert_eq!(
            wanted(&d, DEVICES, &[], dst),
            Some(HostRoute { dst, via: None, dev: 7, also: None, src: Some([10, 244, 1, 0].into()) })
        );
        assert!(concerned(&d, &[], &View::default()).contains(&dst));
    }

    #[test]
    fn while_a_pool_changes_its_mode_both_ways_are_right() {
        let (overlap, dst) = (["10.244.0.0/16".parse().unwrap()], "10.244.2.0/26".parse().unwrap());
        let to = Some(Ipv4Addr::new(10, 1, 0, 2));
        let both = Some(HostRoute { dst, via: to, dev: 2, also: Some(7), src: None });
        let mut d = desired();
        assert_eq!(wanted(&d, DEVICES, &overlap, dst), both);
        d.routes.insert(dst.into(), Route::Ipip { node: "b".into(), address: [10, 1, 0, 2].into() });
        assert_eq!(wanted(&d, DEVICES, &overlap, dst), both);
        assert!(concerned(&d, &overlap, &View::default()).contains(&dst) && !concerned(&d, &[], &View::default()).contains(&dst));
        assert_eq!(wanted(&d, DEVICES, &[], dst), None);
        d.routes.insert(dst.into(), Route::Ipip { node: "b".into(), address: [10, 9, 0, 2].into() });
        assert_eq!(wanted(&d, DEVICES, &overlap, dst), None, "never without encapsulation");
    }

    #[test]
    fn a_node_behind_a_router_is_no_next_hop_for_the_host() {
        let mut d = desired();
        d.routes.insert("10.244.3.0/26".parse().unwrap(), Route::Direct { node: "c".into(), address: [10, 9, 0, 3].into() });
        assert_eq!(wanted(&d, DEVICES, &[], "10.244.3.0/26".parse().unwrap()), None);
    }

    #[test]
    fn the_diff_touches_only_ours() {
        let mut view = View::default();
        assert_eq!(differences(&desired(), &view).1.len(), 2);
        for r in all(&desired(), DEVICES) {
            view.routes.insert(kernel(&r, PROTOCOL));
        }
        assert_eq!(differences(&desired(), &view), Default::default());
        // A leftover of ours goes, the same from somebody else stays.
        let stale = HostRoute { dst: "10.244.9.0/26".parse().unwrap(), via: Some([10, 1, 0, 9].into()), dev: 2, also: None, src: None };
        view.routes.insert(kernel(&stale, PROTOCOL));
        view.routes.insert(KernelRoute { dst: "10.244.8.0/26".parse().unwrap(), ..kernel(&stale, 12) });
        assert_eq!(differences(&desired(), &view), (vec![stale], vec![], vec![]));
        // A route of ours that is wrong is replaced.
        let wrong = HostRoute { dst: "10.244.2.0/26".parse().unwrap(), via: Some([10, 1, 0, 9].into()), dev: 2, also: None, src: None };
        view.routes = [kernel(&wrong, PROTOCOL)].into();
        let d = diff(wanted(&desired(), DEVICES, &[], wrong.dst), wrong.dst, &view);
        assert_eq!((d.remove, d.add.unwrap().via), (vec![wrong], Some([10, 1, 0, 2].into())));
    }

    #[test]
    fn somebody_elses_route_for_a_pool_is_reported_and_left() {
        let mut view = View::default();
        let theirs = HostRoute { dst: "10.244.0.0/16".parse().unwrap(), via: None, dev: 3, also: None, src: None };
        view.routes.insert(kernel(&theirs, 12));
        let (remove, add, conflicts) = differences(&desired(), &view);
        assert_eq!((add.len(), remove.len(), conflicts.len()), (1, 0, 1));
        assert!(conflicts[0].contains("10.244.0.0/16") && conflicts[0].contains("proto 12"), "{}", conflicts[0]);
    }
}
