//! `tortie lab`

use super::table::{Style, Table, Tone};
use super::view::{Output, render};
use super::{Outcome, print};
use crate::lab::bench::report::{Report, Summary, figure};
use crate::lab::bench::{self, chart};
use crate::lab::matrix::Matrix;
use crate::lab::spec::{Encap, Mode, Plan, Spec, Uplink, Workload, Xdp};
use crate::lab::{self, LabError, Status, capture, load, matrix};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a lab up, show who reaches whom, and leave it up
    Up(Up),
    /// Show nodes, pods and addresses
    Status {
        /// Form of the output
        #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
        output: Output,
        #[command(flatten)]
        name: Name,
    },
    /// Run a command inside a pod or node, with its exit code
    Exec {
        #[command(flatten)]
        name: Name,
        /// Pod or node, as `lab status` names it
        pod: String,
        /// The command, after --
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Measure pod to pod across nodes beside the kernel's own VXLAN device
    Bench(Bench),
    /// Take a lab down, finished or not; nothing is left behind
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// The load generator of `lab bench`
    #[command(hide = true)]
    Load(Load),
}

#[derive(Debug, ClapArgs)]
struct Name {
    /// Which lab; several can be up side by side
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Debug, ClapArgs)]
struct Flags {
    /// How packets travel between nodes
    #[arg(long, default_value = "vxlan", value_parser = words::<Encap>(Encap::WORDS))]
    encap: Encap,
    /// Encapsulate always, or only towards nodes in another subnet
    #[arg(long, default_value = "always", value_parser = words::<Mode>(Mode::WORDS))]
    mode: Mode,
    /// What pods are attached by
    #[arg(long, default_value = "veth", value_parser = words::<Workload>(Workload::WORDS))]
    workload: Workload,
    /// Driver of the uplink
    #[arg(long, default_value = "auto", value_parser = words::<Uplink>(Uplink::WORDS))]
    uplink: Uplink,
    /// How AF_XDP attaches
    #[arg(long, default_value = "auto", value_parser = words::<Xdp>(Xdp::WORDS))]
    xdp: Xdp,
    /// Forwarding threads per node
    #[arg(long, default_value_t = 1, value_name = "N")]
    workers: u16,
    /// Nodes do not measure each other
    #[arg(long)]
    no_probes: bool,
}

#[derive(Debug, ClapArgs)]
struct Up {
    /// Nodes that run tortie
    #[arg(long, default_value_t = 2, value_name = "N")]
    nodes: u8,
    /// Pods per node
    #[arg(long, default_value_t = 2, value_name = "M")]
    pods: u8,
    /// Subnets of the underlay, with a router between them
    #[arg(long, default_value_t = 1, value_name = "K")]
    subnets: u8,
    /// One more node that uses the kernel's VXLAN device the way stock Calico sets it up
    #[arg(long)]
    kernel_peer: bool,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    name: Name,
}

#[derive(Debug, ClapArgs)]
struct Bench {
    /// Length of one measurement
    #[arg(long, default_value = "3", value_name = "S", value_parser = seconds)]
    seconds: Duration,
    /// Rounds; the report has medians
    #[arg(long, default_value_t = 5, value_name = "N")]
    repetitions: u16,
    /// What to measure, separated by commas; all cases without it
    #[arg(long, value_name = "CASES", value_delimiter = ',', value_parser = PossibleValuesParser::new(bench::cases::names()))]
    cases: Option<Vec<String>>,
    /// Also measure between the engine and a node with the kernel's VXLAN device (tcp1-out, tcp1-in, udp64-out, udp64-in)
    #[arg(long)]
    kernel_peer: bool,
    /// Also measure an engine with N pods that do nothing (idle-pods)
    #[arg(long, default_value_t = 0, value_name = "N")]
    idle_pods: u8,
    /// What is printed; the file is written in any case
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Output,
    /// Where the JSON goes
    #[arg(long, default_value = "lab-bench.json", value_name = "PATH")]
    file: PathBuf,
    /// Where a bar chart of the ratios goes, as SVG
    #[arg(long, value_name = "PATH")]
    chart: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    /// Name of the labs that are made for the measurement: NAME, NAMEk, NAMEp, NAMEc
    #[arg(long, default_value = "bench")]
    name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    TcpRecv,
    TcpSend,
    UdpSink,
    UdpBlast,
    TcpEcho,
    TcpAsk,
    UdpEcho,
    UdpAsk,
}

#[derive(Debug, ClapArgs)]
struct Load {
    role: Role,
    #[arg(long, default_value_t = 5201)]
    port: u16,
    #[arg(long, default_value = "127.0.0.1:5201")]
    to: SocketAddrV4,
    #[arg(long, default_value_t = 1)]
    streams: usize,
    #[arg(long, default_value = "1", value_parser = seconds)]
    seconds: Duration,
}

