//! The VXLAN underlay over UDP sockets: the kernel makes and takes off outer IP and UDP, a frame starts at the
//! VXLAN header (medium `VxlanUdp`). Works on every interface and needs no NIC feature; UDP_SEGMENT and UDP_GRO
//! carry many tunnel packets per trip through the kernel's stack.
//!
//! On the wire: TTL 64, DF clear, UDP checksum present (the kernel fills it in), source port one of sixteen per
//! queue within 32768..=60999, chosen by the inner flow's hash. A tunnel packet longer than the interface's
//! MTU is refused (`tx_too_big`), never fragmented.

pub(in crate::port) mod tunnel;
mod tx;

pub use tunnel::DEVICE as SUPER_FRAME_DEVICE;
use tunnel::Tunnel;
pub use tx::SOURCES;

use super::losses::{Kind, LossReader, Observed};
use super::mmsg::{self, Readiness};
use super::receive::{Joined, Receiver};
use super::{Caps, Handles, Medium, OpenError, Port, RxReport, TxCsum, TxReport, sys};
use crate::frame::{Batch, FramePool, Gso, GsoKind, GsoSet};
use crate::wire::{be16, ether, flow, ipv4, vxlan};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Socket buffers, bytes: what a 10 Gbit/s burst brings while the worker is away for some milliseconds.
const RCVBUF: libc::c_int = 16 << 20;
const SNDBUF: libc::c_int = 4 << 20;
/// VXLAN header and inner Ethernet header: what stands in front of the inner packet in a frame.
const PREFIX: usize = vxlan::HEADER + ether::HEADER;
const DRIVER: &str = "udp";
/// TTL of the outer header, as Linux and Calico set it.
const TTL: libc::c_int = 64;

/// What to open.
#[derive(Clone, Debug)]
pub struct UdpSpec<'a> {
    /// This node's underlay address: receiving and sending sockets are bound to it.
    pub node: Ipv4Addr,
    /// The VXLAN port, here and on the other nodes.
    pub port: u16,
    /// How many ports to return, one per worker; the kernel spreads flows over them by addresses and ports.
    pub queues: u16,
    /// The uplink: the source of [`Caps::mtu`]. Routing stays the kernel's.
    pub interface: &'a str,
    /// Whether super-frames are sent as they are where the kernel can ([`SUPER_FRAME_DEVICE`]), or always cut into
    /// tunnel packets here.
    pub whole: bool,
}

/// One queue of the UDP underlay.
pub struct UdpPort {
    caps: Caps,
    /// Why super-frames do not go as they are, if they should.
    refusal: Option<String>,
    /// `None` after `release`.
    io: Option<Io>,
}

struct Io {
    socket: Observed,
    rx: Receiver,
    ready: Readiness,
    tx: tx::Sender,
}

/// Opens the underlay in the calling thread's network namespace: one port per queue.
///
/// Errors: another VXLAN device or daemon holds the UDP port, the address is not on this node, the interface is
/// absent, or a socket option that the port depends on is refused.
pub fn open(spec: &UdpSpec<'_>) -> Result<Vec<UdpPort>, OpenError> {
    if spec.queues == 0 || spec.port == 0 {
        return Err(OpenError::Refused {
            what: format!("UDP underlay on {}:{} with {} queues", spec.node, spec.port, spec.queues),
            hint: "port and number of queues must be at least 1",
        });
    }
    let mtu = mtu_of(spec)?;
    let receivers = open_receivers(spec)?;
    let (mut tunnels, refusal) = match spec.whole.then(|| tunnel::open(spec.node, spec.port, spec.queues)) {
        Some(Ok(t)) => (t, None),
        Some(Err(e)) => (Vec::new(), Some(e.to_string())),
        None => (Vec::new(), None),
    };
    tunnels.reverse();
    let open = |(rx, queue)| {
        let senders = (0..SOURCES).map(|i| open_sender(spec.node, i)).collect::<Result<Vec<_>, _>>()?;
        queue_of(spec, rx, senders, queue, mtu, tunnels.pop()).map(|p| UdpPort { refusal: refusal.clone(), ..p })
    };
    receivers.into_iter().zip(0..).map(open).collect()
}

