//! A test bed: one worker, turned by hand, over memory ports. The accounting law is checked after every turn,
//! and when the bed goes all slots must have come back.

use super::{check, net::Setup};
use crate::drop::{DropReason, PuntReason};
use crate::frame::{FramePool, PortId};
use crate::port::Port;
use crate::port::mem::{MemPeer, MemPort, Wired};
use crate::snapshot::{self, Publisher};
use crate::worker::counters::Ends;
use crate::worker::{Command, Counters, Event, Mailbox, Waker, Worker};
use std::sync::Arc;

/// Frames that fit each direction of a port's wire.
pub const WIRE: usize = 1024;

/// Changes of a worker's counters, for exact comparison: start with [`Delta::received`] or
/// `Delta::default()` and name every other change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    received: u64,
    generated: u64,
    sent: u64,
    coalesced: u64,
    held: i64,
    punted: Vec<(PuntReason, u64)>,
    dropped: Vec<(DropReason, u64)>,
}

impl Delta {
    pub fn received(n: u64) -> Delta {
        Delta { received: n, ..Delta::default() }
    }
    pub fn generated(self, n: u64) -> Delta {
        Delta { generated: n, ..self }
    }
    pub fn sent(self, n: u64) -> Delta {
        Delta { sent: n, ..self }
    }
    pub fn coalesced(self, n: u64) -> Delta {
        Delta { coalesced: n, ..self }
    }
    pub fn held(self, n: i64) -> Delta {
        Delta { held: n, ..self }
    }
    pub fn punted(mut self, reason: PuntReason, n: u64) -> Delta {
        self.punted.push((reason, n));
        self.punted.sort_unstable();
        self
    }
    pub fn dropped(mut self, reason: DropReason, n: u64) -> Delta {
        self.dropped.push((reason, n));
        self.dropped.sort_unstable();
        self
    }
}

/// Absolute values of what [`Delta`] compares.
#[derive(Clone)]
struct Totals {
    received: u64,
    generated: u64,
    sent: u64,
    coalesced: u64,
    held: u64,
    ends: Ends,
}

impl Totals {
    fn of(c: &Counters) -> Totals {
        Totals {
            received: c.received.get(),
            generated: c.generated.get(),
            sent: c.sent.get(),
            coalesced: c.coalesced.get(),
            held: c.held.get(),
            ends: c.ends(),
        }
    }

    fn since(&self, old: &Totals) -> Delta {
        let (punted, dropped) = self.ends.since(&old.ends);
        Delta {
            received: self.received - old.received,
            generated: self.generated - old.generated,
            sent: self.sent - old.sent,
            coalesced: self.coalesced - old.coalesced,
            held: self.held as i64 - old.held as i64,
            punted,
            dropped,
        }
    }
}

/// One worker with a memory wire on each port of a [`Setup`].
pub struct Bed {
    worker: Worker,
    publisher: Publisher,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    peers: Vec<Option<MemPeer>>,
    now_ms: u64,
    last: Totals,
}

impl Bed {
    /// Enough slots for every test that does not want them scarce.
    pub fn new(setup: &Setup) -> Bed {
        Bed::with_pool(setup, 2048, 64)
    }

    /// A bed with `small` and `big` slots.
    pub fn with_pool(setup: &Setup, small: u32, big: u32) -> Bed {
        let (mut publisher, mut readers) = snapshot::channel(1);
        publisher.publish(setup.snapshot());
        let waker = Arc::new(Waker::new().expect("an eventfd"));
        let mailbox = Arc::new(Mailbox::new(waker).expect("an eventfd"));
        let counters = Arc::new(Counters::default());
        let pool = FramePool::new(small, big).expect("memory for the pool");
        let reader = readers.pop().expect("one reader");
        let worker = Worker::new(0, pool, reader, mailbox.clone(), counters.clone()).expect("an epoll instance");
        let last = Totals::of(&counters);
        let mut bed = Bed { worker, publisher, mailbox, counters, peers: Vec::new(), now_ms: 0, last };
        for (i, spec) in setup.ports.iter().enumerate() {
            let (port, peer) = MemPort::pair(spec.caps.clone(), WIRE);
            bed.open(PortId(i as u16), Box::new(port));
            bed.peers[i] = Some(peer);
        }
        bed.turn();
        bed
    }

    /// Puts any port in the place of number `id`; takes effect with the next turn.
    pub fn open(&mut self, id: PortId, port: Box<dyn Port>) {
        if self.peers.len() <= id.index() {
            self.peers.resize(id.index() + 1, None);
        }
        self.peers[id.index()] = None;
        self.command(Command::AddPort { id, port });
    }

    /// Sends a command to the worker.
    pub fn command(&self, c: Command) {
        assert!(self.mailbox.command(c).is_ok(), "the mailbox is full");
    }

    /// Publishes a changed setup; ports stay as they are.
    pub fn publish(&mut self, setup: &Setup) {
        self.publisher.publish(setup.snapshot());
    }

    /// The free end of a port's wire. Panics for a port of the test's own.
    pub fn wire(&self, port: PortId) -> &MemPeer {
        self.peers[port.index()].as_ref().expect("a memory port")
    }

    /// Puts a frame on a port's wire. Panics when the wire is full.
    pub fn send(&mut self, port: PortId, frame: impl Into<Wired>) {
        assert!(self.wire(port).send(frame), "the wire is full");
    }

    /// Takes the next frame that the worker sent on a port.
    pub fn recv(&mut self, port: PortId) -> Option<Wired> {
        self.wire(port).recv()
    }

    /// All frames that the worker sent on a port.
    pub fn drain(&mut self, port: PortId) -> Vec<Wired> {
        std::iter::from_fn(|| self.recv(port)).collect()
    }

    /// One turn of the worker at the bed's time; true if a frame was received.
    pub fn turn(&mut self) -> bool {
        let moved = self.worker.turn_at(self.now_ms);
        check::law(&self.counters).unwrap();
        moved
    }

    /// Turns until nothing more comes in.
    pub fn run(&mut self) {
        while self.turn() {}
    }

    /// Lets time pass; nothing happens before the next turn.
    pub fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// What the worker told control since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.mailbox.events.pop()).collect()
    }

    /// Counter changes since the last call, or since the bed was made.
    pub fn delta(&mut self) -> Delta {
        let now = Totals::of(&self.counters);
        let delta = now.since(&self.last);
        self.last = now;
        delta
    }

    /// Sends one frame and gives it a turn: what changed.
    pub fn feed(&mut self, port: PortId, frame: impl Into<Wired>) -> Delta {
        self.send(port, frame);
        self.turn();
        self.delta()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Slots in use.
    pub fn slots_in_use(&self) -> usize {
        let pool = self.worker.pool();
        let (small, big) = pool.free();
        pool.size().0 as usize + pool.size().1 as usize - small - big
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.command(Command::Stop);
        self.turn();
        assert!(self.worker.pool().is_full(), "{} slots never came back", self.slots_in_use());
    }
}
