//! The next packets that match, stage by stage.

use super::table::{Style, Tone};
use super::{Outcome, explain};
use crate::ops::api::{Client, DEFAULT_SOCKET};
use crate::ops::replay::State;
use crate::ops::replay::explain::Decision;
use crate::ops::view::{TraceFrame, TraceLine, TraceRow};
use crate::worker::tap::View;
use serde::Serialize;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which packets, in tcpdump's syntax; `pod NAMESPACE/NAME` and `reason DROP-REASON` work too
    #[arg(long, default_value = "", value_name = "EXPRESSION")]
    filter: String,
    /// How many packets
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Text, or one JSON value per packet and line
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    output: Output,
    /// The daemon's API socket
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
}

/// One packet with what the state says about its destination.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    row: &'a TraceRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
}

pub fn run(args: &Args) -> Outcome {
    let client = Client::new(&args.socket);
    let (mut state, style) = (client.state()?, Style::of_stdout());
    let (mut n, mut lost, mut failed) = (0, 0, None);
    client.trace(&args.filter, args.count, |line| {
        let result = match line {
            TraceLine::Lost(total) => {
                lost = total;
                // Nobody may be reading any more.
                io::stdout().flush()
            }
            TraceLine::Packet(row) => {
                n += 1;
                // What was in force when the packet passed, or soon after.
                if row.generation != state.generation
                    && let Ok(newer) = client.state()
                {
                    state = newer;
                }
                tell(&state, &row, n, args.output, style)
            }
        };
        failed = result.err();
        failed.is_none()
    })?;
    if let Some(e) = failed.filter(|e| e.kind() != io::ErrorKind::BrokenPipe) {
        return Err(e.into());
    }
    if lost > 0 {
        eprintln!("tortie: {lost} more packets matched than could be written down in time");
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(state: &State, row: &TraceRow, n: u64, output: Output, style: Style) -> io::Result<()> {
    let decision = destination(state, &row.received).map(|(dst, size)| Decision::new(state, dst, size));
    let text = match output {
        Output::Json => serde_json::to_string(&Told { row, decision })? + "\n",
        Output::Text => lines(state, row, decision.as_ref(), n, style),
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The frame as filters see it.
fn view(state: &State, f: &TraceFrame) -> Option<View> {
    let port = state.ports.iter().find(|p| p.id == f.port)?;
    let frame = f.wired()?;
    Some(View::of(&frame.bytes, crate::frame::PortId(f.port), port.medium, state.tunnel.port, f.peer))
}

/// Destination and size of the innermost packet: what the lookup is about.
fn destination(state: &State, f: &TraceFrame) -> Option<(Ipv4Addr, usize)> {
    let v = view(state, f)?;
    let inner = v.layers().last()?;
    Some((inner.dst.into(), inner.len.into()))
}

fn lines(state: &State, row: &TraceRow, decision: Option<&Decision>, n: u64, style: Style) -> String {
    let mut out =
        style.paint(Tone::Heading, &format!("packet {n}  {}  worker {}, generation {}", clock(row.at), row.worker, row.generation));
    out.push('\n');
    let mut line = |name: &str, text: &str| out.push_str(&format!("  {:<14} {text}\n", format!("{name}:")));
    line("received", &describe(state, &row.received));
    for (name, text) in decision.map(explain::decision).into_iter().flatten() {
        line(name, text);
    }
    for f in &row.sent {
        line("sent", &describe(state, f));
    }
    let tone = if row.dropped.is_empty() { Tone::Good } else { Tone::Bad };
    line("verdict", &style.paint(tone, &row.verdict));
    out
}

/// Interface, the packets from the outside in, and the length.
fn describe(state: &State, f: &TraceFrame) -> String {
    let length = f.bytes.len() / 2;
    let Some(v) = view(state, f) else { return format!("{}, {length} bytes", f.interface) };
    let mut parts = Vec::new();
    if v.arp {
        parts.push("arp".to_owned());
    }
    for l in v.layers() {
        let (src, dst) = (Ipv4Addr::from(l.src), Ipv4Addr::from(l.dst));
        parts.push(match (l.proto, l.ports) {
            (6, Some((s, d))) => format!("{src}:{s} > {dst}:{d} tcp"),
            (17, Some((s, d))) => format!("{src}:{s} > {dst}:{d} udp"),
            (1, _) => format!("{src} > {dst} icmp"),
            (4, _) => format!("{src} > {dst} ipip"),
            (proto, _) => format!("{src} > {dst} protocol {proto}"),
        });
    }
    let segments = f.segments.as_ref().map(|(kind, size)| format!(", {kind} segments of {size}")).unwrap_or_default();
    format!("{} {}, {length} bytes{segments}", f.interface, parts.join(" | "))
}

/// Time of day in UTC, microseconds.
fn clock(nanos: u64) -> String {
    let (seconds, micros) = (nanos / 1_000_000_000, nanos / 1000 % 1_000_000);
    format!("{:02}:{:02}:{:02}.{micros:06}Z", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}
