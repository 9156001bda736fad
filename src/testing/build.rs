//! Frame builders: every field can be set to what no sane sender would send. Checksums come from etherparse, so
//! that the engine's own arithmetic is never checked against itself.

use crate::port::mem::Wired;
use crate::wire::{Mac, ether, ipv4, vxlan};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, TcpHeader, UdpHeader};
use std::net::Ipv4Addr;

/// An IPv4 packet to be: header fields that the tests vary.
#[derive(Clone, Debug)]
pub struct Ip4 {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    pub id: u16,
    pub df: bool,
    pub mf: bool,
    /// Fragment offset, bytes; a multiple of 8.
    pub offset: u16,
    /// Raw options; their length is a multiple of 4.
    pub options: Vec<u8>,
}

impl Ip4 {
    /// TTL 64, DF set, no options.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr) -> Ip4 {
        Ip4 { src, dst, ttl: 64, tos: 0, id: 0x4242, df: true, mf: false, offset: 0, options: Vec::new() }
    }

    pub fn ttl(mut self, ttl: u8) -> Ip4 {
        self.ttl = ttl;
        self
    }

    pub fn tos(mut self, tos: u8) -> Ip4 {
        self.tos = tos;
        self
    }

    pub fn id(mut self, id: u16) -> Ip4 {
        self.id = id;
        self
    }

    /// Clears DF.
    pub fn may_fragment(mut self) -> Ip4 {
        self.df = false;
        self
    }

    /// Makes it a fragment at `offset` bytes, DF clear.
    pub fn fragment(mut self, offset: u16, more: bool) -> Ip4 {
        (self.df, self.offset, self.mf) = (false, offset, more);
        self
    }

    pub fn options(mut self, options: &[u8]) -> Ip4 {
        self.options = options.to_vec();
        self
    }

    /// A packet with any protocol number and payload.
    pub fn raw(&self, proto: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = self.header(proto, payload.len()).to_bytes().to_vec();
        out.extend_from_slice(payload);
        out
    }

    /// A UDP datagram with a right checksum.
    pub fn udp(&self, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let header = self.header(ipv4::PROTO_UDP, UdpHeader::LEN + payload.len());
        let udp = UdpHeader::with_ipv4_checksum(from, to, &header, payload).expect("fits a UDP length");
        self.raw(ipv4::PROTO_UDP, &[&udp.to_bytes()[..], payload].concat())
    }

    /// A TCP segment of an open connection (ACK set) with a right checksum.
    pub fn tcp(&self, from: u16, to: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
        let mut tcp = TcpHeader::new(from, to, seq, 4096);
        (tcp.ack, tcp.acknowledgment_number) = (true, 1);
        self.tcp_header(tcp, payload)
    }

    /// A TCP segment with a given header, whose checksum is made right.
    pub fn tcp_header(&self, mut tcp: TcpHeader, payload: &[u8]) -> Vec<u8> {
        let header = self.header(ipv4::PROTO_TCP, tcp.header_len() + payload.len());
        tcp.checksum = tcp.calc_checksum_ipv4(&header, payload).expect("fits an IPv4 length");
        self.raw(ipv4::PROTO_TCP, &[&tcp.to_bytes()[..], payload].concat())
    }

    /// An echo request.
    pub fn ping(&self, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        self.icmp(etherparse::Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id, seq }), payload)
    }

    /// Any ICMP message with a right checksum.
    pub fn icmp(&self, kind: etherparse::Icmpv4Type, payload: &[u8]) -> Vec<u8> {
        let header = etherparse::Icmpv4Header::with_checksum(kind, payload);
        self.raw(ipv4::PROTO_ICMP, &[&header.to_bytes()[..], payload].concat())
    }

    fn header(&self, proto: u8, payload: usize) -> Ipv4Header {
        let mut h = Ipv4Header {
            dscp: (self.tos >> 2).try_into().expect("six bits"),
            ecn: (self.tos & 3).try_into().expect("two bits"),
            identification: self.id,
            dont_fragment: self.df,
            more_fragments: self.mf,
            fragment_offset: IpFragOffset::try_new(self.offset / 8).expect("13 bits"),
            time_to_live: self.ttl,
            protocol: IpNumber(proto),
            source: self.src.octets(),
            destination: self.dst.octets(),
            options: Ipv4Options::try_from(&self.options[..]).expect("options of whole words, 40 bytes at most"),
            ..Ipv4Header::default()
        };
        h.total_len = (h.header_len() + payload) as u16;
        h.header_checksum = h.calc_header_checksum();
        h
    }
}

