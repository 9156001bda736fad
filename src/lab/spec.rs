//! What a lab should be, and the plan that follows from it: names, addresses and blocks, before anything is made.

use super::LabError;
use crate::control::config::WORKERS_MAX;
use crate::control::model::interface_name;
use crate::wire::Mac;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The pod network of every lab.
pub const POOL: &str = "10.244.0.0/16";
/// Most nodes: one byte of the block's address, and more would be no laboratory.
const MAX_NODES: u8 = 64;
/// So many fit in a /24, and in one byte of an address.
const MAX_PODS: u8 = 250;
/// Most pods of a node with Calico's usual block, a /26; with more the pool's blocks are /24.
const USUAL_PODS: u8 = 60;
const MAX_SUBNETS: u8 = 16;

/// Declares an option with a fixed set of words.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $(#[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every word, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(s: &str) -> Result<$name, String> {
                match s {
                    $($word => Ok($name::$variant),)+
                    _ => Err(format!("expected one of {}", Self::WORDS.join(", "))),
                }
            }
        }
    };
}

choice! {
    /// How packets travel between nodes.
    Encap { Vxlan = "vxlan", Ipip = "ipip", None = "none" }
}
choice! {
    /// When they are encapsulated: always, or only towards nodes in another subnet.
    Mode { Always = "always", CrossSubnet = "cross-subnet" }
}
choice! {
    /// What pods are attached by: a veth with the engine's choice of driver, a TAP that the engine makes, or a
    /// veth with a driver fixed.
    Workload { Veth = "veth", Tap = "tap", AfPacket = "af-packet", AfXdp = "af-xdp" }
}
choice! {
    /// The uplink's driver.
    Uplink { Auto = "auto", AfXdp = "af-xdp", Socket = "socket" }
}
choice! {
    /// How AF_XDP attaches.
    Xdp { Auto = "auto", Native = "native", Generic = "generic" }
}

impl Encap {
    /// Bytes that the encapsulation adds (RFC 7348 over IPv4 with the inner Ethernet header; RFC 2003).
    pub const fn overhead(self) -> u16 {
        match self {
            Encap::Vxlan => 50,
            Encap::Ipip => 20,
            Encap::None => 0,
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Lower-case letters and digits; part of every name the lab makes.
    pub name: String,
    /// Nodes that run the engine.
    pub nodes: u8,
    /// Nodes that use the kernel's VXLAN device.
    pub kernel_nodes: u8,
    /// Pods per node.
    pub pods: u8,
    pub subnets: u8,
    pub encap: Encap,
    pub mode: Mode,
    pub workload: Workload,
    pub uplink: Uplink,
    pub xdp: Xdp,
    pub workers: u16,
    /// Whether nodes measure each other.
    #[serde(default)]
    pub probes: bool,
    /// The engines' executable; `None`: that of this process.
    #[serde(default)]
    pub program: Option<PathBuf>,
}

impl Spec {
    /// Two engine nodes, two pods each, one subnet, VXLAN.
    pub fn new(name: &str) -> Spec {
        Spec {
            name: name.to_owned(),
            nodes: 2,
            kernel_nodes: 0,
            pods: 2,
            subnets: 1,
            encap: Encap::Vxlan,
            mode: Mode::Always,
            workload: Workload::Veth,
            uplink: Uplink::Auto,
            xdp: Xdp::Auto,
            workers: 1,
            probes: true,
            program: None,
        }
    }

    /// Whether this can be built at all; says which flag is wrong.
    pub fn check(&self) -> Result<(), LabError> {
        let refuse = |why: String| Err(LabError::Spec(why));
        check_name(&self.name)?;
        let nodes = u16::from(self.nodes) + u16::from(self.kernel_nodes);
        if nodes == 0 || nodes > u16::from(MAX_NODES) {
            return refuse(format!("--nodes: {nodes} nodes, but a lab has 1 to {MAX_NODES}"));
        }
        if self.pods > MAX_PODS {
            return refuse(format!("--pods {}: at most {MAX_PODS} per node", self.pods));
        }
        if self.subnets == 0 || self.subnets > MAX_SUBNETS {
            return refuse(format!("--subnets {}: 1 to {MAX_SUBNETS}", self.subnets));
        }
        if u16::from(self.subnets) > nodes {
            return refuse(format!("--subnets {}: more subnets than nodes ({nodes})", self.subnets));
        }
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return refuse(format!("--workers {}: 1 to {WORKERS_MAX}", self.workers));
        }
        if self.kernel_nodes > 0 && self.encap != Encap::Vxlan {
            return refuse(format!(
                "--kernel-peer needs --encap vxlan, not {}: the peer is the kernel's VXLAN device (stock nodes use BGP for the others)",
                self.encap.word()
            ));
        }
        if self.encap == Encap::None && self.mode == Mode::CrossSubnet {
            return refuse("--mode cross-subnet says when to encapsulate, but --encap none never does".to_owned());
        }
        Ok(())
    }

    /// Prefix length of the pool's blocks: each node has one, and it has room for all of the node's pods.
    pub const fn block_prefix(&self) -> u8 {
        if self.pods <= USUAL_PODS { 26 } else { 24 }
    }

    /// Longest packet of a pod, bytes, on an underlay of 1500.
    pub const fn pod_mtu(&self) -> u16 {
        1500 - self.encap.overhead()
    }
}

/// Lab names become parts of namespace and file names, so only letters and digits; `-` separates the parts.
pub fn check_name(name: &str) -> Result<(), LabError> {
    let fits = (1..=12).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if fits { Ok(()) } else { Err(LabError::Spec(format!("--name {name:?}: 1 to 12 lower-case letters or digits"))) }
}

/// Start of the name of every namespace of a lab.
pub fn netns_prefix(lab: &str) -> String {
    format!("tortie-{lab}-")
}

/// The folder with everything that a lab keeps while it is up.
pub fn run_dir(lab: &str) -> PathBuf {
    Path::new("/run").join(format!("tortie-{lab}"))
}

/// Where the file of a named network namespace is (iproute2's convention).
pub fn netns_path(netns: &str) -> PathBuf {
    Path::new("/run/netns").join(netns)
}

/// What forwards on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Tortie,
    Kernel,
}

