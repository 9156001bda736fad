//! The steering program: the XDP program that decides which frames of an interface go to the AF_XDP sockets and
//! which stay with the kernel. Assembled when it is loaded, address, port and VNI being constants in the code.

use super::bpf::Insn;
use crate::wire::vxlan::{self, Vni};
use crate::wire::{ether, ipv4};
use std::net::Ipv4Addr;

/// Which frames go to the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// All of them: the interface is a workload's.
    All,
    /// Only the tunnel traffic of this node: untagged, unfragmented IPv4 without options to `node` that is
    /// either VXLAN with our VNI to UDP port `port` or IP-in-IP (protocol 4). Everything else stays with the
    /// kernel: ARP, SSH, another VXLAN on the same port.
    Tunnel { node: Ipv4Addr, port: u16, vni: Vni },
}

// struct xdp_md (include/uapi/linux/bpf.h), bytes.
const CTX_DATA: i16 = 0;
const CTX_DATA_END: i16 = 4;
const CTX_RX_QUEUE: i16 = 16;
/// Verdict: the frame goes up the stack as if there were no program.
pub const XDP_PASS: i32 = 2;
/// bpf_redirect_map().
const HELPER_REDIRECT_MAP: i32 = 51;

// Offsets from the first byte of an untagged frame whose IPv4 header has no options.
const ETHERTYPE: i16 = 12;
const IP: i16 = ether::HEADER as i16;
const IP_VERSION_IHL: i16 = IP;
const IP_FRAGMENT: i16 = IP + 6;
const IP_PROTOCOL: i16 = IP + 9;
const IP_DST: i16 = IP + 16;
const UDP: i16 = IP + ipv4::HEADER as i16;
const UDP_DPORT: i16 = UDP + 2;
const VXLAN: i16 = UDP + 8;
const VXLAN_VNI: i16 = VXLAN + 4;
const VXLAN_END: i16 = VXLAN + vxlan::HEADER as i16;

// Registers: the context, survives helper calls; the frame's first byte; the byte after its last; scratch.
const CTX: u8 = 6;
const DATA: u8 = 2;
const END: u8 = 3;
const TMP: u8 = 4;

/// Size of a load, as in the opcode.
#[derive(Clone, Copy)]
enum Size {
    B = 0x10,
    H = 0x08,
    W = 0x00,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Pass,
    Redirect,
}

/// Instructions so far and the forward jumps to be resolved.
struct Asm {
    code: Vec<Insn>,
    jumps: Vec<(usize, Target)>,
}

/// The program for a map of sockets.
pub fn assemble(steering: Steering, map_fd: i32) -> Vec<Insn> {
    let mut a = Asm { code: Vec::new(), jumps: Vec::new() };
    a.op(0xbf, CTX, 1, 0, 0); // r6 = r1
    if let Steering::Tunnel { node, port, vni } = steering {
        a.tunnel(node, port, vni);
    }
    a.finish(map_fd)
}

impl Asm {
    fn op(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        let regs = if cfg!(target_endian = "big") { dst << 4 | src } else { src << 4 | dst };
        self.code.push(Insn { code, regs, off, imm });
    }

    /// dst = *(size *)(src + off)
    fn load(&mut self, size: Size, dst: u8, src: u8, off: i16) {
        self.op(0x61 | size as u8, dst, src, off, 0);
    }

    fn jump(&mut self, code: u8, dst: u8, src: u8, imm: i32, to: Target) {
        self.jumps.push((self.code.len(), to));
        self.op(code, dst, src, 0, imm);
    }

    /// Passes frames shorter than `bytes`.
    fn require(&mut self, bytes: i16) {
        self.op(0xbf, TMP, DATA, 0, 0); // tmp = data
        self.op(0x07, TMP, 0, 0, i32::from(bytes)); // tmp += bytes
        self.jump(0x2d, TMP, END, 0, Target::Pass); // if tmp > end
    }

    /// Jumps if the 32-bit scratch register is not `imm`.
    fn unless(&mut self, imm: u32, to: Target) {
        self.jump(0x56, TMP, 0, imm as i32, to);
    }

    /// Jumps if it is.
    fn when(&mut self, imm: u32, to: Target) {
        self.jump(0x16, TMP, 0, imm as i32, to);
    }

    /// tmp &= mask, 32 bits
    fn mask(&mut self, mask: u32) {
        self.op(0x54, TMP, 0, 0, mask as i32);
    }

