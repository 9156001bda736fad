//! Super-frames to other nodes as they are: one outer header in front of up to 64 KB, through a [`Device`] whose
//! virtio-net header describes GSO over UDP tunnels (Linux 6.17).
//!
//! Wire format and source ports are those of the sockets: outer TTL 64, DF clear, UDP checksum present.

use super::PREFIX;
use crate::frame::{Csum, Frame, Gso, GsoKind};
use crate::port::losses::LossReader;
use crate::port::whole::{self, Device, Outcome};
use crate::port::{Handles, OpenError, vnet};
use crate::wire::{be16, checksum, ether, ipv4, l4, put16};
use std::io;
use std::net::Ipv4Addr;

/// The device's name; it goes with the process.
pub const DEVICE: &str = "tunl-tortie-gso";

/// `struct virtio_net_hdr_v1_hash_tunnel` (linux/virtio_net.h): the plain header, buffer count and hash, and the
/// places of the outer L4 and inner L3 headers.
const VNET: usize = 24;
const OUTER_TH: usize = 20;
const INNER_NH: usize = 22;
/// `VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4` and `VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM`.
const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
const F_UDP_TUNNEL_CSUM: u8 = 8;
/// linux/if_tun.h: what the descriptor's holder takes. The kernel wants TSO with tunnels.
const TUN_F_UDP_TUNNEL_GSO: u32 = 0x80;
const TUN_F_UDP_TUNNEL_GSO_CSUM: u32 = 0x100;

/// Outer headers: Ethernet (whose addresses are the kernel's to fill in), IPv4, UDP.
const OUTER: usize = ether::HEADER + ipv4::HEADER + l4::UDP_HEADER;
const UDP: usize = ether::HEADER + ipv4::HEADER;
const TTL: u8 = 64;
/// Longest frame behind the outer headers.
const FRAME_MAX: usize = u16::MAX as usize - ipv4::HEADER - l4::UDP_HEADER;

/// One queue of the device.
pub struct Tunnel {
    device: Device,
    node: Ipv4Addr,
    port: u16,
    /// Identification of the next outer header.
    id: u16,
}

/// Where one super-frame goes.
#[derive(Clone, Copy, Debug)]
pub struct To {
    pub peer: Ipv4Addr,
    pub source_port: u16,
}

/// Makes the device in the calling thread's network namespace: one per queue. `node` and `port` are those of the
/// sockets. Errors: as [`whole::open`].
pub fn open(node: Ipv4Addr, port: u16, queues: u16) -> Result<Vec<Tunnel>, OpenError> {
    let known = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let devices = whole::open(&whole::Spec {
        name: DEVICE,
        queues,
        header: VNET,
        offloads: Some((known | TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM, "tunnel offloads (Linux 6.17)")),
        protocol: ipv4::PROTO_UDP,
        encapsulates: false,
    })?;
    Ok(devices.into_iter().map(|device| Tunnel { device, node, port, id: 0 }).collect())
}

impl Tunnel {
    /// Goes on with the device of another process, if that had one.
    pub fn adopt(h: &mut Handles, node: Ipv4Addr, port: u16) -> Result<Option<Tunnel>, OpenError> {
        Ok(Device::adopt(h)?.map(|device| Tunnel { device, node, port, id: 0 }))
    }

    pub fn handles(&self, h: &mut Handles) -> io::Result<()> {
        self.device.handles(h)
    }

    /// Whether a frame, which starts at the VXLAN header, can go this way: a super-frame with its checksum
    /// unfinished that leaves room for the outer headers.
    #[inline]
    pub fn takes(&self, frame: &Frame) -> bool {
        frame.gso.is_some() && matches!(frame.csum, Csum::Partial { .. }) && frame.len() <= FRAME_MAX
    }

    /// Where to read how many super-frames the kernel found no way for.
    pub fn losses(&self) -> Option<LossReader> {
        self.device.losses()
    }

    /// Sends a frame that [`Tunnel::takes`].
    pub fn send(&mut self, frame: &Frame, data: &[u8], to: To) -> Outcome {
        let (Some(gso), Csum::Partial { start, offset }) = (frame.gso, frame.csum) else { return Outcome::Refused };
        let Some(start) = start.checked_sub(frame.head()) else { return Outcome::Refused };
        self.id = self.id.wrapping_add(1);
        let Some(header) = self.header(gso, frame.outer_tos, data, start as usize, offset, to) else { return Outcome::Refused };
        // A super-frame's outer identification counts up with its segments.
        self.id = self.id.wrapping_add((data.len() / usize::from(gso.size.max(1))) as u16);
        self.device.send(&header, data)
    }

    /// Everything in front of the VXLAN header. `start` and `offset` say where the inner checksum is in `data`.
    fn header(&self, gso: Gso, tos: u8, data: &[u8], start: usize, offset: u16, to: To) -> Option<[u8; VNET + OUTER]> {
        if data.len() > FRAME_MAX || start < PREFIX + ipv4::HEADER {
            return None;
        }
        let inner_l4 = vnet::l4_header(gso.kind, data.get(start..)?, offset)? as usize;
        let mut h = [0u8; VNET + OUTER];
        let (v, outer) = h.split_at_mut(VNET);
        v[0] = vnet::F_NEEDS_CSUM | F_UDP_TUNNEL_CSUM;
        v[1] = vnet::gso_type(gso.kind) | GSO_UDP_TUNNEL_IPV4;
        if gso.kind == GsoKind::Tcp4 && data[start + 13] & 0x80 != 0 {
            v[1] |= vnet::GSO_ECN;
        }
        let fields = [(2, OUTER + start + inner_l4), (4, usize::from(gso.size)), (6, OUTER + start), (8, usize::from(offset))];
        for (at, value) in fields {
            v[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        // These two are little-endian by definition.
        v[OUTER_TH..OUTER_TH + 2].copy_from_slice(&(UDP as u16).to_le_bytes());
        v[INNER_NH..INNER_NH + 2].copy_from_slice(&((OUTER + PREFIX) as u16).to_le_bytes());
        let udp_len = (l4::UDP_HEADER + data.len()) as u16;
        put16(outer, 12, ether::TYPE_IPV4);
        let ip = ipv4::Header {
            tos,
            len: ipv4::HEADER as u16 + udp_len,
            id: self.id,
            frag: 0,
            ttl: TTL,
            proto: ipv4::PROTO_UDP,
            src: self.node.into(),
            dst: to.peer.into(),
        };
        ip.write(&mut outer[ether::HEADER..]);
        put16(outer, UDP, to.source_port);
        put16(outer, UDP + 2, self.port);
        put16(outer, UDP + 4, udp_len);
        // As for any unfinished checksum: the pseudo-header's sum.
        let pseudo = checksum::pseudo_v4(self.node.into(), to.peer.into(), ipv4::PROTO_UDP, u32::from(udp_len));
        put16(outer, UDP + 6, checksum::fold(pseudo));
        debug_assert_eq!(be16(outer, 12), ether::TYPE_IPV4);
        Some(h)
    }
}
