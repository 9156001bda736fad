//! What the pod, its namespace and the configuration ask for: pools, addresses, floating IPs, a hardware address. By Calico's
//! annotations and its order: the pod's, then the namespace's, then the configuration's.

use super::conf::{Conf, Ipam};
use super::env::Container;
use super::error::CniError;
use crate::wire::Mac;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};

const PREFIX: &str = "cni.projectcalico.org/";

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any of these pools (names or CIDRs); of all that are meant for the node if there are none.
    Pools(Vec<String>),
    /// Exactly this one, from IPAM.
    Assigned(Ipv4Addr),
    /// Exactly this one, whatever IPAM knows of it.
    Unmanaged(Ipv4Addr),
    /// What another plugin gives.
    Plugin(String),
}

/// All that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub wanted: Wanted,
    /// Addresses that others are to reach the pod by, too.
    pub floating: Vec<Ipv4Addr>,
    pub mac: Option<Mac>,
}

impl Request {
    /// `pod` and `namespace` are the Kubernetes objects, or `Null`.
    pub fn new(conf: &Conf, container: &Container, pod: &Value, namespace: &Value) -> Result<Request, CniError> {
        let pods = |key: &str| annotation(pod, key);
        let either = |key: &str| pods(key).or_else(|| annotation(namespace, key));
        if let Some(value) = either("ipv6pools") {
            return Err(unsupported_family("ipv6pools", value));
        }
        if let Some(value) = either("ipFamilies")
            && texts("ipFamilies", value)?.iter().any(|f| f != "IPv4")
        {
            return Err(unsupported_family("ipFamilies", value));
        }
        let floating = pods("floatingIPs").map(|value| floating_ips(conf, value)).transpose()?.unwrap_or_default();
        let mac = pods("hwAddr").map(hardware_address).transpose()?;
        let wanted = match (pods("ipAddrs"), pods("ipAddrsNoIpam")) {
            (Some(a), Some(b)) => return Err(refused("ipAddrs", a, &format!("and ipAddrsNoIpam ({b}) exclude each other: remove one"))),
            (Some(value), None) => Wanted::Assigned(built_in(conf, "ipAddrs", value).and_then(|()| one_address("ipAddrs", value))?),
            (None, Some(value)) => {
                built_in(conf, "ipAddrsNoIpam", value)?;
                if !conf.addresses_without_ipam {
                    return Err(refused("ipAddrsNoIpam", value, "is not enabled: set feature_control.ip_addrs_no_ipam to true"));
                }
                Wanted::Unmanaged(one_address("ipAddrsNoIpam", value)?)
            }
            (None, None) => general(conf, container, either("ipv4pools"))?,
        };
        Ok(Request { wanted, floating, mac })
    }
}

fn general(conf: &Conf, container: &Container, pools: Option<&str>) -> Result<Wanted, CniError> {
    match (&conf.ipam, container.args.ip) {
        (Ipam::Plugin(name), _) => Ok(Wanted::Plugin(name.clone())),
        (Ipam::BuiltIn, Some(IpAddr::V4(ip))) => Ok(Wanted::Assigned(ip)),
        (Ipam::BuiltIn, Some(ip)) => {
            Err(CniError::Unsupported { key: "CNI_ARGS IP".into(), value: ip.to_string(), why: "only IPv4 is supported" })
        }
        (Ipam::BuiltIn, None) => match pools {
            Some(value) => Ok(Wanted::Pools(texts("ipv4pools", value)?)),
            None => Ok(Wanted::Pools(conf.pools.clone())),
        },
    }
}

/// An annotation of the prefix that says something.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][format!("{PREFIX}{key}")].as_str().filter(|v| !v.is_empty())
}

fn refused(key: &str, value: &str, fault: &str) -> CniError {
    CniError::Refused { what: format!("annotation {PREFIX}{key}"), fault: format!("{value} {fault}") }
}

fn unsupported_family(key: &str, value: &str) -> CniError {
    CniError::Unsupported { key: format!("annotation {PREFIX}{key}"), value: value.into(), why: "only IPv4 is supported" }
}

