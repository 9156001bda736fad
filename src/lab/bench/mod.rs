//! Pod to pod across two nodes, through the engine and, turn by turn in the same run, through the kernel's own
//! VXLAN device in a lab that is otherwise the same.

pub mod cases;
pub mod chart;
mod cpu;
mod offload;
pub mod report;

use super::load::Measured;
use super::spec::{Encap, Plan, Spec, netns_path};
use super::state::State;
use super::{LabError, Progress, sys};
use cases::{Action, Cores, Direction, Outcome, Row, Run, Subject, Traffic, Underlay};
use cpu::Reading;
use offload::PlainNic;
use report::{Case, Pair, Report, figure};
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where receivers listen; pods have nothing else.
const PORT: u16 = 5201;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engine's lab; nodes and pods are set here.
    pub spec: Spec,
    /// Length of one measurement.
    pub time: Duration,
    pub repetitions: u16,
    /// Names of [`cases::CASES`]; `None`: all that the two options below do not exclude.
    pub cases: Option<Vec<String>>,
    /// Also a lab with the engine on the first node and the kernel's VXLAN device on the second.
    pub kernel_peer: bool,
    /// Pods of one more lab, which has one node and no traffic; 0: no such lab.
    pub idle_pods: u8,
}

impl Options {
    /// The cases that are wanted; refuses one that does not exist or needs an option.
    fn wanted(&self) -> Result<Vec<&'static str>, LabError> {
        let lacks = |subject| match subject {
            Subject::Peer if !self.kernel_peer => Some("--kernel-peer"),
            Subject::Crowd if self.idle_pods == 0 => Some("--idle-pods"),
            _ => None,
        };
        let Some(named) = &self.cases else {
            return Ok(cases::CASES.iter().filter(|c| lacks(c.subject).is_none()).map(|c| c.name).collect());
        };
        let find = |name: &String| {
            let case = cases::CASES
                .iter()
                .find(|c| c.name == name)
                .ok_or_else(|| LabError::Spec(format!("--cases {name}: there are {}", cases::names().collect::<Vec<_>>().join(", "))))?;
            match lacks(case.subject) {
                Some(option) => Err(LabError::Spec(format!("--cases {name} needs {option}"))),
                None => Ok(case.name),
            }
        };
        named.iter().map(find).collect()
    }

    /// A row's name in the report: that of a crowd says how large it was.
    fn name(&self, row: &Row) -> String {
        row.name.replace("idle-pods", &format!("idle-{}-pods", self.idle_pods))
    }

    /// The labs that these runs need, the kernel's last.
    fn labs(&self, runs: &[&Run]) -> Vec<(Option<Subject>, Spec)> {
        let name = |suffix: &str| format!("{}{suffix}", self.spec.name);
        let engines = Spec { nodes: 2, kernel_nodes: 0, pods: 1, subnets: 1, ..self.spec.clone() };
        let peer = Spec { name: name("p"), nodes: 1, kernel_nodes: 1, ..engines.clone() };
        let crowd = Spec { name: name("c"), nodes: 1, pods: self.idle_pods, ..engines.clone() };
        let kernel = Spec { name: name("k"), nodes: 0, kernel_nodes: 2, encap: Encap::Vxlan, ..engines.clone() };
        let subjects = [(Subject::Engines, engines), (Subject::Peer, peer), (Subject::Crowd, crowd)];
        let needed = subjects.into_iter().filter(|(subject, _)| runs.iter().any(|r| r.subject == *subject));
        needed.map(|(subject, spec)| (Some(subject), spec)).chain([(None, kernel)]).collect()
    }
}

