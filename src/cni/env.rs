//! How a runtime calls: environment variables (SPEC.md, "Parameters").

use super::error::CniError;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// The commands of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    pub const fn name(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Gc => "GC",
            Command::Status => "STATUS",
            Command::Version => "VERSION",
        }
    }

    fn find(name: &str) -> Option<Command> {
        [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status, Command::Version].into_iter().find(|c| c.name() == name)
    }
}

/// Which container is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub interface: String,
    /// Missing in a DEL whose namespace is gone.
    pub netns: Option<PathBuf>,
    pub args: Args,
}

/// CNI_ARGS, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pub pod: Option<String>,
    pub namespace: Option<String>,
    /// An address that is asked for.
    pub ip: Option<IpAddr>,
}

/// A call, its parameters checked as far as the command needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub command: Command,
    /// For ADD, DEL and CHECK.
    pub container: Option<Container>,
    /// CNI_PATH: where other plugins are.
    pub path: String,
}

impl Call {
    /// From the variables; `get` answers with the empty string for those that are not set.
    pub fn new(get: impl Fn(&str) -> String) -> Result<Call, CniError> {
        let name = get("CNI_COMMAND");
        let command = Command::find(&name).ok_or_else(|| CniError::Environment {
            name: "CNI_COMMAND",
            fault: format!("{name:?} is not one of ADD, DEL, CHECK, GC, STATUS, VERSION"),
        })?;
        let container = match command {
            Command::Add | Command::Del | Command::Check => Some(container(command, &get)?),
            Command::Gc | Command::Status | Command::Version => None,
        };
        Ok(Call { command, container, path: get("CNI_PATH") })
    }

    /// The container of an ADD, DEL or CHECK.
    pub fn container(&self) -> Result<&Container, CniError> {
        self.container.as_ref().ok_or(CniError::Environment { name: "CNI_CONTAINERID", fault: "missing".into() })
    }
}

fn container(command: Command, get: &impl Fn(&str) -> String) -> Result<Container, CniError> {
    let fault = |name, fault: &str| CniError::Environment { name, fault: fault.into() };
    let id = get("CNI_CONTAINERID");
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(plain) {
        return Err(fault("CNI_CONTAINERID", "a letter or digit, then letters, digits, '_', '.' and '-' are required"));
    }
    let interface = get("CNI_IFNAME");
    let valid = |n: &str| n.len() < 16 && n != "." && n != ".." && n.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if interface.is_empty() || !valid(&interface) {
        return Err(fault("CNI_IFNAME", "1 to 15 characters without '/', ':' and blanks are required"));
    }
    let netns = Some(get("CNI_NETNS")).filter(|n| !n.is_empty()).map(PathBuf::from);
    if netns.is_none() && command != Command::Del {
        return Err(fault("CNI_NETNS", "missing; the path of the container's network namespace is required"));
    }
    Ok(Container { id, interface, netns, args: args(&get("CNI_ARGS"))? })
}

fn args(text: &str) -> Result<Args, CniError> {
    let fault = |fault: String| CniError::Environment { name: "CNI_ARGS", fault };
    let mut all = BTreeMap::new();
    for pair in text.split(';').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| fault(format!("{pair:?}: KEY=VALUE is required")))?;
        all.insert(key, value);
    }
    let known = |key: &str| all.get(key).filter(|v| !v.is_empty()).map(|v| (*v).to_owned());
    for key in ["K8S_POD_NAME", "K8S_POD_NAMESPACE"] {
        // They become parts of object names.
        if known(key).is_some_and(|v| !v.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))) {
            return Err(fault(format!("{key}: lower-case letters, digits, '-' and '.' only")));
        }
    }
    let ip =
        known("IP").map(|v| v.split('/').next().unwrap_or_default().parse().map_err(|_| fault(format!("IP: {v:?} is not an address"))));
    let out = Args { pod: known("K8S_POD_NAME"), namespace: known("K8S_POD_NAMESPACE"), ip: ip.transpose()? };
    if out.pod.is_some() != out.namespace.is_some() {
        return Err(fault("K8S_POD_NAME and K8S_POD_NAMESPACE belong together; one is missing".into()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(vars: &[(&str, &str)]) -> Result<Call, String> {
        let base = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/run/netns/x"), ("CNI_IFNAME", "eth0")];
        let get = |name: &str| {
            let own = vars.iter().find(|(n, _)| *n == name);
            own.or_else(|| base.iter().find(|(n, _)| *n == name)).map(|(_, v)| (*v).to_owned()).unwrap_or_default()
        };
        Call::new(get).map_err(|e| {
            assert_eq!(e.code(), 4);
            e.to_string()
        })
    }

    #[test]
    fn a_pods_call() {
        let c = call(&[("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;IP=10.244.0.9"), ("CNI_PATH", "/a:/b")]);
        let c = c.unwrap();
        assert_eq!((c.command, c.path.as_str()), (Command::Add, "/a:/b"));
        let args = &c.container().unwrap().args;
        assert_eq!((args.pod.as_deref(), args.namespace.as_deref()), (Some("web-0"), Some("default")));
        assert_eq!(args.ip, Some("10.244.0.9".parse().unwrap()));
    }

    #[test]
    fn what_a_command_does_not_need_is_not_asked_for() {
        let bare = [("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", "")];
        for command in ["GC", "STATUS", "VERSION"] {
            let vars: Vec<_> = bare.iter().copied().chain([("CNI_COMMAND", command)]).collect();
            assert_eq!(call(&vars).unwrap().container, None);
        }
        assert!(call(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]).is_ok());
    }

    #[test]
    fn faults_name_the_variable() {
        for (name, value) in [
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "-a"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "abcdefghijklmnop"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", ".."),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", "K8S_POD_NAME"),
            ("CNI_ARGS", "K8S_POD_NAME=a"),
            ("CNI_ARGS", "K8S_POD_NAME=a/b;K8S_POD_NAMESPACE=c"),
            ("CNI_ARGS", "IP=10.0.0.300"),
        ] {
            let e = call(&[(name, value)]).unwrap_err();
            assert!(e.starts_with(name), "{name}={value}: {e}");
        }
    }
}
