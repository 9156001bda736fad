//! AF_XDP ports: frames between an interface's receive queues and the pool's own memory, without socket buffers
//! of ours in between. Sockets, rings and the steering program are driven by system calls alone: no libbpf,
//! no ELF objects, no compiler at run time.
//!
//! One worker owns one [`XskPort`] per interface, with a socket for each receive queue that is its share. The
//! XDP program is shared by all ports of the interface and goes away with the last of them, or with the process.
//! Linux 5.9 is needed (XDP links), 5.18 to attach to interfaces with a large MTU, 6.6 for frames beyond one slot.

mod bpf;
mod link;
mod port;
mod rings;
mod socket;
mod steer;

pub use port::XskPort;
pub use steer::Steering;

use super::{Caps, Handles, Medium, OpenError, TxCsum, sys};
use crate::frame::{Csum, GsoSet, Umem};
use bpf::{Frags, Hook, Insn, LoadError, Program, XskMap};
use socket::{Socket, Target};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Where the steering program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XskMode {
    /// In the driver if it can, else in the stack.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack (skb mode): any interface, slower.
    Generic,
}

/// Whether the driver shall read and write the pool's memory itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    Try,
    /// Or not at all.
    Require,
    No,
}

/// Entries of each ring: powers of two. Slots of the pool in use are at most `fill` for receiving and
/// `completion` for sending, per queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    pub rx: u32,
    pub tx: u32,
    pub fill: u32,
    pub completion: u32,
}

impl RingSizes {
    // All slots that are given for receiving can wait in the receive ring while nobody receives.
    /// For one of very many interfaces that share a pool.
    pub const WORKLOAD: RingSizes = RingSizes { rx: 512, tx: 256, fill: 512, completion: 256 };
    /// For the interface that carries everything.
    pub const UPLINK: RingSizes = RingSizes { rx: 2048, tx: 1024, fill: 2048, completion: 1024 };

    fn check(&self) -> bool {
        [self.rx, self.tx, self.fill, self.completion].iter().all(|n| n.is_power_of_two() && *n <= 1 << 16)
    }
}

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct XskSpec<'a> {
    pub interface: &'a str,
    pub steering: Steering,
    pub mode: XskMode,
    /// The memory of each worker's pool, which must be mapped until the ports are opened (from then on the kernel
    /// holds the pages itself). Receive queue q goes to worker q modulo their number.
    pub umems: &'a [Umem],
    pub zero_copy: ZeroCopy,
    /// Busy polling (SO_BUSY_POLL), microseconds; 0: off.
    pub busy_poll: u16,
    pub rings: RingSizes,
}

/// The steering program on an interface, with its map of sockets. It is detached when the last process that has it open
/// drops it.
struct Attachment {
    // Detached first: no frame looks for a socket in a map that is going away. It keeps the program.
    link: OwnedFd,
    map: XskMap,
    hook: Hook,
    /// Why it is not the better hook.
    refused: Option<String>,
}

/// Attaches the steering program to an interface of the calling thread's network namespace and binds all of its
/// receive queues. One port for each entry of `umems`, in their order.
///
/// Errors: fewer queues than workers; another XDP program or AF_XDP socket is there; the driver or kernel lacks
/// what is required; missing privileges (CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF). Nothing stays behind.
///
/// The kernel frees queues and hooks of closed sockets a moment after the close: a busy one is tried again for up
/// to 200 ms, so that a port can be reopened at once.
pub fn open(spec: &XskSpec<'_>) -> Result<Vec<XskPort>, OpenError> {
    let mut result = open_once(spec);
    for _ in 0..BUSY_TRIES {
        match &result {
            Err(e) if matches!(e.errno(), Some(libc::EBUSY | libc::EEXIST)) => std::thread::sleep(BUSY_PAUSE),
            _ => break,
        }
        result = open_once(spec);
    }
    result
}

const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

