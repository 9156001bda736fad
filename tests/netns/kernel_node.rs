//! A node of the kernel's own making, wired as a stock Calico node is, and the same node as a forwarder over
//! memory ports. Both take a frame at the pod's side or at the underlay's and return what comes out where.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use tortie::control::model::default_vtep_mac;
use tortie::drop::DropReason;
use tortie::encap::rewrite::{self, MacPair};
use tortie::fib::{AdjId, AdjKind, Adjacency, PeerId, Rewrite, Table4};
use tortie::forward::{Counters, Forwarder};
use tortie::frame::{Batch, FramePool, GsoSet, PortId};
use tortie::port::mem::{self, MemPeer, MemPort};
use tortie::port::{Medium, Port, sys};
use tortie::snapshot::{Endpoint, PortRole, Snapshot, Tunnel};
use tortie::testing::netns::{Namespace, veth};
use tortie::wire::{Mac, be16, ether, ipv4, vxlan, vxlan::Vni};

pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
/// First addresses of the local and the remote /24 block; also the nodes' tunnel addresses.
pub const LOCAL_BLOCK: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
pub const REMOTE_BLOCK: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 0);
pub const POD_MAC: Mac = Mac([0x92, 0x7e, 0xc4, 0x15, 0xb9, 0x82]);
pub const NODE_LINK: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub const PEER_LINK: Mac = Mac([2, 0, 0, 0, 0, 2]);

pub fn node_vtep() -> Mac {
    default_vtep_mac("node-a")
}
pub fn peer_vtep() -> Mac {
    default_vtep_mac("node-b")
}

/// Where a frame goes in or comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Pod,
    Underlay,
}

/// The frames that came out, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub pod: Vec<Vec<u8>>,
    pub underlay: Vec<Vec<u8>>,
}

/// A packet socket that sends raw frames on an interface and receives what others send on it.
pub struct Tap(OwnedFd);

impl Tap {
    pub fn new(ns: &Namespace, dev: &str) -> Tap {
        const PACKET_IGNORE_OUTGOING: i32 = 23;
        let open = || -> std::io::Result<OwnedFd> {
            let index = sys::Link::new(dev)?.index()?;
            let s = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
            sys::setsockopt(&s, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)?;
            sys::setsockopt(&s, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(8i32 << 20))?;
            // SAFETY: integers only, for which zero is valid.
            let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            at.sll_family = libc::AF_PACKET as u16;
            at.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            at.sll_ifindex = index as i32;
            // SAFETY: `at` is a sockaddr_ll of the given length.
            sys::check(unsafe { libc::bind(s.as_raw_fd(), (&raw const at).cast(), size_of_val(&at) as u32) })?;
            Ok(s)
        };
        Tap(ns.run(open).unwrap_or_else(|e| panic!("packet socket on {dev}: {e}")))
    }

    /// From here on every frame that is sent or received starts with a `virtio_net_hdr` (packet(7), PACKET_VNET_HDR).
    pub fn with_vnet_headers(self) -> Tap {
        const PACKET_VNET_HDR: i32 = 15;
        sys::setsockopt(&self.0, libc::SOL_PACKET, PACKET_VNET_HDR, &1i32).expect("virtio-net headers");
        self
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: reads the slice only.
        let n = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(n, frame.len() as isize, "send: {}", std::io::Error::last_os_error());
    }

    /// The next frame, waiting up to `ms` milliseconds.
    pub fn recv(&self, ms: i32) -> Option<Vec<u8>> {
        let mut p = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut buf = vec![0u8; 1 << 16];
        // SAFETY: one live pollfd.
        if unsafe { libc::poll(&raw mut p, 1, ms) } <= 0 {
            return None;
        }
        // SAFETY: writes within `buf`.
        let n = unsafe { libc::recv(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) };
        buf.truncate(usize::try_from(n).ok()?);
        Some(buf)
    }
}

/// The kernel as the node.
pub struct KernelNode {
    pod: Tap,
    underlay: Tap,
    _namespaces: [Namespace; 3],
    markers: u64,
}

/// Marks the payload of packets that show that all before them have been dealt with.
const MARKER: &[u8; 8] = b"\xfe\xedMARKER";

