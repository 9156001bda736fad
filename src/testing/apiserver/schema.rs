//! The parts of the definitions' schemas in which the two groups differ, and what they require.

use super::kinds::{Resource, V1};
use serde_json::Value;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Text,
    Bool,
    Int,
    List,
    Map,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Text => "string",
            Type::Bool => "boolean",
            Type::Int => "integer",
            Type::List => "array",
            Type::Map => "object",
        }
    }

    fn is(self, v: &Value) -> bool {
        match self {
            Type::Text => v.is_string(),
            Type::Bool => v.is_boolean(),
            Type::Int => v.is_i64() || v.is_u64(),
            Type::List => v.is_array(),
            Type::Map => v.is_object(),
        }
    }
}

/// Field of `spec`, its type, whether it is required.
type Rule = (&'static str, Type, bool);

const BLOCK: &[Rule] = &[
    ("allocations", Type::List, true),
    ("attributes", Type::List, true),
    ("cidr", Type::Text, true),
    ("strictAffinity", Type::Bool, true),
    ("unallocated", Type::List, true),
    ("deleted", Type::Bool, false),
    ("affinity", Type::Text, false),
    ("sequenceNumber", Type::Int, false),
];
const AFFINITY_V1: &[Rule] = &[
    ("cidr", Type::Text, true),
    ("deleted", Type::Text, true),
    ("node", Type::Text, true),
    ("state", Type::Text, true),
    ("type", Type::Text, false),
];
const AFFINITY_V3: &[Rule] = &[
    ("cidr", Type::Text, true),
    ("deleted", Type::Bool, false),
    ("node", Type::Text, true),
    ("state", Type::Text, true),
    ("type", Type::Text, false),
];
const HANDLE: &[Rule] = &[("block", Type::Map, true), ("handleID", Type::Text, true), ("deleted", Type::Bool, false)];
const IPAM_CONFIG: &[Rule] =
    &[("autoAllocateBlocks", Type::Bool, true), ("strictAffinity", Type::Bool, true), ("maxBlocksPerHost", Type::Int, false)];
const POOL: &[Rule] = &[("cidr", Type::Text, true), ("blockSize", Type::Int, false), ("natOutgoing", Type::Bool, false)];

fn rules(resource: &Resource) -> &'static [Rule] {
    match resource.kind {
        "IPAMBlock" => BLOCK,
        "BlockAffinity" if resource.api_version == V1 => AFFINITY_V1,
        "BlockAffinity" => AFFINITY_V3,
        "IPAMHandle" => HANDLE,
        "IPAMConfig" | "IPAMConfiguration" => IPAM_CONFIG,
        "IPPool" => POOL,
        _ => &[],
    }
}

/// What Kubernetes asks of an Event (pkg/apis/core/validation/events.go).
fn check_event(object: &Value) -> Result<(), String> {
    let (about, at) = (&object["involvedObject"], object["metadata"]["namespace"].as_str().unwrap_or_default());
    let own = about["namespace"].as_str().unwrap_or_default();
    if own != at && !(own.is_empty() && (at == "default" || at == "kube-system")) {
        return Err("involvedObject.namespace: Invalid value: does not match event.namespace".into());
    }
    for time in ["firstTimestamp", "lastTimestamp"] {
        let text = object[time].as_str().unwrap_or_default();
        if !text.is_empty() && (text.len() != 20 || !text.ends_with('Z')) {
            return Err(format!("{time}: Invalid value: {text:?}: RFC 3339 is required"));
        }
    }
    if object["message"].as_str().is_some_and(|m| m.len() > 1024) {
        return Err("message: Invalid value: can have at most 1024 characters".into());
    }
    Ok(())
}

/// What is wrong with an object about to be written.
pub fn check(resource: &Resource, object: &Value) -> Result<(), String> {
    if resource.kind == "Event" {
        return check_event(object);
    }
    for (field, wanted, required) in rules(resource) {
        match &object["spec"][*field] {
            Value::Null if *required => return Err(format!("spec.{field}: Required value")),
            Value::Null => {}
            v if wanted.is(v) => {}
            v => return Err(format!("spec.{field}: Invalid value: {v}: spec.{field} in body must be of type {}", wanted.name())),
        }
    }
    Ok(())
}
