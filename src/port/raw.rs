//! The IP-in-IP underlay over raw sockets (RFC 2003): frames start at the outer IPv4 header (medium `Ip`), in
//! both directions.
//!
//! Receiving, the kernel checks and reassembles the outer packet before the socket sees it, so a packet may be
//! up to 64 KB long. While a raw socket for protocol 4 is open the kernel answers no such packet with "protocol
//! unreachable", also those that a filter turns away. Sending, it fills in total length and header checksum,
//! and the identification where it is zero; all else is sent as it is, and a packet longer than the MTU is
//! refused, not fragmented. TCP super-frames go whole through a [`Device`]; UDP's do not, because a raw socket at the
//! other end is not told their segment size.

use super::losses::{Kind, LossReader, Observed};
use super::mmsg::{self, Readiness, Refusal, SendTable};
use super::receive::{Joined, Receiver};
use super::whole::{self, Device, Outcome};
use super::{Caps, Handles, Medium, OpenError, Port, RxReport, TxCsum, TxReport, sys, vnet};
use crate::frame::{BURST, Batch, Csum, Frame, FramePool, GsoKind, GsoSet};
use crate::wire::{ether, ipv4, put16};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The device that super-frames go through; it goes with the process.
pub const SUPER_FRAME_DEVICE: &str = "tunl-tortie-ip4";

const DRIVER: &str = "raw";
const RCVBUF: libc::c_int = 16 << 20;
const SNDBUF: libc::c_int = 4 << 20;

/// What to open.
#[derive(Clone, Debug)]
pub struct RawSpec<'a> {
    /// This node's underlay address: only packets to it are received.
    pub node: Ipv4Addr,
    /// How many ports to return, one per worker; a filter per socket spreads packets by their inner addresses.
    pub queues: u16,
    /// The uplink: the source of [`Caps::mtu`]. Routing stays the kernel's.
    pub interface: &'a str,
    /// Whether TCP super-frames are sent as they are where the kernel can ([`SUPER_FRAME_DEVICE`]), or never come here.
    pub whole: bool,
}

/// One queue of the IP-in-IP underlay.
pub struct RawPort {
    caps: Caps,
    /// Why super-frames do not go as they are, if they should.
    refusal: Option<String>,
    /// `None` after `release`.
    io: Option<Io>,
}

struct Io {
    rx: Observed,
    tx: OwnedFd,
    received: Receiver,
    ready: Readiness,
    sending: SendTable,
    device: Option<Device>,
}

/// Opens the underlay in the calling thread's network namespace: one port per queue.
///
/// Errors: no permission (CAP_NET_RAW), the address is not on this node, the interface is absent. Another
/// program's raw socket is no error: each gets a copy.
pub fn open(spec: &RawSpec<'_>) -> Result<Vec<RawPort>, OpenError> {
    if spec.queues == 0 {
        return Err(OpenError::Refused {
            what: format!("IP-in-IP underlay on {} with no queue", spec.node),
            hint: "the number of queues must be at least 1",
        });
    }
    let mtu = mtu_of(spec)?;
    let device = whole::Spec {
        name: SUPER_FRAME_DEVICE,
        queues: spec.queues,
        header: vnet::LEN,
        offloads: None,
        protocol: ipv4::PROTO_IPIP,
        encapsulates: true,
    };
    let (mut devices, refusal) = match spec.whole.then(|| whole::open(&device)) {
        Some(Ok(d)) => (d, None),
        Some(Err(e)) => (Vec::new(), Some(e.to_string())),
        None => (Vec::new(), None),
    };
    devices.reverse();
    let open = |queue| open_queue(spec, queue, mtu, devices.pop()).map(|p| RawPort { refusal: refusal.clone(), ..p });
    (0..spec.queues).map(open).collect()
}

/// Goes on with the ports of another process that was given the same `spec`.
pub fn adopt(spec: &RawSpec<'_>, queues: Vec<Handles>) -> Result<Vec<RawPort>, OpenError> {
    let mtu = mtu_of(spec)?;
    let adopt = |(mut h, queue): (Handles, u16)| {
        h.expect(DRIVER)?;
        let device = Device::adopt(&mut h)?;
        let port = queue_of(h.take("rx")?, h.take("tx")?, queue, mtu, device);
        port.map_err(|e| OpenError::io(format!("IP-in-IP on {}: wait for packets", spec.node), e))
    };
    queues.into_iter().zip(0..).map(adopt).collect()
}

