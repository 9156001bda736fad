//! Each setting that is in force, with where it comes from: what `tortie config` shows.

use super::cluster::Cluster;
use super::config::{Config, Datastore, SuperFrames, UplinkDriver, WorkloadDriver, XdpMode};
use super::env::Environment;
use super::logging;
use super::model::{FelixConfiguration, Monitoring};
use super::node::Report;
use super::node::settings::{Networking, Settings};
use super::probe;
use super::yaml::{Field, FieldError};
use crate::ops::view::ConfigRow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The keys of the configuration file.
const KEYS: [&str; 26] = [
    "node",
    "datastore.kind",
    "datastore.path",
    "datastore.kubeconfig",
    "uplink.interface",
    "uplink.driver",
    "uplink.super-frames",
    "workloads.driver",
    "host.interface",
    "workers",
    "spin",
    "api.socket",
    "calico.dir",
    "xdp.mode",
    "xdp.busy-poll",
    "metrics.enabled",
    "metrics.host",
    "metrics.port",
    "health.enabled",
    "health.host",
    "health.port",
    "probes.enabled",
    "probes.interval",
    "probes.key-file",
    "log.format",
    "log.level",
];

/// What a configuration was put together from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    file: PathBuf,
    /// The line of each key that the file sets.
    lines: BTreeMap<&'static str, u32>,
    pub env: Environment,
}

impl Origins {
    pub fn new(file: &Path, root: &Field, env: &Environment) -> Result<Origins, FieldError> {
        let mut lines = BTreeMap::new();
        for key in KEYS {
            let field = root.at(&key.split('.').collect::<Vec<_>>())?;
            if field.is_present() {
                lines.insert(key, field.line());
            }
        }
        Ok(Origins { file: file.into(), lines, env: env.clone() })
    }

    /// The lines of a file that was read again; keys that stayed as they were keep theirs.
    pub fn renew(&mut self, new: &Origins, stayed: &[&str]) {
        self.lines.retain(|key, _| stayed.contains(key));
        self.lines.extend(new.lines.iter().filter(|(key, _)| !stayed.contains(key)));
    }

    /// Where a key's value comes from; `variables` go over the file, the first first.
    fn of(&self, key: &str, variables: &[&str]) -> String {
        match (variables.iter().find(|v| self.env.get(v).is_some()), self.lines.get(key)) {
            (Some(variable), _) => format!("environment {variable}"),
            (None, Some(line)) => format!("{}:{line}", self.file.display()),
            (None, None) => "default".into(),
        }
    }
}

fn row(key: impl Into<String>, value: impl Into<String>, source: impl Into<String>) -> ConfigRow {
    ConfigRow { key: key.into(), value: value.into(), source: source.into() }
}

/// Every setting of this node.
pub fn rows(config: &Config, cluster: &Cluster, report: &Report, uplink: &str, pod_mtu: Option<u16>) -> Vec<ConfigRow> {
    let mut out = file_rows(config, uplink);
    if config.datastore.is_written() {
        out.extend(start_rows(&config.start, &config.origins));
    }
    out.extend(felix_rows(config, cluster));
    if let Some(found) = &report.found {
        out.push(row("address", found.address.to_string(), format!("detected: {}", found.origin)));
    } else if let Some(address) = cluster.node(&config.node).and_then(|n| n.address) {
        out.push(row("address", address.to_string(), "the node's object"));
    }
    out.extend(pod_mtu.map(|mtu| row("pod MTU", mtu.to_string(), "detected: the host's links and the pools' encapsulations")));
    let ignored = config.origins.env.ignored(config.datastore.is_written());
    out.extend(ignored.into_iter().map(|i| row(i.variable, i.value, format!("ignored: {}", i.reason))));
    out
}

