//! TUN and TAP: the engine's own network device, with a virtio-net header so that the kernel hands over TCP and
//! UDP super-frames whole and leaves checksums to whoever needs them.
//!
//! Kernel behaviour (drivers/net/tun.c): one frame per read and per write; a write runs the receiver's whole
//! input path, so it does not block; writing to a device that is down gives EIO; once the device is deleted
//! both directions give EBADFD.

use super::nl::{self, Netlink, Request};
use super::pair::Pair;
use super::sys::{self, Link};
use super::{Caps, Handles, Medium, OpenError, Port, RxReport, TxCsum, TxReport, tun_steer, vnet};
use crate::frame::{Batch, Frame, FramePool, GsoSet};
use crate::wire::Mac;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Which kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunMode {
    /// Frames begin with the IP header.
    Tun,
    /// Frames begin with an Ethernet header.
    Tap,
}

/// The device to make or to attach to.
#[derive(Clone, Debug)]
pub struct TunSpec {
    /// Interface name, 1 to 15 bytes.
    pub name: String,
    pub mode: TunMode,
    /// File of the network namespace it is to be in; `None`: the calling thread's.
    pub netns: Option<PathBuf>,
    /// How many queues, each its own port; 0 counts as 1. A device that is there already must have been made
    /// with the same choice between one and several.
    pub queues: u16,
    /// Bytes from L3 on.
    pub mtu: u16,
    /// Hardware address of a TAP; `None` leaves it as it is (random at first). Ignored for a TUN.
    pub mac: Option<Mac>,
    /// Whether the device outlives the descriptor, and so a restart of the process.
    pub persist: bool,
}

/// Makes the device, or attaches to it if it is there, and sets MTU, address and link. One port per queue.
///
/// Errors: no /dev/net/tun, no permission, the name is taken by another kind of interface or another
/// process, the namespace is gone.
pub fn open(spec: &TunSpec) -> Result<Vec<TunPort>, OpenError> {
    in_namespace(&spec.name, spec.netns.as_deref(), || open_here(spec))
}

/// Deletes the TUN or TAP device `name`, attached or not; no such interface is a success. Refuses other kinds.
pub fn remove(name: &str, netns: Option<&Path>) -> Result<(), OpenError> {
    in_namespace(name, netns, || {
        let fail = |e| OpenError::io(format!("remove {name}"), e);
        let mut link = Link::new(name).map_err(fail)?;
        let index = match link.index() {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            other => other.map_err(fail)?,
        };
        if link.driver().map_err(fail)? != "tun" {
            return Err(not_ours(name));
        }
        Netlink::open().and_then(|mut nl| nl.request(Request::new(libc::RTM_DELLINK, 0, &nl::ifinfo(index)))).map_err(fail)
    })
}

/// Changes the MTU of a device while ports are open on it. Their `caps().mtu` stays what it was.
pub fn set_mtu(name: &str, netns: Option<&Path>, mtu: u16) -> Result<(), OpenError> {
    let set = || Link::new(name).and_then(|mut link| link.set_mtu(u32::from(mtu)));
    in_namespace(name, netns, || set().map_err(|e| OpenError::io(format!("set the MTU of {name}"), e)))
}

fn in_namespace<T: Send>(name: &str, netns: Option<&Path>, f: impl FnOnce() -> Result<T, OpenError> + Send) -> Result<T, OpenError> {
    match netns {
        None => f(),
        Some(path) => sys::in_netns(path, f).map_err(|e| OpenError::io(format!("{name}: enter its network namespace"), e))?,
    }
}

fn not_ours(name: &str) -> OpenError {
    OpenError::Refused {
        what: format!("{name} exists and is not a TUN or TAP device"),
        hint: "choose another name, or remove it with `ip link del`",
    }
}

fn open_here(spec: &TunSpec) -> Result<Vec<TunPort>, OpenError> {
    let queues = spec.queues.max(1);
    let files = (0..queues).map(|_| attach(&spec.name, spec.mode, queues, vnet::LEN)).collect::<Result<Vec<File>, OpenError>>()?;
    let fail = |step: &str, e| OpenError::io(format!("{}: {step}", spec.name), e);
    let gso = offload(&files[0]).map_err(|e| fail("TUNSETOFFLOAD", e))?;
    if queues > 1 {
        steer(&files[0], spec.mode).map_err(|e| fail("choose queues by flow (TUNSETSTEERINGEBPF)", e))?;
    }
    set_persist(&files[0], spec.persist).map_err(|e| fail("TUNSETPERSIST", e))?;
    configure(spec).map_err(|(step, e)| fail(step, e))?;
    Ok(ports(spec, files, gso))
}

