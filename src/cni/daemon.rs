//! The node's daemon, by its API socket: whether it is there, and whether it carries an endpoint's packets.

use super::error::CniError;
use crate::ops::api::Client;
use crate::ops::view::{EndpointRow, StatusRow};
use std::path::Path;
use std::time::{Duration, Instant};

/// First and longest pause between two questions.
const PAUSE: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// The daemon, waited for so long each time.
pub struct Daemon {
    client: Client,
    patience: Duration,
}

impl Daemon {
    pub fn new(socket: &Path, patience: Duration) -> Daemon {
        Daemon { client: Client::new(socket), patience }
    }

    /// Its state now, if it has one to work with.
    pub fn ready(&self) -> Result<StatusRow, String> {
        match self.client.status() {
            Ok(status) if status.in_sync => Ok(status),
            Ok(status) => Err(format!("the daemon of node {} has not read the datastore completely yet", status.node)),
            Err(e) => Err(e.to_string()),
        }
    }

    /// The same, waited for: it may be starting.
    pub fn wait_ready(&self) -> Result<StatusRow, CniError> {
        self.wait(|| self.ready())
    }

    /// Waits until the endpoint is as `holds` wants it; that closure's error says what is missing.
    pub fn wait_endpoint(&self, name: &str, holds: impl Fn(&EndpointRow) -> Result<(), String>) -> Result<(), CniError> {
        self.wait(|| self.endpoint(name, &holds))
    }

    /// Looks at the endpoint once.
    pub fn endpoint(&self, name: &str, holds: impl Fn(&EndpointRow) -> Result<(), String>) -> Result<(), String> {
        match self.client.endpoint(name) {
            Ok(Some(row)) => holds(&row),
            Ok(None) => Err(format!("the daemon has not seen endpoint {name} in the datastore yet")),
            Err(e) => Err(e.to_string()),
        }
    }

    fn wait<T>(&self, ask: impl Fn() -> Result<T, String>) -> Result<T, CniError> {
        let deadline = Instant::now() + self.patience;
        let mut pause = PAUSE;
        loop {
            let asked = Instant::now();
            let missing = match ask() {
                Ok(answer) => return Ok(answer),
                Err(missing) => missing,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= pause {
                return Err(CniError::Later(format!(
                    "not ready within {} s (policy_setup_timeout_seconds): {missing}",
                    self.patience.as_secs()
                )));
            }
            // Many that wait for a busy daemon must not be what it is busy with.
            std::thread::sleep(pause.max(2 * asked.elapsed()).min(left));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
