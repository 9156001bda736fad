//! The default IPv4 pool of a cluster that has none.

use super::detect::Interface;
use super::settings::PoolSetting;
use crate::control::datastore::objects::{Access, AccessError, Id, Objects, Resource};
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

const NAME: &str = "default-ipv4-ippool";
const PREFERRED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16);

/// Where kubeadm keeps what its cluster was made with.
const KUBEADM: (&str, &str) = ("kube-system", "kubeadm-config");

/// 192.168.0.0/16, or the first /16 of 172.16.0.0/12 in which the host has no address; the former when all are in use.
pub fn free_range(interfaces: &[Interface]) -> Ipv4Net {
    let used = |range: &Ipv4Net| interfaces.iter().flat_map(|i| &i.addresses).any(|a| range.contains(&a.addr()));
    let others = (16..32).map(|second| Ipv4Net::new_assert(Ipv4Addr::new(172, second, 0, 0), 16));
    std::iter::once(PREFERRED).chain(others).find(|r| !used(r)).unwrap_or(PREFERRED)
}

/// Makes the pool unless there is one of IPv4. Another node may come first.
pub async fn ensure<O: Objects>(objects: &O, setting: &PoolSetting, interfaces: &[Interface]) -> Access<()> {
    let pools = objects.list(Resource::IpPool, None).await?;
    if pools.iter().any(|p| p["spec"]["cidr"].as_str().is_some_and(|c| c.parse::<Ipv4Net>().is_ok())) {
        return Ok(());
    }
    let cidr = match setting.cidr {
        Some(cidr) => cidr,
        None => kubeadms(objects).await?.unwrap_or_else(|| free_range(interfaces)),
    };
    match objects.create(Resource::IpPool, object(setting, cidr)).await {
        Ok(_) => {
            let modes = setting.modes;
            tracing::info!("node: made IPPool {NAME} {cidr}, ipipMode {}, vxlanMode {}", modes.ipip, modes.vxlan);
            Ok(())
        }
        Err(AccessError::AlreadyExists { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The range for pods that the cluster was made with by kubeadm.
async fn kubeadms<O: Objects>(objects: &O) -> Access<Option<Ipv4Net>> {
    match objects.get(&Id::namespaced(Resource::ConfigMap, KUBEADM.0, KUBEADM.1)).await {
        Ok(found) => Ok(found.and_then(|map| pod_subnet(map["data"]["ClusterConfiguration"].as_str()?))),
        // A cluster that kubeadm did not make has nothing to read there, and often no right for it.
        Err(AccessError::Forbidden { message, .. }) => {
            tracing::info!("node: kubeadm's configuration is not read for its podSubnet: {message}");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The IPv4 range of `podSubnet`, one line of the document, as calico/node reads it.
fn pod_subnet(configuration: &str) -> Option<Ipv4Net> {
    let value = configuration.lines().find_map(|l| l.trim_start().strip_prefix("podSubnet:"))?;
    value.trim().trim_matches(['"', '\'']).split(',').find_map(|c| c.trim().parse().ok())
}

fn object(setting: &PoolSetting, cidr: Ipv4Net) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": NAME},
        "spec": {
            "cidr": cidr.to_string(),
            "blockSize": setting.block_size,
            "ipipMode": setting.modes.ipip,
            "vxlanMode": setting.modes.vxlan,
            "natOutgoing": setting.nat_outgoing,
            "nodeSelector": setting.node_selector,
            "disableBGPExport": setting.disable_bgp_export,
            "allowedUses": ["Workload", "Tunnel"],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_that_kubeadm_knows() {
        let of = |line: &str| pod_subnet(&format!("kind: ClusterConfiguration\nnetworking:\n{line}\n  serviceSubnet: 10.96.0.0/12\n"));
        assert_eq!(of("  podSubnet: 10.20.0.0/16"), Some("10.20.0.0/16".parse().unwrap()));
        assert_eq!(of("  podSubnet: \"fd00::/48, 10.20.0.0/16\""), Some("10.20.0.0/16".parse().unwrap()));
        assert_eq!((of("  podSubnet: fd00::/48"), of("  podSubnet:"), of("")), (None, None, None));
    }

    #[test]
    fn a_range_that_the_host_does_not_use() {
        let on = |all: &[&str]| {
            let addresses = all.iter().map(|a| a.parse().unwrap()).collect();
            free_range(&[Interface { index: 1, name: "eth0".into(), addresses }]).to_string()
        };
        assert_eq!(on(&["10.0.0.1/8"]), "192.168.0.0/16");
        assert_eq!(on(&["192.168.7.1/24"]), "172.16.0.0/16");
        assert_eq!(on(&["192.168.7.1/24", "172.16.0.1/32", "172.17.0.1/16"]), "172.18.0.0/16");
        let all: Vec<String> = (16..32).map(|n| format!("172.{n}.0.1/24")).chain(["192.168.0.1/24".to_owned()]).collect();
        assert_eq!(on(&all.iter().map(String::as_str).collect::<Vec<_>>()), "192.168.0.0/16");
    }
}
