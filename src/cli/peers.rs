//! `tortie peers`

use super::table::{Style, Table, Tone, or_dash};
use super::view::{Output, render};
use super::{Outcome, print};
use crate::ops::api::{Client, DEFAULT_SOCKET};
use crate::ops::view::{PeerRow, PeersRow};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// How the view is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Table,
    Wide,
    Json,
    Yaml,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Form,
    /// The daemon's API socket
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
}

pub fn show(args: &Args) -> Outcome {
    let rows = Client::new(&args.socket).peers()?;
    let output = match args.output {
        Form::Table | Form::Wide => Output::Table,
        Form::Json => Output::Json,
        Form::Yaml => Output::Yaml,
    };
    print(&render(output, &rows, |r, style| text(r, args.output == Form::Wide, style))?)?;
    Ok(ExitCode::SUCCESS)
}

fn text(rows: &PeersRow, wide: bool, style: Style) -> String {
    if let Some(why) = &rows.off {
        return format!("No probes: {why}\n");
    }
    let mut heading = vec!["NODE", "ADDRESS", "ENCAP", "STATE", "LOSS", "RTT", "LARGEST", "ANSWERED"];
    if wide {
        heading.extend(["PROBED", "FULL-LOSS", "RTT-MIN", "RTT-MEAN", "FULL", "DAMAGED-THERE", "DAMAGED-HERE", "HEARD"]);
    }
    let mut t = Table::new(&heading);
    for p in &rows.peers {
        let tone = match p.state.as_str() {
            _ if p.problem => Tone::Bad,
            "up" => Tone::Good,
            _ => Tone::Normal,
        };
        let head = [(p.node.clone(), Tone::Normal), (p.address.to_string(), Tone::Normal), (p.encapsulation.clone(), Tone::Normal)];
        let mut cells = vec![percent(p.loss_percent), ms(p.rtt_last_ms), or_dash(&p.largest_bytes), ago(p.answered_s)];
        if wide {
            cells.extend([
                p.probed.to_string(),
                percent(p.full_loss_percent),
                ms(p.rtt_min_ms),
                ms(p.rtt_mean_ms),
                p.full_bytes.to_string(),
            ]);
            cells.extend([p.damaged_there.to_string(), p.damaged_here.to_string(), ago(p.heard_s)]);
        }
        t.toned(head.into_iter().chain([(p.state.clone(), tone)]).chain(cells.into_iter().map(|c| (c, Tone::Normal))));
    }
    let mut out = t.render(style);
    let mut said = rows.peers.iter().filter(|p| p.diagnosis.is_some()).peekable();
    if said.peek().is_some() {
        out.push('\n');
    }
    said.for_each(|p| explain(&mut out, p, style));
    out
}

/// What is odd about one peer, and what to do.
fn explain(out: &mut String, p: &PeerRow, style: Style) {
    let Some(diagnosis) = &p.diagnosis else { return };
    let tone = if p.problem { Tone::Bad } else { Tone::Normal };
    let _ = writeln!(out, "{}: {}", style.paint(Tone::Heading, &p.node), style.paint(tone, diagnosis));
    if let Some(remedy) = &p.remedy {
        let _ = writeln!(out, "  {remedy}");
    }
}

fn percent(v: Option<f64>) -> String {
    v.map_or_else(|| "-".to_owned(), |v| if v == 0.0 { "0%".to_owned() } else { format!("{v:.1}%") })
}

fn ms(v: Option<f64>) -> String {
    v.map_or_else(|| "-".to_owned(), |v| if v < 10.0 { format!("{v:.2}ms") } else { format!("{v:.0}ms") })
}

fn ago(v: Option<f64>) -> String {
    v.map_or_else(|| "-".to_owned(), |v| if v < 10.0 { format!("{v:.1}s") } else { format!("{v:.0}s") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> PeerRow {
        PeerRow {
            node: "n2".into(),
            address: [172, 31, 1, 2].into(),
            probed: [10, 244, 2, 0].into(),
            encapsulation: "vxlan".into(),
            state: "up".into(),
            problem: false,
            loss_percent: Some(0.0),
            full_loss_percent: Some(12.5),
            rtt_last_ms: Some(0.123),
            rtt_min_ms: Some(0.1),
            rtt_mean_ms: Some(12.3),
            full_bytes: 1450,
            largest_bytes: Some(1450),
            super_frame_bytes: Some(10_575),
            super_frame_arrived_bytes: Some(10_575),
            damaged_there: 0,
            damaged_here: 1,
            answered_s: Some(0.42),
            heard_s: Some(12.0),
            diagnosis: None,
            remedy: None,
        }
    }

    #[test]
    fn a_line_per_peer_and_the_diagnoses_below() {
        let mut rows = PeersRow { peers: vec![row()], ..PeersRow::default() };
        let table = text(&rows, false, Style::Plain);
        assert_eq!(
            table,
            "NODE   ADDRESS      ENCAP   STATE   LOSS   RTT      LARGEST   ANSWERED\n\
             n2     172.31.1.2   vxlan   up      0%     0.12ms   1450      0.4s\n"
        );
        rows.peers[0].diagnosis = Some("gone".into());
        rows.peers[0].remedy = Some("find it".into());
        assert!(text(&rows, false, Style::Plain).ends_with("0.4s\n\nn2: gone\n  find it\n"));
        let wide = text(&rows, true, Style::Plain);
        assert!(wide.contains("10.244.2.0   12.5%       0.10ms    12ms       1450   0               1              12s"), "{wide}");
        rows.off = Some("no key".into());
        assert_eq!(text(&rows, true, Style::Plain), "No probes: no key\n");
    }
}
