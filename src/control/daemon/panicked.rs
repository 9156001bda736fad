//! After a panic of the control plane: nothing of it can be trusted to go on, but the workers forward by the last
//! snapshot. The process stays for their sake, says that it is not live, and waits to be replaced. A takeover needs
//! nothing but the workers and the list of ports, so it loses no packet.

use super::successor::{self, Successor};
use super::{Daemon, DaemonError, fail, notify, on, start, watch};
use crate::worker::Event;
use futures::FutureExt;
use std::any::Any;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::signal::unix::SignalKind;

/// Before a successor is started, and before another one is.
const FIRST: Duration = Duration::from_secs(1);
const NEXT: Duration = Duration::from_secs(10);

impl Daemon {
    /// Runs the main loop; true with its result if the control plane is still sound.
    pub(super) async fn supervised(&mut self) -> (Result<(), DaemonError>, bool) {
        match AssertUnwindSafe(self.main_loop()).catch_unwind().await {
            Ok(result) => (result, true),
            Err(panic) => (self.wait_for_successor(message(panic.as_ref())).await, false),
        }
    }

    /// Until a signal says to stop, or a worker is lost as well.
    async fn wait_for_successor(&mut self, message: String) -> Result<(), DaemonError> {
        tracing::error!("the control plane panicked: {message}; packets are forwarded by what it said last");
        let remedy = "nothing changes until this process is replaced: `tortie run --takeover` does it without losing packets";
        self.shared.tally().set_panicked();
        self.shared.fault("control plane", Some(format!("panicked: {message}; {remedy}")));
        self.shared.close();
        let claim = self.claim.as_ref().map(start::Claim::listen).transpose().map_err(fail("listen for a successor"))?;
        let events = watch::readable(self.workers.as_fd()).map_err(fail("watch the workers"))?;
        let (mut term, mut int) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let mut usr2 = on(SignalKind::user_defined2())?;
        // A service manager follows to another process only if it can be told to.
        let automatic = notify::is_wanted() && std::process::id() != 1;
        let (mut successor, mut wait) = (Successor::default(), FIRST);
        loop {
            tokio::select! {
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
                _ = usr2.recv() => successor.start(),
                () = tokio::time::sleep(wait), if automatic => {
                    successor.start();
                    wait = NEXT;
                }
                Some(stream) = successor::connection(claim.as_ref()) => self.hand_over(stream),
                ready = events.readable() => {
                    ready.map_err(fail("wait for workers"))?.clear_ready();
                    for event in self.workers.events() {
                        if let Event::Panicked { message, .. } = event {
                            return Err(DaemonError::Workers { message });
                        }
                    }
                }
            }
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
