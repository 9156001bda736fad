//! Conflicts as Kubernetes Events on the node's object, so that `kubectl describe node` shows them: one Event per conflict,
//! counted up, never more often than once a minute each.

use super::condition::rfc3339;
use crate::control::conflict::{Conflict, Present};
use crate::control::datastore::objects::{Access, AccessError, Id, Objects, Resource, uid};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use tokio::time::sleep;

/// Objects without a namespace have their Events here.
const NAMESPACE: &str = "default";
/// An Event is counted up at most this often.
const REPEAT: Duration = Duration::from_secs(60);
/// Writes at once, and the wait before more.
const AT_ONCE: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);
/// Wait after a failure: at first, and at most; it doubles in between.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Longest message that the API server takes, bytes.
const MESSAGE_MAX: usize = 1024;

/// What is known of a conflict now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    conflict: Conflict,
    times: u64,
    since: SystemTime,
    last: SystemTime,
}

impl From<&Present> for Sighting {
    fn from(p: &Present) -> Sighting {
        Sighting { conflict: p.conflict.clone(), times: p.times, since: p.since, last: p.last }
    }
}

impl Sighting {
    /// Of the Event: the same for the same conflict, whoever starts when.
    fn name(&self, node: &str) -> String {
        let c = &self.conflict;
        let hash = Sha256::digest(format!("{}\n{}\n{}", c.kind.name(), c.subject, c.parties.join("\n")));
        format!("{node}.{}", hex::encode(&hash[..8]))
    }

    fn message(&self) -> String {
        let c = &self.conflict;
        let mut text = format!("{}: {}: {}. To do: {}", c.subject, c.parties.join(" and "), c.found, c.remedy);
        if text.len() > MESSAGE_MAX {
            let end = (0..=MESSAGE_MAX - 3).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.truncate(end);
            text.push_str("...");
        }
        text
    }

    fn event(&self, node: &str, uid: Option<&str>) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": self.name(node), "namespace": NAMESPACE},
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid},
            "type": "Warning", "reason": self.conflict.kind.reason(), "message": self.message(),
            "count": self.times, "firstTimestamp": rfc3339(self.since), "lastTimestamp": rfc3339(self.last),
            "source": {"component": "tortie", "host": node}, "reportingComponent": "tortie", "reportingInstance": node,
        })
    }
}

/// What was written of a conflict.
struct Written {
    times: u64,
    at: Instant,
}

/// Writes Events as conflicts come; `say` is told what stands in the way. Ends with the sender.
pub async fn keep<O: Objects>(objects: &O, node: &str, mut sightings: watch::Receiver<Vec<Sighting>>, say: impl Fn(Option<String>)) {
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    let mut retry = RETRY;
    loop {
        let all = sightings.borrow_and_update().clone();
        written.retain(|name, w| w.at.elapsed() < REPEAT || all.iter().any(|s| s.name(node) == *name));
        let mut wait = None::<Duration>;
        let mut sooner = |d: Duration| wait = Some(wait.map_or(d, |w| w.min(d)));
        let mut writes = 0;
        for s in &all {
            let name = s.name(node);
            let before = written.get(&name);
            if before.is_some_and(|w| w.times >= s.times) {
                continue;
            }
            if let Some(left) = before.and_then(|w| REPEAT.checked_sub(w.at.elapsed())).filter(|d| !d.is_zero()) {
                sooner(left);
                continue;
            }
            if writes == AT_ONCE {
                sooner(PAUSE);
                break;
            }
            writes += 1;
            // A conflict that went and came again counts from one.
            let known = before.map_or(0, |w| w.times);
            match write(objects, node, s, s.times.saturating_sub(known)).await {
                Ok(()) => {
                    retry = RETRY;
                    say(None);
                    written.insert(name, Written { times: s.times, at: Instant::now() });
                }
                Err(e) => {
                    say(Some(format!("conflicts cannot be told to the cluster: {e}")));
                    sooner(retry);
                    retry = (retry * 2).min(RETRY_MAX);
                    break;
                }
            }
        }
        let due = async { if let Some(d) = wait { sleep(d).await } else { std::future::pending().await } };
        tokio::select! {
            changed = sightings.changed() => {
                if changed.is_err() {
                    return;
                }
                // One that cannot be written is not tried again for every new sighting.
                if retry > RETRY {
                    sleep(retry).await;
                }
            }
            () = due => {}
        }
    }
}

/// A new Event, or the one that is there counted up by `more`.
async fn write<O: Objects>(objects: &O, node: &str, s: &Sighting, more: u64) -> Access<()> {
    let owner = objects.get(&Id::cluster(Resource::Node, node)).await?;
    let event = s.event(node, owner.as_ref().and_then(uid));
    match objects.create(Resource::Event, event).await {
        Err(AccessError::AlreadyExists { .. }) => {}
        other => return other.map(drop),
    }
    let id = Id::namespaced(Resource::Event, NAMESPACE, s.name(node));
    let count = objects.get(&id).await?.and_then(|e| e["count"].as_u64()).unwrap_or(0) + more;
    let patch = json!({"count": count, "lastTimestamp": rfc3339(s.last), "message": s.message()});
    objects.patch(&id, patch).await.map(drop)
}
