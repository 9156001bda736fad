//! The network configuration that a runtime passes on standard input: the specification's keys, Calico's, and a few
//! of our own. Keys that mean nothing here are left to whom they concern.

use super::error::CniError;
use super::result::{Attachment, Version};
use crate::control::config::{self, Config};
use crate::control::env::Environment;
use crate::control::yaml::{self, Field, FieldError};
use crate::port::shape::Limit;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long ADD waits for the daemon if the configuration does not say.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait that may be asked for, seconds: a runtime gives up after a few minutes.
const PATIENCE_MAX: u32 = 600;
const NODENAME_FILE: &str = "/var/lib/calico/nodename";
const MTU_FILE: &str = "/var/lib/calico/mtu";
const IPAM_LOCK: &str = "/var/run/calico/ipam.lock";
const API_SOCKET: &str = "/run/tortie/tortie.sock";

/// Who gives addresses out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipam {
    /// This program.
    BuiltIn,
    /// Another plugin, by name.
    Plugin(String),
}

/// What carries the pod's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    #[default]
    Veth,
    /// The daemon makes it.
    Tap,
}

/// Where objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datastore {
    /// Where the daemon's configuration says.
    Daemon(config::Datastore),
    /// A Kubernetes API server, by kubeconfig; `None`: as a pod of the cluster.
    Kubernetes { kubeconfig: Option<PathBuf> },
}

/// What the configuration comes to.
#[derive(Clone, Debug)]
pub struct Conf {
    pub version: Version,
    /// Of the network; part of handles.
    pub name: String,
    pub node: String,
    pub datastore: Datastore,
    /// The daemon's API socket.
    pub socket: PathBuf,
    pub ipam: Ipam,
    /// Names or CIDRs; empty: all that are meant for the node.
    pub pools: Vec<String>,
    pub device: Device,
    /// Bytes from L3 on; `None`: the file's, or the daemon's.
    pub mtu: Option<u16>,
    pub mtu_file: PathBuf,
    pub queues: u16,
    /// Whether the container forwards packets.
    pub forwarding: bool,
    /// Whether addresses that IPAM does not know may be asked for.
    pub addresses_without_ipam: bool,
    /// Whether floating IPs may be asked for.
    pub floating_ips: bool,
    /// Whether the default route is made also where the address plugin names routes.
    pub default_route: bool,
    /// On what the pod sends: `runtimeConfig.bandwidth`.
    pub egress: Option<Limit>,
    /// Bits per second of what it receives, which the plugin `bandwidth` limits.
    pub ingress: Option<u64>,
    pub patience: Duration,
    pub lock: PathBuf,
    pub log_level: Option<String>,
    pub log_file: Option<PathBuf>,
    pub previous: Option<Attachment>,
    /// `cni.dev/valid-attachments`: container and interface. `None` if it is not there.
    pub valid: Option<Vec<(String, String)>>,
    /// As it came, for other plugins.
    pub raw: Value,
}

/// The version alone, for answers to what could not be read.
pub fn version_of(text: &str) -> Version {
    let raw: Option<Value> = serde_json::from_str(text).ok();
    raw.and_then(|v| Version::find(v["cniVersion"].as_str()?).ok()).unwrap_or(Version::LATEST)
}

