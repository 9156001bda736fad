//! The choice among I/O methods: the best that works on this kernel and interface, and one line for each better
//! one that was refused.

use super::xsk::{self, RingSizes, Steering, XskMode, XskSpec, ZeroCopy};
use super::{Handles, OpenError, Port, packet, raw, sys, tun, udp};
use crate::frame::Umem;
use crate::wire::vxlan::Vni;
use std::net::Ipv4Addr;

/// How to reach other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkMethod {
    /// AF_XDP where the driver reads and writes our memory itself (zero-copy), else sockets.
    Auto,
    /// AF_XDP: zero-copy if possible, else copying.
    AfXdp,
    /// UDP for VXLAN, raw IP for IP-in-IP, a packet socket for what is not encapsulated.
    Socket,
}

/// How to attach to a pod's veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VethMethod {
    /// AF_PACKET, and AF_XDP if that is refused.
    Auto,
    AfPacket,
    AfXdp,
}

/// The uplink to open.
#[derive(Clone, Copy, Debug)]
pub struct UplinkSpec<'a> {
    pub interface: &'a str,
    pub method: UplinkMethod,
    /// For AF_XDP.
    pub mode: XskMode,
    /// For AF_XDP: as [`XskSpec::busy_poll`].
    pub busy_poll: u16,
    /// This node's underlay address.
    pub node: Ipv4Addr,
    /// VXLAN port.
    pub port: u16,
    pub vni: Vni,
    /// Whether sockets are given devices that send super-frames whole, where the kernel has what they need.
    pub whole: bool,
    /// The memory of each worker's pool: as many queues are opened.
    pub umems: &'a [Umem],
}

/// An open port of another process: for each of its numbers the queues, worker by worker.
pub struct Inherited {
    pub sets: Vec<Vec<Handles>>,
    /// What was refused when it was opened.
    pub refused: Vec<String>,
}

impl Inherited {
    fn is_xdp(&self) -> bool {
        self.sets.first().and_then(|queues| queues.first()).is_some_and(|h| xsk::is_driver(&h.driver))
    }
}

/// A queue for each worker.
pub type Queues = Vec<Box<dyn Port>>;

/// One port, and the better methods that did not work, one line each as `method: reason`.
pub struct Opened {
    pub queues: Queues,
    pub refused: Vec<String>,
}

/// What the uplink came to.
pub struct OpenedUplink {
    pub ports: UplinkPorts,
    pub refused: Vec<String>,
}

/// The uplink's ports.
pub enum UplinkPorts {
    /// One that carries everything (Ethernet).
    Whole(Queues),
    /// One for each way of reaching a node. What could not be opened is empty.
    Split { vxlan: Queues, ipip: Queues, direct: Queues },
}

fn boxed<P: Port + 'static>(ports: Vec<P>) -> Queues {
    ports.into_iter().map(|p| Box::new(p) as Box<dyn Port>).collect()
}

fn line(method: &str, e: &OpenError) -> String {
    format!("{method}: {e}")
}

/// Opens the uplink. Errors: all that was tried, one line each.
pub fn uplink(spec: &UplinkSpec<'_>) -> Result<OpenedUplink, Vec<String>> {
    let mut refused = Vec::new();
    match spec.method {
        UplinkMethod::Socket => {}
        UplinkMethod::AfXdp => {
            return match uplink_xdp(spec, ZeroCopy::Try) {
                Ok(p) => Ok(whole(p, refused)),
                Err(e) => Err(vec![line("af-xdp", &e)]),
            };
        }
        UplinkMethod::Auto => match zero_copy_uplink(spec) {
            Ok(p) => return Ok(whole(p, refused)),
            Err(why) => refused.push(why),
        },
    }
    match uplink_sockets(spec, &mut refused) {
        Ok(ports) => Ok(OpenedUplink { ports, refused }),
        Err(e) => {
            refused.push(line("udp", &e));
            if spec.method == UplinkMethod::Socket {
                return Err(refused);
            }
            match uplink_xdp(spec, ZeroCopy::Try) {
                Ok(p) => Ok(whole(p, refused)),
                Err(e) => {
                    refused.push(line("af-xdp", &e));
                    Err(refused)
                }
            }
        }
    }
}

fn whole(ports: Vec<xsk::XskPort>, mut refused: Vec<String>) -> OpenedUplink {
    refused.extend(lesser_hook(&ports));
    OpenedUplink { ports: UplinkPorts::Whole(boxed(ports)), refused }
}

/// Why an AF_XDP port runs in generic mode, if it does.
fn lesser_hook(ports: &[xsk::XskPort]) -> Option<String> {
    ports.first().and_then(|p| p.refusal()).map(|why| format!("af-xdp: {why}"))
}

/// AF_XDP on the uplink where it is the best method, or the line that says why it is not.
fn zero_copy_uplink(spec: &UplinkSpec<'_>) -> Result<Vec<xsk::XskPort>, String> {
    let driver = sys::Link::new(spec.interface).and_then(|mut l| l.driver()).unwrap_or_else(|_| "unknown".into());
    let none = format!("af-xdp: driver {driver} has no zero-copy; a segmenting UDP socket is faster there");
    // Known without trying; attaching a program to look would disturb the interface for nothing.
    if ["veth", "tun", "bridge", "bonding", "dummy"].contains(&driver.as_str()) {
        return Err(none);
    }
    uplink_xdp(spec, ZeroCopy::Require).map_err(|e| match e.errno() {
        Some(libc::EOPNOTSUPP | libc::EINVAL) => none,
        _ => line("af-xdp", &e),
    })
}