impl KernelNode {
    /// `mtu` is that of the tunnel device.
    pub fn new(mtu: u16) -> KernelNode {
        stay_on_one_cpu();
        let (pod, node, far) = (Namespace::new("pod"), Namespace::new("node"), Namespace::new("far"));
        veth(&node, "cali0", &pod, "eth0");
        veth(&node, "eth0", &far, "eth0");
        for (ns, dev, mac) in
            [(&node, "cali0", Mac::GATEWAY), (&pod, "eth0", POD_MAC), (&node, "eth0", NODE_LINK), (&far, "eth0", PEER_LINK)]
        {
            ns.sh(&format!("ip link set {dev} address {mac}"));
            ns.offloads(dev, false);
        }
        configure(&node, mtu);
        node.offloads("vxlan.calico", false);
        let (pod_tap, underlay) = (Tap::new(&pod, "eth0"), Tap::new(&far, "eth0"));
        while pod_tap.recv(20).is_some() || underlay.recv(20).is_some() {}
        KernelNode { pod: pod_tap, underlay, _namespaces: [pod, node, far], markers: 0 }
    }

    /// Puts one frame in and waits until the node is done with it.
    pub fn feed(&mut self, side: Side, frame: &[u8]) -> Outcome {
        self.markers += 1;
        let (from, to) = match side {
            Side::Pod => (&self.pod, &self.underlay),
            Side::Underlay => (&self.underlay, &self.pod),
        };
        from.send(frame);
        from.send(&marker(side, self.markers));
        let end = [&MARKER[..], &self.markers.to_be_bytes()].concat();
        let mut through = Vec::new();
        // The kernel works frames off in order, on this thread's CPU: what comes out does so before the marker.
        loop {
            let got = to.recv(5000).unwrap_or_else(|| panic!("the kernel lost marker {}", self.markers));
            if got.ends_with(&end) {
                break;
            }
            through.push(got);
        }
        let back = std::iter::from_fn(|| from.recv(0)).collect();
        match side {
            Side::Pod => Outcome { pod: back, underlay: through },
            Side::Underlay => Outcome { pod: through, underlay: back },
        }
    }
}

/// Makes a namespace with `eth0` towards the peer and `cali0` towards the pod, both up, a stock Calico node.
/// `mtu` is that of the tunnel device.
pub fn configure(node: &Namespace, mtu: u16) {
    for key in ["all.rp_filter", "default.rp_filter"] {
        node.sysctl(&format!("net.ipv4.conf.{key}"), "0");
    }
    node.sysctl("net.ipv4.ip_forward", "1");
    // The errors themselves are compared, not how many there may be.
    node.sysctl("net.ipv4.icmp_ratelimit", "0");
    for key in ["icmp_msgs_per_sec", "icmp_msgs_burst"] {
        node.sysctl(&format!("net.ipv4.{key}"), "1000000");
    }
    let (own, peer) = (node_vtep(), peer_vtep());
    node.sh(&format!(
        "set -e
         ip addr add {NODE}/24 dev eth0
         ip neigh add {PEER} lladdr {PEER_LINK} dev eth0 nud permanent
         ip link add vxlan.calico type vxlan id 4096 dstport 4789 local {NODE} dev eth0 nolearning
         ip link set vxlan.calico address {own} mtu {mtu} up
         ip addr add {LOCAL_BLOCK}/32 dev vxlan.calico
         ip neigh add {REMOTE_BLOCK} lladdr {peer} dev vxlan.calico nud permanent
         bridge fdb append {peer} dev vxlan.calico dst {PEER}
         ip route add {REMOTE_BLOCK}/24 via {REMOTE_BLOCK} dev vxlan.calico onlink
         ip route add blackhole {LOCAL_BLOCK}/24
         ip route add {POD}/32 dev cali0 scope link
         ip neigh add {POD} lladdr {POD_MAC} dev cali0 nud permanent"
    ));
    node.sysctl("net.ipv4.conf.cali0.proxy_arp", "1");
}

