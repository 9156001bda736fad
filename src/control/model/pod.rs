//! Kubernetes `v1` Pod, as far as it stands for a workload endpoint.

use super::fields::{annotation, is_limited, netns, single};
use super::node::unicast_mac;
use super::workload_endpoint::check_usable;
use crate::control::yaml::{Field, FieldError, quoted};
use crate::wire::Mac;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

/// A pod that Calico gives a network to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `None` until it is scheduled.
    pub node: Option<Box<str>>,
    /// Whether it shares the host's network and so has no interface of its own.
    pub host_network: bool,
    /// Empty until it has some, and again when it has given them back.
    pub addresses: Box<[IpAddr]>,
    pub mac: Option<Mac>,
    /// Further source prefixes; they count if FelixConfiguration workloadSourceSpoofing is Any.
    pub spoofed_sources: Box<[IpNet]>,
    /// Addresses outside its own that others are to reach it by; they count if FelixConfiguration floatingIPs is
    /// Enabled.
    pub floating_ips: Box<[IpAddr]>,
    /// Annotation `tortie/netns`: the network namespace to make its TAP in, absolute path.
    pub netns: Option<PathBuf>,
    /// Whether what it receives is limited: annotation `kubernetes.io/ingress-bandwidth`.
    pub limited: bool,
}

/// The name that Calico gives the endpoint of a pod's `eth0`: dashes inside a part are doubled.
pub fn endpoint_name(node: &str, pod: &str) -> String {
    format!("{}-k8s-{}-eth0", node.replace('-', "--"), pod.replace('-', "--"))
}

pub(super) fn read(root: &Field) -> Result<Pod, FieldError> {
    let spec = root.get("spec")?;
    Ok(Pod {
        node: spec.get("nodeName")?.text()?.filter(|s| !s.is_empty()).map(Into::into),
        host_network: spec.get("hostNetwork")?.boolean()?.unwrap_or(false),
        addresses: if has_lost_addresses(root)? { Box::default() } else { addresses(root)?.into() },
        mac: unicast_mac(&annotation(root, "cni.projectcalico.org/hwAddr")?)?,
        spoofed_sources: spoofed_sources(&annotation(root, "cni.projectcalico.org/allowedSourcePrefixes")?)?.into(),
        floating_ips: floating_ips(&annotation(root, "cni.projectcalico.org/floatingIPs")?)?.into(),
        netns: netns(root)?,
        limited: is_limited(root)?,
    })
}

/// A finished pod's addresses may be another's by now; so may those of a pod being deleted once the CNI
/// plugin has emptied its annotation.
fn has_lost_addresses(root: &Field) -> Result<bool, FieldError> {
    if matches!(root.at(&["status", "phase"])?.text()?, Some("Succeeded" | "Failed")) {
        return Ok(true);
    }
    let deleting = root.at(&["metadata", "deletionTimestamp"])?.is_present();
    Ok(deleting && annotation(root, "cni.projectcalico.org/podIP")?.text()? == Some(""))
}

/// The first place in Calico's order that has addresses.
fn addresses(root: &Field) -> Result<Vec<IpAddr>, FieldError> {
    let status = root.get("status")?;
    let mut out = Vec::new();
    for item in status.get("podIPs")?.items()? {
        out.extend(super::fields::address(&item.get("ip")?)?);
    }
    if out.is_empty() {
        out.extend(super::fields::address(&status.get("podIP")?)?);
    }
    for key in ["cni.projectcalico.org/podIPs", "cni.projectcalico.org/podIP"] {
        if !out.is_empty() {
            break;
        }
        let f = annotation(root, key)?;
        for part in f.text()?.unwrap_or("").split(',').map(str::trim).filter(|p| !p.is_empty()) {
            out.push(single(part).map_err(|fault| f.error(fault))?);
        }
    }
    Ok(out)
}

fn spoofed_sources(f: &Field) -> Result<Vec<IpNet>, FieldError> {
    let parse = |s: &String| s.parse::<IpNet>().map(|n| n.trunc()).map_err(|_| f.error(format!("{} is not a CIDR", quoted(s))));
    json_list(f, "CIDRs")?.iter().map(parse).collect()
}

fn floating_ips(f: &Field) -> Result<Vec<IpAddr>, FieldError> {
    let parse = |s: &String| single(s).and_then(|ip| check_usable(ip).map(|()| ip)).map_err(|fault| f.error(fault));
    json_list(f, "addresses")?.iter().map(parse).collect()
}

