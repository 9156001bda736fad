//! One kind, listed and watched for good. What is known goes only when a complete list does not have it, or the server
//! says that it was deleted.

use super::backoff::{Backoff, jittered};
use super::connect::Connection;
use super::failure::{Failure, broken};
use super::group::{self, Group};
use super::items::{LineSplitter, ListSplitter, Tail};
use super::kinds::{Scope, Watched};
use super::report::{Delta, Link, Reading};
use crate::control::yaml::{self, Field, FieldError};
use futures::{AsyncBufRead, AsyncBufReadExt};
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Objects per page where lists come in pages.
const PAGE: u32 = 500;
/// How long a watch lasts, seconds, before it is renewed; up to half of it is added, so that they do not all end at once.
const LAST: u32 = 180;
/// Longest silence on a watch. A server sends a bookmark every minute or so; one that sends none is asked again from
/// where the watch was, and a connection whose other end is gone is noticed.
const SILENCE: Duration = Duration::from_secs(100);
/// Longest silence while a list is on its way.
const LIST_SILENCE: Duration = Duration::from_secs(60);
/// A watch that lived this long worked: its end is no failure.
const SOUND: Duration = Duration::from_secs(10);
/// What was refused for lack of rights, or is not there, may be granted or made later.
const REFUSED: Duration = Duration::from_secs(10);
/// Deltas that are handed over together.
const BATCH: usize = 256;

/// What the store tells the watches.
#[derive(Clone)]
pub struct Orders {
    pub scope: watch::Receiver<Scope>,
    /// Counts up when everything is to be read again.
    pub again: watch::Receiver<u64>,
}

pub struct Watcher {
    pub connection: Arc<Connection>,
    pub group: Group,
    pub node: String,
    pub orders: Orders,
    pub deltas: mpsc::Sender<(Watched, Vec<Delta>)>,
    pub reading: Reading,
    /// Where the watch goes on; `None`: the kind is to be listed.
    position: Option<String>,
    /// Whether the server has streaming lists, as far as is known.
    streaming: bool,
    backoff: Backoff,
}

/// Why a round ended.
enum End {
    /// The server closed the watch in order.
    Closed,
    Failed(Failure),
    /// Nobody takes deltas any more.
    Gone,
}

impl From<Failure> for End {
    fn from(f: Failure) -> End {
        End::Failed(f)
    }
}

impl Watcher {
    pub fn new(
        kind: Watched,
        connection: Arc<Connection>,
        group: Group,
        node: String,
        orders: Orders,
        deltas: mpsc::Sender<(Watched, Vec<Delta>)>,
    ) -> Watcher {
        let reading = Reading::new(kind);
        Watcher { connection, group, node, orders, deltas, reading, position: None, streaming: true, backoff: Backoff::default() }
    }

    /// Until the store is gone.
    pub async fn run(mut self) {
        let kind = self.reading.kind;
        loop {
            let (mut scope, mut again) = (self.orders.scope.clone(), self.orders.again.clone());
            let started = Instant::now();
            let end = tokio::select! {
                end = self.round() => end,
                () = changed(&mut scope, kind) => {
                    self.start_over(scope, again);
                    continue;
                }
                _ = again.changed() => {
                    self.start_over(scope, again);
                    continue;
                }
            };
            if started.elapsed() > SOUND {
                self.backoff.reset();
            }
            let wait = match end {
                End::Gone => return,
                End::Closed => jittered(Duration::from_millis(50)).max(if started.elapsed() > SOUND {
                    Duration::ZERO
                } else {
                    self.backoff.next(None)
                }),
                End::Failed(failure) => self.failed(&failure),
            };
            if !self.flush().await {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed(&mut scope, kind) => self.start_over(scope, again),
                _ = again.changed() => self.start_over(scope, again),
            }
        }
    }

    /// Lists anew, at once.
    fn start_over(&mut self, scope: watch::Receiver<Scope>, again: watch::Receiver<u64>) {
        self.orders = Orders { scope, again };
        self.position = None;
        self.backoff.reset();
    }

