//! The fields of each kind (`projectcalico.org/v3`).

use super::scalar::Form;
use super::{Entry, Kind, Type, felix};

pub const TEXTS: Type = Type::List(&Type::Text);
pub const CIDRS: Type = Type::List(&Type::Scalar(Form::CidrOrAddress));
pub const ENABLED: Type = Type::One(&["Enabled", "Disabled"]);
const MODE: Type = Type::One(&["Never", "Always", "CrossSubnet"]);
const SELECTOR: Type = Type::Scalar(Form::Selector);
const AS_NUMBER: Type = Type::Scalar(Form::AsNumber);
const PROTOCOL: Type = Type::Scalar(Form::Protocol);
const DURATION: Type = Type::Scalar(Form::Duration);
const SEVERITY: Type = Type::OneAnyCase(&["Trace", "Debug", "Info", "Warning", "Error", "Fatal"]);
const I32: i64 = i32::MAX as i64;

/// The fields of `spec`.
pub fn spec(kind: Kind) -> &'static [Entry] {
    match kind {
        Kind::BgpConfiguration => BGP_CONFIGURATION,
        Kind::BgpPeer => BGP_PEER,
        Kind::ClusterInformation => CLUSTER_INFORMATION,
        Kind::FelixConfiguration => felix::SPEC,
        Kind::GlobalNetworkPolicy => GLOBAL_NETWORK_POLICY,
        Kind::GlobalNetworkSet | Kind::NetworkSet => NETWORK_SET,
        Kind::HostEndpoint => HOST_ENDPOINT,
        Kind::IpPool => IP_POOL,
        Kind::IpReservation => IP_RESERVATION,
        Kind::IpamConfiguration => IPAM_CONFIGURATION,
        Kind::NetworkPolicy => NETWORK_POLICY,
        Kind::Node => NODE,
        Kind::Profile => PROFILE,
        Kind::WorkloadEndpoint => WORKLOAD_ENDPOINT,
    }
}

const IP_POOL: &[Entry] = &[
    ("cidr", Type::Required(&Type::Scalar(Form::Cidr))),
    ("vxlanMode", MODE),
    ("ipipMode", MODE),
    ("natOutgoing", Type::Bool),
    ("disabled", Type::Bool),
    ("disableBGPExport", Type::Bool),
    ("blockSize", Type::Int(0, 128)),
    ("nodeSelector", SELECTOR),
    ("namespaceSelector", SELECTOR),
    ("allowedUses", Type::List(&Type::One(&["Workload", "Tunnel", "LoadBalancer"]))),
    ("assignmentMode", Type::One(&["Automatic", "Manual"])),
];

const IP_RESERVATION: &[Entry] = &[("reservedCIDRs", CIDRS)];

const IPAM_CONFIGURATION: &[Entry] = &[
    ("strictAffinity", Type::Bool),
    ("autoAllocateBlocks", Type::Bool),
    ("maxBlocksPerHost", Type::Int(0, I32)),
    ("ipCooldownSeconds", Type::Int(0, 1200)),
    ("kubeVirtVMAddressPersistence", ENABLED),
];

const CLUSTER_INFORMATION: &[Entry] = &[
    ("calicoVersion", Type::Text),
    ("clusterGUID", Type::Text),
    ("clusterType", Type::Text),
    ("datastoreReady", Type::Bool),
    ("variant", Type::Text),
];

const NODE: &[Entry] = &[
    (
        "bgp",
        Type::Object(&[
            ("asNumber", AS_NUMBER),
            ("ipv4Address", Type::Scalar(Form::HostAddress)),
            ("ipv6Address", Type::Scalar(Form::HostAddress)),
            ("ipv4IPIPTunnelAddr", Type::Scalar(Form::Ipv4)),
            ("routeReflectorClusterID", Type::Scalar(Form::Ipv4)),
        ]),
    ),
    ("ipv4VXLANTunnelAddr", Type::Scalar(Form::Ipv4)),
    ("vxlanTunnelMACAddr", Type::Scalar(Form::Mac)),
    ("ipv6VXLANTunnelAddr", Type::Scalar(Form::Address)),
    ("vxlanTunnelMACAddrV6", Type::Scalar(Form::Mac)),
    ("orchRefs", Type::List(&Type::Object(&[("nodeName", Type::Text), ("orchestrator", Type::Required(&Type::Text))]))),
    (
        "wireguard",
        Type::Object(&[("interfaceIPv4Address", Type::Scalar(Form::Ipv4)), ("interfaceIPv6Address", Type::Scalar(Form::Address))]),
    ),
    (
        "addresses",
        Type::List(&Type::Object(&[
            ("address", Type::Required(&Type::Scalar(Form::HostAddress))),
            ("type", Type::One(&["CalicoNodeIP", "InternalIP", "ExternalIP"])),
        ])),
    ),
];

