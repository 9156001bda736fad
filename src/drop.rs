//! Why a packet ended: every reason declared once. From this one list come the counter arrays, the JSON of
//! `tortie drops` and `tortie counters`, and docs/counters.md.

/// Declares a field-less enum of reasons with a kebab-case name and a one-line description per variant.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $kebab:literal, $doc:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $(#[doc = $doc] $variant,)+ }

        impl $name {
            /// Every reason, in declaration order; the position is the counter's index.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];
            /// How many there are: the length of a counter array.
            pub const COUNT: usize = Self::ALL.len();

            /// The kebab-case name shown to users.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $kebab,)+ }
            }

            /// One line for the documentation.
            pub const fn doc(self) -> &'static str {
                match self { $($name::$variant => $doc,)+ }
            }

            /// The position in a counter array.
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

reasons! {
    /// Why a frame was dropped.
    DropReason {
        NoRoute = "no-route", "No FIB entry covers the destination.";
        Blackhole = "blackhole", "The destination lies in a block of this node but belongs to no endpoint.";
        RouteDrop = "route-drop", "The FIB entry for the destination says drop: its node has no usable address or tunnel yet.";
        EthernetTruncated = "ethernet-truncated", "Shorter than an Ethernet header.";
        EthertypeUnsupported = "ethertype-unsupported", "Neither IPv4 nor ARP.";
        Ipv6Unsupported = "ipv6-unsupported", "An IPv6 packet: IPv6 is not forwarded yet.";
        NotForUs = "not-for-us", "The Ethernet destination is another host's unicast address.";
        ArpMalformed = "arp-malformed", "An ARP packet that is truncated or not Ethernet/IPv4.";
        ArpIgnored = "arp-ignored", "ARP that needs no answer: a reply, a probe or an announcement.";
        ArpSpoofed = "arp-spoofed", "An ARP request whose sender address does not belong to the endpoint.";
        IpTruncated = "ip-truncated", "Shorter than its IP header, or than the total length in it.";
        IpMalformed = "ip-malformed", "IP version or header length is wrong.";
        IpChecksum = "ip-checksum", "The IPv4 header checksum is wrong.";
        IpMartian = "ip-martian", "A source or destination address that must not be forwarded (loopback, multicast, broadcast, zero).";
        TtlExpired = "ttl-expired", "The TTL reached zero on this node; a time-exceeded error was sent if the rules allow one.";
        SourceSpoofed = "source-spoofed", "A workload sent from an address that is not its own.";
        WorkloadTunnel = "workload-tunnel", "A workload sent VXLAN or IP-in-IP towards a node.";
        UnknownPort = "unknown-port", "The frame entered on a port that the snapshot does not know.";
        TunnelSenderUnknown = "tunnel-sender-unknown", "A tunnel packet from an address that is not a node's.";
        OwnSource = "own-source", "A tunnel packet whose inner source is this node's own address: another machine has it too.";
        OuterNotOurs = "outer-not-ours", "A frame on the uplink that is not a tunnel packet for this node.";
        OuterUdpLength = "outer-udp-length", "The outer UDP length disagrees with the packet.";
        OuterUdpChecksum = "outer-udp-checksum", "The outer UDP checksum is present and wrong.";
        OuterFragment = "outer-fragment", "A fragment of a tunnel packet: reassembly is left to the host stack.";
        VxlanTruncated = "vxlan-truncated", "Shorter than a VXLAN header and an inner Ethernet header.";
        VxlanFlags = "vxlan-flags", "The VXLAN I flag is not set.";
        VxlanVni = "vxlan-vni", "A VNI that is not ours.";
        VxlanInnerMac = "vxlan-inner-mac", "The inner destination MAC is not this node's VTEP MAC.";
        VxlanOwnMac = "vxlan-own-mac", "The inner source MAC is this node's own VTEP MAC: another machine has it too.";
        VxlanInnerType = "vxlan-inner-type", "The inner frame is not IPv4.";
        EcnInvalid = "ecn-invalid", "Outer congestion mark over an inner packet that is not ECN-capable (RFC 6040, 4.2).";
        MtuExceeded = "mtu-exceeded", "Longer than the next hop's MTU with DF set; fragmentation-needed was sent if the rules allow one.";
        FragmentFailed = "fragment-failed", "Could not be fragmented: a length that IPv4 cannot express.";
        SegmentFailed = "segment-failed", "A super-frame whose headers do not allow segmentation.";
        NeighbourUnresolved = "neighbour-unresolved", "The underlay neighbour did not answer in time.";
        NeighbourQueueFull = "neighbour-queue-full", "Too many packets already wait for underlay neighbours.";
        PoolEmpty = "pool-empty", "No free slot for a packet that had to be made (fragment, segment, error).";
        PortGone = "port-gone", "The output port is closed or was never opened on this worker.";
        TxQueueFull = "tx-queue-full", "The output port takes no more and its queue is full.";
        TxError = "tx-error", "The kernel refused the frame on the output port.";
        TxTooBig = "tx-too-big", "Longer than the output port can carry.";
        RxError = "rx-error", "Received with a malformed or unsupported offload header.";
        RxTruncated = "rx-truncated", "Longer than a receive slot; the rest was lost.";
        HostUnavailable = "host-unavailable", "For the host stack, but the host device is not open.";
        WorkerRestart = "worker-restart", "In flight when the worker was restarted or stopped.";
    }
}

reasons! {
    /// Why a packet was handed to the host stack.
    PuntReason {
        HostAddress = "host-address", "Addressed to one of this node's own addresses.";
        HostRoute = "host-route", "No pool contains the destination: the host stack routes it.";
        FloatingIp = "floating-ip", "Addressed to a floating IP of a pod on this node, which the host translates.";
        HostFlow = "host-flow", "It answers a flow that came from the host stack, which may have translated its addresses.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_kebab() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.extend(PuntReason::ALL.iter().map(|r| r.name()));
        assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn index_is_the_position_in_all() {
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(r.index(), i);
        }
    }
}
