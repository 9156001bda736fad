//! A rate limit on what an interface sends: the kernel's token bucket (tbf, net/sched/sch_tbf.c) as its queue.

use super::nl::{self, Netlink, Request};
use super::sys::Link;
use std::io;

/// Longest time that a packet may wait in the queue, milliseconds: as much as the CNI plugin `bandwidth` allows.
const LATENCY_MS: u64 = 25;

/// A limit, as CNI writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bits per second.
    pub rate: u64,
    /// Bits that may go at once.
    pub burst: u64,
}

/// Limits an interface of the calling thread's namespace, in place of the queue that it has.
pub fn limit(interface: &str, limit: Limit) -> io::Result<()> {
    let index = Link::new(interface)?.index()?;
    let create = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let request = Request::new(libc::RTM_NEWQDISC, create, &root(index)).attr(libc::TCA_KIND, b"tbf\0").nest(libc::TCA_OPTIONS, |r| {
        r.attr(TCA_TBF_PARMS, &parameters(limit))
            .attr(TCA_TBF_RATE64, &(limit.rate / 8).to_ne_bytes())
            .attr(TCA_TBF_BURST, &bytes(limit.burst).to_ne_bytes())
    });
    Netlink::open()?.request(request)
}

// include/uapi/linux/pkt_sched.h.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

fn root(index: u32) -> [u8; 20] {
    const TC_H_ROOT: u32 = 0xffff_ffff;
    const HANDLE: u32 = 1 << 16;
    nl::tcmsg(index, HANDLE, TC_H_ROOT, 0)
}

/// What can be said in 32 bits of bytes.
fn bytes(bits: u64) -> u32 {
    u32::try_from(bits / 8).unwrap_or(u32::MAX)
}

/// struct tc_tbf_qopt: rate and peak rate (struct tc_ratespec, 12 bytes each), limit, buffer, mtu. The buffer follows
/// from TCA_TBF_BURST; there is no peak rate.
fn parameters(limit: Limit) -> [u8; 36] {
    const LINKLAYER_ETHERNET: u8 = 1;
    let queue = (limit.rate / 8).saturating_mul(LATENCY_MS) / 1000 + limit.burst / 8;
    let mut b = [0u8; 36];
    b[1] = LINKLAYER_ETHERNET;
    b[8..12].copy_from_slice(&bytes(limit.rate).to_ne_bytes());
    b[24..28].copy_from_slice(&u32::try_from(queue).unwrap_or(u32::MAX).to_ne_bytes());
    b
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::netns::{Namespace, veth};

    #[test]
    fn the_kernel_shows_the_limit() {
        let (a, b) = (Namespace::new("sha"), Namespace::new("shb"));
        veth(&a, "eth0", &b, "eth0");
        for (rate, burst, want) in
            [(10_000_000, 1_000_000, "rate 10Mbit burst 125000b lat 25ms"), (40_000_000_000, 8_000_000, "rate 40Gbit")]
        {
            a.run(|| limit("eth0", Limit { rate, burst })).unwrap();
            let shown = a.sh("tc qdisc show dev eth0");
            assert!(shown.contains(want), "{shown}");
        }
        let e = a.run(|| limit("nope", Limit { rate: 1, burst: 1 })).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::ENODEV));
    }
}
