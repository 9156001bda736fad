//! Lists and watches.

use super::Shared;
use super::body::Writer;
use super::faults::Fault;
use super::kinds::Resource;
use super::state::{Page, Selector, State};
use super::status::Refusal;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Bytes of a list that are sent together.
const PIECE: usize = 64 << 10;

/// The query of a request, decoded.
pub struct Query(BTreeMap<String, String>);

impl Query {
    pub fn parse(text: Option<&str>) -> Query {
        let pairs = text.unwrap_or_default().split('&').filter(|p| !p.is_empty());
        Query(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (decoded(k), decoded(v))).collect())
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), "true" | "1")
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Refusal> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| Refusal::bad_request(format!("{key}: {text:?} is not a number"))),
        }
    }

    /// `a=b,c==d`.
    fn selector(&self, namespace: Option<String>) -> Result<Selector, Refusal> {
        let terms = |key: &str| -> Result<Vec<(String, String)>, Refusal> {
            let parts = self.get(key).split(',').filter(|t| !t.is_empty());
            let split = |t: &str| t.split_once("==").or_else(|| t.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
            parts.map(|t| split(t).ok_or_else(|| Refusal::bad_request(format!("{key}: {t:?} is not supported here")))).collect()
        };
        Ok(Selector { namespace, fields: terms("fieldSelector")?, labels: terms("labelSelector")? })
    }
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = || bytes.get(at + 1..at + 3).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match (bytes[at], hex()) {
            (b'%', Some(byte)) => (out.push(byte), at += 3).1,
            (b'+', _) => (out.push(b' '), at += 1).1,
            (byte, _) => (out.push(byte), at += 1).1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What a list answers, to be written with [`send_list`].
pub fn list(state: &mut State, resource: &Resource, namespace: Option<String>, query: &Query) -> Result<Page, Refusal> {
    let selector = query.selector(namespace)?;
    known_fields(resource, &selector)?;
    let limit = query.number("limit")?.unwrap_or(0) as usize;
    let version = query.number("resourceVersion")?;
    if !query.get("continue").is_empty() {
        return state.more(query.get("continue"), limit);
    }
    match version {
        Some(v) if v > state.revision => return Err(Refusal::too_large(v, state.revision)),
        Some(v) if query.get("resourceVersionMatch") == "Exact" && v < state.oldest => return Err(Refusal::expired(v, state.oldest)),
        _ => {}
    }
    // From the server's cache: limits do not count there.
    let limit = if version == Some(0) { 0 } else { limit };
    Ok(state.list(resource, &selector, limit))
}

fn known_fields(resource: &Resource, selector: &Selector) -> Result<(), Refusal> {
    let known = |f: &str| matches!(f, "metadata.name" | "metadata.namespace") || (resource.plural == "pods" && f == "spec.nodeName");
    match selector.fields.iter().find(|(f, _)| !known(f)) {
        Some((f, _)) => Err(Refusal::bad_request(format!("field label not supported: {f}"))),
        None => Ok(()),
    }
}

pub async fn send_list(resource: &Resource, page: Page, mut writer: Writer) {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(token) = page.next {
        metadata["continue"] = json!(token);
        metadata["remainingItemCount"] = json!(page.remaining);
    }
    // As Go marshals it: metadata come before the items, and items have no kind of their own.
    let mut text =
        format!("{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[", resource.kind, resource.api_version);
    for (i, item) in page.items.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&item.text);
        if text.len() >= PIECE && !writer.send(std::mem::take(&mut text)).await {
            return;
        }
    }
    text.push_str("]}\n");
    writer.send(text).await;
}

/// A watch about to be streamed.
pub struct Watch {
    resource: &'static Resource,
    selector: Selector,
    /// Events after this revision are to be sent.
    position: u64,
    /// What is there at the start.
    initial: String,
    bookmarks: bool,
    until: Instant,
}