fn mtu_of(spec: &RawSpec<'_>) -> Result<u32, OpenError> {
    let mtu = sys::Link::new(spec.interface).and_then(|mut l| l.mtu());
    mtu.map_err(|e| OpenError::io(format!("read the MTU of {}", spec.interface), e))
}

fn open_queue(spec: &RawSpec<'_>, queue: u16, mtu: u32, device: Option<Device>) -> Result<RawPort, OpenError> {
    let failed = |step: &str, e: io::Error| {
        let what = format!("IP-in-IP on {}: {step}", spec.node);
        match e.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => {
                OpenError::with_hint(what, e, "the node's address is not on any interface here: correct it, or add it with `ip addr add`")
            }
            _ => OpenError::io(what, e),
        }
    };
    let at = SocketAddrV4::new(spec.node, 0);
    let rx = sys::socket(libc::AF_INET, libc::SOCK_RAW, i32::from(ipv4::PROTO_IPIP)).map_err(|e| failed("open receiving socket", e))?;
    if spec.queues > 1 {
        mmsg::attach_filter(&rx, &share_filter(queue, spec.queues)).map_err(|e| failed("attach the queue's filter", e))?;
    }
    mmsg::set_buffer(&rx, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RCVBUF).map_err(|e| failed("set buffer size", e))?;
    mmsg::bind(&rx, at).map_err(|e| failed("bind", e))?;
    // IPPROTO_RAW: every packet brings its own header (IP_HDRINCL), and nothing is received.
    let tx = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW).map_err(|e| failed("open sending socket", e))?;
    mmsg::set_buffer(&tx, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SNDBUF).map_err(|e| failed("set buffer size", e))?;
    mmsg::bind(&tx, at).map_err(|e| failed("bind", e))?;
    queue_of(rx, tx, queue, mtu, device).map_err(|e| failed("wait for packets", e))
}

fn queue_of(rx: OwnedFd, tx: OwnedFd, queue: u16, mtu: u32, device: Option<Device>) -> io::Result<RawPort> {
    let ready = Readiness::new(&rx)?;
    let gso = GsoSet { tcp4: device.is_some(), ..GsoSet::NONE };
    let tx_csum = if device.is_some() { TxCsum::SuperFrames } else { TxCsum::Software };
    let caps = Caps { driver: DRIVER, medium: Medium::Ip, mtu, gso, tx_csum, queue };
    let received = Receiver::new(|_, _| Joined::NOT);
    let io = Io { rx: Observed::new(rx), tx, received, ready, sending: SendTable::new(BURST, BURST), device };
    Ok(RawPort { caps, refusal: None, io: Some(io) })
}

