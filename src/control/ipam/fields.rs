//! Readers of the values that IPAM's documents share.

use crate::control::yaml::{Field, FieldError, quoted};
use ipnet::IpNet;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// A CIDR without host bits that must be there.
pub fn cidr(f: &Field) -> Result<IpNet, FieldError> {
    let net = f.parsed::<IpNet>("a CIDR")?.ok_or_else(|| f.error("missing; a CIDR is required"))?;
    if net != net.trunc() {
        return Err(f.error(format!("{net} has bits beyond its prefix; {} is meant?", net.trunc())));
    }
    Ok(net)
}

/// `true`, or `"true"` as `crd.projectcalico.org/v1` has it in some kinds. Absent is false.
pub fn flag(f: &Field) -> Result<bool, FieldError> {
    if let Ok(flag) = f.boolean() {
        return Ok(flag.unwrap_or(false));
    }
    Ok(f.one_of(&[("true", true), ("false", false), ("", false)])?.unwrap_or(false))
}

/// A whole number of 64 bits; absent is 0.
pub fn u64(f: &Field) -> Result<u64, FieldError> {
    if !f.is_present() {
        return Ok(0);
    }
    let fault = || f.error(format!("a whole number from 0 to {} is required, not {}", u64::MAX, f.describe()));
    f.integer().and_then(|i| u64::try_from(i).ok()).ok_or_else(fault)
}

/// A mapping from text to text; absent is empty.
pub fn texts(f: &Field) -> Result<BTreeMap<String, String>, FieldError> {
    let pair = |(key, value): (&str, Field)| Ok((key.to_owned(), value.text()?.unwrap_or_default().to_owned()));
    f.children()?.into_iter().map(pair).collect()
}

/// A time as Kubernetes writes it (RFC 3339).
pub fn time(f: &Field) -> Result<Option<Timestamp>, FieldError> {
    let Some(text) = f.text()?.filter(|t| !t.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| f.error(format!("{} is not a time (RFC 3339)", quoted(text))))
}

/// To whole seconds, as Kubernetes writes times.
pub fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
