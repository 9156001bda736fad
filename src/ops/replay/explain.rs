//! What would happen to a packet, and why: one question, put to the real engine on a saved state, and the answer beside
//! what the cluster's state says.

use super::state::{BlockState, NodeState, PoolState, RouteState, State};
use super::{Engine, ReplayError, probe, remedy, words};
use crate::drop::PuntReason;
use crate::encap::rewrite::{IPIP_OVERHEAD, VXLAN_OVERHEAD};
use serde::Serialize;
use std::net::Ipv4Addr;

/// Transport of the packet that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

/// Where the packet enters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Where its source address belongs.
    Source,
    /// By a pod's interface, named as the pod (`namespace/name`) or as the interface.
    Pod(String),
    Host,
    Uplink,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub protocol: Protocol,
    /// Destination port of TCP and UDP.
    pub port: u16,
    /// Bytes from the IP header on.
    pub size: usize,
    pub from: From,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("--size {size}: {least} to 65535 bytes, IP and transport header included")]
    Size { size: usize, least: usize },
    #[error("--from {name}: no such pod on this node; it has {known}")]
    Pod { name: String, known: String },
    #[error("{src} is neither a pod's address on this node, nor this node's own, nor another node's: say --from POD, host or uplink")]
    Source { src: Ipv4Addr },
    #[error("--from uplink: nobody owns {src}, so it is not known which node would send it")]
    Sender { src: Ipv4Addr },
    #[error("the state has no {what} port")]
    NoPort { what: &'static str },
}

/// What the cluster's state and the FIB say of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    pub route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    pub encapsulation: String,
    pub next_hop: String,
    pub mtu: String,
}

impl Decision {
    /// About a packet of `size` bytes from the IP header on.
    pub fn new(state: &State, dst: Ipv4Addr, size: usize) -> Decision {
        let (route, c) = (longest(state, dst), Cluster { state });
        Decision {
            route: route.map_or_else(|| "no route".into(), route_words),
            pool: c.pool(dst).map(pool_words),
            block: c.block_words(dst),
            encapsulation: c.encapsulation(dst, route),
            next_hop: c.next_hop(dst, route),
            mtu: mtu(state, route, size),
        }
    }
}

/// The answer, section by section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub node: String,
    pub generation: u64,
    pub packet: String,
    /// Where it enters, and as whose.
    pub entry: String,
    #[serde(flatten)]
    pub decision: Decision,
    pub verdict: String,
    /// What to do about each drop.
    pub remedies: Vec<String>,
    pub out: Vec<Leaving>,
}

/// A frame that leaves, its headers from the outside in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaving {
    pub interface: String,
    pub bytes: usize,
    /// The kernel adds the outer headers; Ethernet addresses, identification and port are its choice.
    pub reconstructed: bool,
    pub headers: Vec<words::Header>,
}

/// Answers a question.
pub fn explain(state: &State, q: &Question) -> Result<Explanation, ExplainError> {
    let least = probe::least(q.protocol);
    if q.size < least || q.size > usize::from(u16::MAX) {
        return Err(ExplainError::Size { size: q.size, least });
    }
    let mut engine = Engine::new(state)?;
    let (interface, entry, frame) = enter(state, q)?;
    let verdict = engine.feed(&interface, frame, 0)?;
    let out = verdict.sent.iter().map(|s| Leaving {
        interface: engine.interface(s.port).to_owned(),
        bytes: s.frame.bytes.len(),
        reconstructed: s.reconstructed,
        headers: words::headers(&s.frame.bytes, engine.is_ethernet(engine.interface(s.port)), state.tunnel.port),
    });
    let out = out.collect();
    let mut decision = Decision::new(state, q.dst, q.size);
    if verdict.punted.iter().any(|(r, _)| *r == PuntReason::HostFlow) {
        decision.next_hop = format!("this host's network stack ({}): {}", PuntReason::HostFlow, PuntReason::HostFlow.doc());
    }
    Ok(Explanation {
        node: state.node.clone(),
        generation: state.generation,
        packet: probe::describe(q),
        entry,
        decision,
        verdict: verdict.to_string(),
        remedies: verdict.dropped.iter().map(|(r, _)| format!("{r}: {} {}", r.doc(), remedy::of(*r))).collect(),
        out,
    })
}

