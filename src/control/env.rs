//! The environment of calico/node: every variable it reads is known here, and either means the same, or is listed as
//! ignored with the reason. The environment goes over the configuration file, and `FELIX_*` over FelixConfiguration.

use super::model::FelixConfiguration;
use super::node::detect::Method;
use super::node::settings::{AddressSetting, Networking, PoolModes, PoolSetting, Settings};
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A variable whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {variable}={value:?}: {fault}")]
pub struct EnvError {
    pub variable: String,
    pub value: String,
    pub fault: String,
}

/// A variable that is set and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    pub variable: String,
    pub value: String,
    pub reason: &'static str,
}

/// A process's variables. An empty value counts as none, as it does for calico/node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's. What is not UTF-8 is left out: no variable that is read may hold it.
    pub fn of_process() -> Environment {
        let text = |(k, v): (std::ffi::OsString, std::ffi::OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
        std::env::vars_os().filter_map(text).collect()
    }

    pub fn get(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    fn set(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.keys().filter_map(|k| self.get(k).map(|v| (k.as_str(), v)))
    }

    /// What a variable says by `read`; `None` if it is not set.
    pub fn read<T>(&self, variable: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, EnvError> {
        let Some(value) = self.get(variable) else { return Ok(None) };
        let fault = |fault| EnvError { variable: variable.into(), value: value.into(), fault };
        read(value).map(Some).map_err(fault)
    }

    fn flag(&self, variable: &str, default: bool) -> Result<bool, EnvError> {
        Ok(self.read(variable, flag)?.unwrap_or(default))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Environment {
        Environment(variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// Whether a variable belongs to calico/node: one that a program started for something else must not inherit.
pub fn is_calicos(variable: &str) -> bool {
    VARIABLES.iter().any(|(name, _)| *name == variable) || variable.starts_with("CALICO_") || is_felix(variable)
}

/// What a variable is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Read in every case.
    Always,
    /// Read where the node describes itself in the datastore: not with a folder of manifests.
    Start,
    /// Asks for what is so in any case.
    Given,
    Ignored(&'static str),
}

const NO_IPV6: &str = "IPv6 is not supported yet";
const NO_BGP: &str = "BGP is not spoken yet";
const NO_FELIX: &str = "this setting of Felix has no meaning here yet";
const UNKNOWN: &str = "not a variable that calico/node is known to read";
const NO_SERVER: &str = "the datastore is a folder of manifests";
const NOT_WRITTEN: &str = "nothing is written to a folder of manifests";

/// The variables of calico/node, `FELIX_*` aside.
const VARIABLES: [(&str, Use); 35] = [
    ("NODENAME", Use::Always),
    ("HOSTNAME", Use::Always),
    ("DATASTORE_TYPE", Use::Always),
    ("KUBECONFIG", Use::Always),
    ("WAIT_FOR_DATASTORE", Use::Given),
    ("CALICO_NETWORKING_BACKEND", Use::Start),
    ("CLUSTER_TYPE", Use::Start),
    ("IP", Use::Start),
    ("IP_AUTODETECTION_METHOD", Use::Start),
    ("AUTODETECT_POLL_INTERVAL", Use::Start),
    ("DISABLE_NODE_IP_CHECK", Use::Start),
    ("AS", Use::Start),
    ("NO_DEFAULT_POOLS", Use::Start),
    ("CALICO_IPV4POOL_CIDR", Use::Start),
    ("CALICO_IPV4POOL_BLOCK_SIZE", Use::Start),
    ("CALICO_IPV4POOL_IPIP", Use::Start),
    ("CALICO_IPV4POOL_VXLAN", Use::Start),
    ("CALICO_IPV4POOL_NAT_OUTGOING", Use::Start),
    ("CALICO_IPV4POOL_NODE_SELECTOR", Use::Start),
    ("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", Use::Start),
    ("CALICO_K8S_NODE_REF", Use::Start),
    ("IP6", Use::Ignored(NO_IPV6)),
    ("IP6_AUTODETECTION_METHOD", Use::Ignored(NO_IPV6)),
    ("CALICO_IPV6POOL_CIDR", Use::Ignored(NO_IPV6)),
    ("CALICO_IPV6POOL_BLOCK_SIZE", Use::Ignored(NO_IPV6)),
    ("CALICO_IPV6POOL_VXLAN", Use::Ignored(NO_IPV6)),
    ("CALICO_IPV6POOL_NAT_OUTGOING", Use::Ignored(NO_IPV6)),
    ("CALICO_IPV6POOL_NODE_SELECTOR", Use::Ignored(NO_IPV6)),
    ("CALICO_IPV6POOL_DISABLE_BGP_EXPORT", Use::Ignored(NO_IPV6)),
    ("CALICO_ROUTER_ID", Use::Ignored(NO_BGP)),
    ("CALICO_ADVERTISE_CLUSTER_IPS", Use::Ignored(NO_BGP)),
    ("CALICO_MANAGE_CNI", Use::Ignored("CNI plugin and its configuration are installed from outside")),
    ("CALICO_STARTUP_LOGLEVEL", Use::Ignored("FELIX_LOGSEVERITYSCREEN sets the log level from the start")),
    ("CALICO_DISABLE_FILE_LOGGING", Use::Ignored("log.format in the configuration says where the log goes")),
    ("CALICO_NODENAME_FILE", Use::Ignored("calico.dir in the configuration names the folder")),
];

impl Environment {
    /// Every variable that is set, belongs to calico/node and changes nothing. `writes`: whether the node describes
    /// itself in the datastore.
    pub fn ignored(&self, writes: bool) -> Vec<Ignored> {
        let mut out = Vec::new();
        for (variable, value) in self.set() {
            let reason = match VARIABLES.iter().find(|(name, _)| *name == variable) {
                Some((_, Use::Ignored(_))) if variable == "IP6" && value == "none" => continue,
                Some((_, Use::Ignored(reason))) => reason,
                Some((_, Use::Start)) if !writes => NOT_WRITTEN,
                Some(("KUBECONFIG", _)) if !writes => NO_SERVER,
                Some((_, Use::Start)) if variable == "CALICO_NETWORKING_BACKEND" && value == "bird" => NO_BGP,
                Some(_) => continue,
                None if felix_setting(variable).is_some() => continue,
                None if is_felix(variable) => NO_FELIX,
                None if variable.starts_with("CALICO_") => UNKNOWN,
                None => continue,
            };
            out.push(Ignored { variable: variable.into(), value: value.into(), reason });
        }
        out
    }

    /// The node's name, and the variable that gives it: NODENAME as it is.
    pub fn node_name(&self) -> Option<&str> {
        self.get("NODENAME")
    }

    /// The name of last resort before the kernel's hostname: HOSTNAME in lower case.
    pub fn host_name(&self) -> Option<String> {
        self.get("HOSTNAME").map(str::to_lowercase)
    }

    /// Whether DATASTORE_TYPE asks for Kubernetes whatever the file says.
    pub fn wants_kubernetes(&self) -> Result<bool, EnvError> {
        let kind = |value: &str| match value.to_lowercase().as_str() {
            "kubernetes" => Ok(true),
            // The verbs' word for a folder; which one, the daemon's configuration says.
            "file" => Ok(false),
            "etcdv3" => Err("etcd is not supported; kubernetes is, or a folder of manifests in the configuration".to_owned()),
            _ => Err("kubernetes or file is required".to_owned()),
        };
        Ok(self.read("DATASTORE_TYPE", kind)?.unwrap_or(false))
    }

    /// How the node describes itself in the datastore.
    pub fn settings(&self) -> Result<Settings, EnvError> {
        let defaults = Settings::default();
        Ok(Settings {
            address: self.read("IP", address)?.unwrap_or_default(),
            method: self.read("IP_AUTODETECTION_METHOD", |v| Method::parse(v).map_err(|e| e.to_string()))?.unwrap_or_default(),
            poll: self.read("AUTODETECT_POLL_INTERVAL", poll_interval)?.unwrap_or(defaults.poll),
            check_duplicates: !self.flag("DISABLE_NODE_IP_CHECK", false)?,
            as_number: self.read("AS", as_number)?,
            pool: self.pool()?,
            kube_node: self.get("CALICO_K8S_NODE_REF").map(str::to_owned),
            networking: self.read("CALICO_NETWORKING_BACKEND", networking)?.unwrap_or_default(),
            cluster_type: self.get("CLUSTER_TYPE").map(str::to_owned),
        })
    }

    fn pool(&self) -> Result<Option<PoolSetting>, EnvError> {
        let wanted = self.get("CALICO_IPV4POOL_CIDR");
        if self.flag("NO_DEFAULT_POOLS", false)? {
            return match wanted {
                None => Ok(None),
                Some(value) => Err(EnvError {
                    variable: "CALICO_IPV4POOL_CIDR".into(),
                    value: value.into(),
                    fault: "NO_DEFAULT_POOLS is true; unset one of the two".into(),
                }),
            };
        }
        if wanted == Some("none") {
            return Ok(None);
        }
        let defaults = PoolSetting::default();
        let cidr = self.read("CALICO_IPV4POOL_CIDR", cidr)?;
        let block_size = self.read("CALICO_IPV4POOL_BLOCK_SIZE", |v| block_size(v, cidr))?.unwrap_or(defaults.block_size);
        let ipip = self.read("CALICO_IPV4POOL_IPIP", pool_mode)?.unwrap_or("Never");
        let vxlan = self.read("CALICO_IPV4POOL_VXLAN", pool_mode)?.unwrap_or("Never");
        if ipip != "Never" && vxlan != "Never" {
            let fault = "CALICO_IPV4POOL_IPIP is on too; a pool has one encapsulation, set one of the two to Never".into();
            return Err(EnvError { variable: "CALICO_IPV4POOL_VXLAN".into(), value: vxlan.into(), fault });
        }
        Ok(Some(PoolSetting {
            cidr,
            block_size,
            modes: PoolModes { ipip, vxlan },
            nat_outgoing: self.flag("CALICO_IPV4POOL_NAT_OUTGOING", defaults.nat_outgoing)?,
            node_selector: self.get("CALICO_IPV4POOL_NODE_SELECTOR").map_or(defaults.node_selector, str::to_owned),
            disable_bgp_export: self.flag("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", defaults.disable_bgp_export)?,
        }))
    }
}

/// A word for yes or no.
pub fn flag(value: &str) -> Result<bool, String> {
    match value.to_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Ok(true),
        "false" | "0" | "no" | "n" | "f" => Ok(false),
        _ => Err("true or false is required".into()),
    }
}

fn address(value: &str) -> Result<AddressSetting, String> {
    let fault = || "not one of autodetect, none, an IPv4 address, an IPv4 address with its prefix".to_owned();
    let (ip, prefix) = match value {
        "autodetect" => return Ok(AddressSetting::Autodetect),
        "none" => return Ok(AddressSetting::Off),
        _ if value.contains('/') => {
            let net: Ipv4Net = value.parse().map_err(|_| fault())?;
            (net.addr(), Some(net.prefix_len()))
        }
        _ => (value.parse::<Ipv4Addr>().map_err(|_| fault())?, None),
    };
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() {
        return Err("not an address that a host can have".into());
    }
    Ok(AddressSetting::Given { address: ip, prefix })
}

/// A Go duration: `60s`, `1m30s`, `500ms`.
fn poll_interval(value: &str) -> Result<Duration, String> {
    let fault = || "a duration like 60s or 1m30s is required".to_owned();
    let mut seconds = 0.0;
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fault)?;
        let number: f64 = rest[..digits].parse().map_err(|_| fault())?;
        let tail = &rest[digits..];
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let scale = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        seconds += number * scale.iter().find(|(name, _)| *name == &tail[..unit]).ok_or_else(fault)?.1;
        rest = &tail[unit..];
    }
    if seconds < 1.0 {
        return Err("at least 1s is required".into());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| fault())
}

/// Plain, or `high.low` of 16 bits each (RFC 5396 asdot+).
fn as_number(value: &str) -> Result<u32, String> {
    let number = match value.split_once('.') {
        Some((high, low)) => high.parse::<u16>().ok().zip(low.parse::<u16>().ok()).map(|(h, l)| u32::from(h) << 16 | u32::from(l)),
        None => value.parse().ok(),
    };
    number.filter(|n| *n != 0).ok_or_else(|| "an AS number from 1 to 4294967295, or two of 16 bits with a dot, is required".into())
}

fn networking(value: &str) -> Result<Networking, String> {
    match value {
        "bird" | "vxlan" => Ok(Networking::Calico),
        "none" => Ok(Networking::None),
        _ => Err("not one of bird, vxlan, none".into()),
    }
}

fn cidr(value: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = value.parse().map_err(|_| "none or an IPv4 CIDR is required".to_owned())?;
    // As calico/node, which takes the network of what it is given.
    Ok(net.trunc())
}

fn block_size(value: &str, pool: Option<Ipv4Net>) -> Result<u8, String> {
    let size = value.parse::<u8>().ok().filter(|n| (20..=32).contains(n)).ok_or("a prefix length from 20 to 32 is required")?;
    match pool {
        Some(p) if size < p.prefix_len() => Err(format!("blocks of /{size} do not fit into the pool {p}")),
        _ => Ok(size),
    }
}

fn pool_mode(value: &str) -> Result<&'static str, String> {
    match value.to_lowercase().as_str() {
        "off" | "never" => Ok("Never"),
        "crosssubnet" | "cross-subnet" => Ok("CrossSubnet"),
        "always" => Ok("Always"),
        _ => Err("not one of Never, Always, CrossSubnet".into()),
    }
}

/// How a `FELIX_*` variable is written down in FelixConfiguration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Flag,
    Number,
    Text,
    /// Items between commas.
    List,
    /// A log level; `none` is one.
    Severity,
    /// One of these words, in any case.
    Word(&'static [&'static str]),
}