/// Seconds, whole or not; at most an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= 3600.0);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a number above 0, at most 3600".to_owned())
}

/// A parser for an option with fixed words; clap lists them in help and errors.
fn words<T>(all: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(all).try_map(|s| s.parse::<T>())
}

impl Flags {
    fn spec(self, name: String) -> Spec {
        Spec {
            encap: self.encap,
            mode: self.mode,
            workload: self.workload,
            uplink: self.uplink,
            xdp: self.xdp,
            workers: self.workers,
            probes: !self.no_probes,
            ..Spec::new(&name)
        }
    }
}

/// Progress goes to standard error, one line each.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "  {line}");
}

pub fn run(args: Args) -> Outcome {
    match args.verb {
        Verb::Up(a) => up(a),
        Verb::Status { output, name } => {
            print(&render(output, &lab::status(&name.name)?, status_table)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Exec { name, pod, command } => match lab::exec(&name.name, &pod, &command)? {},
        Verb::Bench(a) => bench(a),
        Verb::Down { name } => {
            let was = lab::down(&name.name)?;
            print(&if was { format!("lab {} is gone\n", name.name) } else { format!("there is no lab {}\n", name.name) })?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Load(a) => run_load(&a),
    }
}

/// A wrong combination of flags is wrong usage, like a wrong flag.
fn usage(e: LabError) -> Outcome {
    match e {
        LabError::Spec(why) => {
            let _ = writeln!(io::stderr(), "tortie: {why}");
            Ok(ExitCode::from(2))
        }
        other => Err(other.into()),
    }
}

fn up(args: Up) -> Outcome {
    let flags = args.flags.spec(args.name.name);
    let spec = Spec { nodes: args.nodes, kernel_nodes: args.kernel_peer.into(), pods: args.pods, subnets: args.subnets, ..flags };
    let plan = match lab::up(spec, &mut say) {
        Ok(plan) => plan,
        Err(e) => return usage(e),
    };
    let style = Style::of_stdout();
    print(&format!("\n{}", status_table(&lab::status(&plan.spec.name)?, style)))?;
    say("pings between all pods and nodes");
    let matrix = matrix::measure(&plan);
    print(&format!("\n{}", matrix_table(&matrix, style)))?;
    if let Some((title, frame)) = capture::one_packet(&plan)? {
        let lines: String = capture::decode(&frame).iter().map(|l| format!("  {l}\n")).collect();
        print(&format!("\n{}\n{lines}", style.paint(Tone::Heading, &title)))?;
    }
    let program = std::env::args().next().unwrap_or_else(|| "tortie".to_owned());
    print(&next_steps(&program, &plan, style))?;
    let failures = matrix.failures();
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let pairs: Vec<_> = failures.iter().map(|(a, b)| format!("{a} to {b}")).collect();
    let _ = writeln!(io::stderr(), "tortie: no answer: {}", pairs.join(", "));
    Ok(ExitCode::FAILURE)
}

fn status_table(status: &Status, style: Style) -> String {
    let mut t = Table::new(&["NODE", "NETNS", "ADDRESS", "ENGINE"]);
    for n in &status.nodes {
        let tone = if n.engine == "ended" { Tone::Bad } else { Tone::Good };
        t.toned([
            (n.name.clone(), Tone::Normal),
            (n.netns.clone(), Tone::Normal),
            (n.address.to_string(), Tone::Normal),
            (n.engine.to_owned(), tone),
        ]);
    }
    let mut out = t.render(style);
    let mut t = Table::new(&["POD", "NODE", "NETNS", "ADDRESS", "INTERFACE"]);
    for (n, p) in status.nodes.iter().flat_map(|n| n.pods.iter().map(move |p| (n, p))) {
        t.row([p.name.clone(), n.name.clone(), p.netns.clone(), p.address.to_string(), p.interface.clone()]);
    }
    out.push('\n');
    out.push_str(&t.render(style));
    out
}

/// Round-trip times, from row to column.
fn matrix_table(m: &Matrix, style: Style) -> String {
    let mut heading = vec!["FROM \\ TO, ms"];
    heading.extend(m.places.iter().map(|p| p.name.as_str()));
    let mut t = Table::new(&heading);
    for (a, place) in m.places.iter().enumerate() {
        let cells = m.rtt[a].iter().enumerate().map(|(b, rtt)| match rtt {
            _ if a == b => ("-".to_owned(), Tone::Faint),
            Some(ms) => (format!("{ms:.3}"), Tone::Good),
            None => ("FAIL".to_owned(), Tone::Bad),
        });
        t.toned(std::iter::once((place.name.clone(), Tone::Normal)).chain(cells));
    }
    t.render(style)
}

/// `program` is how this one was called: it need not be on the PATH.
fn next_steps(program: &str, plan: &Plan, style: Style) -> String {
    let mut out = format!("\n{}\n", style.paint(Tone::Heading, "Next"));
    let name = if plan.spec.name == "lab" { String::new() } else { format!(" --name {}", plan.spec.name) };
    let mut step = |what: &str, command: String| {
        let _ = writeln!(out, "  {what:<20}{command}");
    };
    if let Some((_, pod)) = plan.pods().next() {
        step("enter a pod", format!("{program} lab exec{name} {} -- bash", pod.name));
    }
    if let Some(node) = plan.nodes.iter().find(|_| plan.spec.nodes > 0) {
        step("look at the FIB", format!("{program} fib --socket {}", node.socket(&plan.spec.name).display()));
    }
    step("show it again", format!("{program} lab status{name}"));
    step("take it down", format!("{program} lab down{name}"));
    out
}

fn bench(args: Bench) -> Outcome {
    let options = bench::Options {
        spec: args.flags.spec(args.name),
        time: args.seconds,
        repetitions: args.repetitions,
        cases: args.cases,
        kernel_peer: args.kernel_peer,
        idle_pods: args.idle_pods,
    };
    let report = match bench::run(&options, &mut say) {
        Ok(report) => report,
        Err(e) => return usage(e),
    };
    // Printed first: a path that cannot be written must not cost the result.
    print(&render(args.output, &report, bench_table)?)?;
    write(&args.file, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    if let Some(path) = &args.chart {
        write(path, &chart::svg(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    say(&format!("written to {}", path.display()));
    Ok(())
}

fn bench_table(report: &Report, style: Style) -> String {
    let mut t = Table::new(&["CASE", "TORTIE", "MIN-MAX", "KERNEL", "MIN-MAX", "RATIO", "BETTER", "UNIT"]);
    for c in &report.cases {
        let range = |s: &Summary| format!("{}-{}", figure(s.min), figure(s.max));
        let ahead = c.ratio.is_some_and(|r| if c.better == "higher" { r >= 1.0 } else { r <= 1.0 });
        t.toned([
            (c.case.clone(), Tone::Normal),
            (figure(c.tortie.median), Tone::Normal),
            (range(&c.tortie), Tone::Faint),
            (figure(c.kernel.median), Tone::Normal),
            (range(&c.kernel), Tone::Faint),
            (c.ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}")), if ahead { Tone::Good } else { Tone::Normal }),
            (c.better.to_owned(), Tone::Normal),
            (c.unit.to_owned(), Tone::Faint),
        ]);
    }
    format!("{}, commit {}\nratio: tortie's median by the kernel's\n\n{}", report.machine, report.commit, t.render(style))
}

fn run_load(a: &Load) -> Outcome {
    let time = a.seconds;
    let result = match a.role {
        Role::TcpRecv => load::tcp_recv(a.port, a.streams),
        Role::TcpSend => load::tcp_send(a.to, a.streams, time),
        Role::UdpSink => load::udp_sink(a.port),
        Role::UdpBlast => load::udp_blast(a.to, a.streams, time),
        Role::TcpEcho => load::tcp_echo(a.port),
        Role::TcpAsk => load::tcp_ask(a.to, time),
        Role::UdpEcho => load::udp_echo(a.port),
        Role::UdpAsk => load::udp_ask(a.to, time),
    }?;
    print(&(serde_json::to_string(&result)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::matrix::Place;

    #[test]
    fn failures_stand_out() {
        let place = |n: &str| Place { name: n.into(), netns: n.into(), address: std::net::Ipv4Addr::LOCALHOST };
        let m = Matrix { places: vec![place("n1-p1"), place("n1")], rtt: vec![vec![None, Some(0.0456)], vec![None, None]] };
        assert_eq!(
            matrix_table(&m, Style::Plain),
            "FROM \\ TO, ms   n1-p1   n1\nn1-p1           -       0.046\nn1              FAIL    -\n"
        );
    }

    #[test]
    fn seconds_may_be_parts_of_one() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for bad in ["0", "-1", "inf", "NaN", "1e300", "3601", "", "3s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn next_steps_name_the_lab() {
        let text = next_steps("./tortie", &Plan::new(Spec::new("x")).unwrap(), Style::Plain);
        assert!(text.contains("./tortie lab exec --name x n1-p1 -- bash"), "{text}");
        assert!(text.contains("./tortie fib --socket /run/tortie-x/n1/api.sock"), "{text}");
    }
}
