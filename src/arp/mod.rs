//! ARP on workload ports (RFC 826): whatever address a pod asks for, the gateway's MAC answers, as Calico's
//! proxy ARP does, but without waiting for a kernel and without needing a default route on the host.

use crate::drop::DropReason;
use crate::wire::{Mac, be16, be32, ether, put16, put32};
use std::net::Ipv4Addr;

/// Length of an Ethernet frame with an ARP packet for IPv4.
pub const FRAME: usize = ether::HEADER + 28;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// The gateway of every pod; also what our own requests are sent from.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The fields of an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub op: u16,
    pub sender_mac: Mac,
    /// Addresses, host order.
    pub sender: u32,
    pub target: u32,
}

/// Reads the ARP packet of an Ethernet frame.
pub fn parse(frame: &[u8]) -> Result<Arp, DropReason> {
    if frame.len() < FRAME {
        return Err(DropReason::ArpMalformed);
    }
    let p = &frame[ether::HEADER..];
    let fixed_ok = be16(p, 0) == 1 && be16(p, 2) == ether::TYPE_IPV4 && p[4] == 6 && p[5] == 4;
    let arp = Arp { op: be16(p, 6), sender_mac: Mac::read(p, 8), sender: be32(p, 14), target: be32(p, 24) };
    if !fixed_ok || arp.sender_mac.is_group() || !matches!(arp.op, REQUEST | REPLY) {
        return Err(DropReason::ArpMalformed);
    }
    Ok(arp)
}

/// What to do with an ARP packet from a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Turn the request into the answer.
    Answer,
    /// A reply, probe or announcement: nothing to send.
    Ignore,
}

/// Decides on a packet from a workload whose own addresses `owns` recognises. Probes (RFC 5227, sender zero)
/// are never answered, or the pod would believe its address taken; nor are questions for its own address.
pub fn judge(arp: &Arp, owns: impl Fn(u32) -> bool) -> Result<Verdict, DropReason> {
    if arp.op == REPLY || arp.sender == 0 {
        return Ok(Verdict::Ignore);
    }
    if !owns(arp.sender) {
        return Err(DropReason::ArpSpoofed);
    }
    Ok(if owns(arp.target) { Verdict::Ignore } else { Verdict::Answer })
}

/// Turns the request in `frame` into the reply: the target's address is at `mac`.
pub fn answer(frame: &mut [u8], arp: &Arp, mac: Mac) {
    write(frame, arp.sender_mac, REPLY, (mac, arp.target), (arp.sender_mac, arp.sender));
}

/// Writes a request for `target` from the gateway into `frame` (at least [`FRAME`] bytes).
pub fn request(frame: &mut [u8], target: u32) {
    write(frame, Mac::BROADCAST, REQUEST, (Mac::GATEWAY, GATEWAY.into()), (Mac::default(), target));
}

fn write(frame: &mut [u8], dst: Mac, op: u16, sender: (Mac, u32), target: (Mac, u32)) {
    ether::write(frame, dst, sender.0, ether::TYPE_ARP);
    let p = &mut frame[ether::HEADER..];
    put16(p, 0, 1);
    put16(p, 2, ether::TYPE_IPV4);
    p[4] = 6;
    p[5] = 4;
    put16(p, 6, op);
    p[8..14].copy_from_slice(&sender.0.0);
    put32(p, 14, sender.1);
    p[18..24].copy_from_slice(&target.0.0);
    put32(p, 24, target.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: u32 = 0x0af43841;
    const POD_MAC: Mac = Mac([0x92, 0x7e, 0xc4, 0x15, 0xb9, 0x82]);

    fn frame(op: u16, sender: u32, target: u32) -> [u8; FRAME] {
        let mut f = [0; FRAME];
        write(&mut f, Mac::BROADCAST, op, (POD_MAC, sender), (Mac::default(), target));
        f
    }

    #[test]
    fn the_gateway_is_answered() {
        let mut f = frame(REQUEST, POD, u32::from(GATEWAY));
        let a = parse(&f).unwrap();
        assert_eq!(judge(&a, |x| x == POD), Ok(Verdict::Answer));
        answer(&mut f, &a, Mac::GATEWAY);
        let back = parse(&f).unwrap();
        assert_eq!(back, Arp { op: REPLY, sender_mac: Mac::GATEWAY, sender: GATEWAY.into(), target: POD });
        assert_eq!((Mac::read(&f, 0), Mac::read(&f, 6), Mac::read(&f, 32)), (POD_MAC, Mac::GATEWAY, POD_MAC));
    }

    #[test]
    fn probes_announcements_and_spoofs_are_not() {
        let own = |x| x == POD;
        assert_eq!(judge(&parse(&frame(REQUEST, 0, POD)).unwrap(), own), Ok(Verdict::Ignore));
        assert_eq!(judge(&parse(&frame(REQUEST, POD, POD)).unwrap(), own), Ok(Verdict::Ignore));
        assert_eq!(judge(&parse(&frame(REPLY, POD, 5)).unwrap(), own), Ok(Verdict::Ignore));
        assert_eq!(judge(&parse(&frame(REQUEST, 0x0a000001, 5)).unwrap(), own), Err(DropReason::ArpSpoofed));
    }

    #[test]
    fn malformed_is_named() {
        let good = frame(REQUEST, POD, 5);
        assert_eq!(parse(&good[..41]), Err(DropReason::ArpMalformed));
        for (at, v) in [(15, 6), (16, 9), (18, 8), (19, 16), (21, 3), (22, 0x93)] {
            let mut f = good;
            f[at] = v;
            assert_eq!(parse(&f), Err(DropReason::ArpMalformed), "byte {at}");
        }
    }
}