fn open_once(spec: &XskSpec<'_>) -> Result<Vec<XskPort>, OpenError> {
    let name = spec.interface;
    let step = |what: &str| format!("AF_XDP on {name}: {what}");
    let refuse = |what: String, hint| OpenError::Refused { what, hint };
    if !spec.rings.check() {
        return Err(refuse(step(&format!("{:?}", spec.rings)), "ring sizes are powers of two up to 65536"));
    }
    if spec.umems.iter().any(|u| u.len == 0) {
        return Err(refuse(step("a pool without small slots"), "give every worker's pool small slots"));
    }
    let mut link = sys::Link::new(name).map_err(|e| OpenError::io(step("interface"), e))?;
    let ifindex = link.index().map_err(|e| OpenError::io(step("interface number"), e))?;
    let mtu = link.mtu().map_err(|e| OpenError::io(step("MTU"), e))?;
    if link.hardware().map_err(|e| OpenError::io(step("hardware type"), e))?.0 != libc::ARPHRD_ETHER {
        return Err(refuse(step("not an Ethernet interface"), "use another I/O method for it"));
    }
    let queues = link::rx_queues(name, ifindex).map_err(|e| OpenError::io(step("number of queues"), e))?;
    let workers = spec.umems.len() as u32;
    if workers == 0 || queues < workers {
        let what = step(&format!("{queues} receive queues for {workers} workers"));
        return Err(refuse(what, "every worker needs a queue: raise them (ethtool -L, or numrxqueues for a veth) or run fewer workers"));
    }

    let attachment = Arc::new(attach(spec, ifindex, queues)?);
    let mut sockets: Vec<Vec<(u32, Socket)>> = spec.umems.iter().map(|_| Vec::new()).collect();
    for queue in 0..queues {
        let worker = (queue % workers) as usize;
        let zero_copy = if attachment.hook == Hook::Native { spec.zero_copy } else { ZeroCopy::No };
        let target = Target { interface: name, ifindex, queue, zero_copy, busy_poll: spec.busy_poll };
        let socket = Socket::open(&target, spec.umems[worker], &spec.rings)?;
        attachment.map.insert(queue, &socket.fd).map_err(|e| OpenError::io(step("put socket into the map"), e))?;
        sockets[worker].push((queue, socket));
    }
    let csum = if link::may_be_partial(name) { Csum::MayBePartial } else { Csum::Complete };
    let build = |(sockets, umem): (Vec<(u32, Socket)>, &Umem)| {
        let caps = caps(&attachment, &sockets, mtu);
        XskPort::new(caps, csum, sockets, attachment.clone(), *umem).map_err(|e| OpenError::io(step("epoll"), e))
    };
    sockets.into_iter().zip(spec.umems).map(build).collect()
}

impl Attachment {
    fn handles(&self, h: &mut Handles) -> io::Result<()> {
        h.note("native", (self.hook == Hook::Native).into());
        h.add("link", &self.link)?;
        h.add("map", &self.map)
    }

    fn adopt(h: &mut Handles) -> Result<Attachment, OpenError> {
        let hook = if h.number("native")? != 0 { Hook::Native } else { Hook::Generic };
        Ok(Attachment { link: h.take("link")?, map: XskMap::adopt(h.take("map")?), hook, refused: None })
    }
}

/// Whether a queue that another process passes on is one of these ports.
pub fn is_driver(driver: &str) -> bool {
    [ZEROCOPY, NATIVE, GENERIC].contains(&driver)
}

const ZEROCOPY: &str = "af-xdp-zerocopy";
const NATIVE: &str = "af-xdp-native";
const GENERIC: &str = "af-xdp-generic";

/// Goes on with the ports of another process on the same interface, from [`open`], in the same memory: one for each worker,
/// as there. Nothing is changed in the kernel, and they do nothing, until [`super::Port::take_up`].
/// `busy_poll`: whether they were opened with it.
pub fn adopt(interface: &str, umems: &[Umem], busy_poll: bool, workers: Vec<Handles>) -> Result<Vec<XskPort>, OpenError> {
    let step = |what: &str| format!("AF_XDP on {interface}: {what}");
    let mtu = sys::Link::new(interface).and_then(|mut l| l.mtu()).map_err(|e| OpenError::io(step("MTU"), e))?;
    if workers.len() != umems.len() {
        let what = step(&format!("{} workers of the running daemon for {} here", workers.len(), umems.len()));
        return Err(OpenError::Refused { what, hint: "restart instead of taking over" });
    }
    let csum = if link::may_be_partial(interface) { Csum::MayBePartial } else { Csum::Complete };
    let mut attachment: Option<Arc<Attachment>> = None;
    let port = |(mut h, umem): (Handles, &Umem)| {
        let attachment = match &attachment {
            Some(a) => a.clone(),
            None => attachment.insert(Arc::new(Attachment::adopt(&mut h)?)).clone(),
        };
        let mut sockets = Vec::new();
        for i in 0..h.word("queues")? as usize {
            sockets.push((h.word(&format!("queue-{i}"))?, Socket::adopt(interface, &mut h, i, busy_poll)?));
        }
        let caps = caps(&attachment, &sockets, mtu);
        h.expect(caps.driver)?;
        Ok(XskPort::new(caps, csum, sockets, attachment, *umem).map_err(|e| OpenError::io(step("epoll"), e))?.of_another())
    };
    workers.into_iter().zip(umems).map(port).collect()
}

