//! The successor's side of a takeover: everything is made ready beside the running daemon, which forwards meanwhile; then
//! its workers pause and ours go on.

use super::{Daemon, DaemonError, handover, start};
use crate::control::cluster::Changed;
use crate::control::netlink::Changes;
use crate::control::ports::Key;
use crate::control::takeover::{self, Books, Channel, Hello, PREPARE, Queue, Received, Reply, SWITCH, Say, State};
use crate::flows::Entry;
use crate::wire::Mac;
use crate::worker::{Carried, Command, Event};
use std::collections::VecDeque;
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
        let queues = std::mem::take(&mut estate.queues);
        self.ports.opener().inherit(&estate.state.ports, queues).map_err(failed)?;
        self.get_ready(&estate.state)?;
        let books = self.switch(&mut channel)?;
        self.settle(estate, books)
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
        let mut queues = Vec::new();
        loop {
            match next(channel)? {
                Received { message: Reply::Queue(queue), fds } => queues.push((queue, fds)),
                Received { message: Reply::End, .. } => return Ok(Estate { state, fds, queues }),
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
        let wanted = |key: &str| self.ports.wishes().find(|(k, _)| k.to_string() == key).map(|(k, _): (&Key, _)| k.clone());
        for port in state.ports.iter().filter(|p| !p.stays) {
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

    /// The moment itself.
    fn switch(&mut self, channel: &mut Channel) -> Result<Option<Books>, DaemonError> {
        let asked = Instant::now();
        channel.send(&Say::Pause, &[]).map_err(failed)?;
        let flows = match next(channel)?.message {
            Reply::Paused(flows, later) => {
                self.restore(&later);
                flows
            }
            other => return Err(unexpected(other)),
        };
        let paused = Instant::now();
        let flows = std::cell::RefCell::new(VecDeque::from(flows));
        let resume = |answer| Command::Resume(flows.borrow_mut().pop_front().unwrap_or_default(), answer);
        let result = self.workers.ask(SWITCH, resume).map_err(failed).and_then(|_| {
            tracing::info!(
                "packets waited {} us in the kernel, {} us of them for the running daemon",
                asked.elapsed().as_micros(),
                (paused - asked).as_micros()
            );
            // If it is not there to be told, what it said last tells why.
            let told = channel.send(&Say::Running, &[]);
            match channel.receive::<Reply>() {
                Ok(Some(Received { message: Reply::Gone(books), .. })) => Ok(Some(books)),
                Ok(Some(Received { message: Reply::Aborted(why), .. })) => Err(unexpected(Reply::Aborted(why))),
                // Nothing but its word puts it back in charge: it has ended or is about to, and all that it had is here.
                other => {
                    let why = told.err().or(other.err()).map_or_else(|| "it closed the connection".to_owned(), |e| e.to_string());
                    tracing::warn!("the daemon before ended without a last word: {why}");
                    Ok(None)
                }
            }
        });
        if result.is_err() {
            // The other one goes on with the same descriptors.
            let _ = self.workers.ask(SWITCH, Command::Pause);
        }
        result
    }

    /// What follows once this daemon is in charge.
    fn settle(&mut self, mut estate: Estate, books: Option<Books>) -> Result<(), DaemonError> {
        self.claim = Some(start::Claim::adopt(&self.config.api.socket, estate.fds.drain(..estate.fds.len().min(2)))?);
        for (service, fd) in estate.state.services.iter().zip(estate.fds) {
            let (name, at) = service.split_once(' ').unwrap_or((service, ""));
            self.shared.keep_listener(name, at, fd);
        }
        match books {
            Some(books) => self.carry(books),
            None => tracing::warn!("counters begin at 0"),
        }
        self.ports.opener().inherited_all();
        self.ports.hurry(Instant::now());
        // The host's part, and everything once more with what has changed meanwhile.
        self.dirty.cluster(Changed::All);
        self.dirty.host = Changes::everything();
        self.dirty.wishes();
        Ok(())
    }

    /// Counts on where the daemon before ended.
    fn carry(&mut self, books: Books) {
        let mut all: Vec<Carried> = books.workers.into_iter().map(|totals| Carried { totals, ..Carried::default() }).collect();
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
