//! Serves metrics and health over TCP where configuration and FelixConfiguration want them, and follows their
//! changes. An address that cannot be had is a problem that `tortie status` shows, and is tried again.

use super::health::{Health, Watchdog};
use super::metrics::Metrics;
use super::server::{self, Handler, Socket};
use crate::control::facts::Shared;
use crate::control::model::Endpoint;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How often workers and control are looked at, and addresses that were refused are tried again.
const TICK: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub async fn run(shared: Arc<Shared>) {
    let watchdog = Arc::new(Mutex::new(Watchdog::new(shared.counters().len())));
    let mut settings = shared.monitoring();
    let mut metrics = Server::new("metrics", "metrics: {port: N}, or prometheusMetricsPort", Arc::new(Metrics::new(shared.clone())));
    let mut health = Server::new("health", "health: {port: N}, or healthPort", Arc::new(Health::new(shared.clone(), watchdog.clone())));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let wanted = settings.borrow_and_update().clone();
        metrics.adjust(wanted.metrics(), &shared).await;
        health.adjust(wanted.health(), &shared).await;
        tokio::select! {
            changed = settings.changed() => if changed.is_err() { return },
            _ = tick.tick() => watchdog.lock().unwrap_or_else(PoisonError::into_inner).look(&shared, Instant::now()),
        }
    }
}

/// One of the two.
struct Server {
    name: &'static str,
    /// What to change when its address is taken.
    remedy: &'static str,
    handler: Arc<dyn Handler>,
    at: Option<Endpoint>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    fn new(name: &'static str, remedy: &'static str, handler: Arc<dyn Handler>) -> Server {
        Server { name, remedy, handler, at: None, task: None }
    }

    /// Listens where it is wanted, and nowhere else.
    async fn adjust(&mut self, wanted: Option<Endpoint>, shared: &Shared) {
        if wanted == self.at && (self.task.is_some() || wanted.is_none()) {
            return;
        }
        let same = wanted == self.at;
        if let Some(task) = self.task.take() {
            task.abort();
            // Its socket is closed then.
            let _ = task.await;
        }
        self.at = wanted;
        let Some(at) = &self.at else {
            shared.take_listener(self.name, "");
            shared.fault(self.name, None);
            return tracing::info!("{}: off", self.name);
        };
        let name = format!("{}:{}", at.host, at.port);
        let listener = match shared.take_listener(self.name, &name) {
            Some(fd) => TcpListener::from_std(fd.into()),
            None => listen(at).await,
        };
        match listener.and_then(|l| Ok((l.as_fd().try_clone_to_owned()?, l))) {
            Ok((duplicate, listener)) => {
                shared.keep_listener(self.name, &name, duplicate);
                let socket = Socket::Tcp(listener);
                let handler = self.handler.clone();
                self.task = Some(tokio::spawn(async move { server::serve(&socket, handler).await }));
                shared.fault(self.name, None);
                tracing::info!("{}: at {}", self.name, show(at));
            }
            Err(e) => {
                let why = format!("cannot listen on {}: {e}; free it, or set {}", show(at), self.remedy);
                if !same {
                    tracing::warn!("{}: {why}", self.name);
                }
                shared.fault(self.name, Some(why));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn show(at: &Endpoint) -> String {
    let host = if at.host.is_empty() { "all addresses" } else { &at.host };
    format!("{host}, port {}", at.port)
}

/// Both families where the host is empty; `localhost` is 127.0.0.1, where probes look for it.
async fn listen(at: &Endpoint) -> io::Result<TcpListener> {
    match at.host.as_str() {
        "" => match TcpListener::bind(("::", at.port)).await {
            Ok(listener) => Ok(listener),
            // A kernel without IPv6.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(e),
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port)).await,
        },
        "localhost" => TcpListener::bind((Ipv4Addr::LOCALHOST, at.port)).await,
        host => TcpListener::bind((host.trim_matches(['[', ']']), at.port)).await,
    }
}