/// Makes the header checksum of the IPv4 packet at `at` right again after a field was changed by hand.
pub fn repair(frame: &mut [u8], at: usize) {
    let end = at + usize::from(frame[at] & 0x0f) * 4;
    frame[at + 10..at + 12].fill(0);
    let sum: u32 = frame[at..end].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[at + 10..at + 12].copy_from_slice(&check.to_be_bytes());
}

/// An Ethernet frame around an IPv4 packet.
pub fn ethernet(dst: Mac, src: Mac, packet: &[u8]) -> Vec<u8> {
    ethernet_typed(dst, src, ether::TYPE_IPV4, packet)
}

/// An Ethernet frame with any ethertype.
pub fn ethernet_typed(dst: Mac, src: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0[..], &kind.to_be_bytes()[..], payload].concat()
}

/// An ARP frame.
#[derive(Clone, Copy, Debug)]
pub struct ArpFrame {
    /// 1: request; 2: reply.
    pub op: u16,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

impl ArpFrame {
    /// Who has `target`, tell `sender`.
    pub fn request(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> ArpFrame {
        ArpFrame { op: 1, sender_mac, sender, target_mac: Mac::default(), target }
    }

    /// `sender` is at `sender_mac`, told to the gateway.
    pub fn reply(sender_mac: Mac, sender: Ipv4Addr) -> ArpFrame {
        ArpFrame { op: 2, sender_mac, sender, target_mac: Mac::GATEWAY, target: crate::arp::GATEWAY }
    }

    /// The bytes: a request goes to everyone, a reply to its target.
    pub fn bytes(&self) -> Vec<u8> {
        let dst = if self.op == 1 { Mac::BROADCAST } else { self.target_mac };
        let mut p = vec![0, 1, 8, 0, 6, 4];
        p.extend_from_slice(&self.op.to_be_bytes());
        p.extend_from_slice(&self.sender_mac.0);
        p.extend_from_slice(&self.sender.octets());
        p.extend_from_slice(&self.target_mac.0);
        p.extend_from_slice(&self.target.octets());
        ethernet_typed(dst, self.sender_mac, ether::TYPE_ARP, &p)
    }
}

/// What the outer UDP checksum field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterCheck {
    Zero,
    Right,
    Wrong,
    /// Only the pseudo-header sum: left to a device that is none.
    Unfinished,
    /// Right once the inner packet's unfinished checksum is finished, as Linux computes it when it leaves the
    /// inner one to the device (local checksum offload).
    ForFinishedInner,
}

/// A VXLAN packet around an inner packet: each field as a sane peer sets it, to be changed at will.
#[derive(Clone, Debug)]
pub struct VxlanWrap {
    pub link_dst: Mac,
    pub link_src: Mac,
    pub outer: Ip4,
    pub from: u16,
    pub to: u16,
    pub check: OuterCheck,
    /// Overrides the length in the UDP header.
    pub udp_length: Option<u16>,
    pub flags: u8,
    pub vni: u32,
    pub inner_dst: Mac,
    pub inner_src: Mac,
    pub inner_type: u16,
}

impl VxlanWrap {
    /// VXLAN header, inner Ethernet and packet: what a `VxlanUdp` port carries.
    pub fn payload(&self, inner: &[u8]) -> Vec<u8> {
        let mut out = vec![self.flags, 0, 0, 0];
        out.extend_from_slice(&(self.vni << 8).to_be_bytes());
        out.extend_from_slice(&ethernet_typed(self.inner_dst, self.inner_src, self.inner_type, inner));
        out
    }