/// These annotations mean IPAM's own addresses.
fn built_in(conf: &Conf, key: &str, value: &str) -> Result<(), CniError> {
    match &conf.ipam {
        Ipam::BuiltIn => Ok(()),
        Ipam::Plugin(name) => Err(refused(key, value, &format!("cannot be had with ipam.type {name}: set tortie-ipam, or remove it"))),
    }
}

fn texts(key: &str, value: &str) -> Result<Vec<String>, CniError> {
    serde_json::from_str(value).map_err(|_| refused(key, value, "is not a JSON list of texts"))
}

fn addresses(key: &str, value: &str) -> Result<Vec<IpAddr>, CniError> {
    let parse = |a: &String| a.parse().map_err(|_| refused(key, value, &format!("has {a:?}, which is not an address")));
    texts(key, value)?.iter().map(parse).collect()
}

fn floating_ips(conf: &Conf, value: &str) -> Result<Vec<Ipv4Addr>, CniError> {
    const KEY: &str = "floatingIPs";
    if !conf.floating_ips {
        return Err(refused(KEY, value, "is not enabled: set feature_control.floating_ips to true"));
    }
    let v4 = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() => {
            Err(refused(KEY, value, &format!("has {ip}, which is not an address that a pod can be reached by")))
        }
        IpAddr::V4(ip) => Ok(*ip),
        IpAddr::V6(_) => Err(unsupported_family(KEY, value)),
    };
    addresses(KEY, value)?.iter().map(v4).collect()
}

fn one_address(key: &str, value: &str) -> Result<Ipv4Addr, CniError> {
    let parsed = addresses(key, value)?;
    match parsed.as_slice() {
        [IpAddr::V4(ip)] => Ok(*ip),
        all if all.iter().any(IpAddr::is_ipv6) => Err(unsupported_family(key, value)),
        _ => Err(refused(key, value, "has not exactly one address")),
    }
}

