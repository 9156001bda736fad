//! Installing the plugin where container runtimes look: the program, credentials, and the network configuration last,
//! as it is what makes a node ready. Every file appears whole or not at all, and comes back if somebody removes it.

use super::error::{CniError, io};
use crate::control::cni::CniInstall;
use crate::control::config::{Config, Datastore};
use crate::ops::api::Client;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often files are looked at: a token lives for an hour or so, and is renewed after four fifths of that.
const REFRESH: Duration = Duration::from_secs(20);
/// How often the daemon is asked whether it is ready, before the first installation.
const PAUSE: Duration = Duration::from_millis(100);
/// Where a pod of the cluster finds its credentials.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const KUBECONFIG: &str = "calico-kubeconfig";
/// Plugins behind ours in the chain, if they are there.
const CHAIN: [(&str, &str); 2] = [("portmap", "portMappings"), ("bandwidth", "bandwidth")];

/// Where the plugin finds its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// In the folder that the daemon's configuration names.
    Config(PathBuf),
    /// By an existing kubeconfig.
    Kubeconfig(PathBuf),
    /// By a service account's: a kubeconfig is written.
    Account { folder: PathBuf, server: String },
}

/// What to install.
#[derive(Clone, Debug)]
pub struct Installer {
    pub install: CniInstall,
    pub credentials: Credentials,
    pub node: String,
    /// The daemon's API socket.
    pub socket: PathBuf,
    /// What becomes `tortie` and `tortie-ipam`.
    pub program: PathBuf,
}

impl Installer {
    /// From the daemon's configuration, if it asks for it.
    pub fn new(config_path: &Path, config: &Config) -> Result<Option<Installer>, CniError> {
        let Some(install) = &config.cni else { return Ok(None) };
        let path = std::path::absolute(config_path).map_err(io("name the daemon's configuration"))?;
        let credentials = match &config.datastore {
            Datastore::File { .. } => Credentials::Config(path),
            Datastore::Kubernetes { kubeconfig: Some(path) } => Credentials::Kubeconfig(path.clone()),
            Datastore::Kubernetes { kubeconfig: None } => own_account()?,
        };
        Ok(Some(Installer {
            install: install.clone(),
            credentials,
            node: config.node.clone(),
            socket: config.api.socket.clone(),
            program: "/proc/self/exe".into(),
        }))
    }

    /// Installs once the daemon works, and keeps what is installed as it should be; on a thread of its own, for as long
    /// as the process runs.
    pub fn start(self) -> Result<(), CniError> {
        let run = move || {
            let client = Client::new(&self.socket);
            // The daemon that answers may be another one, whose place this one is about to take.
            while !client.status().is_ok_and(|s| s.in_sync && s.pid == std::process::id()) {
                std::thread::sleep(PAUSE);
            }
            let mut told = String::new();
            loop {
                let fault = self.install().err().map(|e| e.to_string()).unwrap_or_default();
                if fault != told {
                    match fault.as_str() {
                        "" => tracing::info!("CNI plugin: installed after all"),
                        fault => tracing::error!("CNI plugin: {fault}; tried again every {} s", REFRESH.as_secs()),
                    }
                    told = fault;
                }
                std::thread::sleep(REFRESH);
            }
        };
        std::thread::Builder::new()
            .name("cni-install".into())
            .spawn(run)
            .map(drop)
            .map_err(io("start the thread that installs the CNI plugin"))
    }

    /// Brings every file in line.
    pub fn install(&self) -> Result<(), CniError> {
        for name in ["tortie", "tortie-ipam"] {
            if copy_program(&self.program, &self.install.bin_dir.join(name))? {
                tracing::info!("CNI plugin: {} installed", self.install.bin_dir.join(name).display());
            }
        }
        if let Credentials::Account { folder, server } = &self.credentials {
            let text = kubeconfig(folder, server)?;
            replace(&self.install.conf_dir.join(KUBECONFIG), text.as_bytes(), 0o600)?;
        }
        let mut text = serde_json::to_string_pretty(&self.configuration()).unwrap_or_default();
        text.push('\n');
        let path = self.install.conf_dir.join(&self.install.conf_name);
        if replace(&path, text.as_bytes(), 0o644)? {
            tracing::info!("CNI plugin: {} written", path.display());
        }
        Ok(())
    }

