//! Flows from the host stack in a saved state: the answers to them are punted.

use super::state::{StateError, fault};
use crate::flows::{Entry, Flows, Key, Phase};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// One entry: the direction that is punted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowState {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// The IP protocol's number.
    pub protocol: u8,
    /// Source and destination port, or an ICMP identifier twice. Without them the entry is for fragments, and for
    /// protocols without ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<(u16, u16)>,
    /// `opening`, `open` or `closing`.
    pub phase: String,
    /// Until the entry ends if no packet comes.
    pub milliseconds_left: u64,
}

const PHASES: [(&str, Phase); 3] = [("opening", Phase::Opening), ("open", Phase::Open), ("closing", Phase::Closing)];
/// No entry lives longer, and times beyond it would not fit.
const LEFT_MAX: u64 = 1 << 40;

impl From<&Entry> for FlowState {
    fn from(e: &Entry) -> FlowState {
        FlowState {
            source: e.key.src().into(),
            destination: e.key.dst().into(),
            protocol: e.key.protocol(),
            ports: e.key.ports(),
            phase: PHASES.iter().find(|(_, p)| *p == e.phase).map_or("", |(name, _)| name).into(),
            milliseconds_left: e.left_ms,
        }
    }
}

impl FlowState {
    fn entry(&self, at: usize) -> Result<Entry, StateError> {
        let (src, dst) = (self.source.into(), self.destination.into());
        let key = self.ports.map_or_else(|| Key::pair(src, dst, self.protocol), |p| Key::with_ports(src, dst, self.protocol, p));
        let phase = PHASES.iter().find(|(name, _)| *name == self.phase).map(|(_, p)| *p);
        let phase =
            phase.ok_or_else(|| fault(format!("flows[{at}].phase"), format!("{:?} is not one of opening, open, closing", self.phase)))?;
        if self.milliseconds_left > LEFT_MAX {
            return Err(fault(format!("flows[{at}].millisecondsLeft"), format!("{} is more than {LEFT_MAX}", self.milliseconds_left)));
        }
        Ok(Entry { key, phase, left_ms: self.milliseconds_left })
    }
}

/// Entries of a node, in an order that follows from them alone.
pub fn saved(entries: &[Entry]) -> Vec<FlowState> {
    let mut out: Vec<FlowState> = entries.iter().map(FlowState::from).collect();
    out.sort();
    out
}

/// Puts saved entries in force, at time 0.
pub fn restore(flows: &Flows, saved: &[FlowState]) -> Result<(), StateError> {
    for (i, f) in saved.iter().enumerate() {
        flows.restore(&f.entry(i)?, 0);
    }
    Ok(())
}
