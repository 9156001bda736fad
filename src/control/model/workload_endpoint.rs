//! WorkloadEndpoint: one pod's interface and addresses.

use super::fields::{address, is_limited, netns, prefix};
use super::node::unicast_mac;
use crate::control::yaml::{Field, FieldError};
use crate::wire::Mac;
use ipnet::IpNet;
use sha1::{Digest, Sha1};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Hex digits of the hash in the name of a pod's host-side interface.
pub const HASH_DIGITS: usize = 11;

/// An entry of `ipNATs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatingIp {
    /// Where others send to.
    pub external: IpAddr,
    /// The address of the workload's own that it stands for.
    pub internal: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    pub namespace: String,
    /// Where it runs.
    pub node: String,
    pub pod: Option<String>,
    /// The orchestrator's own name where there is no pod.
    pub workload: Option<String>,
    /// Host-side interface; derived from namespace and pod if not set.
    pub interface: Option<String>,
    pub mac: Option<Mac>,
    pub addresses: Vec<IpAddr>,
    /// Further source prefixes; they count if FelixConfiguration workloadSourceSpoofing is Any.
    pub spoofed_sources: Vec<IpNet>,
    /// They count if FelixConfiguration floatingIPs is Enabled.
    pub floating_ips: Vec<FloatingIp>,
    /// Network namespace in which the daemon makes the workload's TAP.
    pub netns: Option<PathBuf>,
    /// Whether what it receives is limited: annotation `kubernetes.io/ingress-bandwidth`, as on a Pod.
    pub limited: bool,
}

impl WorkloadEndpoint {
    /// `namespace/pod`, or the workload's own name; `name` if it has neither.
    pub fn workload_name(&self, name: &str) -> String {
        match (&self.pod, &self.workload) {
            (Some(pod), _) => format!("{}/{pod}", self.namespace),
            (None, Some(workload)) => workload.clone(),
            (None, None) => name.to_owned(),
        }
    }

    /// The interface on the host's side; Calico's derived name if none is set.
    pub fn interface_name(&self, prefix: &str) -> String {
        match &self.interface {
            Some(name) => name.clone(),
            // Validation asks for the pod's name when there is no interface's.
            None => interface_name(prefix, &self.namespace, self.pod.as_deref().unwrap_or_default()),
        }
    }
}

/// The host-side interface of a pod: the prefix and 11 hex digits of the SHA-1 of `namespace.pod`.
pub fn interface_name(prefix: &str, namespace: &str, pod: &str) -> String {
    let hash = Sha1::digest(format!("{namespace}.{pod}").as_bytes());
    let mut name = String::with_capacity(prefix.len() + HASH_DIGITS);
    name.push_str(prefix);
    let digits = hash.iter().flat_map(|b| [b >> 4, b & 15]).take(HASH_DIGITS);
    name.extend(digits.filter_map(|d| char::from_digit(u32::from(d), 16)));
    name
}

pub(super) fn read(root: &Field, namespace: &str) -> Result<WorkloadEndpoint, FieldError> {
    let spec = root.get("spec")?;
    let text =
        |key: &str| -> Result<Option<String>, FieldError> { Ok(spec.get(key)?.text()?.filter(|s| !s.is_empty()).map(str::to_owned)) };
    let interface = spec.get("interfaceName")?;
    let addresses = addresses(&spec.get("ipNetworks")?)?;
    let endpoint = WorkloadEndpoint {
        namespace: namespace.to_owned(),
        node: spec.get("node")?.required_text()?.to_owned(),
        pod: text("pod")?,
        workload: text("workload")?,
        interface: interface.interface_name()?,
        mac: unicast_mac(&spec.get("mac")?)?,
        spoofed_sources: prefixes(&spec.get("allowSpoofedSourcePrefixes")?)?,
        floating_ips: floating_ips(&spec.get("ipNATs")?, &addresses)?,
        addresses,
        netns: netns(root)?,
        limited: is_limited(root)?,
    };
    if endpoint.interface.is_none() && endpoint.pod.is_none() {
        return Err(interface.error("missing; without spec.pod, from which it is derived, it is required"));
    }
    Ok(endpoint)
}

fn addresses(f: &Field) -> Result<Vec<IpAddr>, FieldError> {
    let mut out = Vec::new();
    for item in f.items()? {
        let ip = usable(&item)?;
        if !out.contains(&ip) {
            out.push(ip);
        }
    }
    Ok(out)
}

/// An address that a workload can have.
fn usable(f: &Field) -> Result<IpAddr, FieldError> {
    let ip = address(f)?.ok_or_else(|| f.error("missing; an address is required"))?;
    check_usable(ip).map_err(|fault| f.error(fault))?;
    Ok(ip)
}

/// Whether a workload can have an address; else what to say.
pub(super) fn check_usable(ip: IpAddr) -> Result<(), String> {
    let not = ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    if not { Err(format!("{ip} is not an address that a workload can have")) } else { Ok(()) }
}

fn prefixes(f: &Field) -> Result<Vec<IpNet>, FieldError> {
    f.items()?.iter().map(|item| prefix(item)?.ok_or_else(|| item.error("missing; a CIDR is required"))).collect()
}

