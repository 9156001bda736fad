//! Records of packets on their way, between the worker's form, the API's rows and what a capture shows.

mod client;
pub mod last;
pub mod stream;

use super::replay;
use super::view::{DropRow, TraceFrame, TraceRow};
use crate::frame::{Gso, GsoKind, PortId};
use crate::port::mem::Wired;
use crate::worker::tap::Record;
use std::collections::BTreeMap;

/// A record as a row.
pub fn row(r: &Record, interfaces: &BTreeMap<PortId, String>) -> TraceRow {
    let name = |port: PortId| interfaces.get(&port).cloned().unwrap_or_else(|| format!("port {}", port.0));
    TraceRow {
        worker: r.worker,
        at: u64::try_from(r.at.as_nanos()).unwrap_or(u64::MAX),
        generation: r.generation,
        received: frame(r.port, name(r.port), &r.frame),
        verdict: replay::verdict_of(r),
        dropped: r.dropped.iter().map(|(reason, n)| DropRow { reason: reason.name().into(), packets: *n }).collect(),
        punted: r.punted.iter().map(|(reason, n)| DropRow { reason: reason.name().into(), packets: *n }).collect(),
        held: r.held,
        sent: r.sent.iter().map(|(port, f)| frame(*port, name(*port), f)).collect(),
    }
}

fn frame(port: PortId, interface: String, f: &Wired) -> TraceFrame {
    TraceFrame {
        port: port.0,
        interface,
        bytes: hex::encode(&f.bytes),
        partial: f.partial,
        may_be_partial: f.may_be_partial,
        segments: f.gso.map(|g| (kind_name(g.kind).to_owned(), g.size)),
        peer: f.peer,
        outer_tos: f.outer_tos,
    }
}

impl TraceFrame {
    /// The frame itself; `None` if the row is damaged.
    pub fn wired(&self) -> Option<Wired> {
        let gso = match &self.segments {
            None => None,
            Some((name, size)) => Some(Gso { kind: kind_of(name)?, size: *size }),
        };
        Some(Wired {
            bytes: hex::decode(&self.bytes).ok()?,
            partial: self.partial,
            may_be_partial: self.may_be_partial,
            gso,
            peer: self.peer,
            outer_tos: self.outer_tos,
        })
    }
}

/// The name of a kind of super-frame.
pub fn kind_name(kind: GsoKind) -> &'static str {
    match kind {
        GsoKind::Tcp4 => "tcp4",
        GsoKind::Tcp6 => "tcp6",
        GsoKind::Udp => "udp",
    }
}

/// The kind of that name.
pub fn kind_of(name: &str) -> Option<GsoKind> {
    [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp].into_iter().find(|k| kind_name(*k) == name)
}
