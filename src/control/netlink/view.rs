//! What the kernel says about this host's links, addresses, routes and neighbours, kept in memory and brought
//! up to date message by message. No I/O here.

use super::routes::PROTOCOL;
use crate::wire::Mac;
use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;
use rtnetlink::packet_core::NLM_F_REPLACE;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `None` for devices without an Ethernet address (TUN).
    pub mac: Option<Mac>,
    /// Bytes from L3 on.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier as well.
    pub running: bool,
    /// Index of the bridge, bond or VRF that it is part of.
    pub master: Option<u32>,
}

/// One IPv4 route of the main table. Ordered by what identifies it for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRoute {
    pub dst: Ipv4Net,
    pub metric: u32,
    pub gateway: Option<Ipv4Addr>,
    /// Interface index; 0 for routes that lead nowhere (blackhole, unreachable).
    pub dev: u32,
    /// The interface of a second next hop that needs no gateway.
    pub also: Option<u32>,
    pub prefsrc: Option<Ipv4Addr>,
    /// Who installed it (`/etc/iproute2/rt_protos`).
    pub protocol: u8,
    /// rtm_scope; 253 is link, 0 universe.
    pub scope: u8,
    pub tos: u8,
    pub onlink: bool,
    /// An ordinary route; false for blackhole, unreachable and the like.
    pub unicast: bool,
}

/// The kernel's opinion of a neighbour (NUD state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighState {
    Incomplete,
    Reachable,
    Stale,
    Failed,
    Permanent,
}

impl NeighState {
    /// The word that `tortie neigh` shows.
    pub fn name(self) -> &'static str {
        match self {
            NeighState::Incomplete => "incomplete",
            NeighState::Reachable => "reachable",
            NeighState::Stale => "stale",
            NeighState::Failed => "failed",
            NeighState::Permanent => "permanent",
        }
    }
}

/// One entry of the kernel's IPv4 neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neigh {
    /// Usable address: never set while incomplete or failed.
    pub mac: Option<Mac>,
    pub state: NeighState,
}

/// What a batch of messages touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Anything may be different, whatever the rest says.
    pub everything: bool,
    pub links: bool,
    pub addresses: bool,
    /// Prefixes that a route came, changed or went for.
    pub routes: BTreeSet<Ipv4Net>,
    /// Those of them whose route is not ours.
    pub foreign_routes: BTreeSet<Ipv4Net>,
    /// Neighbours (interface index, address) whose usable MAC came, changed or went.
    pub neighbours: BTreeSet<(u32, Ipv4Addr)>,
    /// A link went down or away, or an address went: the kernel drops IPv4 routes then without saying so.
    pub routes_unsure: bool,
}

impl Changes {
    /// What reading everything anew may have changed.
    pub fn everything() -> Changes {
        Changes { everything: true, links: true, addresses: true, ..Changes::default() }
    }

    pub fn any(&self) -> bool {
        *self != Changes::default()
    }

    /// Adds what another batch touched.
    pub fn merge(&mut self, mut other: Changes) {
        self.everything |= other.everything;
        self.links |= other.links;
        self.addresses |= other.addresses;
        self.routes.append(&mut other.routes);
        self.foreign_routes.append(&mut other.foreign_routes);
        self.neighbours.append(&mut other.neighbours);
        self.routes_unsure |= other.routes_unsure;
    }

    /// A route came or went.
    pub(super) fn route(&mut self, route: &KernelRoute) {
        self.routes.insert(route.dst);
        if route.protocol != PROTOCOL {
            self.foreign_routes.insert(route.dst);
        }
    }
}

/// The next hop towards an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    pub address: Ipv4Addr,
    pub dev: u32,
}

/// The host as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub links: BTreeMap<u32, Link>,
    /// (interface index, address with its prefix).
    pub addresses: BTreeSet<(u32, Ipv4Net)>,
    pub routes: BTreeSet<KernelRoute>,
    pub neighbours: BTreeMap<(u32, Ipv4Addr), Neigh>,
}

