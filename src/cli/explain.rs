//! What would happen to a packet, and why.

use super::table::{Style, Tone};
use super::view::{self, Output};
use super::{Outcome, state};
use crate::ops::replay::explain::{Decision, Explanation, From, Protocol, Question, explain};
use std::net::Ipv4Addr;
use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Proto {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Source address of the packet
    src: Ipv4Addr,
    /// Destination address of the packet
    dst: Ipv4Addr,
    #[arg(long, value_enum, default_value = "icmp")]
    proto: Proto,
    /// Destination port of TCP and UDP
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Bytes from the IP header on
    #[arg(long, default_value_t = 84)]
    size: usize,
    /// Where it enters: a pod (NAMESPACE/NAME or interface), host or uplink; by its source address unless given
    #[arg(long, value_name = "POD|host|uplink")]
    from: Option<String>,
    #[command(flatten)]
    source: state::Source,
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Output,
}

pub fn run(args: &Args) -> Outcome {
    let state = args.source.load()?;
    let question = Question {
        src: args.src,
        dst: args.dst,
        protocol: match args.proto {
            Proto::Tcp => Protocol::Tcp,
            Proto::Udp => Protocol::Udp,
            Proto::Icmp => Protocol::Icmp,
        },
        port: args.port,
        size: args.size,
        from: match args.from.as_deref() {
            None => From::Source,
            Some("host") => From::Host,
            Some("uplink") => From::Uplink,
            Some(pod) => From::Pod(pod.to_owned()),
        },
    };
    let answer = explain(&state, &question)?;
    super::print(&view::render(args.output, &answer, lines)?)?;
    Ok(ExitCode::SUCCESS)
}

/// One line per step, the headers of each frame that leaves behind them.
fn lines(e: &Explanation, style: Style) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| out.push_str(&format!("{:<14} {text}\n", format!("{name}:")));
    line("packet", &e.packet);
    line("enters", &e.entry);
    for (name, text) in decision(&e.decision) {
        line(name, text);
    }
    let verdict = style.paint(if e.remedies.is_empty() { Tone::Good } else { Tone::Bad }, &e.verdict);
    line("verdict", &verdict);
    for r in &e.remedies {
        line("remedy", r);
    }
    for f in &e.out {
        let note = if f.reconstructed { ", outer headers as the kernel makes them" } else { "" };
        out.push_str(&format!("\nout of {}, {} bytes{note}\n", f.interface, f.bytes));
        for h in &f.headers {
            out.push_str(&format!("  {:<9} {}\n  {:<9} {}\n", h.layer, h.text, "", style.paint(Tone::Faint, &h.hex)));
        }
    }
    out
}

/// A decision's parts with their names.
pub fn decision(d: &Decision) -> [(&'static str, &str); 6] {
    [
        ("route", &d.route),
        ("pool", d.pool.as_deref().unwrap_or("none")),
        ("block", d.block.as_deref().unwrap_or("none")),
        ("encapsulation", &d.encapsulation),
        ("next hop", &d.next_hop),
        ("mtu", &d.mtu),
    ]
}
