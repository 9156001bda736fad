//! Who an attachment is for, and the names that follow from it: Calico's, so that either program finds the other's.

use super::conf::Conf;
use super::env::Container;
use crate::control::model;

/// Characters of a container's id in the interface's name where there is no pod.
const ID_DIGITS: usize = 11;

/// A container on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub node: String,
    /// `default` without Kubernetes.
    pub namespace: String,
    /// Only under Kubernetes.
    pub pod: Option<String>,
    pub container: String,
    /// The interface inside.
    pub interface: String,
}

impl Workload {
    pub fn new(conf: &Conf, container: &Container) -> Workload {
        Workload {
            node: conf.node.clone(),
            namespace: container.args.namespace.clone().unwrap_or_else(|| "default".into()),
            pod: container.args.pod.clone(),
            container: container.id.clone(),
            interface: container.interface.clone(),
        }
    }

    pub fn orchestrator(&self) -> &'static str {
        if self.pod.is_some() { "k8s" } else { "cni" }
    }

    /// Name of the WorkloadEndpoint: the parts joined by '-', the '-' in them doubled. A pod's interface is eth0 in
    /// it, whatever the runtime calls it.
    pub fn endpoint(&self) -> String {
        let (own, interface) = match &self.pod {
            Some(pod) => (pod, "eth0"),
            None => (&self.container, self.interface.as_str()),
        };
        [self.node.as_str(), self.orchestrator(), own, interface].map(|p| p.replace('-', "--")).join("-")
    }

    /// The daemon's name for it.
    pub fn endpoint_key(&self) -> String {
        format!("{}/{}", self.namespace, self.endpoint())
    }

    /// The interface on the host. Calico takes the first characters of a container's id; ids that are not hashes
    /// (`default-web-1`) begin alike, so of those it is the hash.
    pub fn host_interface(&self, prefix: &str) -> String {
        let hashed = self.container.len() > ID_DIGITS && self.container.bytes().all(|b| b.is_ascii_hexdigit());
        match &self.pod {
            Some(pod) => model::interface_name(prefix, &self.namespace, pod),
            None if hashed => format!("{prefix}{}", &self.container[..ID_DIGITS]),
            None => model::interface_name(prefix, &self.namespace, &self.container),
        }
    }

    /// Handle of addresses that Calico gave out before its version 3.
    pub fn legacy_handle(&self) -> String {
        match &self.pod {
            Some(pod) => format!("{}.{pod}", self.namespace),
            None => self.container.clone(),
        }
    }
}

/// What is written on the host's interface (IFLA_IFALIAS): network, container and the interface inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub network: String,
    pub container: String,
    pub interface: String,
}

impl Mark {
    pub fn new(conf: &Conf, container: &Container) -> Mark {
        Mark { network: conf.name.clone(), container: container.id.clone(), interface: container.interface.clone() }
    }

    /// The kernel takes up to 255 bytes.
    pub fn text(&self) -> String {
        format!("tortie {} {} {}", self.network, self.container, self.interface)
    }

    pub fn parse(text: &str) -> Option<Mark> {
        let mut words = text.strip_prefix("tortie ")?.rsplitn(3, ' ');
        let (interface, container, network) = (words.next()?.into(), words.next()?.into(), words.next()?.into());
        Some(Mark { network, container, interface })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(pod: Option<&str>) -> Workload {
        Workload {
            node: "worker-3".into(),
            namespace: "default".into(),
            pod: pod.map(str::to_owned),
            container: "0123456789abcdef".into(),
            interface: "eth0".into(),
        }
    }

    #[test]
    fn calicos_names() {
        let pod = workload(Some("iperf3-0"));
        assert_eq!(pod.endpoint(), "worker--3-k8s-iperf3--0-eth0");
        assert_eq!(pod.legacy_handle(), "default.iperf3-0");
        assert_eq!(workload(Some("client-6d96c457bc-bd2p9")).host_interface("cali"), "cali3745790aa7e");
        let other = workload(None);
        assert_eq!(other.endpoint_key(), "default/worker--3-cni-0123456789abcdef-eth0");
        assert_eq!((other.host_interface("cali"), other.legacy_handle()), ("cali0123456789a".into(), "0123456789abcdef".into()));
        assert!(other.host_interface("cali").len() <= 15);
        let named = |id: &str| Workload { container: id.into(), ..workload(None) }.host_interface("cali");
        assert_ne!(named("default-web-1"), named("default-web-2"));
        assert_eq!(named("default-web-1").len(), 15);
    }

    #[test]
    fn marks_are_read_again() {
        let m = Mark { network: "k8s pod network".into(), container: "abc".into(), interface: "eth0".into() };
        assert_eq!(Mark::parse(&m.text()), Some(m));
        assert_eq!(Mark::parse("lan"), None);
        assert_eq!(Mark::parse("tortie x"), None);
    }
}
