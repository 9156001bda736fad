//! Opens ports in the kernel, by the methods that the configuration names.

use crate::control::config::{Config, SuperFrames, UplinkDriver, WorkloadDriver, XdpMode};
use crate::control::plan;
use crate::control::ports::{Opener, Wish};
use crate::frame::Umem;
use crate::port::open::{self, Opened, OpenedUplink, UplinkMethod, UplinkSpec, VethMethod};
use crate::port::tun::{self, TunMode, TunSpec};
use crate::port::xsk::XskMode;

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
        }
    }

    fn tuntap(&self, wish: &Wish, mode: TunMode) -> Result<Opened, Vec<String>> {
        open::tuntap(&TunSpec {
            name: wish.interface.clone(),
            mode,
            netns: wish.netns.clone(),
            queues: self.umems.len() as u16,
            mtu: plan::mtu16(wish.mtu),
            mac: wish.mac,
            // A daemon that dies and starts again finds its devices, with the addresses and routes on them.
            persist: true,
        })
    }
}

impl Opener for KernelOpener {
    fn workload(&mut self, wish: &Wish) -> Result<Opened, Vec<String>> {
        if wish.netns.is_some() {
            return self.tuntap(wish, TunMode::Tap);
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
        open::uplink(&UplinkSpec {
            interface: &wish.interface,
            method: self.uplink,
            mode: self.mode,
            busy_poll: self.busy_poll,
            node,
            port,
            vni,
            whole: self.super_frames == SuperFrames::Auto,
            umems: &self.umems,
        })
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
