//! docs/counters.md, written from the declarations in src/drop.rs. What to do about a reason is told here; the
//! matches have no wildcard, so a new reason does not compile until somebody has said it.

use std::fmt::Write;
use tortie::drop::{DropReason, PuntReason};

const HEAD: &str = "\
# Counters: how every packet ended

<!-- Generated from src/drop.rs by tests/rules; do not edit. `TORTIE_BLESS=1 cargo test --test rules` rewrites it. -->

Every packet ends in one of six ways, and each end is counted once, per worker:

```
received + generated = sent + punted + dropped + coalesced + held
```

*Received* are frames that ports took in (a super-frame counts as one). *Generated* are packets made here: ICMP
errors, ARP requests, and the fragments and segments beyond the first of a packet that was split. *Sent* left by
a port. *Punted* were handed to the host stack. *Dropped* ended under one of the reasons below. *Coalesced*
were joined to the packet before them, for a pod or a host stack that takes super-frames: of n joined packets, one
is sent and n - 1 are coalesced. *Held* wait for a neighbour or for room on a port: a gauge, not a counter. The two
sides are equal whenever a worker is between two turns of its loop; every packet test asserts it.

`tortie drops` lists the reasons that occurred; `tortie counters` adds ports and adjacencies.
";

/// The whole file.
pub fn document() -> String {
    let mut out = String::from(HEAD);
    out.push_str("\n## Drops\n\n| Reason | What it means | Who causes it, and what to do |\n| --- | --- | --- |\n");
    for r in DropReason::ALL {
        writeln!(out, "| `{}` | {} | {} |", r.name(), r.doc(), drop_remedy(*r)).expect("writing to a string");
    }
    out.push_str("\n## Punts\n\nPackets for the host stack; it decides what becomes of them.\n\n");
    out.push_str("| Reason | What it means | Who causes it, and what to do |\n| --- | --- | --- |\n");
    for r in PuntReason::ALL {
        writeln!(out, "| `{}` | {} | {} |", r.name(), r.doc(), punt_remedy(*r)).expect("writing to a string");
    }
    out
}

