//! The command line: a file per noun. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod counters;
mod diags;
mod doctor;
mod drops;
mod fdb;
mod fib;
mod generate;
mod lab;
mod neigh;
mod node;
mod ports;
mod run;
mod status;
mod table;
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
    /// Dropped packets by reason
    Drops(drops::Args),
    /// Packets in and out per worker
    Counters(view::View),
    /// Whether this node is well: problems, datastore, ports, packets
    Status(status::Args),
    /// Checks this machine for what the daemon needs and what may get in its way
    Doctor(doctor::Args),
    /// The node that this runs on
    Node(node::Args),
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
        Verb::Drops(a) => drops::show(&a),
        Verb::Counters(a) => view::show(&a, |c| c.counters(), |rows, s| counters::table(rows, s)),
        Verb::Status(a) => status::show(&a),
        Verb::Doctor(a) => doctor::run(&a),
        Verb::Node(a) => node::run(&a),
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

    #[test]
    fn wrong_usage_is_refused() {
        for bad in [&["tortie", "fib", "-o", "xml"][..], &["tortie"], &["tortie", "lab", "exec"], &["tortie", "fob"]] {
            assert_eq!(Cli::try_parse_from(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
        assert!(Cli::try_parse_from(["tortie", "drops", "--all", "--socket", "/x", "-o", "json"]).is_ok());
    }
}