/// One pod to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub netns: String,
    /// Host-side interface.
    pub interface: String,
    pub address: Ipv4Addr,
}

/// One node to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub netns: String,
    pub kind: Kind,
    /// From 1.
    pub subnet: u8,
    /// Underlay address with its prefix.
    pub address: Ipv4Net,
    pub block: Ipv4Net,
    /// First address of the block; `None` without encapsulation.
    pub tunnel: Option<Ipv4Addr>,
    pub pods: Vec<Pod>,
}

impl Node {
    /// Folder of the node's config, log and socket.
    pub fn dir(&self, lab: &str) -> PathBuf {
        run_dir(lab).join(&self.name)
    }

    pub fn socket(&self, lab: &str) -> PathBuf {
        self.dir(lab).join("api.sock")
    }

    /// MAC of the node's VTEP by Calico's rule: 0x66 and the first five bytes of SHA-1 over the node's name.
    pub fn vtep_mac(&self) -> Mac {
        let h = Sha1::digest(self.name.as_bytes());
        Mac([0x66, h[0], h[1], h[2], h[3], h[4]])
    }
}

/// All that follows from a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub spec: Spec,
    /// Namespace with the bridges, which routes between the subnets.
    pub underlay: String,
    pub nodes: Vec<Node>,
}

impl Plan {
    /// Engine nodes first, then kernel nodes; subnets in turn.
    pub fn new(spec: Spec) -> Result<Plan, LabError> {
        spec.check()?;
        let prefix = netns_prefix(&spec.name);
        let nodes = (1..=spec.nodes + spec.kernel_nodes)
            .map(|n| {
                let name = format!("n{n}");
                let subnet = (n - 1) % spec.subnets + 1;
                let first = Ipv4Addr::new(10, 244, n, 0);
                let pods = (1..=spec.pods).map(|p| {
                    let pod = format!("{name}-p{p}");
                    Pod {
                        netns: format!("{prefix}{pod}"),
                        interface: interface_name("cali", "default", &pod),
                        address: Ipv4Addr::new(10, 244, n, p),
                        name: pod,
                    }
                });
                Node {
                    pods: pods.collect(),
                    netns: format!("{prefix}{name}"),
                    kind: if n <= spec.nodes { Kind::Tortie } else { Kind::Kernel },
                    subnet,
                    address: Ipv4Net::new_assert(Ipv4Addr::new(172, 31, subnet, n), 24),
                    block: Ipv4Net::new_assert(first, spec.block_prefix()),
                    tunnel: (spec.encap != Encap::None).then_some(first),
                    name,
                }
            })
            .collect();
        Ok(Plan { underlay: format!("{prefix}underlay"), nodes, spec })
    }

