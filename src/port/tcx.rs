//! BPF programs that are run by the kernel's stack, those at an interface's ingress above all. Assembled by their users, so that there
//! is no byte code in the tree and no compiler at run time.

use super::sys;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// One eBPF instruction as the kernel reads it: opcode, registers, offset (2 bytes), immediate (4 bytes), both in
/// the machine's byte order.
pub type Insn = [u8; 8];

/// An instruction; what an opcode does not use is zero.
pub const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    // The registers are two bit fields of one byte.
    let regs = if cfg!(target_endian = "big") { dst << 4 | src } else { src << 4 | dst };
    let (o, i) = (off.to_ne_bytes(), imm.to_ne_bytes());
    [code, regs, o[0], o[1], i[0], i[1], i[2], i[3]]
}

/// One call of bpf(2) with an attribute block written as bytes.
fn call(command: libc::c_int, attr: &mut [u8; 128]) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads at most 128 bytes of a live buffer; addresses in it are of buffers that the
    // callers keep alive across the call. Bytes beyond the fields that it knows are zero.
    sys::check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), attr.len()) } as libc::c_int)
}

/// The same for commands whose result is a new descriptor.
fn bpf(command: libc::c_int, attr: &mut [u8; 128]) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Program types (`enum bpf_prog_type`): a socket filter, and a classifier.
pub const SOCKET_FILTER: u32 = 1;
pub const SCHED_CLS: u32 = 3;

/// Loads a program of a type. `name`: at most 15 bytes. Some helpers want a license that is
/// compatible with the GPL.
pub fn load(kind: u32, code: &[Insn], name: &str, license: &CStr) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    let mut attr = [0u8; 128];
    attr[0..4].copy_from_slice(&kind.to_ne_bytes());
    attr[4..8].copy_from_slice(&(code.len() as u32).to_ne_bytes());
    attr[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    attr[16..24].copy_from_slice(&(license.as_ptr() as u64).to_ne_bytes());
    for (to, from) in attr[48..63].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bpf(BPF_PROG_LOAD, &mut attr)
}

/// Links a classifier to the ingress of interface `index` of the calling thread's network namespace, until the
/// link is dropped. Linux 6.6.
pub fn link(program: &OwnedFd, index: u32) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_int = 28;
    const BPF_TCX_INGRESS: u32 = 46;
    let mut attr = [0u8; 128];
    attr[0..4].copy_from_slice(&program.as_raw_fd().to_ne_bytes());
    attr[4..8].copy_from_slice(&index.to_ne_bytes());
    attr[8..12].copy_from_slice(&BPF_TCX_INGRESS.to_ne_bytes());
    bpf(BPF_LINK_CREATE, &mut attr)
}

/// Makes an array of one 64-bit count that programs can add to; zero at first.
pub fn counter() -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let mut attr = [0u8; 128];
    for (at, value) in [BPF_MAP_TYPE_ARRAY, 4, 8, 1].into_iter().enumerate() {
        attr[4 * at..4 * at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bpf(BPF_MAP_CREATE, &mut attr)
}

/// What a [`counter`] holds.
pub fn read_counter(map: &OwnedFd) -> io::Result<u64> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
    let (key, mut value) = (0u32, 0u64);
    let mut attr = [0u8; 128];
    attr[0..4].copy_from_slice(&map.as_raw_fd().to_ne_bytes());
    attr[8..16].copy_from_slice(&((&raw const key) as u64).to_ne_bytes());
    attr[16..24].copy_from_slice(&((&raw mut value) as u64).to_ne_bytes());
    call(BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(value)
}

/// Adds one to a [`counter`]; uses r1 and r2.
pub fn count(map: &OwnedFd) -> [Insn; 4] {
    /// `BPF_PSEUDO_MAP_VALUE`: the operand is the address of the map's value.
    const MAP_VALUE: u8 = 2;
    [insn(0x18, 1, MAP_VALUE, 0, map.as_raw_fd()), insn(0, 0, 0, 0, 0), insn(0xb7, 2, 0, 0, 1), insn(0xdb, 1, 2, 0, 0)]
}
