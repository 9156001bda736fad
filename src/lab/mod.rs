//! A cluster on one machine: nodes and pods as network namespaces, joined by bridges in a namespace of their
//! own, one engine per node, and the cluster's state as manifests that all of them read. Nothing touches the
//! machine's own network.

pub mod bench;
pub mod capture;
mod daemon;
mod fabric;
mod ip;
pub mod load;
mod manifest;
pub mod matrix;
mod peer;
pub mod spec;
mod state;
mod sys;

use serde::Serialize;
use spec::{Kind, Plan, Spec};
use state::{Lock, State};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long engines may take to forward.
const START: Duration = Duration::from_secs(20);

/// What can go wrong with a lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("{0}")]
    Spec(String),
    #[error("a lab makes network namespaces, which needs root: use sudo")]
    NotRoot,
    #[error("missing: {tools}. Install with: apt-get install {packages}")]
    Tools { tools: String, packages: String },
    #[error(
        "lab {0} is already up: `tortie lab status --name {0}` shows it, `tortie lab down --name {0}` removes it; another --name makes another beside it"
    )]
    AlreadyUp(String),
    #[error("lab {0} is not up: `tortie lab up --name {0}` makes it")]
    NotUp(String),
    #[error("another `tortie lab` command is at work on lab {0}")]
    Busy(String),
    #[error("lab {lab} has no pod or node {name}; there are {known}")]
    NoSuchPod { lab: String, name: String, known: String },
    #[error("{tool} in namespace {netns}: `{line}`: {message}")]
    Tool { tool: &'static str, netns: String, line: String, message: String },
    #[error("{what}: {source}")]
    Run { what: String, source: io::Error },
    #[error("cannot {what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the engine of {node} ended; its log {} ends with:\n{tail}", log.display())]
    Died { node: String, log: PathBuf, tail: String },
    #[error("the engine of {node} does not forward after {seconds} s: {why}; its log {} ends with:\n{tail}", log.display())]
    NotReady { node: String, seconds: u64, why: String, log: PathBuf, tail: String },
    #[error("no TAP appeared in pod {pod} within {seconds} s")]
    NoTap { pod: String, seconds: u64 },
    #[error("process {0} of the lab does not end")]
    Undying(u32),
    #[error("load generator: {0}")]
    Load(String),
    #[error("internal error: {0}")]
    Internal(String),
}

impl LabError {
    fn file(what: &'static str, path: &Path, source: io::Error) -> LabError {
        LabError::File { what, path: path.to_owned(), source }
    }
}

/// Who is told what is being done.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// Brings a lab up. What is left of one that was killed half-way is removed first; if this one fails, it is
/// removed too, and the error carries what the failing part had to say.
pub fn up(spec: Spec, say: Progress) -> Result<Plan, LabError> {
    let plan = Plan::new(spec)?;
    prepare()?;
    let name = plan.spec.name.clone();
    let lock = Lock::take(&name)?;
    if State::load(&name).is_some_and(|s| s.complete && s.daemons.iter().all(|d| d.process.alive())) {
        return Err(LabError::AlreadyUp(name));
    }
    if !leftovers_gone(&name)? {
        say("removed what an earlier lab had left");
    }
    match make(&plan, say) {
        Ok(()) => Ok(plan),
        Err(e) => {
            // The first error is the one to report; the next `up` or `down` sweeps again anyway.
            let _ = state::sweep(&name).and_then(|()| state::remove_folder(&name, lock));
            Err(e)
        }
    }
}

/// Root and tools.
fn prepare() -> Result<(), LabError> {
    if !sys::is_root() {
        return Err(LabError::NotRoot);
    }
    ip::check_tools()
}

/// Sweeps; true if there was nothing to sweep.
fn leftovers_gone(name: &str) -> Result<bool, LabError> {
    let prefix = spec::netns_prefix(name);
    let clean = State::load(name).is_none() && !ip::namespaces().iter().any(|n| n.starts_with(&prefix));
    state::sweep(name)?;
    Ok(clean)
}

