//! Several nodes in one process: beds joined by an underlay in memory that can lose and reorder, time by hand.

use super::bed::Bed;
use super::check;
use super::host::Host;
use super::net::{Node, POD_MTU, Setup, Via};
use crate::frame::PortId;
use crate::port::{Medium, mem::Wired};
use std::net::IpAddr;

/// How the underlay treats frames, per mille, decided by a seeded generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub lost: u64,
    /// Delayed by one step, so that later frames overtake.
    pub delayed: u64,
}

/// One node: its bed and its pods.
pub struct Member {
    pub setup: Setup,
    pub bed: Bed,
    pub pods: Vec<Host>,
    uplink: PortId,
}

/// Nodes 1 to n, each with `pods` pods, all routes by VXLAN at first.
pub struct Cluster {
    pub members: Vec<Member>,
    pub weather: Weather,
    medium: Medium,
    delayed: Vec<(usize, Wired)>,
    now_ms: u64,
    random: u64,
    /// Frames that crossed the underlay, by the protocol of the outer packet (0 on `VxlanUdp`).
    pub crossed: Vec<u8>,
}

impl Cluster {
    pub fn new(nodes: u8, pods: u8, medium: Medium, seed: u64) -> Cluster {
        let members = (1..=nodes).map(|n| Member::new(Node(n), nodes, pods, medium)).collect();
        let random = seed | 1;
        Cluster { members, weather: Weather::default(), medium, delayed: Vec::new(), now_ms: 0, random, crossed: Vec::new() }
    }

    /// Pod `pod` (0-based) of node `node` (0-based).
    pub fn pod(&mut self, node: usize, pod: usize) -> &mut Host {
        &mut self.members[node].pods[pod]
    }

    /// Changes how node `node` reaches the others; takes effect at its next turn.
    pub fn reroute(&mut self, node: usize, via: fn(Node) -> Via) {
        let nodes = self.members.len() as u8;
        let m = &mut self.members[node];
        m.setup.route_to_all(nodes, via);
        m.bed.publish(&m.setup);
    }

    /// One millisecond: pods, nodes and the underlay each get a go.
    pub fn step(&mut self) {
        self.now_ms += 1;
        for m in &mut self.members {
            m.pods.iter_mut().for_each(|p| p.poll(self.now_ms));
            m.bed.advance(1);
            m.bed.run();
        }
        let late = std::mem::take(&mut self.delayed);
        self.carry();
        late.into_iter().for_each(|(to, w)| self.deliver(to, w));
    }

    /// Steps until `done`, for at most `ms` milliseconds; whether it was reached.
    pub fn until(&mut self, ms: u64, mut done: impl FnMut(&mut Cluster) -> bool) -> bool {
        (0..ms).any(|_| {
            self.step();
            done(self)
        })
    }

    /// Moves what the nodes sent to where it is addressed.
    fn carry(&mut self) {
        for from in 0..self.members.len() {
            let uplink = self.members[from].uplink;
            for w in self.members[from].bed.drain(uplink) {
                check::output(&self.members[from].setup, uplink, &w).expect("well-formed on the underlay");
                let Some(to) = self.target(&w) else { continue };
                self.crossed.push(if self.medium == Medium::VxlanUdp { 0 } else { w.bytes[23] });
                if self.chance(self.weather.lost) {
                    continue;
                }
                let arriving = Wired { peer: self.members[from].setup.node.address().into(), ..w };
                if self.chance(self.weather.delayed) {
                    self.delayed.push((to, arriving));
                } else {
                    self.deliver(to, arriving);
                }
            }
        }
    }

    /// Which member a frame goes to: by MAC, or by the peer's address.
    fn target(&self, w: &Wired) -> Option<usize> {
        self.members.iter().position(|m| match (self.medium, w.peer) {
            (Medium::VxlanUdp, IpAddr::V4(a)) => a == m.setup.node.address(),
            _ => w.bytes.get(..6) == Some(&m.setup.node.link_mac().0[..]),
        })
    }

    fn deliver(&mut self, to: usize, w: Wired) {
        let uplink = self.members[to].uplink;
        // A full wire loses the frame, as a wire does.
        self.members[to].bed.wire(uplink).send(w);
    }

    /// Happens `per_mille` times in a thousand (xorshift64).
    fn chance(&mut self, per_mille: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < per_mille
    }
}

impl Member {
    fn new(node: Node, nodes: u8, pods: u8, medium: Medium) -> Member {
        let mut setup = Setup::new(node);
        let uplink = setup.uplink(medium);
        let ports: Vec<_> = (1..=pods).map(|i| setup.pod(i)).collect();
        setup.route(node.block(), Via::Blackhole);
        setup.route_to_all(nodes, Via::Vxlan);
        let bed = Bed::new(&setup);
        let host = |(i, port): (usize, &PortId)| {
            let i = i as u8 + 1;
            Host::new(bed.wire(*port).clone(), node.pod_mac(i), node.pod(i), usize::from(POD_MTU))
        };
        let pods = ports.iter().enumerate().map(host).collect();
        Member { setup, bed, pods, uplink }
    }
}