    /// Compares in memory order: constants are what a load of the same bytes gives on this machine.
    fn tunnel(&mut self, node: Ipv4Addr, port: u16, vni: Vni) {
        let be16 = |v: u16| u32::from(u16::from_ne_bytes(v.to_be_bytes()));
        let be32 = |v: u32| u32::from_ne_bytes(v.to_be_bytes());
        self.load(Size::W, DATA, CTX, CTX_DATA);
        self.load(Size::W, END, CTX, CTX_DATA_END);
        self.require(UDP);
        self.load(Size::H, TMP, DATA, ETHERTYPE);
        self.unless(be16(ether::TYPE_IPV4), Target::Pass);
        self.load(Size::B, TMP, DATA, IP_VERSION_IHL);
        self.unless(0x45, Target::Pass);
        self.load(Size::H, TMP, DATA, IP_FRAGMENT);
        self.mask(be16(0x3fff)); // more fragments, or an offset
        self.unless(0, Target::Pass);
        self.load(Size::W, TMP, DATA, IP_DST);
        self.unless(be32(node.to_bits()), Target::Pass);
        self.load(Size::B, TMP, DATA, IP_PROTOCOL);
        self.when(u32::from(ipv4::PROTO_IPIP), Target::Redirect);
        self.unless(u32::from(ipv4::PROTO_UDP), Target::Pass);
        self.require(VXLAN_END);
        self.load(Size::H, TMP, DATA, UDP_DPORT);
        self.unless(be16(port), Target::Pass);
        self.load(Size::B, TMP, DATA, VXLAN);
        self.mask(u32::from(vxlan::FLAG_VNI));
        self.when(0, Target::Pass);
        self.load(Size::W, TMP, DATA, VXLAN_VNI);
        self.mask(be32(0xffff_ff00));
        self.unless(be32(vni.get() << 8), Target::Pass);
    }