impl Conf {
    pub fn parse(text: &str) -> Result<Conf, CniError> {
        let decode = |fault: String| CniError::Decode { what: "network configuration".into(), fault };
        let raw: Value = serde_json::from_str(text).map_err(|e| decode(e.to_string()))?;
        let docs = yaml::documents(text).map_err(|e| decode(e.to_string()))?;
        let [doc] = docs.as_slice() else { return Err(decode("one JSON object is required".into())) };
        let root = Field::root(doc);
        // Missing means 0.1.0, says libcni.
        let version = Version::find(root.get("cniVersion")?.text()?.unwrap_or("0.1.0"))?;
        let daemon = daemon_config(&root)?;
        let ipam = root.get("ipam")?;
        refuse_ipv6(&ipam)?;
        let kind = ipam.get("type")?.text()?.unwrap_or("calico-ipam");
        let number =
            |key: &str, max: u32| -> Result<Option<u32>, FieldError> { Ok(root.get(key)?.number(0, max)?.filter(|n: &u32| *n > 0)) };
        let path = |key: &str, default: &str| -> Result<PathBuf, FieldError> { Ok(said(&root.get(key)?)?.unwrap_or(default).into()) };
        let previous = raw.get("prevResult").filter(|v| !v.is_null());
        let devices = [("veth", Device::Veth), ("tap", Device::Tap)];
        Ok(Conf {
            version,
            name: root.get("name")?.required_text()?.to_owned(),
            node: node(&root, daemon.as_ref())?,
            datastore: datastore(&root, daemon.as_ref())?,
            socket: match said(&root.get("api_socket")?)? {
                Some(path) => path.into(),
                None => daemon.as_ref().map_or_else(|| API_SOCKET.into(), |d| d.api.socket.clone()),
            },
            ipam: if matches!(kind, "calico-ipam" | "tortie-ipam") { Ipam::BuiltIn } else { Ipam::Plugin(plugin(&ipam, kind)?) },
            pools: texts(&ipam.get("ipv4_pools")?)?,
            device: root.get("device_type")?.one_of(&devices)?.unwrap_or_default(),
            mtu: number("mtu", 65535)?.and_then(|m| u16::try_from(m).ok()),
            mtu_file: path("mtu_file", MTU_FILE)?,
            queues: number("num_queues", 64)?.and_then(|n| u16::try_from(n).ok()).unwrap_or(1),
            forwarding: root.at(&["container_settings", "allow_ip_forwarding"])?.boolean()?.unwrap_or(false),
            addresses_without_ipam: root.at(&["feature_control", "ip_addrs_no_ipam"])?.boolean()?.unwrap_or(false),
            floating_ips: root.at(&["feature_control", "floating_ips"])?.boolean()?.unwrap_or(false),
            default_route: root.get("include_default_routes")?.boolean()?.unwrap_or(false),
            egress: egress(&root.at(&["runtimeConfig", "bandwidth"])?)?,
            ingress: bits(&root.at(&["runtimeConfig", "bandwidth", "ingressRate"])?)?.filter(|rate| *rate > 0),
            patience: number("policy_setup_timeout_seconds", PATIENCE_MAX)?.map_or(PATIENCE, |s| Duration::from_secs(s.into())),
            lock: path("ipam_lock_file", IPAM_LOCK)?,
            log_level: said(&root.get("log_level")?)?.map(str::to_lowercase),
            log_file: said(&root.get("log_file_path")?)?.map(PathBuf::from),
            previous: previous.map(|v| Attachment::from_json(v, "prevResult")).transpose()?,
            valid: valid(&root)?,
            raw,
        })
    }

    /// `NETWORK.CONTAINER`: what addresses are held under.
    pub fn handle(&self, container: &str) -> String {
        format!("{}.{container}", self.name)
    }
}

fn said<'a>(f: &Field<'a>) -> Result<Option<&'a str>, FieldError> {
    Ok(f.text()?.filter(|s| !s.is_empty()))
}

fn texts(f: &Field) -> Result<Vec<String>, FieldError> {
    f.items()?.iter().map(|i| i.required_text().map(str::to_owned)).collect()
}

/// Of another plugin: a file name, not a path.
fn plugin(ipam: &Field, kind: &str) -> Result<String, FieldError> {
    if kind.contains('/') || kind == "." || kind == ".." {
        return Err(ipam.get("type")?.error(format!("{kind} is not the name of a plugin")));
    }
    Ok(kind.to_owned())
}

