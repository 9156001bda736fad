//! A node of this crate on real ports: a pod on a veth pair, an underlay, and a worker on its own thread that
//! works by a snapshot written here.

use crate::kernel_node::{LOCAL_BLOCK, NODE, NODE_LINK, PEER, PEER_LINK, POD, POD_MAC, REMOTE_BLOCK, node_vtep, peer_vtep};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tortie::drop::DropReason;
use tortie::encap::rewrite::{self, MacPair};
use tortie::fib::{AdjId, AdjKind, Adjacency, PeerId, Rewrite, Table4};
use tortie::frame::{FramePool, PortId};
use tortie::port::{Caps, Port, TxCsum, packet};
use tortie::snapshot::{self, Endpoint, PortRole, Publisher, Snapshot, Tunnel};
use tortie::testing::netns::{Namespace, veth};
use tortie::wire::{Mac, vxlan::Vni};
use tortie::worker::{Command, Counters, Mailbox, Waker, Worker};

/// One of two nodes, and what it knows of the other.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub node: Ipv4Addr,
    pub link_mac: Mac,
    pub vtep: Mac,
    /// First address of its /24 block, and its tunnel address.
    pub block: Ipv4Addr,
    pub pod: Ipv4Addr,
    pub pod_mac: Mac,
}

/// The node that the kernel or the test plays in most tests.
pub fn first_site() -> Site {
    Site { node: NODE, link_mac: NODE_LINK, vtep: node_vtep(), block: LOCAL_BLOCK, pod: POD, pod_mac: POD_MAC }
}

/// The node that this crate plays.
pub fn second_site() -> Site {
    let pod_mac = Mac([0x92, 0x7e, 0xc4, 0x15, 0xb9, 0x99]);
    Site { node: PEER, link_mac: PEER_LINK, vtep: peer_vtep(), block: REMOTE_BLOCK, pod: ROUTER_POD, pod_mac }
}

/// Address of the node that this crate plays, and of its pod.
pub const ROUTER: Ipv4Addr = PEER;
pub const ROUTER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 9);

/// The encapsulation that the underlay port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Ipip,
    Vxlan,
}

/// Makes `eth0` of the pod and `cali0` of its node, with the pod's routes as Calico's CNI plugin makes them.
fn add_pod(node: &Namespace, pod: &Namespace, site: Site, mtu: u16) {
    let Site { pod: address, pod_mac: mac, .. } = site;
    veth(node, "cali0", pod, "eth0");
    node.sh(&format!("ip link set cali0 address {} mtu {mtu}", Mac::GATEWAY));
    pod.sh(&format!(
        "set -e
         ip link set eth0 address {mac} mtu {mtu}
         ip addr add {address}/32 dev eth0
         ip route add 169.254.1.1 dev eth0 scope link
         ip route add default via 169.254.1.1 dev eth0"
    ));
}

/// Joins the two sites' nodes by `eth0` on each; the addresses are left to the caller.
pub fn underlay(first: &Namespace, second: &Namespace) {
    veth(first, "eth0", second, "eth0");
    for (ns, site) in [(first, first_site()), (second, second_site())] {
        ns.sh(&format!("ip link set eth0 address {}", site.link_mac));
    }
}

/// Gives a node its underlay address.
pub fn add_address(node: &Namespace, site: Site) {
    node.sh(&format!("ip addr add {}/24 dev eth0", site.node));
}

/// The running node. Its worker stops, and every slot must have come back, when the value goes.
pub struct Router {
    pub counters: Arc<Counters>,
    mailbox: Arc<Mailbox>,
    worker: Option<JoinHandle<()>>,
    _publisher: Publisher,
}

impl Router {
    /// `node` has `cali0` towards the pod; `uplink` is its port towards the other node. `sites`: own and other.
    pub fn start(node: &Namespace, sites: (Site, Site), mode: Mode, uplink: Box<dyn Port>, mtu: u16) -> Router {
        let mut pods = node.run(|| packet::open_workload("cali0", 1)).unwrap();
        let pod = Box::new(pods.remove(0));
        let (mut publisher, mut readers) = snapshot::channel(1);
        publisher.publish(snapshot_of(sites, mode, uplink.caps(), pod.caps(), mtu));
        let mailbox = Arc::new(Mailbox::new(Arc::new(Waker::new().unwrap())).unwrap());
        let counters = Arc::new(Counters::default());
        let pool = FramePool::new(1024, 256).unwrap();
        let worker = Worker::new(0, pool, readers.remove(0), mailbox.clone(), counters.clone()).unwrap();
        for (id, port) in [(PortId(0), uplink), (PortId(1), pod as Box<dyn Port>)] {
            assert!(mailbox.command(Command::AddPort { id, port }).is_ok());
        }
        Router { counters, mailbox, worker: Some(worker.start().unwrap()), _publisher: publisher }
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped[reason.index()].get()
    }

