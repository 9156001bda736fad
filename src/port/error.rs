//! Why a port could not be opened: which step on which interface, what the kernel said, and the remedy.

use std::io;

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A system call failed.
    #[error("{what}: {source}{sep}{hint}", sep = if hint.is_empty() { "" } else { "; " })]
    Io {
        /// The step and the interface, like `attach to veth cali123: bind`.
        what: String,
        source: io::Error,
        /// What to do about it; empty when there is nothing to say.
        hint: &'static str,
    },
    /// The request or what is there already makes no sense for this port.
    #[error("{what}; {hint}")]
    Refused { what: String, hint: &'static str },
}

impl OpenError {
    /// The failed step with the usual remedy for its error number.
    pub fn io(what: impl Into<String>, source: io::Error) -> OpenError {
        let hint = hint(&source);
        OpenError::Io { what: what.into(), source, hint }
    }

    /// The failed step with a remedy of its own.
    pub fn with_hint(what: impl Into<String>, source: io::Error, hint: &'static str) -> OpenError {
        OpenError::Io { what: what.into(), source, hint }
    }

    /// The error number, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            OpenError::Io { source, .. } => source.raw_os_error(),
            OpenError::Refused { .. } => None,
        }
    }
}

/// The usual remedy for an error number.
fn hint(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "needs CAP_NET_ADMIN and CAP_NET_RAW: run as root",
        Some(libc::ENODEV | libc::ENXIO) => "there is no such interface in this network namespace",
        Some(libc::ENETDOWN) => "the interface is down: set it up with `ip link set IFACE up`",
        Some(libc::EBUSY) => "another process uses it: stop that one first",
        Some(libc::ENOMEM | libc::ENOBUFS) => "the kernel is out of memory for sockets",
        Some(libc::EMFILE | libc::ENFILE) => "out of file descriptors: raise the limit (ulimit -n)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_step_cause_and_remedy() {
        let e = OpenError::io("open packet socket on cali1", io::Error::from_raw_os_error(libc::EPERM));
        let text = e.to_string();
        assert!(text.starts_with("open packet socket on cali1: ") && text.contains("run as root"), "{text}");
        assert_eq!(e.errno(), Some(libc::EPERM));
        let plain = OpenError::io("bind", io::Error::from_raw_os_error(libc::EDOM)).to_string();
        assert!(!plain.ends_with("; "), "{plain}");
    }
}
