//! Tests on real interfaces in namespaces that they make themselves. Root and iproute2 are needed.

mod ports_raw;
mod ports_sockets;
mod netlink;
mod ports_tunpkt;
mod ports_xsk;
mod wire;
