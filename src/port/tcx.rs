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

/// One call of bpf(2) with an attribute block written as bytes; the result is a new descriptor.
fn bpf(command: libc::c_int, attr: &mut [u8; 128]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads at most 128 bytes of a live buffer; addresses in it are of buffers that the
    // callers keep alive across the call. Bytes beyond the fields that it knows are zero.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), attr.len()) };
    let fd = sys::check(fd as libc::c_int)?;
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
