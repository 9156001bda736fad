//! The worker: a thread that owns one queue of every port and forwards between them, run to completion.
//!
//! A turn: take up the newest snapshot, receive a burst from each port that has something, forward it, send
//! what was queued. A worker with nothing to do looks for a while longer if that pays (`spin`), and then sleeps in
//! one epoll call for all its ports.

pub mod mailbox;
mod poll;
mod spin;
pub mod tap;

pub use crate::forward::carry::{Carried, FlowState, PeerTotal, PortTotals, Reasons, Totals};
pub use crate::forward::counters::{self, Counters};
pub use mailbox::{Command, Event, Mailbox, PortHandles, Waker};

use crate::drop::DropReason;
use crate::forward::{Forwarder, Notice};
use crate::frame::{Batch, FramePool, PortId, SMALL_SLOT};
use crate::port::{Medium, Port, RxReport};
use crate::snapshot::Reader;
use std::any::Any;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest sleep: then every port is looked at, so that one whose receive ring starved for want of slots
/// gets new ones.
const SLEEP_MS: i32 = 1000;
/// Sleep while packets wait for a neighbour.
const HELD_SLEEP_MS: i32 = 50;
/// Sleep while a port does not take what is queued for it.
const BACKLOG_SLEEP_MS: i32 = 1;
/// Super-frames forwarded between two rounds of sending: 46 segments each make 368 of the 512 frames that an
/// output queue holds.
const SUPER_FRAMES_AT_ONCE: usize = 8;
/// While some ports are busy, how many turns pass between looks at the others.
const TURNS_PER_POLL: u32 = 4;

/// A worker that has moved a few frames in each of so many turns lets others have the core between turns, for a while
/// if the frames are small: under load, few long bursts cost less than many short ones, and what is joined and
/// segmented gains most. It is what network cards do with interrupts.
const STREAK: u32 = 8;
const FEW: usize = 24;
/// How long, if the frames of so many turns were small. Acknowledgements between bulk data are not to wait.
const PAUSE: Duration = Duration::from_micros(50);
const SMALL: usize = 512;

/// How long a worker that pauses tries to send what is queued.
const DRAIN: Duration = Duration::from_millis(20);
/// The workers' clock, milliseconds: one for all, since they share what they write times into.
pub fn now_ms() -> u64 {
    ms_at(Instant::now())
}

fn ms_at(now: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    now.saturating_duration_since(*START).as_millis() as u64
}

/// What a worker needs besides its ports, which come through the mailbox.
pub struct Worker {
    index: usize,
    /// Before the forwarder: fields are dropped in order, and the pool's memory must outlive the AF_XDP sockets
    /// that it is registered with.
    ports: Vec<Option<Box<dyn Port>>>,
    forwarder: Forwarder,
    reader: Reader,
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    poller: poll::Poller,
    /// The mailbox alone, for a worker that leaves its ports alone.
    idle: poll::Poller,
    /// Ports are open but neither read nor written: another process has them, or is about to.
    paused: bool,
    /// Ports that had frames the last time: polled again without asking the kernel.
    active: Vec<PortId>,
    /// Ports without a descriptor to wait on, and the scratch list of a turn.
    always: Vec<PortId>,
    ready: Vec<PortId>,
    batch: Batch,
    portion: Batch,
    stopping: bool,
    since_poll: u32,
    spin: spin::Spin,
    /// Turns in a row that moved something, and that moved small frames on average.
    streak: u32,
    small_streak: u32,
    /// Frames of the last turn.
    moved: usize,
    /// Who looks at packets now, if anybody does.
    tap: Option<Arc<tap::Tap>>,
    /// Their bytes.
    moved_bytes: usize,
    /// Up to when its time is counted as busy; `None` while it rests.
    awake: Option<Instant>,
}

impl Worker {
    /// Errors: no epoll instance to be had.
    pub fn new(index: usize, pool: FramePool, reader: Reader, mailbox: Arc<Mailbox>, counters: Arc<Counters>) -> io::Result<Worker> {
        let poller = poll::Poller::new()?;
        let idle = poll::Poller::new()?;
        for p in [&poller, &idle] {
            p.add_mailbox(mailbox.worker_waker.as_fd())?;
        }
        Ok(Worker {
            index,
            forwarder: Forwarder::new(pool, counters.clone(), reader.flows().clone()),
            reader,
            mailbox,
            counters,
            poller,
            idle,
            paused: false,
            ports: Vec::new(),
            active: Vec::new(),
            always: Vec::new(),
            ready: Vec::new(),
            batch: Batch::new(),
            portion: Batch::new(),
            stopping: false,
            since_poll: 0,
            spin: spin::Spin::new(Duration::ZERO),
            streak: 0,
            small_streak: 0,
            moved: 0,
            tap: None,
            moved_bytes: 0,
            awake: None,
        })
    }