    /// The list of plugins. What is not installed is not in it, as every pod would fail.
    pub fn configuration(&self) -> Value {
        let mut ours = json!({
            "type": "tortie",
            "log_level": "info",
            "log_file_path": self.install.log_file,
            "nodename": self.node,
            "mtu": self.install.mtu,
            "ipam": { "type": "tortie-ipam" },
            "policy": { "type": "k8s" },
            "api_socket": self.socket,
            // The engine reads a pod's packets before the shaper of `bandwidth` would delay them; that plugin shapes
            // what pods receive, ours what they send.
            "capabilities": { "bandwidth": true },
        });
        let kubernetes = |path: &Path| json!({ "kubeconfig": path });
        match &self.credentials {
            Credentials::Config(path) => ours["config"] = json!(path),
            Credentials::Kubeconfig(path) => {
                ours["datastore_type"] = json!("kubernetes");
                ours["kubernetes"] = kubernetes(path);
            }
            Credentials::Account { .. } => {
                ours["datastore_type"] = json!("kubernetes");
                ours["kubernetes"] = kubernetes(&self.install.host_conf_dir.join(KUBECONFIG));
            }
        }
        let mut plugins = vec![ours];
        for (name, capability) in CHAIN {
            if self.install.bin_dir.join(name).exists() {
                let mut plugin = json!({ "type": name, "capabilities": { capability: true } });
                if name == "portmap" {
                    plugin["snat"] = json!(true);
                }
                plugins.push(plugin);
            }
        }
        json!({ "name": "k8s-pod-network", "cniVersion": self.install.cni_version, "plugins": plugins })
    }
}

/// The server's address for a pod of the cluster.
fn server_of_pod(get: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (host, port) = (get("KUBERNETES_SERVICE_HOST")?, get("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Some(format!("https://{host}:{port}"))
}

/// The service account of the daemon's own pod.
fn own_account() -> Result<Credentials, CniError> {
    let server = server_of_pod(|name| std::env::var(name).ok()).ok_or_else(|| CniError::Environment {
        name: "KUBERNETES_SERVICE_HOST",
        fault: "it and KUBERNETES_SERVICE_PORT are needed: outside a pod of the cluster set datastore.kubeconfig".into(),
    })?;
    Ok(Credentials::Account { folder: ACCOUNT.into(), server })
}

/// With the token and the authority in it: the files that they come from are not the host's.
fn kubeconfig(account: &Path, server: &str) -> Result<String, CniError> {
    let read = |name: &str| {
        let path = account.join(name);
        fs::read(&path).map_err(io(format!("read {}", path.display())))
    };
    let token = String::from_utf8_lossy(&read("token")?).trim().to_owned();
    let document = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "tortie",
        "clusters": [{ "name": "local", "cluster": { "server": server, "certificate-authority-data": base64(&read("ca.crt")?) } }],
        "users": [{ "name": "tortie", "user": { "token": token } }],
        "contexts": [{ "name": "tortie", "context": { "cluster": "local", "user": "tortie" } }],
    });
    Ok(serde_json::to_string_pretty(&document).unwrap_or_default() + "\n")
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// Puts a program in place of what is there, if that differs; whether it did. One that runs keeps running.
fn copy_program(from: &Path, to: &Path) -> Result<bool, CniError> {
    let fault = || io(format!("copy {} to {}", from.display(), to.display()));
    if same_content(from, to).map_err(fault())? {
        return Ok(false);
    }
    let temporary = beside(to)?;
    let done = fs::copy(from, &temporary).and_then(|_| finish(&temporary, to, 0o755));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done.map(|()| true).map_err(fault())
}

fn same_content(a: &Path, b: &Path) -> std::io::Result<bool> {
    let mut b = match File::open(b) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let mut a = File::open(a)?;
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut two) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = a.read(&mut one)?;
        if n == 0 {
            return Ok(true);
        }
        b.read_exact(&mut two[..n])?;
        if one[..n] != two[..n] {
            return Ok(false);
        }
    }
}

/// Writes a file if it does not say that already; whether it did.
fn replace(path: &Path, text: &[u8], mode: u32) -> Result<bool, CniError> {
    if fs::read(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    let temporary = beside(path)?;
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        // Before it holds a secret.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text)?;
        finish(&temporary, path, mode)
    };
    let done = write();
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done.map(|()| true).map_err(io(format!("write {}", path.display())))
}

/// Runtimes take every file whose name ends in .conf, .conflist or .json; this one does not.
fn beside(path: &Path) -> Result<PathBuf, CniError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(io(format!("make the folder {}", folder.display())))?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(folder.join(format!(".{name}.{}", std::process::id())))
}

