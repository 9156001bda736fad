//! Which queue of a multi-queue TUN or TAP a packet is read from: chosen by a program of ours, by the flow alone.
//!
//! Left to itself, Linux (drivers/net/tun.c, `tun_flow_update`) reads a flow at the queue to which its other
//! direction was written last. The engines of two nodes then move each other's flows from worker to worker, and
//! packets overtake each other with every move.

use super::tcx;
use super::tun::TunMode;
use crate::wire::{ether, ipv4};
use std::io;
use std::os::fd::OwnedFd;

// include/uapi/linux/bpf.h; loads with an absolute offset give the host's byte order and end the program with zero
// where the packet is too short.
const LOAD_WORD: u8 = 0x20;
const LOAD_HALF: u8 = 0x28;
const LOAD_BYTE: u8 = 0x30;
const MOVE: u8 = 0xbf;
const MOVE32: u8 = 0xbc;
const XOR: u8 = 0xaf;
const AND32_IMM: u8 = 0x54;
const MUL32_IMM: u8 = 0x24;
const SHIFT_RIGHT32_IMM: u8 = 0x74;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// Spreads the bits of the sum of a flow's addresses and ports (2^32 by the golden ratio).
const SPREAD: u32 = 0x9e37_79b1;

/// Loads the program: a hash of addresses and, where all packets of a flow show them (TCP and UDP without IP options,
/// not in fragments), of ports. The kernel takes it modulo the number of queues. Errors: EPERM without CAP_BPF.
pub fn load(mode: TunMode) -> io::Result<OwnedFd> {
    let ip = if mode == TunMode::Tap { ether::HEADER as i32 } else { 0 };
    let op = |code: u8, to: u8, from: u8, jump: u8, value: i32| tcx::insn(code, to, from, i16::from(jump), value);
    let field = |code, at: i32| op(code, 0, 0, 0, ip + at);
    // Loads want the context in r6 and leave their value in r0; the hash grows in r7.
    let program = [
        op(MOVE, 6, 1, 0, 0),
        field(LOAD_WORD, 12), // source address
        op(MOVE, 7, 0, 0, 0),
        field(LOAD_WORD, 16), // destination address
        op(XOR, 7, 0, 0, 0),
        field(LOAD_BYTE, 0), // version and header length
        op(JUMP_UNLESS_EQUAL, 0, 0, 8, 0x45),
        field(LOAD_HALF, 6), // fragment word
        op(AND32_IMM, 0, 0, 0, i32::from(!ipv4::DF)),
        op(JUMP_UNLESS_EQUAL, 0, 0, 5, 0),
        field(LOAD_BYTE, 9),
        op(JUMP_IF_EQUAL, 0, 0, 1, ipv4::PROTO_TCP.into()),
        op(JUMP_UNLESS_EQUAL, 0, 0, 2, ipv4::PROTO_UDP.into()),
        field(LOAD_WORD, ipv4::HEADER as i32), // both ports
        op(XOR, 7, 0, 0, 0),
        op(MOVE32, 0, 7, 0, 0),
        op(MUL32_IMM, 0, 0, 0, SPREAD as i32),
        op(SHIFT_RIGHT32_IMM, 0, 0, 0, 16),
        op(EXIT, 0, 0, 0, 0),
    ];
    tcx::load(tcx::SOCKET_FILTER, &program, "tortie_queue", c"Apache-2.0")
}
