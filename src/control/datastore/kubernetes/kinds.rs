//! The kinds that are watched.

use crate::control::datastore::objects::Resource;
use crate::control::model::Kind;
use std::fmt;

/// One watch each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    Node,
    Pod,
    IpPool,
    IpamBlock,
    BlockAffinity,
    FelixConfiguration,
    ClusterInformation,
}

/// Of whom Pods are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Of this node: the server selects.
    #[default]
    Own,
    /// Of all: routes follow from the pods' addresses.
    All,
}

impl Watched {
    pub const ALL: [Watched; 7] = [
        Watched::Node,
        Watched::Pod,
        Watched::IpPool,
        Watched::IpamBlock,
        Watched::BlockAffinity,
        Watched::FelixConfiguration,
        Watched::ClusterInformation,
    ];

    pub fn resource(self) -> Resource {
        match self {
            Watched::Node => Resource::Node,
            Watched::Pod => Resource::Pod,
            Watched::IpPool => Resource::IpPool,
            Watched::IpamBlock => Resource::IpamBlock,
            Watched::BlockAffinity => Resource::BlockAffinity,
            Watched::FelixConfiguration => Resource::FelixConfiguration,
            Watched::ClusterInformation => Resource::ClusterInformation,
        }
    }

    /// What the cluster's state calls it; ClusterInformation is read in its own way.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Watched::Node => Some(Kind::KubeNode),
            Watched::Pod => Some(Kind::Pod),
            Watched::IpPool => Some(Kind::IpPool),
            Watched::IpamBlock => Some(Kind::IpamBlock),
            Watched::BlockAffinity => Some(Kind::BlockAffinity),
            Watched::FelixConfiguration => Some(Kind::FelixConfiguration),
            Watched::ClusterInformation => None,
        }
    }

    /// Whether the node waits for it even if it may not be read: without nodes, pools and blocks there are no routes,
    /// and without pods those that are here would be taken for gone. The others have defaults that a cluster can do
    /// with.
    pub fn is_required(self) -> bool {
        matches!(self, Watched::Node | Watched::Pod | Watched::IpPool | Watched::IpamBlock)
    }

    /// Keys whose values are not read and may be large.
    pub fn skipped(self) -> &'static [&'static str] {
        match self {
            Watched::Node => &["managedFields", "images", "conditions"],
            Watched::Pod => {
                &["managedFields", "containers", "initContainers", "volumes", "conditions", "containerStatuses", "initContainerStatuses"]
            }
            Watched::IpamBlock => &["managedFields", "unallocated", "sequenceNumberForAllocation"],
            _ => &["managedFields"],
        }
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.resource().kind())
    }
}
