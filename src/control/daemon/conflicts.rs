//! Conflicts as the daemon comes to know of them: from the cluster's state, from the node's own work, from workers, and
//! from what others do to its interfaces.

use super::Daemon;
use super::guard::{Change, Own, SUPER_FRAME_DEVICES};
use crate::control::conflict::{Conflict, Identities, Kind, Source};
use crate::control::model::default_vtep_mac;
use crate::control::plan::mtu16;
use crate::control::ports::Key;
use crate::control::processes::{self, Manager};
use crate::forward::Claim;
use std::path::Path;
use std::time::{Duration, Instant};

/// What runs here is looked for anew at most this often.
const LOOK: Duration = Duration::from_secs(10);

/// Programs that may have changed an interface, and when that was found out.
#[derive(Debug, Default)]
pub struct Suspects {
    found: Vec<Manager>,
    at: Option<Instant>,
}

impl Suspects {
    fn look(&mut self, now: Instant) -> &[Manager] {
        if self.at.is_none_or(|t| now >= t + LOOK) {
            (self.found, self.at) = (processes::managers(Path::new("/")), Some(now));
        }
        &self.found
    }
}

/// An interface that somebody else changed.
fn touched(owner: &str, interface: &str, aspect: &str, found: String, suspects: &[Manager]) -> Conflict {
    let names: Vec<String> = suspects.iter().map(|m| format!("{} (pid {})", m.name, m.pid)).collect();
    let by = |name: &str| suspects.iter().any(|m| m.name == name);
    let mut remedies = Vec::new();
    if by("NetworkManager") {
        remedies.push("copy config/host/NetworkManager-tortie.conf to /etc/NetworkManager/conf.d/tortie.conf and reload NetworkManager");
    }
    if by("systemd-networkd") {
        remedies.push(
            "copy config/host/networkd-tortie.network to /etc/systemd/network/05-tortie.network and config/host/networkd-tortie.conf to \
             /etc/systemd/networkd.conf.d/tortie.conf and restart systemd-networkd",
        );
    }
    if remedies.is_empty() {
        remedies.push(
            "no manager of interfaces is seen running here: look for the program or person with `ip monitor link address route`; \
             config/host has files for NetworkManager and systemd-networkd, which may run outside of this container",
        );
    }
    let other = if names.is_empty() { "another program on this host".to_owned() } else { names.join(" or ") };
    Conflict {
        kind: Kind::Interface,
        subject: format!("{interface} {aspect}"),
        parties: vec![owner.to_owned(), other],
        found,
        remedy: remedies.join("; "),
    }
}

