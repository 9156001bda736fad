use super::*;
use crate::control::yaml::documents;

fn faults(kind: Kind, name: &str, spec: &str) -> Vec<String> {
    let text = format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    check(kind, &documents(&text).unwrap()[0]).iter().map(Fault::to_string).collect()
}

/// One fault, without "error with field ".
fn one(kind: Kind, spec: &str) -> String {
    let name = if matches!(kind, Kind::IpamConfiguration | Kind::FelixConfiguration | Kind::BgpConfiguration) { "default" } else { "x" };
    let all = faults(kind, name, spec);
    assert_eq!(all.len(), 1, "{kind} {spec}: {all:?}");
    all[0].strip_prefix("error with field ").unwrap().to_owned()
}

#[test]
fn right_objects_have_no_faults() {
    for (kind, name, spec) in [
        (
            Kind::IpPool,
            "p",
            "{cidr: 10.244.0.0/16, vxlanMode: CrossSubnet, ipipMode: Never, natOutgoing: true, blockSize: 26, nodeSelector: 'has(x)', allowedUses: [Workload], assignmentMode: Manual}",
        ),
        (Kind::IpPool, "p", "{cidr: 'fd00::/48', blockSize: 0, vxlanMode: '', disabled: false}"),
        (
            Kind::Node,
            "n1.example.com",
            "{bgp: {asNumber: 64512, ipv4Address: 10.0.0.1/24, routeReflectorClusterID: 244.0.0.1}, orchRefs: [{nodeName: n, orchestrator: k8s}]}",
        ),
        (
            Kind::FelixConfiguration,
            "node.n1",
            "{vxlanPort: 4789, prometheusMetricsEnabled: true, logSeverityScreen: info, failsafeInboundHostPorts: [{protocol: tcp, port: 22}], reportingInterval: 30s}",
        ),
        (
            Kind::BgpConfiguration,
            "default",
            "{asNumber: 64512, nodeToNodeMeshEnabled: false, serviceClusterIPs: [{cidr: 10.96.0.0/12}], communities: [{name: c, value: '1:2'}], prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [c, '3:4']}]}",
        ),
        (Kind::BgpPeer, "p", "{peerIP: '10.0.0.1:179', asNumber: 64513, nodeSelector: all()}"),
        (Kind::IpamConfiguration, "default", "{strictAffinity: true, maxBlocksPerHost: 4}"),
        (Kind::IpReservation, "r", "{reservedCIDRs: [10.0.0.0/24, 10.0.1.1]}"),
        (Kind::NetworkSet, "s", "{nets: [10.0.0.0/8, 'fd00::1']}"),
        (
            Kind::HostEndpoint,
            "h",
            "{node: n, interfaceName: eth0, expectedIPs: [10.0.0.1], ports: [{name: http, protocol: TCP, port: 80}]}",
        ),
        (
            Kind::NetworkPolicy,
            "allow",
            "{order: 10.5, selector: role == 'db', types: [Ingress], ingress: [{action: Allow, protocol: TCP, source: {selector: role == 'front'}, destination: {ports: [6379, '1:5', http]}}]}",
        ),
        (
            Kind::GlobalNetworkPolicy,
            "g",
            "{preDNAT: true, applyOnForward: true, ingress: [{action: Deny, protocol: ICMP, icmp: {type: 8, code: 0}, ipVersion: 4, source: {nets: [10.0.0.0/8]}}]}",
        ),
        (Kind::WorkloadEndpoint, "w", "{node: n, pod: p, ipNetworks: [10.0.0.1/32], mac: 'ca:fe:00:00:00:01'}"),
    ] {
        assert_eq!(faults(kind, name, spec), Vec::<String>::new(), "{kind} {spec}");
    }
}

