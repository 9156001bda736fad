//! What a block records of the holder of addresses.

use super::fields;
use crate::control::yaml::{Field, FieldError};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Handle of the addresses that Windows nodes keep free.
pub const WINDOWS_RESERVED: &str = "windows-reserved-ipam-handle";

/// For whom an address is assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Addresses with the same handle are released together.
    pub handle: Option<String>,
    /// `pod`, `namespace`, `node`, `type`, `timestamp`.
    pub attributes: BTreeMap<String, String>,
}

/// An entry of a block's `attributes`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attribute {
    pub handle: Option<String>,
    /// `secondary`: the holder.
    pub active: BTreeMap<String, String>,
    /// `alternate`: the holder that takes over (live migration).
    pub alternate: BTreeMap<String, String>,
    /// Set while the address is in cooldown.
    pub released: Option<Timestamp>,
    unknown: Map<String, Value>,
}

const KNOWN: [&str; 4] = ["handle_id", "secondary", "alternate", "releasedAt"];

impl Attribute {
    pub(super) fn read(f: &Field) -> Result<Attribute, FieldError> {
        Ok(Attribute {
            handle: f.get("handle_id")?.text()?.map(str::to_owned),
            active: fields::texts(&f.get("secondary")?)?,
            alternate: fields::texts(&f.get("alternate")?)?,
            released: fields::time(&f.get("releasedAt")?)?,
            unknown: Map::new(),
        })
    }

    pub(super) fn keep_unknown(&mut self, raw: &Value) {
        let unknown = raw.as_object().into_iter().flatten().filter(|(key, _)| !KNOWN.contains(&key.as_str()));
        self.unknown = unknown.map(|(k, v)| (k.clone(), v.clone())).collect();
    }

    pub(super) fn of(holder: &Holder) -> Attribute {
        Attribute { handle: holder.handle.clone(), active: holder.attributes.clone(), ..Attribute::default() }
    }

    pub(super) fn released_at(time: Timestamp) -> Attribute {
        Attribute { released: Some(time), ..Attribute::default() }
    }

    pub(super) fn document(&self) -> Value {
        let mut out = self.unknown.clone();
        let parts = [
            ("handle_id", self.handle.as_ref().map(|h| json!(h))),
            ("secondary", (!self.active.is_empty()).then(|| json!(self.active))),
            ("alternate", (!self.alternate.is_empty()).then(|| json!(self.alternate))),
            ("releasedAt", self.released.map(|t| json!(t.to_string()))),
        ];
        out.extend(parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        Value::Object(out)
    }

    pub(super) fn is_of(&self, holder: &Holder) -> bool {
        *self == Attribute::of(holder)
    }

    pub fn has_handle(&self, handle: &str) -> bool {
        self.handle.as_deref().is_some_and(|h| clean_handle(h) == handle)
    }

    /// Set aside when a Windows node made the block.
    pub fn is_windows_reserved(&self) -> bool {
        self.handle.as_deref().is_some_and(|h| h.eq_ignore_ascii_case(WINDOWS_RESERVED))
    }

    /// The node that the address is in use on.
    pub fn node(&self) -> Option<&str> {
        self.active.get("node").map(String::as_str).filter(|n| !n.is_empty())
    }
}

/// Without what follows a carriage return: a migration from host-local IPAM wrote such handles.
pub fn clean_handle(handle: &str) -> &str {
    handle.split('\r').next().unwrap_or(handle)
}
