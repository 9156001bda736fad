//! Namespaces and wires: the underlay with its bridges, nodes and pods.

use super::LabError;
use super::ip::{has_link, ip, sysctl};
use super::spec::{Kind, Node, Plan, Pod, Workload};
use std::time::{Duration, Instant};

/// Calico's gateway of every pod.
const GATEWAY: &str = "169.254.1.1";

/// Makes every namespace and what joins them, up to but not including TAPs.
pub fn build(plan: &Plan) -> Result<(), LabError> {
    let namespaces = plan.namespaces();
    ip(None, &namespaces.iter().map(|n| format!("netns add {n}")).collect::<Vec<_>>())?;
    for n in &namespaces {
        sysctl(n, &[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")])?;
        ip(Some(n), &["link set lo up".to_owned()])?;
    }
    underlay(plan)?;
    for node in &plan.nodes {
        join(plan, node)?;
        for pod in &node.pods {
            if makes_veth(plan, node) {
                veth(plan, node, pod)?;
            }
        }
    }
    Ok(())
}

/// Whether the lab makes the pods' interfaces; the engine makes TAPs itself.
pub fn makes_veth(plan: &Plan, node: &Node) -> bool {
    node.kind == Kind::Kernel || plan.spec.workload != Workload::Tap
}

/// Forwards, and does not second-guess where packets come from: those between pods and hosts take different
/// ways there and back.
fn make_router(netns: &str) -> Result<(), LabError> {
    sysctl(
        netns,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
        ],
    )
}

/// As many queues as workers: with AF_XDP each needs one. On both ends, as native XDP wants no more transmit
/// queues on the other side than receive queues on its own.
fn queues(plan: &Plan) -> String {
    format!("numtxqueues {0} numrxqueues {0}", plan.spec.workers)
}

/// A bridge per subnet; with several, the namespace routes between them, and knows the pods' blocks as a
/// network that was told of them by BGP would.
fn underlay(plan: &Plan) -> Result<(), LabError> {
    make_router(&plan.underlay)?;
    let mut lines = Vec::new();
    for s in 1..=plan.spec.subnets {
        lines.push(format!("link add br{s} type bridge"));
        if plan.spec.subnets > 1 {
            lines.push(format!("addr add {}/24 dev br{s}", plan.router(s)));
        }
        lines.push(format!("link set br{s} up"));
    }
    for n in &plan.nodes {
        let queues = queues(plan);
        lines.push(format!("link add {} {queues} type veth peer name eth0 {queues} netns {}", n.name, n.netns));
        lines.push(format!("link set {} master br{} up", n.name, n.subnet));
    }
    if plan.spec.subnets > 1 && plan.spec.encap == super::spec::Encap::None {
        lines.extend(plan.nodes.iter().map(|n| format!("route add {} via {} dev br{}", n.block, n.address.addr(), n.subnet)));
    }
    ip(Some(&plan.underlay), &lines)
}

/// The node's side of its wire.
fn join(plan: &Plan, node: &Node) -> Result<(), LabError> {
    make_router(&node.netns)?;
    let mut lines = vec![format!("addr add {} dev eth0", node.address), "link set eth0 up".to_owned()];
    if plan.spec.subnets > 1 {
        lines.push(format!("route add default via {} dev eth0", plan.router(node.subnet)));
    }
    ip(Some(&node.netns), &lines)
}

/// A pod's veth the way Calico's CNI plugin makes it.
fn veth(plan: &Plan, node: &Node, pod: &Pod) -> Result<(), LabError> {
    let (host, mtu, queues) = (&pod.interface, plan.spec.pod_mtu(), queues(plan));
    let lines = [
        format!(
            "link add {host} address ee:ee:ee:ee:ee:ee mtu {mtu} {queues} type veth peer name eth0 mtu {mtu} {queues} netns {}",
            pod.netns
        ),
        format!("link set {host} up"),
    ];
    ip(Some(&node.netns), &lines)?;
    configure(plan, pod)
}

/// Addresses and routes inside a pod.
fn configure(plan: &Plan, pod: &Pod) -> Result<(), LabError> {
    let lines = [
        format!("link set eth0 mtu {} up", plan.spec.pod_mtu()),
        format!("addr add {}/32 dev eth0", pod.address),
        format!("route add {GATEWAY} dev eth0 scope link"),
        format!("route add default via {GATEWAY} dev eth0"),
    ];
    ip(Some(&pod.netns), &lines)
}

/// Waits for the TAPs that the engine makes, and configures them.
pub fn configure_taps(plan: &Plan, wait: Duration) -> Result<(), LabError> {
    let deadline = Instant::now() + wait;
    for (_, pod) in plan.pods().filter(|(n, _)| !makes_veth(plan, n)) {
        while !has_link(&pod.netns, "eth0") {
            if Instant::now() > deadline {
                return Err(LabError::NoTap { pod: pod.name.clone(), seconds: wait.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        configure(plan, pod)?;
    }
    Ok(())
}
