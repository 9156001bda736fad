//! The running daemon's side of a takeover. Control stands still while it goes on, so ports and plan stay as they are;
//! the workers forward until they are told to pause. Whatever fails before the successor runs, they go on.

use super::{Daemon, notify, successor};
use crate::control::config::Config;
use crate::control::plan;
use crate::control::takeover::{self, Books, Channel, PREPARE, Queue, Reply, RouteTotal, SWITCH, Say, State};
use crate::flows::{Key, Phase};
use crate::frame::PortId;
use crate::port::Handles;
use crate::worker::{Command, FlowState, Totals};
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

/// What port a queue is of, with all that it lives from.
type Bequest = (State, Vec<OwnedFd>, Vec<(Queue, Vec<OwnedFd>)>);

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
        let (state, fds, queues) = match self.bequest() {
            Ok(all) => all,
            Err(e) => {
                channel.send(&Reply::Refused(e.clone()), &[]).map_err(text)?;
                return Err(e);
            }
        };
        let known: HashMap<Key, Phase> = state.flows.iter().map(|e| (e.key, e.phase)).collect();
        channel.send(&Reply::State(state), &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>()).map_err(text)?;
        for (queue, fds) in queues {
            channel.send(&Reply::Queue(queue), &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>()).map_err(text)?;
        }
        channel.send(&Reply::End, &[]).map_err(text)?;
        self.expect(&mut channel, &Say::Pause)?;
        channel.patience(SWITCH).map_err(text)?;
        let switched = self.pause().and_then(|flows| {
            let mut later = self.planner.flows().entries(crate::worker::now_ms());
            later.retain(|e| known.get(&e.key) != Some(&e.phase));
            channel.send(&Reply::Paused(flows, later), &[]).map_err(text)?;
            self.expect(&mut channel, &Say::Running)
        });
        if let Err(e) = switched {
            self.go_on();
            // It may be gone.
            let _ = channel.send(&Reply::Aborted(e.clone()), &[]);
            return Err(e);
        }
        if let Err(e) = channel.send(&Reply::Gone(self.books()), &[]) {
            tracing::warn!("process {pid} does not know what was counted here: {e}");
        }
        Ok(End::Gone)
    }

    fn expect(&self, channel: &mut Channel, what: &Say) -> Result<(), String> {
        match channel.receive::<Say>() {
            Ok(Some(r)) if r.message == *what => Ok(()),
            Ok(Some(r)) => Err(format!("it said {:?} instead of {what:?}", r.message)),
            Ok(None) => Err(format!("it ended before it said {what:?}")),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(format!("it did not say {what:?} in time"))
            }
            Err(e) => Err(e.to_string()),
        }
    }

    /// Everything that a successor needs, as duplicates.
    fn bequest(&self) -> Result<Bequest, String> {
        let text = |e: io::Error| format!("descriptors could not be duplicated: {e}; raise the limit of open files (LimitNOFILE)");
        let answers = self.workers.ask(PREPARE, Command::Handles)?;
        let mut handles: Vec<BTreeMap<PortId, Option<Handles>>> = Vec::with_capacity(answers.len());
        for answer in answers {
            let all = answer.into_iter().map(|(id, h)| h.map(|h| (id, h)));
            handles.push(all.collect::<io::Result<_>>().map_err(text)?);
        }
        let mut queues = Vec::new();
        let mut ports = Vec::new();
        for p in self.ports.open_ports() {
            let (port, mut stays) = (ports.len(), false);
            for (set, id) in p.ids.iter().enumerate() {
                let of_workers: Vec<_> = handles.iter_mut().filter_map(|w| w.remove(id)).collect();
                stays |= !of_workers.is_empty() && of_workers.len() < handles.len();
                for h in of_workers {
                    let Some(h) = h else {
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
                sets: p.ids.len(),
                refused: p.refused.to_vec(),
                stays,
            });
        }
        let claim = self.claim.as_ref().ok_or("this daemon has no claim to pass on")?;
        let mut fds = claim.handles().map_err(text)?;
        let (services, listeners): (Vec<String>, Vec<OwnedFd>) = self.shared.listeners().map_err(text)?.into_iter().unzip();
        fds.extend(listeners);
        let learned = self.ports.learned().iter().map(|(name, mac)| (name.clone(), mac.0)).collect();
        let flows = self.planner.flows().entries(crate::worker::now_ms());
        Ok((State { program: env!("CARGO_PKG_VERSION").into(), ports, learned, flows, services }, fds, queues))
    }

    /// Has every worker leave its ports alone. What they know of flows.
    fn pause(&self) -> Result<Vec<FlowState>, String> {
        self.workers.ask(SWITCH, Command::Pause)
    }

    /// Has every worker use its ports again.
    fn go_on(&self) {
        if let Err(e) = self.workers.ask(SWITCH, |answer| Command::Resume(FlowState::default(), answer)) {
            tracing::error!("after a takeover that failed: {e}");
        }
    }

    /// What was counted here, for the last time.
    fn books(&self) -> Books {
        let counted = self.workers.ask(SWITCH, Command::HandOver);
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
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The user that this process acts as.
fn own_uid() -> u32 {
    UnixStream::pair().and_then(|(a, _)| a.peer_cred()).map_or(u32::MAX, |c| c.uid())
}
