//! What the fuzz targets share: a node with a port of every kind, and how fuzzer bytes become a frame on one.
//!
//! The first bytes of an input say what a port would know about the frame besides its bytes; most inputs then
//! have their header checksums repaired, or the fuzzer would never get past them.

use std::cell::RefCell;
use tortie::frame::{Gso, GsoKind, PortId};
use tortie::port::Medium;
use tortie::port::mem::Wired;
use tortie::testing::bed::Bed;
use tortie::testing::net::{Node, Setup, Via};
use tortie::testing::{build, check};

const ME: Node = Node(1);
const VXLAN_PEER: Node = Node(2);
const IPIP_PEER: Node = Node(3);
/// Inputs after which the node is built anew, so that what is held or learnt does not pile up.
const LIFETIME: u32 = 512;

/// Which port the frame comes in on; [`medium`] says what it starts with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Uplink(Medium),
    Workload,
    Host,
}

struct World {
    setup: Setup,
    bed: Bed,
    port: PortId,
    left: u32,
}

impl World {
    fn new(entry: Entry) -> World {
        let mut setup = Setup::new(ME);
        let uplink = setup.uplink(if let Entry::Uplink(m) = entry { m } else { Medium::Ethernet });
        let pod = setup.pod(1);
        let offload = setup.offload_pod(2);
        let host = setup.host();
        let net = |n: std::net::Ipv4Addr| ipnet::Ipv4Net::new_assert(n, 32);
        setup.route(net(ME.pod(1)), Via::Local(pod));
        setup.route(net(ME.pod(2)), Via::Local(offload));
        setup.route(ME.block(), Via::Blackhole);
        setup.route(net(ME.tunnel_address()), Via::Host);
        // A port carries the encapsulation that its medium can express.
        match entry {
            Entry::Uplink(Medium::VxlanUdp) => setup.route(VXLAN_PEER.block(), Via::Vxlan(VXLAN_PEER)),
            Entry::Uplink(Medium::Ip) => setup.route(IPIP_PEER.block(), Via::Ipip(IPIP_PEER)),
            _ => {
                setup.route(VXLAN_PEER.block(), Via::Vxlan(VXLAN_PEER));
                setup.route(IPIP_PEER.block(), Via::Ipip(IPIP_PEER));
                setup.route(Node(4).block(), Via::Direct(Node(4)));
            }
        }
        setup.route(Node(5).block(), Via::Glean(Node(5)));
        setup.route(Node(6).block(), Via::Drop);
        setup.route(ipnet::Ipv4Net::default(), Via::HostRoute);
        let port = match entry {
            Entry::Uplink(_) => uplink,
            Entry::Workload => pod,
            Entry::Host => host,
        };
        let bed = Bed::with_pool(&setup, 512, 8);
        World { setup, bed, port, left: LIFETIME }
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Bytes at the front of an input that describe the frame.
const KNOBS: usize = 4;

/// One input through the whole receive path. Panics when a checker objects.
pub fn receive(entry: Entry, data: &[u8]) {
    let Some((knobs, bytes)) = data.split_first_chunk::<KNOBS>() else { return };
    WORLD.with_borrow_mut(|slot| {
        let world = slot.get_or_insert_with(|| World::new(entry));
        let frame = frame(entry, *knobs, bytes.to_vec());
        world.bed.advance(u64::from(knobs[3]));
        if let Err(e) = check::survives(&mut world.bed, &world.setup, world.port, frame) {
            panic!("{e}");
        }
        world.left -= 1;
        if world.left == 0 {
            *slot = None;
        }
    });
}

/// Makes the checksum of an IPv4 header at `at` right, if a whole header lies there.
pub fn repair(bytes: &mut [u8], at: usize) {
    let header = bytes.get(at).map_or(0, |b| usize::from(b & 0x0f) * 4);
    if header >= 20 && at + header <= bytes.len() {
        build::repair(bytes, at);
    }
}

/// Where the first IP header of such a frame lies.
fn ip_at(entry: Entry) -> usize {
    match entry {
        Entry::Uplink(Medium::Ethernet) | Entry::Workload => 14,
        Entry::Uplink(Medium::VxlanUdp) => 8 + 14,
        Entry::Uplink(Medium::Ip) | Entry::Host => 0,
    }
}

fn frame(entry: Entry, knobs: [u8; KNOBS], mut bytes: Vec<u8>) -> Wired {
    let at = ip_at(entry);
    if knobs[0] & 1 == 0 {
        repair(&mut bytes, at);
        if entry == Entry::Uplink(Medium::Ethernet) {
            // The inner header behind UDP and VXLAN, or behind the outer IP header.
            let inner = if bytes.get(at + 9) == Some(&4) { at + 20 } else { at + 20 + 8 + 8 + 14 };
            repair(&mut bytes, inner);
        } else if entry == Entry::Uplink(Medium::Ip) {
            repair(&mut bytes, 20);
        }
    }
    let mut wired = Wired::from(bytes);
    wired.may_be_partial = knobs[0] & 2 != 0;
    if entry == Entry::Uplink(Medium::VxlanUdp) {
        wired.peer = Node(1 + knobs[1] % 12).address().into();
        wired.outer_tos = knobs[2];
    } else if knobs[0] & 4 != 0 && entry != Entry::Uplink(Medium::Ethernet) {
        // What an offload header may claim; ports check only that it lies in the frame.
        let kind = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][usize::from(knobs[1] % 3)];
        wired.gso = Some(Gso { kind, size: 1 + u16::from(knobs[2]) * 8 });
        let start = (at + 20) as u32;
        let offset = if kind == GsoKind::Udp { 6 } else { 16 };
        let inside = wired.bytes.len() >= at + 20 + usize::from(offset) + 2;
        wired.partial = inside.then_some((start, offset));
    }
    wired
}
