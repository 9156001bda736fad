//! What the fields of pools, peers and endpoints ask of each other.

use super::Fault;
use crate::control::yaml::{Field, FieldError};
use ipnet::IpNet;

type Checked = Result<(), FieldError>;

fn set(f: &Field) -> bool {
    f.scalar().is_some_and(|s| !s.is_empty())
}

pub fn pool(root: &Field, faults: &mut Vec<Fault>) -> Checked {
    let spec = root.get("spec")?;
    let field = spec.get("cidr")?;
    let Some(cidr) = field.parsed::<IpNet>("a CIDR")? else { return Ok(()) };
    for range in ["169.254.0.0/16", "fe80::/10"] {
        if range.parse::<IpNet>().is_ok_and(|r| r.contains(&cidr) || cidr.contains(&r)) {
            faults.push(Fault::at(&field, format!("overlaps with the link-local range {range}")));
        }
    }
    block_size(&spec, cidr, faults)?;
    let (vxlan, ipip) = (spec.get("vxlanMode")?, spec.get("ipipMode")?);
    let on = |f: &Field| f.scalar().is_some_and(|m| !m.is_empty() && m != "Never");
    if on(&vxlan) && on(&ipip) {
        faults.push(Fault::at(&vxlan, "cannot enable both VXLAN and IPIP on the same IPPool; set vxlanMode or ipipMode to Never"));
    }
    if on(&ipip) && matches!(cidr, IpNet::V6(_)) {
        faults.push(Fault::at(&ipip, "IPIP is not supported on an IPv6 IP pool; use vxlanMode"));
    }
    uses(&spec, on(&vxlan) || on(&ipip), faults)
}

fn block_size(spec: &Field, cidr: IpNet, faults: &mut Vec<Fault>) -> Checked {
    let field = spec.get("blockSize")?;
    let (family, min, max, default) = if matches!(cidr, IpNet::V4(_)) { ("IPv4", 20, 32, 26) } else { ("IPv6", 116, 128, 122) };
    let size = field.integer().filter(|s| *s != 0);
    if size.is_some_and(|s| !(min..=max).contains(&s)) {
        faults.push(Fault::at(&field, format!("{family} block size must be between {min} and {max}")));
        return Ok(());
    }
    let (size, enabled) = (size.unwrap_or(default), !spec.get("disabled")?.boolean()?.unwrap_or(false));
    if enabled && i128::from(cidr.prefix_len()) > size {
        let reason = format!("IP pool size is too small: it must be equal to or greater than the block size, /{size}");
        faults.push(Fault::at(&spec.get("cidr")?, reason));
    }
    Ok(())
}

fn uses(spec: &Field, encapsulates: bool, faults: &mut Vec<Fault>) -> Checked {
    let field = spec.get("allowedUses")?;
    let uses: Vec<String> = field.items()?.iter().filter_map(Field::scalar).collect();
    if !uses.iter().any(|u| u == "LoadBalancer") {
        return Ok(());
    }
    if uses.iter().any(|u| u != "LoadBalancer") {
        faults.push(Fault::at(&field, "LoadBalancer cannot be used together with Workload or Tunnel"));
    }
    if encapsulates {
        faults.push(Fault::at(&field, "a LoadBalancer pool cannot have vxlanMode or ipipMode; set both to Never"));
    }
    if spec.get("disableBGPExport")?.boolean()? == Some(true) {
        faults.push(Fault::at(&spec.get("disableBGPExport")?, "a LoadBalancer pool cannot have it"));
    }
    Ok(())
}

/// Pairs of fields of which only one may be set.
fn exclusive(spec: &Field, pairs: &[(&str, &str)], faults: &mut Vec<Fault>) -> Checked {
    for (a, b) in pairs {
        let field = spec.get(a)?;
        if set(&field) && set(&spec.get(b)?) {
            faults.push(Fault::at(&field, format!("{a} and {b} cannot both be set")));
        }
    }
    Ok(())
}

