//! Node: `projectcalico.org/v3`, and the Kubernetes `v1` Node whose annotations carry the same.

use super::fields::{annotation, host_address, tunnel_address};
use crate::control::yaml::{Field, FieldError};
use crate::wire::Mac;
use ipnet::Ipv4Net;
use sha1::{Digest, Sha1};
use std::net::Ipv4Addr;

/// A node's addresses, underlay and tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Underlay address with its prefix.
    pub address: Option<Ipv4Net>,
    pub vxlan_address: Option<Ipv4Addr>,
    pub ipip_address: Option<Ipv4Addr>,
    /// Set by hand; [`default_vtep_mac`] otherwise.
    pub vtep_mac: Option<Mac>,
}

/// The VTEP MAC that Calico gives a node: `f` and five bytes of the SHA-1 of its name.
pub fn default_vtep_mac(node: &str) -> Mac {
    let hash = Sha1::digest(node.as_bytes());
    Mac([b'f', hash[0], hash[1], hash[2], hash[3], hash[4]])
}

/// `projectcalico.org/v3`.
pub(super) fn calico(root: &Field) -> Result<Node, FieldError> {
    let spec = root.get("spec")?;
    Ok(Node {
        address: host_address(&spec.at(&["bgp", "ipv4Address"])?)?,
        vxlan_address: tunnel_address(&spec.get("ipv4VXLANTunnelAddr")?)?,
        ipip_address: tunnel_address(&spec.at(&["bgp", "ipv4IPIPTunnelAddr"])?)?,
        vtep_mac: unicast_mac(&spec.get("vxlanTunnelMACAddr")?)?,
    })
}

/// Core `v1`: Calico's annotations only, the addresses in `status` are not what the tunnels use.
pub(super) fn kubernetes(root: &Field) -> Result<Node, FieldError> {
    Ok(Node {
        address: host_address(&annotation(root, "projectcalico.org/IPv4Address")?)?,
        vxlan_address: tunnel_address(&annotation(root, "projectcalico.org/IPv4VXLANTunnelAddr")?)?,
        ipip_address: tunnel_address(&annotation(root, "projectcalico.org/IPv4IPIPTunnelAddr")?)?,
        vtep_mac: unicast_mac(&annotation(root, "projectcalico.org/VXLANTunnelMACAddr")?)?,
    })
}

/// A MAC that an interface can have.
pub(super) fn unicast_mac(f: &Field) -> Result<Option<Mac>, FieldError> {
    match f.parsed::<Mac>("a MAC address (six hex octets, like 66:b6:a5:9d:e1:c9)")? {
        Some(mac) if mac.is_group() || mac == Mac::default() => Err(f.error(format!("{mac} is not an address that an interface can have"))),
        mac => Ok(mac),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    #[test]
    fn vtep_macs_of_known_nodes() {
        for (node, mac) in [("worker2-k8s.myk8s.example.com", "66:b6:a5:9d:e1:c9"), ("node01", "66:aa:99:2f:dc:24")] {
            assert_eq!(default_vtep_mac(node).to_string(), mac);
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let v3 = "spec:\n  bgp: {ipv4Address: 192.168.3.145/24, ipv4IPIPTunnelAddr: 10.244.238.193}\n  ipv4VXLANTunnelAddr: 10.244.238.192\n  vxlanTunnelMACAddr: 66:b6:a5:9d:e1:c9\n";
        let v1 = "metadata:\n  annotations:\n    projectcalico.org/IPv4Address: 192.168.3.145/24\n    projectcalico.org/IPv4IPIPTunnelAddr: 10.244.238.193\n    projectcalico.org/IPv4VXLANTunnelAddr: 10.244.238.192\n    projectcalico.org/VXLANTunnelMACAddr: 66:b6:a5:9d:e1:c9\n";
        let (v3, v1) = (documents(v3).unwrap(), documents(v1).unwrap());
        let node = calico(&Field::root(&v3[0])).unwrap();
        assert_eq!(node, kubernetes(&Field::root(&v1[0])).unwrap());
        assert_eq!(node.address, Some("192.168.3.145/24".parse().unwrap()));
        assert_eq!(node.vxlan_address, Some("10.244.238.192".parse().unwrap()));
        assert_eq!(node.ipip_address, Some("10.244.238.193".parse().unwrap()));
        assert_eq!(node.vtep_mac, Some("66:b6:a5:9d:e1:c9".parse().unwrap()));
    }

    #[test]
    fn faults() {
        for (text, want) in [
            ("spec: {bgp: {ipv4Address: 10.0.0.1/33}}", "spec.bgp.ipv4Address: \"10.0.0.1/33\" is not an IPv4 address with its prefix"),
            ("spec: {bgp: {ipv4Address: 0.0.0.0}}", "spec.bgp.ipv4Address: 0.0.0.0 is not an address that a host can have"),
            ("spec: {bgp: []}", "spec.bgp: a mapping is required, not a list"),
            (
                "spec: {vxlanTunnelMACAddr: '01:00:00:00:00:01'}",
                "spec.vxlanTunnelMACAddr: 01:00:00:00:00:01 is not an address that an interface can have",
            ),
            (
                "spec: {vxlanTunnelMACAddr: 'zz'}",
                "spec.vxlanTunnelMACAddr: \"zz\" is not a MAC address (six hex octets, like 66:b6:a5:9d:e1:c9)",
            ),
        ] {
            let docs = documents(text).unwrap();
            assert_eq!(calico(&Field::root(&docs[0])).unwrap_err().to_string(), want);
        }
    }
}