fn caps(attachment: &Attachment, sockets: &[(u32, Socket)], mtu: u32) -> Caps {
    let driver = match attachment.hook {
        _ if sockets.iter().all(|(_, s)| s.zero_copy) => ZEROCOPY,
        Hook::Native => NATIVE,
        Hook::Generic => GENERIC,
    };
    // Without multi-buffer a frame ends with its slot.
    let most = if sockets.iter().all(|(_, s)| s.multi_buffer) { port::MAX_MTU } else { port::MAX_SINGLE_MTU };
    let mtu = mtu.min(most);
    let queue = sockets.first().map_or(0, |(queue, _)| *queue as u16);
    Caps { driver, medium: Medium::Ethernet, mtu, gso: GsoSet::NONE, tx_csum: TxCsum::Software, queue }
}

/// Loads the program and attaches it by the first hook of the mode that is taken.
fn attach(spec: &XskSpec<'_>, ifindex: u32, queues: u32) -> Result<Attachment, OpenError> {
    let step = |what: &str| format!("AF_XDP on {}: {what}", spec.interface);
    if spec.zero_copy == ZeroCopy::Require && spec.mode == XskMode::Generic {
        return Err(OpenError::Refused { what: step("zero-copy in generic mode"), hint: "zero-copy needs the native mode" });
    }
    let map = XskMap::new(queues).map_err(|e| OpenError::io(step("make map of sockets"), e))?;
    let program = load(&steer::assemble(spec.steering, map.as_raw_fd())).map_err(|e| {
        let log = if e.log.is_empty() { String::new() } else { format!(" (verifier: {})", e.log) };
        OpenError::io(step(&format!("load steering program{log}")), e.source)
    })?;
    let hooks: &[Hook] = match spec.mode {
        XskMode::Auto if spec.zero_copy == ZeroCopy::Require => &[Hook::Native],
        XskMode::Auto => &[Hook::Native, Hook::Generic],
        XskMode::Native => &[Hook::Native],
        XskMode::Generic => &[Hook::Generic],
    };
    let mut refused: Option<String> = None;
    let mut last = std::io::Error::from_raw_os_error(libc::EINVAL);
    for hook in hooks {
        match program.attach(ifindex, *hook) {
            Ok(link) => return Ok(Attachment { link, map, hook: *hook, refused }),
            Err(e) => {
                let text = format!("{} mode: {e}", if *hook == Hook::Native { "native" } else { "generic" });
                refused = Some(refused.map_or(text.clone(), |before| format!("{before}; {text}")));
                last = e;
            }
        }
    }
    let hint = match last.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            "another XDP program is attached: see `ip link`, remove it with `ip link set IFACE xdp off` or stop its owner"
        }
        Some(libc::EINVAL) => "XDP links need Linux 5.9",
        Some(libc::ENOSPC) => {
            "native mode on a veth needs as many receive queues as its peer has send queues: use the generic mode or add queues"
        }
        Some(libc::ERANGE) => "the MTU is too large for native mode: lower it or use the generic mode",
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP: use the generic mode",
        _ => return Err(OpenError::io(step(&format!("attach, {}", refused.unwrap_or_default())), last)),
    };
    Err(OpenError::with_hint(step(&format!("attach, {}", refused.unwrap_or_default())), last, hint))
}

/// Loads for frames of several buffers where the kernel knows them.
fn load(code: &[Insn]) -> Result<Program, LoadError> {
    match Program::load(code, Frags::Yes) {
        Err(e) if e.source.raw_os_error() == Some(libc::EINVAL) => Program::load(code, Frags::No),
        other => other,
    }
}
