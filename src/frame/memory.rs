//! The memory that a pool's slots lie in: this process's alone, or a file without a name (memfd_create(2)), whose pages
//! another process can map as well. Both are zero at first and take a page when it is first touched.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// One mapping; unmapped on drop.
pub(super) struct Memory {
    base: NonNull<u8>,
    len: usize,
    file: Option<File>,
}

// SAFETY: the mapping is owned by this value alone and not tied to a thread.
unsafe impl Send for Memory {}

impl Memory {
    pub fn private(len: usize) -> io::Result<Memory> {
        map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
    }

    /// Errors: the kernel has no memfd, or is told not to give any (a seccomp filter).
    pub fn shared(len: usize) -> io::Result<Memory> {
        let file = unnamed()?;
        file.set_len(len as u64)?;
        // Nobody can take pages away from under the other.
        // SAFETY: no pointers.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        map(len, libc::MAP_SHARED, Some(file))
    }

    /// Maps what another process made. Errors: it has another length.
    pub fn adopt(file: OwnedFd, len: usize) -> io::Result<Memory> {
        let file = File::from(file);
        if file.metadata()?.len() != len as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory has another length than so many slots"));
        }
        map(len, libc::MAP_SHARED, Some(file))
    }

    #[inline(always)]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// For [`Memory::adopt`] in another process; `None` if no other can map it.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Enters the first `len` bytes into the page table now, so that packets need not. A kernel before Linux 5.14 does not,
    /// and does it page by page later.
    pub fn populate(&self, len: usize) {
        // SAFETY: a part of the mapping (`min`); what it holds does not change.
        unsafe { libc::madvise(self.base.as_ptr().cast(), len.min(self.len), libc::MADV_POPULATE_WRITE) };
    }
}

fn unnamed() -> io::Result<File> {
    // Linux 6.3 wants to be told that nothing is to be executed there, and knows how.
    for extra in [libc::MFD_NOEXEC_SEAL, libc::MFD_ALLOW_SEALING] {
        // SAFETY: the name is a literal with its NUL.
        let fd = unsafe { libc::memfd_create(c"tortie-pool".as_ptr(), libc::MFD_CLOEXEC | extra) };
        if fd >= 0 {
            // SAFETY: the descriptor is new and nobody else's.
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
        let e = io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::EINVAL) {
            return Err(e);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EINVAL))
}

fn map(len: usize, flags: libc::c_int, file: Option<File>) -> io::Result<Memory> {
    let (flags, fd) = (flags | libc::MAP_NORESERVE, file.as_ref().map_or(-1, |f| f.as_raw_fd()));
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing of this process. A file's pages stay
    // there: it cannot be made shorter.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let base = NonNull::new(p.cast::<u8>()).ok_or_else(|| io::Error::other("mmap returned null"))?;
    Ok(Memory { base, len, file })
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; whoever holds this value hands out no reference that outlives it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
