//! What detection asks of the kernel.

use super::detect::{Host, Method};
use crate::control::netlink::interfaces;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::UdpSocket;

/// Any port does: nothing is sent.
const PORT: u16 = 80;

/// Interfaces and, where the method asks for it, the source address towards its destination.
pub async fn read(method: &Method) -> io::Result<Host> {
    let reached = match method {
        Method::CanReach(destination) => Some(reach(destination).await.map_err(|e| e.to_string())),
        _ => None,
    };
    Ok(Host { interfaces: interfaces::read()?, internal_ips: Vec::new(), reached })
}

/// The source address that the kernel takes towards an address or a name.
async fn reach(destination: &str) -> io::Result<Ipv4Addr> {
    let all = tokio::net::lookup_host((destination, PORT)).await?;
    let to = all.into_iter().find(SocketAddr::is_ipv4).ok_or_else(|| io::Error::other("it has no IPv4 address"))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(to).await?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(source) if !source.is_unspecified() => Ok(source),
        _ => Err(io::Error::other("the kernel has no source address for it")),
    }
}