    /// The router's address in a subnet.
    pub fn router(&self, subnet: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, subnet, 254)
    }

    pub fn pods(&self) -> impl Iterator<Item = (&Node, &Pod)> {
        self.nodes.iter().flat_map(|n| n.pods.iter().map(move |p| (n, p)))
    }

    /// The pod or node of that name as a network namespace.
    pub fn netns_of(&self, name: &str) -> Option<&str> {
        let pod = self.pods().find(|(_, p)| p.name == name).map(|(_, p)| p.netns.as_str());
        pod.or_else(|| self.nodes.iter().find(|n| n.name == name).map(|n| n.netns.as_str()))
    }

    /// Every namespace, the underlay's first.
    pub fn namespaces(&self) -> Vec<&str> {
        let nodes = self.nodes.iter().map(|n| n.netns.as_str());
        std::iter::once(self.underlay.as_str()).chain(nodes).chain(self.pods().map(|(_, p)| p.netns.as_str())).collect()
    }

    /// Whether packets from `a` to `b` travel encapsulated.
    pub fn encapsulated(&self, a: &Node, b: &Node) -> bool {
        self.spec.encap != Encap::None && (self.spec.mode == Mode::Always || a.subnet != b.subnet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_calico() {
        assert_eq!(interface_name("cali", "default", "client-6d96c457bc-bd2p9"), "cali3745790aa7e");
        assert_eq!(interface_name("cali", "kube-system", "coredns-66bff467f8-52tkd"), "calic22dbe57533");
        let mut node = Plan::new(Spec::new("lab")).unwrap().nodes.remove(0);
        node.name = "node01".into();
        assert_eq!(node.vtep_mac().to_string(), "66:aa:99:2f:dc:24");
    }

    #[test]
    fn subnets_alternate_and_nothing_overlaps() {
        let plan = Plan::new(Spec { nodes: 3, kernel_nodes: 1, pods: 3, subnets: 2, ..Spec::new("lab") }).unwrap();
        let subnets: Vec<_> = plan.nodes.iter().map(|n| n.subnet).collect();
        assert_eq!(subnets, [1, 2, 1, 2]);
        assert_eq!(plan.nodes[3].kind, Kind::Kernel);
        assert_eq!(plan.nodes[1].address.to_string(), "172.31.2.2/24");
        let mut names = plan.namespaces();
        assert_eq!(names.len(), 1 + 4 + 12);
        assert!(names.iter().all(|n| n.starts_with("tortie-lab-")));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 17);
        assert!(plan.nodes.iter().all(|n| n.pods.iter().all(|p| n.block.contains(&p.address) && Some(p.address) != n.tunnel)));
        assert_eq!(plan.netns_of("n2-p3"), Some("tortie-lab-n2-p3"));
        assert_eq!(plan.netns_of("n2"), Some("tortie-lab-n2"));
        assert_eq!(plan.netns_of("n9"), None);
    }

    #[test]
    fn blocks_have_room_for_all_pods() {
        for (pods, prefix) in [(60, 26), (61, 24), (250, 24)] {
            let plan = Plan::new(Spec { pods, ..Spec::new("lab") }).unwrap();
            let node = &plan.nodes[1];
            assert_eq!(node.block.prefix_len(), prefix);
            assert!(node.pods.iter().all(|p| node.block.contains(&p.address) && !plan.nodes[0].block.contains(&p.address)));
        }
    }

    #[test]
    fn cross_subnet_encapsulates_only_across() {
        let spec = Spec { nodes: 3, subnets: 2, mode: Mode::CrossSubnet, ..Spec::new("lab") };
        let plan = Plan::new(spec).unwrap();
        assert!(plan.encapsulated(&plan.nodes[0], &plan.nodes[1]));
        assert!(!plan.encapsulated(&plan.nodes[0], &plan.nodes[2]));
    }

    #[test]
    fn impossible_labs_are_refused_by_flag() {
        let base = || Spec::new("lab");
        for (spec, flag) in [
            (Spec { nodes: 0, ..base() }, "--nodes"),
            (Spec { nodes: 250, kernel_nodes: 250, ..base() }, "--nodes"),
            (Spec { pods: 251, ..base() }, "--pods"),
            (Spec { subnets: 3, ..base() }, "--subnets"),
            (Spec { subnets: 0, ..base() }, "--subnets"),
            (Spec { workers: 0, ..base() }, "--workers"),
            (Spec { workers: 257, ..base() }, "--workers"),
            (Spec { kernel_nodes: 1, encap: Encap::Ipip, ..base() }, "--kernel-peer"),
            (Spec { kernel_nodes: 1, encap: Encap::None, ..base() }, "--kernel-peer"),
            (Spec { encap: Encap::None, mode: Mode::CrossSubnet, ..base() }, "--mode"),
            (Spec { name: "a-b".into(), ..base() }, "--name"),
            (Spec { name: "../x".into(), ..base() }, "--name"),
            (Spec { name: String::new(), ..base() }, "--name"),
        ] {
            let e = Plan::new(spec).unwrap_err().to_string();
            assert!(e.contains(flag), "{e}");
        }
    }
}