/// The daemon's configuration: the one that is named, else the usual one if it is there and no kubeconfig says more.
fn daemon_config(root: &Field) -> Result<Option<Config>, CniError> {
    if let Some(path) = said(&root.get("config")?)? {
        return Ok(Some(Config::load(Path::new(path), &Environment::of_process())?));
    }
    let kubernetes = said(&root.get("datastore_type")?)? == Some("kubernetes") || root.at(&["kubernetes", "kubeconfig"])?.is_present();
    let usual = Path::new(config::DEFAULT_PATH);
    if kubernetes || !usual.exists() { Ok(None) } else { Ok(Some(Config::load(usual, &Environment::of_process())?)) }
}

fn datastore(root: &Field, daemon: Option<&Config>) -> Result<Datastore, CniError> {
    let kind = root.get("datastore_type")?;
    let kubeconfig = said(&root.at(&["kubernetes", "kubeconfig"])?)?.map(PathBuf::from);
    match (said(&kind)?, daemon) {
        (Some("kubernetes"), _) => Ok(Datastore::Kubernetes { kubeconfig }),
        (None, Some(daemon)) if kubeconfig.is_none() => Ok(Datastore::Daemon(daemon.datastore.clone())),
        (None, _) if kubeconfig.is_some() => Ok(Datastore::Kubernetes { kubeconfig }),
        (Some(other), _) => Err(kind.error(format!("{other} is not supported; set kubernetes, or leave it out and set config")).into()),
        (None, _) => Err(kind
            .error(format!(
                "missing, and there is no {}: set it to kubernetes, or set config to the daemon's configuration",
                config::DEFAULT_PATH
            ))
            .into()),
    }
}

/// By Calico's order: here, the file that the daemon writes, the daemon's configuration, the hostname.
fn node(root: &Field, daemon: Option<&Config>) -> Result<String, CniError> {
    if let Some(name) = said(&root.get("nodename")?)? {
        return Ok(name.to_owned());
    }
    let given = said(&root.get("nodename_file")?)?;
    if let (None, Some(daemon)) = (given, daemon) {
        return Ok(daemon.node.clone());
    }
    let file = Path::new(given.unwrap_or(NODENAME_FILE));
    match fs::read_to_string(file) {
        Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(CniError::File { path: file.into(), fault: e.to_string() }),
        _ => match daemon {
            Some(daemon) => Ok(daemon.node.clone()),
            None => config::hostname().map_err(super::error::io("read the hostname")),
        },
    }
}

fn refuse_ipv6(ipam: &Field) -> Result<(), CniError> {
    const WHY: &str = "only IPv4 is supported; leave it out";
    let unsupported = |key: &str, value: &str| CniError::Unsupported { key: format!("ipam.{key}"), value: value.into(), why: WHY };
    if flag(&ipam.get("assign_ipv6")?)? == Some(true) {
        return Err(unsupported("assign_ipv6", "true"));
    }
    if flag(&ipam.get("assign_ipv4")?)? == Some(false) {
        return Err(unsupported("assign_ipv4", "false"));
    }
    match texts(&ipam.get("ipv6_pools")?)? {
        pools if pools.is_empty() => Ok(()),
        pools => Err(unsupported("ipv6_pools", &pools.join(", "))),
    }
}

/// Calico has these two as text.
fn flag(f: &Field) -> Result<Option<bool>, FieldError> {
    match f.boolean() {
        Ok(v) => Ok(v),
        Err(_) => f.one_of(&[("true", true), ("false", false)]),
    }
}

/// Smallest burst, bits: the longest packet on an Ethernet of 1500 bytes.
const BURST_MIN: u64 = 1514 * 8;

/// A number of bits; `None`: absent.
fn bits(f: &Field) -> Result<Option<u64>, FieldError> {
    match f.integer() {
        None if f.is_present() => Err(f.error("a whole number of bits is required")),
        None => Ok(None),
        Some(n) => u64::try_from(n).map(Some).map_err(|_| f.error("must not be negative")),
    }
}

