//! `tortie doctor`

use super::table::{Style, Table, Tone, notes};
use super::view::{self, Output};
use super::{Outcome, print};
use crate::ops::api::DEFAULT_SOCKET;
use crate::ops::doctor::{Finding, Machine, State, examine};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Output,
    /// The node's configuration, there or not
    #[arg(long, value_name = "FILE", default_value = crate::control::config::DEFAULT_PATH)]
    config: PathBuf,
    /// The daemon's API socket
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
}

/// Exit code 1 if something fails.
pub fn run(args: &Args) -> Outcome {
    let machine = Machine::look(&args.config, &args.socket)?;
    let findings = examine(&machine);
    print(&view::render(args.output, &findings, |rows, style| table(rows, style))?)?;
    let failed = findings.iter().any(|f| f.state == State::Failure);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn table(rows: &[Finding], style: Style) -> String {
    let mut t = Table::new(&["CHECK", "STATE", "FOUND"]);
    for f in rows {
        let tone = match f.state {
            State::Ok => Tone::Good,
            State::Note => Tone::Faint,
            State::Warning | State::Failure => Tone::Bad,
        };
        t.toned([(f.check.to_owned(), Tone::Normal), (f.state.name().to_owned(), tone), (f.found.clone(), Tone::Normal)]);
    }
    let mut worst: Vec<&Finding> = rows.iter().filter(|f| f.remedy.is_some()).collect();
    worst.sort_by_key(|f| std::cmp::Reverse(f.state));
    let remedies: Vec<String> = worst.iter().map(|f| format!("{}: {}", f.check, f.remedy.as_deref().unwrap_or_default())).collect();
    let mut out = t.render(style);
    if !remedies.is_empty() {
        out.push('\n');
        out.push_str(&notes(style, Tone::Normal, "What to do, the worst first:", &remedies));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_follow_the_worst_first() {
        let f = |check, state, remedy: Option<&str>| Finding { check, state, found: "x".into(), remedy: remedy.map(Into::into) };
        let rows = [f("a", State::Ok, None), f("b", State::Warning, Some("do b")), f("c", State::Failure, Some("do c"))];
        let text = table(&rows, Style::Plain);
        assert!(text.starts_with("CHECK   STATE     FOUND\na       ok        x\n"), "{text}");
        assert!(text.ends_with("What to do, the worst first:\n  c: do c\n  b: do b\n"), "{text}");
        assert!(!table(&rows[..1], Style::Plain).contains("What to do"));
    }
}
