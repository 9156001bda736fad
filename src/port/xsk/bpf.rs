//! The few bpf(2) calls that an AF_XDP port needs: a map of sockets, a program, its attachment to an interface
//! and a dry run on sample frames. Objects live as long as their descriptors, so nothing outlives the process.

use crate::port::sys;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

// include/uapi/linux/bpf.h
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// The program understands frames of several buffers (Linux 5.18).
const F_XDP_HAS_FRAGS: u32 = 1 << 5;
// include/uapi/linux/if_link.h
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The kernel refuses redirect helpers to programs under other licenses than the GPL's and compatible ones.
const LICENSE: &[u8] = b"Dual MIT/GPL\0";
const LOG_BYTES: usize = 64 * 1024;

/// One eBPF instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    pub code: u8,
    /// Destination and source register, a nibble each, in the order of the machine's bit fields.
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

/// Where in the receive path a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the driver, before a socket buffer exists.
    Native,
    /// In the stack, on socket buffers: any interface.
    Generic,
}

/// Whether a program is loaded for frames of several buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frags {
    Yes,
    No,
}

/// One bpf(2) command.
///
/// # Safety
/// `A` must be the attribute structure of `command` (no padding bytes) and every pointer in it must be valid for
/// what the command does with it, for the length of the call.
unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<RawFd> {
    // SAFETY: the caller's promise; the kernel keeps no pointer.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    sys::check(ret as libc::c_int)
}

/// The descriptor that a successful command returned.
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: called with a descriptor that bpf(2) has just made (close-on-exec) and nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn name(text: &str) -> [u8; 16] {
    let mut b = [0; 16];
    for (to, from) in b[..15].iter_mut().zip(text.bytes()) {
        *to = from;
    }
    b
}

/// A map from receive queue to AF_XDP socket.
pub struct XskMap(OwnedFd);

impl XskMap {
    /// A map for queues 0 to `queues` - 1. Errors: EPERM without CAP_BPF or CAP_SYS_ADMIN.
    pub fn new(queues: u32) -> io::Result<XskMap> {
        #[repr(C)]
        struct Attr {
            map_type: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            flags: u32,
            inner_map_fd: u32,
            numa_node: u32,
            name: [u8; 16],
        }
        let mut attr = Attr {
            map_type: MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: queues,
            flags: 0,
            inner_map_fd: 0,
            numa_node: 0,
            name: name("tortie_sockets"),
        };
        // SAFETY: BPF_MAP_CREATE's attributes, which hold no pointer.
        Ok(XskMap(owned(unsafe { bpf(MAP_CREATE, &mut attr) }?)))
    }

    /// A map that another process has made.
    pub fn adopt(fd: OwnedFd) -> XskMap {
        XskMap(fd)
    }

    /// Frames of `queue` go to `socket` from now on.
    pub fn insert(&self, queue: u32, socket: &impl AsRawFd) -> io::Result<()> {
        let value = socket.as_raw_fd() as u32;
        self.element(MAP_UPDATE_ELEM, queue, Some(&value))
    }

    /// Frames of `queue` go to no socket any more: the program's fallback applies.
    pub fn remove(&self, queue: u32) -> io::Result<()> {
        self.element(MAP_DELETE_ELEM, queue, None)
    }

