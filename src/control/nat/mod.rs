//! Has the host's packet filter translate floating IPs, by the programs that the host has for it. Looked at first, and
//! written only where it differs; nobody else's rules are touched. Forwarding never waits for any of it.

mod rules;

use super::work::{Work, put};
use rules::Found;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::net::Ipv4Addr;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// Floating IPs with the pod's own address that each is translated to.
pub type Translations = BTreeMap<Ipv4Addr, Ipv4Addr>;

const SAVE: &str = "iptables-save";
const RESTORE: &str = "iptables-restore";
/// How long others may hold the lock of the packet filter, seconds.
const LOCK: &str = "5";
/// Others may have changed something: a firewall that was loaded anew, say.
const LOOK: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(10);
/// The time to take the rules away at the end.
const LEAVE_MAX: Duration = Duration::from_secs(8);

/// Why rules are not as they should be.
#[derive(Debug, thiserror::Error)]
enum NatError {
    #[error("{program} is not on this host: install the package iptables")]
    Missing { program: &'static str },
    #[error("{program}: {source}")]
    Io { program: &'static str, source: io::Error },
    #[error("{program}: {status}: {message}; it is tried again; `iptables-save -t nat` shows what there is")]
    Failed { program: &'static str, status: ExitStatus, message: String },
    #[error("{0}")]
    Panicked(String),
}

/// What the work is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    /// `None` until it is known.
    wanted: Option<Translations>,
    stopping: bool,
}

/// The work, and the ends that the daemon holds. It goes on while [`Nat::changed`] is awaited.
pub struct Nat {
    told: watch::Sender<Told>,
    problem: watch::Receiver<Option<String>>,
    work: Work,
}

impl Default for Nat {
    fn default() -> Nat {
        let (told, tellings) = watch::channel(Told::default());
        let (problems, problem) = watch::channel(None);
        Nat { told, problem, work: Work::new(keep(tellings, problems)) }
    }
}

impl Nat {
    /// Says what is to be translated; before the first time, rules are not even looked at.
    pub fn want(&self, wanted: Translations) {
        self.told.send_if_modified(|told| put(&mut told.wanted, Some(wanted)));
    }

    /// Does the work; returns when [`Nat::problem`] is another. Cancel-safe.
    pub async fn changed(&mut self) {
        self.work.changed(&mut self.problem).await;
    }

    /// Why floating IPs are not translated, one line.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Takes all rules away.
    pub async fn leave(&mut self) {
        self.told.send_modify(|told| told.stopping = true);
        match (self.work.finish(LEAVE_MAX).await, self.problem()) {
            (Some(false), _) => tracing::warn!("floating IPs: rules in the host's packet filter could not be removed in time"),
            (Some(true), Some(problem)) => tracing::warn!("{problem}"),
            _ => {}
        }
    }
}

/// Looks and writes whenever something changed, now and then, and sooner after failures.
async fn keep(mut told: watch::Receiver<Told>, problem: watch::Sender<Option<String>>) {
    // Nothing is wanted, and nothing is there.
    let mut clean = false;
    loop {
        let Told { wanted, stopping } = told.borrow_and_update().clone();
        let wanted = wanted.map(|all| if stopping { Translations::new() } else { all });
        let mut wait = None;
        if let Some(wanted) = wanted.filter(|w| !w.is_empty() || !clean) {
            let nothing = wanted.is_empty();
            let done = tokio::task::spawn_blocking(move || bring_in_line(&wanted)).await;
            let fault = done.unwrap_or_else(|e| Err(NatError::Panicked(e.to_string()))).err();
            clean = nothing && fault.is_none();
            wait = if fault.is_some() { Some(RETRY) } else { Some(LOOK).filter(|_| !nothing) };
            let what = if nothing { "are perhaps still translated" } else { "are not translated" };
            let line = fault.map(|e| format!("floating IPs {what}: {e}"));
            problem.send_if_modified(|old| put(old, line));
        }
        if stopping {
            return;
        }
        let again = async { if let Some(wait) = wait { sleep(wait).await } else { std::future::pending().await } };
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Compares what is there with what should be, and writes it where they differ.
fn bring_in_line(wanted: &Translations) -> Result<(), NatError> {
    // To ask for a table makes it, and with it connection tracking: not where there is nothing to translate.
    let tables: &[&str] = if wanted.is_empty() { &[] } else { &["-t", "nat"] };
    let found = match run(SAVE, tables, "") {
        Err(NatError::Missing { .. }) if wanted.is_empty() => return Ok(()),
        found => Found::parse(&found?),
    };
    let Some(script) = found.script(wanted) else { return Ok(()) };
    run(RESTORE, &["--noflush", "-w", LOCK], &script)?;
    tracing::info!("the host's packet filter translates {} floating IPs", wanted.len());
    Ok(())
}

/// Runs a program with some input; its output.
fn run(program: &'static str, args: &[&str], input: &str) -> Result<String, NatError> {
    let io = |source: io::Error| match source.kind() {
        ErrorKind::NotFound => NatError::Missing { program },
        _ => NatError::Io { program, source },
    };
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io)?;
    // Who ends without reading says why.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let out = child.wait_with_output().map_err(io)?;
    if !out.status.success() {
        let message = String::from_utf8_lossy(&out.stderr);
        let message = message.lines().find(|l| !l.trim().is_empty()).unwrap_or("no message").to_owned();
        return Err(NatError::Failed { program, status: out.status, message });
    }
    written.map_err(io)?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
