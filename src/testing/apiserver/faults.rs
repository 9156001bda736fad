//! What a test makes go wrong, and what it counts.

use super::status::Refusal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `/version`, `/api`, `/apis` and below, up to the resources.
    Discover,
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

impl Verb {
    /// As RBAC rules name it.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Discover | Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
        }
    }
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing is done; this is the answer.
    Refuse(Refusal),
    /// HTTP 200, and one ERROR event with this in it. Only for a watch.
    ErrorEvent(Refusal),
    /// The answer's connection is cut after so many bytes of its body.
    CutAfter(usize),
    /// The request is done, and its answer lost.
    LoseAnswer,
    /// The answer comes later.
    Delay(Duration),
    /// These are merged into the object before the request is looked at, as if another writer had come first.
    ComeFirst(Value),
}

struct Rule {
    verb: Verb,
    /// Empty: any.
    plural: String,
    left: u32,
    fault: Fault,
}

/// Rules in order of their making; the first that fits applies.
#[derive(Default)]
pub struct Faults {
    rules: Vec<Rule>,
    counts: BTreeMap<(Verb, String), u64>,
}

impl Faults {
    pub fn add(&mut self, verb: Verb, plural: &str, times: u32, fault: Fault) {
        self.rules.push(Rule { verb, plural: plural.into(), left: times, fault });
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Counts a request and says what goes wrong with it.
    pub fn strike(&mut self, verb: Verb, plural: &str) -> Option<Fault> {
        *self.counts.entry((verb, plural.to_owned())).or_default() += 1;
        let at = self.rules.iter().position(|r| r.verb == verb && (r.plural.is_empty() || r.plural == plural))?;
        let rule = &mut self.rules[at];
        rule.left = rule.left.saturating_sub(1);
        if rule.left == 0 { Some(self.rules.remove(at).fault) } else { Some(rule.fault.clone()) }
    }

    pub fn count(&self, verb: Verb, plural: &str) -> u64 {
        self.counts.get(&(verb, plural.to_owned())).copied().unwrap_or(0)
    }

    pub fn counts(&self) -> BTreeMap<(Verb, String), u64> {
        self.counts.clone()
    }
}