    /// From the outer IPv4 header on.
    pub fn packet(&self, inner: &[u8]) -> Vec<u8> {
        let payload = self.payload(inner);
        let header = self.outer.header(ipv4::PROTO_UDP, UdpHeader::LEN + payload.len());
        let mut udp = UdpHeader::without_ipv4_checksum(self.from, self.to, payload.len()).expect("fits a UDP length");
        if let Some(length) = self.udp_length {
            udp.length = length;
        }
        let right = |body: &[u8]| udp.calc_checksum_ipv4(&header, body).expect("fits a UDP length");
        udp.checksum = match self.check {
            OuterCheck::Zero => 0,
            OuterCheck::Right => right(&payload),
            OuterCheck::Wrong => right(&payload) ^ 0x0101,
            OuterCheck::Unfinished => pseudo(&header, udp.length),
            OuterCheck::ForFinishedInner => {
                let mut finished = payload.clone();
                finish(&mut finished[vxlan::HEADER + ether::HEADER..]);
                right(&finished)
            }
        };
        self.outer.raw(ipv4::PROTO_UDP, &[&udp.to_bytes()[..], &payload].concat())
    }

    /// The whole Ethernet frame.
    pub fn frame(&self, inner: &[u8]) -> Vec<u8> {
        ethernet(self.link_dst, self.link_src, &self.packet(inner))
    }
}

/// An IP-in-IP packet around an inner packet.
#[derive(Clone, Debug)]
pub struct IpipWrap {
    pub link_dst: Mac,
    pub link_src: Mac,
    pub outer: Ip4,
}

impl IpipWrap {
    /// From the outer IPv4 header on.
    pub fn packet(&self, inner: &[u8]) -> Vec<u8> {
        self.outer.raw(ipv4::PROTO_IPIP, inner)
    }

    /// The whole Ethernet frame.
    pub fn frame(&self, inner: &[u8]) -> Vec<u8> {
        ethernet(self.link_dst, self.link_src, &self.packet(inner))
    }
}

/// The folded pseudo-header sum, as an offloading sender leaves it in the field.
fn pseudo(h: &Ipv4Header, l4_len: u16) -> u16 {
    let words = |b: [u8; 4]| u32::from(u16::from_be_bytes([b[0], b[1]])) + u32::from(u16::from_be_bytes([b[2], b[3]]));
    let sum = words(h.source) + words(h.destination) + u32::from(h.protocol.0) + u32::from(l4_len);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// Where the checksum field of a TCP or UDP packet lies: L4 header and field, both from the packet's first byte.
fn check_field(packet: &[u8]) -> (usize, usize) {
    let start = usize::from(packet[0] & 0x0f) * 4;
    (start, start + if packet[9] == ipv4::PROTO_UDP { 6 } else { 16 })
}

/// Takes the TCP or UDP checksum of a packet back to the unfinished state.
pub fn unfinish(packet: &mut [u8]) {
    let (header, rest) = Ipv4Header::from_slice(packet).expect("an IPv4 packet");
    let (sum, at) = (pseudo(&header, rest.len() as u16), check_field(packet).1);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Computes the TCP or UDP checksum of a packet anew.
pub fn finish(packet: &mut [u8]) {
    let (header, rest) = Ipv4Header::from_slice(packet).expect("an IPv4 packet");
    let check = if header.protocol == IpNumber::UDP {
        let (udp, body) = UdpHeader::from_slice(rest).expect("a UDP header");
        udp.calc_checksum_ipv4(&header, body)
    } else {
        let (tcp, body) = TcpHeader::from_slice(rest).expect("a TCP header");
        tcp.calc_checksum_ipv4(&header, body)
    };
    let at = check_field(packet).1;
    packet[at..at + 2].copy_from_slice(&check.expect("lengths agree").to_be_bytes());
}

/// A frame whose packet at `at` has an unfinished checksum and says so, as a port with metadata delivers it.
pub fn partial(mut frame: Vec<u8>, at: usize) -> Wired {
    unfinish(&mut frame[at..]);
    let (start, field) = check_field(&frame[at..]);
    Wired { partial: Some(((at + start) as u32, (field - start) as u16)), ..Wired::from(frame) }
}

/// A frame whose packet at `at` has an unfinished checksum and does not say so, as a veth delivers it to AF_XDP.
pub fn silently_partial(mut frame: Vec<u8>, at: usize) -> Wired {
    unfinish(&mut frame[at..]);
    maybe_partial(frame)
}

/// A frame from a port without metadata.
pub fn maybe_partial(frame: Vec<u8>) -> Wired {
    Wired { may_be_partial: true, ..Wired::from(frame) }
}

/// Bytes in which a shifted, lost or doubled piece shows.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 253) as u8).collect()
}
