//! Which address of this host is the node's: Calico's autodetection methods, as a function of what the kernel and
//! the node's Kubernetes object say.

use crate::control::pattern::{Pattern, PatternError};
use ipnet::{IpNet, Ipv4Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// Starts of the names of interfaces that carry no node's address: bridges and devices of containers, tunnels.
const NOT_OF_NODES: [&str; 19] = [
    "docker",
    "cbr",
    "dummy",
    "podman",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "br-",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
];

/// One interface with its IPv4 addresses in the kernel's order, primary ones first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    pub addresses: Vec<Ipv4Net>,
}

/// How the address is found: the values of `IP_AUTODETECTION_METHOD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// The first global unicast address, interfaces by falling index, those of containers and tunnels left out.
    #[default]
    FirstFound,
    /// The node's InternalIP in Kubernetes.
    KubernetesInternalIp,
    /// The source address that the kernel takes towards an address or a name.
    CanReach(String),
    /// As first-found, on interfaces with one of these names, excluded ones too.
    Interface(Vec<Pattern>),
    /// As first-found, with these names left out as well.
    SkipInterface(Vec<Pattern>),
    /// The first address within one of these prefixes, on any interface.
    Cidr(Vec<IpNet>),
}

/// Why a text names no method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    #[error(
        "{0:?} is not one of first-found, kubernetes-internal-ip, can-reach=ADDRESS, interface=REGEX,..., skip-interface=REGEX,..., cidr=CIDR,..."
    )]
    Unknown(String),
    #[error("{0} needs a value behind the =")]
    Empty(&'static str),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("{0:?} is not a CIDR")]
    Cidr(String),
}

impl Method {
    pub fn parse(text: &str) -> Result<Method, MethodError> {
        match text.split_once('=') {
            None if text.is_empty() || text == "first-found" => Ok(Method::FirstFound),
            None if text == "kubernetes-internal-ip" => Ok(Method::KubernetesInternalIp),
            Some(("can-reach", "")) => Err(MethodError::Empty("can-reach")),
            Some(("can-reach", destination)) => Ok(Method::CanReach(destination.trim().to_owned())),
            Some(("interface", list)) => patterns("interface", list).map(Method::Interface),
            Some(("skip-interface", list)) => patterns("skip-interface", list).map(Method::SkipInterface),
            Some(("cidr", list)) => items("cidr", list)?
                .map(|c| c.parse().map_err(|_| MethodError::Cidr(c.to_owned())))
                .collect::<Result<_, _>>()
                .map(Method::Cidr),
            _ => Err(MethodError::Unknown(text.to_owned())),
        }
    }
}

/// The items of a comma-separated list; there must be one, and none may be empty: an empty expression would match
/// every interface.
fn items<'a>(method: &'static str, list: &'a str) -> Result<impl Iterator<Item = &'a str>, MethodError> {
    if list.split(',').any(|i| i.trim().is_empty()) { Err(MethodError::Empty(method)) } else { Ok(list.split(',').map(str::trim)) }
}

fn patterns(method: &'static str, list: &str) -> Result<Vec<Pattern>, MethodError> {
    items(method, list)?.map(|p| p.parse().map_err(MethodError::from)).collect()
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Method::FirstFound => f.write_str("first-found"),
            Method::KubernetesInternalIp => f.write_str("kubernetes-internal-ip"),
            Method::CanReach(destination) => write!(f, "can-reach={destination}"),
            Method::Interface(list) => write!(f, "interface={}", joined(list)),
            Method::SkipInterface(list) => write!(f, "skip-interface={}", joined(list)),
            Method::Cidr(list) => write!(f, "cidr={}", joined(list)),
        }
    }
}

fn joined<T: fmt::Display>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// What is known of the host when the address is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub interfaces: Vec<Interface>,
    /// Addresses of type InternalIP in the node's Kubernetes object, in its order.
    pub internal_ips: Vec<IpAddr>,
    /// For can-reach: the source address that the kernel chose, or why there is none.
    pub reached: Option<Result<Ipv4Addr, String>>,
}

impl Host {
    /// The interface that has an address, and the address with its prefix there.
    pub fn find(&self, address: Ipv4Addr) -> Option<Detected> {
        let on = |i: &Interface| i.addresses.iter().find(|a| a.addr() == address).map(|a| Detected::new(*a, i));
        self.by_falling_index().into_iter().find_map(on)
    }

    fn by_falling_index(&self) -> Vec<&Interface> {
        let mut all: Vec<&Interface> = self.interfaces.iter().collect();
        all.sort_by_key(|i| std::cmp::Reverse(i.index));
        all
    }

