//! `tortie status`: whether this node is well, in a dozen lines, problems first.

use super::table::{Style, Tone, notes, or_dash};
use super::view::{self, View};
use super::{Outcome, print};
use crate::ops::api::{Client, ClientError};
use crate::ops::view::{ConflictRow, CounterRow, DropRow, PortRow, StatusRow};
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    view: View,
    /// Exit code 1 unless the node is well: in sync, every port up, no problem, no conflict
    #[arg(long)]
    check: bool,
}

/// Everything that the verb looks at.
#[derive(Debug, Serialize)]
struct Status {
    well: bool,
    #[serde(flatten)]
    row: StatusRow,
    ports_up: usize,
    ports_down: Vec<String>,
    packets: CounterRow,
    /// The most frequent reasons.
    drops: Vec<DropRow>,
}

/// Reasons that `status` names.
const REASONS: usize = 3;

impl Status {
    fn ask(client: &Client) -> Result<Status, ClientError> {
        Ok(Status::of(client.status()?, &client.ports()?, client.counters()?, client.drops()?))
    }

    fn of(row: StatusRow, ports: &[PortRow], counters: Vec<CounterRow>, mut drops: Vec<DropRow>) -> Status {
        let ports_down: Vec<String> = ports.iter().filter(|p| p.state != "up").map(|p| format!("{} ({})", p.name, p.role)).collect();
        drops.retain(|d| d.packets > 0);
        drops.sort_by_key(|d| std::cmp::Reverse(d.packets));
        drops.truncate(REASONS);
        Status {
            well: row.in_sync && row.problems.is_empty() && row.conflicts.is_empty() && ports_down.is_empty(),
            ports_up: ports.len() - ports_down.len(),
            ports_down,
            packets: counters.into_iter().find(|c| c.worker == "total").unwrap_or_default(),
            drops,
            row,
        }
    }
}