#[test]
fn types_and_values() {
    for (kind, spec, want) in [
        (Kind::IpPool, "{}", "spec.cidr (missing; a CIDR is required)"),
        (Kind::IpPool, "{cidr: 10.0.0.0/33}", "spec.cidr = '10.0.0.0/33' (a CIDR is required)"),
        (
            Kind::IpPool,
            "{cidr: 10.0.0.1/8}",
            "spec.cidr = '10.0.0.1/8' (not strictly masked: it has bits beyond its prefix; 10.0.0.0/8 is meant?)",
        ),
        (
            Kind::IpPool,
            "{cidr: 10.0.0.0/8, vxlanMode: always}",
            "spec.vxlanMode = 'always' (one of Never, Always, CrossSubnet is required, not the text \"always\")",
        ),
        (
            Kind::IpPool,
            "{cidr: 10.0.0.0/8, natOutgoing: 'yes'}",
            "spec.natOutgoing = 'yes' (true or false is required, not the text \"yes\")",
        ),
        (Kind::IpPool, "{cidr: 10.0.0.0/8, nodeSelector: 'has('}", "spec.nodeSelector = 'has(' (not a selector: "),
        (
            Kind::IpPool,
            "{cidr: 10.0.0.0/8, allowedUses: [Workload, Pod]}",
            "spec.allowedUses[1] = 'Pod' (one of Workload, Tunnel, LoadBalancer is required",
        ),
        (Kind::IpPool, "{cidr: 10.0.0.0/8, natoutgoing: true}", "spec.natoutgoing = 'true' (unknown field; did you mean natOutgoing?)"),
        (Kind::IpPool, "{cidr: 10.0.0.0/8, vxlanmod: Always}", "spec.vxlanmod = 'Always' (unknown field; did you mean vxlanMode?)"),
        (Kind::IpReservation, "{foo: 1}", "spec.foo = '1' (unknown field; known are reservedCIDRs)"),
        (Kind::IpReservation, "{reservedCIDRs: [10.0.0.0/8, null]}", "spec.reservedCIDRs[1] (missing; a CIDR or an address is required)"),
        (Kind::IpReservation, "{reservedCIDRs: 10.0.0.0/8}", "spec.reservedCIDRs (a list is required, not the text \"10.0.0.0/8\")"),
        (
            Kind::IpamConfiguration,
            "{maxBlocksPerHost: -1}",
            "spec.maxBlocksPerHost = '-1' (a whole number from 0 to 2147483647 is required, not the number -1)",
        ),
        (Kind::Node, "{bgp: {asNumber: -3}}", "spec.bgp.asNumber = '-3' (an AS number from 0 to 4294967295 is required)"),
        (
            Kind::Node,
            "{vxlanTunnelMACAddr: zz}",
            "spec.vxlanTunnelMACAddr = 'zz' (a MAC address (six hex octets, like 66:b6:a5:9d:e1:c9) is required)",
        ),
        (
            Kind::FelixConfiguration,
            "{vxlanVNI: 16777216}",
            "spec.vxlanVNI = '16777216' (a whole number from 0 to 16777215 is required, not the number 16777216)",
        ),
        (Kind::FelixConfiguration, "{vxlanEnable: true}", "spec.vxlanEnable = 'true' (unknown field; did you mean vxlanEnabled?)"),
        (
            Kind::FelixConfiguration,
            "{reportingInterval: 30}",
            "spec.reportingInterval = '30' (a duration, like 90s or 1m30s is required, not the number 30)",
        ),
        (Kind::FelixConfiguration, "{completelyElse: 1}", "spec.completelyElse = '1' (unknown field)"),
        (Kind::NetworkSet, "{nets: [10.0.0.256]}", "spec.nets[0] = '10.0.0.256' (a CIDR or an address is required)"),
        (Kind::NetworkPolicy, "{order: first}", "spec.order = 'first' (a number is required, not the text \"first\")"),
    ] {
        let got = one(kind, spec);
        assert!(got.starts_with(want), "{kind} {spec}\n got {got}\nwant {want}");
    }
    assert_eq!(faults(Kind::IpPool, "A_b", "{cidr: 10.0.0.0/8}").len(), 1);
    assert_eq!(faults(Kind::FelixConfiguration, "x", "{}"), ["error with field metadata.name = 'x' (must be default or node.NODENAME)"]);
    assert_eq!(faults(Kind::IpamConfiguration, "x", "{}"), ["error with field metadata.name = 'x' (must be default)"]);
}

