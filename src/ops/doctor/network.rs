//! Interfaces, and the programs that manage them.

use super::{Finding, Machine, State};
use crate::encap::rewrite::{IPIP_OVERHEAD, VXLAN_OVERHEAD};

pub(super) fn uplink(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "uplink";
    let Some((name, link)) = m.uplink() else {
        let unknown = Finding::bad(CHECK, State::Failure, "no interface has an address for this node", "set uplink.interface");
        return m.config.iter().map(|_| unknown.clone()).collect();
    };
    let Some(link) = link else {
        return vec![Finding::bad(CHECK, State::Failure, format!("there is no interface {name}"), "correct uplink.interface")];
    };
    if !link.up || !link.running {
        let found = format!("{name} is {}", if link.up { "without carrier" } else { "down" });
        return vec![Finding::bad(CHECK, State::Failure, found, format!("ip link set {name} up, and look at the cable or the switch"))];
    }
    let addresses: Vec<String> = m.view.addresses_of(link.index).map(|a| a.to_string()).collect();
    if addresses.is_empty() {
        let found = format!("{name} has no IPv4 address");
        return vec![Finding::bad(CHECK, State::Failure, found, "add the node's address, or correct uplink.interface")];
    }
    let driver = m.driver.as_deref().unwrap_or("unknown");
    let mut out = vec![Finding::ok(CHECK, format!("{name}, {}, driver {driver}", addresses.join(", ")))];
    if driver == "vmxnet3" {
        let found = "vmxnet3: NSX and some vSphere versions keep UDP 4789 for themselves; then pings pass between nodes and TCP does not";
        out.push(Finding {
            remedy: Some("if so, set FelixConfiguration vxlanPort to another port on all nodes".into()),
            ..Finding::note("VXLAN port", found)
        });
    }
    out
}

pub(super) fn mtu(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "MTU";
    let Some((name, Some(link))) = m.uplink() else { return Vec::new() };
    let room = |overhead: u16| link.mtu.saturating_sub(u32::from(overhead));
    let (vxlan, ipip) = (room(VXLAN_OVERHEAD), room(IPIP_OVERHEAD));
    let sum = format!("{} on {name}: pods have at most {vxlan} in VXLAN, {ipip} in IP-in-IP", link.mtu);
    if vxlan < 1280 {
        let remedy = format!("raise the MTU of {name}, or expect software that insists on 1280 to fail");
        return vec![Finding::bad(CHECK, State::Warning, sum, remedy)];
    }
    let mut out = vec![Finding::ok(CHECK, sum)];
    let Some(pod_mtu) = m.daemon.as_ref().and_then(|d| d.pod_mtu).map(u32::from) else { return out };
    if pod_mtu > link.mtu {
        let found = format!("pods have {pod_mtu}, the uplink carries {}", link.mtu);
        out.push(Finding::bad(CHECK, State::Failure, found, "lower vxlanMTU and ipipMTU in FelixConfiguration, or set them to 0"));
    }
    let file = m.read("var/lib/calico/mtu").and_then(|t| t.parse::<u32>().ok());
    if let Some(found) = file.filter(|f| *f > pod_mtu) {
        let found = format!("/var/lib/calico/mtu gives new pods {found}, the tunnels carry {pod_mtu}");
        out.push(Finding::bad(
            CHECK,
            State::Warning,
            found,
            format!("write {pod_mtu} into it, or set the CNI plugin's mtu, and make the pods anew"),
        ));
    }
    out
}

