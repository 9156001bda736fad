//! This host's interfaces with their IPv4 addresses in the kernel's own order, which says which address of an
//! interface is its first: the view keeps sets.

use super::Netlink;
use crate::control::node::detect::Interface;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;

/// Asks the kernel, in the current network namespace.
pub fn read() -> io::Result<Vec<Interface>> {
    let mut netlink = Netlink::unread()?;
    let mut all = Vec::new();
    for m in netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        if let RouteNetlinkMessage::NewLink(m) = m {
            let name = m.attributes.iter().find_map(|a| if let LinkAttribute::IfName(n) = a { Some(n.clone()) } else { None });
            all.extend(name.map(|name| Interface { index: m.header.index, name, addresses: Vec::new() }));
        }
    }
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    for m in netlink.dump(RouteNetlinkMessage::GetAddress(request))? {
        let RouteNetlinkMessage::NewAddress(m) = m else { continue };
        let interface = all.iter_mut().find(|i| i.index == m.header.index);
        if let (Some(interface), Some(address)) = (interface, address(&m)) {
            interface.addresses.push(address);
        }
    }
    Ok(all)
}

/// Ours; `Address` is the other end on a point-to-point link.
fn address(m: &AddressMessage) -> Option<Ipv4Net> {
    let of = |ip: &IpAddr| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None };
    let local = m.attributes.iter().find_map(|a| if let AddressAttribute::Local(ip) = a { of(ip) } else { None });
    let other = m.attributes.iter().find_map(|a| if let AddressAttribute::Address(ip) = a { of(ip) } else { None });
    Ipv4Net::new(local.or(other)?, m.header.prefix_len).ok()
}
