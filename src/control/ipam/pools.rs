//! IPPools as address management sees them: which of them a request may take addresses from.

use super::error::IpamError;
use super::fields;
use crate::control::selector::Selector;
use crate::control::yaml::{self, Field, FieldError};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub type Labels = BTreeMap<String, String>;

/// What an address is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Use {
    #[default]
    Workload,
    /// A node's own end of a tunnel.
    Tunnel,
    /// Of a Service: no node assigns these.
    LoadBalancer,
}

impl Use {
    pub fn name(self) -> &'static str {
        match self {
            Use::Workload => "Workload",
            Use::Tunnel => "Tunnel",
            Use::LoadBalancer => "LoadBalancer",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// Not disabled, not being deleted, not found unusable by Calico's pool controller.
    pub enabled: bool,
    /// Packets to it are encapsulated, always or across subnets.
    pub vxlan: bool,
    pub ipip: bool,
    /// `assignmentMode: Manual`: only on request.
    pub manual: bool,
    pub uses: Vec<Use>,
    /// Empty selects all.
    pub node_selector: String,
    pub namespace_selector: String,
}

impl Pool {
    pub fn of_document(document: &Value) -> Result<Pool, FieldError> {
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        Pool::read(name, &Field::root(&yaml::Value::of_json(document)))
    }

    fn read(name: &str, root: &Field) -> Result<Pool, FieldError> {
        let spec = root.get("spec")?;
        let cidr = fields::cidr(&spec.get("cidr")?)?;
        let text = |key: &str| Ok(spec.get(key)?.text()?.unwrap_or_default().to_owned());
        let modes = [("Never", false), ("", false), ("Always", true), ("CrossSubnet", true)];
        let mode = |key: &str| Ok(spec.get(key)?.one_of(&modes)?.unwrap_or(false));
        let disabled = spec.get("disabled")?.boolean()?.unwrap_or(false);
        let deleting = root.at(&["metadata", "deletionTimestamp"])?.is_present();
        Ok(Pool {
            name: name.to_owned(),
            cidr,
            block_size: block_size(&spec.get("blockSize")?, cidr)?,
            enabled: !disabled && !deleting && allocatable(root)?,
            vxlan: mode("vxlanMode")?,
            ipip: mode("ipipMode")?,
            manual: spec.get("assignmentMode")?.one_of(&[("Automatic", false), ("Manual", true), ("", false)])?.unwrap_or(false),
            uses: uses(&spec.get("allowedUses")?)?,
            node_selector: text("nodeSelector")?,
            namespace_selector: text("namespaceSelector")?,
        })
    }

    pub fn version(&self) -> u8 {
        version(self.cidr.addr())
    }

    pub fn selects_node(&self, labels: &Labels) -> Result<bool, IpamError> {
        self.selects(&self.node_selector, "nodeSelector", labels)
    }

    /// An unknown namespace has no labels.
    pub fn selects_namespace(&self, labels: Option<&Labels>) -> Result<bool, IpamError> {
        self.selects(&self.namespace_selector, "namespaceSelector", labels.unwrap_or(&Labels::new()))
    }

    fn selects(&self, selector: &str, field: &'static str, labels: &Labels) -> Result<bool, IpamError> {
        let parsed = selector.parse::<Selector>();
        let selector = parsed.map_err(|fault| IpamError::Selector { pool: self.name.clone(), field, fault })?;
        Ok(selector.matches(labels))
    }