#[test]
fn fields_that_contradict_each_other() {
    let peer = Kind::BgpPeer;
    let (np, gnp) = (Kind::NetworkPolicy, Kind::GlobalNetworkPolicy);
    for (kind, spec, want) in [
        (
            Kind::IpPool,
            "{cidr: 10.0.0.0/8, vxlanMode: Always, ipipMode: Always}",
            "spec.vxlanMode = 'Always' (cannot enable both VXLAN and IPIP",
        ),
        (Kind::IpPool, "{cidr: 'fd00::/48', ipipMode: Always}", "spec.ipipMode = 'Always' (IPIP is not supported on an IPv6 IP pool"),
        (Kind::IpPool, "{cidr: 10.0.0.0/8, blockSize: 19}", "spec.blockSize = '19' (IPv4 block size must be between 20 and 32)"),
        (Kind::IpPool, "{cidr: 'fd00::/48', blockSize: 26}", "spec.blockSize = '26' (IPv6 block size must be between 116 and 128)"),
        (
            Kind::IpPool,
            "{cidr: 10.0.0.0/28}",
            "spec.cidr = '10.0.0.0/28' (IP pool size is too small: it must be equal to or greater than the block size, /26)",
        ),
        (Kind::IpPool, "{cidr: 169.254.0.0/24}", "spec.cidr = '169.254.0.0/24' (overlaps with the link-local range 169.254.0.0/16)"),
        (Kind::IpPool, "{cidr: 10.0.0.0/8, allowedUses: [LoadBalancer, Tunnel]}", "spec.allowedUses (LoadBalancer cannot be used together"),
        (
            Kind::IpPool,
            "{cidr: 10.0.0.0/8, allowedUses: [LoadBalancer], vxlanMode: Always}",
            "spec.allowedUses (a LoadBalancer pool cannot have vxlanMode",
        ),
        (peer, "{}", "spec.peerIP (missing; one of peerIP, peerSelector, localWorkloadSelector is required)"),
        (peer, "{peerIP: 10.0.0.1, node: a, nodeSelector: all()}", "spec.node = 'a' (node and nodeSelector cannot both be set)"),
        (peer, "{peerSelector: all(), asNumber: 1}", "spec.asNumber = '1' (asNumber and peerSelector cannot both be set)"),
        (peer, "{peerSelector: all(), reachableBy: 10.0.0.1}", "spec.reachableBy = '10.0.0.1' (allowed only together with peerIP)"),
        (
            Kind::BgpConfiguration,
            "{nodeToNodeMeshEnabled: false, nodeMeshMaxRestartTime: 1m}",
            "spec.nodeMeshMaxRestartTime = '1m' (cannot be set when",
        ),
        (
            Kind::BgpConfiguration,
            "{prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [x]}]}",
            "spec.prefixAdvertisements[0].communities[0] = 'x' (neither",
        ),
        (Kind::HostEndpoint, "{node: n}", "spec.interfaceName (missing; interfaceName or expectedIPs is required)"),
        (
            Kind::HostEndpoint,
            "{node: n, interfaceName: a, ports: [{name: p, protocol: ICMP, port: 1}]}",
            "spec.ports[0].protocol = 'ICMP' (one of TCP, UDP, SCTP",
        ),
        (
            Kind::WorkloadEndpoint,
            "{node: n, pod: p, ipNetworks: [10.0.0.0/24]}",
            "spec.ipNetworks[0] = '10.0.0.0/24' (one address is required: /32)",
        ),
        (np, "{ingress: [{}]}", "spec.ingress[0].action (missing; one of Allow, Deny, Log, Pass is required)"),
        (np, "{ingress: [{action: allow}]}", "spec.ingress[0].action = 'allow' (one of Allow, Deny, Log, Pass is required"),
        (np, "{egress: [{action: Allow, protocol: HTTP}]}", "spec.egress[0].protocol = 'HTTP' (a protocol: TCP, UDP"),
        (
            np,
            "{egress: [{action: Allow, destination: {ports: [80]}}]}",
            "spec.egress[0].destination.ports (requires protocol to be TCP, UDP or SCTP)",
        ),
        (
            np,
            "{egress: [{action: Allow, protocol: TCP, destination: {ports: ['9:1']}}]}",
            "spec.egress[0].destination.ports[0] = '9:1' (a port: ",
        ),
        (np, "{ingress: [{action: Allow, icmp: {type: 8}}]}", "spec.ingress[0].icmp (requires protocol to be ICMP or ICMPv6)"),
        (
            np,
            "{ingress: [{action: Allow, protocol: ICMP, icmp: {code: 8}}]}",
            "spec.ingress[0].icmp.code = '8' (an ICMP code requires an ICMP type)",
        ),
        (
            np,
            "{ingress: [{action: Allow, protocol: ICMP, ipVersion: 6}]}",
            "spec.ingress[0].ipVersion = '6' (protocol ICMP requires ipVersion 4)",
        ),
        (np, "{ingress: [{action: Allow, ipVersion: 5}]}", "spec.ingress[0].ipVersion = '5' (4 or 6 is required)"),
        (
            np,
            "{ingress: [{action: Allow, ipVersion: 6, source: {nets: [10.0.0.0/8]}}]}",
            "spec.ingress[0].source.nets[0] = '10.0.0.0/8' (the rule's ipVersion is 6)",
        ),
        (
            np,
            "{ingress: [{action: Allow, source: {services: {name: s}, nets: [10.0.0.0/8]}}]}",
            "spec.ingress[0].source.nets (nets and services cannot both be set)",
        ),
        (np, "{ingress: [{action: Deny, http: {methods: [GET]}}]}", "spec.ingress[0].http (HTTP match is only valid on Allow rules)"),
        (np, "{selector: global()}", "spec.selector = 'global()' (global() can only be used in a rule's namespaceSelector)"),
        (np, "{types: [Ingress, Ingress]}", "spec.types (Ingress is named twice)"),
        (np, "{types: [Both]}", "spec.types[0] = 'Both' (one of Ingress, Egress is required"),
        (gnp, "{preDNAT: true}", "spec.applyOnForward (must be true when preDNAT or doNotTrack is)"),
        (
            gnp,
            "{preDNAT: true, doNotTrack: true, applyOnForward: true}",
            "spec.preDNAT = 'true' (preDNAT and doNotTrack cannot both be true)",
        ),
        (gnp, "{preDNAT: true, applyOnForward: true, egress: [{action: Allow}]}", "spec.egress (a preDNAT policy cannot have egress rules"),
    ] {
        let got = one(kind, spec);
        assert!(got.starts_with(want), "{kind} {spec}\n got {got}\nwant {want}");
    }
}

