//! One look at everything that the node says of itself in the datastore: what differs is written, nothing else. A
//! pass that is broken off anywhere is completed by the next.

use super::address::{self, AddressError, Found};
use super::condition::Network;
use super::detect::{self, Host, Method};
use super::object::{self, NodeObject};
use super::settings::{Networking, Settings};
use super::tunnel::{self, TunnelError};
use super::{defaults, pool};
use crate::control::conflict::{self, Conflict};
use crate::control::datastore::objects::{AccessError, Id, Objects, Resource};
use crate::control::ipam::Ipam;
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

/// How often a change of the node's object is decided anew because somebody else wrote it meanwhile: kubelet does
/// every few seconds.
const TRIES: usize = 5;

/// Why the node cannot describe itself, or not completely.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("Kubernetes has no node {name}: set NODENAME, or node in the configuration, to a name that `kubectl get nodes` shows")]
    Missing { name: String },
    #[error("node {name}: {source}")]
    Address { name: String, source: AddressError },
    #[error(
        "node {name}: its address {address} is node {other}'s too; one of the two must have another (DISABLE_NODE_IP_CHECK=true skips this check)"
    )]
    DuplicateAddress { name: String, address: Ipv4Addr, other: String },
    #[error(
        "node {name} is another machine, which has {theirs}; this one has {ours}: two machines have one name, give one of them its own (NODENAME)"
    )]
    TwoMachines { name: String, theirs: String, ours: String },
    #[error("node {name}: {source}")]
    Tunnel { name: String, source: Box<TunnelError> },
    #[error("{what}: {source}")]
    Access { what: &'static str, source: AccessError },
}

impl NodeError {
    /// That this node is not alone with its name or address, if that is it.
    pub fn conflict(&self) -> Option<Conflict> {
        match self {
            NodeError::DuplicateAddress { name, address, other } => Some(Conflict {
                kind: conflict::Kind::NodeAddress,
                subject: address.to_string(),
                parties: vec![format!("node {name}"), format!("node {other}")],
                found: format!("this machine's address is node {other}'s in the datastore; node {name} does not take it"),
                remedy: "one of the two must have another; or delete the node that is gone (DISABLE_NODE_IP_CHECK=true skips this check)"
                    .into(),
            }),
            NodeError::TwoMachines { name, theirs, ours } => Some(Conflict {
                kind: conflict::Kind::NodeName,
                subject: name.clone(),
                parties: vec![format!("this machine at {ours}"), format!("another machine at {theirs}")],
                found: "two machines have one name; this one does not write its address".into(),
                remedy: "give one of them its own (NODENAME, or node in the configuration)".into(),
            }),
            _ => None,
        }
    }
}

fn access(what: &'static str) -> impl FnOnce(AccessError) -> NodeError {
    move |source| NodeError::Access { what, source }
}

/// What a pass came to.
#[derive(Debug)]
pub struct Outcome {
    /// `None` where no address is asked for.
    pub found: Option<Found>,
    /// What could not be done beside it.
    pub faults: Vec<NodeError>,
}

/// What a pass needs to know.
pub struct Pass<'a, O> {
    /// Of this node, with the datastore.
    pub ipam: &'a Ipam<O>,
    pub settings: &'a Settings,
    /// Of the running kernel.
    pub boot_id: Option<&'a str>,
}