/// The part behind `FELIX_`, and the field of FelixConfiguration that it goes over: each that is read from objects.
const FELIX: [(&str, &str, Form); 20] = [
    ("VXLANENABLED", "vxlanEnabled", Form::Flag),
    ("IPINIPENABLED", "ipipEnabled", Form::Flag),
    ("VXLANPORT", "vxlanPort", Form::Number),
    ("VXLANVNI", "vxlanVNI", Form::Number),
    ("VXLANMTU", "vxlanMTU", Form::Number),
    ("IPINIPMTU", "ipipMTU", Form::Number),
    ("MTUIFACEPATTERN", "mtuIfacePattern", Form::Text),
    ("INTERFACEPREFIX", "interfacePrefix", Form::Text),
    ("ALLOWVXLANPACKETSFROMWORKLOADS", "allowVXLANPacketsFromWorkloads", Form::Flag),
    ("ALLOWIPIPPACKETSFROMWORKLOADS", "allowIPIPPacketsFromWorkloads", Form::Flag),
    ("EXTERNALNODESCIDRLIST", "externalNodesList", Form::List),
    ("WORKLOADSOURCESPOOFING", "workloadSourceSpoofing", Form::Word(&["Disabled", "Any"])),
    ("ROUTESOURCE", "routeSource", Form::Word(&["CalicoIPAM", "WorkloadIPs"])),
    ("LOGSEVERITYSCREEN", "logSeverityScreen", Form::Severity),
    ("PROMETHEUSMETRICSENABLED", "prometheusMetricsEnabled", Form::Flag),
    ("PROMETHEUSMETRICSHOST", "prometheusMetricsHost", Form::Text),
    ("PROMETHEUSMETRICSPORT", "prometheusMetricsPort", Form::Number),
    ("HEALTHENABLED", "healthEnabled", Form::Flag),
    ("HEALTHHOST", "healthHost", Form::Text),
    ("HEALTHPORT", "healthPort", Form::Number),
];