    /// How long the worker may look for packets before it sleeps; at first it never does.
    pub fn spin(&mut self, limit: Duration) {
        self.spin = spin::Spin::new(limit);
    }

    /// Has the worker leave its ports alone until `Command::Resume`.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Runs the loop on a thread of its own until `Command::Stop`. A panic ends the thread with
    /// `Event::Panicked`; what was in flight is counted as worker-restart.
    pub fn start(mut self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("worker-{}", self.index)).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| self.run()));
            let message = match result {
                Ok(Ok(())) => return,
                Ok(Err(e)) => format!("epoll failed: {e}"),
                Err(panic) => panic_message(panic.as_ref()),
            };
            // What waited is lost with the rest, so it must not count as held any more.
            self.counters.held.set(0);
            let (inn, out) = self.counters.balance();
            self.counters.count_drop(DropReason::WorkerRestart, inn.saturating_sub(out));
            let (index, mailbox) = (self.index, self.mailbox.clone());
            // The ports go first: whoever hears of the panic may open them again.
            drop(self);
            mailbox.event(Event::Panicked { worker: index, message });
        })
    }

    fn run(&mut self) -> io::Result<()> {
        poll::wake_in_time();
        while !self.stopping {
            if self.paused {
                self.idle()?;
                continue;
            }
            self.wait()?;
            let now = Instant::now();
            self.count_busy(now);
            self.awake = Some(now);
            self.turn_ready(ms_at(now));
        }
        Ok(())
    }

    /// A turn without ports: commands and snapshots only.
    fn idle(&mut self) -> io::Result<()> {
        if self.idle.wait(SLEEP_MS, |_| {})?.mailbox {
            self.mailbox.worker_waker.clear();
        }
        self.counters.turns.add(1);
        self.counters.idle_turns.add(1);
        self.obey();
        self.reader.refresh();
        Ok(())
    }

    /// Counts the time since the last turn began, unless the worker rested in between, and lets it rest.
    fn count_busy(&mut self, now: Instant) {
        if let Some(since) = self.awake.take() {
            self.counters.busy_ns.add((now - since).as_nanos() as u64);
        }
    }

    /// Between turns under load.
    fn breathe(&self) {
        if self.small_streak >= STREAK {
            std::thread::sleep(PAUSE);
        } else {
            std::thread::yield_now();
        }
    }

    /// Finds out which ports to look at, sleeping if none is busy.
    fn wait(&mut self) -> io::Result<()> {
        self.ready.clear();
        self.ready.extend_from_slice(&self.always);
        self.since_poll += 1;
        if self.streak >= STREAK && self.moved < FEW {
            self.count_busy(Instant::now());
            self.breathe();
        }
        let busy = !self.active.is_empty();
        if busy && self.since_poll < TURNS_PER_POLL {
            self.ready.extend_from_slice(&self.active);
            return Ok(());
        }
        self.since_poll = 0;
        let timeout = if busy || !self.always.is_empty() {
            0
        } else if self.forwarder.touched(0).is_some() {
            BACKLOG_SLEEP_MS
        } else if self.forwarder.has_held() {
            HELD_SLEEP_MS
        } else {
            SLEEP_MS
        };
        let mut asleep = None;
        if timeout == SLEEP_MS {
            let now = Instant::now();
            self.count_busy(now);
            if self.look(now)? {
                return Ok(());
            }
            asleep = Some(now);
        }
        if timeout > 0 {
            if asleep.is_none() {
                self.count_busy(Instant::now());
            }
            self.counters.sleeps.add(1);
        }
        let ready = &mut self.ready;
        let found = self.poller.wait(timeout, |id| ready.push(id))?;
        if let Some(since) = asleep
            && found.ports > 0
        {
            let now = Instant::now();
            self.spin.slept(now - since, now);
        }
        if found.mailbox {
            // Cleared before the commands are read: one that comes later wakes us again.
            self.mailbox.worker_waker.clear();
        }
        if timeout == SLEEP_MS && found.ports == 0 && !found.mailbox {
            self.all_ready();
        }
        Ok(())
    }

    /// Looks for a while instead of sleeping, if that pays; true if something came.
    fn look(&mut self, now: Instant) -> io::Result<bool> {
        let window = self.spin.window(now);
        if window.is_zero() {
            return Ok(false);
        }
        let (poller, ready, mailbox) = (&mut self.poller, &mut self.ready, &self.mailbox);
        let outcome = self.spin.round(window, now, || {
            let found = poller.wait(0, |id| ready.push(id))?;
            if found.mailbox {
                mailbox.worker_waker.clear();
            }
            Ok::<_, io::Error>(found.mailbox || found.ports > 0)
        })?;
        self.counters.spins.add(1);
        match outcome {
            spin::Outcome::Found => self.counters.spins_found.add(1),
            spin::Outcome::Vain => {}
            spin::Outcome::Contended => self.counters.spins_contended.add(1),
        }
        Ok(outcome == spin::Outcome::Found)
    }

    /// Puts every open port on the list of this turn.
    fn all_ready(&mut self) {
        let open = self.ports.iter().enumerate().filter(|(_, p)| p.is_some());
        self.ready.extend(open.map(|(i, _)| PortId(i as u16)));
    }

    /// One turn over every port, without waiting: for tests and benches that drive the worker themselves.
    /// True if a frame was received.
    pub fn turn(&mut self) -> bool {
        self.turn_at(now_ms())
    }

    /// The same at a time of the caller's choice, milliseconds since any fixed moment; it must not go back.
    pub fn turn_at(&mut self, now_ms: u64) -> bool {
        self.ready.clear();
        self.all_ready();
        self.turn_ready(now_ms)
    }

    /// The worker's slots, to see that all came back.
    pub fn pool(&self) -> &FramePool {
        &self.forwarder.pool
    }

    fn turn_ready(&mut self, now_ms: u64) -> bool {
        self.counters.turns.add(1);
        self.forwarder.set_time(now_ms);
        self.obey();
        let changed = self.reader.refresh();
        if self.paused {
            return false;
        }
        let snap = self.reader.get().clone();
        if self.forwarder.has_held() || changed {
            self.forwarder.retry_held(&snap);
        }
        self.active.clear();
        let ready = std::mem::take(&mut self.ready);
        let mut moved = false;
        self.moved = 0;
        self.moved_bytes = 0;
        for id in &ready {
            if self.receive(&snap, *id) {
                moved = true;
                if self.ports[id.index()].as_ref().is_some_and(|p| p.wait_fd().is_some()) {
                    self.active.push(*id);
                }
            }
        }
        self.ready = ready;
        self.send();
        self.tell();
        self.forwarder.settle();
        if moved {
            self.streak = self.streak.saturating_add(1);
            if self.streak == 1 && self.moved == 1 {
                // A lone packet after a rest is most often a question or an answer: nothing is behind it, and who gets it may
                // wait for this core. The kernel is asked for all ports at once, not this port first.
                self.active.clear();
            }
            let small = self.moved_bytes < self.moved * SMALL;
            self.small_streak = if small { self.small_streak.saturating_add(1) } else { 0 };
        } else {
            (self.streak, self.small_streak) = (0, 0);
            self.counters.idle_turns.add(1);
        }
        moved
    }

    /// Receives and forwards one burst; true if there was something.
    fn receive(&mut self, snap: &crate::snapshot::Snapshot, id: PortId) -> bool {
        let Some(port) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else { return false };
        let result = port.rx_burst(&mut self.forwarder.pool, &mut self.batch);
        self.take_in(snap, id, result)
    }

    /// Forwards what a port gave; true if there was something.
    fn take_in(&mut self, snap: &crate::snapshot::Snapshot, id: PortId, result: io::Result<RxReport>) -> bool {
        let Some(port) = self.ports.get(id.index()).and_then(Option::as_ref) else { return false };
        let medium = port.caps().medium;
        let n = self.batch.len();
        self.moved += n;
        if n > 0 {
            let bytes: usize = self.batch.as_slice().iter().map(crate::frame::Frame::len).sum();
            self.moved_bytes += bytes;
            let c = self.counters.port(id);
            c.rx_frames.add(n as u64);
            c.rx_bytes.add(bytes as u64);
            match self.tap {
                None => self.forward(snap, id, medium),
                Some(_) => self.forward_tapped(snap, id, medium),
            }
        }
        match result {
            Ok(report) => self.forwarder.lost_in_rx(id, report),
            Err(e) => self.fail(id, &e),
        }
        n > 0
    }

    /// Forwards the burst. Super-frames may leave as dozens of segments each: those go in small portions with
    /// sending in between, so that one burst does not overflow an output queue.
    fn forward(&mut self, snap: &crate::snapshot::Snapshot, id: PortId, medium: Medium) {
        if self.batch.as_slice().iter().all(|f| f.len() <= SMALL_SLOT) {
            return self.forwarder.process(snap, id, medium, &mut self.batch);
        }
        while !self.batch.is_empty() {
            self.batch.move_front(SUPER_FRAMES_AT_ONCE, &mut self.portion);
            self.forwarder.process(snap, id, medium, &mut self.portion);
            self.send();
        }
    }

    /// Lets every port with queued frames send.
    fn send(&mut self) {
        let mut i = 0;
        while let Some(id) = self.forwarder.touched(i) {
            i += 1;
            let Some(port) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else { continue };
            if let Err(e) = self.forwarder.flush(id, port.as_mut()) {
                self.fail(id, &e);
            }
        }
        self.forwarder.retain_touched();
    }

    fn fail(&mut self, id: PortId, e: &io::Error) {
        self.close(id);
        self.event(Event::PortFailed { worker: self.index, id, error: e.to_string() });
    }

    fn close(&mut self, id: PortId) {
        if let Some(mut port) = self.ports.get_mut(id.index()).and_then(Option::take) {
            self.forwarder.close_queue(id);
            port.release(&mut self.forwarder.pool);
        }
        self.always.retain(|p| *p != id);
        self.active.retain(|p| *p != id);
    }

    fn open(&mut self, id: PortId, port: Box<dyn Port>) {
        self.close(id);
        if self.ports.len() <= id.index() {
            self.ports.resize_with(id.index() + 1, || None);
        }
        let added = match port.wait_fd() {
            Some(fd) => self.poller.add_port(fd, id),
            None => {
                self.always.push(id);
                Ok(())
            }
        };
        self.ports[id.index()] = Some(port);
        self.forwarder.open_queue(id);
        if let Err(e) = added {
            return self.fail(id, &e);
        }
        // Frames may wait already, and a receive ring wants its first slots.
        self.ready.push(id);
    }

    /// Carries out what control sent.
    fn obey(&mut self) {
        while let Some(command) = self.mailbox.commands.pop() {
            match command {
                Command::AddPort { id, port } => self.open(id, port),
                Command::RemovePort { id } => {
                    self.close(id);
                    self.event(Event::PortClosed { worker: self.index, id });
                }
                Command::Tap(tap) => self.tap = Some(tap),
                Command::Handles(answer) => drop(answer.send(self.handles())),
                Command::Pause(answer) => {
                    self.quiesce();
                    drop(answer.send(self.forwarder.export()));
                }
                Command::Resume(flows, answer) => {
                    self.resume(&flows);
                    let _ = answer.send(());
                }
                Command::HandOver(answer) => {
                    self.close_own();
                    self.forwarder.hand_over();
                    drop(answer.send(self.counters.totals()));
                }
                Command::Carry(carried) => self.counters.carry(&carried),
                Command::Stop => self.shut_down(),
            }
        }
    }

    /// What another process needs to go on with each port.
    fn handles(&self) -> Vec<PortHandles> {
        let open = self.ports.iter().enumerate().filter_map(|(i, p)| Some((PortId(i as u16), p.as_ref()?)));
        open.map(|(id, p)| (id, p.handles())).collect()
    }

    /// Closes the ports that no other process can go on with, so that one can open them.
    fn close_own(&mut self) {
        for i in 0..self.ports.len() {
            if self.ports[i].as_ref().is_some_and(|p| matches!(p.handles(), Ok(None))) {
                self.close(PortId(i as u16));
            }
        }
    }

    /// Forwards what ports have received and kept, sends what is queued as far as that goes within [`DRAIN`], and leaves
    /// the ports alone from then on.
    fn quiesce(&mut self) {
        let snap = self.reader.get().clone();
        let end = Instant::now() + DRAIN;
        let mut moved = true;
        while moved || (self.forwarder.touched(0).is_some() && Instant::now() < end) {
            moved = false;
            for i in 0..self.ports.len() {
                let Some(port) = self.ports[i].as_mut() else { continue };
                let result = port.rx_kept(&mut self.forwarder.pool, &mut self.batch);
                moved |= self.take_in(&snap, PortId(i as u16), result);
            }
            self.send();
        }
        self.tell();
        self.forwarder.settle();
        self.paused = true;
    }

    fn resume(&mut self, flows: &FlowState) {
        let snap = self.reader.get().clone();
        self.forwarder.set_time(now_ms());
        self.forwarder.import(&snap, flows);
        self.send();
        self.tell();
        self.forwarder.settle();
        self.paused = false;
        self.active.clear();
        // Frames may have come meanwhile.
        self.since_poll = TURNS_PER_POLL;
    }

    fn shut_down(&mut self) {
        self.stopping = true;
        self.forwarder.abandon(DropReason::WorkerRestart);
        for i in 0..self.ports.len() {
            self.close(PortId(i as u16));
        }
    }

    fn tell(&mut self) {
        if !self.forwarder.has_notices() {
            return;
        }
        for n in self.forwarder.take_notices() {
            let event = match n {
                Notice::NeighbourMiss { next_hop } => Event::NeighbourMiss { next_hop },
                Notice::EndpointMac { port, address, mac } => Event::EndpointMac { id: port, address, mac },
                Notice::Claimed(claim) => Event::Claimed(claim),
            };
            if !self.mailbox.event(event) {
                self.counters.events_lost.add(1);
            }
        }
    }

    fn event(&self, e: Event) {
        if !self.mailbox.event(e) {
            self.counters.events_lost.add(1);
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned())
}
