//! Frames as the engine saw them, as pcapng: at a port, a pod, the uplink, or where they were dropped.

use super::Outcome;
use crate::frame::PortId;
use crate::ops::api::{Client, DEFAULT_SOCKET};
use crate::ops::replay::State;
use crate::ops::replay::capture::{Direction, Record, Writer};
use crate::ops::replay::outer::Outer;
use crate::ops::replay::state::{PortState, RoleState};
use crate::ops::view::{TraceFrame, TraceLine, TraceRow};
use crate::port::Medium;
use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How often triggers are looked at.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write: a file, or - for standard output
    #[arg(short = 'w', long = "write", value_name = "FILE|-")]
    write: PathBuf,
    /// Where to look: an interface, a pod (NAMESPACE/NAME), `uplink`, or `drops`; everywhere unless given
    #[arg(long, value_name = "PORT|POD|uplink|drops")]
    at: Option<String>,
    /// Which packets, in tcpdump's syntax; `pod NAMESPACE/NAME` and `reason DROP-REASON` work too
    #[arg(long, default_value = "", value_name = "EXPRESSION")]
    filter: String,
    /// Stop after so many packets
    #[arg(long)]
    count: Option<u64>,
    /// Keep only the last frames in memory, up to SIZE (bytes; K, M and G work), and write on a trigger: SIGINT,
    /// SIGUSR1, a burst of drops, or a port going away
    #[arg(long, value_name = "SIZE", value_parser = size)]
    ring: Option<usize>,
    /// How many drops within a second are a burst
    #[arg(long, default_value_t = 50, requires = "ring")]
    burst: usize,
    /// The daemon's API socket
    #[arg(long, default_value = DEFAULT_SOCKET, value_name = "PATH")]
    socket: PathBuf,
}

fn size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.to_ascii_uppercase().strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (digits.to_owned(), 1usize << (10 * (1 + "KMG".find(&text.to_ascii_uppercase()[text.len() - 1..]).unwrap_or(0)))),
        None => (text.to_owned(), 1),
    };
    digits
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .filter(|n| *n > 0)
        .ok_or_else(|| "a size like 500K or 64M is required".into())
}

/// Which frames of a packet's way are written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    All,
    Interface(String),
    Drops,
}

impl At {
    fn new(state: &State, text: Option<&str>) -> Result<At, Box<dyn Error>> {
        let role = |p: &&PortState| p.role == RoleState::Uplink;
        match text {
            None => Ok(At::All),
            Some("drops") => Ok(At::Drops),
            Some("uplink") => {
                let uplink = state.ports.iter().find(role).ok_or("--at uplink: the uplink is not open; `tortie ports` says why")?;
                Ok(At::Interface(uplink.interface.clone()))
            }
            Some(name) => {
                let is = |p: &&PortState| p.interface == name || matches!(&p.role, RoleState::Workload(e) if e.name == name);
                let port = state.ports.iter().find(is);
                let known: Vec<&str> = state.ports.iter().map(|p| p.interface.as_str()).collect();
                let none = || format!("--at {name}: neither an interface nor a pod of this node; interfaces are {}", known.join(", "));
                Ok(At::Interface(port.ok_or_else(none)?.interface.clone()))
            }
        }
    }
}

/// Turns packets' ways into frames of a capture.
struct Frames {
    state: State,
    at: At,
    outer: Outer,
}

/// A frame to write.
struct Frame {
    record: Record,
    ethernet: bool,
    comment: String,
}

impl Frames {
    fn of(&mut self, row: &TraceRow) -> Vec<Frame> {
        let mut out = Vec::new();
        let dropped = !row.dropped.is_empty();
        if self.wants(&row.received, dropped) {
            out.extend(self.frame(row, &row.received, Direction::In, &row.verdict));
        }
        if self.at != At::Drops {
            for f in &row.sent {
                if self.wants(f, false) {
                    out.extend(self.frame(row, f, Direction::Out, &format!("received on {}", row.received.interface)));
                }
            }
        }
        out
    }

    fn wants(&self, f: &TraceFrame, dropped: bool) -> bool {
        match &self.at {
            At::All => true,
            At::Interface(name) => f.interface == *name,
            At::Drops => dropped,
        }
    }

    fn frame(&mut self, row: &TraceRow, f: &TraceFrame, direction: Direction, comment: &str) -> Option<Frame> {
        let port = self.state.ports.iter().find(|p| p.id == f.port);
        let medium = port.map_or(Medium::Ethernet, |p| p.medium);
        let uplink = port.is_some_and(|p| p.role == RoleState::Uplink);
        let (frame, made) = match direction {
            Direction::In => self.outer.received(PortId(f.port), medium, f.wired()?),
            Direction::Out => self.outer.wrap(PortId(f.port), medium, f.wired()?),
        };
        let note = if made { "; outer headers reconstructed" } else { "" };
        let record = Record { interface: f.interface.clone(), at: Duration::from_nanos(row.at), direction: Some(direction), frame };
        Some(Frame { record, ethernet: uplink || medium == Medium::Ethernet, comment: format!("{comment}{note}") })
    }
}

pub fn run(args: &Args) -> Outcome {
    let client = Client::new(&args.socket);
    let state = client.state()?;
    let at = At::new(&state, args.at.as_deref())?;
    let mut frames = Frames { outer: Outer::new(&state), at, state };
    match args.ring {
        Some(size) => ring(args, &client, &mut frames, size),
        None => straight(args, &client, &mut frames),
    }
}