const SECRET: Type = Type::Object(&[(
    "secretKeyRef",
    Type::Object(&[("name", Type::Text), ("key", Type::Required(&Type::Text)), ("optional", Type::Bool)]),
)]);

const BLOCKS: Type = Type::List(&Type::Object(&[("cidr", Type::Scalar(Form::Cidr))]));

const BGP_CONFIGURATION: &[Entry] = &[
    ("asNumber", AS_NUMBER),
    ("bindMode", Type::One(&["None", "NodeIP"])),
    (
        "communities",
        Type::List(&Type::Object(&[("name", Type::Required(&Type::Text)), ("value", Type::Required(&Type::Scalar(Form::Community)))])),
    ),
    ("ignoredInterfaces", TEXTS),
    ("ipv4NormalRoutePriority", Type::Int(1, I32)),
    ("ipv4ElevatedRoutePriority", Type::Int(1, I32)),
    ("ipv6NormalRoutePriority", Type::Int(1, I32)),
    ("ipv6ElevatedRoutePriority", Type::Int(1, I32)),
    ("listenPort", Type::Int(1, 65535)),
    ("localWorkloadPeeringIPV4", Type::Scalar(Form::Ipv4)),
    ("localWorkloadPeeringIPV6", Type::Scalar(Form::Address)),
    ("logSeverityScreen", SEVERITY),
    ("nodeMeshMaxRestartTime", DURATION),
    ("nodeMeshPassword", SECRET),
    ("nodeToNodeMeshEnabled", Type::Bool),
    ("prefixAdvertisements", Type::List(&Type::Object(&[("cidr", Type::Required(&Type::Scalar(Form::Cidr))), ("communities", TEXTS)]))),
    ("programClusterRoutes", Type::One(&["Enabled", "Disabled", "EnabledNoEncapOnly"])),
    ("serviceClusterIPs", BLOCKS),
    ("serviceExternalIPs", BLOCKS),
    ("serviceLoadBalancerAggregation", ENABLED),
    ("serviceLoadBalancerIPs", BLOCKS),
];

const BGP_PEER: &[Entry] = &[
    ("node", Type::Text),
    ("nodeSelector", SELECTOR),
    ("peerIP", Type::Scalar(Form::Peer)),
    ("peerSelector", SELECTOR),
    ("localWorkloadSelector", SELECTOR),
    ("asNumber", AS_NUMBER),
    ("localASNumber", AS_NUMBER),
    ("nextHopMode", Type::One(&["Auto", "Self", "Keep"])),
    ("keepOriginalNextHop", Type::Bool),
    ("password", SECRET),
    ("sourceAddress", Type::One(&["UseNodeIP", "None"])),
    ("maxRestartTime", DURATION),
    ("keepaliveTime", DURATION),
    ("numAllowedLocalASNumbers", Type::Int(0, I32)),
    ("ttlSecurity", Type::Int(0, 255)),
    ("reachableBy", Type::Scalar(Form::Address)),
    ("filters", TEXTS),
    ("reversePeering", Type::One(&["Auto", "Manual"])),
];

const ENDPOINT_PORTS: Type = Type::List(&Type::Object(&[
    ("name", Type::Text),
    ("protocol", PROTOCOL),
    ("port", Type::Required(&Type::Int(1, 65535))),
    ("hostPort", Type::Int(0, 65535)),
    ("hostIP", Type::Scalar(Form::Address)),
]));

const HOST_ENDPOINT: &[Entry] = &[
    ("node", Type::Required(&Type::Text)),
    ("interfaceName", Type::Scalar(Form::Interface)),
    ("expectedIPs", Type::List(&Type::Scalar(Form::Address))),
    ("profiles", TEXTS),
    ("ports", ENDPOINT_PORTS),
];

