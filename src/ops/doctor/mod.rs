//! Looks at this machine for everything the daemon needs and everything that may get in its way, before and after
//! installing. Changes nothing.

mod host;
mod kernel;
mod network;
mod sockets;

use super::api::Client;
use super::view::StatusRow;
use crate::control::config::{Config, ConfigError};
use crate::control::env::Environment;
use crate::control::netlink::{Link, Netlink, View, interfaces};
use crate::control::node::detect::{self, Host};
use crate::port::probe::Probe;
use crate::port::{probe, sys};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Ok,
    /// Nothing wrong, but worth knowing.
    Note,
    /// Works, but not as well as it could, or not for everything.
    Warning,
    /// The daemon or its pods will not work.
    Failure,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Note => "note",
            State::Warning => "warning",
            State::Failure => "failure",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub state: State,
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, state: State::Ok, found: found.into(), remedy: None }
    }

    fn note(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, state: State::Note, found: found.into(), remedy: None }
    }

    fn bad(check: &'static str, state: State, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, state, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// The machine as the checks see it.
pub struct Machine {
    /// Folder that stands for `/`.
    root: PathBuf,
    view: View,
    config: Result<Config, ConfigError>,
    config_path: PathBuf,
    /// The running daemon's answer.
    daemon: Option<StatusRow>,
    probes: Result<Vec<Probe>, String>,
    clock: Option<bool>,
    /// Configured, or what the daemon uses, or what it would use.
    uplink: Option<String>,
    /// Driver of the uplink.
    driver: Option<String>,
}

/// The interface towards the other nodes.
fn uplink(config: &Config, daemon: Option<&StatusRow>) -> Option<String> {
    let used = || daemon.map(|d| d.uplink.clone()).filter(|name| !name.is_empty());
    let detected = || {
        let host = Host { interfaces: interfaces::read().ok()?, ..Host::default() };
        detect::detect(&config.start.method, &host).ok().map(|d| d.interface)
    };
    config.uplink.interface.clone().or_else(used).or_else(detected)
}

impl Machine {
    /// This one, in the calling process's network namespace.
    pub fn look(config_path: &Path, socket: &Path) -> io::Result<Machine> {
        let config = Config::load(config_path, &Environment::of_process());
        let daemon = Client::new(socket).status().ok();
        let uplink = config.as_ref().ok().and_then(|c| uplink(c, daemon.as_ref()));
        Ok(Machine {
            root: "/".into(),
            view: Netlink::open()?.view().clone(),
            driver: uplink.as_deref().and_then(|name| sys::Link::new(name).and_then(|mut l| l.driver()).ok()),
            uplink,
            config,
            config_path: config_path.into(),
            daemon,
            probes: probe::all().map_err(|e| e.to_string()),
            clock: sys::clock_is_synchronised().ok(),
        })
    }

    /// A file's text without the white space around it.
    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|t| t.trim().to_owned())
    }

    /// The files of a folder with one of these endings.
    fn files(&self, folder: &str, ending: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(folder)) else { return Vec::new() };
        let named = entries.flatten().filter(|e| e.file_name().to_string_lossy().ends_with(ending));
        named.filter_map(|e| fs::read_to_string(e.path()).ok()).collect()
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.view.link_by_name(name)
    }

    fn uplink(&self) -> Option<(&str, Option<&Link>)> {
        let name = self.uplink.as_deref()?;
        Some((name, self.link(name)))
    }

    /// Processes in this network namespace, by number, with their names (15 characters at most).
    fn processes(&self) -> Vec<(u32, String)> {
        let Ok(entries) = fs::read_dir(self.root.join("proc")) else { return Vec::new() };
        let namespace = |pid: &str| fs::read_link(self.root.join("proc").join(pid).join("ns/net")).ok();
        let own = namespace("self");
        let mut out: Vec<(u32, String)> = entries
            .flatten()
            .filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok())
            .filter(|pid| own.is_none() || namespace(&pid.to_string()) == own)
            .filter_map(|pid| Some((pid, self.read(&format!("proc/{pid}/comm"))?)))
            .collect();
        out.sort_unstable();
        out
    }

    fn runs(&self, name: &str) -> Option<u32> {
        self.processes().into_iter().find(|(_, n)| n == name).map(|(pid, _)| pid)
    }
}

/// All checks, in the order in which their findings are listed.
const CHECKS: &[fn(&Machine) -> Vec<Finding>] = &[
    host::configuration,
    host::daemon,
    host::others,
    kernel::rights,
    kernel::version,
    kernel::features,
    kernel::forwarding,
    kernel::reverse_path,
    kernel::locked_memory,
    kernel::clock,
    network::uplink,
    network::mtu,
    network::kernel_devices,
    network::network_manager,
    network::networkd,
    sockets::tunnel_port,
    sockets::monitoring_ports,
];

/// Runs every check.
pub fn examine(machine: &Machine) -> Vec<Finding> {
    CHECKS.iter().flat_map(|check| check(machine)).collect()
}

#[cfg(test)]
mod tests;