    fn element(&self, command: libc::c_int, key: u32, value: Option<&u32>) -> io::Result<()> {
        #[repr(C)]
        struct Attr {
            map_fd: u32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let mut attr = Attr {
            map_fd: self.0.as_raw_fd() as u32,
            pad: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: value.map_or(0, |v| std::ptr::from_ref(v) as u64),
            flags: 0,
        };
        // SAFETY: BPF_MAP_*_ELEM's attributes; key and value point to live u32s, the map's key and value size.
        unsafe { bpf(command, &mut attr) }.map(drop)
    }
}

impl AsFd for XskMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for XskMap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A program that the verifier did not let in.
#[derive(Debug)]
pub struct LoadError {
    pub source: io::Error,
    /// The end of what the verifier said; empty if it never came to that.
    pub log: String,
}

/// A loaded XDP program.
#[derive(Debug)]
pub struct Program(OwnedFd);

#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

impl Program {
    /// Loads an XDP program; a refusal is repeated with the verifier's log switched on, for the error.
    pub fn load(code: &[Insn], frags: Frags) -> Result<Program, LoadError> {
        match load(code, frags, &mut []) {
            Ok(fd) => Ok(Program(fd)),
            Err(source) => {
                let mut log = vec![0; LOG_BYTES];
                // The first answer counts; a log that does not fit changes the second one to ENOSPC.
                let _ = load(code, frags, &mut log);
                Err(LoadError { source, log: tail(&log) })
            }
        }
    }

    /// Attaches the program to an interface of the calling thread's network namespace. It is detached when the
    /// returned link is dropped, also by the end of the process. Linux 5.9.
    /// Errors: EBUSY or EEXIST if a program is attached already, EOPNOTSUPP if the driver has no native XDP,
    /// EINVAL on older kernels.
    pub fn attach(&self, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct Attr {
            prog_fd: u32,
            ifindex: u32,
            attach_type: u32,
            flags: u32,
        }
        let flags = match hook {
            Hook::Native => XDP_FLAGS_DRV_MODE,
            Hook::Generic => XDP_FLAGS_SKB_MODE,
        };
        let mut attr = Attr { prog_fd: self.0.as_raw_fd() as u32, ifindex, attach_type: ATTACH_XDP, flags };
        // SAFETY: the first members of BPF_LINK_CREATE's attributes, which hold no pointer.
        Ok(owned(unsafe { bpf(LINK_CREATE, &mut attr) }?))
    }

    /// Runs the program on a frame (at least 14 bytes) without any interface and returns its verdict.
    #[cfg(test)]
    pub fn dry_run(&self, frame: &[u8]) -> io::Result<u32> {
        #[repr(C)]
        struct Attr {
            prog_fd: u32,
            retval: u32,
            data_size_in: u32,
            data_size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
        }
        let mut attr = Attr {
            prog_fd: self.0.as_raw_fd() as u32,
            retval: 0,
            data_size_in: frame.len() as u32,
            data_size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        // SAFETY: BPF_PROG_TEST_RUN's first members; the kernel reads data_size_in bytes of a live slice and
        // writes no frame back (no output buffer).
        unsafe { bpf(10, &mut attr) }?;
        Ok(attr.retval)
    }
}

fn load(code: &[Insn], frags: Frags, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kern_version: 0,
        prog_flags: if frags == Frags::Yes { F_XDP_HAS_FRAGS } else { 0 },
        prog_name: name("tortie_steer"),
        prog_ifindex: 0,
        expected_attach_type: ATTACH_XDP,
    };
    // SAFETY: BPF_PROG_LOAD's first members; the kernel reads insn_cnt instructions and the NUL-terminated
    // license and writes at most log_size bytes to log_buf, all of them live slices.
    Ok(owned(unsafe { bpf(PROG_LOAD, &mut attr) }?))
}

/// The last lines of a NUL-terminated log: the reason of a refusal stands at the end.
fn tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_program_brings_the_verifiers_reason() {
        // `exit` without a value in r0.
        let e = Program::load(&[Insn { code: 0x95, regs: 0, off: 0, imm: 0 }], Frags::No).unwrap_err();
        assert!(matches!(e.source.raw_os_error(), Some(libc::EACCES | libc::EINVAL)), "{e:?}");
        assert!(e.log.contains("R0"), "{e:?}");
    }

    #[test]
    fn only_the_end_of_a_log_is_kept() {
        let mut log: Vec<u8> = (0..20).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
        log.extend([0, b'x']);
        let t = tail(&log);
        assert!(t.starts_with("line 12\n") && t.ends_with("line 19"), "{t}");
        assert_eq!(tail(&[]), "");
    }
}
