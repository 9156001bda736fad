//! A pod's interface: a veth pair with one end in the pod's network namespace, its address and its routes. These
//! requests keep no view: each sees the kernel as it is.

use super::{Netlink, View, parse};
use crate::wire::Mac;
use ipnet::Ipv4Net;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A veth pair to make.
#[derive(Clone, Debug)]
pub struct Veth<'a> {
    /// The end in the calling thread's namespace.
    pub name: &'a str,
    pub mac: Mac,
    /// IFLA_IFALIAS of that end: whose it is.
    pub alias: &'a str,
    /// The end in `netns`.
    pub peer: &'a str,
    /// The kernel's choice if `None`.
    pub peer_mac: Option<Mac>,
    pub netns: BorrowedFd<'a>,
    /// Of both ends, bytes from L3 on.
    pub mtu: u32,
    /// Receive and transmit queues of each end.
    pub queues: u16,
}

/// An interface with what its maker left on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub up: bool,
    /// The driver's kind as `ip -d link` shows it: veth, tun.
    pub kind: Option<String>,
}

impl Netlink {
    /// For single requests in the current network namespace: nothing is read beforehand, and [`Netlink::view`]
    /// stays empty.
    pub fn for_requests() -> io::Result<Netlink> {
        let mut requests = Socket::new(NETLINK_ROUTE)?;
        requests.bind_auto()?;
        requests.connect(&SocketAddr::new(0, 0))?;
        let listener = Socket::new(NETLINK_ROUTE)?;
        listener.set_non_blocking(true)?;
        Ok(Netlink { listener, requests, sequence: 0, view: View::default() })
    }

    /// Makes a pair, both ends down. One request: there is never half of it, and as the hardware address is given
    /// with it, udev and systemd-networkd take it as set and leave it alone.
    pub fn add_veth(&mut self, veth: &Veth) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes =
            vec![LinkAttribute::IfName(veth.peer.into()), LinkAttribute::Mtu(veth.mtu), LinkAttribute::NetNsFd(veth.netns.as_raw_fd())];
        peer.attributes.extend(veth.peer_mac.map(|m| LinkAttribute::Address(m.0.to_vec())));
        peer.attributes.extend(queues(veth.queues));
        let mut m = LinkMessage::default();
        m.attributes = vec![LinkAttribute::IfName(veth.name.into()), LinkAttribute::Mtu(veth.mtu)];
        m.attributes.push(LinkAttribute::Address(veth.mac.0.to_vec()));
        m.attributes.extend(queues(veth.queues));
        m.attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]));
        self.request(RouteNetlinkMessage::NewLink(m), NLM_F_CREATE | NLM_F_EXCL)?;
        self.set_alias(veth.name, veth.alias)
    }

    /// The kernel takes no alias at creation.
    fn set_alias(&mut self, name: &str, alias: &str) -> io::Result<()> {
        let mut m = LinkMessage::default();
        m.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::IfAlias(alias.into())];
        self.request(RouteNetlinkMessage::SetLink(m), 0)
    }

    /// An interface by name; `None` if there is none.
    pub fn device(&mut self, name: &str) -> io::Result<Option<Device>> {
        let mut m = LinkMessage::default();
        m.attributes.push(LinkAttribute::IfName(name.into()));
        match self.one_answer(RouteNetlinkMessage::GetLink(m)) {
            Ok(m) => Ok(m.as_ref().and_then(device)),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All interfaces.
    pub fn devices(&mut self) -> io::Result<Vec<Device>> {
        Ok(self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?.iter().filter_map(device).collect())
    }

    /// Gives a pod's interface its /32, with itself as the broadcast address.
    pub fn add_pod_address(&mut self, dev: u32, address: Ipv4Addr) -> io::Result<()> {
        let mut m = AddressMessage::default();
        m.header.family = AddressFamily::Inet;
        m.header.index = dev;
        m.header.prefix_len = 32;
        m.header.scope = AddressScope::Universe;
        m.header.flags = AddressHeaderFlags::Permanent;
        let ip = IpAddr::V4(address);
        m.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Local(ip), AddressAttribute::Broadcast(address)];
        self.request(RouteNetlinkMessage::NewAddress(m), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds a route with protocol `boot`, as `ip route add` does: via a gateway, or to the link without one. That it
    /// is there already is no error.
    pub fn add_pod_route(&mut self, dev: u32, dst: Ipv4Net, via: Option<Ipv4Addr>) -> io::Result<()> {
        let mut m = RouteMessage::default();
        m.header.address_family = AddressFamily::Inet;
        m.header.destination_prefix_length = dst.prefix_len();
        m.header.table = RouteHeader::RT_TABLE_MAIN;
        m.header.protocol = RouteProtocol::Boot;
        m.header.scope = if via.is_some() { RouteScope::Universe } else { RouteScope::Link };
        m.header.kind = RouteType::Unicast;
        if dst.prefix_len() > 0 {
            m.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(dst.network())));
        }
        m.attributes.push(RouteAttribute::Oif(dev));
        m.attributes.extend(via.map(|gateway| RouteAttribute::Gateway(RouteAddress::Inet(gateway))));
        match self.request(RouteNetlinkMessage::NewRoute(m), NLM_F_CREATE | NLM_F_EXCL) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// The answer to a question about one object.
    fn one_answer(&mut self, question: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(question, NLM_F_ACK)?;
        let mut answer = None;
        loop {
            let buffer = self.receive()?;
            for m in parse(&buffer).filter(|m| m.header.sequence_number == self.sequence) {
                match m.payload {
                    NetlinkPayload::InnerMessage(i) => answer = Some(i),
                    NetlinkPayload::Error(e) => {
                        return e.code.map_or(Ok(answer), |c| Err(io::Error::from_raw_os_error(c.get().saturating_neg())));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn queues(n: u16) -> Vec<LinkAttribute> {
    if n > 1 { vec![LinkAttribute::NumTxQueues(n.into()), LinkAttribute::NumRxQueues(n.into())] } else { Vec::new() }
}

fn device(m: &RouteNetlinkMessage) -> Option<Device> {
    let RouteNetlinkMessage::NewLink(m) = m else { return None };
    let up = m.header.flags.contains(rtnetlink::packet_route::link::LinkFlags::Up);
    let mut d = Device { index: m.header.index, name: String::new(), alias: None, mac: None, mtu: 0, up, kind: None };
    for a in &m.attributes {
        match a {
            LinkAttribute::IfName(n) => d.name.clone_from(n),
            LinkAttribute::IfAlias(a) => d.alias = Some(a.clone()),
            LinkAttribute::Mtu(v) => d.mtu = *v,
            LinkAttribute::Address(b) => d.mac = <[u8; 6]>::try_from(b.as_slice()).ok().map(Mac),
            LinkAttribute::LinkInfo(info) => {
                d.kind = info.iter().find_map(|i| if let LinkInfo::Kind(k) = i { Some(k.to_string()) } else { None })
            }
            _ => {}
        }
    }
    Some(d).filter(|d| !d.name.is_empty())
}