/// Goes on with the device's queues of another process that was given the same `spec`.
pub fn adopt(spec: &TunSpec, queues: Vec<Handles>) -> Result<Vec<TunPort>, OpenError> {
    let take = |mut h: Handles| h.expect(driver(spec.mode)).and_then(|()| h.take("file")).map(File::from);
    let files = queues.into_iter().map(take).collect::<Result<Vec<File>, OpenError>>()?;
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    // They are set already: this tells which.
    let gso = offload(first).map_err(|e| OpenError::io(format!("{}: TUNSETOFFLOAD", spec.name), e))?;
    Ok(ports(spec, files, gso))
}

fn driver(mode: TunMode) -> &'static str {
    if mode == TunMode::Tap { "tap" } else { "tun" }
}

fn ports(spec: &TunSpec, files: Vec<File>, gso: GsoSet) -> Vec<TunPort> {
    let caps = |queue| Caps {
        driver: driver(spec.mode),
        medium: if spec.mode == TunMode::Tap { Medium::Ethernet } else { Medium::Ip },
        mtu: u32::from(spec.mtu),
        gso,
        tx_csum: TxCsum::Port,
        queue,
    };
    files.into_iter().zip(0..).map(|(file, queue)| TunPort { caps: caps(queue), file }).collect()
}

/// One more queue of the device, whose frames have a virtio-net header of `header` bytes.
pub(super) fn attach(name: &str, mode: TunMode, queues: u16, header: usize) -> Result<File, OpenError> {
    const DEVICE: &str = "/dev/net/tun";
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE).map_err(|e| {
        let what = format!("{name}: open {DEVICE}");
        match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                OpenError::with_hint(what, e, "load the driver (`modprobe tun`) and, in a container, pass the device in")
            }
            _ => OpenError::io(what, e),
        }
    })?;
    let mut flags = libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    flags |= if mode == TunMode::Tap { libc::IFF_TAP } else { libc::IFF_TUN };
    if queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut req = sys::ifreq(name).map_err(|e| OpenError::io("make TUN/TAP device", e))?;
    req.ifr_ifru.ifru_flags = flags as libc::c_short;
    sys::ioctl_ifreq(&file, libc::TUNSETIFF as _, &mut req).map_err(|e| attach_error(name, e))?;
    header_size(&file, header).map_err(|e| OpenError::io(format!("{name}: TUNSETVNETHDRSZ"), e))?;
    Ok(file)
}

/// What a refused TUNSETIFF means.
fn attach_error(name: &str, e: io::Error) -> OpenError {
    let what = format!("{name}: attach (TUNSETIFF)");
    match e.raw_os_error() {
        Some(libc::EINVAL) => match Link::new(name).and_then(|mut link| link.driver()) {
            Ok(driver) if driver == "tun" => OpenError::with_hint(
                what,
                e,
                "a device of this name was made as the other kind (TUN, TAP) or with another number of queues: remove it first",
            ),
            _ => not_ours(name),
        },
        Some(libc::EBUSY) => OpenError::with_hint(what, e, "another process is attached to it: stop that one first"),
        Some(libc::E2BIG) => OpenError::with_hint(what, e, "all of its queues are attached: stop the other process or ask for fewer"),
        _ => OpenError::io(what, e),
    }
}

fn header_size(file: &File, size: usize) -> io::Result<()> {
    let size = size as libc::c_int;
    // SAFETY: the kernel reads one int, which is live.
    sys::check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &size) }).map(drop)
}

fn set_persist(file: &File, persist: bool) -> io::Result<()> {
    // SAFETY: the argument is an integer, not a pointer.
    sys::check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST as _, libc::c_ulong::from(persist)) }).map(drop)
}

/// Sets the offloads (`TUN_F_*`) that whoever holds the descriptor deals with. EINVAL: one is unknown.
pub(super) fn set_offload(file: &File, bits: u32) -> io::Result<()> {
    // SAFETY: the argument is an integer, not a pointer.
    sys::check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(bits)) }).map(drop)
}

/// Has the kernel choose a packet's queue by its flow alone (Linux 4.16).
fn steer(file: &File, mode: TunMode) -> io::Result<()> {
    let program = tun_steer::load(mode)?;
    let fd: libc::c_int = program.as_raw_fd();
    // SAFETY: the argument points to a live integer; the device keeps its own reference to the program.
    sys::check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETSTEERINGEBPF as _, &raw const fd) }).map(drop)
}

