//! The API's answer to a request for a trace: records as they come, one JSON value a line.

use crate::control::facts::TapError;
use crate::frame::PortId;
use crate::ops::server::{self, Answer, Connection};
use crate::ops::source::Source;
use crate::ops::trace::last::Last;
use crate::ops::view::{TraceLine, TraceRow};
use crate::worker::tap::{Record, Tap};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Between two looks at what a trace has brought, and how many looks pass between two signs of life.
const PAUSE: Duration = Duration::from_millis(20);
const BEAT: u32 = 50;
/// How long a trace waits for the one before to end.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long the names of interfaces are good for.
const NAMES_FOR: Duration = Duration::from_secs(1);

/// Path of the trace: `?filter=EXPRESSION&count=N`, percent-encoded.
pub const TRACE: &str = "/v1/trace";

/// Filter and count of a trace that is asked for.
fn read(query: &str) -> Result<(String, u64), &'static str> {
    let (mut filter, mut count) = (String::new(), u64::MAX);
    for (key, value) in query.split('&').filter_map(|p| p.split_once('=')) {
        let Some(value) = decode_percent(value) else { return Err("the query is not percent-encoded text") };
        match (key, value.parse()) {
            ("filter", _) => filter = value,
            ("count", Ok(n)) => count = n,
            _ => return Err("expected: /v1/trace?filter=EXPRESSION&count=N"),
        }
    }
    Ok((filter, count))
}

fn decode_percent(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        out.push(if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            rest = &rest[2..];
            u8::from_str_radix(digits, 16).ok()?
        } else {
            *first
        });
    }
    String::from_utf8(out).ok()
}

/// Sends packets as they come, one JSON value a line, until there have been enough or the reader goes away.
/// The packets are kept in `last`, too.
pub async fn serve(mut stream: Connection, source: Arc<dyn Source>, query: String, last: Arc<Last>) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let (filter, count) = match read(&query) {
        Ok(wanted) => wanted,
        Err(message) => return Answer::error(server::BAD_REQUEST, message).send(stream).await,
    };
    let (asked, wanted) = (source.clone(), filter.clone());
    // The one before may be ending.
    let ask = move || {
        let until = Instant::now() + PATIENCE;
        loop {
            match asked.trace(&wanted, count) {
                Err(TapError::Busy) if Instant::now() < until => std::thread::sleep(PAUSE),
                answer => return answer,
            }
        }
    };
    let tap = match tokio::task::spawn_blocking(ask).await {
        Ok(Ok(tap)) => tap,
        Ok(Err(e)) => return Answer::error(server::CONFLICT, &e.to_string()).send(stream).await,
        Err(e) => return Answer::error(server::CONFLICT, &e.to_string()).send(stream).await,
    };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let result = send_trace(&mut stream, &source, &tap, |row| last.keep(number, &filter, row)).await;
    tap.stop();
    result
}

/// The interfaces by port, asked for again when a port turns up that is not among them, and now and then because a number
/// may have been given to another.
struct Names {
    all: BTreeMap<PortId, String>,
    asked: Option<Instant>,
}

impl Names {
    /// Whether every port of the records has a name that is still good.
    fn cover_all(&self, records: &[Record]) -> bool {
        let named = |r: &Record| self.all.contains_key(&r.port) && r.sent.iter().all(|(port, _)| self.all.contains_key(port));
        self.asked.is_some_and(|t| t.elapsed() < NAMES_FOR) && records.iter().all(named)
    }

    /// The control plane is asked: not on the thread that answers everybody.
    async fn cover(&mut self, source: &Arc<dyn Source>, records: &[Record]) -> io::Result<&BTreeMap<PortId, String>> {
        if !self.cover_all(records) {
            let asked = source.clone();
            self.all = tokio::task::spawn_blocking(move || asked.interfaces()).await.map_err(io::Error::other)?;
            self.asked = Some(Instant::now());
        }
        Ok(&self.all)
    }
}

async fn send_trace(stream: &mut Connection, source: &Arc<dyn Source>, tap: &Tap, keep: impl Fn(TraceRow)) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n").await?;
    let mut quiet = 0;
    let mut names = Names { all: BTreeMap::new(), asked: None };
    loop {
        let over = tap.is_over();
        let mut lines = Vec::new();
        let records: Vec<Record> = std::iter::from_fn(|| tap.next()).collect();
        if !records.is_empty() {
            let names = names.cover(source, &records).await?;
            for r in &records {
                let packet = TraceLine::Packet(super::row(r, names).into());
                line(&mut lines, &packet)?;
                if let TraceLine::Packet(row) = packet {
                    keep(*row);
                }
            }
        }
        quiet = if lines.is_empty() { quiet + 1 } else { 0 };
        // A line now and then shows whether the reader is there.
        if over || quiet % BEAT == 0 {
            line(&mut lines, &TraceLine::Lost(tap.lost()))?;
        }
        stream.write_all(&lines).await?;
        if over {
            return stream.shutdown().await;
        }
        let mut nothing = [0; 1];
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            // The reader asks for nothing more: it has gone.
            _ = stream.read(&mut nothing) => return Ok(()),
        }
    }
}

fn line(out: &mut Vec<u8>, l: &TraceLine) -> io::Result<()> {
    serde_json::to_writer(&mut *out, l)?;
    out.push(b'\n');
    Ok(())
}