    /// What follows from a failure, and how long to wait.
    fn failed(&mut self, failure: &Failure) -> Duration {
        if failure.is_expired() || failure.is_future() {
            self.position = None;
        }
        let refused = failure.is_forbidden() || failure.is_not_found();
        let wait = self.backoff.next(failure.retry_after().into_iter().chain(refused.then_some(REFUSED)).max());
        let kind = self.reading.kind;
        if refused {
            self.position = None;
            self.reading.push(Delta::Link(Link::refused(kind, self.group, failure)));
            self.reading.refused();
        } else if self.backoff.failures() > 1 && !failure.is_expired() {
            // A single failure is the end of a connection, which happens.
            self.reading.push(Delta::Link(Link::Down { message: failure.message() }));
        }
        wait
    }

    /// A list if one is due, and a watch until it ends.
    async fn round(&mut self) -> End {
        let result = match self.position.clone() {
            Some(revision) => self.watch(&revision, false).await,
            None if self.streaming => match self.watch("", true).await {
                Err(End::Failed(f)) if f.is_no_streaming() => {
                    self.streaming = false;
                    self.list_and_watch().await
                }
                other => other,
            },
            None => self.list_and_watch().await,
        };
        match result {
            Ok(()) => End::Closed,
            Err(end) => end,
        }
    }

    async fn list_and_watch(&mut self) -> Result<(), End> {
        let revision = self.list().await?;
        self.watch(&revision, false).await
    }

    fn scope(&self) -> Scope {
        if self.reading.kind == Watched::Pod { *self.orders.scope.borrow() } else { Scope::Own }
    }

    fn fields(&self) -> Option<String> {
        let own = self.reading.kind == Watched::Pod && self.scope() == Scope::Own;
        own.then(|| format!("spec.nodeName={}", self.node))
    }

    fn request(&self) -> Request {
        Request::new(group::path(self.reading.kind.resource(), self.group, None))
    }

    /// All pages of a list. The revision that it shows.
    async fn list(&mut self) -> Result<String, End> {
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = self.fields();
        let mut seen = HashSet::new();
        loop {
            let body = self.connection.stream(self.request().list(&params)).await?;
            let tail = self.page(body, &mut seen).await?;
            match tail.next {
                Some(token) => params = params.continue_token(&token),
                None => {
                    self.complete(&seen, &tail.revision).await?;
                    return Ok(tail.revision);
                }
            }
        }
    }

    async fn page(&mut self, mut body: impl AsyncBufRead + Unpin, seen: &mut HashSet<String>) -> Result<Tail, End> {
        let mut splitter = ListSplitter::default();
        loop {
            let piece = piece(&mut body, LIST_SILENCE).await?;
            if piece.is_empty() {
                return splitter.finish().map_err(|e| Failure::unreachable(e).into());
            }
            let (reading, mut fault) = (&mut self.reading, None);
            splitter.feed(piece, |item| match yaml::json(item, reading.kind.skipped()) {
                Ok(value) => drop(seen.insert(reading.object(&Field::root(&value)))),
                Err(e) => fault = Some(e),
            });
            let length = piece.len();
            body.consume_unpin(length);
            if let Some(e) = fault {
                return Err(Failure::unreachable(format!("an item of the list is not JSON: {e}")).into());
            }
            self.hand_over_full().await?;
        }
    }

    /// A list is there as a whole: what it does not have is gone.
    async fn complete(&mut self, seen: &HashSet<String>, revision: &str) -> Result<(), End> {
        let scope = self.scope();
        self.reading.complete(seen, scope);
        self.position = Some(revision.to_owned());
        self.backoff.reset();
        self.hand_over().await
    }