/// What the capability `bandwidth` says of packets that the pod sends; what it receives is the plugin bandwidth's part.
fn egress(f: &Field) -> Result<Option<Limit>, FieldError> {
    let (rate, burst) = (f.get("egressRate")?, f.get("egressBurst")?);
    match (bits(&rate)?.unwrap_or(0), bits(&burst)?.unwrap_or(0)) {
        (0, _) => Ok(None),
        (bits, _) if bits < 1000 => Err(rate.error(format!("{bits} bits per second is less than 1000, the least that is supported"))),
        (_, bits) if bits < BURST_MIN => {
            Err(burst.error(format!("{bits} bits is less than one packet ({BURST_MIN} bits): nothing could be sent")))
        }
        (rate, burst) => Ok(Some(Limit { rate, burst })),
    }
}

fn valid(root: &Field) -> Result<Option<Vec<(String, String)>>, FieldError> {
    let all = root.get("cni.dev/valid-attachments")?;
    if !all.is_present() {
        return Ok(None);
    }
    let one = |f: &Field| -> Result<(String, String), FieldError> {
        Ok((f.get("containerID")?.required_text()?.to_owned(), f.get("ifname")?.required_text()?.to_owned()))
    };
    all.items()?.iter().map(one).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<Conf, CniError> {
        Conf::parse(&format!(r#"{{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"tortie","nodename":"n1"{more}}}"#))
    }

    #[test]
    fn calicos_configuration_is_read() {
        let c = parse(
            r#","log_level":"Info","log_file_path":"/var/log/calico/cni/cni.log","datastore_type":"kubernetes","mtu":1440,
            "ipam":{"type":"calico-ipam","assign_ipv4":"true","assign_ipv6":"false","ipv4_pools":["default-ipv4-ippool","10.9.0.0/16"]},
            "policy":{"type":"k8s"},"kubernetes":{"kubeconfig":"/etc/cni/net.d/calico-kubeconfig"},
            "container_settings":{"allow_ip_forwarding":true},"feature_control":{"ip_addrs_no_ipam":true},"num_queues":4,
            "policy_setup_timeout_seconds":5"#,
        )
        .unwrap();
        assert_eq!((c.node.as_str(), c.handle("abc").as_str()), ("n1", "k8s-pod-network.abc"));
        assert_eq!(c.datastore, Datastore::Kubernetes { kubeconfig: Some("/etc/cni/net.d/calico-kubeconfig".into()) });
        assert_eq!((c.mtu, c.queues, c.forwarding, c.addresses_without_ipam), (Some(1440), 4, true, true));
        assert_eq!((c.ipam, c.pools.len(), c.device), (Ipam::BuiltIn, 2, Device::Veth));
        assert_eq!((c.patience, c.log_level.as_deref()), (Duration::from_secs(5), Some("info")));
    }

    #[test]
    fn defaults() {
        let c = parse(r#","datastore_type":"kubernetes","mtu":0,"device_type":"tap","ipam":{"type":"host-local"}"#).unwrap();
        assert_eq!((c.mtu, c.queues, c.patience, c.device), (None, 1, PATIENCE, Device::Tap));
        assert_eq!((c.ipam, c.valid, c.previous), (Ipam::Plugin("host-local".into()), None, None));
        assert_eq!((c.lock.to_str(), c.mtu_file.to_str()), (Some("/var/run/calico/ipam.lock"), Some("/var/lib/calico/mtu")));
    }

    #[test]
    fn the_daemons_configuration_says_where_things_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.yaml");
        fs::write(&file, "node: n7\ndatastore: {path: store}\nuplink: {interface: eth0}\napi: {socket: t.sock}\n").unwrap();
        let text = format!(r#"{{"cniVersion":"0.3.1","name":"x","type":"tortie","config":"{}"}}"#, file.display());
        let c = Conf::parse(&text).unwrap();
        assert_eq!((c.node.as_str(), c.socket), ("n7", dir.path().join("t.sock")));
        assert!(matches!(c.datastore, Datastore::Daemon(_)));
    }

    #[test]
    fn ipv6_is_refused_by_key_and_value() {
        for (more, want) in [
            (r#"{"assign_ipv6":"true"}"#, "ipam.assign_ipv6: true: only IPv4"),
            (r#"{"assign_ipv6":true}"#, "ipam.assign_ipv6: true: only IPv4"),
            (r#"{"assign_ipv4":"false"}"#, "ipam.assign_ipv4: false: only IPv4"),
            (r#"{"ipv6_pools":["v6"]}"#, "ipam.ipv6_pools: v6: only IPv4"),
        ] {
            let e = parse(&format!(r#","datastore_type":"kubernetes","ipam":{more}"#)).unwrap_err();
            assert_eq!(e.code(), 2);
            assert!(e.to_string().starts_with(want), "{e}");
        }
    }

    #[test]
    fn faults_have_codes_and_keys() {
        for (text, code, want) in [
            ("{", 6, "network configuration"),
            ("[]", 7, "a mapping is required"),
            (r#"{"name":"a","type":"tortie"}"#, 1, "\"0.1.0\" is not supported"),
            (r#"{"cniVersion":"9.0.0","name":"a"}"#, 1, "one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0 is"),
            (r#"{"cniVersion":"1.0.0","datastore_type":"kubernetes"}"#, 7, "name: missing"),
            (r#"{"cniVersion":"1.0.0","name":"a","nodename":"n","datastore_type":"etcdv3"}"#, 7, "datastore_type: etcdv3 is not supported"),
            (r#"{"cniVersion":"1.0.0","name":"a","nodename":"n","datastore_type":"kubernetes","mtu":70000}"#, 7, "mtu: a whole number"),
            (r#"{"cniVersion":"1.0.0","name":"a","datastore_type":"kubernetes","nodename":"n","device_type":"sriov"}"#, 7, "device_type"),
            (r#"{"cniVersion":"1.0.0","name":"a","datastore_type":"kubernetes","nodename":"n","ipam":{"type":"../x"}}"#, 7, "ipam.type"),
            (r#"{"cniVersion":"1.0.0","name":"a","config":"/nonexistent/n.yaml"}"#, 7, "/nonexistent/n.yaml"),
        ] {
            let e = Conf::parse(text).unwrap_err();
            assert_eq!(e.code(), code, "{text}: {e}");
            assert!(e.to_string().contains(want), "{text}: {e}");
        }
    }

    #[test]
    fn limits_on_what_a_pod_sends() {
        let limit = |bandwidth: &str| {
            parse(&format!(r#","datastore_type":"kubernetes","runtimeConfig":{{"bandwidth":{bandwidth}}}"#)).map(|c| (c.egress, c.ingress))
        };
        assert_eq!(
            limit(r#"{"egressRate":10000000,"egressBurst":2147483647}"#).unwrap(),
            (Some(Limit { rate: 10_000_000, burst: 2_147_483_647 }), None)
        );
        assert_eq!(limit(r#"{"ingressRate":10000000,"ingressBurst":1}"#).unwrap(), (None, Some(10_000_000)));
        for (bad, want) in [
            (r#"{"egressRate":10,"egressBurst":100000}"#, "runtimeConfig.bandwidth.egressRate: 10 bits per second"),
            (r#"{"egressRate":10000000}"#, "runtimeConfig.bandwidth.egressBurst: 0 bits is less than one packet"),
            (r#"{"egressRate":-1}"#, "must not be negative"),
            (r#"{"egressRate":"10M"}"#, "a whole number of bits"),
        ] {
            let e = limit(bad).unwrap_err();
            assert!(e.code() == 7 && e.to_string().contains(want), "{e}");
        }
    }

    #[test]
    fn attachments_that_stay() {
        let c = parse(r#","datastore_type":"kubernetes","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#).unwrap();
        assert_eq!(c.valid, Some(vec![("a".into(), "eth0".into())]));
        assert!(parse(r#","datastore_type":"kubernetes","cni.dev/valid-attachments":[{"containerID":"a"}]"#).is_err());
    }
}
