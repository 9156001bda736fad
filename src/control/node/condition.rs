//! The condition NetworkUnavailable, by which Kubernetes keeps pods away from a node without a network.

use super::object::NodeObject;
use crate::control::datastore::objects;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const KIND: &str = "NetworkUnavailable";

/// What the condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Up,
    /// This daemon is stopping.
    Down,
}

impl Network {
    /// Status, reason and message in calico/node's words, which other components look for.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Network::Up => ("False", "CalicoIsUp", "Calico is running on this node"),
            Network::Down => ("True", "CalicoIsDown", "Calico is shutting down on this node"),
        }
    }

    /// The patch of the node's status that makes it so; `None` if it is. All conditions are in it, as a merge patch
    /// replaces lists: it holds for exactly this state of the object.
    pub fn patch(self, node: &NodeObject, now: SystemTime) -> Option<Value> {
        let (status, reason, message) = self.words();
        let old = node.condition(KIND);
        if old.is_some_and(|c| c["status"] == status && c["reason"] == reason) {
            return None;
        }
        let now = rfc3339(now);
        let since = old.filter(|c| c["status"] == status).map_or(json!(now), |c| c["lastTransitionTime"].clone());
        let new = json!({
            "type": KIND, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now, "lastTransitionTime": since,
        });
        let all = node.0["status"]["conditions"].as_array().into_iter().flatten();
        let mut conditions: Vec<Value> = all.filter(|c| c["type"] != KIND).cloned().collect();
        conditions.push(new);
        Some(json!({"metadata": {"resourceVersion": objects::revision(&node.0)}, "status": {"conditions": conditions}}))
    }
}

/// UTC to the second, as Kubernetes writes times (RFC 3339).
pub(super) fn rfc3339(t: SystemTime) -> String {
    let seconds = t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// The Gregorian date so many days after 1970-01-01. Counted in years that begin with March, leap days come last.
fn date(days: u64) -> (u64, u64, u64) {
    let from_year_0 = days + 719_468;
    let (era, in_era) = (from_year_0 / 146_097, from_year_0 % 146_097);
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_utc() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), want);
        }
    }

    #[test]
    fn other_conditions_stay_and_the_same_is_not_written() {
        let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "x"});
        let mut node = NodeObject(json!({"metadata": {"name": "a", "resourceVersion": "3"}, "status": {"conditions": [ready]}}));
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        let patch = Network::Up.patch(&node, at(0)).unwrap();
        assert_eq!((&patch["metadata"]["resourceVersion"], &patch["status"]["conditions"][0]), (&json!("3"), &ready));
        node.0["status"] = patch["status"].clone();
        assert_eq!(node.condition(KIND).unwrap()["reason"], "CalicoIsUp");
        assert_eq!(Network::Up.patch(&node, at(60)), None);
        let patch = Network::Down.patch(&node, at(60)).unwrap();
        let down = &patch["status"]["conditions"][1];
        assert_eq!((&down["status"], &down["reason"]), (&json!("True"), &json!("CalicoIsDown")));
        assert_eq!(
            (&down["lastTransitionTime"], patch["status"]["conditions"].as_array().unwrap().len()),
            (&json!("1970-01-01T00:01:00Z"), 2)
        );
    }

    #[test]
    fn somebody_elses_reason_is_replaced_and_the_time_of_the_change_kept() {
        let old = json!({"type": KIND, "status": "False", "reason": "RouteCreated", "lastTransitionTime": "2020-01-01T00:00:00Z"});
        let node = NodeObject(json!({"status": {"conditions": [old]}}));
        let patch = Network::Up.patch(&node, UNIX_EPOCH).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }
}
