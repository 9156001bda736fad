//! What must be known about an interface before AF_XDP: receive queues, and whether its checksums can be believed.

use crate::port::sys;
use std::io;

// include/uapi/linux/ethtool.h
const GDRVINFO: u32 = 0x03;
const GCHANNELS: u32 = 0x3c;

#[repr(C)]
struct Channels {
    cmd: u32,
    /// Maximum of receive, send, other, combined.
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// One ethtool request.
///
/// # Safety
/// `T` must be the structure that the command in its first member works on.
unsafe fn ethtool<T>(interface: &str, value: &mut T) -> io::Result<()> {
    let mut req = sys::ifreq(interface)?;
    req.ifr_ifru.ifru_data = std::ptr::from_mut(value).cast();
    sys::ioctl_ifreq(&sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?, libc::SIOCETHTOOL as _, &mut req)
}

/// Receive queues in use. Drivers without channels (a TUN device, most single-queue NICs) are asked through
/// /sys, if that shows the calling thread's network namespace; one queue otherwise.
pub fn rx_queues(interface: &str, ifindex: u32) -> io::Result<u32> {
    let mut c = Channels { cmd: GCHANNELS, max: [0; 4], rx: 0, tx: 0, other: 0, combined: 0 };
    // SAFETY: `struct ethtool_channels`.
    match unsafe { ethtool(interface, &mut c) } {
        Ok(()) if c.rx + c.combined > 0 => return Ok(c.rx + c.combined),
        Err(e) if e.raw_os_error() != Some(libc::EOPNOTSUPP) => return Err(e),
        _ => {}
    }
    let dir = format!("/sys/class/net/{interface}");
    let same = std::fs::read_to_string(format!("{dir}/ifindex")).is_ok_and(|i| i.trim().parse() == Ok(ifindex));
    let queues = std::fs::read_dir(format!("{dir}/queues")).ok().filter(|_| same);
    let count = queues.map_or(0, |q| q.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("rx-")).count());
    Ok((count as u32).max(1))
}

/// Whether frames from this interface may carry unfinished L4 checksums without saying so: the other side is a
/// kernel that leaves them to a device which does not exist. True of software devices (no bus address) and
/// of paravirtual NICs; when in doubt true, since looking costs little.
pub fn may_be_partial(interface: &str) -> bool {
    let mut i = DriverInfo {
        cmd: GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rom: [0; 32],
        reserved: [0; 12],
        counts: [0; 5],
    };
    // SAFETY: `struct ethtool_drvinfo`.
    if unsafe { ethtool(interface, &mut i) }.is_err() {
        return true;
    }
    let text = |b: &[u8; 32]| String::from_utf8_lossy(b.split(|c| *c == 0).next().unwrap_or_default()).into_owned();
    is_software(&text(&i.driver), &text(&i.bus))
}

fn is_software(driver: &str, bus: &str) -> bool {
    const PARAVIRTUAL: [&str; 5] = ["virtio_net", "virtio-net", "vmxnet3", "hv_netvsc", "vif"];
    bus.is_empty() || matches!(bus, "N/A" | "tap" | "tun") || PARAVIRTUAL.contains(&driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!((size_of::<Channels>(), size_of::<DriverInfo>()), (36, 196));
    }

    #[test]
    fn drivers() {
        assert!(is_software("veth", ""));
        assert!(is_software("tun", "tap"));
        assert!(is_software("virtio_net", "0000:00:03.0"));
        assert!(!is_software("ice", "0000:3b:00.0"));
    }

    #[test]
    fn loopback_has_a_queue_and_is_software() {
        assert_eq!(rx_queues("lo", 1).unwrap(), 1);
        assert!(may_be_partial("lo"));
        assert!(rx_queues("no-such-if", 1).is_err());
    }
}