/// Felix reads its variables in any case.
fn is_felix(variable: &str) -> bool {
    variable.get(..6).is_some_and(|p| p.eq_ignore_ascii_case("FELIX_"))
}

fn felix_setting(variable: &str) -> Option<(&'static str, Form)> {
    let name = variable.get(6..).filter(|_| is_felix(variable))?;
    FELIX.iter().find(|(n, _, _)| n.eq_ignore_ascii_case(name)).map(|(_, field, form)| (*field, *form))
}

impl Environment {
    /// What the `FELIX_*` variables set, checked as the fields of an object are.
    pub fn felix(&self) -> Result<FelixConfiguration, EnvError> {
        let mut out = FelixConfiguration::default();
        for (variable, value) in self.set() {
            let Some((field, form)) = felix_setting(variable) else { continue };
            let fault = |fault| EnvError { variable: variable.into(), value: value.into(), fault };
            let one = form.read(value).map_err(fault)?;
            out = FelixConfiguration::of_field(field, one).map_err(|e| fault(e.message))?.over(&out);
        }
        Ok(out)
    }

    /// The variable that sets a field of FelixConfiguration.
    pub fn felix_variable(&self, field: &str) -> Option<&str> {
        self.set().map(|(variable, _)| variable).find(|v| felix_setting(v).is_some_and(|(f, _)| f == field))
    }
}