/// A JSON list of texts in an annotation.
fn json_list(f: &Field, of: &str) -> Result<Vec<String>, FieldError> {
    let Some(text) = f.text()?.filter(|s| !s.is_empty()) else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|_| f.error(format!("{} is not a JSON list of {of}", quoted(text))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    fn pod(text: &str) -> Result<Pod, String> {
        let docs = documents(text).unwrap();
        read(&Field::root(&docs[0])).map_err(|e| e.to_string())
    }
    fn ips(text: &str) -> Vec<String> {
        pod(text).unwrap().addresses.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn addresses_in_calicos_order() {
        let annotations = "metadata: {annotations: {cni.projectcalico.org/podIPs: '10.0.0.3/32,fd00::3/128', cni.projectcalico.org/podIP: 10.0.0.4/32}}\n";
        assert_eq!(
            ips(&format!("{annotations}status: {{podIP: 10.0.0.2, podIPs: [{{ip: 10.0.0.1}}, {{ip: 'fd00::1'}}]}}")),
            ["10.0.0.1", "fd00::1"]
        );
        assert_eq!(ips(&format!("{annotations}status: {{podIP: 10.0.0.2}}")), ["10.0.0.2"]);
        assert_eq!(ips(annotations), ["10.0.0.3", "fd00::3"]);
        assert_eq!(ips("metadata: {annotations: {cni.projectcalico.org/podIP: 10.0.0.4/32}}"), ["10.0.0.4"]);
        assert!(ips("spec: {containers: null}").is_empty());
    }

    #[test]
    fn when_a_pod_has_lost_its_addresses() {
        let status = "status: {podIP: 10.0.0.2, phase: Running}\n";
        let deleting = |ann: &str| format!("metadata: {{deletionTimestamp: '2026-01-01T00:00:00Z', annotations: {{{ann}}}}}\n{status}");
        assert!(ips("status: {podIP: 10.0.0.2, phase: Succeeded}").is_empty());
        assert!(ips("status: {podIP: 10.0.0.2, phase: Failed}").is_empty());
        assert_eq!(ips(&deleting("")), ["10.0.0.2"]);
        assert_eq!(ips(&deleting("cni.projectcalico.org/podIP: 10.0.0.2/32")), ["10.0.0.2"]);
        assert!(ips(&deleting("cni.projectcalico.org/podIP: ''")).is_empty());
        assert_eq!(ips(&format!("metadata: {{annotations: {{cni.projectcalico.org/podIP: ''}}}}\n{status}")), ["10.0.0.2"]);
    }

    #[test]
    fn the_endpoint_has_calicos_name() {
        let p = pod("spec: {nodeName: worker-3, hostNetwork: false}").unwrap();
        assert_eq!(endpoint_name("worker-3", "web-1"), "worker--3-k8s-web--1-eth0");
        assert_eq!(p.node.as_deref(), Some("worker-3"));
    }

    #[test]
    fn annotations_are_checked() {
        let p = pod("metadata: {annotations: {tortie/netns: /run/netns/a}}").unwrap();
        assert_eq!((p.netns, p.limited), (Some("/run/netns/a".into()), false));
        assert!(pod("metadata: {annotations: {kubernetes.io/ingress-bandwidth: 10M}}").unwrap().limited);
        let e = pod("metadata: {annotations: {tortie/netns: a}}").unwrap_err();
        assert_eq!(e, "metadata.annotations[\"tortie/netns\"]: a is not an absolute path");
        let p = pod("metadata: {annotations: {cni.projectcalico.org/allowedSourcePrefixes: '[\"10.0.0.0/8\"]', cni.projectcalico.org/hwAddr: '02:00:00:00:00:01'}}").unwrap();
        assert_eq!((&*p.spoofed_sources, p.mac.unwrap().to_string()), (&["10.0.0.0/8".parse().unwrap()][..], "02:00:00:00:00:01".into()));
        let p = pod("metadata: {annotations: {cni.projectcalico.org/floatingIPs: '[\"192.0.2.7\"]'}}").unwrap();
        assert_eq!(&*p.floating_ips, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        let e = pod("metadata: {annotations: {cni.projectcalico.org/floatingIPs: '[\"192.0.2.0/24\"]'}}").unwrap_err();
        assert_eq!(e, "metadata.annotations[\"cni.projectcalico.org/floatingIPs\"]: 192.0.2.0/24 is not a single address; /32 is required");
        let e = pod("metadata: {annotations: {cni.projectcalico.org/floatingIPs: '[\"224.0.0.1\"]'}}").unwrap_err();
        assert!(e.ends_with("224.0.0.1 is not an address that a workload can have"), "{e}");
        let e = pod("metadata: {annotations: {cni.projectcalico.org/allowedSourcePrefixes: 10.0.0.0/8}}").unwrap_err();
        assert_eq!(e, "metadata.annotations[\"cni.projectcalico.org/allowedSourcePrefixes\"]: \"10.0.0.0/8\" is not a JSON list of CIDRs");
        assert_eq!(pod("status: {podIPs: [{ip: nope}]}").unwrap_err(), "status.podIPs[0].ip: \"nope\" is not a CIDR");
    }
}