/// Goes on with the ports of another process that was given the same `spec`.
pub fn adopt(spec: &UdpSpec<'_>, queues: Vec<Handles>) -> Result<Vec<UdpPort>, OpenError> {
    let mtu = mtu_of(spec)?;
    let adopt = |(mut h, queue): (Handles, u16)| {
        h.expect(DRIVER)?;
        let sender = |i| Ok::<_, OpenError>(tx::Source { port: h.number(&port_name(i))? as u16, socket: h.take(&sender_name(i))? });
        let senders = (0..SOURCES).map(sender).collect::<Result<Vec<_>, _>>()?;
        let tunnel = Tunnel::adopt(&mut h, spec.node, spec.port)?;
        queue_of(spec, h.take("rx")?, senders, queue, mtu, tunnel)
    };
    queues.into_iter().zip(0..).map(adopt).collect()
}

fn sender_name(i: usize) -> String {
    format!("tx{i}")
}

fn port_name(i: usize) -> String {
    format!("tx{i}-port")
}

fn mtu_of(spec: &UdpSpec<'_>) -> Result<u32, OpenError> {
    let mtu = sys::Link::new(spec.interface).and_then(|mut l| l.mtu());
    mtu.map_err(|e| OpenError::io(format!("read the MTU of {}", spec.interface), e))
}

/// The receiving sockets. The first is bound alone, so that a port in use is seen whoever uses it; only then is
/// the port shared with the other queues.
fn open_receivers(spec: &UdpSpec<'_>) -> Result<Vec<OwnedFd>, OpenError> {
    let at = SocketAddrV4::new(spec.node, spec.port);
    let failed = |step: &str, e| OpenError::io(format!("receive VXLAN on {at}: {step}"), e);
    let share = |fd: &OwnedFd| {
        sys::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1i32).map_err(|e| failed("share the port among queues", e))
    };
    let mut all = Vec::with_capacity(spec.queues.into());
    for queue in 0..spec.queues {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(|e| failed("open socket", e))?;
        sys::setsockopt(&fd, libc::IPPROTO_IP, libc::IP_RECVTOS, &1i32).map_err(|e| failed("ask for the TOS byte", e))?;
        mmsg::set_buffer(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RCVBUF).map_err(|e| failed("set buffer size", e))?;
        // Before Linux 5.0 there is no UDP_GRO: datagrams then come one by one.
        let _ = sys::setsockopt(&fd, libc::SOL_UDP, mmsg::UDP_GRO, &1i32);
        if queue > 0 {
            share(&fd)?;
        }
        mmsg::bind(&fd, at).map_err(|e| bind_error(at, e))?;
        if queue == 0 && spec.queues > 1 {
            share(&fd)?;
        }
        all.push(fd);
    }
    Ok(all)
}

fn bind_error(at: SocketAddrV4, e: io::Error) -> OpenError {
    let hint = match e.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another VXLAN device or daemon holds this UDP port: find it with `ip -d link show type vxlan` or `ss -lunp` and remove it"
        }
        Some(libc::EADDRNOTAVAIL) => "the node's address is not on any interface here: correct it, or add it with `ip addr add`",
        _ => return OpenError::io(format!("receive VXLAN on {at}: bind"), e),
    };
    OpenError::with_hint(format!("receive VXLAN on {at}: bind"), e, hint)
}

