//! What the daemon offers to those who look at it: the API, metrics and health, on a thread of their own, so that
//! they answer while the control plane is busy or stuck.

use super::{api, monitor};
use crate::control::daemon::{self, DaemonError, Service};
use crate::control::facts::Shared;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::oneshot;

/// The API among the listeners that a successor is given.
const API: &str = "api";
/// How long answers under way may hold up the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs the node daemon with its services, until SIGTERM or SIGINT; `takeover`: in the place of one that runs.
pub fn run(config: &Path, takeover: bool) -> Result<(), DaemonError> {
    daemon::run(config, takeover, serve)
}

/// The thread; dropping this ends it, and waits.
struct Offer {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Offer {
    fn drop(&mut self) {
        // Control waits here: who waits for control gets what was said last.
        self.shared.close();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &Path, shared: Arc<Shared>) -> Result<Service, Box<dyn std::error::Error + Send + Sync>> {
    let at = socket.display().to_string();
    let listener = match shared.take_listener(API, &at) {
        Some(fd) => api::adopt(socket, fd)?,
        None => api::bind(socket)?,
    };
    shared.keep_listener(API, &at, listener.duplicate()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (end, ended) = oneshot::channel::<io::Result<()>>();
    let looked_at = shared.clone();
    let thread = thread::Builder::new().name("ops".into()).spawn(move || {
        let result = runtime.block_on(async {
            tokio::select! {
                r = api::serve(listener, shared.clone()) => r,
                () = monitor::run(shared) => Ok(()),
                _ = stopped => Ok(()),
            }
        });
        runtime.shutdown_timeout(PATIENCE);
        let _ = end.send(result);
    })?;
    let offer = Offer { shared: looked_at, stop: Some(stop), thread: Some(thread) };
    Ok(Box::pin(async move {
        let _offer = offer;
        ended.await.unwrap_or(Ok(()))
    }))
}
