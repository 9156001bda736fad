//! Keeps the host kernel away from frames that a packet socket has taken: a BPF program at the interface's
//! ingress that drops everything. Packet sockets see a frame before it runs, so the socket still gets all.
//!
//! Since Linux 6.6 it is a TCX link, which vanishes with its descriptor. Before, it is a filter on a `clsact`
//! queueing discipline; one left by a killed process is replaced, and goes with the interface otherwise.

use super::super::nl::{self, Netlink, Request};
use super::super::tcx::{self, insn};
use super::super::{Handles, OpenError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// While it lives, nothing that enters on the interface reaches the host's protocol stack.
pub(super) enum IngressDrop {
    /// Held only to be closed.
    Tcx {
        link: OwnedFd,
    },
    Filter {
        netlink: Netlink,
        index: u32,
        made_qdisc: bool,
    },
}

impl IngressDrop {
    /// Attaches to interface `index` of the calling thread's network namespace; `name` is for errors.
    pub fn attach(name: &str, index: u32) -> Result<IngressDrop, OpenError> {
        let fail = |step: &str, e| OpenError::io(format!("{name}: keep the host stack off ({step})"), e);
        let program = load().map_err(|e| match e.raw_os_error() {
            Some(libc::ENOSYS) => OpenError::with_hint(format!("{name}: load BPF program"), e, "the kernel was built without BPF"),
            Some(libc::EPERM) => {
                OpenError::with_hint(format!("{name}: load BPF program"), e, "needs CAP_BPF and CAP_NET_ADMIN: run as root")
            }
            _ => fail("load BPF program", e),
        })?;
        match tcx::link(&program, index) {
            Ok(link) => Ok(IngressDrop::Tcx { link }),
            // ENOTSUPP (524) has no name in libc.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | 524)) => {
                filter(&program, index).map_err(|e| fail("clsact filter", e))
            }
            Err(e) => Err(fail("TCX link", e)),
        }
    }
}

impl IngressDrop {
    /// Goes on with what another process attached, if it attached anything. `name` is for errors.
    pub fn adopt(name: &str, h: &mut Handles) -> Result<Option<IngressDrop>, OpenError> {
        if let Ok(link) = h.take("block-link") {
            return Ok(Some(IngressDrop::Tcx { link }));
        }
        let Ok(index) = h.number("block-index") else { return Ok(None) };
        let netlink = Netlink::open().map_err(|e| OpenError::io(format!("{name}: keep the host stack off"), e))?;
        Ok(Some(IngressDrop::Filter { netlink, index: index as u32, made_qdisc: h.number("block-qdisc")? != 0 }))
    }

    pub fn handles(&self, h: &mut Handles) -> io::Result<()> {
        match self {
            IngressDrop::Tcx { link } => h.add("block-link", link)?,
            IngressDrop::Filter { index, made_qdisc, .. } => {
                h.note("block-index", (*index).into());
                h.note("block-qdisc", (*made_qdisc).into());
            }
        }
        Ok(())
    }
}

impl Drop for IngressDrop {
    fn drop(&mut self) {
        if let IngressDrop::Filter { netlink, index, made_qdisc } = self {
            // Both fail when the interface is gone, and the filter with it: nothing is left to do then.
            let _ = netlink.request(Request::new(libc::RTM_DELTFILTER, 0, &filter_message(*index)).attr(libc::TCA_KIND, b"bpf\0"));
            if *made_qdisc {
                let _ = netlink.request(Request::new(libc::RTM_DELQDISC, 0, &qdisc_message(*index)));
            }
        }
    }
}

/// Loads `return TC_ACT_SHOT` as a classifier.
fn load() -> io::Result<OwnedFd> {
    const TC_ACT_SHOT: i32 = 2;
    // r0 = TC_ACT_SHOT; exit.
    tcx::load(tcx::SCHED_CLS, &[insn(0xb7, 0, 0, 0, TC_ACT_SHOT), insn(0x95, 0, 0, 0, 0)], "tortie_drop", c"Apache-2.0")
}

fn qdisc_message(index: u32) -> [u8; 20] {
    const TC_H_CLSACT: u32 = 0xffff_fff1;
    nl::tcmsg(index, 0xffff_0000, TC_H_CLSACT, 0)
}