/// Takes the packets whose inner addresses hash to `queue` of `queues`. Raw sockets have no SO_REUSEPORT: each
/// one gets a copy of every packet, so each must turn away what is another's. A flow and its fragments stay on
/// one queue; what is too short for an inner header goes to queue 0.
fn share_filter(queue: u16, queues: u16) -> [libc::sock_filter; 16] {
    const LD: u32 = libc::BPF_LD | libc::BPF_W;
    const ALU: u32 = libc::BPF_ALU;
    /// BPF_ALU operations of linux/bpf_common.h that libc does not name.
    const MOD: u32 = 0x90;
    const XOR: u32 = 0xa0;
    const ALL: u32 = u32::MAX;
    let op = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: (libc::BPF_JMP | code | libc::BPF_K) as u16, jt, jf, k };
    [
        // X = length of the outer header; the first byte is the outer header's.
        op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        op(LD | libc::BPF_LEN, 0),
        op(ALU | libc::BPF_SUB | libc::BPF_X, 0),
        jump(libc::BPF_JGE, ipv4::HEADER as u32, 1, 0),
        op(libc::BPF_RET | libc::BPF_K, if queue == 0 { ALL } else { 0 }),
        // A = (inner source ^ inner destination), spread.
        op(LD | libc::BPF_IND, 12),
        op(libc::BPF_ST, 0),
        op(LD | libc::BPF_IND, 16),
        op(libc::BPF_LDX | libc::BPF_MEM, 0),
        op(ALU | XOR | libc::BPF_X, 0),
        op(ALU | libc::BPF_MUL | libc::BPF_K, 0x9e37_79b1),
        op(ALU | libc::BPF_RSH | libc::BPF_K, 16),
        op(ALU | MOD | libc::BPF_K, u32::from(queues)),
        jump(libc::BPF_JEQ, u32::from(queue), 0, 1),
        op(libc::BPF_RET | libc::BPF_K, ALL),
        op(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

fn released() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the IP-in-IP underlay port was released")
}

impl RawPort {
    /// Why super-frames do not go as they are, if they should.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

impl Port for RawPort {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let io = self.io.as_mut().ok_or_else(released)?;
        let report = io.received.burst(io.rx.as_fd(), pool, out);
        io.ready.set_held(io.received.holds());
        report
    }

    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        let io = self.io.as_mut().ok_or_else(released)?;
        let mut report = TxReport::default();
        while !out.is_empty() {
            let n = out.len().min(BURST);
            let done = io.send(pool, &out.as_slice()[..n], &mut report);
            out.drain_front(done).for_each(|f| pool.give(f));
            if done < n {
                break;
            }
        }
        Ok(report)
    }

    fn rx_kept(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let io = self.io.as_mut().ok_or_else(released)?;
        let report = io.received.rest(pool, out);
        io.ready.set_held(io.received.holds());
        Ok(report)
    }

    fn handles(&self) -> io::Result<Option<Handles>> {
        let io = self.io.as_ref().ok_or_else(released)?;
        let mut h = Handles::new(DRIVER);
        h.add("rx", &io.rx)?;
        h.add("tx", &io.tx)?;
        io.device.as_ref().map_or(Ok(()), |d| d.handles(&mut h))?;
        Ok(Some(h))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.io.as_ref().map(|io| io.ready.fd())
    }

    fn losses(&self) -> Vec<LossReader> {
        let device = |io: &Io| io.device.as_ref().and_then(Device::losses);
        self.io.iter().flat_map(|io| [io.rx.reader(Kind::Buffer)].into_iter().chain(device(io))).collect()
    }

    fn release(&mut self, pool: &mut FramePool) {
        if let Some(mut io) = self.io.take() {
            io.received.release(pool);
        }
    }
}

impl Io {
    /// Sends the frames, at most [`BURST`], in order; returns how many are done with, sent or refused.
    fn send(&mut self, pool: &FramePool, frames: &[Frame], report: &mut TxReport) -> usize {
        let mut done = 0;
        let mut repeated = false;
        while done < frames.len() {
            let mut list = self.sending.start();
            for f in &frames[done..] {
                let Some(to) = destination(pool, f) else { break };
                list.gather(pool.data(f));
                list.finish(SocketAddrV4::new(to, 0), 0, None);
            }
            if list.is_empty() {
                match self.send_whole(pool, &frames[done]) {
                    Some(true) => report.sent += 1,
                    Some(false) => break,
                    None => report.errors += 1,
                }
                done += 1;
                continue;
            }
            match list.send(self.tx.as_fd()) {
                Ok(n) => {
                    report.sent += n as u32;
                    done += n;
                    repeated = false;
                }
                Err(e) => match Refusal::of(&e) {
                    Refusal::Busy => break,
                    Refusal::Earlier if !repeated => repeated = true,
                    refusal => {
                        *(if refusal == Refusal::TooBig { &mut report.too_big } else { &mut report.errors }) += 1;
                        done += 1;
                        repeated = false;
                    }
                },
            }
        }
        done
    }

    /// Sends a super-frame through the device: whether it went; `None` if it cannot go.
    fn send_whole(&mut self, pool: &FramePool, f: &Frame) -> Option<bool> {
        let p = pool.data(f);
        let front = front(f, p)?;
        match self.device.as_ref()?.send(&front, p) {
            Outcome::Sent => Some(true),
            Outcome::Busy => Some(false),
            Outcome::Refused | Outcome::Gone => None,
        }
    }
}

