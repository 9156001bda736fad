//! The successor's side of a takeover: everything is made ready beside the running daemon, which forwards meanwhile; then
//! its workers pause and ours go on.

use super::opener::KernelOpener;
use super::{Daemon, DaemonError, handover, start};
use crate::control::cluster::Changed;
use crate::control::netlink::Changes;
use crate::control::ports::Key;
use crate::control::takeover::{self, Books, Channel, Hello, Memory, PREPARE, Queue, Received, Reply, SWITCH, Say, State};
use crate::flows::Entry;
use crate::frame::PortId;
use crate::wire::Mac;
use crate::worker::{Carried, Command, Event, FlowState, Paused, Slots};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long the datastore may take to say what is to be done.
const SYNC: Duration = Duration::from_secs(60);
/// How long the workers may take to open what was passed on.
const OPEN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

fn failed(why: impl ToString) -> DaemonError {
    DaemonError::Takeover { why: why.to_string() }
}

/// All that the running daemon passes on.
struct Estate {
    state: State,
    fds: VecDeque<OwnedFd>,
    memories: Vec<(Memory, OwnedFd)>,
    queues: Vec<(Queue, VecDeque<OwnedFd>)>,
}

impl Daemon {
    /// Takes the place of the daemon at the other end. On an error that one is in charge, and nothing of what was passed
    /// on may be cleaned up here.
    pub(super) async fn take_over(&mut self, stream: UnixStream) -> Result<(), DaemonError> {
        // A connection that says nothing would be closed meanwhile.
        drop(stream);
        self.first_sync().await?;
        let stream =
            start::running().map_err(failed)?.ok_or_else(|| failed("the running daemon has ended meanwhile: start without --takeover"))?;
        let mut channel = Channel::new(stream).and_then(|c| c.patience(PREPARE).map(|()| c)).map_err(failed)?;
        let mut estate = self.ask(&mut channel)?;
        tracing::info!("taking over from tortie {}: {} ports", estate.state.program, estate.state.ports.len());
        let learned = std::mem::take(&mut estate.state.learned);
        self.ports.set_learned(learned.into_iter().map(|(name, mac)| (name, Mac(mac))).collect());
        self.restore(&estate.state.flows);
        let moved = self.move_in(&mut estate);
        let queues = std::mem::take(&mut estate.queues);
        self.ports.opener().inherit(&estate.state.ports, queues).map_err(failed)?;
        self.get_ready(&estate.state)?;
        let books = self.switch(&mut channel, &estate.state.ports, moved)?;
        self.settle(estate, books)
    }

    /// Has the workers live in the memory of the running daemon's, if any port does; true if so. Where that cannot be, such
    /// ports stay there, to be opened anew.
    fn move_in(&mut self, estate: &mut Estate) -> bool {
        if estate.memories.is_empty() {
            return false;
        }
        match self.workers.move_to(std::mem::take(&mut estate.memories)) {
            Ok(()) => {
                *self.ports.opener() = KernelOpener::new(&self.config, self.workers.umems());
                true
            }
            Err(why) => {
                tracing::warn!("the memory of AF_XDP ports cannot be taken over: {why}; they are opened anew, and lose packets meanwhile");
                for port in estate.state.ports.iter_mut().filter(|p| p.in_memory) {
                    port.stays = true;
                }
                false
            }
        }
    }

    /// Reads the datastore until it is known what this node is to do.
    async fn first_sync(&mut self) -> Result<(), DaemonError> {
        let wait = async {
            while !self.store.in_sync() {
                let changed = self.store.next(&mut self.cluster).await;
                self.dirty.cluster(changed);
            }
        };
        if tokio::time::timeout(SYNC, wait).await.is_ok() {
            return Ok(());
        }
        let problems: Vec<String> = self.store.problems().iter().map(ToString::to_string).collect();
        Err(failed(format!("the datastore is not in sync after {} s; {}", SYNC.as_secs(), problems.join("; "))))
    }

    /// What the running daemon has.
    fn ask(&self, channel: &mut Channel) -> Result<Estate, DaemonError> {
        let settings = handover::settings(&self.config);
        let hello = Hello { version: takeover::VERSION, program: env!("CARGO_PKG_VERSION").into(), settings };
        channel.send(&Say::Hello(hello), &[]).map_err(failed)?;
        let (state, fds) = match next(channel)? {
            Received { message: Reply::State(state), fds } => (state, fds),
            other => return Err(unexpected(other.message)),
        };
        let (mut memories, mut queues) = (Vec::new(), Vec::new());
        loop {
            match next(channel)? {
                Received { message: Reply::Memory(memory), mut fds } => {
                    memories.push((memory, fds.pop_front().ok_or_else(|| failed("memory came without its descriptor"))?));
                }
                Received { message: Reply::Queue(queue), fds } => queues.push((queue, fds)),
                Received { message: Reply::End, .. } => return Ok(Estate { state, fds, memories, queues }),
                other => return Err(unexpected(other.message)),
            }
        }
    }