fn uplink_xdp(spec: &UplinkSpec<'_>, zero_copy: ZeroCopy) -> Result<Vec<xsk::XskPort>, OpenError> {
    xsk::open(&XskSpec {
        interface: spec.interface,
        steering: Steering::Tunnel { node: spec.node, port: spec.port, vni: spec.vni },
        mode: spec.mode,
        umems: spec.umems,
        zero_copy,
        busy_poll: spec.busy_poll,
        rings: RingSizes::UPLINK,
    })
}

/// Goes on with the uplink of another process. What was not open there is not here either.
pub fn adopt_uplink(spec: &UplinkSpec<'_>, from: Inherited) -> Result<OpenedUplink, OpenError> {
    let xdp = from.is_xdp();
    let mut sets = from.sets.into_iter();
    if xdp {
        let ports = xsk::adopt(spec.interface, spec.umems, spec.busy_poll > 0, sets.next().unwrap_or_default())?;
        return Ok(OpenedUplink { ports: UplinkPorts::Whole(boxed(ports)), refused: from.refused });
    }
    let mut set = || sets.next().unwrap_or_default();
    let (whole, queues) = (spec.whole, spec.umems.len() as u16);
    let vxlan = udp::adopt(&udp::UdpSpec { node: spec.node, port: spec.port, queues, interface: spec.interface, whole }, set())?;
    let ipip = raw::adopt(&raw::RawSpec { node: spec.node, queues, interface: spec.interface, whole }, set())?;
    let direct = packet::adopt(spec.interface, set())?;
    let ports = UplinkPorts::Split { vxlan: boxed(vxlan), ipip: boxed(ipip), direct: boxed(direct) };
    Ok(OpenedUplink { ports, refused: from.refused })
}

/// Goes on with another process's ports on a pod's veth.
pub fn adopt_veth(interface: &str, busy_poll: u16, umems: &[Umem], from: Inherited) -> Result<Opened, OpenError> {
    let xdp = from.is_xdp();
    let set = from.sets.into_iter().next().unwrap_or_default();
    let queues = if xdp { boxed(xsk::adopt(interface, umems, busy_poll > 0, set)?) } else { boxed(packet::adopt(interface, set)?) };
    Ok(Opened { queues, refused: from.refused })
}

/// Goes on with another process's TUN or TAP device.
pub fn adopt_tuntap(spec: &tun::TunSpec, from: Inherited) -> Result<Opened, OpenError> {
    Ok(Opened { queues: boxed(tun::adopt(spec, from.sets.into_iter().next().unwrap_or_default())?), refused: from.refused })
}

/// Without VXLAN's socket there is no socket uplink; without the others their routes drop, and that is said.
fn uplink_sockets(spec: &UplinkSpec<'_>, refused: &mut Vec<String>) -> Result<UplinkPorts, OpenError> {
    let queues = spec.umems.len() as u16;
    let vxlan = udp::open(&udp::UdpSpec { node: spec.node, port: spec.port, queues, interface: spec.interface, whole: spec.whole })?;
    let cut = |method, why| format!("{method}: super-frames are cut in userspace: {why}");
    refused.extend(vxlan.first().and_then(|p| p.refusal()).map(|why| cut("udp", why)));
    let ipip = raw::open(&raw::RawSpec { node: spec.node, queues, interface: spec.interface, whole: spec.whole }).unwrap_or_else(|e| {
        refused.push(format!("{}; routes over IP-in-IP drop", line("raw", &e)));
        Vec::new()
    });
    refused.extend(ipip.first().and_then(|p| p.refusal()).map(|why| cut("raw", why)));
    let direct = packet::open_sender(spec.interface, queues).unwrap_or_else(|e| {
        refused.push(format!("{}; routes without encapsulation drop", line("af-packet", &e)));
        Vec::new()
    });
    Ok(UplinkPorts::Split { vxlan: boxed(vxlan), ipip: boxed(ipip), direct: boxed(direct) })
}

/// Attaches to the host side of a pod's veth. Errors: all that was tried, one line each.
pub fn veth(interface: &str, method: VethMethod, mode: XskMode, busy_poll: u16, umems: &[Umem]) -> Result<Opened, Vec<String>> {
    let mut refused = Vec::new();
    if method != VethMethod::AfXdp {
        match packet::open_workload(interface, umems.len() as u16) {
            Ok(p) => return Ok(Opened { queues: boxed(p), refused }),
            Err(e) => refused.push(line("af-packet", &e)),
        }
    }
    if method == VethMethod::AfPacket {
        return Err(refused);
    }
    let spec = XskSpec { interface, steering: Steering::All, mode, umems, zero_copy: ZeroCopy::No, busy_poll, rings: RingSizes::WORKLOAD };
    match xsk::open(&spec) {
        Ok(p) => {
            refused.extend(lesser_hook(&p));
            Ok(Opened { queues: boxed(p), refused })
        }
        Err(e) => {
            refused.push(line("af-xdp", &e));
            Err(refused)
        }
    }
}

/// Makes a TUN or TAP device, or attaches to the one that is there. One of ours that was left with another
/// number of queues is made anew. Errors: all that was tried, one line each.
pub fn tuntap(spec: &tun::TunSpec) -> Result<Opened, Vec<String>> {
    let method = if spec.mode == tun::TunMode::Tap { "tap" } else { "tun" };
    let first = match tun::open(spec) {
        Ok(p) => return Ok(Opened { queues: boxed(p), refused: Vec::new() }),
        Err(e) => e,
    };
    // EINVAL: it exists with the other choice between one queue and several, from a run with other settings.
    if first.errno() == Some(libc::EINVAL) && tun::remove(&spec.name, spec.netns.as_deref()).is_ok() {
        return match tun::open(spec) {
            Ok(p) => Ok(Opened { queues: boxed(p), refused: Vec::new() }),
            Err(e) => Err(vec![line(method, &e)]),
        };
    }
    Err(vec![line(method, &first)])
}
