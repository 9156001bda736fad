//! Addresses from this program's own IPAM, held under Calico's handles with Calico's attributes.

use super::env::Container;
use super::error::CniError;
use super::plugin::Plugin;
use super::record::Form;
use super::workload::Workload;
use crate::control::datastore::objects::Objects;
use crate::control::ipam::{AssignIp, AutoAssign, Holder, Ipam, IpamError, Refusal, Use};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

impl From<IpamError> for CniError {
    fn from(e: IpamError) -> CniError {
        match e {
            IpamError::Access(e) => CniError::Datastore(e),
            e @ (IpamError::Contention { .. } | IpamError::Timeout { .. }) => CniError::Later(format!("IPAM: {e}")),
            e => CniError::Ipam(e.to_string()),
        }
    }
}

fn ipam<O: Objects>(plugin: &Plugin<O>) -> Ipam<&O> {
    let ipam = Ipam::new(&plugin.store, &plugin.conf.node).with_lock(&plugin.conf.lock);
    // Beside the lock, as Calico's plugin has both. A folder is read as a whole anyway.
    let mark = plugin.conf.lock.parent().filter(|_| plugin.form == Form::Pod).map(|dir| dir.join("cni/ipam_upgraded"));
    match mark {
        Some(mark) => ipam.with_mark(mark),
        None => ipam,
    }
}

fn holder<O>(plugin: &Plugin<O>, container: &Container, workload: &Workload) -> Holder {
    let mut attributes = BTreeMap::from([("node".to_owned(), workload.node.clone()), ("timestamp".to_owned(), timestamp())]);
    if let Some(pod) = &workload.pod {
        attributes.insert("pod".into(), pod.clone());
        attributes.insert("namespace".into(), workload.namespace.clone());
    }
    Holder { handle: Some(plugin.conf.handle(&container.id)), attributes }
}

/// As Go prints a UTC time, which is what Calico writes: `2026-01-02 03:04:05.678901234 +0000 UTC`.
fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S.%9f +0000 UTC").to_string()
}

/// The next free address of the pools; of all for this node and namespace if none are named.
pub async fn assign_any<O: Objects>(
    plugin: &Plugin<O>,
    container: &Container,
    workload: &Workload,
    pools: &[String],
) -> Result<Ipv4Addr, CniError> {
    let request = AutoAssign {
        pools: pools.to_vec(),
        namespace: workload.pod.is_some().then(|| workload.namespace.clone()),
        ..AutoAssign::one(4, holder(plugin, container, workload))
    };
    let got = ipam(plugin).auto_assign(&request).await?.complete(4)?;
    let first = got.into_iter().find_map(|a| if let IpAddr::V4(a) = a { Some(a) } else { None });
    first.ok_or_else(|| CniError::Ipam("no IPv4 address was assigned".into()))
}

/// The address that is asked for. An earlier container of the same pod may hold it still: kubelet cleans up later.
pub async fn assign<O: Objects>(
    plugin: &Plugin<O>,
    container: &Container,
    workload: &Workload,
    ip: Ipv4Addr,
) -> Result<Ipv4Addr, CniError> {
    let ipam = ipam(plugin);
    let request = AssignIp { address: ip.into(), holder: holder(plugin, container, workload), usage: Some(Use::Workload) };
    match ipam.assign_ip(&request).await {
        Err(IpamError::Refused(Refusal::InUse { .. })) if workload.pod.is_some() => {}
        done => return done.map(|_| ip).map_err(CniError::from),
    }
    let old = ipam.attributes_of(ip.into()).await?;
    let of_pod = |key: &str| old.as_ref().and_then(|o| o.active.get(key)).map(String::as_str);
    let same = of_pod("pod") == workload.pod.as_deref() && of_pod("namespace") == Some(&workload.namespace);
    if let Some(handle) = old.as_ref().and_then(|o| o.handle.as_ref()).filter(|_| same) {
        tracing::info!("{ip} is an earlier container's of the same pod: released");
        ipam.release_by_handle(handle).await?;
    }
    Ok(ipam.assign_ip(&request).await.map(|_| ip)?)
}

/// Releases what the handles hold; unknown ones hold nothing.
pub async fn release<O: Objects>(plugin: &Plugin<O>, handles: &[String]) -> Result<(), CniError> {
    let ipam = ipam(plugin);
    for handle in handles {
        let count = ipam.release_by_handle(handle).await?;
        if count > 0 {
            tracing::info!("{count} addresses of {handle} released");
        }
    }
    Ok(())
}

/// What a handle holds.
pub async fn held<O: Objects>(plugin: &Plugin<O>, handle: &str) -> Result<Vec<Ipv4Addr>, CniError> {
    let all = ipam(plugin).addresses_of_handle(handle).await?;
    Ok(all.into_iter().filter_map(|a| if let IpAddr::V4(a) = a { Some(a) } else { None }).collect())
}

/// All handles that hold addresses for workloads of this node.
pub async fn handles<O: Objects>(plugin: &Plugin<O>) -> Result<BTreeSet<String>, CniError> {
    let mut out = BTreeSet::new();
    for block in plugin.store.list(crate::control::datastore::objects::Resource::IpamBlock, None).await? {
        let of_node = |a: &&Value| a["secondary"]["node"].as_str() == Some(&plugin.conf.node);
        let held = block["spec"]["attributes"].as_array().into_iter().flatten().filter(of_node);
        out.extend(held.filter_map(|a| a["handle_id"].as_str().map(str::to_owned)));
    }
    Ok(out)
}
