//! The pod's interface as Calico makes it: a veth pair, or what there is to set on a TAP that the daemon made.
//! Inside are a /32, 169.254.1.1 on the link and a default route through it; the engine answers for that address.

use super::error::{CniError, io};
use super::workload::Mark;
use crate::control::netlink::Netlink;
use crate::control::netlink::pod::{Device, Veth};
use crate::port::shape::{self, Limit};
use crate::port::sys;
use crate::wire::Mac;
use ipnet::Ipv4Net;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

/// The gateway of every pod: on no interface, answered by ARP.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Hardware address of the host's end.
pub const HOST_MAC: Mac = Mac([0xee; 6]);

/// What the pod's end gets.
#[derive(Clone, Debug)]
pub struct Inside<'a> {
    pub netns: &'a Path,
    pub interface: &'a str,
    pub addresses: &'a [Ipv4Addr],
    /// Reached through [`GATEWAY`].
    pub routes: &'a [Ipv4Net],
    pub forwarding: bool,
    /// On what it sends.
    pub egress: Option<Limit>,
}

/// What the host's end is.
#[derive(Clone, Debug)]
pub struct Outside<'a> {
    pub interface: &'a str,
    pub mark: &'a Mark,
    pub mac: Option<Mac>,
    pub mtu: u16,
    pub queues: u16,
}

/// The pair as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Of the host's end.
    pub index: u32,
    /// Of the pod's.
    pub mac: Mac,
}

/// Makes the pair and sets both ends up. Another container's leftover of the same name goes first.
pub fn make(outside: &Outside, inside: &Inside) -> Result<Pair, CniError> {
    let mut netlink = Netlink::for_requests().map_err(io("open a netlink socket"))?;
    if let Some(old) = stale(&mut netlink, outside.interface, outside.mark)? {
        tracing::info!("{}: removed, it was left behind by {}", old.name, old.alias.as_deref().unwrap_or("somebody else"));
        netlink.del_link(old.index).map_err(io(format!("remove the old interface {}", old.name)))?;
    }
    let netns = File::open(inside.netns).map_err(io(format!("open the network namespace {}", inside.netns.display())))?;
    let veth = Veth {
        name: outside.interface,
        mac: HOST_MAC,
        alias: &outside.mark.text(),
        peer: inside.interface,
        peer_mac: outside.mac,
        netns: netns.as_fd(),
        mtu: outside.mtu.into(),
        queues: outside.queues,
    };
    netlink.add_veth(&veth).map_err(io(format!("make the veth pair {} and {}", outside.interface, inside.interface)))?;
    let mut rest = || -> Result<Pair, CniError> {
        let mac = configure(inside, outside.mtu)?;
        host_settings(outside.interface)?;
        let index = host_up(&mut netlink, outside)?;
        Ok(Pair { index, mac })
    };
    let done = rest();
    if done.is_err() {
        let _ = remove_host(outside.interface, outside.mark);
    }
    done
}

/// Refuses what could not go well, before anything is changed: a name that is taken inside, or a host interface that is
/// not one to replace.
pub fn preflight(host: Option<&str>, mark: &Mark, netns: &Path) -> Result<(), CniError> {
    let mut netlink = Netlink::for_requests().map_err(io("open a netlink socket"))?;
    if let Some(host) = host {
        stale(&mut netlink, host, mark)?;
    }
    free_inside(netns, &mark.interface)
}

/// What an attachment that was not cleaned up left on the host.
fn stale(netlink: &mut Netlink, name: &str, mark: &Mark) -> Result<Option<Device>, CniError> {
    let Some(old) = netlink.device(name).map_err(io(format!("look at {name}")))? else { return Ok(None) };
    let theirs = old.alias.as_deref().and_then(Mark::parse);
    if let Some(other) = theirs.filter(|m| m.container == mark.container && m.interface != mark.interface) {
        return Err(CniError::Refused {
            what: format!("interface {}", mark.interface),
            fault: format!("the container has {} on this network already, and a pod has one interface here", other.interface),
        });
    }
    if old.kind.as_deref() != Some("veth") {
        return Err(CniError::Refused {
            what: format!("host interface {name}"),
            fault: format!("there is one of this name that is no veth ({}): rename it", old.kind.as_deref().unwrap_or("a device")),
        });
    }
    Ok(Some(old))
}

/// The name inside must be free.
fn free_inside(netns: &Path, interface: &str) -> Result<(), CniError> {
    match device_inside(netns, interface)? {
        None => Ok(()),
        Some(_) => Err(CniError::Refused {
            what: format!("CNI_IFNAME {interface}"),
            fault: format!("the namespace {} has an interface of this name already", netns.display()),
        }),
    }
}

/// An interface in a namespace.
pub fn device_inside(netns: &Path, name: &str) -> Result<Option<Device>, CniError> {
    let ask = || Netlink::for_requests().and_then(|mut n| n.device(name));
    sys::in_netns(netns, ask).and_then(|answer| answer).map_err(io(format!("look at {name} in {}", netns.display())))
}

/// An interface on the host.
pub fn device_outside(name: &str) -> Result<Option<Device>, CniError> {
    Netlink::for_requests().and_then(|mut n| n.device(name)).map_err(io(format!("look at {name}")))
}

