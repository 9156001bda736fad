//! Versions of the specification, and what an attachment looks like in each.

use super::error::CniError;
use ipnet::{IpNet, Ipv4Net};
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;

/// The specification's versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V030,
    V031,
    V040,
    V100,
    V110,
}

impl Version {
    pub const ALL: [Version; 5] = [Version::V030, Version::V031, Version::V040, Version::V100, Version::V110];
    pub const LATEST: Version = Version::V110;

    pub const fn name(self) -> &'static str {
        match self {
            Version::V030 => "0.3.0",
            Version::V031 => "0.3.1",
            Version::V040 => "0.4.0",
            Version::V100 => "1.0.0",
            Version::V110 => "1.1.0",
        }
    }

    pub fn find(name: &str) -> Result<Version, CniError> {
        Version::ALL
            .into_iter()
            .find(|v| v.name() == name)
            .ok_or_else(|| CniError::Version { given: name.into(), supported: Version::ALL.map(Version::name).join(", ") })
    }

    /// The answer to VERSION, in a version of its own.
    pub fn report(self) -> Value {
        json!({ "cniVersion": self.name(), "supportedVersions": Version::ALL.map(Version::name) })
    }
}

/// An interface of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mac: Option<String>,
    pub mtu: Option<u32>,
    /// The network namespace; `None` on the host.
    pub sandbox: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub address: Ipv4Net,
    pub gateway: Option<Ipv4Addr>,
    /// Index into the interfaces.
    pub interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub dst: Ipv4Net,
    pub via: Option<Ipv4Addr>,
}

/// The result of an ADD: an interface plugin's, or an address plugin's, which has no interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    pub interfaces: Vec<Interface>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
    /// As it came.
    pub dns: Option<Value>,
}

impl Attachment {
    pub fn to_json(&self, version: Version) -> Value {
        let mut out = Map::new();
        out.insert("cniVersion".into(), json!(version.name()));
        if !self.interfaces.is_empty() {
            out.insert("interfaces".into(), self.interfaces.iter().map(|i| interface(i, version)).collect());
        }
        out.insert("ips".into(), self.addresses.iter().map(|a| address(a, version)).collect());
        if !self.routes.is_empty() {
            out.insert("routes".into(), self.routes.iter().map(route).collect());
        }
        out.insert("dns".into(), self.dns.clone().unwrap_or_else(|| json!({})));
        Value::Object(out)
    }

    /// Of any version. `what` is named in errors.
    pub fn from_json(v: &Value, what: &str) -> Result<Attachment, CniError> {
        let fault = |fault: String| CniError::Decode { what: what.into(), fault };
        if !v.is_object() {
            return Err(fault("an object is required".into()));
        }
        if v.get("ip4").is_some() || v.get("ip6").is_some() {
            return Err(fault("ip4 and ip6 are of version 0.2.0, which is not supported: set cniVersion to 0.3.1 or later".into()));
        }
        let text = |v: &Value, key: &str| v[key].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let interfaces = list(v, "interfaces").iter().map(|i| Interface {
            name: text(i, "name").unwrap_or_default(),
            mac: text(i, "mac"),
            mtu: i["mtu"].as_u64().and_then(|m| u32::try_from(m).ok()).filter(|m| *m > 0),
            sandbox: text(i, "sandbox"),
        });
        let addresses = list(v, "ips").iter().enumerate().map(|(n, a)| {
            Ok(Address {
                address: ipv4(&a["address"], &format!("ips[{n}].address")).map_err(fault)?,
                gateway: text(a, "gateway").and_then(|g| g.parse().ok()),
                interface: a["interface"].as_u64().map(|i| i as usize),
            })
        });
        let routes = list(v, "routes").iter().enumerate().map(|(n, r)| {
            Ok(Route { dst: ipv4(&r["dst"], &format!("routes[{n}].dst")).map_err(fault)?, via: text(r, "gw").and_then(|g| g.parse().ok()) })
        });
        Ok(Attachment {
            interfaces: interfaces.collect(),
            addresses: addresses.collect::<Result<_, CniError>>()?,
            routes: routes.collect::<Result<_, CniError>>()?,
            dns: v.get("dns").filter(|d| d.as_object().is_some_and(|d| !d.is_empty())).cloned(),
        })
    }
}

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v[key].as_array().map_or(&[], Vec::as_slice)
}