    /// Adds the two ends and resolves the jumps. A queue without a socket passes its frames.
    fn finish(mut self, map_fd: i32) -> Vec<Insn> {
        let redirect = self.code.len();
        self.op(0x18, 1, 1, 0, map_fd); // r1 = map (BPF_PSEUDO_MAP_FD), two instructions long
        self.op(0, 0, 0, 0, 0);
        self.load(Size::W, 2, CTX, CTX_RX_QUEUE);
        self.op(0xb7, 3, 0, 0, XDP_PASS); // r3 = verdict when the map has no socket
        self.op(0x85, 0, 0, 0, HELPER_REDIRECT_MAP);
        self.op(0x95, 0, 0, 0, 0);
        let pass = self.code.len();
        // The verifier refuses instructions that nothing leads to.
        if self.jumps.iter().any(|j| j.1 == Target::Pass) {
            self.op(0xb7, 0, 0, 0, XDP_PASS);
            self.op(0x95, 0, 0, 0, 0);
        }
        for (at, to) in std::mem::take(&mut self.jumps) {
            let to = if to == Target::Pass { pass } else { redirect };
            self.code[at].off = (to - at - 1) as i16;
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::super::bpf::{Frags, Program, XskMap};
    use super::*;
    use crate::port::sys;
    use std::os::fd::{AsRawFd, OwnedFd};

    const PASS: u32 = XDP_PASS as u32;
    const REDIRECT: u32 = 4;
    const NODE: [u8; 4] = [192, 0, 2, 10];

    /// A loaded program whose map has a socket for queue 0, where dry runs happen.
    struct Loaded(Program, #[allow(dead_code)] XskMap, #[allow(dead_code)] OwnedFd);

    fn loaded(steering: Steering, frags: Frags) -> Loaded {
        let map = XskMap::new(1).unwrap();
        let socket = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).unwrap();
        map.insert(0, &socket).unwrap();
        let program = Program::load(&assemble(steering, map.as_raw_fd()), frags).unwrap_or_else(|e| panic!("{}: {}", e.source, e.log));
        Loaded(program, map, socket)
    }

    fn tunnel() -> Loaded {
        let steering = Steering::Tunnel { node: NODE.into(), port: 4789, vni: Vni::CALICO };
        drop(loaded(steering, Frags::No));
        loaded(steering, Frags::Yes)
    }

    /// A VXLAN frame to us with 60 bytes inside; `change` makes another frame of it.
    fn frame(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut b = vec![0u8; 110];
        b[12..14].copy_from_slice(&[0x08, 0x00]);
        b[14] = 0x45;
        b[16..18].copy_from_slice(&96u16.to_be_bytes());
        b[20] = 0x40; // DF
        b[22..24].copy_from_slice(&[64, ipv4::PROTO_UDP]);
        b[26..30].copy_from_slice(&[192, 0, 2, 20]);
        b[30..34].copy_from_slice(&NODE);
        b[34..36].copy_from_slice(&40000u16.to_be_bytes());
        b[36..38].copy_from_slice(&4789u16.to_be_bytes());
        b[38..40].copy_from_slice(&76u16.to_be_bytes());
        vxlan::write(&mut b[42..50], Vni::CALICO);
        change(&mut b);
        b
    }

    #[test]
    fn verdicts_of_the_tunnel_program() {
        let program = tunnel();
        type Change = fn(&mut Vec<u8>);
        let table: &[(&str, Change, u32)] = &[
            ("our VXLAN", |_| (), REDIRECT),
            ("reserved VXLAN bits set", |b| (b[42], b[43], b[49]) = (0xff, 0xff, 0xff), REDIRECT),
            ("DF clear", |b| b[20] = 0, REDIRECT),
            ("TOS set", |b| b[15] = 0xff, REDIRECT),
            ("VNI off by one", |b| b[48] ^= 1, PASS),
            ("VNI high byte", |b| b[46] = 1, PASS),
            ("no I flag", |b| b[42] = 0, PASS),
            ("other port", |b| b[37] ^= 1, PASS),
            ("ports swapped", |b| b.copy_within(36..38, 34), REDIRECT),
            ("our port as the source only", |b| (b[34], b[35], b[36]) = (0x12, 0xb5, 0), PASS),
            ("other destination", |b| b[33] ^= 1, PASS),
            ("destination high bit", |b| b[30] ^= 0x80, PASS),
            ("first fragment", |b| b[20] = 0x20, PASS),
            ("later fragment", |b| b[21] = 1, PASS),
            ("last fragment, high offset bit", |b| b[20] = 0x10, PASS),
            ("TCP to the same port", |b| b[23] = ipv4::PROTO_TCP, PASS),
            ("ICMP", |b| b[23] = ipv4::PROTO_ICMP, PASS),
            ("IPIP to us", |b| b[23] = ipv4::PROTO_IPIP, REDIRECT),
            ("IPIP to us, later fragment", |b| (b[23], b[21]) = (ipv4::PROTO_IPIP, 1), PASS),
            ("IPIP to another", |b| (b[23], b[33]) = (ipv4::PROTO_IPIP, 11), PASS),
            ("IP options", |b| b[14] = 0x46, PASS),
            ("header length 4", |b| b[14] = 0x44, PASS),
            ("version 6 in an IPv4 frame", |b| b[14] = 0x65, PASS),
            ("ARP", |b| b[13] = 0x06, PASS),
            ("IPv6", |b| b[12..14].copy_from_slice(&[0x86, 0xdd]), PASS),
            ("VLAN", |b| drop(b.splice(12..12, [0x81, 0x00, 0, 5])), PASS),
        ];
        for (what, change, verdict) in table {
            assert_eq!(program.0.dry_run(&frame(change)).unwrap(), *verdict, "{what}");
        }
    }

    #[test]
    fn truncated_frames_pass() {
        let program = tunnel();
        for protocol in [ipv4::PROTO_UDP, ipv4::PROTO_IPIP] {
            // Dry runs need an Ethernet header.
            for len in ether::HEADER..=60 {
                let full = if protocol == ipv4::PROTO_UDP { VXLAN_END } else { UDP } as usize;
                let bytes = &frame(|b| b[23] = protocol)[..len];
                let verdict = if len < full { PASS } else { REDIRECT };
                assert_eq!(program.0.dry_run(bytes).unwrap(), verdict, "protocol {protocol}, {len} bytes");
            }
        }
    }

    #[test]
    fn extreme_addresses_and_identifiers_are_compared_whole() {
        for (node, port, vni) in [([255, 255, 255, 254], 65535, 0xff_ffff), ([128, 0, 0, 1], 1, 0), ([10, 0, 0, 1], 8472, 0x80_0000)] {
            let program = loaded(Steering::Tunnel { node: node.into(), port, vni: Vni::new(vni).unwrap() }, Frags::Yes);
            let ours = frame(|b| {
                b[30..34].copy_from_slice(&node);
                b[36..38].copy_from_slice(&port.to_be_bytes());
                vxlan::write(&mut b[42..50], Vni::new(vni).unwrap());
            });
            assert_eq!(program.0.dry_run(&ours).unwrap(), REDIRECT, "{node:?}");
            for at in [30, 33, 36, 37, 46, 47, 48] {
                for bit in [0x80, 1] {
                    let mut other = ours.clone();
                    other[at] ^= bit;
                    assert_eq!(program.0.dry_run(&other).unwrap(), PASS, "{node:?} byte {at} bit {bit:#x}");
                }
            }
        }
    }

    #[test]
    fn all_takes_every_frame_and_a_queue_without_a_socket_passes() {
        let all = loaded(Steering::All, Frags::Yes);
        for len in [14, 15, 60, 1514] {
            assert_eq!(all.0.dry_run(&vec![0xff; len]).unwrap(), REDIRECT);
        }
        all.1.remove(0).unwrap();
        assert_eq!(all.0.dry_run(&[0xff; 60]).unwrap(), PASS);
    }
}