/// Gives the pod's end its address and routes and sets it up; returns its hardware address.
pub fn configure(inside: &Inside, mtu: u16) -> Result<Mac, CniError> {
    let name = inside.interface;
    let set = || -> std::io::Result<Option<Mac>> {
        let mut netlink = Netlink::for_requests()?;
        let Some(device) = netlink.device(name)? else { return Ok(None) };
        fs::write("/proc/sys/net/ipv4/ip_forward", if inside.forwarding { "1" } else { "0" })?;
        netlink.set_up(device.index, mtu.into())?;
        if let Some(limit) = inside.egress {
            shape::limit(name, limit)?;
        }
        for address in inside.addresses {
            netlink.add_pod_address(device.index, *address)?;
        }
        netlink.add_pod_route(device.index, Ipv4Net::from(GATEWAY), None)?;
        for route in inside.routes {
            netlink.add_pod_route(device.index, *route, Some(GATEWAY))?;
        }
        Ok(device.mac)
    };
    let what = format!("configure {name} in {}", inside.netns.display());
    let mac = sys::in_netns(inside.netns, set).and_then(|done| done).map_err(io(what.clone()))?;
    mac.ok_or_else(|| CniError::Later(format!("cannot {what}: it is gone")))
}

/// Calico's settings of the host's end but one: forwarding is off, so that the host's own stack carries nothing for
/// the pod while the engine does not (proxy_arp answers only where forwarding is on).
fn host_settings(interface: &str) -> Result<(), CniError> {
    let v4 = |key: &str| format!("/proc/sys/net/ipv4/conf/{interface}/{key}");
    let settings = [
        (v4("route_localnet"), "1"),
        (format!("/proc/sys/net/ipv4/neigh/{interface}/proxy_delay"), "0"),
        (v4("proxy_arp"), "1"),
        (v4("forwarding"), "0"),
        (format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra"), "0"),
    ];
    for (file, value) in settings {
        match fs::write(&file, value) {
            // A kernel without IPv6.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && file.contains("/ipv6/") => {}
            done => done.map_err(io(format!("write {value} to {file}")))?,
        }
    }
    Ok(())
}

/// Sets the host's end up. Its address was given at creation; if something has changed it since, it is set back.
fn host_up(netlink: &mut Netlink, outside: &Outside) -> Result<u32, CniError> {
    let name = outside.interface;
    let mut look = || netlink.device(name).map_err(io(format!("look at {name}")));
    let gone = || CniError::Later(format!("{name} was removed while it was set up"));
    let device = look()?.ok_or_else(gone)?;
    if device.mac != Some(HOST_MAC) {
        sys::Link::new(name).and_then(|mut l| l.set_mac(HOST_MAC)).map_err(io(format!("set the hardware address of {name}")))?;
    }
    netlink.set_up(device.index, outside.mtu.into()).map_err(io(format!("set {name} up")))?;
    Ok(device.index)
}

/// Removes the interface from the pod's namespace, which takes the host's end along. A namespace or an interface that
/// is gone is no error.
pub fn remove_inside(netns: &Path, name: &str) -> Result<(), CniError> {
    if !netns.exists() {
        return Ok(());
    }
    let remove = || -> std::io::Result<()> {
        let mut netlink = Netlink::for_requests()?;
        // What is neither of these was not made here: a namespace may have been reused for the host's.
        match netlink.device(name)?.filter(|d| matches!(d.kind.as_deref(), Some("veth" | "tun"))) {
            Some(device) => netlink.del_link(device.index),
            None => Ok(()),
        }
    };
    match sys::in_netns(netns, remove).and_then(|done| done) {
        // The path is there, but no namespace is behind it any more.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) || e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(io(format!("remove {name} from {}", netns.display()))),
    }
}

/// Removes the host's end if it is the one of this attachment.
pub fn remove_host(name: &str, mark: &Mark) -> Result<(), CniError> {
    let mut netlink = Netlink::for_requests().map_err(io("open a netlink socket"))?;
    let fault = || io(format!("remove {name}"));
    match netlink.device(name).map_err(fault())? {
        Some(d) if d.alias.as_deref() == Some(mark.text().as_str()) => netlink.del_link(d.index).map_err(fault()),
        _ => Ok(()),
    }
}

/// Removes the host's ends of a network's attachments that are not to stay; returns what was removed.
pub fn remove_marked(network: &str, stays: impl Fn(&Mark) -> bool) -> Result<Vec<Mark>, CniError> {
    let mut netlink = Netlink::for_requests().map_err(io("open a netlink socket"))?;
    let mut gone = Vec::new();
    for device in netlink.devices().map_err(io("list the interfaces"))? {
        let Some(mark) = device.alias.as_deref().and_then(Mark::parse) else { continue };
        if mark.network == network && !stays(&mark) {
            netlink.del_link(device.index).map_err(io(format!("remove {}", device.name)))?;
            gone.push(mark);
        }
    }
    Ok(gone)
}

/// The interfaces inside that a container has on a network, by the marks on the host's ends.
pub fn marked(network: &str, container: &str) -> Result<Vec<String>, CniError> {
    let mut netlink = Netlink::for_requests().map_err(io("open a netlink socket"))?;
    let all = netlink.devices().map_err(io("list the interfaces"))?;
    let marks = all.iter().filter_map(|d| Mark::parse(d.alias.as_deref()?));
    Ok(marks.filter(|m| m.network == network && m.container == container).map(|m| m.interface).collect())
}
