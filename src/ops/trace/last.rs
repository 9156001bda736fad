//! What the last trace or capture saw, kept for whoever looks later: headers only, as what pods say is theirs, and the
//! latest packets alone.

use crate::ops::view::{LastTraceRow, TraceFrame, TraceRow};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Packets that are kept, and bytes of each frame: Ethernet, IPv4 and UDP headers.
pub const PACKETS: usize = 200;
pub const BYTES: usize = 42;
/// Frames of one packet that are kept: of a super-frame's segments the first ones.
const FRAMES: usize = 16;

/// The packets, in the order in which they were written down.
#[derive(Debug, Default)]
pub struct Last(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Number and filter of the trace that they are from.
    trace: u64,
    filter: Option<String>,
    packets: VecDeque<TraceRow>,
}

impl Last {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a packet of the trace of this number, without what came behind its headers. The first one of a trace displaces
    /// those of the trace before.
    pub fn keep(&self, trace: u64, filter: &str, mut packet: TraceRow) {
        packet.sent.truncate(FRAMES);
        std::iter::once(&mut packet.received).chain(&mut packet.sent).for_each(TraceFrame::without_payload);
        let mut kept = self.lock();
        if kept.trace != trace || kept.filter.is_none() {
            *kept = Kept { trace, filter: Some(filter.to_owned()), packets: VecDeque::new() };
        }
        if kept.packets.len() == PACKETS {
            kept.packets.pop_front();
        }
        kept.packets.push_back(packet);
    }

    pub fn row(&self) -> LastTraceRow {
        let kept = self.lock();
        LastTraceRow { filter: kept.filter.clone(), packets: kept.packets.iter().cloned().collect() }
    }
}

impl TraceFrame {
    /// Cuts it behind its headers.
    pub fn without_payload(&mut self) {
        self.bytes.truncate(BYTES * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(at: u64) -> TraceRow {
        let frame = |bytes: usize| TraceFrame {
            port: 1,
            interface: "eth0".into(),
            bytes: "ab".repeat(bytes),
            partial: None,
            may_be_partial: false,
            segments: None,
            peer: [10, 0, 0, 1].into(),
            outer_tos: 0,
        };
        TraceRow {
            worker: 0,
            at,
            generation: 1,
            received: frame(1500),
            verdict: "sent".into(),
            dropped: vec![],
            punted: vec![],
            held: false,
            sent: vec![frame(20); 45],
        }
    }

    #[test]
    fn the_latest_packets_of_the_latest_trace_without_payload() {
        let last = Last::default();
        assert_eq!(last.row(), LastTraceRow::default());
        (0..500).for_each(|at| last.keep(7, "icmp", packet(at)));
        let row = last.row();
        assert_eq!((row.filter.as_deref(), row.packets.len(), row.packets[0].at), (Some("icmp"), PACKETS, 300));
        let p = &row.packets[0];
        assert_eq!((p.received.bytes.len(), p.sent.len(), p.sent[0].bytes.len()), (2 * BYTES, FRAMES, 40));
        last.keep(8, "", packet(1));
        let row = last.row();
        assert_eq!((row.filter.as_deref(), row.packets.len(), row.packets[0].at), (Some(""), 1, 1));
    }
}
