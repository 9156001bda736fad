//! Ports of UDP and TCP that the daemon wants, and who has them.

use super::{Finding, Machine, State};
use std::fs;

/// Calico's VXLAN port.
const VXLAN_PORT: u16 = 4789;
/// States in /proc/net/tcp and udp (include/net/tcp_states.h).
const LISTEN: u8 = 0x0a;
const UNCONNECTED: u8 = 0x07;

/// A socket bound to a port.
struct Bound {
    inode: u64,
}

impl Machine {
    /// Sockets on a local port, in both families' tables.
    fn bound(&self, protocol: &str, port: u16, state: u8) -> Vec<Bound> {
        let tables = [protocol.to_owned(), format!("{protocol}6")].map(|t| self.read(&format!("proc/self/net/{t}")).unwrap_or_default());
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (_, local) = words.get(1)?.rsplit_once(':')?;
            let matches = u16::from_str_radix(local, 16).ok()? == port && u8::from_str_radix(words.get(3)?, 16).ok()? == state;
            matches.then_some(Bound { inode: words.get(9)?.parse().ok()? })
        };
        tables.iter().flat_map(|t| t.lines().skip(1).filter_map(row)).collect()
    }

    /// The process that has a socket open, by name and number.
    fn owner(&self, inode: u64) -> Option<(String, u32)> {
        let wanted = format!("socket:[{inode}]");
        self.processes().into_iter().find_map(|(pid, name)| {
            let fds = fs::read_dir(self.root.join(format!("proc/{pid}/fd"))).ok()?;
            let has = fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy() == wanted));
            has.then_some((name, pid))
        })
    }

    /// Who else than this program has the port: `None` if nobody has.
    fn stranger(&self, protocol: &str, port: u16, state: u8) -> Option<String> {
        let others = self.bound(protocol, port, state).into_iter().filter_map(|b| match self.owner(b.inode) {
            Some((name, _)) if name == "tortie" => None,
            Some((name, pid)) => Some(format!("{name} (pid {pid})")),
            // A kernel device's socket belongs to no process.
            None => Some("the kernel, or a process that cannot be looked into".to_owned()),
        });
        others.into_iter().next()
    }
}

pub(super) fn tunnel_port(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "VXLAN port";
    match m.stranger("udp", VXLAN_PORT, UNCONNECTED) {
        None => vec![Finding::ok(CHECK, format!("UDP {VXLAN_PORT} is free or tortie's"))],
        Some(who) => {
            let remedy = "stop it (ip -d link show type vxlan shows the kernel's devices), set another vxlanPort in FelixConfiguration on all nodes, or use uplink: {driver: af-xdp}";
            vec![Finding::bad(CHECK, State::Failure, format!("UDP {VXLAN_PORT} is taken by {who}"), remedy)]
        }
    }
}

pub(super) fn monitoring_ports(m: &Machine) -> Vec<Finding> {
    let monitoring = m.config.as_ref().map(|c| c.monitoring.clone()).unwrap_or_default();
    let services = [("metrics port", &monitoring.metrics, 9091), ("health port", &monitoring.health, 9099)];
    let finding = |(check, listen, default): (&'static str, &crate::control::model::Listen, u16)| {
        let port = listen.port.unwrap_or(default);
        match m.stranger("tcp", port, LISTEN) {
            None => Finding::ok(check, format!("TCP {port} is free or tortie's")),
            Some(who) => {
                let state = if listen.enabled == Some(true) { State::Failure } else { State::Warning };
                Finding::bad(check, state, format!("TCP {port} is taken by {who}"), "stop it, or set another port")
            }
        }
    };
    services.into_iter().map(finding).collect()
}
