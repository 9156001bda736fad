//! The pools that carry workloads, by prefix.

use crate::control::cluster::Cluster;
use crate::control::model::{Encap, IpPool};
use ipnet::{IpNet, Ipv4Net};
use prefix_trie::PrefixMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The IPv4 pools that carry workloads. Disabled pools count: their blocks are still routed. Whom a pool's
/// nodeSelector lets allocate is IPAM's business, not routing's.
#[derive(Default)]
pub(super) struct Pools(PrefixMap<Ipv4Net, Arc<IpPool>>);

impl Pools {
    /// Of two pools with the same CIDR the first by name counts.
    pub fn new(cluster: &Cluster, warnings: &mut Vec<String>) -> Pools {
        let mut pools = PrefixMap::new();
        for (name, pool) in cluster.pools.iter().filter(|(_, p)| p.carries_workloads) {
            match pool.cidr {
                IpNet::V4(cidr) if pools.contains_key(&cidr) => {
                    warnings.push(format!("IPPool {name}: another pool has the same CIDR {cidr}; {name} is ignored"));
                }
                IpNet::V4(cidr) => drop(pools.insert(cidr, pool.clone())),
                IpNet::V6(cidr) => warnings.push(format!("IPPool {name}: {cidr} is IPv6, which is not routed yet")),
            }
        }
        Pools(pools)
    }

    /// The longest pool that a prefix lies in.
    pub fn covering(&self, net: Ipv4Net) -> Option<&IpPool> {
        self.0.get_lpm(&net).map(|(_, pool)| &**pool)
    }

    /// Whether a pool has exactly this CIDR.
    pub fn has(&self, net: Ipv4Net) -> bool {
        self.0.contains_key(&net)
    }

    pub fn iter(&self) -> impl Iterator<Item = Ipv4Net> {
        self.0.keys()
    }

    pub fn cidrs(&self) -> BTreeSet<IpNet> {
        self.iter().map(IpNet::V4).collect()
    }

    pub fn use_vxlan(&self) -> bool {
        self.0.values().any(|p| matches!(p.encap, Encap::Vxlan(_)))
    }

    pub fn use_ipip(&self) -> bool {
        self.0.values().any(|p| matches!(p.encap, Encap::Ipip(_)))
    }
}
