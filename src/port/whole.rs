//! A TAP device that sends super-frames on as they are: what is written to it is redirected by a BPF program at its
//! ingress to wherever the kernel's routes lead, so it meets neither the host's IP stack nor its packet filter. The
//! network card cuts it into tunnel packets, or the kernel does on the way to one that cannot; a veth passes it whole.
//!
//! A socket cannot say that a packet holds a super-frame; the virtio-net header in front of a TAP's frames can.

use super::losses::{Kind, LossReader, Observed};
use super::sys::Link;
use super::tcx::{self, Insn, insn};
use super::tun::{self, TunMode};
use super::{Handles, OpenError};
use crate::wire::{ether, ipv4};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// The device to make.
pub struct Spec {
    /// Its name; it goes with the process.
    pub name: &'static str,
    pub queues: u16,
    /// Length of the virtio-net header, and offloads to ask for, with what gives them.
    pub header: usize,
    pub offloads: Option<(u32, &'static str)>,
    /// Protocol number in the outer IPv4 header.
    pub protocol: u8,
    /// The kernel is to be told that the outer header encapsulates another IP packet. (Of a UDP tunnel the virtio-net
    /// header tells.)
    pub encapsulates: bool,
}

/// One queue of the device.
pub struct Device {
    file: File,
    /// Held only to be closed; shared by the queues.
    link: Arc<OwnedFd>,
    /// The first queue's: packets that the program dropped.
    dropped: Option<Observed>,
}

/// What became of a super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    /// The kernel is out of memory: later.
    Busy,
    /// Not accepted: down, or a header that this kernel does not like.
    Refused,
    /// The device was deleted.
    Gone,
}

/// Makes the device in the calling thread's network namespace: one per queue.
/// Errors: the kernel does not know the offloads or TCX, no permission, another process has the device.
pub fn open(spec: &Spec) -> Result<Vec<Device>, OpenError> {
    let fail = |step: &'static str| move |e| OpenError::io(format!("{}: {step}", spec.name), e);
    let files = (0..spec.queues)
        .map(|_| tun::attach(spec.name, TunMode::Tap, spec.queues, spec.header))
        .collect::<Result<Vec<File>, OpenError>>()?;
    if let Some((bits, step)) = spec.offloads {
        tun::set_offload(&files[0], bits).map_err(fail(step))?;
    }
    // Nothing of the host's is to be sent here: nobody would read it.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", spec.name), "1");
    // The program's route lookup is that of a packet to be forwarded.
    fs::write(format!("/proc/sys/net/ipv4/conf/{}/forwarding", spec.name), "1").map_err(fail("switch forwarding on for this device"))?;
    let mut link = Link::new(spec.name).map_err(fail("look up"))?;
    let index = link.index().map_err(fail("look up"))?;
    let dropped = tcx::counter().map_err(fail("make BPF map"))?;
    let code = program(spec.protocol, spec.encapsulates, &dropped);
    let program = tcx::load(tcx::SCHED_CLS, &code, "tortie_gso", c"Dual MIT/GPL").map_err(fail("load BPF program"))?;
    let tcx = Arc::new(tcx::link(&program, index).map_err(fail("TCX link (Linux 6.6)"))?);
    link.set_up().map_err(fail("set up"))?;
    let mut dropped = Some(Observed::new(dropped));
    Ok(files.into_iter().map(|file| Device { file, link: tcx.clone(), dropped: dropped.take() }).collect())
}

