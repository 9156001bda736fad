//! The host's routes that are ours: the pools towards the host device, and blocks that other nodes are reached
//! for without encapsulation. Ours carry protocol number 116; nobody else's is touched.

use super::{KernelRoute, View};
use crate::control::desired::{Desired, Route};
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
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
    /// Source of what the host itself sends.
    pub src: Option<Ipv4Addr>,
}

impl HostRoute {
    /// What identifies it to the kernel, for adding and for deleting.
    pub(super) fn message(&self) -> RouteMessage {
        let mut b = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.dst.network(), self.dst.prefix_len())
            .output_interface(self.dev)
            .protocol(RouteProtocol::Other(PROTOCOL));
        if let Some(src) = self.src {
            b = b.pref_source(src);
        }
        match self.via {
            Some(via) => b.gateway(via).scope(RouteScope::Universe).onlink().build(),
            None => b.scope(RouteScope::Link).build(),
        }
    }

    fn is(&self, k: &KernelRoute) -> bool {
        let scope = if self.via.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
        (self.dst, self.via, self.dev, self.src) == (k.dst, k.gateway, k.dev, k.prefsrc)
            && (k.metric, k.scope, k.onlink) == (0, scope, self.via.is_some())
            && k.unicast
    }
}

impl From<&KernelRoute> for HostRoute {
    fn from(k: &KernelRoute) -> HostRoute {
        HostRoute { dst: k.dst, via: k.gateway, dev: k.dev, src: k.prefsrc }
    }
}

/// What is to be done so that the host's routes are as they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteDiff {
    /// Removed first: a changed route is a removal and an addition.
    pub remove: Vec<HostRoute>,
    pub add: Vec<HostRoute>,
    /// Prefixes that somebody else routes; one line each.
    pub conflicts: Vec<String>,
}

/// The routes that should be there.
pub fn wanted(desired: &Desired, host: Option<u32>, uplink: Option<u32>) -> BTreeSet<HostRoute> {
    let mut out = BTreeSet::new();
    let Some(node) = &desired.node else {
        return out;
    };
    if let Some(dev) = host {
        for pool in v4(&desired.pools) {
            out.insert(HostRoute { dst: pool, via: None, dev, src: node.tunnel_address });
        }
    }
    if let Some(dev) = uplink {
        for (prefix, route) in &desired.routes {
            // A node behind a router is no next hop on this link; its block stays with the pool's route, and the
            // engine sends towards the router.
            if let (IpNet::V4(dst), Route::Direct { address, .. }) = (prefix, route)
                && node.address.contains(address)
            {
                out.insert(HostRoute { dst: *dst, via: Some(*address), dev, src: None });
            }
        }
    }
    out
}

fn v4(nets: &BTreeSet<IpNet>) -> impl Iterator<Item = Ipv4Net> {
    nets.iter().filter_map(|n| if let IpNet::V4(n) = n { Some(*n) } else { None })
}

/// Compares what should be there with what is. A prefix that somebody else routes is left to them.
pub fn diff(wanted: &BTreeSet<HostRoute>, view: &View) -> RouteDiff {
    let mut d = RouteDiff::default();
    let (ours, others): (Vec<_>, Vec<_>) = view.routes.iter().partition(|r| r.protocol == PROTOCOL);
    for k in &ours {
        if !wanted.iter().any(|w| w.is(k)) {
            d.remove.push(HostRoute::from(*k));
        }
    }
    for w in wanted {
        if ours.iter().any(|k| w.is(k)) {
            continue;
        }
        if let Some(o) = others.iter().find(|o| o.dst == w.dst) {
            let dev = view.links.get(&o.dev).map_or("no interface", |l| l.name.as_str());
            d.conflicts.push(format!(
                "route {} on this host is not ours (dev {dev}, proto {}): it is left alone; remove it if tortie is to serve this prefix for the host",
                w.dst, o.protocol
            ));
            continue;
        }
        d.add.push(w.clone());
    }
    d
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
            prefsrc: r.src,
            protocol,
            scope: if r.via.is_some() { 0 } else { SCOPE_LINK },
            tos: 0,
            onlink: r.via.is_some(),
            unicast: true,
        }
    }

    #[test]
    fn wanted_routes_are_the_pools_and_direct_blocks() {
        let w = wanted(&desired(), Some(7), Some(2));
        let text: Vec<_> = w.iter().map(|r| format!("{} {:?} {} {:?}", r.dst, r.via, r.dev, r.src)).collect();
        assert_eq!(text, ["10.244.0.0/16 None 7 Some(10.244.1.0)", "10.244.2.0/26 Some(10.1.0.2) 2 None"]);
        assert!(wanted(&Desired::default(), Some(7), Some(2)).is_empty());
        assert_eq!(wanted(&desired(), None, Some(2)).len(), 1);
    }

    #[test]
    fn the_diff_touches_only_ours() {
        let w = wanted(&desired(), Some(7), Some(2));
        let mut view = View::default();
        assert_eq!(diff(&w, &view).add.len(), 2);
        for r in &w {
            view.routes.insert(kernel(r, PROTOCOL));
        }
        assert_eq!(diff(&w, &view), RouteDiff::default());
        // A leftover of ours goes, the same from somebody else stays.
        let stale = HostRoute { dst: "10.244.9.0/26".parse().unwrap(), via: Some([10, 1, 0, 9].into()), dev: 2, src: None };
        view.routes.insert(kernel(&stale, PROTOCOL));
        view.routes.insert(KernelRoute { dst: "10.244.8.0/26".parse().unwrap(), ..kernel(&stale, 12) });
        assert_eq!(diff(&w, &view), RouteDiff { remove: vec![stale], ..RouteDiff::default() });
    }

    #[test]
    fn somebody_elses_route_for_a_pool_is_reported_and_left() {
        let w = wanted(&desired(), Some(7), Some(2));
        let mut view = View::default();
        let theirs = HostRoute { dst: "10.244.0.0/16".parse().unwrap(), via: None, dev: 3, src: None };
        view.routes.insert(kernel(&theirs, 12));
        let d = diff(&w, &view);
        assert_eq!((d.add.len(), d.remove.len(), d.conflicts.len()), (1, 0, 1));
        assert!(d.conflicts[0].contains("10.244.0.0/16") && d.conflicts[0].contains("proto 12"), "{}", d.conflicts[0]);
    }
}