/// Devices by which the kernel does the same work.
pub(super) fn kernel_devices(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "kernel tunnels";
    let mut out = Vec::new();
    if m.link("vxlan.calico").is_some() {
        let remedy = "once Calico is gone from this node: ip link del vxlan.calico";
        out.push(Finding::bad(CHECK, State::Failure, "vxlan.calico is there and holds the VXLAN port", remedy));
    }
    if let Some(tunl) = m.link("tunl0") {
        let used = tunl.up && m.view.addresses_of(tunl.index).next().is_some();
        out.push(if used {
            let remedy = "once Calico is gone from this node: ip addr flush dev tunl0; ip link set tunl0 down";
            Finding::bad(CHECK, State::Warning, "tunl0 is up and has an address: it takes IP-in-IP packets as well", remedy)
        } else {
            Finding::note(CHECK, "tunl0 is there (the ipip module is loaded) and not used")
        });
    }
    if out.is_empty() { vec![Finding::ok(CHECK, "no vxlan.calico, no tunl0")] } else { out }
}

pub(super) fn network_manager(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "NetworkManager";
    if m.runs("NetworkManager").is_none() {
        return vec![Finding::ok(CHECK, "not running")];
    }
    let mut files = m.read("etc/NetworkManager/NetworkManager.conf").into_iter().collect::<Vec<_>>();
    for folder in ["etc", "run", "usr/lib"] {
        files.extend(m.files(&format!("{folder}/NetworkManager/conf.d"), ".conf"));
    }
    let lets_be = |pattern: &str| {
        let lines = files.iter().flat_map(|f| f.lines()).map(str::trim).filter(|l| l.starts_with("unmanaged-devices"));
        lines.flat_map(|l| l.split(['=', ';', ','])).any(|w| w.trim() == pattern)
    };
    if ["interface-name:cali*", "interface-name:tunl*"].into_iter().all(lets_be) {
        return vec![Finding::ok(CHECK, "running, leaves cali* and tunl* alone")];
    }
    let remedy = "copy config/host/NetworkManager-tortie.conf to /etc/NetworkManager/conf.d/tortie.conf; systemctl reload NetworkManager";
    vec![Finding::bad(
        CHECK,
        State::Warning,
        "running, and not told to leave cali* and tunl* alone: it may take their addresses and routes away",
        remedy,
    )]
}

pub(super) fn networkd(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "systemd-networkd";
    // The kernel keeps 15 characters of a process's name.
    if m.runs("systemd-network").is_none() {
        return vec![Finding::ok(CHECK, "not running")];
    }
    let (mut links, mut daemon) = (Vec::new(), m.read("etc/systemd/networkd.conf").into_iter().collect::<Vec<_>>());
    for folder in ["etc", "run", "usr/lib"] {
        links.extend(m.files(&format!("{folder}/systemd/network"), ".network"));
        daemon.extend(m.files(&format!("{folder}/systemd/networkd.conf.d"), ".conf"));
    }
    let unmanaged = |pattern: &str| {
        let names = |l: &str| l.strip_prefix("Name=").is_some_and(|n| n.split_whitespace().any(|w| w == pattern));
        links.iter().any(|f| f.lines().any(|l| names(l.trim())) && f.lines().any(|l| l.trim() == "Unmanaged=yes"))
    };
    let keeps = daemon.iter().flat_map(|f| f.lines()).any(|l| matches!(l.trim(), "ManageForeignRoutes=no" | "ManageForeignRoutes=false"));
    let missing: Vec<&str> =
        [(unmanaged("cali*") && unmanaged("tunl*"), "to leave cali* and tunl* alone"), (keeps, "to keep routes that others made")]
            .into_iter()
            .filter_map(|(told, what)| (!told).then_some(what))
            .collect();
    if missing.is_empty() {
        return vec![Finding::ok(CHECK, "running, leaves cali*, tunl* and others' routes alone")];
    }
    let remedy = "copy config/host/networkd-tortie.network to /etc/systemd/network/05-tortie.network and config/host/networkd-tortie.conf to \
                  /etc/systemd/networkd.conf.d/tortie.conf; systemctl restart systemd-networkd";
    vec![Finding::bad(CHECK, State::Warning, format!("running, and not told {}", missing.join(", ")), remedy)]
}
