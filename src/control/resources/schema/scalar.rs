//! Texts of a form of their own. Empty text stands for a field that is not set.

use crate::control::selector::Selector;
use crate::wire::Mac;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Of an object.
    Name,
    /// An address with its prefix, without bits beyond it.
    Cidr,
    /// The same, or one address.
    CidrOrAddress,
    /// A host's address, with or without its prefix.
    HostAddress,
    Address,
    Ipv4,
    /// An address, with a port or without.
    Peer,
    Mac,
    Selector,
    /// As Go writes them: 90s, 1m30s.
    Duration,
    AsNumber,
    Protocol,
    /// A number, `min:max`, or a name.
    Port,
    /// A number or `min:max`.
    PortRange,
    Community,
    Interface,
}

impl Form {
    /// What a value of this form is.
    pub fn name(self) -> &'static str {
        match self {
            Form::Name => "a name (lower-case letters, digits, dashes and dots)",
            Form::Cidr => "a CIDR",
            Form::CidrOrAddress => "a CIDR or an address",
            Form::HostAddress => "an address with its prefix",
            Form::Address => "an address",
            Form::Ipv4 => "an IPv4 address",
            Form::Peer => "ADDRESS, IPV4:PORT or [IPV6]:PORT",
            Form::Mac => "a MAC address (six hex octets, like 66:b6:a5:9d:e1:c9)",
            Form::Selector => "a selector",
            Form::Duration => "a duration, like 90s or 1m30s",
            Form::AsNumber => "an AS number from 0 to 4294967295",
            Form::Protocol => "a protocol: TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255",
            Form::Port => "a port: a number from 0 to 65535, MIN:MAX or a name",
            Form::PortRange => "a port from 0 to 65535, or MIN:MAX",
            Form::Community => "a community: ASN:VALUE, or ASN:VALUE:VALUE",
            Form::Interface => "an interface name of at most 15 characters",
        }
    }

    pub fn takes_numbers(self) -> bool {
        matches!(self, Form::AsNumber | Form::Protocol | Form::Port | Form::PortRange)
    }

    /// What is wrong with a value.
    pub fn fault(self, text: &str) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        let fits = match self {
            Form::Selector => {
                return text.parse::<Selector>().err().map(|e| format!("not a selector: {} is expected at character {}", e.wanted, e.at));
            }
            Form::Cidr | Form::CidrOrAddress => return cidr_fault(self, text),
            Form::Name => is_name(text),
            Form::HostAddress => text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok(),
            Form::Address => text.parse::<IpAddr>().is_ok(),
            Form::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Form::Peer => text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok_and(|a| a.port() > 0),
            Form::Mac => text.parse::<Mac>().is_ok(),
            Form::Duration => is_duration(text),
            Form::AsNumber => is_as_number(text),
            Form::Protocol => is_protocol(text),
            Form::Port => is_port_range(text) || is_port_name(text),
            Form::PortRange => is_port_range(text),
            Form::Community => is_community(text),
            Form::Interface => text.len() <= 15 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':'),
        };
        if fits { None } else { Some(format!("{} is required", self.name())) }
    }
}

fn cidr_fault(form: Form, text: &str) -> Option<String> {
    match text.parse::<IpNet>() {
        Ok(net) if net == net.trunc() => None,
        Ok(net) => Some(format!("not strictly masked: it has bits beyond its prefix; {} is meant?", net.trunc())),
        Err(_) if form == Form::CidrOrAddress && text.parse::<IpAddr>().is_ok() => None,
        Err(_) => Some(format!("{} is required", form.name())),
    }
}

/// DNS subdomains (RFC 1123), as the Kubernetes API asks for.
fn is_name(text: &str) -> bool {
    let part = |p: &str| {
        let inner = p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && !p.is_empty() && !p.starts_with('-') && !p.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// Numbers, each with a unit: `1h15m30.5s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let Some(unit) = ["ms", "us", "ns", "h", "m", "s"].iter().find(|u| rest[number..].starts_with(**u)) else { return false };
        if rest[..number].parse::<f64>().is_err() {
            return false;
        }
        rest = &rest[number + unit.len()..];
    }
    !text.is_empty()
}

/// 64512, or 0.64512 in two halves.
fn is_as_number(text: &str) -> bool {
    match text.split_once('.') {
        Some((high, low)) => high.parse::<u16>().is_ok() && low.parse::<u16>().is_ok(),
        None => text.parse::<u32>().is_ok(),
    }
}

fn is_protocol(text: &str) -> bool {
    ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"].iter().any(|p| p.eq_ignore_ascii_case(text))
        || text.parse::<u8>().is_ok_and(|n| n > 0)
}

fn is_port_range(text: &str) -> bool {
    match text.split_once(':') {
        Some((min, max)) => matches!((min.parse::<u16>(), max.parse::<u16>()), (Ok(min), Ok(max)) if min <= max),
        None => text.parse::<u16>().is_ok(),
    }
}

fn is_port_name(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    plain && text.len() <= 128 && text.bytes().any(|b| b.is_ascii_alphabetic())
}

fn is_community(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.len() {
        2 => parts.iter().all(|p| p.parse::<u16>().is_ok()),
        3 => parts.iter().all(|p| p.parse::<u32>().is_ok()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_and_what_does_not() {
        let cases: &[(Form, &[&str], &[&str])] = &[
            (Form::Name, &["a", "node-1.example.com"], &["A", "a_b", "-a", "a..b", "a/b"]),
            (Form::Cidr, &["10.0.0.0/8", "fd00::/48"], &["10.0.0.1", "10.0.0.1/8", "x"]),
            (Form::CidrOrAddress, &["10.0.0.0/8", "10.0.0.1"], &["10.0.0.1/8", "10.0.0.300"]),
            (Form::HostAddress, &["10.0.0.1/24", "fd00::1", "10.0.0.1"], &["10.0.0.1/33"]),
            (Form::Peer, &["10.0.0.1", "10.0.0.1:179", "[fd00::1]:179", "fd00::1"], &["10.0.0.1:0", "host:179", "10.0.0.1:99999"]),
            (Form::Selector, &["all()", "has(a) && b == 'c'"], &["has(", "a = 'b'"]),
            (Form::Duration, &["90s", "1m30s", "500ms", "1.5h"], &["90", "s", "1 m", "1x"]),
            (Form::AsNumber, &["64512", "4294967295", "1.10"], &["4294967296", "-1", "a", "1.70000"]),
            (Form::Protocol, &["TCP", "tcp", "ICMPv6", "132"], &["0", "256", "HTTP"]),
            (Form::Port, &["80", "1000:2000", "http"], &["70000", "2000:1000", "a b"]),
            (Form::PortRange, &["80", "1000:2000"], &["http"]),
            (Form::Community, &["65001:100", "65001:1:2"], &["65001", "70000:1", "a:b"]),
            (Form::Interface, &["eth0"], &["a-name-too-long-for-it", "a/b"]),
        ];
        for (form, good, bad) in cases {
            for text in *good {
                assert_eq!(form.fault(text), None, "{form:?} {text}");
            }
            for text in *bad {
                assert!(form.fault(text).is_some(), "{form:?} {text}");
            }
            assert_eq!(form.fault(""), None);
        }
    }
}