    /// Puts everything in force, with workers that leave the ports alone; nothing changes on the host.
    fn get_ready(&mut self, state: &State) -> Result<(), DaemonError> {
        self.put_in_force(Instant::now());
        let end = Instant::now() + OPEN;
        loop {
            for event in self.workers.events() {
                match event {
                    Event::PortFailed { error, .. } => return Err(failed(format!("a port that was passed on does not work: {error}"))),
                    Event::Panicked { message, .. } => return Err(failed(format!("a worker panicked: {message}"))),
                    _ => {}
                }
            }
            let idle = self.workers.mailboxes().iter().all(|m| m.commands.is_empty()) && !self.ports.is_sending();
            if idle && self.planner.oldest_in_use() >= self.planner.generation() {
                break;
            }
            if Instant::now() > end {
                return Err(failed("the workers did not open what was passed on in time"));
            }
            self.ports.tick(0, Instant::now());
            std::thread::sleep(POLL);
        }
        let stay = self.ports.opener().staying();
        let wanted = |key: &str| self.ports.wishes().find(|(k, _)| k.to_string() == key).map(|(k, _): (&Key, _)| k.clone());
        for port in state.ports.iter().filter(|p| !stay.contains(&p.key)) {
            if wanted(&port.key).is_some_and(|key| !self.ports.is_up(&key)) {
                return Err(failed(format!("{} cannot be taken over: {}", port.key, self.ports.problems().join("; "))));
            }
        }
        Ok(())
    }

    /// Puts entries into the table of flows from the host.
    fn restore(&self, entries: &[Entry]) {
        let (flows, now) = (self.planner.flows(), crate::worker::now_ms());
        for e in entries {
            flows.restore(e, now);
        }
    }

    /// The moment itself. `moved`: the workers live in the memory of the other's. On an error nothing was used that the other
    /// one goes on with.
    fn switch(&mut self, channel: &mut Channel, ports: &[takeover::Port], moved: bool) -> Result<Option<Books>, DaemonError> {
        let taken = std::mem::take(&mut self.ports.opener().taken);
        let numbers = self.numbers(ports.iter().filter(|p| taken.contains(&p.key)));
        let asked = Instant::now();
        channel.send(&Say::Pause, &[]).map_err(failed)?;
        let workers = match next(channel)?.message {
            Reply::Paused(workers, later) => {
                self.restore(&later);
                workers
            }
            other => return Err(unexpected(other)),
        };
        let paused = Instant::now();
        let (flows, slots): (VecDeque<FlowState>, Vec<Slots>) = workers.into_iter().map(|Paused { flows, slots }| (flows, slots)).unzip();
        let mut counts = Vec::new();
        if moved {
            let wanted = ports.iter().filter(|p| p.in_memory && taken.contains(&p.key)).flat_map(|p| p.ids.first());
            let wanted: Vec<PortId> = wanted.filter_map(|id| numbers.get(id).copied()).collect();
            counts = self.take_up(slots, &numbers, &wanted)?;
        }
        // What is not gone on with is the running daemon's alone, to close.
        self.ports.opener().inherited_all();
        // If it is not there to be told, what it said last tells why.
        let told = channel.send(&Say::Ready(taken), &[]);
        let last = match channel.receive::<Reply>() {
            Ok(Some(Received { message: Reply::Yours, .. })) => None,
            Ok(Some(Received { message: Reply::Aborted(why), .. })) => return Err(unexpected(Reply::Aborted(why))),
            // Nothing but its word puts it back in charge: it has ended or is about to, and all that it had is here.
            other => Some(told.err().or(other.err()).map_or_else(|| "it closed the connection".to_owned(), |e| e.to_string())),
        };
        let flows = RefCell::new(flows);
        let resume = |answer| Command::Resume(flows.borrow_mut().pop_front().unwrap_or_default(), answer);
        if let Err(e) = self.workers.ask(SWITCH, resume) {
            tracing::error!("{e}: what it was told last is to go on");
        }
        tracing::info!(
            "packets waited {} us in the kernel, {} us of them for the running daemon",
            asked.elapsed().as_micros(),
            (paused - asked).as_micros()
        );
        for (worker, (free, kernel)) in counts.iter().enumerate() {
            tracing::info!("worker {worker} goes on with {free} free slots; the kernel had {kernel}");
        }
        let why = match last {
            Some(why) => why,
            None => match next(channel) {
                Ok(Received { message: Reply::Gone(books), .. }) => return Ok(Some(books)),
                Ok(_) => "it spoke out of turn".to_owned(),
                Err(e) => e.to_string(),
            },
        };
        tracing::warn!("the daemon before ended without a last word: {why}");
        Ok(None)
    }

