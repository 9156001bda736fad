//! A node of stock Calico, without Calico: the kernel's VXLAN device with static neighbours and FDB entries,
//! and pods behind proxy ARP, set up as Felix and the CNI plugin leave them.

use super::LabError;
use super::ip::{bridge, ip, sysctl};
use super::spec::{Node, Plan};

/// Felix's name for the device.
pub const DEVICE: &str = "vxlan.calico";

/// Turns a joined node with pods into a kernel VXLAN peer of all other nodes.
pub fn set_up(plan: &Plan, node: &Node) -> Result<(), LabError> {
    let Some(tunnel) = node.tunnel else {
        return Err(LabError::Internal(format!("{}: a kernel peer without a tunnel address", node.name)));
    };
    let mut lines = vec![
        format!(
            "link add {DEVICE} address {} mtu {} type vxlan id 4096 dstport 4789 local {} dev eth0 nolearning",
            node.vtep_mac(),
            plan.spec.pod_mtu(),
            node.address.addr()
        ),
        format!("addr add {tunnel}/32 dev {DEVICE}"),
        format!("link set {DEVICE} up"),
        format!("route add blackhole {}", node.block),
    ];
    if plan.spec.subnets == 1 {
        // The kernel's proxy ARP answers for 169.254.1.1 only if it has a route there, on another interface.
        lines.push("route add default dev eth0".to_owned());
    }
    let mut fdb = Vec::new();
    for peer in plan.nodes.iter().filter(|p| p.name != node.name) {
        let Some(via) = peer.tunnel else { continue };
        let (address, mac) = (peer.address.addr(), peer.vtep_mac());
        lines.push(format!("neigh replace {via} lladdr {mac} dev {DEVICE} nud permanent"));
        fdb.push(format!("fdb append {mac} dev {DEVICE} dst {address} self permanent"));
        lines.push(if plan.encapsulated(node, peer) {
            format!("route add {} via {via} dev {DEVICE} onlink", peer.block)
        } else {
            format!("route add {} via {address} dev eth0", peer.block)
        });
    }
    lines.extend(node.pods.iter().map(|p| format!("route add {} dev {} scope link", p.address, p.interface)));
    ip(Some(&node.netns), &lines)?;
    bridge(&node.netns, &fdb)?;
    for pod in &node.pods {
        let conf = format!("net/ipv4/conf/{}", pod.interface);
        let delay = format!("net/ipv4/neigh/{}/proxy_delay", pod.interface);
        sysctl(&node.netns, &[(&format!("{conf}/proxy_arp"), "1"), (&delay, "0")])?;
    }
    Ok(())
}
