//! Flows that the host stack may have translated: kept when they come from it, punted when they are answered.

use super::Forwarder;
use crate::fib::{AdjId, AdjKind};
use crate::frame::{BURST, Batch};
use crate::snapshot::Snapshot;
use crate::wire::ipv4;

impl Forwarder {
    /// Keeps the flows of a burst from the host whose answers would pass the host by. Their source is no address of the
    /// host's: it is a pod's, here or on another node, and so the host had the packet from that pod and has perhaps
    /// translated it.
    pub(super) fn keep_flows(&mut self, snap: &Snapshot, batch: &Batch) {
        let n = batch.len();
        let mut srcs = [0; BURST];
        for (src, f) in srcs.iter_mut().zip(batch.as_slice()) {
            *src = ipv4::src(self.pool.data(f));
        }
        let mut ways = [AdjId::NO_ROUTE; BURST];
        snap.fib.lookup_batch(&srcs[..n], &mut ways[..n]);
        for (f, way) in batch.as_slice().iter().zip(ways) {
            if !matches!(snap.adjacencies.get(way).kind, AdjKind::Drop(_) | AdjKind::Punt(_)) {
                let kept = self.flows.keep(self.pool.data(f), self.now_ms);
                self.counters.flows_kept.add(kept.made);
                self.counters.flows_evicted.add(kept.evicted);
            }
        }
    }

    /// Turns the answers among a burst to the host. What is dropped or punted anyway stays so.
    #[inline(never)]
    pub(super) fn divert_answers(&mut self, snap: &Snapshot, batch: &Batch) {
        for (f, adj) in batch.as_slice().iter().zip(&mut self.adjs) {
            let goes = !matches!(snap.adjacencies.get(*adj).kind, AdjKind::Drop(_) | AdjKind::Punt(_));
            if goes && self.flows.answers(self.pool.data(f), self.now_ms) {
                *adj = AdjId::HOST_FLOW;
            }
        }
    }
}