/// Interface, words and frame of the packet's way in.
fn enter(state: &State, q: &Question) -> Result<(String, String, crate::port::mem::Wired), ExplainError> {
    let own = [state.tunnel.node, state.tunnel.icmp_source];
    let from = match &q.from {
        From::Source if probe::pod_of(state, q.src).is_some() => return probe::from_pod(state, q),
        From::Source if own.contains(&q.src) => &From::Host,
        From::Source if (Cluster { state }).owner(q.src).is_some_and(|n| n != state.node) => &From::Uplink,
        From::Source => return Err(ExplainError::Source { src: q.src }),
        other => other,
    };
    match from {
        From::Host => probe::from_host(state, q),
        From::Uplink => {
            let owner = (Cluster { state }).owner(q.src).and_then(|n| (Cluster { state }).node(n));
            let sender = owner.and_then(|n| n.address).ok_or(ExplainError::Sender { src: q.src })?;
            let pool = (Cluster { state }).pool(q.dst);
            // CrossSubnet is the sender's own test: its prefix, our address.
            let exempt = pool.is_some_and(|p| p.mode == "CrossSubnet") && sender.contains(&state.tunnel.node);
            let encapsulation = pool.map_or("none", |p| if exempt { "none" } else { &p.encapsulation });
            probe::from_uplink(state, q, sender.addr(), encapsulation)
        }
        _ => probe::from_pod(state, q),
    }
}

/// The route that a lookup takes.
fn longest(state: &State, dst: Ipv4Addr) -> Option<&RouteState> {
    state.routes.iter().filter(|r| r.prefix.contains(&dst)).max_by_key(|r| r.prefix.prefix_len())
}

fn route_words(r: &RouteState) -> String {
    let mut text = format!("{} {}", r.prefix, r.kind);
    if let Some(node) = &r.node {
        text += &format!(" node {node}");
    }
    if let Some(via) = r.via {
        text += &format!(" via {via}");
    }
    text
}

fn pool_words(p: &PoolState) -> String {
    let disabled = if p.disabled { ", disabled: no new addresses" } else { "" };
    format!("{} {} {} {}{disabled}", p.name, p.cidr, p.encapsulation, p.mode)
}

/// What the cluster's state says of an address.
struct Cluster<'a> {
    state: &'a State,
}

impl<'a> Cluster<'a> {
    fn pool(&self, ip: Ipv4Addr) -> Option<&'a PoolState> {
        let pools = self.state.cluster.pools.iter().filter(|p| p.cidr.contains(&ip));
        pools.max_by_key(|p| p.cidr.prefix_len())
    }

    fn block(&self, ip: Ipv4Addr) -> Option<&'a BlockState> {
        self.state.cluster.blocks.iter().filter(|b| b.cidr.contains(&ip)).max_by_key(|b| b.cidr.prefix_len())
    }

    fn node(&self, name: &str) -> Option<&'a NodeState> {
        self.state.cluster.nodes.iter().find(|n| n.name == name)
    }

    /// The node that an address is on: by loan, by its block, or as a node's own.
    fn owner(&self, ip: Ipv4Addr) -> Option<&'a str> {
        let nodes = &self.state.cluster.nodes;
        let is = |n: &&NodeState| n.address.map(|a| a.addr()) == Some(ip) || n.vxlan_address == Some(ip) || n.ipip_address == Some(ip);
        if let Some(n) = nodes.iter().find(is) {
            return Some(&n.name);
        }
        let block = self.block(ip)?;
        block.borrowed.get(&ip).map(String::as_str).or_else(|| block.affinity.as_deref()?.strip_prefix("host:"))
    }

    fn block_words(&self, ip: Ipv4Addr) -> Option<String> {
        let block = self.block(ip)?;
        let owner = block.affinity.as_deref().unwrap_or("nobody");
        let loan = block.borrowed.get(&ip).map(|n| format!("; {ip} is borrowed by {n}")).unwrap_or_default();
        Some(format!("{} of {owner}{loan}", block.cidr))
    }

    /// Why the packet is encapsulated or not. A packet to a floating IP is as one to the pod's own address.
    fn encapsulation(&self, dst: Ipv4Addr, route: Option<&RouteState>) -> String {
        match self.state.cluster.floating.get(&dst) {
            Some(own) => format!("{} (as for {own}, which {dst} stands for)", self.encapsulation_of(*own, route)),
            None => self.encapsulation_of(dst, route),
        }
    }

    fn encapsulation_of(&self, dst: Ipv4Addr, route: Option<&RouteState>) -> String {
        let Some(pool) = self.pool(dst) else { return "none: no pool contains the destination".into() };
        match route.map(|r| r.kind.as_str()) {
            Some("local" | "floating" | "host" | "blackhole") => return "none: the destination is on this node".into(),
            Some("vxlan" | "ipip" | "direct") => {}
            _ => return "none: there is no way to the destination".into(),
        }
        let test = self.cross_subnet(dst);
        match (pool.encapsulation.as_str(), pool.mode.as_str()) {
            ("none", _) => format!("none: pool {} has neither vxlanMode nor ipipMode", pool.name),
            (which, "Always") => format!("{which}: pool {} says Always", pool.name),
            (which, _) => match (route.map(|r| r.kind.as_str()), test) {
                (Some("direct"), Some(test)) => format!("none: pool {} says CrossSubnet, and {test}", pool.name),
                (_, Some(test)) => format!("{which}: pool {} says CrossSubnet, and {test}", pool.name),
                (kind, None) => format!("{}: pool {} says CrossSubnet", kind.unwrap_or("none"), pool.name),
            },
        }
    }

    /// CrossSubnet's test in numbers: this node's prefix, the other node's address.
    fn cross_subnet(&self, dst: Ipv4Addr) -> Option<String> {
        let own = self.node(&self.state.node)?.address?;
        let owner = self.owner(dst)?;
        let other = self.node(owner)?.address?.addr();
        let verb = if own.contains(&other) { "contains" } else { "does not contain" };
        Some(format!("this node's {} {verb} {owner}'s {other}", own.trunc()))
    }
}

