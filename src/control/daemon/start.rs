//! What must be true before the daemon touches anything: enough rights, and no other daemon here.

use super::DaemonError;
use crate::control::capabilities::{Capabilities, Capability};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Abstract sockets are names of the network namespace and vanish with their process: one daemon per namespace.
const ABSTRACT_NAME: &[u8] = b"tortie-daemon";

/// Checks for the capabilities that no I/O method does without.
pub fn check_rights() -> Result<(), DaemonError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Without /proc nothing can be said; the first system call will tell.
    let Some(held) = Capabilities::of_status(&status) else { return Ok(()) };
    let missing: Vec<&str> =
        [Capability::NetAdmin, Capability::NetRaw].into_iter().filter(|c| !held.has(*c)).map(Capability::name).collect();
    if missing.is_empty() { Ok(()) } else { Err(DaemonError::Rights { missing: missing.join(" and ") }) }
}

/// The daemon's claim to its API socket and to its network namespace; given up on drop.
pub struct Claim {
    path: PathBuf,
    file: File,
    name: UnixListener,
}

impl Claim {
    /// Takes a lock file beside the API socket, and the name in this network namespace.
    pub fn take(socket: &Path) -> Result<Claim, DaemonError> {
        let path = lock_path(socket);
        let fail = |source| DaemonError::Lock { path: path.clone(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(fail)?;
        }
        let file = loop {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut pid = String::new();
                    let _ = file.read_to_string(&mut pid);
                    return Err(DaemonError::Running { pid: pid.trim().parse().ok(), what: format!("socket {}", socket.display()) });
                }
                Err(TryLockError::Error(e)) => return Err(fail(e)),
            }
            // The one before may have removed the file between our open and our lock.
            let same = fs::metadata(&path).and_then(|now| file.metadata().map(|m| (m.dev(), m.ino()) == (now.dev(), now.ino())));
            if same.unwrap_or(false) {
                break file;
            }
        };
        let name = take_name()?;
        write_pid(&file).map_err(fail)?;
        Ok(Claim { path, file, name })
    }

    /// The claim of a daemon that has handed over: of its two descriptors, in the order of [`Claim::handles`].
    pub fn adopt(socket: &Path, mut fds: impl Iterator<Item = OwnedFd>) -> Result<Claim, DaemonError> {
        let path = lock_path(socket);
        let fail = |source| DaemonError::Lock { path: path.clone(), source };
        let (Some(file), Some(name)) = (fds.next(), fds.next()) else {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidData, "the running daemon did not pass its lock on")));
        };
        let claim = Claim { file: file.into(), name: name.into(), path: path.clone() };
        write_pid(&claim.file).map_err(fail)?;
        Ok(claim)
    }

    /// Duplicates for a successor. The lock is the open file's: it holds as long as one of them is open.
    pub fn handles(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.file.try_clone()?.into(), self.name.try_clone()?.into()])
    }

    /// Where a successor, or somebody who wants to know who is here, connects.
    pub fn listen(&self) -> io::Result<tokio::net::UnixListener> {
        let name = self.name.try_clone()?;
        name.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(name)
    }
}

/// The daemon of this network namespace; `None` if there is none.
pub fn running() -> io::Result<Option<UnixStream>> {
    match UnixStream::connect_addr(&SocketAddr::from_abstract_name(ABSTRACT_NAME)?) {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(e) => Err(e),
    }
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    PathBuf::from(path)
}

fn write_pid(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn take_name() -> Result<UnixListener, DaemonError> {
    let fail = |source| DaemonError::Lock { path: "@tortie-daemon".into(), source };
    let address = SocketAddr::from_abstract_name(ABSTRACT_NAME).map_err(fail)?;
    match UnixListener::bind_addr(&address) {
        Ok(l) => Ok(l),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            Err(DaemonError::Running { pid: owner(&address), what: "this network namespace".into() })
        }
        Err(e) => Err(fail(e)),
    }
}

/// The process that listens there. Needs the runtime that the daemon runs in.
fn owner(address: &SocketAddr) -> Option<u32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    stream.set_nonblocking(true).ok()?;
    let pid = tokio::net::UnixStream::from_std(stream).ok()?.peer_cred().ok()?.pid()?;
    u32::try_from(pid).ok()
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether the kernel forwards IPv4 between interfaces, which host and pods need beyond this node. Only looked at.
pub fn ip_forward() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").map_or(true, |v| v.trim() != "0")
}
