//! The process that is to take this one's place: started on SIGUSR2 with this one's own command line, from the file that
//! is there now, so that an upgraded program replaces the running one.

use std::ffi::OsString;
use std::future::pending;
use std::process::{Child, Command};
use tokio::net::{UnixListener, UnixStream};

const TAKEOVER: &str = "--takeover";

/// Why no process in the same container can take over.
pub const FIRST_PROCESS: &str = "the daemon is process 1 of its container, which ends with it: restart the container instead";

/// At most one.
#[derive(Default)]
pub struct Successor {
    child: Option<Child>,
}

impl Successor {
    /// Starts it, unless one is on its way. What becomes of it, it says itself.
    pub fn start(&mut self) {
        if std::process::id() == 1 {
            return tracing::error!("{FIRST_PROCESS}");
        }
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return tracing::warn!("process {} is taking over already", child.id()),
                Ok(Some(status)) => tracing::info!("the last successor ended: {status}"),
                Err(e) => tracing::warn!("the last successor: {e}"),
            }
        }
        let mut words = std::env::args_os();
        let program = words.next().unwrap_or_else(|| OsString::from("tortie"));
        let words: Vec<OsString> = words.filter(|w| w != TAKEOVER).collect();
        match Command::new(&program).args(words).arg(TAKEOVER).spawn() {
            Ok(child) => {
                tracing::info!("started {} as process {} to take over", program.display(), child.id());
                self.child = Some(child);
            }
            Err(e) => tracing::error!("{} could not be started to take over: {e}", program.display()),
        }
    }
}

/// The next connection to the claim's socket. Cancel-safe.
pub async fn connection(claim: Option<&UnixListener>) -> Option<UnixStream> {
    let Some(claim) = claim else { return pending().await };
    match claim.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(e) => {
            tracing::warn!("accept a successor: {e}");
            // Out of descriptors: not again at once.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            None
        }
    }
}