    /// Waits until that many packets were dropped for this reason; panics if they are not.
    pub fn expect_drops(&self, reason: DropReason, n: u64) {
        let until = Instant::now() + Duration::from_secs(3);
        while self.dropped(reason) != n {
            assert!(Instant::now() < until, "{} dropped as {reason}, expected {n}: {}", self.dropped(reason), self.drops());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All drops by name, for messages.
    pub fn drops(&self) -> String {
        let some = DropReason::ALL.iter().filter(|r| self.dropped(**r) > 0);
        some.map(|r| format!("{r} {}", self.dropped(*r))).collect::<Vec<_>>().join(", ")
    }

    /// Stops the worker; the accounts must balance.
    pub fn stop(mut self) {
        self.end();
        let (inn, out) = self.counters.balance();
        assert_eq!(inn, out, "frames without an end");
        let panicked = std::iter::from_fn(|| self.mailbox.events.pop()).find(|e| matches!(e, tortie::worker::Event::Panicked { .. }));
        assert_eq!(panicked, None);
    }

    fn end(&mut self) {
        if let Some(worker) = self.worker.take() {
            let _ = self.mailbox.command(Command::Stop);
            let _ = worker.join();
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end();
    }
}

fn adjacency(kind: AdjKind, rewrite: Rewrite, port: (PortId, &Caps), peer: Ipv4Addr, mtu: u16) -> Adjacency {
    let (port, caps) = port;
    Adjacency {
        rewrite,
        kind,
        port,
        mtu,
        gso: caps.gso,
        partial_csum: caps.tx_csum == TxCsum::Port,
        joins: caps.tx_csum.joins(kind),
        peer: peer.into(),
        node: PeerId::NONE,
    }
}

fn snapshot_of((own, other): (Site, Site), mode: Mode, uplink: &Caps, pod: &Caps, mtu: u16) -> Snapshot {
    let mut s = Snapshot::empty();
    let (kind, tunnel) = match mode {
        Mode::Ipip => (AdjKind::Ipip, rewrite::ipip_ip(own.node, other.node)),
        Mode::Vxlan => (AdjKind::Vxlan, rewrite::vxlan_udp(Vni::CALICO, MacPair { dst: other.vtep, src: own.vtep })),
    };
    let delivery = rewrite::ethernet(MacPair { dst: own.pod_mac, src: Mac::GATEWAY });
    s.adjacencies.set(AdjId(1), adjacency(kind, tunnel, (PortId(0), uplink), other.node, mtu));
    s.adjacencies.set(AdjId(2), adjacency(AdjKind::Deliver, delivery, (PortId(1), pod), own.pod, mtu));
    let mut table = Table4::new();
    table.insert(format!("{}/24", other.block).parse().unwrap(), AdjId(1));
    table.insert(format!("{}/32", own.pod).parse().unwrap(), AdjId(2));
    s.fib = table.commit();
    let endpoint = Endpoint {
        name: "ns/pod".into(),
        sources: vec![format!("{}/32", own.pod).parse().unwrap()],
        addresses: vec![own.pod],
        mac: Some(own.pod_mac),
    };
    s.ports = vec![PortRole::Uplink, PortRole::Workload(Arc::new(endpoint))];
    s.tunnel = Tunnel {
        node: own.node,
        icmp_source: own.block,
        vtep_mac: own.vtep,
        senders: Arc::new([(u32::from(other.node), PeerId::NONE)].into_iter().collect()),
        nodes: Arc::new([own.node, other.node].map(u32::from).into_iter().collect()),
        ..Tunnel::default()
    };
    s
}

/// A node and its pod, whose interfaces have that MTU.
pub fn node_and_pod(site: Site, mtu: u16) -> (Namespace, Namespace) {
    let (node, pod) = (Namespace::new("node"), Namespace::new("pod"));
    add_pod(&node, &pod, site, mtu);
    (node, pod)
}

/// Pings from a namespace; panics with what `ping` said if an answer is missing.
pub fn ping(from: &Namespace, options: &str, to: Ipv4Addr) {
    from.sh(&format!("out=$(ping -n -i 0.05 -W 3 {options} {to}) || {{ echo \"$out\" >&2; exit 1; }}"));
}