    fn first(&self, interface: impl Fn(&str) -> bool, address: impl Fn(Ipv4Addr) -> bool) -> Option<Detected> {
        let on = |i: &Interface| {
            let good = |a: &&Ipv4Net| is_global_unicast(a.addr()) && address(a.addr());
            i.addresses.iter().find(good).map(|a| Detected::new(*a, i))
        };
        self.by_falling_index().into_iter().filter(|i| interface(&i.name)).find_map(on)
    }
}

/// An address of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// With the prefix that it has on the interface.
    pub address: Ipv4Net,
    pub interface: String,
}

impl Detected {
    fn new(address: Ipv4Net, interface: &Interface) -> Detected {
        Detected { address, interface: interface.name.clone() }
    }
}

/// Why no address was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DetectError {
    #[error("no interface has an IPv4 address that {method} takes (interfaces here: {})", list(interfaces))]
    None { method: Method, interfaces: Vec<String> },
    #[error("the node has no IPv4 address of type InternalIP in Kubernetes")]
    NoInternalIp,
    #[error("{address}, found by {method}, is on no interface of this host")]
    NotHere { method: Method, address: Ipv4Addr },
    #[error("{destination} cannot be reached: {fault}")]
    Unreachable { destination: String, fault: String },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Finds the node's address.
pub fn detect(method: &Method, host: &Host) -> Result<Detected, DetectError> {
    let any = |_: Ipv4Addr| true;
    let matching = |all: &[Pattern], name: &str| all.iter().any(|p| p.matches(name));
    let found = match method {
        Method::FirstFound => host.first(of_nodes, any),
        Method::Interface(names) => host.first(|n| matching(names, n), any),
        Method::SkipInterface(names) => host.first(|n| of_nodes(n) && !matching(names, n), any),
        Method::Cidr(prefixes) => host.first(|_| true, |a| prefixes.iter().any(|p| p.contains(&IpAddr::V4(a)))),
        Method::KubernetesInternalIp => return internal_ip(host),
        Method::CanReach(destination) => return reached(host, destination),
    };
    let names = || host.interfaces.iter().map(|i| i.name.clone()).collect();
    found.ok_or_else(|| DetectError::None { method: method.clone(), interfaces: names() })
}

fn internal_ip(host: &Host) -> Result<Detected, DetectError> {
    let v4 = host.internal_ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    let address = v4.ok_or(DetectError::NoInternalIp)?;
    host.find(address).ok_or(DetectError::NotHere { method: Method::KubernetesInternalIp, address })
}

fn reached(host: &Host, destination: &str) -> Result<Detected, DetectError> {
    let fault = |fault: &str| DetectError::Unreachable { destination: destination.to_owned(), fault: fault.to_owned() };
    match &host.reached {
        Some(Ok(address)) => {
            host.find(*address).ok_or_else(|| DetectError::NotHere { method: Method::CanReach(destination.to_owned()), address: *address })
        }
        Some(Err(e)) => Err(fault(e)),
        None => Err(fault("the kernel was not asked")),
    }
}

fn of_nodes(interface: &str) -> bool {
    !NOT_OF_NODES.iter().any(|start| interface.starts_with(start))
}

