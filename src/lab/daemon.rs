//! One engine per node: its configuration, its start in the node's namespace, and the wait until it forwards.

use super::LabError;
use super::manifest;
use super::spec::{Kind, Node, Plan, Workload};
use super::state::{Daemon, Process, tail};
use super::sys;
use crate::control::env;
use crate::ops::api::Client;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Lines of a log shown when its daemon fails.
const LOG_LINES: usize = 15;

/// The node's configuration as the daemon reads it.
fn config(plan: &Plan, node: &Node) -> Value {
    let s = &plan.spec;
    json!({
        "node": node.name,
        "datastore": {"kind": "file", "path": manifest::folder(&s.name)},
        "uplink": {"interface": "eth0", "driver": s.uplink.word()},
        "workloads": {"driver": s.workload.word()},
        "workers": s.workers,
        "api": {"socket": node.socket(&s.name)},
        "calico": {"dir": node.dir(&s.name)},
        "xdp": {"mode": s.xdp.word()},
        "probes": {"enabled": s.probes},
    })
}

fn log_path(plan: &Plan, node: &Node) -> PathBuf {
    node.dir(&plan.spec.name).join("log")
}

/// Starts the node's engine, detached from this process and its terminal.
pub fn start(plan: &Plan, node: &Node) -> Result<Daemon, LabError> {
    let dir = node.dir(&plan.spec.name);
    fs::create_dir_all(&dir).map_err(|e| LabError::file("make", &dir, e))?;
    let path = dir.join("config.yaml");
    let text = serde_saphyr::to_string(&config(plan, node)).map_err(|e| LabError::Internal(e.to_string()))?;
    fs::write(&path, text).map_err(|e| LabError::file("write", &path, e))?;
    let log_path = log_path(plan, node);
    let log = File::create(&log_path).map_err(|e| LabError::file("write", &log_path, e))?;
    let spawn = || {
        let exe = plan.spec.program.clone().map_or_else(std::env::current_exe, Ok)?;
        // `ip netns exec` and not setns alone: it also gives the daemon the namespace's own /sys, where the
        // kernel shows interfaces and their queues.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &node.netns]).arg(exe).arg("run").arg("--config").arg(&path);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        // What is set for a node on this machine is not meant for the lab's.
        std::env::vars_os().filter_map(|(k, _)| k.into_string().ok()).filter(|k| env::is_calicos(k)).for_each(|k| {
            command.env_remove(k);
        });
        sys::detach(&mut command);
        command.spawn()
    };
    let child = spawn().map_err(|e| LabError::Run { what: format!("tortie run for {}", node.name), source: e })?;
    let process = Process::of(child.id()).ok_or_else(|| died(plan, node))?;
    Ok(Daemon { node: node.name.clone(), process })
}

/// Waits until every engine has read the datastore and opened its uplink and all its pods' ports.
pub fn wait_ready(plan: &Plan, daemons: &[Daemon], wait: Duration) -> Result<(), LabError> {
    let deadline = Instant::now() + wait;
    for node in plan.nodes.iter().filter(|n| n.kind == Kind::Tortie) {
        while let Err(why) = ready(plan, node) {
            if daemons.iter().any(|d| d.node == node.name && !d.process.alive()) {
                return Err(died(plan, node));
            }
            if Instant::now() > deadline {
                return Err(LabError::NotReady {
                    node: node.name.clone(),
                    seconds: wait.as_secs(),
                    why,
                    log: log_path(plan, node),
                    tail: tail(&log_path(plan, node), LOG_LINES),
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn died(plan: &Plan, node: &Node) -> LabError {
    let log = log_path(plan, node);
    LabError::Died { node: node.name.clone(), tail: tail(&log, LOG_LINES), log }
}

/// Whether the node forwards; otherwise what is still missing.
fn ready(plan: &Plan, node: &Node) -> Result<(), String> {
    let client = Client::new(&node.socket(&plan.spec.name));
    if !client.status().map_err(|e| e.to_string())?.in_sync {
        return Err("the datastore is not read completely yet".to_owned());
    }
    let ports = client.ports().map_err(|e| e.to_string())?;
    if let Some(p) = ports.iter().find(|p| p.state != "up") {
        return Err(format!("port {} is not up: {}", p.name, p.state));
    }
    // A port named by the role it must have: the uplink, and one for each pod.
    let workloads = ports.iter().filter(|p| p.role == "workload").count();
    if !ports.iter().any(|p| p.role == "uplink") || workloads < node.pods.len() {
        return Err(format!("{workloads} of {} pods are attached", node.pods.len()));
    }
    Ok(())
}

/// Which drivers the engines ended up with, one line per role.
pub fn drivers(plan: &Plan) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for node in plan.nodes.iter().filter(|n| n.kind == Kind::Tortie) {
        for p in Client::new(&node.socket(&plan.spec.name)).ports().unwrap_or_default() {
            let line = format!("{}: {}", p.role, p.driver.as_deref().unwrap_or("none"));
            if !found.contains(&line) {
                found.push(line);
            }
        }
    }
    found
}

/// Whether pods' interfaces are made by the engine.
pub fn makes_taps(plan: &Plan) -> bool {
    plan.spec.workload == Workload::Tap && plan.spec.nodes > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::spec::{Spec, Uplink};

    #[test]
    fn the_config_says_what_the_flags_say() {
        let plan = Plan::new(Spec { uplink: Uplink::AfXdp, workload: Workload::AfPacket, workers: 2, ..Spec::new("lab") }).unwrap();
        let c = config(&plan, &plan.nodes[1]);
        assert_eq!(c["uplink"], json!({"interface": "eth0", "driver": "af-xdp"}));
        assert_eq!(c["workloads"]["driver"], "af-packet");
        assert_eq!(c["datastore"]["path"], "/run/tortie-lab/datastore");
        assert_eq!(c["api"]["socket"], "/run/tortie-lab/n2/api.sock");
        assert_eq!((c["node"].as_str(), c["workers"].as_u64()), (Some("n2"), Some(2)));
    }
}