    /// The block that an address of this pool belongs to.
    pub fn block_of(&self, address: IpAddr) -> IpNet {
        super::net(address, self.block_size)
    }
}

pub(super) fn version(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// The pool that holds an address.
pub fn containing(pools: &[Pool], address: IpAddr) -> Option<&Pool> {
    pools.iter().find(|p| p.cidr.contains(&address))
}

fn block_size(f: &Field, cidr: IpNet) -> Result<u8, FieldError> {
    let (min, default) = if cidr.addr().is_ipv4() { (20, 26) } else { (116, 122) };
    let size = f.number::<u8>(0, cidr.max_prefix_len().into())?.filter(|s| *s != 0).unwrap_or(default);
    match size {
        s if s < min => Err(f.error(format!("blocks of /{s} are too large; /{min} is the largest"))),
        s if s < cidr.prefix_len() => Err(f.error(format!("blocks of /{s} do not fit into the pool {cidr}; set a larger number"))),
        s => Ok(s),
    }
}

fn uses(f: &Field) -> Result<Vec<Use>, FieldError> {
    let words = [("Workload", Use::Workload), ("Tunnel", Use::Tunnel), ("LoadBalancer", Use::LoadBalancer)];
    let read = |item: &Field| item.one_of(&words)?.ok_or_else(|| item.error("missing; one of Workload, Tunnel, LoadBalancer is required"));
    let uses = f.items()?.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(if uses.is_empty() { vec![Use::Workload, Use::Tunnel] } else { uses })
}

/// Condition `Allocatable` of the status, if there is one.
fn allocatable(root: &Field) -> Result<bool, FieldError> {
    for condition in root.at(&["status", "conditions"])?.items()? {
        if condition.get("type")?.text()? == Some("Allocatable") && condition.get("status")?.text()? == Some("False") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a request says about pools.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    pub version: u8,
    pub usage: Use,
    /// Names or CIDRs; empty for any that fits.
    pub pools: &'a [String],
    pub node: &'a str,
    pub node_labels: &'a Labels,
    pub namespace_labels: Option<&'a Labels>,
}

/// The pools that a request may take addresses from, in order. Pools that are asked for are taken whatever their
/// selectors say.
pub fn choose(pools: &[Pool], wanted: &Wanted) -> Result<Vec<Pool>, IpamError> {
    let version = wanted.version;
    let enabled: Vec<&Pool> = pools.iter().filter(|p| p.enabled && p.version() == version).collect();
    if enabled.is_empty() {
        return Err(IpamError::NoEnabledPool { version });
    }
    let fitting = if wanted.pools.is_empty() { automatic(&enabled, wanted)? } else { requested(&enabled, wanted)? };
    if fitting.is_empty() {
        return Err(IpamError::NoPoolForNode { node: wanted.node.to_owned(), version });
    }
    let allows = |p: &&Pool| p.uses.contains(&wanted.usage) && wanted.usage != Use::LoadBalancer;
    let out: Vec<Pool> = fitting.into_iter().filter(allows).cloned().collect();
    if out.is_empty() {
        return Err(IpamError::NoPoolForUse { node: wanted.node.to_owned(), wanted: wanted.usage.name(), version });
    }
    Ok(out)
}

fn requested<'a>(enabled: &[&'a Pool], wanted: &Wanted) -> Result<Vec<&'a Pool>, IpamError> {
    let find = |request: &String| {
        let cidr = request.parse::<IpNet>().ok().map(|net| net.trunc());
        let pool = enabled.iter().find(|p| cidr.map_or(p.name == *request, |cidr| p.cidr == cidr));
        pool.copied().ok_or_else(|| IpamError::UnknownPool { pool: request.clone(), version: wanted.version })
    };
    wanted.pools.iter().map(find).collect()
}

fn automatic<'a>(enabled: &[&'a Pool], wanted: &Wanted) -> Result<Vec<&'a Pool>, IpamError> {
    let mut out = Vec::new();
    for pool in enabled {
        if !pool.manual && pool.selects_node(wanted.node_labels)? && pool.selects_namespace(wanted.namespace_labels)? {
            out.push(*pool);
        }
    }
    Ok(out)
}

/// The pools to ask for: those of the pod's annotation, else of its namespace's, else of the CNI configuration; none
/// of them means any.
pub fn precedence(pod: Option<Vec<String>>, namespace: Option<Vec<String>>, configured: Option<Vec<String>>) -> Vec<String> {
    [pod, namespace, configured].into_iter().flatten().find(|pools| !pools.is_empty()).unwrap_or_default()
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;
