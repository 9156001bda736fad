//! What a port lives from in the kernel, so that another process can go on with it: the open descriptors by name, and
//! the few numbers that the kernel would not tell again.
//!
//! Descriptors are duplicates of the same open files: what waits in them is received once, by whoever reads first. So
//! the one must have stopped before the other begins.

use super::OpenError;
use crate::frame::SlotSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// One queue of a port.
#[derive(Debug)]
pub struct Handles {
    /// [`super::Caps::driver`] of the port.
    pub driver: String,
    pub notes: BTreeMap<String, u64>,
    pub fds: BTreeMap<String, OwnedFd>,
}

/// What the kernel has of the slots of a port that sends and receives in the pool's memory. It says where another process
/// is to go on, while neither of both does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    pub slots: SlotSet,
    /// Queue by queue: descriptors given for sending whose completion is outstanding.
    pub sending: Vec<u32>,
}

impl Handles {
    pub fn new(driver: &str) -> Handles {
        Handles { driver: driver.to_owned(), notes: BTreeMap::new(), fds: BTreeMap::new() }
    }

    /// Adds a duplicate of a descriptor. Errors: the process has too many.
    pub fn add(&mut self, name: impl Into<String>, fd: &impl AsFd) -> io::Result<()> {
        self.fds.insert(name.into(), fd.as_fd().try_clone_to_owned()?);
        Ok(())
    }

    pub fn note(&mut self, name: impl Into<String>, value: u64) {
        self.notes.insert(name.into(), value);
    }

    /// Takes a descriptor out. Errors: there is none under the name.
    pub fn take(&mut self, name: &str) -> Result<OwnedFd, OpenError> {
        self.fds.remove(name).ok_or_else(|| self.lacks("descriptor", name))
    }

    /// A number. Errors: there is none under the name.
    pub fn number(&self, name: &str) -> Result<u64, OpenError> {
        self.notes.get(name).copied().ok_or_else(|| self.lacks("number", name))
    }

    /// A 32-bit number. Errors: there is none under the name, or it is larger.
    pub fn word(&self, name: &str) -> Result<u32, OpenError> {
        u32::try_from(self.number(name)?).map_err(|_| self.lacks("32-bit number", name))
    }

    /// Errors: it is a port of another kind.
    pub fn expect(&self, driver: &str) -> Result<(), OpenError> {
        if self.driver == driver {
            return Ok(());
        }
        Err(OpenError::Refused {
            what: format!("the running daemon has a port by {} where this one uses {driver}", self.driver),
            hint: "give both the same drivers, or restart instead of taking over",
        })
    }

    fn lacks(&self, what: &str, name: &str) -> OpenError {
        OpenError::Refused {
            what: format!("the running daemon's {} port came without its {what} {name:?}", self.driver),
            hint: "restart instead of taking over",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let mut h = Handles::new("udp");
        h.add("rx", &std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        h.note("port", 7);
        assert!(h.take("rx").is_ok() && h.number("port").is_ok_and(|n| n == 7) && h.expect("udp").is_ok());
        let text = |e: OpenError| e.to_string();
        assert!(text(h.take("rx").unwrap_err()).contains("udp port came without its descriptor \"rx\""));
        assert!(text(h.number("x").unwrap_err()).contains("number \"x\""));
        assert!(text(h.expect("raw").unwrap_err()).contains("by udp where this one uses raw"));
    }
}