impl View {
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|l| l.name == name)
    }

    /// The interface that has an IPv4 address; the one that was made last, if there are several.
    pub fn link_with(&self, address: Ipv4Addr) -> Option<&Link> {
        self.addresses.iter().rev().filter(|(_, a)| a.addr() == address).find_map(|(dev, _)| self.links.get(dev))
    }

    /// IPv4 addresses of one interface.
    pub fn addresses_of(&self, dev: u32) -> impl Iterator<Item = Ipv4Net> {
        self.addresses.iter().filter(move |(d, _)| *d == dev).map(|(_, a)| *a)
    }

    /// The routes to exactly this prefix.
    pub fn routes_to(&self, dst: Ipv4Net) -> impl Iterator<Item = &KernelRoute> {
        let first = KernelRoute {
            dst,
            metric: 0,
            gateway: None,
            dev: 0,
            also: None,
            prefsrc: None,
            protocol: 0,
            scope: 0,
            tos: 0,
            onlink: false,
            unicast: false,
        };
        self.routes.range(first..).take_while(move |r| r.dst == dst)
    }

    /// The gateway of the route to exactly this prefix that [`View::routes_by`] has.
    pub fn route_by(&self, dev: u32, without: u8, dst: Ipv4Net) -> Option<Option<Ipv4Addr>> {
        self.routes_to(dst).find(|r| r.dev == dev && r.unicast && r.protocol != without).map(|r| r.gateway)
    }

    /// The unicast routes out of one interface, ready for longest-prefix lookups; routes of protocol `without`
    /// are left out. Of several routes to one prefix, the one with the lowest metric counts.
    pub fn routes_by(&self, dev: u32, without: u8) -> PrefixMap<Ipv4Net, Option<Ipv4Addr>> {
        let mut map = PrefixMap::new();
        // The set is ordered by prefix, then metric: what comes first wins.
        for r in self.routes.iter().filter(|r| r.dev == dev && r.unicast && r.protocol != without) {
            if map.get(&r.dst).is_none() {
                map.insert(r.dst, r.gateway);
            }
        }
        map
    }

    /// Takes one message in. Messages that say nothing new change nothing.
    pub fn apply(&mut self, message: &RouteNetlinkMessage, flags: u16) -> Changes {
        match message {
            RouteNetlinkMessage::NewLink(m) => self.new_link(m),
            RouteNetlinkMessage::DelLink(m) => self.del_link(m),
            RouteNetlinkMessage::NewAddress(m) => self.address(m, true),
            RouteNetlinkMessage::DelAddress(m) => self.address(m, false),
            RouteNetlinkMessage::NewRoute(m) => self.route(m, true, flags & NLM_F_REPLACE != 0),
            RouteNetlinkMessage::DelRoute(m) => self.route(m, false, false),
            RouteNetlinkMessage::NewNeighbour(m) => self.neighbour(m, true),
            RouteNetlinkMessage::DelNeighbour(m) => self.neighbour(m, false),
            _ => Changes::default(),
        }
    }

    fn new_link(&mut self, m: &LinkMessage) -> Changes {
        // Other families speak of a link's role (a bridge port, say), not of the link.
        if m.header.interface_family != AddressFamily::Unspec {
            return Changes::default();
        }
        let index = m.header.index;
        let mut link = Link {
            index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: m.header.flags.contains(LinkFlags::Up),
            running: m.header.flags.contains(LinkFlags::Running),
            master: None,
        };
        for a in &m.attributes {
            match a {
                LinkAttribute::IfName(n) => link.name.clone_from(n),
                LinkAttribute::Mtu(v) => link.mtu = *v,
                LinkAttribute::Controller(v) => link.master = Some(*v).filter(|v| *v != 0),
                LinkAttribute::Address(b) => link.mac = <[u8; 6]>::try_from(b.as_slice()).ok().map(Mac),
                _ => {}
            }
        }
        let old = self.links.get(&index);
        if old == Some(&link) || link.name.is_empty() {
            return Changes::default();
        }
        let went_down = old.is_some_and(|o| (o.up && !link.up) || (o.running && !link.running));
        self.links.insert(index, link);
        Changes { links: true, routes_unsure: went_down, ..Changes::default() }
    }

    fn del_link(&mut self, m: &LinkMessage) -> Changes {
        if m.header.interface_family != AddressFamily::Unspec || self.links.remove(&m.header.index).is_none() {
            return Changes::default();
        }
        let index = m.header.index;
        self.addresses.retain(|(d, _)| *d != index);
        let neighbours: BTreeSet<(u32, Ipv4Addr)> =
            self.neighbours.range((index, Ipv4Addr::UNSPECIFIED)..=(index, Ipv4Addr::BROADCAST)).map(|(key, _)| *key).collect();
        self.neighbours.retain(|(d, _), _| *d != index);
        Changes { routes_unsure: true, links: true, addresses: true, neighbours, ..Changes::default() }
    }

    fn address(&mut self, m: &AddressMessage, add: bool) -> Changes {
        if m.header.family != AddressFamily::Inet {
            return Changes::default();
        }
        // On a point-to-point link `Address` is the other end; `Local` is ours wherever it is present.
        let v4 = |a: &IpAddr| if let IpAddr::V4(a) = a { Some(*a) } else { None };
        let local = m.attributes.iter().find_map(|a| if let AddressAttribute::Local(a) = a { v4(a) } else { None });
        let any = m.attributes.iter().find_map(|a| if let AddressAttribute::Address(a) = a { v4(a) } else { None });
        let Some(net) = local.or(any).and_then(|a| Ipv4Net::new(a, m.header.prefix_len).ok()) else {
            return Changes::default();
        };
        let key = (m.header.index, net);
        let changed = if add { self.addresses.insert(key) } else { self.addresses.remove(&key) };
        Changes { addresses: changed, routes_unsure: changed && !add, ..Changes::default() }
    }

    fn route(&mut self, m: &RouteMessage, add: bool, replace: bool) -> Changes {
        let Some(route) = main_route(m) else {
            return Changes::default();
        };
        let mut changes = Changes::default();
        if replace {
            let takes_place = |r: &&KernelRoute| (r.metric, r.tos) == (route.metric, route.tos) && **r != route;
            let old: Vec<KernelRoute> = self.routes_to(route.dst).filter(takes_place).cloned().collect();
            for r in old {
                self.routes.remove(&r);
                changes.route(&r);
            }
        }
        if add != self.routes.contains(&route) {
            changes.route(&route);
        }
        if add {
            self.routes.insert(route)
        } else {
            self.routes.remove(&route)
        };
        changes
    }

    fn neighbour(&mut self, m: &NeighbourMessage, add: bool) -> Changes {
        if m.header.family != AddressFamily::Inet {
            return Changes::default();
        }
        let mut address = None;
        let mut mac = None;
        for a in &m.attributes {
            match a {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(*a),
                NeighbourAttribute::LinkLayerAddress(b) => mac = <[u8; 6]>::try_from(b.as_slice()).ok().map(Mac),
                _ => {}
            }
        }
        let Some(address) = address else {
            return Changes::default();
        };
        let key = (m.header.ifindex, address);
        let state = match m.header.state {
            NeighbourState::Reachable => Some(NeighState::Reachable),
            NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => Some(NeighState::Stale),
            NeighbourState::Permanent => Some(NeighState::Permanent),
            NeighbourState::Incomplete => Some(NeighState::Incomplete),
            NeighbourState::Failed => Some(NeighState::Failed),
            // NOARP entries (multicast, loopback) and empty ones say nothing about a neighbour.
            _ => None,
        };
        let new = state
            .filter(|_| add)
            .map(|state| Neigh { mac: mac.filter(|_| !matches!(state, NeighState::Incomplete | NeighState::Failed)), state });
        let old = match new {
            Some(n) => self.neighbours.insert(key, n),
            None => self.neighbours.remove(&key),
        };
        // The state alone is nothing that packets depend on.
        let mac = |n: &Option<Neigh>| n.and_then(|n| n.mac);
        let changed = (mac(&old) != mac(&new)).then_some(key);
        Changes { neighbours: changed.into_iter().collect(), ..Changes::default() }
    }
}

