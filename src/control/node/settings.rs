//! How the node describes itself in the datastore: what the environment asks for.

use super::detect::Method;
use ipnet::Ipv4Net;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Prefix length of a pool's blocks unless told otherwise.
const BLOCK_SIZE: u8 = 26;
/// How often the address is looked for anew.
const POLL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `IP`.
    pub address: AddressSetting,
    /// `IP_AUTODETECTION_METHOD`.
    pub method: Method,
    /// `AUTODETECT_POLL_INTERVAL`.
    pub poll: Duration,
    /// Not `DISABLE_NODE_IP_CHECK`.
    pub check_duplicates: bool,
    /// `AS`.
    pub as_number: Option<u32>,
    /// The pool to make when there is none; `None` makes none.
    pub pool: Option<PoolSetting>,
    /// `CALICO_K8S_NODE_REF`: the node's name in Kubernetes if it is another one.
    pub kube_node: Option<String>,
    /// `CALICO_NETWORKING_BACKEND`.
    pub networking: Networking,
    /// `CLUSTER_TYPE`.
    pub cluster_type: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            address: AddressSetting::default(),
            method: Method::default(),
            poll: POLL,
            check_duplicates: true,
            as_number: None,
            pool: Some(PoolSetting::default()),
            kube_node: None,
            networking: Networking::default(),
            cluster_type: None,
        }
    }
}

/// Where the node's IPv4 address comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressSetting {
    /// What the datastore has; found once if it has none.
    #[default]
    Stored,
    /// Found on this host, again and again.
    Autodetect,
    /// What the datastore has, which must have one.
    Off,
    /// Without a prefix it is the interface's.
    Given { address: Ipv4Addr, prefix: Option<u8> },
}

impl fmt::Display for AddressSetting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            AddressSetting::Stored => Ok(()),
            AddressSetting::Autodetect => f.write_str("autodetect"),
            AddressSetting::Off => f.write_str("none"),
            AddressSetting::Given { address, prefix: Some(prefix) } => write!(f, "{address}/{prefix}"),
            AddressSetting::Given { address, prefix: None } => write!(f, "{address}"),
        }
    }
}

/// Whether pods are networked at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Networking {
    /// `bird` or `vxlan`.
    #[default]
    Calico,
    /// `none`: no address, AS number or condition is written.
    None,
}

/// The pool that is made when there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSetting {
    /// `None`: 192.168.0.0/16, or another range that the host does not use.
    pub cidr: Option<Ipv4Net>,
    pub block_size: u8,
    pub modes: PoolModes,
    pub nat_outgoing: bool,
    pub node_selector: String,
    pub disable_bgp_export: bool,
}

/// ipipMode and vxlanMode in the words of IPPool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolModes {
    pub ipip: &'static str,
    pub vxlan: &'static str,
}

impl Default for PoolSetting {
    fn default() -> PoolSetting {
        PoolSetting {
            cidr: None,
            block_size: BLOCK_SIZE,
            modes: PoolModes { ipip: "Never", vxlan: "Never" },
            nat_outgoing: true,
            node_selector: "all()".into(),
            disable_bgp_export: false,
        }
    }
}
