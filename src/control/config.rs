//! The node daemon's configuration: one YAML file, every key known, every value checked, with the line of
//! what is wrong. `config/node.yaml` documents each key.

use super::cni::{self, CniInstall};
use super::env::{EnvError, Environment};
use super::logging::{Format, Level};
use super::model::{FelixConfiguration, Listen, Monitoring};
use super::node::settings::Settings;
use super::origins::Origins;
use super::probe;
use super::yaml::{self, Field, FieldError, SyntaxError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Microseconds a worker may look for packets before it sleeps: by default, and at most.
const SPIN: u64 = 150;
const SPIN_MAX: u16 = 1000;
/// Most workers: one per core is the most that makes sense.
pub const WORKERS_MAX: u16 = 256;

/// How the daemon runs on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's name in the cluster.
    pub node: String,
    pub datastore: Datastore,
    pub uplink: Uplink,
    pub workloads: Workloads,
    pub host: Host,
    /// Forwarding threads.
    pub workers: u16,
    /// How long a worker may look for packets before it sleeps.
    pub spin: Duration,
    pub api: Api,
    pub calico: Calico,
    pub xdp: Xdp,
    /// Goes over FelixConfiguration.
    pub monitoring: Monitoring,
    /// How other nodes are measured.
    pub probes: probe::Settings,
    pub log: Logging,
    /// What to install for container runtimes, if anything.
    pub cni: Option<CniInstall>,
    /// How the node describes itself in the datastore, where it does.
    pub start: Settings,
    /// What the environment sets of FelixConfiguration.
    pub felix: FelixConfiguration,
    pub origins: Origins,
}

/// Where the cluster's state comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datastore {
    /// A folder of manifests.
    File { path: PathBuf },
    /// An API server. Without a kubeconfig: that of the cluster that the daemon is a pod of.
    Kubernetes { kubeconfig: Option<PathBuf> },
}