/// Neither unspecified, loopback, link-local, multicast nor broadcast; private addresses are.
fn is_global_unicast(a: Ipv4Addr) -> bool {
    !(a.is_unspecified() || a.is_loopback() || a.is_link_local() || a.is_multicast() || a.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `eth0=10.0.0.1/24,10.0.0.2/24` and so on, indices counted up from 1.
    fn host(text: &str) -> Host {
        let interface = |(i, t): (usize, &str)| {
            let (name, addresses) = t.split_once('=').unwrap_or((t, ""));
            let addresses = addresses.split(',').filter(|a| !a.is_empty()).map(|a| a.parse().unwrap()).collect();
            Interface { index: i as u32 + 1, name: name.into(), addresses }
        };
        Host { interfaces: text.split_whitespace().enumerate().map(interface).collect(), ..Host::default() }
    }

    fn by(method: &str, host: &Host) -> Result<String, String> {
        detect(&Method::parse(method).unwrap(), host).map(|d| format!("{} {}", d.interface, d.address)).map_err(|e| e.to_string())
    }

    const BUSY: &str = "lo=127.0.0.1/8 eth0=10.0.0.5/24 eth1=169.254.7.7/16 bond4=192.168.7.3/20,192.168.7.4/20 docker0=172.17.0.1/16 \
                        br-5ac1=172.18.0.1/16 cali12ab=169.254.1.1/32 tunl-tortie=10.244.1.0/32 kube-ipvs0=10.96.0.1/32 nodelocaldns=10.96.0.9/32 ens9";

    #[test]
    fn every_method() {
        let h = host(BUSY);
        for (method, want) in [
            ("", "bond4 192.168.7.3/20"),
            ("first-found", "bond4 192.168.7.3/20"),
            ("interface=eth0", "eth0 10.0.0.5/24"),
            ("interface=eth.*, bond4", "bond4 192.168.7.3/20"),
            ("interface=^th0,eth", "eth0 10.0.0.5/24"),
            ("interface=docker", "docker0 172.17.0.1/16"),
            ("skip-interface=bond.*", "eth0 10.0.0.5/24"),
            ("skip-interface=ens,bond4", "eth0 10.0.0.5/24"),
            ("cidr=10.0.0.0/8", "nodelocaldns 10.96.0.9/32"),
            ("cidr=10.0.0.0/16,192.0.2.0/24", "eth0 10.0.0.5/24"),
            ("cidr=192.168.7.4/32,fd00::/8", "bond4 192.168.7.4/20"),
        ] {
            assert_eq!(by(method, &h).as_deref(), Ok(want), "{method}");
        }
    }

    #[test]
    fn what_is_not_found_is_said() {
        let h = host("lo=127.0.0.1/8 docker0=172.17.0.1/16 eth1=169.254.7.7/16");
        assert_eq!(
            by("first-found", &h).unwrap_err(),
            "no interface has an IPv4 address that first-found takes (interfaces here: lo, docker0, eth1)"
        );
        assert!(by("interface=eth1", &h).is_err() && by("skip-interface=x", &h).is_err() && by("cidr=10.0.0.0/8", &h).is_err());
        assert_eq!(by("kubernetes-internal-ip", &h).unwrap_err(), "the node has no IPv4 address of type InternalIP in Kubernetes");
        assert_eq!(by("can-reach=8.8.8.8", &h).unwrap_err(), "8.8.8.8 cannot be reached: the kernel was not asked");
        assert!(detect(&Method::FirstFound, &Host::default()).unwrap_err().to_string().ends_with("(interfaces here: none)"));
    }

    #[test]
    fn what_others_say_has_to_be_on_an_interface() {
        let mut h = host("eth0=10.0.0.5/24 eth1=10.0.0.5/28");
        h.internal_ips = vec!["fd00::5".parse().unwrap(), "10.0.0.5".parse().unwrap(), "10.0.0.6".parse().unwrap()];
        h.reached = Some(Ok("10.0.0.5".parse().unwrap()));
        // Both interfaces have it: the higher index comes first.
        assert_eq!(by("kubernetes-internal-ip", &h).as_deref(), Ok("eth1 10.0.0.5/28"));
        assert_eq!(by("can-reach=198.51.100.1", &h).as_deref(), Ok("eth1 10.0.0.5/28"));
        h.reached = Some(Err("Network is unreachable".into()));
        assert_eq!(by("can-reach=198.51.100.1", &h).unwrap_err(), "198.51.100.1 cannot be reached: Network is unreachable");
        h.interfaces.clear();
        assert_eq!(
            by("kubernetes-internal-ip", &h).unwrap_err(),
            "10.0.0.5, found by kubernetes-internal-ip, is on no interface of this host"
        );
    }

    #[test]
    fn methods_are_checked() {
        for (text, want) in [
            ("first", "\"first\" is not one of first-found, kubernetes-internal-ip"),
            ("can-reach", "\"can-reach\" is not one of"),
            ("can-reach=", "can-reach needs a value"),
            ("interface=", "interface needs a value"),
            ("interface=eth0,,eth1", "interface needs a value"),
            ("skip-interface=eth(", "\"eth(\" is not a regular expression: unclosed group"),
            ("cidr=10.0.0.0/8,10.0.0.1", "\"10.0.0.1\" is not a CIDR"),
        ] {
            let got = Method::parse(text).unwrap_err().to_string();
            assert!(got.starts_with(want), "{text}: {got}");
        }
        for text in
            ["first-found", "kubernetes-internal-ip", "can-reach=a.example", "interface=a,b.*", "skip-interface=x", "cidr=10.0.0.0/8"]
        {
            assert_eq!(Method::parse(text).unwrap().to_string(), text);
        }
    }
}