fn make(plan: &Plan, say: Progress) -> Result<(), LabError> {
    let s = &plan.spec;
    let mut state = State { spec: s.clone(), complete: false, daemons: Vec::new() };
    state.save()?;
    let kernel = plan.nodes.iter().filter(|n| n.kind == Kind::Kernel).count();
    let pods = plan.pods().count();
    say(&format!("namespaces: {} nodes, {pods} pods, {} subnet(s)", plan.nodes.len(), s.subnets));
    fabric::build(plan)?;
    say(&format!("datastore: {}", manifest::folder(&s.name).display()));
    manifest::write(plan)?;
    if kernel > 0 {
        say(&format!("kernel VXLAN: {kernel} node(s)"));
    }
    for node in plan.nodes.iter().filter(|n| n.kind == Kind::Kernel) {
        peer::set_up(plan, node)?;
    }
    if kernel < plan.nodes.len() {
        say(&format!("engines: {} x `tortie run`", plan.nodes.len() - kernel));
    }
    for node in plan.nodes.iter().filter(|n| n.kind == Kind::Tortie) {
        state.daemons.push(daemon::start(plan, node)?);
        state.save()?;
    }
    if daemon::makes_taps(plan) {
        // Engines that cannot start make no TAPs: their own words say more than "no TAP".
        fabric::configure_taps(plan, START).or_else(|e| daemon::wait_ready(plan, &state.daemons, Duration::ZERO).and(Err(e)))?;
    }
    daemon::wait_ready(plan, &state.daemons, START)?;
    for line in daemon::drivers(plan) {
        say(&format!("driver of {line}"));
    }
    state.complete = true;
    state.save()
}

/// Takes a lab down, complete or not. False if there was none.
pub fn down(name: &str) -> Result<bool, LabError> {
    spec::check_name(name)?;
    prepare()?;
    if !state::exists(name) {
        return Ok(false);
    }
    let lock = Lock::take(name)?;
    state::sweep(name)?;
    state::remove_folder(name, lock)?;
    Ok(true)
}

/// What `tortie lab status` shows; the form of its JSON is fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    pub nodes: Vec<NodeStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    pub name: String,
    pub netns: String,
    /// API socket of the node's engine; `null` on a node that uses the kernel's VXLAN device.
    pub socket: Option<PathBuf>,
    #[serde(skip)]
    pub address: Ipv4Addr,
    /// `running`, `ended`, or `kernel` where there is no engine.
    #[serde(skip)]
    pub engine: &'static str,
    pub pods: Vec<PodStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    pub name: String,
    pub netns: String,
    pub address: Ipv4Addr,
    /// Host-side interface.
    #[serde(skip)]
    pub interface: String,
}

/// What a lab consists of.
pub fn status(name: &str) -> Result<Status, LabError> {
    let (state, plan) = State::plan(name)?;
    let engine = |node: &spec::Node| match state.daemons.iter().find(|d| d.node == node.name) {
        Some(d) if d.process.alive() => "running",
        Some(_) => "ended",
        None => "kernel",
    };
    let nodes = plan.nodes.iter().map(|n| NodeStatus {
        name: n.name.clone(),
        netns: n.netns.clone(),
        socket: (n.kind == Kind::Tortie).then(|| n.socket(name)),
        address: n.address.addr(),
        engine: engine(n),
        pods: n
            .pods
            .iter()
            .map(|p| PodStatus { name: p.name.clone(), netns: p.netns.clone(), address: p.address, interface: p.interface.clone() })
            .collect(),
    });
    Ok(Status { nodes: nodes.collect() })
}

