//! The columns of each kind's table, as calicoctl has them.

use super::output::Context;
use crate::control::resources::Kind;
use serde_json::Value;

/// Longest text of a list of addresses, as calicoctl cuts it.
const NETS_MAX: usize = 80;

/// The columns that are shown by default.
pub fn default(kind: Kind, wide: bool) -> &'static [&'static str] {
    match (kind, wide) {
        (Kind::IpPool, false) => &["NAME", "CIDR", "SELECTOR"],
        (Kind::IpPool, true) => &["NAME", "CIDR", "NAT", "IPIPMODE", "VXLANMODE", "DISABLED", "DISABLEBGPEXPORT", "SELECTOR"],
        (Kind::Node, true) => &["NAME", "ASN", "IPV4", "IPV6"],
        (Kind::WorkloadEndpoint, false) => &["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"],
        (Kind::WorkloadEndpoint, true) => &["NAME", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS"],
        (Kind::BgpConfiguration, _) => &["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"],
        (Kind::BgpPeer, _) => &["NAME", "PEERIP", "NODE", "ASN"],
        (Kind::ClusterInformation, _) => &["NAME", "CLUSTERGUID", "CLUSTERTYPE", "CALICOVERSION", "DATASTOREREADY"],
        (Kind::IpReservation, true) => &["NAME", "CIDRS"],
        (Kind::IpamConfiguration, false) => &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"],
        (Kind::IpamConfiguration, true) => &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"],
        (Kind::NetworkPolicy, false) => &["NAME", "TIER"],
        (Kind::NetworkPolicy, true) => &["NAME", "TIER", "ORDER", "SELECTOR"],
        (Kind::GlobalNetworkPolicy, false) => &["NAME", "TIER"],
        (Kind::GlobalNetworkPolicy, true) => &["NAME", "TIER", "ORDER", "SELECTOR"],
        (Kind::NetworkSet | Kind::GlobalNetworkSet, true) => &["NAME", "NETS"],
        (Kind::HostEndpoint, false) => &["NAME", "NODE"],
        (Kind::HostEndpoint, true) => &["NAME", "NODE", "INTERFACE", "IPS", "PROFILES"],
        (Kind::Profile, true) => &["NAME", "LABELS"],
        _ => &["NAME"],
    }
}

/// All columns of a kind.
pub fn known(kind: Kind) -> Vec<&'static str> {
    let mut all = default(kind, true).to_vec();
    match kind {
        Kind::IpPool => all.push("ASSIGNMENTMODE"),
        Kind::WorkloadEndpoint => all.push("ORCHESTRATOR"),
        _ => {}
    }
    if kind.is_namespaced() {
        all.push("NAMESPACE");
    }
    all
}