fn finish(temporary: &Path, path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(temporary, Permissions::from_mode(mode))?;
    File::open(temporary)?.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::conf::{Conf, Datastore as Found};

    fn installer(dir: &Path, credentials: Credentials) -> Installer {
        let program = dir.join("program");
        fs::write(&program, "the program").unwrap();
        let conf_dir = dir.join("net.d");
        let install = CniInstall {
            bin_dir: dir.join("bin"),
            host_conf_dir: "/etc/cni/net.d".into(),
            conf_dir,
            conf_name: "10-calico.conflist".into(),
            cni_version: "0.3.1".into(),
            mtu: 0,
            log_file: "/var/log/calico/cni/cni.log".into(),
        };
        Installer { install, credentials, node: "n1".into(), socket: "/run/t.sock".into(), program }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn files_appear_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let one = installer(dir.path(), Credentials::Kubeconfig("/etc/kubernetes/k".into()));
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/portmap"), "").unwrap();
        one.install().unwrap();
        assert_eq!(names(&dir.path().join("bin")), ["portmap", "tortie", "tortie-ipam"]);
        assert_eq!(names(&dir.path().join("net.d")), ["10-calico.conflist"]);
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("bin/tortie"), mode("net.d/10-calico.conflist")), (0o755, 0o644));
        let list: Value = serde_json::from_slice(&fs::read(dir.path().join("net.d/10-calico.conflist")).unwrap()).unwrap();
        assert_eq!((&list["name"], &list["cniVersion"]), (&json!("k8s-pod-network"), &json!("0.3.1")));
        let types: Vec<_> = list["plugins"].as_array().unwrap().iter().map(|p| p["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["tortie", "portmap"], "bandwidth is not installed");
        fs::write(dir.path().join("bin/tortie"), "an older one").unwrap();
        fs::remove_file(dir.path().join("net.d/10-calico.conflist")).unwrap();
        one.install().unwrap();
        assert_eq!(fs::read(dir.path().join("bin/tortie")).unwrap(), b"the program");
        assert!(dir.path().join("net.d/10-calico.conflist").exists());
    }

    #[test]
    fn what_is_written_is_what_the_plugin_reads() {
        let dir = tempfile::tempdir().unwrap();
        let one = installer(dir.path(), Credentials::Kubeconfig("/etc/kubernetes/k".into()));
        let mut ours = one.configuration()["plugins"][0].clone();
        ours["name"] = json!("k8s-pod-network");
        ours["cniVersion"] = json!("0.3.1");
        let conf = Conf::parse(&ours.to_string()).unwrap();
        assert_eq!(conf.datastore, Found::Kubernetes { kubeconfig: Some("/etc/kubernetes/k".into()) });
        assert_eq!((conf.node.as_str(), conf.socket.to_str(), conf.mtu), ("n1", Some("/run/t.sock"), None));
    }

    #[test]
    fn a_service_accounts_token_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let account = dir.path().join("account");
        fs::create_dir(&account).unwrap();
        fs::write(account.join("ca.crt"), "ca").unwrap();
        fs::write(account.join("token"), "one\n").unwrap();
        let one = installer(dir.path(), Credentials::Account { folder: account.clone(), server: "https://10.96.0.1:443".into() });
        let written = || -> Value { serde_json::from_slice(&fs::read(dir.path().join("net.d/calico-kubeconfig")).unwrap()).unwrap() };
        one.install().unwrap();
        assert_eq!(written()["users"][0]["user"]["token"], "one");
        assert_eq!(written()["clusters"][0]["cluster"], json!({ "server": "https://10.96.0.1:443", "certificate-authority-data": "Y2E=" }));
        assert_eq!(fs::metadata(dir.path().join("net.d/calico-kubeconfig")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(one.configuration()["plugins"][0]["kubernetes"]["kubeconfig"], "/etc/cni/net.d/calico-kubeconfig");
        fs::write(account.join("token"), "two").unwrap();
        one.install().unwrap();
        assert_eq!(written()["users"][0]["user"]["token"], "two");
        fs::remove_file(account.join("token")).unwrap();
        let e = one.install().unwrap_err().to_string();
        assert!(e.contains("token"), "{e}");
        assert_eq!(written()["users"][0]["user"]["token"], "two", "the last good one stays");
    }

    #[test]
    fn encodings_of_rfc_4648() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn the_server_of_a_pod() {
        let get = |host: &'static str| move |name: &str| Some(if name.ends_with("HOST") { host.to_owned() } else { "443".to_owned() });
        assert_eq!(server_of_pod(get("10.96.0.1")).unwrap(), "https://10.96.0.1:443");
        assert_eq!(server_of_pod(get("fd00::1")).unwrap(), "https://[fd00::1]:443");
        assert_eq!(server_of_pod(|_| None), None);
    }
}