    /// Which number here one of the running daemon's has.
    fn numbers<'a>(&self, ports: impl Iterator<Item = &'a takeover::Port>) -> BTreeMap<PortId, PortId> {
        let own: BTreeMap<String, &[PortId]> = self.ports.open_ports().map(|p| (p.key.to_string(), p.ids)).collect();
        let of = |p: &'a takeover::Port| p.ids.iter().copied().zip(own.get(&p.key).copied().unwrap_or_default().iter().copied());
        ports.flat_map(of).collect()
    }

    /// Tells the workers whose the slots of the other one's pools are; worker by worker how many are free, and how many the
    /// kernel has. Errors: that is not known of all ports `wanted`.
    fn take_up(
        &self,
        slots: Vec<Slots>,
        numbers: &BTreeMap<PortId, PortId>,
        wanted: &[PortId],
    ) -> Result<Vec<(usize, usize)>, DaemonError> {
        if slots.len() != self.workers.mailboxes().len() {
            return Err(failed(format!("{} workers of the running daemon have paused", slots.len())));
        }
        let mut all = VecDeque::with_capacity(slots.len());
        let mut counts = Vec::with_capacity(slots.len());
        for (worker, Slots { free, lent }) in slots.into_iter().enumerate() {
            // What is with the kernel for other ports comes back when the running daemon has closed them.
            let lent: Vec<_> = lent.into_iter().filter_map(|(id, lent)| Some((*numbers.get(&id)?, lent))).collect();
            if let Some(id) = wanted.iter().find(|id| !lent.iter().any(|(l, _)| l == *id)) {
                return Err(failed(format!("worker {worker} of the running daemon has closed port {} meanwhile: try again", id.0)));
            }
            counts.push((free.count(), lent.iter().map(|(_, l)| l.slots.count()).sum()));
            all.push_back(Slots { free, lent });
        }
        let all = RefCell::new(all);
        let take_up = |answer| Command::TakeUp(all.borrow_mut().pop_front().unwrap_or_default(), answer);
        let answers = self.workers.ask(SWITCH, take_up).map_err(failed)?;
        answers.into_iter().collect::<Result<(), String>>().map_err(failed)?;
        Ok(counts)
    }

    /// What follows once this daemon is in charge.
    fn settle(&mut self, mut estate: Estate, books: Option<Books>) -> Result<(), DaemonError> {
        self.claim = Some(start::Claim::adopt(&self.config.api.socket, estate.fds.drain(..estate.fds.len().min(2)))?);
        for (service, fd) in estate.state.services.iter().zip(estate.fds) {
            let (name, at) = service.split_once(' ').unwrap_or((service, ""));
            self.shared.keep_listener(name, at, fd);
        }
        if books.is_none() {
            tracing::warn!("counters begin at 0");
        }
        self.carry(books.unwrap_or_default());
        self.ports.hurry(Instant::now());
        // The host's part, and everything once more with what has changed meanwhile.
        self.dirty.cluster(Changed::All);
        self.dirty.host = Changes::everything();
        self.dirty.wishes();
        Ok(())
    }

    /// Counts on where the daemon before ended, and takes what it still had.
    fn carry(&mut self, books: Books) {
        let mut all: Vec<Carried> = books.workers.into_iter().map(|totals| Carried { totals, ..Carried::default() }).collect();
        all.resize_with(self.workers.mailboxes().len(), Carried::default);
        let ports = self.ports.carry(&books.ports, &books.past_ports);
        let reasons = self.ports.carry_reasons(&books.port_reasons);
        let installed = self.planner.installed();
        let adjacencies = books.routes.iter().filter_map(|r| Some((installed.get(&r.prefix)?.id, r.packets))).collect();
        let known = self.planner.peers();
        let peers = books.peers.iter().filter_map(|(address, t)| Some((known.get(address)?.id, *t))).collect();
        if let Some(first) = all.first_mut() {
            (first.ports, first.reasons, first.adjacencies, first.peers) = (ports, reasons, adjacencies, peers);
        }
        for (mailbox, carried) in self.workers.mailboxes().iter().zip(all) {
            if mailbox.command(Command::Carry(Box::new(carried))).is_err() {
                tracing::warn!("a worker does not take commands: its counters begin at 0");
            }
        }
    }
}

fn next(channel: &mut Channel) -> Result<Received<Reply>, DaemonError> {
    match channel.receive::<Reply>() {
        Ok(Some(r)) => Ok(r),
        Ok(None) => Err(failed("the running daemon closed the connection: its log says why")),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(failed("the running daemon does not answer: its control plane hangs; restart instead (`systemctl restart tortie`)"))
        }
        Err(e) => Err(failed(e)),
    }
}

fn unexpected(reply: Reply) -> DaemonError {
    match reply {
        Reply::Refused(why) => failed(why),
        Reply::Aborted(why) => failed(format!("the running daemon took back what it had given: {why}")),
        _ => failed("the running daemon answered out of turn"),
    }
}
