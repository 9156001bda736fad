//! The node's object in Kubernetes: the parts that are read, and the patches that change them.

use crate::control::datastore::objects::{self, Id, Resource};
use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr};

pub const ADDRESS: &str = "projectcalico.org/IPv4Address";
pub const AS_NUMBER: &str = "projectcalico.org/ASNumber";

/// A node as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeObject(pub Value);

impl NodeObject {
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn id(&self) -> Id {
        Id::cluster(Resource::Node, self.name())
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.0["metadata"]["annotations"][key].as_str().filter(|v| !v.is_empty())
    }

    /// The node's address; without a prefix it is a /32.
    pub fn address(&self) -> Option<Ipv4Net> {
        let text = self.annotation(ADDRESS)?;
        text.parse().or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from)).ok()
    }

    /// Addresses of type InternalIP.
    pub fn internal_ips(&self) -> Vec<IpAddr> {
        let all = self.0["status"]["addresses"].as_array().into_iter().flatten();
        all.filter(|a| a["type"] == "InternalIP").filter_map(|a| a["address"].as_str()?.parse().ok()).collect()
    }

    /// A condition of the status by its type.
    pub fn condition(&self, kind: &str) -> Option<&Value> {
        self.0["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
    }

    /// The boot of the machine whose kubelet registered the node.
    pub fn boot_id(&self) -> Option<&str> {
        self.0["status"]["nodeInfo"]["bootID"].as_str().filter(|b| !b.is_empty())
    }

    /// Sets annotations, or takes them away (`None`), on exactly this state of the object; `None` if all is so already.
    pub fn annotate(&self, wanted: &[(&str, Option<String>)]) -> Option<Value> {
        let differs = |(key, value): &&(&str, Option<String>)| self.annotation(key) != value.as_deref();
        let changes: Map<String, Value> = wanted.iter().filter(differs).map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        (!changes.is_empty()).then(|| json!({"metadata": {"resourceVersion": objects::revision(&self.0), "annotations": changes}}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VXLAN: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
    const IPIP: &str = "projectcalico.org/IPv4IPIPTunnelAddr";

    #[test]
    fn a_patch_holds_differences_only() {
        let node = NodeObject(
            json!({"metadata": {"name": "a", "resourceVersion": "7", "annotations": {ADDRESS: "10.0.0.1/24", "x": "y", VXLAN: ""}}}),
        );
        assert_eq!(node.annotate(&[(ADDRESS, Some("10.0.0.1/24".into())), (IPIP, None), (VXLAN, None)]), None);
        let patch = node.annotate(&[(ADDRESS, None), (AS_NUMBER, Some("64512".into())), ("x", Some("y".into()))]).unwrap();
        assert_eq!(patch, json!({"metadata": {"resourceVersion": "7", "annotations": {ADDRESS: null, AS_NUMBER: "64512"}}}));
    }

    #[test]
    fn an_address_may_lack_its_prefix() {
        let node = |a: &str| NodeObject(json!({"metadata": {"annotations": {ADDRESS: a}}}));
        assert_eq!(node("10.0.0.1/24").address().unwrap().to_string(), "10.0.0.1/24");
        assert_eq!(node("10.0.0.1").address().unwrap().to_string(), "10.0.0.1/32");
        assert_eq!((node("").address(), node("x").address()), (None, None));
    }
}
