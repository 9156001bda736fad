//! Opens ports in the kernel, by the methods that the configuration names.

use crate::control::config::{Config, SuperFrames, UplinkDriver, WorkloadDriver, XdpMode};
use crate::control::plan;
use crate::control::ports::{Opener, Wish};
use crate::control::takeover::{self, Queue};
use crate::frame::Umem;
use crate::port::open::{self, Inherited, Opened, OpenedUplink, UplinkMethod, UplinkSpec, VethMethod};
use crate::port::tun::{self, TunMode, TunSpec};
use crate::port::xsk::XskMode;
use crate::port::{Handles, OpenError};
use crate::wire::vxlan::Vni;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The kernel's ports.
pub struct KernelOpener {
    uplink: UplinkMethod,
    veth: VethMethod,
    mode: XskMode,
    /// Microseconds; 0: off.
    busy_poll: u16,
    super_frames: SuperFrames,
    /// Name of the host device.
    host: String,
    umems: Vec<Umem>,
    /// What a running daemon has passed on, by interface and namespace.
    inherited: BTreeMap<Device, Bequest>,
    /// Which of its ports this daemon goes on with, by key.
    pub taken: Vec<String>,
}

type Device = (String, Option<PathBuf>);

/// A port of the running daemon.
struct Bequest {
    port: takeover::Port,
    /// By number, worker by worker.
    sets: Vec<Vec<Handles>>,
}

impl KernelOpener {
    pub fn new(config: &Config, umems: &[Umem]) -> KernelOpener {
        KernelOpener {
            uplink: match config.uplink.driver {
                UplinkDriver::Auto => UplinkMethod::Auto,
                UplinkDriver::AfXdp => UplinkMethod::AfXdp,
                UplinkDriver::Socket => UplinkMethod::Socket,
            },
            veth: match config.workloads.driver {
                WorkloadDriver::Auto | WorkloadDriver::Veth | WorkloadDriver::Tap => VethMethod::Auto,
                WorkloadDriver::AfPacket => VethMethod::AfPacket,
                WorkloadDriver::AfXdp => VethMethod::AfXdp,
            },
            mode: match config.xdp.mode {
                XdpMode::Auto => XskMode::Auto,
                XdpMode::Native => XskMode::Native,
                XdpMode::Generic => XskMode::Generic,
            },
            busy_poll: config.xdp.busy_poll,
            super_frames: config.uplink.super_frames,
            host: config.host.interface.clone(),
            umems: umems.to_vec(),
            inherited: BTreeMap::new(),
            taken: Vec::new(),
        }
    }

    /// Goes on with these ports instead of opening them. Errors: a message is not about any of them.
    pub fn inherit(&mut self, ports: &[takeover::Port], queues: Vec<(Queue, VecDeque<OwnedFd>)>) -> Result<(), String> {
        let mut all: Vec<Bequest> =
            ports.iter().map(|p| Bequest { sets: p.ids.iter().map(|_| Vec::new()).collect(), port: p.clone() }).collect();
        for (q, fds) in queues {
            let set = all.get_mut(q.port).and_then(|b| b.sets.get_mut(q.set));
            let set = set.filter(|_| q.fds.len() == fds.len()).ok_or("a queue of no port")?;
            set.push(Handles { driver: q.driver, notes: q.notes, fds: q.fds.into_iter().zip(fds).collect() });
        }
        self.inherited = all.into_iter().map(|b| ((b.port.interface.clone(), b.port.netns.clone()), b)).collect();
        Ok(())
    }

    /// No more ports of the running daemon are wanted: what it passed on of the others is closed here.
    pub fn inherited_all(&mut self) {
        self.inherited.clear();
    }

    /// The ports that wait for the running daemon to end, by key.
    pub fn staying(&self) -> Vec<String> {
        self.inherited.values().filter(|b| b.port.stays).map(|b| b.port.key.clone()).collect()
    }

