//! What to do about a drop, for each reason.

use crate::drop::DropReason;

/// One line of advice.
pub fn of(reason: DropReason) -> &'static str {
    use DropReason as D;
    match reason {
        D::NoRoute => "no pool, block or host route covers the destination: check the address, and `tortie fib`",
        D::Blackhole => {
            "the address lies in this node's block but no pod here has it: the pod is gone, or its WorkloadEndpoint is not known yet"
        }
        D::RouteDrop => {
            "the owner of the address has no usable node address or tunnel address yet, or nobody owns it: check `tortie status` and the node's projectcalico.org/ annotations"
        }
        D::EthernetTruncated | D::IpTruncated | D::IpMalformed | D::IpChecksum | D::ArpMalformed => {
            "the sender makes broken packets: look at its checksum offload, and at what stands between"
        }
        D::EthertypeUnsupported => "only IPv4 and ARP are forwarded",
        D::Ipv6Unsupported => "IPv6 is not forwarded yet: use IPv4 between pods",
        D::NotForUs => {
            "the pod sent to another MAC than its gateway's: check the pod's route (default via 169.254.1.1) and its neighbour entry"
        }
        D::ArpIgnored => "nothing to do: replies, probes and announcements need no answer",
        D::ArpSpoofed | D::SourceSpoofed => {
            "the pod uses an address that is not its own: correct it, or allow it with the annotation cni.projectcalico.org/allowedSourcePrefixes and FelixConfiguration workloadSourceSpoofing: Any"
        }
        D::IpMartian => "an address that no router forwards (loopback, multicast, broadcast, zero)",
        D::TtlExpired => "the packet's TTL ran out here: a traceroute, or a loop between nodes (compare `tortie fib` on both)",
        D::WorkloadTunnel => {
            "a pod may not send tunnel packets to nodes: FelixConfiguration allowVXLANPacketsFromWorkloads or allowIPIPPacketsFromWorkloads permits it"
        }
        D::UnknownPort => "the port is being closed: try again",
        D::TunnelSenderUnknown => {
            "the sender is not a node of the cluster: check its projectcalico.org/IPv4Address (an address behind NAT?), or add it to FelixConfiguration externalNodesList"
        }
        D::OuterNotOurs => "not a tunnel packet for this node's address: the other node may have an old address of this one",
        D::OuterUdpLength | D::OuterUdpChecksum => {
            "damaged between the nodes: checksum offload of the sender's network card is the usual cause (ethtool -K DEV tx-udp_tnl-csum-segmentation off there)"
        }
        D::OuterFragment => "the underlay fragments tunnel packets: lower the pods' MTU or raise the underlay's",
        D::VxlanTruncated | D::VxlanFlags => "not a VXLAN packet as RFC 7348 has it: another program uses the port",
        D::VxlanVni => "another VXLAN network on the same port: FelixConfiguration vxlanVNI must be the same on all nodes",
        D::VxlanInnerMac => {
            "addressed to another VTEP: the sender has an old projectcalico.org/VXLANTunnelMACAddr or name for this node, or two nodes share an address"
        }
        D::VxlanOwnMac | D::OwnSource => "another machine has this node's VTEP MAC or address: `tortie status` names it under Conflicts",
        D::VxlanInnerType => "the tunnel carries something else than IPv4",
        D::EcnInvalid => {
            "a router marked congestion on a packet that does not support it (RFC 6040, 4.2): look at the underlay's ECN settings"
        }
        D::MtuExceeded => {
            "larger than the way allows and marked do-not-fragment: lower the pod's MTU, or raise the underlay's on every hop"
        }
        D::FragmentFailed | D::SegmentFailed => "the packet's headers do not allow to split it: the sender made a malformed packet",
        D::NeighbourUnresolved | D::NeighbourQueueFull => {
            "the next hop does not answer ARP: is the node (or pod) up, and on this link? see `tortie neigh`"
        }
        D::PoolEmpty => "no memory for another packet: more traffic in flight than the node's slots hold",
        D::PortGone | D::HostUnavailable => "the port is closed: `tortie ports` says why",
        D::TxQueueFull => "the output port takes less than is sent to it: the receiver is overloaded",
        D::TxError => "the kernel refused the packet: look at the interface (`ip -s link`) and the host's packet filter",
        D::TxTooBig => "larger than the interface: its MTU was lowered; `tortie ports` shows it",
        D::RxError | D::RxTruncated => "the kernel handed over a frame with offload metadata that make no sense: report it with a capture",
        D::WorkerRestart => "nothing to do: the worker was restarted",
    }
}