impl Cluster<'_> {
    /// The neighbour that the frame goes to; whose packet filter translates the destination.
    fn next_hop(&self, dst: Ipv4Addr, route: Option<&RouteState>) -> String {
        let hop = next_hop(self.state, route);
        let Some(own) = self.state.cluster.floating.get(&dst) else { return hop };
        let pod = probe::pod_of(self.state, *own).map_or_else(String::new, |(_, e)| format!(" of pod {}", e.name));
        match route.map(|r| r.kind.as_str()) {
            Some("floating") => format!("{hop}, which translates {dst} to {own}{pod}"),
            _ => format!("{hop}, whose network stack translates {dst} to {own}"),
        }
    }
}

/// The neighbour that the frame goes to, and whether its MAC is known.
fn next_hop(state: &State, route: Option<&RouteState>) -> String {
    let Some(a) = route.and_then(|r| state.adjacencies.get(&r.adjacency)) else { return "none".into() };
    let port = a.port.and_then(|id| state.ports.iter().find(|p| p.id == id));
    let by = port.map_or_else(String::new, |p| format!(" by {} ({})", p.interface, p.driver));
    match a.kind.as_str() {
        "glean" => format!("{}: its MAC is not known; the packet waits for ARP, at most a second", a.peer),
        "vxlan" | "ipip" => format!("node {}{by}", a.peer),
        "deliver" => format!("the pod{by}"),
        "direct" => format!("on the underlay{by}"),
        "punt" => format!("this host's network stack{by} ({})", a.reason.as_deref().unwrap_or("")),
        _ => "none".into(),
    }
}

/// The arithmetic behind the longest packet.
fn mtu(state: &State, route: Option<&RouteState>, size: usize) -> String {
    let Some(a) = route.and_then(|r| state.adjacencies.get(&r.adjacency)) else { return "none".into() };
    if matches!(a.kind.as_str(), "drop" | "glean") {
        return "not asked: the packet is not sent".into();
    }
    let overhead = match a.kind.as_str() {
        "vxlan" => Some(("VXLAN", VXLAN_OVERHEAD)),
        "ipip" => Some(("IP-in-IP", IPIP_OVERHEAD)),
        _ => None,
    };
    let sum = match (overhead, state.cluster.uplink_mtu) {
        (Some((name, n)), Some(uplink)) if uplink.saturating_sub(n) == a.mtu => format!(" = {uplink} (uplink) - {n} ({name})"),
        _ => String::new(),
    };
    let fits = if size <= usize::from(a.mtu) { "fits" } else { "does not fit" };
    format!("{size} bytes {fits} {}{sum}", a.mtu)
}