    /// Goes on with the running daemon's port for a wish, if it has one. Errors: it cannot be used.
    fn inherited<T>(
        &mut self,
        wish: &Wish,
        adopt: impl FnOnce(&Self, Inherited) -> Result<T, OpenError>,
    ) -> Result<Option<T>, Vec<String>> {
        let device = (wish.interface.clone(), wish.netns.clone());
        let Some(b) = self.inherited.get_mut(&device) else { return Ok(None) };
        let same = b.port.identity == wish.identity();
        // What has a program on an interface that is to be used otherwise has to be closed first.
        b.port.stays |= !same && b.port.in_memory && b.port.key.starts_with("workload");
        if b.port.stays {
            return Err(vec![format!("{}: waiting for the running daemon to end: this port of it cannot be passed on", wish.interface)]);
        }
        if !same {
            if b.port.key.starts_with("workload") {
                // Another interface under the same name: what the running daemon has is of no use to anybody.
                self.inherited.remove(&device);
                return Ok(None);
            }
            return Err(vec![format!("the running daemon has {} and {} is wanted", b.port.identity, wish.identity())]);
        }
        let Some(b) = self.inherited.remove(&device) else { return Ok(None) };
        let opened = adopt(self, Inherited { sets: b.sets, refused: b.port.refused }).map_err(|e| vec![e.to_string()])?;
        self.taken.push(b.port.key);
        Ok(Some(opened))
    }

    fn spec<'a>(&'a self, wish: &'a Wish, (node, port, vni): (Ipv4Addr, u16, Vni)) -> UplinkSpec<'a> {
        UplinkSpec {
            interface: &wish.interface,
            method: self.uplink,
            mode: self.mode,
            busy_poll: self.busy_poll,
            node,
            port,
            vni,
            whole: self.super_frames == SuperFrames::Auto,
            umems: &self.umems,
        }
    }

    fn tuntap(&mut self, wish: &Wish, mode: TunMode) -> Result<Opened, Vec<String>> {
        let spec = TunSpec {
            name: wish.interface.clone(),
            mode,
            netns: wish.netns.clone(),
            queues: self.umems.len() as u16,
            mtu: plan::mtu16(wish.mtu),
            mac: wish.mac,
            // A daemon that dies and starts again finds its devices, with the addresses and routes on them.
            persist: true,
        };
        let adopt = |_: &Self, from| {
            let opened = open::adopt_tuntap(&spec, from)?;
            tun::set_mtu(&spec.name, spec.netns.as_deref(), spec.mtu).map(|()| opened)
        };
        match self.inherited(wish, adopt)? {
            Some(opened) => Ok(opened),
            None => open::tuntap(&spec),
        }
    }
}

impl Opener for KernelOpener {
    fn workload(&mut self, wish: &Wish) -> Result<Opened, Vec<String>> {
        if wish.netns.is_some() {
            return self.tuntap(wish, TunMode::Tap);
        }
        let adopt = |this: &Self, from| open::adopt_veth(&wish.interface, this.busy_poll, &this.umems, from);
        if let Some(opened) = self.inherited(wish, adopt)? {
            return Ok(opened);
        }
        let method = if wish.limited { VethMethod::AfPacket } else { self.veth };
        let mut opened = open::veth(&wish.interface, method, self.mode, self.busy_poll, &self.umems)?;
        if wish.limited && self.veth == VethMethod::AfXdp {
            opened.refused.push("af-xdp: the pod's ingress bandwidth is limited by the interface's queue, which AF_XDP passes by".into());
        }
        Ok(opened)
    }

    fn uplink(&mut self, wish: &Wish) -> Result<OpenedUplink, Vec<String>> {
        let Some(tunnel) = wish.tunnel else {
            return Err(vec!["uplink: this node's address is not known yet".into()]);
        };
        match self.inherited(wish, |this, from| open::adopt_uplink(&this.spec(wish, tunnel), from))? {
            Some(opened) => Ok(opened),
            None => open::uplink(&self.spec(wish, tunnel)),
        }
    }

    fn host(&mut self, wish: &Wish) -> Result<Opened, Vec<String>> {
        self.tuntap(wish, TunMode::Tun)
    }

    fn resize(&mut self, wish: &Wish) -> bool {
        let done = tun::set_mtu(&wish.interface, wish.netns.as_deref(), plan::mtu16(wish.mtu));
        done.inspect_err(|e| tracing::info!("{}: {e}; opening it again", wish.interface)).is_ok()
    }

    fn discard(&mut self, wish: &Wish) {
        let ours = wish.netns.is_some() || wish.interface == self.host;
        // A pod's namespace that is gone took the device along.
        if !ours || wish.netns.as_ref().is_some_and(|n| !n.exists()) {
            return;
        }
        if let Err(e) = tun::remove(&wish.interface, wish.netns.as_deref()) {
            tracing::warn!("{}: could not be removed: {e}", wish.interface);
        }
    }
}
