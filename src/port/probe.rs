//! What this kernel offers, tried out for real in a network namespace of its own, so that nothing of the machine's is
//! touched.

use super::tun::{self, TunMode, TunSpec};
use super::xsk::{self, RingSizes, Steering, XskMode, XskSpec, ZeroCopy};
use super::{OpenError, mmsg, packet, sys, udp};
use crate::frame::FramePool;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub name: &'static str,
    /// Why it does not work.
    pub result: Result<(), String>,
}

/// The devices made here; they go with the namespace.
const TUN: &str = "probe-tun";
const TAP: &str = "probe-tap";

/// Names of the probes, in order.
pub const TUN_DEVICE: &str = "tun";
pub const AF_PACKET: &str = "af-packet";
pub const AF_XDP: &str = "af-xdp";
pub const UDP_SEGMENT: &str = "udp-segment";
pub const UDP_GRO: &str = "udp-gro";
pub const RAW_IPIP: &str = "raw-ipip";
pub const TUNNEL_GSO: &str = "tunnel-gso";

/// Tries everything. Errors: no namespace can be made (CAP_SYS_ADMIN).
pub fn all() -> io::Result<Vec<Probe>> {
    sys::in_new_netns(|| {
        let opened = |r: Result<(), OpenError>| r.map_err(|e| e.to_string());
        let asked = |r: io::Result<()>| r.map_err(|e| e.to_string());
        let tap = device(TAP, TunMode::Tap);
        let tries = [
            (TUN_DEVICE, opened(device(TUN, TunMode::Tun).map(drop))),
            (AF_PACKET, opened(packet::open_workload(TAP, 1).map(drop))),
            (AF_XDP, opened(af_xdp())),
            (UDP_SEGMENT, asked(udp_option(mmsg::UDP_SEGMENT, 0))),
            (UDP_GRO, asked(udp_option(mmsg::UDP_GRO, 1))),
            (RAW_IPIP, asked(sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_IPIP).map(drop))),
            (TUNNEL_GSO, opened(udp::tunnel::open(Ipv4Addr::LOCALHOST, 4789, 1).map(drop))),
        ];
        drop(tap);
        tries.into_iter().map(|(name, result)| Probe { name, result }).collect()
    })
}

fn device(name: &str, mode: TunMode) -> Result<Vec<tun::TunPort>, OpenError> {
    tun::open(&TunSpec { name: name.into(), mode, netns: None, queues: 1, mtu: 1500, mac: None, persist: false })
}

fn af_xdp() -> Result<(), OpenError> {
    let pool = FramePool::new(1024, 0).map_err(|e| OpenError::io("map memory", e))?;
    let spec = XskSpec {
        interface: TAP,
        steering: Steering::All,
        mode: XskMode::Generic,
        umems: &[pool.umem()],
        zero_copy: ZeroCopy::No,
        busy_poll: 0,
        rings: RingSizes::WORKLOAD,
    };
    xsk::open(&spec).map(drop)
}

fn udp_option(option: i32, value: i32) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    sys::setsockopt(&socket, libc::SOL_UDP, option, &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_stays_behind() {
        let before = std::fs::read_to_string("/proc/net/dev").unwrap();
        let found = all().unwrap();
        assert_eq!(found.len(), 7);
        // What every kernel that these tests run on has.
        for name in [TUN_DEVICE, AF_PACKET, UDP_SEGMENT, UDP_GRO, RAW_IPIP] {
            let p = found.iter().find(|p| p.name == name).unwrap();
            assert_eq!(p.result, Ok(()), "{name}");
        }
        let after = std::fs::read_to_string("/proc/net/dev").unwrap();
        let names = |t: &str| t.lines().filter_map(|l| l.split_once(':').map(|(n, _)| n.trim().to_owned())).collect::<Vec<_>>();
        assert!(!names(&after).iter().any(|n| n.starts_with("probe-")), "{after}");
        assert!(!before.is_empty());
    }
}