const WORKLOAD_ENDPOINT: &[Entry] = &[
    ("orchestrator", Type::Text),
    ("workload", Type::Text),
    ("node", Type::Required(&Type::Text)),
    ("containerID", Type::Text),
    ("pod", Type::Text),
    ("endpoint", Type::Text),
    ("serviceAccountName", Type::Text),
    ("ipNetworks", CIDRS),
    (
        "ipNATs",
        Type::List(&Type::Object(&[
            ("internalIP", Type::Required(&Type::Scalar(Form::Address))),
            ("externalIP", Type::Required(&Type::Scalar(Form::Address))),
        ])),
    ),
    ("ipv4Gateway", Type::Scalar(Form::Ipv4)),
    ("ipv6Gateway", Type::Scalar(Form::Address)),
    ("profiles", TEXTS),
    ("interfaceName", Type::Scalar(Form::Interface)),
    ("mac", Type::Scalar(Form::Mac)),
    ("ports", ENDPOINT_PORTS),
    ("allowSpoofedSourcePrefixes", Type::List(&Type::Scalar(Form::Cidr))),
    ("qosControls", Type::Any),
];

const NETWORK_SET: &[Entry] = &[("nets", CIDRS)];

const PROFILE: &[Entry] = &[("ingress", RULES), ("egress", RULES), ("labelsToApply", Type::Texts)];

const ICMP: Type = Type::Object(&[("type", Type::Int(0, 254)), ("code", Type::Int(0, 255))]);

const ENTITY: Type = Type::Object(&[
    ("nets", Type::ListMax(&Type::Scalar(Form::CidrOrAddress), 256)),
    ("notNets", Type::ListMax(&Type::Scalar(Form::CidrOrAddress), 256)),
    ("selector", SELECTOR),
    ("notSelector", SELECTOR),
    ("namespaceSelector", SELECTOR),
    ("ports", Type::ListMax(&Type::Scalar(Form::Port), 50)),
    ("notPorts", Type::ListMax(&Type::Scalar(Form::Port), 50)),
    ("serviceAccounts", Type::Object(&[("names", TEXTS), ("selector", SELECTOR)])),
    ("services", Type::Object(&[("name", Type::Required(&Type::Text)), ("namespace", Type::Text)])),
]);

const HTTP: Type =
    Type::Object(&[("methods", TEXTS), ("paths", Type::List(&Type::Object(&[("exact", Type::Text), ("prefix", Type::Text)])))]);

const RULES: Type = Type::ListMax(
    &Type::Object(&[
        ("action", Type::Required(&Type::One(&["Allow", "Deny", "Log", "Pass"]))),
        ("ipVersion", Type::Int(4, 6)),
        ("protocol", PROTOCOL),
        ("notProtocol", PROTOCOL),
        ("icmp", ICMP),
        ("notICMP", ICMP),
        ("source", ENTITY),
        ("destination", ENTITY),
        ("http", HTTP),
        ("metadata", Type::Object(&[("annotations", Type::Texts)])),
    ]),
    1024,
);

const TYPES: Type = Type::List(&Type::One(&["Ingress", "Egress"]));
const HINTS: Type = Type::List(&Type::One(&["AssumeNeededOnEveryNode"]));

const NETWORK_POLICY: &[Entry] = &[
    ("tier", Type::Text),
    ("order", Type::Number),
    ("selector", SELECTOR),
    ("serviceAccountSelector", SELECTOR),
    ("types", TYPES),
    ("ingress", RULES),
    ("egress", RULES),
    ("performanceHints", HINTS),
];

const GLOBAL_NETWORK_POLICY: &[Entry] = &[
    ("tier", Type::Text),
    ("order", Type::Number),
    ("selector", SELECTOR),
    ("namespaceSelector", SELECTOR),
    ("serviceAccountSelector", SELECTOR),
    ("types", TYPES),
    ("ingress", RULES),
    ("egress", RULES),
    ("doNotTrack", Type::Bool),
    ("preDNAT", Type::Bool),
    ("applyOnForward", Type::Bool),
    ("performanceHints", HINTS),
];