/// Asks for unfinished checksums and super-frames, as many kinds as this kernel knows (USO came in 6.2).
fn offload(file: &File) -> io::Result<GsoSet> {
    const TSO: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    const CHOICES: [(u32, GsoSet); 3] =
        [(TSO | USO, GsoSet::ALL), (TSO, GsoSet { udp: false, ..GsoSet::ALL }), (libc::TUN_F_CSUM, GsoSet::NONE)];
    for (bits, gso) in CHOICES {
        match set_offload(file, bits) {
            Ok(()) => return Ok(gso),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

/// Sets MTU, hardware address and link state.
fn configure(spec: &TunSpec) -> Result<(), (&'static str, io::Error)> {
    let mut link = Link::new(&spec.name).map_err(|e| ("name", e))?;
    link.set_mtu(u32::from(spec.mtu)).map_err(|e| ("set MTU", e))?;
    if let (Some(mac), TunMode::Tap) = (spec.mac, spec.mode) {
        link.set_mac(mac).map_err(|e| ("set hardware address", e))?;
    }
    link.set_up().map_err(|e| ("set up", e))
}

/// One queue of a TUN or TAP device.
pub struct TunPort {
    caps: Caps,
    file: File,
}

/// What became of one frame given to the device.
enum Sent {
    Yes,
    /// The kernel refused this frame.
    Refused,
    /// No room now.
    Later,
}

impl TunPort {
    /// Lets the device go with the last descriptor.
    pub fn unpersist(&self) -> io::Result<()> {
        set_persist(&self.file, false)
    }

    fn read(&self, header: &mut [u8; vnet::LEN], pair: &Pair, pool: &mut FramePool) -> io::Result<usize> {
        let [small, big] = pair.iovecs(pool);
        let iov = [libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() }, small, big];
        // SAFETY: the header is exclusively borrowed and the pair's slots belong to no frame but the pair's.
        let n = unsafe { libc::readv(self.file.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n as usize) }
    }

    fn write(&self, frame: &Frame, pool: &FramePool) -> io::Result<Sent> {
        let data = pool.data(frame);
        let Some(header) = vnet::emit(frame, data) else { return Ok(Sent::Refused) };
        let iov = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() },
            libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() },
        ];
        // SAFETY: writev only reads from the two live buffers.
        let n = unsafe { libc::writev(self.file.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) };
        if n >= 0 {
            return Ok(Sent::Yes);
        }
        let e = io::Error::last_os_error();
        match e.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Sent::Later),
            // Deleted, or its namespace was.
            Some(libc::EBADFD | libc::ENODEV | libc::ENXIO | libc::EBADF) => Err(e),
            // Down (EIO), out of memory, or a frame that the kernel cannot make sense of.
            _ => Ok(Sent::Refused),
        }
    }
}

impl Port for TunPort {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn rx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<RxReport> {
        let mut report = RxReport::default();
        let before = out.len();
        let mut header = [0u8; vnet::LEN];
        while out.room() > 0 {
            let Some(pair) = Pair::take(pool) else { break };
            let n = match self.read(&mut header, &pair, pool) {
                Ok(n) => n,
                Err(e) => {
                    pair.give(pool);
                    match e.raw_os_error() {
                        Some(libc::EAGAIN) => break,
                        Some(libc::EINTR) => continue,
                        // The kernel could not describe the super-frame; it is consumed.
                        Some(libc::EINVAL) => {
                            report.malformed += 1;
                            continue;
                        }
                        // Gone. What was received first goes out first; the next call meets the error again.
                        _ if out.len() > before || report != RxReport::default() => break,
                        _ => return Err(e),
                    }
                }
            };
            let Some(len) = n.checked_sub(vnet::LEN) else {
                pair.give(pool);
                report.malformed += 1;
                continue;
            };
            match pair.finish(pool, len) {
                None => report.truncated += 1,
                Some(mut frame) => match vnet::parse(&header, &mut frame) {
                    Ok(()) => out.push(frame),
                    Err(vnet::Malformed) => {
                        pool.give(frame);
                        report.malformed += 1;
                    }
                },
            }
        }
        Ok(report)
    }

    fn tx_burst(&mut self, pool: &mut FramePool, out: &mut Batch) -> io::Result<TxReport> {
        let mut report = TxReport::default();
        let mut done = 0;
        for frame in out.as_slice() {
            match self.write(frame, pool) {
                Ok(Sent::Yes) => report.sent += 1,
                Ok(Sent::Refused) => report.errors += 1,
                Ok(Sent::Later) => break,
                // Report what went out before; the next call meets the error again.
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
            done += 1;
        }
        for frame in out.drain_front(done) {
            pool.give(frame);
        }
        Ok(report)
    }

    fn handles(&self) -> io::Result<Option<Handles>> {
        let mut h = Handles::new(self.caps.driver);
        h.add("file", &self.file)?;
        Ok(Some(h))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn release(&mut self, _pool: &mut FramePool) {
        // No slot is held between calls; the device goes when the descriptor is closed, unless it persists.
    }
}