fn open(path: &Path) -> Result<Box<dyn Write>, Box<dyn Error>> {
    if path.as_os_str() != "-" {
        let file = File::create(path).map_err(|e| format!("{}: {e}", path.display()))?;
        return Ok(Box::new(BufWriter::new(file)));
    }
    if io::stdout().is_terminal() {
        return Err("-w -: a capture is not for a terminal; pipe it, as in `tortie capture -w - | tcpdump -r -`".into());
    }
    Ok(Box::new(io::stdout()))
}

/// Writes frames as they come. Ctrl-C ends the program; what was written is complete.
fn straight(args: &Args, client: &Client, frames: &mut Frames) -> Outcome {
    let mut writer = Writer::new(open(&args.write)?)?;
    let (mut packets, mut lost, mut failed) = (0u64, 0, None);
    client.trace(&args.filter, args.count.unwrap_or(u64::MAX), |line| {
        let result = match line {
            TraceLine::Lost(total) => {
                lost = total;
                Ok(())
            }
            TraceLine::Packet(row) => {
                packets += 1;
                frames.of(&row).iter().try_for_each(|f| writer.write(&f.record, f.ethernet, &f.comment))
            }
        };
        failed = result.and_then(|()| Ok(writer.flush()?)).err();
        failed.is_none()
    })?;
    eprintln!("tortie: {packets} packets{}", losses(lost));
    failed.map_or(Ok(ExitCode::SUCCESS), |e| Err(e.into()))
}

fn losses(lost: u64) -> String {
    if lost > 0 { format!("; {lost} more matched than could be written down in time") } else { String::new() }
}

/// Why the ring is written.
fn trigger(drops: &VecDeque<Instant>, burst: usize, gone: Option<String>, signal: Option<&'static str>) -> Option<String> {
    if let Some(name) = signal {
        return Some(format!("signal {name}"));
    }
    if let Some(port) = gone {
        return Some(format!("port {port} went away"));
    }
    (drops.len() >= burst).then(|| format!("{} drops within a second", drops.len()))
}

/// Keeps the last frames and writes them when something happens.
fn ring(args: &Args, client: &Client, frames: &mut Frames, size: usize) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, lines) = mpsc::channel();
    let signals = sender.clone();
    let (mut int, mut usr1) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::user_defined1())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            let name = tokio::select! { _ = int.recv() => "SIGINT", _ = usr1.recv() => "SIGUSR1" };
            let _ = signals.send(Event::Signal(name));
        });
    });
    let (reader, filter, count) = (client.clone(), args.filter.clone(), args.count.unwrap_or(u64::MAX));
    std::thread::spawn(move || {
        let result = reader.trace(&filter, count, |line| sender.send(Event::Line(line)).is_ok());
        let _ = sender.send(Event::End(result.err().map(|e| e.to_string())));
    });
    let (mut kept, mut bytes, mut drops): (VecDeque<Frame>, usize, VecDeque<Instant>) = Default::default();
    let known = port_names(client)?;
    let mut looked = Instant::now();
    let why = loop {
        let (mut caught, mut ended) = (None, None);
        match lines.recv_timeout(LOOK) {
            Ok(Event::Line(TraceLine::Packet(row))) => {
                if !row.dropped.is_empty() {
                    drops.push_back(Instant::now());
                }
                for f in frames.of(&row) {
                    bytes += f.record.frame.bytes.len();
                    kept.push_back(f);
                }
                while bytes > size
                    && let Some(old) = kept.pop_front()
                {
                    bytes -= old.record.frame.bytes.len();
                }
            }
            Ok(Event::Line(TraceLine::Lost(_))) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Signal(name)) => caught = Some(name),
            Ok(Event::End(Some(error))) => return Err(error.into()),
            Ok(Event::End(None)) | Err(RecvTimeoutError::Disconnected) => ended = Some("the trace ended".to_owned()),
        }
        drops.retain(|t| t.elapsed() < Duration::from_secs(1));
        let mut gone = None;
        if looked.elapsed() >= LOOK * 5 {
            looked = Instant::now();
            let now = port_names(client)?;
            gone = known.iter().find(|p| !now.contains(p)).cloned();
        }
        if let Some(why) = ended.or_else(|| trigger(&drops, args.burst, gone, caught)) {
            break why;
        }
    };
    let mut writer = Writer::new(open(&args.write)?)?;
    for f in &kept {
        writer.write(&f.record, f.ethernet, &f.comment)?;
    }
    writer.flush()?;
    eprintln!("tortie: {why}: {} frames, {bytes} bytes", kept.len());
    // The thread that reads the trace waits for the daemon; it ends with the process.
    Ok(ExitCode::SUCCESS)
}

enum Event {
    Line(TraceLine),
    Signal(&'static str),
    End(Option<String>),
}

fn port_names(client: &Client) -> Result<Vec<String>, Box<dyn Error>> {
    Ok(client.ports()?.into_iter().filter(|p| p.state == "up").map(|p| p.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!((size("1"), size("2k"), size("64M"), size("1G")), (Ok(1), Ok(2048), Ok(64 << 20), Ok(1 << 30)));
        for bad in ["", "0", "M", "-1", "x", "99999999999G", "1T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_sets_the_ring_off() {
        let drops: VecDeque<Instant> = std::iter::repeat_n(Instant::now(), 3).collect();
        assert_eq!(trigger(&drops, 4, None, None), None);
        assert_eq!(trigger(&drops, 3, None, None).as_deref(), Some("3 drops within a second"));
        assert_eq!(trigger(&drops, 4, Some("cali1".into()), None).as_deref(), Some("port cali1 went away"));
        assert_eq!(trigger(&drops, 3, None, Some("SIGINT")).as_deref(), Some("signal SIGINT"));
    }
}
