//! What the daemon is to install for container runtimes: the `cni` section of its configuration.

use super::yaml::{Field, FieldError};
use std::path::{Path, PathBuf};

/// Where the plugin goes, and what its network configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniInstall {
    /// The runtime's folder of plugins.
    pub bin_dir: PathBuf,
    /// The runtime's folder of network configurations.
    pub conf_dir: PathBuf,
    /// The same folder as the runtime sees it, where that differs from what the daemon sees.
    pub host_conf_dir: PathBuf,
    pub conf_name: String,
    pub cni_version: String,
    /// Of pods' interfaces; 0: whatever the daemon works out.
    pub mtu: u16,
    /// Of the plugin.
    pub log_file: String,
}

/// `None` if nothing is to be installed.
pub(super) fn read(f: &Field, folder: &Path) -> Result<Option<CniInstall>, FieldError> {
    f.only(&["install", "bin-dir", "conf-dir", "host-conf-dir", "conf-name", "cni-version", "mtu", "log-file"])?;
    let text = |key: &str, default: &'static str| -> Result<String, FieldError> {
        let field = f.get(key)?;
        Ok(if field.is_present() { field.required_text()?.to_owned() } else { default.to_owned() })
    };
    let conf_dir = folder.join(text("conf-dir", "/etc/cni/net.d")?);
    let host = f.get("host-conf-dir")?;
    let name = f.get("conf-name")?;
    let conf_name = text("conf-name", "10-calico.conflist")?;
    if conf_name.contains('/') || !conf_name.ends_with(".conflist") {
        return Err(name.error(format!("{conf_name} is not the name of a .conflist file")));
    }
    let versions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"].map(|v| (v, v));
    let install = CniInstall {
        bin_dir: folder.join(text("bin-dir", "/opt/cni/bin")?),
        host_conf_dir: if host.is_present() { host.required_text()?.into() } else { conf_dir.clone() },
        conf_dir,
        conf_name,
        cni_version: f.get("cni-version")?.one_of(&versions)?.unwrap_or("0.3.1").to_owned(),
        log_file: text("log-file", "/var/log/calico/cni/cni.log")?,
        mtu: f.get("mtu")?.number(0, u16::MAX.into())?.unwrap_or(0),
    };
    Ok(f.get("install")?.boolean()?.unwrap_or(false).then_some(install))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml;

    fn parse(text: &str) -> Result<Option<CniInstall>, String> {
        let docs = yaml::documents(text).unwrap();
        read(&Field::root(&docs[0]), Path::new("/etc/tortie")).map_err(|e| e.to_string())
    }

    #[test]
    fn where_things_go() {
        assert_eq!(parse("{install: false}").unwrap(), None);
        let c = parse("{install: true}").unwrap().unwrap();
        assert_eq!((c.bin_dir.to_str(), c.conf_dir.to_str()), (Some("/opt/cni/bin"), Some("/etc/cni/net.d")));
        assert_eq!((c.conf_name.as_str(), c.cni_version.as_str(), c.mtu), ("10-calico.conflist", "0.3.1", 0));
        let c = parse(
            "{install: true, conf-dir: /host/etc/cni/net.d, host-conf-dir: /etc/cni/net.d, bin-dir: bin, cni-version: 1.1.0, mtu: 1440}",
        );
        let c = c.unwrap().unwrap();
        assert_eq!((c.host_conf_dir.to_str(), c.bin_dir.to_str()), (Some("/etc/cni/net.d"), Some("/etc/tortie/bin")));
        assert_eq!((c.cni_version.as_str(), c.mtu), ("1.1.0", 1440));
    }

    #[test]
    fn faults() {
        for (text, want) in [
            ("{instal: true}", "instal: unknown key"),
            ("{install: yes please}", "install: true or false"),
            ("{conf-name: ../x.conflist}", "conf-name: ../x.conflist is not the name"),
            ("{conf-name: 10-calico.conf}", "conf-name: 10-calico.conf is not the name"),
            ("{cni-version: '2.0.0'}", "cni-version: \"2.0.0\" is not one of"),
            ("{mtu: 70000}", "mtu: a whole number"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.starts_with(want), "{e}");
        }
    }
}
