//! The door to rtnetlink: one socket that listens to the kernel's changes, one that asks and orders.
//!
//! Requests are synchronous: the kernel carries an rtnetlink request out before `sendto` returns, so waiting
//! for the answer never blocks on anything but the kernel itself.

pub mod interfaces;
pub mod neigh;
pub mod pod;
pub mod routes;
pub mod view;
pub mod xdp;

pub use view::{Changes, KernelRoute, Link, Neigh, NeighState, NextHop, View};

use ipnet::Ipv4Net;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

/// What the view is kept from.
const GROUPS: [MulticastGroup; 4] = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route, MulticastGroup::Neigh];
/// Receive buffer of the listening socket, bytes: a burst of a few thousand messages.
const LISTEN_BUFFER: u32 = 2 << 20;
/// How often a dump that changed under our hands is repeated before its last answer is taken.
const DUMP_TRIES: usize = 4;

/// The view and the two sockets.
pub struct Netlink {
    listener: Socket,
    requests: Socket,
    sequence: u32,
    view: View,
}

impl Netlink {
    /// Opens both sockets in the current network namespace and reads the whole state once.
    pub fn open() -> io::Result<Netlink> {
        let mut n = Netlink::unread()?;
        n.resync()?;
        Ok(n)
    }

    fn unread() -> io::Result<Netlink> {
        let mut listener = Socket::new(NETLINK_ROUTE)?;
        let groups = GROUPS.iter().fold(0, |m, g| m | 1 << (*g as u32 - 1));
        listener.bind(&SocketAddr::new(0, groups))?;
        listener.set_non_blocking(true)?;
        // Capped by net.core.rmem_max; an overflow only costs a resync.
        let _ = listener.set_rx_buf_sz(LISTEN_BUFFER);
        let mut requests = Socket::new(NETLINK_ROUTE)?;
        requests.bind_auto()?;
        requests.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { listener, requests, sequence: 0, view: View::default() })
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// Takes in all messages that wait. An overflow of the socket's buffer is answered by a resync.
    pub fn drain(&mut self) -> io::Result<Changes> {
        let mut all = Changes::default();
        loop {
            match self.listener.recv_from_full() {
                // Port 0 is the kernel; any process may send to a netlink socket.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((buffer, _)) => {
                    for (m, flags) in messages(&buffer) {
                        if let NetlinkPayload::InnerMessage(m) = m {
                            all.merge(self.view.apply(&m, flags));
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    tracing::info!("netlink: the kernel's messages came faster than they were read; reading everything again");
                    self.resync()?;
                    return Ok(Changes::everything());
                }
                Err(e) => return Err(e),
            }
        }
        if all.routes_unsure {
            all.routes_unsure = false;
            all.merge(self.resync_routes()?);
        }
        Ok(all)
    }

    /// Reads links, addresses, routes and neighbours anew.
    pub fn resync(&mut self) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.family = AddressFamily::Inet;
        let mut view = View::default();
        for request in [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            RouteNetlinkMessage::GetAddress(address),
            RouteNetlinkMessage::GetRoute(route),
            RouteNetlinkMessage::GetNeighbour(neighbour),
        ] {
            for m in self.dump(request)? {
                view.apply(&m, 0);
            }
        }
        self.view = view;
        Ok(())
    }