/// What stands in front of the outer IP header of a TCP super-frame; `None` for anything else.
fn front(f: &Frame, p: &[u8]) -> Option<[u8; vnet::LEN + ether::HEADER]> {
    let (gso, Csum::Partial { start, offset }) = (f.gso?, f.csum) else { return None };
    let start = start.checked_sub(f.head())? as usize;
    let fits = gso.kind == GsoKind::Tcp4 && p.len() <= usize::from(u16::MAX) && p[0] == 0x45 && start >= 2 * ipv4::HEADER;
    let header = start + vnet::l4_header(gso.kind, p.get(start..)?, offset).filter(|_| fits)? as usize;
    let mut h = [0u8; vnet::LEN + ether::HEADER];
    h[0] = vnet::F_NEEDS_CSUM;
    h[1] = vnet::gso_type(gso.kind);
    if p[start + 13] & 0x80 != 0 {
        h[1] |= vnet::GSO_ECN;
    }
    let fields = [(2, ether::HEADER + header), (4, gso.size.into()), (6, ether::HEADER + start), (8, offset.into())];
    for (at, value) in fields {
        h[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
    }
    put16(&mut h, vnet::LEN + 12, ether::TYPE_IPV4);
    Some(h)
}

/// Where the packet goes by its own header; `None` if it is no IPv4 packet, or a super-frame, which goes another way.
fn destination(pool: &FramePool, f: &Frame) -> Option<Ipv4Addr> {
    let p = pool.data(f);
    (p.len() >= ipv4::HEADER && p[0] >> 4 == 4 && f.gso.is_none()).then(|| Ipv4Addr::from(ipv4::dst(p)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with the program, for the instructions it uses (linux/filter.h).
    fn run(program: &[libc::sock_filter], p: &[u8]) -> u32 {
        let (mut a, mut x, mut mem, mut pc) = (0u32, 0u32, [0u32; 16], 0);
        loop {
            let i = program[pc];
            pc += 1;
            match u32::from(i.code) {
                0xb1 => x = u32::from(p[i.k as usize] & 0xf) * 4,
                0x80 => a = p.len() as u32,
                0x40 => a = u32::from_be_bytes(p[(x + i.k) as usize..][..4].try_into().unwrap()),
                0x02 => mem[i.k as usize] = a,
                0x61 => x = mem[i.k as usize],
                0x1c => a = a.wrapping_sub(x),
                0xac => a ^= x,
                0x24 => a = a.wrapping_mul(i.k),
                0x74 => a >>= i.k,
                0x94 => a %= i.k,
                0x35 => pc += usize::from(if a >= i.k { i.jt } else { i.jf }),
                0x15 => pc += usize::from(if a == i.k { i.jt } else { i.jf }),
                0x06 => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn every_packet_belongs_to_one_queue() {
        let mut counts = [0u32; 3];
        for i in 0..3000u32 {
            let mut p = vec![0u8; 40 + (i as usize % 3) * 4];
            let outer = 20 + (i as usize % 3) * 4;
            p[0] = 0x40 | (outer / 4) as u8;
            p[outer + 12..outer + 16].copy_from_slice(&(0x0af4_0100 + i % 50).to_be_bytes());
            p[outer + 16..outer + 20].copy_from_slice(&(0x0af4_0200 + i / 50).to_be_bytes());
            let takers: Vec<_> = (0..3).filter(|q| run(&share_filter(*q, 3), &p) == u32::MAX).collect();
            assert_eq!(takers.len(), 1);
            counts[usize::from(takers[0])] += 1;
        }
        assert!(counts.iter().all(|n| (500..1700).contains(n)), "{counts:?}");
        let mut short = [0u8; 39];
        short[0] = 0x45;
        assert_eq!((0..3).map(|q| run(&share_filter(q, 3), &short)).collect::<Vec<_>>(), [u32::MAX, 0, 0]);
    }

    #[test]
    fn bad_specs_are_refused_by_name() {
        let text = |node, queues, interface| {
            open(&RawSpec { node, queues, interface, whole: false }).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(text(Ipv4Addr::LOCALHOST, 0, "lo").contains("at least 1"));
        assert!(text(Ipv4Addr::LOCALHOST, 1, "no-such-if").contains("no-such-if"));
    }
}
