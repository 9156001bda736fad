//! `tortie top`: who sends how much now, who loses packets, and how busy the workers are. Live on a terminal, or as
//! text and JSON for scripts.

mod batch;
mod model;
mod rates;
mod render;
mod rows;
#[cfg(test)]
mod tests;

use super::Outcome;
use super::table::Style;
use crate::ops::api::{Client, DEFAULT_SOCKET};
use crate::ops::view::ActivityRow;
use model::{Page, Top, Wish};
use ratatui::crossterm::event::{self, KeyEvent};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A screen is drawn anew at least this often, so that a resize is never missed for long.
const REDRAW: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds between two samples, 0.1 to 3600
    #[arg(short, long, default_value = "1", value_name = "SECONDS", value_parser = interval)]
    interval: Duration,
    /// The page to begin with; without a terminal, the only one to print
    #[arg(long, value_enum, value_name = "PAGE")]
    view: Option<Page>,
    /// Only lines with this text in a name, an address, a role or a reason
    #[arg(long, default_value = "", value_name = "TEXT")]
    filter: String,
    /// Print text for a script instead of taking the screen, again and again
    #[arg(short, long)]
    batch: bool,
    /// With --batch: end after so many times
    #[arg(short = 'n', long, value_name = "N", requires = "batch")]
    count: Option<u64>,
    /// Print once and end
    #[arg(long, conflicts_with = "batch")]
    once: bool,
    /// Form of what is printed; json: one value a line, rates per second
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORM")]
    output: Output,
    /// The daemon's API socket
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "seconds are required, like 0.5 or 2".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err("not within 0.1 and 3600 seconds".into()) }
}

pub fn run(args: &Args) -> Outcome {
    let client = Client::new(&args.socket);
    if args.batch || args.once {
        let count = if args.once { Some(1) } else { args.count };
        return batch::run(&client, args, count);
    }
    if args.output != Output::Table {
        return Err("-o json is for scripts: add --once or --batch".into());
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err("no terminal to draw on: use `tortie top --once` or `tortie top --batch`".into());
    }
    live(client, args)
}

/// What the screen reacts to.
enum Event {
    Sample(Result<ActivityRow, String>),
    Key(KeyEvent),
    Resize,
    /// To end, by this signal, or because nobody is there any more.
    End(Option<i32>),
}

fn live(client: Client, args: &Args) -> Outcome {
    let (sender, events) = mpsc::channel();
    spawn_samples(client, args.interval, sender.clone());
    spawn_signals(sender.clone())?;
    let mut top = Top::new(args.view.unwrap_or(Page::Ports), args.filter.clone(), Style::of_stdout() == Style::Colour);
    // From here on a panic puts the terminal back before its message.
    let mut terminal = ratatui::try_init()?;
    spawn_keys(sender);
    let result = (|| -> io::Result<Option<i32>> {
        loop {
            terminal.draw(|frame| render::draw(&mut top, frame))?;
            let mut next = match events.recv_timeout(REDRAW) {
                Ok(e) => Some(e),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            };
            // All that has come is one picture.
            while let Some(event) = next {
                match event {
                    Event::Sample(s) => top.sample(s),
                    Event::Key(k) if top.key(k) == Wish::Quit => return Ok(None),
                    Event::Key(_) | Event::Resize => {}
                    Event::End(signal) => return Ok(signal),
                }
                next = events.try_recv().ok();
            }
        }
    })();
    let restored = ratatui::try_restore();
    let signal = result?;
    restored?;
    // As a shell reports a program that a signal ended.
    Ok(signal.map_or(ExitCode::SUCCESS, |s| ExitCode::from(128 + s as u8)))
}

/// Asks the daemon, again and again, until nobody listens.
fn spawn_samples(client: Client, interval: Duration, sender: Sender<Event>) {
    thread::spawn(move || {
        loop {
            let sample = client.activity().map_err(|e| e.to_string());
            if sender.send(Event::Sample(sample)).is_err() {
                return;
            }
            thread::sleep(interval);
        }
    });
}

fn spawn_keys(sender: Sender<Event>) {
    thread::spawn(move || {
        loop {
            let event = match event::read() {
                Ok(event::Event::Key(k)) => Event::Key(k),
                Ok(event::Event::Resize(..)) => Event::Resize,
                Ok(_) => continue,
                Err(_) => Event::End(None),
            };
            let over = matches!(event, Event::End(_));
            if sender.send(event).is_err() || over {
                return;
            }
        }
    });
}

/// SIGTERM, SIGHUP and SIGINT end the program in order: the terminal is put back.
fn spawn_signals(sender: Sender<Event>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let (mut term, mut hangup, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?);
    drop(guard);
    thread::spawn(move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => SignalKind::terminate(),
                _ = hangup.recv() => SignalKind::hangup(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            }
        });
        // The other end goes when the program ends anyway.
        let _ = sender.send(Event::End(Some(number.as_raw_value())));
    });
    Ok(())
}