fn hardware_address(value: &str) -> Result<Mac, CniError> {
    let mac: Mac = value.parse().map_err(|_| refused("hwAddr", value, "is not a MAC address"))?;
    if mac.is_group() || mac == Mac([0; 6]) {
        Err(refused("hwAddr", value, "is not an address that one interface can have"))
    } else {
        Ok(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::env::Args;
    use serde_json::json;

    fn ask(conf: &str, ip: Option<&str>, pod: Value, namespace: Value) -> Result<Request, CniError> {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"x","nodename":"n","datastore_type":"kubernetes"{conf}}}"#);
        let args = Args { ip: ip.map(|i| i.parse().unwrap()), ..Args::default() };
        let container = Container { id: "c".into(), interface: "eth0".into(), netns: None, args };
        let object = |annotations: Value| json!({ "metadata": { "annotations": annotations } });
        Request::new(&Conf::parse(&text).unwrap(), &container, &object(pod), &object(namespace))
    }

    fn wanted(conf: &str, ip: Option<&str>, pod: Value, namespace: Value) -> Wanted {
        ask(conf, ip, pod, namespace).unwrap().wanted
    }

    #[test]
    fn the_pod_comes_before_the_namespace_before_the_configuration() {
        let conf = r#","ipam":{"ipv4_pools":["c"]}"#;
        let pools = |v: &str| json!({ "cni.projectcalico.org/ipv4pools": v });
        let list = |l: &[&str]| Wanted::Pools(l.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(wanted(conf, None, pools(r#"["a"]"#), pools(r#"["b"]"#)), list(&["a"]));
        assert_eq!(wanted(conf, None, pools(""), pools(r#"["b","10.0.0.0/8"]"#)), list(&["b", "10.0.0.0/8"]));
        assert_eq!(wanted(conf, None, json!({}), json!({})), list(&["c"]));
        assert_eq!(wanted("", None, json!({}), json!({})), list(&[]));
        assert!(ask("", None, pools("a"), json!({})).unwrap_err().to_string().contains("ipv4pools: a is not a JSON list"));
    }

    #[test]
    fn addresses_by_annotation_or_argument() {
        let fixed = json!({ "cni.projectcalico.org/ipAddrs": "[\"10.244.0.9\"]" });
        let free = json!({ "cni.projectcalico.org/ipAddrsNoIpam": "[\"10.9.0.1\"]" });
        assert_eq!(wanted("", Some("10.244.0.8"), json!({}), json!({})), Wanted::Assigned([10, 244, 0, 8].into()));
        assert_eq!(wanted("", Some("10.244.0.8"), fixed.clone(), json!({})), Wanted::Assigned([10, 244, 0, 9].into()));
        let allowed = r#","feature_control":{"ip_addrs_no_ipam":true}"#;
        assert_eq!(wanted(allowed, None, free.clone(), json!({})), Wanted::Unmanaged([10, 9, 0, 1].into()));
        let host_local = r#","ipam":{"type":"host-local"}"#;
        assert_eq!(wanted(host_local, None, json!({}), json!({})), Wanted::Plugin("host-local".into()));
        let fault = |conf: &str, pod: &Value| ask(conf, None, pod.clone(), json!({})).unwrap_err().to_string();
        assert!(fault("", &free).contains("set feature_control.ip_addrs_no_ipam to true"));
        assert!(fault(host_local, &fixed).contains("cannot be had with ipam.type host-local"));
        let mut both = fixed.clone();
        both["cni.projectcalico.org/ipAddrsNoIpam"] = json!("[\"10.9.0.1\"]");
        assert!(fault(allowed, &both).contains("exclude each other"));
        for (value, want) in
            [("[]", "not exactly one"), ("[\"10.0.0.1\",\"10.0.0.2\"]", "not exactly one"), ("[\"x\"]", "\"x\", which is not an address")]
        {
            assert!(fault("", &json!({ "cni.projectcalico.org/ipAddrs": value })).contains(want), "{value}");
        }
    }

    #[test]
    fn floating_ips_are_enabled_by_the_configuration() {
        let allowed = r#","feature_control":{"floating_ips":true}"#;
        let pod = |v: &str| json!({ "cni.projectcalico.org/floatingIPs": v });
        let ask = |conf: &str, value: &str| ask(conf, None, pod(value), json!({})).map(|r| r.floating);
        assert_eq!(ask(allowed, r#"["192.0.2.7","192.0.2.8"]"#).unwrap(), [Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 8)]);
        assert!(ask(allowed, "").unwrap().is_empty());
        for (conf, value, want) in [
            ("", r#"["192.0.2.7"]"#, "floatingIPs: [\"192.0.2.7\"] is not enabled: set feature_control.floating_ips to true"),
            (allowed, "192.0.2.7", "is not a JSON list"),
            (allowed, r#"["192.0.2.0/24"]"#, "which is not an address"),
            (allowed, r#"["224.0.0.1"]"#, "224.0.0.1, which is not an address that a pod can be reached by"),
            (allowed, r#"["fd00::7"]"#, "only IPv4 is supported"),
        ] {
            let e = ask(conf, value).unwrap_err().to_string();
            assert!(e.contains(want), "{value}: {e}");
        }
    }

    #[test]
    fn ipv6_is_refused_wherever_it_is_asked_for() {
        for (key, value) in [
            ("ipAddrs", "[\"fd00::1\"]"),
            ("ipAddrs", "[\"10.0.0.1\",\"fd00::1\"]"),
            ("ipv6pools", "[\"a\"]"),
            ("ipFamilies", "[\"IPv4\",\"IPv6\"]"),
        ] {
            let e = ask("", None, json!({ format!("cni.projectcalico.org/{key}"): value }), json!({})).unwrap_err();
            assert!(e.code() == 2 && e.to_string().contains(key) && e.to_string().contains("only IPv4"), "{e}");
        }
        assert_eq!(ask("", Some("fd00::1"), json!({}), json!({})).unwrap_err().code(), 2);
        assert!(ask("", None, json!({ "cni.projectcalico.org/ipFamilies": "[\"IPv4\"]" }), json!({})).is_ok());
    }

    #[test]
    fn hardware_addresses() {
        let mac = |v: &str| ask("", None, json!({ "cni.projectcalico.org/hwAddr": v }), json!({})).map(|r| r.mac);
        assert_eq!(mac("02:00:00:00:00:05").unwrap(), Some(Mac([2, 0, 0, 0, 0, 5])));
        assert!(mac("01:00:00:00:00:05").unwrap_err().to_string().contains("one interface can have"));
        assert!(mac("nope").unwrap_err().to_string().contains("not a MAC"));
    }
}
