//! The command line: a file per noun. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod bird;
mod boxed;
mod capture;
mod config;
mod counters;
mod diags;
mod doctor;
mod drops;
mod endpoints;
mod explain;
mod fdb;
mod fib;
mod generate;
mod ipam;
mod lab;
mod neigh;
mod node;
mod ports;
mod replay;
mod resource;
mod run;
mod state;
mod status;
mod table;
mod top;
mod trace;
mod version;
mod view;

use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;

/// Calico's pod network in userspace
#[derive(Debug, Parser)]
#[command(name = "tortie", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The node daemon: runs until SIGTERM; SIGHUP reloads its configuration
    Run(run::Args),
    /// Routes in force: which prefix goes where, and how many packets took it
    Fib(view::View),
    /// Tunnel endpoints of other nodes, like `bridge fdb show`
    Fdb(view::View),
    /// Neighbours of overlay and underlay, like `ip neigh show`
    Neigh(view::View),
    /// Ports: driver in use, why better ones were refused, frames and bytes
    Ports(view::View),
    /// Pods of this node, and whether packets reach them
    Endpoints(view::View),
    /// Dropped packets by reason
    Drops(drops::Args),
    /// Packets in and out per worker
    Counters(view::View),
    /// Whether this node is well: problems, datastore, ports, packets
    Status(status::Args),
    /// Ports, pods and peers by packets and bits now, drops by reason, the workers' load: live on a terminal
    Top(top::Args),
    /// Checks this machine for what the daemon needs and what may get in its way
    Doctor(doctor::Args),
    /// Every setting of the node with where it comes from: file, environment, FelixConfiguration, detection, default
    Config(view::View),
    /// What would happen to a packet, and why: route, pool, encapsulation, MTU, the bytes that leave
    Explain(explain::Args),
    /// The next packets that match, stage by stage, on the running node
    Trace(trace::Args),
    /// Frames as the engine sees them, as pcapng with drop reasons as comments
    Capture(capture::Args),
    /// The data plane's state as JSON: what `explain` and `replay` work on
    State(state::Args),
    /// A capture through a saved state: the same frames and verdicts on any machine
    Replay(replay::Args),
    /// Show resources: pools, nodes, endpoints, configuration, policy
    Get(resource::Get),
    /// Create resources, or replace those that exist
    Apply(resource::Write),
    /// Create resources
    Create(resource::Create),
    /// Replace resources that exist
    Replace(resource::Write),
    /// Change fields of a resource
    Patch(resource::Patch),
    /// Delete resources
    Delete(resource::Delete),
    /// Addresses: how many are in use, by whom, what is lost
    Ipam(ipam::Args),
    /// The node that this runs on
    Node(node::Args),
    /// This program's version and the cluster's
    Version(version::Args),
    /// Print a completion script for a shell
    Completions(generate::Completions),
    /// Write manual pages
    Man(generate::Manual),
    /// A cluster of network namespaces on this machine
    Lab(lab::Args),
}

/// What a verb ends with: an exit code, or an error that is printed on one line.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// Parses the command line and runs the verb.
pub fn main() -> ExitCode {
    // Wrong usage ends here with exit code 2, `--help` and `--version` with 0.
    let cli = Cli::parse();
    let outcome = match cli.verb {
        Verb::Run(a) => run::run(&a),
        Verb::Fib(a) => view::show(&a, |c| c.fib(), |rows, s| fib::table(rows, s)),
        Verb::Fdb(a) => view::show(&a, |c| c.fdb(), |rows, s| fdb::lines(rows, s)),
        Verb::Neigh(a) => view::show(&a, |c| c.neigh(), |rows, s| neigh::lines(rows, s)),
        Verb::Ports(a) => view::show(&a, |c| c.ports(), |rows, s| ports::table(rows, s)),
        Verb::Endpoints(a) => view::show(&a, |c| c.endpoints(), |rows, s| endpoints::table(rows, s)),
        Verb::Drops(a) => drops::show(&a),
        Verb::Counters(a) => view::show(&a, |c| c.counters(), |rows, s| counters::table(rows, s)),
        Verb::Status(a) => status::show(&a),
        Verb::Top(a) => top::run(&a),
        Verb::Doctor(a) => doctor::run(&a),
        Verb::Config(a) => view::show(&a, |c| c.config(), |rows, s| config::table(rows, s)),
        Verb::Explain(a) => explain::run(&a),
        Verb::Trace(a) => trace::run(&a),
        Verb::Capture(a) => capture::run(&a),
        Verb::State(a) => state::run(&a),
        Verb::Replay(a) => replay::run(&a),
        Verb::Get(a) => resource::get(&a),
        Verb::Apply(a) => resource::apply(&a),
        Verb::Create(a) => resource::create(&a),
        Verb::Replace(a) => resource::replace(&a),
        Verb::Patch(a) => resource::patch(&a),
        Verb::Delete(a) => resource::delete(&a),
        Verb::Ipam(a) => ipam::run(&a),
        Verb::Node(a) => node::run(&a),
        Verb::Version(a) => version::run(&a),
        Verb::Completions(a) => generate::completions(&a),
        Verb::Man(a) => generate::manual(&a),
        Verb::Lab(a) => lab::run(a),
    };
    match outcome {
        Ok(code) => code,
        Err(e) => {
            let _ = writeln!(io::stderr(), "tortie: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output. A reader that went away (`| head`) is not an error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| io::Error::new(e.kind(), format!("cannot write to standard output: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// Commands of the documents that are this program's, by line.
    fn documented(name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
        blocks.flat_map(str::lines).filter(|l| l.starts_with("tortie ")).map(str::to_owned).collect()
    }

    #[test]
    fn commands_of_the_lab_document_are_understood() {
        let commands = documented("docs/lab.md");
        assert!(commands.len() > 10, "{commands:?}");
        for line in commands {
            // Quoted words hold spaces; nothing else that a shell knows is used.
            let words: Vec<&str> = line
                .split('"')
                .enumerate()
                .flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
                .collect();
            Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{line}\n{e}"));
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for bad in [&["tortie", "fib", "-o", "xml"][..], &["tortie"], &["tortie", "lab", "exec"], &["tortie", "fob"]] {
            assert_eq!(Cli::try_parse_from(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
        assert!(Cli::try_parse_from(["tortie", "drops", "--all", "--socket", "/x", "-o", "json"]).is_ok());
    }
}
