//! A worker turned by hand, pod to uplink: the forward path with what a worker adds to it, the look for a tap among that.

use super::support::{Encap, HOST, Loop, POD_PORT, UPLINK, blocks, from_pod, node, random_dsts};
use std::sync::Arc;
use tortie::forward::{Counters, Forwarder};
use tortie::frame::{BURST, Batch, FramePool};
use tortie::port::{Medium, Port};
use tortie::snapshot::{self, Publisher, Snapshot};
use tortie::worker::tap::{Filter, Tap};
use tortie::worker::{Command, Mailbox, Waker, Worker};

/// Frames of 64 bytes from the pod to random remote addresses over VXLAN.
fn pod() -> (Snapshot, Loop) {
    let routes = blocks(5000);
    let snap = node(&routes, Encap::Vxlan);
    let out = random_dsts(&routes, 1024).iter().map(|d| from_pod(*d, 64)).collect();
    let mut pod = Loop::new(Medium::Ethernet, out);
    pod.left = usize::MAX;
    (snap, pod)
}

/// A worker with a pod that always has frames.
pub struct Turned {
    worker: Worker,
    mailbox: Arc<Mailbox>,
    _publisher: Publisher,
}

impl Turned {
    pub fn new() -> Turned {
        let (snap, pod) = pod();
        let (mut publisher, mut readers) = snapshot::channel(1);
        publisher.publish(snap);
        let waker = Arc::new(Waker::new().expect("an eventfd"));
        let mailbox = Arc::new(Mailbox::new(waker).expect("an eventfd"));
        let pool = FramePool::new(1024, 0).expect("memory for the pool");
        let reader = readers.pop().expect("one reader");
        let worker = Worker::new(0, pool, reader, mailbox.clone(), Arc::new(Counters::default())).expect("an epoll instance");
        let mut turned = Turned { worker, mailbox, _publisher: publisher };
        for (id, port) in [(UPLINK, Loop::new(Medium::Ethernet, Vec::new())), (POD_PORT, pod), (HOST, Loop::new(Medium::Ip, Vec::new()))] {
            turned.command(Command::AddPort { id, port: Box::new(port) });
        }
        turned.turns(1);
        turned
    }

    fn command(&self, c: Command) {
        assert!(self.mailbox.command(c).is_ok(), "the mailbox is full");
    }

    /// So many bursts of 64.
    pub fn turns(&mut self, n: usize) {
        // A time of our own: what a clock costs is the machine's.
        (0..n).for_each(|_| assert!(self.worker.turn_at(1)));
    }

    /// A trace that has been and is over.
    pub fn traced_before(mut self) -> Turned {
        let tap = Arc::new(Tap::new(Filter::all(), 4789, 1));
        self.command(Command::Tap(tap.clone()));
        self.turns(2);
        assert!(tap.is_over(), "one packet was asked for");
        drop(tap.next());
        self.turns(2);
        self
    }

    /// A trace that looks for what does not come.
    pub fn traced(mut self) -> Turned {
        let never = Filter::parse("host 203.0.113.1", &|_| None).expect("a filter");
        self.command(Command::Tap(Arc::new(Tap::new(never, 4789, 1))));
        self.turns(2);
        self
    }
}

/// The same bursts in the worker's own order, in code that knows no tap.
pub struct Untapped {
    forwarder: Forwarder,
    snap: Snapshot,
    ports: [Loop; 2],
    batch: Batch,
    moved: usize,
    moved_bytes: usize,
}

impl Untapped {
    pub fn new() -> Untapped {
        let (snap, pod) = pod();
        let pool = FramePool::new(1024, 0).expect("memory for the pool");
        let mut forwarder = Forwarder::new(pool, Arc::new(Counters::default()), Arc::default());
        for id in [UPLINK, POD_PORT, HOST] {
            forwarder.open_queue(id);
        }
        let ports = [Loop::new(Medium::Ethernet, Vec::new()), pod];
        Untapped { forwarder, snap, ports, batch: Batch::new(), moved: 0, moved_bytes: 0 }
    }

    pub fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.forwarder.counters.turns.add(1);
            self.forwarder.set_time(1);
            (self.moved, self.moved_bytes) = (0, 0);
            for id in [UPLINK, POD_PORT] {
                self.ports[id.index()].rx_burst(&mut self.forwarder.pool, &mut self.batch).expect("memory port");
                let n = self.batch.len();
                self.moved += n;
                if n > 0 {
                    let bytes: usize = self.batch.as_slice().iter().map(|f| f.len()).sum();
                    self.moved_bytes += bytes;
                    let c = self.forwarder.counters.port(id);
                    c.rx_frames.add(n as u64);
                    c.rx_bytes.add(bytes as u64);
                    if self.batch.as_slice().iter().all(|f| f.len() <= tortie::frame::SMALL_SLOT) {
                        self.forwarder.process(&self.snap, id, Medium::Ethernet, &mut self.batch);
                    }
                }
            }
            let mut i = 0;
            while let Some(id) = self.forwarder.touched(i) {
                i += 1;
                self.forwarder.flush(id, &mut self.ports[id.index()]).expect("memory port");
            }
            self.forwarder.retain_touched();
            self.forwarder.settle();
            assert_eq!(self.moved, BURST);
        }
    }
}