impl<O: Objects> Pass<'_, O> {
    /// The address alone: one read where nothing changed.
    pub async fn look(&self, host: &Host) -> Result<Option<Found>, NodeError> {
        match self.settings.networking {
            Networking::Calico => self.address(host).await.map(Some),
            Networking::None => Ok(None),
        }
    }

    /// Makes everything so. `host` is what the kernel says; InternalIPs are the node's own.
    pub async fn run(&self, host: &Host) -> Result<Outcome, NodeError> {
        let found = self.look(host).await?;
        let mut faults = Vec::new();
        if let Some(setting) = &self.settings.pool {
            faults.extend(pool::ensure(self.objects(), setting, &host.interfaces).await.map_err(access("default IPPool")).err());
        }
        let cluster_type = self.settings.cluster_type.as_deref();
        faults.extend(defaults::ensure(self.objects(), cluster_type).await.map_err(access("default objects")).err());
        faults.extend(self.tunnels().await.err());
        Ok(Outcome { found, faults })
    }

    /// This node's name.
    pub fn name(&self) -> &str {
        self.ipam.node()
    }

    fn objects(&self) -> &O {
        self.ipam.objects()
    }

    /// Sets the condition NetworkUnavailable.
    pub async fn network(&self, network: Network) -> Result<(), NodeError> {
        if self.settings.networking == Networking::None {
            return Ok(());
        }
        for last in (1..=TRIES).map(|n| n == TRIES) {
            let node = self.node(self.settings.kube_node.as_deref().unwrap_or(self.name())).await?;
            let Some(patch) = network.patch(&node, SystemTime::now()) else { return Ok(()) };
            match self.objects().patch_status(&node.id(), patch).await {
                Err(e) if e.is_conflict() && !last => {}
                other => return other.map(drop).map_err(access("condition NetworkUnavailable")),
            }
        }
        Ok(())
    }

    async fn node(&self, name: &str) -> Result<NodeObject, NodeError> {
        let found = self.objects().get(&Id::cluster(Resource::Node, name)).await.map_err(access("read the node"))?;
        found.map(NodeObject).ok_or_else(|| NodeError::Missing { name: name.into() })
    }

    async fn internal_ips(&self, node: &NodeObject) -> Result<Vec<IpAddr>, NodeError> {
        match &self.settings.kube_node {
            Some(other) if other != self.name() => Ok(self.node(other).await?.internal_ips()),
            _ => Ok(node.internal_ips()),
        }
    }

    /// Finds the address, and writes it and the AS number.
    async fn address(&self, host: &Host) -> Result<Found, NodeError> {
        for last in (1..=TRIES).map(|n| n == TRIES) {
            let node = self.node(self.name()).await?;
            let host = Host { internal_ips: self.internal_ips(&node).await?, ..host.clone() };
            let stored = node.address();
            let found = address::choose(self.settings.address, &self.settings.method, &host, stored)
                .map_err(|source| NodeError::Address { name: self.name().into(), source })?;
            if self.settings.check_duplicates {
                self.one_machine(&node, &host)?;
                if stored.map(|a| a.addr()) != Some(found.address.addr()) {
                    self.alone(found.address.addr()).await?;
                }
            }
            let mut wanted = vec![(object::ADDRESS, Some(written(found.address, &node)))];
            wanted.extend(self.settings.as_number.map(|n| (object::AS_NUMBER, Some(n.to_string()))));
            let Some(patch) = node.annotate(&wanted) else { return Ok(found) };
            match self.objects().patch(&node.id(), patch).await {
                Ok(_) => {
                    tracing::info!("node {}: address {} ({})", self.name(), found.address, found.origin);
                    return Ok(found);
                }
                Err(e) if e.is_conflict() && !last => {}
                Err(e) => return Err(access("write the node's address")(e)),
            }
        }
        Err(NodeError::Missing { name: self.name().into() })
    }

    /// Refuses an address that another node has.
    async fn alone(&self, address: Ipv4Addr) -> Result<(), NodeError> {
        let all = self.objects().list(Resource::Node, None).await.map_err(access("look for nodes with the same address"))?;
        let mut others = all.into_iter().map(NodeObject).filter(|n| n.name() != self.name());
        match others.find(|n| n.address().is_some_and(|a| a.addr() == address)) {
            Some(other) => Err(NodeError::DuplicateAddress { name: self.name().into(), address, other: other.name().into() }),
            None => Ok(()),
        }
    }

    /// Refuses a node's object whose kubelet runs and is another kernel's, if none of the object's addresses is here.
    /// After a reboot that also changed the address this holds until kubelet has said so.
    fn one_machine(&self, node: &NodeObject, host: &Host) -> Result<(), NodeError> {
        let alive = node.condition("Ready").is_some_and(|c| c["status"] == "True");
        let other_boot = node.boot_id().zip(self.boot_id).is_some_and(|(theirs, ours)| theirs != ours);
        let v4 = |ip: IpAddr| if let IpAddr::V4(ip) = ip { Some(ip) } else { None };
        let theirs: Vec<Ipv4Addr> =
            node.address().map(|a| a.addr()).into_iter().chain(node.internal_ips().into_iter().filter_map(v4)).collect();
        if !alive || !other_boot || theirs.is_empty() || theirs.iter().any(|a| host.find(*a).is_some()) {
            return Ok(());
        }
        let ours = detect::detect(&Method::FirstFound, host).map_or("no address".into(), |d| d.address.addr().to_string());
        Err(NodeError::TwoMachines { name: self.name().into(), theirs: theirs[0].to_string(), ours })
    }

    /// Brings the tunnel addresses in line with the pools.
    async fn tunnels(&self) -> Result<(), NodeError> {
        let fault = |e| NodeError::Tunnel { name: self.name().into(), source: Box::new(e) };
        for last in (1..=TRIES).map(|n| n == TRIES) {
            let node = self.node(self.name()).await?;
            let wanted = tunnel::wanted(self.ipam, &node).await.map_err(fault)?;
            let Some(patch) = node.annotate(&wanted) else { return Ok(()) };
            match self.objects().patch(&node.id(), patch).await {
                Ok(_) => {
                    for (key, value) in &wanted {
                        tracing::info!("node {}: {key} {}", self.name(), value.as_deref().unwrap_or("none"));
                    }
                    return Ok(());
                }
                Err(e) if e.is_conflict() && !last => {}
                Err(e) => return Err(access("write the node's tunnel addresses")(e)),
            }
        }
        Ok(())
    }
}

/// The annotation for an address: as it stands if it says the same.
fn written(address: Ipv4Net, node: &NodeObject) -> String {
    match node.annotation(object::ADDRESS) {
        Some(stands) if node.address() == Some(address) => stands.to_owned(),
        _ => address.to_string(),
    }
}
