//! The engine as a pure function: a saved state and frames in, frames and verdicts out. The same worker that forwards
//! on a node runs here over ports in memory, with the time taken from the frames; nothing else goes in, so the same
//! input gives the same output, bit for bit, on any machine.

pub mod capture;
mod dump;
pub mod explain;
pub mod flow;
pub mod outer;
mod probe;
mod remedy;
pub mod state;
pub mod words;

pub use state::{State, StateError};

use crate::drop::{DropReason, PuntReason};
use crate::frame::{FramePool, PortId};
use crate::port::Medium;
use crate::port::mem::{MemPeer, MemPort, Wired};
use crate::snapshot;
use crate::worker::counters::Ends;
use crate::worker::tap::Record;
use crate::worker::{Command, Counters, Mailbox, Waker, Worker};
use serde::Serialize;
use state::{PortState, RoleState};
use std::io;
use std::sync::Arc;

/// Frames that a port's wire holds: more than one frame can become.
const WIRE: usize = 4096;
/// Slots of the pool, small and for super-frames.
const SLOTS: (u32, u32) = (4096, 16);

/// Why the engine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot set up the engine: {0}")]
    Io(#[from] io::Error),
    #[error("no port {name:?} in the state; it has {known}")]
    Port { name: String, known: String },
}

/// A frame that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub port: PortId,
    /// As it would be seen on the interface: with outer headers also where a socket adds them.
    pub frame: Wired,
    /// The port's kernel adds the outer headers; here they are made the same way.
    pub reconstructed: bool,
}

/// What became of one frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub sent: Vec<Sent>,
    pub punted: Vec<(PuntReason, u64)>,
    pub dropped: Vec<(DropReason, u64)>,
    /// Waits for a neighbour.
    pub held: bool,
    /// Not taken from the interface at all: the kernel's own business.
    pub left_to_host: bool,
}

/// A verdict in words, for people and for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerdictRow {
    /// Position in the input, from 1.
    pub packet: usize,
    #[serde(rename = "in")]
    pub input: String,
    pub verdict: String,
    /// Interfaces that frames left by, one entry per frame.
    pub out: Vec<String>,
}

/// The engine over memory.
pub struct Engine {
    worker: Worker,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    ports: Vec<PortState>,
    wires: Vec<(PortId, Medium, MemPeer)>,
    tunnel: state::TunnelState,
    /// Makes the identifications of outer headers that a kernel would make.
    outer: outer::Outer,
    now_ms: u64,
}

impl Engine {
    pub fn new(state: &State) -> Result<Engine, ReplayError> {
        let (mut publisher, mut readers) = snapshot::channel(1);
        publisher.publish(state.snapshot()?);
        flow::restore(publisher.flows(), &state.flows)?;
        let mailbox = Arc::new(Mailbox::new(Arc::new(Waker::new()?))?);
        let counters = Arc::new(Counters::default());
        let pool = FramePool::new(SLOTS.0, SLOTS.1)?;
        let reader = readers.pop().ok_or_else(|| io::Error::other("no reader"))?;
        let worker = Worker::new(0, pool, reader, mailbox.clone(), counters.clone())?;
        let mut engine = Engine {
            worker,
            mailbox,
            counters,
            ports: state.ports.clone(),
            wires: Vec::new(),
            outer: outer::Outer::new(state),
            tunnel: state.tunnel.clone(),
            now_ms: 0,
        };
        for p in state.ports.iter().filter(|p| p.role != RoleState::Closed) {
            let (port, peer) = MemPort::pair(p.caps(), WIRE);
            let id = PortId(p.id);
            engine.wires.push((id, p.medium, peer));
            if engine.mailbox.command(Command::AddPort { id, port: Box::new(port) }).is_err() {
                engine.worker.turn_at(0);
                return Err(io::Error::other("too many ports at once").into());
            }
            engine.worker.turn_at(0);
        }
        Ok(engine)
    }

    /// The interfaces by name, each once.
    pub fn interfaces(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for p in &self.ports {
            if !names.contains(&p.interface.as_str()) {
                names.push(&p.interface);
            }
        }
        names
    }

    /// The ports on an interface.
    fn on(&self, interface: &str) -> impl Iterator<Item = &PortState> {
        self.ports.iter().filter(move |p| p.interface == interface)
    }

