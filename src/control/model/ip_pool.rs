//! IPPool: a range of pod addresses and how packets to it travel.

use super::fields::prefix;
use crate::control::yaml::{Field, FieldError};
use ipnet::IpNet;

/// When packets to a pool's addresses are encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Never,
    Always,
    /// Only to nodes outside this node's own prefix.
    CrossSubnet,
}

/// What packets to a pool's addresses travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encap {
    None,
    /// Never with [`Mode::Never`]: that is `None`.
    Vxlan(Mode),
    Ipip(Mode),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPool {
    pub cidr: IpNet,
    pub encap: Encap,
    /// No new blocks; existing ones are routed on.
    pub disabled: bool,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// Whether pods or tunnels take addresses from it; false for pools of load-balancer addresses.
    pub carries_workloads: bool,
}

pub(super) fn read(root: &Field) -> Result<IpPool, FieldError> {
    let spec = root.get("spec")?;
    let field = spec.get("cidr")?;
    let cidr = prefix(&field)?.ok_or_else(|| field.error("missing; a CIDR is required"))?;
    if overlaps_link_local(cidr) {
        return Err(field.error(format!("{cidr} touches the link-local range, where the pods' gateway is")));
    }
    let disabled = spec.get("disabled")?.boolean()?.unwrap_or(false);
    let carries_workloads = carries_workloads(&spec.get("allowedUses")?)?;
    let encap = encap(&spec, cidr)?;
    if !carries_workloads && encap != Encap::None {
        return Err(spec.error("a pool for LoadBalancer only cannot have vxlanMode or ipipMode"));
    }
    Ok(IpPool { cidr, encap, disabled, block_size: block_size(&spec.get("blockSize")?, cidr)?, carries_workloads })
}

fn overlaps_link_local(cidr: IpNet) -> bool {
    let ranges: [IpNet; 2] = [
        IpNet::V4(ipnet::Ipv4Net::new_assert([169, 254, 0, 0].into(), 16)),
        IpNet::V6(ipnet::Ipv6Net::new_assert([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), 10)),
    ];
    ranges.iter().any(|r| r.contains(&cidr) || cidr.contains(r))
}

fn encap(spec: &Field, cidr: IpNet) -> Result<Encap, FieldError> {
    let modes = [("Never", Mode::Never), ("Always", Mode::Always), ("CrossSubnet", Mode::CrossSubnet), ("", Mode::Never)];
    let (vxlan, ipip) = (spec.get("vxlanMode")?, spec.get("ipipMode")?);
    match (vxlan.one_of(&modes)?.unwrap_or_default(), ipip.one_of(&modes)?.unwrap_or_default()) {
        (Mode::Never, Mode::Never) => Ok(Encap::None),
        (mode, Mode::Never) => Ok(Encap::Vxlan(mode)),
        (Mode::Never, _) if matches!(cidr, IpNet::V6(_)) => Err(ipip.error("IP-in-IP does not carry IPv6; use vxlanMode")),
        (Mode::Never, mode) => Ok(Encap::Ipip(mode)),
        _ => Err(ipip.error("vxlanMode and ipipMode cannot both be on; set one to Never")),
    }
}

fn block_size(f: &Field, cidr: IpNet) -> Result<u8, FieldError> {
    let (min, max, default) = match cidr {
        IpNet::V4(_) => (20, 32, 26),
        IpNet::V6(_) => (116, 128, 122),
    };
    let size = f.number::<u8>(min, max)?;
    match size {
        Some(s) if s < cidr.prefix_len() => Err(f.error(format!("blocks of /{s} do not fit into the pool {cidr}"))),
        size => Ok(size.unwrap_or(default)),
    }
}

fn carries_workloads(f: &Field) -> Result<bool, FieldError> {
    let uses = [("Workload", true), ("Tunnel", true), ("LoadBalancer", false)];
    let mut found = Vec::new();
    for item in f.items()? {
        found.push(item.one_of(&uses)?.ok_or_else(|| item.error("missing; one of Workload, Tunnel, LoadBalancer is required"))?);
    }
    if found.contains(&true) && found.contains(&false) {
        return Err(f.error("LoadBalancer cannot be combined with Workload or Tunnel"));
    }
    Ok(!found.contains(&false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::yaml::documents;

    fn pool(spec: &str) -> Result<IpPool, String> {
        let docs = documents(&format!("spec: {{{spec}}}")).unwrap();
        read(&Field::root(&docs[0])).map_err(|e| e.to_string())
    }

    #[test]
    fn modes_and_defaults() {
        let p = pool("cidr: 10.244.0.0/16").unwrap();
        assert_eq!((p.encap, p.block_size, p.disabled, p.carries_workloads), (Encap::None, 26, false, true));
        let p = pool("cidr: 10.244.0.0/16, vxlanMode: CrossSubnet, ipipMode: Never, disabled: true, blockSize: 32").unwrap();
        assert_eq!((p.encap, p.block_size, p.disabled), (Encap::Vxlan(Mode::CrossSubnet), 32, true));
        assert_eq!(pool("cidr: 10.244.0.0/16, ipipMode: Always").unwrap().encap, Encap::Ipip(Mode::Always));
        assert!(!pool("cidr: 10.1.0.0/16, allowedUses: [LoadBalancer]").unwrap().carries_workloads);
        assert!(pool("cidr: 10.1.0.0/16, allowedUses: [Tunnel]").unwrap().carries_workloads);
        assert_eq!(pool("cidr: 'fd00::/48'").unwrap().block_size, 122);
        assert_eq!(pool("cidr: 10.244.0.0/28").unwrap().block_size, 26, "a default that does not fit is IPAM's business, not routing's");
    }

    #[test]
    fn faults() {
        for (spec, want) in [
            ("", "spec.cidr: missing; a CIDR is required"),
            ("cidr: 10.244.0.1/16", "spec.cidr: 10.244.0.1/16 has bits beyond its prefix; 10.244.0.0/16 is meant?"),
            ("cidr: 169.254.1.0/24", "spec.cidr: 169.254.1.0/24 touches the link-local range"),
            ("cidr: 10.0.0.0/8, vxlanMode: always", "spec.vxlanMode: \"always\" is not one of Never, Always, CrossSubnet"),
            ("cidr: 10.0.0.0/8, vxlanMode: Always, ipipMode: Always", "spec.ipipMode: vxlanMode and ipipMode cannot both be on"),
            ("cidr: 'fd00::/48', ipipMode: Always", "spec.ipipMode: IP-in-IP does not carry IPv6"),
            ("cidr: 10.0.0.0/8, blockSize: 19", "spec.blockSize: a whole number from 20 to 32 is required, not the number 19"),
            ("cidr: 10.0.0.0/28, blockSize: 26", "spec.blockSize: blocks of /26 do not fit into the pool 10.0.0.0/28"),
            ("cidr: 10.0.0.0/8, allowedUses: [LoadBalancer, Tunnel]", "spec.allowedUses: LoadBalancer cannot be combined"),
            ("cidr: 10.0.0.0/8, allowedUses: [LoadBalancer], vxlanMode: Always", "spec: a pool for LoadBalancer only"),
            ("cidr: 10.0.0.0/8, disabled: 'no'", "spec.disabled: true or false is required, not the text"),
        ] {
            let got = pool(spec).unwrap_err();
            assert!(got.starts_with(want), "{spec}: {got}");
        }
    }
}
