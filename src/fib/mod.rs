//! The forwarding table: longest-prefix match from destination address to adjacency.

pub mod adjacency;
pub mod lpm;

pub use adjacency::{AdjKind, Adjacency, REWRITE_MAX, Rewrite};
pub use lpm::{Lpm4, Table4};

/// Index of an adjacency in the snapshot. 0 is always drop(no-route), so a lookup always answers; 1 is
/// always punt(host-flow), which no lookup answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AdjId(pub u32);

impl AdjId {
    pub const NO_ROUTE: AdjId = AdjId(0);
    pub const HOST_FLOW: AdjId = AdjId(1);

    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of another node among the counters. 0 stands for all that have no number of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PeerId(pub u32);

impl PeerId {
    pub const NONE: PeerId = PeerId(0);

    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