/// Frames of one thread then go through one CPU's queue.
pub fn stay_on_one_cpu() {
    // SAFETY: a CPU set on the stack; sched_getcpu has no arguments.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// A packet that the node surely forwards.
fn marker(side: Side, n: u64) -> Vec<u8> {
    let payload = [&MARKER[..], &n.to_be_bytes()].concat();
    let (src, dst) = match side {
        Side::Pod => (POD, Ipv4Addr::new(10, 244, 2, 250)),
        Side::Underlay => (Ipv4Addr::new(10, 244, 2, 250), POD),
    };
    let mut p = Vec::new();
    etherparse::PacketBuilder::ipv4(src.octets(), dst.octets(), 64).udp(9, 9).write(&mut p, &payload).unwrap();
    match side {
        Side::Pod => from_pod(&p),
        Side::Underlay => encapsulate(&p, &Outer::default()),
    }
}

/// The packet as a frame from the pod to its gateway.
pub fn from_pod(packet: &[u8]) -> Vec<u8> {
    [&Mac::GATEWAY.0[..], &POD_MAC.0, &[8, 0], packet].concat()
}

/// What is around a packet from the other node; the default is what a sane peer sends.
#[derive(Clone, Debug)]
pub struct Outer {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub tos: u8,
    pub ttl: u8,
    pub df: bool,
    pub id: u16,
    pub source_port: u16,
    pub dest_port: u16,
    /// `None`: zero. Otherwise the right checksum plus this much.
    pub check: Option<u16>,
    /// What is added to the UDP length.
    pub udp_length: i32,
    /// The whole VXLAN header.
    pub vxlan: [u8; 8],
    pub inner_dst: Mac,
    pub inner_src: Mac,
    pub inner_type: u16,
    /// What is added to the IP header checksum.
    pub ip_check: u16,
}

impl Default for Outer {
    fn default() -> Outer {
        let mut header = [0; 8];
        vxlan::write(&mut header, Vni::CALICO);
        Outer {
            src: PEER,
            dst: NODE,
            tos: 0,
            ttl: 64,
            df: false,
            id: 7,
            source_port: 40_000,
            dest_port: vxlan::PORT,
            check: None,
            udp_length: 0,
            vxlan: header,
            inner_dst: node_vtep(),
            inner_src: peer_vtep(),
            inner_type: ether::TYPE_IPV4,
            ip_check: 0,
        }
    }
}

/// The frame that carries `packet` to this node, its headers written by etherparse.
pub fn encapsulate(packet: &[u8], o: &Outer) -> Vec<u8> {
    let inner = [&o.vxlan[..], &o.inner_dst.0, &o.inner_src.0, &o.inner_type.to_be_bytes(), packet].concat();
    let mut ip =
        etherparse::Ipv4Header::new((8 + inner.len()) as u16, o.ttl, etherparse::IpNumber::UDP, o.src.octets(), o.dst.octets()).unwrap();
    (ip.dscp, ip.ecn) = ((o.tos >> 2).try_into().unwrap(), (o.tos & 3).try_into().unwrap());
    (ip.dont_fragment, ip.identification) = (o.df, o.id);
    ip.header_checksum = ip.calc_header_checksum().wrapping_add(o.ip_check);
    let mut udp = etherparse::UdpHeader::without_ipv4_checksum(o.source_port, o.dest_port, inner.len()).unwrap();
    udp.length = (i32::from(udp.length) + o.udp_length) as u16;
    if let Some(error) = o.check {
        udp.checksum = udp.calc_checksum_ipv4(&ip, &inner).unwrap().wrapping_add(error);
    }
    let mut frame = [&NODE_LINK.0[..], &PEER_LINK.0, &[8, 0]].concat();
    ip.write_raw(&mut frame).unwrap();
    udp.write(&mut frame).unwrap();
    frame.extend_from_slice(&inner);
    frame
}

const UNDERLAY_PORT: PortId = PortId(0);
const POD_PORT: PortId = PortId(1);

/// The same node by this crate: a forwarder between two memory ports.
pub struct MemoryNode {
    forwarder: Forwarder,
    snapshot: Snapshot,
    ports: [(MemPort, MemPeer); 2],
    now_ms: u64,
}

impl MemoryNode {
    pub fn new(mtu: u16) -> MemoryNode {
        let mut forwarder = Forwarder::new(FramePool::new(256, 8).unwrap(), Arc::new(Counters::default()), Arc::default());
        let ports = [1500, u32::from(mtu)].map(|mtu| MemPort::pair(mem::caps(Medium::Ethernet, mtu), 64));
        forwarder.open_queue(UNDERLAY_PORT);
        forwarder.open_queue(POD_PORT);
        MemoryNode { forwarder, snapshot: snapshot(mtu), ports, now_ms: 0 }
    }

    /// Puts one frame in; what comes out, and the reason if it was dropped.
    pub fn feed(&mut self, side: Side, frame: &[u8]) -> (Outcome, Option<DropReason>) {
        let port = if side == Side::Pod { POD_PORT } else { UNDERLAY_PORT };
        // Time enough between two packets for the error limiter.
        self.now_ms += 100;
        self.forwarder.set_time(self.now_ms);
        let counters = self.forwarder.counters.clone();
        let before: Vec<u64> = counters.dropped.iter().map(|c| c.get()).collect();
        assert!(self.ports[port.index()].1.send(frame.to_vec()));
        let mut batch = Batch::new();
        self.ports[port.index()].0.rx_burst(&mut self.forwarder.pool, &mut batch).unwrap();
        self.forwarder.process(&self.snapshot, port, Medium::Ethernet, &mut batch);
        for i in 0.. {
            let Some(id) = self.forwarder.touched(i) else { break };
            self.forwarder.flush(id, &mut self.ports[id.index()].0).unwrap();
        }
        self.forwarder.retain_touched();
        self.forwarder.settle();
        let (inn, out) = counters.balance();
        assert!(inn == out && self.forwarder.pool.is_full(), "a frame has no end: {inn} in, {out} out");
        let dropped = (0..before.len()).find(|i| counters.dropped[*i].get() > before[*i]).map(|i| DropReason::ALL[i]);
        let take = |id: PortId| std::iter::from_fn(|| self.ports[id.index()].1.recv()).map(|w| w.bytes).collect();
        (Outcome { pod: take(POD_PORT), underlay: take(UNDERLAY_PORT) }, dropped)
    }
}

fn snapshot(mtu: u16) -> Snapshot {
    let mut s = Snapshot::empty();
    let link = MacPair { dst: PEER_LINK, src: NODE_LINK };
    let vtep = MacPair { dst: peer_vtep(), src: node_vtep() };
    let adjacency = |kind, rewrite: Rewrite, port, peer: Ipv4Addr| Adjacency {
        rewrite,
        kind,
        port,
        mtu,
        gso: GsoSet::NONE,
        partial_csum: false,
        joins: false,
        peer: peer.into(),
        node: PeerId::NONE,
    };
    let tunnel = rewrite::vxlan_ethernet(link, NODE, PEER, vxlan::PORT, Vni::CALICO, vtep);
    let delivery = rewrite::ethernet(MacPair { dst: POD_MAC, src: Mac::GATEWAY });
    s.adjacencies.set(AdjId(1), adjacency(AdjKind::Vxlan, tunnel, UNDERLAY_PORT, PEER));
    s.adjacencies.set(AdjId(2), adjacency(AdjKind::Deliver, delivery, POD_PORT, POD));
    s.adjacencies.set(AdjId(3), Adjacency::drop(DropReason::Blackhole));
    let mut table = Table4::new();
    for (prefix, adj) in [(format!("{REMOTE_BLOCK}/24"), 1), (format!("{POD}/32"), 2), (format!("{LOCAL_BLOCK}/24"), 3)] {
        table.insert(prefix.parse().unwrap(), AdjId(adj));
    }
    s.fib = table.commit();
    let endpoint =
        Endpoint { name: "ns/pod".into(), sources: vec![format!("{POD}/32").parse().unwrap()], addresses: vec![POD], mac: Some(POD_MAC) };
    s.ports = vec![PortRole::Uplink, PortRole::Workload(Arc::new(endpoint))];
    s.tunnel = Tunnel {
        node: NODE,
        icmp_source: LOCAL_BLOCK,
        vtep_mac: node_vtep(),
        senders: Arc::new([(u32::from(PEER), PeerId::NONE)].into_iter().collect()),
        nodes: Arc::new([NODE, PEER].map(u32::from).into_iter().collect()),
        ..Tunnel::default()
    };
    s
}

/// The inner packet of a VXLAN frame; `None` if it is none.
pub fn inner(frame: &[u8]) -> Option<&[u8]> {
    let ip = frame.get(14..)?;
    (be16(frame, 12) == ether::TYPE_IPV4 && ipv4::validate(ip).is_ok() && ipv4::proto(ip) == ipv4::PROTO_UDP).then_some(())?;
    frame.get(64..)
}
