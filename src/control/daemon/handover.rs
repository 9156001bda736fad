//! The running daemon's side of a takeover. Control stands still while it goes on, so ports and plan stay as they are;
//! the workers forward until they are told to pause. Whatever fails before the successor runs, they go on.

use super::{Daemon, notify, successor};
use crate::control::config::Config;
use crate::control::plan;
use crate::control::takeover::{self, Books, Channel, Memory, PREPARE, Queue, Reply, RouteTotal, SWITCH, Say, State};
use crate::flows::{Key, Phase};
use crate::frame::PortId;
use crate::worker::{Command, FlowState, Paused, PortHandles, Totals};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use tokio::net::UnixStream;

/// A successor says who it is at once.
const GREETING: std::time::Duration = std::time::Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Somebody only looked who is here.
    Nothing,
    /// The successor is in charge.
    Gone,
}

/// All that is passed on, with the descriptors of each part.
struct Estate {
    state: (State, Vec<OwnedFd>),
    memories: Vec<(Memory, OwnedFd)>,
    queues: Vec<(Queue, Vec<OwnedFd>)>,
}

impl Daemon {
    /// Deals with a connection on the claim's socket. Does not return if the successor is in charge: what is open here
    /// ends with the process, and what it lives from goes on with the successor.
    pub(super) fn hand_over(&mut self, stream: UnixStream) {
        let (uid, pid) = match stream.peer_cred() {
            Ok(c) => (c.uid(), c.pid().and_then(|p| u32::try_from(p).ok()).unwrap_or(0)),
            Err(e) => return tracing::warn!("takeover: who asks is not known: {e}"),
        };
        if uid != own_uid() {
            return tracing::warn!("takeover: refused to process {pid} of user {uid}: only this daemon's own user may");
        }
        let started = Instant::now();
        match stream.into_std().and_then(Channel::new).map_err(|e| e.to_string()).and_then(|c| self.negotiate(c, pid)) {
            Ok(End::Nothing) => {}
            Ok(End::Gone) => {
                notify::main_pid(pid);
                tracing::info!("handed over to process {pid} within {} ms; ending", started.elapsed().as_millis());
                std::process::exit(0);
            }
            Err(e) => tracing::warn!("takeover by process {pid} failed: {e}; this daemon stays in charge"),
        }
    }

    fn negotiate(&mut self, mut channel: Channel, pid: u32) -> Result<End, String> {
        let text = |e: io::Error| e.to_string();
        channel.patience(GREETING).map_err(text)?;
        let Some(hello) = channel.receive::<Say>().map_err(text)? else { return Ok(End::Nothing) };
        let Say::Hello(hello) = hello.message else { return Err("it did not say hello".into()) };
        // A process of this PID namespace ends with its first one; another namespace's has no number here.
        let ends_with_us = (std::process::id() == 1 && pid != 0).then(|| successor::FIRST_PROCESS.to_owned());
        if let Some(why) = ends_with_us.or_else(|| takeover::objection(&settings(&self.config), &hello)) {
            channel.send(&Reply::Refused(why.clone()), &[]).map_err(text)?;
            return Err(why);
        }
        tracing::info!("process {pid}, tortie {}, takes over", hello.program);
        channel.patience(PREPARE).map_err(text)?;
        let Estate { state: (state, fds), memories, queues } = match self.bequest() {
            Ok(all) => all,
            Err(e) => {
                channel.send(&Reply::Refused(e.clone()), &[]).map_err(text)?;
                return Err(e);
            }
        };
        let known: HashMap<Key, Phase> = state.flows.iter().map(|e| (e.key, e.phase)).collect();
        let ports: BTreeMap<String, Vec<PortId>> = state.ports.iter().map(|p| (p.key.clone(), p.ids.clone())).collect();
        channel.send(&Reply::State(state), &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>()).map_err(text)?;
        for (memory, fd) in memories {
            channel.send(&Reply::Memory(memory), &[fd.as_fd()]).map_err(text)?;
        }
        for (queue, fds) in queues {
            channel.send(&Reply::Queue(queue), &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>()).map_err(text)?;
        }
        channel.send(&Reply::End, &[]).map_err(text)?;
        match hear(&mut channel, "Pause")? {
            Say::Pause => {}
            other => return Err(format!("it said {other:?} instead of Pause")),
        }
        channel.patience(SWITCH).map_err(text)?;
        let switched = self.pause().and_then(|paused| {
            let mut later = self.planner.flows().entries(crate::worker::now_ms());
            later.retain(|e| known.get(&e.key) != Some(&e.phase));
            channel.send(&Reply::Paused(paused, later), &[]).map_err(text)?;
            let taken = match hear(&mut channel, "Ready")? {
                Say::Ready(taken) => taken,
                other => return Err(format!("it said {other:?} instead of Ready")),
            };
            // It touches nothing before it has heard this.
            channel.send(&Reply::Yours, &[]).map(|()| taken).map_err(text)
        });
        let taken = match switched {
            Ok(taken) => taken,
            Err(e) => {
                self.go_on();
                // It may be gone.
                let _ = channel.send(&Reply::Aborted(e.clone()), &[]);
                return Err(e);
            }
        };
        let left = ports.into_iter().filter(|(key, _)| !taken.contains(key)).flat_map(|(_, ids)| ids).collect();
        if let Err(e) = channel.send(&Reply::Gone(self.books(left)), &[]) {
            tracing::warn!("process {pid} does not know what was counted here: {e}");
        }
        Ok(End::Gone)
    }