pub fn show(args: &Args) -> Outcome {
    let status = Status::ask(&Client::new(&args.view.socket))?;
    print(&view::render(args.view.output, &status, lines)?)?;
    Ok(if args.check && !status.well { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn lines(s: &Status, style: Style) -> String {
    let r = &s.row;
    let mut out = notes(style, Tone::Bad, "Problems:", &r.problems);
    let conflicts: Vec<String> = r.conflicts.iter().flat_map(conflict).collect();
    out.push_str(&notes(style, Tone::Bad, "Conflicts:", &conflicts));
    let verdict = if s.well { style.paint(Tone::Good, "well") } else { style.paint(Tone::Bad, "not well") };
    let sync = if r.in_sync { style.paint(Tone::Good, "in sync") } else { style.paint(Tone::Bad, "not read completely yet") };
    let ports = match s.ports_down.as_slice() {
        [] => format!("{} up", s.ports_up),
        down => format!("{} up, {} down: {}", s.ports_up, down.len(), style.paint(Tone::Bad, &down.join(", "))),
    };
    let p = &s.packets;
    let mut packets = format!("{} received, {} sent, {} to the host, {} dropped", p.received, p.sent, p.punted, p.dropped);
    if !s.drops.is_empty() {
        let most: Vec<String> = s.drops.iter().map(|d| format!("{} {}", d.reason, d.packets)).collect();
        let _ = write!(packets, " ({})", most.join(", "));
    }
    let rows: [(&str, String); 8] = [
        ("Node", format!("{}, {verdict}", r.node)),
        ("Datastore", format!("{sync}, generation {}", r.generation)),
        ("Ports", ports),
        ("Packets", packets),
        ("Uplink", format!("{}, address {}", r.uplink, or_dash(&r.address))),
        ("Tunnel address", or_dash(&r.tunnel_address)),
        ("Pod MTU", or_dash(&r.pod_mtu)),
        ("Version", format!("{}, pid {}, {} worker{}", r.version, r.pid, r.workers, if r.workers == 1 { "" } else { "s" })),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "{:<18}{value}", format!("{name}:"));
    }
    out
}

/// Who, what, and what to do.
fn conflict(c: &ConflictRow) -> [String; 3] {
    let often = match c.times {
        1 => format!("since {} s", c.age),
        n => format!("{n} times in {} s", c.age),
    };
    [format!("{} {}: {} ({often})", c.kind, c.subject, c.parties.join(" and ")), format!("  {}", c.found), format!("  To do: {}", c.remedy)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(in_sync: bool, port_state: &str, problems: &[&str]) -> Status {
        let row = StatusRow {
            node: "n1".into(),
            version: "0.1.0".into(),
            pid: 7,
            in_sync,
            generation: 3,
            workers: 1,
            uplink: "eth0".into(),
            address: None,
            tunnel_address: Some("10.244.1.0".parse().unwrap()),
            pod_mtu: Some(1450),
            problems: problems.iter().map(|p| (*p).to_owned()).collect(),
            conflicts: vec![],
        };
        let port = PortRow {
            id: 1,
            name: "eth0".into(),
            role: "uplink".into(),
            driver: None,
            refused: vec![],
            state: port_state.into(),
            mtu: None,
            queues: 1,
            rx_frames: 0,
            rx_bytes: 0,
            tx_frames: 0,
            tx_bytes: 0,
            tx_dropped: 0,
            kernel_drops: vec![],
        };
        let counters = vec![CounterRow { worker: "total".into(), received: 9, sent: 5, dropped: 4, ..CounterRow::default() }];
        let drop = |reason: &str, packets| DropRow { reason: reason.into(), packets };
        Status::of(row, &[port], counters, vec![drop("a", 0), drop("b", 1), drop("no-route", 3)])
    }

    #[test]
    fn a_node_that_is_well_takes_eight_lines() {
        let text = lines(&status(true, "up", &[]), Style::Plain);
        assert!(
            text.starts_with("Node:             n1, well\nDatastore:        in sync, generation 3\nPorts:            1 up\n"),
            "{text}"
        );
        assert!(text.contains("Packets:          9 received, 5 sent, 0 to the host, 4 dropped (no-route 3, b 1)\n"), "{text}");
        assert!(text.contains("Uplink:           eth0, address -\n"), "{text}");
        assert_eq!(text.lines().count(), 8);
    }

    #[test]
    fn problems_come_first_and_each_of_three_makes_it_unwell() {
        assert!(status(true, "up", &[]).well);
        for bad in [status(false, "up", &[]), status(true, "gone", &[]), status(true, "up", &["pool.yaml: spec.cidr: not a prefix"])] {
            assert!(!bad.well && lines(&bad, Style::Plain).contains("n1, not well"));
        }
        let text = lines(&status(false, "gone", &["pool.yaml: spec.cidr: not a prefix"]), Style::Plain);
        assert!(text.starts_with("Problems:\n  pool.yaml: spec.cidr: not a prefix\nNode: "), "{text}");
        assert!(text.contains("Ports:            0 up, 1 down: eth0 (uplink)\n") && text.contains("not read completely yet"), "{text}");
    }

    #[test]
    fn a_conflict_names_both_parties_and_the_remedy() {
        let mut s = status(true, "up", &[]);
        s.row.conflicts = vec![ConflictRow {
            kind: "block".into(),
            subject: "10.244.1.0/26".into(),
            parties: vec!["node a".into(), "node b".into()],
            found: "two owners".into(),
            remedy: "delete one".into(),
            times: 3,
            age: 9,
        }];
        let s = Status::of(s.row, &[], vec![], vec![]);
        assert!(!s.well);
        let want = "Conflicts:\n  block 10.244.1.0/26: node a and node b (3 times in 9 s)\n    two owners\n    To do: delete one\nNode: ";
        assert!(lines(&s, Style::Plain).starts_with(want), "{}", lines(&s, Style::Plain));
    }
}
