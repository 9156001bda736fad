//! The daemon's own configuration and state, and who else is here.

use super::{Finding, Machine, State};
use crate::control::config::{ConfigError, Datastore};
use crate::ops::view::ConflictRow;

pub(super) fn configuration(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let config = match &m.config {
        Ok(c) => c,
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let found = format!("{} is not there yet: what depends on it is not checked", m.config_path.display());
            return vec![Finding::bad(
                CHECK,
                State::Warning,
                found,
                "write it (config/node.yaml is an example), or name another with --config",
            )];
        }
        Err(e) => return vec![Finding::bad(CHECK, State::Failure, e.to_string(), "correct the file")],
    };
    let mut out = vec![Finding::ok(CHECK, format!("{}, node {}", m.config_path.display(), config.node))];
    match &config.datastore {
        Datastore::File { path } if std::fs::read_dir(path).is_err() => out.push(Finding::bad(
            "datastore",
            State::Failure,
            format!("{} is no folder that can be read", path.display()),
            "create it, or correct datastore.path",
        )),
        Datastore::File { path } => out.push(Finding::ok("datastore", format!("folder {}", path.display()))),
        Datastore::Kubernetes { kubeconfig: Some(path) } => out.push(match std::fs::metadata(path) {
            Ok(_) => Finding::ok("datastore", format!("kubernetes by {}", path.display())),
            Err(e) => Finding::bad(
                "datastore",
                State::Failure,
                format!("{}: {e}", path.display()),
                "create it, or correct datastore.kubeconfig or KUBECONFIG",
            ),
        }),
        Datastore::Kubernetes { kubeconfig: None } => out.push(Finding::ok("datastore", "kubernetes by the pod's service account")),
    }
    let cpus = m.read("proc/cpuinfo").map_or(0, |t| t.lines().filter(|l| l.starts_with("processor")).count());
    if cpus > 0 && usize::from(config.workers) > cpus {
        let found = format!("{} workers on {cpus} processors", config.workers);
        out.push(Finding::bad("workers", State::Warning, found, format!("set workers to {cpus} or fewer")));
    }
    out
}

pub(super) fn daemon(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "daemon";
    let Some(status) = &m.daemon else { return vec![Finding::note(CHECK, "not running")] };
    let mut out = Vec::new();
    if status.in_sync {
        out.push(Finding::ok(CHECK, format!("running, pid {}, in sync, generation {}", status.pid, status.generation)));
    } else {
        let found = format!("running, pid {}, not in sync", status.pid);
        out.push(Finding::bad(CHECK, State::Failure, found, format!("see whether the datastore has a Node named {}", status.node)));
    }
    let conflict = |c: &ConflictRow| {
        let found = format!("{} {}: {}: {}", c.kind, c.subject, c.parties.join(" and "), c.found);
        Finding::bad("conflict", State::Failure, found, c.remedy.clone())
    };
    out.extend(status.conflicts.iter().map(conflict));
    out.extend(status.problems.iter().map(|p| Finding::bad("problem", State::Warning, p.clone(), "see docs/operate.md")));
    out
}

/// Programs that serve the same pods, by the name of their process.
const RIVALS: &[(&str, &str)] = &[
    ("calico-node", "Calico"),
    ("calico-felix", "Calico"),
    ("flanneld", "flannel"),
    ("cilium-agent", "Cilium"),
    ("vpp_main", "Calico-VPP"),
];

pub(super) fn others(m: &Machine) -> Vec<Finding> {
    const CHECK: &str = "other networks";
    let found: Vec<Finding> = RIVALS
        .iter()
        .filter_map(|(process, product)| {
            let pid = m.runs(process)?;
            let remedy = format!("keep {product} off this node, by its DaemonSet's nodeSelector for example");
            Some(Finding::bad(CHECK, State::Failure, format!("{product} runs here ({process}, pid {pid})"), remedy))
        })
        .collect();
    if found.is_empty() { vec![Finding::ok(CHECK, "none of Calico, flannel, Cilium, VPP runs here")] } else { found }
}