fn filter_message(index: u32) -> [u8; 20] {
    const CLSACT_INGRESS: u32 = 0xffff_fff2;
    // A handle of our own, so that only our own leftover is replaced.
    const HANDLE: u32 = 0x746f_7274;
    const PRIORITY: u32 = 1;
    nl::tcmsg(index, HANDLE, CLSACT_INGRESS, PRIORITY << 16 | u32::from((libc::ETH_P_ALL as u16).to_be()))
}

/// The way before TCX: a direct-action filter in front of all others.
fn filter(program: &OwnedFd, index: u32) -> io::Result<IngressDrop> {
    // include/uapi/linux/pkt_cls.h.
    const TCA_BPF_FD: u16 = 6;
    const TCA_BPF_NAME: u16 = 7;
    const TCA_BPF_FLAGS: u16 = 8;
    const DIRECT_ACTION: u32 = 1;
    let mut netlink = Netlink::open()?;
    let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let qdisc = Request::new(libc::RTM_NEWQDISC, create, &qdisc_message(index)).attr(libc::TCA_KIND, b"clsact\0");
    let made_qdisc = match netlink.request(qdisc) {
        Ok(()) => true,
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => false,
        Err(e) => return Err(e),
    };
    let mut guard = IngressDrop::Filter { netlink, index, made_qdisc };
    let IngressDrop::Filter { netlink, .. } = &mut guard else { return Ok(guard) };
    let request = Request::new(libc::RTM_NEWTFILTER, libc::NLM_F_CREATE, &filter_message(index)).attr(libc::TCA_KIND, b"bpf\0").nest(
        libc::TCA_OPTIONS,
        |r| {
            r.attr(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes())
                .attr(TCA_BPF_NAME, b"tortie-drop\0")
                .attr(TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes())
        },
    );
    netlink.request(request)?;
    Ok(guard)
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::port::sys;
    use crate::testing::netns::{Namespace, veth};
    use std::time::Duration;

    fn reachable(pod: &Namespace, host: &Namespace) -> bool {
        // A new UDP socket each time: an answer needs ARP and the packet itself to reach the host's stack.
        host.run(|| {
            let server = std::net::UdpSocket::bind("10.8.0.1:0").unwrap();
            server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let to = server.local_addr().unwrap();
            pod.run(|| std::net::UdpSocket::bind("10.8.0.2:0").unwrap().send_to(b"x", to).unwrap());
            server.recv(&mut [0; 8]).is_ok()
        })
    }

    fn shuts_and_opens(attach: impl Fn(u32) -> IngressDrop + Sync) {
        let (host, pod) = (Namespace::new("idh"), Namespace::new("idp"));
        veth(&host, "cali0", &pod, "eth0");
        host.sh("ip addr add 10.8.0.1/24 dev cali0");
        pod.sh("ip addr add 10.8.0.2/24 dev eth0");
        assert!(reachable(&pod, &host));
        let attach = || attach(sys::Link::new("cali0").unwrap().index().unwrap());
        let first = host.run(attach);
        assert!(!reachable(&pod, &host));
        // A second one finds the first's leftovers and replaces them, or sits beside it.
        let second = host.run(attach);
        assert!(!reachable(&pod, &host));
        drop(first);
        drop(second);
        // A child process that another test is starting may hold a copy of the descriptor until its exec.
        assert!((0..10).any(|_| reachable(&pod, &host)));
        let kept = host.run(attach);
        host.sh("ip link del cali0");
        drop(kept);
    }

    #[test]
    fn whatever_this_kernel_has_shuts_and_opens() {
        shuts_and_opens(|index| IngressDrop::attach("cali0", index).unwrap());
    }

    #[test]
    fn clsact_filter_shuts_and_opens() {
        shuts_and_opens(|index| filter(&load().unwrap(), index).unwrap());
    }

    #[test]
    fn unknown_interface_is_an_error() {
        let e = IngressDrop::attach("nope", 0x7fff_fff0).err().expect("no such interface");
        assert!(e.to_string().contains("nope"), "{e}");
    }
}