    /// A watch from a revision, or one that begins with a list.
    async fn watch(&mut self, revision: &str, with_list: bool) -> Result<(), End> {
        let seconds = jittered(Duration::from_secs(LAST.into())).as_secs() as u32;
        let params =
            WatchParams { field_selector: self.fields(), timeout: Some(seconds), send_initial_events: with_list, ..WatchParams::default() };
        let mut body = self.connection.stream(self.request().watch(&params, revision)).await?;
        if !with_list {
            self.reading.push(Delta::Link(Link::Up));
            self.hand_over().await?;
        }
        let mut initial = with_list.then(HashSet::new);
        let mut lines = LineSplitter::default();
        loop {
            let silence = if initial.is_some() { LIST_SILENCE } else { SILENCE };
            let piece = match piece(&mut body, silence).await {
                // A server that ignores what it does not know never ends the list.
                Err(e) if initial.is_some() && matches!(&e, Silence::Long) => {
                    self.streaming = false;
                    return Err(Failure::from(e).into());
                }
                other => other?,
            };
            if piece.is_empty() {
                return Ok(());
            }
            let (length, mut events) = (piece.len(), Vec::new());
            lines.feed(piece, |line| {
                if !line.is_empty() {
                    events.push(yaml::json(line, self.reading.kind.skipped()));
                }
            });
            body.consume_unpin(length);
            for event in events {
                let event = event.map_err(|e| Failure::unreachable(format!("an event is not JSON: {e}")))?;
                self.event(&Field::root(&event), &mut initial).await?;
                self.hand_over_full().await?;
            }
            // A list goes on in large pieces, single events at once.
            if initial.is_none() {
                self.hand_over().await?;
            }
        }
    }

    async fn event(&mut self, event: &Field<'_>, initial: &mut Option<HashSet<String>>) -> Result<(), End> {
        let malformed = |e: FieldError| Failure::unreachable(format!("an event cannot be read: {e}"));
        let object = event.get("object").map_err(malformed)?.as_root();
        match event.get("type").and_then(|t| t.required_text()).map_err(malformed)? {
            "ADDED" | "MODIFIED" => {
                let name = self.reading.object(&object);
                if let Some(seen) = initial {
                    seen.insert(name);
                    // The revisions of a list's objects are in no order.
                    return Ok(());
                }
            }
            "DELETED" => {
                let name = self.reading.deleted(&object);
                initial.as_mut().map(|seen| seen.remove(&name));
            }
            "BOOKMARK" => {
                let end = object.at(&["metadata", "annotations", "k8s.io/initial-events-end"]).map_err(malformed)?;
                if end.is_present()
                    && let Some(seen) = initial.take()
                {
                    let revision = revision(&object).map_err(malformed)?;
                    return self.complete(&seen, &revision).await;
                }
            }
            "ERROR" => return Err(Failure::from_field(&object).into()),
            _ => return Ok(()),
        }
        if initial.is_none() {
            self.position = Some(revision(&object).map_err(malformed)?);
        }
        Ok(())
    }

    async fn hand_over_full(&mut self) -> Result<(), End> {
        if self.reading.waiting() >= BATCH { self.hand_over().await } else { Ok(()) }
    }

    async fn hand_over(&mut self) -> Result<(), End> {
        if self.flush().await { Ok(()) } else { Err(End::Gone) }
    }

    /// Hands over what is waiting; false if nobody takes it any more. Cancelled, it hands over nothing.
    async fn flush(&mut self) -> bool {
        if self.reading.waiting() == 0 {
            return true;
        }
        let Ok(place) = self.deltas.reserve().await else { return false };
        place.send((self.reading.kind, self.reading.take()));
        true
    }
}

/// Until the scope changes, which concerns Pods only.
async fn changed(scope: &mut watch::Receiver<Scope>, kind: Watched) {
    if kind != Watched::Pod || scope.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn revision(object: &Field) -> Result<String, FieldError> {
    Ok(object.at(&["metadata", "resourceVersion"])?.required_text()?.to_owned())
}

/// Why the next piece of a body did not come.
enum Silence {
    Long,
    Broken(Failure),
}

impl From<Silence> for Failure {
    fn from(s: Silence) -> Failure {
        match s {
            Silence::Long => Failure::unreachable("the server has fallen silent"),
            Silence::Broken(f) => f,
        }
    }
}

impl From<Silence> for End {
    fn from(s: Silence) -> End {
        End::Failed(s.into())
    }
}

/// The next piece of a body; empty at its end.
async fn piece<B: AsyncBufRead + Unpin>(body: &mut B, longest: Duration) -> Result<&[u8], Silence> {
    match tokio::time::timeout(longest, body.fill_buf()).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(e)) => Err(Silence::Broken(broken(&e))),
        Err(_) => Err(Silence::Long),
    }
}