/// The program at the device's ingress. The frame: an Ethernet header whose addresses are the kernel's to fill in, and
/// an IPv4 header that is complete. Looks up the way to its destination as a router would and sends the packet there;
/// one without a way is dropped and counted.
fn program(protocol: u8, encapsulates: bool, dropped: &OwnedFd) -> Vec<Insn> {
    const STORE_BYTES: i32 = 9;
    const LOAD_BYTES: i32 = 26;
    const ADJUST_ROOM: i32 = 50;
    const FIB_LOOKUP: i32 = 69;
    const REDIRECT_NEIGH: i32 = 152;
    // Flags: where room is made, that the segment size stays, what the room is for; no neighbour is needed yet.
    const ROOM_MAC: i32 = 1;
    const FIXED_GSO: i32 = 1;
    const ENCAP_IPV4: i32 = 2;
    const SKIP_NEIGH: i32 = 4;
    const SHOT: i32 = 2;
    // On the stack: struct bpf_fib_lookup (protocol, interface, source and destination are used), and the header.
    const LOOKUP: i16 = -64;
    const HEADER: i16 = -88;
    const CTX_IFINDEX: i16 = 40;
    const IP: i32 = ether::HEADER as i32;
    const LEN: i32 = ipv4::HEADER as i32;
    /// A failed call goes to the end; where that is follows when the program is complete.
    const JUMP: u8 = 0x55;
    let mut code = vec![insn(0xbf, 6, 1, 0, 0)]; // r6 = context
    let call = |code: &mut Vec<Insn>, helper: i32, arguments: &[Insn]| {
        code.push(insn(0xbf, 1, 6, 0, 0));
        code.extend_from_slice(arguments);
        code.extend([insn(0x85, 0, 0, 0, helper), insn(JUMP, 0, 0, 0, 0)]);
    };
    let set = |register: u8, value: i32| insn(0xb7, register, 0, 0, value);
    // A register to a place on the stack: two instructions.
    let stack = |register: u8, at: i16| [insn(0xbf, register, 10, 0, 0), insn(0x07, register, 0, 0, i32::from(at))];
    let [to, plus] = stack(3, HEADER);
    call(&mut code, LOAD_BYTES, &[set(2, IP), to, plus, set(4, LEN)]);
    if encapsulates {
        // Taken out and put back: only what makes the room can say what it is for.
        call(&mut code, ADJUST_ROOM, &[set(2, -LEN), set(3, ROOM_MAC), set(4, FIXED_GSO)]);
        call(&mut code, ADJUST_ROOM, &[set(2, LEN), set(3, ROOM_MAC), set(4, FIXED_GSO | ENCAP_IPV4)]);
        call(&mut code, STORE_BYTES, &[set(2, IP), to, plus, set(4, LEN), set(5, 0)]);
    }
    code.extend((0..8).map(|i| insn(0x7a, 10, 0, LOOKUP + 8 * i, 0)));
    code.extend([
        insn(0x72, 10, 0, LOOKUP, libc::AF_INET),
        insn(0x72, 10, 0, LOOKUP + 1, protocol.into()),
        insn(0x61, 4, 10, HEADER + 12, 0),
        insn(0x63, 10, 4, LOOKUP + 16, 0),
        insn(0x61, 4, 10, HEADER + 16, 0),
        insn(0x63, 10, 4, LOOKUP + 32, 0),
        insn(0x61, 4, 6, CTX_IFINDEX, 0),
        insn(0x63, 10, 4, LOOKUP + 8, 0),
    ]);
    let [to, plus] = stack(2, LOOKUP);
    call(&mut code, FIB_LOOKUP, &[to, plus, set(3, 64), set(4, SKIP_NEIGH)]);
    code.extend([
        insn(0x61, 1, 10, LOOKUP + 8, 0),
        set(2, 0),
        set(3, 0),
        set(4, 0),
        insn(0x85, 0, 0, 0, REDIRECT_NEIGH),
        insn(0x95, 0, 0, 0, 0),
    ]);
    let end = code.len();
    code.extend(tcx::count(dropped));
    code.extend([set(0, SHOT), insn(0x95, 0, 0, 0, 0)]);
    for (i, instruction) in code[..end].iter_mut().enumerate().filter(|(_, c)| c[0] == JUMP) {
        *instruction = insn(JUMP, 0, 0, (end - i - 1) as i16, 0);
    }
    code
}

impl Device {
    /// Goes on with the device of another process, if that had one.
    pub fn adopt(h: &mut Handles) -> Result<Option<Device>, OpenError> {
        let Ok(file) = h.take("device") else { return Ok(None) };
        let dropped = h.take("device-dropped").ok().map(Observed::new);
        Ok(Some(Device { file: file.into(), link: Arc::new(h.take("device-link")?), dropped }))
    }

    pub fn handles(&self, h: &mut Handles) -> io::Result<()> {
        h.add("device", &self.file)?;
        h.add("device-link", &*self.link)?;
        self.dropped.as_ref().map_or(Ok(()), |d| h.add("device-dropped", d))
    }

    /// Sends one frame: virtio-net header, Ethernet header and whatever else stands in front, then the rest.
    pub fn send(&self, front: &[u8], rest: &[u8]) -> Outcome {
        let iov = [front, rest].map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() });
        // SAFETY: writev only reads from the two live buffers.
        let n = unsafe { libc::writev(self.file.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) };
        if n >= 0 {
            return Outcome::Sent;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Outcome::Busy,
            Some(libc::EBADFD | libc::EBADF | libc::ENODEV | libc::ENXIO) => Outcome::Gone,
            _ => Outcome::Refused,
        }
    }

    /// Where to read how many the program dropped: of all queues, with the first.
    pub fn losses(&self) -> Option<LossReader> {
        self.dropped.as_ref().map(|d| d.reader(Kind::Unsent))
    }
}
