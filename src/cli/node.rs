//! `tortie node`: the node that this program runs on.

use super::bird::{self, BirdError, Peer};
use super::{Outcome, diags, print};
use crate::ops::api::{Client, ClientError, DEFAULT_SOCKET};
use crate::ops::view::StatusRow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Whether the node's process runs, and the state of its BGP sessions
    Status {
        /// The daemon's API socket
        #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
        socket: PathBuf,
        /// The control socket of a BIRD that speaks BGP for this node
        #[arg(long, value_name = "PATH", default_values = ["/var/run/calico/bird.ctl", "/var/run/bird/bird.ctl"])]
        bird: Vec<PathBuf>,
        /// The same for IPv6, where that is another process
        #[arg(long, value_name = "PATH", default_values = ["/var/run/calico/bird6.ctl", "/var/run/bird/bird6.ctl"])]
        bird6: Vec<PathBuf>,
    },
    /// Collect what is needed to understand this node from afar into one archive
    Diags(diags::Args),
}

pub fn run(args: &Args) -> Outcome {
    match &args.verb {
        Verb::Status { socket, bird, bird6 } => status(socket, bird, bird6),
        Verb::Diags(a) => diags::run(a),
    }
}

fn status(socket: &Path, v4: &[PathBuf], v6: &[PathBuf]) -> Outcome {
    match Client::new(socket).status() {
        Ok(row) => {
            print(&format!("Calico process is running.\n{}{}", bgp(v4, v6)?, own(&row)))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(e @ ClientError::NoDaemon { .. }) => Err(format!("Calico process is not running. ({e})").into()),
        Err(e) => Err(e.into()),
    }
}

/// The sessions of the BIRD beside the daemon, if there is one: the daemon has no BGP speaker of its own.
fn bgp(v4: &[PathBuf], v6: &[PathBuf]) -> Result<String, BirdError> {
    let (four, six) = (bird::peers(v4)?, bird::peers(v6)?);
    if four.is_none() && six.is_none() {
        return Ok("\nNone of the BGP backend processes (BIRD or GoBGP) are running.\n".into());
    }
    let part = |peers: &Option<Vec<Peer>>, version: u8, process: &str| match peers {
        Some(peers) => format!("\nIPv{version} BGP status\n{}", bird::table(&format!("IPv{version}"), peers)),
        None => format!("\nINFO: BIRDv{version} process: '{process}' is not running.\n"),
    };
    Ok(part(&four, 4, "bird") + &part(&six, 6, "bird6"))
}

/// What the daemon says of itself.
fn own(row: &StatusRow) -> String {
    let address = row.address.map_or_else(|| "no address".to_owned(), |a| a.to_string());
    let mut out = format!(
        "\ntortie {} (pid {}) forwards for node {} ({address}) by the datastore's routes, without BGP sessions of its own.\n",
        row.version, row.pid, row.node
    );
    if !row.in_sync {
        out.push_str("The datastore has not been read completely yet.\n");
    }
    for problem in &row.problems {
        out.push_str(&format!("Problem: {problem}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_true_without_bgp() {
        let row = StatusRow {
            node: "n1".into(),
            version: "0.1.0".into(),
            pid: 7,
            in_sync: false,
            generation: 1,
            workers: 1,
            uplink: "eth0".into(),
            address: Some([192, 168, 3, 1].into()),
            tunnel_address: None,
            pod_mtu: None,
            problems: vec!["x".into()],
            conflicts: vec![],
        };
        let text = own(&row);
        assert!(text.starts_with("\ntortie 0.1.0 (pid 7) forwards for node n1 (192.168.3.1)"), "{text}");
        assert!(
            text.contains("without BGP sessions") && text.contains("not been read completely") && text.ends_with("Problem: x\n"),
            "{text}"
        );
        let none = bgp(&["/nonexistent".into()], &[]).unwrap();
        assert_eq!(none, "\nNone of the BGP backend processes (BIRD or GoBGP) are running.\n");
    }
}