fn file_rows(config: &Config, uplink: &str) -> Vec<ConfigRow> {
    let of = |key: &str| config.origins.of(key, &[]);
    let path = |p: &Path| p.display().to_string();
    let node = match config.origins.of("node", &["NODENAME"]) {
        source if source != "default" => source,
        _ if config.origins.env.host_name().is_some() => "environment HOSTNAME".into(),
        _ => "hostname".into(),
    };
    let mut out = vec![row("node", &config.node, node)];
    out.extend(datastore_rows(config));
    out.extend([
        match (&config.uplink.interface, uplink) {
            (Some(name), _) => row("uplink.interface", name, of("uplink.interface")),
            (None, "") => row("uplink.interface", "", "no interface has the node's address yet"),
            (None, found) => row("uplink.interface", found, "detected: it has the node's address"),
        },
        row("uplink.driver", uplink_driver(config.uplink.driver), of("uplink.driver")),
        row("uplink.super-frames", super_frames(config.uplink.super_frames), of("uplink.super-frames")),
        row("workloads.driver", workload_driver(config.workloads.driver), of("workloads.driver")),
        row("host.interface", &config.host.interface, of("host.interface")),
        row("workers", config.workers.to_string(), of("workers")),
        row("spin", config.spin.as_micros().to_string(), of("spin")),
        row("api.socket", path(&config.api.socket), of("api.socket")),
        row("calico.dir", path(&config.calico.dir), of("calico.dir")),
        row("xdp.mode", xdp_mode(config.xdp.mode), of("xdp.mode")),
        row("xdp.busy-poll", config.xdp.busy_poll.to_string(), of("xdp.busy-poll")),
        row("log.format", config.log.format.name(), of("log.format")),
    ]);
    out.extend(log_level_row(config));
    out.extend(monitoring_rows(config));
    let [enabled, interval, key_file] = probe::settings::VARIABLES;
    let over = |key: &str, variable| config.origins.of(key, &[variable]);
    let key = config.probes.key_file.as_ref().map_or("none: the cluster's GUID".into(), |p| path(p));
    out.extend([
        row("probes.enabled", config.probes.enabled.to_string(), over("probes.enabled", enabled)),
        row("probes.interval", config.probes.interval_text(), over("probes.interval", interval)),
        row("probes.key-file", key, over("probes.key-file", key_file)),
    ]);
    out
}

/// As it is set here; FelixConfiguration's row says what holds without it.
fn log_level_row(config: &Config) -> Option<ConfigRow> {
    if let Some(directives) = config.origins.env.get(logging::VARIABLE) {
        return Some(row("log.level", directives, format!("environment {}", logging::VARIABLE)));
    }
    let level = config.felix.log.or(config.log.level)?;
    let variable = config.origins.env.felix_variable("logSeverityScreen");
    Some(row("log.level", level.name(), config.origins.of("log.level", variable.as_slice())))
}

/// The keys that the file or the environment sets; FelixConfiguration's rows say what holds without them.
fn monitoring_rows(config: &Config) -> Vec<ConfigRow> {
    let Monitoring { metrics, health } = config.felix.monitoring.over(&config.monitoring);
    let services = [("metrics", "prometheusMetrics", metrics), ("health", "health", health)];
    let mut out = Vec::new();
    for (service, felix, set) in services {
        let values = [
            ("enabled", "Enabled", set.enabled.map(|v| v.to_string())),
            ("host", "Host", set.host),
            ("port", "Port", set.port.map(|v| v.to_string())),
        ];
        for (key, field, value) in values {
            let key = format!("{service}.{key}");
            let variable = config.origins.env.felix_variable(&format!("{felix}{field}"));
            let source = config.origins.of(&key, variable.as_slice());
            out.extend(value.map(|value| row(key, value, source)));
        }
    }
    out
}

fn datastore_rows(config: &Config) -> Vec<ConfigRow> {
    let kind = |word: &str| row("datastore.kind", word, config.origins.of("datastore.kind", &["DATASTORE_TYPE"]));
    match &config.datastore {
        Datastore::File { path } => {
            vec![kind("file"), row("datastore.path", path.display().to_string(), config.origins.of("datastore.path", &[]))]
        }
        Datastore::Kubernetes { kubeconfig } => {
            let path = kubeconfig.as_ref().map_or("the pod's service account".into(), |p| p.display().to_string());
            vec![kind("kubernetes"), row("datastore.kubeconfig", path, config.origins.of("datastore.kubeconfig", &["KUBECONFIG"]))]
        }
    }
}

