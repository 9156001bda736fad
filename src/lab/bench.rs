//! Pod to pod across two nodes, through the engine and, turn by turn in the same run, through the kernel's own
//! VXLAN device in a lab that is otherwise the same.

use super::load::Measured;
use super::spec::{Encap, Plan, Spec, netns_path};
use super::state::{Process, State, stat_field};
use super::{LabError, Progress, sys};
use serde::Serialize;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Where receivers listen; pods have nothing else.
const PORT: u16 = 5201;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engine's lab; nodes and pods are set here.
    pub spec: Spec,
    /// Length of one measurement.
    pub seconds: u16,
    pub repetitions: u16,
}

/// The result: what is printed and written.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub machine: String,
    pub commit: String,
    pub cases: Vec<Case>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Case {
    pub case: String,
    pub unit: &'static str,
    /// `higher` or `lower`.
    pub better: &'static str,
    pub tortie: Summary,
    pub kernel: Summary,
    /// Median of tortie by median of the kernel, whichever direction is better.
    pub ratio: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub n: usize,
}

/// One traffic pattern: who listens, who sends, and over how many streams.
struct Traffic {
    receiver: &'static str,
    sender: &'static str,
    streams: usize,
}

/// Traffic in the order it is run.
const TRAFFIC: [Traffic; 5] = [
    Traffic { receiver: "tcp-recv", sender: "tcp-send", streams: 1 },
    Traffic { receiver: "tcp-recv", sender: "tcp-send", streams: 4 },
    Traffic { receiver: "udp-sink", sender: "udp-blast", streams: 1 },
    Traffic { receiver: "tcp-echo", sender: "tcp-ask", streams: 1 },
    Traffic { receiver: "udp-echo", sender: "udp-ask", streams: 1 },
];

/// Cases in the order of the report: name, unit, which direction is better.
const CASES: [(&str, &str, &str); 9] = [
    ("tcp1", "Gbit/s", "higher"),
    ("tcp4", "Gbit/s", "higher"),
    ("udp64", "packets/s delivered", "higher"),
    ("tcp-rr", "us, p50", "lower"),
    ("tcp-rr-p99", "us, p99", "lower"),
    ("udp-rr", "us, p50", "lower"),
    ("udp-rr-p99", "us, p99", "lower"),
    ("cpu-per-gb", "CPU s per GB of tcp1, whole machine", "lower"),
    ("cpu-per-gb-processes", "CPU s per GB of tcp1, engines and load", "lower"),
];

/// Brings both labs up, measures in turns, takes them down again.
pub fn run(options: &Options, say: Progress) -> Result<Report, LabError> {
    if options.seconds == 0 || options.repetitions == 0 {
        return Err(LabError::Spec("--seconds and --repetitions: at least 1".to_owned()));
    }
    let tortie = Spec { nodes: 2, kernel_nodes: 0, pods: 1, subnets: 1, ..options.spec.clone() };
    let kernel = Spec { name: format!("{}k", tortie.name), nodes: 0, kernel_nodes: 2, encap: Encap::Vxlan, ..tortie.clone() };
    kernel.check()?;
    let mut labs = Labs(Vec::new());
    for spec in [tortie, kernel] {
        say(&format!("lab {}", spec.name));
        labs.0.push(super::up(spec, say)?);
    }
    let [tortie, kernel] = labs.0.as_slice() else { return Err(LabError::Internal("two labs".to_owned())) };
    let mut values: [Vec<[f64; CASES.len()]>; 2] = Default::default();
    for round in 0..usize::from(options.repetitions) {
        say(&format!("round {} of {}", round + 1, options.repetitions));
        let mut row = [[0.0; CASES.len()]; 2];
        for (t, traffic) in TRAFFIC.iter().enumerate() {
            // Who goes first changes from round to round: a machine that warms up favours neither.
            for lab in [round % 2, (round + 1) % 2] {
                let plan = if lab == 0 { tortie } else { kernel };
                measure(plan, t, traffic, options.seconds, &mut row[lab])?;
            }
        }
        for (all, row) in values.iter_mut().zip(row) {
            all.push(row);
        }
    }
    let cases = CASES.iter().enumerate().map(|(c, (case, unit, better))| {
        let of = |lab: &Vec<[f64; CASES.len()]>| summary(lab.iter().map(|row| row[c]).collect());
        let (tortie, kernel) = (of(&values[0]), of(&values[1]));
        Case { case: (*case).to_owned(), unit, better, tortie, kernel, ratio: tortie.median / kernel.median }
    });
    Ok(Report { machine: machine(), commit: commit(), cases: cases.collect() })
}

/// Labs that go with the measurement, however it ends.
struct Labs(Vec<Plan>);

impl Drop for Labs {
    fn drop(&mut self) {
        for plan in &self.0 {
            // Nothing better to do with an error here; `lab down --name` says it again.
            let _ = super::down(&plan.spec.name);
        }
    }
}

