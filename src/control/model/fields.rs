//! Readers for what many kinds hold: addresses, prefixes, annotations, flags of both API versions.

use crate::control::yaml::{Field, FieldError, quoted};
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// A prefix without host bits.
pub fn prefix(f: &Field) -> Result<Option<IpNet>, FieldError> {
    let Some(net) = f.parsed::<IpNet>("a CIDR")? else { return Ok(None) };
    if net != net.trunc() {
        return Err(f.error(format!("{net} has bits beyond its prefix; {} is meant?", net.trunc())));
    }
    Ok(Some(net))
}

/// A single address, with or without /32 (/128).
pub fn address(f: &Field) -> Result<Option<IpAddr>, FieldError> {
    let Some(text) = f.text()?.filter(|s| !s.is_empty()) else { return Ok(None) };
    single(text).map(Some).map_err(|fault| f.error(fault))
}

/// The same for text from elsewhere (annotations hold lists); the error is the message for the field.
pub fn single(text: &str) -> Result<IpAddr, String> {
    if let Ok(ip) = text.parse() {
        return Ok(ip);
    }
    match text.parse::<IpNet>() {
        Ok(net) if net.prefix_len() == net.max_prefix_len() => Ok(net.addr()),
        Ok(net) => Err(format!("{net} is not a single address; /{} is required", net.max_prefix_len())),
        Err(_) => Err(format!("{} is not a CIDR", quoted(text))),
    }
}

/// Whether a host may have this address.
pub fn is_host_address(ip: Ipv4Addr) -> bool {
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast())
}

/// A host's own IPv4 address with its prefix; without one it is a /32. Host bits stay.
pub fn host_address(f: &Field) -> Result<Option<Ipv4Net>, FieldError> {
    let Some(text) = f.text()?.filter(|s| !s.is_empty()) else { return Ok(None) };
    let net = text
        .parse::<Ipv4Net>()
        .or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from))
        .map_err(|_| f.error(format!("{} is not an IPv4 address with its prefix", quoted(text))))?;
    if is_host_address(net.addr()) { Ok(Some(net)) } else { Err(f.error(format!("{} is not an address that a host can have", net.addr()))) }
}

/// A tunnel's IPv4 address; a /32 behind it is tolerated.
pub fn tunnel_address(f: &Field) -> Result<Option<Ipv4Addr>, FieldError> {
    match address(f)? {
        None => Ok(None),
        Some(IpAddr::V4(ip)) if is_host_address(ip) => Ok(Some(ip)),
        Some(ip) => Err(f.error(format!("{ip} is not an IPv4 address that a tunnel can have"))),
    }
}

/// `metadata.annotations[key]`.
pub fn annotation<'a>(root: &Field<'a>, key: &str) -> Result<Field<'a>, FieldError> {
    root.at(&["metadata", "annotations", key])
}

/// Whether a workload's annotation limits what it receives. The limit itself is the CNI plugin `bandwidth`'s matter.
pub fn is_limited(root: &Field) -> Result<bool, FieldError> {
    Ok(annotation(root, "kubernetes.io/ingress-bandwidth")?.text()?.is_some_and(|limit| !limit.is_empty()))
}

/// Where an endpoint's TAP is to be made: an absolute path in the annotation `tortie/netns`.
pub fn netns(root: &Field) -> Result<Option<PathBuf>, FieldError> {
    let f = annotation(root, "tortie/netns")?;
    match f.text()?.filter(|s| !s.is_empty()) {
        Some(path) if !path.starts_with('/') => Err(f.error(format!("{path} is not an absolute path"))),
        path => Ok(path.map(PathBuf::from)),
    }
}

/// A flag that `crd.projectcalico.org/v1` stores as text and `projectcalico.org/v3` as a boolean. Both forms
/// are read in both versions: exports through either API exist. Absent is false.
pub fn flag(f: &Field) -> Result<bool, FieldError> {
    if let Ok(flag) = f.boolean() {
        return Ok(flag.unwrap_or(false));
    }
    Ok(f.one_of(&[("true", true), ("false", false), ("", false)])?.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::{Value, documents};

    fn doc(text: &str) -> Value {
        documents(text).unwrap().remove(0)
    }

    #[test]
    fn prefixes_and_addresses() {
        let v = doc(
            "a: 10.0.0.0/8\nb: 10.0.0.1/8\nc: 10.0.0.1\nd: 10.0.0.1/32\ne: ''\nf: fd00::1/128\ng: 10.244.0.300/32\nh: 7\ni: 127.0.0.1/8\n",
        );
        let f = |k: &str| Field::root(&v).get(k).unwrap();
        let fault = |e: FieldError| e.to_string();
        assert_eq!(prefix(&f("a")).unwrap(), Some("10.0.0.0/8".parse().unwrap()));
        assert_eq!(fault(prefix(&f("b")).unwrap_err()), "b: 10.0.0.1/8 has bits beyond its prefix; 10.0.0.0/8 is meant?");
        assert_eq!(fault(prefix(&f("c")).unwrap_err()), "c: \"10.0.0.1\" is not a CIDR");
        assert_eq!(address(&f("c")).unwrap(), address(&f("d")).unwrap());
        assert_eq!(fault(address(&f("b")).unwrap_err()), "b: 10.0.0.1/8 is not a single address; /32 is required");
        assert_eq!(fault(address(&f("g")).unwrap_err()), "g: \"10.244.0.300/32\" is not a CIDR");
        assert_eq!((prefix(&f("e")).unwrap(), address(&f("e")).unwrap(), host_address(&f("e")).unwrap()), (None, None, None));
        assert!(address(&f("h")).is_err() && tunnel_address(&f("f")).is_err() && host_address(&f("i")).is_err());
        assert_eq!(host_address(&f("b")).unwrap().unwrap().to_string(), "10.0.0.1/8");
        assert_eq!(host_address(&f("c")).unwrap().unwrap().to_string(), "10.0.0.1/32");
    }

    #[test]
    fn flags_of_both_versions() {
        let v = doc("a: true\nb: 'true'\nc: ''\nd: 'no'\ne: 1\n");
        let f = |k: &str| flag(&Field::root(&v).get(k).unwrap());
        assert_eq!((f("a").unwrap(), f("b").unwrap(), f("c").unwrap(), f("absent").unwrap()), (true, true, false, false));
        assert!(f("d").is_err() && f("e").is_err());
    }
}
