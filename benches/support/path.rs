//! The whole way of a burst: receive, check, look up, rewrite, queue, send.

use super::support::{Encap, Loop, POD_PORT, UPLINK, blocks, from_pod, node, random_dsts};
use std::sync::Arc;
use tortie::encap::push;
use tortie::forward::{Counters, Forwarder};
use tortie::frame::{BURST, Batch, FramePool, PortId};
use tortie::port::{Medium, Port};
use tortie::snapshot::Snapshot;

/// One worker's worth of forwarding between an Ethernet uplink and one pod.
pub struct Path {
    pub forwarder: Forwarder,
    pub snap: Arc<Snapshot>,
    uplink: Loop,
    pod: Loop,
    batch: Batch,
}

impl Path {
    /// Frames of `len` bytes from the pod to random remote addresses, and the same back.
    pub fn new(routes: usize, encap: Encap, len: usize) -> Path {
        let routes = blocks(routes);
        let snap = node(&routes, encap);
        let dsts = random_dsts(&routes, 1024);
        let pool = FramePool::new(1024, 0).expect("memory for the pool");
        let mut forwarder = Forwarder::new(pool, Arc::new(Counters::default()), Arc::default());
        for id in [UPLINK, POD_PORT] {
            forwarder.open_queue(id);
        }
        let out: Vec<Vec<u8>> = dsts.iter().map(|d| from_pod(*d, len)).collect();
        let back = dsts.iter().map(|d| tunnelled(*d, encap, len)).collect();
        Path {
            forwarder,
            snap: Arc::new(snap),
            uplink: Loop::new(Medium::Ethernet, back),
            pod: Loop::new(Medium::Ethernet, out),
            batch: Batch::new(),
        }
    }

    /// `packets` packets from the pod to the uplink.
    pub fn outward(&mut self, packets: usize) {
        self.pod.left = packets;
        while self.pod.left > 0 {
            self.turn(POD_PORT);
        }
    }

    /// `packets` tunnel packets from the uplink to the pod.
    pub fn inward(&mut self, packets: usize) {
        self.uplink.left = packets;
        while self.uplink.left > 0 {
            self.turn(UPLINK);
        }
    }

    /// Receiving and giving back only: what the bench itself costs.
    pub fn idle(&mut self, packets: usize) {
        self.pod.left = packets;
        while self.pod.left > 0 {
            self.pod.rx_burst(&mut self.forwarder.pool, &mut self.batch).expect("memory port");
            self.uplink.tx_burst(&mut self.forwarder.pool, &mut self.batch).expect("memory port");
        }
    }

    fn turn(&mut self, from: PortId) {
        let (rx, tx) = if from == POD_PORT { (&mut self.pod, &mut self.uplink) } else { (&mut self.uplink, &mut self.pod) };
        rx.rx_burst(&mut self.forwarder.pool, &mut self.batch).expect("memory port");
        self.forwarder.process(&self.snap, from, Medium::Ethernet, &mut self.batch);
        let to = if from == POD_PORT { UPLINK } else { POD_PORT };
        debug_assert_eq!(self.forwarder.touched(0), Some(to));
        self.forwarder.flush(to, tx).expect("memory port");
        self.forwarder.retain_touched();
        self.forwarder.settle();
    }

    /// Everything given in has come out by the expected door.
    #[allow(dead_code)] // only the timed bench asks
    pub fn check(&self) {
        let c = &self.forwarder.counters;
        assert!(self.forwarder.pool.is_full(), "a slot was lost");
        assert_eq!(c.sent.get(), c.received.get(), "not every packet was sent");
        assert!(c.sent.get() >= BURST as u64);
    }
}

/// A packet from the remote node to the pod, as it arrives on the uplink.
fn tunnelled(from: u32, encap: Encap, frame_len: usize) -> Vec<u8> {
    let mut pool = FramePool::new(1, 0).expect("memory for the pool");
    let mut f = pool.take().expect("a slot");
    let inner = super::support::packet(from, super::support::POD.into(), frame_len - 14);
    pool.room_mut(&f)[..inner.len()].copy_from_slice(&inner);
    pool.set_len(&mut f, inner.len());
    let adj = super::support::remote(encap, super::support::NODE);
    f.hash = from;
    match encap {
        Encap::Vxlan => push::vxlan_ethernet(&mut pool, &mut f, &adj.rewrite, 0, 7),
        Encap::Ipip => push::ipip(&mut pool, &mut f, &adj.rewrite, 0, 7),
    }
    let mut bytes = pool.data(&f).to_vec();
    // Built towards this node, from this node; the sender is the peer.
    let ip = &mut bytes[14..];
    tortie::wire::put32(ip, 12, super::support::PEER.into());
    tortie::wire::ipv4::write_checksum(ip);
    bytes
}