/// Becomes a command inside a pod (or node). Returns only on failure.
pub fn exec(name: &str, pod: &str, command: &[std::ffi::OsString]) -> Result<std::convert::Infallible, LabError> {
    prepare()?;
    let (_, plan) = State::plan(name)?;
    let netns = plan.netns_of(pod).ok_or_else(|| LabError::NoSuchPod {
        lab: name.to_owned(),
        name: pod.to_owned(),
        known: plan.pods().map(|(_, p)| p.name.as_str()).chain(plan.nodes.iter().map(|n| n.name.as_str())).collect::<Vec<_>>().join(", "),
    })?;
    let source = Command::new("ip").args(["netns", "exec", netns]).args(command).exec();
    Err(LabError::Run { what: format!("a command in {pod}"), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::{Encap, Mode};

    /// A lab of kernel nodes only, taken down whatever happens.
    struct Up(Plan);

    impl Up {
        fn new(spec: Spec) -> Up {
            Up(up(spec, &mut |_| {}).unwrap())
        }
    }

    impl Drop for Up {
        fn drop(&mut self) {
            let name = self.0.spec.name.clone();
            let gone = down(&name);
            if !std::thread::panicking() {
                assert!(gone.unwrap());
                assert!(!state::exists(&name), "something is left of {name}");
            }
        }
    }

    fn kernel(name: &str) -> Spec {
        Spec { nodes: 0, kernel_nodes: 2, pods: 1, ..Spec::new(&format!("{name}{}", std::process::id() % 10_000)) }
    }

    #[test]
    fn kernel_nodes_reach_each_other_through_vxlan() {
        let lab = Up::new(kernel("ta"));
        let m = matrix::measure(&lab.0);
        assert_eq!(m.places.len(), 4);
        assert_eq!(m.failures(), Vec::<(&str, &str)>::new());
        let (_, frame) = capture::one_packet(&lab.0).unwrap().expect("a tunnel packet");
        let text = capture::decode(&frame).join("\n");
        assert!(text.contains("vni 4096") && text.contains("10.244.1.1 > 10.244.2.1"), "{text}");
        assert!(matches!(up(lab.0.spec.clone(), &mut |_| {}), Err(LabError::AlreadyUp(_))));
    }

    #[test]
    fn across_subnets_only_the_far_node_is_behind_a_tunnel() {
        let lab = Up::new(Spec { kernel_nodes: 3, subnets: 2, mode: Mode::CrossSubnet, ..kernel("tb") });
        assert_eq!(matrix::measure(&lab.0).failures(), Vec::<(&str, &str)>::new());
        let (title, frame) = capture::one_packet(&lab.0).unwrap().expect("a tunnel packet");
        assert!(title.contains("n1-p1 -> n2-p1"), "{title}");
        assert!(capture::decode(&frame).iter().any(|l| l.contains("VXLAN")));
    }

    #[test]
    fn a_broken_path_shows_as_a_failure() {
        let lab = Up::new(kernel("tc"));
        ip::ip(Some(&lab.0.nodes[0].netns), &[format!("link set {} down", peer::DEVICE)]).unwrap();
        let failures: Vec<(String, String)> =
            matrix::measure(&lab.0).failures().into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        assert!(failures.contains(&("n1-p1".to_owned(), "n2-p1".to_owned())), "{failures:?}");
        assert!(!failures.contains(&("n1-p1".to_owned(), "n1".to_owned())), "{failures:?}");
    }

    #[test]
    fn what_a_killed_up_left_is_cleaned() {
        let spec = kernel("td");
        let plan = Plan::new(spec.clone()).unwrap();
        // As if `up` had been killed after its first namespaces.
        drop(Lock::take(&spec.name).unwrap());
        State { spec: spec.clone(), complete: false, daemons: vec![] }.save().unwrap();
        ip::ip(None, &[format!("netns add {}", plan.underlay), format!("netns add {}", plan.nodes[0].netns)]).unwrap();
        let mut said = Vec::new();
        let lab = Up(up(spec, &mut |l| said.push(l.to_owned())).unwrap());
        assert!(said.iter().any(|l| l.contains("removed what an earlier lab had left")), "{said:?}");
        assert_eq!(status(&lab.0.spec.name).unwrap().nodes.len(), 2);
    }

    #[test]
    fn an_impossible_lab_makes_nothing() {
        let spec = Spec { encap: Encap::None, ..kernel("te") };
        assert!(matches!(up(spec.clone(), &mut |_| {}), Err(LabError::Spec(_))));
        assert!(!state::exists(&spec.name));
        assert!(!down(&spec.name).unwrap());
    }
}