impl Daemon {
    /// Looks at the host device, and undoes what others did to it.
    pub(super) fn guard_host_device(&mut self, now: Instant) {
        let name = self.config.host.interface.clone();
        let wish = self.ports.wishes().find(|(key, _)| **key == Key::Host).map(|(_, w)| w.mtu);
        let own = Own { name: &name, mtu: wish.filter(|_| self.ports.is_up(&Key::Host)).map(|m| u32::from(mtu16(m))) };
        let changes = self.guard.host.look(self.netlink.view(), own, now);
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            let done = match self.guard.host.repair(&mut self.netlink, own, change, now) {
                Ok(()) if *change == Change::Removed => "it is made again".to_owned(),
                Ok(()) => "this was undone".to_owned(),
                Err(e) => format!("this could not be undone: {e}"),
            };
            self.interface_touched(&name, change.aspect(), format!("{name} {}; {done}", change.words()), now);
        }
        self.host.shaken = true;
        self.host_changed();
    }

    /// The same for the devices by which super-frames leave. They are the uplink's, which is opened again to have one that
    /// was removed: until then super-frames are cut.
    pub(super) fn guard_super_frame_devices(&mut self, now: Instant) {
        let opening = self.ports.opening(&Key::Uplink);
        for (i, change) in self.guard.look_at_supers(self.netlink.view(), opening, now) {
            let name = SUPER_FRAME_DEVICES[i];
            let done = match self.guard.repair_super(&mut self.netlink, i, &change, now) {
                Ok(()) if change == Change::Removed => {
                    self.ports.reopen_one(&Key::Uplink, now);
                    "the uplink is opened again with a new one".to_owned()
                }
                Ok(()) => "this was undone".to_owned(),
                Err(e) => format!("this could not be undone: {e}"),
            };
            self.interface_touched(name, change.aspect(), format!("{name} {}; {done}", change.words()), now);
        }
    }

    fn interface_touched(&mut self, interface: &str, aspect: &str, found: String, now: Instant) {
        let conflict = touched("tortie", interface, aspect, found, self.suspects.look(now));
        self.conflicts.sight(conflict, now, self.shared.tally());
    }

    /// Takes in what was put back on the host.
    pub(super) fn host_touched(&mut self, now: Instant) {
        let interface = self.config.host.interface.clone();
        for t in self.host.take_touched() {
            self.interface_touched(&interface, t.aspect, t.what, now);
        }
    }

    /// Once a second: what lasts, and what is over.
    pub(super) fn look_for_conflicts(&mut self, now: Instant) {
        if self.guard.is_pending() {
            self.dirty.plan();
        }
        let all: Vec<(String, String)> =
            self.ports.wishes().filter(|(_, w)| w.netns.is_none()).filter_map(|(k, w)| Some((pod(k)?, w.interface.clone()))).collect();
        let found = self.guard.look_at_pods(self.netlink.view(), all.iter().map(|(_, i)| i.as_str()), now);
        let mut lasting = Vec::new();
        for (interface, change) in found {
            let owner = all.iter().find(|(_, i)| *i == interface).map_or("tortie", |(pod, _)| pod);
            let found = format!("{interface} {}: the pod is cut off", change.words());
            let back = match &change {
                Change::Renamed { to } => format!("ip link set {to} down; ip link set {to} name {interface}; ip link set {interface} up"),
                Change::Enslaved { .. } => format!("ip link set {interface} nomaster"),
                _ => format!("ip link set {interface} up"),
            };
            let mut conflict = touched(&format!("tortie for {owner}"), &interface, change.aspect(), found, self.suspects.look(now));
            conflict.remedy = format!("{back}; {}", conflict.remedy);
            lasting.push(conflict);
        }
        if let Some(node) = &self.calculator.desired().node {
            lasting.extend(self.home.look(&node.name, node.address.addr(), self.netlink.view()));
        }
        let mut changed = self.conflicts.set(Source::Host, lasting, now, self.shared.tally());
        changed |= self.conflicts.set(Source::Node, self.node.report().conflicts, now, self.shared.tally());
        if self.conflicts.expire(now) || changed {
            self.report_conflicts();
        }
    }

    /// A worker saw a packet of somebody who says that it is this node.
    pub(super) fn claimed(&mut self, claim: &Claim, now: Instant) {
        let Some(node) = &self.calculator.desired().node else { return };
        let me = Identities {
            name: node.name.clone(),
            address: node.address.addr(),
            tunnel_address: node.tunnel_address,
            vtep_mac: node.vtep_mac,
            mac_is_default: node.vtep_mac == default_vtep_mac(&node.name),
        };
        let mut nodes = self.cluster.kube_nodes.iter().chain(&self.cluster.nodes);
        let name_of = |a| nodes.find(|(_, n)| n.address.is_some_and(|net| net.addr() == a)).map(|(name, _)| name.clone());
        let conflict = Conflict::claimed(claim, &me, name_of);
        if self.conflicts.sight(conflict, now, self.shared.tally()) {
            self.report_conflicts();
        } else {
            self.announce_conflicts();
        }
    }

    pub(super) fn announce_conflicts(&self) {
        self.node.announce(self.conflicts.present());
    }
}

/// The pod that a port is for.
fn pod(key: &Key) -> Option<String> {
    if let Key::Workload(name) = key { Some(name.clone()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suspects_and_what_to_do_about_each() {
        let of = |names: &[&'static str]| {
            let managers: Vec<Manager> = names.iter().map(|name| Manager { name, pid: 8 }).collect();
            let c = touched("tortie", "tunl-tortie", "state", "was set down".into(), &managers);
            (c.parties[1].clone(), c.remedy)
        };
        let (who, remedy) = of(&["NetworkManager", "systemd-networkd"]);
        assert_eq!(who, "NetworkManager (pid 8) or systemd-networkd (pid 8)");
        assert!(remedy.contains("NetworkManager-tortie.conf") && remedy.contains("networkd-tortie.network"));
        let (who, remedy) = of(&[]);
        assert!(who == "another program on this host" && remedy.contains("ip monitor"), "{who} {remedy}");
    }
}