pub fn start_watch(
    shared: &Shared,
    resource: &'static Resource,
    namespace: Option<String>,
    query: &Query,
    fault: Option<&Fault>,
) -> Result<Watch, Refusal> {
    let inner = shared.lock();
    let (state, settings) = (&inner.state, &inner.settings);
    let selector = query.selector(namespace)?;
    known_fields(resource, &selector)?;
    let seconds = query.number("timeoutSeconds")?.unwrap_or(1800);
    let (version, bookmarks) = (query.number("resourceVersion")?, query.flag("allowWatchBookmarks"));
    let streaming = query.flag("sendInitialEvents");
    if (streaming || !query.get("resourceVersionMatch").is_empty()) && !settings.streaming_lists {
        return Err(Refusal::no_streaming_lists());
    }
    if version.is_some_and(|v| v > state.revision) {
        return Err(Refusal::too_large(version.unwrap_or(0), state.revision));
    }
    let mut watch = Watch {
        resource,
        selector,
        position: state.revision,
        initial: String::new(),
        bookmarks,
        until: Instant::now() + Duration::from_secs(seconds),
    };
    if let Some(Fault::ErrorEvent(refusal)) = fault {
        watch.initial = error_event(refusal);
        watch.until = Instant::now();
    } else if streaming || matches!(version, None | Some(0)) {
        for object in state.select(resource, &watch.selector) {
            watch.initial += &event("ADDED", &object.text);
        }
        if streaming && bookmarks {
            watch.initial += &bookmark(resource, state.revision, true);
        }
    } else if let Some(v) = version {
        watch.position = v;
    }
    Ok(watch)
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn error_event(refusal: &Refusal) -> String {
    event("ERROR", &refusal.to_json().to_string())
}

/// Go's zero object with a revision; a zero Pod has no containers, which shows as null.
fn bookmark(resource: &Resource, revision: u64, initial_end: bool) -> String {
    let mut object = json!({
        "kind": resource.kind, "apiVersion": resource.api_version,
        "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
    });
    if initial_end {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    if resource.plural == "pods" {
        object["spec"] = json!({"containers": null});
        object["status"] = json!({});
    }
    event("BOOKMARK", &object.to_string())
}

impl Watch {
    /// Streams until the time is up, the reader leaves, or the test cuts it.
    pub async fn stream(mut self, shared: Arc<Shared>, mut writer: Writer) {
        let _open = shared.opened(self.resource.plural);
        let (mut changed, mut cut) = (shared.changed.subscribe(), shared.cut.subscribe());
        cut.mark_unchanged();
        for piece in std::mem::take(&mut self.initial).into_bytes().chunks(PIECE) {
            if !writer.send(piece.to_vec()).await {
                return;
            }
        }
        loop {
            changed.mark_unchanged();
            let (text, over) = self.events(&shared);
            if (!text.is_empty() && !writer.send(text).await) || over {
                return;
            }
            let bookmark_at = shared.lock().settings.bookmark_every.map(|every| Instant::now() + every);
            tokio::select! {
                _ = changed.changed() => {}
                _ = cut.changed() => {
                    let which = cut.borrow_and_update().1.clone();
                    if which.is_empty() || which == self.resource.plural {
                        return writer.cut().await;
                    }
                }
                () = sleep_until(bookmark_at.unwrap_or(self.until).min(self.until)) => {
                    if Instant::now() >= self.until {
                        return;
                    }
                    if self.bookmarks && !writer.send(bookmark(self.resource, self.position, false)).await {
                        return;
                    }
                }
                () = writer.closed() => return,
            }
        }
    }

    /// What happened since the position, and whether the watch is over.
    fn events(&mut self, shared: &Shared) -> (String, bool) {
        let inner = shared.lock();
        if self.position < inner.state.oldest {
            return (error_event(&Refusal::expired(self.position, inner.state.oldest)), true);
        }
        let mut text = String::new();
        for change in inner.state.since(self.position) {
            if let Some((kind, object)) = change.event(self.resource, &self.selector) {
                text += &event(kind, &object.text);
            }
        }
        self.position = inner.state.revision;
        (text, false)
    }
}
