//! The address that the node is to have: what is asked for, what is found, and what it has.

use super::detect::{self, DetectError, Detected, Host, Method};
use super::settings::AddressSetting;
use ipnet::Ipv4Net;

/// The node's address, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub address: Ipv4Net,
    /// In words, for people: `interface eth0 by first-found`.
    pub origin: String,
    /// What is odd about it.
    pub note: Option<String>,
}

/// Why the node has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("no IPv4 address found: {0}; choose another IP_AUTODETECTION_METHOD, or set IP")]
    Detect(#[from] DetectError),
    #[error("IP is none and the node has no annotation {annotation}: set the annotation, or IP to autodetect or to an address")]
    Off { annotation: &'static str },
}

/// Chooses the address. `stored` is the one that the datastore has: it stays when nothing is found now, as a host loses
/// addresses for moments but never its place in the cluster.
pub fn choose(setting: AddressSetting, method: &Method, host: &Host, stored: Option<Ipv4Net>) -> Result<Found, AddressError> {
    match (setting, stored) {
        (AddressSetting::Autodetect, _) | (AddressSetting::Stored, None) => found(method, host, stored),
        (AddressSetting::Stored | AddressSetting::Off, Some(address)) => Ok(kept(address, host)),
        (AddressSetting::Off, None) => Err(AddressError::Off { annotation: super::object::ADDRESS }),
        (AddressSetting::Given { address, prefix }, _) => {
            let here = host.find(address);
            let length = prefix.or_else(|| here.as_ref().map(|d| d.address.prefix_len())).unwrap_or(32);
            // A length over 32 never comes out of a parsed prefix.
            let address = Ipv4Net::new(address, length).unwrap_or_else(|_| Ipv4Net::from(address));
            Ok(Found { address, origin: "environment IP".into(), note: absent(address, here.as_ref()) })
        }
    }
}

fn found(method: &Method, host: &Host, stored: Option<Ipv4Net>) -> Result<Found, AddressError> {
    match (detect::detect(method, host), stored) {
        (Ok(d), _) => Ok(Found { address: d.address, origin: format!("interface {} by {method}", d.interface), note: None }),
        (Err(e), Some(address)) => {
            let note = Some(format!("no IPv4 address found: {e}; {address} stays the node's address"));
            Ok(Found { note, ..kept(address, host) })
        }
        (Err(e), None) => Err(e.into()),
    }
}

fn kept(address: Ipv4Net, host: &Host) -> Found {
    Found { address, origin: "datastore".into(), note: absent(address, host.find(address.addr()).as_ref()) }
}

fn absent(address: Ipv4Net, here: Option<&Detected>) -> Option<String> {
    here.is_none().then(|| format!("the node's address {} is on no interface of this host", address.addr()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::node::detect::Interface;

    fn host() -> Host {
        let interface = Interface { index: 2, name: "eth0".into(), addresses: vec!["10.0.0.5/24".parse().unwrap()] };
        Host { interfaces: vec![interface], ..Host::default() }
    }

    fn is(setting: AddressSetting, host: &Host, stored: Option<&str>) -> (String, String, bool) {
        let f = choose(setting, &Method::FirstFound, host, stored.map(|s| s.parse().unwrap())).unwrap();
        (f.address.to_string(), f.origin, f.note.is_some())
    }

    #[test]
    fn each_setting() {
        let (h, none) = (host(), Host::default());
        let found = ("10.0.0.5/24".to_owned(), "interface eth0 by first-found".to_owned(), false);
        assert_eq!(is(AddressSetting::Autodetect, &h, Some("10.0.0.9/24")), found);
        assert_eq!(is(AddressSetting::Stored, &h, None), found);
        let stored = |note| ("10.0.0.9/24".to_owned(), "datastore".to_owned(), note);
        assert_eq!(is(AddressSetting::Stored, &h, Some("10.0.0.9/24")), stored(true));
        assert_eq!(is(AddressSetting::Off, &h, Some("10.0.0.9/24")), stored(true));
        assert_eq!(is(AddressSetting::Autodetect, &none, Some("10.0.0.9/24")), stored(true));
        assert_eq!(is(AddressSetting::Off, &h, Some("10.0.0.5/16")), ("10.0.0.5/16".into(), "datastore".into(), false));
        let given = |prefix| AddressSetting::Given { address: "10.0.0.5".parse().unwrap(), prefix };
        assert_eq!(is(given(None), &h, None), ("10.0.0.5/24".into(), "environment IP".into(), false));
        assert_eq!(is(given(Some(16)), &h, None), ("10.0.0.5/16".into(), "environment IP".into(), false));
        assert_eq!(is(given(None), &none, None), ("10.0.0.5/32".into(), "environment IP".into(), true));
    }

    #[test]
    fn without_any_address() {
        let e = |s| choose(s, &Method::FirstFound, &Host::default(), None).unwrap_err().to_string();
        assert!(
            e(AddressSetting::Autodetect).starts_with("no IPv4 address found: no interface has an IPv4 address that first-found takes")
        );
        assert!(e(AddressSetting::Off).starts_with("IP is none and the node has no annotation projectcalico.org/IPv4Address: set"));
    }
}