#[test]
fn all_faults_are_listed_with_their_lines() {
    let text = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p, label: {}}\nspec:\n  cidr: 10.0.0.0/8\n  nat: true\n  ipipMode: 7\n";
    let found = check(Kind::IpPool, &documents(text).unwrap()[0]);
    let at: Vec<_> = found.iter().map(|f| (f.line, f.field.as_str())).collect();
    assert_eq!(at, [(3, "metadata.label"), (6, "spec.nat"), (7, "spec.ipipMode")]);
    let all = join(&found);
    assert!(
        all.starts_with(
            "error with the following fields:\n-  metadata.label (unknown field; did you mean labels?)\n-  spec.nat = 'true' ("
        ),
        "{all}"
    );
    let text = "apiVersion: projectcalico.org/v3\nkind: Pool\nmetadata: {name: p}\n";
    let found: Vec<_> = check(Kind::IpPool, &documents(text).unwrap()[0]).iter().map(Fault::to_string).collect();
    assert_eq!(found, ["error with field spec.cidr (missing; a CIDR is required)"]);
    let text = text.to_owned() + "spec: {cidr: 10.0.0.0/8}\n";
    let found: Vec<_> = check(Kind::IpPool, &documents(&text).unwrap()[0]).iter().map(Fault::to_string).collect();
    assert_eq!(found, ["error with field kind = 'Pool' (IPPool is required)"]);
    let text = "apiVersion: crd.projectcalico.org/v1\nkind: IPPool\nmetadata: {name: p}\nspec: {cidr: 10.0.0.0/8}\n";
    let found = check(Kind::IpPool, &documents(text).unwrap()[0]);
    assert!(found[0].to_string().contains("apiVersion = 'crd.projectcalico.org/v1' (projectcalico.org/v3 is required"), "{found:?}");
}