impl Datastore {
    /// Whether the node may write to it.
    pub fn is_written(&self) -> bool {
        match self {
            Datastore::File { .. } => false,
            Datastore::Kubernetes { .. } => true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Interface towards the other nodes; `None`: the one that has the node's address.
    pub interface: Option<String>,
    pub driver: UplinkDriver,
    pub super_frames: SuperFrames,
}

/// Whether super-frames cross the underlay whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SuperFrames {
    /// Where the kernel has what that needs.
    #[default]
    Auto,
    /// They are cut into tunnel packets here.
    Off,
}

/// I/O method on the uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UplinkDriver {
    #[default]
    Auto,
    AfXdp,
    Socket,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workloads {
    pub driver: WorkloadDriver,
}

/// I/O method towards pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadDriver {
    /// The best that works.
    #[default]
    Auto,
    /// The best method on a given veth.
    Veth,
    /// A TAP that the daemon makes.
    Tap,
    AfPacket,
    AfXdp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name of the TUN device that joins the host stack to the pods.
    pub interface: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Path of the unix socket.
    pub socket: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calico {
    /// Folder in which the CNI plugin looks for the pods' MTU and the node's name.
    pub dir: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xdp {
    pub mode: XdpMode,
    /// Busy polling, microseconds; 0: off.
    pub busy_poll: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    pub format: Format,
    /// Goes over FelixConfiguration.
    pub level: Option<Level>,
}

/// Where the kernel runs XDP programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver if it can, else generic.
    #[default]
    Auto,
    Native,
    Generic,
}

/// Why a configuration cannot be used; says which file and, where there is one, which line and key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {source}; --config names another file, config/node.yaml is an example", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{}: not YAML: {source}", path.display(), source.line)]
    Syntax { path: PathBuf, source: SyntaxError },
    #[error("{}: {found} YAML documents; the configuration is exactly one", path.display())]
    Documents { path: PathBuf, found: usize },
    #[error("{}:{}: {source}", path.display(), source.line)]
    Field { path: PathBuf, source: FieldError },
    #[error("{}: node is not set and the hostname cannot be read from {HOSTNAME}: {source}; set node", path.display())]
    Hostname { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Environment(#[from] EnvError),
}

/// Where the configuration is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/tortie/node.yaml";

const HOSTNAME: &str = "/proc/sys/kernel/hostname";

impl Config {
    /// Reads and checks a file, and puts the environment over it. Relative paths count from the file's folder.
    pub fn load(path: &Path, env: &Environment) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Config::parse(path, &text, env)
    }

    fn parse(path: &Path, text: &str, env: &Environment) -> Result<Config, ConfigError> {
        let docs = yaml::documents(text).map_err(|source| ConfigError::Syntax { path: path.into(), source })?;
        let [doc] = docs.as_slice() else {
            return Err(ConfigError::Documents { path: path.into(), found: docs.len() });
        };
        let root = Field::root(doc);
        let fault = |source| ConfigError::Field { path: path.into(), source };
        let folder = path.parent().unwrap_or(Path::new(""));
        let (node, mut config) = read(&root, folder, env.wants_kubernetes()?).map_err(fault)?;
        config.probes = config.probes.over(env, folder)?;
        if let (Datastore::Kubernetes { kubeconfig }, Some(path)) = (&mut config.datastore, env.get("KUBECONFIG")) {
            *kubeconfig = Some(path.into());
        }
        config.node = match env.node_name().map(str::to_owned).or(node).or_else(|| env.host_name()) {
            Some(name) => name,
            None => hostname().map_err(|source| ConfigError::Hostname { path: path.into(), source })?,
        };
        if config.datastore.is_written() {
            config.start = env.settings()?;
        }
        config.felix = env.felix()?;
        config.origins = Origins::new(path, &root, env).map_err(fault)?;
        Ok(config)
    }
}

/// The hostname as Calico names nodes: lower case.
pub fn hostname() -> io::Result<String> {
    let name = fs::read_to_string(HOSTNAME)?.trim().to_lowercase();
    if name.is_empty() { Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")) } else { Ok(name) }
}

fn read(root: &Field, folder: &Path, in_kubernetes: bool) -> Result<(Option<String>, Config), FieldError> {
    root.only(&[
        "node",
        "datastore",
        "uplink",
        "workloads",
        "host",
        "workers",
        "spin",
        "api",
        "calico",
        "xdp",
        "cni",
        "metrics",
        "health",
        "probes",
        "log",
    ])?;
    let node = root.get("node")?;
    let name = if node.is_present() { Some(node.required_text()?.to_owned()) } else { None };
    let config = Config {
        node: String::new(),
        datastore: datastore(&root.get("datastore")?, folder, in_kubernetes)?,
        uplink: uplink(&root.get("uplink")?)?,
        workloads: workloads(&root.get("workloads")?)?,
        host: host(&root.get("host")?)?,
        workers: root.get("workers")?.number(1, WORKERS_MAX.into())?.unwrap_or(1),
        spin: Duration::from_micros(root.get("spin")?.number::<u16>(0, SPIN_MAX.into())?.map_or(SPIN, u64::from)),
        api: api(&root.get("api")?, folder)?,
        calico: calico(&root.get("calico")?, folder)?,
        xdp: xdp(&root.get("xdp")?)?,
        monitoring: Monitoring { metrics: listen(&root.get("metrics")?)?, health: listen(&root.get("health")?)? },
        probes: probe::Settings::read(&root.get("probes")?, folder)?,
        log: log(&root.get("log")?)?,
        cni: cni::read(&root.get("cni")?, folder)?,
        start: Settings::default(),
        felix: FelixConfiguration::default(),
        origins: Origins::default(),
    };
    if config.uplink.interface.as_ref() == Some(&config.host.interface) {
        return Err(root
            .at(&["host", "interface"])?
            .error(format!("{} is the uplink; the host device needs a name of its own", config.host.interface)));
    }
    Ok((name, config))
}

/// `in_kubernetes`: the environment says so, whatever the file has.
fn datastore(f: &Field, folder: &Path, in_kubernetes: bool) -> Result<Datastore, FieldError> {
    f.only(&["kind", "path", "kubeconfig"])?;
    let kind = f.get("kind")?;
    let (path, kubeconfig) = (f.get("path")?, f.get("kubeconfig")?);
    match kind.text()? {
        kind if in_kubernetes && kind != Some("kubernetes") => Ok(Datastore::Kubernetes { kubeconfig: None }),
        None | Some("file") if kubeconfig.is_present() => Err(kubeconfig.error("only for kind kubernetes; set datastore.kind to that")),
        None | Some("file") => Ok(Datastore::File { path: folder.join(path.required_text()?) }),
        Some("kubernetes") if path.is_present() => Err(path.error("only for kind file; the API server is named by kubeconfig")),
        Some("kubernetes") if kubeconfig.is_present() => {
            Ok(Datastore::Kubernetes { kubeconfig: Some(folder.join(kubeconfig.required_text()?)) })
        }
        Some("kubernetes") => Ok(Datastore::Kubernetes { kubeconfig: None }),
        Some(other) => Err(kind.error(format!("{} is not one of file, kubernetes", yaml::quoted(other)))),
    }
}

fn uplink(f: &Field) -> Result<Uplink, FieldError> {
    f.only(&["interface", "driver", "super-frames"])?;
    let drivers = [("auto", UplinkDriver::Auto), ("af-xdp", UplinkDriver::AfXdp), ("socket", UplinkDriver::Socket)];
    let super_frames = [("auto", SuperFrames::Auto), ("off", SuperFrames::Off)];
    Ok(Uplink {
        interface: f.get("interface")?.interface_name()?,
        driver: f.get("driver")?.one_of(&drivers)?.unwrap_or_default(),
        super_frames: f.get("super-frames")?.one_of(&super_frames)?.unwrap_or_default(),
    })
}

fn workloads(f: &Field) -> Result<Workloads, FieldError> {
    f.only(&["driver"])?;
    let drivers = [
        ("auto", WorkloadDriver::Auto),
        ("veth", WorkloadDriver::Veth),
        ("tap", WorkloadDriver::Tap),
        ("af-packet", WorkloadDriver::AfPacket),
        ("af-xdp", WorkloadDriver::AfXdp),
    ];
    Ok(Workloads { driver: f.get("driver")?.one_of(&drivers)?.unwrap_or_default() })
}

fn host(f: &Field) -> Result<Host, FieldError> {
    f.only(&["interface"])?;
    Ok(Host { interface: f.get("interface")?.interface_name()?.unwrap_or_else(|| "tunl-tortie".into()) })
}

fn api(f: &Field, folder: &Path) -> Result<Api, FieldError> {
    f.only(&["socket"])?;
    let socket = f.get("socket")?;
    let path = if socket.is_present() { socket.required_text()? } else { "/run/tortie/tortie.sock" };
    // sun_path holds 108 bytes with its NUL.
    if folder.join(path).as_os_str().len() > 107 {
        return Err(socket.error("longer than 107 bytes, the most that a unix socket's path may have"));
    }
    Ok(Api { socket: folder.join(path) })
}

fn calico(f: &Field, folder: &Path) -> Result<Calico, FieldError> {
    f.only(&["dir"])?;
    let dir = f.get("dir")?;
    let path = if dir.is_present() { dir.required_text()? } else { "/var/lib/calico" };
    Ok(Calico { dir: folder.join(path) })
}

fn xdp(f: &Field) -> Result<Xdp, FieldError> {
    f.only(&["mode", "busy-poll"])?;
    let modes = [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)];
    Ok(Xdp {
        mode: f.get("mode")?.one_of(&modes)?.unwrap_or_default(),
        busy_poll: f.get("busy-poll")?.number(0, u16::MAX.into())?.unwrap_or(0),
    })
}

fn log(f: &Field) -> Result<Logging, FieldError> {
    f.only(&["format", "level"])?;
    Ok(Logging { format: f.get("format")?.one_of(&Format::ALL)?.unwrap_or_default(), level: f.get("level")?.one_of(&Level::ALL)? })
}

fn listen(f: &Field) -> Result<Listen, FieldError> {
    const KEYS: [&str; 3] = ["enabled", "host", "port"];
    f.only(&KEYS)?;
    Listen::read(f, KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "node: a\ndatastore: {path: /d}\nuplink: {interface: eth0}\n";

    fn parse(text: &str) -> Result<Config, String> {
        with(text, &[])
    }

    fn with(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().copied().collect();
        Config::parse(Path::new("/etc/tortie/node.yaml"), text, &env).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults() {
        let c = parse(MINIMAL).unwrap();
        let want = Config {
            node: "a".into(),
            datastore: Datastore::File { path: "/d".into() },
            uplink: Uplink { interface: Some("eth0".into()), driver: UplinkDriver::Auto, super_frames: SuperFrames::Auto },
            workloads: Workloads { driver: WorkloadDriver::Auto },
            host: Host { interface: "tunl-tortie".into() },
            workers: 1,
            spin: Duration::from_micros(150),
            api: Api { socket: "/run/tortie/tortie.sock".into() },
            calico: Calico { dir: "/var/lib/calico".into() },
            xdp: Xdp { mode: XdpMode::Auto, busy_poll: 0 },
            monitoring: Monitoring::default(),
            probes: probe::Settings::default(),
            log: Logging::default(),
            cni: None,
            start: Settings::default(),
            felix: FelixConfiguration::default(),
            origins: c.origins.clone(),
        };
        assert_eq!(c, want);
    }

    #[test]
    fn everything_set() {
        let c = parse(
            "node: B\ndatastore: {kind: file, path: manifests}\nuplink: {interface: eth0, driver: af-xdp, super-frames: off}\nworkloads: {driver: af-packet}\n\
             host: {interface: tun9}\nworkers: 4\napi: {socket: t.sock}\nxdp: {mode: generic, busy-poll: 50}\n\
             metrics: {enabled: true, host: 10.0.0.1, port: 9191}\nhealth: {enabled: false}\nlog: {format: json, level: debug}\n\
             probes: {enabled: false, interval: 1500ms, key-file: key}\n",
        )
        .unwrap();
        assert_eq!(c.node, "B");
        assert_eq!(c.datastore, Datastore::File { path: "/etc/tortie/manifests".into() });
        assert_eq!((c.uplink.driver, c.workloads.driver, c.xdp.mode), (UplinkDriver::AfXdp, WorkloadDriver::AfPacket, XdpMode::Generic));
        let metrics = Listen { enabled: Some(true), host: Some("10.0.0.1".into()), port: Some(9191) };
        assert_eq!((c.monitoring.metrics, c.monitoring.health.enabled), (metrics, Some(false)));
        let probes = probe::Settings { enabled: false, interval: Duration::from_millis(1500), key_file: Some("/etc/tortie/key".into()) };
        assert_eq!(c.probes, probes);
        assert_eq!(c.log, Logging { format: Format::Json, level: Some(Level::Debug) });
        assert_eq!((c.xdp.busy_poll, c.uplink.super_frames), (50, SuperFrames::Off));
        assert_eq!((c.workers, c.host.interface.as_str(), c.api.socket.to_str().unwrap()), (4, "tun9", "/etc/tortie/t.sock"));
    }

    #[test]
    fn kubernetes_with_and_without_a_kubeconfig() {
        let of = |keys: &str| parse(&MINIMAL.replace("path: /d", keys)).unwrap().datastore;
        assert_eq!(of("kind: kubernetes"), Datastore::Kubernetes { kubeconfig: None });
        assert_eq!(of("kind: kubernetes, kubeconfig: k"), Datastore::Kubernetes { kubeconfig: Some("/etc/tortie/k".into()) });
    }

    #[test]
    fn node_defaults_to_the_hostname() {
        assert_eq!(parse("node: a\ndatastore: {path: /d}\n").unwrap().uplink.interface, None);
        let c = parse("datastore: {path: /d}\nuplink: {interface: eth0}\n").unwrap();
        assert!(!c.node.is_empty() && c.node == c.node.to_lowercase());
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        assert_eq!(with(MINIMAL, &[("NODENAME", "From-Env"), ("HOSTNAME", "h")]).unwrap().node, "From-Env");
        assert_eq!(with(MINIMAL, &[("NODENAME", ""), ("HOSTNAME", "h")]).unwrap().node, "a");
        assert_eq!(with("datastore: {path: /d}\nuplink: {interface: eth0}\n", &[("HOSTNAME", "Host-1")]).unwrap().node, "host-1");
        let of = |text: &str, env: &[(&str, &str)]| with(text, env).map(|c| c.datastore);
        let kubernetes = |path: Option<&str>| Ok(Datastore::Kubernetes { kubeconfig: path.map(Into::into) });
        let kube = MINIMAL.replace("path: /d", "kind: kubernetes, kubeconfig: k");
        assert_eq!(of(MINIMAL, &[("DATASTORE_TYPE", "kubernetes")]), kubernetes(None));
        assert_eq!(of(MINIMAL, &[("DATASTORE_TYPE", "kubernetes"), ("KUBECONFIG", "/k")]), kubernetes(Some("/k")));
        assert_eq!(of("uplink: {interface: eth0}\n", &[("DATASTORE_TYPE", "kubernetes")]), kubernetes(None));
        assert_eq!(of(&kube, &[("KUBECONFIG", "/other")]), kubernetes(Some("/other")));
        assert_eq!(of(&kube, &[("DATASTORE_TYPE", "kubernetes")]), kubernetes(Some("/etc/tortie/k")));
        assert_eq!(of(MINIMAL, &[("KUBECONFIG", "/k")]), Ok(Datastore::File { path: "/d".into() }));
        assert!(of(MINIMAL, &[("DATASTORE_TYPE", "etcdv3")]).unwrap_err().contains("DATASTORE_TYPE=\"etcdv3\": etcd is not supported"));
        let c = with(&kube, &[("IP", "10.0.0.1/24")]).unwrap();
        assert_eq!(c.start.address.to_string(), "10.0.0.1/24");
        assert!(with(&kube, &[("IP", "nonsense")]).unwrap_err().starts_with("environment variable IP=\"nonsense\": not one of"));
        let c = with(MINIMAL, &[("FELIX_VXLANPORT", "4790"), ("IP", "nonsense")]).unwrap();
        assert_eq!((c.felix.vxlan_port, &c.start), (Some(4790), &Settings::default()), "nothing is written to a folder");
        assert_eq!(
            with(MINIMAL, &[("FELIX_VXLANPORT", "0")]).unwrap_err(),
            "environment variable FELIX_VXLANPORT=\"0\": a whole number from 1 to 65535 is required, not the number 0"
        );
    }

    #[test]
    fn faults_name_file_line_key_and_remedy() {
        let long = "x".repeat(108);
        let cases = [
            ("uplink: {interface: a}\n", ":1: datastore.path: missing; text is required"),
            (
                "node: a\n\ndatastore:\n  path: /d\n\nuplink:\n  drivr: auto\n",
                ":7: uplink.drivr: unknown key; one of interface, driver, super-frames",
            ),
            (
                "nodes: a\n",
                ":1: nodes: unknown key; one of node, datastore, uplink, workloads, host, workers, spin, api, calico, xdp, cni, metrics, health, probes, log",
            ),
            ("datastore:\n  kind: etcd\n", ":2: datastore.kind: \"etcd\" is not one of file, kubernetes"),
            (
                "datastore:\n  kind: kubernetes\n  path: /d\n",
                ":3: datastore.path: only for kind file; the API server is named by kubeconfig",
            ),
            ("datastore:\n  kubeconfig: /d\n", ":2: datastore.kubeconfig: only for kind kubernetes; set datastore.kind to that"),
            ("datastore:\n  kind: kubernetes\n  kubeconfig: ''\n", ":3: datastore.kubeconfig: must not be empty"),
            (
                "datastore: {path: /d}\nuplink:\n  interface: abcdefghijklmnop\n",
                ":3: uplink.interface: \"abcdefghijklmnop\" is not an interface name: 16 bytes",
            ),
            ("datastore: {path: /d}\nuplink: {interface: 'a b'}\n", ":2: uplink.interface: \"a b\" is not an interface name"),
            (
                "datastore: {path: /d}\nuplink: {interface: a, driver: xdp}\n",
                ":2: uplink.driver: \"xdp\" is not one of auto, af-xdp, socket",
            ),
            (&format!("{MINIMAL}workers: 0\n"), ":4: workers: a whole number from 1 to 256 is required, not the number 0"),
            (&format!("{MINIMAL}workers: two\n"), ":4: workers: a whole number from 1 to 256 is required, not the text \"two\""),
            (&format!("{MINIMAL}workloads: tap\n"), ":4: workloads: a mapping is required, not the text \"tap\""),
            (&format!("{MINIMAL}host: {{interface: eth0}}\n"), ":4: host.interface: eth0 is the uplink"),
            (&format!("{MINIMAL}api: {{socket: /{long}}}\n"), ":4: api.socket: longer than 107 bytes"),
            (
                &format!("{MINIMAL}xdp: {{busy-poll: 70000}}\n"),
                ":4: xdp.busy-poll: a whole number from 0 to 65535 is required, not the number 70000",
            ),
            (&format!("{MINIMAL}xdp: {{busy_poll: 1}}\n"), ":4: xdp.busy_poll: unknown key; one of mode, busy-poll"),
            (&format!("{MINIMAL}metrics: {{prot: 9091}}\n"), ":4: metrics.prot: unknown key; one of enabled, host, port"),
            (&format!("{MINIMAL}health: {{port: 70000}}\n"), ":4: health.port: a whole number from 1 to 65535 is required"),
            (&format!("{MINIMAL}probes: {{interval: 10}}\n"), ":4: probes.interval: text is required, not the number 10"),
            (&format!("{MINIMAL}probes: {{interval: 100ms}}\n"), ":4: probes.interval: \"100ms\" is not a time from 500ms to 3600s"),
            (&format!("{MINIMAL}log: {{format: xml}}\n"), ":4: log.format: \"xml\" is not one of text, json, journald"),
            (&format!("{MINIMAL}log: {{level: loud}}\n"), ":4: log.level: \"loud\" is not one of off, error, warn, info, debug, trace"),
            (&format!("{MINIMAL}node: b\n"), ":4: not YAML: "),
            ("a: [\n", "not YAML"),
            ("", ": 0 YAML documents"),
            ("a: 1\n---\nb: 1\n", ": 2 YAML documents"),
            ("- a\n", ":1: a mapping is required, not a list"),
        ];
        for (text, want) in cases {
            let got = parse(text).unwrap_err();
            assert!(got.starts_with("/etc/tortie/node.yaml:") && got.contains(want), "{text:?}\n got {got}\nwant {want}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let e = Config::load(Path::new("/nonexistent/node.yaml"), &Environment::default()).unwrap_err().to_string();
        assert!(e.contains("/nonexistent/node.yaml: ") && e.contains("--config"), "{e}");
    }
}
