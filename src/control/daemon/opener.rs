//! Opens ports in the kernel, by the methods that the configuration names.

use crate::control::config::{Config, SuperFrames, UplinkDriver, WorkloadDriver, XdpMode};
use crate::control::plan;
use crate::control::ports::{Opener, Wish};
use crate::control::takeover::{self, Queue};
use crate::frame::Umem;
use crate::port::Handles;
use crate::port::open::{self, Inherited, Opened, OpenedUplink, UplinkMethod, UplinkSpec, VethMethod};
use crate::port::tun::{self, TunMode, TunSpec};
use crate::port::xsk::XskMode;
use std::collections::{BTreeMap, VecDeque};
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
        }
    }

    /// Goes on with these ports instead of opening them. Errors: a message is not about any of them.
    pub fn inherit(&mut self, ports: &[takeover::Port], queues: Vec<(Queue, VecDeque<OwnedFd>)>) -> Result<(), String> {
        let mut all: Vec<Bequest> =
            ports.iter().map(|p| Bequest { sets: (0..p.sets).map(|_| Vec::new()).collect(), port: p.clone() }).collect();
        for (q, fds) in queues {
            let set = all.get_mut(q.port).and_then(|b| b.sets.get_mut(q.set));
            let set = set.filter(|_| q.fds.len() == fds.len()).ok_or("a queue of no port")?;
            set.push(Handles { driver: q.driver, notes: q.notes, fds: q.fds.into_iter().zip(fds).collect() });
        }
        self.inherited = all.into_iter().map(|b| ((b.port.interface.clone(), b.port.netns.clone()), b)).collect();
        Ok(())
    }

    /// The daemon before is gone: what it kept can be opened, what was not wanted is closed.
    pub fn inherited_all(&mut self) {
        self.inherited.clear();
    }

    /// The running daemon's port for a wish, if it has one. Errors: it cannot be used.
    fn inherited(&mut self, wish: &Wish) -> Result<Option<Inherited>, Vec<String>> {
        let device = (wish.interface.clone(), wish.netns.clone());
        let Some(b) = self.inherited.get(&device) else { return Ok(None) };
        if b.port.stays {
            return Err(vec![format!("{}: waiting for the running daemon to end: its memory cannot be passed on", wish.interface)]);
        }
        if b.port.identity != wish.identity() {
            if b.port.key.starts_with("workload") {
                // Another interface under the same name: what the running daemon has is of no use to anybody.
                self.inherited.remove(&device);
                return Ok(None);
            }
            return Err(vec![format!("the running daemon has {} and {} is wanted", b.port.identity, wish.identity())]);
        }
        let Some(b) = self.inherited.remove(&device) else { return Ok(None) };
        Ok(Some(Inherited { sets: b.sets, refused: b.port.refused }))
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
        match self.inherited(wish)? {
            Some(from) => {
                let adopted =
                    open::adopt_tuntap(&spec, from).and_then(|o| tun::set_mtu(&spec.name, spec.netns.as_deref(), spec.mtu).map(|()| o));
                adopted.map_err(|e| vec![e.to_string()])
            }
            None => open::tuntap(&spec),
        }
    }
}

impl Opener for KernelOpener {
    fn workload(&mut self, wish: &Wish) -> Result<Opened, Vec<String>> {
        if wish.netns.is_some() {
            return self.tuntap(wish, TunMode::Tap);
        }
        if let Some(from) = self.inherited(wish)? {
            return open::adopt_veth(&wish.interface, from).map_err(|e| vec![e.to_string()]);
        }
        let method = if wish.limited { VethMethod::AfPacket } else { self.veth };
        let mut opened = open::veth(&wish.interface, method, self.mode, self.busy_poll, &self.umems)?;
        if wish.limited && self.veth == VethMethod::AfXdp {
            opened.refused.push("af-xdp: the pod's ingress bandwidth is limited by the interface's queue, which AF_XDP passes by".into());
        }
        Ok(opened)
    }

    fn uplink(&mut self, wish: &Wish) -> Result<OpenedUplink, Vec<String>> {
        let Some((node, port, vni)) = wish.tunnel else {
            return Err(vec!["uplink: this node's address is not known yet".into()]);
        };
        let from = self.inherited(wish)?;
        let spec = UplinkSpec {
            interface: &wish.interface,
            method: self.uplink,
            mode: self.mode,
            busy_poll: self.busy_poll,
            node,
            port,
            vni,
            whole: self.super_frames == SuperFrames::Auto,
            umems: &self.umems,
        };
        match from {
            Some(from) => open::adopt_uplink(&spec, from).map_err(|e| vec![e.to_string()]),
            None => open::uplink(&spec),
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
