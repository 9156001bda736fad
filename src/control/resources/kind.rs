//! The kinds that users handle.

use crate::control::datastore::objects::{Id, Resource};
use std::fmt;

/// `projectcalico.org/v3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    BgpConfiguration,
    BgpPeer,
    ClusterInformation,
    FelixConfiguration,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IpPool,
    IpReservation,
    IpamConfiguration,
    NetworkPolicy,
    NetworkSet,
    Node,
    Profile,
    WorkloadEndpoint,
}

/// The version of all of them.
pub const API_VERSION: &str = "projectcalico.org/v3";

impl Kind {
    pub const ALL: [Kind; 15] = [
        Kind::BgpConfiguration,
        Kind::BgpPeer,
        Kind::ClusterInformation,
        Kind::FelixConfiguration,
        Kind::GlobalNetworkPolicy,
        Kind::GlobalNetworkSet,
        Kind::HostEndpoint,
        Kind::IpPool,
        Kind::IpReservation,
        Kind::IpamConfiguration,
        Kind::NetworkPolicy,
        Kind::NetworkSet,
        Kind::Node,
        Kind::Profile,
        Kind::WorkloadEndpoint,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Profile => "Profile",
            kind => kind.resource().kind(),
        }
    }

    /// Where it is kept. Profiles are made of namespaces and service accounts.
    pub fn resource(self) -> Resource {
        match self {
            Kind::BgpConfiguration => Resource::BgpConfiguration,
            Kind::BgpPeer => Resource::BgpPeer,
            Kind::ClusterInformation => Resource::ClusterInformation,
            Kind::FelixConfiguration => Resource::FelixConfiguration,
            Kind::GlobalNetworkPolicy => Resource::GlobalNetworkPolicy,
            Kind::GlobalNetworkSet => Resource::GlobalNetworkSet,
            Kind::HostEndpoint => Resource::HostEndpoint,
            Kind::IpPool => Resource::IpPool,
            Kind::IpReservation => Resource::IpReservation,
            Kind::IpamConfiguration => Resource::IpamConfiguration,
            Kind::NetworkPolicy => Resource::NetworkPolicy,
            Kind::NetworkSet => Resource::NetworkSet,
            Kind::Node => Resource::CalicoNode,
            Kind::Profile => Resource::Namespace,
            Kind::WorkloadEndpoint => Resource::WorkloadEndpoint,
        }
    }

    pub fn is_namespaced(self) -> bool {
        matches!(self, Kind::NetworkPolicy | Kind::NetworkSet | Kind::WorkloadEndpoint)
    }

    /// calicoctl's names for it, besides its own.
    fn aliases(self) -> &'static [&'static str] {
        match self {
            Kind::BgpConfiguration => &["bgpconfigurations", "bgpconfig", "bgpconfigs"],
            Kind::BgpPeer => &["bgppeers", "bgpp", "bgpps", "bp", "bps"],
            Kind::ClusterInformation => &["clusterinformations", "clusterinfo", "clusterinfos"],
            Kind::FelixConfiguration => &["felixconfigurations", "felixconfig", "felixconfigs"],
            Kind::GlobalNetworkPolicy => &["globalnetworkpolicies", "gnp", "gnps"],
            Kind::GlobalNetworkSet => &["globalnetworksets", "gnetsets"],
            Kind::HostEndpoint => &["hostendpoints", "hep", "heps"],
            Kind::IpPool => &["ippools", "ipp", "ipps", "pool", "pools"],
            Kind::IpReservation => &["ipreservations", "reservation", "reservations"],
            Kind::IpamConfiguration => &["ipamconfigurations", "ipamconfig", "ipamconfigs"],
            Kind::NetworkPolicy => &["networkpolicies", "policy", "np", "policies", "pol", "pols"],
            Kind::NetworkSet => &["networksets", "netsets"],
            Kind::Node => &["nodes", "no", "nos"],
            Kind::Profile => &["profiles", "pro", "pros"],
            Kind::WorkloadEndpoint => &["workloadendpoints", "wep", "weps"],
        }
    }

    /// By any of its names, in any case.
    pub fn find(word: &str) -> Option<Kind> {
        let word = word.to_lowercase();
        Kind::ALL.into_iter().find(|k| k.name().to_lowercase() == word || k.aliases().contains(&word.as_str()))
    }

    /// By the `kind` of a document.
    pub fn of_document(kind: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == kind)
    }

    /// What an object of this kind is called, as calicoctl prints it.
    pub fn display(self, namespace: Option<&str>, name: &str) -> String {
        match namespace.filter(|_| self.is_namespaced()) {
            Some(namespace) => format!("{self}({namespace}/{name})"),
            None => format!("{self}({name})"),
        }
    }

    /// In the datastore.
    pub fn id(self, namespace: Option<&str>, name: &str) -> Id {
        let namespace = namespace.filter(|_| self.is_namespaced()).map(str::to_owned);
        Id { resource: self.resource(), namespace, name: name.to_owned() }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_all_their_names() {
        for (word, kind) in
            [("ippool", Kind::IpPool), ("IPPools", Kind::IpPool), ("wep", Kind::WorkloadEndpoint), ("policy", Kind::NetworkPolicy)]
        {
            assert_eq!(Kind::find(word), Some(kind));
        }
        assert_eq!((Kind::find("pod"), Kind::of_document("ippool"), Kind::of_document("IPPool")), (None, None, Some(Kind::IpPool)));
        let mut words: Vec<String> =
            Kind::ALL.iter().flat_map(|k| k.aliases().iter().map(|a| (*a).to_owned()).chain([k.name().to_lowercase()])).collect();
        let all = words.len();
        words.sort();
        words.dedup();
        assert_eq!(words.len(), all, "a name stands for one kind");
    }
}