/// An IPv4 route of the main table; `None` for any other.
fn main_route(m: &RouteMessage) -> Option<KernelRoute> {
    if m.header.address_family != AddressFamily::Inet || m.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut table = u32::from(m.header.table);
    let mut dst = Ipv4Addr::UNSPECIFIED;
    let mut route = KernelRoute {
        dst: Ipv4Net::default(),
        metric: 0,
        gateway: None,
        dev: 0,
        also: None,
        prefsrc: None,
        protocol: m.header.protocol.into(),
        scope: m.header.scope.into(),
        tos: m.header.tos,
        onlink: m.header.flags.contains(RouteFlags::Onlink),
        unicast: m.header.kind == RouteType::Unicast,
    };
    for a in &m.attributes {
        match a {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Destination(RouteAddress::Inet(a)) => dst = *a,
            RouteAttribute::PrefSource(RouteAddress::Inet(a)) => route.prefsrc = Some(*a),
            RouteAttribute::Priority(p) => route.metric = *p,
            RouteAttribute::Gateway(RouteAddress::Inet(a)) => route.gateway = Some(*a),
            RouteAttribute::Oif(i) => route.dev = *i,
            RouteAttribute::MultiPath(hops) => {
                // Equal-cost paths: one is enough to reach the neighbour.
                let hop = hops.first()?;
                route.dev = hop.interface_index;
                route.gateway = gateway(hop);
                route.onlink |= hop.flags.contains(RouteNextHopFlags::Onlink);
                route.also = hops.get(1).filter(|hop| gateway(hop).is_none()).map(|hop| hop.interface_index);
            }
            _ => {}
        }
    }
    route.dst = Ipv4Net::new(dst, m.header.destination_prefix_length).ok()?;
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

fn gateway(hop: &RouteNextHop) -> Option<Ipv4Addr> {
    hop.attributes.iter().find_map(|a| if let RouteAttribute::Gateway(RouteAddress::Inet(a)) = a { Some(*a) } else { None })
}

/// The next hop towards `to` among routes of one interface ([`View::routes_by`]): the gateway, or `to` itself
/// where it is on the link.
pub fn next_hop(routes: &PrefixMap<Ipv4Net, Option<Ipv4Addr>>, dev: u32, to: Ipv4Addr) -> Option<NextHop> {
    let host = Ipv4Net::new(to, 32).ok()?;
    let (_, gateway) = routes.get_lpm(&host)?;
    Some(NextHop { address: gateway.unwrap_or(to), dev })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::RouteMessageBuilder;

    fn route(dst: &str, metric: u32, via: Option<&str>, dev: u32) -> RouteMessage {
        let dst: Ipv4Net = dst.parse().unwrap();
        let mut b = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(dst.addr(), dst.prefix_len()).output_interface(dev);
        if let Some(v) = via {
            b = b.gateway(v.parse().unwrap());
        }
        if metric != 0 {
            b = b.priority(metric);
        }
        b.build()
    }

    fn link(index: u32, name: &str, flags: LinkFlags) -> RouteNetlinkMessage {
        let mut m = LinkMessage::default();
        m.header.index = index;
        m.header.flags = flags;
        m.attributes =
            vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(1500), LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8])];
        RouteNetlinkMessage::NewLink(m)
    }

    fn neigh(dev: u32, address: &str, state: NeighbourState, mac: Option<[u8; 6]>) -> RouteNetlinkMessage {
        let mut m = NeighbourMessage::default();
        m.header.family = AddressFamily::Inet;
        m.header.ifindex = dev;
        m.header.state = state;
        m.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address.parse().unwrap())));
        if let Some(mac) = mac {
            m.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        }
        RouteNetlinkMessage::NewNeighbour(m)
    }

    #[test]
    fn next_hops_follow_prefix_length_then_metric() {
        let mut v = View::default();
        for m in [
            route("0.0.0.0/0", 0, Some("10.1.0.1"), 2),
            route("10.1.0.0/24", 100, None, 2),
            route("10.9.0.0/16", 50, Some("10.1.0.8"), 2),
            route("10.9.0.0/16", 10, Some("10.1.0.9"), 2),
            route("10.9.9.0/24", 0, None, 3),
        ] {
            let changes = v.apply(&RouteNetlinkMessage::NewRoute(m.clone()), 0);
            assert!(changes.routes.len() == 1 && changes.foreign_routes == changes.routes);
            assert!(!v.apply(&RouteNetlinkMessage::NewRoute(m), 0).any());
        }
        let r = v.routes_by(2, 116);
        let at = |s: &str| next_hop(&r, 2, s.parse().unwrap()).unwrap().address.to_string();
        assert_eq!((at("10.1.0.7"), at("192.0.2.1"), at("10.9.9.9")), ("10.1.0.7".into(), "10.1.0.1".into(), "10.1.0.9".into()));
    }

    #[test]
    fn a_replaced_route_goes_without_a_delete() {
        let mut v = View::default();
        v.apply(&RouteNetlinkMessage::NewRoute(route("10.9.0.0/16", 0, Some("10.1.0.8"), 2)), 0);
        v.apply(&RouteNetlinkMessage::NewRoute(route("10.9.0.0/16", 0, Some("10.1.0.9"), 2)), NLM_F_REPLACE);
        assert_eq!(v.routes.len(), 1);
        assert_eq!(v.routes.first().unwrap().gateway, Some(Ipv4Addr::new(10, 1, 0, 9)));
    }

    #[test]
    fn other_tables_and_families_are_not_seen() {
        let mut v = View::default();
        let mut local = route("10.1.0.5/32", 0, None, 2);
        local.header.table = 255;
        assert!(!v.apply(&RouteNetlinkMessage::NewRoute(local), 0).any());
        let RouteNetlinkMessage::NewLink(mut m) = link(2, "eth0", LinkFlags::Up) else { unreachable!() };
        v.apply(&RouteNetlinkMessage::NewLink(m.clone()), 0);
        // A port leaving its bridge is reported as a deleted link of family AF_BRIDGE.
        m.header.interface_family = AddressFamily::Bridge;
        assert!(!v.apply(&RouteNetlinkMessage::DelLink(m), 0).any());
        assert_eq!(v.link_by_name("eth0").unwrap().index, 2);
    }

    #[test]
    fn losing_a_link_makes_routes_unsure() {
        let mut v = View::default();
        assert!(!v.apply(&link(2, "eth0", LinkFlags::Up | LinkFlags::Running), 0).routes_unsure);
        assert!(v.apply(&link(2, "eth0", LinkFlags::empty()), 0).routes_unsure);
        assert!(!v.apply(&link(2, "eth1", LinkFlags::empty()), 0).routes_unsure);
        assert!(v.link_by_name("eth0").is_none() && v.link_by_name("eth1").is_some());
        let RouteNetlinkMessage::NewLink(m) = link(2, "eth1", LinkFlags::empty()) else { unreachable!() };
        assert!(v.apply(&RouteNetlinkMessage::DelLink(m), 0).routes_unsure);
    }

    #[test]
    fn a_failed_neighbour_has_no_mac() {
        let mut v = View::default();
        let key = (2, Ipv4Addr::new(10, 1, 0, 7));
        let mac = [2, 0, 0, 0, 0, 7];
        v.apply(&neigh(2, "10.1.0.7", NeighbourState::Delay, Some(mac)), 0);
        assert_eq!(v.neighbours[&key], Neigh { mac: Some(Mac(mac)), state: NeighState::Stale });
        v.apply(&neigh(2, "10.1.0.7", NeighbourState::Failed, Some(mac)), 0);
        assert_eq!(v.neighbours[&key], Neigh { mac: None, state: NeighState::Failed });
        v.apply(&neigh(2, "10.1.0.7", NeighbourState::Noarp, Some(mac)), 0);
        assert!(v.neighbours.is_empty());
    }
}