fn ipv4(v: &Value, path: &str) -> Result<Ipv4Net, String> {
    let text = v.as_str().ok_or_else(|| format!("{path}: a CIDR is required"))?;
    match text.parse::<IpNet>() {
        Ok(IpNet::V4(n)) => Ok(n),
        Ok(IpNet::V6(_)) => Err(format!("{path}: {text}: IPv6 is not supported")),
        Err(_) => Err(format!("{path}: {text:?} is not a CIDR")),
    }
}

fn interface(i: &Interface, version: Version) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), json!(i.name));
    out.extend(i.mac.iter().map(|m| ("mac".to_owned(), json!(m))));
    if version >= Version::V110 {
        out.extend(i.mtu.iter().map(|m| ("mtu".to_owned(), json!(m))));
    }
    out.extend(i.sandbox.iter().map(|s| ("sandbox".to_owned(), json!(s))));
    Value::Object(out)
}

fn address(a: &Address, version: Version) -> Value {
    let mut out = Map::new();
    if version < Version::V100 {
        out.insert("version".into(), json!("4"));
    }
    out.insert("address".into(), json!(a.address.to_string()));
    out.extend(a.gateway.iter().map(|g| ("gateway".to_owned(), json!(g.to_string()))));
    out.extend(a.interface.iter().map(|i| ("interface".to_owned(), json!(i))));
    Value::Object(out)
}

fn route(r: &Route) -> Value {
    let mut out = Map::new();
    out.insert("dst".into(), json!(r.dst.to_string()));
    out.extend(r.via.iter().map(|g| ("gw".to_owned(), json!(g.to_string()))));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Attachment {
        Attachment {
            interfaces: vec![
                Interface { name: "cali3745790aa7e".into(), mac: Some("ee:ee:ee:ee:ee:ee".into()), mtu: Some(1450), sandbox: None },
                Interface {
                    name: "eth0".into(),
                    mac: Some("92:7e:c4:15:b9:82".into()),
                    mtu: Some(1450),
                    sandbox: Some("/run/netns/x".into()),
                },
            ],
            addresses: vec![Address { address: "10.244.56.66/32".parse().unwrap(), gateway: None, interface: Some(1) }],
            routes: Vec::new(),
            dns: None,
        }
    }

    #[test]
    fn each_version_has_its_shape() {
        let of = |v: Version| sample().to_json(v);
        for v in [Version::V030, Version::V031, Version::V040] {
            assert_eq!(of(v)["ips"], json!([{ "version": "4", "address": "10.244.56.66/32", "interface": 1 }]));
            assert_eq!(of(v)["cniVersion"], v.name());
        }
        assert_eq!(of(Version::V100)["ips"], json!([{ "address": "10.244.56.66/32", "interface": 1 }]));
        assert_eq!(of(Version::V100)["interfaces"][1]["mtu"], Value::Null);
        assert_eq!(of(Version::V110)["interfaces"][1]["mtu"], 1450);
        assert_eq!(of(Version::V110)["interfaces"][0].get("sandbox"), None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for v in Version::ALL {
            let back = Attachment::from_json(&sample().to_json(v), "prevResult").unwrap();
            let mut want = sample();
            if v < Version::V110 {
                want.interfaces.iter_mut().for_each(|i| i.mtu = None);
            }
            assert_eq!(back, want, "{v:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let fault = |v: Value| Attachment::from_json(&v, "prevResult").unwrap_err().to_string();
        assert!(fault(json!([])).contains("an object is required"));
        assert!(fault(json!({ "ips": [{ "address": "10.0.0.300/32" }] })).contains("ips[0].address: \"10.0.0.300/32\" is not a CIDR"));
        assert!(fault(json!({ "ips": [{ "address": "fd00::1/128" }] })).contains("IPv6 is not supported"));
        assert!(fault(json!({ "ip4": {} })).contains("0.3.1 or later"));
        assert!(fault(json!({ "routes": [{}] })).contains("routes[0].dst"));
    }

    #[test]
    fn versions_are_found_by_name() {
        assert_eq!(Version::find("0.3.1").unwrap(), Version::V031);
        assert_eq!(Version::find("2.0.0").unwrap_err().code(), 1);
        assert_eq!(Version::V100.report()["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    }
}