    fn resync_routes(&mut self) -> io::Result<Changes> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        let mut fresh = View::default();
        for m in self.dump(RouteNetlinkMessage::GetRoute(route))? {
            fresh.apply(&m, 0);
        }
        let mut changes = Changes::default();
        self.view.routes.symmetric_difference(&fresh.routes).for_each(|r| changes.route(r));
        self.view.routes = fresh.routes;
        Ok(changes)
    }

    /// Installs a route; an existing one with the same prefix, metric and TOS is an error (EEXIST).
    pub fn add_route(&mut self, route: &routes::HostRoute) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Installs a route in the place of the one to the same prefix, in one step.
    pub fn replace_route(&mut self, route: &routes::HostRoute) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route that we installed. That it is gone already is no error.
    pub fn del_route(&mut self, route: &routes::HostRoute) -> io::Result<()> {
        absent_is_fine(self.request(RouteNetlinkMessage::DelRoute(route.message()), 0))
    }

    /// Adds an address to an interface; that it is there already is no error.
    pub fn add_address(&mut self, dev: u32, address: Ipv4Net) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewAddress(address_message(dev, address)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes an address from an interface. That it is gone already is no error.
    pub fn del_address(&mut self, dev: u32, address: Ipv4Net) -> io::Result<()> {
        absent_is_fine(self.request(RouteNetlinkMessage::DelAddress(address_message(dev, address)), 0))
    }

    /// Sets an interface up, with this MTU.
    pub fn set_up(&mut self, dev: u32, mtu: u32) -> io::Result<()> {
        let mut m = LinkMessage::default();
        m.header.index = dev;
        m.header.flags = LinkFlags::Up;
        m.header.change_mask = LinkFlags::Up;
        m.attributes.push(LinkAttribute::Mtu(mtu));
        self.request(RouteNetlinkMessage::SetLink(m), 0)
    }

    /// Sets an interface down.
    pub fn set_down(&mut self, dev: u32) -> io::Result<()> {
        let mut m = LinkMessage::default();
        m.header.index = dev;
        m.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(m), 0)
    }

    /// Gives an interface another name. Kernels before 6.2 refuse that while it is up (EBUSY).
    pub fn rename(&mut self, dev: u32, name: &str) -> io::Result<()> {
        self.set_link(dev, LinkAttribute::IfName(name.into()))
    }

    /// Takes an interface out of the bridge, bond or VRF that it is part of.
    pub fn release(&mut self, dev: u32) -> io::Result<()> {
        self.set_link(dev, LinkAttribute::Controller(0))
    }

    fn set_link(&mut self, dev: u32, attribute: LinkAttribute) -> io::Result<()> {
        let mut m = LinkMessage::default();
        m.header.index = dev;
        m.attributes.push(attribute);
        self.request(RouteNetlinkMessage::SetLink(m), 0)
    }

    /// Removes an interface. That it is gone already is no error.
    pub fn del_link(&mut self, dev: u32) -> io::Result<()> {
        let mut m = LinkMessage::default();
        m.header.index = dev;
        absent_is_fine(self.request(RouteNetlinkMessage::DelLink(m), 0))
    }

    /// Has the kernel resolve (or confirm) a neighbour, as if it had a packet for it: `ip neigh ... use`.
    pub fn use_neighbour(&mut self, dev: u32, address: Ipv4Addr) -> io::Result<()> {
        let mut m = NeighbourMessage::default();
        m.header.family = AddressFamily::Inet;
        m.header.ifindex = dev;
        m.header.state = NeighbourState::None;
        m.header.flags = NeighbourFlags::Use;
        m.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        self.request(RouteNetlinkMessage::NewNeighbour(m), NLM_F_CREATE)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut m = NetlinkMessage::from(message);
        self.sequence = self.sequence.wrapping_add(1);
        m.header.sequence_number = self.sequence;
        m.header.flags = NLM_F_REQUEST | flags;
        m.finalize();
        let mut buffer = vec![0; m.buffer_len()];
        m.serialize(&mut buffer);
        self.requests.send(&buffer, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.requests.recv_from_full() {
                Ok((b, _)) => return Ok(b),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, flags | NLM_F_ACK)?;
        loop {
            let buffer = self.receive()?;
            for m in parse(&buffer).filter(|m| m.header.sequence_number == self.sequence) {
                if let NetlinkPayload::Error(e) = m.payload {
                    return e.code.map_or(Ok(()), |c| Err(io::Error::from_raw_os_error(c.get().saturating_neg())));
                }
            }
        }
    }

    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for last in (0..DUMP_TRIES).map(|i| i + 1 == DUMP_TRIES) {
            self.send(message.clone(), NLM_F_DUMP)?;
            let (answer, intact) = self.dump_answer()?;
            if intact || last {
                return Ok(answer);
            }
        }
        Ok(Vec::new())
    }

    /// One dump's messages, and whether nothing changed while the kernel wrote it.
    fn dump_answer(&mut self) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut out = Vec::new();
        let mut intact = true;
        loop {
            let buffer = self.receive()?;
            for m in parse(&buffer).filter(|m| m.header.sequence_number == self.sequence) {
                intact &= m.header.flags & NLM_F_DUMP_INTR == 0;
                match m.payload {
                    NetlinkPayload::InnerMessage(i) => out.push(i),
                    NetlinkPayload::Done(_) => return Ok((out, intact)),
                    NetlinkPayload::Error(e) => {
                        return match e.code {
                            Some(c) => Err(io::Error::from_raw_os_error(c.get().saturating_neg())),
                            None => Ok((out, intact)),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Netlink {
    /// The listening socket: readable when [`Netlink::drain`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn absent_is_fine(r: io::Result<()>) -> io::Result<()> {
    match r {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

fn address_message(dev: u32, address: Ipv4Net) -> AddressMessage {
    let mut m = AddressMessage::default();
    m.header.family = AddressFamily::Inet;
    m.header.index = dev;
    m.header.prefix_len = address.prefix_len();
    m.header.scope = AddressScope::Universe;
    let ip = IpAddr::V4(address.addr());
    m.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Local(ip)];
    m
}

/// The messages in one datagram. What cannot be read (an attribute newer than this program) is left out.
fn parse(buffer: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        loop {
            let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
            if length < 16 || length > rest.len() {
                return None;
            }
            let (one, next) = rest.split_at(length.next_multiple_of(4).min(rest.len()));
            rest = next;
            match NetlinkMessage::deserialize(one) {
                Ok(m) => return Some(m),
                Err(e) => tracing::debug!("netlink: a message was not understood: {e}"),
            }
        }
    })
}

fn messages(buffer: &[u8]) -> impl Iterator<Item = (NetlinkPayload<RouteNetlinkMessage>, u16)> {
    parse(buffer).map(|m| (m.payload, m.header.flags))
}