    /// The name of the interface that a port is on.
    pub fn interface(&self, id: PortId) -> &str {
        self.ports.iter().find(|p| p.id == id.0).map_or("?", |p| &p.interface)
    }

    /// Whether frames of an interface start with an Ethernet header, as a capture on it would show them.
    pub fn is_ethernet(&self, interface: &str) -> bool {
        self.on(interface).any(|p| p.role == RoleState::Uplink || p.medium == Medium::Ethernet)
    }

    /// Checks the name of an interface.
    pub fn known(&self, interface: &str) -> Result<(), ReplayError> {
        if self.on(interface).next().is_some() {
            return Ok(());
        }
        Err(ReplayError::Port { name: interface.to_owned(), known: self.interfaces().join(", ") })
    }

    /// Lets a frame enter by an interface at a time (milliseconds since any moment; it does not go back). `frame` is
    /// what a capture on the interface shows.
    pub fn feed(&mut self, interface: &str, frame: Wired, now_ms: u64) -> Result<Verdict, ReplayError> {
        self.known(interface)?;
        let ports: Vec<(PortId, Medium)> =
            self.on(interface).filter(|p| p.role != RoleState::Closed).map(|p| (PortId(p.id), p.medium)).collect();
        let is_uplink = self.on(interface).any(|p| p.role == RoleState::Uplink);
        let entry = if is_uplink {
            outer::strip(&ports, self.tunnel.port, self.tunnel.node, frame)
        } else {
            ports.first().map(|(id, _)| (*id, frame))
        };
        let Some((port, frame)) = entry else {
            return Ok(Verdict { left_to_host: true, ..Verdict::default() });
        };
        self.now_ms = self.now_ms.max(now_ms);
        let (before, held) = (self.counters.ends(), self.counters.held.get());
        if let Some((_, _, wire)) = self.wires.iter().find(|(id, ..)| *id == port) {
            wire.send(frame);
        }
        self.worker.turn_at(self.now_ms);
        Ok(self.verdict(&before, held))
    }

    /// What a turn led to.
    fn verdict(&mut self, before: &Ends, held: u64) -> Verdict {
        let (punted, dropped) = self.counters.ends().since(before);
        let mut sent = Vec::new();
        for (id, medium, wire) in &self.wires {
            while let Some(frame) = wire.recv() {
                let (frame, reconstructed) = self.outer.wrap(*id, *medium, frame);
                sent.push(Sent { port: *id, frame, reconstructed });
            }
        }
        Verdict { sent, punted, dropped, held: self.counters.held.get() > held, left_to_host: false }
    }

    /// A verdict as a row. `packet` counts from 1.
    pub fn row(&self, packet: usize, interface: &str, v: &Verdict) -> VerdictRow {
        VerdictRow {
            packet,
            input: interface.to_owned(),
            verdict: v.to_string(),
            out: v.sent.iter().map(|s| self.interface(s.port).to_owned()).collect(),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Slots that the ports hold go back before the pool's memory does.
        let _ = self.mailbox.command(Command::Stop);
        self.worker.turn_at(self.now_ms);
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = ends(self.sent.len(), &self.punted, &self.dropped, self.held);
        if self.left_to_host {
            parts.push("left to the host's kernel".into());
        }
        f.write_str(&in_words(&parts))
    }
}

/// How a packet ended, in parts; `sent`: how many frames left because of it.
fn ends(sent: usize, punted: &[(PuntReason, u64)], dropped: &[(DropReason, u64)], held: bool) -> Vec<String> {
    let mut parts = Vec::new();
    let times = |n: u64| if n == 1 { String::new() } else { format!(" x{n}") };
    // A punted packet leaves too: by the host device.
    if sent > 0 && punted.is_empty() {
        parts.push(format!("sent{}", times(sent as u64)));
    }
    parts.extend(punted.iter().map(|(r, n)| format!("punted {r}{}", times(*n))));
    parts.extend(dropped.iter().map(|(r, n)| format!("dropped {r}{}", times(*n))));
    if held {
        parts.push("held for a neighbour".into());
    }
    parts
}

fn in_words(parts: &[String]) -> String {
    if parts.is_empty() { "nothing".into() } else { parts.join(", ") }
}

/// The verdict on a packet that a running worker forwarded.
pub fn verdict_of(r: &Record) -> String {
    in_words(&ends(r.sent.len(), &r.punted, &r.dropped, r.held))
}