    /// Everything that a successor needs, as duplicates.
    fn bequest(&self) -> Result<Estate, String> {
        let text = |e: io::Error| format!("descriptors could not be duplicated: {e}; raise the limit of open files (LimitNOFILE)");
        let answers = self.workers.ask(PREPARE, Command::Bequest)?;
        let mut handles: Vec<BTreeMap<PortId, PortHandles>> = Vec::with_capacity(answers.len());
        let mut memories = Vec::with_capacity(answers.len());
        for answer in answers {
            handles.push(answer.ports.into_iter().map(|h| (h.id, h)).collect());
            memories.extend(answer.memory.map_err(text)?.map(|fd| (Memory::new(answer.slots), fd)));
        }
        let shared = memories.len() == handles.len();
        let mut queues = Vec::new();
        let mut ports: Vec<takeover::Port> = Vec::new();
        for p in self.ports.open_ports() {
            let (port, mut in_memory, mut stays) = (ports.len(), false, false);
            for (set, id) in p.ids.iter().enumerate() {
                let of_workers: Vec<_> = handles.iter_mut().filter_map(|w| w.remove(id)).collect();
                stays |= !of_workers.is_empty() && of_workers.len() < handles.len();
                for h in of_workers {
                    in_memory |= h.in_memory;
                    let Some(h) = h.handles.map_err(text)?.filter(|_| shared || !h.in_memory) else {
                        stays = true;
                        continue;
                    };
                    let (names, fds) = h.fds.into_iter().unzip();
                    queues.push((Queue { port, set, driver: h.driver, notes: h.notes, fds: names }, fds));
                }
            }
            if stays {
                queues.retain(|(q, _)| q.port != port);
            }
            ports.push(takeover::Port {
                key: p.key.to_string(),
                interface: p.wish.interface.clone(),
                netns: p.wish.netns.clone(),
                identity: p.wish.identity(),
                ids: p.ids.to_vec(),
                refused: p.refused.to_vec(),
                in_memory,
                stays,
            });
        }
        if !ports.iter().any(|p| p.in_memory && !p.stays) {
            memories.clear();
        }
        let claim = self.claim.as_ref().ok_or("this daemon has no claim to pass on")?;
        let mut fds = claim.handles().map_err(text)?;
        let (services, listeners): (Vec<String>, Vec<OwnedFd>) = self.shared.listeners().map_err(text)?.into_iter().unzip();
        fds.extend(listeners);
        let learned = self.ports.learned().iter().map(|(name, mac)| (name.clone(), mac.0)).collect();
        let flows = self.planner.flows().entries(crate::worker::now_ms());
        let state = State { program: env!("CARGO_PKG_VERSION").into(), ports, learned, flows, services };
        Ok(Estate { state: (state, fds), memories, queues })
    }

    /// Has every worker leave its ports alone. Where they have stopped.
    fn pause(&self) -> Result<Vec<Paused>, String> {
        self.workers.ask(SWITCH, Command::Pause)
    }

    /// Has every worker use its ports again.
    fn go_on(&self) {
        if let Err(e) = self.workers.ask(SWITCH, |answer| Command::Resume(FlowState::default(), answer)) {
            tracing::error!("after a takeover that failed: {e}");
        }
    }

    /// Has the workers end, and close the ports that the successor has `left`. What was counted here, for the last time.
    fn books(&self, left: Vec<PortId>) -> Books {
        let counted = self.workers.ask(SWITCH, |answer| Command::HandOver(left.clone(), answer));
        // A worker that does not answer has counted what it has.
        let workers = counted.unwrap_or_else(|_| self.workers.counters().iter().map(|c| c.totals()).collect::<Vec<Totals>>());
        let route = |(prefix, i): (&ipnet::Ipv4Net, &plan::Installed)| {
            let packets = self.planner.counted(i);
            (packets > 0).then_some(RouteTotal { prefix: *prefix, packets })
        };
        let routes = self.planner.installed().iter().filter_map(route).collect();
        let peers = self.planner.peer_totals();
        let past_ports = self.ports.past().iter().map(|(role, t)| ((*role).to_owned(), *t)).collect();
        Books { workers, ports: self.ports.totals(), port_reasons: self.ports.reasons(), past_ports, routes, peers }
    }
}

/// What the successor says next, which should be `what`.
fn hear(channel: &mut Channel, what: &str) -> Result<Say, String> {
    match channel.receive::<Say>() {
        Ok(Some(r)) => Ok(r.message),
        Ok(None) => Err(format!("it ended before it said {what}")),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Err(format!("it did not say {what} in time")),
        Err(e) => Err(e.to_string()),
    }
}

/// What a successor must have alike.
pub(super) fn settings(c: &Config) -> BTreeMap<String, String> {
    let debug = |v: &dyn std::fmt::Debug| format!("{v:?}").to_lowercase();
    let all = [
        ("node", c.node.clone()),
        ("uplink.interface", c.uplink.interface.clone().unwrap_or_else(|| "detected".into())),
        ("uplink.driver", debug(&c.uplink.driver)),
        ("uplink.super-frames", debug(&c.uplink.super_frames)),
        ("workloads.driver", debug(&c.workloads.driver)),
        ("host.interface", c.host.interface.clone()),
        ("workers", c.workers.to_string()),
        ("api.socket", c.api.socket.display().to_string()),
        ("xdp.mode", debug(&c.xdp.mode)),
        ("xdp.busy-poll", c.xdp.busy_poll.to_string()),
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The user that this process acts as.
fn own_uid() -> u32 {
    UnixStream::pair().and_then(|(a, _)| a.peer_cred()).map_or(u32::MAX, |c| c.uid())
}