/// Brings the labs up, measures in turns, takes them down again.
pub fn run(options: &Options, say: Progress) -> Result<Report, LabError> {
    if options.time.is_zero() || options.repetitions == 0 {
        return Err(LabError::Spec("--seconds: more than 0; --repetitions: at least 1".to_owned()));
    }
    let wanted = options.wanted()?;
    let runs: Vec<&Run> = cases::RUNS.iter().filter(|r| cases::rows(r, &wanted).next().is_some()).collect();
    let specs = options.labs(&runs);
    specs.iter().try_for_each(|(_, spec)| spec.check())?;
    let mut labs = Labs(Vec::new());
    for (subject, spec) in specs {
        say(&format!("lab {}", spec.name));
        let plan = super::up(spec, say)?;
        let engines = State::load(&plan.spec.name).map(|s| s.daemons).unwrap_or_default().iter().map(|d| d.process.pid).collect();
        labs.0.push(Lab { subject, plan, engines });
    }
    let mut pairs: Vec<(&Row, Vec<Pair>)> = runs.iter().flat_map(|r| cases::rows(r, &wanted)).map(|r| (r, Vec::new())).collect();
    for round in 0..usize::from(options.repetitions) {
        for run in &runs {
            let lab = |subject| labs.0.iter().find(|l| l.subject == subject).ok_or_else(|| LabError::Internal("no such lab".to_owned()));
            let sides = [lab(Some(run.subject))?, lab(None)?];
            let mut outcomes = [Outcome::default(), Outcome::default()];
            // Who goes first changes from round to round: a machine that warms up favours neither.
            for side in [round % 2, (round + 1) % 2] {
                outcomes[side] = labs.measure(sides[side], run, options.time)?;
            }
            let others = [0, 1].map(|side: usize| outcomes[side].cpu.others_share());
            let mut found = Vec::new();
            for (row, list) in pairs.iter_mut().filter(|(row, _)| run.rows.iter().any(|r| r.name == row.name)) {
                let value = [0, 1].map(|side: usize| (row.value)(&outcomes[side]));
                if !value.iter().all(|v| v.is_finite()) {
                    return Err(LabError::Load(format!("{}: nothing arrived", run.name)));
                }
                found.push(format!("{} {} to {}", options.name(row), figure(value[0]), figure(value[1])));
                list.push(Pair { value, others });
            }
            say(&format!("round {} of {}: {}", round + 1, options.repetitions, found.join(", ")));
        }
    }
    // In the order of the cases' names, not of the runs.
    let place = |row: &Row| cases::names().position(|n| n == row.case);
    pairs.sort_by_key(|(row, _)| place(row));
    let cases: Vec<Case> = pairs.iter().map(|(row, pairs)| Case::new(&options.name(row), row, pairs)).collect();
    for warning in cases.iter().filter_map(Case::warning) {
        say(&format!("warning: {warning}"));
    }
    Ok(Report {
        machine: report::machine(),
        commit: report::commit(),
        seconds: options.time.as_secs_f64(),
        repetitions: options.repetitions,
        cases,
    })
}

/// A lab that is up.
struct Lab {
    /// `None`: the kernel's, which all are compared with.
    subject: Option<Subject>,
    plan: Plan,
    /// Its engines' process numbers.
    engines: Vec<u32>,
}

/// Labs that go with the measurement, however it ends.
struct Labs(Vec<Lab>);

impl Drop for Labs {
    fn drop(&mut self) {
        for lab in &self.0 {
            // Nothing better to do with an error here; `lab down --name` says it again.
            let _ = super::down(&lab.plan.spec.name);
        }
    }
}

impl Labs {
    /// Does `run` once in `lab`.
    fn measure(&self, lab: &Lab, run: &Run, time: Duration) -> Result<Outcome, LabError> {
        let all: Vec<u32> = self.0.iter().flat_map(|l| l.engines.iter().copied()).collect();
        let reading = || Reading::now(&lab.engines, &all);
        match &run.action {
            Action::Exchange(traffic) => {
                let nic = (traffic.underlay == Underlay::PlainNic).then(|| PlainNic::new(&lab.plan)).transpose()?;
                let before = reading();
                let busy = (traffic.cores == Cores::Busy).then(Hogs::new);
                let exchanged = exchange(&lab.plan, traffic, time);
                drop(busy);
                let (received, sent) = exchanged.map_err(|e| {
                    let from = if lab.engines.is_empty() { "the kernel" } else { "the engine" };
                    LabError::Load(format!("{} through {from}: {e}", run.name))
                })?;
                let cpu = reading().since(&before);
                nic.map_or(Ok(()), PlainNic::restore)?;
                Ok(Outcome { received, sent, cpu, resident: 0 })
            }
            // Without an engine there is nothing to wait for.
            Action::Idle if lab.engines.is_empty() => Ok(Outcome::default()),
            Action::Idle => {
                let before = reading();
                std::thread::sleep(time);
                Ok(Outcome { cpu: reading().since(&before), ..Outcome::default() })
            }
            Action::Resident => {
                Ok(Outcome { resident: lab.engines.iter().map(|pid| resident(*pid)).max().unwrap_or(0), ..Outcome::default() })
            }
        }
    }
}

