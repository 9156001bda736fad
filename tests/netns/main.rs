//! Tests on real interfaces in namespaces that they make themselves. Root and iproute2 are needed.

mod daemon;
mod detection;
mod differential;
mod explain;
mod flips;
mod ipip_peer;
mod kernel_node;
mod kernel_segments;
mod kubernetes;
mod monitoring;
mod netlink;
mod ports_raw;
mod ports_sockets;
mod ports_tunpkt;
mod ports_xsk;
mod ports_xsk_queues;
mod proof;
mod random_packets;
mod router;
mod settings;
mod takeover;
mod trace;
mod vxlan_peer;
mod whole;
mod wire;