/// What an object has in a column.
pub fn cell(kind: Kind, column: &str, object: &Value, context: &Context) -> String {
    let spec = &object["spec"];
    match (kind, column) {
        (_, "NAME") => text(&object["metadata"]["name"]),
        (_, "NAMESPACE") => text(&object["metadata"]["namespace"]),
        (Kind::IpPool, "CIDR") => text(&spec["cidr"]),
        (Kind::IpPool, "NAT") => flag(&spec["natOutgoing"]),
        (Kind::IpPool, "IPIPMODE") => or(&spec["ipipMode"], "Never"),
        (Kind::IpPool, "VXLANMODE") => or(&spec["vxlanMode"], "Never"),
        (Kind::IpPool, "DISABLED") => flag(&spec["disabled"]),
        (Kind::IpPool, "DISABLEBGPEXPORT") => flag(&spec["disableBGPExport"]),
        (Kind::IpPool, "SELECTOR") => text(&spec["nodeSelector"]),
        (Kind::IpPool, "ASSIGNMENTMODE") => text(&spec["assignmentMode"]),
        (Kind::Node, "ASN") => match (&spec["bgp"], &spec["bgp"]["asNumber"]) {
            (Value::Null, _) => String::new(),
            (_, Value::Null) => format!("({})", context.as_number),
            (_, own) => text(own),
        },
        (Kind::Node, "IPV4") => text(&spec["bgp"]["ipv4Address"]),
        (Kind::Node, "IPV6") => text(&spec["bgp"]["ipv6Address"]),
        (Kind::WorkloadEndpoint, "WORKLOAD") => or(&spec["workload"], spec["pod"].as_str().unwrap_or_default()),
        (Kind::WorkloadEndpoint | Kind::HostEndpoint, "NODE") => text(&spec["node"]),
        (Kind::WorkloadEndpoint, "NETWORKS") => join(&spec["ipNetworks"]),
        (Kind::WorkloadEndpoint | Kind::HostEndpoint, "INTERFACE") => text(&spec["interfaceName"]),
        (Kind::WorkloadEndpoint | Kind::HostEndpoint, "PROFILES") => join(&spec["profiles"]),
        (Kind::WorkloadEndpoint, "NATS") => nats(&spec["ipNATs"]),
        (Kind::WorkloadEndpoint, "ORCHESTRATOR") => text(&spec["orchestrator"]),
        (Kind::BgpConfiguration, "LOGSEVERITY") => text(&spec["logSeverityScreen"]),
        (Kind::BgpConfiguration, "MESHENABLED") => or(&spec["nodeToNodeMeshEnabled"], "-"),
        (Kind::BgpConfiguration, "ASNUMBER") => or(&spec["asNumber"], "-"),
        (Kind::BgpPeer, "PEERIP") => text(&spec["peerIP"]),
        (Kind::BgpPeer, "NODE") => or(&spec["node"], &or(&spec["nodeSelector"], "(global)")),
        (Kind::BgpPeer, "ASN") => or(&spec["asNumber"], "0"),
        (Kind::ClusterInformation, "CLUSTERGUID") => text(&spec["clusterGUID"]),
        (Kind::ClusterInformation, "CLUSTERTYPE") => text(&spec["clusterType"]),
        (Kind::ClusterInformation, "CALICOVERSION") => text(&spec["calicoVersion"]),
        (Kind::ClusterInformation, "DATASTOREREADY") => or(&spec["datastoreReady"], "<nil>"),
        (Kind::IpReservation, "CIDRS") => cut(join(&spec["reservedCIDRs"])),
        (Kind::IpamConfiguration, "STRICTAFFINITY") => flag(&spec["strictAffinity"]),
        (Kind::IpamConfiguration, "AUTOALLOCATEBLOCKS") => or(&spec["autoAllocateBlocks"], "true"),
        (Kind::IpamConfiguration, "MAXBLOCKSPERHOST") => or(&spec["maxBlocksPerHost"], "0"),
        (Kind::NetworkPolicy | Kind::GlobalNetworkPolicy, "TIER") => text(&spec["tier"]),
        (Kind::NetworkPolicy | Kind::GlobalNetworkPolicy, "ORDER") => or(&spec["order"], "<nil>"),
        (Kind::NetworkPolicy | Kind::GlobalNetworkPolicy, "SELECTOR") => text(&spec["selector"]),
        (Kind::NetworkSet | Kind::GlobalNetworkSet, "NETS") => cut(join(&spec["nets"])),
        (Kind::HostEndpoint, "IPS") => join(&spec["expectedIPs"]),
        (Kind::Profile, "LABELS") => labels(&spec["labelsToApply"]),
        _ => String::new(),
    }
}

fn text(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn or(v: &Value, default: &str) -> String {
    let text = text(v);
    if text.is_empty() { default.to_owned() } else { text }
}

fn flag(v: &Value) -> String {
    v.as_bool().unwrap_or(false).to_string()
}

fn join(v: &Value) -> String {
    v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(",")
}

fn cut(text: String) -> String {
    if text.len() <= NETS_MAX { text } else { format!("{}...", text.chars().take(NETS_MAX - 3).collect::<String>()) }
}

fn nats(v: &Value) -> String {
    let pair = |n: &Value| format!("{{{} {}}}", text(&n["internalIP"]), text(&n["externalIP"]));
    v.as_array().into_iter().flatten().map(pair).collect::<Vec<_>>().join(",")
}

fn labels(v: &Value) -> String {
    v.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_column_has_a_cell() {
        let context = Context { as_number: "64512".into(), show_namespace: false };
        let full = json!({"metadata": {"name": "n", "namespace": "ns"}, "spec": {
            "cidr": "c", "natOutgoing": true, "ipipMode": "x", "vxlanMode": "x", "disabled": true, "disableBGPExport": true, "nodeSelector": "s",
            "assignmentMode": "m", "bgp": {"asNumber": 1, "ipv4Address": "4", "ipv6Address": "6"}, "workload": "w", "node": "n",
            "ipNetworks": ["a"], "interfaceName": "i", "profiles": ["p"], "ipNATs": [{"internalIP": "a", "externalIP": "b"}], "orchestrator": "k8s",
            "logSeverityScreen": "Info", "nodeToNodeMeshEnabled": false, "asNumber": 7, "peerIP": "p", "clusterGUID": "g", "clusterType": "t",
            "calicoVersion": "v", "datastoreReady": true, "reservedCIDRs": ["r"], "strictAffinity": true, "autoAllocateBlocks": false,
            "maxBlocksPerHost": 3, "tier": "t", "order": 1.5, "selector": "s", "nets": ["n"], "expectedIPs": ["e"], "labelsToApply": {"a": "b"}}});
        for kind in Kind::ALL {
            for column in known(kind).into_iter().chain(default(kind, false).iter().copied()) {
                assert!(!cell(kind, column, &full, &context).is_empty(), "{kind} {column}");
            }
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let context = Context { as_number: String::new(), show_namespace: false };
        let nets: Vec<String> = (0..20).map(|i| format!("10.0.{i}.0/24")).collect();
        let text = cell(Kind::NetworkSet, "NETS", &json!({"spec": {"nets": nets}}), &context);
        assert!(text.len() == 80 && text.ends_with("..."), "{text}");
    }
}