fn queue_of(
    spec: &UdpSpec<'_>,
    rx: OwnedFd,
    senders: Vec<tx::Source>,
    queue: u16,
    mtu: u32,
    tunnel: Option<Tunnel>,
) -> Result<UdpPort, OpenError> {
    let ready = Readiness::new(&rx).map_err(|e| OpenError::io(format!("wait for VXLAN on {}:{}", spec.node, spec.port), e))?;
    // Linux before 4.18 does not know the option.
    let offload = sys::setsockopt(&senders[0].socket, libc::SOL_UDP, mmsg::UDP_SEGMENT, &0i32).is_ok();
    let caps = Caps {
        driver: DRIVER,
        medium: Medium::VxlanUdp,
        mtu,
        gso: GsoSet { tcp4: true, tcp6: false, udp: true },
        tx_csum: if tunnel.is_some() { TxCsum::SuperFrames } else { TxCsum::Software },
        queue,
    };
    let tx = tx::Sender::new(senders, spec.port, offload, tunnel);
    Ok(UdpPort { caps, refusal: None, io: Some(Io { socket: Observed::new(rx), rx: Receiver::new(joined), ready, tx }) })
}

/// The sending socket for the `i`-th share of the source port range: bound to a port in it, never receiving.
fn open_sender(node: Ipv4Addr, i: usize) -> Result<tx::Source, OpenError> {
    let failed = |step: &str, e| OpenError::io(format!("send VXLAN from {node}: {step}"), e);
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(|e| failed("open socket", e))?;
    // Whatever is sent to these ports is nobody's: a filter that takes no byte drops it before it is queued.
    let reject = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    mmsg::attach_filter(&fd, &[reject]).map_err(|e| failed("attach the filter that rejects all", e))?;
    mmsg::set_buffer(&fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SNDBUF).map_err(|e| failed("set buffer size", e))?;
    sys::setsockopt(&fd, libc::IPPROTO_IP, libc::IP_TTL, &TTL).map_err(|e| failed("set the TTL", e))?;
    // DF clear, no fragmentation here, and path MTUs that someone claims by ICMP do not matter.
    sys::setsockopt(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_INTERFACE)
        .map_err(|e| failed("clear DF (IP_PMTUDISC_INTERFACE)", e))?;
    let share = flow::PORT_COUNT / SOURCES as u32;
    // Somewhere in the share, so that queues and restarts seldom meet.
    let start = (RandomState::new().hash_one(i) % u64::from(share)) as u32;
    let mut last = io::Error::from_raw_os_error(libc::EADDRINUSE);
    for step in 0..share {
        let port = flow::PORT_FIRST + (i as u32 * share + (start + step) % share) as u16;
        match mmsg::bind(&fd, SocketAddrV4::new(node, port)) {
            Ok(()) => return Ok(tx::Source { socket: fd, port }),
            Err(e) if e.raw_os_error() == Some(libc::EADDRINUSE) => last = e,
            Err(e) => return Err(bind_error(SocketAddrV4::new(node, port), e)),
        }
    }
    Err(OpenError::with_hint(
        format!("send VXLAN from {node}: bind to a port in the {i}th of {SOURCES} shares of 32768-60999"),
        last,
        "every port there is in use: stop what holds them (`ss -uanp`)",
    ))
}

fn released() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the UDP underlay port was released")
}

impl UdpPort {
    /// Why super-frames are cut into tunnel packets here, if they should not be.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

impl Port for UdpPort {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let io = self.io.as_mut().ok_or_else(released)?;
        let report = io.rx.burst(io.socket.as_fd(), pool, out);
        io.ready.set_held(io.rx.holds());
        report
    }

    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        Ok(self.io.as_mut().ok_or_else(released)?.tx.send(pool, out))
    }

    fn rx_kept(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let io = self.io.as_mut().ok_or_else(released)?;
        let report = io.rx.rest(pool, out);
        io.ready.set_held(io.rx.holds());
        Ok(report)
    }

    fn handles(&self) -> io::Result<Option<Handles>> {
        let io = self.io.as_ref().ok_or_else(released)?;
        let mut h = Handles::new(DRIVER);
        h.add("rx", &io.socket)?;
        io.tx.handles(&mut h)?;
        Ok(Some(h))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.io.as_ref().map(|io| io.ready.fd())
    }

    fn losses(&self) -> Vec<LossReader> {
        self.io.iter().flat_map(|io| [io.socket.reader(Kind::Buffer)].into_iter().chain(io.tx.losses())).collect()
    }

    fn release(&mut self, pool: &mut FramePool) {
        if let Some(mut io) = self.io.take() {
            io.rx.release(pool);
        }
    }
}

