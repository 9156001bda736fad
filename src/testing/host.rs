//! A pod with a network stack of its own: smoltcp on the free end of a memory wire.

use crate::port::mem::MemPeer;
use crate::wire::Mac;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpCidr};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Bytes of each socket buffer.
const BUFFER: usize = 64 * 1024;
/// Identifies a host's pings.
const PING_ID: u16 = 0x70;

/// One pod on Ethernet. smoltcp takes ARP answers only from its own subnet, which therefore is everything: it asks
/// for each destination, and the engine answers that as it answers for 169.254.1.1.
pub struct Host {
    iface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    ping: SocketHandle,
    /// TTLs of all IPv4 packets that arrived.
    pub ttls: BTreeSet<u8>,
}

struct Wire {
    peer: MemPeer,
    mtu: usize,
    arrived: Vec<Vec<u8>>,
}

impl Host {
    /// Panics when smoltcp has no room for one address, which it has.
    pub fn new(peer: MemPeer, mac: Mac, address: Ipv4Addr, mtu: usize) -> Host {
        let mut wire = Wire { peer, mtu, arrived: Vec::new() };
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = u64::from(u32::from(address));
        let mut iface = Interface::new(config, &mut wire, Instant::ZERO);
        iface.update_ip_addrs(|a| a.push(IpCidr::new(address.into(), 0)).expect("room for one address"));
        let mut sockets = SocketSet::new(Vec::new());
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 64], vec![0; BUFFER]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(PING_ID)).expect("a valid identifier");
        let ping = sockets.add(socket);
        Host { iface, sockets, wire, ping, ttls: BTreeSet::new() }
    }

    /// Takes what arrived, sends what can go.
    pub fn poll(&mut self, now_ms: u64) {
        self.iface.poll(Instant::from_millis(now_ms as i64), &mut self.wire, &mut self.sockets);
        for frame in self.wire.arrived.drain(..) {
            if let Ok((_, _, packet)) = super::check::ethernet_ipv4(&frame) {
                self.ttls.insert(packet.ttl());
            }
        }
    }

    /// Sends an echo request with the next `poll`.
    pub fn ping(&mut self, dst: Ipv4Addr, seq: u16, payload: &[u8]) {
        let repr = Icmpv4Repr::EchoRequest { ident: PING_ID, seq_no: seq, data: payload };
        let socket = self.sockets.get_mut::<icmp::Socket>(self.ping);
        let out = socket.send(repr.buffer_len(), dst.into()).expect("room in the buffer");
        repr.emit(&mut Icmpv4Packet::new_unchecked(out), &phy::ChecksumCapabilities::default());
    }

    /// The next echo reply: who sent it, its sequence number and data.
    pub fn pong(&mut self) -> Option<(Ipv4Addr, u16, Vec<u8>)> {
        let socket = self.sockets.get_mut::<icmp::Socket>(self.ping);
        let (bytes, from) = socket.recv().ok()?;
        let packet = Icmpv4Packet::new_checked(bytes).ok()?;
        match (Icmpv4Repr::parse(&packet, &phy::ChecksumCapabilities::default()).ok()?, from) {
            (Icmpv4Repr::EchoReply { seq_no, data, .. }, smoltcp::wire::IpAddress::Ipv4(a)) => Some((a, seq_no, data.to_vec())),
            _ => None,
        }
    }

    /// Listens on a TCP port.
    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        socket.listen(port).expect("a port that is not zero");
        self.sockets.add(socket)
    }

    /// Opens a TCP connection.
    pub fn connect(&mut self, dst: Ipv4Addr, port: u16, local: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        socket.connect(self.iface.context(), (dst, port), local).expect("addresses are valid");
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Binds a UDP socket.
    pub fn udp_bind(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; BUFFER]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a port that is not zero");
        self.sockets.add(socket)
    }

    pub fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    tcp::Socket::new(tcp::SocketBuffer::new(vec![0; BUFFER]), tcp::SocketBuffer::new(vec![0; BUFFER]))
}

/// A frame that arrived.
pub struct RxToken(Vec<u8>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame on the wire.
pub struct TxToken<'a>(&'a MemPeer);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let r = f(&mut frame);
        // A full wire loses the frame, as a wire does.
        self.0.send(frame);
        r
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let w = self.peer.recv()?;
        self.arrived.push(w.bytes.clone());
        Some((RxToken(w.bytes), TxToken(&self.peer)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&self.peer))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + crate::wire::ether::HEADER;
        caps
    }
}