impl Form {
    /// `none` is Felix's word for off: false, 0 or empty.
    fn read(self, value: &str) -> Result<Value, String> {
        let none = value.eq_ignore_ascii_case("none");
        Ok(match self {
            Form::Flag if none => json!(false),
            Form::Flag => json!(flag(value)?),
            Form::Number if none => json!(0),
            Form::Number => json!(number(value).ok_or("a whole number is required")?),
            Form::Text if none => json!(""),
            Form::Text | Form::Severity => json!(value),
            Form::List if none => json!([]),
            Form::List => json!(value.split(',').map(str::trim).filter(|i| !i.is_empty()).collect::<Vec<_>>()),
            Form::Word(words) => {
                let word = words.iter().find(|w| w.eq_ignore_ascii_case(value));
                json!(word.ok_or_else(|| format!("not one of {}", words.join(", ")))?)
            }
        })
    }
}

/// Decimal, or hexadecimal with 0x.
fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(all: &[(&str, &str)]) -> Environment {
        all.iter().copied().collect()
    }

    fn settings(all: &[(&str, &str)]) -> Result<Settings, String> {
        env(all).settings().map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_set_is_what_calico_node_takes() {
        let s = settings(&[("IP", ""), ("CALICO_IPV4POOL_CIDR", " ")]).unwrap();
        assert_eq!(s, Settings::default());
        assert_eq!((s.address, s.poll, s.check_duplicates), (AddressSetting::Stored, Duration::from_secs(60), true));
        let pool = s.pool.unwrap();
        assert_eq!((pool.cidr, pool.block_size, pool.nat_outgoing, pool.disable_bgp_export), (None, 26, true, false));
        assert_eq!((pool.modes.ipip, pool.modes.vxlan, pool.node_selector.as_str()), ("Never", "Never", "all()"));
    }

    #[test]
    fn every_variable_of_the_start() {
        let s = settings(&[
            ("IP", "10.0.0.1/24"),
            ("IP_AUTODETECTION_METHOD", "interface=bond4,eth0"),
            ("AUTODETECT_POLL_INTERVAL", "1m30s"),
            ("DISABLE_NODE_IP_CHECK", "true"),
            ("AS", "1.10"),
            ("CALICO_K8S_NODE_REF", "other"),
            ("CALICO_NETWORKING_BACKEND", "none"),
            ("CLUSTER_TYPE", "k8s,bgp"),
            ("CALICO_IPV4POOL_CIDR", "10.244.1.0/16"),
            ("CALICO_IPV4POOL_BLOCK_SIZE", "28"),
            ("CALICO_IPV4POOL_VXLAN", "cross-subnet"),
            ("CALICO_IPV4POOL_IPIP", "Off"),
            ("CALICO_IPV4POOL_NAT_OUTGOING", "No"),
            ("CALICO_IPV4POOL_NODE_SELECTOR", "rack == '1'"),
            ("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", "1"),
        ])
        .unwrap();
        assert_eq!(s.address, AddressSetting::Given { address: "10.0.0.1".parse().unwrap(), prefix: Some(24) });
        assert_eq!((s.method.to_string().as_str(), s.poll), ("interface=bond4,eth0", Duration::from_secs(90)));
        assert_eq!((s.check_duplicates, s.as_number, s.kube_node.as_deref()), (false, Some(65546), Some("other")));
        assert_eq!((s.networking, s.cluster_type.as_deref()), (Networking::None, Some("k8s,bgp")));
        let p = s.pool.unwrap();
        assert_eq!(
            (p.cidr.unwrap().to_string().as_str(), p.block_size, p.modes.vxlan, p.modes.ipip),
            ("10.244.0.0/16", 28, "CrossSubnet", "Never")
        );
        assert_eq!((p.nat_outgoing, p.node_selector.as_str(), p.disable_bgp_export), (false, "rack == '1'", true));
    }

    #[test]
    fn forms_of_one_variable() {
        let ip = |v| settings(&[("IP", v)]).map(|s| s.address);
        assert_eq!((ip("autodetect"), ip("none")), (Ok(AddressSetting::Autodetect), Ok(AddressSetting::Off)));
        assert_eq!(ip("10.0.0.1"), Ok(AddressSetting::Given { address: "10.0.0.1".parse().unwrap(), prefix: None }));
        for (text, seconds) in [("60s", 60.0), ("1h0.5m", 3630.0), ("1500ms", 1.5), ("2m", 120.0), ("3s500ms", 3.5)] {
            assert_eq!(settings(&[("AUTODETECT_POLL_INTERVAL", text)]).unwrap().poll, Duration::from_secs_f64(seconds), "{text}");
        }
        assert_eq!(settings(&[("CALICO_IPV4POOL_CIDR", "none")]).unwrap().pool, None);
        assert_eq!(settings(&[("NO_DEFAULT_POOLS", "True")]).unwrap().pool, None);
        assert!(settings(&[("NO_DEFAULT_POOLS", "false")]).unwrap().pool.is_some());
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_value() {
        for (variable, value, want) in [
            ("IP", "10.0.0.256", "not one of autodetect, none, an IPv4 address, an IPv4 address with its prefix"),
            ("IP", "fd00::1", "not one of autodetect"),
            ("IP", "127.0.0.1/8", "not an address that a host can have"),
            ("IP_AUTODETECTION_METHOD", "interface=eth(", "\"eth(\" is not a regular expression"),
            ("AUTODETECT_POLL_INTERVAL", "60", "a duration like 60s"),
            ("AUTODETECT_POLL_INTERVAL", "1x", "a duration like 60s"),
            ("AUTODETECT_POLL_INTERVAL", "0s", "at least 1s"),
            ("AUTODETECT_POLL_INTERVAL", "99999999999999999999h", "a duration like 60s"),
            ("DISABLE_NODE_IP_CHECK", "maybe", "true or false is required"),
            ("AS", "0", "an AS number from 1"),
            ("AS", "70000.1", "an AS number from 1"),
            ("CALICO_NETWORKING_BACKEND", "birds", "not one of bird, vxlan, none"),
            ("CALICO_IPV4POOL_CIDR", "10.0.0.0", "none or an IPv4 CIDR"),
            ("CALICO_IPV4POOL_BLOCK_SIZE", "33", "a prefix length from 20 to 32"),
            ("CALICO_IPV4POOL_IPIP", "sometimes", "not one of Never, Always, CrossSubnet"),
            ("CALICO_IPV4POOL_NAT_OUTGOING", "", ""),
        ] {
            let got = settings(&[(variable, value)]);
            match got {
                Ok(_) => assert!(want.is_empty(), "{variable}={value}"),
                Err(e) => assert!(e.starts_with(&format!("environment variable {variable}={value:?}: {want}")), "{e}"),
            }
        }
        let both = settings(&[("CALICO_IPV4POOL_IPIP", "Always"), ("CALICO_IPV4POOL_VXLAN", "Always")]).unwrap_err();
        assert!(both.contains("CALICO_IPV4POOL_IPIP is on too"), "{both}");
        let none = settings(&[("NO_DEFAULT_POOLS", "true"), ("CALICO_IPV4POOL_CIDR", "10.0.0.0/8")]).unwrap_err();
        assert!(none.contains("NO_DEFAULT_POOLS is true"), "{none}");
        let small = settings(&[("CALICO_IPV4POOL_CIDR", "10.0.0.0/24"), ("CALICO_IPV4POOL_BLOCK_SIZE", "22")]).unwrap_err();
        assert!(small.contains("blocks of /22 do not fit into the pool 10.0.0.0/24"), "{small}");
    }

    #[test]
    fn felix_goes_over_each_field_that_objects_have() {
        let values = [
            ("VXLANENABLED", "yes", "true"),
            ("IPINIPENABLED", "0", "false"),
            ("VXLANPORT", "0x1300", "4864"),
            ("VXLANVNI", "7", "7"),
            ("VXLANMTU", "none", "0"),
            ("IPINIPMTU", "1400", "1400"),
            ("MTUIFACEPATTERN", "^bond", "^bond"),
            ("INTERFACEPREFIX", "tap,cali", "tap,cali"),
            ("ALLOWVXLANPACKETSFROMWORKLOADS", "T", "true"),
            ("ALLOWIPIPPACKETSFROMWORKLOADS", "none", "false"),
            ("EXTERNALNODESCIDRLIST", "10.0.0.1, 10.9.0.0/24", "10.0.0.1/32,10.9.0.0/24"),
            ("WORKLOADSOURCESPOOFING", "any", "Any"),
            ("ROUTESOURCE", "workloadips", "WorkloadIPs"),
            ("LOGSEVERITYSCREEN", "Warning", "warn"),
            ("PROMETHEUSMETRICSENABLED", "true", "true"),
            ("PROMETHEUSMETRICSHOST", "none", ""),
            ("PROMETHEUSMETRICSPORT", "9191", "9191"),
            ("HEALTHENABLED", "1", "true"),
            ("HEALTHHOST", "10.0.0.1", "10.0.0.1"),
            ("HEALTHPORT", "9199", "9199"),
        ];
        let all: Environment = values.iter().map(|(name, value, _)| (format!("FELIX_{name}"), *value)).collect();
        let fields = all.felix().unwrap().fields();
        assert_eq!(fields.len(), FELIX.len(), "a variable for each field");
        for ((name, field, _), (_, _, want)) in FELIX.iter().zip(values) {
            let (_, got, _) = fields.iter().find(|(f, _, _)| f == field).unwrap();
            assert_eq!(got.as_deref(), Some(want), "{name}");
            assert_eq!(all.felix_variable(field), Some(format!("FELIX_{name}").as_str()));
        }
        assert_eq!(env(&[("felix_vxlanport", "4790")]).felix().unwrap().vxlan_port, Some(4790));
        for (variable, value, want) in [
            ("FELIX_VXLANPORT", "x", "a whole number is required"),
            ("FELIX_VXLANMTU", "67", "67 is less than 68"),
            ("FELIX_HEALTHPORT", "none", "a whole number from 1 to 65535"),
            ("FELIX_ROUTESOURCE", "none", "not one of CalicoIPAM, WorkloadIPs"),
            ("FELIX_EXTERNALNODESCIDRLIST", "a", "\"a\" is not a CIDR"),
            ("FELIX_INTERFACEPREFIX", "toolong", "\"toolong\" has more than 4 characters"),
        ] {
            let e = env(&[(variable, value)]).felix().unwrap_err().to_string();
            assert!(e.starts_with(&format!("environment variable {variable}={value:?}: {want}")), "{e}");
        }
    }

    #[test]
    fn what_changes_nothing_is_listed() {
        let all = env(&[
            ("FELIX_HEALTHPORT", "9099"),
            ("FELIX_HEALTHTIMEOUTOVERRIDES", "none"),
            ("FELIX_VXLANPORT", "4789"),
            ("IP6", "none"),
            ("CALICO_IPV6POOL_CIDR", "fd00::/48"),
            ("CALICO_ROUTER_ID", "hash"),
            ("CALICO_NETWORKING_BACKEND", "bird"),
            ("CALICO_NEW_THING", "1"),
            ("NODENAME", "a"),
            ("IP", "autodetect"),
            ("WAIT_FOR_DATASTORE", "true"),
            ("PATH", "/bin"),
            ("AS", ""),
        ]);
        let names = |writes| all.ignored(writes).into_iter().map(|i| format!("{}: {}", i.variable, i.reason)).collect::<Vec<_>>();
        assert_eq!(
            names(true),
            [
                format!("CALICO_IPV6POOL_CIDR: {NO_IPV6}"),
                format!("CALICO_NETWORKING_BACKEND: {NO_BGP}"),
                format!("CALICO_NEW_THING: {UNKNOWN}"),
                format!("CALICO_ROUTER_ID: {NO_BGP}"),
                format!("FELIX_HEALTHTIMEOUTOVERRIDES: {NO_FELIX}"),
            ]
        );
        assert!(names(false).contains(&format!("IP: {NOT_WRITTEN}")) && names(false).len() == 6, "{:?}", names(false));
        assert!(is_calicos("NODENAME") && is_calicos("felix_x") && is_calicos("CALICO_X") && !is_calicos("PATH"));
    }
}