/// A GRO size normally says that several tunnel packets were joined. But a VXLAN device behind a veth pair sends a
/// workload's UDP super-frame (USO) as one datagram and leaves its inner segment size in the same place: then the
/// inner packet is as long as the datagram, and the size is the inner one.
fn joined(bytes: &[u8], segment: Option<usize>) -> Joined {
    let Some(size) = segment.filter(|s| *s < bytes.len()) else { return Joined::NOT };
    let inner = bytes.get(PREFIX..PREFIX + ipv4::HEADER).filter(|p| p[0] >> 4 == 4 && be16(bytes, PREFIX - 2) == ether::TYPE_IPV4);
    match inner {
        Some(p) if PREFIX + ipv4::total_len(p) > size => {
            let gso = u16::try_from(size).ok().filter(|_| ipv4::proto(p) == ipv4::PROTO_UDP);
            Joined { gso: gso.map(|size| Gso { kind: GsoKind::Udp, size }), ..Joined::NOT }
        }
        _ => Joined { step: size, gso: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::put16;

    /// A datagram of `len` bytes whose inner packet says it is `total` long.
    fn datagram(len: usize, total: u16, proto: u8) -> Vec<u8> {
        let mut d = vec![0u8; len];
        put16(&mut d, 20, ether::TYPE_IPV4);
        d[22] = 0x45;
        put16(&mut d, 24, total);
        d[31] = proto;
        d
    }

    #[test]
    fn joined_datagrams_and_super_packets_are_told_apart() {
        let several = datagram(3000, 978, ipv4::PROTO_UDP);
        assert_eq!(joined(&several, Some(1000)), Joined { step: 1000, gso: None });
        assert_eq!(joined(&several, None), Joined::NOT);
        assert_eq!(joined(&several, Some(3000)), Joined::NOT);
        let uso = datagram(3000, 2978, ipv4::PROTO_UDP);
        assert_eq!(joined(&uso, Some(1000)), Joined { gso: Some(Gso { kind: GsoKind::Udp, size: 1000 }), ..Joined::NOT });
        assert_eq!(joined(&datagram(3000, 2978, ipv4::PROTO_TCP), Some(1000)), Joined::NOT);
        let mut arp = several;
        put16(&mut arp, 20, ether::TYPE_ARP);
        assert_eq!(joined(&arp, Some(1000)), Joined { step: 1000, gso: None });
        assert_eq!(joined(&[0; 30], Some(10)), Joined { step: 10, gso: None });
    }

    #[test]
    fn a_flow_uses_the_socket_of_its_port_share() {
        let share = flow::PORT_COUNT / SOURCES as u32;
        for hash in (0..u32::MAX).step_by(1_000_003) {
            let port = u32::from(flow::source_port(hash) - flow::PORT_FIRST);
            // The shares are rounded down, by less than one port each.
            assert!(port.abs_diff(tx::source_of(hash) as u32 * share + share / 2) <= share / 2 + SOURCES as u32);
        }
        assert_eq!(tx::source_of(u32::MAX), SOURCES - 1);
    }

    #[test]
    fn bad_specs_are_refused_by_name() {
        let spec = |port, queues, interface| UdpSpec { node: Ipv4Addr::LOCALHOST, port, queues, interface, whole: false };
        let text = |s: UdpSpec<'_>| open(&s).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text(spec(4789, 0, "lo")).contains("at least 1"));
        assert!(text(spec(0, 1, "lo")).contains("at least 1"));
        assert!(text(spec(4789, 1, "no-such-if")).contains("no-such-if"));
        let absent = UdpSpec { node: Ipv4Addr::new(192, 0, 2, 77), ..spec(47_891, 1, "lo") };
        assert!(text(absent).contains("ip addr add"));
    }
}