/// Resident memory of a process, bytes (proc(5), status, `VmRSS`).
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Threads that compute, one for each core, until dropped.
struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hogs {
    fn new() -> Hogs {
        let stop = Arc::new(AtomicBool::new(false));
        let hog = |stop: Arc<AtomicBool>| {
            move || {
                let mut x = 1u64;
                while !stop.load(Ordering::Relaxed) {
                    (0..1000).for_each(|_| x = std::hint::black_box(x.wrapping_mul(0x5851_f42d_4c95_7f2d)));
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Hogs { threads: (0..cores).map(|_| std::thread::spawn(hog(stop.clone()))).collect(), stop }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // They have nothing to say and cannot panic.
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

/// A child that does not outlive an error.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One run of a receiver in one node's pod and a sender in the other's: what each counted.
fn exchange(plan: &Plan, traffic: &Traffic, time: Duration) -> io::Result<(Measured, Measured)> {
    let nodes = if traffic.direction == Direction::Out { [0, 1] } else { [1, 0] };
    let [a, b] = nodes.map(|n: usize| &plan.nodes[n].pods[0]);
    let streams = traffic.streams.to_string();
    let mut command = load(plan, &b.netns, &[traffic.receiver, "--port", &PORT.to_string(), "--streams", &streams])?;
    let mut receiver = Receiver(command.stdout(Stdio::piped()).spawn()?);
    let mut from_receiver = BufReader::new(receiver.0.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?);
    let mut line = String::new();
    from_receiver.read_line(&mut line)?;
    if line.trim() != "ready" {
        return Err(io::Error::other(format!("{} did not start", traffic.receiver)));
    }
    let (to, seconds) = (format!("{}:{PORT}", b.address), time.as_secs_f64().to_string());
    let output = load(plan, &a.netns, &[traffic.sender, "--to", &to, "--streams", &streams, "--seconds", &seconds])?.output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let mut rest = String::new();
    from_receiver.read_to_string(&mut rest)?;
    let status = receiver.0.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("{} ended with {status}", traffic.receiver)));
    }
    Ok((serde_json::from_str(&rest)?, serde_json::from_slice(&output.stdout)?))
}

/// This program (or the lab's) as a load generator inside a namespace.
fn load(plan: &Plan, netns: &str, args: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(plan.spec.program.clone().map_or_else(std::env::current_exe, Ok)?);
    command.args(["lab", "load"]).args(args).stdin(Stdio::null());
    sys::enter(&mut command, &netns_path(netns))?;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { spec: Spec::new("b"), time: Duration::from_secs(1), repetitions: 1, cases: None, kernel_peer: false, idle_pods: 0 }
    }

    #[test]
    fn cases_are_those_that_the_options_allow() {
        assert_eq!(
            options().wanted().unwrap(),
            [
                "tcp1",
                "tcp4",
                "tcp1-plain-nic",
                "udp64",
                "udp64-1000flows",
                "tcp-rr",
                "udp-rr",
                "tcp-rr-busy",
                "cpu-per-gb",
                "idle-cpu",
                "rss"
            ]
        );
        let all = Options { kernel_peer: true, idle_pods: 9, ..options() };
        assert_eq!(all.wanted().unwrap().len(), cases::CASES.len());
        let named = |names: &[&str]| Options { cases: Some(names.iter().map(|n| (*n).to_owned()).collect()), ..options() };
        assert_eq!(named(&["udp64", "tcp1"]).wanted().unwrap(), ["udp64", "tcp1"]);
        for (name, says) in
            [("tcp2", "--cases tcp2: there are tcp1, "), ("tcp1-in", "needs --kernel-peer"), ("idle-pods", "needs --idle-pods")]
        {
            let e = named(&["tcp1", name]).wanted().unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
    }

    #[test]
    fn only_the_labs_that_are_needed_come_up() {
        let runs = |name: &str| cases::RUNS.iter().filter(|r| r.name == name).collect::<Vec<_>>();
        let names = |o: &Options, r: &[&Run]| o.labs(r).into_iter().map(|(_, s)| s.name).collect::<Vec<_>>();
        assert_eq!(names(&options(), &runs("tcp1")), ["b", "bk"]);
        assert_eq!(names(&options(), &runs("udp64-in")), ["bp", "bk"]);
        let (_, peer) = options().labs(&runs("tcp1-out")).remove(0);
        assert_eq!((peer.nodes, peer.kernel_nodes, peer.pods), (1, 1, 1));
    }

    #[test]
    fn hogs_use_every_core_until_they_are_dropped() {
        let pid = [std::process::id()];
        let before = Reading::now(&pid, &pid);
        let hogs = Hogs::new();
        assert_eq!(hogs.threads.len(), std::thread::available_parallelism().unwrap().get());
        std::thread::sleep(Duration::from_millis(100));
        let watch = Arc::downgrade(&hogs.stop);
        drop(hogs);
        assert!(watch.upgrade().is_none(), "every thread has ended");
        assert!(Reading::now(&pid, &pid).since(&before).engines > 0.02);
    }

    #[test]
    fn this_process_is_resident() {
        assert!(resident(std::process::id()) > 1 << 20);
        assert_eq!(resident(0), 0);
    }
}