pub fn bgp_peer(root: &Field, faults: &mut Vec<Fault>) -> Checked {
    let spec = root.get("spec")?;
    let pairs = [
        ("node", "nodeSelector"),
        ("peerIP", "peerSelector"),
        ("asNumber", "peerSelector"),
        ("localWorkloadSelector", "peerIP"),
        ("localWorkloadSelector", "peerSelector"),
    ];
    exclusive(&spec, &pairs, faults)?;
    let has = |key: &str| spec.get(key).is_ok_and(|f| set(&f));
    if has("localWorkloadSelector") && !has("asNumber") {
        faults.push(Fault::at(&spec.get("asNumber")?, "missing; required with localWorkloadSelector"));
    }
    if !has("peerIP") && !has("peerSelector") && !has("localWorkloadSelector") {
        faults.push(Fault::at(&spec.get("peerIP")?, "missing; one of peerIP, peerSelector, localWorkloadSelector is required"));
    }
    if has("reachableBy") && !has("peerIP") {
        faults.push(Fault::at(&spec.get("reachableBy")?, "allowed only together with peerIP"));
    }
    let keep = spec.get("keepOriginalNextHop")?;
    if keep.boolean()? == Some(true) && has("nextHopMode") {
        faults.push(Fault::at(&keep, "keepOriginalNextHop and nextHopMode cannot both be set; nextHopMode replaces it"));
    }
    Ok(())
}

pub fn bgp_configuration(root: &Field, faults: &mut Vec<Fault>) -> Checked {
    let spec = root.get("spec")?;
    if spec.get("nodeToNodeMeshEnabled")?.boolean()? == Some(false) {
        for key in ["nodeMeshPassword", "nodeMeshMaxRestartTime"] {
            let field = spec.get(key)?;
            if field.is_present() {
                faults.push(Fault::at(&field, "cannot be set when nodeToNodeMeshEnabled is false"));
            }
        }
    }
    let named: Vec<String> = spec.get("communities")?.items()?.iter().filter_map(|c| c.get("name").ok()?.scalar()).collect();
    for advertised in spec.get("prefixAdvertisements")?.items()? {
        for community in advertised.get("communities")?.items()? {
            let text = community.scalar().unwrap_or_default();
            if !named.contains(&text) && super::scalar::Form::Community.fault(&text).is_some() {
                faults.push(Fault::at(&community, "neither ASN:VALUE nor the name of one of spec.communities"));
            }
        }
    }
    Ok(())
}

pub fn host_endpoint(root: &Field, faults: &mut Vec<Fault>) -> Checked {
    let spec = root.get("spec")?;
    let interface = spec.get("interfaceName")?;
    if !set(&interface) && spec.get("expectedIPs")?.items()?.is_empty() {
        faults.push(Fault::at(&interface, "missing; interfaceName or expectedIPs is required"));
    }
    ports(&spec, faults)
}

pub fn workload_endpoint(root: &Field, faults: &mut Vec<Fault>) -> Checked {
    let spec = root.get("spec")?;
    for network in spec.get("ipNetworks")?.items()? {
        if let Ok(Some(net)) = network.parsed::<IpNet>("a CIDR")
            && net.prefix_len() != net.max_prefix_len()
        {
            faults.push(Fault::at(&network, format!("one address is required: /{}", net.max_prefix_len())));
        }
    }
    let interface = spec.get("interfaceName")?;
    if !set(&interface) && !set(&spec.get("pod")?) {
        faults.push(Fault::at(&interface, "missing; without spec.pod, from which it is derived, it is required"));
    }
    ports(&spec, faults)
}

/// A port that policy may name.
fn ports(spec: &Field, faults: &mut Vec<Fault>) -> Checked {
    for port in spec.get("ports")?.items()? {
        let protocol = port.get("protocol")?;
        if !protocol.scalar().is_some_and(|p| ["TCP", "UDP", "SCTP"].iter().any(|known| known.eq_ignore_ascii_case(&p))) {
            faults.push(Fault::at(&protocol, "one of TCP, UDP, SCTP is required"));
        }
    }
    Ok(())
}
