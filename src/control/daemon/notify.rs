//! What a service manager is told, if there is one (sd_notify(3)).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

const SOCKET: &str = "NOTIFY_SOCKET";

/// Whether somebody wants to know.
pub fn is_wanted() -> bool {
    std::env::var_os(SOCKET).is_some_and(|v| !v.is_empty())
}

/// Says that another process is the service's main process from now on.
pub fn main_pid(pid: u32) {
    let Some(to) = std::env::var_os(SOCKET).filter(|v| !v.is_empty()) else { return };
    if let Err(e) = send(&to, &format!("MAINPID={pid}")) {
        tracing::warn!("the service manager could not be told that process {pid} is the service now: {SOCKET}: {e}");
    }
}

/// An address that begins with @ is an abstract one.
fn send(to: &OsStr, text: &str) -> io::Result<()> {
    let address = match to.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(to)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("tortie-notify-{}", std::process::id());
        let named = UnixDatagram::bind(&path).unwrap();
        let nameless = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        for (socket, to) in [(named, path.display().to_string()), (nameless, format!("@{abstract_name}"))] {
            send(OsStr::new(&to), "MAINPID=7").unwrap();
            let mut got = [0; 32];
            let n = socket.recv(&mut got).unwrap();
            assert_eq!(&got[..n], b"MAINPID=7");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "x").is_err());
    }
}
