//! Super-frames to other nodes as they are: one outer header in front of up to 64 KB, cut into tunnel packets by
//! the network card, or by the kernel on the way to one that cannot. A UDP socket cannot say that a datagram holds
//! a super-frame; a TAP device can, since Linux 6.17 (virtio's GSO over UDP tunnels), and what is written to it is
//! redirected at its ingress to wherever the kernel's routes lead, so it meets neither the host's IP stack nor its
//! packet filter.
//!
//! Wire format and source ports are those of the sockets: outer TTL 64, DF clear, UDP checksum present.

use super::PREFIX;
use crate::frame::{Csum, Frame, Gso, GsoKind};
use crate::port::sys::Link;
use crate::port::tcx::{self, Insn, insn};
use crate::port::tun::{self, TunMode};
use crate::port::{OpenError, vnet};
use crate::wire::{be16, checksum, ether, ipv4, l4, put16};
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

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
    file: File,
    /// Held only to be closed; shared by the queues.
    _link: Arc<OwnedFd>,
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
/// sockets. Errors: the kernel does not know tunnel offloads or TCX, no permission, another process has the device.
pub fn open(node: Ipv4Addr, port: u16, queues: u16) -> Result<Vec<Tunnel>, OpenError> {
    let fail = |step: &'static str| move |e| OpenError::io(format!("{DEVICE}: {step}"), e);
    let files = (0..queues).map(|_| tun::attach(DEVICE, TunMode::Tap, queues, VNET)).collect::<Result<Vec<File>, OpenError>>()?;
    let known = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    tun::set_offload(&files[0], known | TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM).map_err(fail("tunnel offloads (Linux 6.17)"))?;
    // Nothing of the host's is to be sent here: nobody would read it.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"), "1");
    // The program's route lookup is that of a packet to be forwarded.
    fs::write(format!("/proc/sys/net/ipv4/conf/{DEVICE}/forwarding"), "1").map_err(fail("switch forwarding on for this device"))?;
    let mut link = Link::new(DEVICE).map_err(fail("look up"))?;
    let index = link.index().map_err(fail("look up"))?;
    let program = tcx::load(tcx::SCHED_CLS, &redirect(), "tortie_gso", c"Dual MIT/GPL").map_err(fail("load BPF program"))?;
    let tcx = Arc::new(tcx::link(&program, index).map_err(fail("TCX link"))?);
    link.set_up().map_err(fail("set up"))?;
    Ok(files.into_iter().map(|file| Tunnel { file, _link: tcx.clone(), node, port, id: 0 }).collect())
}

/// The program at the device's ingress: looks up the way to the outer destination as a router would and sends the
/// packet there; without a way it is dropped.
fn redirect() -> Vec<Insn> {
    const FIB_LOOKUP: i32 = 69;
    const REDIRECT_NEIGH: i32 = 152;
    const SKIP_NEIGH: i32 = 4;
    const SHOT: i32 = 2;
    // struct bpf_fib_lookup, 64 bytes below the frame pointer: family, ifindex, source and destination.
    const LOOKUP: i16 = -64;
    const PROTOCOL: i16 = LOOKUP + 1;
    const IFINDEX: i16 = LOOKUP + 8;
    const SRC: i16 = LOOKUP + 16;
    const DST: i16 = LOOKUP + 32;
    // struct __sk_buff.
    const CTX_IFINDEX: i16 = 40;
    const CTX_DATA: i16 = 76;
    const CTX_DATA_END: i16 = 80;
    const IP: i16 = ether::HEADER as i16;
    let mut code = vec![
        insn(0xbf, 6, 1, 0, 0),            // r6 = context
        insn(0x61, 2, 6, CTX_DATA, 0),     // r2 = first byte
        insn(0x61, 3, 6, CTX_DATA_END, 0), // r3 = behind the last
        insn(0xbf, 4, 2, 0, 0),            // r4 = r2 + headers
        insn(0x07, 4, 0, 0, i32::from(IP) + ipv4::HEADER as i32),
        insn(0x2d, 4, 3, 0, 0), // beyond the end: drop (patched below)
    ];
    let too_short = code.len() - 1;
    code.extend((0..8).map(|i| insn(0x7a, 10, 0, LOOKUP + 8 * i, 0)));
    code.extend([
        insn(0x72, 10, 0, LOOKUP, libc::AF_INET),
        insn(0x72, 10, 0, PROTOCOL, libc::IPPROTO_UDP),
        insn(0x61, 4, 2, IP + 12, 0),
        insn(0x63, 10, 4, SRC, 0),
        insn(0x61, 4, 2, IP + 16, 0),
        insn(0x63, 10, 4, DST, 0),
        insn(0x61, 4, 6, CTX_IFINDEX, 0),
        insn(0x63, 10, 4, IFINDEX, 0),
        insn(0xbf, 1, 6, 0, 0),
        insn(0xbf, 2, 10, 0, 0),
        insn(0x07, 2, 0, 0, i32::from(LOOKUP)),
        insn(0xb7, 3, 0, 0, 64),
        insn(0xb7, 4, 0, 0, SKIP_NEIGH),
        insn(0x85, 0, 0, 0, FIB_LOOKUP),
        insn(0x55, 0, 0, 6, 0), // no way: drop
        insn(0x61, 1, 10, IFINDEX, 0),
        insn(0xb7, 2, 0, 0, 0),
        insn(0xb7, 3, 0, 0, 0),
        insn(0xb7, 4, 0, 0, 0),
        insn(0x85, 0, 0, 0, REDIRECT_NEIGH),
        insn(0x95, 0, 0, 0, 0),
        insn(0xb7, 0, 0, 0, SHOT),
        insn(0x95, 0, 0, 0, 0),
    ]);
    let drop = code.len() - 2;
    code[too_short] = insn(0x2d, 4, 3, (drop - too_short - 1) as i16, 0);
    code
}

impl Tunnel {
    /// Whether a frame, which starts at the VXLAN header, can go this way: a super-frame with its checksum
    /// unfinished that leaves room for the outer headers.
    #[inline]
    pub fn takes(&self, frame: &Frame) -> bool {
        frame.gso.is_some() && matches!(frame.csum, Csum::Partial { .. }) && frame.len() <= FRAME_MAX
    }

    /// Sends a frame that [`Tunnel::takes`]. The kernel has taken it when this returns.
    /// Errors: EINVAL if the headers do not fit the metadata, EBADFD if the device is gone, ENOBUFS and ENOMEM.
    pub fn send(&mut self, frame: &Frame, data: &[u8], to: To) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let (Some(gso), Csum::Partial { start, offset }) = (frame.gso, frame.csum) else { return Err(invalid()) };
        let start = start.checked_sub(frame.head()).ok_or_else(invalid)? as usize;
        self.id = self.id.wrapping_add(1);
        let header = self.header(gso, frame.outer_tos, data, start, offset, to).ok_or_else(invalid)?;
        // A super-frame's outer identification counts up with its segments.
        self.id = self.id.wrapping_add((data.len() / usize::from(gso.size.max(1))) as u16);
        let iov = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() },
            libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() },
        ];
        // SAFETY: writev only reads from the two live buffers.
        let n = unsafe { libc::writev(self.file.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
