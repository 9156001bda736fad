//! What the kernel allows and offers.

use super::{Finding, Machine, State};
use crate::control::capabilities::{Capabilities, Capability};
use crate::port::probe;

/// Capabilities that are used, and what is lost without them.
const CAPABILITIES: &[(Capability, State, &str)] = &[
    (Capability::NetAdmin, State::Failure, "nothing works"),
    (Capability::NetRaw, State::Failure, "nothing works"),
    (Capability::SysAdmin, State::Warning, "no TAPs in pods' namespaces, and features cannot be tried out"),
    (Capability::Bpf, State::Warning, "no AF_XDP, and the host stack sees pods' packets twice on a veth"),
];

fn held(m: &Machine) -> Option<Capabilities> {
    Capabilities::of_status(&m.read("proc/self/status")?)
}

pub(super) fn rights(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "rights";
    let Some(held) = held(m) else { return vec![Finding::note(CHECK, "unknown: /proc/self/status cannot be read")] };
    let missing = CAPABILITIES.iter().filter(|(c, ..)| !held.has(*c));
    let out: Vec<Finding> = missing
        .map(|(c, state, lost)| {
            Finding::bad(CHECK, *state, format!("{} is missing: {lost}", c.name()), "run as root, or with this capability")
        })
        .collect();
    if out.is_empty() { vec![Finding::ok(CHECK, "all capabilities that can be used")] } else { out }
}

pub(super) fn version(m: &Machine) -> Vec<Finding> {
    let release = m.read("proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    vec![Finding::ok("kernel", release)]
}

/// What each probe stands for, how bad its failure is, and what happens then.
const FEATURES: &[(&str, &str, State, &str)] = &[
    (probe::TUN_DEVICE, "TUN and TAP", State::Failure, "load the tun module (modprobe tun), or give the container /dev/net/tun"),
    (
        probe::AF_PACKET,
        "AF_PACKET with virtio-net headers",
        State::Failure,
        "pods on a veth need it, or AF_XDP: workloads: {driver: af-xdp}",
    ),
    (probe::AF_XDP, "AF_XDP", State::Note, "not needed: sockets are used instead"),
    (probe::UDP_SEGMENT, "UDP_SEGMENT", State::Warning, "bulk traffic is several times slower without it; it came with Linux 4.18"),
    (probe::UDP_GRO, "UDP_GRO", State::Warning, "bulk traffic is several times slower without it; it came with Linux 5.0"),
    (probe::RAW_IPIP, "raw socket for IP-in-IP", State::Warning, "nodes reached by IP-in-IP are cut off unless AF_XDP works"),
    (probe::TUNNEL_GSO, "super-frames through tunnels", State::Note, "not needed: super-frames are cut here; it came with Linux 6.17"),
];

pub(super) fn features(m: &Machine) -> Vec<Finding> {
    let probes = match &m.probes {
        Ok(p) => p,
        Err(e) => {
            let remedy = "run as root; in a container, privileged";
            return vec![Finding::bad("features", State::Warning, format!("could not be tried out: {e}"), remedy)];
        }
    };
    let finding = |(name, title, state, remedy): &(&str, &'static str, State, &str)| {
        let p = probes.iter().find(|p| p.name == *name)?;
        Some(match &p.result {
            Ok(()) => Finding::ok(title, "works"),
            Err(why) => Finding::bad(title, *state, why.clone(), *remedy),
        })
    };
    FEATURES.iter().filter_map(finding).collect()
}

pub(super) fn forwarding(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "ip_forward";
    match m.read("proc/sys/net/ipv4/ip_forward").as_deref() {
        Some("0") => {
            let remedy = "sysctl -w net.ipv4.ip_forward=1, and a file in /etc/sysctl.d for the next start";
            vec![Finding::bad(CHECK, State::Failure, "0: packets between pods and what lies beyond this node are not forwarded", remedy)]
        }
        Some(v) => vec![Finding::ok(CHECK, v)],
        None => vec![Finding::note(CHECK, "unknown: /proc/sys cannot be read")],
    }
}

/// rp_filter counts as the larger of `all` and the interface's (Documentation/networking/ip-sysctl.rst).
pub(super) fn reverse_path(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "rp_filter";
    let value = |name: &str| m.read(&format!("proc/sys/net/ipv4/conf/{name}/rp_filter")).and_then(|v| v.parse::<u8>().ok());
    let all = value("all").unwrap_or(0);
    let host = m.config.as_ref().map_or("tunl-tortie", |c| &c.host.interface);
    let names = [Some(host), m.uplink().map(|(name, _)| name)];
    let strict: Vec<&str> = names.into_iter().flatten().filter(|n| value(n).is_some_and(|v| v.max(all) == 1)).collect();
    if strict.is_empty() {
        return vec![Finding::ok(CHECK, "not strict on the uplink and the host device")];
    }
    let found = format!("strict (1) on {}: works while the routes to pods and nodes are symmetric", strict.join(", "));
    vec![Finding::note(CHECK, found)]
}

/// What one worker's pool locks when it is registered with AF_XDP, bytes: 8,192 slots of 2 KB and 128 of 64 KB.
const POOL: u64 = 8192 * 2048 + 128 * 65536;

pub(super) fn locked_memory(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "locked memory";
    let limits = m.read("proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|l| l.strip_prefix("Max locked memory")).and_then(|l| l.split_whitespace().next());
    let workers = m.config.as_ref().map_or(1, |c| u64::from(c.workers));
    match soft.map(str::parse::<u64>) {
        // Whoever has CAP_IPC_LOCK is not limited.
        _ if held(m).is_some_and(|h| h.has(Capability::IpcLock)) => vec![Finding::ok(CHECK, "not limited (CAP_IPC_LOCK)")],
        Some(Ok(bytes)) if bytes < workers * POOL => {
            let found = format!("at most {} MB, AF_XDP takes {} MB", bytes >> 20, (workers * POOL) >> 20);
            vec![Finding::bad(CHECK, State::Warning, found, "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited")]
        }
        Some(_) => vec![Finding::ok(CHECK, "enough for AF_XDP")],
        None => vec![Finding::note(CHECK, "unknown: /proc/self/limits cannot be read")],
    }
}

pub(super) fn clock(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "clock";
    match m.clock {
        Some(true) => vec![Finding::ok(CHECK, "synchronised")],
        Some(false) => {
            let remedy = "run chrony or systemd-timesyncd: certificates, and the age of address blocks, are judged by it";
            vec![Finding::bad(CHECK, State::Warning, "the kernel does not take it to be synchronised", remedy)]
        }
        None => vec![Finding::note(CHECK, "unknown: adjtimex is refused")],
    }
}