fn floating_ips(f: &Field, own: &[IpAddr]) -> Result<Vec<FloatingIp>, FieldError> {
    let one = |item: &Field| {
        let (inside, outside) = (item.get("internalIP")?, item.get("externalIP")?);
        let nat = FloatingIp { external: usable(&outside)?, internal: usable(&inside)? };
        if !own.contains(&nat.internal) {
            return Err(inside.error(format!("{} is not in spec.ipNetworks", nat.internal)));
        }
        if nat.external.is_ipv4() != nat.internal.is_ipv4() {
            return Err(outside.error(format!("{} and {} are not of one IP version", nat.external, nat.internal)));
        }
        Ok(nat)
    };
    f.items()?.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    fn endpoint(text: &str) -> Result<WorkloadEndpoint, String> {
        let docs = documents(text).unwrap();
        read(&Field::root(&docs[0]), "default").map_err(|e| e.to_string())
    }

    #[test]
    fn interface_names_of_known_pods() {
        for (namespace, pod, name) in [
            ("default", "client-6d96c457bc-bd2p9", "cali3745790aa7e"),
            ("default", "client-6d96c457bc-c4g2d", "cali125b553761d"),
            ("default", "client-6d96c457bc-nn2m6", "calibe7f2613b91"),
            ("default", "client-6d96c457bc-prsd2", "cali5026b88a962"),
            ("default", "client-6d96c457bc-rb45h", "cali6dcb580d758"),
            ("default", "client-6d96c457bc-v7qh4", "cali32ee8688a3d"),
            ("default", "client-6d96c457bc-4jrds", "cali573926084b2"),
            ("default", "client-6d96c457bc-krmcv", "caliab181ed4113"),
            ("default", "nginx-deployment-66b6c48dd5-hfqkp", "calieae43b83db8"),
            ("default", "nginx-deployment-66b6c48dd5-8wrxc", "calia3c74f30c95"),
            ("default", "busybox-deployment-8c7dc8548-btnkv", "calib673e730d42"),
            ("default", "busybox-deployment-8c7dc8548-x6ljh", "cali9861acf9f07"),
            ("kube-system", "coredns-66bff467f8-52tkd", "calic22dbe57533"),
        ] {
            assert_eq!(interface_name("cali", namespace, pod), name);
        }
    }

    #[test]
    fn fields_and_derived_names() {
        let e = endpoint(
            "metadata: {annotations: {tortie/netns: /run/netns/a}}\nspec:\n  node: n1\n  pod: web\n  endpoint: eth0\n  mac: 'ca:fe:00:00:00:01'\n  \
             ipNetworks: [10.244.0.5/32, 'fd00::5/128', 10.244.0.5]\n  allowSpoofedSourcePrefixes: [10.9.0.0/16]\n  profiles: [kns.default]\n",
        )
        .unwrap();
        assert_eq!((e.workload_name("x"), e.interface_name("cali")), ("default/web".into(), interface_name("cali", "default", "web")));
        assert_eq!(e.addresses, ["10.244.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!((e.netns, e.mac.unwrap().to_string()), (Some("/run/netns/a".into()), "ca:fe:00:00:00:01".into()));
        let e = endpoint("spec: {node: n1, interfaceName: tap0, workload: vm}").unwrap();
        assert_eq!((e.workload_name("x"), e.interface_name("cali")), ("vm".into(), "tap0".into()));
    }

    #[test]
    fn faults() {
        for (spec, want) in [
            ("interfaceName: a", "spec.node: missing; text is required"),
            ("node: ''", "spec.node: must not be empty"),
            ("node: n", "spec.interfaceName: missing; without spec.pod"),
            ("node: n, interfaceName: 'cali0123456789abc'", "spec.interfaceName: \"cali0123456789abc\" is not an interface name: 17 bytes"),
            ("node: n, pod: p, ipNetworks: [10.244.0.300/32]", "spec.ipNetworks[0]: \"10.244.0.300/32\" is not a CIDR"),
            ("node: n, pod: p, ipNetworks: [10.244.0.1, 10.244.0.0/26]", "spec.ipNetworks[1]: 10.244.0.0/26 is not a single address"),
            ("node: n, pod: p, ipNetworks: [224.0.0.1]", "spec.ipNetworks[0]: 224.0.0.1 is not an address that a workload can have"),
            ("node: n, pod: p, ipNetworks: [null]", "spec.ipNetworks[0]: missing; an address is required"),
            ("node: n, pod: p, ipNetworks: 10.244.0.1", "spec.ipNetworks: a list is required, not the text"),
            ("node: n, pod: p, ipNATs: [{internalIP: 10.244.0.1}]", "spec.ipNATs[0].externalIP: missing; an address is required"),
            (
                "node: n, pod: p, ipNetworks: [10.244.0.1], ipNATs: [{internalIP: 10.244.0.2, externalIP: 192.0.2.1}]",
                "spec.ipNATs[0].internalIP: 10.244.0.2 is not in spec.ipNetworks",
            ),
            (
                "node: n, pod: p, ipNetworks: [10.244.0.1], ipNATs: [{internalIP: 10.244.0.1, externalIP: 127.0.0.1}]",
                "spec.ipNATs[0].externalIP: 127.0.0.1 is not an address that a workload can have",
            ),
            (
                "node: n, pod: p, ipNetworks: [10.244.0.1], ipNATs: [{internalIP: 10.244.0.1, externalIP: 'fd00::1'}]",
                "spec.ipNATs[0].externalIP: fd00::1 and 10.244.0.1 are not of one IP version",
            ),
            ("node: n, pod: p, mac: 'ca:fe'", "spec.mac: \"ca:fe\" is not a MAC address"),
            ("node: n, pod: p, allowSpoofedSourcePrefixes: [x]", "spec.allowSpoofedSourcePrefixes[0]: \"x\" is not a CIDR"),
        ] {
            let got = endpoint(&format!("spec: {{{spec}}}")).unwrap_err();
            assert!(got.starts_with(want), "{spec}: {got}");
        }
        let got = endpoint("metadata: {annotations: {tortie/netns: a}}\nspec: {node: n, pod: p}").unwrap_err();
        assert_eq!(got, "metadata.annotations[\"tortie/netns\"]: a is not an absolute path");
    }
}