fn uplink_driver(d: UplinkDriver) -> &'static str {
    match d {
        UplinkDriver::Auto => "auto",
        UplinkDriver::AfXdp => "af-xdp",
        UplinkDriver::Socket => "socket",
    }
}

fn super_frames(s: SuperFrames) -> &'static str {
    match s {
        SuperFrames::Auto => "auto",
        SuperFrames::Off => "off",
    }
}

fn workload_driver(d: WorkloadDriver) -> &'static str {
    match d {
        WorkloadDriver::Auto => "auto",
        WorkloadDriver::Veth => "veth",
        WorkloadDriver::Tap => "tap",
        WorkloadDriver::AfPacket => "af-packet",
        WorkloadDriver::AfXdp => "af-xdp",
    }
}

fn xdp_mode(m: XdpMode) -> &'static str {
    match m {
        XdpMode::Auto => "auto",
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    }
}

/// What the environment says of the node's start, by the variables' names.
fn start_rows(s: &Settings, origins: &Origins) -> Vec<ConfigRow> {
    let variable = |name: &str, value: String| row(name, value, origins.of(name, &[name]));
    let networking = match (s.networking, origins.env.get("CALICO_NETWORKING_BACKEND")) {
        (Networking::Calico, Some(word)) => word,
        (Networking::Calico, None) => "vxlan",
        (Networking::None, _) => "none",
    };
    let mut out = vec![
        variable("IP", s.address.to_string()),
        variable("IP_AUTODETECTION_METHOD", s.method.to_string()),
        variable("AUTODETECT_POLL_INTERVAL", format!("{}s", s.poll.as_secs_f64())),
        variable("DISABLE_NODE_IP_CHECK", (!s.check_duplicates).to_string()),
        variable("AS", s.as_number.map(|n| n.to_string()).unwrap_or_default()),
        variable("CALICO_NETWORKING_BACKEND", networking.into()),
        variable("CALICO_K8S_NODE_REF", s.kube_node.clone().unwrap_or_default()),
        variable("CLUSTER_TYPE", s.cluster_type.clone().unwrap_or_default()),
        variable("NO_DEFAULT_POOLS", origins.env.get("NO_DEFAULT_POOLS").unwrap_or("false").into()),
    ];
    if let Some(p) = &s.pool {
        out.extend([
            variable("CALICO_IPV4POOL_CIDR", p.cidr.map_or("a range that the host does not use".into(), |c| c.to_string())),
            variable("CALICO_IPV4POOL_BLOCK_SIZE", p.block_size.to_string()),
            variable("CALICO_IPV4POOL_IPIP", p.modes.ipip.into()),
            variable("CALICO_IPV4POOL_VXLAN", p.modes.vxlan.into()),
            variable("CALICO_IPV4POOL_NAT_OUTGOING", p.nat_outgoing.to_string()),
            variable("CALICO_IPV4POOL_NODE_SELECTOR", p.node_selector.clone()),
            variable("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", p.disable_bgp_export.to_string()),
        ]);
    }
    out
}

/// FelixConfiguration field by field: the environment over the node's own object over the cluster's.
fn felix_rows(config: &Config, cluster: &Cluster) -> Vec<ConfigRow> {
    let own = format!("node.{}", config.node);
    let object = |name: &str| cluster.felix.get(name).map(|f| &**f);
    let none = FelixConfiguration::default();
    let layers = [(None, Some(&config.felix)), (Some(own.as_str()), object(&own)), (Some("default"), object("default"))];
    let mut out = Vec::new();
    for (i, (field, _, default)) in none.fields().into_iter().enumerate() {
        let key = format!("FelixConfiguration {field}");
        let set = layers.iter().find_map(|(name, f)| f.and_then(|f| f.fields()[i].1.clone()).map(|value| (name, value)));
        out.push(match set {
            Some((Some(name), value)) => row(key, value, format!("FelixConfiguration {name}")),
            Some((None, value)) => {
                let variable = config.origins.env.felix_variable(field).unwrap_or_default();
                row(key, value, format!("environment {variable}"))
            }
            None => row(key, default, "default"),
        });
    }
    out
}
