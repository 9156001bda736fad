//! A capture through a saved state: the same frames and verdicts on any machine.

use super::table::Table;
use super::view::{self, Output};
use super::{Outcome, state};
use crate::ops::replay::capture::{self, Direction, Record, Writer};
use crate::ops::replay::{Engine, VerdictRow};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: state::Source,
    /// Frames that enter: pcapng with interface names, or classic pcap with --port
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Where to write the frames that leave, as pcapng
    #[arg(long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// The interface that all frames enter by, whatever the capture says
    #[arg(long, value_name = "INTERFACE")]
    port: Option<String>,
    /// Form of the verdicts
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Output,
}

pub fn run(args: &Args) -> Outcome {
    let state = args.source.load()?;
    let name = |path: &PathBuf| path.display().to_string();
    let input = File::open(&args.input).map_err(|e| format!("{}: {e}", name(&args.input)))?;
    let records = capture::read(BufReader::new(input), args.port.as_deref()).map_err(|e| format!("{}: {e}", name(&args.input)))?;
    let mut engine = Engine::new(&state)?;
    let mut writer = match &args.out {
        Some(path) => Some(Writer::new(BufWriter::new(File::create(path).map_err(|e| format!("{}: {e}", name(path)))?))?),
        None => None,
    };
    let rows = replay(&mut engine, &records, &mut writer)?;
    if let Some(w) = writer {
        w.into_inner().flush()?;
    }
    super::print(&view::render(args.output, &rows, |rows, style| {
        let mut t = Table::new(&["PACKET", "IN", "VERDICT", "OUT"]);
        for r in rows.iter() {
            t.row([r.packet.to_string(), r.input.clone(), r.verdict.clone(), r.out.join(",")]);
        }
        t.render(style)
    })?)?;
    Ok(ExitCode::SUCCESS)
}

/// Feeds all frames in order; time is theirs, counted from the first.
fn replay<W: Write>(
    engine: &mut Engine,
    records: &[Record],
    writer: &mut Option<Writer<W>>,
) -> Result<Vec<VerdictRow>, Box<dyn std::error::Error>> {
    let start = records.first().map(|r| r.at).unwrap_or_default();
    let mut rows = Vec::new();
    for (i, r) in records.iter().enumerate() {
        let now = r.at.saturating_sub(start).as_millis() as u64;
        let verdict = engine.feed(&r.interface, r.frame.clone(), now)?;
        if let Some(w) = writer {
            for sent in &verdict.sent {
                let interface = engine.interface(sent.port).to_owned();
                let ethernet = engine.is_ethernet(&interface);
                let note = if sent.reconstructed { "; outer headers reconstructed" } else { "" };
                let comment = format!("from packet {} on {}: {verdict}{note}", i + 1, r.interface);
                w.write(&Record { interface, at: r.at, direction: Some(Direction::Out), frame: sent.frame.clone() }, ethernet, &comment)?;
            }
        }
        rows.push(engine.row(i + 1, &r.interface, &verdict));
    }
    Ok(rows)
}