fn drop_remedy(r: DropReason) -> &'static str {
    use DropReason as D;
    match r {
        D::NoRoute => "A sender using an address outside every pool. `tortie fib` shows what is covered.",
        D::Blackhole => "A sender that still uses a deleted pod's address. Harmless if short; else look for a stale Service endpoint.",
        D::RouteDrop => "The cluster's state: the remote node lacks an address, a VTEP or a tunnel address. Look at that Node.",
        D::EthernetTruncated => "A broken device or a hostile pod. Capture on the port.",
        D::EthertypeUnsupported => "VLAN, LLDP and the like on a pod's interface. Harmless.",
        D::Ipv6Unsupported => "A pod's own IPv6 start-up traffic (router solicitation). Harmless on an IPv4 cluster.",
        D::NotForUs => "A pod with a static neighbour entry, or one that bridges. Its gateway's MAC must be ee:ee:ee:ee:ee:ee.",
        D::ArpMalformed => "A hostile or broken pod.",
        D::ArpIgnored => "Every pod at start (duplicate address detection, announcements). Normal.",
        D::ArpSpoofed => "A pod using an address that IPAM did not give it, or one whose endpoint changed a moment ago.",
        D::IpTruncated => "A broken or hostile sender.",
        D::IpMalformed => "A broken or hostile sender.",
        D::IpChecksum => "Damage on the way, or a sender that relies on checksum offload its device does not do.",
        D::IpMartian => "Multicast and broadcast from pods, which Calico does not forward either. Normal in small numbers.",
        D::TtlExpired => "traceroute, or a routing loop between nodes: compare `tortie fib` on both.",
        D::SourceSpoofed => "A pod sending from another's address. If it may, list the prefix in its allowed source prefixes.",
        D::WorkloadTunnel => {
            "A pod that tunnels to a node. FelixConfiguration allowVXLANPacketsFromWorkloads or allowIPIPPacketsFromWorkloads permits it."
        }
        D::UnknownPort => "Frames that arrive while an endpoint is removed. Normal for a moment.",
        D::TunnelSenderUnknown => {
            "A node that the datastore does not know yet, or a stranger. Add strangers to externalNodesList if they belong."
        }
        D::OwnSource => "A machine with this node's address, or a loop in the underlay. `tortie status` names it under Conflicts.",
        D::OuterNotOurs => {
            "Other traffic on an uplink port that delivers all frames. Normal there; elsewhere compare port and node address."
        }
        D::OuterUdpLength => "A broken or hostile sender in the underlay.",
        D::OuterUdpChecksum => "Damage in the underlay, or a remote node whose device does not finish checksums: turn its tx offload off.",
        D::OuterFragment => "An underlay MTU smaller than the tunnel's: lower the tunnel MTU on the sender.",
        D::VxlanTruncated => "A broken or hostile sender in the underlay.",
        D::VxlanFlags => "A sender that speaks another protocol on the VXLAN port.",
        D::VxlanVni => "Another overlay in the same underlay. Compare vxlanVNI in FelixConfiguration on all nodes.",
        D::VxlanInnerMac => "A remote node with an old VTEP MAC for this one. It ends when that node has read our Node object.",
        D::VxlanOwnMac => "A machine with this node's VTEP MAC: a second node of this name, or a copied VXLANTunnelMACAddr.",
        D::VxlanInnerType => "A remote bridge that puts layer 2 into the tunnel. Only IPv4 belongs there.",
        D::EcnInvalid => "A congested underlay that marks packets whose sender did not ask for marks (RFC 6040 demands the drop).",
        D::MtuExceeded => "A pod with a larger MTU than the tunnel. Path MTU discovery corrects it; else lower the pods' MTU.",
        D::FragmentFailed => "A sender whose packet would need more fragments than allowed.",
        D::SegmentFailed => "A device that labels packets as super-frames wrongly. Turn its tx segmentation offload off.",
        D::NeighbourUnresolved => "The next hop does not answer ARP: the node is down, or a firewall is in the underlay.",
        D::NeighbourQueueFull => "Many flows to a node that does not answer. As for neighbour-unresolved.",
        D::PoolEmpty => "More packets in flight than slots: a port that does not drain. Look at tx drops per port.",
        D::PortGone => "An endpoint's interface vanished before control heard of it. Normal for a moment.",
        D::TxQueueFull => "A receiver slower than its senders. TCP adapts; if it persists, the port is the bottleneck.",
        D::TxError => "The kernel refused the frame: interface down, or a firewall on output. Look at the log for the port.",
        D::TxTooBig => "An interface whose MTU was lowered after it was opened.",
        D::RxError => "A device or peer with a malformed virtio-net header.",
        D::RxTruncated => "An interface whose MTU was raised beyond the slot size.",
        D::HostUnavailable => "The host's TUN device could not be opened or is closed; the log says why.",
        D::WorkerRestart => "A worker ended with packets in hand. At shutdown normal, else the log holds the reason.",
    }
}

fn punt_remedy(r: PuntReason) -> &'static str {
    match r {
        PuntReason::HostAddress => "Pods that talk to a service on this node, and answers to the node's own connections. Normal.",
        PuntReason::HostRoute => "Pods that talk to the world outside the cluster. Normal.",
        PuntReason::FloatingIp => "Pods, here and on other nodes, that talk to a pod by its floating IP. Normal.",
        PuntReason::HostFlow => "Answers to what came by a Service's address or a host port, which the host translates back. Normal.",
    }
}

#[test]
fn every_reason_is_in_the_document() {
    let text = document();
    for name in DropReason::ALL.iter().map(|r| r.name()).chain(PuntReason::ALL.iter().map(|r| r.name())) {
        assert_eq!(text.matches(&format!("| `{name}` |")).count(), 1, "{name}");
    }
}