/// Runs traffic number `t` once and puts what it yields into `row`.
fn measure(plan: &Plan, t: usize, traffic: &Traffic, seconds: u16, row: &mut [f64; CASES.len()]) -> Result<(), LabError> {
    let before = Cpu::now(plan);
    let (received, sent) = exchange(plan, traffic, seconds).map_err(|e| {
        let from = if plan.spec.nodes > 0 { "the engine" } else { "the kernel" };
        LabError::Load(format!("{} through {from}: {e}", traffic.sender))
    })?;
    let cpu = Cpu::now(plan).since(&before);
    let gbit = |m: &Measured| if m.seconds > 0.0 { m.bytes as f64 * 8.0 / m.seconds / 1e9 } else { 0.0 };
    match t {
        0 => {
            let gigabytes = received.bytes as f64 / 1e9;
            row[0] = gbit(&received);
            row[7] = cpu.machine / gigabytes;
            row[8] = cpu.processes / gigabytes;
        }
        1 => row[1] = gbit(&received),
        2 => row[2] = received.packets as f64 / sent.seconds,
        3 => (row[3], row[4]) = (sent.p50, sent.p99),
        _ => (row[5], row[6]) = (sent.p50, sent.p99),
    }
    Ok(())
}

/// A child that does not outlive an error.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One run of a receiver in the second node's pod and a sender in the first's: what each counted.
fn exchange(plan: &Plan, traffic: &Traffic, seconds: u16) -> io::Result<(Measured, Measured)> {
    let [a, b] = [0, 1].map(|n| &plan.nodes[n].pods[0]);
    let streams = traffic.streams.to_string();
    let mut command = load(&b.netns, &[traffic.receiver, "--port", &PORT.to_string(), "--streams", &streams])?;
    let mut receiver = Receiver(command.stdout(Stdio::piped()).spawn()?);
    let mut from_receiver = BufReader::new(receiver.0.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?);
    let mut line = String::new();
    from_receiver.read_line(&mut line)?;
    if line.trim() != "ready" {
        return Err(io::Error::other(format!("{} did not start", traffic.receiver)));
    }
    let to = format!("{}:{PORT}", b.address);
    let output = load(&a.netns, &[traffic.sender, "--to", &to, "--streams", &streams, "--seconds", &seconds.to_string()])?.output()?;
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

/// This program as a load generator inside a namespace.
fn load(netns: &str, args: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lab", "load"]).args(args).stdin(Stdio::null());
    sys::enter(&mut command, &netns_path(netns))?;
    Ok(command)
}

/// CPU time used so far, seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// Busy time of all cores: user, nice, system, irq, softirq.
    machine: f64,
    /// The lab's engines and this process's ended children, which are the load.
    processes: f64,
}

impl Cpu {
    fn now(plan: &Plan) -> Cpu {
        let ticks = sys::ticks_per_second();
        let engines = State::load(&plan.spec.name).map(|s| s.daemons).unwrap_or_default();
        let engines: u64 = engines.iter().map(|d| process_ticks(d.process)).sum();
        let own = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let children: u64 = [16, 17].into_iter().filter_map(|f| stat_field::<u64>(&own, f)).sum();
        Cpu {
            machine: busy_ticks(&fs::read_to_string("/proc/stat").unwrap_or_default()) as f64 / ticks,
            processes: (engines + children) as f64 / ticks,
        }
    }

    fn since(&self, before: &Cpu) -> Cpu {
        Cpu { machine: self.machine - before.machine, processes: self.processes - before.processes }
    }
}

fn process_ticks(p: Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", p.pid)).unwrap_or_default();
    [14, 15].into_iter().filter_map(|f| stat_field::<u64>(&stat, f)).sum()
}

/// Busy ticks in the first line of /proc/stat: all but idle, iowait and steal; guest time is in user already.
fn busy_ticks(stat: &str) -> u64 {
    let numbers: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|i| numbers.get(*i)).sum()
}

/// `values` is not empty; for an even number the median is the mean of the middle two.
fn summary(mut values: Vec<f64>) -> Summary {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let median = (values[(n - 1) / 2] + values[n / 2]) / 2.0;
    Summary { median, min: values[0], max: values[n - 1], n }
}

/// Processor, cores and kernel.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).and_then(|l| l.split(": ").nth(1)).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} x {model}, Linux {}", kernel.trim())
}

/// The commit that was built: from the build's environment, else from the source tree if it is still there.
fn commit() -> String {
    if let Some(commit) = option_env!("TORTIE_COMMIT") {
        return commit.to_owned();
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = Command::new("git").arg("-C").arg(tree).args(["rev-parse", "HEAD"]).stderr(Stdio::null()).output();
    let id = git.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    id.filter(|i| !i.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(summary(vec![3.0, 1.0, 2.0]), Summary { median: 2.0, min: 1.0, max: 3.0, n: 3 });
        assert_eq!(summary(vec![4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn busy_is_what_is_not_idle() {
        assert_eq!(busy_ticks("cpu  100 1 20 5000 300 4 2 99 7 0\ncpu0 1 1 1\n"), 127);
        assert_eq!(busy_ticks(""), 0);
    }
}
