//! Rates without a screen.

use super::model::{Page, listed};
use super::rates::{Rates, percent, short};
use super::{Args, Output};
use crate::cli::Outcome;
use crate::cli::table::{Style, Table, Tone};
use crate::ops::api::{Client, ClientError};
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

/// Prints rates `count` times, or until the reader goes away. Errors: the daemon does not answer the first question.
/// Later it may be away for a while.
pub fn run(client: &Client, args: &Args, count: Option<u64>) -> Outcome {
    let mut last = client.activity()?;
    let mut printed = 0;
    while count.is_none_or(|n| printed < n) {
        thread::sleep(args.interval);
        let now = match client.activity() {
            Ok(now) => now,
            Err(e) => {
                away(&e, args)?;
                continue;
            }
        };
        // Not of the same process: the next one will have rates.
        if let Some(rates) = Rates::between(&last, &now) {
            printed += 1;
            let text = match args.output {
                Output::Json => serde_json::to_string(&rates)? + "\n",
                Output::Table => text(&rates, args.view, &args.filter, Style::of_stdout()),
            };
            if !write(&text)? {
                break;
            }
        }
        last = now;
    }
    Ok(ExitCode::SUCCESS)
}

/// Once means now; who watches goes on.
fn away(e: &ClientError, args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    if args.once {
        return Err(e.to_string().into());
    }
    eprintln!("tortie: {e}; trying again");
    Ok(())
}

/// False if nobody reads any more.
fn write(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e),
    }
}

/// One page or all that have lines.
pub fn text(r: &Rates, view: Option<Page>, filter: &str, style: Style) -> String {
    let [received, sent, dropped] = r.packets().map(short);
    let mut out = format!(
        "{}: {received} packets/s received, {sent} sent, {dropped} dropped; busiest worker {}; FIB generation {}, {} routes{}\n",
        r.node,
        percent(r.load()),
        r.generation,
        r.routes,
        if r.in_sync { "" } else { "; not in sync" },
    );
    for page in Page::ALL.into_iter().filter(|p| view.is_none_or(|v| v == *p)) {
        let rows = listed(page, r, filter);
        if rows.is_empty() && view.is_none() {
            continue;
        }
        let headings: Vec<&str> = page.columns().iter().map(|(name, _)| *name).collect();
        let mut table = Table::new(&headings);
        for row in rows {
            let tone = if row.bad { Tone::Bad } else { Tone::Normal };
            table.toned(row.cells.iter().map(|c| (c.text(), tone)));
        }
        out.push('\n');
        out.push_str(&style.paint(Tone::Heading, page.name()));
        out.push('\n');
        out.push_str(&table.render(style));
    }
    out
}
